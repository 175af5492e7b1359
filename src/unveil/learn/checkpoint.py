"""Trainings that survive: their whole state in one file, written so that there is always a whole one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from unveil.core.storage import read_model, write_model
from unveil.data.files import check_writable
from unveil.errors import InputError, ModelFileError

FILE, LOG = "training.safetensors", "log.jsonl"
CHANGEABLE = ("max_epochs", "verbose", "patience", "device")  # parameters that may differ when a training goes on


class Checkpoint:
    """A folder in which a training is kept.

    The file is written beside the old one, and takes its place only when it is safely on the disk: a process that is killed at any
    moment leaves a whole one.

    Parameters
    ----------
    folder : Path
        Made where it is not there.
    identity : dict
        What a checkpoint must have been made by: "estimator", "parameters" and "data".
    writes : bool
        Whether this process keeps states, or another that it learns with.

    Raises
    ------
    InputError
        When the folder cannot be written to.

    Examples
    --------
    >>> import tempfile
    >>> checkpoint = Checkpoint(Path(tempfile.mkdtemp()), {"estimator": "VAE"})
    >>> checkpoint.read() is None
    True
    >>> checkpoint.write({"epoch": 3, "losses": [2.5, 1.5]})
    >>> checkpoint.read()
    {'epoch': 3, 'losses': [2.5, 1.5]}
    """

    def __init__(self, folder: Path, identity: dict[str, Any], *, writes: bool = True):
        self.file, self.log, self.writes = folder / FILE, folder / LOG, writes
        self._identity = json.loads(json.dumps(identity))
        if writes:
            check_writable(self.file)
            for unfinished in folder.glob(f".{self.file.stem}-*{self.file.suffix}"):  # of a process that was killed
                unfinished.unlink(missing_ok=True)

    def write(self, state: dict[str, Any]) -> None:
        """Keep a state: nested dictionaries and lists of tensors, numbers and text."""
        if not self.writes:
            return
        tensors: dict[str, Tensor] = {}
        header = {"training": self._identity, "state": _without_tensors(state, "state", tensors)}
        write_model(self.file, header, tensors)

    def read(self) -> dict[str, Any] | None:
        """The state that was kept last; None where there is none.

        Raises
        ------
        ModelFileError
            When it was made by another model, with other settings, or from other data.
        """
        if not self.file.exists():
            return None
        header, tensors = read_model(self.file)
        if "training" not in header or "state" not in header:
            raise ModelFileError(f"{self.file}: not a checkpoint of a training; choose another folder")
        self._check(header["training"])
        return _with_tensors(header["state"], tensors)

    def _check(self, found: dict[str, Any]) -> None:
        """Make sure that the training which was kept is this one."""
        for what in ("estimator", "data"):
            theirs, mine = found.get(what), self._identity.get(what)
            if theirs != mine:
                raise ModelFileError(
                    f"{self.file}: a checkpoint of {what} {theirs}, not {mine}; choose another folder, or remove it"
                )
        mine, theirs = self._identity.get("parameters", {}), found.get("parameters", {})
        for name in sorted(mine.keys() | theirs.keys()):
            if name not in CHANGEABLE and mine.get(name) != theirs.get(name):
                raise ModelFileError(
                    f"{self.file}: a checkpoint with {name}={theirs.get(name)!r}, not {mine.get(name)!r}; "
                    "give the same settings to go on, or choose another folder"
                )


def _without_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """A nested state as JSON, with the names of tensors in their place."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, dict):
        return {"dict": [[key, _without_tensors(each, f"{path}.{key}", tensors)] for key, each in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [_without_tensors(each, f"{path}.{i}", tensors) for i, each in enumerate(value)]}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise InputError(f"cannot keep {path} of type {type(value).__name__} in a checkpoint; expected tensors, numbers and text")


def _with_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    kind, inner = next(iter(value.items()))
    if kind == "tensor":
        return tensors[inner]
    if kind == "list":
        return [_with_tensors(each, tensors) for each in inner]
    return {key: _with_tensors(each, tensors) for key, each in inner}
