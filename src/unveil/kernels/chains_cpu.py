"""Hidden Markov chains on the CPU: the twin of ``chains``, compiled by numba, on as many cores as torch uses.

Each sequence is first tried with scaled probabilities: emissions divided by the largest of their step, forward messages
divided by their sum. That is exact as long as no state that could be reached loses its probability to underflow; where
one does (left-to-right chains, many features), that sequence is done again in the log domain. The posteriors of the
chains need the evidence of all of them, so each sequence runs forwards through every chain and then backwards.
"""

from __future__ import annotations

from threading import Lock

import numba
import numpy as np
import torch
from torch import Tensor

from unveil.kernels.chains import ChainExpectations

# Not "nnan" or "ninf": forbidden transitions have log-probability -inf.
_compiled = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "arcp", "nsz"})

_LOST = 1e-200  # a reachable state below this may be about to underflow
_NEGLIGIBLE = 1e-100  # non-zero transitions below this defeat the check for lost states
_SMALL_TASK = 1 << 15  # multiply-adds below which threads cost more than they bring


# ---- one sequence, one chain -----------------------------------------------------------------------------------------


@_compiled
def _forward_scaled(initial, transition, likelihood, log_emission, shift, alpha, inverse_scale, arriving, reachable, sparse):
    """Fill ``alpha`` (T, M) with p(z_t | x_1..t) and return (log Z, whether it can be trusted)."""
    n_steps, n_states = alpha.shape
    log_z, product, everywhere = 0.0, 1.0, False
    for t in range(n_steps):
        if t == 0:
            for j in range(n_states):
                arriving[j] = initial[j]
        else:
            first = alpha[t - 1, 0]
            for j in range(n_states):
                arriving[j] = first * transition[0, j]
            for i in range(1, n_states):
                here = alpha[t - 1, i]
                for j in range(n_states):
                    arriving[j] += here * transition[i, j]
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
def _forward_log(log_initial, log_transition, log_emission, log_alpha):
    """Fill ``log_alpha`` (T, M) with the log-weight of all paths that end in each state, and return log Z."""
    n_steps, n_states = log_alpha.shape
    for j in range(n_states):
        log_alpha[0, j] = log_initial[j] + log_emission[0, j]
    for t in range(1, n_steps):
        for j in range(n_states):
            highest = -np.inf
            for i in range(n_states):
                highest = max(highest, log_alpha[t - 1, i] + log_transition[i, j])
            log_alpha[t, j] = highest
            if highest > -np.inf:
                total = 0.0
                for i in range(n_states):
                    if log_transition[i, j] > -np.inf:
                        total += np.exp(log_alpha[t - 1, i] + log_transition[i, j] - highest)
                log_alpha[t, j] = highest + np.log(total) + log_emission[t, j]
    return _log_sum_exp(log_alpha[n_steps - 1])


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
            passed[j] = message[j] * likelihood[t + 1, j] * inverse
        for i in range(n_states):
            here = states[t, i]
            for j in range(n_states):
                pairs[i, j] += here * passed[j]
        first = passed[0]
        for i in range(n_states):
            message[i] = reversed_transition[0, i] * first
        for j in range(1, n_states):
            there = passed[j]
            for i in range(n_states):
                message[i] += reversed_transition[j, i] * there
        for i in range(n_states):
            states[t, i] *= message[i]


@_compiled
def _backward_log(log_transition, log_emission, states, log_z, weight, pairs, message, passed):
    """The same from log-domain forward messages; expected transitions are complete."""
    n_steps, n_states = states.shape
    for j in range(n_states):
        message[j] = 0.0
        states[n_steps - 1, j] = weight * np.exp(states[n_steps - 1, j] - log_z)
    for t in range(n_steps - 2, -1, -1):
        for j in range(n_states):
            passed[j] = message[j] + log_emission[t + 1, j]
        for i in range(n_states):
            highest = -np.inf
            for j in range(n_states):
                highest = max(highest, log_transition[i, j] + passed[j])
            total = 0.0
            if highest > -np.inf:
                for j in range(n_states):
                    if log_transition[i, j] > -np.inf:
                        share = np.exp(log_transition[i, j] + passed[j] - highest)
                        total += share
                        pairs[i, j] += weight * share * np.exp(states[t, i] + highest - log_z)
                message[i] = highest + np.log(total)
            else:
                message[i] = -np.inf
        for i in range(n_states):
            states[t, i] = weight * np.exp(states[t, i] + message[i] - log_z)


# ---- a share of the sequences, all chains ----------------------------------------------------------------------------


