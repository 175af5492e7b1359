"""What commands print: tables for people, JSON for programs, and progress."""

from __future__ import annotations

import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from unveil.errors import ParameterError

if TYPE_CHECKING:
    import numpy as np


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Make sure, before the work, that every result can be written and that none takes the place of what it is made from."""
    from unveil.data.files import check_writable

    inputs = list(inputs)
    for output in outputs:
        check_writable(output)
        if any(output.exists() and given.exists() and output.samefile(given) for given in inputs):
            raise ParameterError(f"{output}: would be written over, and is needed as input; choose another --out")


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["unveil", *sys.argv[1:]])


def print_json(value: Any) -> None:
    """Print a value as JSON; NaN becomes null."""
    typer.echo(as_json(value))


def as_json(value: Any) -> str:
    """A value as JSON; NaN becomes null."""
    return json.dumps(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_table(columns: list[str], rows: list[list[str]], title: str | None = None) -> None:
    """Print a table on standard output."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for index, column in enumerate(columns):  # names in one piece; the rest whole too, as a path that is cut off is of no use
        table.add_column(column, overflow="fold", no_wrap=index == 0)
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no edge at which words would have to break
        console = Console(width=max(console.width, console.measure(table, options=console.options.update(max_width=500)).maximum))
    console.print(table)


def check_numbers_file(path: Path | None, inputs: Iterable[Path], *, suffixes: tuple[str, ...] = (".npy", ".csv")) -> None:
    """Make sure, before the work, that ``write_numbers`` can write there; without a path it prints."""
    if path is None:
        return
    if path.suffix not in suffixes:
        raise ParameterError(f"--out {path}: expected a name that ends in {', '.join(suffixes[:-1])} or {suffixes[-1]}")
    check_outputs([path], inputs)


def write_numbers(path: Path | None, values: np.ndarray, columns: Iterable[str] = (), *, offsets: Any = ()) -> None:
    """Write numbers as .npy; as .npz, a table for each sequence between offsets; or as text, printed where there is no path."""
    import numpy as np

    from unveil.data.files import atomic_path

    if path is None:
        _save_text(sys.stdout, values, columns)
        return
    with atomic_path(path) as temporary:
        if path.suffix == ".npy":
            np.save(temporary, values)
        elif path.suffix == ".npz":
            inner = () if offsets is None else offsets[1:-1]  # of rows, one table
            np.savez(temporary, **{f"sequence{i}": each for i, each in enumerate(np.split(values, inner))})
        else:
            _save_text(temporary, values, columns)


def _save_text(target: Any, values: np.ndarray, columns: Iterable[str]) -> None:
    """A row on each line, after the names of the columns where there are any."""
    import numpy as np

    style = {"i": "%d", "u": "%d", "U": "%s"}.get(values.dtype.kind, "%.10g")
    header = ",".join(columns)
    np.savetxt(target, values.reshape(len(values), -1), fmt=style, delimiter=",", header=header, comments="", encoding="utf-8")


def decibels(value: float) -> str:
    """A level as people read it, a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:.1f} dB"


@contextmanager
def progress(title: str, *, quiet: bool = False) -> Iterator[Callable[[float], None]]:
    """A bar on a terminal, and a line every few seconds elsewhere; yields a function of the fraction that is done."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        last = time.monotonic()

        def tell(fraction: float) -> None:
            nonlocal last
            if not quiet and time.monotonic() - last > 5:
                last = time.monotonic()
                print(f"{title}: {fraction:.0%}", file=sys.stderr)

        yield tell
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda fraction: bar.update(task, completed=fraction)
