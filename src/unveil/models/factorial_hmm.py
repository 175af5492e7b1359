"""The factorial hidden Markov model; what it is as a distribution is in ``factorial_chains``."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from unveil.core.constraints import as_covariances, as_probabilities, as_shape, choice, integer, real
from unveil.core.criteria import CriteriaMixin
from unveil.core.estimator import Estimator, as_array
from unveil.core.history import History
from unveil.data.batch import Batches
from unveil.errors import IdentifiabilityWarning, ParameterError
from unveil.kernels.gaussian import COVARIANCE_TYPES
from unveil.learn.restarts import EM_CONSTRAINTS, em_from_starts, em_settings
from unveil.models.factorial_chains import RANK_TOLERANCE, FactorialChains

MOST_COMBINATIONS = 1024  # up to as many, "auto" is exact
_MOST_EXACT = 1 << 16  # more do not fit into memory for sequences of any length
_MOST_NUMBERED = 1 << 62  # more combinations cannot be told apart by a label


@dataclass(frozen=True)
class Identifiability:
    """What the data determines of a dictionary of K M means, and another one that explains everything equally well.

    Attributes
    ----------
    n_means : int
        K M.
    rank_bound : int
        K M - (K - 1): the rank that E[r r'] has at most, r being the K M indicators of the states.
    rank : int
        The rank that it has, under the posterior of the last E-step.
    alternative : ndarray of shape (K, M, D)
        O^k + c_k 1' with sum_k c_k = 0: it has the same sum for every combination of states, and so exactly the same likelihood.
    balanced : ndarray of shape (K, M, D)
        The shortest of all equal ones: the means of every chain have the same average.
    """

    n_means: int
    rank_bound: int
    rank: int
    alternative: np.ndarray
    balanced: np.ndarray


class FactorialHMM(CriteriaMixin, Estimator):
    """Factorial hidden Markov model with Gaussian observations, learned with exact or structured variational EM.

    K chains move independently of each other, and their states add up to the mean of what is seen::

        z^k_1 ~ Categorical(pi_k),   z^k_t | z^k_{t-1} = i ~ Categorical(A_k,i),   x_t | z_t ~ N(sum_k O^k[z^k_t], Sigma).

    So K M means describe M^K combinations. They are not determined by the data: what one chain's means have more, those of another
    can have less. The indicators R of the states obey rank(R) <= K M - (K - 1), and ``identifiability`` shows the consequence. EM
    changes means only as far as the data asks it to; the rest stays what the start was.

    ``X`` is a list of 2-D arrays (length, n_features) of any lengths; or one 2-D array, a single sequence unless ``lengths`` divides it.

    Parameters
    ----------
    n_chains : int
        K.
    n_states : int
        M, the number of states of each chain.
    covariance_type : {"diag", "full", "tied", "spherical"}
        The covariance of the noise, which all combinations of states share; so "tied" is "full".
    inference : {"auto", "exact", "variational"}
        Over all M^K combinations, at a cost of K M^(K+1) for each step; or by a posterior of independent chains, at K M^2, which gives a
        lower bound on the likelihood. "auto" is exact up to 1024 combinations.
    n_sweeps : int
        How often variational inference goes through the chains, in every E-step and to score.
    tol : float
        EM stops when an iteration gains less than this, in nats per step.
    reg_covar : float
        No eigenvalue of the covariance falls below this, in squared units of the data.
    max_iter : int
        The most EM iterations.
    n_init : int
        The number of starts. Each is run shortly, and the best is finished.
    startprob_init : array of shape (K, M), optional
    transmat_init : array of shape (K, M, M), optional
    means_init : array of shape (K, M, D), optional
    covariance_init : array, shaped as ``covariance_``, optional
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
    startprob_ : ndarray of shape (K, M)
    transmat_ : ndarray of shape (K, M, M)
    means_ : ndarray of shape (K, M, D)
        In units of the data; only their sums over chains are determined.
    covariance_ : ndarray of shape (D,), (D, D) or () by ``covariance_type``
    converged_ : bool
    n_iter_ : int
    history_ : History

    Raises
    ------
    ParameterError
        When inference is to be exact with more than 65536 combinations of states.

    References
    ----------
    Ghahramani and Jordan (1997), Factorial hidden Markov models.
    Subakan (2018), doctoral thesis, chapter 3, on identifiable factorial models.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> slow, quick = np.repeat(rng.integers(2, size=20), 20), np.repeat(rng.integers(2, size=80), 5)
    >>> X = 4.0 * slow[:, None] + [[0.0, 1.0]] * quick[:, None] + 0.1 * rng.normal(size=(400, 2))
    >>> hmm = FactorialHMM(n_chains=2, n_states=2, random_state=0).fit(X)
    >>> hmm.predict_states(X).shape, hmm.means_.shape
    ((400, 2), (2, 2, 2))
    >>> found = hmm.identifiability()
    >>> found.n_means, found.rank_bound, found.rank
    (4, 3, 3)
    >>> other = hmm.with_means(found.alternative)  # a dictionary that looks different, and is as good
    >>> bool(np.abs(other.means_ - hmm.means_).max() > 1), bool(abs(other.score(X) - hmm.score(X)) < 1e-6)
    (True, True)
    """

    items = "sequences"
    constraints = EM_CONSTRAINTS | {
        "n_chains": integer(1),
        "n_states": integer(1),
        "covariance_type": choice(*COVARIANCE_TYPES),
        "inference": choice("auto", "exact", "variational"),
        "n_sweeps": integer(1),
        "reg_covar": real(0.0),
        "n_init": integer(1),
    }

    def __init__(
        self,
        n_chains: int = 2,
        n_states: int = 2,
        *,
        covariance_type: str = "diag",
        inference: str = "auto",
        n_sweeps: int = 10,
        tol: float = 1e-4,
        reg_covar: float = 1e-6,
        max_iter: int = 200,
        n_init: int = 10,
        startprob_init: Any = None,
        transmat_init: Any = None,
        means_init: Any = None,
        covariance_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        reduce: str = "threads",
    ):
        self.n_chains = n_chains
        self.n_states = n_states
        self.covariance_type = covariance_type
        self.inference = inference
        self.n_sweeps = n_sweeps
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.startprob_init = startprob_init
        self.transmat_init = transmat_init
        self.means_init = means_init
        self.covariance_init = covariance_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.reduce = reduce

    def build(self, n_features: int) -> FactorialChains:
        """The chains, with what is given."""
        return FactorialChains(
            self.n_chains,
            self.n_states,
            n_features,
            self.covariance_type,
            self.reg_covar,
            self._is_exact(),
            self.n_sweeps,
            self._given(n_features),
        )

    def _is_exact(self) -> bool:
        """Whether to sum over all combinations of states."""
        n_combinations = self.n_states**self.n_chains
        these = f"n_chains={self.n_chains} of n_states={self.n_states} have"
        if n_combinations > _MOST_NUMBERED:
            raise ParameterError(f"{these} more than 2^62 combinations, which are too many to number; use fewer")
        if self.inference == "exact" and n_combinations > _MOST_EXACT:
            raise ParameterError(f"{these} {n_combinations} combinations, too many to sum over; use inference='variational'")
        return self.inference == "exact" or (self.inference == "auto" and n_combinations <= MOST_COMBINATIONS)

    def _given(self, d: int) -> dict[str, Tensor]:
        """The user's starting values, checked."""
        k, m, given = self.n_chains, self.n_states, {}
        if self.startprob_init is not None:
            given["initial"] = as_probabilities("startprob_init", self.startprob_init, (k, m))
        if self.transmat_init is not None:
            given["transition"] = as_probabilities("transmat_init", self.transmat_init, (k, m, m))
        if self.means_init is not None:
            given["means"] = as_shape("means_init", self.means_init, (k, m, d))
        if self.covariance_init is not None:
            shape = {"diag": (d,), "spherical": ()}.get(self.covariance_type, (d, d))
            given["covariance"] = as_covariances("covariance_init", self.covariance_init, shape, self.covariance_type)
        return given

    def learn(self, model: FactorialChains, batches: Batches, generator: torch.Generator) -> History:
        """EM from several starts, in batches whose messages stay in the caches."""
        if model.exact:
            batches = batches.at_most(self.n_states**self.n_chains)
        history = em_from_starts(model, batches, generator, **em_settings(self))
        model.forget()
        return history

    def predict_states(self, X: Any, *, lengths: Any = None) -> Any:
        """The most probable paths of all chains together (Viterbi): K integers for each step, (n_steps, K), in the form of X.

        Where inference is variational, paths that cannot be made better by changing those of one chain.
        """
        paths, layout = self._map(X, lengths, lambda batch: self.model_.viterbi(batch)[0])
        return layout.per_step(paths)

    def predict_proba(self, X: Any, *, lengths: Any = None) -> Any:
        """The posterior of each chain's state, p(z^k_t = m | x_1 .. x_T): (n_steps, K, M), in the form of X."""
        states, layout = self._map(X, lengths, lambda batch: self.model_.posterior(batch).states)
        return layout.per_step(states)

    def split_labels(self, labels: Any) -> np.ndarray:
        """The states of all chains (..., K), from the numbers (...) of their combinations, which ``sample`` gives as labels."""
        return np.stack(np.unravel_index(np.asarray(labels), (self.n_states,) * self.n_chains), -1)

    def identifiability(self) -> Identifiability:
        """What the data determines of the means, and another dictionary with exactly the same likelihood.

        Warns
        -----
        IdentifiabilityWarning
            When even fewer means are determined than the bound says, because some states were not seen apart.
        """
        model = self._fitted_model()
        n_means, means = self.n_chains * self.n_states, self.means_
        bound = n_means - (self.n_chains - 1)
        rank = int(torch.linalg.matrix_rank(model.activity, rtol=RANK_TOLERANCE, hermitian=True))
        if rank < bound:
            warnings.warn(
                f"the states seen determine {rank} means, of {bound} that {self.n_chains} chains of {self.n_states} states could "
                "have: some states do not occur, or only together; use fewer states or chains, or more data",
                IdentifiabilityWarning,
                stacklevel=2,
            )
        averages = means.mean(1, keepdims=True)
        apart = np.linspace(-1.0, 1.0, self.n_chains)[:, None, None] if self.n_chains > 1 else np.zeros((1, 1, 1))
        return Identifiability(
            n_means,
            bound,
            rank,
            alternative=means + apart * 2.0 * means.std((0, 1)),
            balanced=means - averages + averages.mean(0),
        )

    def with_means(self, means: Any) -> Self:
        """A copy of this estimator, with other means of shape (K, M, D)."""
        model = self._fitted_model()
        checked = as_shape("means", means, tuple(model.means.shape))
        other = copy.deepcopy(self)
        with torch.no_grad():
            other.model_.means.copy_(checked)
        return other

    def combination_means(self) -> np.ndarray:
        """sum_k O^k[z^k] of every combination of states, of shape (M^K, D): what the data determines, in the order of the labels."""
        total = np.zeros((1, self.n_features_in_))
        for means in self.means_:
            total = (total[:, None] + means).reshape(-1, self.n_features_in_)
        return total

    @property
    def startprob_(self) -> np.ndarray:
        """The initial probabilities pi_k, of shape (K, M)."""
        return as_array(self.model_.initial)

    @property
    def transmat_(self) -> np.ndarray:
        """The transition probabilities A_k, of shape (K, M, M): rows are where from."""
        return as_array(self.model_.transition)

    @property
    def means_(self) -> np.ndarray:
        """The dictionaries O^k, of shape (K, M, D)."""
        return as_array(self.model_.means)

    @property
    def covariance_(self) -> np.ndarray:
        """The covariance of the noise, shaped by ``covariance_type``."""
        return as_array(self.model_.covariance)
