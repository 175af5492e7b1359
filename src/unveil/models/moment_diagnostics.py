"""How well data determines what moments estimate: as numbers, and as warnings with their remedy."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from unveil.errors import IdentifiabilityWarning

_FEW_TRANSITIONS = 10  # for each state
_LARGE_CONDITION, _LARGE_RESIDUAL = 50.0, 0.2
_SMALL_GAP, _SMALL_EIGENVALUE = 0.02, 0.2


@dataclass(frozen=True)
class MomentDiagnostics:
    """How well the data determines what was estimated by moments.

    Attributes
    ----------
    method : str
        How the densities were found: "hsu-kakade", "three-view" or "likelihood".
    spectrum : ndarray
        Values, the largest first, that say how many states there are: eigenvalues of the covariance of Gaussians with as many features
        as states; singular values of E[f(x_{t-1}) f(x_{t+1})'] for symbols; otherwise those of Phi.
    gap : float
        The last value that counts, over the level of noise; NaN for Phi.
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
    n_clusters : int
        C.
    """

    method: str
    spectrum: np.ndarray
    gap: float
    condition: float
    n_states: int
    residual: float = float("nan")
    n_transitions: float = float("nan")
    eigenvalues: np.ndarray | None = None
    n_clusters: int = 1

    def __str__(self) -> str:
        said = f"{self.n_states} {'density' if self.n_states == 1 else 'densities'} by {self.method}, condition number {self.condition:.3g}"
        if np.isfinite(self.residual):
            said += f"; {self.residual:.1%} of the moment of {self.n_transitions:.0f} transitions left"
        if self.eigenvalues is not None:
            said += f"; {self.n_clusters} clusters by an eigenvalue of {self.last_eigenvalue:.2f}{self.next_eigenvalue}"
        return said

    @property
    def last_eigenvalue(self) -> float:
        """The C-th eigenvalue of the de-permutation; NaN where there is one chain."""
        return float("nan") if self.eigenvalues is None else float(self.eigenvalues[self.n_clusters - 1])

    @property
    def next_eigenvalue(self) -> str:
        """The one after it, in words; nothing where there is none."""
        return "" if np.isnan(self.cluster_gap) else f", the next is {self.last_eigenvalue - self.cluster_gap:.2f}"

    @property
    def cluster_gap(self) -> float:
        """Between the C-th eigenvalue and the next; NaN where there is one chain, or no next."""
        if self.eigenvalues is None or len(self.eigenvalues) <= self.n_clusters:
            return float("nan")
        return self.last_eigenvalue - float(self.eigenvalues[self.n_clusters])


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
    if found.gap < 1.0:
        doubts.append(
            f"the covariance shows fewer than {found.n_states} densities above the noise, which EM from several starts finds instead; "
            "give more data or use fewer of them"
        )
    if found.condition > _LARGE_CONDITION:
        doubts.append(
            f"densities can hardly be told apart (condition number {min(found.condition, 1e9):.3g}); use fewer of them, more features, "
            "or a reg_covar that is smaller than the variance of the data"
        )
    if found.residual > _LARGE_RESIDUAL:
        doubts.append(
            f"transitions explain only {1 - found.residual:.0%} of what is next to what; use more states or other features"
        )
    if found.eigenvalues is not None and (found.cluster_gap < _SMALL_GAP or found.last_eigenvalue < _SMALL_EIGENVALUE):
        doubts.append(
            f"sequences hardly fall into {found.n_clusters} clusters (an eigenvalue of {found.last_eigenvalue:.2f}, where separate ones "
            f"have 1{found.next_eigenvalue}); use fewer clusters or more data"
        )
    for doubt in doubts:
        warnings.warn(f"moments: {doubt}", IdentifiabilityWarning, stacklevel=2)
