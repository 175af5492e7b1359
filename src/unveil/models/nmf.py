"""Non-negative matrix factorisation: each spectrum is a non-negative sum of a few atoms, v_n ~ sum_k h_nk w_k."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from torch import Tensor, nn

from unveil.core.constraints import as_shape, choice, integer, real
from unveil.core.estimator import Estimator, as_array
from unveil.core.history import History
from unveil.core.mixins import SeparateMixin
from unveil.core.model import EMModel, Posterior
from unveil.core.statistics import ModelStatistics
from unveil.data.batch import Batch, Batches
from unveil.data.layout import as_rows
from unveil.errors import InputError
from unveil.kernels.divergences import BETAS, beta_divergence, gradient_parts_
from unveil.learn.restarts import EM_CONSTRAINTS, em_from_starts, em_settings
from unveil.models.starts import START_SAMPLE

_FLOOR = 1e-10  # of the mean of the data: 100 dB below it, in power


@dataclass(frozen=True)
class NMFStatistics(ModelStatistics):
    """The two parts of the divergence's gradient by the dictionary.

    Attributes
    ----------
    negative : Tensor of shape (K, F)
        sum_n h_nk v_nf m_nf^(beta - 2), where m is the model of v.
    positive : Tensor of shape (K, F), or (K, 1) where all columns are equal
        sum_n h_nk m_nf^(beta - 1).
    activation : Tensor of shape (K,)
        sum_n h_nk.
    """

    negative: Tensor
    positive: Tensor
    activation: Tensor


@dataclass(frozen=True)
class NMFPosterior(Posterior):
    """The most probable latents.

    Attributes
    ----------
    activations : Tensor of shape (n, K)
        h_n = argmin_h d(v_n | h W).
    """

    activations: Tensor


class Factorization(EMModel):
    """A dictionary W (K, F); the activations h are each item's latents, so the dictionary learns from a stream.

    The E-step improves the activations of a batch by one multiplicative update and sums up what the dictionary's update
    needs; the M-step makes that update. Both are majorise-minimise steps, so the divergence never rises. Activations are
    kept from one pass over the data to the next by the batch's place in its source.

    Parameters
    ----------
    n_components, n_features : int
        K and F.
    beta : {0, 1, 2}
        Which divergence; see ``unveil.kernels.divergences``.
    sparsity : float
        Weight of the sum of activations beside the divergence; the atoms then have unit Euclidean norm.
    given : Tensor of shape (K, F), optional
        Starting dictionary.
    """

    def __init__(
        self,
        n_components: int,
        n_features: int,
        beta: int = 1,
        sparsity: float = 0.0,
        init: str = "random",
        given: Tensor | None = None,
    ):
        super().__init__()
        self.beta, self.sparsity = beta, sparsity
        self.components = nn.Parameter(torch.ones(n_components, n_features, dtype=torch.float64))
        for name, shape in (("floor", ()), ("noise", ()), ("mean_activation", (n_components,))):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self._init, self._given = init, given
        self._kept: dict[int, Tensor] = {}

    @torch.no_grad()
    def initialize(self, batches: Batches, generator: torch.Generator) -> None:
        """Atoms at the scale of the data: random ones, or items drawn from it."""
        self.forget()
        values, weights, _ = batches.sample_steps(START_SAMPLE, generator)
        values, present = _split_missing(values)
        if (values < 0).any():
            for batch in batches:  # find the first one, to say where it is
                self._values(batch)
        total = weights.sum() * values.shape[1] if present is None else (weights @ present.to(weights)).sum()
        mean = (weights @ values).sum() / total
        if not mean > 0:
            raise InputError("X is zero (silence) everywhere, so there is nothing to factorise; give data with some energy")
        self.floor.copy_(mean * _FLOOR)
        n_components, n_features = self.components.shape
        if self._given is not None:
            self.components.copy_(self._given)
        elif self._init == "samples":
            drawn = torch.multinomial(
                (weights * values.sum(1)).cpu(), n_components, replacement=len(values) < n_components, generator=generator
            )
            self.components.copy_(values[drawn] + 0.01 * mean)
        else:
            noise = torch.randn(n_components, n_features, dtype=torch.float64, generator=generator).abs()
            self.components.copy_(noise * (mean / n_components).sqrt())
        if self.sparsity > 0:
            self.components.div_(self.components.norm(dim=1, keepdim=True).clamp_min(self.floor))

    def forget(self) -> None:
        """Drop the activations kept for the next pass."""
        self._kept = {}

    def start_activations(self, values: Tensor) -> Tensor:
        """Equal activations (n, K) that give each item its own total."""
        per_component = values.sum(1, keepdim=True) / self.components.sum().clamp_min(self.floor)
        return per_component.expand(-1, len(self.components)).clamp_min(self.floor).clone()

    def _modelled(self, activations: Tensor) -> Tensor:
        return (activations @ self.components).clamp_min_(self.floor)

    def _improve_(self, activations: Tensor, values: Tensor, present: Tensor | None) -> None:
        """One multiplicative update: h <- h (negative W' / positive W')^gamma."""
        if self.beta == 2 and present is None:
            numerator = values @ self.components.T
            denominator = activations @ (self.components @ self.components.T)
        else:
            negative, positive = gradient_parts_(values, self._modelled(activations), self.beta, present)
            numerator = negative @ self.components.T
            denominator = self.components.sum(1) if positive is None else positive @ self.components.T
        denominator = denominator + self.sparsity
        activations *= self._step(numerator, denominator)

    def _step(self, numerator: Tensor, denominator: Tensor) -> Tensor:
        ratio = numerator.div(denominator.clamp_min(torch.finfo(numerator.dtype).tiny))
        return ratio.sqrt_() if self.beta == 0 else ratio  # gamma = 1 / (2 - beta) below beta = 1: else it is not monotone

    def _values(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        values, present = _split_missing(batch.values.double())
        lowest = values.min()
        if lowest < 0:
            row, column = (int(i) for i in (values == lowest).nonzero()[0])
            raise InputError(
                f"Negative values in data passed to NMF: {float(lowest):g} at row {batch.start + row}, column {column}; "
                "use magnitudes or powers"
            )
        return (values.clamp_min(self.floor) if self.beta == 0 else values), present

    @torch.no_grad()
    def expect(self, batch: Batch, *, evaluate: bool = True) -> NMFStatistics:
        """Improve the batch's activations, then sum up both parts of the gradient by the dictionary."""
        values, present = self._values(batch)
        activations = self._kept.get(batch.start)
        if activations is None or len(activations) != len(values):
            activations = self.start_activations(values)
        self._improve_(activations, values, present)
        self._kept[batch.start] = activations
        weighted = activations if batch.weights is None else activations * batch.weights.to(activations)[:, None]
        euclidean = self.beta == 2 and present is None
        model = None if euclidean and not evaluate else self._modelled(activations)
        objective = self._objective(values, model, activations, present, batch.weights) if evaluate else float("nan")
        if euclidean:  # the model itself is not needed: h' (h W) = (h' h) W
            negative, positive = weighted.T @ values, (weighted.T @ activations) @ self.components
        else:
            ratio, scale = gradient_parts_(values, model, self.beta, present)
            negative = weighted.T @ ratio
            positive = weighted.sum(0)[:, None] if scale is None else weighted.T @ scale
        return NMFStatistics(
            weight=batch.total_weight,
            log_likelihood=objective,
            negative=negative,
            positive=positive,
            activation=weighted.sum(0),
        )

    def _objective(
        self, values: Tensor, model: Tensor, activations: Tensor, present: Tensor | None, weights: Tensor | None
    ) -> float:
        each = beta_divergence(values, model, self.beta, present) + self.sparsity * activations.sum(1)
        return -float(each.sum() if weights is None else (each * weights.to(each)).sum())

    @torch.no_grad()
    def maximize(self, statistics: NMFStatistics) -> None:
        """w <- w (negative / positive)^gamma; with sparsity, the update for atoms of unit norm (Le Roux et al., 2015, eq. 18)."""
        negative, positive = statistics.negative, statistics.positive
        if self.sparsity > 0:
            atoms = self.components
            negative, positive = (
                negative + atoms * (atoms * positive).sum(1, keepdim=True),
                positive + atoms * (atoms * negative).sum(1, keepdim=True),
            )
        self.components.mul_(self._step(negative, positive.expand_as(negative)))
        if self.sparsity > 0:
            self.components.div_(self.components.norm(dim=1, keepdim=True).clamp_min(self.floor))
        self.mean_activation.copy_(statistics.activation / statistics.weight)
        if self.beta == 2 and np.isfinite(statistics.log_likelihood):
            self.noise.fill_(-2 * statistics.log_likelihood / statistics.weight / self.components.shape[1])

    @torch.no_grad()
    def activate(self, batch: Batch, n_iter: int) -> Tensor:
        """Activations (n, K) after ``n_iter`` updates from equal ones."""
        values, present = self._values(batch)
        activations = self.start_activations(values)
        for _ in range(n_iter):
            self._improve_(activations, values, present)
        return activations

    def objective(self, batch: Batch) -> Tensor:
        """Minus the divergence of each item from its model, of shape (n,)."""
        values, present = self._values(batch)
        return -beta_divergence(values, self._modelled(self.activate(batch, n_iter=100)), self.beta, present)

    def posterior(self, batch: Batch) -> NMFPosterior:
        """The activations that explain each item best."""
        activations = self.activate(batch, n_iter=100)
        values, present = self._values(batch)
        return NMFPosterior(-beta_divergence(values, self._modelled(activations), self.beta, present), activations)

    @torch.no_grad()
    def sample(self, n_sequences: int, length: int, generator: torch.Generator) -> Batch:
        """Items with exponential activations of the means seen in training, and the noise that the divergence stands for."""
        n = n_sequences * length
        exponential = -torch.rand(n, len(self.components), dtype=torch.float64, generator=generator).clamp_min_(1e-300).log_()
        model = self._modelled(exponential.to(self.components.device) * self.mean_activation).cpu()
        if self.beta == 1:
            values = torch.poisson(model, generator=generator)
        elif self.beta == 0:
            values = -model * torch.rand(model.shape, dtype=torch.float64, generator=generator).clamp_min_(1e-300).log_()
        else:
            noise = torch.randn(model.shape, dtype=torch.float64, generator=generator)
            values = (model + noise * self.noise.sqrt().cpu()).clamp_min_(0.0)
        return Batch(values, torch.arange(n_sequences + 1) * length)


