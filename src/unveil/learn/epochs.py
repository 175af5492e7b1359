"""Callbacks of learning in epochs: a live table of losses, a log that programs read, and TensorBoard."""

from __future__ import annotations

import json
import os
import time
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from unveil.data.files import atomic_path
from unveil.errors import InputError
from unveil.learn.training import Epoch

SHOWN = 8  # epochs in the live table


class EpochBar:
    """A bar over a table of the last epochs' losses on a terminal, a plain line every few seconds elsewhere.

    Parameters
    ----------
    title : str or None
        What is learned; None shows nothing.
    plain_every : float
        Seconds between lines where there is no terminal.
    """

    def __init__(self, title: str | None, *, plain_every: float = 5.0, console: Console | None = None):
        self._title, self._plain_every, self._last_line = title, plain_every, time.monotonic()
        self._console = console or Console(stderr=True)
        self._epochs: list[Epoch] = []
        self._live: Live | None = None
        if title is not None and self._console.is_terminal:
            columns = [
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            ]
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task(title, total=None)
            self._live = Live(self._bar, console=self._console, transient=True, refresh_per_second=4)

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, epoch: Epoch) -> None:
        """Show one epoch."""
        if self._title is None:
            return
        if self._live:
            self._epochs = [*self._epochs, epoch][-SHOWN:]
            self._bar.update(self._task, completed=epoch.number + 1, total=epoch.max_epochs)
            self._live.update(Group(self._table(), self._bar))
        elif epoch.number == 0 or time.monotonic() - self._last_line > self._plain_every:
            self._last_line = time.monotonic()
            said = ", ".join(f"{name} {value:.6g}" for name, value in numbers_of(epoch).items())
            self._console.print(
                f"{self._title}: epoch {epoch.number + 1}/{epoch.max_epochs}: {said}", highlight=False, soft_wrap=True
            )

    def _table(self) -> Table:
        names = list(numbers_of(self._epochs[-1]))
        table = Table("epoch", *names, box=None, header_style="dim")
        for epoch in self._epochs:
            numbers = numbers_of(epoch)
            table.add_row(str(epoch.number + 1), *(f"{numbers[name]:.5g}" if name in numbers else "" for name in names))
        return table


class JsonLines:
    """A line of JSON for each epoch, added to a file; epochs that are made again, after a training was cut off, replace their lines."""

    def __init__(self, path: str | os.PathLike):
        self._path, self._begun = Path(path), False

    def __call__(self, epoch: Epoch) -> None:
        """Write one epoch."""
        facts: dict[str, Any] = {"epoch": epoch.number + 1, **numbers_of(epoch), "seconds": epoch.seconds, "waiting": epoch.waiting}
        try:
            if not self._begun and self._path.exists():
                self._forget(facts["epoch"])
            self._begun = True
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(facts) + "\n")
        except OSError as error:
            raise InputError(
                f"{self._path}: cannot write the log ({error.strerror}); free space, or choose another folder"
            ) from error

    def _forget(self, epoch: int) -> None:
        """Drop what an earlier run has written of this epoch and later ones, or only begun to write."""
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("}\n") and json.loads(line)["epoch"] < epoch]
        with atomic_path(self._path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")


class TensorBoard:
    """The losses as events for TensorBoard, which has to be installed.

    Parameters
    ----------
    folder : path
        Where to write; ``tensorboard --logdir`` reads it.
    """

    def __init__(self, folder: str | os.PathLike):
        try:
            self._writer = import_module("torch.utils.tensorboard").SummaryWriter(os.fspath(folder))
        except ImportError as error:
            raise InputError("TensorBoard is not installed; pip install tensorboard") from error

    def __call__(self, epoch: Epoch) -> None:
        """Write one epoch."""
        for name, value in numbers_of(epoch).items():
            self._writer.add_scalar(name, value, epoch.number + 1)
        self._writer.flush()


def numbers_of(epoch: Epoch) -> dict[str, float]:
    """The losses of an epoch by name, those on held-out data beside them."""
    return epoch.parts | {f"held-out {name}": value for name, value in epoch.validation.items()}
