"""Tables in text files."""

from __future__ import annotations

import re
import warnings
from functools import partial
from pathlib import Path

import numpy as np

from unveil.errors import InputError


def read_text_table(path: Path) -> np.ndarray:
    """The numbers (rows, columns) in a text file: comma-separated, tab-separated, or by blanks; a first line of names is skipped.

    An empty cell, or NA, is a missing value.
    """
    delimiter = {".csv": ",", ".tsv": "\t"}.get(path.suffix.lower())
    try:
        with open(path, encoding="utf-8-sig") as file:
            first = file.readline().split(delimiter)
        table = _load_text(path, delimiter, skiprows=0 if _all_numbers(first) else 1)
    except (ValueError, UnicodeDecodeError) as error:
        reason = str(error).split(";")[0].rstrip(".")
        raise InputError(f"{path}: not a table of numbers ({reason}); give one row a line, the same columns in each") from error
    if table.size == 0:
        raise InputError(f"{path}: holds no rows; give at least one")
    return table


def _load_text(path: Path, delimiter: str | None, skiprows: int) -> np.ndarray:
    read = partial(np.loadtxt, path, delimiter=delimiter, skiprows=skiprows, ndmin=2, encoding="utf-8-sig")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="loadtxt: input contained no data")  # said by the caller, as an error
        try:
            return read()
        except ValueError as error:
            if not re.search(r"string '\s*(NA)?\s*'", str(error)):
                raise
            return read(converters=_number)  # slower, so only where something is missing


def _number(field: str) -> float:
    """NaN for what is missing: an empty cell, or R's NA."""
    return float("nan") if field.strip() in ("", "NA") else float(field)


def _all_numbers(fields: list[str]) -> bool:
    try:
        [_number(field) for field in fields]
    except ValueError:
        return False
    return True
