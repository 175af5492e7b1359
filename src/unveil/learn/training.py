"""Going through data in epochs: what all learning by gradients shares, whatever is learned and how.

A ``Procedure`` makes a step on a minibatch; this loop feeds it, watches it, keeps it and stops it.
"""

from __future__ import annotations

import math
import signal
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from torch import Tensor, nn

from unveil.core.history import History
from unveil.data.batch import Batch
from unveil.data.minibatches import Minibatch, Minibatches, as_batches
from unveil.errors import ConvergenceWarning, InputError
from unveil.learn.checkpoint import Checkpoint

SECONDS_BETWEEN_CHECKPOINTS = 60.0


class Procedure(Protocol):
    """What is done with a minibatch, and everything that it changes."""

    @property
    def model(self) -> nn.Module:
        """What is learned."""
        ...

    def step(self, batch: Batch, epoch: float) -> dict[str, float]:
        """Update the parameters; the parts of the loss before that, per step of data. "loss" is what is minimised."""
        ...

    def probe(self, batch: Batch, epoch: float) -> float:
        """The loss of a batch, without a step."""
        ...

    def validate(self) -> dict[str, float] | None:
        """The parts of the loss on held-out data; None where there is none."""
        ...

    def state(self) -> dict[str, Any]:
        """All that the procedure changes; ``restore`` takes it back."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Be as the procedure was that had this state."""
        ...


@dataclass(frozen=True)
class Epoch:
    """What a callback sees after each epoch.

    Attributes
    ----------
    number : int
        From 0.
    max_epochs : int
        The limit.
    parts : dict of str to float
        The loss on the data that was learned from and its parts, per step of data: means over the epoch.
    validation : dict of str to float
        The same on held-out data; empty where there is none.
    seconds : float
        Since the training began, earlier runs included.
    waiting : float
        The share of the time that was spent waiting for data.
    model : Module
        The model itself, not a copy.
    """

    number: int
    max_epochs: int
    parts: dict[str, float]
    validation: dict[str, float]
    seconds: float
    waiting: float
    model: nn.Module


@dataclass
class Progress:
    """Where a training is; with the state of its procedure, all that it takes to go on."""

    epoch: int = 0
    done: int = 0  # minibatches of that epoch
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    best: dict[str, Any] | None = None
    best_loss: float = math.inf
    without_gain: int = 0
    history: dict[str, Any] = field(default_factory=lambda: History().to_dict())


class Diverged(Exception):
    """A loss that is not finite, and where."""


def train(
    procedure: Procedure,
    minibatches: Minibatches,
    *,
    max_epochs: int,
    patience: int | None = None,
    checkpoint: Checkpoint | None = None,
    callbacks: Iterable[Callable[[Epoch], bool | None]] = (),
    patient_until: float = 0.0,
) -> History:
    """Make epochs until held-out data has not gained for ``patience`` of them, and leave the model as it was at its best.

    Parameters
    ----------
    procedure : Procedure
        What is done with a minibatch.
    minibatches : Minibatches
        The data.
    max_epochs : int
        The most epochs to make.
    patience : int, optional
        How many epochs without a gain on held-out data are borne; None bears all.
    checkpoint : Checkpoint, optional
        Where the training is kept, every minute and after the last epoch, and where it goes on from.
    callbacks : iterable of callable
        Each is called with an ``Epoch``, and stops the training by returning True.
    patient_until : float
        Epochs before that, such as those of a warm-up, are neither best nor without gain.

    Returns
    -------
    History
        Its objective is minus the loss, on the data that was learned from.

    Raises
    ------
    InputError
        When the loss is NaN or infinite before a single epoch was finished.
    """
    progress, callbacks = Progress(), tuple(callbacks)
    kept = checkpoint.read() if checkpoint else None
    if kept is not None:
        procedure.restore(kept["procedure"])
        progress = Progress(**kept["progress"])
    history = History(**progress.history)
    good = procedure.state()
    keeper = _Keeper(checkpoint, procedure, progress, history)
    with keeper:
        while progress.epoch < max_epochs and not history.converged:
            try:
                _epoch(procedure, minibatches, progress, keeper)
            except Diverged as fault:
                if not history.objective:
                    raise InputError(f"{fault}; lower learning_rate, or rescale the data") from None
                procedure.restore(good)
                message = (
                    f"{fault}; learning stopped with the model of epoch {progress.epoch}; lower learning_rate, or set clip_norm"
                )
                warnings.warn(message, ConvergenceWarning, stacklevel=2)
                break
            epoch = _finish_epoch(procedure, minibatches, progress, history, max_epochs, keeper, patient_until)
            good = procedure.state()
            stopped = keeper.kept_through(lambda: [callback(epoch) for callback in callbacks])  # noqa: B023  (it is called here)
            history.converged = patience is not None and progress.without_gain >= patience
            if any(stopped):
                break
        history.seconds = keeper.seconds()
        keeper.write()
    if progress.best is not None:
        procedure.model.load_state_dict(progress.best)
    return history


