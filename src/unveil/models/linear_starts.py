"""First states for linear dynamics, from which learning starts: principal components of windows of the data."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unveil.data.batch import Batches

START_STEPS = 50_000  # a start needs no more of the data than this, however much there is
_SMALLEST = 1e-10  # principal components with less of the largest variance are nothing but rounding


def some_sequences(batches: Batches, n_steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Whole sequences, drawn until they have ``n_steps`` steps (then they are cut): the same ones however the source is cut into batches.

    Returns
    -------
    values : Tensor of shape (n, D), float64
    weights : Tensor of shape (n,)
        Of the sequence that each step is in.
    first : Tensor of shape (n,), bool
        Where sequences begin.
    """
    lengths = torch.ones(batches.n_steps) if batches.offsets is None else torch.from_numpy(np.diff(batches.offsets))
    order = torch.randperm(batches.n_sequences, generator=generator)
    n_chosen = int((lengths[order].cumsum(0) < n_steps).sum()) + 1
    chosen = torch.zeros(batches.n_sequences, dtype=torch.bool)
    chosen[order[:n_chosen]] = True
    values, weights, first = [], [], []
    for batch in batches:
        wanted = chosen[batch.start : batch.start + batch.n_sequences].repeat_interleave(batch.lengths)
        begins = torch.zeros(batch.n_steps, dtype=torch.bool)
        begins[batch.offsets[:-1]] = True
        here = wanted.to(batch.values.device)
        values.append(batch.values.contiguous()[here].double())
        weights.append(torch.ones_like(values[-1][:, 0]) if batch.step_weights is None else batch.step_weights[here].double())
        first.append(begins[wanted].to(here.device))
    return torch.cat(values)[:n_steps], torch.cat(weights)[:n_steps], torch.cat(first)[:n_steps]


def mean_of(values: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean (D,) of what is there of values (n, D); 0 where there is nothing."""
    counted = weights[:, None] * ~values.isnan()
    return (values.nan_to_num() * counted).sum(0) / counted.sum(0).clamp_min(torch.finfo(values.dtype).tiny)


def scatter_of(values: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean (D, D) of the products of values (n, D) with themselves; zeros where there are none."""
    return (values * weights[:, None]).T @ values / weights.sum().clamp_min(torch.finfo(values.dtype).tiny)


def regression_of(targets: Tensor, regressors: Tensor, weights: Tensor) -> Tensor:
    """The matrix (D, K) that maps regressors (n, K) to targets (n, D) with the least squared error."""
    return scatter_of(torch.cat([targets, regressors], 1), weights)[: targets.shape[1], targets.shape[1] :] @ torch.linalg.pinv(
        scatter_of(regressors, weights), hermitian=True
    )


def interpolated(values: Tensor, first: Tensor) -> Tensor:
    """Centred values (n, D) with straight lines over what is missing; zero where a column of a sequence has nothing."""
    filled = values.cpu().numpy().copy()
    edges = [*np.flatnonzero(first.cpu().numpy()), len(filled)]
    missing = np.isnan(filled)
    incomplete = np.logical_or.reduceat(missing.any(1), edges[:-1])
    for n in np.flatnonzero(incomplete):
        rows = slice(edges[n], edges[n + 1])
        for column, gaps in zip(filled[rows].T, missing[rows].T, strict=True):
            there = np.flatnonzero(~gaps)
            column[gaps] = np.interp(np.flatnonzero(gaps), there, column[there]) if len(there) else 0.0
    return torch.from_numpy(filled).to(values.device)


def principal_states(values: Tensor, weights: Tensor, first: Tensor, n_states: int) -> Tensor:
    """States (n, K) of unit variance: principal components of windows, each a step and those that follow it.

    A window is long enough to tell 2 K states apart, if they can be told apart at all; where a sequence ends its last step is repeated.
    """
    n_steps, n_features = values.shape
    sequence = first.cumsum(0) - 1
    end = torch.cat([first.nonzero()[1:, 0], torch.tensor([n_steps], device=first.device)])[sequence] - 1
    steps = torch.arange(n_steps, device=first.device)
    length = max(2, -(-2 * n_states // n_features))
    windows = torch.cat([values[torch.minimum(steps + ahead, end)] for ahead in range(length)], 1)
    windows = windows - mean_of(windows, weights)
    variances, directions = torch.linalg.eigh(scatter_of(windows, weights))
    largest = variances[-1].clamp_min(torch.finfo(values.dtype).tiny)
    return windows @ directions[:, -n_states:] * variances[-n_states:].clamp_min(_SMALLEST * largest).rsqrt()


def stable(transition: Tensor, radius: float) -> Tensor:
    """The matrix, shrunk where an eigenvalue is further from zero than ``radius``."""
    return transition * (radius / torch.linalg.eigvals(transition).abs().max()).clamp_max(1.0)
