"""What is typed about a model, KEY=VALUE and files of labels, as an estimator takes it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unveil.errors import InputError, ParameterError

if TYPE_CHECKING:
    import numpy as np

    from unveil.core.estimator import Estimator


PARTS = {"autoencoder": "Autoencoder", "base": "GaussianMixture"}  # parameters that are estimators, and what they are by default


def make_estimator(name: str, settings: Iterable[str], **defaults: Any) -> Estimator:
    """An estimator by its name, with KEY=VALUE settings; defaults that it does not have are left out.

    A part that is an estimator itself is set by its name, as base=GaussianHMM, and its settings as base__n_states=3.
    """
    from unveil.models import discover

    chosen = read_settings(name, settings)
    known = _settings_of(name)
    own = {key: value for key, value in chosen.items() if "__" not in key}
    parts = {key for key in known if key in PARTS}
    for key in parts & own.keys():
        if own[key] not in discover():
            raise ParameterError(f"--set {key}={own[key]}: no such model; there are {', '.join(discover())}")
        own[key] = discover()[own[key]]()
    estimator = discover()[name](**({key: value for key, value in defaults.items() if key in known} | own))
    for key in sorted(chosen.keys() - own.keys()):
        part, _, setting = key.partition("__")
        if getattr(estimator, part) is None:
            estimator.set_params(**{part: discover()[PARTS[part]]()})
        inner = getattr(estimator, part)
        _check_known(type(inner).__name__, setting, inner._get_param_names())
        inner.set_params(**{setting: chosen[key]})
    return estimator


def read_settings(name: str, settings: Iterable[str]) -> dict[str, Any]:
    """Constructor parameters from KEY=VALUE texts, after making sure that the model has them."""
    known, chosen = _settings_of(name), {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ParameterError(f"--set {setting}: expected KEY=VALUE, such as --set n_init=10")
        part, nested, _ = key.partition("__")
        _check_known(name, part if nested and part in PARTS else key, known)
        chosen[key] = _value(text)
    return chosen


def read_grid(name: str, grid: Iterable[str]) -> dict[str, list[Any]]:
    """The values of each parameter from KEY=VALUES texts: ranges FROM:TO with both ends, and lists with commas."""
    known, values = _settings_of(name), {}
    for text in grid:
        key, equals, listed = text.partition("=")
        if not equals or not listed.strip():
            raise ParameterError(
                f"--grid {text}: expected KEY=VALUES, such as --grid n_components=1:8 or covariance_type=diag,full"
            )
        _check_known(name, key, known)
        if key in values:
            raise ParameterError(f"--grid {text}: {key} is given twice; write all its values in one list")
        values[key] = _values(listed, text)
    return values


def read_labels(path: Path | None, estimator: Estimator) -> np.ndarray | None:
    """Whole numbers, one for each row or item, from a file, after making sure that the estimator takes labels."""
    import numpy as np

    from unveil.data.streams import open_batches

    name, takes = type(estimator).__name__, estimator.supervision
    if path is None:
        if takes and not takes.n_classes:
            raise ParameterError(f"{name} learns classes from labels; give them with --labels FILE")
        return None
    if takes is None:
        raise ParameterError(f"--labels {path}: {name} does not learn from labels; leave them out, or choose another model")
    rows = open_batches(path).rows
    if rows.n_features != 1:
        raise InputError(f"{path}: has {rows.n_features} columns; give one whole number a line, -1 where the class is unknown")
    labels = rows.read(0, rows.n_rows).numpy()[:, 0]
    wrong = ~np.isfinite(labels) | (labels != np.round(labels))
    if wrong.any():
        first = int(wrong.argmax())
        raise InputError(f"{labels[first]} at {rows.place(first)} is no whole number; give classes 0, 1, ..., and -1 for unknown")
    if takes.only_partial and not (labels == -1).any():
        raise InputError(f"{path}: every class is known, which leaves {name} nothing to find; use GaussianMixtureClassifier")
    return labels.astype(np.int64)


def _settings_of(name: str) -> list[str]:
    from unveil.models import discover

    if name not in discover():
        raise ParameterError(f"no model {name!r}; there are {', '.join(discover())}")
    return discover()[name]._get_param_names()


def _check_known(name: str, key: str, known: list[str]) -> None:
    if key not in known:
        raise ParameterError(f"{name} has no setting {key!r}; it has {', '.join(known)}")


def _value(text: str) -> Any:
    """A Python literal, or else the text itself."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError):
        return text


def _values(listed: str, text: str) -> list[Any]:
    try:
        return ast.literal_eval(f"[{listed}]")  # which knows commas that are inside of a value
    except (ValueError, SyntaxError, TypeError):
        return [value for piece in listed.split(",") for value in _piece(piece.strip(), text)]


def _piece(piece: str, text: str) -> list[Any]:
    """One value, or those of a range."""
    if not piece:
        raise ParameterError(f"--grid {text}: a value is missing beside a comma; write it, or leave the comma out")
    if ":" not in piece:
        return [_value(piece)]
    ends = re.fullmatch(r"(-?\d+):(-?\d+)", piece)
    if not ends:
        raise ParameterError(f"--grid {text}: {piece!r} is no range; expected two whole numbers FROM:TO, such as 1:8")
    first, last = map(int, ends.groups())
    if last < first:
        raise ParameterError(f"--grid {text}: there is nothing from {first} to {last}; write {last}:{first}")
    return list(range(first, last + 1))
