"""Checks of the values of options, and one-line errors for files that cannot be read."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from unveil.errors import InputError, ParameterError


def check_choice(option: str, value, choices: Iterable) -> None:
    """Refuse what is not one of the choices."""
    if value not in (choices := list(choices)):
        raise ParameterError(f"expected {option} to be one of {', '.join(map(str, choices))}; got {value!r}")


def check_count(option: str, value) -> None:
    """Refuse what is neither a positive integer nor None."""
    if value is not None and not is_count(value):
        raise ParameterError(f"expected {option} to be a positive integer or None; got {value!r}")


def is_count(value, least: int = 1) -> bool:
    """Whether a value is an integer, and at least so large."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= least


def selection(option: str, values, choices: Iterable) -> list:
    """The chosen values in the given order, each once; all of them for None."""
    choices = list(choices)
    if values is None:
        return choices
    shown = ", ".join(map(str, choices[:12])) + (f", … ({len(choices)} in all)" if len(choices) > 12 else "")
    chosen = list(dict.fromkeys([values] if isinstance(values, (str, int, np.integer)) else values))
    if not chosen:
        raise ParameterError(f"expected {option} to name at least one of {shown}; got none")
    for value in chosen:
        if value not in choices:
            raise ParameterError(f"expected {option} among {shown}; got {value!r}")
    return chosen


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Name the file when its text or its gzipped bytes cannot be read."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file; unpack it, or get it again") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: cannot be unpacked ({error}); get it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the name") from error
