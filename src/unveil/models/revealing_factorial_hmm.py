"""The revealing factorial HMM: superimposed sources that can be told apart because each is silent at times."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.base import TransformerMixin
from torch import Tensor

from unveil.core.constraints import choice, integer, real
from unveil.core.estimator import Estimator, as_array
from unveil.core.history import History
from unveil.data.batch import Batches
from unveil.errors import IdentifiabilityWarning, InputError
from unveil.kernels.wiener import wiener_masks
from unveil.models.revealing_chains import RevealingChains, read_frames
from unveil.models.revealing_graph import RevealingGraph, cluster, refined, reveal_by_graph, reveal_by_lasso
from unveil.models.starts import START_SAMPLE

SILENT = 0.05  # of the median frame's sum: below it a frame tells nothing
UNEXPLAINED = 0.05  # of the energy of the centres: above it components are missing, or are sums of others


@dataclass(frozen=True, eq=False)
class RevealingDiagnostics:
    """Whether the data determines the components and their sources.

    Attributes
    ----------
    residual : float
        The share of the cluster centres' energy that at most one component of each source does not explain.
    residual_curve : ndarray of shape (n,)
        The same with 1, 2, .. n components; NaN for numbers that were not tried.
    n_parts : int
        Connected parts of the graph of which components of different sources play together; with more than one, sources can be
        exchanged within a part and nothing changes.
    frustration : float
        The share of all playing together that is of components of the same source: 0 where the graph can be coloured.
    n_sources_heard : int
        How many sources the data speaks for; where these are fewer than K, components were shared out at will.
    n_sources : int
        K.
    """

    residual: float
    residual_curve: np.ndarray
    n_parts: int
    frustration: float
    n_sources_heard: int
    n_sources: int

    @property
    def doubts(self) -> list[str]:
        """What speaks against trusting the result, in words; empty where nothing does."""
        found = []
        if self.n_sources_heard < self.n_sources:
            found.append(f"only {self.n_sources_heard} of {self.n_sources} sources were found; give more data, or ask for fewer")
        if self.residual > UNEXPLAINED:
            found.append(
                f"observability is in doubt: one component for each source leaves {self.residual:.1%} of the energy (at most "
                f"{UNEXPLAINED:.0%} is expected, and 8% is usual where sources never play alone), so some components may never "
                "be heard alone, or there are more than max_components; give a longer recording in which each source also plays alone"
            )
        if self.n_parts > 1:
            found.append(
                f"connectivity is violated: the components fall into {self.n_parts} parts that never play together, so which source "
                "they belong to is open; give a longer recording"
            )
        return found


class RevealingFactorialHMM(TransformerMixin, Estimator):
    """Factorial hidden Markov model of non-negative frames whose sources are silent at times, which makes it identifiable.

    K hidden chains go their ways side by side; in state 0 a chain is silent, in any other one of its components sounds at any
    gain, and only the sum is observed::

        z_1^k ~ Categorical(pi^k),   z_t^k | z_{t-1}^k = i ~ Categorical(A_i^k),   x_t = sum_k h_t^k O^k[z_t^k] + noise,
        O^k = [0, w_1^k, w_2^k, ..] >= 0.

    Frames in which one source sounds reveal its components: they are the extreme rays of the cone of all frames. Frames in which
    several sound are the edges between them, and colouring this graph tells which components belong to one source. It is determined,
    up to the order of the sources, where every component is heard alone (observability) and the graph is connected.

    Frames at unit length are clustered, and successive projection puts the centres in the order of how telling they are. The
    components are the first few that explain the centres with at most one from each source. Their sources are those that make the
    co-activity in the frames most likely, refined by hard EM. Chains and noise follow from the best combination of each frame.

    ``X`` is a list of 2-D arrays (length, n_features) of any lengths; or one 2-D array, a single sequence unless ``lengths`` divides it.

    Parameters
    ----------
    n_chains : int
        K, the number of sources.
    n_clusters : int
        Of the frames; at least 2.5 times the number of combinations that occur. Too many do no harm.
    max_components : int
        The most components, of all sources together.
    method : {"graph", "lasso"}
        The procedure above, or the one first published: components are centres that are no sparse non-negative combination of
        others (a lasso of each on all others), and only the centres tell which play together.
    penalty : float
        Of the lasso.
    max_iter : int
        Steps of hard EM that refine the components.
    random_state : int, RandomState or None
        Seeds the clusters, the grouping and the samples.

    Attributes
    ----------
    components_ : ndarray of shape (S, F)
        Components of unit length, those of source 0 first.
    sources_ : ndarray of shape (S,)
        The chain of each component.
    n_components_ : int
        S.
    diagnostics_ : RevealingDiagnostics
    startprob_ : list of K ndarrays
        The initial probabilities of each chain; state 0 is silence, state 1 + i its i-th component.
    transmat_ : list of K ndarrays
        The transition probabilities of each chain.
    history_ : History
        The objective is minus the residual.

    Warns
    -----
    IdentifiabilityWarning
        When components or sources are not determined; ``diagnostics_.doubts`` says why.

    Notes
    -----
    The likelihood is a profile likelihood: the gains are at their best, but not below a tenth of each component's mean gain.
    Components whose spectra have a cosine above 0.3 pull each other into one source; with three sources that matters more than with two.
    Source 0 is the one whose components have the lowest mean feature index: the spectral centroid, where features are frequencies.

    References
    ----------
    Subakan (2018), doctoral thesis, University of Illinois: the revealing factorial model. Gillis and Vavasis (2014), Fast and robust
    recursive algorithms for separable nonnegative matrix factorization. Elhamifar, Sapiro and Vidal (2012), See all by looking at a few.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> spectra = rng.gamma(0.1, size=(6, 40))  # of two sources with three components each
    >>> states = rng.integers(4, size=(600, 2))  # 0 is silence
    >>> plays = np.concatenate([np.eye(4)[states[:, 0], 1:], np.eye(4)[states[:, 1], 1:]], 1)
    >>> X = (plays * rng.uniform(0.5, 1, size=plays.shape)) @ spectra
    >>> fhmm = RevealingFactorialHMM(n_clusters=60, random_state=0).fit(X)
    >>> fhmm.sources_.tolist()
    [0, 0, 0, 1, 1, 1]
    """

    items = "sequences"
    constraints = {
        "n_chains": integer(1),
        "n_clusters": integer(1),
        "max_components": integer(1),
        "method": choice("graph", "lasso"),
        "penalty": real(0.0),
        "max_iter": integer(1),
    }

    def __init__(
        self,
        n_chains: int = 2,
        *,
        n_clusters: int = 100,
        max_components: int = 24,
        method: str = "graph",
        penalty: float = 0.01,
        max_iter: int = 5,
        random_state: Any = None,
    ):
        self.n_chains = n_chains
        self.n_clusters = n_clusters
        self.max_components = max_components
        self.method = method
        self.penalty = penalty
        self.max_iter = max_iter
        self.random_state = random_state

    def build(self, n_features: int) -> RevealingChains:
        """Chains with room for the components."""
        return RevealingChains(self.n_chains, self.max_components, n_features)

    def learn(self, model: RevealingChains, batches: Batches, generator: torch.Generator) -> History:
        """Reveal the components, refine them, and learn the chains; no iteration over the data."""
        begin = time.perf_counter()
        frames, weights = _sounding(batches, generator)
        centres = cluster(frames, weights, self.n_clusters, generator)
        if self.method == "graph":
            graph = reveal_by_graph(frames, centres, self.n_chains, self.max_components, generator)
        else:
            graph = reveal_by_lasso(frames, centres, self.n_chains, self.max_components, self.penalty, generator)
        components = refined(frames, graph.components, graph.sources, self.n_chains, self.max_iter)
        model.adopt(_ordered(graph, components, self.n_chains), batches)
        for doubt in _diagnostics(model).doubts:
            warnings.warn(doubt, IdentifiabilityWarning, stacklevel=4)
        seconds = time.perf_counter() - begin
        return History([-graph.residual], [0], n_iter=self.max_iter, converged=True, seconds=seconds)

    def transform(self, X: Any, *, lengths: Any = None) -> Any:
        """Non-negative activations of the components (n_steps, S), by least squares, in the form of X."""
        found, layout = self._map(X, lengths, self._fitted_model().activate)
        return layout.per_step(found)

    def predict_states(self, X: Any, *, lengths: Any = None) -> Any:
        """The most probable paths of all chains together (Viterbi): K integers for each step, 0 for silence, in the form of X."""
        paths, layout = self._map(X, lengths, lambda batch: self._fitted_model().viterbi(batch)[0])
        return layout.per_step(paths)

    def separate(self, X: Any, *, lengths: Any = None, power: float = 2.0) -> list[Any]:
        """The share of each source in X, by Wiener masks of its components' activations: K times the form of X, adding up to X."""
        model = self._fitted_model()

        def shares(batch):
            values, parts = batch.values.double(), self._parts(model.activate(batch))
            return (wiener_masks(parts, power) * values).movedim(0, 1)

        found, layout = self._map(X, lengths, shares)
        return [layout.per_step(found[:, k]) for k in range(self.n_chains)]

    def _parts(self, activations: Tensor) -> Tensor:
        """What each source adds to frames, (K, n, F), by activations (n, S)."""
        model = self._fitted_model()
        components, sources = model.components[: model.n_components], model.sources[: model.n_components]
        return torch.stack([activations[:, sources == k] @ components[sources == k] for k in range(self.n_chains)])

    @property
    def n_components_(self) -> int:
        """S, the number of components of all sources."""
        return self._fitted_model().n_components

    @property
    def components_(self) -> np.ndarray:
        """The components, of shape (S, F)."""
        return as_array(self._fitted_model().components[: self.n_components_])

    @property
    def sources_(self) -> np.ndarray:
        """The chain of each component, of shape (S,)."""
        return as_array(self._fitted_model().sources[: self.n_components_])

    @property
    def diagnostics_(self) -> RevealingDiagnostics:
        """Whether the data determined what was found."""
        return _diagnostics(self._fitted_model())

    @property
    def startprob_(self) -> list[np.ndarray]:
        """The initial probabilities of each chain, of shape (1 + its components,)."""
        return [as_array(self.model_.initial[k, :n]) for k, n in enumerate(self._n_states())]

    @property
    def transmat_(self) -> list[np.ndarray]:
        """The transition probabilities of each chain."""
        return [as_array(self.model_.transition[k, :n, :n]) for k, n in enumerate(self._n_states())]

    def _n_states(self) -> list[int]:
        return [1 + int((self.sources_ == k).sum()) for k in range(self.n_chains)]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        return tags


