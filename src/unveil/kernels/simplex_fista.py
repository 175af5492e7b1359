"""Transition probabilities from a moment: least squares over simplices, by accelerated projected gradients.

With features phi of observations, and their means Phi_j = E[phi(x) | z = j] in the columns of Phi, the moment of neighbours is

    E[phi(x_t) phi(x_{t+1})'] = Phi J Phi',    J_ij = p(z_t = i, z_{t+1} = j) = pi_i A_ij,

which is linear in J, whose row i is not negative and sums to pi_i.

References
----------
Subakan, Traa and Smaragdis (2014), Spectral learning of mixture of hidden Markov models.
Kontorovich, Nadler and Weiss (2013), On learning parametric-output HMMs.
Beck and Teboulle (2009), A fast iterative shrinkage-thresholding algorithm; with the restarts of O'Donoghue and Candes (2015).
"""

from __future__ import annotations

import torch
from torch import Tensor


def project_to_simplices(matrix: Tensor, totals: Tensor, mask: Tensor | None = None) -> Tensor:
    """The nearest matrix whose rows are not negative, are zero outside the mask, and sum to ``totals``.

    Parameters
    ----------
    matrix : Tensor of shape (N, S)
    totals : Tensor of shape (N,)
        Not negative.
    mask : Tensor of shape (N, S), bool, optional
        Where entries may be; at least one in each row.
    """
    if mask is not None:
        matrix = torch.where(mask, matrix, -torch.inf)
    ordered = matrix.sort(1, descending=True).values
    excess = ordered.cumsum(1) - totals[:, None]
    rank = torch.arange(1, matrix.shape[1] + 1, dtype=matrix.dtype, device=matrix.device)
    n_positive = (ordered * rank > excess).sum(1, keepdim=True).clamp_min(1)
    return (matrix - excess.gather(1, n_positive - 1) / n_positive).clamp_min(0.0)


def fit_flow(
    moment: Tensor, features: Tensor, totals: Tensor, mask: Tensor | None = None, *, max_iter: int = 5000, tol: float = 1e-10
) -> Tensor:
    """The flow J that minimises ||moment - Phi J Phi'|| over matrices whose rows sum to ``totals``.

    Parameters
    ----------
    moment : Tensor of shape (F, F)
        E[phi(x_t) phi(x_{t+1})']: rows are the earlier ones.
    features : Tensor of shape (F, S)
        Phi.
    totals : Tensor of shape (S,)
        pi, the probabilities of the earlier state.
    mask : Tensor of shape (S, S), bool, optional
        The transitions that are possible.
    max_iter, tol : int, float
        The iteration ends when no entry changes by more than ``tol`` times the largest total.

    Returns
    -------
    Tensor of shape (S, S)
        J; its rows divided by their sums are the transition probabilities.
    """
    _, triangle = torch.linalg.qr(features)
    gram = triangle.T @ triangle  # Phi' Phi
    target = features.T @ moment @ features
    step = 1.0 / torch.linalg.matrix_norm(gram, 2).square().clamp_min(torch.finfo(gram.dtype).tiny)
    start = totals[:, None] * totals[None, :] / totals.sum()
    return _accelerated(
        lambda flow: gram @ flow @ gram - target,
        lambda flow: project_to_simplices(flow, totals, mask),
        project_to_simplices(start, totals, mask),
        step,
        max_iter,
        tol * float(totals.max()),
    )


def fit_weights(mean: Tensor, features: Tensor, mask: Tensor | None = None, *, max_iter: int = 5000, tol: float = 1e-10) -> Tensor:
    """The distribution p over states that minimises ||mean - Phi p||, of shape (S,).

    Parameters
    ----------
    mean : Tensor of shape (F,)
        E[phi(x)].
    features : Tensor of shape (F, S)
    mask : Tensor of shape (S,), bool, optional
        The states that are possible.
    """
    gram, target = features.T @ features, features.T @ mean
    step = 1.0 / torch.linalg.matrix_norm(gram, 2).clamp_min(torch.finfo(gram.dtype).tiny)
    one, row_mask = gram.new_ones(1), None if mask is None else mask[None]

    def project(row: Tensor) -> Tensor:
        return project_to_simplices(row, one, row_mask)

    start = project(gram.new_full((1, len(gram)), 1 / len(gram)))
    return _accelerated(lambda row: row @ gram - target, project, start, step, max_iter, tol)[0]


def _accelerated(gradient, project, start: Tensor, step: Tensor, max_iter: int, smallest_change: float) -> Tensor:
    """FISTA, whose momentum starts anew where it points uphill."""
    current, ahead, momentum = start, start, 1.0
    for _ in range(max_iter):
        moved = project(ahead - step * gradient(ahead))
        change = moved - current
        if float(((ahead - moved) * change).sum()) > 0:
            momentum, ahead = 1.0, moved
        else:
            following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            momentum, ahead = following, moved + (momentum - 1) / following * change
        current = moved
        if float(change.abs().max()) < smallest_change:
            break
    return current
