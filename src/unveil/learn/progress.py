"""Progress of long fits, for people to look at: a callback for the learners."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from unveil.learn.em import Progress as Iteration


class ProgressBar:
    """A bar on a terminal, a plain line every few seconds elsewhere; use it as a context manager and as a callback.

    Parameters
    ----------
    title : str
        What is going on.
    quiet : bool
        Show nothing.
    every : int
        Show every so many iterations.
    plain_every : float
        Seconds between lines where there is no terminal.
    """

    def __init__(
        self, title: str, *, quiet: bool = False, every: int = 1, plain_every: float = 5.0, console: Console | None = None
    ):
        self._title, self._every, self._plain_every = title, every, float("inf") if quiet else plain_every
        self._console = console or Console(stderr=True)
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
        shown = TextColumn("{task.fields[objective]}")
        self._bar = (
            Progress(*columns, shown, console=self._console, transient=True) if self._console.is_terminal and not quiet else None
        )
        self._task = self._bar.add_task(title, total=None, objective="") if self._bar else None
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, iteration: Iteration) -> None:
        """Show one iteration."""
        if iteration.iteration % self._every:
            return
        objective = "" if math.isnan(iteration.objective) else f"{iteration.objective:.6g} nats/step"
        done = iteration.iteration + 1
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done, total=iteration.max_iter, objective=objective)
        elif time.monotonic() - self._last_line > self._plain_every:
            self._last_line = time.monotonic()
            self._console.print(f"{self._title}: {done}/{iteration.max_iter} {objective}", highlight=False)
