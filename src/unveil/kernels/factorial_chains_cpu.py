"""Factorial hidden Markov chains on the CPU: the twin of ``factorial_chains``, compiled by numba. Threads may run it side by side.

Each sequence is tried with scaled probabilities: emissions divided by the largest of their step, forward messages by their sum. That is
exact as long as no combination that could be reached loses its probability to underflow; a sequence in which one does is rare, and
goes to the definition, which is in the log domain.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from unveil.kernels import factorial_chains
from unveil.kernels.factorial_chains import FactorialExpectations, split, summed

# Not "nnan" or "ninf": messages of combinations that no path reaches may overflow.
_compiled = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "arcp", "nsz"})

_LOST = 1e-200  # a reachable combination below this may be about to underflow
_LARGE = 64  # from as many combinations on, libraries multiply matrices faster than loops
_NOTHING = 1e-290  # forward messages below this are dropped, so that backward messages do not overflow


class _Chains(NamedTuple):
    """The arrays that the compiled functions read, and the forward messages that they fill."""

    offsets: np.ndarray
    initial: np.ndarray
    start: np.ndarray  # (M^K,), products of initial probabilities
    transition: np.ndarray
    states: np.ndarray  # (M^K, K), of each combination
    likelihood: np.ndarray  # (T, M^K), relative to the largest of a step
    shift: np.ndarray  # (T,), the logarithm of the largest
    alpha: np.ndarray  # (T, M^K), p(z_t | x_1 .. x_t)
    scale: np.ndarray  # (T,), by which alpha was divided
    log_z: np.ndarray  # (N,)
    exact: np.ndarray  # (N,), whether nothing was lost


# ---- one step ----------------------------------------------------------------------------------------------------------


@_compiled
def _move(before, matrix, after):
    """``after (R, M) = before (M, R)' matrix``: the chain of the first axis moves, and becomes the last one.

    So after all K chains have moved they are in their order again, and each move is a product of matrices.
    """
    if before.size >= _LARGE:
        np.dot(before.T, matrix, after)
        return
    after[:] = 0.0
    for i in range(len(matrix)):
        for r in range(len(after)):
            here = before[i, r]
            for j in range(len(matrix)):
                after[r, j] += here * matrix[i, j]


@_compiled
def _move_back(after, matrix, before):
    """``before (M, R) = matrix after (R, M)'``: what the message after a move is before it."""
    if before.size >= _LARGE:
        np.dot(matrix, after.T, before)
        return
    for i in range(len(matrix)):
        for r in range(len(after)):
            total = 0.0
            for j in range(len(matrix)):
                total += matrix[i, j] * after[r, j]
            before[i, r] = total


@_compiled
def _add_pairs(before, after, pairs):
    """``pairs += before (M, R) after (R, M)``."""
    if before.size >= _LARGE:
        pairs += np.dot(before, after)
        return
    for i in range(len(pairs)):
        for r in range(len(after)):
            here = before[i, r]
            for j in range(len(pairs)):
                pairs[i, j] += here * after[r, j]


@_compiled
def _move_all(transition, stages):
    """From ``stages[0]``, fill ``stages[k + 1]`` with what it is after chains 0 .. k have moved."""
    n_chains, n_states = transition.shape[:2]
    for k in range(n_chains):
        _move(stages[k].reshape(n_states, -1), transition[k], stages[k + 1].reshape(-1, n_states))


@_compiled
def _spread(chains, reachable, is_first):
    """Advance by one step the states that some path of each chain can be in."""
    n_chains, n_states = reachable.shape
    for k in range(n_chains):
        before = reachable[k].copy()
        for j in range(n_states):
            reached = False
            for i in range(n_states):
                reached = reached or (before[i] and chains.transition[k, i, j] > 0.0)
            reachable[k, j] = chains.initial[k, j] > 0.0 if is_first else reached


@_compiled
def _loses_something(chains, arriving, reachable):
    """Whether a combination that a path can be in has next to no probability left."""
    n_chains = reachable.shape[0]
    for s in range(len(arriving)):
        if arriving[s] < _LOST:
            possible = True
            for k in range(n_chains):
                possible = possible and reachable[k, chains.states[s, k]]
            if possible:
                return True
    return False


# ---- one sequence ------------------------------------------------------------------------------------------------------


