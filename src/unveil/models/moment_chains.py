"""One hidden Markov model, or several side by side, by the method of moments: for any emission and any transition structure.

In two stages (Subakan, Traa and Smaragdis, 2014; Kontorovich, Nadler and Weiss, 2013). The steps, in no order, are a mixture of the
states' densities, which is found first. The responsibilities g of those densities are then features of the steps: with their means Phi
given the state, E[g_t g_{t+1}'] = Phi J Phi' is linear in the flow J between states. A structure is imposed by a rough solution, which
puts the states in order or sorts them into chains, and a second one under the mask of what is possible.
"""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from unveil.data.batch import Batch, Batches
from unveil.data.workers import map_batches
from unveil.kernels.depermutation import cut_embedding, eigen_embedding, split_rows, split_rows_evenly
from unveil.kernels.hamiltonian import heaviest_circuit, heaviest_path
from unveil.kernels.simplex import normalize
from unveil.kernels.simplex_fista import fit_flow, fit_weights
from unveil.learn.moments import Features, StateMoments, collect_state_moments, state_moments
from unveil.learn.reduce import threads
from unveil.models.moment_diagnostics import MomentDiagnostics
from unveil.models.moment_mixtures import MakeEmission, Marginal, fit_marginal
from unveil.models.topology import states_in_order

DEPERMUTATIONS = ("all-lag", "ncut", "eigen")
_POSSIBLE = 1e-4  # the least probability of what is possible: EM could never leave a zero
_FINE_STATES = 20  # for each cluster
_COUNT_ITERATIONS, _SHARED = 10, 0.1
_FEW_SEQUENCES = 0.05


@dataclass(frozen=True)
class Structure:
    """What a chain of M states may do.

    Attributes
    ----------
    starts : Tensor of shape (M,), bool
        The states that it may begin in.
    allowed : Tensor of shape (M, M), bool
        Its transitions.
    kind : str
        "bakis" and "cyclic" chains are put in order as Hamiltonian paths and circuits; all others by where their flow fits the mask.
    """

    starts: Tensor
    allowed: Tensor
    kind: str = ""

    def order(self, transition: Tensor, initial: Tensor) -> Tensor:
        """Which of the states, found in any order, to put in each place (M,)."""
        if bool(self.allowed.all()):
            return torch.arange(len(transition))
        if self.kind == "bakis":
            return torch.as_tensor(np.asarray(heaviest_path(_leaving(transition), initial.numpy())))
        if self.kind == "cyclic":
            return torch.as_tensor(np.asarray(heaviest_circuit(_leaving(transition))))
        return states_in_order(transition, self.allowed)


def _leaving(transition: Tensor) -> np.ndarray:
    """Probabilities of the next state given that the chain leaves the present one, so that long visits do not hide the order."""
    away = transition - transition.diagonal().diag()
    return (away / away.sum(1, keepdim=True).clamp_min(1e-9)).numpy()


@dataclass(frozen=True)
class ChainsEstimate:
    """C chains of M states.

    Attributes
    ----------
    responsibilities : callable
        From a batch to the responsibilities (n_steps, C M) of the densities.
    weights : Tensor of shape (C,)
    initial : Tensor of shape (C, M)
    transition : Tensor of shape (C, M, M)
    diagnostics : MomentDiagnostics
    """

    responsibilities: Features
    weights: Tensor
    initial: Tensor
    transition: Tensor
    diagnostics: MomentDiagnostics


# ---------------------------------------------------------------------------------------------------------------------
# All states at once
# ---------------------------------------------------------------------------------------------------------------------


