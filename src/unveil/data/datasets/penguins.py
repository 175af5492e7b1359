"""Palmer penguins: a small table with missing values."""

from __future__ import annotations

import csv
import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from unveil.data.datasets.checks import check_choice, reading
from unveil.data.datasets.dataset import Dataset, KnownSet
from unveil.errors import InputError

MEASUREMENTS = ("bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g")
_FILE = "penguins.csv"
_NAMES = ("species", "island", "sex")
_MISSING = ("", "NA", "nan")


class Penguins(KnownSet):
    """Measurements of penguins, (344, 4), NaN where one is missing; the target is the species, the groups are the islands.

    The columns are the length and the depth of the bill and the length of a flipper in millimetres, and the mass in grams.
    """

    name = "penguins"
    summary = "four measurements of 344 penguins of three species, some missing"
    licence = "CC0: K. B. Gorman, T. D. Williams and W. R. Fraser; A. M. Horst, A. P. Hill and K. B. Gorman, palmerpenguins"
    origin = "install the Python package palmerpenguins, or take inst/extdata/penguins.csv of https://github.com/allisonhorst/palmerpenguins"

    @property
    def packaged(self) -> Path | None:
        """The folder of the package palmerpenguins, where it is installed; nothing of it is imported."""
        package = find_spec("palmerpenguins")
        return Path(package.origin).parent / "data" if package and package.origin else None

    def holds(self, folder: Path, part: str | None) -> bool:
        """Whether the table is there."""
        return (folder / _FILE).is_file()

    def read(self, folder: Path, target="species") -> Dataset:
        """Read the measurements; the ``target`` is the "species", the "island" or the "sex" ("" where it is not known)."""
        check_choice("target", target, _NAMES)
        path = folder / _FILE
        rows = _rows(path)
        names = {name: np.array(["" if row[name] in _MISSING else row[name] for row in rows]) for name in _NAMES}
        data = np.array([[_number(path, line, row[name]) for name in MEASUREMENTS] for line, row in enumerate(rows, start=2)])
        return self.dataset(data, names[target], groups=names["island"])


def _rows(path: Path) -> list[dict[str, str]]:
    """The lines of the table by the names of its columns."""
    with reading(path), open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    absent = [name for name in (*_NAMES, *MEASUREMENTS) if not rows or name not in rows[0]]
    if absent:
        raise InputError(f"{path}: no column {', '.join(absent)}, or no row; get the file again")
    uneven = [line for line, row in enumerate(rows, start=2) if None in row or None in row.values()]
    if uneven:
        raise InputError(f"{path}: line {uneven[0]} has more or fewer fields than the first; get the file again")
    return rows


def _number(path: Path, line: int, text: str) -> float:
    if text in _MISSING:
        return math.nan
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{path}: line {line} has {text!r} where a measurement should be; get the file again") from error
