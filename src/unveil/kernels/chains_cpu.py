"""Hidden Markov chains on the CPU: the twin of ``chains``, compiled by numba. Threads may run it side by side.

Each sequence is first tried with scaled probabilities: emissions divided by the largest of their step, forward messages
divided by their sum. That is exact as long as no state that could be reached loses its probability to underflow; where
one does (left-to-right chains, many features), that sequence is done again in the log domain. The posteriors of the
chains need the evidence of all of them, so each sequence runs forwards through every chain and then backwards.
"""

from __future__ import annotations

import math
from threading import local
from typing import NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unveil.kernels.chains import ChainExpectations
from unveil.kernels.paths_cpu import best_paths, drawn_paths

# Not "nnan" or "ninf": forbidden transitions have log-probability -inf.
_compiled = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "arcp", "nsz"})

_LOST = 1e-200  # a reachable state below this may be about to underflow
_TRUSTED = 1e-250  # sums above it are exact, though some of their terms may have underflowed
_SMALL = 1e-30  # sums below it are rescaled
_OVERFLOWING = 600.0  # logarithms above it are not exponentiated
_MOST_LANES = 8  # up to as many states the recursions are compiled for their number
_MOST_KEPT = 1 << 22  # numbers in an array that is kept for the next batch
_UNLIKELY = 1e-30  # chains that are less probable for a sequence learn nothing from it
_NEGLIGIBLE = 1e-100  # non-zero transitions below this defeat the check for lost states


_kept = local()


# ---- one sequence, one chain -----------------------------------------------------------------------------------------


@_compiled
def _multiply(vector, matrix, out):
    """``out = vector @ matrix``."""
    n = len(vector)
    first = vector[0]
    for j in range(n):
        out[j] = first * matrix[0, j]
    for i in range(1, n):
        here = vector[i]
        for j in range(n):
            out[j] += here * matrix[i, j]


@_compiled
def _forward_scaled(lanes, chains, c, first, last, arriving, reachable):
    """Fill ``alpha`` with p(x_1..t, z_t), rescaled now and then, and return (log Z, whether it can be trusted)."""
    n_states, transition, likelihood, alpha = len(lanes), chains.transition, chains.likelihood, chains.alpha
    sparse, log_z, total, everywhere = chains.kind[c] == 1, 0.0, 1.0, False
    for t in range(first, last):
        if t == first:
            for j in range(n_states):
                arriving[j] = chains.initial[c, j]
        else:
            for j in range(n_states):
                arriving[j] = 0.0
            for i in range(n_states):
                here = alpha[t - 1, c, i]
                for j in range(n_states):
                    arriving[j] += here * transition[c, i, j]
        if sparse:
            if not everywhere:
                everywhere = _spread(chains.initial[c], transition[c], reachable, t == first)
            for j in range(n_states):
                if arriving[j] < _LOST and reachable[j]:
                    return 0.0, False
        total = 0.0
        for j in range(n_states):
            arriving[j] *= likelihood[t, c, j]
            total += arriving[j]
            alpha[t, c, j] = arriving[j]
        log_z += chains.shift[c, t]
        chains.rescaling[t, c] = 1.0
        if not total > _SMALL:  # rare, so that the steps before do not wait for the total
            if not total > 1e-280:
                return 0.0, False
            log_z += np.log(total)
            chains.rescaling[t, c] = 1.0 / total
            for j in range(n_states):
                alpha[t, c, j] *= chains.rescaling[t, c]
            total = 1.0
    return log_z + np.log(total), True


@_compiled
def _spread(initial, transition, reachable, is_first):
    """Advance by one step the set of states that some path can be in; whether that is all of them."""
    n_states = len(initial)
    before = reachable.copy()
    everywhere = True
    for j in range(n_states):
        reached = False
        if is_first:
            reached = initial[j] > 0
        else:
            for i in range(n_states):
                if before[i] and transition[i, j] > 0:
                    reached = True
        reachable[j] = reached
        everywhere = everywhere and reached
    return everywhere


