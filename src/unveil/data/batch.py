"""Ragged data: sequences of different lengths, packed end to end without padding, in memory or on disk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from unveil.data.rows import MemoryRows, PartOfRows, Rows
from unveil.errors import InputError

BATCH_BYTES = 1 << 20  # of float64 values: a batch and what an E-step makes of it then stay in the caches
STATISTICS_BYTES = 4 << 20  # of what an E-step makes of a batch
MIN_BATCH_STEPS, MAX_BATCH_STEPS, MIN_SHARED_STEPS = 512, 16384, 1024
SMALL = 1 << 16  # numbers: less is not worth a second core


@dataclass(frozen=True)
class Batch:
    """Sequences packed end to end: the layout of Apache Arrow's lists.

    Attributes
    ----------
    values : Tensor of shape (n_steps, *event_shape)
        All sequences, one after the other.
    offsets : Tensor of shape (n_sequences + 1,), int64, on the CPU
        Sequence ``i`` is ``values[offsets[i]:offsets[i + 1]]``.
    weights : Tensor of shape (n_sequences,), optional
        How often each sequence counts; 1 by default.
    labels : Tensor of shape (n_steps,), optional
        The known state or class of each step, -1 where unknown.
    start : int
        The index, in the source that this batch comes from, of its first sequence.
    """

    values: Tensor
    offsets: Tensor
    weights: Tensor | None = None
    labels: Tensor | None = None
    start: int = 0

    @property
    def n_steps(self) -> int:
        """The number of steps in all sequences together."""
        return self.values.shape[0]

    @property
    def n_sequences(self) -> int:
        """The number of sequences."""
        return self.offsets.shape[0] - 1

    @cached_property
    def lengths(self) -> Tensor:
        """The length of each sequence: ``offsets[i + 1] - offsets[i]``, of shape (n_sequences,)."""
        return self.offsets.diff()

    @property
    def holds_points(self) -> bool:
        """Whether every sequence has length one."""
        return self.n_sequences == self.n_steps

    @property
    def step_weights(self) -> Tensor | None:
        """The weight of each step's sequence, of shape (n_steps,), or None where all count once."""
        if self.weights is None or self.holds_points:
            return self.weights
        return self.weights.repeat_interleave(self.lengths.to(self.weights.device))

    @property
    def sequence_of_step(self) -> Tensor:
        """The index in this batch of each step's sequence, of shape (n_steps,)."""
        return torch.arange(self.n_sequences).repeat_interleave(self.lengths)

    @cached_property
    def total_weight(self) -> float:
        """The weighted number of steps: ``sum_i weights[i] * lengths[i]``."""
        if self.weights is None:
            return float(self.n_steps)
        return float((self.weights.double().cpu() * self.lengths).sum())

    def padded(self) -> tuple[Tensor, Tensor]:
        """The sequences side by side, zero-padded.

        Returns
        -------
        values : Tensor of shape (n_sequences, longest, *event_shape)
        mask : Tensor of shape (n_sequences, longest), bool
            True where a value is real.
        """
        lengths = self.lengths.to(self.values.device)
        mask = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
        values = self.values.new_zeros(*mask.shape, *self.values.shape[1:])
        values[mask] = self.values
        return values, mask

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Batch:
        """The same batch with its values and weights on a device and in a type."""
        weights = None if self.weights is None else self.weights.to(device, dtype)
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, values=self.values.to(device, dtype), weights=weights, labels=labels)