def fit_chains(
    make_emission: MakeEmission,
    batches: Batches,
    n_chains: int,
    structure: Structure,
    generator: torch.Generator,
    *,
    depermute: str = "ncut",
) -> ChainsEstimate | None:
    """C chains from one marginal mixture of all their states, which are then sorted into chains; None where that is not determined.

    Parameters
    ----------
    make_emission : callable
        From a number of densities to an emission with that many.
    batches : Batches
        Of sequences.
    n_chains : int
        C.
    structure : Structure
        Of each chain.
    generator : torch.Generator
    depermute : {"ncut", "eigen"}
        By normalised cuts of the flow, or by the leading eigenvectors of the transitions.
    """
    n_states = len(structure.starts)
    marginal = fit_marginal(make_emission, batches, n_chains * n_states, generator)
    if marginal is None:
        return None
    moments = collect_state_moments(marginal.responsibilities, batches, reduce=threads)
    transition, first = _solve(moments, torch.arange(len(moments.total)))
    chain, eigenvalues = _sort_states(transition, moments, n_chains, depermute, generator)
    places = []
    for c in range(n_chains):
        inside = (chain == c).nonzero()[:, 0]
        places.append(inside[structure.order(normalize(transition[inside][:, inside]), first[inside])])
    order = torch.cat(places)
    mask = torch.block_diag(*[structure.allowed.double()] * n_chains) > 0
    transition, first = _solve(moments, order, mask, structure.starts.repeat(n_chains))
    initial = first.view(n_chains, n_states)
    blocks = transition.view(n_chains, n_states, n_chains, n_states)
    return ChainsEstimate(
        lambda batch: marginal.responsibilities(batch)[:, order],
        normalize(initial.sum(1) + _POSSIBLE),
        _possible(initial, structure.starts),
        _possible(torch.stack([blocks[c, :, c] for c in range(n_chains)]), structure.allowed),
        _diagnostics(marginal, moments, transition, order, eigenvalues, n_chains),
    )


