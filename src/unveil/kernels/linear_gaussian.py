"""Linear Gaussian chains on packed sequences: the definition, in torch, by which the twin is judged.

A hidden state follows linear dynamics and is seen through a linear map, both with Gaussian noise:

    z_1 ~ N(m, P),   z_t = A z_{t-1} + w_t,   x_t = C z_t + d + v_t,   w_t ~ N(0, Q),   v_t ~ N(0, R).

NaN in x is missing: such an entry, or a step that has no other, says nothing and is integrated out exactly.

Forwards runs the Kalman filter, with Joseph's form of the update, which keeps covariances positive. Backwards runs the smoother of Bryson
and Frazier instead of that of Rauch, Tung and Striebel: the two give the same numbers, but the former inverts no predicted covariance, so
Q and P may be singular, as those of tracking often are. With the filtered mean f_t and covariance F_t it is

    E[z_t | x] = f_t + F_t r_t,   Cov[z_t | x] = F_t - F_t N_t F_t,

where r_t and N_t, which a recursion backwards gathers, are what the later observations say of the state.

Shapes: K states, D features, ``values`` (n_steps, D), ``offsets`` (n_sequences + 1,). Every function differentiates.

References
----------
Kalman (1960), A new approach to linear filtering and prediction problems.
Bryson and Frazier (1963), Smoothing for linear and nonlinear dynamic systems.
Durbin and Koopman (2012), Time series analysis by state space methods, chapter 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class LinearGaussian(NamedTuple):
    """The parameters of a chain.

    Attributes
    ----------
    transition : Tensor of shape (K, K)
        A.
    observation : Tensor of shape (D, K)
        C.
    offset : Tensor of shape (D,)
        d.
    transition_noise : Tensor of shape (K, K)
        Q, positive semidefinite.
    observation_noise : Tensor of shape (D, D)
        R, positive definite.
    initial_mean : Tensor of shape (K,)
        m.
    initial_covariance : Tensor of shape (K, K)
        P, positive semidefinite.
    """

    transition: Tensor
    observation: Tensor
    offset: Tensor
    transition_noise: Tensor
    observation_noise: Tensor
    initial_mean: Tensor
    initial_covariance: Tensor


@dataclass(frozen=True)
class Filtered:
    """What is known without the future.

    Attributes
    ----------
    log_densities : Tensor of shape (n_steps,)
        log p(x_t | x_1 .. x_{t-1}): 0 where all of x_t is missing.
    predicted_means, predicted_covariances : Tensor of shape (n_steps, K), (n_steps, K, K)
        Of z_t given x_1 .. x_{t-1}.
    means, covariances : Tensor of shape (n_steps, K), (n_steps, K, K)
        Of z_t given x_1 .. x_t.
    """

    log_densities: Tensor
    predicted_means: Tensor
    predicted_covariances: Tensor
    means: Tensor
    covariances: Tensor


@dataclass(frozen=True)
class Smoothed:
    """What is known with all of the sequence.

    Attributes
    ----------
    log_likelihood : Tensor of shape (n_sequences,)
        log p(x).
    means, covariances : Tensor of shape (n_steps, K), (n_steps, K, K)
        Of z_t given x.
    lagged : Tensor of shape (n_steps, K, K)
        Cov[z_t, z_{t-1} | x]: rows are z_t; zeros at the first step of a sequence.
    """

    log_likelihood: Tensor
    means: Tensor
    covariances: Tensor
    lagged: Tensor


@dataclass(frozen=True)
class Completed:
    """Observations with what the model expects in place of what is missing.

    Attributes
    ----------
    means : Tensor of shape (n_steps, D)
        E[x_t | what is observed].
    covariances : Tensor of shape (n_steps, D, D)
        Cov[x_t | what is observed]: zeros where x_t is observed.
    cross : Tensor of shape (n_steps, D, K)
        Cov[x_t, z_t | what is observed].
    """

    means: Tensor
    covariances: Tensor
    cross: Tensor


class _Step(NamedTuple):
    """One step of all the sequences that are still running; the longest come first."""

    rows: Tensor  # where in the packed layout each running sequence is
    predicted_mean: Tensor
    predicted_covariance: Tensor
    mean: Tensor
    covariance: Tensor
    log_density: Tensor
    score: Tensor  # C' S^-1 (x - E x), with S the covariance of x before it is seen
    information: Tensor  # C' S^-1 C
    contraction: Tensor  # I - G C, with the gain G = P C' S^-1


def log_likelihood(chain: LinearGaussian, values: Tensor, offsets: Tensor) -> Tensor:
    """log p(x) of each sequence, of shape (n_sequences,)."""
    steps = _forward(chain, values, offsets)
    return _sum_of_sequences(_packed(steps, "log_density"), offsets)


def filtered(chain: LinearGaussian, values: Tensor, offsets: Tensor) -> Filtered:
    """The Kalman filter."""
    steps = _forward(chain, values, offsets)
    fields = ("log_density", "predicted_mean", "predicted_covariance", "mean", "covariance")
    return Filtered(*(_packed(steps, each) for each in fields))


def smoothed(chain: LinearGaussian, values: Tensor, offsets: Tensor) -> Smoothed:
    """The Kalman filter, and the smoother of Bryson and Frazier."""
    steps = _forward(chain, values, offsets)
    eye, (n_sequences, n_states) = torch.eye(len(chain.transition)).to(values), steps[0].mean.shape
    r, n = eye.new_zeros(n_sequences, n_states), eye.new_zeros(n_sequences, n_states, n_states)
    passed = eye.new_zeros(0, n_states, n_states)  # Cov[z_{t+1}, z_t] F_t^-1 of the sequences that go on
    means, covariances, lagged = [], [], []
    for step in reversed(steps):
        running = len(step.rows)
        r = torch.cat([r[: len(passed)], r.new_zeros(running - len(passed), n_states)])
        n = torch.cat([n[: len(passed)], n.new_zeros(running - len(passed), n_states, n_states)])
        means.append(step.mean + _times(step.covariance, r))
        covariances.append(_symmetrized(step.covariance - step.covariance @ n @ step.covariance))
        lagged.append(passed @ step.covariance[: len(passed)])
        r = step.score + _times(step.contraction.mT, r)
        n = step.information + step.contraction.mT @ n @ step.contraction
        passed = (eye - step.predicted_covariance @ n) @ chain.transition
        r, n = r @ chain.transition, chain.transition.mT @ n @ chain.transition
    lagged.append(torch.zeros_like(passed))
    in_order = torch.cat([step.rows for step in steps]).argsort()
    back = [torch.cat(each[::-1])[in_order] for each in (means, covariances, lagged[1:])]
    return Smoothed(_sum_of_sequences(_packed(steps, "log_density"), offsets), *back)


def _forward(chain: LinearGaussian, values: Tensor, offsets: Tensor) -> list[_Step]:
    """Filter all sequences side by side, the longest first, so that those still running are always the first ones."""
    order = offsets.diff().argsort(descending=True, stable=True)
    lengths, first_rows = offsets.diff()[order], offsets[:-1][order]
    mean, covariance = chain.initial_mean.expand(len(order), -1), chain.initial_covariance.expand(len(order), -1, -1)
    steps = []
    for t in range(int(lengths[0])):
        running = int((lengths > t).sum())
        rows = (first_rows[:running] + t).to(values.device)
        if t > 0:
            mean = steps[-1].mean[:running] @ chain.transition.T
            covariance = chain.transition @ steps[-1].covariance[:running] @ chain.transition.T + chain.transition_noise
        steps.append(_observe(chain, rows, values[rows].to(chain.offset), mean, covariance))
    return steps


def _observe(chain: LinearGaussian, rows: Tensor, x: Tensor, mean: Tensor, covariance: Tensor) -> _Step:
    """Update predictions by observations; a missing entry is one that depends on nothing, of unit variance, which is not counted."""
    seen = ~x.isnan()
    observation = torch.where(seen[:, :, None], chain.observation, 0.0)
    noise = _where_both(seen, chain.observation_noise)
    surprise = torch.where(seen, x - (mean @ chain.observation.T + chain.offset), 0.0)
    factor = torch.linalg.cholesky(observation @ covariance @ observation.mT + noise)
    weighting = torch.cholesky_solve(observation, factor).mT  # C' S^-1
    gain = covariance @ weighting
    contraction = torch.eye(mean.shape[1]).to(mean) - gain @ observation
    white = torch.linalg.solve_triangular(factor, surprise[..., None], upper=False)[..., 0]
    log_determinant = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
    return _Step(
        rows=rows,
        predicted_mean=mean,
        predicted_covariance=covariance,
        mean=mean + _times(gain, surprise),
        covariance=_symmetrized(contraction @ covariance @ contraction.mT + gain @ noise @ gain.mT),
        log_density=-0.5 * (white.square().sum(1) + log_determinant + math.log(2 * math.pi) * seen.sum(1).to(mean)),
        score=_times(weighting, surprise),
        information=weighting @ observation,
        contraction=contraction,
    )


def completed(chain: LinearGaussian, values: Tensor, means: Tensor, covariances: Tensor) -> Completed:
    """The distribution of the observations given what is observed, for steps of which the smoothed state is given.

    Given z_t, what is missing of x_t depends on what is observed of it through H = R_mo R_oo^-1:

        x_m = d_m + C_m z + H (x_o - C_o z - d_o) + noise of covariance R_mm - H R_om.

    Parameters
    ----------
    chain : LinearGaussian
    values : Tensor of shape (n, D)
        Any steps.
    means, covariances : Tensor of shape (n, K), (n, K, K)
        Of their states, smoothed.
    """
    seen = ~values.isnan()
    missing = ~seen
    between = torch.where(missing[:, :, None] & seen[:, None, :], chain.observation_noise, 0.0)
    regression = torch.cholesky_solve(between.mT, torch.linalg.cholesky(_where_both(seen, chain.observation_noise))).mT
    slope = torch.where(missing[:, :, None], chain.observation - regression @ chain.observation, 0.0)
    residual = torch.where(seen, values - chain.offset, 0.0)
    intercept = torch.where(seen, values, chain.offset + _times(regression, residual))
    noise = torch.where(
        missing[:, :, None] & missing[:, None, :], chain.observation_noise - regression @ chain.observation_noise, 0.0
    )
    cross = slope @ covariances
    return Completed(intercept + _times(slope, means), _symmetrized(cross @ slope.mT + noise), cross)


def _where_both(seen: Tensor, matrix: Tensor) -> Tensor:
    """The matrix (D, D) for each row of ``seen`` (n, D), with those of the identity in place of the unseen rows and columns."""
    return torch.where(seen[:, :, None] & seen[:, None, :], matrix, torch.eye(len(matrix)).to(matrix))


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    return (matrices @ vectors[..., None])[..., 0]


def _symmetrized(matrices: Tensor) -> Tensor:
    return 0.5 * (matrices + matrices.mT)


def _packed(steps: list[_Step], field: str) -> Tensor:
    in_order = torch.cat([step.rows for step in steps]).argsort()
    return torch.cat([getattr(step, field) for step in steps])[in_order]


def _sum_of_sequences(per_step: Tensor, offsets: Tensor) -> Tensor:
    sequences = torch.arange(len(offsets) - 1).repeat_interleave(offsets.diff()).to(per_step.device)
    return per_step.new_zeros(len(offsets) - 1).index_add(0, sequences, per_step)
