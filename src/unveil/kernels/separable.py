"""Separable non-negative factorisation: which columns are pure, and how the others are made of them."""

from __future__ import annotations

import torch
from torch import Tensor

_FULL_EXCHANGES = 3  # block exchanges without progress before exchanging one variable at a time, which cannot cycle


def successive_projection(columns: Tensor, n_chosen: int, *, tol: float = 1e-10) -> list[int]:
    """The columns that the others are convex combinations of, the most telling first (Gillis and Vavasis, 2014).

    Again and again the longest column is chosen and projected out of all. Columns that add up to one are made of the chosen ones
    exactly, where there is no noise: the vertices of a simplex are its longest vectors under any strictly convex function.

    Parameters
    ----------
    columns : Tensor of shape (F, n)
        Non-negative; scaled to add up to one, for mixtures of any loudness.
    n_chosen : int
        How many to choose, at most.
    tol : float
        Stops where no column has more than this share of its squared length left.

    Examples
    --------
    >>> pure = torch.eye(3, dtype=torch.float64)
    >>> mixed = torch.stack([(pure[0] + pure[1]) / 2, pure.mean(0)], 1)
    >>> sorted(successive_projection(torch.cat([mixed, pure], 1), 5))
    [2, 3, 4]
    """
    remainder, chosen = columns.clone(), []
    smallest = tol * float(columns.square().sum(0).max())
    for _ in range(min(n_chosen, columns.shape[1])):
        lengths = remainder.square().sum(0)
        best = int(lengths.argmax())
        if lengths[best] <= smallest:
            break
        chosen.append(best)
        direction = remainder[:, best] / lengths[best].sqrt()
        remainder -= torch.outer(direction, direction @ remainder)
    return chosen


def self_expression(columns: Tensor, penalty: float, *, max_iter: int = 5000, tol: float = 1e-9) -> Tensor:
    """Each column made of the others: H = argmin ||X - X H||^2 + penalty ||H||_1 with H >= 0 and diag H = 0.

    Accelerated proximal gradient (FISTA; Beck and Teboulle, 2009), restarted where the momentum points uphill (O'Donoghue and
    Candes, 2015). A column of large residual is pure: no non-negative combination of the others makes it (Elhamifar, Sapiro and
    Vidal, 2012).

    Parameters
    ----------
    columns : Tensor of shape (F, n)
        X.
    penalty : float
        Of the sum of the coefficients.
    max_iter : int
        The most steps.
    tol : float
        Stops where no coefficient moves by more.

    Returns
    -------
    Tensor of shape (n, n)
        H.
    """
    gram = columns.T @ columns
    step = 1 / (2 * torch.linalg.matrix_norm(gram, 2)).clamp_min(torch.finfo(gram.dtype).tiny)
    others = 1 - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    coefficients = ahead = torch.zeros_like(gram)
    momentum = 1.0
    for _ in range(max_iter):
        gradient = 2 * (gram @ ahead - gram) + penalty
        moved = (ahead - step * gradient).clamp_min(0.0) * others
        change = moved - coefficients
        uphill = bool(((ahead - moved) * change).sum() > 0)
        grown = 1.0 if uphill else (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = moved if uphill else moved + (momentum - 1) / grown * change
        coefficients, momentum = moved, grown
        if change.abs().max() < tol:
            break
    return coefficients


def non_negative_least_squares(gram: Tensor, targets: Tensor, *, max_iter: int = 200) -> Tensor:
    """argmin_h>=0 ||x - W h||^2 of many problems at once, from G = W'W and b = W'x: block principal pivoting (Kim and Park, 2011).

    Which entries are zero is guessed, the others solved for, and all that break h >= 0 or the gradient's sign change sides; where that
    does not help, one at a time (Murty's rule). It ends at the exact solution.

    Parameters
    ----------
    gram : Tensor of shape (..., K, K)
        Of one dictionary for all, or one for each problem.
    targets : Tensor of shape (..., K)
        b.
    max_iter : int
        The most exchanges.

    Returns
    -------
    Tensor of shape (..., K)

    Examples
    --------
    >>> w = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)  # atoms in columns
    >>> x = torch.tensor([[2.0, 5.0], [2.0, 1.0]], dtype=torch.float64)
    >>> non_negative_least_squares(w.T @ w, x @ w).round(decimals=9).tolist()
    [[2.0, 3.0], [1.5, 0.0]]
    """
    shape = torch.broadcast_shapes(gram.shape[:-1], targets.shape)
    n_atoms = shape[-1]
    if 0 in shape:
        return targets.new_zeros(shape)
    b = targets.expand(shape).reshape(-1, n_atoms)
    own = gram.expand(*shape, n_atoms).reshape(-1, n_atoms, n_atoms) if gram.ndim > 2 else None
    size = gram.diagonal(dim1=-2, dim2=-1).amax()
    identity = torch.eye(n_atoms, dtype=b.dtype, device=b.device)
    ridged = (gram if own is None else own) + 1e-12 * size * identity  # equal atoms share
    slack = 1e-12 * b.abs().amax(1, keepdim=True)
    solution = torch.zeros_like(b)
    passive = torch.zeros_like(b, dtype=torch.bool)
    fewest = torch.full((len(b),), n_atoms + 1, device=b.device)
    patience = torch.full((len(b),), _FULL_EXCHANGES, device=b.device)
    todo = torch.arange(len(b), device=b.device)
    for _ in range(max_iter):
        kept, g = passive[todo], ridged if own is None else ridged[todo]
        system = torch.where(kept[:, :, None] & kept[:, None, :], g, identity)
        h = torch.linalg.solve_ex(system, (b[todo] * kept)[:, :, None])[0][:, :, 0]
        gradient = (g @ h[:, :, None])[:, :, 0] - b[todo]
        solution[todo] = h * kept
        wrong = torch.where(kept, h < 0, gradient < -slack[todo])
        n_wrong = wrong.sum(1)
        better = n_wrong < fewest[todo]
        patience[todo] = torch.where(better, _FULL_EXCHANGES, patience[todo] - 1)
        fewest[todo] = torch.minimum(fewest[todo], n_wrong)
        last = torch.arange(n_atoms, device=b.device) == (wrong * torch.arange(1, n_atoms + 1, device=b.device)).argmax(1)[:, None]
        passive[todo] = kept ^ torch.where((patience[todo] >= 0)[:, None], wrong, wrong & last)
        todo = todo[n_wrong > 0]
        if not len(todo):
            break
    return solution.clamp_min(0.0).view(shape)
