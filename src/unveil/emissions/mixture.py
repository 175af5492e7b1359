"""Gaussian mixture observations: every class has a mixture of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unveil.core.constraints import integer
from unveil.core.model import Emission, Imputes, Moments, Penalized, log_prior_of
from unveil.core.statistics import Statistics
from unveil.emissions.categorical import log_probabilities
from unveil.emissions.gaussian import Gaussian
from unveil.kernels.simplex import normalize


@dataclass(frozen=True)
class MixtureEmissionStatistics(Statistics):
    """How often each class drew from each of its densities, and the moments of these.

    Attributes
    ----------
    counts : Tensor of shape (K, G)
        sum_n r_nk p(g_n = g | x_n, z_n = k).
    densities : Statistics
        Of the K G normal densities.
    """

    counts: Tensor
    densities: Statistics


class GaussianMixtureEmission(Emission, Penalized, Imputes, Moments):
    """p(x | z = k) = sum_g w_kg N(x; mu_kg, Sigma_kg), with G normal densities for each of K classes.

    Parameters
    ----------
    n_components, n_features : int
        K and D.
    n_mixtures : int
        G; with 1 this is ``Gaussian``.
    covariance_type : {"diag", "full", "tied", "spherical"}
        Of each density; "tied" is one matrix for all K G of them.
    reg_covar : float
        No eigenvalue of a covariance falls below it.
    prior : optional
        Of each density, as ``Gaussian`` takes it; "conjugate" keeps a density from collapsing onto few points.

    Attributes
    ----------
    weights : Parameter of shape (K, G)
        w_kg.
    densities : Gaussian
        Of K G components; density g of class k is component g + G k.

    References
    ----------
    Juang, Levinson and Sondhi (1986), Maximum likelihood estimation for multivariate mixture observations of Markov chains.

    Examples
    --------
    >>> values = torch.tensor([[0.0], [1.0], [8.0], [9.0]], dtype=torch.float64)
    >>> family = GaussianMixtureEmission(n_components=1, n_features=1, n_mixtures=2)
    >>> family.initialize(values, torch.ones(4, 1, dtype=torch.float64))
    >>> sorted(family.densities.means.flatten().tolist()), family.weights.tolist()
    ([0.5, 8.5], [[0.5, 0.5]])
    """

    def __init__(
        self,
        n_components: int,
        n_features: int,
        n_mixtures: int = 2,
        covariance_type: str = "diag",
        reg_covar: float = 1e-6,
        prior: Any = None,
    ):
        super().__init__()
        integer(1)("n_mixtures", n_mixtures)
        self.n_components, self.n_features, self.n_mixtures = n_components, n_features, n_mixtures
        self.densities = Gaussian(n_components * n_mixtures, n_features, covariance_type, reg_covar, prior)
        self.weights = nn.Parameter(torch.full((n_components, n_mixtures), 1 / n_mixtures, dtype=torch.float64))

    @torch.no_grad()
    def initialize(self, values: Tensor, responsibilities: Tensor) -> None:
        """Split each class by k-means, and fit a density to each part."""
        parts = [
            responsibilities[:, [k]] * split(values, responsibilities[:, k], self.n_mixtures) for k in range(self.n_components)
        ]
        within = torch.stack(parts, 1)
        self.densities.initialize(values, within.flatten(1))
        self.weights.copy_(normalize(within.sum(0)))

    def features(self, values: Tensor) -> Tensor:
        """Those of the normal densities."""
        return self.densities.features(values)

    def log_density(self, features: Tensor) -> Tensor:
        """log sum_g w_kg N(x; mu_kg, Sigma_kg), of shape (n, K)."""
        return torch.logsumexp(self._log_joint(features), 1).T

    def _log_joint(self, features: Tensor) -> Tensor:
        """log p(x, g | z = k), of shape (K, G, n): as the densities lie in memory."""
        by_class = self.densities.log_density(features).T.unflatten(0, self.weights.shape)
        return by_class + log_probabilities(self.weights)[:, :, None]

    @torch.no_grad()
    def expect(self, features: Tensor, responsibilities: Tensor) -> MixtureEmissionStatistics:
        """Counts and moments under r_nk p(g_n = g | x_n, z_n = k)."""
        within = self._within(features, responsibilities)
        return MixtureEmissionStatistics(within.sum(2), self.densities.expect(features, within.flatten(0, 1).T))

    def _within(self, features: Tensor, responsibilities: Tensor) -> Tensor:
        """r_nk p(g_n = g | x_n, z_n = k), of shape (K, G, n); zero where the class cannot give the value."""
        joint = self._log_joint(features)
        evidence = torch.logsumexp(joint, 1, keepdim=True)
        given_class = (joint - evidence.masked_fill(evidence == -torch.inf, 0.0)).exp()
        return given_class * responsibilities.T[:, None]

    @torch.no_grad()
    def maximize(self, statistics: MixtureEmissionStatistics) -> None:
        """w_kg in proportion to the counts, and the densities' own maximisers."""
        self.weights.copy_(normalize(statistics.counts, self.weights))
        self.densities.maximize(statistics.densities)

    def log_prior(self) -> float:
        """That of the densities."""
        return log_prior_of(self.densities)

    @torch.no_grad()
    def sample(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """One observation for each class index, of shape (n, D)."""
        drawn = torch.multinomial(self.weights.cpu()[classes.cpu()], 1, generator=generator)[:, 0]
        return self.densities.sample(self.n_mixtures * classes + drawn.to(classes.device), generator)

    @torch.no_grad()
    def impute(self, values: Tensor, responsibilities: Tensor) -> Tensor:
        """The values with what the densities expect in place of NaN."""
        within = self._within(self.features(values), responsibilities)
        return self.densities.impute(values, within.flatten(0, 1).T)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Means and variances of the mixtures, both of shape (K, D): Var x = E Var[x | g] + Var E[x | g]."""
        weights = self.weights[:, :, None]
        means, variances = (each.unflatten(0, self.weights.shape) for each in self.densities.moments())
        mean = (weights * means).sum(1)
        return mean, (weights * (variances + means.square())).sum(1) - mean.square()

    def count_parameters(self) -> int:
        """K (G - 1) weights, and the densities' own."""
        return self.n_components * (self.n_mixtures - 1) + self.densities.count_parameters()


def split(values: Tensor, weights: Tensor, n_parts: int) -> Tensor:
    """One-hot parts (n, n_parts) of weighted values (n, D) by k-means, always the same ones; missing values count as the mean."""
    from sklearn.cluster import KMeans

    filled = torch.where(values.isnan(), values.nanmean(0).nan_to_num(), values).double()
    inside = weights > 0
    n_different = len(filled[inside].unique(dim=0)) if n_parts > 1 else 0
    labels = torch.zeros(len(values), dtype=torch.int64)
    if n_different > 1:
        kmeans = KMeans(min(n_parts, n_different), n_init=1, max_iter=30, random_state=0)
        kmeans.fit(filled[inside].cpu().numpy(), sample_weight=weights[inside].cpu().numpy())
        labels = torch.from_numpy(kmeans.predict(filled.cpu().numpy())).long()
    return torch.nn.functional.one_hot(labels, n_parts).to(filled)
