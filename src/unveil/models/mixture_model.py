"""Finite mixtures of any observations: z ~ Categorical(pi), x | z = k ~ p_k. Of symbols, it is latent class analysis."""

from __future__ import annotations

from typing import Any

import numpy as np

from unveil.core.constraints import as_probabilities, choice, integer, real
from unveil.core.criteria import CriteriaMixin
from unveil.core.estimator import Estimator, as_array
from unveil.core.history import History
from unveil.core.mixins import ClusterMixin, ImputeMixin
from unveil.core.reading import Supervision
from unveil.data.batch import Batches
from unveil.learn.restarts import VARIANT_CONSTRAINTS, em_from_starts, em_settings
from unveil.learn.stochastic import PartialFitMixin
from unveil.models.emission_settings import EMISSION_CONSTRAINTS, SAVED_AS, build_emission, given_emission
from unveil.models.finite_mixture import Mixture


class MixtureModel(ClusterMixin, ImputeMixin, CriteriaMixin, PartialFitMixin, Estimator):
    """Finite mixture of observations of any kind, learned by maximum likelihood with EM.

    Each point has a hidden component z, and given it the component's distribution::

        z ~ Categorical(pi),   x | z = k ~ p_k.

    Parameters
    ----------
    n_components : int
        K, the number of components.
    emission : {"gaussian", "categorical", "bernoulli", "poisson", "gaussian-mixture"} or callable
        The family of p_k; or anything that, called with (n_components, n_features), gives an ``Emission``, such as the class of
        your own, or ``Product({(0, 1): "gaussian", 2: "poisson"})`` for columns of several kinds.
    covariance_type : {"full", "tied", "diag", "spherical"}
        Of Gaussian emissions.
    algorithm : {"em", "hard-em", "stochastic-em"}
        Exact EM; classification EM, which gives each point to one component; or an M-step after every minibatch.
    tol : float
        EM stops when an iteration gains less than this, in nats per point.
    reg_covar : float
        No eigenvalue of a covariance falls below this, in squared units of the data.
    max_iter : int
        The most iterations: passes through the data.
    n_init : int
        The number of starts. Each is run shortly, and the best is finished.
    init_params : {"kmeans", "k-means++", "random", "random_from_data"}
        How a start is found.
    weights_init : array of shape (K,), optional
    emission_init : dict of str to array, optional
        Starting values that replace the ones found; those of the emission by the names of its parameters.
    weights_prior : float
        Concentration (at least 1) of a symmetric Dirichlet prior of the weights; learning then maximises the posterior.
    emission_prior : optional
        The prior of the emission; for Gaussians "conjugate" or a ``NormalInverseWishart``, for counts and symbols a concentration.
    batch_size : int
        Points in a minibatch of stochastic EM.
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
    weights_ : ndarray of shape (K,)
    model_ : Mixture
        ``model_.emission`` holds the component distributions.
    history_ : History

    References
    ----------
    McLachlan and Peel (2000), Finite mixture models.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> answers = (rng.random((200, 6)) < np.repeat([[0.1], [0.9]], 100, axis=0)).astype(float)
    >>> clusters = MixtureModel(n_components=2, emission="bernoulli", random_state=0).fit_predict(answers)
    >>> bool((clusters[:100] == clusters[0]).mean() > 0.95 and (clusters[100:] != clusters[0]).mean() > 0.95)
    True
    """

    items = "points"
    allows_nan = True
    supervision = Supervision("item", "n_components", only_partial=True)
    constraints = (
        VARIANT_CONSTRAINTS
        | EMISSION_CONSTRAINTS
        | {
            "n_components": integer(1),
            "n_init": integer(1),
            "init_params": choice("kmeans", "k-means++", "random", "random_from_data"),
            "weights_prior": real(1.0),
        }
    )
    saved_as = SAVED_AS

    def __init__(
        self,
        n_components: int = 1,
        *,
        emission: Any = "gaussian",
        covariance_type: str = "full",
        algorithm: str = "em",
        tol: float = 1e-4,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        emission_init: Any = None,
        weights_prior: float = 1.0,
        emission_prior: Any = None,
        batch_size: int = 1024,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        reduce: str = "threads",
    ):
        self.n_components = n_components
        self.emission = emission
        self.covariance_type = covariance_type
        self.algorithm = algorithm
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.emission_init = emission_init
        self.weights_prior = weights_prior
        self.emission_prior = emission_prior
        self.batch_size = batch_size
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.reduce = reduce

    def build(self, n_features: int) -> Mixture:
        """A mixture over the emission."""
        emission = build_emission(self, self.n_components, n_features)
        given = given_emission(self, emission)
        if self.weights_init is not None:
            given["weights"] = as_probabilities("weights_init", self.weights_init, (self.n_components,))
        return Mixture(emission, self.init_params, given, float(self.weights_prior))

    def learn(self, model: Mixture, batches: Batches, generator: Any) -> History:
        """EM from several starts."""
        return em_from_starts(model, batches, generator, **em_settings(self))

    @property
    def weights_(self) -> np.ndarray:
        """The mixing proportions pi, of shape (K,)."""
        return as_array(self.model_.weights)