@_compiled
def _forward_log(log_initial, transition, log_transition, log_emission, log_alpha, share, arriving):
    """Fill ``log_alpha`` (T, M) with the log-weight of all paths that end in each state, and return log Z.

    A step is a product of probabilities relative to the best state; only where that underflows are single logarithms added up.
    """
    n_steps, n_states = log_alpha.shape
    for j in range(n_states):
        log_alpha[0, j] = log_initial[j] + log_emission[0, j]
    for t in range(1, n_steps):
        highest = _exp_below_highest(log_alpha[t - 1], share)
        _multiply(share, transition, arriving)
        for j in range(n_states):
            if arriving[j] > _TRUSTED:
                log_alpha[t, j] = highest + np.log(arriving[j]) + log_emission[t, j]
            else:
                log_alpha[t, j] = _log_sum_exp(log_alpha[t - 1] + log_transition[:, j]) + log_emission[t, j]
    return _log_sum_exp(log_alpha[n_steps - 1])


@_compiled
def _exp_below_highest(log_values, out):
    """Fill ``out`` with the values relative to the highest one, which is returned as a logarithm; all zero where that is -inf."""
    highest = -np.inf
    for value in log_values:
        highest = max(highest, value)
    for i in range(len(log_values)):
        out[i] = np.exp(log_values[i] - highest) if highest > -np.inf else 0.0
    return highest


@_compiled
def _log_sum_exp(values):
    highest = values.max()
    if highest == -np.inf:
        return highest
    total = 0.0
    for value in values:
        total += np.exp(value - highest)
    return highest + np.log(total)


@_compiled
def _backward_scaled(lanes, chains, c, first, last, weight, message, passed, states):
    """Fill ``states`` with ``weight`` times posteriors, and ``passed`` with what each step passes back to the one before it.

    The expected transitions are ``alpha' passed`` times A, one matrix product for all sequences together.
    """
    n_states, reversed_transition, likelihood, alpha = len(lanes), chains.reversed_transition, chains.likelihood, chains.alpha
    total = 0.0
    for j in range(n_states):
        total += alpha[last - 1, c, j]
    for j in range(n_states):
        message[j] = weight / total
        passed[last - 1, c, j] = 0.0
        states[last - 1, c, j] = message[j] * alpha[last - 1, c, j]
    for t in range(last - 2, first - 1, -1):
        rescaling = chains.rescaling[t + 1, c]
        for j in range(n_states):
            # The message of a state that no path reaches may have overflowed, and counts for nothing.
            passed[t, c, j] = message[j] * likelihood[t + 1, c, j] * rescaling if alpha[t + 1, c, j] != 0.0 else 0.0
            message[j] = 0.0
        for i in range(n_states):
            arriving = passed[t, c, i]
            for j in range(n_states):
                message[j] += arriving * reversed_transition[c, i, j]
        for j in range(n_states):
            states[t, c, j] = alpha[t, c, j] * message[j]


@_compiled
def _backward_log(
    reversed_transition, log_transition, log_emission, alpha, log_z, weight, factored, pairs, message, arrived, share, arriving, states
):  # fmt: skip
    """The same from log-domain forward messages, which are zeroed. Expected transitions go to ``factored``, still to be multiplied by
    A, or where that would overflow to ``pairs``, complete."""
    n_steps, n_states = states.shape
    for j in range(n_states):
        message[j] = 0.0
        states[n_steps - 1, j] = weight * np.exp(alpha[n_steps - 1, j] - log_z)
    for t in range(n_steps - 2, -1, -1):
        for j in range(n_states):
            arrived[j] = message[j] + log_emission[t + 1, j]
        highest = _exp_below_highest(arrived, share)
        _multiply(share, reversed_transition, arriving)
        largest = -np.inf
        for i in range(n_states):
            largest = max(largest, alpha[t, i] + highest - log_z)
            if arriving[i] > _TRUSTED:
                message[i] = highest + np.log(arriving[i])
            else:
                message[i] = _log_sum_exp(log_transition[i] + arrived)
        if largest < _OVERFLOWING:
            for i in range(n_states):
                before = weight * np.exp(alpha[t, i] + highest - log_z)
                for j in range(n_states):
                    factored[i, j] += before * share[j]
        else:
            for i in range(n_states):
                for j in range(n_states):
                    if log_transition[i, j] > -np.inf:
                        pairs[i, j] += weight * np.exp(alpha[t, i] + log_transition[i, j] + arrived[j] - log_z)
        for i in range(n_states):
            states[t, i] = weight * np.exp(alpha[t, i] + message[i] - log_z)
    alpha[:] = 0.0


# ---- all sequences, all chains ---------------------------------------------------------------------------------------


