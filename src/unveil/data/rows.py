"""Tables that are read piece by piece."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Rows(Protocol):
    """A table that can be read piece by piece: in memory, or a file."""

    n_rows: int
    n_features: int
    device: torch.device

    def read(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop``, of shape (stop - start, n_features), in float32 or float64."""
        ...

    def place(self, row: int) -> str:
        """Where a row is, in words, for error messages."""
        ...


class MemoryRows:
    """Rows of an array or a tensor that is there already; nothing is copied. ``source`` names it in error messages."""

    def __init__(self, values: np.ndarray | Tensor, source: str = ""):
        self._source = source
        if not isinstance(values, Tensor):
            with_numbers = values if values.dtype in (np.float32, np.float64) else values.astype(np.float64)
            # a read-only array is wrapped as it is: nothing in the library writes to its input
            values = torch.from_numpy(np.require(with_numbers, requirements=["A"]))
        self._values = values if values.is_floating_point() else values.double()
        self.n_rows, self.n_features = values.shape[0], values.shape[1]
        self.device = values.device

    def read(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop``."""
        return self._values[start:stop]

    def place(self, row: int) -> str:
        """Where a row is, in words."""
        return f"row {row} of {self._source}" if self._source else f"row {row}"


class PartOfRows:
    """The rows ``start`` to ``stop`` of others."""

    def __init__(self, rows: Rows, start: int, stop: int):
        self._rows, self._start = rows, start
        self.n_rows, self.n_features, self.device = stop - start, rows.n_features, rows.device

    def read(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` of the part."""
        return self._rows.read(self._start + start, self._start + stop)

    def place(self, row: int) -> str:
        """Where a row of the part is, in words."""
        return self._rows.place(self._start + row)
