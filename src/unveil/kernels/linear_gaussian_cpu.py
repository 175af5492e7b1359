"""Linear Gaussian chains on the CPU: the twin of ``linear_gaussian``, compiled by numba. Threads may run it side by side.

Covariances and gains do not depend on the values, only on which of them are missing. So they are computed once for all sequences that
miss nothing, until they no longer change, and for each other sequence on its own; what is left for each step is products with vectors.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from unveil.kernels import linear_gaussian
from unveil.kernels.linear_gaussian import Filtered, LinearGaussian, Smoothed

# Not "nnan": NaN is missing.
_compiled = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "arcp", "nsz"})

_STEADY = 1e-15  # a predicted covariance that changes relatively less from step to step has settled
_LOG_2_PI = math.log(2 * math.pi)


class _Path(NamedTuple):
    """Of each step, what does not depend on the values; with G = P C' S^-1, the names of the module ``linear_gaussian``."""

    predicted: np.ndarray  # (T, K, K), P
    filtered: np.ndarray  # (T, K, K), F
    gain: np.ndarray  # (T, K, D), G
    weighting: np.ndarray  # (T, K, D), C' S^-1
    contraction: np.ndarray  # (T, K, K), I - G C
    whitening: np.ndarray  # (T, D, D), the inverse of the Cholesky factor of S
    log_norm: np.ndarray  # (T,), log |2 pi S| over what is observed


class _Sequences(NamedTuple):
    """The data, and in which order to go through it."""

    values: np.ndarray  # (n_steps, D)
    offsets: np.ndarray  # (n_sequences + 1,)
    complete: np.ndarray  # (n_sequences,), whether nothing is missing
    order: np.ndarray  # (n_sequences,), the complete ones last, by length


# ---- what does not depend on the values ------------------------------------------------------------------------------


@_compiled
def _multiply(a, b, out):
    """``out = a @ b``."""
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            out[i, j] = 0.0
        for k in range(a.shape[1]):
            here = a[i, k]
            for j in range(b.shape[1]):
                out[i, j] += here * b[k, j]


@_compiled
def _sandwich(a, b, half, out):
    """``out = a @ b @ a.T``, exactly symmetric; ``half`` is room for ``a @ b``."""
    _multiply(a, b, half)
    for i in range(a.shape[0]):
        for j in range(i + 1):
            total = 0.0
            for k in range(a.shape[1]):
                total += half[i, k] * a[j, k]
            out[i, j] = total
            out[j, i] = total


@_compiled
def _whiten(matrix, out):
    """Fill ``out`` with the inverse of the Cholesky factor of ``matrix``, which is overwritten; the log-determinant, or NaN."""
    n, log_determinant = len(matrix), 0.0
    for j in range(n):
        for k in range(j):
            matrix[j, j] -= matrix[j, k] * matrix[j, k]
        pivot = np.sqrt(matrix[j, j]) if matrix[j, j] > 0 else np.nan
        log_determinant += 2 * np.log(pivot)
        matrix[j, j] = pivot
        for i in range(j + 1, n):
            for k in range(j):
                matrix[i, j] -= matrix[i, k] * matrix[j, k]
            matrix[i, j] /= pivot
    for j in range(n):
        for i in range(n):
            total = 1.0 if i == j else 0.0
            for k in range(j, i):
                total -= matrix[i, k] * out[k, j]
            out[i, j] = total / matrix[i, i] if i >= j else 0.0
    return log_determinant


