"""Work on batches in threads: one batch for each core, each with a single-threaded library underneath.

Many cores on one small matrix product spend their time waiting for each other; one batch for each core does not, and a core that
something else takes away then holds up nobody.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import chain, islice
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

from unveil.data.batch import Batch

Result = TypeVar("Result")


def map_batches(function: Callable[[Batch], Result], batches: Iterable[Batch]) -> Iterator[Result]:
    """``function`` of each batch, in their order; only a few batches are held at a time.

    The calling thread reads the batches. A single batch is worked on right there, by all cores.
    """
    n_workers = torch.get_num_threads()
    source = iter(batches)
    first = list(islice(source, 2))
    if len(first) < 2 or n_workers == 1:
        yield from map(function, chain(first, source))
        return
    with_gradients = torch.is_grad_enabled()

    def work(batch: Batch) -> Result:
        with torch.set_grad_enabled(with_gradients):  # which is a setting of each thread
            return function(batch)

    waiting: deque[Future[Result]] = deque()
    try:
        for batch in chain(first, source):
            waiting.append(_pool(n_workers).submit(work, batch))
            if len(waiting) > 2 * n_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


@cache
def _pool(n_workers: int) -> ThreadPoolExecutor:
    _openmp()
    return ThreadPoolExecutor(n_workers, thread_name_prefix="unveil", initializer=_use_one_core)


def _use_one_core() -> None:
    """Let this thread's matrix products run in this thread alone."""
    torch.ones(1 << 16).add_(1)  # torch chooses its number of threads at its first parallel work, so that has to come first
    _openmp().limit(limits=1)


@cache
def _openmp() -> ThreadpoolController:
    """The parallel libraries of this process: looking for them takes as long as some fits."""
    return ThreadpoolController().select(user_api="openmp")


# A forked process inherits the pool but not its threads, and would wait for them for ever.
os.register_at_fork(after_in_child=_pool.cache_clear)
