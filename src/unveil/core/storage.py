"""A model in one file: tensors in the safetensors format, everything else as JSON in its header. Nothing is ever unpickled."""

from __future__ import annotations

import json
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
from torch import Tensor

from unveil.data.files import atomic_path
from unveil.errors import ModelFileError

FORMAT = 1
HEADER_KEY = "unveil"


def write_model(path: str | os.PathLike, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a header that JSON can hold and tensors, atomically."""
    text = json.dumps({"format": FORMAT, "versions": library_versions(), **header})
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    payload = safetensors.torch.save(contiguous, metadata={HEADER_KEY: text})
    with atomic_path(path) as temporary:
        temporary.write_bytes(payload)


def read_model(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what ``write_model`` wrote.

    Raises
    ------
    ModelFileError
        When the file is missing, cut short, of another kind or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: no such model file; check the name")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is not a dict)
        header = json.loads(metadata[HEADER_KEY])
    except safetensors.SafetensorError as error:
        raise ModelFileError(f"{path}: damaged or not a model file ({error}); save or copy the model again") from error
    except (KeyError, json.JSONDecodeError) as error:
        raise ModelFileError(f"{path}: a safetensors file, but not one that Unveil wrote; expected a saved estimator") from error
    if not isinstance(header, dict) or not isinstance(header.get("format"), int):
        raise ModelFileError(f"{path}: a safetensors file, but not one that Unveil wrote; expected a saved estimator")
    if header["format"] > FORMAT:
        raise ModelFileError(f"{path}: written by a newer Unveil (format {header['format']} > {FORMAT}); upgrade Unveil")
    return header, tensors


def library_versions() -> dict[str, str]:
    """The versions of the libraries that a result depends on."""
    found = {}
    for name in ("unveil", "torch", "numpy", "scikit-learn", "numba"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def as_json(name: str, value: Any) -> Any:
    """A constructor parameter as JSON can hold it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple, set, frozenset)):
        return [as_json(name, each) for each in value]
    if isinstance(value, dict):
        return {str(key): as_json(name, each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise ModelFileError(
        f"cannot save the parameter {name}={value!r} of type {type(value).__name__}; use numbers, strings or arrays"
    )
