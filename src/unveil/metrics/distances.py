"""Distances between the rows of two tables, a block at a time, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from unveil.errors import InputError

BLOCK = 1 << 22  # distances that are in memory at a time


def nearest_rows(points: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest other point of each point, and its distance, from the difference itself: that of a copy is exactly 0."""
    nearest = torch.cat([distances.argmin(1) for _, distances in distance_blocks(points, others)])
    blocks = zip(points.split(4096), nearest.split(4096), strict=True)
    return nearest, torch.cat([(block.double() - others[found].double()).norm(dim=1) for block, found in blocks])


def distance_blocks(points: Tensor, others: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Squared distances |x|^2 + |y|^2 - 2 x'y, some rows at a time; rounding makes some negative, which become 0."""
    squares = others.square().sum(1)
    step = max(1, BLOCK // len(others))
    for start in range(0, len(points), step):
        block = points[start : start + step]
        distances = torch.addmm(squares, block, others.T, alpha=-2).add_(block.square().sum(1, keepdim=True))
        yield slice(start, start + step), distances.clamp_min_(0)


def centred_tables(**tables: ArrayLike) -> list[Tensor]:
    """The tables as float32, about the mean of the first: far from zero, the Gram matrix would leave nothing of a distance."""
    checked = list(real_tables(**tables).values())
    mean = checked[0].mean(0, dtype=torch.float64)
    return [(table - mean.to(table.dtype)).float() for table in checked]


def real_tables(**tables: ArrayLike) -> dict[str, Tensor]:
    """The tables as float32 or float64 tensors, after making sure that they are finite and have the same columns."""
    checked = {name: _table(name, values) for name, values in tables.items()}
    widths = {name: table.shape[1] for name, table in checked.items()}
    if len(set(widths.values())) > 1:
        raise InputError(f"expected the same number of columns, got {', '.join(f'{n} of {name}' for name, n in widths.items())}")
    return checked


def _table(name: str, values: ArrayLike) -> Tensor:
    table = values.detach() if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    if table.ndim != 2 or not table.numel():
        raise InputError(
            f"{name}: expected a table of shape (n, n_features), got {tuple(table.shape)}; flatten each item into a row"
        )
    if table.is_complex():
        raise InputError(f"{name}: expected real numbers, got {table.dtype}; give real ones")
    table = table if table.dtype == torch.float32 else table.double()
    if not torch.isfinite(table).all():
        raise InputError(f"{name}: expected finite numbers, got NaN or infinity; leave those rows out")
    return table
