"""Where the learning of hidden Markov models starts: from clusters of steps, or from moments."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from unveil.core.model import Emission
from unveil.data.batch import Batch, Batches
from unveil.errors import IdentifiabilityWarning, InputError
from unveil.kernels.simplex import normalize, one_hot
from unveil.learn.reduce import threads
from unveil.models.moment_chains import ChainsEstimate, Structure, fit_chains, fit_clustered_chains
from unveil.models.moment_diagnostics import MomentDiagnostics, warn_of_doubts
from unveil.models.moment_mixtures import MakeEmission
from unveil.models.starts import START_SAMPLE, assign_sequences, assign_states, count_pairs, fill_missing, relabelled


class Chains(Protocol):
    """What a start sets, and what it has to know: a ``ChainMixture``."""

    n_chains: int
    n_states: int
    labels_are: str
    structure: Any
    emission: Emission
    weights: Tensor
    initial: Tensor
    transition: Tensor
    moments: MomentDiagnostics | None

    def by_density(self, states: Tensor) -> Tensor:
        """State posteriors (n, C, M) summed over states that share a density, of shape (n, K)."""
        ...


Start = Callable[[Any, Batches, torch.Generator], None]

# ---------------------------------------------------------------------------------------------------------------------
# From clusters
# ---------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def start_by_clusters(model: Chains, batches: Batches, generator: torch.Generator) -> None:
    """Cluster the sequences, then the steps of each cluster into states, and count how these follow each other."""
    values, weights, sequences, labels = batches.sample_labelled_steps(START_SAMPLE, generator)
    filled = fill_missing(values)
    states = labels if model.labels_are == "states" else torch.full_like(labels, -1)
    clusters = _assign_clusters(model, filled, sequences, labels, batches.n_sequences, generator)
    complete = len(values) == batches.n_steps  # in a sample of the steps, neighbours do not follow each other
    responsibilities = values.new_zeros(len(values), model.n_chains, model.n_states)
    for c in range(model.n_chains):
        inside = clusters[sequences] == c
        if inside.sum() < model.n_states:  # too little to tell states apart: let EM find them in everything
            inside = torch.ones_like(inside)
        responsibilities[inside, c] = assign_states(
            filled[inside],
            weights[inside],
            sequences[inside],
            states[inside],
            model.structure.allowed,
            generator,
            groups=model.structure.groups,
            forwards=model.structure.forwards,
            adjacent=complete,
        )
    model.emission.initialize(values, model.by_density(responsibilities))
    model.weights.copy_(normalize(torch.bincount(clusters, minlength=model.n_chains).double()))
    if complete:
        _count(model, responsibilities, sequences)
    else:
        model.initial.copy_(normalize(model.structure.starts.double()).expand_as(model.initial))
        model.transition.copy_(normalize(model.structure.allowed.double()).expand_as(model.transition))


def _assign_clusters(
    model: Chains, values: Tensor, sequences: Tensor, labels: Tensor, n_sequences: int, generator: torch.Generator
) -> Tensor:
    """A cluster for each sequence, the known ones included."""
    clusters = assign_sequences(values, sequences, n_sequences, model.n_chains, model.n_states, generator)
    if model.labels_are == "states" or not (labels >= 0).any():
        return clusters
    known = torch.full((n_sequences,), -1)
    known[sequences] = labels
    return relabelled(one_hot(clusters, model.n_chains), known).argmax(1)


def _count(model: Chains, responsibilities: Tensor, sequences: Tensor) -> None:
    """Initial and transition probabilities from the states (n, C, M) of all steps, each counted once more than it occurs."""
    follows = sequences[1:] == sequences[:-1]
    first = torch.cat([follows.new_ones(1), ~follows])
    pairs = torch.stack([count_pairs(responsibilities[:, c], sequences) for c in range(model.n_chains)])
    model.initial.copy_(normalize((1 + responsibilities[first].sum(0)) * model.structure.starts))
    model.transition.copy_(normalize((1 + pairs) * model.structure.allowed))


# ---------------------------------------------------------------------------------------------------------------------
# From moments
# ---------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def start_by_moments(
    model: Chains,
    batches: Batches,
    generator: torch.Generator,
    *,
    make_emission: MakeEmission,
    make_fine: MakeEmission,
    kind: str,
    depermute: str,
) -> None:
    """Parameters by the method of moments (``models/moment_chains.py``), or from clusters, with a warning, where it has no solution.

    Parameters
    ----------
    make_emission, make_fine : callable
        From a number of densities to an emission: of the model's family, and of one that may have many of them.
    kind : str
        The name of the structure of the transitions.
    depermute : {"all-lag", "ncut", "eigen"}
        How states are sorted into chains: by clustering the sequences first; or all of them at once, by their transitions.
    """
    if batches.labels is not None and bool((batches.labels >= 0).any()):
        raise InputError("y names known states or clusters, which moments cannot take; use init='kmeans'")
    if batches.n_sequences == batches.n_steps:
        raise InputError("no sequence of X has two steps, and moments need pairs of them; use init='kmeans'")
    structure = Structure(model.structure.starts, model.structure.allowed, kind)
    if model.n_chains > 1 and depermute == "all-lag":
        estimate = fit_clustered_chains(make_emission, make_fine, batches, model.n_chains, structure, generator)
    else:
        estimate = fit_chains(make_emission, batches, model.n_chains, structure, generator, depermute=depermute)
    if estimate is None:
        warnings.warn(
            f"three successive symbols do not determine {model.n_chains * model.n_states} states here, and EM starts from clusters "
            "instead; give more data, or use fewer states than there are symbols (of which 1000 are the most)",
            IdentifiabilityWarning,
            stacklevel=2,
        )
        start_by_clusters(model, batches, generator)
        return
    model.moments = estimate.diagnostics
    warn_of_doubts(estimate.diagnostics)
    _place(model, batches, estimate, generator)


def _place(model: Chains, batches: Batches, estimate: ChainsEstimate, generator: torch.Generator) -> None:
    """The estimate as the model's parameters; its densities by one M-step on all of the data."""
    emission = model.emission
    values, weights, _ = batches.sample_steps(START_SAMPLE, generator)
    emission.initialize(values, weights[:, None].expand(-1, emission.n_components))

    def densities(batch: Batch):
        responsibilities, step_weights = estimate.responsibilities(batch), batch.step_weights
        weighted = responsibilities if step_weights is None else responsibilities * step_weights.double()[:, None]
        return emission.expect(emission.features(batch.values), weighted)

    emission.maximize(threads(densities, batches))
    model.weights.copy_(estimate.weights)
    model.initial.copy_(estimate.initial)
    model.transition.copy_(estimate.transition)
