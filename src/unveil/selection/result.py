"""What a comparison of fits has found: a table with a row for each of them."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from unveil.core.estimator import Estimator
from unveil.data.files import atomic_path

HEADINGS = {
    "n_parameters": "parameters",
    "log_likelihood": "log-likelihood",
    "bic": "BIC",
    "aic": "AIC",
    "icl": "ICL",
    "cv_mean": "CV",
    "cv_std": "CV std",
    "seconds": "seconds",
    "converged": "converged",
}
DECIMALS = {"cv_mean": 4, "cv_std": 4}  # of the others, two
LARGER_IS_BETTER = {"cv"}


@dataclass(frozen=True)
class Candidate:
    """One combination of parameters, and how its fit went; numbers are NaN where there is none.

    Attributes
    ----------
    params : dict
        The combination.
    n_parameters : int or None
        The number of free scalars of the model.
    log_likelihood : float
        Of all data, in nats.
    bic, aic, icl : float
        Information criteria; lower is better.
    cv_mean, cv_std : float
        Mean log-likelihood per step of held-out data over the folds, in nats, and its standard deviation; higher is better.
    seconds : float
        Wall-clock time of the fit and of its folds.
    converged : bool or None
        Whether learning from all data stopped by itself.
    error : str
        Why there is no fit; empty where there is one.
    """

    params: dict[str, Any]
    n_parameters: int | None = None
    log_likelihood: float = math.nan
    bic: float = math.nan
    aic: float = math.nan
    icl: float = math.nan
    cv_mean: float = math.nan
    cv_std: float = math.nan
    seconds: float = math.nan
    converged: bool | None = None
    error: str = ""

    def value(self, criterion: str) -> float:
        """The criterion's value: ``cv_mean`` for "cv"."""
        return self.cv_mean if criterion == "cv" else getattr(self, criterion)

    def as_row(self) -> dict[str, Any]:
        """Everything in one flat dict: the combination, the numbers, the error."""
        return {**self.params, **{name: getattr(self, name) for name in HEADINGS}, "error": self.error}


@dataclass(frozen=True)
class Selection:
    """Fits of several combinations of parameters, and the best of them; printed, it is a table.

    Attributes
    ----------
    candidates : sequence of Candidate
        One for each combination, in the order of the grid.
    criterion : {"bic", "aic", "icl", "cv"}
        What was chosen by.
    best_index : int
        The place of the best candidate.
    best_estimator : Estimator
        The best one, fitted to all data.
    """

    candidates: Sequence[Candidate]
    criterion: str
    best_index: int
    best_estimator: Estimator = field(repr=False)

    @property
    def best(self) -> Candidate:
        """The best candidate."""
        return self.candidates[self.best_index]

    @property
    def best_params(self) -> dict[str, Any]:
        """Its combination of parameters."""
        return dict(self.best.params)

    @property
    def table(self) -> list[dict[str, Any]]:
        """A flat dict for each candidate, as ``pandas.DataFrame`` takes them."""
        return [candidate.as_row() for candidate in self.candidates]

    def shown_columns(self) -> dict[str, str]:
        """The columns that are not empty, and their headings: the combination first."""
        names = list(self.candidates[0].params)
        numbers = {name: heading for name, heading in HEADINGS.items() if any(_is_there(row[name]) for row in self.table)}
        return {name: name for name in names} | numbers

    def to_csv(self, path: str | os.PathLike) -> Path:
        """Write the table as CSV, atomically; a number that is not there is an empty cell."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=list(self.table[0]))
        writer.writeheader()
        writer.writerows({name: value if _is_there(value) else "" for name, value in row.items()} for row in self.table)
        with atomic_path(path) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8", newline="")
        return Path(path)

    def __str__(self) -> str:
        columns = self.shown_columns()
        cells = [list(columns.values()), *([_cell(name, row[name]) for name in columns] for row in self.table)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        marks = [" ", *("*" if i == self.best_index else " " for i in range(len(self.candidates)))]
        lines = [f"{mark} {_aligned(row, widths)}".rstrip() for mark, row in zip(marks, cells, strict=True)]
        errors = [f"  {_in_words(each.params)}: {each.error}" for each in self.candidates if each.error]
        better = "highest" if self.criterion in LARGER_IS_BETTER else "lowest"
        return "\n".join([*lines, *errors, f"* the {better} {self.criterion.upper()}"])

    def _repr_html_(self) -> str:
        columns = self.shown_columns()
        head = "".join(f"<th>{escape(heading)}</th>" for heading in columns.values())
        body = []
        for i, row in enumerate(self.table):
            weight = "bold" if i == self.best_index else "normal"
            cells = "".join(f"<td>{escape(_cell(name, row[name]))}</td>" for name in columns)
            note = f"<td>{escape(row['error'])}</td>"
            body.append(f'<tr style="font-weight: {weight}">{cells}{note}</tr>')
        return f"<table><thead><tr>{head}<th></th></tr></thead><tbody>{''.join(body)}</tbody></table>"


def _is_there(value: Any) -> bool:
    return value is not None and not (isinstance(value, Real) and math.isnan(value))


def _cell(name: str, value: Any) -> str:
    if not _is_there(value):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Real) and not isinstance(value, Integral) and name in HEADINGS:
        return f"{value:.{DECIMALS.get(name, 2)}f}"
    return str(value)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))


def _in_words(params: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in params.items())