@_compiled
def _forward_share(
    begin, end, offsets, initial, transition, log_initial, log_transition, kind, likelihood, log_emission, shift, states, log_z, scaled,
    inverse_scale,
):  # fmt: skip
    """Forward messages of sequences ``begin`` to ``end``, scaled where that is exact and in the log domain elsewhere."""
    n_chains, n_states = initial.shape
    arriving, reachable = np.empty(n_states), np.zeros(n_states, dtype=np.bool_)
    for n in range(begin, end):
        a, b = offsets[n], offsets[n + 1]
        for c in range(n_chains):
            good = kind[c] != 2
            if good:
                reachable[:] = False
                log_z[n, c], good = _forward_scaled(
                    initial[c], transition[c], likelihood[a:b, c], log_emission[a:b, c], shift[a:b, c], states[a:b, c],
                    inverse_scale[a:b, c], arriving, reachable, kind[c] == 1,
                )  # fmt: skip
            if not good:
                log_z[n, c] = _forward_log(log_initial[c], log_transition[c], log_emission[a:b, c], states[a:b, c])
            scaled[n, c] = good


@_compiled
def _expect_share(
    begin, end, offsets, initial, transition, reversed_transition, log_initial, log_transition, kind, likelihood, log_emission, shift,
    log_weights, weights, states, inverse_scale, log_z, scaled, log_evidence, responsibilities, first, pairs,
):  # fmt: skip
    """Posteriors of sequences ``begin`` to ``end``; ``first`` (C, M) and ``pairs`` (C, M, M) are this share's own sums."""
    n_chains, n_states = initial.shape
    message, passed = np.empty(n_states), np.empty(n_states)
    factored = np.zeros((n_chains, n_states, n_states))
    for n in range(begin, end):
        _forward_share(
            n, n + 1, offsets, initial, transition, log_initial, log_transition, kind, likelihood, log_emission, shift, states, log_z,
            scaled, inverse_scale,
        )  # fmt: skip
        a, b = offsets[n], offsets[n + 1]
        log_evidence[n] = _log_sum_exp(log_weights + log_z[n])
        for c in range(n_chains):
            share = np.exp(log_weights[c] + log_z[n, c] - log_evidence[n]) if log_z[n, c] > -np.inf else 0.0
            responsibilities[n, c] = share
            weight = share * weights[n]
            if weight == 0.0:
                states[a:b, c] = 0.0
            elif scaled[n, c]:
                _backward_scaled(
                    reversed_transition[c],
                    likelihood[a:b, c],
                    states[a:b, c],
                    inverse_scale[a:b, c],
                    weight,
                    factored[c],
                    message,
                    passed,
                )
            else:
                _backward_log(
                    log_transition[c],
                    log_emission[a:b, c],
                    states[a:b, c],
                    log_z[n, c],
                    weight,
                    pairs[c],
                    message,
                    passed,
                )
            for j in range(n_states):
                first[c, j] += states[a, c, j]
    pairs += factored * transition


@_compiled
def _viterbi_share(begin, end, offsets, chain, log_initial, log_transition, log_emission, path, log_probability):
    """Most probable paths of sequences ``begin`` to ``end``."""
    n_states = log_initial.shape[1]
    longest = 0
    for n in range(begin, end):
        longest = max(longest, offsets[n + 1] - offsets[n])
    pointers = np.empty((longest, n_states), dtype=np.int32)
    score, best = np.empty(n_states), np.empty(n_states)
    for n in range(begin, end):
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
def _sample_share(begin, end, offsets, chain, transition, filtered, uniforms, path):
    """Paths drawn backwards for sequences ``begin`` to ``end``."""
    n_states = transition.shape[1]
    weights = np.empty(n_states)
    for n in range(begin, end):
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


# ---- all sequences, in threads ---------------------------------------------------------------------------------------
#
# numba's OpenMP threads are those that torch's matrix products have just used. Threads of our own would fight with them for
# the cores, since OpenMP's spin for a while before they sleep.

_parallel = numba.njit(nogil=True, cache=True, parallel=True, error_model="numpy")
_one_at_a_time = Lock()  # some of numba's thread pools must not be entered by two Python threads at once


@_parallel
def _forward_parallel(
    edges, offsets, initial, transition, log_initial, log_transition, kind, likelihood, log_emission, shift, states, log_z, scaled,
    inverse_scale,
):  # fmt: skip
    for share in numba.prange(len(edges) - 1):
        _forward_share(
            edges[share], edges[share + 1], offsets, initial, transition, log_initial, log_transition, kind, likelihood, log_emission,
            shift, states, log_z, scaled, inverse_scale,
        )  # fmt: skip