def _sounding(batches: Batches, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Frames at unit length in their order, and their weights, without the silent ones."""
    for batch in batches:
        read_frames(batch)
    values, weights, _ = (each.cpu() for each in batches.sample_steps(START_SAMPLE, generator))
    highest = values.amax(1, keepdim=True)
    loudness = (values / highest.max().clamp_min(1e-300)).sum(1)  # relative, so that no sum overflows
    heard = (loudness > 0) & (weights > 0)
    if not heard.any():
        raise InputError("X is zero (silence) everywhere, so there is nothing to reveal; give data with some energy")
    heard &= loudness > SILENT * loudness[heard].median()
    return torch.nn.functional.normalize(values[heard] / highest[heard], dim=1).contiguous(), weights[heard]


def _ordered(graph: RevealingGraph, components: Tensor, n_chains: int) -> RevealingGraph:
    """The same with sources in the order of their centroids, and components in that of their sources."""
    index = torch.arange(components.shape[1], dtype=torch.float64)
    spread = torch.stack([components[graph.sources == k].sum(0) for k in range(n_chains)])
    centroids = (spread @ index) / spread.sum(1).clamp_min(1e-300)
    centroids[spread.sum(1) == 0] = torch.inf
    sources = centroids.argsort().argsort()[graph.sources]
    order = sources.argsort(stable=True)
    return replace(graph, components=components[order], sources=sources[order])


def _diagnostics(model: RevealingChains) -> RevealingDiagnostics:
    residual, n_parts, n_found, frustration = model.figures.tolist()
    tried = model.curve.cpu().numpy()
    tried = np.where(tried < 0, np.nan, tried)
    return RevealingDiagnostics(
        residual=residual,
        residual_curve=tried[: int(np.flatnonzero(~np.isnan(tried)).max(initial=0)) + 1],
        n_parts=int(n_parts),
        frustration=frustration,
        n_sources_heard=int(n_found),
        n_sources=model.n_chains,
    )
