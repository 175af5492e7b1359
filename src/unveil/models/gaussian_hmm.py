"""The hidden Markov model with Gaussian observations: z_1 ~ pi, z_t | z_{t-1} ~ A, x_t | z_t = m ~ N(mu_m, Sigma_m)."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unveil.core.constraints import as_covariances, as_probabilities, as_shape, choice, integer, real
from unveil.core.estimator import Estimator, as_array
from unveil.core.history import History
from unveil.core.model import Emission, EMModel, Posterior
from unveil.core.statistics import ModelStatistics, Statistics
from unveil.data.batch import Batch, Batches
from unveil.emissions.gaussian import Gaussian
from unveil.errors import InputError
from unveil.kernels import chains, chains_cpu
from unveil.kernels.gaussian import COVARIANCE_TYPES
from unveil.kernels.simplex import normalize
from unveil.learn.restarts import EM_CONSTRAINTS, em_from_starts, em_settings
from unveil.models.starts import CENTER_SAMPLE, START_SAMPLE, assign_by_kmeans, assign_sequences

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


class ChainMixture(EMModel):
    """A mixture of C hidden Markov models with M states each; with C = 1, a hidden Markov model.

    The C M observation densities are one family, so they cost one matrix product; the chains are M x M each, never C M x C M.

    Parameters
    ----------
    n_chains, n_states : int
        C and M.
    emission : Emission
        C M densities, those of a chain side by side.
    given : dict of str to Tensor
        Starting values that replace the ones found: ``initial``, ``transition``, ``means``, ``covariances``.
    """

    def __init__(self, n_chains: int, n_states: int, emission: Emission, given: dict[str, Tensor] | None = None):
        super().__init__()
        self.n_chains, self.n_states, self.emission = n_chains, n_states, emission
        self.weights = nn.Parameter(torch.full((n_chains,), 1 / n_chains, dtype=torch.float64))
        self.initial = nn.Parameter(torch.full((n_chains, n_states), 1 / n_states, dtype=torch.float64))
        self.transition = nn.Parameter(torch.full((n_chains, n_states, n_states), 1 / n_states, dtype=torch.float64))
        self._given = given or {}

    def initialize(self, batches: Batches, generator: torch.Generator) -> None:
        """Cluster the sequences, then the steps of each cluster into states, and count how these follow each other."""
        if batches.n_steps < self.n_states:
            raise InputError(
                f"n_states={self.n_states} but X has {batches.n_steps} steps in all; give more data or use fewer states"
            )
        if batches.n_sequences < self.n_chains:
            raise InputError(
                f"n_clusters={self.n_chains} but X has {batches.n_sequences} sequences; give more sequences or ask for fewer clusters"
            )
        if self._given.keys() >= {"initial", "transition", "means", "covariances"}:
            values, weights, _ = batches.sample_steps(CENTER_SAMPLE, generator)
            self.emission.initialize(values, weights[:, None].expand(-1, self.emission.n_components))
            self._take_given()
            return
        values, weights, sequences = batches.sample_steps(START_SAMPLE, generator)
        clusters = assign_sequences(values, sequences, batches.n_sequences, self.n_chains, self.n_states, generator)
        responsibilities = values.new_zeros(len(values), self.n_chains, self.n_states)
        for c in range(self.n_chains):
            inside = clusters[sequences] == c
            if inside.sum() < self.n_states:  # too little to tell states apart: let EM find them in everything
                inside = torch.ones_like(inside)
            responsibilities[inside, c] = assign_by_kmeans(values[inside], weights[inside], self.n_states, generator)
        self.emission.initialize(values, responsibilities.flatten(1))
        with torch.no_grad():
            self.weights.copy_(normalize(torch.bincount(clusters, minlength=self.n_chains).double()))
            self.initial.fill_(1 / self.n_states)
            self.transition.fill_(1 / self.n_states)
            if len(values) == batches.n_steps:  # in a sample of the steps, neighbours do not follow each other
                self._count(responsibilities, sequences)
        self._take_given()

    @torch.no_grad()
    def _take_given(self) -> None:
        """Replace what was found by what the user gave."""
        for name, value in self._given.items():
            owner = self if hasattr(self, name) else self.emission
            getattr(owner, name).copy_(value)

    def _count(self, responsibilities: Tensor, sequences: Tensor) -> None:
        """Initial and transition probabilities from the states (n, C, M) of all steps, each counted once more than it occurs."""
        follows = sequences[1:] == sequences[:-1]
        first = torch.cat([follows.new_ones(1), ~follows])
        pairs = torch.einsum("tci,tcj->cij", responsibilities[:-1][follows], (responsibilities[1:][follows] > 0).double())
        self.initial.copy_(normalize(1 + responsibilities[first].sum(0)))
        self.transition.copy_(normalize(1 + pairs))

    def objective(self, batch: Batch) -> Tensor:
        """log p(x) = log sum_c v_c Z_c(x), of shape (n_sequences,)."""
        return torch.logsumexp(self.log_partition(batch) + self.weights.log(), 1)

    def log_partition(self, batch: Batch) -> Tensor:
        """log p(x | c), of shape (n_sequences, C)."""
        return self._kernels.log_partition(*self._chain_arguments(self.log_emission(batch), batch))

    def log_emission(self, batch: Batch) -> Tensor:
        """log p(x_t | c, z_t = m), of shape (n_steps, C, M)."""
        return self._by_chain(self.emission.log_density(self.emission.features(batch.values)))

    def _by_chain(self, per_density: Tensor) -> Tensor:
        return per_density.unflatten(1, (self.n_chains, self.n_states))

    def _chain_arguments(self, log_emission: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.initial, self.transition, log_emission, batch.offsets

    @property
    def _kernels(self) -> ModuleType:
        return chains_cpu if self.weights.device.type == "cpu" else chains

    @torch.no_grad()
    def expect(self, batch: Batch, *, evaluate: bool = True) -> ChainStatistics:
        """Forward-backward through every chain, and the moments under the state posteriors."""
        features = self.emission.features(batch.values)
        log_emission = self._by_chain(self.emission.log_density(features))
        weights = None if batch.weights is None else batch.weights.double()
        expected = self._kernels.expectations(*self._chain_arguments(log_emission, batch), self.weights.log(), weights)
        log_likelihood, responsibilities = expected.log_evidence, expected.responsibilities
        if weights is not None:
            log_likelihood, responsibilities = log_likelihood * weights, responsibilities * weights[:, None]
        return ChainStatistics(
            weight=batch.total_weight,
            log_likelihood=float(log_likelihood.sum()),
            weights=responsibilities.sum(0),
            initial=expected.initial,
            transitions=expected.transitions,
            emission=self.emission.expect(features, expected.states.flatten(1)),
        )

    @torch.no_grad()
    def maximize(self, statistics: ChainStatistics) -> None:
        """Normalised counts, and the densities' own maximisers; what no data speaks of stays as it was."""
        self.weights.copy_(normalize(statistics.weights, self.weights))
        for parameter, counts in ((self.initial, statistics.initial), (self.transition, statistics.transitions)):
            probabilities = normalize(counts, parameter)
            probabilities[probabilities < _VANISHED] = 0.0
            parameter.copy_(probabilities)
        self.emission.maximize(statistics.emission)

    @torch.no_grad()
    def posterior(self, batch: Batch) -> ChainPosterior:
        """Responsibilities of the chains, and of their states at each step."""
        log_emission = self.log_emission(batch)
        expected = self._kernels.expectations(*self._chain_arguments(log_emission, batch), self.weights.log())
        return ChainPosterior(expected.log_evidence, expected.responsibilities, expected.states)

    @torch.no_grad()
    def filtered(self, batch: Batch) -> Tensor:
        """p(z_t | c, x_1 .. x_t), of shape (n_steps, C, M): without a look into the future."""
        return self._kernels.filtered(*self._chain_arguments(self.log_emission(batch), batch))

    @torch.no_grad()
    def viterbi(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The best path of each sequence through its most probable chain (n_steps,), and log p(x, path | c) (n_sequences,)."""
        log_emission = self.log_emission(batch)
        arguments = self._chain_arguments(log_emission, batch)
        chain = (self._kernels.log_partition(*arguments) + self.weights.log()).argmax(1)
        return self._kernels.viterbi(*arguments, chain)

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
        values = self.emission.sample(labels.to(self.weights.device), generator)
        return Batch(values, torch.arange(n_sequences + 1) * length, labels=labels)

    def count_parameters(self) -> int:
        """Mixing proportions, initial probabilities and possible transitions, less one for each sum to 1, and the densities'."""
        first = int((self.initial > 0).sum()) - self.n_chains
        transitions = int((self.transition > 0).sum()) - self.n_chains * self.n_states
        return self.n_chains - 1 + first + transitions + self.emission.count_parameters()


class GaussianHMM(Estimator):
    """Hidden Markov model with Gaussian observations, learned by maximum likelihood with EM (Baum-Welch).

    A hidden state follows a Markov chain, and each observation is normal given the state::

        z_1 ~ Categorical(pi),   z_t | z_{t-1} = i ~ Categorical(A_i),   x_t | z_t = m ~ N(mu_m, Sigma_m).

    ``X`` is a list of 2-D arrays (length, n_features) of any lengths; or one 2-D array, a single sequence unless ``lengths`` divides it.

    Parameters
    ----------
    n_states : int
        M, the number of states.
    covariance_type : {"diag", "full", "tied", "spherical"}
        Variances of each state; a matrix for each; one matrix for all; one variance for each.
    tol : float
        EM stops when an iteration gains less than this, in nats per step.
    reg_covar : float
        No eigenvalue of a covariance falls below this, in squared units of the data.
    max_iter : int
        The most EM iterations.
    n_init : int
        The number of starts. Each is run shortly, and the best is finished.
    startprob_init : array of shape (M,), optional
    transmat_init : array of shape (M, M), optional
        Zeros stay zero: a left-to-right chain remains one.
    means_init : array of shape (M, D), optional
    covariances_init : array, shaped as ``covariances_``, optional
        Starting values that replace the ones found.
    random_state : int, RandomState or None
        Seeds the starts and the samples.
    warm_start : bool
        Whether ``fit`` goes on from the fitted parameters, where there are some.
    verbose : int
        1 shows the progress.
    reduce : {"threads", "serial"}
        Where the E-step runs: batches side by side on all cores, or one after the other.

    Attributes
    ----------
    startprob_ : ndarray of shape (M,)
    transmat_ : ndarray of shape (M, M)
    means_ : ndarray of shape (M, D)
    covariances_ : ndarray of shape (M, D), (M, D, D), (D, D) or (M,) by ``covariance_type``
    converged_ : bool
    n_iter_ : int
    history_ : History

    References
    ----------
    Rabiner (1989), A tutorial on hidden Markov models and selected applications in speech recognition.

    Examples
    --------
    >>> import numpy as np
    >>> noise = np.random.default_rng(0).normal(size=(60, 1))
    >>> X = noise + np.repeat([0.0, 8.0, 0.0], 20)[:, None]
    >>> hmm = GaussianHMM(n_states=2, random_state=0).fit(X)
    >>> len(set(hmm.predict(X)[:20])), hmm.predict(X)[0] == hmm.predict(X)[-1]
    (1, np.True_)
    """

    items = "sequences"
    constraints = EM_CONSTRAINTS | {
        "n_states": integer(1),
        "covariance_type": choice(*COVARIANCE_TYPES),
        "reg_covar": real(0.0),
        "n_init": integer(1),
    }

    def __init__(
        self,
        n_states: int = 2,
        *,
        covariance_type: str = "diag",
        tol: float = 1e-4,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        startprob_init: Any = None,
        transmat_init: Any = None,
        means_init: Any = None,
        covariances_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        reduce: str = "threads",
    ):
        self.n_states = n_states
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.startprob_init = startprob_init
        self.transmat_init = transmat_init
        self.means_init = means_init
        self.covariances_init = covariances_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.reduce = reduce

    def build(self, n_features: int) -> ChainMixture:
        """One chain."""
        return build_chains(self, 1, n_features)

    def learn(self, model: ChainMixture, batches: Batches, generator: torch.Generator) -> History:
        """EM from several starts."""
        return em_from_starts(model, batches, generator, **em_settings(self))

    def predict(self, X: Any, *, lengths: Any = None) -> Any:
        """The most probable path of states (Viterbi): one integer for each step, in the form of X."""
        path, layout = self._map(X, lengths, lambda batch: self.model_.viterbi(batch)[0])
        return layout.per_step(path)

    def decode(self, X: Any, *, lengths: Any = None) -> tuple[np.ndarray, Any]:
        """log p(x, path) of each sequence (n_sequences,), and the most probable paths."""
        score, layout = self._map(X, lengths, lambda batch: self.model_.viterbi(batch)[1])
        return layout.per_item(score), self.predict(X, lengths=lengths)

    def predict_proba(self, X: Any, *, lengths: Any = None) -> Any:
        """Smoothed posteriors p(z_t | x_1 .. x_T): (n_steps, M), in the form of X."""
        states, layout = self._map(X, lengths, lambda batch: self.model_.posterior(batch).states[:, 0])
        return layout.per_step(states)

    def filter_proba(self, X: Any, *, lengths: Any = None) -> Any:
        """Filtered posteriors p(z_t | x_1 .. x_t), which use no later observation: (n_steps, M), in the form of X."""
        states, layout = self._map(X, lengths, lambda batch: self.model_.filtered(batch)[:, 0])
        return layout.per_step(states)

    @property
    def startprob_(self) -> np.ndarray:
        """The initial probabilities pi, of shape (M,)."""
        return as_array(self.model_.initial[0])

    @property
    def transmat_(self) -> np.ndarray:
        """The transition probabilities A, of shape (M, M): rows are where from."""
        return as_array(self.model_.transition[0])

    @property
    def means_(self) -> np.ndarray:
        """The means, of shape (M, D)."""
        return as_array(self.model_.emission.means)

    @property
    def covariances_(self) -> np.ndarray:
        """The covariances, shaped by ``covariance_type``."""
        return as_array(self.model_.emission.covariances)


def build_chains(estimator: Any, n_chains: int, n_features: int) -> ChainMixture:
    """The model of an estimator that has the parameters of GaussianHMM, with its starting values checked."""
    n_states = estimator.n_states
    emission = Gaussian(n_chains * n_states, n_features, estimator.covariance_type, estimator.reg_covar)
    stacked = (n_chains,) if n_chains > 1 else ()
    given = {}
    if estimator.startprob_init is not None:
        initial = as_probabilities("startprob_init", estimator.startprob_init, (*stacked, n_states))
        given["initial"] = initial.view(n_chains, n_states)
    if estimator.transmat_init is not None:
        transition = as_probabilities("transmat_init", estimator.transmat_init, (*stacked, n_states, n_states))
        given["transition"] = transition.view(n_chains, n_states, n_states)
    if estimator.means_init is not None:
        means = as_shape("means_init", estimator.means_init, (*stacked, n_states, n_features))
        given["means"] = means.view(-1, n_features)
    if estimator.covariances_init is not None:
        shape = emission.covariances.shape
        outer = (*stacked, n_states, *shape[1:]) if estimator.covariance_type != "tied" else shape
        given["covariances"] = as_covariances(
            "covariances_init", estimator.covariances_init, outer, estimator.covariance_type
        ).view(shape)
    return ChainMixture(n_chains, n_states, emission, given)
