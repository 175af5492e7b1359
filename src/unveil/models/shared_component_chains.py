"""The model behind ``SharedComponentFactorialHMM``: K chains whose components add, the last of each being the same; exact EM."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from unveil.core.model import EMModel, Posterior
from unveil.core.statistics import ModelStatistics, identity
from unveil.data.batch import Batch, Batches
from unveil.errors import InputError
from unveil.kernels import factorial_chains, factorial_chains_cpu
from unveil.kernels.factorial_chains import indicators, split
from unveil.kernels.simplex import normalize, one_hot
from unveil.models.shared_component_identification import coherences, identify_components, read_as_shared, shared_last
from unveil.models.starts import START_SAMPLE, count_pairs

UNEXPLAINED = 1.5  # times the variance about free cluster centres: more noise than that is no noise
_SMALL = 0.1  # of the data's spread: components that start where they all look alike
_LEAST = (
    1e-30  # probability of what is possible: exact zeros, which sharp posteriors make, would be slow, and could not be left again
)


@dataclass(frozen=True)
class SharedComponentStatistics(ModelStatistics):
    """Expected counts in K chains of M states, and the moments of the regression of observations on states.

    Attributes
    ----------
    center : Tensor of shape (D,)
        What the moments are about.
    initial : Tensor of shape (K, M)
        sum_n p(z_1^k = m | x_n).
    transitions : Tensor of shape (K, M, M)
        sum_n sum_t p(z_{t-1}^k = i, z_t^k = j | x_n).
    combinations : Tensor of shape (M^K,)
        sum_n sum_t p(z_t^1 .. z_t^K | x_n), the state of the last chain running fastest.
    first : Tensor of shape (P, D)
        sum_t E[r_t] x_t^T, where r_t counts how often each of the P components is in the sum.
    second : float
        sum_t |x_t|^2.
    """

    center: Tensor = identity()
    initial: Tensor
    transitions: Tensor
    combinations: Tensor
    first: Tensor
    second: float


@dataclass(frozen=True)
class SharedComponentPosterior(Posterior):
    """The posterior of the chains.

    Attributes
    ----------
    states : Tensor of shape (n_steps, K, M)
        p(z_t^k = m | x_1 .. x_T).
    """

    states: Tensor


class SharedComponentChains(EMModel):
    """K hidden Markov chains of M states, x_t | z_t ~ N(sum_k O^k[z_t^k], sigma^2 I), with one component that all chains share.

    The dictionary W holds the P = K (M - 1) + 1 different components, the shared one last. With r_t in N^P, which counts how often each
    is in the sum at t, x_t = W^T r_t + noise is a linear regression; unlike that of an ordinary factorial model it has full rank.

    Parameters
    ----------
    n_chains, n_states, n_features : int
        K, M and D.
    min_variance : float
        sigma^2 does not fall below it.
    given : dict of str to Tensor
        Starting values that replace the ones found: ``initial`` and ``transition``.
    """

    def __init__(
        self, n_chains: int, n_states: int, n_features: int, min_variance: float = 1e-6, given: dict[str, Tensor] | None = None
    ):
        super().__init__()
        self.n_chains, self.n_states, self.min_variance, self._given = n_chains, n_states, min_variance, given or {}
        n_combinations, n_components = n_states**n_chains, n_chains * (n_states - 1) + 1
        self.dictionary = nn.Parameter(torch.zeros(n_components, n_features, dtype=torch.float64))  # less center / K
        self.noise_variance = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.initial = nn.Parameter(torch.full((n_chains, n_states), 1 / n_states, dtype=torch.float64))
        self.transition = nn.Parameter(torch.full((n_chains, n_states, n_states), 1 / n_states, dtype=torch.float64))
        self.register_buffer("center", torch.zeros(n_features, dtype=torch.float64))
        self.register_buffer("occupancy", torch.zeros(n_combinations, dtype=torch.float64))  # expected steps in each combination
        self.register_buffer("incoherence", torch.zeros((), dtype=torch.float64))  # see ``Identification``
        self.register_buffer("cluster_variance", torch.zeros((), dtype=torch.float64))  # of a step about its cluster's centre
        self.register_buffer("n_singles", torch.zeros((), dtype=torch.int64))
        self.register_buffer("states", split(torch.arange(n_combinations), n_chains, n_states), persistent=False)
        self.register_buffer(
            "design", self._regressors(indicators(n_chains, n_states).unflatten(1, (n_chains, n_states))), persistent=False
        )

    # ---- start -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def initialize(self, batches: Batches, generator: torch.Generator) -> None:
        """Cluster the steps, read the components from the centres, and count how each step's nearest combinations follow each other.

        Where the sums of these components leave much more than the clusters do, the centres could not be read; then start small, at random.
        """
        if batches.n_steps < self.n_states:
            raise InputError(
                f"n_states={self.n_states} but X has {batches.n_steps} steps in all; give more data or use fewer states"
            )
        values, weights, sequences = batches.sample_steps(START_SAMPLE, generator)
        values, seed = values.contiguous(), int(torch.randint(2**31 - 1, (), generator=generator))
        centers, variance = _clusters(values, weights, len(self.states), seed)
        found = identify_components(centers, self.n_chains, self.n_states, seed)
        self.cluster_variance.fill_(max(variance, self.min_variance))
        self.center.copy_((weights @ values) / weights.sum())
        self._set_components(torch.from_numpy(found.components))
        self.incoherence.fill_(found.incoherence)
        self.n_singles.fill_(found.n_singles)
        x = values - self.center
        self._count_nearest(x, weights, sequences, whole=len(values) == batches.n_steps)
        if self.noise_variance > UNEXPLAINED * self.cluster_variance:
            self._start_small(x, weights, generator)
        for name, value in self._given.items():
            self.get_parameter(name).copy_(value)

    def _count_nearest(self, x: Tensor, weights: Tensor, sequences: Tensor, *, whole: bool) -> None:
        """Chains and noise variance from the combination (n,) that is nearest to each step; each event counted once more than it occurs."""
        means = (self.design @ self.dictionary).to(x)
        distances = torch.cdist(x, means).square()
        errors, nearest = distances.min(1)
        self.noise_variance.copy_((weights @ errors / (weights.sum() * x.shape[1])).clamp_min(self.min_variance))
        self.occupancy.copy_(torch.bincount(nearest, weights, minlength=len(means)))
        self.initial.fill_(1 / self.n_states)
        self.transition.fill_(1 / self.n_states)
        if not whole:  # in a sample of the steps, neighbours do not follow each other
            return
        first = torch.cat([sequences.new_ones(1, dtype=torch.bool), sequences[1:] != sequences[:-1]])
        for k in range(self.n_chains):
            states = one_hot(self.states[:, k].to(nearest.device)[nearest], self.n_states) * weights[:, None]
            self.initial[k] = normalize(1 + states[first].sum(0))
            self.transition[k] = normalize(1 + count_pairs(states, sequences))

    def _start_small(self, x: Tensor, weights: Tensor, generator: torch.Generator) -> None:
        """Small components at random, and all the spread of the data as noise, from where EM tells apart first what differs most."""
        variances = (weights @ x.square()) / weights.sum()
        drawn = torch.randn(self.dictionary.shape, dtype=torch.float64, generator=generator).to(x)
        self.dictionary.copy_(_SMALL * drawn * variances.sqrt())
        self.noise_variance.copy_(variances.mean().clamp_min(self.min_variance))
        self.initial.fill_(1 / self.n_states)
        self.transition.fill_(1 / self.n_states)

    # ---- components --------------------------------------------------------------------------------------------------

    @property
    def stacked_components(self) -> Tensor:
        """O^1 .. O^K, of shape (K, M, D), the shared component last in each."""
        whole = self.dictionary.detach() + self.center / self.n_chains
        own = whole[:-1].unflatten(0, (self.n_chains, self.n_states - 1))
        return torch.cat([own, whole[-1].expand(self.n_chains, 1, -1)], 1)

    def _set_components(self, components: Tensor) -> None:
        whole = torch.cat([components[:, :-1].flatten(0, 1), components[:1, -1]]).to(self.center)
        self.dictionary.copy_(whole - self.center / self.n_chains)

    @torch.no_grad()
    def settle(self) -> None:
        """Take for the shared state, of all that are equally likely, the one whose component is the least coherent with the others."""
        components = self.stacked_components.cpu().numpy()
        found = coherences(components)
        shared = np.unravel_index(int(found.argmin()), found.shape)
        self._set_components(torch.from_numpy(read_as_shared(components, shared)))
        occupancy = self.occupancy.unflatten(0, found.shape)
        for k, state in enumerate(shared):
            order = torch.tensor(shared_last(int(state), self.n_states), device=self.center.device)
            self.initial[k] = self.initial[k, order]
            self.transition[k] = self.transition[k][order][:, order]
            occupancy = occupancy.index_select(k, order)
        self.occupancy.copy_(occupancy.flatten())

    # ---- likelihood --------------------------------------------------------------------------------------------------

    def objective(self, batch: Batch) -> Tensor:
        """log p(x), summed over all combinations of states, of shape (n_sequences,)."""
        return self._kernels.log_partition(*self._chain_arguments(self._centered(batch), batch))

    def _centered(self, batch: Batch) -> Tensor:
        return batch.values.double().contiguous() - self.center

    def _log_emission(self, x: Tensor) -> Tensor:
        """log N(x_t; W^T r, sigma^2 I) for each combination of states, of shape (n_steps, M^K)."""
        means = self.design @ self.dictionary
        distances = x.square().sum(1)[:, None] - 2 * x @ means.T + means.square().sum(1)
        return -0.5 * (distances / self.noise_variance + x.shape[1] * (math.log(2 * math.pi) + self.noise_variance.log()))

    def _chain_arguments(self, x: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.initial, self.transition, self._log_emission(x), batch.offsets

    @property
    def _kernels(self) -> ModuleType:
        """The definition where gradients are asked for, or on another device; else its faster twin."""
        return factorial_chains if torch.is_grad_enabled() or self.center.device.type != "cpu" else factorial_chains_cpu

    @staticmethod
    def _regressors(states: Tensor) -> Tensor:
        """How often each of the P components is in the sum, (n, P), from the states of all chains (n, K, M) or their probabilities."""
        return torch.cat([states[:, :, :-1].flatten(1), states[:, :, -1].sum(1, keepdim=True)], 1)

    # ---- EM ----------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def expect(self, batch: Batch, *, evaluate: bool = True) -> SharedComponentStatistics:
        """Forward-backward through all chains together, and the moments of the regression under their posterior."""
        x = self._centered(batch)
        weights = None if batch.weights is None else batch.weights.double()
        expected = self._kernels.expectations(*self._chain_arguments(x, batch), weights)
        squares, per_step = x.square().sum(1), batch.step_weights
        return SharedComponentStatistics(
            weight=batch.total_weight,
            log_likelihood=float(expected.log_evidence.sum() if weights is None else expected.log_evidence @ weights),
            center=self.center,
            initial=expected.initial,
            transitions=expected.transitions,
            combinations=expected.combinations,
            first=self._regressors(expected.states).T @ x,
            second=float(squares.sum() if per_step is None else squares @ per_step.double()),
        )

    @torch.no_grad()
    def maximize(self, statistics: SharedComponentStatistics) -> None:
        """Normalised counts, and least squares; what no data speaks of stays as it was."""
        self.initial.copy_(_as_possible(normalize(statistics.initial, self.initial), self.initial))
        self.transition.copy_(_as_possible(normalize(statistics.transitions, self.transition), self.transition))
        self.occupancy.copy_(statistics.combinations)
        gram = self.design.T @ (statistics.combinations[:, None] * self.design)
        residual = statistics.first - gram @ self.dictionary
        self.dictionary += torch.linalg.pinv(gram, rtol=1e-12, hermitian=True) @ residual
        explained = (self.dictionary * (2 * statistics.first - gram @ self.dictionary)).sum()
        variance = (statistics.second - explained) / (statistics.weight * self.dictionary.shape[1])
        self.noise_variance.copy_(variance.clamp_min(self.min_variance))

    # ---- use ---------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def posterior(self, batch: Batch) -> SharedComponentPosterior:
        """The smoothed posteriors of the chains' states."""
        expected = self._kernels.expectations(*self._chain_arguments(self._centered(batch), batch))
        return SharedComponentPosterior(expected.log_evidence, expected.states)

    @torch.no_grad()
    def viterbi(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The most probable paths of all chains together (n_steps, K), and log p(x, paths) (n_sequences,)."""
        return self._kernels.viterbi(*self._chain_arguments(self._centered(batch), batch))

    @torch.no_grad()
    def parts(self, batch: Batch) -> Tensor:
        """E[O^k[z_t^k] | x_1 .. x_T], what each chain adds to each step, of shape (n_steps, K, D)."""
        return torch.einsum("tkm,kmd->tkd", self.posterior(batch).states, self.stacked_components)

    @torch.no_grad()
    def sample(self, n_sequences: int, length: int, generator: torch.Generator) -> Batch:
        """Sequences; the label of a step is its combination of states, a row of ``states``."""
        initial, transition = self.initial.cpu(), self.transition.cpu()
        numbers = torch.zeros(n_sequences, length, dtype=torch.int64)
        for k in range(self.n_chains):
            states = torch.multinomial(initial[k], n_sequences, replacement=True, generator=generator)
            for t in range(length):
                if t > 0:
                    states = torch.multinomial(transition[k, states], 1, generator=generator)[:, 0]
                numbers[:, t] = numbers[:, t] * self.n_states + states
        labels = numbers.flatten()
        means = (self.design @ self.dictionary + self.center).cpu()[labels]
        noise = torch.randn(means.shape, dtype=torch.float64, generator=generator) * self.noise_variance.sqrt().cpu()
        return Batch(means + noise, torch.arange(n_sequences + 1) * length, labels=labels)

    def count_parameters(self) -> int:
        """Of the components, the noise, and the chains' probabilities, less one for each sum to 1; impossible ones do not count."""
        chains_free = int((self.initial > 0).sum()) - self.n_chains
        rows_free = int((self.transition > 0).sum()) - self.n_chains * self.n_states
        return self.dictionary.numel() + 1 + chains_free + rows_free


def _clusters(values: Tensor, weights: Tensor, n_clusters: int, seed: int) -> tuple[np.ndarray, float]:
    """Centres of k-means, at most as many as there are steps, and the variance of an entry about its own, without bias."""
    kmeans = KMeans(min(n_clusters, len(values)), n_init=1, random_state=seed)
    labels = kmeans.fit(values.cpu().numpy(), sample_weight=weights.cpu().numpy()).labels_
    centers = kmeans.cluster_centers_[np.unique(labels)]
    spare = 1.0 - len(centers) / len(values)  # the share of the data that the centres leave free
    variance = kmeans.inertia_ / (float(weights.sum()) * values.shape[1] * spare) if spare > 0 else 0.0
    return centers, variance


def _as_possible(probabilities: Tensor, before: Tensor) -> Tensor:
    """What was impossible stays so, and nothing else becomes so."""
    return torch.where(before > 0, probabilities.clamp_min(_LEAST), 0.0)
