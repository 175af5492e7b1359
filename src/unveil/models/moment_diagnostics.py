"""How well data determines what moments estimate: as numbers, and as warnings with their remedy."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from unveil.errors import IdentifiabilityWarning

_FEW_TRANSITIONS = 10  # for each state
_LARGE_CONDITION, _LARGE_RESIDUAL, _SMALL_GAP = 50.0, 0.2, 0.02


@dataclass(frozen=True)
class MomentDiagnostics:
    """How well the data determines what was estimated by moments.

    Attributes
    ----------
    method : str
        How the densities were found: "hsu-kakade", "three-view" or "likelihood".
    spectrum : ndarray
        The values, the largest first, whose gap says how many states there are: eigenvalues of the covariance for "hsu-kakade"; singular
        values of E[f(x_{t-1}) f(x_{t+1})'] for "three-view"; of Phi otherwise.
    gap : float
        The last value that counts, over the level of noise (of Phi: over the largest).
    condition : float
        The condition number of Phi: large where densities are alike.
    n_states : int
        How many densities there are.
    residual : float
        ||M - Phi J Phi'|| / ||M||, of the moment M = E[g_t g_{t+1}']; NaN for points.
    n_transitions : float
        How many pairs of steps M is the mean of; NaN for points.
    eigenvalues : ndarray, optional
        Of the de-permutation, the largest first.
    cluster_gap : float
        Between the C-th of them and the next; NaN where there is one chain.
    """

    method: str
    spectrum: np.ndarray
    gap: float
    condition: float
    n_states: int
    residual: float = float("nan")
    n_transitions: float = float("nan")
    eigenvalues: np.ndarray | None = None
    cluster_gap: float = float("nan")


class MomentsMixin:
    """For estimators that can start from moments."""

    model_: Any

    @property
    def moments_(self) -> MomentDiagnostics | None:
        """How well the data determined what this fit started from; None where that were not moments."""
        return self.model_.moments


def warn_of_doubts(found: MomentDiagnostics) -> None:
    """Say it where the data does not determine the parameters."""
    doubts = []
    if found.n_transitions < _FEW_TRANSITIONS * found.n_states:
        doubts.append(
            f"{found.n_transitions:.0f} transitions for {found.n_states} states are few; give more data or use fewer states"
        )
    if found.condition > _LARGE_CONDITION:
        doubts.append(
            f"densities can hardly be told apart (condition number {found.condition:.0f}); use fewer of them, or more features"
        )
    if found.residual > _LARGE_RESIDUAL:
        doubts.append(
            f"transitions explain only {1 - found.residual:.0%} of what is next to what; use more states or other features"
        )
    if found.cluster_gap < _SMALL_GAP:
        doubts.append(
            f"no gap says that there are so many clusters ({found.cluster_gap:.3f} after that eigenvalue); use another n_clusters"
        )
    for doubt in doubts:
        warnings.warn(f"moments: {doubt}", IdentifiabilityWarning, stacklevel=2)
