"""Mixtures from their moments: means and weights of components by whitening and orthogonal tensor decomposition.

Both methods here need as many dimensions as there are components, and then no start: a handful of moments, averaged over the data,
determines the components.

References
----------
Hsu and Kakade (2013), Learning mixtures of spherical Gaussians: moment methods and spectral decompositions.
Anandkumar, Hsu and Kakade (2012), A method of moments for mixture models and hidden Markov models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unveil.kernels.joint_diagonalization import tensor_components

_SMALLEST = 1e-12  # of the largest eigenvalue: below, a direction is taken to be absent


@dataclass(frozen=True)
class MeanSpace:
    """Where the means of K spherical Gaussians lie, and how to whiten them there.

    The covariance of the data is that of the means, of rank K - 1, plus sigma^2 I. Data is measured from the origin m - a u, with the
    mean m of the data and a direction u of noise alone: then the K means span K dimensions whatever m is, and

        E[x x'] - sigma^2 I = sum_h w_h mu_h mu_h' = B B',    B = [e_1 sqrt(l_1 - sigma^2), ..., e_{K-1} sqrt(l_{K-1} - sigma^2), a u],

    with the leading eigenvectors e_i and eigenvalues l_i of the covariance.

    Attributes
    ----------
    origin : Tensor of shape (D,)
    whitener : Tensor of shape (D, K)
        W with W' B = I.
    root : Tensor of shape (D, K)
        B.
    noise_directions : Tensor of shape (D, D - K + 1)
    noise_variance : float
        sigma^2, the mean of the smallest D - K + 1 eigenvalues.
    eigenvalues : Tensor of shape (D,)
        Of the covariance, the largest first.
    """

    origin: Tensor
    whitener: Tensor
    root: Tensor
    noise_directions: Tensor
    noise_variance: float
    eigenvalues: Tensor


def mean_space(mean: Tensor, covariance: Tensor, n_components: int) -> MeanSpace:
    """The space of the means of K <= D spherical Gaussians, from the mean (D,) and covariance (D, D) of the data."""
    values, vectors = (each.flip(-1) for each in torch.linalg.eigh(covariance))
    noise = values[n_components - 1 :].mean()
    between = (values[: n_components - 1] - noise).clamp_min(_SMALLEST * float(values[0].clamp_min(0)) or _SMALLEST)
    beside = between.mean() if n_components > 1 else noise.clamp_min(_SMALLEST)
    directions = torch.cat([vectors[:, : n_components - 1], vectors[:, -1:]], 1)
    scales = torch.cat([between, beside[None]]).sqrt()
    return MeanSpace(
        origin=mean - scales[-1] * vectors[:, -1],
        whitener=directions / scales,
        root=directions * scales,
        noise_directions=vectors[:, n_components - 1 :],
        noise_variance=float(noise),
        eigenvalues=values,
    )


def spherical_mixture(space: MeanSpace, third: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (K,) and means (K, D) of spherical Gaussians, of one variance or several, from whitened moments.

    Parameters
    ----------
    space : MeanSpace
    third : Tensor of shape (K, K, K)
        E[y (x) y (x) y] of y = W' (x - origin).
    noise : Tensor of shape (K,)
        E[y v], where v is the mean square of the data's deviation along the directions of noise: sum_h w_h sigma_h^2 W' mu_h.
    """
    gram = space.whitener.T @ space.whitener
    correction = torch.einsum("a,bc->abc", noise, gram)
    correction = correction + correction.permute(1, 0, 2) + correction.permute(1, 2, 0)
    weights, whitened = _components(third - correction)
    return weights, whitened @ space.root.T + space.origin


def _components(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Weights w_h (K,) and whitened means (K, K) of sum_h w_h^(-1/2) v_h (x) v_h (x) v_h, where a mean is v_h / sqrt(w_h)."""
    strengths, vectors = tensor_components(tensor)
    weights = strengths.clamp_min(1.0).reciprocal().square()  # no weight is above 1
    return weights / weights.sum(), (vectors * strengths).T


@dataclass(frozen=True)
class ThreeViews:
    """How to turn three views of one hidden state into views of its whitened means.

    The views x_1, x_2, x_3 are independent given the state. With P_ij = E[x_i x_j'] and U_i the leading K singular directions of each,

        x~_1 = (U_2' P_23 U_3) (U_1' P_13 U_3)^-1 U_1' x_1,    x~_3 = (U_2' P_21 U_1) (U_3' P_31 U_1)^-1 U_3' x_3

    have the means U_2' E[x_2 | h] given the state h, as U_2' x_2 has; E[x~_1 x~_3'] whitens them.

    Attributes
    ----------
    maps : tuple of three Tensors of shape (F, K)
        What the features of each view are multiplied by.
    root : Tensor of shape (F, K)
        From whitened means to means of the second view.
    singular_values : Tensor of shape (F,)
        Of P_13.
    """

    maps: tuple[Tensor, Tensor, Tensor]
    root: Tensor
    singular_values: Tensor


def three_views(p12: Tensor, p13: Tensor, p23: Tensor, n_components: int) -> ThreeViews:
    """The maps of three views from their cross moments (F, F), for K <= F states."""
    left, values, right = torch.linalg.svd(p13)
    u1, u3 = left[:, :n_components], right[:n_components].T
    u2 = torch.linalg.svd(torch.cat([p12.T, p23], 1), full_matrices=False)[0][:, :n_components]
    inner13, inner23, inner21 = u1.T @ p13 @ u3, u2.T @ p23 @ u3, u2.T @ p12.T @ u1
    inverse13 = torch.linalg.pinv(inner13)
    second = inner23 @ inverse13 @ inner21.T
    eigenvalues, vectors = torch.linalg.eigh((second + second.T) / 2)
    scales = eigenvalues.clamp_min(_SMALLEST * float(eigenvalues.abs().max()) or _SMALLEST).sqrt()
    whitener = vectors / scales
    maps = (u1 @ (inner23 @ inverse13).T @ whitener, u2 @ whitener, u3 @ (inner21 @ inverse13.T).T @ whitener)
    return ThreeViews(maps, u2 @ (vectors * scales), values)


def three_view_mixture(views: ThreeViews, third: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (K,), and means (K, F) of the second view's features given each state, from E[W'x~_1 (x) W'U_2'x_2 (x) W'x~_3]."""
    weights, whitened = _components(third)
    return weights, whitened @ views.root.T
