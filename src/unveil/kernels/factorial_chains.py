"""Factorial hidden Markov chains on packed sequences: the definition, in torch, by which the twin is judged.

K chains of M states run at the same time and independently of each other, but what is seen depends on all their states together. With
initial probabilities pi_k, transitions A_k and emission log-densities b, the weight of paths z = (z^1 .. z^K) of a sequence is

    w(z) = prod_t exp b_t(z^1_t .. z^K_t)  prod_k pi_k(z^k_1) prod_{t>1} A_k(z^k_{t-1}, z^k_t).

A combination (z^1 .. z^K) is one of M^K numbers in row-major order, the first chain the slowest. A step moves one chain after the other,

    alpha(.., j, ..)  <-  sum_i alpha(.., i, ..) A_k(i, j),

which costs O(K M^(K+1)); the matrix of all transitions, M^K x M^K, is never made (Ghahramani and Jordan, 1997, appendix B).

Shapes: ``initial`` (K, M), ``transition`` (K, M, M), ``log_emission`` (n_steps, M^K), ``offsets`` (n_sequences + 1,). Probabilities may be
zero; the recursions are in the log domain and in float64, so nothing underflows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unveil.kernels.chains import log_sum_exp, longest_first, safe_log


@dataclass(frozen=True)
class FactorialExpectations:
    """Posterior expectations for K chains, with sequence weights u_n.

    Attributes
    ----------
    log_evidence : Tensor of shape (n_sequences,)
        log p(x_n), without the weights.
    states : Tensor of shape (n_steps, K, M)
        u_n p(z^k_t = m | x_n), at every step t of sequence n.
    combinations : Tensor of shape (M^K,)
        sum_n u_n sum_t p(z_t = s | x_n).
    transitions : Tensor of shape (K, M, M)
        sum_n u_n sum_t p(z^k_{t-1} = i, z^k_t = j | x_n).
    initial : Tensor of shape (K, M)
        sum_n u_n p(z^k_1 = m | x_n).
    """

    log_evidence: Tensor
    states: Tensor
    combinations: Tensor
    transitions: Tensor
    initial: Tensor


def summed(per_chain: Tensor) -> Tensor:
    """The sum over chains of values (n, K, M), for every combination of states: (n, M^K).

    Examples
    --------
    >>> summed(torch.tensor([[[0.0, 1.0], [10.0, 20.0]]])).tolist()
    [[10.0, 20.0, 11.0, 21.0]]
    """
    total = per_chain.new_zeros(len(per_chain), 1)
    for k in range(per_chain.shape[1]):
        total = (total[:, :, None] + per_chain[:, k, None, :]).flatten(1)
    return total


def marginals(joint: Tensor, n_chains: int, n_states: int) -> Tensor:
    """The states' probabilities of each chain (n, K, M), from those of combinations (n, M^K)."""
    each = [joint.reshape(len(joint), n_states**k, n_states, -1).sum((1, 3)) for k in range(n_chains)]
    return torch.stack(each, 1)


def indicators(n_chains: int, n_states: int) -> Tensor:
    """Which states each combination is made of: K ones in each row of (M^K, K M)."""
    eye = torch.eye(n_states, dtype=torch.float64)
    columns = [eye.repeat_interleave(n_states ** (n_chains - 1 - k), 0).repeat(n_states**k, 1) for k in range(n_chains)]
    return torch.cat(columns, 1)


def log_partition(initial: Tensor, transition: Tensor, log_emission: Tensor, offsets: Tensor) -> Tensor:
    """log p(x) = log sum_z w(z) of each sequence, of shape (n_sequences,); differentiable."""
    return _log_partition(safe_log(initial), safe_log(transition), log_emission.double(), offsets)


