"""From what users hand over to batches: points, ragged sequences, streams, and what is known of their classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from sklearn.utils.validation import validate_data
from torch import Tensor

from unveil.data.batch import Batches
from unveil.data.labels import has_unknown, read_classes, read_labels
from unveil.data.layout import (
    Layout,
    as_numeric,
    as_rows,
    check_lengths,
    check_weights,
    is_many_sequences,
    offsets_of,
    read_sequences,
)
from unveil.errors import InputError


@dataclass(frozen=True)
class Supervision:
    """How an estimator takes labels in ``y``.

    Attributes
    ----------
    each : {"step", "item"}
        What has one label: each step of a sequence, or each item (point or sequence).
    n_classes : str
        The constructor parameter that says how many classes there are; "" where they are those of ``y``, whatever their names, and
        become ``classes_``.
    only_partial : bool
        Whether labels count only where some are unknown (-1); otherwise ``y`` is ignored, as clustering in scikit-learn does.
    """

    each: Literal["step", "item"]
    n_classes: str
    only_partial: bool = False


class ReadsData:
    """How an estimator reads ``X``, ``y``, ``lengths`` and ``sample_weight``."""

    items: ClassVar[Literal["points", "sequences"]] = "points"
    allows_nan: ClassVar[bool] = False
    supervision: ClassVar[Supervision | None] = None

    n_features_in_: int
    classes_: np.ndarray

    def _read_labelled(self, X: Any, y: Any, lengths: Any, weights: Any, *, reset: bool) -> Batches:
        """Batches with the labels that the estimator takes, and without any others."""
        batches, _ = self._read(X, lengths, weights, reset=reset)
        takes = self.supervision
        if takes is None:
            return batches.replace(labels=None)
        if not takes.n_classes:
            if y is None:
                raise InputError(f"{type(self).__name__} requires y to be passed, but the target y is None; give the classes")
            self.classes_, labels = read_classes(y, batches.n_sequences)
            return batches.replace(labels=labels)
        if y is None or (takes.only_partial and not has_unknown(y)):
            return batches
        return batches.replace(labels=read_labels(y, batches, getattr(self, takes.n_classes), each=takes.each))

    def _read(self, X: Any, lengths: Any = None, weights: Any = None, *, reset: bool = False) -> tuple[Batches, Layout]:
        """Batches and layout of the user's data, checked."""
        points = self.items == "points"
        if isinstance(X, Batches):
            batches = X.as_points() if points else X
            batches = batches.replace(allow_nan=self.allows_nan)
            layout = Layout("batches", batches.offsets, tensor=False)
        elif not points and is_many_sequences(X):
            batches, layout = read_sequences(X, allow_nan=self.allows_nan)
        else:
            table = self._read_table(X, reset=reset)
            offsets = None if points else offsets_of([len(table)] if lengths is None else check_lengths(lengths, len(table)))
            batches = Batches(as_rows(table), offsets, allow_nan=self.allows_nan)
            layout = Layout("array", offsets, isinstance(table, Tensor))
        if points and lengths is not None:
            raise InputError(f"{type(self).__name__} takes points, which have no lengths; leave lengths out")
        if not reset and batches.n_features != self.n_features_in_:
            raise InputError(
                f"X has {batches.n_features} features, but {type(self).__name__} is expecting {self.n_features_in_} features "
                "as input; give the columns that it was fitted on"
            )
        if weights is not None:
            batches = batches.replace(weights=check_weights(weights, batches.n_sequences))
        return batches, layout

    def _read_table(self, X: Any, *, reset: bool) -> np.ndarray | Tensor:
        if isinstance(X, Tensor):
            table = as_numeric(X)
            if table.ndim != 2 or 0 in table.shape:
                raise InputError(f"X has shape {tuple(table.shape)}; expected 2 dimensions, (rows, columns), none of them 0")
            return table
        if isinstance(X, list) and X and all(np.ndim(each) == 2 for each in X):
            raise InputError(f"{type(self).__name__} takes one table of points, not a list of {len(X)}; use numpy.concatenate")
        try:
            checked: Any = validate_data(
                self,
                X,  # pyright: ignore[reportArgumentType]  (its default is a string)
                reset=reset,
                dtype=[np.float64, np.float32],
                ensure_all_finite=False,
            )
            return checked
        except ValueError as error:
            if "feature names" in str(error):  # a list of names, one in each line
                raise
            raise InputError(" ".join(str(error).split())) from error