def copy_of(model: nn.Module) -> dict[str, Tensor]:
    """A model's state as it is now: a reference to it would go on changing."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _epoch(procedure: Procedure, minibatches: Minibatches, progress: Progress, keeper: _Keeper) -> None:
    """One pass over the data, or what is left of it."""
    sums, n_minibatches = defaultdict(float, progress.sums), len(minibatches)
    for minibatch in minibatches.epoch(progress.epoch, progress.done):
        epoch = progress.epoch + progress.done / n_minibatches
        parts = procedure.step(minibatch.batch, epoch)
        if not math.isfinite(parts["loss"]):
            raise Diverged(_fault(procedure, minibatch, progress, parts["loss"]))
        sums["weight"] += minibatch.n_steps
        for name, value in parts.items():
            sums[name] += value * minibatch.n_steps
        progress.done += 1
        if keeper.is_due():
            progress.sums = dict(sums)
            keeper.write()
    progress.sums = dict(sums)


def _fault(procedure: Procedure, minibatch: Minibatch, progress: Progress, loss: float) -> str:
    """Which minibatch made the loss infinite, and which of its items, where single ones do."""
    where = f"the loss became {loss} in epoch {progress.epoch + 1}, minibatch {progress.done + 1}"
    if any(not bool(parameter.isfinite().all()) for parameter in procedure.model.parameters()):
        return f"{where} ({_few(minibatch.items)}) after a step that left infinite parameters"
    source, items = as_batches(minibatch.batch), minibatch.items
    alone = [
        i
        for i in range(minibatch.batch.n_sequences)
        if not math.isfinite(procedure.probe(source.take(np.array([i])), progress.epoch))
    ]
    return f"{where}, of {_few(items[alone])}" if alone else f"{where} ({_few(items)})"


def _few(items: np.ndarray) -> str:
    """The first of some items."""
    shown = ", ".join(str(item) for item in items[:3].tolist())
    return f"item{'s' * (len(items) > 1)} {shown}{', ...' * (len(items) > 3)}"


def _finish_epoch(
    procedure: Procedure,
    minibatches: Minibatches,
    progress: Progress,
    history: History,
    max_epochs: int,
    keeper: _Keeper,
    patient_until: float,
) -> Epoch:
    """Validate, remember the best, and take down how it went."""
    weight = progress.sums.pop("weight")
    parts = {name: value / weight for name, value in progress.sums.items()}
    held_out = procedure.validate() or {}
    number = progress.epoch
    history.objective.append(-parts["loss"])
    history.iterations.append(number)
    history.n_iter = number + 1
    for name, value in {**parts, **{f"held-out {key}": value for key, value in held_out.items()}}.items():
        history.parts.setdefault(name, []).append(value)
    progress.epoch, progress.done, progress.sums = number + 1, 0, {}
    if held_out and number + 1 > patient_until:
        if held_out["loss"] < progress.best_loss:
            progress.best, progress.best_loss, progress.without_gain = copy_of(procedure.model), held_out["loss"], 0
        else:
            progress.without_gain += 1
    seconds = keeper.seconds()
    history.waiting = minibatches.waited / max(seconds, 1e-9)
    return Epoch(number, max_epochs, parts, held_out, seconds, history.waiting, procedure.model)


class _Keeper:
    """Writes the state of a training to its checkpoint when it is time, and before an interruption (Ctrl-C) ends it."""

    def __init__(self, checkpoint: Checkpoint | None, procedure: Procedure, progress: Progress, history: History):
        self._checkpoint, self._procedure, self._progress, self._history = checkpoint, procedure, progress, history
        self._begin, self._last = time.perf_counter() - progress.seconds, time.perf_counter()
        self._interrupted, self._usual_handler = False, None

    def __enter__(self) -> Self:
        in_main_thread = threading.current_thread() is threading.main_thread()
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as in the background
        if self._checkpoint is not None and in_main_thread and not ignored:
            self._usual_handler = signal.signal(signal.SIGINT, self._wait_for_the_step)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._give_back_the_handler()
        if self._interrupted and kind is None:
            raise KeyboardInterrupt

    def _wait_for_the_step(self, number: int, frame: Any) -> None:
        """Note an interruption, which ends the training after this step; a second one ends it at once."""
        self._interrupted = True
        self._give_back_the_handler()

    def _give_back_the_handler(self) -> None:
        if self._usual_handler is not None:
            signal.signal(signal.SIGINT, self._usual_handler)
            self._usual_handler = None

    def seconds(self) -> float:
        """Since the training began, earlier runs included."""
        return time.perf_counter() - self._begin

    def is_due(self) -> bool:
        """Whether to write now, between two steps."""
        late = time.perf_counter() - self._last > SECONDS_BETWEEN_CHECKPOINTS
        return self._checkpoint is not None and (late or self._interrupted)

    def write(self) -> None:
        """Keep the state, and then give way to an interruption."""
        if self._checkpoint is None:
            return
        self._progress.seconds = self.seconds()
        self._progress.history = self._history.to_dict()
        self._checkpoint.write({"procedure": self._procedure.state(), "progress": dict(vars(self._progress))})
        self._last = time.perf_counter()
        if self._interrupted:
            raise KeyboardInterrupt

    def kept_through(self, work: Callable[[], list[bool | None]]) -> list[bool | None]:
        """The results of work that is not the training's own: where it fails, what was learned before is not lost with it."""
        try:
            return work()
        except BaseException:
            self.write()
            raise
