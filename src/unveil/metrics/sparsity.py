"""How sparse codes are: Hoyer's measure."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike

from unveil.errors import IdentifiabilityWarning, InputError


def hoyer(codes: ArrayLike, axis: int = -1, *, scaled: bool = False) -> np.ndarray:
    r"""Hoyer's sparsity of each code: 1 where a single dimension is used, 0 where all are used alike.

    .. math:: \frac{\sqrt D - \|z\|_1 / \|z\|_2}{\sqrt D - 1}

    The scale of a code does not matter, but that of its dimensions relative to one another does. Where a model leaves these scales
    free (the prior variances of sparse dictionary models are), a few dimensions of large variance look like sparsity: read the
    scaled figure beside the raw one. Nor is a collapsed posterior, which uses few dimensions, a sparse one.

    Parameters
    ----------
    codes : array_like
        Codes z of any shape, with D >= 2 dimensions along ``axis``.
    axis : int
    scaled : bool
        First divide each dimension by its root mean square over all codes; one that is zero throughout stays so.

    Returns
    -------
    ndarray of the shape of ``codes`` without ``axis``
        In [0, 1]; NaN, with a warning, for a code that is zero.

    Raises
    ------
    InputError
        When codes are not real and finite, or have fewer than two dimensions.

    References
    ----------
    .. [1] P. O. Hoyer, "Non-negative matrix factorization with sparseness constraints", JMLR 5, 2004.

    Examples
    --------
    >>> hoyer([[0.0, 0.0, -3.0, 0.0], [1.0, -1.0, 1.0, 1.0]]).tolist()
    [1.0, 0.0]
    >>> hoyer([[9.0, 1.0], [-9.0, 1.0]], scaled=True).round(12).tolist()
    [0.0, 0.0]
    """
    codes = _codes(codes, axis)
    if scaled:
        codes = _unit_power(codes)
    peak = np.abs(codes).max(axis=-1, keepdims=True, initial=0)
    codes = np.abs(codes) / np.where(peak > 0, peak, 1)  # squares of very small or large numbers would be lost
    used = codes.any(axis=-1)
    if not used.all():
        warnings.warn(
            f"{(~used).sum()} of {used.size} codes are zero, and have no sparsity: NaN; leave them out of means (numpy.nanmean)",
            IdentifiabilityWarning,
            stacklevel=2,
        )
    root = np.sqrt(codes.shape[-1])
    with np.errstate(invalid="ignore"):  # 0 / 0
        sparsity = (root - codes.sum(axis=-1) / np.linalg.norm(codes, axis=-1)) / (root - 1)
    return np.clip(sparsity, 0, 1)  # against rounding


def _unit_power(codes: np.ndarray) -> np.ndarray:
    """Each dimension over its root mean square."""
    items = codes.reshape(-1, codes.shape[-1])
    peak = np.abs(items).max(axis=0, initial=0)
    items = items / np.where(peak > 0, peak, 1)
    power = np.square(items).mean(axis=0)
    return (items / np.sqrt(np.where(power > 0, power, 1))).reshape(codes.shape)


def _codes(codes: ArrayLike, axis: int) -> np.ndarray:
    """The codes as float64, with their dimensions on the last axis."""
    codes = np.asarray(codes)
    if codes.dtype.kind not in "biuf" or not np.isfinite(codes).all():
        raise InputError("codes: expected real and finite numbers; leave out those that are NaN or infinite")
    if not codes.size or not -codes.ndim <= axis < codes.ndim or codes.shape[axis] < 2:
        raise InputError(f"codes: expected two dimensions or more along axis {axis}, got shape {codes.shape}; choose another axis")
    return np.moveaxis(codes, axis, -1).astype(np.float64)