class _Chains(NamedTuple):
    """The arrays that the compiled functions read, and the ones that they fill."""

    offsets: np.ndarray
    initial: np.ndarray
    transition: np.ndarray
    reversed_transition: np.ndarray
    log_initial: np.ndarray
    log_transition: np.ndarray
    kind: np.ndarray
    log_emission: np.ndarray  # (C, M, T)
    relative: np.ndarray  # (C, M, T), to the largest of a step
    shift: np.ndarray  # (C, T), the logarithm of the largest
    likelihood: np.ndarray  # (T, C, M), the relative ones once more: each step contiguous
    alpha: np.ndarray
    rescaling: np.ndarray  # by which alpha was multiplied at each step
    log_z: np.ndarray
    scaled: np.ndarray


def _forward(initial: Tensor, transition: Tensor, log_emission: Tensor, offsets: Tensor) -> _Chains:
    """Forward messages of all sequences through all chains: scaled where that is exact, in the log domain elsewhere."""
    pi, a, emission = _array(initial), _array(transition), _array(log_emission.permute(1, 2, 0))
    n_chains, n_states, n_steps = emission.shape
    n_sequences = len(offsets) - 1
    relative, shift = _relative(emission)
    chains = _Chains(
        offsets.numpy(),
        pi,
        a,
        *_describe(pi, a),
        log_emission=emission,
        relative=relative,
        shift=shift,
        likelihood=_scratch("likelihood", (n_steps, n_chains, n_states)),
        alpha=_scratch("alpha", (n_steps, n_chains, n_states)),
        rescaling=_scratch("rescaling", (n_steps, n_chains)),
        log_z=np.empty((n_sequences, n_chains)),
        scaled=np.empty((n_sequences, n_chains), dtype=np.bool_),
    )
    _forward_all_scaled(_lanes(n_states), chains)
    if not chains.scaled.all():
        _forward_rest_in_logs(chains)
    return chains


