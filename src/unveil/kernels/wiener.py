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