@_compiled
def _follow(chain, values, path, may_settle):
    """Fill ``path`` for the pattern of what is missing in ``values`` (T, D), and return the last step that differs from the one before."""
    n_features, n_states = chain.observation.shape
    observation, noise = np.empty((n_features, n_states)), np.empty((n_features, n_features))
    spread, inverse = np.empty((n_features, n_features)), np.empty((n_features, n_features))
    wide, square = np.empty((n_features, n_states)), np.empty((n_states, n_states))
    tall, by_noise = np.empty((n_states, n_features)), np.empty((n_states, n_states))
    for t in range(len(values)):
        if t == 0:
            path.predicted[0] = chain.initial_covariance
        else:
            _sandwich(chain.transition, path.filtered[t - 1], square, path.predicted[t])
            path.predicted[t] += chain.transition_noise
            if may_settle and _is_close(path.predicted[t], path.predicted[t - 1]):
                return t - 1
        n_seen = 0
        for d in range(n_features):
            seen = not np.isnan(values[t, d])
            n_seen += seen
            for k in range(n_states):
                observation[d, k] = chain.observation[d, k] if seen else 0.0
            for e in range(n_features):
                both = seen and not np.isnan(values[t, e])
                noise[d, e] = chain.observation_noise[d, e] if both else (1.0 if d == e else 0.0)
        _sandwich(observation, path.predicted[t], wide, spread)
        spread += noise
        path.log_norm[t] = _whiten(spread, path.whitening[t]) + n_seen * _LOG_2_PI
        _sandwich(path.whitening[t].T, np.eye(n_features), spread, inverse)
        _multiply(observation.T, inverse, path.weighting[t])
        _multiply(path.predicted[t], path.weighting[t], path.gain[t])
        _multiply(path.gain[t], observation, path.contraction[t])
        for k in range(n_states):
            for j in range(n_states):
                path.contraction[t, k, j] = (1.0 if k == j else 0.0) - path.contraction[t, k, j]
        _sandwich(path.contraction[t], path.predicted[t], square, path.filtered[t])
        _sandwich(path.gain[t], noise, tall, by_noise)
        path.filtered[t] += by_noise
    return len(values) - 1


@_compiled
def _is_close(a, b):
    largest, difference = 0.0, 0.0
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            largest = max(largest, abs(a[i, j]))
            difference = max(difference, abs(a[i, j] - b[i, j]))
    return difference <= _STEADY * largest


@_compiled
def _smooth_covariances(chain, path, last, covariances, lagged):
    """Fill the smoothed covariances (T, K, K) and those with the step before, from the last step back."""
    n_states = len(chain.transition)
    n, moved = np.zeros((n_states, n_states)), np.zeros((n_states, n_states))
    half, out = np.empty((n_states, n_states)), np.empty((n_states, n_states))
    passed, information = np.empty((n_states, n_states)), np.empty((n_states, n_states))
    back = np.ascontiguousarray(chain.transition.T)
    for t in range(len(covariances) - 1, -1, -1):
        row = min(t, last)
        if t + 1 < len(covariances):
            _multiply(passed, path.filtered[row], lagged[t + 1])
        _sandwich(path.filtered[row], n, half, out)
        for i in range(n_states):
            for j in range(n_states):
                covariances[t, i, j] = path.filtered[row, i, j] - out[i, j]
        _sandwich(path.contraction[row].T, n, half, moved)
        _multiply(path.weighting[row], chain.observation, information)
        for i in range(n_states):
            for j in range(n_states):
                moved[i, j] += 0.5 * (information[i, j] + information[j, i])
        _multiply(path.predicted[row], moved, half)
        for i in range(n_states):
            for j in range(n_states):
                half[i, j] = (1.0 if i == j else 0.0) - half[i, j]
        _multiply(half, chain.transition, passed)
        _sandwich(back, moved, half, n)
    lagged[0] = 0.0


# ---- what does -------------------------------------------------------------------------------------------------------


