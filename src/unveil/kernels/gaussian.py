"""Gaussian densities as an exponential family: log N(x; mu, Sigma) = features(x) . natural parameters + constant.

With x measured from a fixed centre, the features and natural parameters of each covariance type are

=========== ========================================= ==============================================
type        features of x (n, F)                      natural parameters of a component (F,)
=========== ========================================= ==============================================
full, tied  x_i x_j for i <= j, and x_i               -P_ii / 2, and -P_ij for i < j, and (P mu)_i
diag        x_i^2, and x_i                            -1 / (2 v_i), and mu_i / v_i
spherical   sum_i x_i^2, and x_i                      -1 / (2 v), and mu_i / v
=========== ========================================= ==============================================

where P is the inverse covariance; the constant is -(D log 2 pi + log |Sigma| + mu' P mu) / 2.
So densities and expected statistics are one matrix product each.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from unveil.kernels.memory import empty

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")


def n_quadratic(n_features: int, covariance_type: str) -> int:
    """How many quadratic features there are."""
    full = n_features * (n_features + 1) // 2
    return {"full": full, "tied": full, "diag": n_features, "spherical": 1}[covariance_type]


def quadratic_features(x: Tensor, center: Tensor, covariance_type: str) -> Tensor:
    """The features of data ``x`` (n, D) measured from ``center`` (D,): the quadratic ones first, then the linear ones; shape (n, F).

    In memory each feature is contiguous over the data, which makes both the products here and the matrix products after fast.
    """
    n_features = len(center)
    n_products = n_quadratic(n_features, covariance_type)
    fresh = torch.is_grad_enabled() or center.dtype != torch.float64 or center.device.type != "cpu"
    shape = (n_products + n_features, len(x))
    features = center.new_empty(shape) if fresh else empty(*shape)
    y = _into(features[n_products:], torch.sub, x.to(center.dtype).T, center[:, None])
    if covariance_type == "diag":
        _into(features[:n_products], torch.mul, y, y)
    elif covariance_type == "spherical":
        features[0] = y.square().sum(0)
    else:
        start = 0
        for i in range(n_features):  # row i of the upper triangle
            _into(features[start : start + n_features - i], torch.mul, y[i:], y[i])
            start += n_features - i
    return features.T


def _into(out: Tensor, operation: Callable[..., Tensor], a: Tensor, b: Tensor) -> Tensor:
    """The result of an operation, also written to ``out``; in one pass where no gradient asks for more."""
    if not a.requires_grad:
        return operation(a, b, out=out)
    result = operation(a, b)
    out.copy_(result)
    return result


def natural_parameters(means: Tensor, covariances: Tensor, covariance_type: str) -> tuple[Tensor, Tensor]:
    """Natural parameters (K, F) and constants (K,) of components with centred ``means`` (K, D).

    Raises
    ------
    torch.linalg.LinAlgError
        When a covariance is not positive definite.
    """
    n_components, n_features = means.shape
    if covariance_type in ("full", "tied"):
        cholesky = torch.linalg.cholesky(covariances)
        precisions = torch.cholesky_inverse(cholesky)
        log_determinant = 2 * cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        linear = (precisions @ means[..., None])[..., 0]
        row, column = torch.triu_indices(n_features, n_features, device=means.device)
        quadratic = precisions[..., row, column] * torch.where(row == column, -0.5, -1.0).to(means)
        quadratic = quadratic.expand(n_components, -1)
    else:
        if not bool((covariances > torch.finfo(covariances.dtype).tiny).all()):
            raise torch.linalg.LinAlgError("a variance is not positive")
        precisions = covariances.reciprocal()
        if covariance_type == "spherical":
            log_determinant = n_features * covariances.log()
            precisions = precisions[:, None]
        else:
            log_determinant = covariances.log().sum(1)
        linear = precisions * means
        quadratic = -0.5 * precisions
    constant = -0.5 * (n_features * math.log(2 * math.pi) + log_determinant + (linear * means).sum(1))
    return torch.cat([quadratic, linear], 1), constant


def inverse(matrices: Tensor, covariance_type: str) -> Tensor:
    """Precisions from covariances, or the other way around, in the shape of their type."""
    if covariance_type in ("diag", "spherical"):
        return matrices.reciprocal()
    return torch.cholesky_inverse(torch.linalg.cholesky(matrices))


def identity_covariance(n_features: int, covariance_type: str) -> Tensor:
    """The unit covariance of one class, in the shape of its type."""
    if covariance_type == "spherical":
        return torch.ones((), dtype=torch.float64)
    ones = torch.ones(n_features, dtype=torch.float64)
    return ones if covariance_type == "diag" else ones.diag()


def log_determinants(covariances: Tensor, covariance_type: str) -> Tensor:
    """log |Sigma| of each matrix, or the logarithms of the variances."""
    if covariance_type in ("diag", "spherical"):
        return covariances.log()
    return 2 * torch.linalg.cholesky(covariances).diagonal(dim1=-2, dim2=-1).log().sum(-1)


def symmetric(triangle: Tensor, n_features: int) -> Tensor:
    """Symmetric matrices (..., D, D) from their upper triangles (..., D (D + 1) / 2)."""
    row, column = torch.triu_indices(n_features, n_features, device=triangle.device)
    matrix = triangle.new_zeros(*triangle.shape[:-1], n_features, n_features)
    matrix[..., row, column] = triangle
    matrix[..., column, row] = triangle
    return matrix


def floor_covariances(covariances: Tensor, floor: float, covariance_type: str) -> Tensor:
    """The maximiser of the likelihood among covariances of which no eigenvalue is below ``floor``.

    For a scatter matrix S the maximiser of -log|C| - tr(C^-1 S) subject to C >= floor I has the eigenvectors of S and
    the eigenvalues max(lambda_i, floor): so EM with the floor stays monotone, and covariances above it are untouched.
    """
    if covariance_type in ("diag", "spherical"):
        return covariances.clamp_min(floor)
    eye = torch.eye(covariances.shape[-1], dtype=covariances.dtype, device=covariances.device)
    healthy = torch.linalg.cholesky_ex(covariances - floor * eye).info == 0
    if bool(healthy.all()):
        return covariances
    values, vectors = torch.linalg.eigh(covariances)
    clipped = (vectors * values.clamp_min(floor)[..., None, :]) @ vectors.mT
    return torch.where(healthy[..., None, None], covariances, clipped)


def prior_moments(mean: Tensor, mean_precisions: Tensor, scale: Tensor, covariance_type: str) -> tuple[Tensor, Tensor]:
    """The normal-inverse-Wishart prior as data seen before: kappa_0 observations of each class, with the mean m_0 and a scatter of Psi.

    Parameters
    ----------
    mean : Tensor of shape (D,)
        m_0, from the centre.
    mean_precisions : Tensor of shape (K,)
        kappa_0, for each class.
    scale : Tensor of shape (D, D), (D,) or ()
        Psi; where a covariance is tied, the classes share it.

    Returns
    -------
    first : Tensor of shape (K, D)
    second : Tensor of shape (K, S)
    """
    moments = mean_precisions[:, None] * quadratic_features(mean[None], torch.zeros_like(mean), covariance_type)
    second, first = moments[:, : -len(mean)], moments[:, -len(mean) :]
    if covariance_type in ("full", "tied"):
        row, column = torch.triu_indices(len(mean), len(mean), device=mean.device)
        scale = scale[row, column] / (len(mean_precisions) if covariance_type == "tied" else 1)
    return first, second + scale


def prior_exponent(
    mean_precision: float, degrees_of_freedom: float, n_components: int, n_features: int, covariance_type: str
) -> float:
    """-2 times the power of |Sigma| (or of a variance v) in the prior, beyond what its kappa_0 observations have.

    An inverse Wishart density has the power -(nu_0 + D + 1) / 2, and an inverse gamma one -(nu_0 + 2) / 2. Each mean, normal with
    covariance Sigma / kappa_0, has -1 / 2 more, and kappa_0 observations have -kappa_0 / 2; D times that where v is of D features.
    """
    of_means = 1 - mean_precision
    return {
        "full": degrees_of_freedom + n_features + 1 + of_means,
        "tied": degrees_of_freedom + n_features + 1 + n_components * of_means,
        "diag": degrees_of_freedom + 2 + of_means,
        "spherical": degrees_of_freedom + 2 + n_features * of_means,
    }[covariance_type]
