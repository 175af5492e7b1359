"""The part of the data that a report draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from unveil.core.estimator import Estimator
from unveil.data.batch import Batches
from unveil.data.layout import as_numeric, as_rows, is_many_sequences, offsets_of, read_sequences
from unveil.report.page import as_text

MOST_POINTS, MOST_SEQUENCES, MOST_STEPS = 5000, 400, 5000


@dataclass(frozen=True)
class Sample:
    """The part of the data that is drawn.

    Attributes
    ----------
    batches : Batches
        All of the data.
    chosen : ndarray of int
        The items that are drawn, evenly spread.
    items : list of ndarray of shape (n_steps, n_features)
        Those items, at most their first 5000 steps; points have one.
    """

    batches: Batches
    chosen: np.ndarray
    items: list[np.ndarray]

    @property
    def steps(self) -> np.ndarray:
        """All steps that are drawn, of shape (n, n_features)."""
        return np.concatenate(self.items)

    def drawn(self, items: str) -> str:
        """How much of the data is in a figure."""
        n_items = self.batches.n_sequences
        if len(self.chosen) == n_items:
            return f"All {as_text(n_items)} {items}."
        return f"{as_text(len(self.chosen))} of {as_text(n_items)} {items}, evenly spread."


def sample_of(estimator: Estimator, X: Any) -> Sample:
    """An evenly spread part of X where it is large, else all of it."""
    batches = as_batches(estimator, X)
    most = MOST_POINTS if estimator.items == "points" else MOST_SEQUENCES
    chosen = np.unique(np.linspace(0, batches.n_sequences - 1, min(most, batches.n_sequences)).round().astype(int))
    items = []
    for batch in batches:
        for i in chosen[(chosen >= batch.start) & (chosen < batch.start + batch.n_sequences)] - batch.start:
            start, stop = int(batch.offsets[i]), int(batch.offsets[i + 1])
            items.append(batch.values[start : min(stop, start + MOST_STEPS)].double().cpu().numpy())
    return Sample(batches, chosen, items)


def as_batches(estimator: Estimator, X: Any) -> Batches:
    """X, which the estimator has already found to be sound, as it is read in pieces."""
    points, allow_nan = estimator.items == "points", estimator.allows_nan
    if isinstance(X, Batches):
        return (X.as_points() if points else X).replace(allow_nan=allow_nan)
    if not points and is_many_sequences(X):
        return read_sequences(X, allow_nan=allow_nan)[0]
    table = as_numeric(X)
    return Batches(as_rows(table), None if points else offsets_of([len(table)]), allow_nan=allow_nan)


def feature_names(estimator: Estimator) -> list[str]:
    """Those that the estimator was fitted with, or numbers."""
    return [
        str(name) for name in getattr(estimator, "feature_names_in_", [f"feature {d}" for d in range(estimator.n_features_in_)])
    ]
