"""Data in small batches for learning by gradients: shuffled anew in every epoch, and the same again from the epoch's number."""

from __future__ import annotations

import queue
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from unveil.data.batch import Batch, Batches
from unveil.data.rows import MemoryRows

BLOCK_BYTES = 16 << 20  # of a file that are read at once, and shuffled
READ_AHEAD = 2  # blocks
IN_MEMORY_BYTES = 1 << 30  # of float64 values: files with less are read once


@dataclass(frozen=True)
class Minibatch:
    """A batch for one step.

    Attributes
    ----------
    batch : Batch
        What this process works on.
    items : ndarray of int
        The indices in the source of all items of the minibatch.
    n_steps : int
        How many steps these have, of which other processes may have taken a share.
    """

    batch: Batch
    items: np.ndarray
    n_steps: int


class Minibatches:
    """Minibatches of items, in an order that depends on a seed and the number of the epoch alone.

    Data in memory is converted and moved once, and then indexed. Data on disk is read in blocks by a thread of its own while the last
    ones are learned from; the blocks come in random order, and the items of each are shuffled.

    Parameters
    ----------
    batches : Batches
        The source.
    batch_size : int
        Items in a minibatch.
    seed : int
        Of the order.
    device : torch.device
        Where minibatches are needed.
    dtype : torch.dtype
        In which type.
    share : (int, int)
        Which share of each minibatch this process works on, of how many.

    Attributes
    ----------
    waited : float
        Seconds that were spent waiting for data so far.

    Examples
    --------
    >>> minibatches = Minibatches(Batches(MemoryRows(np.arange(5.0)[:, None])), 2, seed=0)
    >>> sorted(torch.cat([each.batch.values[:, 0] for each in minibatches.epoch(0)]).tolist())
    [0.0, 1.0, 2.0, 3.0, 4.0]
    """

    def __init__(
        self,
        batches: Batches,
        batch_size: int,
        *,
        seed: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        share: tuple[int, int] = (0, 1),
    ):
        self.batch_size, self.waited = batch_size, 0.0
        self._seed, self._device, self._dtype, self._share = seed, torch.device(device), dtype, share
        if batches.weights is not None:  # of mean 1: how much data there is does not change the size of a step
            batches = batches.replace(weights=(batches.weights / batches.weights.mean()).to(self._device, dtype))
        self._in_memory = isinstance(batches.rows, MemoryRows)
        if self._in_memory:
            for _ in batches:  # looks for NaN and infinity
                pass
            values = batches.rows.read(0, batches.n_steps).to(self._device, dtype).contiguous()
            batches = batches.replace(rows=MemoryRows(values))
            self._values, self._offsets = values, torch.arange(batch_size + 1)
        self._batches = batches

    def __len__(self) -> int:
        """How many minibatches an epoch has."""
        if self._in_memory:
            return -(-self._batches.n_sequences // self.batch_size)
        return sum(len(_even_parts(stop - start, self.batch_size)) for start, stop in self._blocks())

    def epoch(self, number: int, skip: int = 0) -> Iterator[Minibatch]:
        """The minibatches of an epoch after the first ``skip``."""
        order = np.random.default_rng((self._seed, number))
        source = self._indexed(order, skip) if self._in_memory else self._read_ahead(order, skip)
        return source if self._share[1] == 1 else self._shared(source)

    def _indexed(self, order: np.random.Generator, skip: int) -> Iterator[Minibatch]:
        shuffled = order.permutation(self._batches.n_sequences)
        for start in range(skip * self.batch_size, len(shuffled), self.batch_size):
            items = shuffled[start : start + self.batch_size]
            batch = self._take(items)
            yield Minibatch(batch, items, batch.n_steps)

    def _take(self, items: np.ndarray) -> Batch:
        if self._batches.offsets is not None:
            return self._batches.take(items)
        rows = torch.from_numpy(items).to(self._device)
        weights, labels = self._batches.weights, self._batches.labels
        return Batch(
            self._values.index_select(0, rows),
            self._offsets[: len(items) + 1],
            None if weights is None else weights[rows],
            None if labels is None else labels[torch.from_numpy(items)],
        )

    def _blocks(self) -> list[tuple[int, int]]:
        """First and last item of each block of the file."""
        steps = max(BLOCK_BYTES // (8 * self._batches.n_features), 1)
        edges = self._batches.replace(batch_steps=steps).edges()
        return list(pairwise(edges))

    def _read_ahead(self, order: np.random.Generator, skip: int) -> Iterator[Minibatch]:
        """Minibatches of blocks that a thread reads; the time that they are waited for is counted."""
        blocks = self._blocks()
        line: queue.Queue = queue.Queue(READ_AHEAD)
        ended = threading.Event()
        jobs = [blocks[i] for i in order.permutation(len(blocks))]
        shuffles = [order.permutation(stop - start) for start, stop in jobs]
        reader = threading.Thread(target=self._read_into, args=(line, jobs, ended), daemon=True)
        reader.start()
        try:
            for (start, _), shuffled in zip(jobs, shuffles, strict=True):
                begin = time.perf_counter()
                block = line.get()
                self.waited += time.perf_counter() - begin
                if isinstance(block, BaseException):
                    raise block
                for items in _even_parts(len(shuffled), self.batch_size):
                    if skip:
                        skip -= 1
                        continue
                    chosen = shuffled[items]
                    batch = block.take(chosen)
                    yield Minibatch(batch, start + chosen, batch.n_steps)
        finally:
            ended.set()

    def _read_into(self, line: queue.Queue, jobs: list[tuple[int, int]], ended: threading.Event) -> None:
        for start, stop in jobs:
            try:
                block = as_batches(self._batches.read(start, stop).to(self._device, self._dtype))
            except BaseException as error:  # it belongs to whoever waits for the block
                block = error
            while not ended.is_set():
                try:
                    line.put(block, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if ended.is_set():
                return

    def _shared(self, source: Iterator[Minibatch]) -> Iterator[Minibatch]:
        """This process's share of each minibatch; its weights make the mean over processes the mean over the minibatch."""
        rank, n_processes = self._share
        for whole in source:
            mine = np.arange(rank, len(whole.items), n_processes)
            share = as_batches(whole.batch).take(mine if len(mine) else np.zeros(1, dtype=int))
            weights = share.values.new_ones(share.n_sequences) if share.weights is None else share.weights
            scale = n_processes * share.n_steps / whole.n_steps if len(mine) else 0.0
            yield replace(whole, batch=replace(share, weights=weights * scale))


def _even_parts(n_items: int, size: int) -> list[np.ndarray]:
    """Indices below ``n_items`` in parts of about the same size, at most ``size``."""
    return np.array_split(np.arange(n_items), max(-(-n_items // size), 1))


def as_batches(batch: Batch) -> Batches:
    """A batch as a source from which items can be taken."""
    offsets = None if batch.holds_points else batch.offsets.numpy()
    return Batches(MemoryRows(batch.values), offsets, weights=batch.weights, labels=batch.labels)


def loaded(batches: Batches) -> Batches:
    """The data in memory, where it is small enough; else as it is."""
    if isinstance(batches.rows, MemoryRows) or 8 * batches.n_steps * batches.n_features > IN_MEMORY_BYTES:
        return batches
    return batches.replace(rows=MemoryRows(torch.cat([batch.values for batch in batches])))


def fingerprint(batches: Batches) -> int:
    """A number that other data hardly has: a checksum of weights, lengths and some rows, evenly spread."""
    check, most = 0, 1024 if isinstance(batches.rows, MemoryRows) else 32  # single rows of some files take long to reach
    for part in (batches.offsets, None if batches.weights is None else batches.weights.cpu().numpy()):
        check = check if part is None else zlib.crc32(np.ascontiguousarray(part).tobytes(), check)
    for row in np.unique(np.linspace(0, batches.n_steps - 1, min(batches.n_steps, most)).astype(int)):
        check = zlib.crc32(batches.rows.read(int(row), int(row) + 1).contiguous().cpu().numpy().tobytes(), check)
    return check


def held_out(batches: Batches, fraction: float, generator: torch.Generator) -> tuple[Batches, Batches | None]:
    """The data to learn from and a random part of its items to stop by: of a file, the items at its end.

    Nothing is held out where that would leave less than one item on either side.
    """
    n_items = batches.n_sequences
    n_held = round(fraction * n_items)
    if n_held < 1 or n_held >= n_items:
        return batches, None
    if isinstance(batches.rows, MemoryRows):
        chosen = torch.zeros(n_items, dtype=torch.bool)
        chosen[torch.randperm(n_items, generator=generator)[:n_held]] = True
        return batches.restricted_to(~chosen), batches.restricted_to(chosen)
    return batches.between(0, n_items - n_held), batches.between(n_items - n_held, n_items)
