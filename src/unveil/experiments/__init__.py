"""Experiments that anyone can repeat: data, models, and the numbers they give. There is no list to edit: each module is one.

A module has a ``TITLE``; ``run(quick, on_progress)``, whose result has a ``table`` (a list of dicts); and ``sections(result)``, which
is what a report says of it. The first paragraph of the module's docstring is the summary of that report, the others its details.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def discover() -> dict[str, ModuleType]:
    """Every experiment by its name, sorted."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: importlib.import_module(f"{__name__}.{name}") for name in names}