def _split_missing(values: Tensor) -> tuple[Tensor, Tensor | None]:
    """Values with zeros for NaN, and where they are present; None where all are."""
    if not torch.isnan(values.sum()):
        return values, None
    present = ~torch.isnan(values)
    return torch.where(present, values, 0.0), present


class NMF(SeparateMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, Estimator):
    """Non-negative matrix factorisation by multiplicative updates.

    Each item v (a spectrum, a bag of counts) is a sum of K non-negative atoms with non-negative activations::

        v_n ~ sum_k h_nk w_k,   minimising   sum_n d_beta(v_n | h_n W) + sparsity sum_nk h_nk.

    The activations h are latents of the items, the dictionary W is the parameter; so it learns from data streamed from disk, and
    new items are explained with ``transform``. NaN entries of X are missing: they count nothing, and ``inverse_transform`` of the
    activations fills them in.

    Parameters
    ----------
    n_components : int
        K, the number of atoms.
    beta_loss : {"kullback-leibler", "itakura-saito", "frobenius"} or {1, 0, 2}
        The divergence.
    sparsity : float
        Weight of the activations' sum. Atoms then have unit Euclidean norm; else the penalty would be met by scaling them.
    max_iter : int
        The most updates of the dictionary, and the number of updates of the activations in ``transform``.
    tol : float
        Learning stops when the objective gains less than this fraction of its start, per iteration; looked at every 10 iterations.
    init : {"random", "samples"}
        Random atoms, or items of the data.
    components_init : array of shape (K, F), optional
        The starting dictionary.
    random_state : int, RandomState or None
        Seeds the start and the samples.
    warm_start : bool
        Whether ``fit`` goes on from the fitted dictionary, where there is one.
    verbose : int
        1 shows the progress.
    reduce : {"threads", "serial"}
        Where the E-step runs: batches side by side on all cores, or one after the other.

    Attributes
    ----------
    components_ : ndarray of shape (K, F)
        The atoms.
    n_iter_ : int
    history_ : History
        The objective is minus the divergence, and the penalty, per item.

    References
    ----------
    Lee and Seung (2001), Algorithms for non-negative matrix factorization. Fevotte and Idier (2011), Algorithms for nonnegative
    matrix factorization with the beta-divergence. Le Roux, Weninger and Hershey (2015), Sparse NMF: half-baked or well done?

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.random((50, 2)) @ rng.random((2, 12))
    >>> nmf = NMF(n_components=2, max_iter=500, tol=0, random_state=0).fit(X)
    >>> bool(np.abs(nmf.inverse_transform(nmf.transform(X)) - X).max() < 0.01)
    True
    """

    items = "points"
    allows_nan = True
    constraints = EM_CONSTRAINTS | {
        "n_components": integer(1),
        "beta_loss": choice(*BETAS, *BETAS.values()),
        "sparsity": real(0.0),
        "init": choice("random", "samples"),
    }

    def __init__(
        self,
        n_components: int = 10,
        *,
        beta_loss: str | int = "kullback-leibler",
        sparsity: float = 0.0,
        max_iter: int = 200,
        tol: float = 1e-5,
        init: str = "random",
        components_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        reduce: str = "threads",
    ):
        self.n_components = n_components
        self.beta_loss = beta_loss
        self.sparsity = sparsity
        self.max_iter = max_iter
        self.tol = tol
        self.init = init
        self.components_init = components_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.reduce = reduce

    def build(self, n_features: int) -> Factorization:
        """A dictionary."""
        given = None
        if self.components_init is not None:
            given = as_shape("components_init", self.components_init, (self.n_components, n_features))
            if (given < 0).any():
                raise InputError("components_init holds negative numbers; atoms are non-negative")
        beta = BETAS.get(self.beta_loss, self.beta_loss)
        return Factorization(self.n_components, n_features, beta, self.sparsity, self.init, given)

    def learn(self, model: Factorization, batches: Batches, generator: torch.Generator) -> History:
        """Alternating updates of activations and dictionary."""
        history = em_from_starts(model, batches, generator, relative=True, evaluate_every=10, **em_settings(self))
        model.forget()
        return history

    def transform(self, X: Any) -> Any:
        """The activations of each item, of shape (n, K)."""
        activations, layout = self._map(X, None, lambda batch: self.model_.activate(batch, self.max_iter))
        return layout.per_item(activations)

    def inverse_transform(self, activations: Any) -> np.ndarray:
        """The items (n, F) that activations (n, K) stand for."""
        return np.asarray(activations) @ self.components_

    def explain(self, mixture: Tensor, others: list[Self]) -> list[Tensor]:
        """Each source's part in the model of the mixture by all dictionaries side by side."""
        together = torch.cat([source.model_.components.detach() for source in [self, *others]])
        n_each = [len(source.model_.components) for source in [self, *others]]
        joint = Factorization(len(together), mixture.shape[1], self.model_.beta, self.sparsity, given=together)
        batches = Batches(as_rows(mixture))
        with torch.no_grad():
            joint.components.copy_(together)
            joint.floor.copy_(mixture.mean() * _FLOOR)
            activations = torch.cat([joint.activate(batch, self.max_iter) for batch in batches])
            parts = zip(activations.split(n_each, 1), together.split(n_each), strict=True)
            return [h @ w for h, w in parts]

    @property
    def components_(self) -> np.ndarray:
        """The atoms, of shape (K, F)."""
        return as_array(self.model_.components)

    @property
    def _n_features_out(self) -> int:
        return self.n_components

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        return tags
