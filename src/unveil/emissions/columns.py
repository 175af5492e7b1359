"""The check that discrete families make of the columns that they are given."""

from __future__ import annotations

from torch import Tensor

from unveil.errors import InputError


def check_entries(values: Tensor, allowed: Tensor, expected: str) -> None:
    """Raise InputError that names the first entry of ``values`` (n, D) that is not ``allowed`` (n, D), and what was ``expected``."""
    if bool(allowed.all()):
        return
    row, column = (~allowed).nonzero()[0].tolist()
    raise InputError(f"column {column} of X holds {float(values[row, column]):g}; {expected}")
