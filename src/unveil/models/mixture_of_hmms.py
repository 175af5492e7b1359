"""A mixture of hidden Markov models: each sequence comes from one of C models, and which one is hidden. It clusters sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from unveil.core.constraints import choice, integer, integer_or
from unveil.core.criteria import CriteriaMixin
from unveil.core.estimator import Estimator, as_array
from unveil.core.history import History
from unveil.core.mixins import ClusterMixin
from unveil.core.reading import Supervision
from unveil.data.batch import Batches
from unveil.learn.restarts import em_from_starts, em_settings
from unveil.learn.stochastic import PartialFitMixin
from unveil.models.chain_mixture import ChainMixture
from unveil.models.chain_settings import CHAIN_CONSTRAINTS, build_chains
from unveil.models.emission_settings import EMISSION_CONSTRAINTS, SAVED_AS
from unveil.models.moment_chains import DEPERMUTATIONS
from unveil.models.moment_diagnostics import MomentsMixin


class MixtureOfHMMs(ClusterMixin, MomentsMixin, CriteriaMixin, PartialFitMixin, Estimator):
    """Mixture of hidden Markov models, learned by maximum likelihood with EM.

    Each sequence chooses a cluster, and follows that cluster's hidden Markov model::

        c ~ Categorical(v),
        z_1 | c ~ Categorical(pi_c),   z_t | z_{t-1} = i, c ~ Categorical(A_ci),   x_t | z_t = m, c ~ p_cm,

    Gaussian by default.

    ``y`` may give the clusters of the sequences that are known, -1 elsewhere.
    The mixture is the hidden Markov model of C M states whose transitions are block-diagonal, at the cost of C models of M states.

    Parameters
    ----------
    n_clusters : int
        C, the number of clusters.
    n_states : int
        M, the number of states of each cluster's model.
    emission : {"gaussian", "categorical", "bernoulli", "poisson", "gaussian-mixture"} or callable
        As for ``HMM``.
    covariance_type : {"diag", "full", "tied", "spherical"}
        As for ``GaussianHMM``; "tied" ties all states of all clusters.
    transitions, algorithm, fixed, fixed_transitions, tied_states, startprob_prior, transmat_prior, sticky, emission_prior, batch_size
        As for ``HMM``, the same for every cluster.
    tol : float
        EM stops when an iteration gains less than this, in nats per step.
    reg_covar : float
        No eigenvalue of a covariance falls below this, in squared units of the data.
    max_iter : int
        The most EM iterations.
    n_init : int or "auto"
        The number of starts. Each is run shortly, and the best is finished. Clusters of sequences have many local optima: "auto" is 5,
        and 1 from moments.
    init : {"kmeans", "moments"}
        Where EM starts: from clusters of the sequences and of their steps; or from the method of moments, which needs no luck.
        ``moments_`` then says how well the data determines the parameters.
    depermute : {"all-lag", "ncut", "eigen"}
        For ``init="moments"``, how states are sorted into clusters. "all-lag": the sequences are clustered first, by which of many fine
        states occur in the same ones, however far apart. "ncut" and "eigen": all C M states are found at once, and then sorted by
        their transitions, with normalised cuts or with the leading eigenvectors; this is the published recipe.
    startprob_init : array of shape (C, M), optional
    transmat_init : array of shape (C, M, M), optional
    means_init : array of shape (C, M, D), optional
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
    weights_ : ndarray of shape (C,)
    startprob_ : ndarray of shape (C, M)
    transmat_ : ndarray of shape (C, M, M)
    means_ : ndarray of shape (C, M, D)
    covariances_ : ndarray of shape (C, M, ...), or (D, D) when tied
    history_ : History

    References
    ----------
    Smyth (1997), Clustering sequences with hidden Markov models.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> rising = [np.linspace(0, 3, n)[:, None] + 0.3 * rng.normal(size=(n, 1)) for n in range(20, 40, 2)]
    >>> falling = [x[::-1] for x in rising]
    >>> clusters = MixtureOfHMMs(n_clusters=2, n_states=4, random_state=0).fit_predict(rising + falling)
    >>> bool((clusters[:10] == clusters[0]).all() and (clusters[10:] != clusters[0]).all())
    True
    """

    items = "sequences"
    allows_nan = True
    supervision = Supervision("item", "n_clusters")
    constraints = (
        CHAIN_CONSTRAINTS
        | EMISSION_CONSTRAINTS
        | {"n_clusters": integer(1), "n_init": integer_or(1, "auto"), "depermute": choice(*DEPERMUTATIONS)}
    )
    saved_as = SAVED_AS

    def __init__(
        self,
        n_clusters: int = 2,
        n_states: int = 3,
        *,
        emission: Any = "gaussian",
        covariance_type: str = "diag",
        transitions: Any = "full",
        algorithm: str = "em",
        tol: float = 1e-4,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int | str = "auto",
        init: str = "kmeans",
        depermute: str = "all-lag",
        startprob_init: Any = None,
        transmat_init: Any = None,
        means_init: Any = None,
        covariances_init: Any = None,
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
        self.n_clusters = n_clusters
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
        self.depermute = depermute
        self.startprob_init = startprob_init
        self.transmat_init = transmat_init
        self.means_init = means_init
        self.covariances_init = covariances_init
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
        """C chains side by side."""
        return build_chains(self, self.n_clusters, n_features, labels="chains")

    def learn(self, model: ChainMixture, batches: Batches, generator: torch.Generator) -> History:
        """EM from several starts."""
        n_init = {"kmeans": 5, "moments": 1}[self.init] if self.n_init == "auto" else self.n_init
        return em_from_starts(model, batches, generator, **em_settings(self) | {"n_init": n_init})

    def predict_states(self, X: Any, *, lengths: Any = None) -> Any:
        """The most probable path through the most probable cluster's states, 0 .. M - 1: one for each step, in the form of X."""
        path, layout = self._map(X, lengths, lambda batch: self.model_.viterbi(batch)[0])
        return layout.per_step(path)

    @property
    def weights_(self) -> np.ndarray:
        """The mixing proportions v, of shape (C,)."""
        return as_array(self.model_.weights)

    @property
    def startprob_(self) -> np.ndarray:
        """The initial probabilities, of shape (C, M)."""
        return as_array(self.model_.initial)

    @property
    def transmat_(self) -> np.ndarray:
        """The transition probabilities, of shape (C, M, M): rows are where from."""
        return as_array(self.model_.transition)

    @property
    def means_(self) -> np.ndarray:
        """The means, of shape (C, M, D)."""
        return self._by_cluster(self.model_.emission.means)

    @property
    def covariances_(self) -> np.ndarray:
        """The covariances: (C, M, D), (C, M, D, D), (C, M), or (D, D) when tied."""
        covariances = self.model_.emission.covariances
        return as_array(covariances) if self.covariance_type == "tied" else self._by_cluster(covariances)

    def _by_cluster(self, parameter: torch.Tensor) -> np.ndarray:
        return as_array(parameter).reshape(self.n_clusters, -1, *parameter.shape[1:])
