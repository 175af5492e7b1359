"""The hidden Markov model over any observations: z_1 ~ pi, z_t | z_{t-1} ~ A, x_t | z_t = m ~ p_m."""

from __future__ import annotations

from typing import Any

from unveil.core.criteria import CriteriaMixin
from unveil.core.estimator import Estimator
from unveil.core.history import History
from unveil.core.reading import Supervision
from unveil.data.batch import Batches
from unveil.learn.restarts import em_from_starts, em_settings
from unveil.learn.stochastic import PartialFitMixin
from unveil.models.chain_mixture import ChainMixture
from unveil.models.chain_settings import CHAIN_CONSTRAINTS, build_chains
from unveil.models.emission_settings import EMISSION_CONSTRAINTS, SAVED_AS
from unveil.models.hidden_states import HiddenStatesMixin
from unveil.models.moment_diagnostics import MomentsMixin


class HMM(HiddenStatesMixin, MomentsMixin, CriteriaMixin, PartialFitMixin, Estimator):
    """Hidden Markov model with observations of any kind, learned by maximum likelihood with EM (Baum-Welch).

    A hidden state follows a Markov chain, and each observation has the state's distribution::

        z_1 ~ Categorical(pi),   z_t | z_{t-1} = i ~ Categorical(A_i),   x_t | z_t = m ~ p_m.

    ``X`` is a list of 2-D arrays (length, n_features) of any lengths; or one 2-D array, a single sequence unless ``lengths`` divides it.
    ``y`` may give the states that are known, -1 elsewhere: they are masks on the posterior, so likelihoods stay comparable.

    Parameters
    ----------
    n_states : int
        M, the number of states.
    emission : {"gaussian", "categorical", "bernoulli", "poisson", "gaussian-mixture"} or callable
        The family of p_m; or anything that, called with (n_components, n_features), gives an ``Emission``, such as the class of
        your own, or ``Product({(0, 1): "gaussian", 2: "poisson"})`` for columns of several kinds.
    covariance_type : {"diag", "full", "tied", "spherical"}
        Of Gaussian emissions.
    transitions : {"full", "left-right", "bakis", "cyclic"} or array of bool of shape (M, M)
        Which transitions are possible; the others stay impossible. In "left-right" to all later states, in "bakis" and "cyclic" to
        the next one; the first two begin in state 0.
    algorithm : {"em", "hard-em", "stochastic-em"}
        Exact EM; Viterbi training, which settles on the best paths; or an M-step after every minibatch.
    tol : float
        EM stops when an iteration gains less than this, in nats per step.
    reg_covar : float
        No eigenvalue of a covariance falls below this, in squared units of the data.
    max_iter : int
        The most iterations: passes through the data.
    n_init : int
        The number of starts. Each is run shortly, and the best is finished.
    init : {"kmeans", "moments"}
        Where EM starts: from clusters of the steps; or from the method of moments, which needs no luck. ``moments_`` then says how well
        the data determines the parameters.
    startprob_init : array of shape (M,), optional
    transmat_init : array of shape (M, M), optional
    emission_init : dict of str to array, optional
        Starting values that replace the ones found; those of the emission by the names of its parameters.
    fixed : tuple of {"startprob", "transmat", "emission"}, optional
        What stays as it starts.
    fixed_transitions : array of bool of shape (M, M), optional
        Single entries of ``transmat_init`` that stay as they are.
    tied_states : sequence of M ints, optional
        States with the same number share their observation distribution.
    startprob_prior, transmat_prior : float
        Concentrations (at least 1) of symmetric Dirichlet priors; learning then maximises the posterior.
    sticky : float
        What the prior adds to the concentration of staying in a state: longer visits.
    emission_prior : optional
        The prior of the emission; for Gaussians "conjugate" or a ``NormalInverseWishart``, for counts and symbols a concentration.
    batch_size : int
        Steps in a minibatch of stochastic EM.
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
    model_ : ChainMixture
        ``model_.emission`` holds the observation distributions.
    converged_ : bool
    n_iter_ : int
    history_ : History

    References
    ----------
    Rabiner (1989), A tutorial on hidden Markov models and selected applications in speech recognition.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.poisson(np.repeat([2.0, 20.0, 2.0], 20))[:, None]
    >>> hmm = HMM(n_states=2, emission="poisson", random_state=0).fit(X)
    >>> sorted(hmm.model_.emission.rates[:, 0].round().tolist())
    [2.0, 20.0]
    >>> hmm.forecast(X, 3).mean.shape
    (3, 1)
    """

    items = "sequences"
    allows_nan = True
    supervision = Supervision("step", "n_states")
    constraints = CHAIN_CONSTRAINTS | EMISSION_CONSTRAINTS
    saved_as = SAVED_AS

    def __init__(
        self,
        n_states: int = 2,
        *,
        emission: Any = "gaussian",
        covariance_type: str = "diag",
        transitions: Any = "full",
        algorithm: str = "em",
        tol: float = 1e-4,
        reg_covar: float = 1e-6,
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
        self.emission = emission
        self.covariance_type = covariance_type
        self.transitions = transitions
        self.algorithm = algorithm
        self.tol = tol
        self.reg_covar = reg_covar
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
        """One chain over the emission."""
        return build_chains(self, 1, n_features)

    def learn(self, model: ChainMixture, batches: Batches, generator: Any) -> History:
        """EM from several starts."""
        return em_from_starts(model, batches, generator, **em_settings(self))