@_compiled
def _filter_means(chain, path, last, values, predicted, means, surprises, log_densities):
    """The Kalman filter of one sequence, given its path of covariances."""
    n_features, n_states = chain.observation.shape
    for t in range(len(values)):
        row = min(t, last)
        for k in range(n_states):
            total = chain.initial_mean[k]
            if t > 0:
                total = 0.0
                for j in range(n_states):
                    total += chain.transition[k, j] * means[t - 1, j]
            predicted[t, k] = total
            means[t, k] = total
        for d in range(n_features):
            surprises[t, d] = 0.0
            if not np.isnan(values[t, d]):
                total = values[t, d] - chain.offset[d]
                for k in range(n_states):
                    total -= chain.observation[d, k] * predicted[t, k]
                surprises[t, d] = total
        distance = path.log_norm[row]
        for d in range(n_features):
            white = 0.0
            for e in range(d + 1):
                white += path.whitening[row, d, e] * surprises[t, e]
            distance += white * white
        log_densities[t] = -0.5 * distance
        for k in range(n_states):
            total = 0.0
            for d in range(n_features):
                total += path.gain[row, k, d] * surprises[t, d]
            means[t, k] += total


@_compiled
def _smooth_means(chain, path, last, surprises, means):
    """Turn filtered means (T, K) of one sequence into smoothed ones."""
    n_features, n_states = chain.observation.shape
    r, score = np.zeros(n_states), np.empty(n_states)
    for t in range(len(means) - 1, -1, -1):
        row = min(t, last)
        for k in range(n_states):
            total, change = 0.0, 0.0
            for d in range(n_features):
                total += path.weighting[row, k, d] * surprises[t, d]
            for j in range(n_states):
                total += path.contraction[row, j, k] * r[j]
                change += path.filtered[row, k, j] * r[j]
            score[k] = total
            means[t, k] += change
        for k in range(n_states):
            total = 0.0
            for j in range(n_states):
                total += chain.transition[j, k] * score[j]
            r[k] = total


# ---- all sequences ---------------------------------------------------------------------------------------------------


@_compiled
def _filter_all(chain, sequences, shared, own, surprises, log_densities, predicted, predicted_cov, means, covariances):
    shared_last = _follow_complete(chain, sequences, shared)
    wanted = len(covariances) > 0
    for n in sequences.order:
        a, b = sequences.offsets[n], sequences.offsets[n + 1]
        path, last = shared, shared_last
        if not sequences.complete[n]:
            path, last = own, _follow(chain, sequences.values[a:b], own, False)
        _filter_means(chain, path, last, sequences.values[a:b], predicted[a:b], means[a:b], surprises[a:b], log_densities[a:b])
        if wanted:
            for t in range(b - a):
                predicted_cov[a + t] = path.predicted[min(t, last)]
                covariances[a + t] = path.filtered[min(t, last)]


@_compiled
def _smooth_all(chain, sequences, shared, own, surprises, log_densities, predicted, means, covariances, lagged):
    """Sequences that miss nothing and have the same length share their covariances, and come one after the other."""
    shared_last, before = _follow_complete(chain, sequences, shared), -1
    for n in sequences.order:
        a, b = sequences.offsets[n], sequences.offsets[n + 1]
        path, last = shared, shared_last
        if not sequences.complete[n]:
            path, last = own, _follow(chain, sequences.values[a:b], own, False)
        _filter_means(chain, path, last, sequences.values[a:b], predicted[a:b], means[a:b], surprises[a:b], log_densities[a:b])
        _smooth_means(chain, path, last, surprises[a:b], means[a:b])
        c = sequences.offsets[before] if before >= 0 else -1
        if sequences.complete[n] and c >= 0 and sequences.offsets[before + 1] - c == b - a:
            covariances[a:b] = covariances[c : c + b - a]
            lagged[a:b] = lagged[c : c + b - a]
        else:
            _smooth_covariances(chain, path, last, covariances[a:b], lagged[a:b])
        before = n if sequences.complete[n] else -1


@_compiled
def _follow_complete(chain, sequences, shared):
    """The path of the longest sequence that misses nothing, which is that of all such."""
    if len(sequences.order) > 0 and sequences.complete[sequences.order[-1]]:
        n = sequences.order[-1]
        return _follow(chain, sequences.values[sequences.offsets[n] : sequences.offsets[n + 1]], shared, True)
    return -1


