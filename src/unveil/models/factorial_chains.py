"""Factorial hidden Markov chains as a model: K chains z^k ~ (pi_k, A_k), and x_t ~ N(sum_k O^k[z^k_t], Sigma)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor, nn

from unveil.core.model import EMModel, Posterior
from unveil.core.statistics import ModelStatistics, identity
from unveil.data.batch import Batch, Batches
from unveil.errors import InputError
from unveil.kernels import chains, chains_cpu, factorial_chains, factorial_chains_cpu
from unveil.kernels.factorial_chains import indicators, summed
from unveil.kernels.gaussian import floor_covariances, identity_covariance
from unveil.kernels.simplex import normalize, one_hot
from unveil.models.starts import START_SAMPLE, assign_by_kmeans

RANK_TOLERANCE = (
    1e-10  # eigenvalues of E[r r'] that are smaller, relative to the largest, are those of directions that data is silent on
)
_START_SPREAD = 0.3  # of the first sums of means, relative to that of the data
_VANISHED = 1e-100  # a transition that is less probable is made impossible, so that scaled recursions stay exact


@dataclass(frozen=True)
class FactorialStatistics(ModelStatistics):
    """Expected counts of K chains, and moments of y = x - center with r, the K M indicators of the states, K of them one.

    Attributes
    ----------
    initial : Tensor of shape (K, M)
        sum_n p(z^k_1 = m | x_n).
    transitions : Tensor of shape (K, M, M)
        sum_n sum_t p(z^k_{t-1} = i, z^k_t = j | x_n).
    indicators : Tensor of shape (K M, K M)
        sum E[r r'].
    products : Tensor of shape (K M, D)
        sum E[r] y'.
    squares : Tensor of shape (D, D), (D,) or ()
        sum y y', sum y^2 or sum y'y, by the type of the covariance.
    center : Tensor of shape (D,)
        Where observations are measured from: raw moments of data far from zero cancel.
    """

    initial: Tensor
    transitions: Tensor
    indicators: Tensor
    products: Tensor
    squares: Tensor
    center: Tensor = identity()


@dataclass(frozen=True)
class FactorialPosterior(Posterior):
    """The posterior of the states.

    Attributes
    ----------
    states : Tensor of shape (n_steps, K, M)
        p(z^k_t = m | x), or q(z^k_t = m) where inference is variational.
    """

    states: Tensor


@dataclass(frozen=True)
class Structured:
    """A variational posterior of independent chains, each a hidden Markov chain with made-up observations.

    Attributes
    ----------
    states : Tensor of shape (n_steps, K, M)
        q(z^k_t = m).
    log_emission : Tensor of shape (n_steps, K, M)
        log h^k_t(m), with which chain k and its own pi_k and A_k give q^k.
    """

    states: Tensor
    log_emission: Tensor


class FactorialChains(EMModel):
    """K Markov chains whose states add up to the mean of what is seen.

    Parameters
    ----------
    n_chains, n_states, n_features : int
        K, M and D.
    covariance_type : {"diag", "full", "tied", "spherical"}
        Of the noise, which all combinations of states share; so "tied" is "full".
    reg_covar : float
        No eigenvalue of the covariance falls below it.
    exact : bool
        Whether posteriors are over all M^K combinations of states, or variational, of independent chains.
    n_sweeps : int
        How often variational inference goes through the chains.
    given : dict of str to Tensor
        Starting values that replace the ones found, by the names of the parameters.
    """

    def __init__(
        self,
        n_chains: int,
        n_states: int,
        n_features: int,
        covariance_type: str = "diag",
        reg_covar: float = 1e-6,
        exact: bool = True,
        n_sweeps: int = 10,
        given: dict[str, Tensor] | None = None,
    ):
        super().__init__()
        self.n_chains, self.n_states, self.n_features = n_chains, n_states, n_features
        self.covariance_type, self.reg_covar, self.exact, self.n_sweeps = covariance_type, reg_covar, exact, n_sweeps
        k, m = n_chains, n_states
        self.initial = nn.Parameter(torch.full((k, m), 1 / m, dtype=torch.float64))
        self.transition = nn.Parameter(torch.full((k, m, m), 1 / m, dtype=torch.float64))
        self.means = nn.Parameter(torch.zeros(k, m, n_features, dtype=torch.float64))
        self.covariance = nn.Parameter(identity_covariance(n_features, covariance_type))
        self.register_buffer("center", torch.zeros(n_features, dtype=torch.float64))
        self.register_buffer("activity", torch.zeros(k * m, k * m, dtype=torch.float64))
        self._given = given or {}
        self._kept: dict[int, Tensor] = {}
        self.register_load_state_dict_post_hook(_forget)

    # ---- start -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def initialize(self, batches: Batches, generator: torch.Generator) -> None:
        """Draw small means at random, or let each chain explain what those before it leave, by k-means: which of these, is drawn too.

        All the spread of the data is taken for noise at first, so that EM tells apart first what differs most.
        """
        self.forget()
        if batches.n_steps < self.n_states:
            raise InputError(
                f"n_states={self.n_states} but X has {batches.n_steps} steps in all; give more data or use fewer states"
            )
        values, weights, _ = batches.sample_steps(START_SAMPLE, generator)
        values = values.contiguous()
        self.center.copy_((weights @ values) / weights.sum())
        y = values - self.center
        spread = ((weights @ y.square()) / weights.sum()).sqrt()
        if not bool(spread.isfinite().all()):
            raise InputError("the squares of the numbers in X overflow; rescale the data")
        if "means" not in self._given:
            start = self._from_residuals if torch.rand((), generator=generator) < 0.5 else self._at_random
            self.means.copy_(start(y, weights, spread, generator) + self.center / self.n_chains)
        self.initial.fill_(1 / self.n_states)
        self.transition.fill_(1 / self.n_states)
        self.covariance.copy_(self._floored(self._as_covariance(spread.square().diag())))
        for name, value in self._given.items():
            self.get_parameter(name).copy_(value)

    def _at_random(self, y: Tensor, weights: Tensor, spread: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(self.means.shape, dtype=torch.float64, generator=generator).to(spread)
        return _START_SPREAD / math.sqrt(self.n_chains) * noise * spread

    def _from_residuals(self, y: Tensor, weights: Tensor, spread: Tensor, generator: torch.Generator) -> Tensor:
        found = []
        for _ in range(self.n_chains):
            share = assign_by_kmeans(y, weights, self.n_states, generator)
            found.append((share.T @ y) / share.sum(0)[:, None].clamp_min(1e-300))
            y = y - (share > 0).to(y) @ found[-1]
        return torch.stack(found)

    def _as_covariance(self, matrix: Tensor) -> Tensor:
        """What the type of the covariance keeps of a matrix (D, D)."""
        if self.covariance_type == "diag":
            return matrix.diagonal()
        return matrix.diagonal().mean() if self.covariance_type == "spherical" else matrix

    def _floored(self, covariance: Tensor) -> Tensor:
        return floor_covariances(covariance, self.reg_covar, self.covariance_type)

    # ---- likelihood --------------------------------------------------------------------------------------------------

    def objective(self, batch: Batch) -> Tensor:
        """log p(x), or the variational lower bound on it, of shape (n_sequences,)."""
        if not self.exact:
            return self._bound(self._variational(batch), batch)
        differentiated = torch.is_grad_enabled() or self.means.device.type != "cpu"
        kernels = factorial_chains if differentiated else factorial_chains_cpu
        return kernels.log_partition(self.initial, self.transition, self.log_emission(batch), batch.offsets)

    def log_emission(self, batch: Batch) -> Tensor:
        """log p(x_t | z_t) of all combinations of states, of shape (n_steps, M^K)."""
        y, dictionary = self._whitened(batch)
        per_chain = torch.einsum("td,kmd->tkm", y, dictionary)
        means = summed(dictionary.permute(2, 0, 1)).T
        return summed(per_chain).sub(0.5 * means.square().sum(1)).add(self._log_norm(y)[:, None])

    def _whitened(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Observations (n_steps, D) and means (K, M, D), measured from the centre, such that the noise is standard normal."""
        return self._whiten(self._centred(batch)), self._whiten(self.means - self.center / self.n_chains)

    def _centred(self, batch: Batch) -> Tensor:
        """Observations from the centre; in one order in memory, for sums round differently in another."""
        return batch.values.double().contiguous() - self.center

    def _whiten(self, vectors: Tensor) -> Tensor:
        if self.covariance.ndim < 2:
            return vectors / self.covariance.sqrt()
        factor = torch.linalg.cholesky(self.covariance)
        return torch.linalg.solve_triangular(factor.T, vectors, upper=True, left=False)

    def _log_norm(self, y: Tensor) -> Tensor:
        """log N(y; 0, 1) of whitened observations (n, D) in their own units, of shape (n,)."""
        if self.covariance.ndim < 2:
            log_determinant = self.covariance.log().expand(self.n_features).sum()
        else:
            log_determinant = 2 * torch.linalg.cholesky(self.covariance).diagonal().log().sum()
        return -0.5 * (self.n_features * math.log(2 * math.pi) + log_determinant + y.square().sum(1))

    @property
    def _kernels(self) -> ModuleType:
        return factorial_chains_cpu if self.means.device.type == "cpu" else factorial_chains

    @property
    def _chain_kernels(self) -> ModuleType:
        return chains_cpu if self.means.device.type == "cpu" else chains

    # ---- variational inference ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def _variational(self, batch: Batch, states: Tensor | None = None) -> Structured:
        """Coordinate ascent: each chain in turn is given the best posterior there is beside those of the others.

        log h^k_t(m) = (y_t - sum_{l != k} E[O^l])' Sigma^-1 O^k_m - O^k_m' Sigma^-1 O^k_m / 2 (Ghahramani and Jordan, 1997).
        Without states to start from it would soon settle on poor ones: so sweeps come first in which what is seen counts little, then more.
        """
        y, dictionary = self._whitened(batch)
        shares = [1.0] * self.n_sweeps
        if states is None:
            states = y.new_full((batch.n_steps, self.n_chains, self.n_states), 1 / self.n_states)
            shares = [*_rising(dictionary, self.n_sweeps), *shares]
        states, log_emission = states.clone(), torch.empty_like(states)
        for share in shares:
            for k in range(self.n_chains):
                log_emission[:, k] = share * _beside_others(y, dictionary, states, k)
                states[:, k] = self._chain_expectations(k, log_emission, batch.offsets).states[:, 0]
        return Structured(states, log_emission)

    def _chain_expectations(self, k: int, log_emission: Tensor, offsets: Tensor, weights: Tensor | None = None):
        one = slice(k, k + 1)
        found = log_emission[:, one].contiguous()
        return self._chain_kernels.expectations(self.initial[one], self.transition[one], found, offsets, weights=weights)

    def _bound(self, found: Structured, batch: Batch) -> Tensor:
        """E_q[log p(x, z)] - E_q[log q(z)] of each sequence, differentiable by the parameters with q held.

        Chain k's part of log p(z) - log q(z) has the expectation log Z_k - sum_t E_q[log h^k_t], Z_k the normaliser of q^k.
        """
        y, dictionary = self._whitened(batch)
        each = torch.einsum("tkm,kmd->tkd", found.states, dictionary)
        spread = (found.states * dictionary.square().sum(2)).sum((1, 2)) - each.square().sum((1, 2))
        per_step = self._log_norm(y - each.sum(1)) - 0.5 * spread - (found.states * found.log_emission).sum((1, 2))
        log_z = self._chain_kernels.log_partition(self.initial, self.transition, found.log_emission, batch.offsets)
        of_step = batch.sequence_of_step.to(per_step.device)
        return log_z.sum(1).index_add(0, of_step, per_step)

    def forget(self) -> None:
        """Drop the variational posteriors that are kept from one pass to the next, so that none lowers the bound."""
        self._kept = {}

    # ---- EM ----------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def expect(self, batch: Batch, *, evaluate: bool = True) -> FactorialStatistics:
        """The posterior of all combinations, or the improved one of each chain, and the moments under it."""
        return self._expect_exactly(batch) if self.exact else self._expect_variationally(batch)

    def _expect_exactly(self, batch: Batch) -> FactorialStatistics:
        weights = None if batch.weights is None else batch.weights.double()
        found = self._kernels.expectations(self.initial, self.transition, self.log_emission(batch), batch.offsets, weights)
        on = indicators(self.n_chains, self.n_states).to(found.combinations)
        log_likelihood = found.log_evidence if weights is None else found.log_evidence * weights
        together = on.T @ (on * found.combinations[:, None])
        return self._statistics(batch, log_likelihood, found.initial, found.transitions, together, found.states)

    def _expect_variationally(self, batch: Batch) -> FactorialStatistics:
        kept = self._kept.get(batch.start)
        found = self._variational(batch, kept if kept is not None and len(kept) == batch.n_steps else None)
        self._kept[batch.start] = found.states
        weights = None if batch.weights is None else batch.weights.double()
        bound = self._bound(found, batch)
        counts = [self._chain_expectations(k, found.log_emission, batch.offsets, weights) for k in range(self.n_chains)]
        states = torch.cat([each.states for each in counts], 1)
        together = states.flatten(1).T @ found.states.flatten(1)  # chains are independent, and the states of one exclude each other
        own = torch.block_diag(*torch.ones(self.n_chains, self.n_states, self.n_states)).bool().to(together.device)
        together = torch.where(own, states.sum(0).flatten().diag(), together)
        initial, transitions = (torch.cat([getattr(each, name) for each in counts]) for name in ("initial", "transitions"))
        return self._statistics(batch, bound if weights is None else bound * weights, initial, transitions, together, states)

    def _statistics(
        self, batch: Batch, log_likelihood: Tensor, initial: Tensor, transitions: Tensor, together: Tensor, states: Tensor
    ) -> FactorialStatistics:
        y, u = self._centred(batch), batch.step_weights
        weighted = y if u is None else y * u.to(y)[:, None]
        squares = weighted.T @ y if self.covariance.ndim == 2 else (weighted * y).sum(0)
        return FactorialStatistics(
            weight=batch.total_weight,
            log_likelihood=float(log_likelihood.sum()),
            initial=initial,
            transitions=transitions,
            indicators=together,
            products=states.flatten(1).T @ y,
            squares=squares.sum() if self.covariance_type == "spherical" else squares,
            center=self.center,
        )

    @torch.no_grad()
    def maximize(self, statistics: FactorialStatistics) -> None:
        """Normalised counts; the nearest means that solve the joint least squares; and what these leave as the covariance."""
        s = statistics
        self.initial.copy_(_without_vanished(normalize(s.initial, self.initial)))
        self.transition.copy_(_without_vanished(normalize(s.transitions, self.transition)))
        # E[r r'] has rank K M - (K - 1) at most: what the data is silent on stays as it was.
        before = (self.means - self.center / self.n_chains).flatten(0, 1)
        change = torch.linalg.pinv(s.indicators, rtol=RANK_TOLERANCE, hermitian=True) @ (s.products - s.indicators @ before)
        dictionary = before + change
        self.means.copy_(dictionary.view_as(self.means) + self.center / self.n_chains)
        self.covariance.copy_(self._floored(self._residual(dictionary, s) / s.weight))
        self.activity.copy_(s.indicators / s.weight)

    def _residual(self, dictionary: Tensor, s: FactorialStatistics) -> Tensor:
        """sum E[(y - O'r)(y - O'r)'], with the dictionary O of shape (K M, D); or its diagonal, or the mean of that."""
        if self.covariance.ndim == 2:
            explained = s.products.T @ dictionary
            return s.squares - explained - explained.T + dictionary.T @ s.indicators @ dictionary
        explained = (dictionary * (2 * s.products - s.indicators @ dictionary)).sum(0)
        return (s.squares - explained.sum()) / self.n_features if self.covariance_type == "spherical" else s.squares - explained

    # ---- use ---------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def posterior(self, batch: Batch) -> FactorialPosterior:
        """The states of each chain, given the sequences."""
        if not self.exact:
            found = self._variational(batch)
            return FactorialPosterior(self._bound(found, batch), found.states)
        expected = self._kernels.expectations(self.initial, self.transition, self.log_emission(batch), batch.offsets)
        return FactorialPosterior(expected.log_evidence, expected.states)

    @torch.no_grad()
    def viterbi(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The best paths (n_steps, K), and log p(x, paths) (n_sequences,).

        Where inference is variational, paths that cannot be made better by changing those of one chain.
        """
        if self.exact:
            return self._kernels.viterbi(self.initial, self.transition, self.log_emission(batch), batch.offsets)
        y, dictionary = self._whitened(batch)
        states = one_hot(self._variational(batch).states.argmax(2), self.n_states)
        every = torch.zeros(batch.n_sequences, dtype=torch.int64)
        for _ in range(self.n_sweeps):
            before = states.clone()
            for k in range(self.n_chains):
                one, log_emission = slice(k, k + 1), _beside_others(y, dictionary, states, k)
                arguments = self.initial[one], self.transition[one], log_emission[:, None].contiguous(), batch.offsets, every
                states[:, k] = one_hot(self._chain_kernels.viterbi(*arguments)[0], self.n_states).to(states)
            if torch.equal(states, before):
                break
        return states.argmax(2), self.log_joint(batch, states)

    def log_joint(self, batch: Batch, states: Tensor) -> Tensor:
        """log p(x, z) of each sequence at states (n_steps, K, M) that are certain, of shape (n_sequences,)."""
        y, dictionary = self._whitened(batch)
        per_step = self._log_norm(y - torch.einsum("tkm,kmd->td", states, dictionary))
        moves = torch.einsum("tki,kij->tkj", states.roll(1, 0), self.transition)
        moves[batch.offsets[:-1]] = self.initial
        per_step = per_step + (states * moves).sum(2).log().sum(1)
        return per_step.new_zeros(batch.n_sequences).index_add(0, batch.sequence_of_step.to(per_step.device), per_step)

    @torch.no_grad()
    def sample(self, n_sequences: int, length: int, generator: torch.Generator) -> Batch:
        """Sequences; a label is the number of the combination of states, in row-major order: the first chain is the slowest."""
        rows = torch.arange(self.n_chains)[:, None].expand(-1, n_sequences)
        states = torch.empty(self.n_chains, n_sequences, length, dtype=torch.int64)
        for t in range(length):
            p = self.initial.cpu()[rows] if t == 0 else self.transition.cpu()[rows, states[:, :, t - 1]]
            states[:, :, t] = torch.multinomial(p.flatten(0, 1), 1, generator=generator).view_as(rows)
        means = sum(each[path.flatten()] for each, path in zip(self.means.cpu(), states, strict=True))
        noise = torch.randn(n_sequences * length, self.n_features, dtype=torch.float64, generator=generator)
        scale = self.covariance.cpu().sqrt() if self.covariance.ndim < 2 else torch.linalg.cholesky(self.covariance.cpu())
        values = means + (noise * scale if scale.ndim < 2 else noise @ scale.T)
        labels = torch.zeros(n_sequences * length, dtype=torch.int64)
        for path in states:
            labels = labels * self.n_states + path.flatten()
        return Batch(values.to(self.means.device), torch.arange(n_sequences + 1) * length, labels=labels)

    def count_parameters(self) -> int:
        """Probabilities, less one for each sum to 1; K M - (K - 1) means, for so many tell combinations apart; and the covariance."""
        first = int((self.initial > 0).sum()) - self.n_chains
        transitions = int(((self.transition > 0).sum(2) - 1).clamp_min(0).sum())
        n_means = self.n_features * (self.n_chains * self.n_states - (self.n_chains - 1))
        triangle = self.n_features * (self.n_features + 1) // 2
        return first + transitions + n_means + (triangle if self.covariance.ndim == 2 else self.covariance.numel())


def _beside_others(y: Tensor, dictionary: Tensor, states: Tensor, k: int) -> Tensor:
    """log h^k, of shape (n_steps, M), from whitened observations and means, and the states (n_steps, K, M) of the other chains."""
    others = [each for each in range(len(dictionary)) if each != k]
    left = y - torch.einsum("tkm,kmd->td", states[:, others], dictionary[others])
    return left @ dictionary[k].T - 0.5 * dictionary[k].square().sum(1)


def _rising(dictionary: Tensor, n: int) -> Tensor:
    """Powers below 1 of the likelihood, first so small that hardly any sum of whitened means (K, M, D) is told from another."""
    apart = (dictionary - dictionary.mean(1, keepdim=True)).square().sum(2).amax(1).sum()
    return (-torch.log1p(apart) * torch.linspace(1.0, 1 / n, n).to(apart)).exp()


def _without_vanished(probabilities: Tensor) -> Tensor:
    return torch.where(probabilities < _VANISHED, 0.0, probabilities)


def _forget(model: FactorialChains, _: object) -> None:
    """What was kept belongs to the parameters from before."""
    model.forget()
