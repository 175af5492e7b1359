"""The hidden Markov model of symbols: z_1 ~ pi, z_t | z_{t-1} ~ A, x_t | z_t = m ~ Categorical(B_m)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from unveil.core.criteria import CriteriaMixin
from unveil.core.estimator import Estimator, as_array
from unveil.core.history import History
from unveil.core.reading import Supervision
from unveil.data.batch import Batches
from unveil.learn.restarts import em_from_starts, em_settings
from unveil.learn.stochastic import PartialFitMixin
from unveil.models.chain_mixture import ChainMixture
from unveil.models.chain_settings import CHAIN_CONSTRAINTS, build_chains
from unveil.models.hidden_states import HiddenStatesMixin
from unveil.models.moment_diagnostics import MomentsMixin


class CategoricalHMM(HiddenStatesMixin, MomentsMixin, CriteriaMixin, PartialFitMixin, Estimator):
    """Hidden Markov model of symbols 0, 1, ..., learned by maximum likelihood with EM, from clusters or from moments::

        z_1 ~ Categorical(pi),   z_t | z_{t-1} = i ~ Categorical(A_i),   x_t | z_t = m ~ Categorical(B_m).

    It is ``HMM(emission="categorical")`` by a name of its own. ``X`` holds one column of whole numbers, or several, independent given
    the state.

    Parameters
    ----------
    n_states : int
        M, the number of states.
    transitions, algorithm, tol, max_iter, n_init, startprob_init, transmat_init, emission_init, fixed, fixed_transitions, tied_states
        As for ``HMM``.
    init : {"kmeans", "moments"}
        Where EM starts: from clusters; or from three successive symbols as three views of the state between, which needs no luck, but some
        ten thousand symbols, and no more states than symbols. ``moments_`` then says how well the data determines the parameters.
    startprob_prior, transmat_prior, sticky, batch_size, random_state, warm_start, verbose, reduce
        As for ``HMM``.
    emission_prior : float, optional
        Concentration (at least 1) of symmetric Dirichlet priors of the symbols' probabilities.

    Attributes
    ----------
    startprob_ : ndarray of shape (M,)
    transmat_ : ndarray of shape (M, M)
    emissionprob_ : ndarray of shape (M, n_symbols), or (M, D, n_symbols) for D columns
    history_ : History

    References
    ----------
    Rabiner (1989), A tutorial on hidden Markov models and selected applications in speech recognition.
    Anandkumar, Hsu and Kakade (2012), A method of moments for mixture models and hidden Markov models.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> loaded = np.repeat(rng.integers(2, size=100), 10)
    >>> rolls = np.where(loaded, 5, rng.integers(6, size=1000))[:, None]
    >>> hmm = CategoricalHMM(n_states=2, random_state=0).fit(rolls)
    >>> bool(hmm.emissionprob_[:, 5].max() > 0.95)
    True
    """

    items = "sequences"
    allows_nan = False
    emission: ClassVar[str] = "categorical"
    supervision = Supervision("step", "n_states")
    constraints = {name: check for name, check in CHAIN_CONSTRAINTS.items() if name not in ("covariance_type", "reg_covar")}

    def __init__(
        self,
        n_states: int = 2,
        *,
        transitions: Any = "full",
        algorithm: str = "em",
        tol: float = 1e-4,
        max_iter: int = 100,
        n_init: int = 1,
        init: str = "kmeans",
        startprob_init: Any = None,
        transmat_init: Any = None,
        emission_init: Any = None,
        fixed: Any = None,
        fixed_transitions: Any = None,
        tied_states: Any = None,
        startprob_prior: float = 1.0,
        transmat_prior: float = 1.0,
        sticky: float = 0.0,
        emission_prior: Any = None,
        batch_size: int = 1024,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        reduce: str = "threads",
    ):
        self.n_states = n_states
        self.transitions = transitions
        self.algorithm = algorithm
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.init = init
        self.startprob_init = startprob_init
        self.transmat_init = transmat_init
        self.emission_init = emission_init
        self.fixed = fixed
        self.fixed_transitions = fixed_transitions
        self.tied_states = tied_states
        self.startprob_prior = startprob_prior
        self.transmat_prior = transmat_prior
        self.sticky = sticky
        self.emission_prior = emission_prior
        self.batch_size = batch_size
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.reduce = reduce

    def build(self, n_features: int) -> ChainMixture:
        """One chain over symbols."""
        return build_chains(self, 1, n_features)

    def learn(self, model: ChainMixture, batches: Batches, generator: Any) -> History:
        """EM from several starts."""
        return em_from_starts(model, batches, generator, **em_settings(self))

    @property
    def emissionprob_(self) -> np.ndarray:
        """The probabilities of the symbols, of shape (M, n_symbols), or (M, D, n_symbols) for D columns."""
        probabilities = as_array(self.model_.emission.probabilities)
        return probabilities[:, 0] if probabilities.shape[1] == 1 else probabilities