@_parallel
def _expect_parallel(
    edges, offsets, initial, transition, reversed_transition, log_initial, log_transition, kind, likelihood, log_emission, shift,
    log_weights, weights, states, inverse_scale, log_z, scaled, log_evidence, responsibilities, first, pairs,
):  # fmt: skip
    for share in numba.prange(len(edges) - 1):
        _expect_share(
            edges[share], edges[share + 1], offsets, initial, transition, reversed_transition, log_initial, log_transition, kind,
            likelihood, log_emission, shift, log_weights, weights, states, inverse_scale, log_z, scaled, log_evidence, responsibilities,
            first[share], pairs[share],
        )  # fmt: skip


@_parallel
def _viterbi_parallel(edges, offsets, chain, log_initial, log_transition, log_emission, path, log_probability):
    for share in numba.prange(len(edges) - 1):
        _viterbi_share(
            edges[share],
            edges[share + 1],
            offsets,
            chain,
            log_initial,
            log_transition,
            log_emission,
            path,
            log_probability,
        )


def _share_edges(offsets: np.ndarray, cost_per_step: int) -> np.ndarray:
    """The sequences at which each thread's contiguous share begins, and the end; shares have about equally many steps."""
    n_sequences, n_steps = len(offsets) - 1, int(offsets[-1])
    n_shares = min(torch.get_num_threads(), n_sequences) if n_steps * cost_per_step > _SMALL_TASK else 1
    goals = np.arange(1, n_shares) * n_steps / n_shares
    return np.concatenate([[0], np.searchsorted(offsets, goals), [n_sequences]])


class _Chains:
    """The arrays that the compiled functions read."""

    def __init__(self, initial: Tensor, transition: Tensor, log_emission: Tensor, offsets: Tensor):
        self.offsets = offsets.numpy()
        self.initial, self.transition = _array(initial), _array(transition)
        with np.errstate(divide="ignore"):
            self.log_initial, self.log_transition = np.log(self.initial), np.log(self.transition)
        emission = log_emission.detach().to(torch.float64).contiguous()
        shift = emission.amax(2, keepdim=True)
        shift.masked_fill_(shift == -torch.inf, 0.0)
        self.log_emission, self.shift = emission.numpy(), shift[:, :, 0].numpy()
        self.likelihood = (emission - shift).exp_().numpy()
        self.kind = np.array([_kind(a, b) for a, b in zip(self.initial, self.transition, strict=True)])
        n_steps, n_chains, n_states = emission.shape
        n_sequences = len(self.offsets) - 1
        self.cost = n_chains * n_states * n_states
        self.states = np.empty((n_steps, n_chains, n_states))
        self.inverse_scale = np.empty((n_steps, n_chains))
        self.log_z = np.empty((n_sequences, n_chains))
        self.scaled = np.empty((n_sequences, n_chains), dtype=np.bool_)

    def forward(self) -> None:
        """Fill ``states``, ``log_z`` and ``scaled``."""
        with _one_at_a_time:
            _forward_parallel(
                _share_edges(self.offsets, self.cost), self.offsets, self.initial, self.transition, self.log_initial, self.log_transition,
                self.kind, self.likelihood, self.log_emission, self.shift, self.states, self.log_z, self.scaled, self.inverse_scale,
            )  # fmt: skip


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float64).contiguous().numpy()


def _kind(initial: np.ndarray, transition: np.ndarray) -> int:
    """0: every transition can be made, so no state is ever lost for good. 1: some cannot. 2: only the log domain is safe."""
    numbers = np.concatenate([initial, transition.ravel()])
    if ((numbers > 0) & (numbers < _NEGLIGIBLE)).any():
        return 2
    return int((numbers == 0).any())


