"""Gaussian observations whose covariance is a few factors and noise: probabilistic principal components, and factor analysis."""

from __future__ import annotations

import functools
import itertools
import operator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unveil.core.model import Emission, Imputes, Moments
from unveil.core.statistics import Statistics, identity
from unveil.errors import InputError
from unveil.kernels.low_rank import (
    Factors,
    Patterns,
    diagonal_factors,
    factor_posterior,
    hidden_covariance,
    isotropic_factors,
    log_density,
    patterns_of,
)

NOISES = ("isotropic", "diagonal")
_CHUNK = 2**21  # numbers in the largest intermediate result: 16 MiB
_ROUNDING = 1e-28  # of squares, relative: variances below it are rounding errors of the mean


@dataclass(frozen=True)
class MomentStatistics(Statistics):
    """Expected moments of y = x - center, weighted by responsibilities r; what is missing of x is expected given the rest.

    Attributes
    ----------
    count : Tensor of shape (K,)
        sum_n r_nk over the rows of which something is observed.
    first : Tensor of shape (K, D)
        sum_n r_nk E[y_n].
    second : Tensor of shape (K, D, D)
        sum_n r_nk E[y_n y_n'].
    center : Tensor of shape (D,)
        Where moments are measured from: raw moments of data far from zero cancel.
    """

    count: Tensor
    first: Tensor
    second: Tensor
    center: Tensor = identity()


