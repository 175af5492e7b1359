"""Known classes of steps or items, as users give them in ``y``: whole numbers from 0, and -1 where one is unknown."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from unveil.data.batch import Batches
from unveil.errors import InputError


def has_unknown(y: Any) -> bool:
    """Whether ``y`` holds numbers, one of them -1."""
    labels = np.asarray(y)
    return labels.dtype.kind in "iuf" and bool((labels == -1).any())


def read_classes(y: Any, n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """The sorted names of the classes in ``y``, and the number of each item's class; -1 in numeric labels is unknown.

    Beside one other class alone, -1 is a class itself: {-1, 1} is a usual way to write two.

    Raises
    ------
    InputError
        When there are too few or too many labels, or none that is known.
    """
    labels = column_or_1d(y, warn=True)
    if len(labels) != n_items:
        raise InputError(f"y has {len(labels)} labels for {n_items} items; give one for each, -1 where it is unknown")
    check_classification_targets(labels)
    known = labels != -1 if labels.dtype.kind in "iuf" else np.ones(len(labels), dtype=bool)
    if 0 < known.sum() < len(labels) and len(np.unique(labels[known])) == 1:
        known[:] = True
    if not known.any():
        raise InputError("y holds no class that is known: all labels are -1; give some")
    classes, numbers = np.unique(labels[known], return_inverse=True)
    found = np.full(n_items, -1)
    found[known] = numbers
    return classes, found


def read_labels(y: Any, batches: Batches, n_classes: int, *, each: str) -> np.ndarray:
    """Labels of all steps (n_steps,), int64.

    Parameters
    ----------
    y : array-like of int, or list of them
        -1 where unknown. For ``each="step"`` in the form of X: one array, or one for each sequence.
    batches : Batches
        What they belong to.
    n_classes : int
        Labels are below it.
    each : {"step", "item"}
        What has one label.

    Raises
    ------
    InputError
        When there are too few or too many, they are no whole numbers, or out of range.
    """
    labels = _joined(y, batches)
    expected = batches.n_steps if each == "step" else batches.n_sequences
    if len(labels) != expected:
        raise InputError(f"y has {len(labels)} labels for {expected} {each}s; give one for each, -1 where it is unknown")
    labels = _whole(labels, batches, each)
    outside = (labels < -1) | (labels >= n_classes)
    if outside.any():
        first = int(outside.argmax())
        allowed = f"0 to {n_classes - 1}" if n_classes > 1 else "0"
        where = _place(first, batches, each)
        raise InputError(f"y holds {labels[first]} at {where}; expected {allowed}, or -1 where it is unknown")
    if each == "item" and batches.offsets is not None:
        labels = np.repeat(labels, np.diff(batches.offsets))
    return labels


def _joined(y: Any, batches: Batches) -> np.ndarray:
    """One array of labels, where there may be one for each sequence."""
    if not (isinstance(y, (list, tuple)) and len(y) and np.ndim(y[0]) > 0):
        return np.asarray(y).ravel()
    parts = [np.asarray(part).ravel() for part in y]
    if batches.offsets is not None:
        for i, (part, length) in enumerate(zip(parts, np.diff(batches.offsets), strict=False)):
            if len(part) != length:
                raise InputError(f"y has {len(part)} labels for sequence {i}, which has {length} steps; give one for each step")
    return np.concatenate(parts)


def _whole(labels: np.ndarray, batches: Batches, each: str) -> np.ndarray:
    """The labels as integers."""
    if labels.dtype.kind in "iub":
        return labels.astype(np.int64)
    if labels.dtype.kind != "f":
        raise InputError(f"y holds {labels.dtype} values; number the classes 0, 1, ..., with -1 where one is unknown")
    broken = ~np.isfinite(labels) | (labels != np.round(labels))
    if broken.any():
        first = int(broken.argmax())
        where = _place(first, batches, each)
        raise InputError(f"y holds {labels[first]} at {where}; number the classes 0, 1, ..., with -1 where one is unknown")
    return labels.astype(np.int64)


def _place(index: int, batches: Batches, each: str) -> str:
    """Where a label is, in words: a step's within its sequence, where there are several."""
    if each != "step" or batches.offsets is None or batches.n_sequences == 1:
        return f"{each} {index}"
    sequence = int(np.searchsorted(batches.offsets, index, side="right")) - 1
    return f"step {index - int(batches.offsets[sequence])} of sequence {sequence}"
