"""Mixtures of probabilistic principal components or factor analysers: clusters that are flat, each in its own directions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from torch import Tensor

from unveil.core.constraints import as_probabilities, as_shape, choice, integer, real
from unveil.core.criteria import CriteriaMixin
from unveil.core.estimator import Estimator, as_array
from unveil.core.history import History
from unveil.core.mixins import ClusterMixin, ImputeMixin
from unveil.core.reading import Supervision
from unveil.data.batch import Batch, Batches
from unveil.emissions.low_rank_gaussian import NOISES, LowRankGaussian
from unveil.errors import InputError
from unveil.learn.restarts import VARIANT_CONSTRAINTS, em_from_starts, em_settings
from unveil.learn.stochastic import PartialFitMixin
from unveil.models.finite_mixture import Mixture


class MixtureOfPPCA(
    ClusterMixin, ImputeMixin, CriteriaMixin, PartialFitMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, Estimator
):
    """Mixture of probabilistic principal component analysers, or of factor analysers, learned with EM; NaN is a missing value.

    Each point has a cluster, and given it is a linear function of a few latent variables, and noise::

        c ~ Categorical(pi),   z ~ N(0, I_q),   x | c = k, z ~ N(W_k z + mu_k, Psi_k),

    so ``x | c = k ~ N(mu_k, W_k W_k' + Psi_k)``: between the spherical clusters of k-means and the full covariances of a Gaussian
    mixture, with about ``q D`` numbers for each cluster instead of ``D^2 / 2``. Only c is a latent variable of EM; z is integrated
    out, and the M-step is in closed form. A ``y`` in which some clusters are known and the others -1 is learned from; any other is
    ignored.

    Parameters
    ----------
    n_clusters : int
        K, the number of clusters.
    n_components : int
        q, the number of latent variables; at most the number of features.
    noise : {"isotropic", "diagonal"}
        One noise variance for each cluster, or one for each feature in it: a mixture of PPCA, or of factor analysers.
    algorithm : {"em", "hard-em", "stochastic-em"}
        Exact EM; classification EM, which gives each point to one cluster; or an M-step after every minibatch.
    tol : float
        EM stops when an iteration gains less than this, in nats per point.
    noise_floor : float
        No noise variance falls below this fraction of the variance of all data: of its feature's, or of the mean of all features'.
    max_iter : int
        The most EM iterations.
    n_init : int
        The number of starts. Each is run shortly, and the best is finished.
    init_params : {"kmeans", "k-means++", "random", "random_from_data"}
        How a start is found.
    weights_init : array of shape (K,), optional
    means_init : array of shape (K, D), optional
        Starting values that replace the ones found.
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
    means_ : ndarray of shape (K, D)
    components_ : ndarray of shape (K, q, D)
        W_k': orthogonal rows (in units of the noise), in descending order of the variance that they explain.
    noise_variances_ : ndarray of shape (K,) or (K, D)
    covariances_ : ndarray of shape (K, D, D)
        ``W_k W_k' + Psi_k``.
    converged_ : bool
    n_iter_ : int
    history_ : History

    References
    ----------
    Tipping and Bishop (1999), Mixtures of probabilistic principal component analyzers. Ghahramani and Hinton (1996), The EM algorithm
    for mixtures of factor analyzers.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> t = rng.normal(size=(200, 1))
    >>> X = np.concatenate([t[:100] * [1, 1, 0], t[100:] * [1, -1, 0]]) + 0.01 * rng.normal(size=(200, 3))  # two crossing lines
    >>> labels = MixtureOfPPCA(n_clusters=2, n_components=1, n_init=5, random_state=0).fit_predict(X)
    >>> bool((labels[:100] == labels[0]).mean() > 0.95 and (labels[100:] != labels[0]).mean() > 0.95)
    True
    """

    items = "points"
    allows_nan = True
    covariance_type = "full"  # how ``covariances_`` are shaped
    supervision = Supervision("item", "n_clusters", only_partial=True)
    constraints = VARIANT_CONSTRAINTS | {
        "n_clusters": integer(1),
        "n_components": integer(1),
        "noise": choice(*NOISES),
        "noise_floor": real(0.0, 1.0, open_below=True),
        "n_init": integer(1),
        "init_params": choice("kmeans", "k-means++", "random", "random_from_data"),
    }

    def __init__(
        self,
        n_clusters: int = 1,
        n_components: int = 2,
        *,
        noise: str = "isotropic",
        algorithm: str = "em",
        tol: float = 1e-4,
        noise_floor: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        batch_size: int = 1024,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        reduce: str = "threads",
    ):
        self.n_clusters = n_clusters
        self.n_components = n_components
        self.noise = noise
        self.algorithm = algorithm
        self.tol = tol
        self.noise_floor = noise_floor
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.batch_size = batch_size
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.reduce = reduce

    def build(self, n_features: int) -> Mixture:
        """A mixture over normal densities of low rank."""
        emission = LowRankGaussian(self.n_clusters, n_features, self.n_components, self.noise, self.noise_floor)
        given = {}
        if self.weights_init is not None:
            given["weights"] = as_probabilities("weights_init", self.weights_init, (self.n_clusters,))
        if self.means_init is not None:
            given["means"] = as_shape("means_init", self.means_init, (self.n_clusters, n_features))
        return Mixture(emission, self.init_params, given)

    def learn(self, model: Mixture, batches: Batches, generator: torch.Generator) -> History:
        """EM from several starts."""
        if batches.n_steps < self.n_clusters:
            raise InputError(
                f"n_clusters={self.n_clusters} but X has n_samples={batches.n_steps}; give more points or fewer clusters"
            )
        return em_from_starts(model, batches, generator, **em_settings(self))

    def transform(self, X: Any) -> Any:
        """E[z | x, c] of each point in its most probable cluster c, of shape (n, q); axes are that cluster's own."""
        factors, layout = self._map(X, None, self._factors)
        return layout.per_item(factors)

    def _factors(self, batch: Batch) -> Tensor:
        emission, best = self.model_.emission, self.model_.posterior(batch).responsibilities.argmax(1)
        of_clusters = torch.stack([emission.factors(batch.values, k)[0] for k in range(self.n_clusters)])
        return of_clusters[best, torch.arange(len(best), device=best.device)]

    @property
    def weights_(self) -> np.ndarray:
        """The mixing proportions pi, of shape (K,)."""
        return as_array(self.model_.weights)

    @property
    def means_(self) -> np.ndarray:
        """The means, of shape (K, D)."""
        return as_array(self.model_.emission.means)

    @property
    def components_(self) -> np.ndarray:
        """The loadings W_k', of shape (K, q, D)."""
        return as_array(self.model_.emission.loadings.mT)

    @property
    def noise_variances_(self) -> np.ndarray:
        """The noise variances, of shape (K,) or (K, D)."""
        return as_array(self.model_.emission.noise_variances)

    @property
    def covariances_(self) -> np.ndarray:
        """The covariances ``W_k W_k' + Psi_k``, of shape (K, D, D)."""
        return as_array(torch.stack([self.model_.emission.covariance_of(k) for k in range(self.n_clusters)]))

    @property
    def _n_features_out(self) -> int:
        return self.n_components