def _solve(moments: StateMoments, order: Tensor, mask: Tensor | None = None, starts: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Transitions (S, S) and initial probabilities (S,) of the states in an order, under masks."""
    features = moments.features[:, order]
    totals = _earlier(moments, features)
    flow = fit_flow(moments.lagged / moments.pairs, features, totals, mask)
    return flow / totals[:, None], fit_weights(moments.first / moments.sequences, features, starts)


def _earlier(moments: StateMoments, features: Tensor) -> Tensor:
    """How often each state is one that is followed, of shape (S,)."""
    return normalize(fit_weights(moments.earlier / moments.pairs, features).clamp_min(1e-6))


def _sort_states(
    transition: Tensor, moments: StateMoments, n_chains: int, depermute: str, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """The chain of each state (S,), as many states in each, and the eigenvalues that told."""
    if n_chains == 1:
        return torch.zeros(len(transition), dtype=torch.int64), None
    if depermute == "eigen":
        rows, eigenvalues = eigen_embedding(transition, n_chains)
    else:
        rows, eigenvalues = cut_embedding(_earlier(moments, moments.features)[:, None] * transition, n_chains)
    return split_rows_evenly(rows, n_chains, _seed(generator)), eigenvalues


def _possible(probabilities: Tensor, mask: Tensor) -> Tensor:
    """Probabilities in which nothing that is possible is zero."""
    return normalize((probabilities + _POSSIBLE) * mask)


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**31 - 1, (), generator=generator))


def _diagnostics(
    marginal: Marginal, moments: StateMoments, transition: Tensor, order: Tensor, eigenvalues: Tensor | None, n_chains: int
) -> MomentDiagnostics:
    features, lagged = moments.features[:, order], moments.lagged / moments.pairs
    singular = torch.linalg.svdvals(features)
    left = lagged - features @ (_earlier(moments, features)[:, None] * transition) @ features.T
    return MomentDiagnostics(
        marginal.method,
        (singular if marginal.spectrum is None else marginal.spectrum).numpy(),
        marginal.gap,
        float(singular[0] / singular[-1].clamp_min(1e-300)),
        len(order),
        float(left.norm() / lagged.norm()),
        moments.pairs,
        None if eigenvalues is None else eigenvalues.numpy(),
        n_chains,
    )


# ---------------------------------------------------------------------------------------------------------------------
# The sequences first, then the states of each cluster
# ---------------------------------------------------------------------------------------------------------------------


def fit_clustered_chains(
    make_emission: MakeEmission,
    make_fine: MakeEmission,
    batches: Batches,
    n_chains: int,
    structure: Structure,
    generator: torch.Generator,
) -> ChainsEstimate | None:
    """C chains from the sequences of each cluster, found by which of many fine states occur in the same sequences.

    Fine states of one chain occur together at all lags, far beyond the next step: so they are told apart much better than by
    transitions, also where there are fewer features than states.
    """
    clusters, eigenvalues = cluster_sequences(make_fine, batches, n_chains, generator)
    weights = torch.ones(batches.n_sequences, dtype=torch.float64) if batches.weights is None else batches.weights.double()
    shares = normalize(torch.bincount(clusters, weights, minlength=n_chains))
    found = []
    for c in range(n_chains):
        own = batches.restricted_to(clusters == c) if shares[c] >= _FEW_SEQUENCES else batches
        found.append(fit_chains(make_emission, own, 1, structure, generator))
    chains = [each for each in found if each is not None]
    if len(chains) < n_chains:
        return None
    worst = max((each.diagnostics for each in chains), key=lambda each: each.condition)
    worst = replace(
        worst,
        residual=max(each.diagnostics.residual for each in chains),
        n_transitions=min(each.diagnostics.n_transitions for each in chains),
        eigenvalues=eigenvalues.numpy(),
        n_clusters=n_chains,
    )
    return ChainsEstimate(
        _of_clusters([each.responsibilities for each in chains], clusters),
        normalize(shares + _POSSIBLE),
        torch.cat([each.initial for each in chains]),
        torch.cat([each.transition for each in chains]),
        worst,
    )


def _of_clusters(parts: list[Features], clusters: Tensor) -> Features:
    """Responsibilities (n_steps, C M): each sequence has those of its own cluster's densities."""

    def responsibilities(batch: Batch) -> Tensor:
        own = clusters[batch.start + batch.sequence_of_step]
        return torch.cat([part(batch) * (own == c)[:, None] for c, part in enumerate(parts)], 1)

    return responsibilities


def cluster_sequences(
    make_fine: MakeEmission, batches: Batches, n_clusters: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A cluster for each sequence (n_sequences,), and the eigenvalues (S',) of the fine states' cut.

    With c_n the expected counts of S' fine states in sequence n, E[c c'] without the pairs of a step with itself is Phi J Phi', whose J is
    block-diagonal. Its cut gives each fine state a cluster, and a mixture of multinomials over the counts, from there, the sequences
    theirs: it lets clusters share states.
    """
    n_fine = max(min(_FINE_STATES * n_clusters, batches.n_steps // 20), n_clusters + 1)
    marginal = fit_marginal(make_fine, batches, n_fine, generator, fine=True)
    moments, counts = _moments_and_counts(marginal.responsibilities, batches)
    together = moments.together.clamp_min(0.0) / moments.together.sum().clamp_min(1e-300)
    totals = normalize(fit_weights(together.sum(1), moments.features).clamp_min(1e-6))
    rows, eigenvalues = cut_embedding(fit_flow(together, moments.features, totals, max_iter=1000), n_clusters)
    return _settle(counts, split_rows(rows, n_clusters, _seed(generator)), n_clusters), eigenvalues


def _moments_and_counts(responsibilities: Features, batches: Batches) -> tuple[StateMoments, Tensor]:
    """Moments of the fine states, and how many steps each sequence is expected to have in each of them (n_sequences, S'), in one pass."""

    def of_batch(batch: Batch) -> tuple[StateMoments, Tensor]:
        of_step = responsibilities(batch)
        counts = of_step.new_zeros(batch.n_sequences, of_step.shape[1]).index_add_(0, batch.sequence_of_step, of_step)
        return state_moments(of_step, batch), counts

    moments, counts = zip(*map_batches(of_batch, batches), strict=True)
    return functools.reduce(operator.add, moments), torch.cat(counts)


def _settle(counts: Tensor, cluster_of_state: Tensor, n_clusters: int) -> Tensor:
    """The cluster of each sequence by EM of a mixture of multinomials, from the clusters of the states."""
    total = counts.sum(0)
    own = torch.where(cluster_of_state == torch.arange(n_clusters)[:, None], 1.0, _SHARED)
    symbols, shares = normalize(own * total), torch.full((n_clusters,), 1 / n_clusters, dtype=torch.float64)
    for _ in range(_COUNT_ITERATIONS):
        posterior = (counts @ symbols.clamp_min(1e-300).log().T + shares.log()).softmax(1)
        symbols = normalize(posterior.T @ counts + 0.01 * counts.mean())
        shares = normalize(posterior.mean(0).clamp_min(1e-3))
    return (counts @ symbols.log().T + shares.log()).argmax(1)
