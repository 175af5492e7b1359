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


def restrict_to_labels(log_values: Tensor, labels: Tensor | None, classes: Tensor | None = None) -> Tensor:
    """-inf in place of every class but the known one, where it is known: a label is a mask on the posterior, and adds nothing.

    Parameters
    ----------
    log_values : Tensor of shape (n, K)
        Log-densities or joint log-probabilities of the components.
    labels : Tensor of shape (n,), int64, or None
        The known class of each row; -1 where it is not known.
    classes : Tensor of shape (K,), int64, optional
        The class of each component; by default every component is a class.

    Examples
    --------
    >>> restrict_to_labels(torch.zeros(2, 3), torch.tensor([1, -1])).tolist()
    [[-inf, 0.0, -inf], [0.0, 0.0, 0.0]]
    """
    if labels is None:
        return log_values
    labels = labels.to(log_values.device)[:, None]
    classes = torch.arange(log_values.shape[1], device=log_values.device) if classes is None else classes
    return log_values.masked_fill((labels >= 0) & (classes != labels), -torch.inf)


def one_hot(classes: Tensor, n_classes: int) -> Tensor:
    """Certain posteriors (n, K) in float64 from classes (n,)."""
    return torch.nn.functional.one_hot(classes, n_classes).double()
