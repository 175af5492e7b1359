"""Gaussian observations: full, tied, diagonal or spherical covariances."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unveil.core.model import Emission
from unveil.core.statistics import Statistics, identity
from unveil.errors import InputError
from unveil.kernels.gaussian import (
    COVARIANCE_TYPES,
    floor_covariances,
    n_quadratic,
    natural_parameters,
    quadratic_features,
    symmetric,
)


@dataclass(frozen=True)
class GaussianStatistics(Statistics):
    """Moments of y = x - center, weighted by responsibilities r.

    Attributes
    ----------
    count : Tensor of shape (K,)
        sum_n r_nk.
    first : Tensor of shape (K, D)
        sum_n r_nk y_n.
    second : Tensor of shape (K, S)
        sum_n r_nk of the quadratic features of y_n: the upper triangle of y y', or y^2, or y'y.
    center : Tensor of shape (D,)
        Where moments are measured from: raw moments of data far from zero cancel.
    """

    count: Tensor
    first: Tensor
    second: Tensor
    center: Tensor = identity()


class Gaussian(Emission):
    """p(x | z = k) = N(x; mu_k, Sigma_k), for K classes and D features.

    Parameters
    ----------
    n_components, n_features : int
        K and D.
    covariance_type : {"full", "tied", "diag", "spherical"}
        One matrix for each class; one for all; variances; one variance for each class. The shapes of ``covariances`` are
        (K, D, D), (D, D), (K, D) and (K,).
    reg_covar : float
        No eigenvalue of a covariance falls below it: maximum a posteriori under a uniform prior on such matrices.
        Unlike adding it to every diagonal, this keeps EM monotone and healthy covariances unbiased.
    """

    def __init__(self, n_components: int, n_features: int, covariance_type: str = "full", reg_covar: float = 1e-6):
        super().__init__()
        if covariance_type not in COVARIANCE_TYPES:
            raise ValueError(f"covariance_type={covariance_type!r}: expected one of {', '.join(COVARIANCE_TYPES)}")
        self.n_components, self.n_features = n_components, n_features
        self.covariance_type, self.reg_covar = covariance_type, reg_covar
        self.means = nn.Parameter(torch.zeros(n_components, n_features, dtype=torch.float64))
        self.covariances = nn.Parameter(self._unit_covariances())
        self.register_buffer("center", torch.zeros(n_features, dtype=torch.float64))
        self._natural_cache: tuple[tuple, tuple[Tensor, Tensor]] | None = None

    def _unit_covariances(self) -> Tensor:
        n_components, n_features = self.n_components, self.n_features
        return {
            "full": torch.eye(n_features, dtype=torch.float64).repeat(n_components, 1, 1),
            "tied": torch.eye(n_features, dtype=torch.float64),
            "diag": torch.ones(n_components, n_features, dtype=torch.float64),
            "spherical": torch.ones(n_components, dtype=torch.float64),
        }[self.covariance_type]

    @torch.no_grad()
    def initialize(self, values: Tensor, responsibilities: Tensor) -> None:
        """Measure from the mean of the values, and fit; a class without values gets the mean and covariance of all."""
        everything = responsibilities.sum(1, keepdim=True).to(values.dtype)
        self.center.copy_((values * everything).sum(0) / everything.sum())
        features = self.features(values)
        overall = self.expect(features, everything.expand(-1, self.n_components))
        self.maximize(overall)
        self.maximize(self.expect(features, responsibilities))

    def features(self, values: Tensor) -> Tensor:
        """Quadratic features of the values measured from the centre."""
        return quadratic_features(values, self.center, self.covariance_type)

    def log_density(self, features: Tensor) -> Tensor:
        """log N(x; mu_k, Sigma_k), of shape (n, K)."""
        natural, constant = self._natural()
        # Components first: matrix products with few columns are slow. The transposed result costs nothing.
        return torch.addmm(constant[:, None], natural, features.T).T

    def _natural(self) -> tuple[Tensor, Tensor]:
        """Natural parameters, kept from one batch to the next until a parameter changes."""
        if torch.is_grad_enabled():
            return self._compute_natural()
        version = (self.means._version, self.covariances._version, self.means.data_ptr(), self.means.device)
        if self._natural_cache is None or self._natural_cache[0] != version:
            self._natural_cache = (version, self._compute_natural())
        return self._natural_cache[1]

    def _compute_natural(self) -> tuple[Tensor, Tensor]:
        try:
            return natural_parameters(self.means - self.center, self.covariances, self.covariance_type)
        except torch.linalg.LinAlgError as error:
            raise InputError(
                f"a covariance is not positive definite: a component collapsed, or the features depend on each other; "
                f"use fewer components, or a larger reg_covar than {self.reg_covar:g}"
            ) from error

    def expect(self, features: Tensor, responsibilities: Tensor) -> GaussianStatistics:
        """Weighted moments."""
        if features.shape[1] > responsibilities.shape[1] or responsibilities.T.is_contiguous():
            moments = responsibilities.T @ features
        else:  # a product with so few columns is several times faster this way round
            moments = (features.T @ responsibilities).T
        n_products = n_quadratic(self.n_features, self.covariance_type)
        second, first = moments[:, :n_products], moments[:, n_products:]
        return GaussianStatistics(responsibilities.sum(0), first, second, self.center)

    @torch.no_grad()
    def maximize(self, statistics: GaussianStatistics) -> None:
        """Weighted means and covariances; a class without data keeps its own."""
        count, alive = statistics.count, statistics.count > 1e-10 * statistics.count.sum()
        safe = torch.where(alive, count, 1.0)[:, None]
        means = statistics.first / safe  # about the centre
        if self.covariance_type == "tied":
            between = (count[:, None] * means).T @ means
            total = symmetric(statistics.second.sum(0), self.n_features)
            covariances, changed = (total - between) / count.sum(), alive.any()
        elif self.covariance_type == "full":
            covariances = symmetric(statistics.second / safe, self.n_features) - means[:, :, None] * means[:, None, :]
            changed = alive[:, None, None]
        elif self.covariance_type == "diag":
            covariances, changed = statistics.second / safe - means.square(), alive[:, None]
        else:
            covariances = (statistics.second / safe - means.square().sum(1, keepdim=True))[:, 0] / self.n_features
            changed = alive
        covariances = torch.where(changed, covariances, self.covariances)
        try:
            floored = floor_covariances(covariances, self.reg_covar, self.covariance_type)
        except torch.linalg.LinAlgError as error:  # of infinite or NaN matrices
            raise InputError("a covariance overflows: the squares of X are too large for its numbers; rescale X") from error
        self.covariances.copy_(floored)
        self.means.copy_(torch.where(alive[:, None], means + self.center, self.means))

    @torch.no_grad()
    def sample(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """One observation for each class index, of shape (n, D)."""
        noise = torch.randn(len(classes), self.n_features, dtype=self.means.dtype, generator=generator).to(self.means.device)
        if self.covariance_type == "diag":
            noise *= self.covariances.sqrt()[classes]
        elif self.covariance_type == "spherical":
            noise *= self.covariances.sqrt()[classes, None]
        elif self.covariance_type == "tied":
            noise = noise @ torch.linalg.cholesky(self.covariances).T
        else:
            cholesky = torch.linalg.cholesky(self.covariances)
            for k in classes.unique():
                noise[classes == k] = noise[classes == k] @ cholesky[k].T
        return self.means[classes] + noise

    def count_parameters(self) -> int:
        """K D means, and the free entries of the covariances."""
        triangle = self.n_features * (self.n_features + 1) // 2
        covariances = {
            "full": self.n_components * triangle,
            "tied": triangle,
            "diag": self.n_components * self.n_features,
            "spherical": self.n_components,
        }[self.covariance_type]
        return self.n_components * self.n_features + covariances
