"""Kernel densities around samples, and the bandwidth under which held-out data is likeliest."""

from __future__ import annotations

import math
import warnings
from numbers import Real

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from unveil.errors import ConvergenceWarning, InputError, ParameterError
from unveil.metrics.distances import centred_tables, distance_blocks


def validated_bandwidth(option: str, validation: ArrayLike | None, samples: ArrayLike, grid: ArrayLike | None) -> float:
    """The bandwidth of the grid, or of the default one and a finer one about its best, under which validation data is likeliest."""
    if option != "validated":
        raise ParameterError(f"bandwidth={option!r}: expected a positive number or 'validated'")
    if validation is None:
        raise InputError(
            "validation: a validated bandwidth needs held-out data that is not in reference; give some, or a bandwidth"
        )
    validation, samples = centred_tables(validation=validation, samples=samples)
    if grid is not None:
        return _best_bandwidth(validation, samples, np.sort(np.ravel(grid)))
    spread = float(validation.double().square().mean().sqrt()) or 1.0
    coarse = np.geomspace(1e-3, 10.0, 17) * spread
    best, step = _best_bandwidth(validation, samples, coarse), coarse[1] / coarse[0]
    return _best_bandwidth(validation, samples, np.geomspace(best / step, best * step, 15))


def _best_bandwidth(validation: Tensor, samples: Tensor, grid: np.ndarray) -> float:
    if not len(grid):
        raise ParameterError("grid: expected bandwidths to choose from, got none")
    for bandwidth in grid:
        check_positive("grid", bandwidth)
    best = int(log_densities(validation, samples, grid).mean(1).argmax())
    if best in (0, len(grid) - 1) and len(grid) > 1:
        end = "smallest" if best == 0 else "largest"
        warnings.warn(
            f"the {end} bandwidth tried, {grid[best]:.3g}, is the best; give a wider grid, and look for validation points in the samples",
            ConvergenceWarning,
            stacklevel=4,
        )
    return float(grid[best])


def log_densities(points: Tensor, samples: Tensor, bandwidths: ArrayLike) -> Tensor:
    """log (1/n) sum_i N(x; s_i, h^2 I) for each bandwidth h and each point x, of shape (n_bandwidths, n_points), float64."""
    n_samples, n_features = samples.shape
    found = torch.empty(len(bandwidths), len(points), dtype=torch.float64, device=points.device)
    for rows, squared in distance_blocks(points, samples):
        least = squared.amin(1, keepdim=True)
        squared -= least  # so that the largest kernel is 1, and the rest small enough for float32
        for k, bandwidth in enumerate(bandwidths):
            kernels = torch.exp(squared * (-0.5 / bandwidth**2)).sum(1, dtype=torch.float64)
            found[k, rows] = kernels.log() - least[:, 0].double() / (2 * bandwidth**2)
    scales = torch.as_tensor(np.asarray(bandwidths, dtype=np.float64), device=points.device)
    return found - math.log(n_samples) - n_features * (scales[:, None].log() + math.log(2 * math.pi) / 2)


def check_positive(name: str, value: float) -> None:
    """ParameterError unless the value is a positive number."""
    if not isinstance(value, Real) or not 0 < value < math.inf:
        raise ParameterError(f"{name}={value!r}: expected a positive number")
