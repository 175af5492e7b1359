"""Where an E-step runs: every reduction gives the sum of ``function(batch)`` over the batches, in their order."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable
from typing import TypeVar

from unveil.core.statistics import Statistics
from unveil.data.batch import Batch
from unveil.data.workers import map_batches

AnyStatistics = TypeVar("AnyStatistics", bound=Statistics)
Reduce = Callable[[Callable[[Batch], AnyStatistics], Iterable[Batch]], AnyStatistics]


def serial(function: Callable[[Batch], AnyStatistics], batches: Iterable[Batch]) -> AnyStatistics:
    """One batch after the other."""
    return functools.reduce(operator.add, map(function, batches))


def threads(function: Callable[[Batch], AnyStatistics], batches: Iterable[Batch]) -> AnyStatistics:
    """One batch for each core at a time; the same numbers as ``serial``."""
    return functools.reduce(operator.add, map_batches(function, batches))


REDUCTIONS: dict[str, Reduce] = {"serial": serial, "threads": threads}
