"""Hidden Markov chains on the CPU: the twin of ``chains``, compiled by numba. Threads may run it side by side.

Each sequence is first tried with scaled probabilities: emissions divided by the largest of their step, forward messages
divided by their sum. That is exact as long as no state that could be reached loses its probability to underflow; where
one does (left-to-right chains, many features), that sequence is done again in the log domain. The posteriors of the
chains need the evidence of all of them, so each sequence runs forwards through every chain and then backwards.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unveil.kernels.chains import ChainExpectations

# Not "nnan" or "ninf": forbidden transitions have log-probability -inf.
_compiled = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "arcp", "nsz"})

_LOST = 1e-200  # a reachable state below this may be about to underflow
_TRUSTED = 1e-250  # sums above it are exact, though some of their terms may have underflowed
_OVERFLOWING = 600.0  # logarithms above it are not exponentiated
_UNLIKELY = 1e-30  # chains that are less probable for a sequence learn nothing from it
_NEGLIGIBLE = 1e-100  # non-zero transitions below this defeat the check for lost states


# ---- small products: four rows at a time, so that each pass over the columns does enough -------------------------------


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
def _add_outer(left, right, out):
    """``out += outer(left, right)``."""
    n = len(left)
    for i in range(n):
        here = left[i]
        for j in range(n):
            out[i, j] += here * right[j]


# ---- one sequence, one chain -----------------------------------------------------------------------------------------


@_compiled
def _forward_scaled(initial, transition, likelihood, shift, alpha, inverse_scale, arriving, reachable, sparse):
    """Fill ``alpha`` (T, M) with p(z_t | x_1..t) and return (log Z, whether it can be trusted)."""
    n_steps, n_states = alpha.shape
    log_z, product, everywhere = 0.0, 1.0, False
    for t in range(n_steps):
        if t == 0:
            for j in range(n_states):
                arriving[j] = initial[j]
        else:
            _multiply(alpha[t - 1], transition, arriving)
        if sparse:
            if not everywhere:
                everywhere = _spread(initial, transition, reachable, t)
            for j in range(n_states):
                if arriving[j] < _LOST and reachable[j]:
                    return 0.0, False
        total = 0.0
        for j in range(n_states):
            arriving[j] *= likelihood[t, j]
            total += arriving[j]
        if not total > 1e-280:
            return 0.0, False
        inverse = 1.0 / total
        inverse_scale[t] = inverse
        for j in range(n_states):
            alpha[t, j] = arriving[j] * inverse
        log_z += shift[t]
        product *= total
        if product < 1e-20 or product > 1e20:
            log_z += np.log(product)
            product = 1.0
    return log_z + np.log(product), True


@_compiled
def _spread(initial, transition, reachable, t):
    """Advance the set of states that some path can be in at step ``t``; whether that is all of them."""
    n_states = len(initial)
    before = reachable.copy()
    everywhere = True
    for j in range(n_states):
        reached = False
        if t == 0:
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
def _backward_scaled(reversed_transition, likelihood, states, inverse_scale, weight, pairs, message, passed):
    """Turn forward messages in ``states`` into ``weight`` times posteriors; add expected transitions, still to be multiplied by A."""
    n_steps, n_states = states.shape
    for j in range(n_states):
        message[j] = weight
        states[n_steps - 1, j] *= weight
    for t in range(n_steps - 2, -1, -1):
        inverse = inverse_scale[t + 1]
        for j in range(n_states):
            # The message of a state that no path reaches may have overflowed, and counts for nothing.
            passed[j] = message[j] * likelihood[t + 1, j] * inverse if states[t + 1, j] != 0.0 else 0.0
        _add_outer(states[t], passed, pairs)
        _multiply(passed, reversed_transition, message)
        for i in range(n_states):
            states[t, i] *= message[i]


@_compiled
def _backward_log(
    reversed_transition, log_transition, log_emission, states, log_z, weight, factored, pairs, message, passed, share, arriving
):  # fmt: skip
    """The same from log-domain forward messages. Expected transitions go to ``factored``, still to be multiplied by A, or where that
    would overflow to ``pairs``, complete."""
    n_steps, n_states = states.shape
    for j in range(n_states):
        message[j] = 0.0
        states[n_steps - 1, j] = weight * np.exp(states[n_steps - 1, j] - log_z)
    for t in range(n_steps - 2, -1, -1):
        for j in range(n_states):
            passed[j] = message[j] + log_emission[t + 1, j]
        highest = _exp_below_highest(passed, share)
        _multiply(share, reversed_transition, arriving)
        largest = -np.inf
        for i in range(n_states):
            largest = max(largest, states[t, i] + highest - log_z)
            if arriving[i] > _TRUSTED:
                message[i] = highest + np.log(arriving[i])
            else:
                message[i] = _log_sum_exp(log_transition[i] + passed)
        if largest < _OVERFLOWING:
            for i in range(n_states):
                arriving[i] = weight * np.exp(states[t, i] + highest - log_z)
            _add_outer(arriving, share, factored)
        else:
            for i in range(n_states):
                for j in range(n_states):
                    if log_transition[i, j] > -np.inf:
                        pairs[i, j] += weight * np.exp(states[t, i] + log_transition[i, j] + passed[j] - log_z)
        for i in range(n_states):
            states[t, i] = weight * np.exp(states[t, i] + message[i] - log_z)


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
    log_emission: np.ndarray
    shift: np.ndarray
    likelihood: np.ndarray
    states: np.ndarray
    inverse_scale: np.ndarray
    log_z: np.ndarray
    scaled: np.ndarray


def _prepare(initial: Tensor, transition: Tensor, log_emission: Tensor, offsets: Tensor) -> _Chains:
    pi, a = _array(initial), _array(transition)
    emission = log_emission.detach().to(torch.float64).contiguous()
    n_steps, n_chains, n_states = emission.shape
    n_sequences = len(offsets) - 1
    shift = emission.amax(2, keepdim=True)
    shift.masked_fill_(shift == -torch.inf, 0.0)
    with np.errstate(divide="ignore"):
        return _Chains(
            offsets=offsets.numpy(),
            initial=pi,
            transition=a,
            reversed_transition=np.ascontiguousarray(a.transpose(0, 2, 1)),
            log_initial=np.log(pi),
            log_transition=np.log(a),
            kind=np.array([_kind(*each) for each in zip(pi, a, strict=True)]),
            log_emission=emission.numpy(),
            shift=shift[:, :, 0].numpy(),
            likelihood=(emission - shift).exp_().numpy(),
            states=np.empty((n_steps, n_chains, n_states)),
            inverse_scale=np.empty((n_steps, n_chains)),
            log_z=np.empty((n_sequences, n_chains)),
            scaled=np.empty((n_sequences, n_chains), dtype=np.bool_),
        )


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float64).contiguous().numpy()


def _kind(initial: np.ndarray, transition: np.ndarray) -> int:
    """0: every transition can be made, so no state is ever lost for good. 1: some cannot. 2: only the log domain is safe."""
    numbers = np.concatenate([initial, transition.ravel()])
    if ((numbers > 0) & (numbers < _NEGLIGIBLE)).any():
        return 2
    return int((numbers == 0).any())


@_compiled
def _forward_sequence(n, chains, arriving, share, reachable):
    """Forward messages of one sequence in ``states``: scaled where that is exact, in the log domain elsewhere."""
    a, b = chains.offsets[n], chains.offsets[n + 1]
    for c in range(len(chains.initial)):
        states, good = chains.states[a:b, c], chains.kind[c] != 2
        if good:
            reachable[:] = False
            chains.log_z[n, c], good = _forward_scaled(
                chains.initial[c], chains.transition[c], chains.likelihood[a:b, c], chains.shift[a:b, c], states,
                chains.inverse_scale[a:b, c], arriving, reachable, chains.kind[c] == 1,
            )  # fmt: skip
        if not good:
            chains.log_z[n, c] = _forward_log(
                chains.log_initial[c],
                chains.transition[c],
                chains.log_transition[c],
                chains.log_emission[a:b, c],
                states,
                share,
                arriving,
            )
        chains.scaled[n, c] = good


@_compiled
def _forward(chains):
    n_states = chains.initial.shape[1]
    arriving, share, reachable = np.empty(n_states), np.empty(n_states), np.zeros(n_states, dtype=np.bool_)
    for n in range(len(chains.log_z)):
        _forward_sequence(n, chains, arriving, share, reachable)


@_compiled
def _expect(chains, log_weights, weights, log_evidence, responsibilities, first, pairs):
    """Turn ``states`` into posteriors; fill the evidence and responsibilities, and add to ``first`` and ``pairs``."""
    n_chains, n_states = chains.initial.shape
    arriving, share, reachable = np.empty(n_states), np.empty(n_states), np.zeros(n_states, dtype=np.bool_)
    message, passed = np.empty(n_states), np.empty(n_states)
    factored = np.zeros((n_chains, n_states, n_states))
    for n in range(len(chains.log_z)):
        _forward_sequence(n, chains, arriving, share, reachable)
        a, b = chains.offsets[n], chains.offsets[n + 1]
        log_evidence[n] = _log_sum_exp(log_weights + chains.log_z[n])
        for c in range(n_chains):
            log_z, states = chains.log_z[n, c], chains.states[a:b, c]
            possible = log_weights[c] + log_z > -np.inf
            responsibilities[n, c] = np.exp(log_weights[c] + log_z - log_evidence[n]) if possible else 0.0
            weight = responsibilities[n, c] * weights[n]
            if responsibilities[n, c] < _UNLIKELY or weight == 0.0:
                states[:] = 0.0
            elif chains.scaled[n, c]:
                _backward_scaled(
                    chains.reversed_transition[c], chains.likelihood[a:b, c], states, chains.inverse_scale[a:b, c], weight, factored[c],
                    message, passed,
                )  # fmt: skip
            else:
                _backward_log(
                    chains.reversed_transition[c], chains.log_transition[c], chains.log_emission[a:b, c], states, log_z, weight,
                    factored[c], pairs[c], message, passed, share, arriving,
                )  # fmt: skip
            for j in range(n_states):
                first[c, j] += states[0, j]
    pairs += factored * chains.transition


@_compiled
def _viterbi(offsets, chain, log_initial, log_transition, log_emission, path, log_probability):
    """Most probable paths."""
    n_states, longest = log_initial.shape[1], 0
    for n in range(len(chain)):
        longest = max(longest, offsets[n + 1] - offsets[n])
    pointers = np.empty((longest, n_states), dtype=np.int32)
    score, best = np.empty(n_states), np.empty(n_states)
    for n in range(len(chain)):
        a, n_steps, c = offsets[n], offsets[n + 1] - offsets[n], chain[n]
        for j in range(n_states):
            score[j] = log_initial[c, j] + log_emission[a, c, j]
        for t in range(1, n_steps):
            for j in range(n_states):
                best[j] = score[0] + log_transition[c, 0, j]
                pointers[t, j] = 0
            for i in range(1, n_states):
                for j in range(n_states):
                    candidate = score[i] + log_transition[c, i, j]
                    if candidate > best[j]:
                        best[j] = candidate
                        pointers[t, j] = i
            for j in range(n_states):
                score[j] = best[j] + log_emission[a + t, c, j]
        last = np.argmax(score)
        log_probability[n] = score[last]
        path[a + n_steps - 1] = last
        for t in range(n_steps - 1, 0, -1):
            path[a + t - 1] = pointers[t, path[a + t]]


@_compiled
def _sample(offsets, chain, transition, filtered, uniforms, path):
    """Paths drawn backwards: p(z_t | z_{t+1}, x) is proportional to p(z_t | x_1..t) A(z_t, z_{t+1})."""
    n_states = transition.shape[1]
    weights = np.empty(n_states)
    for n in range(len(chain)):
        c = chain[n]
        for t in range(offsets[n + 1] - 1, offsets[n] - 1, -1):
            total = 0.0
            for i in range(n_states):
                weights[i] = filtered[t, c, i]
                if t + 1 < offsets[n + 1]:
                    weights[i] *= transition[c, i, path[t + 1]]
                total += weights[i]
            goal, reached = uniforms[t] * total, 0.0
            for i in range(n_states):
                reached += weights[i]
                if weights[i] > 0:
                    path[t] = i
                    if reached > goal:
                        break


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
    chains = _prepare(initial, transition, log_emission, offsets)
    n_chains, n_states = initial.shape
    n_sequences = len(offsets) - 1
    log_v = np.zeros(n_chains) if log_weights is None else _array(log_weights)
    u = np.ones(n_sequences) if weights is None else _array(weights)
    log_evidence, responsibilities = np.empty(n_sequences), np.empty((n_sequences, n_chains))
    first, pairs = np.zeros((n_chains, n_states)), np.zeros((n_chains, n_states, n_states))
    _expect(chains, log_v, u, log_evidence, responsibilities, first, pairs)
    return ChainExpectations(*map(torch.from_numpy, (log_evidence, responsibilities, chains.states, pairs, first)))


def log_partition(initial: Tensor, transition: Tensor, log_emission: Tensor, offsets: Tensor) -> Tensor:
    """log Z of each sequence under each chain, of shape (n_sequences, C); differentiable."""
    if torch.is_grad_enabled() and any(each.requires_grad for each in (initial, transition, log_emission)):
        return _LogPartition.apply(initial, transition, log_emission, offsets)
    chains = _prepare(initial, transition, log_emission, offsets)
    _forward(chains)
    return torch.from_numpy(chains.log_z)


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
    chains = _prepare(initial, transition, log_emission, offsets)
    _forward(chains)
    states = torch.from_numpy(chains.states)
    in_logs = torch.from_numpy(~chains.scaled).repeat_interleave(offsets.diff(), 0)  # (n_steps, C)
    states[in_logs] = states[in_logs].softmax(1).nan_to_num_(0.0)
    return states


def viterbi(initial: Tensor, transition: Tensor, log_emission: Tensor, offsets: Tensor, chain: Tensor) -> tuple[Tensor, Tensor]:
    """The most probable path of each sequence through its chain; see ``chains.viterbi``."""
    with np.errstate(divide="ignore"):
        log_initial, log_transition = np.log(_array(initial)), np.log(_array(transition))
    path, log_probability = np.empty(len(log_emission), dtype=np.int64), np.empty(len(chain))
    _viterbi(offsets.numpy(), chain.numpy(), log_initial, log_transition, _array(log_emission), path, log_probability)
    return torch.from_numpy(path), torch.from_numpy(log_probability)


def sample_paths(
    initial: Tensor, transition: Tensor, log_emission: Tensor, offsets: Tensor, chain: Tensor, uniforms: Tensor
) -> Tensor:
    """Paths drawn from p(z | x); see ``chains.sample_paths``."""
    forward = filtered(initial, transition, log_emission, offsets).numpy()
    path = np.zeros(len(forward), dtype=np.int64)
    _sample(offsets.numpy(), chain.numpy(), _array(transition), forward, _array(uniforms), path)
    return torch.from_numpy(path)
