"""Emission options as JSON, for the header of a saved model: names of Unveil's own families and their settings, nothing else."""

from __future__ import annotations

from functools import partial
from numbers import Integral
from typing import Any

from unveil.emissions.choose import EMISSIONS
from unveil.emissions.product import Product
from unveil.errors import ModelFileError


def emission_to_json(option: Any) -> Any:
    """An emission option as JSON can hold it.

    Raises
    ------
    ModelFileError
        When it is not one of Unveil's own: a file never says what to import.

    Examples
    --------
    >>> from unveil.emissions.poisson import Poisson
    >>> emission_to_json(Product({0: "bernoulli", (1, 2): partial(Poisson, prior=(2.0, 1.0))}))
    {'emission': 'product', 'columns': [[0, 'bernoulli'], [[1, 2], {'emission': 'poisson', 'prior': [2.0, 1.0]}]]}
    """
    if isinstance(option, str):
        return option
    if isinstance(option, Product):
        return {
            "emission": "product",
            "columns": [[_columns_to_json(each), emission_to_json(inner)] for each, inner in option.groups],
        }
    family = option.func if isinstance(option, partial) and not option.args else option
    for name, known in EMISSIONS.items():
        if family is known:
            settings = option.keywords if isinstance(option, partial) else {}
            return {"emission": name, **{key: _setting_to_json(option, value) for key, value in settings.items()}}
    raise _not_ours(option)


def emission_from_json(saved: Any) -> Any:
    """The option that ``emission_to_json`` wrote.

    Raises
    ------
    ModelFileError
        When it names no family that this version of Unveil has.
    """
    if isinstance(saved, str):
        return saved
    try:
        settings = dict(saved)
        name = settings.pop("emission")
        if name == "product":
            return Product([(_columns_from_json(each), emission_from_json(inner)) for each, inner in settings["columns"]])
        return partial(EMISSIONS[name], **settings)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"the saved emission {saved!r} is not one that this version of Unveil has; upgrade Unveil") from error


def _columns_to_json(columns: Any) -> Any:
    if isinstance(columns, slice):
        return {"slice": [columns.start, columns.stop, columns.step]}
    return int(columns) if isinstance(columns, Integral) else [int(each) for each in columns]


def _columns_from_json(columns: Any) -> Any:
    if isinstance(columns, dict):
        return slice(*columns["slice"])
    return columns if isinstance(columns, int) else tuple(columns)


def _setting_to_json(option: Any, value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Integral):  # NumPy's
        return int(value)
    if isinstance(value, (list, tuple)):
        return [_setting_to_json(option, each) for each in value]
    raise _not_ours(option)


def _not_ours(option: Any) -> ModelFileError:
    return ModelFileError(
        f"cannot save emission={option!r}: a file names Unveil's own emissions only; save model_.state_dict() instead, "
        "and to load it, build the estimator with the same emission"
    )
