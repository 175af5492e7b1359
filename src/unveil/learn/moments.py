"""The method of moments: parameters whose moments are those of the data.

Moments are additive statistics: a pass over the data, in memory or on disk, and then a solve. There is no start to be lucky with, and
one pass instead of many; EM from there makes the estimate efficient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unveil.core.statistics import Statistics, identity
from unveil.data.batch import Batch, Batches
from unveil.kernels.simplex_fista import fit_weights
from unveil.kernels.spectral_mixtures import MeanSpace, ThreeViews, mean_space, spherical_mixture, three_view_mixture, three_views
from unveil.learn.reduce import Reduce, serial

Features = Callable[[Batch], Tensor]


# ---------------------------------------------------------------------------------------------------------------------
# Any model
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MomentMatch:
    """Parameters that match moments.

    Attributes
    ----------
    parameters : Tensor, shaped as the start
    residual : float
        The largest difference that is left between a moment of the model and of the data.
    """

    parameters: Tensor
    residual: float


def match_moments(moments: Callable[[Tensor], Tensor], observed: Any, start: Any, *, positive: bool = False) -> MomentMatch:
    """The parameters theta with E_theta[f(x)] nearest to the mean of f over the data, in the least-squares sense.

    Parameters
    ----------
    moments : callable
        From parameters to the model's moments E_theta[f(x)], in differentiable torch operations.
    observed : array-like of shape (n_moments,)
        The data's moments; at least as many as parameters.
    start : array-like of shape (n_parameters,)
        Where the search begins.
    positive : bool
        Whether all parameters are positive.

    Examples
    --------
    The gamma distribution with shape a and scale s has E[x] = a s and E[x^2] = a (a + 1) s^2:

    >>> x = torch.tensor([2.0, 4.0, 6.0, 12.0])
    >>> def gamma(theta):
    ...     shape, scale = theta
    ...     return torch.stack([shape * scale, shape * (shape + 1) * scale**2])
    >>> found = match_moments(gamma, [x.mean(), x.square().mean()], [1.0, 1.0], positive=True)
    >>> [round(value, 6) for value in found.parameters.tolist()]  # mean^2 / variance, and variance / mean
    [2.571429, 2.333333]
    """
    from scipy.optimize import least_squares

    observed = torch.as_tensor(observed, dtype=torch.float64)
    scale = observed.abs().clamp_min(1e-12)
    free = torch.as_tensor(start, dtype=torch.float64)
    free = free.log() if positive else free

    def parameters(values) -> Tensor:
        values = torch.as_tensor(values, dtype=torch.float64)
        return values.exp() if positive else values

    def difference(values) -> Tensor:
        return (moments(parameters(values)) - observed) / scale

    slope = torch.func.jacrev(difference)
    found = least_squares(
        lambda v: difference(v).numpy(),
        free.numpy(),
        jac=lambda v: slope(torch.from_numpy(v)).numpy(),  # pyright: ignore[reportArgumentType]  (its default is a string)
        xtol=1e-14,
        ftol=1e-14,
        gtol=1e-14,
    )
    best = parameters(found.x)
    return MomentMatch(best, float((moments(best) - observed).abs().max()))


# ---------------------------------------------------------------------------------------------------------------------
# Mixtures of spherical Gaussians
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SecondMoments(Statistics):
    """Sums of weights, of y and of y y' over the steps, y = x - center."""

    weight: float
    first: Tensor
    second: Tensor
    center: Tensor = identity()


@dataclass(frozen=True)
class ThirdMoments(Statistics):
    """Sums over the steps of y (x) y (x) y, and of y times the mean square along directions of noise; y are K whitened coordinates."""

    weight: float
    third: Tensor
    noise: Tensor


@dataclass(frozen=True)
class MixtureEstimate:
    """A mixture from moments.

    Attributes
    ----------
    weights : Tensor of shape (K,)
    means : Tensor of shape (K, D)
        Of the data, or of its features.
    noise_variance : float
        Of a spherical Gaussian; NaN for other families.
    spectrum : Tensor
        The eigenvalues, or singular values, whose gap after the first K - 1 (or K) says that there are K components.
    noise_level : float
        What a value of the spectrum has to be above to be more than noise.
    """

    weights: Tensor
    means: Tensor
    noise_variance: float
    spectrum: Tensor
    noise_level: float


