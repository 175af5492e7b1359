"""Where an E-step runs: every reduction gives the sum of ``function(batch)`` over the batches."""

from __future__ import annotations

import functools
import operator
import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from unveil.core.statistics import Statistics
from unveil.data.batch import Batch

AnyStatistics = TypeVar("AnyStatistics", bound=Statistics)
Reduce = Callable[[Callable[[Batch], AnyStatistics], Iterable[Batch]], AnyStatistics]


def serial(function: Callable[[Batch], AnyStatistics], batches: Iterable[Batch]) -> AnyStatistics:
    """One batch after the other."""
    return functools.reduce(operator.add, map(function, batches))


def threads(function: Callable[[Batch], AnyStatistics], batches: Iterable[Batch]) -> AnyStatistics:
    """Several batches at a time, for data whose reading takes as long as the work on it.

    Sums in the order of the batches, so the result is that of ``serial``; only a few batches are held at a time.
    """
    n_workers = max(2, os.cpu_count() or 2)
    total: AnyStatistics | None = None
    with ThreadPoolExecutor(n_workers) as pool:
        waiting: deque[Future[AnyStatistics]] = deque()
        for batch in batches:
            waiting.append(pool.submit(function, batch))
            if len(waiting) > 2 * n_workers:
                total = _add(total, waiting.popleft().result())
        while waiting:
            total = _add(total, waiting.popleft().result())
    if total is None:
        raise ValueError("there is no batch to reduce")
    return total


def _add(total: AnyStatistics | None, part: AnyStatistics) -> AnyStatistics:
    return part if total is None else total + part


REDUCTIONS: dict[str, Reduce] = {"serial": serial, "threads": threads}