def expectations(
    initial: Tensor,
    transition: Tensor,
    log_emission: Tensor,
    offsets: Tensor,
    log_weights: Tensor | None = None,
    weights: Tensor | None = None,
) -> ChainExpectations:
    """Posterior expectations of a mixture of chains; see ``chains.expectations``."""
    chains = _Chains(initial, transition, log_emission, offsets)
    n_chains, n_states = chains.initial.shape
    n_sequences = len(chains.offsets) - 1
    reversed_transition = np.ascontiguousarray(chains.transition.transpose(0, 2, 1))
    log_weights_array = np.zeros(n_chains) if log_weights is None else _array(log_weights)
    weights_array = np.ones(n_sequences) if weights is None else _array(weights)
    log_evidence, responsibilities = np.empty(n_sequences), np.empty((n_sequences, n_chains))
    edges = _share_edges(chains.offsets, chains.cost)
    first = np.zeros((len(edges) - 1, n_chains, n_states))
    pairs = np.zeros((len(edges) - 1, n_chains, n_states, n_states))
    with _one_at_a_time:
        _expect_parallel(
            edges, chains.offsets, chains.initial, chains.transition, reversed_transition, chains.log_initial, chains.log_transition,
            chains.kind, chains.likelihood, chains.log_emission, chains.shift, log_weights_array, weights_array, chains.states,
            chains.inverse_scale, chains.log_z, chains.scaled, log_evidence, responsibilities, first, pairs,
        )  # fmt: skip
    return ChainExpectations(
        log_evidence=torch.from_numpy(log_evidence),
        responsibilities=torch.from_numpy(responsibilities),
        states=torch.from_numpy(chains.states),
        transitions=torch.from_numpy(pairs.sum(0)),
        initial=torch.from_numpy(first.sum(0)),
    )


def log_partition(initial: Tensor, transition: Tensor, log_emission: Tensor, offsets: Tensor) -> Tensor:
    """log Z of each sequence under each chain, of shape (n_sequences, C); differentiable."""
    if torch.is_grad_enabled() and any(each.requires_grad for each in (initial, transition, log_emission)):
        return _LogPartition.apply(initial, transition, log_emission, offsets)
    chains = _Chains(initial, transition, log_emission, offsets)
    chains.forward()
    return torch.from_numpy(chains.log_z)


class _LogPartition(torch.autograd.Function):
    """log Z, whose gradients are the posteriors: one chain at a time, since each has a gradient of its own."""

    @staticmethod
    def forward(ctx, initial: Tensor, transition: Tensor, log_emission: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(initial, transition, log_emission, offsets)
        return log_partition(initial.detach(), transition.detach(), log_emission.detach(), offsets)

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        initial, transition, log_emission, offsets = ctx.saved_tensors
        parts = []
        for c in range(len(initial)):
            one = expectations(
                initial[c : c + 1],
                transition[c : c + 1],
                log_emission[:, c : c + 1],
                offsets,
                weights=gradients[0][:, c],
            )
            parts.append((one.initial, one.transitions, one.states))
        first, pairs, states = (torch.cat(each, dim) for each, dim in zip(zip(*parts, strict=True), (0, 0, 1), strict=True))
        by_probability = [torch.where(p > 0, count / p, 0.0) for count, p in ((first, initial), (pairs, transition))]
        return by_probability[0], by_probability[1], states.to(log_emission.dtype), None


def filtered(initial: Tensor, transition: Tensor, log_emission: Tensor, offsets: Tensor) -> Tensor:
    """p(z_t | x_1 .. x_t), of shape (n_steps, C, M)."""
    chains = _Chains(initial, transition, log_emission, offsets)
    chains.forward()
    states = torch.from_numpy(chains.states)
    in_logs = torch.from_numpy(~chains.scaled).repeat_interleave(offsets.diff(), 0)  # (n_steps, C)
    states[in_logs] = states[in_logs].softmax(1)
    return states


def viterbi(initial: Tensor, transition: Tensor, log_emission: Tensor, offsets: Tensor, chain: Tensor) -> tuple[Tensor, Tensor]:
    """The most probable path of each sequence through its chain; see ``chains.viterbi``."""
    with np.errstate(divide="ignore"):
        log_initial, log_transition = np.log(_array(initial)), np.log(_array(transition))
    emission, ends, which = _array(log_emission), offsets.numpy(), chain.numpy()
    path, log_probability = np.empty(len(emission), dtype=np.int64), np.empty(len(which))
    edges = _share_edges(ends, log_initial.shape[1] ** 2)
    with _one_at_a_time:
        _viterbi_parallel(edges, ends, which, log_initial, log_transition, emission, path, log_probability)
    return torch.from_numpy(path), torch.from_numpy(log_probability)


def sample_paths(
    initial: Tensor, transition: Tensor, log_emission: Tensor, offsets: Tensor, chain: Tensor, uniforms: Tensor
) -> Tensor:
    """Paths drawn from p(z | x); see ``chains.sample_paths``."""
    forward = filtered(initial, transition, log_emission, offsets).numpy()
    path = np.empty(len(forward), dtype=np.int64)
    _sample_share(0, len(chain), offsets.numpy(), chain.numpy(), _array(transition), forward, _array(uniforms), path)
    return torch.from_numpy(path)
