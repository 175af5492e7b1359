"""De-permutation: which hidden states belong to one chain, where transitions between all of them were estimated in no order.

A mixture of C hidden Markov models is one model whose transitions are block-diagonal; moments give the states in any order, and
transitions with some noise between the blocks.

References
----------
Subakan, Traa and Smaragdis (2014), Spectral learning of mixture of hidden Markov models.
Shi and Malik (2000), Normalized cuts and image segmentation.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def eigen_embedding(transition: Tensor, n_blocks: int) -> tuple[Tensor, Tensor]:
    """Where each state goes in the long run: rows of A^r = V L V^-1 with the C largest eigenvalues kept.

    States of one block go to the same stationary distribution. Where the C-th eigenvalue is one of a conjugate pair, the other is kept
    as well, so that A^r is real.

    Parameters
    ----------
    transition : Tensor of shape (S, S)
        Rows sum to 1.

    Returns
    -------
    rows : Tensor of shape (S, S)
    eigenvalues : Tensor of shape (S,)
        Absolute values, the largest first.
    """
    values, vectors = torch.linalg.eig(transition)
    order = values.abs().argsort(descending=True, stable=True)
    values, vectors = values[order], vectors[:, order]
    n_kept = n_blocks
    split = values[n_kept - 1].imag.abs() > 1e-12 and n_kept < len(values)
    if split and torch.isclose(values[n_kept - 1].conj(), values[n_kept], rtol=1e-9, atol=1e-12):
        n_kept += 1
    inverse = torch.linalg.pinv(vectors)
    kept = (vectors[:, :n_kept] * values[:n_kept]) @ inverse[:n_kept]
    return kept.real, values.abs()


def cut_embedding(flow: Tensor, n_blocks: int) -> tuple[Tensor, Tensor]:
    """The leading eigenvectors of the symmetrised, normalised flow between states, rows scaled to length 1: normalised cuts.

    Parameters
    ----------
    flow : Tensor of shape (S, S)
        J, how often each state follows each: not negative.

    Returns
    -------
    rows : Tensor of shape (S, C)
    eigenvalues : Tensor of shape (S,)
        The largest first; C of them are 1 where the blocks are not connected.
    """
    symmetric = (flow + flow.T) / 2
    degree = symmetric.sum(1).clamp_min(1e-12 * float(symmetric.sum()))
    values, vectors = torch.linalg.eigh(symmetric / (degree[:, None] * degree).sqrt())
    rows = vectors[:, -n_blocks:]
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12), values.flip(0)


def split_rows(rows: Tensor, n_blocks: int, seed: int) -> Tensor:
    """Clusters of the rows by k-means, of shape (S,)."""
    return torch.from_numpy(_kmeans(rows, n_blocks, seed).labels_).long()


def split_rows_evenly(rows: Tensor, n_blocks: int, seed: int) -> Tensor:
    """The same with S / C rows in each cluster: the assignment to the centres of k-means at the least total distance."""
    centers = torch.from_numpy(_kmeans(rows, n_blocks, seed).cluster_centers_)
    distances = torch.cdist(rows, centers).square().numpy()
    places = np.repeat(np.arange(n_blocks), len(rows) // n_blocks)
    _, chosen = linear_sum_assignment(distances[:, places])
    return torch.from_numpy(places[chosen])


def _kmeans(rows: Tensor, n_blocks: int, seed: int):
    from sklearn.cluster import KMeans

    return KMeans(n_blocks, n_init=20, random_state=seed).fit(rows.numpy())
