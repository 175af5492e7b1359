"""How a result was made: so that it can be made again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from torch import Tensor

from unveil.core.estimator import Estimator
from unveil.core.storage import library_versions
from unveil.report.page import Card, Code, Row, Section, Table, Text


def how_this_was_made(parameters: Sequence[Table], command: str | None) -> Section:
    """The last section of a report: parameters, versions, date, and the command where there was one."""
    versions = Table(("Library", "Version"), list(library_versions().items()), "Versions")
    now = datetime.now().astimezone()
    made = f"{now.day} {now:%B %Y, %H:%M} ({now:%Z})"
    said = [Text(f"Made on {made}, by this command:"), Code(command)] if command else [Text(f"Made on {made}.")]
    cards = [*([Card("Parameters", parameters)] if parameters else []), Card("Versions", [versions])]
    return Section("How this was made", [*said, Row(cards, even=False)])


def parameter_table(estimators: Mapping[str, Estimator]) -> Table:
    """The constructor parameters of estimators of one class; one column for all when they are the same."""
    settings = {name: {key: setting_text(value) for key, value in each.get_params().items()} for name, each in estimators.items()}
    if len({tuple(each.items()) for each in settings.values()}) == 1:
        settings = {"Value": next(iter(settings.values()))}
    keys = dict.fromkeys(key for each in settings.values() for key in each)
    rows = [[key, *(each.get(key) for each in settings.values())] for key in keys]
    kinds = dict.fromkeys(type(each).__name__ for each in estimators.values())
    return Table(("Parameter", *settings), rows, " and ".join(kinds))


def setting_text(value: Any) -> str:
    """A parameter as one would write it; of an array its shape only."""
    if isinstance(value, (np.ndarray, Tensor)):
        return f"array of shape {tuple(value.shape)}"
    return value if isinstance(value, str) else repr(value)
