"""Work on batches in threads: one batch for each core, each with a single-threaded library underneath.

Many cores on one small matrix product spend their time waiting for each other; one batch for each core does not, and a core that
something else takes away then holds up nobody.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from itertools import chain, islice
from threading import Condition, local
from typing import Generic, TypeVar

import torch
from threadpoolctl import ThreadpoolController

from unveil.data.batch import SMALL, Batch

Result = TypeVar("Result")

_here = local()


def map_batches(function: Callable[[Batch], Result], batches: Iterable[Batch]) -> Iterator[Result]:
    """``function`` of each batch, in their order; only a few batches and results are held at a time.

    A single batch is worked on right here, by all cores where it is large enough to be worth that.
    """
    n_workers = _n_cores()
    source = iter(batches)
    first = list(islice(source, 2))
    if len(first) < 2 or n_workers == 1:
        for batch in chain(first, source):
            with cores_for(batch.values.numel()):
                result = function(batch)
            yield result
        return
    with_gradients = torch.is_grad_enabled()

    def work(batch: Batch) -> Result:
        with torch.set_grad_enabled(with_gradients):  # which is a setting of each thread
            return function(batch)

    line = _Line(work, chain(first, source), n_workers)
    try:
        yield from line.results()
    finally:
        line.close()


def cores_for(n_numbers: int) -> AbstractContextManager[None]:
    """As many cores for this thread's own work as so many numbers are worth; ``map_batches`` still has all.

    On small matrices cores cost more in waiting for each other than they give, and on a busy machine many times more.
    """
    return _one_core() if n_numbers <= SMALL else nullcontext()


@contextmanager
def _one_core() -> Iterator[None]:
    n_cores = torch.get_num_threads()
    if n_cores == 1:
        yield
        return
    _here.n_cores = n_cores
    try:
        with _openmp().limit(limits=1):
            yield
    finally:
        del _here.n_cores


def _n_cores() -> int:
    return getattr(_here, "n_cores", None) or torch.get_num_threads()


class _Line(Generic[Result]):
    """Batches that workers take when they are free, and results that are handed on in the order of the batches.

    Workers fetch for themselves, and the receiver is woken once for many results: to wake a thread takes as long as some batches.
    """

    def __init__(self, function: Callable[[Batch], Result], source: Iterator[Batch], n_workers: int):
        self._function, self._source, self._n_workers = function, source, n_workers
        self._few, self._many = 2 * n_workers, 4 * n_workers  # results that are worth a wake, and batches that may be held
        self._changed = Condition()
        self._outcomes: dict[int, tuple[Result | None, BaseException | None]] = {}
        self._taken = self._given = self._consumed = self._at_work = self._serving = 0
        self._ended = False

    def _serve(self) -> None:
        """Work until there is nothing to take; other lines may need the thread."""
        while (job := self._take()) is not None:
            index, batch = job
            try:
                outcome = self._function(batch), None
            except BaseException as error:  # it belongs to whoever waits for the result
                outcome = None, error
            self._put(index, outcome)

    def _take(self) -> tuple[int, Batch] | None:
        with self._changed:
            if not self._ended and self._taken - self._consumed < self._many:
                try:
                    batch = next(self._source)
                    self._taken, self._at_work = self._taken + 1, self._at_work + 1
                    return self._taken - 1, batch
                except StopIteration:
                    self._ended = True
                except BaseException as error:  # in reading; it comes after the results of what was read before
                    self._outcomes[self._taken] = None, error
                    self._taken, self._ended = self._taken + 1, True
            self._serving -= 1
            self._changed.notify_all()
            return None

    def _put(self, index: int, outcome: tuple[Result | None, BaseException | None]) -> None:
        with self._changed:
            self._outcomes[index] = outcome
            self._at_work -= 1
            if self._ready():
                self._changed.notify_all()

    def _ready(self) -> bool:
        enough = len(self._outcomes) >= self._few and self._given in self._outcomes
        return enough or (self._ended and self._at_work == 0)

    def results(self) -> Iterator[Result]:
        """All results in order, then the error that ended them if there was one."""
        while True:
            with self._changed:
                while not self._ended and self._serving < self._n_workers:
                    self._serving += 1
                    _pool(self._n_workers).submit(self._serve)
                self._changed.wait_for(self._ready)
                arrived = []
                while self._given in self._outcomes:
                    arrived.append(self._outcomes.pop(self._given))
                    self._given += 1
                complete = self._ended and self._given == self._taken
            for result, error in arrived:
                if error is not None:
                    raise error
                yield result  # type: ignore[misc]
                self._consumed += 1
            if complete:
                return

    def close(self) -> None:
        """Let no more batches be taken."""
        with self._changed:
            self._ended = True


@cache
def _pool(n_workers: int) -> ThreadPoolExecutor:
    _openmp()
    return ThreadPoolExecutor(n_workers, thread_name_prefix="unveil", initializer=_use_one_core)


def _use_one_core() -> None:
    """Let this thread's matrix products run in this thread alone."""
    torch.get_num_threads()  # at the first question torch sets the number for this thread, so that has to come first
    _openmp().limit(limits=1)


@cache
def _openmp() -> ThreadpoolController:
    """The parallel libraries of this process: looking for them takes as long as some fits."""
    return ThreadpoolController().select(user_api="openmp")


# A forked process inherits the pool but not its threads, and would wait for them for ever.
os.register_at_fork(after_in_child=_pool.cache_clear)