def _relative(log_emission: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Emissions (C, M, T) relative to the largest of their step, and the logarithm of that (C, T); NumPy's exp is the fastest."""
    shift = log_emission.max(1)
    shift[shift == -np.inf] = 0.0
    relative = np.subtract(log_emission, shift[:, None], out=_scratch("relative", log_emission.shape))
    return np.exp(relative, out=relative), shift


@_compiled
def _describe(initial, transition):
    """Reversed transitions, logarithms, and the kind of each chain.

    0: every transition can be made, so no state is ever lost for good. 1: some cannot. 2: only the log domain is safe.
    """
    n_chains, n_states = initial.shape
    reversed_transition, kind = np.empty_like(transition), np.zeros(n_chains, dtype=np.int64)
    for c in range(n_chains):
        for i in range(n_states):
            for j in range(-1, n_states):
                probability = initial[c, i] if j < 0 else transition[c, i, j]
                if j >= 0:
                    reversed_transition[c, j, i] = probability
                if probability == 0.0:
                    kind[c] = max(kind[c], 1)
                elif probability < _NEGLIGIBLE:
                    kind[c] = 2
    return reversed_transition, np.log(initial), np.log(transition), kind


def _lanes(n_states: int) -> tuple[int, ...] | np.ndarray:
    """Something with the length ``n_states``, which the compiler knows beforehand where it is small: twice as fast there."""
    return (0,) * n_states if n_states <= _MOST_LANES else np.empty(n_states, dtype=np.int64)


def _scratch(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array that this thread uses again at its next batch: fresh memory costs as much as the work done in it.

    What comes of it must not leave the module.
    """
    size = math.prod(shape)
    kept = getattr(_kept, name, None)
    if kept is None or kept.size < size:
        kept = np.empty(size)
        if size <= _MOST_KEPT:
            setattr(_kept, name, kept)
    return kept[:size].reshape(shape)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float64).contiguous().numpy()


@_compiled
def _forward_all_scaled(lanes, chains):
    n_sequences, n_chains = chains.log_z.shape
    n_states = len(lanes)
    arriving, reachable = np.empty(n_states), np.zeros(n_states, dtype=np.bool_)
    for n in range(n_sequences):
        a, b = chains.offsets[n], chains.offsets[n + 1]
        for c in range(n_chains):
            chains.scaled[n, c] = False
            if chains.kind[c] != 2:
                for j in range(n_states):
                    reachable[j] = False
                    for t in range(a, b):
                        chains.likelihood[t, c, j] = chains.relative[c, j, t]
                chains.log_z[n, c], chains.scaled[n, c] = _forward_scaled(lanes, chains, c, a, b, arriving, reachable)


@_compiled
def _forward_rest_in_logs(chains):
    n_sequences, n_chains = chains.log_z.shape
    n_states = chains.initial.shape[1]
    arriving, share = np.empty(n_states), np.empty(n_states)
    for n in range(n_sequences):
        a, b = chains.offsets[n], chains.offsets[n + 1]
        for c in range(n_chains):
            if not chains.scaled[n, c]:
                chains.log_z[n, c] = _forward_log(
                    chains.log_initial[c], chains.transition[c], chains.log_transition[c], chains.log_emission[c, :, a:b].T,
                    chains.alpha[a:b, c], share, arriving,
                )  # fmt: skip


@_compiled
def _share(log_z, log_weights, weights, log_evidence, responsibilities, counted):
    """The evidence of each sequence, p(c | x), and how much each chain learns from it."""
    n_sequences, n_chains = log_z.shape
    for n in range(n_sequences):
        highest, total = -np.inf, 0.0
        for c in range(n_chains):
            highest = max(highest, log_z[n, c] + log_weights[n, c])
        if highest == -np.inf:
            highest = 0.0
        for c in range(n_chains):
            responsibilities[n, c] = np.exp(log_z[n, c] + log_weights[n, c] - highest)
            total += responsibilities[n, c]
        log_evidence[n] = highest + np.log(total)
        for c in range(n_chains):
            responsibilities[n, c] *= 1.0 / total if total > 0.0 else 0.0
            counted[n, c] = responsibilities[n, c] * weights[n] if responsibilities[n, c] >= _UNLIKELY else 0.0


@_compiled
def _backward_all(lanes, chains, weights, states, passed, factored, pairs):
    """Fill ``states`` with posteriors times ``weights`` (n_sequences, C), and ``passed``; add what is not scaled to the sums."""
    n_sequences, n_chains = chains.log_z.shape
    n_states = chains.initial.shape[1]
    message, arrived = np.empty(n_states), np.empty(n_states)
    share, arriving = np.empty(n_states), np.empty(n_states)
    for n in range(n_sequences):
        a, b = chains.offsets[n], chains.offsets[n + 1]
        for c in range(n_chains):
            weight, alpha = weights[n, c], chains.alpha[a:b, c]
            if weight != 0.0 and chains.scaled[n, c]:
                _backward_scaled(lanes, chains, c, a, b, weight, message, passed, states)
                continue
            passed[a:b, c] = 0.0
            if weight != 0.0:
                _backward_log(
                    chains.reversed_transition[c], chains.log_transition[c], chains.log_emission[c, :, a:b].T, alpha, chains.log_z[n, c],
                    weight, factored[c], pairs[c], message, arrived, share, arriving, states[a:b, c],
                )  # fmt: skip
            else:
                states[a:b, c] = 0.0
                alpha[:] = 0.0
    _add_products(chains.alpha, passed, factored)


@_compiled
def _add_products(alpha, passed, out):
    """``out[c] += alpha[:, c].T @ passed[:, c]``: faster than libraries, whose products are made for larger matrices."""
    n_steps, n_chains, n_states = alpha.shape
    whole = n_steps - n_steps % 4
    for c in range(n_chains):
        for t in range(0, whole, 4):
            for i in range(n_states):
                first, second, third, fourth = alpha[t, c, i], alpha[t + 1, c, i], alpha[t + 2, c, i], alpha[t + 3, c, i]
                for j in range(n_states):
                    out[c, i, j] += (first * passed[t, c, j] + second * passed[t + 1, c, j]) + (
                        third * passed[t + 2, c, j] + fourth * passed[t + 3, c, j]
                    )
        for t in range(whole, n_steps):
            for i in range(n_states):
                for j in range(n_states):
                    out[c, i, j] += alpha[t, c, i] * passed[t, c, j]


# ---- the face of the twin ------------------------------------------------------------------------------------------


def expectations(
    initial: Tensor,
    transition: Tensor,
    log_emission: Tensor,
    offsets: Tensor,
    log_weights: Tensor | None = None,
    weights: Tensor | None = None,
) -> ChainExpectations:
    """Posterior expectations of a mixture of chains; see ``chains.expectations``."""
    chains = _forward(initial, transition, log_emission, offsets)
    n_sequences = len(chains.log_z)
    log_v = np.zeros(chains.log_z.shape) if log_weights is None else _array(log_weights.expand(chains.log_z.shape))
    counts = np.ones(n_sequences) if weights is None else _array(weights)
    log_evidence, responsibilities, counted = np.empty(n_sequences), np.empty(chains.log_z.shape), np.empty(chains.log_z.shape)
    _share(chains.log_z, log_v, counts, log_evidence, responsibilities, counted)
    states, passed = np.empty(chains.alpha.shape), _scratch("passed", chains.alpha.shape)
    factored, pairs = np.zeros_like(chains.transition), np.zeros_like(chains.transition)
    _backward_all(_lanes(states.shape[2]), chains, counted, states, passed, factored, pairs)
    return ChainExpectations(
        log_evidence=torch.from_numpy(log_evidence),
        responsibilities=torch.from_numpy(responsibilities),
        states=torch.from_numpy(states),
        transitions=torch.from_numpy(pairs + factored * chains.transition),
        initial=torch.from_numpy(states[chains.offsets[:-1]].sum(0)),
    )


def log_partition(initial: Tensor, transition: Tensor, log_emission: Tensor, offsets: Tensor) -> Tensor:
    """log Z of each sequence under each chain, of shape (n_sequences, C); differentiable."""
    if torch.is_grad_enabled() and any(each.requires_grad for each in (initial, transition, log_emission)):
        return _LogPartition.apply(initial, transition, log_emission, offsets)
    return torch.from_numpy(_forward(initial, transition, log_emission, offsets).log_z)


class _LogPartition(torch.autograd.Function):
    """log Z, whose gradients are the posteriors: one chain at a time, since each has a gradient of its own."""

    @staticmethod
    def forward(ctx, initial: Tensor, transition: Tensor, log_emission: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(initial, transition, log_emission, offsets)
        return log_partition(initial.detach(), transition.detach(), log_emission.detach(), offsets)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):
        initial, transition, log_emission, offsets = ctx.saved_tensors
        parts = []
        for c in range(len(initial)):
            one, weights = slice(c, c + 1), gradients[0][:, c]
            expected = expectations(initial[one], transition[one], log_emission[:, one], offsets, weights=weights)
            parts.append((expected.initial, expected.transitions, expected.states))
        first, pairs, states = (torch.cat(each, dim) for each, dim in zip(zip(*parts, strict=True), (0, 0, 1), strict=True))
        by_probability = [torch.where(p > 0, count / p, 0.0) for count, p in ((first, initial), (pairs, transition))]
        return by_probability[0], by_probability[1], states.to(log_emission.dtype), None


def filtered(initial: Tensor, transition: Tensor, log_emission: Tensor, offsets: Tensor) -> Tensor:
    """p(z_t | x_1 .. x_t), of shape (n_steps, C, M); see ``chains.filtered``."""
    chains = _forward(initial, transition, log_emission, offsets)
    alpha = torch.from_numpy(chains.alpha)
    states = alpha / alpha.sum(2, keepdim=True)
    in_logs = torch.from_numpy(~chains.scaled).repeat_interleave(offsets.diff(), 0)  # (n_steps, C)
    states[in_logs] = alpha[in_logs].softmax(1).nan_to_num_(0.0)
    return states


def viterbi(initial: Tensor, transition: Tensor, log_emission: Tensor, offsets: Tensor, chain: Tensor) -> tuple[Tensor, Tensor]:
    """The most probable path of each sequence through its chain; see ``chains.viterbi``."""
    with np.errstate(divide="ignore"):
        log_initial, log_transition = np.log(_array(initial)), np.log(_array(transition))
    path, log_probability = np.empty(len(log_emission), dtype=np.int64), np.empty(len(chain))
    best_paths(offsets.numpy(), chain.numpy(), log_initial, log_transition, _array(log_emission), path, log_probability)
    return torch.from_numpy(path), torch.from_numpy(log_probability)


def sample_paths(
    initial: Tensor, transition: Tensor, log_emission: Tensor, offsets: Tensor, chain: Tensor, uniforms: Tensor
) -> Tensor:
    """Paths drawn from p(z | x); see ``chains.sample_paths``."""
    forward = filtered(initial, transition, log_emission, offsets).numpy()
    path = np.zeros(len(forward), dtype=np.int64)
    drawn_paths(offsets.numpy(), chain.numpy(), _array(transition), forward, _array(uniforms), path)
    return torch.from_numpy(path)
