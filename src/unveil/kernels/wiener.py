"""Generalised Wiener filtering: each source takes its share of the mixture."""

from __future__ import annotations

import torch
from torch import Tensor


def wiener_masks(sources: Tensor, power: float = 2.0) -> Tensor:
    """Masks m_s = v_s^p / sum_r v_r^p from the magnitudes of the sources; they add up to one.

    Parameters
    ----------
    sources : Tensor of shape (n_sources, ...)
        Non-negative magnitudes.
    power : float
        2 is the Wiener filter of independent Gaussian sources; 1 shares out magnitudes.

    Returns
    -------
    Tensor of shape (n_sources, ...)
        Where no source has energy, all have the same share.

    Examples
    --------
    >>> wiener_masks(torch.tensor([[3.0, 0.0], [4.0, 0.0]])).tolist()
    [[0.36000001430511475, 0.5], [0.6399999856948853, 0.5]]
    """
    loudest = sources.amax(0, keepdim=True)
    powers = (sources / torch.where(loudest > 0, loudest, 1.0)) ** power  # relative, so that no power underflows
    total = powers.sum(0, keepdim=True)
    return torch.where(total > 0, powers / torch.where(total > 0, total, 1.0), 1 / len(sources))


def spatial_wiener(mixture: Tensor, masks: Tensor) -> Tensor:
    """What each source sends to each channel, by its masks and by where it is (Duong, Vincent and Gribonval, 2010).

    A source has power v_s(f, t), its share of the mixture's, and a spatial covariance R_s(f) between the channels, taken from the
    masked mixture; then y_s = v_s R_s (sum_r v_r R_r)^-1 x. With several channels, sources at different places are told apart even
    where they overlap. The images add up to the mixture.

    Parameters
    ----------
    mixture : complex Tensor of shape (n_channels, n_frequencies, n_frames)
        x.
    masks : Tensor of shape (n_sources, n_channels, n_frequencies, n_frames)
        The share of each source; they add up to one.

    Returns
    -------
    complex Tensor, shaped like ``masks``
    """
    x = mixture.permute(1, 2, 0)[..., None]  # (F, T, C, 1)
    tiny = 1e-10 * mixture.abs().square().mean().clamp_min(torch.finfo(mixture.real.dtype).tiny)
    masked = masks * mixture
    power = (masks * mixture.abs().square()).mean(1)  # (S, F, T): of the posterior, its variance included
    covariance = (
        torch.einsum("scft,sdft->sfcd", masked, masked.conj()) / (masked.abs().square().mean(1).sum(2) + tiny)[..., None, None]
    )
    of_mixture = torch.einsum("sft,sfcd->ftcd", power.to(mixture.dtype), covariance)
    loading = tiny + 1e-6 * of_mixture.diagonal(dim1=-2, dim2=-1).real.mean(-1)  # equal channels make it singular
    of_mixture = of_mixture + loading[..., None, None] * torch.eye(len(mixture), dtype=mixture.dtype, device=mixture.device)
    whitened = _solve(of_mixture, x)[..., 0]  # (F, T, C)
    images = power[:, None] * torch.einsum("sfcd,ftd->scft", covariance, whitened)
    return images + (mixture - images.sum(0)) / len(images)  # what the loading took away


def _solve(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Solutions of many small Hermitian systems; those of two unknowns, by far the most common, in closed form."""
    if matrices.shape[-1] == 2:
        a, b, c, d = matrices[..., 0, 0], matrices[..., 0, 1], matrices[..., 1, 0], matrices[..., 1, 1]
        u, v = vectors[..., 0, 0], vectors[..., 1, 0]
        determinant = a * d - b * c
        return torch.stack([(d * u - b * v) / determinant, (a * v - c * u) / determinant], -1)[..., None]
    return torch.cholesky_solve(vectors, torch.linalg.cholesky(matrices))
