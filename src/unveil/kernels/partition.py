"""Partitions of a graph into groups that hold as little affinity within them as possible: max-cut for two groups, max-k-cut for more."""

from __future__ import annotations

import torch
from torch import Tensor


def affinity_within(affinity: Tensor, groups: Tensor) -> float:
    """The sum of the affinities (S, S) of pairs in the same group; groups (S,)."""
    return float(affinity[groups[:, None] == groups[None, :]].sum())


def improved_partition(affinity: Tensor, groups: Tensor, n_groups: int) -> Tensor:
    """Move one node after the other, the most telling first, until no single move makes the affinity within the groups smaller.

    Parameters
    ----------
    affinity : Tensor of shape (S, S)
        Symmetric, of either sign, with zeros on its diagonal: positive for nodes that belong to different groups.
    groups : Tensor of shape (S,), int64
        Where to begin.
    n_groups : int
        K.

    Examples
    --------
    >>> affinity = torch.tensor([[0.0, 1.0, -1.0], [1.0, 0.0, 1.0], [-1.0, 1.0, 0.0]])
    >>> improved_partition(affinity, torch.tensor([0, 0, 0]), 2).tolist()
    [0, 1, 0]
    """
    groups, nodes = groups.clone(), torch.arange(len(groups), device=groups.device)
    smallest = 1e-12 * float(affinity.abs().sum())
    pull = torch.stack([affinity[:, groups == k].sum(1) for k in range(n_groups)], 1)  # (S, K): to all nodes of each group
    while len(groups):
        gain = pull[nodes, groups][:, None] - pull
        best = int(gain.argmax())
        node, group = divmod(best, n_groups)
        if gain.flatten()[best] <= smallest:
            break
        pull[:, groups[node]] -= affinity[:, node]
        pull[:, group] += affinity[:, node]
        groups[node] = group
    return groups


def partition(affinity: Tensor, n_groups: int, generator: torch.Generator, *, n_random: int = 20) -> Tensor:
    """The groups (S,) with the least affinity within them that single moves find, from the spectrum and from random starts.

    The lowest eigenvectors tell the sides of the cut (Poljak and Rendl, 1995); with K groups, each node goes where it points among the
    corners of a simplex that the K - 1 lowest ones are turned to.
    """
    starts = [_by_spectrum(affinity, n_groups)]
    starts += [torch.randint(n_groups, (len(affinity),), generator=generator).to(affinity.device) for _ in range(n_random)]
    found = [improved_partition(affinity, start, n_groups) for start in starts]
    return min(found, key=lambda groups: affinity_within(affinity, groups))


def _by_spectrum(affinity: Tensor, n_groups: int) -> Tensor:
    lowest = torch.linalg.eigh(affinity).eigenvectors[:, : n_groups - 1]
    if n_groups == 2:
        return (lowest[:, 0] > 0).long()
    directions = torch.nn.functional.normalize(lowest, dim=1)
    corners = [int(lowest.square().sum(1).argmax())]
    while len(corners) < min(n_groups, len(affinity)):  # the nodes that point the most different ways
        corners.append(int((directions @ directions[corners].T).amax(1).argmin()))
    return (directions @ directions[corners].T).argmax(1)
