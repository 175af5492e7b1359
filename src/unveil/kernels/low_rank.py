"""Gaussians whose covariance is a few factors and noise, N(mu, W W' + Psi) with diagonal Psi, of observations with gaps (NaN).

The covariance of D features is never made or inverted where a row is looked at. With o the observed entries of a row,
W_o the rows of W for them, and q factors,

    M = I + W_o' Psi_o^-1 W_o   (q x q),     E[z | x_o] = M^-1 W_o' Psi_o^-1 (x_o - mu_o),     Cov[z | x_o] = M^-1.

The inverse of W W' + Psi (Woodbury) and its determinant then follow from those of M:

    (x - mu)' (W W' + Psi)^-1 (x - mu) = min_z |x - mu - W z|^2_Psi + |z|^2   (at z = E[z | x]),     |W W' + Psi| = |M| |Psi|.

The quadratic form is computed as that minimum, a sum of squares, so nothing cancels where the noise is small. M depends only on *which*
entries are observed, so rows are grouped by that; without gaps there is one group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Patterns:
    """Which entries of each row are observed.

    Attributes
    ----------
    observed : Tensor of shape (P, D)
        The distinct patterns: 1 where observed, 0 where missing.
    of_row : Tensor of shape (n,), int64
        The pattern of each row.
    """

    observed: Tensor
    of_row: Tensor

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return len(self.observed) == 1 and bool(self.observed.all())


@dataclass(frozen=True)
class Factors:
    """The posterior of the factors of n rows under one Gaussian.

    Attributes
    ----------
    mean : Tensor of shape (n, q)
        E[z | x_o] of each row.
    covariance : Tensor of shape (P, q, q)
        Cov[z | x_o] of each pattern.
    log_determinant : Tensor of shape (P,)
        log |M| of each pattern.
    """

    mean: Tensor
    covariance: Tensor
    log_determinant: Tensor


def patterns_of(values: Tensor) -> Patterns:
    """The patterns of what is not NaN in values (n, D)."""
    n, n_features = values.shape
    number = torch.zeros(n, dtype=torch.int64, device=values.device)
    if not bool(values.sum().isnan()):  # one sum is enough to know
        return Patterns(torch.ones(1, n_features, dtype=torch.float64, device=values.device), number)
    observed = ~values.isnan()
    for columns in observed.split(32, dim=1):  # 32 columns are the bits of one integer
        bits = (columns << torch.arange(columns.shape[1], device=values.device)).sum(1)
        number = ((number << 32) + bits).unique(return_inverse=True)[1]
    representative = torch.empty(int(number.max()) + 1, dtype=torch.int64, device=values.device)
    representative[number] = torch.arange(n, device=values.device)
    return Patterns(observed[representative].double(), number)


def factor_posterior(residual: Tensor, patterns: Patterns, loadings: Tensor, noise: Tensor) -> Factors:
    """The posterior of the factors.

    Parameters
    ----------
    residual : Tensor of shape (n, D)
        x - mu, and 0 where missing.
    patterns : Patterns
        What is observed.
    loadings : Tensor of shape (D, q)
        W.
    noise : Tensor of shape (D,)
        The diagonal of Psi.
    """
    n_factors = loadings.shape[1]
    weighted = loadings / noise[:, None]
    products = (weighted[:, :, None] * loadings[:, None, :]).flatten(1)
    eye = torch.eye(n_factors, dtype=loadings.dtype, device=loadings.device)
    precisions = eye + (patterns.observed @ products).unflatten(1, (n_factors, n_factors))
    cholesky = torch.linalg.cholesky(precisions)
    covariance = torch.cholesky_inverse(cholesky)
    mean = _for_each_row(covariance, residual @ weighted, patterns)
    return Factors(mean, covariance, 2 * cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1))


def _for_each_row(matrices: Tensor, vectors: Tensor, patterns: Patterns) -> Tensor:
    """The symmetric matrix (P, q, q) of each row's pattern times the row's vector (n, q)."""
    if len(matrices) == 1:
        return vectors @ matrices[0]
    return (matrices[patterns.of_row] @ vectors[:, :, None])[:, :, 0]


def log_density(residual: Tensor, patterns: Patterns, loadings: Tensor, noise: Tensor) -> Tensor:
    """log N(x_o; mu_o, W_o W_o' + Psi_o) of each row, of shape (n,); 0 where nothing is observed. Arguments as above."""
    factors = factor_posterior(residual, patterns, loadings, noise)
    unexplained = residual - factors.mean @ loadings.T
    if not patterns.complete:
        unexplained = unexplained * patterns.observed[patterns.of_row]
    distance = unexplained.square() @ noise.reciprocal() + factors.mean.square().sum(1)
    constant = patterns.observed @ (noise.log() + math.log(2 * math.pi)) + factors.log_determinant
    return -0.5 * (constant[patterns.of_row] + distance)


def hidden_covariance(weights: Tensor, factors: Factors, patterns: Patterns, loadings: Tensor, noise: Tensor) -> Tensor:
    """sum_n weights_n Cov[x_m | x_o] of the missing entries m of each row, of shape (D, D); zero where something is observed.

    Cov[x_m | x_o] = Psi_m + W_m M^-1 W_m'.
    """
    weight = weights.new_zeros(len(patterns.observed)).index_add(0, patterns.of_row, weights)
    hidden = 1 - patterns.observed
    roots = (hidden * weight.sqrt()[:, None])[:, :, None] * (loadings @ torch.linalg.cholesky(factors.covariance))
    roots = roots.transpose(0, 1).flatten(1)  # (D, P q)
    return torch.addmm(torch.diag((weight @ hidden) * noise), roots, roots.T)


def isotropic_factors(covariance: Tensor, n_factors: int, floor: Tensor) -> tuple[Tensor, Tensor]:
    """The loadings (..., D, q) and noise variance (...) of highest likelihood for covariances (..., D, D) of the data.

    With l and u the eigenvalues and eigenvectors of the covariance in descending order, the noise is the mean of l_q+1 .. l_D, or the
    ``floor`` if that is higher, and the columns of W are u_i sqrt(l_i - noise) (Tipping and Bishop, 1999, equations 7 and 8).

    Raises
    ------
    torch.linalg.LinAlgError
        When a covariance is not finite.
    """
    variances, directions = _principal(covariance)
    rest = variances[..., n_factors:]
    noise = rest.mean(-1) if rest.shape[-1] else torch.zeros_like(variances[..., 0])
    noise = torch.maximum(noise, floor)
    scales = (variances[..., :n_factors] - noise[..., None]).clamp_min(0).sqrt()
    return directions[..., :n_factors] * scales[..., None, :], noise


def diagonal_factors(covariance: Tensor, n_factors: int, noise: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Better loadings (..., D, q) and noise variances (..., D) than ``noise`` (..., D) for covariances (..., D, D) of the data.

    First the best loadings for this noise: in units of the noise they are those of the principal directions whose variance is above 1.
    Then, for these loadings, the best noise variance of one feature after the other. No step lowers the likelihood.

    Raises
    ------
    torch.linalg.LinAlgError
        When a covariance is not finite.
    """
    scale = noise.sqrt()
    variances, directions = _principal(covariance / (scale[..., :, None] * scale[..., None, :]))
    scales = (variances[..., :n_factors] - 1).clamp_min(0).sqrt()
    loadings = scale[..., :, None] * directions[..., :n_factors] * scales[..., None, :]
    return loadings, _conditional_noise(covariance, loadings, noise, floor)


def _conditional_noise(covariance: Tensor, loadings: Tensor, noise: Tensor, floor: Tensor) -> Tensor:
    """The noise variances (..., D) that maximise the likelihood one after the other, given the loadings and each other.

    With P the inverse of W W' + Psi and S the covariance of the data, the best change of psi_d is ((P S P)_dd - P_dd) / P_dd^2, after
    which P changes by a matrix of rank one (Zhao, Yu and Jiang, 2008). EM on the noise goes to the same place, but slowly.
    """
    noise = noise.clone()
    precision = torch.cholesky_inverse(torch.linalg.cholesky(loadings @ loadings.mT + torch.diag_embed(noise)))
    explained = precision @ covariance @ precision
    for d in range(noise.shape[-1]):
        column, product = precision[..., :, d], explained[..., :, d]
        p, s = column[..., d], product[..., d]
        step = torch.maximum((s - p) / p.square(), floor[d] - noise[..., d])
        noise[..., d] += step
        shrink = (step / (1 + step * p))[..., None, None]
        outer = column[..., :, None] * column[..., None, :]
        mixed = column[..., :, None] * product[..., None, :]
        explained = explained - shrink * (mixed + mixed.mT) + shrink.square() * s[..., None, None] * outer
        precision = precision - shrink * outer
    return torch.maximum(noise, floor)


def _principal(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (..., D) in descending order and eigenvectors (..., D, D) in columns, whose largest entry is positive."""
    if not bool(covariance.isfinite().all()):
        raise torch.linalg.LinAlgError("a covariance is not finite")
    variances, directions = torch.linalg.eigh(covariance)
    variances, directions = variances.flip(-1).clamp_min(0), directions.flip(-1)
    largest = directions.gather(-2, directions.abs().argmax(-2, keepdim=True))
    return variances, directions * torch.where(largest < 0, -1.0, 1.0)