class LowRankGaussian(Emission, Imputes, Moments):
    """p(x | c = k) = N(x; mu_k, W_k W_k' + Psi_k): x = W_k z + mu_k + e with z ~ N(0, I_q) and e ~ N(0, Psi_k), Psi_k diagonal.

    The latent z is integrated out: the M-step fits W_k and Psi_k to the expected covariance of class k, in closed form where the noise
    is isotropic. NaN is a missing value, of which the E-step takes the first two moments given the observed entries of its row.

    Parameters
    ----------
    n_components, n_features, n_factors : int
        K, D and q.
    noise : {"isotropic", "diagonal"}
        One noise variance for all features of a class, Psi_k = sigma_k^2 I, or one for each.
    noise_floor : float
        No noise variance falls below this fraction of the variance of the data: of its feature's, or of the mean of all features'.

    Attributes
    ----------
    means : Parameter of shape (K, D)
    loadings : Parameter of shape (K, D, q)
        W; orthogonal columns, in descending order of what they explain.
    noise_variances : Parameter of shape (K,) or (K, D)
    """

    center: Tensor
    floor: Tensor

    def __init__(
        self,
        n_components: int,
        n_features: int,
        n_factors: int = 2,
        noise: str = "isotropic",
        noise_floor: float = 1e-6,
    ):
        super().__init__()
        if noise not in NOISES:
            raise ValueError(f"noise={noise!r}: expected one of {', '.join(NOISES)}")
        self.n_components, self.n_factors, self.n_features = n_components, n_factors, n_features
        self.noise, self.noise_floor = noise, noise_floor
        shape = (n_components,) if noise == "isotropic" else (n_components, n_features)
        self.means = nn.Parameter(torch.zeros(n_components, n_features, dtype=torch.float64))
        self.loadings = nn.Parameter(torch.zeros(n_components, n_features, n_factors, dtype=torch.float64))
        self.noise_variances = nn.Parameter(torch.ones(shape, dtype=torch.float64))
        self.register_buffer("center", torch.zeros(n_features, dtype=torch.float64))
        self.register_buffer("floor", torch.full(shape[1:], noise_floor, dtype=torch.float64))

    # ---- the start ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def initialize(self, values: Tensor, responsibilities: Tensor) -> None:
        """Independent features first; then factors of everything, for all classes; then of each class that has values."""
        if self.n_factors > self.n_features:
            raise InputError(f"n_components={self.n_factors} but X has n_features={self.n_features}; ask for fewer components")
        values, everything = values.to(self.means.dtype), responsibilities.sum(1, keepdim=True)
        means, variances = column_moments(values, everything[:, 0])
        self.center.copy_(center_near(means, variances))
        self.means.copy_(means.expand_as(self.means))
        self.loadings.zero_()
        typical = variances.mean() if self.noise == "isotropic" else variances
        self.noise_variances.copy_(typical.expand_as(self.noise_variances))
        self.floor.copy_(self.noise_floor * typical)
        features = self.features(values)
        self.maximize(self.expect(features, everything.expand(-1, self.n_components)))
        self.maximize(self.expect(features, responsibilities))

    # ---- the density -------------------------------------------------------------------------------------------------

    def features(self, values: Tensor) -> Tensor:
        """The values measured from the centre, of shape (n, D); NaN stays where something is missing."""
        return (values.to(self.center.dtype) - self.center).contiguous()

    def log_density(self, features: Tensor) -> Tensor:
        """log N(x_o; mu_o, W_o W_o' + Psi_o) of the observed entries o of each row, of shape (n, K)."""
        return torch.cat([self._log_density(y, patterns_of(y)) for y in features.split(self._chunk_rows)])

    def _log_density(self, y: Tensor, patterns: Patterns) -> Tensor:
        classes = range(self.n_components)
        densities = [log_density(self._residual(y, k), patterns, self.loadings[k], self.noise_of(k)) for k in classes]
        return torch.stack(densities, 1)

    @property
    def _chunk_rows(self) -> int:
        """How many rows are worked on together: each may be a pattern of its own, with matrices (D, q) and (q, q)."""
        return max(1, _CHUNK // (self.n_factors * self.n_features))

    def _residual(self, y: Tensor, k: int) -> Tensor:
        """x - mu_k, of shape (n, D); 0 where missing."""
        return (y - (self.means[k] - self.center)).nan_to_num(0.0)

    def noise_of(self, k: int) -> Tensor:
        """The diagonal of Psi_k, of shape (D,)."""
        return self.noise_variances[k].expand(self.n_features)

    def covariance_of(self, k: int) -> Tensor:
        """W_k W_k' + Psi_k, of shape (D, D)."""
        return self.loadings[k] @ self.loadings[k].T + torch.diag(self.noise_of(k))

    # ---- the factors -------------------------------------------------------------------------------------------------

    def factors(self, values: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """E[z | x_o] (n, q) and Cov[z | x_o] (n, q, q) of each row in class k."""
        means, covariances = [], []
        for y in self.features(values).split(self._chunk_rows):
            patterns = patterns_of(y)
            found = self._factors(y, patterns, k)
            means.append(found.mean)
            covariances.append(found.covariance[patterns.of_row])
        return torch.cat(means), torch.cat(covariances)

    def _factors(self, y: Tensor, patterns: Patterns, k: int) -> Factors:
        return factor_posterior(self._residual(y, k), patterns, self.loadings[k], self.noise_of(k))

    @torch.no_grad()
    def impute(self, values: Tensor, responsibilities: Tensor) -> Tensor:
        """The values (n, D) with sum_k r_nk (mu_k + W_k E[z | x_o, k]) in place of NaN."""
        expected = torch.zeros_like(values, dtype=self.means.dtype)
        for k in range(self.n_components):
            expected += responsibilities[:, k, None] * (self.factors(values, k)[0] @ self.loadings[k].T + self.means[k])
        return torch.where(values.isnan(), expected, values.to(expected.dtype))

    # ---- EM ----------------------------------------------------------------------------------------------------------

    def expect(self, features: Tensor, responsibilities: Tensor) -> MomentStatistics:
        """Expected moments; rows of which nothing is observed count for nothing."""
        chunks = zip(features.split(self._chunk_rows), responsibilities.split(self._chunk_rows), strict=True)
        return functools.reduce(operator.add, itertools.starmap(self._expect, chunks))

    def _expect(self, y: Tensor, responsibilities: Tensor) -> MomentStatistics:
        patterns = patterns_of(y)
        if patterns.complete:
            return complete_moments(y, responsibilities, self.center)
        responsibilities = responsibilities * patterns.observed.amax(1)[patterns.of_row, None]
        of_class = [self._expect_class(y, patterns, responsibilities[:, k], k) for k in range(self.n_components)]
        return MomentStatistics(responsibilities.sum(0), *map(torch.stack, zip(*of_class, strict=True)), self.center)

    def _expect_class(self, y: Tensor, patterns: Patterns, r: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """sum_n r_n E[y_n] (D,) and sum_n r_n E[y_n y_n'] (D, D) of class k."""
        factors = self._factors(y, patterns, k)
        expected = torch.where(y.isnan(), factors.mean @ self.loadings[k].T + (self.means[k] - self.center), y)
        hidden = hidden_covariance(r, factors, patterns, self.loadings[k], self.noise_of(k))
        return r @ expected, torch.addmm(hidden, (expected * r[:, None]).T, expected)

    @torch.no_grad()
    def maximize(self, statistics: MomentStatistics) -> None:
        """Weighted means, and factors of the weighted covariances; a class without data keeps its own."""
        alive = statistics.count > 1e-10 * statistics.count.sum()
        count = statistics.count[alive]
        means = statistics.first[alive] / count[:, None]  # about the centre
        covariances = statistics.second[alive] / count[:, None, None] - means[:, :, None] * means[:, None, :]
        try:
            if self.noise == "isotropic":
                loadings, noise = isotropic_factors(covariances, self.n_factors, self.floor)
            else:
                loadings, noise = diagonal_factors(covariances, self.n_factors, self.noise_variances[alive], self.floor)
        except torch.linalg.LinAlgError as error:
            raise InputError("a covariance overflows: the squares of X are too large for its numbers; rescale X") from error
        self.means[alive] = means + self.center
        self.loadings[alive], self.noise_variances[alive] = loadings, noise

    # ---- the rest ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """One observation for each class index, of shape (n, D)."""
        n, device, dtype = len(classes), self.means.device, self.means.dtype
        z = torch.randn(n, self.n_factors, dtype=dtype, generator=generator).to(device)
        values = torch.randn(n, self.n_features, dtype=dtype, generator=generator).to(device)
        for k in classes.unique():
            inside = classes == k
            values[inside] = self.means[k] + z[inside] @ self.loadings[k].T + values[inside] * self.noise_of(k).sqrt()
        return values

    def moments(self) -> tuple[Tensor, Tensor]:
        """The means mu_k and the diagonals of W_k W_k' + Psi_k, both of shape (K, D)."""
        noise = self.noise_variances.view(self.n_components, -1)
        return self.means.detach(), (self.loadings.square().sum(2) + noise).detach()

    def count_parameters(self) -> int:
        """Of each class: D means, D q loadings less the q (q - 1) / 2 that rotations of z make up for, and the noise."""
        q, n_features = self.n_factors, self.n_features
        noise = 1 if self.noise == "isotropic" else n_features
        return self.n_components * (n_features + n_features * q - q * (q - 1) // 2 + noise)


def complete_moments(y: Tensor, responsibilities: Tensor, center: Tensor) -> MomentStatistics:
    """Moments of y = x - center (n, D) that is all there; NaN where it is not."""
    second = torch.stack([(y * r[:, None]).T @ y for r in responsibilities.T])
    return MomentStatistics(responsibilities.sum(0), responsibilities.T @ y, second, center)


def column_moments(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted means and variances (D,) of what is observed in each column of values (n, D); the variances are positive.

    A column without values counts as varying like the others, and one that is constant a thousandth of that.
    """
    observed = ~values.isnan()
    weight = weights @ observed.to(weights)
    if not bool(weight.any()):
        raise InputError("X holds nothing but NaN; give at least one value")
    means = (weights @ values.nan_to_num(0.0) / weight).nan_to_num(0.0)
    variances = weights @ torch.where(observed, values - means, 0.0).square() / weight
    if bool(variances.isinf().any()):
        raise InputError("a variance overflows: the squares of X are too large for its numbers; rescale X")
    varying = variances > _ROUNDING * means.square()
    usual = variances[varying].mean() if bool(varying.any()) else torch.ones_like(means[0])
    return means, torch.where(varying, variances, torch.where(weight > 0, 1e-6 * usual, usual))


def center_near(means: Tensor, variances: Tensor) -> Tensor:
    """A centre (D,) that is the same for the data in another order or layout: the means in whole standard deviations."""
    spread = variances.sqrt()
    return (means / spread).round() * spread
