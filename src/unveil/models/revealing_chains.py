"""The inner model of the revealing factorial HMM: chains with a silent state, whose components sound at any loudness."""

from __future__ import annotations

import math
from types import ModuleType

import torch
from torch import Tensor, nn

from unveil.core.model import LikelihoodModel
from unveil.data.batch import Batch, Batches
from unveil.errors import InputError
from unveil.kernels import factorial_chains, factorial_chains_cpu
from unveil.kernels.factorial_chains import split
from unveil.kernels.separable import non_negative_least_squares
from unveil.kernels.simplex import normalize, one_hot
from unveil.models.revealing_graph import RevealingGraph, sparse_activations
from unveil.models.starts import count_pairs

_AUDIBLE = 0.1  # of the mean gain of a component: what sounds more softly is silent
_TIE = 1e-9  # of a frame's length: gains below it are rounding
MOST_COMBINATIONS = 4096  # of states
_BLOCK = 2_000_000  # numbers in one array of least squares problems


class RevealingChains(LikelihoodModel):
    """K hidden Markov chains; state 0 is silent, and each other state of chain k plays one component of source k.

    The gain of what plays is not modelled: it is what explains the frame best, but not below ``quietest``. So the likelihood is a
    profile likelihood. There is room for S components; the first ``n_components`` are in use.

    Parameters
    ----------
    n_chains, n_components, n_features : int
        K, S and F.
    """

    sources: Tensor
    mean_gains: Tensor
    curve: Tensor
    figures: Tensor

    def __init__(self, n_chains: int, n_components: int, n_features: int):
        super().__init__()
        self.n_chains = n_chains
        n_states = n_components + 1
        self.components = nn.Parameter(torch.zeros(n_components, n_features, dtype=torch.float64))
        self.noise_variance = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.initial = nn.Parameter(torch.full((n_chains, n_states), 1 / n_states, dtype=torch.float64))
        self.transition = nn.Parameter(torch.full((n_chains, n_states, n_states), 1 / n_states, dtype=torch.float64))
        self.register_buffer("sources", torch.full((n_components,), -1))
        self.register_buffer("mean_gains", torch.zeros(n_components, dtype=torch.float64))
        self.register_buffer("curve", torch.full((n_components,), -1.0, dtype=torch.float64))
        self.register_buffer("figures", torch.zeros(4, dtype=torch.float64))  # residual, connected parts, sources, frustration

    def initialize(self, batches: Batches, generator: torch.Generator) -> None:
        """Nothing to start from: ``adopt`` sets all that there is."""

    @property
    def n_components(self) -> int:
        """How many components are in use."""
        return int((self.sources >= 0).sum())

    @property
    def n_states(self) -> int:
        """Of each chain: silence, and as many as the source with most components has. Others have fewer, and the rest is impossible."""
        return 1 + int(self._n_own().max())

    @torch.no_grad()
    def adopt(self, graph: RevealingGraph, batches: Batches) -> None:
        """Take over the components, and learn gains, noise and chains from the best combination of each frame."""
        self.sources.fill_(-1)
        self.components.zero_()
        self.components[: len(graph.sources)] = graph.components
        self.sources[: len(graph.sources)] = graph.sources
        self.curve.fill_(-1.0)
        self.curve[: len(graph.curve)] = graph.curve
        self.figures.copy_(torch.tensor([graph.residual, graph.n_parts, graph.n_found, graph.frustration]))
        self.mean_gains.zero_()
        self._learn_gains(batches)
        self._learn_chains(batches)

    def _learn_gains(self, batches: Batches) -> None:
        """The mean gain of each component where it plays, and the noise that the best combinations leave."""
        total, count, left, weight = torch.zeros_like(self.mean_gains), torch.zeros_like(self.mean_gains), 0.0, 0.0
        for batch in batches:
            values, gains, steps = read_frames(batch), self._best_gains(batch), _step_weights(batch)
            total += steps @ gains
            count += steps @ (gains > _TIE * values.norm(dim=1, keepdim=True)).double()
            left += float((values - gains @ self.components).square().sum(1) @ steps)
            weight += float(steps.sum())
        self.mean_gains.copy_(total / count.clamp_min(1e-300))
        energy = float((total * self.mean_gains).sum())
        self.noise_variance.fill_(max(left, 1e-8 * energy, 1e-300) / max(weight, 1e-300) / self.components.shape[1])

    def _learn_chains(self, batches: Batches) -> None:
        """Initial and transition probabilities of each chain, from counts of the best states, each frame on its own; one is added."""
        n_states = self.n_states
        possible = (torch.arange(n_states, device=self.sources.device) <= self._n_own()[:, None]).double()
        first, pairs = possible.clone(), possible[:, :, None] * possible[:, None, :]
        for batch in batches:
            gains = self._best_gains(batch)
            audible = gains * (gains > _AUDIBLE * self.mean_gains)
            steps = _step_weights(batch)[:, None]
            for k in range(self.n_chains):
                own = audible[:, self.sources == k]
                state = torch.cat([own.new_zeros(len(own), 1), own], 1).argmax(1)  # 0 where none of its own is audible
                certain = one_hot(state, n_states) * steps
                first[k] += certain[batch.offsets[:-1].to(certain.device)].sum(0)
                pairs[k] += count_pairs(certain, batch.sequence_of_step)
        self.initial.zero_()
        self.transition.zero_()
        self.initial[:, :n_states] = normalize(first)
        self.transition[:, :n_states, :n_states] = normalize(pairs)

    def _best_gains(self, batch: Batch) -> Tensor:
        """Gains (n, S) of at most one component of each source."""
        used = self.n_components
        gains = read_frames(batch).new_zeros(batch.n_steps, len(self.components))
        gains[:, :used] = sparse_activations(read_frames(batch), self.components[:used], self.sources[:used], self.n_chains)
        return gains

    def _n_own(self) -> Tensor:
        """How many components each source has, (K,)."""
        return torch.stack([(self.sources == k).sum() for k in range(self.n_chains)])

    def _playing(self) -> Tensor:
        """Which component each combination of states has from each source, -1 where that is silent: (M^K, K), first chain slowest."""
        n_states = self.n_states
        if n_states**self.n_chains > MOST_COMBINATIONS:
            raise InputError(
                f"{self.n_chains} chains of up to {n_states} states have more than {MOST_COMBINATIONS} combinations, too many for "
                "exact inference; use transform or separate, or fit with fewer max_components"
            )
        table = torch.full((self.n_chains, n_states), -1, device=self.sources.device)
        for k in range(self.n_chains):
            own = (self.sources == k).nonzero()[:, 0]
            table[k, 1 : 1 + len(own)] = own
        states = split(torch.arange(n_states**self.n_chains, device=table.device), self.n_chains, n_states)
        return torch.stack([table[k, states[:, k]] for k in range(self.n_chains)], 1)

    def _fits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The squared distance of each frame from what each combination can make, (n, M^K), and the gains that do it, (n, M^K, K)."""
        values, playing = read_frames(batch), self._playing()
        size = max(1, _BLOCK // (len(playing) * self.n_chains**2))
        parts = [self._fit(block, playing) for block in values.split(size)]
        return torch.cat([squares for squares, _ in parts]), torch.cat([gains for _, gains in parts])

    def _fit(self, values: Tensor, playing: Tensor) -> tuple[Tensor, Tensor]:
        sounding = (playing >= 0).double()  # (M^K, K)
        atoms = self.components[playing.clamp_min(0)] * sounding[:, :, None]  # (M^K, K, F)
        gram = atoms @ atoms.transpose(1, 2)
        targets = torch.einsum("nf,skf->nsk", values, atoms)
        least = _AUDIBLE * self.mean_gains[playing.clamp_min(0)] * sounding  # (M^K, K)
        with torch.no_grad():  # at the best gains the distance does not change with them, so neither does its gradient
            beyond = non_negative_least_squares(gram, targets - (gram @ least[:, :, None])[:, :, 0])
        gains = least + beyond
        squares = (
            values.square().sum(1, keepdim=True)
            - 2 * (targets * gains).sum(2)
            + torch.einsum("nsk,skl,nsl->ns", gains, gram, gains)
        )
        return squares.clamp_min(0.0), gains.detach()

    def log_emission(self, batch: Batch) -> Tensor:
        """log N(x_t; sum_k h_k w_k, sigma^2 I) of each combination, at the best gains: (n_steps, M^K)."""
        squares, _ = self._fits(batch)
        constant = self.components.shape[1] * (2 * math.pi * self.noise_variance).log()
        return -0.5 * (squares / self.noise_variance + constant)

    def _chains(self) -> tuple[Tensor, Tensor]:
        n_states = self.n_states
        return self.initial[:, :n_states], self.transition[:, :n_states, :n_states]

    def objective(self, batch: Batch) -> Tensor:
        """log p(x) of each sequence at the best gains, all paths of all chains summed up."""
        return self._kernels.log_partition(*self._chains(), self.log_emission(batch), batch.offsets)

    @torch.no_grad()
    def viterbi(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The most probable paths of all chains (n_steps, K), and log p(x, paths) of each sequence."""
        return self._kernels.viterbi(*self._chains(), self.log_emission(batch), batch.offsets)

    @torch.no_grad()
    def activate(self, batch: Batch) -> Tensor:
        """Non-negative activations of all components in use, (n_steps, S): least squares, whoever else plays."""
        atoms = self.components[: self.n_components]
        return non_negative_least_squares(atoms @ atoms.T, read_frames(batch) @ atoms.T)

    @torch.no_grad()
    def sample(self, n_sequences: int, length: int, generator: torch.Generator) -> Batch:
        """Sequences; gains are exponential above the quietest. A label is the number of the combination, the first chain the slowest."""
        initial, transition = (each.cpu() for each in self._chains())
        labels = torch.zeros(n_sequences, length, dtype=torch.int64)
        for first, moves in zip(initial, transition, strict=True):
            path = torch.multinomial(first, n_sequences, replacement=True, generator=generator)
            for t in range(length):
                if t:
                    path = torch.multinomial(moves[path], 1, generator=generator)[:, 0]
                labels[:, t] = labels[:, t] * self.n_states + path
        playing = self._playing().cpu()[labels.flatten()]
        mean = self.mean_gains.cpu()[playing.clamp_min(0)] * (playing >= 0)
        loudness = -torch.rand(playing.shape, dtype=torch.float64, generator=generator).clamp_min_(1e-300).log_()
        gains = mean * (_AUDIBLE + (1 - _AUDIBLE) * loudness)
        made = torch.einsum("nk,nkf->nf", gains, self.components.cpu()[playing.clamp_min(0)])
        noise = torch.randn(made.shape, dtype=torch.float64, generator=generator) * self.noise_variance.cpu().sqrt()
        values = (made + noise).clamp_min(0.0)
        return Batch(values, torch.arange(n_sequences + 1) * length, labels=labels.flatten())

    @property
    def _kernels(self) -> ModuleType:
        on_cpu = self.components.device.type == "cpu"
        return factorial_chains_cpu if on_cpu and not torch.is_grad_enabled() else factorial_chains


def _step_weights(batch: Batch) -> Tensor:
    weights = batch.step_weights
    return torch.ones(batch.n_steps, dtype=torch.float64, device=batch.values.device) if weights is None else weights.double()


def read_frames(batch: Batch) -> Tensor:
    """The frames of a batch, after making sure that none is negative."""
    values = batch.values.double().contiguous()
    lowest = values.min()
    if lowest < 0:
        row, column = (int(i) for i in (values == lowest).nonzero()[0])
        raise InputError(
            f"Negative values in data passed to RevealingFactorialHMM: {float(lowest):g} at row {batch.start + row}, "
            f"column {column}; use magnitudes or powers"
        )
    return values
