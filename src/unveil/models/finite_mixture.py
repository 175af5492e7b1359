"""Mixtures over any emission: the model behind every mixture of points here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unveil.core.model import Emission, HardEMModel, Penalized, Posterior, log_prior_of
from unveil.core.statistics import ModelStatistics, Statistics
from unveil.data.batch import Batch, Batches
from unveil.errors import InputError
from unveil.kernels.simplex import normalize, normalize_log_, one_hot, restrict_to_labels
from unveil.models.moment_diagnostics import MomentDiagnostics
from unveil.models.starts import (
    CENTER_SAMPLE,
    START_SAMPLE,
    assign_at_random,
    assign_by_seeds,
    assign_steps,
    assign_within_classes,
    fill_missing,
)


@dataclass(frozen=True)
class MixtureStatistics(ModelStatistics):
    """Expected counts of the components, and what their densities need.

    Attributes
    ----------
    count : Tensor of shape (K,)
        sum_n p(z_n = k | x_n).
    emission : Statistics
        Of the component densities.
    """

    count: Tensor
    emission: Statistics


@dataclass(frozen=True)
class MixturePosterior(Posterior):
    """The posterior of a mixture.

    Attributes
    ----------
    responsibilities : Tensor of shape (n, K)
        p(z_n = k | x_n).
    """

    responsibilities: Tensor


class Mixture(HardEMModel, Penalized):
    """A mixture of K densities: p(x) = sum_k pi_k p(x | z = k).

    Parameters
    ----------
    emission : Emission
        The component densities.
    init_params : {"kmeans", "k-means++", "random", "random_from_data"}
        How the first responsibilities are found.
    given : dict of str to Tensor
        Starting values that replace the ones found: ``weights``, and parameters of the emission by their names.
    weights_prior : float
        Concentration of a symmetric Dirichlet prior of the weights; 1 is flat.
    classes : Tensor of shape (K,), int64, optional
        Of which class each component is, where labels name classes of several components: 0, 0, 1, 1 for two in each of two.
    start : callable, optional
        ``start(model, batches, generator)`` chooses parameters from the data, instead of first responsibilities.
    """

    def __init__(
        self,
        emission: Emission,
        init_params: str = "kmeans",
        given: dict[str, Tensor] | None = None,
        weights_prior: float = 1.0,
        classes: Tensor | None = None,
        start: Callable[[Mixture, Batches, torch.Generator], None] | None = None,
    ):
        super().__init__()
        self._classes, self._start = classes, start
        self.moments: MomentDiagnostics | None = None
        self._weights_prior = weights_prior
        self.emission = emission
        self.weights = nn.Parameter(torch.full((emission.n_components,), 1 / emission.n_components, dtype=torch.float64))
        self._init_params, self._given = init_params, given or {}

    def initialize(self, batches: Batches, generator: torch.Generator) -> None:
        """Fit the components to a first assignment of a sample of the data."""
        n_components = self.emission.n_components
        if batches.n_steps < n_components:
            raise InputError(
                f"n_components={n_components} but X has n_samples={batches.n_steps}; give more points or fewer components"
            )
        if self._given.keys() >= {"weights"} | {name for name, _ in self.emission.named_parameters()}:
            values, weights, _ = batches.sample_steps(CENTER_SAMPLE, generator)
            self.emission.initialize(values, weights[:, None].expand(-1, n_components))
            self._take_given()
            return
        if self._start is not None:
            self._start(self, batches, generator)
            self._take_given()
            return
        values, weights, _, labels = batches.sample_labelled_steps(START_SAMPLE, generator)
        responsibilities = self._assign(fill_missing(values), weights, labels, generator)
        self.emission.initialize(values, responsibilities)
        with torch.no_grad():
            self.weights.copy_(normalize(responsibilities.sum(0)))
        self._take_given()

    def _assign(self, values: Tensor, weights: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """First responsibilities, which keep to the labels that are known."""
        n_components = self.emission.n_components
        if self._classes is not None:
            return assign_within_classes(values, weights, labels, self._classes, generator)
        if self._init_params == "kmeans" or (labels >= 0).any():
            return assign_steps(values, weights, labels, n_components, generator)
        if self._init_params == "random":
            return assign_at_random(values, weights, n_components, generator)
        spread = self._init_params == "k-means++"
        return assign_by_seeds(values, weights, n_components, generator, spread=spread)

    @torch.no_grad()
    def _take_given(self) -> None:
        """Replace what was found by what the user gave."""
        for name, value in self._given.items():
            owner = self if name == "weights" else self.emission
            owner.get_parameter(name).copy_(value)

    @property
    def classes(self) -> Tensor:
        """The class of each component, of shape (K,)."""
        return torch.arange(self.emission.n_components) if self._classes is None else self._classes

    def objective(self, batch: Batch) -> Tensor:
        """log p(x) = log sum_k pi_k p(x | z = k)."""
        return torch.logsumexp(self._log_joint(batch), 1)

    def _log_joint(self, batch: Batch) -> Tensor:
        log_joint = self.emission.log_density(self.emission.features(batch.values)) + self.weights.log()
        return restrict_to_labels(log_joint, batch.labels, self._classes)

    @torch.no_grad()
    def expect(self, batch: Batch, *, evaluate: bool = True) -> MixtureStatistics:
        """r_nk = pi_k p(x_n | k) / p(x_n), and the moments under r; nothing of size n outlives the batch."""
        features = self.emission.features(batch.values)
        responsibilities = restrict_to_labels(
            self.emission.log_density(features).add_(self.weights.log()), batch.labels, self._classes
        )
        log_likelihood = normalize_log_(responsibilities)
        return self._statistics(batch, features, log_likelihood, responsibilities)

    @torch.no_grad()
    def assign(self, batch: Batch) -> MixtureStatistics:
        """Every point wholly to its most probable component: classification EM."""
        features = self.emission.features(batch.values)
        log_joint = restrict_to_labels(self.emission.log_density(features) + self.weights.log(), batch.labels, self._classes)
        best, component = log_joint.max(1)
        return self._statistics(batch, features, best, one_hot(component, self.emission.n_components))

    def _statistics(self, batch: Batch, features: Any, log_likelihood: Tensor, responsibilities: Tensor) -> MixtureStatistics:
        """Sums over the batch; both tensors are overwritten where points have weights."""
        if batch.weights is not None:
            weights = batch.weights.to(responsibilities)
            responsibilities *= weights[:, None]
            log_likelihood = torch.where(weights > 0, log_likelihood * weights, 0.0)  # -inf, too, counts for nothing
        emission = self.emission.expect(features, responsibilities)
        return MixtureStatistics(batch.total_weight, float(log_likelihood.sum()), responsibilities.sum(0), emission)

    @torch.no_grad()
    def maximize(self, statistics: MixtureStatistics) -> None:
        """pi_k = (count_k + prior) / their sum, and the components' own maximisers."""
        self.weights.copy_(normalize(statistics.count + self._pseudo_counts(), self.weights))
        self.emission.maximize(statistics.emission)

    def _pseudo_counts(self) -> Tensor:
        """What the Dirichlet prior adds to the counts (K,); a component that is impossible stays so."""
        return (self._weights_prior - 1.0) * (self.weights > 0).double()

    @torch.no_grad()
    def log_prior(self) -> float:
        """The Dirichlet prior of the weights, and the components' own."""
        return float(torch.special.xlogy(self._pseudo_counts(), self.weights).sum()) + log_prior_of(self.emission)

    @torch.no_grad()
    def posterior(self, batch: Batch) -> MixturePosterior:
        """The responsibilities of the components for each point."""
        responsibilities = self._log_joint(batch)
        return MixturePosterior(normalize_log_(responsibilities), responsibilities)

    @torch.no_grad()
    def sample(self, n_sequences: int, length: int, generator: torch.Generator) -> Batch:
        """Points; every step of a sequence is independent."""
        classes = torch.multinomial(self.weights.cpu(), n_sequences * length, replacement=True, generator=generator)
        values = self.emission.sample(classes.to(self.weights.device), generator)
        return Batch(values, torch.arange(n_sequences + 1) * length, labels=classes)

    def count_parameters(self) -> int:
        """K - 1 weights, and the components' own."""
        return len(self.weights) - 1 + self.emission.count_parameters()
