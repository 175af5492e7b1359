"""Gaussian observations: full, tied, diagonal or spherical covariances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unveil.core.model import Emission, Imputes, Moments, Penalized
from unveil.core.statistics import Statistics, identity
from unveil.emissions.normal_inverse_wishart import NormalInverseWishart
from unveil.errors import InputError, ParameterError
from unveil.kernels import incomplete_gaussian
from unveil.kernels.gaussian import (
    COVARIANCE_TYPES,
    floor_covariances,
    identity_covariance,
    log_determinants,
    n_quadratic,
    natural_parameters,
    prior_exponent,
    prior_moments,
    quadratic_features,
    symmetric,
)
from unveil.kernels.incomplete_gaussian import Incomplete


@dataclass(frozen=True)
class GaussianStatistics(Statistics):
    """Moments of y = x - center, weighted by responsibilities r; missing values take part as expected given the observed ones.

    Attributes
    ----------
    count : Tensor of shape (K,)
        sum_n r_nk over observations that are not missing as a whole.
    entries : Tensor of shape (K, D)
        How often a feature is part of the moments: where covariances are diagonal or spherical, only when it is observed.
    first : Tensor of shape (K, D)
        sum_n r_nk y_n.
    second : Tensor of shape (K, S)
        sum_n r_nk of the quadratic features of y_n: the upper triangle of y y', or y^2, or y'y.
    center : Tensor of shape (D,)
        Where moments are measured from: raw moments of data far from zero cancel.
    """

    count: Tensor
    entries: Tensor
    first: Tensor
    second: Tensor
    center: Tensor = identity()


class Gaussian(Emission, Penalized, Imputes, Moments):
    """p(x | z = k) = N(x; mu_k, Sigma_k), for K classes and D features.

    NaN is a missing value: densities are those of what is observed, and EM is exact (``kernels/incomplete_gaussian.py``).

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
    prior : None, "conjugate" or NormalInverseWishart
        The prior of every class (of tied covariances: of all classes' means and the one covariance). ``"conjugate"`` takes from the
        data m_0 = their mean, kappa_0 = 0.01, nu_0 = D + 2 and Psi = their covariance / K^(2/D), or the mean of its diagonal.

    References
    ----------
    Ghahramani and Jordan (1994), Supervised learning from incomplete data via an EM approach.
    Fraley and Raftery (2007), Bayesian regularization for normal mixture estimation and model-based clustering.
    """

    def __init__(
        self,
        n_components: int,
        n_features: int,
        covariance_type: str = "full",
        reg_covar: float = 1e-6,
        prior: str | NormalInverseWishart | None = None,
    ):
        super().__init__()
        if covariance_type not in COVARIANCE_TYPES:
            raise ValueError(f"covariance_type={covariance_type!r}: expected one of {', '.join(COVARIANCE_TYPES)}")
        self.n_components, self.n_features = n_components, n_features
        self.n_statistics = n_quadratic(n_features, covariance_type) + n_features
        self.covariance_type, self.reg_covar, self.prior = covariance_type, reg_covar, prior
        self.means = nn.Parameter(torch.zeros(n_components, n_features, dtype=torch.float64))
        self.covariances = nn.Parameter(self._unit_covariances())
        self.register_buffer("center", torch.zeros(n_features, dtype=torch.float64))
        self._register_prior()
        self._natural_cache: tuple[tuple, tuple[Tensor, Tensor]] | None = None

    def _unit_covariances(self) -> Tensor:
        unit = identity_covariance(self.n_features, self.covariance_type)
        return unit if self.covariance_type == "tied" else unit.repeat(self.n_components, *[1] * unit.ndim)

    def _register_prior(self) -> None:
        """The prior's numbers are buffers: they are saved with the model, and those from data are found in ``initialize``."""
        if self.prior is None:
            return
        prior = self.prior
        if prior == "conjugate":
            prior = NormalInverseWishart([0.0] * self.n_features, 0.01, self.n_features + 2, 1.0)
        if not isinstance(prior, NormalInverseWishart):
            raise ParameterError(f"prior={prior!r}: expected None, 'conjugate' or a NormalInverseWishart")
        names = ("mean", "mean_precision", "degrees_of_freedom", "scale")
        for name, value in zip(names, prior.hyperparameters(self.n_features, self.covariance_type), strict=True):
            self.register_buffer(f"prior_{name}", torch.as_tensor(value, dtype=torch.float64))

    @torch.no_grad()
    def initialize(self, values: Tensor, responsibilities: Tensor) -> None:
        """Measure from the mean of the values, and fit; a class without values gets the mean and covariance of all."""
        everything = responsibilities.sum(1, keepdim=True).to(values.dtype)
        if incomplete_gaussian.has_missing(values):
            self._start_from_available(values, everything[:, 0])
        else:
            self.center.copy_((values * everything).sum(0) / everything.sum())
        features = self.features(values)
        self._fit(self.expect(features, everything.expand(-1, self.n_components)))
        if self.prior == "conjugate":
            self._take_prior_from_fit()
        self.maximize(self.expect(features, responsibilities))

    def _start_from_available(self, values: Tensor, weights: Tensor) -> None:
        """Centre and variances of the values that each feature has: what missing ones are expected from at first."""
        center, variances, weight = incomplete_gaussian.available_moments(values, weights.double())
        if not bool(weight.all()):
            empty = int((weight == 0).nonzero()[0])
            raise InputError(f"column {empty} of X has no value among {len(values)} rows; leave it out, or give some of its values")
        self.center.copy_(center)
        self.means.copy_(center.expand_as(self.means))
        scale = variances.mean() if self.covariance_type == "spherical" else variances
        unit = self._unit_covariances().to(variances)
        self.covariances.copy_(floor_covariances(unit * scale, self.reg_covar, self.covariance_type))

    def _take_prior_from_fit(self) -> None:
        """Hyperparameters of Fraley and Raftery (2007), when all classes have the mean and covariance of all data."""
        covariance = self.covariances if self.covariance_type == "tied" else self.covariances[0]
        if self.covariance_type == "diag":
            covariance = covariance.mean()
        self.prior_mean.copy_(self.means[0])
        self.prior_scale.copy_(covariance / self.n_components ** (2 / self.n_features))

    def features(self, values: Tensor) -> Tensor | Incomplete:
        """Quadratic features of the values measured from the centre; with NaN, what stands in for them."""
        if incomplete_gaussian.has_missing(values):
            return incomplete_gaussian.incomplete(values, self.center, self.covariance_type)
        return quadratic_features(values, self.center, self.covariance_type)

    def log_density(self, features: Tensor | Incomplete) -> Tensor:
        """log N(x; mu_k, Sigma_k), of shape (n, K); of what is observed."""
        if isinstance(features, Incomplete):
            return self._positive_definite(incomplete_gaussian.log_density, features, *self._centred_parameters)
        natural, constant = self._natural()
        # Components first: matrix products with few columns are slow. The transposed result costs nothing.
        return torch.addmm(constant[:, None], natural, features.T).T

    @property
    def _centred_parameters(self) -> tuple[Tensor, Tensor, str]:
        """Means from the centre, covariances, and their type."""
        return self.means - self.center, self.covariances, self.covariance_type

    def _natural(self) -> tuple[Tensor, Tensor]:
        """Natural parameters, kept from one batch to the next until a parameter changes."""
        if torch.is_grad_enabled():
            return self._compute_natural()
        version = (self.means._version, self.covariances._version, self.means.data_ptr(), self.means.device)
        if self._natural_cache is None or self._natural_cache[0] != version:
            self._natural_cache = (version, self._compute_natural())
        return self._natural_cache[1]

    def _compute_natural(self) -> tuple[Tensor, Tensor]:
        return self._positive_definite(natural_parameters, *self._centred_parameters)

    def _positive_definite(self, function: Callable, *arguments: Any) -> Any:
        """The function's value, or an error that says why covariances have no inverse."""
        try:
            return function(*arguments)
        except torch.linalg.LinAlgError as error:
            raise InputError(
                f"a covariance is not positive definite: a component collapsed, or the features depend on each other; "
                f"use fewer components, or a larger reg_covar than {self.reg_covar:g}"
            ) from error

    def expect(self, features: Tensor | Incomplete, responsibilities: Tensor) -> GaussianStatistics:
        """Weighted moments."""
        if isinstance(features, Incomplete):
            arguments = features, responsibilities, *self._centred_parameters
            return GaussianStatistics(*self._positive_definite(incomplete_gaussian.expected_moments, *arguments), self.center)
        if features.shape[1] > responsibilities.shape[1] or responsibilities.T.is_contiguous():
            moments = responsibilities.T @ features
        else:  # a product with so few columns is several times faster this way round
            moments = (features.T @ responsibilities).T
        n_products = n_quadratic(self.n_features, self.covariance_type)
        second, first, count = moments[:, :n_products], moments[:, n_products:], responsibilities.sum(0)
        return GaussianStatistics(count, count[:, None].expand_as(first), first, second, self.center)

    @torch.no_grad()
    def maximize(self, statistics: GaussianStatistics) -> None:
        """Means and covariances of the highest likelihood, or posterior; a class without data or prior keeps its own."""
        if self.prior is None:
            self._fit(statistics)
        else:  # every class has what the prior is worth
            self._fit(statistics + self._prior_statistics(), least=0.0, extra=self._prior_exponent())

    def _fit(self, statistics: GaussianStatistics, least: float = 1e-10, extra: float = 0.0) -> None:
        """The maximiser of the expected log-likelihood of the statistics, less ``extra`` / 2 times each log |Sigma| (or log v).

        That is each scatter divided by its count plus ``extra``. Classes with less than a share ``least`` of the data stay as they are.
        """
        count, entries = statistics.count, statistics.entries
        alive, seen = count > least * count.sum(), entries > least * entries.sum(0)
        safe, safe_entries = torch.where(alive, count, 1.0)[:, None], torch.where(seen, entries, 1.0)
        means = statistics.first / safe_entries  # about the centre
        if self.covariance_type == "tied":
            between = (count[:, None] * means).T @ means
            total = symmetric(statistics.second.sum(0), self.n_features)
            covariances, changed = (total - between) / (count.sum() + extra), alive.any()
        elif self.covariance_type == "full":
            covariances = symmetric(statistics.second / safe, self.n_features) - means[:, :, None] * means[:, None, :]
            covariances, changed = covariances * (safe / (safe + extra))[..., None], alive[:, None, None]
        elif self.covariance_type == "diag":
            covariances = statistics.second / safe_entries - means.square()
            covariances, changed = covariances * (safe_entries / (safe_entries + extra)), seen
        else:
            scatter = statistics.second[:, 0] - (entries * means.square()).sum(1)
            covariances, changed = scatter / (torch.where(seen, entries, 0.0).sum(1) + extra), alive
        covariances = torch.where(changed, covariances, self.covariances)
        try:
            floored = floor_covariances(covariances, self.reg_covar, self.covariance_type)
        except torch.linalg.LinAlgError as error:  # of infinite or NaN matrices
            raise InputError("a covariance overflows: the squares of X are too large for its numbers; rescale X") from error
        self.covariances.copy_(floored)
        self.means.copy_(torch.where(seen, means + self.center, self.means))

    def _prior_statistics(self) -> GaussianStatistics:
        """What the prior is worth, as statistics of data seen before."""
        kappa = self.prior_mean_precision.expand(self.n_components)
        mean = self.prior_mean - self.center
        first, second = prior_moments(mean, kappa, self.prior_scale, self.covariance_type)
        return GaussianStatistics(kappa, kappa[:, None].expand_as(first), first, second, self.center)

    def _prior_exponent(self) -> float:
        kappa, nu = float(self.prior_mean_precision), float(self.prior_degrees_of_freedom)
        return prior_exponent(kappa, nu, self.n_components, self.n_features, self.covariance_type)

    @torch.no_grad()
    def log_prior(self) -> float:
        """The logarithm of the prior's density, up to a constant: its statistics times the natural parameters; 0 without a prior."""
        if self.prior is None:
            return 0.0
        prior, (natural, constant) = self._prior_statistics(), self._natural()
        expected = (natural * torch.cat([prior.second, prior.first], 1)).sum() + (constant * prior.count).sum()
        return float(expected - 0.5 * self._prior_exponent() * log_determinants(self.covariances, self.covariance_type).sum())

    @torch.no_grad()
    def impute(self, values: Tensor, responsibilities: Tensor) -> Tensor:
        """The values with sum_k r_nk E[x_missing | x_observed, z = k] in place of NaN; r_n is a distribution over the classes."""
        data = incomplete_gaussian.incomplete(values, self.center, self.covariance_type)
        means, covariances, _ = self._centred_parameters
        expected = self._positive_definite(incomplete_gaussian.conditional_means, data, responsibilities, means, covariances)
        return torch.where(values.isnan(), expected + self.center, values)

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

    def moments(self) -> tuple[Tensor, Tensor]:
        """mu_kd, and the diagonal of Sigma_k; both of shape (K, D)."""
        variances = self.covariances
        if self.covariance_type in ("full", "tied"):
            variances = variances.diagonal(dim1=-2, dim2=-1)
        elif self.covariance_type == "spherical":
            variances = variances[:, None]
        return self.means, variances.expand_as(self.means)

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
