"""The factorial HMM whose chains share one component, which makes it identifiable; its model is in ``shared_component_chains``."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components

from unveil.core.constraints import as_probabilities, integer, real
from unveil.core.criteria import CriteriaMixin
from unveil.core.estimator import Estimator, as_array
from unveil.core.history import History
from unveil.data.batch import Batches
from unveil.errors import IdentifiabilityWarning, ParameterError
from unveil.learn.restarts import EM_CONSTRAINTS, em_from_starts, em_settings
from unveil.models.shared_component_chains import UNEXPLAINED, SharedComponentChains
from unveil.models.shared_component_identification import coherences

MOST_JOINT_STATES = 4096
OBSERVED = 0.5  # expected steps: a combination with fewer was not seen
COHERENT, RIVAL = 0.2, 0.5  # above these the shared component is not incoherent; another one is nearly as good
TOLERATED = 0.25  # of the right number of centres that hold one component alone: learning makes up for so many too few or too many


@dataclass(frozen=True)
class SharedComponentDiagnostics:
    """Whether the data determines the components.

    Attributes
    ----------
    incoherence : float
        How far the cluster centres' projections on the shared component were from whole numbers, in the mean: 0 where the
        components are incoherent with it and the clusters are the combinations, 1/4 by chance.
    n_singles : int
        How many cluster centres looked like one component alone, beside the shared one; K (M - 1) is right. The start puts up
        with others: it averages those that are near each other, or finds what is missing in what the rest leaves over.
    noise_ratio : float
        The noise variance, over that of the steps about their cluster centres, which need not be sums. Where the steps are sums of so many
        components and noise, it is about 1.
    coherence : float
        The share of the other components' length that lies along the shared one, in [0, 1], after learning.
    rival_coherence : float
        The same for the next best choice of what is shared: choices between which no likelihood can tell. Near ``coherence``, the
        choice is arbitrary.
    rank : int
        Of the combinations observed, as counts of components; the components are determined where it is K (M - 1) + 1.
    n_components : int
        K (M - 1) + 1, the number of different components.
    n_groups : int
        Connected components of the graph of which components occur together; 1 where it is clear which belong to one chain.
    all_shared_observed : bool
        Whether all chains were in the shared state at once.
    alone_observed : ndarray of shape (K, M - 1), bool
        Which components were observed with all other chains in the shared state.
    """

    incoherence: float
    n_singles: int
    noise_ratio: float
    coherence: float
    rival_coherence: float
    rank: int
    n_components: int
    n_groups: int
    all_shared_observed: bool
    alone_observed: np.ndarray

    @property
    def doubts(self) -> list[str]:
        """What speaks against trusting the components, in words; empty where nothing does."""
        found = []
        if self.rank < self.n_components:
            found.append(f"only {self.rank} of {self.n_components} components are determined; observe more combinations")
        if self.n_groups > 1:
            found.append(f"components occur together in {self.n_groups} separate groups; observe combinations across them")
        right = self.n_components - 1
        if abs(self.n_singles - right) >= TOLERATED * max(right, 1):
            found.append(
                f"{self.n_singles} cluster centres look like one component alone, where {right} are right; "
                "check n_chains and n_states, raise n_init, or observe each component alone"
            )
        elif not self.alone_observed.all():
            seen = int(self.alone_observed.sum())
            found.append(
                f"only {seen} of {right} components were observed alone; observe each with the other chains in the shared state"
            )
        if self.noise_ratio > UNEXPLAINED:
            found.append(
                f"the noise is {self.noise_ratio:.2g} times what clusters leave, so the steps are not sums of these components; "
                "check n_chains and n_states, or raise n_init"
            )
        if self.coherence > COHERENT or self.coherence > RIVAL * self.rival_coherence:
            found.append(
                f"the shared component is coherent with the others ({self.coherence:.2g}; the next choice {self.rival_coherence:.2g}); "
                "take features in which it is orthogonal to them"
            )
        return found


def diagnose(model: SharedComponentChains) -> SharedComponentDiagnostics:
    """The diagnostics of a model that has learned."""
    n_chains, n_states = model.n_chains, model.n_states
    observed = (model.occupancy > OBSERVED).cpu().numpy()
    design = model.design.cpu().numpy()
    combinations = design[observed]
    together = combinations[:, :-1].T @ combinations[:, :-1]
    alone = (design[:, -1] == n_chains - 1) & observed
    found = np.sort(coherences(model.stacked_components.cpu().numpy()), axis=None)
    return SharedComponentDiagnostics(
        incoherence=float(model.incoherence),
        n_singles=int(model.n_singles),
        noise_ratio=float(model.noise_variance.detach() / model.cluster_variance),
        coherence=float(found[0]),
        rival_coherence=float(found[min(1, len(found) - 1)]),
        rank=int(np.linalg.matrix_rank(combinations)) if observed.any() else 0,
        n_components=design.shape[1],
        n_groups=max(int(connected_components(together, directed=False)[0]), 1) if n_chains > 1 and n_states > 1 else 1,
        all_shared_observed=bool(observed[-1]),
        alone_observed=(design[alone, :-1].sum(0) > 0).reshape(n_chains, n_states - 1),
    )


class SharedComponentFactorialHMM(CriteriaMixin, Estimator):
    """Factorial hidden Markov model whose chains share one component: superimposed sources that can be told apart.

    K hidden chains go their ways side by side, each adds a component, and only the noisy sum is observed::

        z_1^k ~ Categorical(pi^k),   z_t^k | z_{t-1}^k = i ~ Categorical(A_i^k),   x_t = sum_k O^k[z_t^k] + N(0, sigma^2 I),
        O^k = [mu_1^k, .., mu_{M-1}^k, s].

    An ordinary factorial model is not identifiable: whatever is added to all components of one chain and taken from those of another
    leaves every sum as it was. Here the last component s is the same in all chains, and orthogonal to the others (incoherent), which
    settles both that and which component is the shared one.

    The steps are clustered into the M^K combinations; s is found among the centres, because all of them have a whole number of
    times |s|^2 along it; the centres with all chains but one in the shared state hold the other components; and which of these never
    occur together belong to one chain. From there (or from small random components, where the sums of those that were read explain too
    little) exact EM, over all M^K joint states, improves all parameters. Of the equally likely
    choices of the shared state that remain, the one whose component is least coherent with the others is reported.

    ``X`` is a list of 2-D arrays (length, n_features) of any lengths; or one 2-D array, a single sequence unless ``lengths`` divides it.

    Parameters
    ----------
    n_chains : int
        K.
    n_states : int
        M, of each chain, the shared one included.
    tol : float
        EM stops when an iteration gains less than this, in nats per step.
    reg_covar : float
        The noise variance does not fall below this, in squared units of the data; above 0.
    max_iter : int
        The most EM iterations.
    n_init : int
        The number of starts, each from clusters of its own. Each is run shortly, and the best is finished.
    startprob_init : array of shape (K, M), optional
        Starting values that replace the ones found.
    transmat_init : array of shape (K, M, M), optional
        Zeros stay zero.
    random_state : int, RandomState or None
        Seeds the starts and the samples.
    warm_start : bool
        Whether ``fit`` goes on from the fitted parameters, where there are some.
    verbose : int
        1 shows the progress.
    reduce : {"threads", "serial"}
        Where the E-step runs: batches side by side on all cores, or one after the other.

    Attributes
    ----------
    components_ : ndarray of shape (K, M, D)
        The components O^k of each chain, the shared one last. The order of the chains, and of their own states, is arbitrary.
    shared_component_ : ndarray of shape (D,)
        s.
    noise_variance_ : float
        sigma^2.
    startprob_ : ndarray of shape (K, M)
    transmat_ : ndarray of shape (K, M, M)
    diagnostics_ : SharedComponentDiagnostics
        Whether the data determines the components.
    converged_ : bool
    n_iter_ : int
    history_ : History

    Raises
    ------
    ParameterError
        When there are too many joint states M^K to sum over.

    Warns
    -----
    IdentifiabilityWarning
        When the components are not to be trusted; it says why and what helps.

    References
    ----------
    Ghahramani and Jordan (1997), Factorial hidden Markov models. Subakan (2018), doctoral thesis, on identifiable factorial models.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> components = rng.normal(size=(2, 4, 8))
    >>> components[:, :, 7] = 0.0  # the others are orthogonal to the shared one
    >>> shared = components[:, 3] = 2 * np.eye(8)[7]
    >>> states = rng.integers(4, size=(400, 2))
    >>> X = components[[0, 1], states].sum(1) + 0.05 * rng.normal(size=(400, 8))
    >>> hmm = SharedComponentFactorialHMM(n_chains=2, n_states=4, random_state=0).fit(X)
    >>> bool(np.abs(hmm.shared_component_ - shared).max() < 0.05)
    True
    >>> hmm.transform(X).shape, hmm.predict_states(X).shape
    ((400, 2, 8), (400, 2))
    """

    items = "sequences"
    constraints = EM_CONSTRAINTS | {
        "n_chains": integer(1),
        "n_states": integer(1),
        "n_init": integer(1),
        "reg_covar": real(0.0, open_below=True),
    }

    def __init__(
        self,
        n_chains: int = 2,
        n_states: int = 4,
        *,
        tol: float = 1e-4,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 10,
        startprob_init: Any = None,
        transmat_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        reduce: str = "threads",
    ):
        self.n_chains = n_chains
        self.n_states = n_states
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.startprob_init = startprob_init
        self.transmat_init = transmat_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.reduce = reduce

    def build(self, n_features: int) -> SharedComponentChains:
        """The chains, with no data seen."""
        if self.n_states**self.n_chains > MOST_JOINT_STATES:
            raise ParameterError(
                f"n_chains={self.n_chains} and n_states={self.n_states} make {self.n_states**self.n_chains} joint states; "
                f"inference sums over all of them, so use fewer, at most {MOST_JOINT_STATES}"
            )
        given = {}
        if self.startprob_init is not None:
            given["initial"] = as_probabilities("startprob_init", self.startprob_init, (self.n_chains, self.n_states))
        if self.transmat_init is not None:
            shape = (self.n_chains, self.n_states, self.n_states)
            given["transition"] = as_probabilities("transmat_init", self.transmat_init, shape)
        return SharedComponentChains(self.n_chains, self.n_states, n_features, self.reg_covar, given)

    def learn(self, model: SharedComponentChains, batches: Batches, generator: torch.Generator) -> History:
        """EM from several starts, and then the choice of the shared component that EM leaves open."""
        history = em_from_starts(model, batches, generator, **em_settings(self))
        model.settle()
        doubts = diagnose(model).doubts
        if doubts:
            warnings.warn("the components are not to be trusted: " + "; ".join(doubts), IdentifiabilityWarning, stacklevel=3)
        return history

    def predict_states(self, X: Any, *, lengths: Any = None) -> Any:
        """The most probable paths of all chains together, by exact Viterbi: (n_steps, K), in the form of X; M - 1 is the shared state."""
        path, layout = self._map(X, lengths, lambda batch: self.model_.viterbi(batch)[0])
        return layout.per_step(path)

    def transform(self, X: Any, *, lengths: Any = None) -> Any:
        """What each chain adds to each step, E[O^k[z_t^k] | x_1 .. x_T]: the separated sources, (n_steps, K, D), in the form of X."""
        parts, layout = self._map(X, lengths, self._fitted_model().parts)
        return layout.per_step(parts)

    def reconstruct(self, X: Any, *, lengths: Any = None) -> Any:
        """The sums of the chains' parts, X without its noise: (n_steps, D), in the form of X."""
        parts, layout = self._map(X, lengths, lambda batch: self.model_.parts(batch).sum(1))
        return layout.per_step(parts)

    @property
    def components_(self) -> np.ndarray:
        """The components, of shape (K, M, D), the shared one last."""
        return as_array(self.model_.stacked_components)

    @property
    def shared_component_(self) -> np.ndarray:
        """The shared component, of shape (D,)."""
        return as_array(self.model_.stacked_components[0, -1])

    @property
    def noise_variance_(self) -> float:
        """The noise variance."""
        return float(self.model_.noise_variance.detach())

    @property
    def startprob_(self) -> np.ndarray:
        """The initial probabilities of each chain, of shape (K, M)."""
        return as_array(self.model_.initial)

    @property
    def transmat_(self) -> np.ndarray:
        """The transition probabilities of each chain, of shape (K, M, M): rows are where from."""
        return as_array(self.model_.transition)

    @property
    def diagnostics_(self) -> SharedComponentDiagnostics:
        """Whether the data determines the components."""
        return diagnose(self._fitted_model())