class Batches:
    """A source of batches that can be gone through again and again, in the same order.

    The same object serves data in memory and data on disk; a learner does not know which it has.

    Parameters
    ----------
    rows : Rows
        Where the steps come from.
    offsets : ndarray of shape (n_sequences + 1,), optional
        Sequence ``i`` is rows ``offsets[i]`` to ``offsets[i + 1]``; by default each row is an item of its own.
    weights : ndarray of shape (n_sequences,), optional
        How often each sequence counts.
    labels : ndarray of shape (n_steps,), optional
        Known states or classes, -1 where unknown.
    batch_steps : int, optional
        The number of steps that a batch holds, at least one sequence; by default about a megabyte.
    allow_nan : bool
        Let NaN pass, for models that take it as missing; otherwise NaN and infinity are errors that name their place.

    Examples
    --------
    >>> import numpy as np
    >>> batches = Batches(MemoryRows(np.arange(12.0).reshape(6, 2)), offsets=np.array([0, 4, 6]), batch_steps=4)
    >>> [(batch.start, batch.lengths.tolist()) for batch in batches]
    [(0, [4]), (1, [2])]
    """

    def __init__(
        self,
        rows: Rows,
        offsets: np.ndarray | None = None,
        *,
        weights: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        batch_steps: int | None = None,
        allow_nan: bool = False,
    ):
        self.rows, self.offsets, self.allow_nan = rows, offsets, allow_nan
        self._checked: Rows | None = None
        self.weights = None if weights is None else torch.as_tensor(weights).to(rows.device)
        self.labels = None if labels is None else torch.as_tensor(labels)  # on the CPU, like offsets
        self.batch_steps = batch_steps or _default_batch_steps(rows.n_rows, rows.n_features)

    @property
    def n_features(self) -> int:
        """The width of a step."""
        return self.rows.n_features

    @property
    def n_steps(self) -> int:
        """The number of steps in all sequences together."""
        return self.rows.n_rows

    @property
    def n_sequences(self) -> int:
        """The number of sequences, or of points."""
        return self.n_steps if self.offsets is None else len(self.offsets) - 1

    @property
    def total_weight(self) -> float:
        """The weighted number of steps."""
        if self.weights is None:
            return float(self.n_steps)
        lengths = 1 if self.offsets is None else torch.from_numpy(np.diff(self.offsets))
        return float((self.weights.double().cpu() * lengths).sum())

    @property
    def device(self) -> torch.device:
        """Where the data is, and so where the work on it happens."""
        return self.rows.device

    def as_points(self) -> Batches:
        """The same rows, each an item of its own."""
        return self.replace(offsets=None) if self.offsets is not None else self

    def replace(self, **changes) -> Batches:
        """A copy with other settings, over the same rows."""
        names = ("rows", "offsets", "weights", "labels", "batch_steps", "allow_nan")
        return Batches(**({name: getattr(self, name) for name in names} | changes))

    def restricted_to(self, kept: Tensor) -> Batches:
        """Only the items that are ``kept`` (n_sequences,): copied where they are in memory; in a file, the others get weight 0."""
        if isinstance(self.rows, MemoryRows):
            batch = self.take(kept.nonzero()[:, 0].numpy())
            offsets = None if self.offsets is None else batch.offsets.numpy()
            return self.replace(rows=MemoryRows(batch.values), offsets=offsets, weights=batch.weights, labels=batch.labels)
        weights = torch.ones(self.n_sequences, dtype=torch.float64) if self.weights is None else self.weights.double()
        return self.replace(weights=weights * kept)

    def between(self, first: int, last: int) -> Batches:
        """Only the items ``first`` to ``last``, which stay where they are."""
        offsets = self.offsets if self.offsets is None else self.offsets[first : last + 1]
        start, stop = (first, last) if offsets is None else (int(offsets[0]), int(offsets[-1]))
        return self.replace(
            rows=PartOfRows(self.rows, start, stop),
            offsets=None if offsets is None else offsets - start,
            weights=self.weights if self.weights is None else self.weights[first:last],
            labels=self.labels if self.labels is None else self.labels[start:stop],
        )

    def at_most(self, n_statistics: int | None) -> Batches:
        """The same with batches so small that ``n_statistics`` numbers for each step stay in the caches."""
        fitting = max(STATISTICS_BYTES // (8 * (n_statistics or 1)), MIN_BATCH_STEPS)
        return self.replace(batch_steps=fitting) if fitting < self.batch_steps else self

    def __iter__(self) -> Iterator[Batch]:
        unchecked = self._checked is not self.rows
        for first, last in pairwise(self.edges()):
            yield self.read(first, last, check=unchecked)
        if isinstance(self.rows, MemoryRows):
            self._checked = self.rows  # looking through data in memory once is enough

    def edges(self) -> list[int]:
        """The sequences at which batches begin, and the end."""
        if self.offsets is None:
            return [*range(0, self.n_steps, self.batch_steps), self.n_steps]
        edges = [0]
        while edges[-1] < self.n_sequences:
            room = self.offsets[edges[-1]] + self.batch_steps
            fitting = int(np.searchsorted(self.offsets, room, side="right")) - 1
            edges.append(max(fitting, edges[-1] + 1))
        return edges

    def read(self, first: int, last: int, *, check: bool = True) -> Batch:
        """The items ``first`` to ``last``, after a look for NaN and infinity."""
        if self.offsets is None:
            start, stop = first, last
            offsets = torch.arange(last - first + 1)
        else:
            start, stop = int(self.offsets[first]), int(self.offsets[last])
            offsets = torch.from_numpy(self.offsets[first : last + 1] - start)
        values = self.rows.read(start, stop)
        if check:
            self._check(values, start)
        weights = None if self.weights is None else self.weights[first:last]
        labels = None if self.labels is None else self.labels[start:stop]
        return Batch(values, offsets, weights, labels, start=first)

    def _check(self, values: Tensor, start: int) -> None:
        # One pass, no temporary, no threads that would then spin beside workers. A sum can overflow: look closer before complaining.
        with np.errstate(all="ignore"):
            total = values.numpy().sum() if values.device.type == "cpu" else values.sum()
        if math.isfinite(total):
            return
        bad = torch.isinf(values) if self.allow_nan else ~torch.isfinite(values)
        if not bad.any():
            return
        row, column = (int(index) for index in bad.nonzero()[0])
        found = "NaN" if torch.isnan(values[row, column]) else "infinity"
        remedy = "drop or fill that row" if found == "NaN" else "replace it by a finite number"
        raise InputError(f"Input X contains {found} at {self.rows.place(start + row)}, column {column}; {remedy}")

    def minibatches(self, n_steps: int, generator: torch.Generator) -> Iterator[Batch]:
        """One pass in batches of about ``n_steps`` steps: in memory with the items shuffled, on disk in their order."""
        if not isinstance(self.rows, MemoryRows):
            yield from self.replace(batch_steps=n_steps)
            return
        if self._checked is not self.rows:
            for _ in self:  # looks for NaN and infinity
                pass
        offsets = np.arange(self.n_steps + 1) if self.offsets is None else np.asarray(self.offsets)
        order = torch.randperm(self.n_sequences, generator=generator).numpy()
        lengths = np.diff(offsets)[order]
        groups = (np.cumsum(lengths) - lengths) // max(n_steps, 1)
        for items in np.split(order, np.flatnonzero(np.diff(groups)) + 1):
            yield self.take(items)

    def take(self, items: np.ndarray) -> Batch:
        """One batch of these items of data in memory, in this order."""
        offsets = np.arange(self.n_steps + 1) if self.offsets is None else np.asarray(self.offsets)
        lengths = (offsets[1:] - offsets[:-1])[items]
        ends = np.cumsum(lengths)
        rows = torch.from_numpy(np.repeat(offsets[items] - (ends - lengths), lengths) + np.arange(int(ends[-1])))
        values = self.rows.read(0, self.n_steps)[rows.to(self.device)]
        weights = None if self.weights is None else self.weights[torch.from_numpy(items).to(self.device)]
        labels = None if self.labels is None else self.labels[rows]
        return Batch(values, torch.from_numpy(np.concatenate([[0], ends])), weights, labels)

    def sample_steps(self, n_steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Steps drawn without replacement, in their order: the same ones however the source is cut into batches.

        Returns
        -------
        values : Tensor of shape (min(n_steps, self.n_steps), n_features), float64
        weights : Tensor of the same length, float64
            Of the sequence that each is in.
        sequences : Tensor of the same length, int64
            The index of the sequence that each is in.
        """
        return self._steps(_draw_sorted(self.n_steps, n_steps, generator))

    def sample_labelled_steps(self, n_steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same with the label of each step, -1 where it is unknown; steps with a label are drawn before others."""
        chosen = _draw_sorted(self.n_steps, n_steps, generator)
        if self.labels is None:
            return *self._steps(chosen), torch.full((len(chosen),), -1)
        labels = self.labels.cpu()
        known = (labels >= 0).nonzero()[:, 0]
        if len(chosen) < self.n_steps and len(known):
            known = known[_draw_sorted(len(known), n_steps, generator)]
            others = chosen[labels[chosen] < 0][: n_steps - len(known)]
            chosen = torch.cat([known, others]).sort().values
        return *self._steps(chosen), labels[chosen]

    def _steps(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values, weights, sequences, start = [], [], [], 0
        for batch in self:
            stop = start + batch.n_steps
            low, high = torch.searchsorted(chosen, torch.tensor([start, stop]))
            inside = chosen[low:high] - start
            here = inside.to(batch.values.device)
            values.append(batch.values[here].double())
            step_weights = batch.step_weights
            weights.append(values[-1].new_ones(len(here)) if step_weights is None else step_weights[here].double())
            within = np.searchsorted(batch.offsets.numpy(), inside.numpy(), side="right") - 1
            sequences.append(batch.start + torch.from_numpy(within))
            start = stop
        return torch.cat(values), torch.cat(weights), torch.cat(sequences)


def _draw_sorted(n_total: int, n_drawn: int, generator: torch.Generator) -> Tensor:
    """Different indices below ``n_total``, sorted; in memory that does not grow with ``n_total`` where few are drawn."""
    if n_drawn >= n_total:
        return torch.arange(n_total)
    if 4 * n_drawn > n_total:
        return torch.randperm(n_total, generator=generator)[:n_drawn].sort().values
    drawn = torch.empty(0, dtype=torch.int64)
    while len(drawn) < n_drawn:
        drawn = torch.cat([drawn, torch.randint(n_total, (2 * n_drawn,), generator=generator)]).unique()
    return drawn[torch.randperm(len(drawn), generator=generator)[:n_drawn]].sort().values


def _default_batch_steps(n_steps: int, n_features: int) -> int:
    """As much as stays in the caches, but at least two batches for each core where there is enough for that."""
    fitting = BATCH_BYTES // (8 * max(n_features, 1))
    if n_steps * n_features <= SMALL:
        return int(max(fitting, MIN_BATCH_STEPS))
    shared = -(-n_steps // (2 * torch.get_num_threads()))
    return int(min(max(fitting, MIN_BATCH_STEPS), max(shared, MIN_SHARED_STEPS), MAX_BATCH_STEPS))
