"""Mixtures of hidden Markov chains over any emission: the model behind every hidden Markov model here."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor, nn

from unveil.core.model import Emission, HardEMModel, Penalized, Posterior, log_prior_of
from unveil.core.statistics import ModelStatistics, Statistics
from unveil.data.batch import Batch, Batches
from unveil.errors import InputError
from unveil.kernels import chains, chains_cpu
from unveil.kernels.simplex import normalize, one_hot, restrict_to_labels
from unveil.models.chain_starts import Start, start_by_clusters
from unveil.models.moment_diagnostics import MomentDiagnostics
from unveil.models.starts import CENTER_SAMPLE

_VANISHED = 1e-100  # a transition that is less probable is made impossible, so that scaled recursions stay exact


@dataclass(frozen=True)
class ChainStatistics(ModelStatistics):
    """Expected counts in C chains of M states, and what the observation densities need.

    Attributes
    ----------
    weights : Tensor of shape (C,)
        sum_n p(c | x_n).
    initial : Tensor of shape (C, M)
        sum_n p(c, z_1 = m | x_n).
    transitions : Tensor of shape (C, M, M)
        sum_n sum_t p(c, z_{t-1} = i, z_t = j | x_n).
    emission : Statistics
        Of the C M observation densities.
    """

    weights: Tensor
    initial: Tensor
    transitions: Tensor
    emission: Statistics


@dataclass(frozen=True)
class ChainPosterior(Posterior):
    """The posterior of a mixture of chains.

    Attributes
    ----------
    responsibilities : Tensor of shape (n_sequences, C)
        p(c | x_n).
    states : Tensor of shape (n_steps, C, M)
        p(c, z_t = m | x_n).
    """

    responsibilities: Tensor
    states: Tensor


@dataclass(frozen=True)
class ChainStructure:
    """What a chain of M states may do, what is held fixed in it, and its priors.

    Attributes
    ----------
    starts : Tensor of shape (M,), bool
        The states in which a sequence may begin.
    allowed : Tensor of shape (M, M), bool
        The transitions that are possible.
    held : Tensor of shape (M, M), bool, optional
        Transitions whose probability stays what it was at the start.
    fixed : frozenset of str
        Of "weights", "startprob", "transmat" and "emission": what stays as a whole.
    groups : Tensor of shape (M,), int64, optional
        States with the same number share their observation density.
    forwards : bool
        Whether chains only go forwards in time, so that they start from sequences cut into equal parts.
    startprob_prior, transmat_prior : float
        Concentrations of symmetric Dirichlet priors; 1 is flat.
    sticky : float
        What the prior adds to the concentration of staying in a state.
    """

    starts: Tensor
    allowed: Tensor
    held: Tensor | None = None
    fixed: frozenset[str] = frozenset()
    groups: Tensor | None = None
    forwards: bool = False
    startprob_prior: float = 1.0
    transmat_prior: float = 1.0
    sticky: float = 0.0

    @staticmethod
    def free(n_states: int) -> ChainStructure:
        """Every transition possible, nothing fixed, flat priors."""
        return ChainStructure(torch.ones(n_states, dtype=torch.bool), torch.ones(n_states, n_states, dtype=torch.bool))

    def pseudo_counts(self) -> Tensor:
        """What the prior adds to the counts of transitions, of shape (M, M)."""
        eye = torch.eye(len(self.allowed), dtype=torch.float64)
        return (self.transmat_prior - 1.0 + self.sticky * eye) * self.allowed


class ChainMixture(HardEMModel, Penalized):
    """A mixture of C hidden Markov models with M states each; with C = 1, a hidden Markov model.

    The C M observation densities are one family, so they cost one matrix product; the chains are M x M each, never C M x C M.

    Parameters
    ----------
    n_chains, n_states : int
        C and M.
    emission : Emission
        C M densities, those of a chain side by side; with ``structure.groups``, C times as many as there are groups.
    given : dict of str to Tensor
        Starting values that replace the ones found: ``initial``, ``transition``, and parameters of the emission by their names.
    structure : ChainStructure, optional
        By default everything is possible and free.
    labels : {"states", "chains"}
        What the labels of a batch name; states where C = 1.
    start : callable
        ``start(model, batches, generator)`` chooses parameters from the data (``models/chain_starts.py``).
    """

    def __init__(
        self,
        n_chains: int,
        n_states: int,
        emission: Emission,
        given: dict[str, Tensor] | None = None,
        structure: ChainStructure | None = None,
        labels: str = "states",
        start: Start = start_by_clusters,
    ):
        super().__init__()
        self.labels_are, self._start = labels, start
        self.n_chains, self.n_states, self.emission = n_chains, n_states, emission
        self.structure = structure or ChainStructure.free(n_states)
        self.moments: MomentDiagnostics | None = None
        self.weights = nn.Parameter(torch.full((n_chains,), 1 / n_chains, dtype=torch.float64))
        self.initial = nn.Parameter(normalize(self.structure.starts.double()).repeat(n_chains, 1))
        self.transition = nn.Parameter(normalize(self.structure.allowed.double()).repeat(n_chains, 1, 1))
        self._given = given or {}

    # ---- start -------------------------------------------------------------------------------------------------------

    def initialize(self, batches: Batches, generator: torch.Generator) -> None:
        """Parameters by the start that was chosen, except those that were given."""
        self._check_amount(batches)
        if self._everything_is_given():
            values, weights, _ = batches.sample_steps(CENTER_SAMPLE, generator)
            self.emission.initialize(values, weights[:, None].expand(-1, self.emission.n_components))
        else:
            self._start(self, batches, generator)
        self._take_given()

    def _check_amount(self, batches: Batches) -> None:
        if batches.n_steps < self.n_states:
            raise InputError(
                f"n_states={self.n_states} but X has {batches.n_steps} steps in all; give more data or use fewer states"
            )
        if batches.n_sequences < self.n_chains:
            raise InputError(
                f"n_clusters={self.n_chains} but X has {batches.n_sequences} sequences; give more sequences or ask for fewer clusters"
            )

    def _everything_is_given(self) -> bool:
        emission = {name for name, _ in self.emission.named_parameters()}
        return self._given.keys() >= {"initial", "transition"} | emission

    @torch.no_grad()
    def _take_given(self) -> None:
        """Replace what was found by what the user gave."""
        for name, value in self._given.items():
            owner = self if name in ("initial", "transition", "weights") else self.emission
            owner.get_parameter(name).copy_(value)

    # ---- likelihood --------------------------------------------------------------------------------------------------

    def objective(self, batch: Batch) -> Tensor:
        """log p(x) = log sum_c v_c Z_c(x), of shape (n_sequences,)."""
        return torch.logsumexp(self.log_partition(batch) + self._log_weights(batch), 1)

    def log_partition(self, batch: Batch) -> Tensor:
        """log p(x | c), of shape (n_sequences, C)."""
        return self._kernels.log_partition(*self._chain_arguments(self.log_emission(batch), batch))

    def log_emission(self, batch: Batch) -> Tensor:
        """log p(x_t | c, z_t = m), of shape (n_steps, C, M); -inf for states that are known not to be the right one."""
        return self._by_chain(self.emission.log_density(self.emission.features(batch.values)), batch)

    def _by_chain(self, per_density: Tensor, batch: Batch) -> Tensor:
        if self.structure.groups is not None:
            per_density = per_density.unflatten(1, (self.n_chains, -1))[:, :, self.structure.groups].flatten(1)
        if self.labels_are == "states":
            per_density = restrict_to_labels(per_density, batch.labels)
        return per_density.unflatten(1, (self.n_chains, self.n_states))

    def by_density(self, states: Tensor) -> Tensor:
        """State posteriors (n, C, M) summed over states that share a density, of shape (n, K)."""
        if self.structure.groups is None:
            return states.flatten(1)
        shared = states.new_zeros(len(states), self.n_chains, self.emission.n_components // self.n_chains)
        return shared.index_add_(2, self.structure.groups, states).flatten(1)

    def _log_weights(self, batch: Batch) -> Tensor:
        """log v_c, of shape (C,), or (n_sequences, C) with -inf for chains that are known not to be the right one."""
        if self.labels_are == "states" or batch.labels is None:
            return self.weights.log()
        of_sequence = batch.labels[batch.offsets[:-1]]
        return restrict_to_labels(self.weights.log().expand(batch.n_sequences, -1), of_sequence)

    def _chain_arguments(self, log_emission: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.initial, self.transition, log_emission, batch.offsets

    @property
    def _kernels(self) -> ModuleType:
        return chains_cpu if self.weights.device.type == "cpu" else chains

    # ---- EM ----------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def expect(self, batch: Batch, *, evaluate: bool = True) -> ChainStatistics:
        """Forward-backward through every chain, and the moments under the state posteriors."""
        features = self.emission.features(batch.values)
        log_emission = self._by_chain(self.emission.log_density(features), batch)
        weights = None if batch.weights is None else batch.weights.double()
        expected = self._kernels.expectations(*self._chain_arguments(log_emission, batch), self._log_weights(batch), weights)
        log_likelihood, responsibilities = expected.log_evidence, expected.responsibilities
        if weights is not None:
            log_likelihood, responsibilities = log_likelihood * weights, responsibilities * weights[:, None]
        return ChainStatistics(
            weight=batch.total_weight,
            log_likelihood=float(log_likelihood.sum()),
            weights=responsibilities.sum(0),
            initial=expected.initial,
            transitions=expected.transitions,
            emission=self.emission.expect(features, self.by_density(expected.states)),
        )

    @torch.no_grad()
    def assign(self, batch: Batch) -> ChainStatistics:
        """Counts along the best path through the best chain of each sequence: Viterbi training."""
        features = self.emission.features(batch.values)
        log_emission = self._by_chain(self.emission.log_density(features), batch)
        chain, path, log_joint = self._best(log_emission, batch)
        weights = log_joint.new_ones(batch.n_sequences) if batch.weights is None else batch.weights.double()
        of_step = batch.sequence_of_step
        cells = chain[of_step] * self.n_states + path
        states = one_hot(cells, self.n_chains * self.n_states) * weights[of_step, None]
        follows = of_step[1:] == of_step[:-1]
        pairs = (cells[:-1] * self.n_states + path[1:])[follows]
        n_pairs = self.n_chains * self.n_states**2
        transitions = torch.bincount(pairs, weights[of_step[1:][follows]], minlength=n_pairs)
        states = states.unflatten(1, (self.n_chains, self.n_states))
        return ChainStatistics(
            weight=batch.total_weight,
            log_likelihood=float((log_joint * weights).sum()),
            weights=torch.bincount(chain, weights, minlength=self.n_chains),
            initial=states[batch.offsets[:-1]].sum(0),
            transitions=transitions.view(self.transition.shape),
            emission=self.emission.expect(features, self.by_density(states)),
        )

    def _best(self, log_emission: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The chain (n_sequences,) and path (n_steps,) with the highest log v_c p(x, path | c), and that (n_sequences,)."""
        arguments, log_weights = self._chain_arguments(log_emission, batch), self._log_weights(batch)
        found = [self._kernels.viterbi(*arguments, torch.full((batch.n_sequences,), c)) for c in range(self.n_chains)]
        log_joint = torch.stack([score for _, score in found], 1) + log_weights
        best, chain = log_joint.max(1)
        paths = torch.stack([path for path, _ in found], 1)
        return chain, paths.gather(1, chain[batch.sequence_of_step][:, None])[:, 0], best

    @torch.no_grad()
    def maximize(self, statistics: ChainStatistics) -> None:
        """Normalised counts, and the densities' own maximisers; what no data speaks of stays as it was."""
        fixed = self.structure.fixed
        if "weights" not in fixed:
            self.weights.copy_(normalize(statistics.weights, self.weights))
        if "startprob" not in fixed:
            self.initial.copy_(_without_vanished(normalize(statistics.initial + self._initial_prior(), self.initial)))
        if "transmat" not in fixed:
            self.transition.copy_(self._best_transitions(statistics.transitions + self._transition_prior()))
        if "emission" not in fixed:
            self.emission.maximize(statistics.emission)

    def _best_transitions(self, counts: Tensor) -> Tensor:
        """Each row's counts as probabilities; entries that are held keep theirs, and the others share what remains."""
        if self.structure.held is None:
            return _without_vanished(normalize(counts, self.transition))
        held = torch.where(self.structure.held, self.transition, 0.0)
        room = (1.0 - held.sum(-1, keepdim=True)).clamp_min(0.0)
        before = normalize(torch.where(self.structure.held, 0.0, self.transition))
        free = normalize(torch.where(self.structure.held, 0.0, counts), before)
        return held + room * _without_vanished(free)

    def _initial_prior(self) -> Tensor:
        """Pseudo-counts of the Dirichlet priors of the initial probabilities (C, M); what is impossible stays so."""
        return (self.structure.startprob_prior - 1.0) * (self.initial > 0).double()

    def _transition_prior(self) -> Tensor:
        """The same of the transitions, of shape (C, M, M)."""
        return self.structure.pseudo_counts().to(self.transition.device) * (self.transition > 0)

    @torch.no_grad()
    def log_prior(self) -> float:
        """Dirichlet priors of initial and transition probabilities, and the densities' own."""
        own = torch.special.xlogy(self._initial_prior(), self.initial).sum()
        own += torch.special.xlogy(self._transition_prior(), self.transition).sum()
        return float(own) + log_prior_of(self.emission)

    # ---- use ---------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def posterior(self, batch: Batch) -> ChainPosterior:
        """Responsibilities of the chains, and of their states at each step."""
        log_emission = self.log_emission(batch)
        expected = self._kernels.expectations(*self._chain_arguments(log_emission, batch), self._log_weights(batch))
        return ChainPosterior(expected.log_evidence, expected.responsibilities, expected.states)

    def density_posterior(self, batch: Batch) -> Tensor:
        """The posterior of the observation density that each step has, of shape (n_steps, K)."""
        return self.by_density(self.posterior(batch).states)

    @torch.no_grad()
    def filtered(self, batch: Batch) -> Tensor:
        """p(z_t | c, x_1 .. x_t), of shape (n_steps, C, M): without a look into the future."""
        return self._kernels.filtered(*self._chain_arguments(self.log_emission(batch), batch))

    @torch.no_grad()
    def predicted(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """p(z_t | c, x_1 .. x_{t-1}), of shape (n_steps, C, M), and log p(x_t | c, x_1 .. x_{t-1}), of shape (n_steps, C)."""
        log_emission = self.log_emission(batch)
        filtered = self._kernels.filtered(*self._chain_arguments(log_emission, batch))
        states = torch.einsum("tci,cij->tcj", filtered.roll(1, 0), self.transition)
        states[batch.offsets[:-1]] = self.initial.expand(batch.n_sequences, -1, -1)
        return states, torch.logsumexp(states.log() + log_emission, 2)

    @torch.no_grad()
    def viterbi(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The best path of each sequence through its most probable chain (n_steps,), and log p(x, path | c) (n_sequences,)."""
        return self._kernels.viterbi(*self._through_best_chain(batch))

    @torch.no_grad()
    def sample_paths(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """A path of each sequence drawn from p(z | x), through its most probable chain, of shape (n_steps,)."""
        uniforms = torch.rand(batch.n_steps, dtype=torch.float64, generator=generator)
        return self._kernels.sample_paths(*self._through_best_chain(batch), uniforms)

    def _through_best_chain(self, batch: Batch) -> tuple[Tensor, ...]:
        """What the path kernels need, with the most probable chain of each sequence (n_sequences,) last."""
        arguments = self._chain_arguments(self.log_emission(batch), batch)
        return *arguments, (self._kernels.log_partition(*arguments) + self._log_weights(batch)).argmax(1)

    @torch.no_grad()
    def sample(self, n_sequences: int, length: int, generator: torch.Generator) -> Batch:
        """Sequences; a label m + M c is state m of chain c."""
        chain = torch.multinomial(self.weights.cpu(), n_sequences, replacement=True, generator=generator)
        initial, transition = self.initial.cpu(), self.transition.cpu()
        states = torch.empty(n_sequences, length, dtype=torch.int64)
        for t in range(length):
            probabilities = initial[chain] if t == 0 else transition[chain, states[:, t - 1]]
            states[:, t] = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
        labels = (states + self.n_states * chain[:, None]).flatten()
        density = labels
        if self.structure.groups is not None:
            n_groups = self.emission.n_components // self.n_chains
            density = (self.structure.groups[states] + n_groups * chain[:, None]).flatten()
        values = self.emission.sample(density.to(self.weights.device), generator)
        return Batch(values, torch.arange(n_sequences + 1) * length, labels=labels)

    def count_parameters(self) -> int:
        """Mixing proportions, initial probabilities and possible transitions, less one for each sum to 1, and the densities'; without
        what is held fixed."""
        fixed, held = self.structure.fixed, self.structure.held
        first = int((self.initial > 0).sum()) - self.n_chains
        possible = self.transition > 0 if held is None else (self.transition > 0) & ~held
        transitions = int((possible.sum(2) - 1).clamp_min(0).sum())
        return (
            (0 if "weights" in fixed else self.n_chains - 1)
            + (0 if "startprob" in fixed else first)
            + (0 if "transmat" in fixed else transitions)
            + (0 if "emission" in fixed else self.emission.count_parameters())
        )


def _without_vanished(probabilities: Tensor) -> Tensor:
    return torch.where(probabilities < _VANISHED, 0.0, probabilities)
