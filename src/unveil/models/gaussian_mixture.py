"""The Gaussian mixture model: z ~ Categorical(pi), x | z = k ~ N(mu_k, Sigma_k)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unveil.core.constraints import as_covariances, as_probabilities, choice, integer, real
from unveil.core.criteria import CriteriaMixin
from unveil.core.estimator import Estimator, as_array
from unveil.core.history import History
from unveil.core.mixins import ClusterMixin, ImputeMixin
from unveil.core.model import Emission
from unveil.core.reading import Supervision
from unveil.data.batch import Batches
from unveil.kernels.gaussian import inverse
from unveil.learn.restarts import VARIANT_CONSTRAINTS, em_from_starts, em_settings
from unveil.learn.stochastic import PartialFitMixin
from unveil.models.emission_settings import GAUSSIAN_CONSTRAINTS, SAVED_AS, EmissionMaker, build_emission, given_emission
from unveil.models.finite_mixture import Mixture
from unveil.models.moment_diagnostics import MomentsMixin
from unveil.models.moment_mixtures import start_mixture


class GaussianMixture(MomentsMixin, ClusterMixin, ImputeMixin, CriteriaMixin, PartialFitMixin, Estimator):
    """Gaussian mixture, learned by maximum likelihood with EM.

    Each point has a hidden component z, and given it a normal density::

        z ~ Categorical(pi),   x | z = k ~ N(mu_k, Sigma_k).

    The E-step is two matrix products around a softmax, over pieces of the data that fit the cache; only sums leave it, so memory
    does not grow with the number of points, and data may be streamed from disk. NaN is a missing value: the likelihood is that of what
    is observed. A ``y`` in which some classes are known and the others -1 is learned from (semi-supervised); any other is ignored.

    Parameters
    ----------
    n_components : int
        K, the number of components.
    covariance_type : {"full", "tied", "diag", "spherical"}
        A matrix for each component; one matrix for all; variances; one variance for each component.
    algorithm : {"em", "hard-em", "stochastic-em"}
        Exact EM; classification EM, which gives each point to one component; or an M-step after every minibatch.
    tol : float
        EM stops when an iteration gains less than this, in nats per point.
    reg_covar : float
        No eigenvalue of a covariance falls below this, in squared units of the data. Healthy covariances are not changed by it.
    max_iter : int
        The most EM iterations.
    n_init : int
        The number of starts. Each is run shortly, and the best is finished.
    init_params : {"kmeans", "k-means++", "random", "random_from_data", "moments"}
        How a start is found. "moments": by the method of moments, which needs no luck where there are as many features as components
        (Hsu and Kakade, 2013); ``moments_`` then says how well the data determines them.
    weights_init : array of shape (K,), optional
    means_init : array of shape (K, D), optional
    precisions_init : array, shaped as ``precisions_``, optional
        Starting values that replace the ones found.
    weights_prior : float
        Concentration (at least 1) of a symmetric Dirichlet prior of the weights; learning then maximises the posterior.
    emission_prior : None, "conjugate" or NormalInverseWishart
        Prior of means and covariances. "conjugate" keeps a component from collapsing on a few points.
    batch_size : int
        Points in a minibatch of stochastic EM.
    random_state : int, RandomState or None
        Seeds the starts and the samples.
    warm_start : bool
        Whether ``fit`` goes on from the fitted parameters, where there are some.
    verbose : int
        1 shows the progress.
    verbose_interval : int
        How many iterations go by before the progress is shown again.
    reduce : {"threads", "serial"}
        Where the E-step runs: batches side by side on all cores, or one after the other.

    Attributes
    ----------
    weights_ : ndarray of shape (K,)
    means_ : ndarray of shape (K, D)
    covariances_, precisions_, precisions_cholesky_ : ndarray
        Of shape (K, D, D), (D, D), (K, D) or (K,) by ``covariance_type``.
    converged_ : bool
    n_iter_ : int
    lower_bound_ : float
        The mean log-likelihood per point at the end, in nats; ``lower_bounds_`` at each iteration.
    history_ : History

    References
    ----------
    Dempster, Laird and Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm.
    Hsu and Kakade (2013), Learning mixtures of spherical Gaussians: moment methods and spectral decompositions.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> mixture = GaussianMixture(n_components=2, random_state=0).fit(X)
    >>> sorted(mixture.means_[:, 0].round(6).tolist())
    [1.0, 10.0]
    """

    items = "points"
    allows_nan = True
    supervision = Supervision("item", "n_components", only_partial=True)
    constraints = (
        VARIANT_CONSTRAINTS
        | GAUSSIAN_CONSTRAINTS
        | {
            "n_components": integer(1),
            "n_init": integer(1),
            "verbose_interval": integer(1),
            "init_params": choice("kmeans", "k-means++", "random", "random_from_data", "moments"),
            "weights_prior": real(1.0),
        }
    )
    saved_as = SAVED_AS

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        algorithm: str = "em",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        weights_prior: float = 1.0,
        emission_prior: Any = None,
        batch_size: int = 1024,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        reduce: str = "threads",
    ):
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.algorithm = algorithm
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.weights_prior = weights_prior
        self.emission_prior = emission_prior
        self.batch_size = batch_size
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.reduce = reduce

    def build(self, n_features: int) -> Mixture:
        """A mixture of Gaussians."""
        emission = build_emission(self, self.n_components, n_features)
        start = None
        if self.init_params == "moments":
            start = partial(start_mixture, make_emission=EmissionMaker.of(self, n_features))
        return Mixture(emission, self.init_params, self._given(emission), float(self.weights_prior), start=start)

    def _given(self, emission: Emission) -> dict[str, Tensor]:
        """The user's starting values, checked."""
        given = given_emission(self, emission)
        if self.weights_init is not None:
            given["weights"] = as_probabilities("weights_init", self.weights_init, (self.n_components,))
        if self.precisions_init is not None:
            shape = emission.get_parameter("covariances").shape
            precisions = as_covariances("precisions_init", self.precisions_init, shape, self.covariance_type)
            given["covariances"] = inverse(precisions, self.covariance_type)
        return given

    def learn(self, model: Mixture, batches: Batches, generator: torch.Generator) -> History:
        """EM from several starts."""
        return em_from_starts(model, batches, generator, **em_settings(self))

    @property
    def weights_(self) -> np.ndarray:
        """The mixing proportions pi, of shape (K,)."""
        return as_array(self.model_.weights)

    @property
    def means_(self) -> np.ndarray:
        """The means, of shape (K, D)."""
        return as_array(self.model_.emission.means)

    @property
    def covariances_(self) -> np.ndarray:
        """The covariances, shaped by ``covariance_type``."""
        return as_array(self.model_.emission.covariances)

    @property
    def precisions_(self) -> np.ndarray:
        """The inverse covariances."""
        return as_array(inverse(self.model_.emission.covariances, self.covariance_type))

    @property
    def precisions_cholesky_(self) -> np.ndarray:
        """U with ``precision = U U'``: upper triangular, or the inverse standard deviations."""
        covariances = self.model_.emission.covariances.detach()
        if self.covariance_type in ("diag", "spherical"):
            return as_array(covariances.rsqrt())
        eye = torch.eye(covariances.shape[-1], dtype=covariances.dtype, device=covariances.device)
        return as_array(torch.linalg.solve_triangular(torch.linalg.cholesky(covariances), eye, upper=False).mT)

    @property
    def lower_bound_(self) -> float:
        """The last mean log-likelihood per point, in nats."""
        return self.history_.objective[-1]

    @property
    def lower_bounds_(self) -> list[float]:
        """The mean log-likelihood per point at each iteration, in nats."""
        return list(self.history_.objective)