def _prepared(chain: LinearGaussian, values: Tensor, offsets: Tensor) -> tuple[LinearGaussian, _Sequences, _Path, _Path]:
    """Parameters and data as arrays, and room for the path that complete sequences share and for that of another one."""
    arrays = LinearGaussian(*(_array(each) for each in chain))
    x, edges = _array(values), offsets.numpy()
    lengths = np.diff(edges)
    complete = ~np.logical_or.reduceat(np.isnan(x).any(1), edges[:-1])
    order = np.lexsort((lengths, complete))
    longest = [int(lengths[chosen].max(initial=0)) for chosen in (complete, ~complete)]
    paths = [_room(length, *arrays.observation.shape) for length in longest]
    return arrays, _Sequences(x, edges, complete, order), *paths


def _room(length: int, n_features: int, n_states: int) -> _Path:
    k, d = n_states, n_features
    shapes = [(k, k), (k, k), (k, d), (k, d), (k, k), (d, d), ()]
    return _Path(*(np.empty((length, *shape)) for shape in shapes))


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float64).contiguous().numpy()


# ---- the face of the twin ------------------------------------------------------------------------------------------


def log_likelihood(chain: LinearGaussian, values: Tensor, offsets: Tensor) -> Tensor:
    """log p(x) of each sequence, of shape (n_sequences,); the definition's where a gradient is asked for."""
    if torch.is_grad_enabled() and any(each.requires_grad for each in (*chain, values)):
        return linear_gaussian.log_likelihood(chain, values, offsets)
    return _sums(_filtered(chain, values, offsets, with_covariances=False).log_densities.numpy(), offsets)


def filtered(chain: LinearGaussian, values: Tensor, offsets: Tensor) -> Filtered:
    """The Kalman filter; see ``linear_gaussian.filtered``."""
    return _filtered(chain, values, offsets, with_covariances=True)


def _filtered(chain: LinearGaussian, values: Tensor, offsets: Tensor, *, with_covariances: bool) -> Filtered:
    arrays, sequences, shared, own = _prepared(chain, values, offsets)
    (n_steps, _), n_states = sequences.values.shape, len(arrays.transition)
    surprises, log_densities = np.empty(sequences.values.shape), np.empty(n_steps)
    means = [np.empty((n_steps, n_states)) for _ in range(2)]
    covariances = [np.empty((n_steps * with_covariances, n_states, n_states)) for _ in range(2)]
    _filter_all(arrays, sequences, shared, own, surprises, log_densities, means[0], covariances[0], means[1], covariances[1])
    results = (log_densities, means[0], covariances[0], means[1], covariances[1])
    return Filtered(*(torch.from_numpy(each) for each in results))


def smoothed(chain: LinearGaussian, values: Tensor, offsets: Tensor) -> Smoothed:
    """The Kalman filter and smoother; see ``linear_gaussian.smoothed``."""
    arrays, sequences, shared, own = _prepared(chain, values, offsets)
    (n_steps, _), n_states = sequences.values.shape, len(arrays.transition)
    surprises, log_densities = np.empty(sequences.values.shape), np.empty(n_steps)
    predicted, means = (np.empty((n_steps, n_states)) for _ in range(2))
    covariances, lagged = (np.empty((n_steps, n_states, n_states)) for _ in range(2))
    _smooth_all(arrays, sequences, shared, own, surprises, log_densities, predicted, means, covariances, lagged)
    return Smoothed(_sums(log_densities, offsets), *(torch.from_numpy(each) for each in (means, covariances, lagged)))


def _sums(per_step: np.ndarray, offsets: Tensor) -> Tensor:
    return torch.from_numpy(np.add.reduceat(per_step, offsets.numpy()[:-1]))
