"""Hidden Markov chains on packed sequences: the definition, in torch, by which the twins are judged.

C chains of M states run side by side over the same sequences, as a mixture of hidden Markov models needs; one HMM is C = 1.
With initial probabilities pi, transitions A and emission log-densities b, the weight of a path z of a sequence is

    w(z) = pi(z_1) exp b_1(z_1) prod_{t>1} A(z_{t-1}, z_t) exp b_t(z_t).

Everything here follows from the log-partition log Z = log sum_z w(z), because posteriors are its gradients: state
posteriors are d log Z / d b, expected transitions d log Z / d log A.

Shapes: ``initial`` (C, M), ``transition`` (C, M, M), ``log_emission`` (n_steps, C, M), ``offsets`` (n_sequences + 1,). Probabilities
may be zero; the recursions are in the log domain and in float64, so nothing underflows. Every function differentiates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ChainExpectations:
    """Posterior expectations for a mixture of C chains, with log-weights v_c and sequence weights u_n.

    Attributes
    ----------
    log_evidence : Tensor of shape (n_sequences,)
        log p(x_n) = log sum_c exp(v_c + log Z_nc).
    responsibilities : Tensor of shape (n_sequences, C)
        p(c | x_n) = exp(v_c + log Z_nc) / p(x_n).
    states : Tensor of shape (n_steps, C, M)
        u_n p(c, z_t = m | x_n), at every step t of sequence n.
    transitions : Tensor of shape (C, M, M)
        sum_n u_n sum_t p(c, z_{t-1} = i, z_t = j | x_n).
    initial : Tensor of shape (C, M)
        sum_n u_n p(c, z_1 = m | x_n).
    """

    log_evidence: Tensor
    responsibilities: Tensor
    states: Tensor
    transitions: Tensor
    initial: Tensor


def log_partition(initial: Tensor, transition: Tensor, log_emission: Tensor, offsets: Tensor) -> Tensor:
    """log Z of each sequence under each chain, of shape (n_sequences, C)."""
    return _log_partition(safe_log(initial), safe_log(transition), log_emission.double(), offsets)


def safe_log(probabilities: Tensor) -> Tensor:
    """Logarithms, of which those of zero are -inf and have gradient zero: what is impossible stays so."""
    possible = probabilities > 0
    return torch.where(possible, torch.where(possible, probabilities, 1.0).log(), -torch.inf)


def _log_partition(log_initial: Tensor, log_transition: Tensor, log_emission: Tensor, offsets: Tensor) -> Tensor:
    finished = []
    for rows, n_ending, log_alpha in _forward(log_initial, log_transition, log_emission, offsets):
        if n_ending:
            finished.append(log_sum_exp(log_alpha[len(rows) - n_ending :], 2))
    order = longest_first(offsets)
    return torch.cat(finished[::-1])[order.argsort().to(log_emission.device)]


def log_sum_exp(values: Tensor, dim: int) -> Tensor:
    """Like ``torch.logsumexp``, but with gradient zero, not NaN, where everything is -inf."""
    highest = values.detach().amax(dim, keepdim=True)
    highest = torch.where(highest == -torch.inf, 0.0, highest)
    total = (values - highest).exp().sum(dim)
    possible = total > 0
    return torch.where(possible, torch.where(possible, total, 1.0).log() + highest.squeeze(dim), -torch.inf)


def longest_first(offsets: Tensor) -> Tensor:
    """The sequences in the order of their lengths, of shape (n_sequences,)."""
    return offsets.diff().argsort(descending=True, stable=True)


def _forward(
    log_initial: Tensor, log_transition: Tensor, log_emission: Tensor, offsets: Tensor
) -> Iterator[tuple[Tensor, int, Tensor]]:
    """Step through all sequences side by side, the longest first, so that those still running are always the first ones.

    Yields
    ------
    rows : Tensor of shape (n_running,)
        Where in the packed layout each running sequence is.
    n_ending : int
        How many of them, at the end of ``rows``, end here.
    log_alpha : Tensor of shape (n_running, C, M)
        log sum over paths that end in state m here.
    """
    order = longest_first(offsets)
    lengths, first_rows = offsets.diff()[order], offsets[:-1][order]
    log_alpha = log_emission.new_zeros(0)
    n_running = len(lengths)
    for step in range(int(lengths[0])):
        rows = (first_rows[:n_running] + step).to(log_emission.device)
        if step == 0:
            arriving = log_initial.expand(n_running, -1, -1)
        else:
            arriving = log_sum_exp(log_alpha[:n_running, :, :, None] + log_transition, 2)
        log_alpha = arriving + log_emission[rows]
        n_staying = int((lengths > step + 1).sum())
        yield rows, n_running - n_staying, log_alpha
        n_running = n_staying


def expectations(
    initial: Tensor,
    transition: Tensor,
    log_emission: Tensor,
    offsets: Tensor,
    log_weights: Tensor | None = None,
    weights: Tensor | None = None,
) -> ChainExpectations:
    """Posterior expectations as gradients of the log-evidence, by automatic differentiation.

    Parameters
    ----------
    initial, transition, log_emission, offsets : Tensor
        See the module.
    log_weights : Tensor of shape (C,) or (n_sequences, C), optional
        Log mixing proportions of the chains, of all sequences or of each; zeros by default.
    weights : Tensor of shape (n_sequences,), optional
        How often each sequence counts; ones by default.
    """
    with torch.enable_grad():
        parts = [each.detach().double().requires_grad_() for each in (initial.log(), transition.log(), log_emission)]
        chain_offsets = torch.zeros_like(initial[:, 0]) if log_weights is None else log_weights
        log_joint = _log_partition(*parts, offsets) + chain_offsets
        log_evidence = log_sum_exp(log_joint, 1)
        counted = log_evidence if weights is None else log_evidence * weights
        first, pairs, states = torch.autograd.grad(counted.sum(), parts, materialize_grads=True)
    responsibilities = (log_joint - log_evidence[:, None]).exp().nan_to_num(0.0).detach()
    return ChainExpectations(log_evidence.detach(), responsibilities, states, pairs, first)


def filtered(initial: Tensor, transition: Tensor, log_emission: Tensor, offsets: Tensor) -> Tensor:
    """p(z_t | x_1 .. x_t): what is known of the state without the future; zeros where x_1 .. x_t is impossible.

    Shape (n_steps, C, M).
    """
    probabilities = torch.empty_like(log_emission, dtype=torch.float64)
    for rows, _, log_alpha in _forward(initial.log(), transition.log(), log_emission.double(), offsets):
        probabilities[rows] = log_alpha.softmax(2).nan_to_num(0.0)
    return probabilities


def viterbi(initial: Tensor, transition: Tensor, log_emission: Tensor, offsets: Tensor, chain: Tensor) -> tuple[Tensor, Tensor]:
    """The most probable path of each sequence through one chain.

    Parameters
    ----------
    initial, transition, log_emission, offsets : Tensor
        See the module.
    chain : Tensor of shape (n_sequences,), int64
        Which chain each sequence follows.

    Returns
    -------
    path : Tensor of shape (n_steps,), int64
    log_probability : Tensor of shape (n_sequences,)
        log p(x, path): the joint log-probability of the observations and the path.
    """
    path = torch.empty(log_emission.shape[0], dtype=torch.int64)
    log_probability = torch.empty(len(chain), dtype=torch.float64)
    for n, c in enumerate(chain.tolist()):
        emission = log_emission[offsets[n] : offsets[n + 1], c].double()
        score, pointers = initial[c].log() + emission[0], []
        for frame in emission[1:]:
            score, pointer = (score[:, None] + transition[c].log()).max(0)
            score = score + frame
            pointers.append(pointer)
        best = [int(score.argmax())]
        for pointer in reversed(pointers):
            best.append(int(pointer[best[-1]]))
        path[offsets[n] : offsets[n + 1]] = torch.tensor(best[::-1])
        log_probability[n] = score.max()
    return path, log_probability


def sample_paths(
    initial: Tensor, transition: Tensor, log_emission: Tensor, offsets: Tensor, chain: Tensor, uniforms: Tensor
) -> Tensor:
    """Paths drawn from p(z | x), by filtering forwards and drawing backwards.

    Parameters
    ----------
    initial, transition, log_emission, offsets, chain : Tensor
        As for ``viterbi``.
    uniforms : Tensor of shape (n_steps,)
        Numbers in [0, 1) that decide the draws: the same ones give the same paths.

    Returns
    -------
    path : Tensor of shape (n_steps,), int64
        Any one where the observations are impossible.
    """
    forward = filtered(initial, transition, log_emission, offsets)
    path = torch.empty(log_emission.shape[0], dtype=torch.int64)
    for n, c in enumerate(chain.tolist()):
        start, stop = int(offsets[n]), int(offsets[n + 1])
        for t in range(stop - 1, start - 1, -1):
            weights = forward[t, c] if t == stop - 1 else forward[t, c] * transition[c][:, path[t + 1]]
            path[t] = draw(weights, float(uniforms[t]))
    return path


def draw(weights: Tensor, uniform: float) -> int:
    """The index whose share of the cumulative ``weights`` holds the fraction ``uniform`` of their sum."""
    cumulative = weights.cumsum(0)
    index = int(torch.searchsorted(cumulative, uniform * cumulative[-1], right=True))
    possible = weights.nonzero()
    return min(index, int(possible.max())) if len(possible) else 0