def _log_partition(log_initial: Tensor, log_transition: Tensor, log_emission: Tensor, offsets: Tensor) -> Tensor:
    """All sequences step side by side, the longest first, so that those still running are always the first ones."""
    order = longest_first(offsets)
    lengths, first_rows = offsets.diff()[order], offsets[:-1][order]
    log_alpha, finished, n_running = summed(log_initial[None]).expand(len(lengths), -1), [], len(lengths)
    for step in range(int(lengths[0])):
        if step:
            log_alpha = _moved(log_alpha[:n_running], log_transition)
        log_alpha = log_alpha + log_emission[(first_rows[:n_running] + step).to(log_emission.device)]
        n_staying = int((lengths > step + 1).sum())
        if n_staying < n_running:
            finished.append(log_sum_exp(log_alpha[n_staying:], 1))
        n_running = n_staying
    return torch.cat(finished[::-1])[order.argsort().to(log_emission.device)]


def _moved(log_alpha: Tensor, log_transition: Tensor) -> Tensor:
    """One step of all chains, one after the other: (n, M^K) to (n, M^K)."""
    n_states = log_transition.shape[1]
    for k, log_a in enumerate(log_transition):
        before = log_alpha.reshape(len(log_alpha), n_states**k, n_states, 1, -1)
        log_alpha = log_sum_exp(before + log_a[:, :, None], 2).flatten(1)
    return log_alpha


def expectations(
    initial: Tensor, transition: Tensor, log_emission: Tensor, offsets: Tensor, weights: Tensor | None = None
) -> FactorialExpectations:
    """Posterior expectations as gradients of the log-evidence, by automatic differentiation.

    Parameters
    ----------
    initial, transition, log_emission, offsets : Tensor
        See the module.
    weights : Tensor of shape (n_sequences,), optional
        How often each sequence counts; ones by default.
    """
    with torch.enable_grad():
        parts = [each.detach().double().requires_grad_() for each in (initial.log(), transition.log(), log_emission)]
        log_evidence = _log_partition(*parts, offsets)
        counted = log_evidence if weights is None else log_evidence * weights
        first, pairs, joint = torch.autograd.grad(counted.sum(), parts, materialize_grads=True)
    return FactorialExpectations(log_evidence.detach(), marginals(joint, *initial.shape), joint.sum(0), pairs, first)


def viterbi(initial: Tensor, transition: Tensor, log_emission: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """The most probable paths of each sequence, of all chains together, by moving one chain at a time with max in place of sum.

    Returns
    -------
    paths : Tensor of shape (n_steps, K), int64
    log_probability : Tensor of shape (n_sequences,)
        log p(x, paths): the joint log-probability of the observations and the paths.
    """
    n_chains, n_states = initial.shape
    strides = [n_states ** (n_chains - 1 - k) for k in range(n_chains)]
    combinations = torch.empty(len(log_emission), dtype=torch.int64)
    log_probability = torch.empty(len(offsets) - 1, dtype=torch.float64)
    for n, (start, stop) in enumerate(zip(offsets.tolist()[:-1], offsets.tolist()[1:], strict=True)):
        score, pointers = summed(initial.log()[None])[0] + log_emission[start].double(), []
        for frame in log_emission[start + 1 : stop].double():
            for k, log_a in enumerate(transition.log()):
                before = score.reshape(n_states**k, n_states, 1, -1)
                score, pointer = (before + log_a[:, :, None]).max(1)
                score = score.flatten()
                pointers.append(pointer.flatten())
            score = score + frame
        best = int(score.argmax())
        log_probability[n] = score[best]
        combinations[stop - 1] = best
        for t in range(stop - 2, start - 1, -1):
            for stride in reversed(strides):
                best += (int(pointers.pop()[best]) - best // stride % n_states) * stride
            combinations[t] = best
    return split(combinations, n_chains, n_states), log_probability


def split(combinations: Tensor, n_chains: int, n_states: int) -> Tensor:
    """The states of all chains (n, K), from the numbers (n,) of their combinations."""
    strides = torch.tensor([n_states ** (n_chains - 1 - k) for k in range(n_chains)], device=combinations.device)
    return combinations[:, None] // strides % n_states
