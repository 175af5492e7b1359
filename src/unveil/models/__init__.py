"""The models, one in each file. There is no list to edit: every module in this folder is looked through for estimators."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import pkgutil

from unveil.core.estimator import Estimator
from unveil.core.storage import read_model
from unveil.errors import ModelFileError


@functools.cache
def discover() -> dict[str, type[Estimator]]:
    """Every estimator class by its name, sorted."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        for name, member in vars(importlib.import_module(f"{__name__}.{module.name}")).items():
            if inspect.isclass(member) and issubclass(member, Estimator) and not inspect.isabstract(member):
                found[name] = member
    return dict(sorted(found.items()))


def load(path: str | os.PathLike) -> Estimator:
    """Read a fitted estimator that ``Estimator.save`` wrote.

    The file names an estimator; it is looked up among those that are here, and nothing else is imported.

    Raises
    ------
    ModelFileError
        When the file is missing, damaged, or names an estimator that is not here.
    """
    header, _ = read_model(path)
    name = header.get("estimator")
    if not isinstance(name, str) or name not in discover():
        known = ", ".join(discover())
        raise ModelFileError(f"{path}: holds a {name!r}, which this version does not know; it knows {known}")
    return discover()[name].restore(path)