def match_spherical_gaussians(batches: Batches, n_components: int, center: Tensor, *, reduce: Reduce = serial) -> MixtureEstimate:
    """Weights and means of K <= D spherical Gaussians from moments up to the third (Hsu and Kakade, 2013), in two passes.

    Parameters
    ----------
    batches : Batches
        Of steps; the order of the steps does not matter.
    n_components : int
        K.
    center : Tensor of shape (D,)
        Near the data: raw moments of data far from zero cancel.
    """
    total = reduce(lambda batch: _second_moments(batch, center), batches)
    mean = total.first / total.weight
    covariance = total.second / total.weight - torch.outer(mean, mean)
    space = mean_space(mean + center, covariance, n_components)
    sums = reduce(lambda batch: _third_moments(batch, mean + center, space), batches)
    weights, means = spherical_mixture(space, sums.third / sums.weight, sums.noise / sums.weight)
    # The edge of Marchenko and Pastur: eigenvalues of pure noise stay below it.
    edge = space.noise_variance * (1 + (len(mean) / max(total.weight, 1.0)) ** 0.5) ** 2
    return MixtureEstimate(weights, means, max(space.noise_variance, 0.0), space.eigenvalues, edge)


def _second_moments(batch: Batch, center: Tensor) -> SecondMoments:
    centred = batch.values.double() - center
    weighted = _weighted(centred, batch)
    return SecondMoments(batch.total_weight, weighted.sum(0), weighted.T @ centred, center)


def _third_moments(batch: Batch, mean: Tensor, space: MeanSpace) -> ThirdMoments:
    values = batch.values.double()
    whitened = (values - space.origin) @ space.whitener
    noise = ((values - mean) @ space.noise_directions).square().mean(1)
    weighted = _weighted(whitened, batch)
    return ThirdMoments(batch.total_weight, _triple_sum(weighted, whitened, whitened), weighted.T @ noise)


