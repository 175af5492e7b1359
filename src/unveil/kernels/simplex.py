"""Functions of the probability simplex."""

from __future__ import annotations

import torch
from torch import Tensor


def normalize_log_(log_joint: Tensor) -> Tensor:
    """Turn log p(x, z = k) into responsibilities p(z = k | x), in place, and return log p(x).

    Parameters
    ----------
    log_joint : Tensor of shape (n, K)
        Overwritten by the responsibilities. A row that is -inf everywhere becomes zeros.

    Returns
    -------
    log_evidence : Tensor of shape (n,)
        ``log sum_k exp(log_joint[:, k])``.

    Examples
    --------
    >>> log_joint = torch.tensor([[0.1, 0.3]], dtype=torch.float64).log()
    >>> normalize_log_(log_joint).exp().round(decimals=6).tolist(), log_joint.round(decimals=6).tolist()
    ([0.4], [[0.25, 0.75]])
    """
    highest = log_joint.amax(1, keepdim=True)
    highest.masked_fill_(highest == -torch.inf, 0.0)
    total = log_joint.sub_(highest).exp_().sum(1, keepdim=True)
    log_joint.mul_(torch.where(total > 0, total.reciprocal(), 0.0))
    return (highest + total.log())[:, 0]


def normalize(counts: Tensor, previous: Tensor | None = None) -> Tensor:
    """Counts (..., K) to probabilities along the last axis; a row without counts keeps its ``previous`` one, or is uniform.

    A row counts for nothing, too, where its sum is so small that to divide by it is not exact any more.
    """
    total = counts.sum(-1, keepdim=True)
    fallback = torch.full_like(counts, 1 / counts.shape[-1]) if previous is None else previous
    smallest = torch.finfo(counts.dtype).tiny
    return torch.where(total >= smallest, counts / total.clamp_min(smallest), fallback)