@_compiled
def _forward(chains, first, last, sparse, stages, reachable):
    """Fill ``alpha``, and return (log p(x), whether it can be trusted)."""
    n_chains, log_z = len(chains.transition), 0.0
    for t in range(first, last):
        if t == first:
            stages[n_chains] = chains.start
        else:
            stages[0] = chains.alpha[t - 1]
            _move_all(chains.transition, stages)
        arriving = stages[n_chains]
        if sparse:
            _spread(chains, reachable, t == first)
            if _loses_something(chains, arriving, reachable):
                return 0.0, False
        total = 0.0
        for s in range(len(arriving)):
            arriving[s] *= chains.likelihood[t, s]
            total += arriving[s]
        if not total > _LOST:
            return 0.0, False
        for s in range(len(arriving)):
            share = arriving[s] / total
            chains.alpha[t, s] = share if share > _NOTHING else 0.0
        chains.scale[t] = total
        log_z += np.log(total) + chains.shift[t]
    return log_z, True


@_compiled
def _backward(chains, first, last, weight, stages, back, posterior, combinations, pairs):
    """Fill ``posterior`` (T, K, M), and add to the expected numbers of ``combinations`` and, still to be multiplied by A, ``pairs``.

    A transition of chain k from i to j happens when the chains before k have moved and those after it have not: its probability is a
    product of the forward message at that stage with the backward message at the next one.
    """
    n_chains, n_states = chains.transition.shape[:2]
    message = back[0]
    message[:] = weight
    for t in range(last - 1, first - 1, -1):
        for s in range(len(message)):
            passed = message[s]
            message[s] = passed * chains.alpha[t, s] if chains.alpha[t, s] > 0.0 else 0.0
            combinations[s] += message[s]
            for k in range(n_chains):
                posterior[t, k, chains.states[s, k]] += message[s]
            back[n_chains, s] = passed * chains.likelihood[t, s] / chains.scale[t] if chains.alpha[t, s] > 0.0 else 0.0
        if t == first:
            break
        stages[0] = chains.alpha[t - 1]
        _move_all(chains.transition, stages)
        for k in range(n_chains - 1, -1, -1):
            before, after = stages[k].reshape(n_states, -1), back[k + 1].reshape(-1, n_states)
            _add_pairs(before, after, pairs[k])
            _move_back(after, chains.transition[k], back[k].reshape(n_states, -1))


@_compiled
def _best_paths(offsets, log_start, log_transition, log_emission, path, log_probability):
    """Fill ``path`` (T,) with the numbers of the best combinations, and ``log_probability`` (N,)."""
    n_chains, n_states = log_transition.shape[:2]
    n_all, longest = len(log_start), 0
    for n in range(len(log_probability)):
        longest = max(longest, offsets[n + 1] - offsets[n])
    pointers = np.empty((longest, n_chains, n_all), dtype=np.int16)
    score, moved = np.empty(n_all), np.empty(n_all)
    for n in range(len(log_probability)):
        first, n_steps = offsets[n], offsets[n + 1] - offsets[n]
        score[:] = log_start + log_emission[first]
        for t in range(1, n_steps):
            n_right = n_all
            for k in range(n_chains):
                n_right //= n_states
                for s in range(n_all):
                    j = s // n_right % n_states
                    best, chosen = -np.inf, 0
                    for i in range(n_states):
                        candidate = score[s + (i - j) * n_right] + log_transition[k, i, j]
                        if candidate > best:
                            best, chosen = candidate, i
                    moved[s], pointers[t, k, s] = best, chosen
                score[:] = moved
            score += log_emission[first + t]
        here = np.argmax(score)
        log_probability[n], path[first + n_steps - 1] = score[here], here
        for t in range(n_steps - 1, 0, -1):
            n_right = 1
            for k in range(n_chains - 1, -1, -1):
                here += (pointers[t, k, here] - here // n_right % n_states) * n_right
                n_right *= n_states
            path[first + t - 1] = here


# ---- all sequences -----------------------------------------------------------------------------------------------------


@_compiled
def _forward_all(chains, sparse):
    n_chains, n_states = chains.initial.shape
    stages, reachable = np.empty((n_chains + 1, len(chains.start))), np.zeros((n_chains, n_states), dtype=np.bool_)
    for n in range(len(chains.log_z)):
        first, last = chains.offsets[n], chains.offsets[n + 1]
        chains.log_z[n], chains.exact[n] = _forward(chains, first, last, sparse, stages, reachable)


@_compiled
def _backward_all(chains, weights, posterior, combinations, pairs):
    n_chains = len(chains.initial)
    stages, back = np.empty((n_chains + 1, len(chains.start))), np.empty((n_chains + 1, len(chains.start)))
    for n in range(len(weights)):
        if chains.exact[n]:
            first, last = chains.offsets[n], chains.offsets[n + 1]
            _backward(chains, first, last, weights[n], stages, back, posterior, combinations, pairs)


def _run_forward(initial: Tensor, transition: Tensor, log_emission: Tensor, offsets: Tensor) -> _Chains:
    """Forward messages of all sequences, as far as they can be scaled."""
    pi, a, emission = _array(initial), _array(transition), _array(log_emission)
    (n_chains, n_states), n_all, n_sequences = pi.shape, emission.shape[1], len(offsets) - 1
    shift = emission.max(1)
    shift[shift == -np.inf] = 0.0
    likelihood = emission - shift[:, None]
    chains = _Chains(
        offsets=offsets.numpy(),
        initial=pi,
        start=_array(summed(initial.detach().double().log()[None])[0].exp()),
        transition=a,
        states=_array(split(torch.arange(n_all), n_chains, n_states)).astype(np.int64),
        likelihood=np.exp(likelihood, out=likelihood),
        shift=shift,
        alpha=np.empty_like(likelihood),
        scale=np.empty(len(shift)),
        log_z=np.empty(n_sequences),
        exact=np.empty(n_sequences, dtype=np.bool_),
    )
    rarest = min(pi.min(1).prod(), a.min((1, 2)).prod())
    _forward_all(chains, rarest < 10 * _LOST)
    return chains


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float64).contiguous().numpy()