def _triple_sum(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """sum_n a_n (x) b_n (x) c_n, of shape (K, K, K), as one matrix product."""
    size = a.shape[1]
    pairs = (a[:, :, None] * b[:, None, :]).flatten(1)
    return (pairs.T @ c).view(size, size, size)


def _weighted(rows: Tensor, batch: Batch) -> Tensor:
    weights = batch.step_weights
    return rows if weights is None else rows * weights.double()[:, None]


# ---------------------------------------------------------------------------------------------------------------------
# Three successive steps as three views of a state
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ViewMoments(Statistics):
    """Sums of f_2, f_2 f_2', f_1 f_2', f_1 f_3' and f_2 f_3' over all runs of three steps, and of their weights."""

    weight: float
    first: Tensor
    p22: Tensor
    p12: Tensor
    p13: Tensor
    p23: Tensor


@dataclass(frozen=True)
class TripleMoments(Statistics):
    """Sums of the outer products of three whitened views."""

    weight: float
    third: Tensor


def match_three_views(batches: Batches, n_states: int, features: Features, *, reduce: Reduce = serial) -> MixtureEstimate:
    """Means of features given the state of a hidden Markov model with S <= F states, from three successive steps, in two passes.

    Parameters
    ----------
    batches : Batches
        Of sequences with at least three steps, at least some of them.
    n_states : int
        S.
    features : callable
        From a batch to features (n_steps, F) of its steps; indicators of symbols, whose means are their probabilities.
    """
    total = reduce(lambda batch: _view_moments(features(batch), batch), batches)
    n_triples = max(total.weight, 1.0)
    views = three_views(total.p12 / n_triples, total.p13 / n_triples, total.p23 / n_triples, n_states)
    sums = reduce(lambda batch: _triple_moments(features(batch), batch, views), batches)
    _, means = three_view_mixture(views, sums.third / n_triples)
    weights = fit_weights(total.first / n_triples, means.T)  # much less noisy than those of the third moments
    # What n products of independent views have for their largest singular value (matrix Bernstein, without its logarithm).
    spread = total.p22 / n_triples
    noise_level = 2 * float(spread.trace() * torch.linalg.matrix_norm(spread, 2) / n_triples) ** 0.5
    return MixtureEstimate(weights, means, float("nan"), views.singular_values, noise_level)


def _triples(batch: Batch) -> tuple[Tensor, Tensor]:
    """The first step (n,) of each run of three steps of one sequence, and its weight."""
    sequence = batch.sequence_of_step
    first = (sequence[2:] == sequence[:-2]).nonzero()[:, 0]
    weights = batch.step_weights
    return first, torch.ones(len(first), dtype=torch.float64) if weights is None else weights.double()[first]


def _view_moments(features: Tensor, batch: Batch) -> ViewMoments:
    start, weights = _triples(batch)
    first, second, third = features[start], features[start + 1], features[start + 2]
    earlier, middle = first * weights[:, None], second * weights[:, None]
    return ViewMoments(
        float(weights.sum()), middle.sum(0), middle.T @ second, earlier.T @ second, earlier.T @ third, middle.T @ third
    )


def _triple_moments(features: Tensor, batch: Batch, views: ThreeViews) -> TripleMoments:
    start, weights = _triples(batch)
    first, second, third = (features @ each for each in views.maps)
    return TripleMoments(float(weights.sum()), _triple_sum(first[start] * weights[:, None], second[start + 1], third[start + 2]))


# ---------------------------------------------------------------------------------------------------------------------
# How states follow each other
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StateMoments(Statistics):
    """Moments of features g_t of the steps of sequences: responsibilities of S densities, of the marginal mixture.

    Attributes
    ----------
    weight, pairs, sequences : float
        The number of steps, of successive steps, and of sequences.
    gram : Tensor of shape (S, S)
        sum_t g_t g_t'.
    total, earlier, first : Tensor of shape (S,)
        sum g_t over all steps, over those that have a next one, and over those that begin a sequence.
    lagged : Tensor of shape (S, S)
        sum_t g_t g_{t+1}'.
    together : Tensor of shape (S, S)
        sum over all pairs of different steps of one sequence of g_t g_s': at all lags.
    """

    weight: float
    pairs: float
    sequences: float
    gram: Tensor
    total: Tensor
    earlier: Tensor
    first: Tensor
    lagged: Tensor
    together: Tensor

    @property
    def features(self) -> Tensor:
        """Phi_ij = E[g_i | z = j], of shape (S, S): what a state's steps look like to the densities."""
        return self.gram / self.total.clamp_min(torch.finfo(self.total.dtype).tiny)


def collect_state_moments(features: Features, batches: Iterable[Batch], *, reduce: Reduce = serial) -> StateMoments:
    """Moments of features (n_steps, S) of the steps at all lags, in one pass."""
    return reduce(lambda batch: state_moments(features(batch), batch), batches)


def state_moments(features: Tensor, batch: Batch) -> StateMoments:
    """The moments of features (n_steps, S) of one batch."""
    of_step = batch.sequence_of_step
    weights = batch.step_weights
    step_weights = features.new_ones(len(features)) if weights is None else weights.double()
    weighted = features * step_weights[:, None]
    follows = (of_step[1:] == of_step[:-1]).double()
    earlier = weighted[:-1] * follows[:, None]
    gram = weighted.T @ features
    sums = features.new_zeros(batch.n_sequences, features.shape[1]).index_add_(0, of_step, features)
    begins = batch.offsets[:-1]
    return StateMoments(
        weight=float(step_weights.sum()),
        pairs=float((step_weights[:-1] * follows).sum()),
        sequences=float(step_weights[begins].sum()),
        gram=gram,
        total=weighted.sum(0),
        earlier=earlier.sum(0),
        first=weighted[begins].sum(0),
        lagged=earlier.T @ features[1:],
        together=(sums * step_weights[begins, None]).T @ sums - gram,
    )
