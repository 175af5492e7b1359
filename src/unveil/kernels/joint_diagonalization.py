"""One rotation that makes many symmetric matrices as diagonal as possible, and orthogonal tensor decomposition by it.

References
----------
Cardoso and Souloumiac (1996), Jacobi angles for simultaneous diagonalization.
Anandkumar, Ge, Hsu, Kakade and Telgarsky (2014), Tensor decompositions for learning latent variable models.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MOST_SWEEPS, _SMALLEST_ROTATION = 100, 1e-8  # after which one more sweep, which converges quadratically, would change nothing


def joint_diagonalizer(matrices: Tensor) -> Tensor:
    """The rotation V that minimises the sum of squares off the diagonals of all V' A_n V.

    Jacobi rotations in parallel: in each of K - 1 rounds of a sweep, every index turns with another partner, by the angle that is best
    for this pair in all matrices.

    Parameters
    ----------
    matrices : Tensor of shape (N, K, K)
        Symmetric.

    Returns
    -------
    Tensor of shape (K, K)
        Orthogonal; its columns are the common eigenvectors where there are such.
    """
    size = matrices.shape[1]
    rotated, found = matrices.clone(), torch.eye(size, dtype=matrices.dtype, device=matrices.device)
    rounds = [pair.to(matrices.device) for pair in _rounds(size)]
    for _ in range(_MOST_SWEEPS):
        largest = 0.0
        for first, second in rounds:
            cosine, sine = _best_rotations(rotated, first, second)
            largest = max(largest, float(sine.norm()))
            rotation = torch.eye(size, dtype=matrices.dtype, device=matrices.device)
            rotation[first, first], rotation[second, second] = cosine, cosine
            rotation[second, first], rotation[first, second] = sine, -sine
            rotated = rotation.T @ rotated @ rotation
            found = found @ rotation
        if largest < _SMALLEST_ROTATION:
            break
    return found


def _rounds(size: int) -> list[Tensor]:
    """Pairings of all indices such that every two meet once: the circle method of round-robin tournaments. Each is (2, n_pairs)."""
    players = list(range(size + size % 2))
    rounds = []
    for _ in range(len(players) - 1):
        half = len(players) // 2
        pairs = [pair for pair in zip(players[:half], reversed(players[half:]), strict=True) if max(pair) < size]
        rounds.append(torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T)
        players = [players[0], players[-1], *players[1:-1]]
    return rounds


def _best_rotations(matrices: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines (n_pairs,) of the Jacobi angles of disjoint pairs of indices, over all matrices (N, K, K)."""
    difference = matrices[:, first, first] - matrices[:, second, second]
    outside = 2 * matrices[:, first, second]
    on = (difference.square() - outside.square()).sum(0)
    off = 2 * (difference * outside).sum(0)
    angle = 0.5 * torch.atan2(off, on + torch.hypot(on, off))
    return angle.cos(), angle.sin()


def tensor_components(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """The decomposition T = sum_h lambda_h v_h (x) v_h (x) v_h of a symmetric tensor with orthonormal v_h, by its slices.

    The slices T[:, :, c] = V diag(lambda_h v_h[c]) V' have V in common.

    Parameters
    ----------
    tensor : Tensor of shape (K, K, K)
        Made symmetric first.

    Returns
    -------
    strengths : Tensor of shape (K,)
        lambda, not negative.
    vectors : Tensor of shape (K, K)
        v_h in columns.
    """
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    symmetric = torch.stack([tensor.permute(order) for order in orders]).mean(0)
    vectors = joint_diagonalizer(symmetric)
    strengths = torch.einsum("abc,ah,bh,ch->h", symmetric, vectors, vectors, vectors)
    return strengths.abs(), vectors * torch.where(strengths < 0, -1.0, 1.0)
