"""From what users hold to batches, and from per-step results back to the shape of what they gave."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unveil.data.batch import Batches, MemoryRows
from unveil.errors import InputError


@dataclass(frozen=True)
class Layout:
    """The form in which data came, so that results can go back in it.

    Attributes
    ----------
    form : {"array", "list", "stack", "batches"}
        One 2-D table, a list of them, a 3-D array, or batches.
    offsets : ndarray of shape (n_sequences + 1,) or None
        Where sequences begin and end; None for points.
    tensor : bool
        Whether results should be tensors rather than arrays.
    """

    form: str
    offsets: np.ndarray | None
    tensor: bool

    def per_item(self, values: Tensor) -> Any:
        """One result for each sequence (or point)."""
        return values if self.tensor else values.cpu().numpy()

    def per_step(self, values: Tensor) -> Any:
        """One result for each step: a list for a list, (n_sequences, length, ...) for a 3-D array, else one table."""
        result = self.per_item(values)
        if self.form == "list" and self.offsets is not None:
            return [result[start:stop] for start, stop in zip(self.offsets, self.offsets[1:], strict=False)]
        if self.form == "stack" and self.offsets is not None:
            return result.reshape(len(self.offsets) - 1, -1, *result.shape[1:])
        return result


def is_many_sequences(X: Any) -> bool:
    """Whether X is a list of tables or a 3-D array, rather than one table."""
    if isinstance(X, (list, tuple)):
        axes = {getattr(each, "ndim", None) for each in X}
        if axes == {1} and len({len(each) for each in X}) > 1:
            raise InputError(
                "X is a list of 1-D arrays of different lengths; give each as a table (length, n_features), as x[:, None]"
            )
        return axes == {2}
    return getattr(X, "ndim", None) == 3


def as_numeric(X: Any, name: str = "X") -> np.ndarray | Tensor:
    """A float32 or float64 array or tensor of what is given, without a copy where it is one already."""
    if isinstance(X, Tensor):
        return X.detach() if X.is_floating_point() else X.detach().double()
    array = np.asarray(X)
    if array.dtype.kind == "c":
        raise InputError(f"{name} holds complex numbers; take their magnitude, or their real and imaginary parts as columns")
    if array.dtype.kind not in "fiub":
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"{name} holds values of type {array.dtype}, which are not numbers ({error})") from error
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def read_sequences(X: Any, *, weights: np.ndarray | None = None, allow_nan: bool = False) -> tuple[Batches, Layout]:
    """Batches of a list of tables (length, n_features), which may differ in length, or of a 3-D array."""
    if isinstance(X, (list, tuple)):
        sequences = [as_numeric(each, f"sequence {i}") for i, each in enumerate(X)]
        _check_sequences(sequences)
        lengths = np.array([len(each) for each in sequences])
        tensor = isinstance(sequences[0], Tensor)
        values = torch.cat(list(sequences)) if tensor else np.concatenate(sequences)
        form = "list"
    else:
        stacked = as_numeric(X)
        if 0 in stacked.shape:
            raise InputError(f"X has shape {tuple(stacked.shape)}: there is nothing in it; give at least one step and column")
        lengths = np.full(stacked.shape[0], stacked.shape[1])
        values, tensor, form = stacked.reshape(-1, stacked.shape[2]), isinstance(stacked, Tensor), "stack"
    offsets = offsets_of(lengths)
    batches = Batches(as_rows(values), offsets, weights=weights, allow_nan=allow_nan)
    return batches, Layout(form, offsets, tensor)


def _check_sequences(sequences: list) -> None:
    widths = [each.shape[1] for each in sequences]
    for i, (each, width) in enumerate(zip(sequences, widths, strict=True)):
        if len(each) == 0:
            raise InputError(f"sequence {i} is empty (length 0); leave it out")
        if width != widths[0]:
            raise InputError(f"sequence {i} has {width} columns where sequence 0 has {widths[0]}; give all the same features")
        if width == 0:
            raise InputError(f"sequence {i} has no columns; give at least one feature")


def as_rows(values: np.ndarray | Tensor, source: str = "") -> MemoryRows:
    """Rows over an array or tensor, which stays the user's own and is never written to."""
    if isinstance(values, np.ndarray) and any(stride < 0 for stride in values.strides):
        values = np.ascontiguousarray(values)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return MemoryRows(values, source)


def offsets_of(lengths: Any) -> np.ndarray:
    """``[0, lengths[0], lengths[0] + lengths[1], ...]``."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def check_lengths(lengths: Any, n_steps: int) -> np.ndarray:
    """Lengths as an integer array, after making sure that they divide ``n_steps`` rows."""
    lengths = np.asarray(lengths)
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu":
        raise InputError(f"lengths has shape {lengths.shape} and type {lengths.dtype}; expected a list of whole numbers")
    if (lengths < 1).any():
        first = int(np.flatnonzero(lengths < 1)[0])
        raise InputError(f"lengths[{first}] is {lengths[first]}; sequences have at least one step, leave empty ones out")
    if lengths.sum() != n_steps:
        raise InputError(f"lengths sum to {lengths.sum()} where X has {n_steps} rows; they must cover X exactly")
    return lengths


def check_weights(weights: Any, n_items: int) -> np.ndarray:
    """Item weights as float64, after making sure that they fit."""
    try:
        weights = np.asarray(weights.detach().cpu() if isinstance(weights, Tensor) else weights, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"sample_weight holds what is not a number ({error}); give one number for each item") from error
    if weights.shape != (n_items,):
        raise InputError(f"sample_weight has shape {weights.shape}; expected one weight for each of the {n_items} items")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise InputError("sample_weight holds a negative, NaN or infinite weight; weights count how often an item is there")
    if not weights.any():
        raise InputError("sample_weight is zero for every item; leave it out to count each once")
    return weights