# ---- the face of the twin ----------------------------------------------------------------------------------------------


def log_partition(initial: Tensor, transition: Tensor, log_emission: Tensor, offsets: Tensor) -> Tensor:
    """log p(x) of each sequence, of shape (n_sequences,); see ``factorial_chains.log_partition``. It has no gradient."""
    chains = _run_forward(initial, transition, log_emission, offsets)
    log_z = torch.from_numpy(chains.log_z)
    rest, rows, rest_offsets = _left_over(chains, offsets)
    if len(rest):
        log_z[rest] = factorial_chains.log_partition(
            initial.detach(), transition.detach(), log_emission[rows].detach(), rest_offsets
        )
    return log_z


def expectations(
    initial: Tensor, transition: Tensor, log_emission: Tensor, offsets: Tensor, weights: Tensor | None = None
) -> FactorialExpectations:
    """Posterior expectations; see ``factorial_chains.expectations``."""
    chains = _run_forward(initial, transition, log_emission, offsets)
    counts = np.ones(len(chains.log_z)) if weights is None else _array(weights)
    posterior, combinations = np.zeros((len(log_emission), *initial.shape)), np.zeros(len(chains.start))
    pairs = np.zeros_like(chains.transition)
    _backward_all(chains, counts, posterior, combinations, pairs)
    found = FactorialExpectations(
        log_evidence=torch.from_numpy(chains.log_z),
        states=torch.from_numpy(posterior),
        combinations=torch.from_numpy(combinations),
        transitions=torch.from_numpy(pairs * chains.transition),
        initial=torch.from_numpy(posterior[chains.offsets[:-1]].sum(0)),
    )
    rest, rows, rest_offsets = _left_over(chains, offsets)
    if not len(rest):
        return found
    exact = factorial_chains.expectations(
        initial, transition, log_emission[rows], rest_offsets, None if weights is None else weights[rest]
    )
    found.log_evidence[rest], found.states[rows] = exact.log_evidence, exact.states
    return FactorialExpectations(
        found.log_evidence,
        found.states,
        found.combinations + exact.combinations,
        found.transitions + exact.transitions,
        found.initial + exact.initial,
    )


def _left_over(chains: _Chains, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The sequences that cannot be scaled, the rows that they are in, and the offsets among these."""
    left = torch.from_numpy(~chains.exact)
    lengths = offsets.diff()
    rest_offsets = torch.cat([offsets.new_zeros(1), lengths[left].cumsum(0)])
    return left.nonzero()[:, 0], left.repeat_interleave(lengths).nonzero()[:, 0], rest_offsets


def viterbi(initial: Tensor, transition: Tensor, log_emission: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """The most probable paths of all chains together; see ``factorial_chains.viterbi``."""
    log_start, log_transition = _array(summed(initial.detach().double().log()[None])[0]), _array(transition.detach().log())
    path, log_probability = np.empty(len(log_emission), dtype=np.int64), np.empty(len(offsets) - 1)
    _best_paths(offsets.numpy(), log_start, log_transition, _array(log_emission), path, log_probability)
    return split(torch.from_numpy(path), *initial.shape), torch.from_numpy(log_probability)
