"""Checks of constructor parameters: each is a function (name, value) that raises ParameterError with the remedy."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unveil.errors import ParameterError

Check = Callable[[str, Any], None]


def integer(minimum: int) -> Check:
    """A whole number that is at least ``minimum``."""

    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
            raise ParameterError(f"{name}={value!r}: expected a whole number >= {minimum}")

    return check


def integer_or(minimum: int, *words: str) -> Check:
    """A whole number that is at least ``minimum``, or one of some words."""

    def check(name: str, value: Any) -> None:
        if not (isinstance(value, str) and value in words):
            try:
                integer(minimum)(name, value)
            except ParameterError as error:
                raise ParameterError(f"{error} or {', '.join(map(repr, words))}") from None

    return check


def real(minimum: float, maximum: float = math.inf, *, open_below: bool = False) -> Check:
    """A finite number in [minimum, maximum], or above ``minimum`` when open below."""

    def check(name: str, value: Any) -> None:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
        inside = minimum <= number <= maximum and math.isfinite(number) and not (open_below and number == minimum)
        if not inside:
            above = f"> {minimum}" if open_below else f">= {minimum}"
            below = "" if maximum == math.inf else f" and <= {maximum}"
            raise ParameterError(f"{name}={value!r}: expected a number {above}{below}")

    return check


def choice(*options: Any) -> Check:
    """One of the given values."""

    def check(name: str, value: Any) -> None:
        plain = str(value) if isinstance(value, str) else value  # numpy's strings are strings
        if not any(plain is option or (type(plain) is type(option) and plain == option) for option in options):
            raise ParameterError(f"{name}={value!r}: expected one of {', '.join(map(repr, options))}")

    return check


def optional(check: Check) -> Check:
    """None, or what ``check`` accepts."""

    def check_unless_none(name: str, value: Any) -> None:
        if value is not None:
            check(name, value)

    return check_unless_none


def boolean(name: str, value: Any) -> None:
    """True or False (or 0 or 1)."""
    if value not in (True, False):
        raise ParameterError(f"{name}={value!r}: expected True or False")


def as_shape(name: str, value: Any, shape: tuple[int, ...]) -> Tensor:
    """A float64 copy of a starting value, after making sure of its shape and that it is finite."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"{name} holds what is not a number ({error}); expected numbers of shape {tuple(shape)}") from error
    if array.shape != tuple(shape):
        raise ParameterError(f"{name} has shape {array.shape}; expected {tuple(shape)}")
    if not np.isfinite(array).all():
        raise ParameterError(f"{name} holds NaN or infinity; expected finite numbers")
    return torch.from_numpy(array.copy())


def as_probabilities(name: str, value: Any, shape: tuple[int, ...]) -> Tensor:
    """The same for probabilities along the last axis."""
    probabilities = as_shape(name, value, shape)
    sums = probabilities.sum(-1)
    if (probabilities < 0).any() or not torch.allclose(sums, torch.ones_like(sums), rtol=0, atol=1e-6):
        raise ParameterError(f"{name} has sums {sums.tolist()} along its last axis; expected probabilities that sum to 1")
    return probabilities / sums[..., None]


def as_covariances(name: str, value: Any, shape: tuple[int, ...], covariance_type: str) -> Tensor:
    """The same for covariances or precisions: positive definite matrices, or positive variances."""
    matrices = as_shape(name, value, shape)
    if covariance_type in ("diag", "spherical"):
        if (matrices <= 0).any():
            raise ParameterError(f"{name} holds a number that is not positive; expected positive ones")
    elif not torch.allclose(matrices, matrices.mT) or (torch.linalg.cholesky_ex(matrices).info > 0).any():
        raise ParameterError(f"{name} is not symmetric and positive definite; check it")
    return matrices
