"""Cross-validation over whole items: points, or sequences of any lengths, in memory or on disk."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.model_selection import KFold
from torch import Tensor

from unveil.core.estimator import Estimator
from unveil.data.batch import Batches, MemoryRows, Rows
from unveil.data.layout import as_rows, offsets_of
from unveil.errors import InputError

Folds = list[tuple[np.ndarray, np.ndarray]]


class ChosenRows:
    """Some rows of a table, in their order: read as the stretch of the table that holds them."""

    def __init__(self, rows: Rows, chosen: np.ndarray):
        self._rows, self._chosen = rows, chosen
        self.n_rows, self.n_features, self.device = len(chosen), rows.n_features, rows.device

    def read(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` of those chosen."""
        chosen = self._chosen[start:stop]
        if len(chosen) == 0:
            return self._rows.read(0, 0)
        stretch = self._rows.read(int(chosen[0]), int(chosen[-1]) + 1)
        return stretch[torch.from_numpy(chosen - chosen[0]).to(stretch.device)]

    def place(self, row: int) -> str:
        """Where a row is, in words."""
        return self._rows.place(int(self._chosen[row]))


def chosen_items(batches: Batches, items: np.ndarray) -> Batches:
    """The batches of some points or sequences, whose indices are given in increasing order."""
    if batches.offsets is None:
        steps, offsets = items, None
    else:
        begins, ends = batches.offsets[items], batches.offsets[items + 1]
        steps = np.concatenate([np.arange(begin, end) for begin, end in zip(begins, ends, strict=True)])
        offsets = offsets_of(ends - begins)
    rows: Rows = ChosenRows(batches.rows, steps)
    if isinstance(batches.rows, MemoryRows):  # picked once, not again in each iteration
        rows = as_rows(rows.read(0, len(steps)))
    weights = None if batches.weights is None else batches.weights[torch.from_numpy(items).to(batches.device)]
    labels = None if batches.labels is None else batches.labels[torch.from_numpy(steps)]
    return batches.replace(rows=rows, offsets=offsets, weights=weights, labels=labels)


def make_folds(batches: Batches, n_folds: int, random_state: Any) -> Folds:
    """Indices of the items to learn from and of those held out, ``n_folds`` times; each item is held out once."""
    n_items = batches.n_sequences
    if n_items < n_folds:
        items = "points" if batches.offsets is None else "sequences"
        raise InputError(
            f"cv={n_folds} but X has {n_items} {items}, and whole {items} are held out; give more of them, or choose by criterion='bic'"
        )
    return list(KFold(n_folds, shuffle=True, random_state=random_state).split(np.arange(n_items)))


def held_out_scores(estimator: Estimator, batches: Batches, folds: Folds) -> np.ndarray:
    """The mean log-likelihood per step of the items held out in each fold, in nats, of shape (n_folds,)."""
    scores = []
    for learned, held_out in folds:
        fitted = clone(estimator).fit(chosen_items(batches, learned))
        scores.append(_score_per_step(fitted, chosen_items(batches, held_out)))
    return np.array(scores)


def _score_per_step(fitted: Estimator, batches: Batches) -> float:
    lengths = np.ones(batches.n_sequences) if batches.offsets is None else np.diff(batches.offsets)
    weights = np.ones(len(lengths)) if batches.weights is None else batches.weights.cpu().numpy()
    return float(fitted.score_samples(batches) @ weights / (lengths @ weights))
