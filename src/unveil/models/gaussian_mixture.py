"""The Gaussian mixture model: z ~ Categorical(pi), x | z = k ~ N(mu_k, Sigma_k)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unveil.core.constraints import as_covariances, as_probabilities, as_shape, choice, integer, real
from unveil.core.estimator import ClusterMixin, Estimator, as_array
from unveil.core.history import History
from unveil.core.model import Emission, EMModel, Posterior
from unveil.core.statistics import ModelStatistics, Statistics
from unveil.data.batch import Batch, Batches
from unveil.emissions.gaussian import Gaussian
from unveil.errors import InputError
from unveil.kernels.gaussian import COVARIANCE_TYPES, inverse
from unveil.kernels.simplex import normalize, normalize_log_
from unveil.learn.restarts import EM_CONSTRAINTS, em_from_starts, em_settings
from unveil.models.starts import CENTER_SAMPLE, START_SAMPLE, assign_at_random, assign_by_kmeans, assign_by_seeds


@dataclass(frozen=True)
class MixtureStatistics(ModelStatistics):
    """Expected counts of the components, and what their densities need.

    Attributes
    ----------
    count : Tensor of shape (K,)
        sum_n p(z_n = k | x_n).
    emission : Statistics
        Of the component densities.
    """

    count: Tensor
    emission: Statistics


@dataclass(frozen=True)
class MixturePosterior(Posterior):
    """The posterior of a mixture.

    Attributes
    ----------
    responsibilities : Tensor of shape (n, K)
        p(z_n = k | x_n).
    """

    responsibilities: Tensor


class Mixture(EMModel):
    """A mixture of K densities: p(x) = sum_k pi_k p(x | z = k).

    Parameters
    ----------
    emission : Emission
        The component densities.
    init_params : {"kmeans", "k-means++", "random", "random_from_data"}
        How the first responsibilities are found.
    given : dict of str to Tensor
        Starting values that replace the ones found: ``weights``, ``means``, ``covariances``.
    """

    def __init__(self, emission: Emission, init_params: str = "kmeans", given: dict[str, Tensor] | None = None):
        super().__init__()
        self.emission = emission
        self.weights = nn.Parameter(torch.full((emission.n_components,), 1 / emission.n_components, dtype=torch.float64))
        self._init_params, self._given = init_params, given or {}

    def initialize(self, batches: Batches, generator: torch.Generator) -> None:
        """Fit the components to a first assignment of a sample of the data."""
        n_components = self.emission.n_components
        if batches.n_steps < n_components:
            raise InputError(
                f"n_components={n_components} but X has n_samples={batches.n_steps}; give more points or fewer components"
            )
        if self._given.keys() >= {"weights", "means", "covariances"}:
            values, weights, _ = batches.sample_steps(CENTER_SAMPLE, generator)
            self.emission.initialize(values, weights[:, None].expand(-1, n_components))
            self._take_given()
            return
        values, weights, _ = batches.sample_steps(START_SAMPLE, generator)
        assign = {
            "kmeans": assign_by_kmeans,
            "k-means++": partial(assign_by_seeds, spread=True),
            "random_from_data": partial(assign_by_seeds, spread=False),
            "random": assign_at_random,
        }[self._init_params]
        responsibilities = assign(values, weights, n_components, generator)
        self.emission.initialize(values, responsibilities)
        with torch.no_grad():
            self.weights.copy_(normalize(responsibilities.sum(0)))
        self._take_given()

    @torch.no_grad()
    def _take_given(self) -> None:
        """Replace what was found by what the user gave."""
        for name, value in self._given.items():
            owner = self if name == "weights" else self.emission
            getattr(owner, name).copy_(value)

    def objective(self, batch: Batch) -> Tensor:
        """log p(x) = log sum_k pi_k p(x | z = k)."""
        return torch.logsumexp(self._log_joint(batch), 1)

    def _log_joint(self, batch: Batch) -> Tensor:
        return self.emission.log_density(self.emission.features(batch.values)) + self.weights.log()

    @torch.no_grad()
    def expect(self, batch: Batch, *, evaluate: bool = True) -> MixtureStatistics:
        """r_nk = pi_k p(x_n | k) / p(x_n), and the moments under r; nothing of size n outlives the batch."""
        features = self.emission.features(batch.values)
        responsibilities = self.emission.log_density(features).add_(self.weights.log())
        log_likelihood = normalize_log_(responsibilities)
        if batch.weights is not None:
            weights = batch.weights.to(responsibilities)
            responsibilities *= weights[:, None]
            log_likelihood *= weights
        emission = self.emission.expect(features, responsibilities)
        return MixtureStatistics(batch.total_weight, float(log_likelihood.sum()), responsibilities.sum(0), emission)

    @torch.no_grad()
    def maximize(self, statistics: MixtureStatistics) -> None:
        """pi_k = count_k / sum of counts, and the components' own maximisers."""
        self.weights.copy_(normalize(statistics.count, self.weights))
        self.emission.maximize(statistics.emission)

    @torch.no_grad()
    def posterior(self, batch: Batch) -> MixturePosterior:
        """The responsibilities of the components for each point."""
        responsibilities = self._log_joint(batch)
        return MixturePosterior(normalize_log_(responsibilities), responsibilities)

    @torch.no_grad()
    def sample(self, n_sequences: int, length: int, generator: torch.Generator) -> Batch:
        """Points; every step of a sequence is independent."""
        classes = torch.multinomial(self.weights.cpu(), n_sequences * length, replacement=True, generator=generator)
        values = self.emission.sample(classes.to(self.weights.device), generator)
        return Batch(values, torch.arange(n_sequences + 1) * length, labels=classes)

    def count_parameters(self) -> int:
        """K - 1 weights, and the components' own."""
        return len(self.weights) - 1 + self.emission.count_parameters()


class GaussianMixture(ClusterMixin, Estimator):
    """Gaussian mixture, learned by maximum likelihood with EM.

    Each point has a hidden component z, and given it a normal density::

        z ~ Categorical(pi),   x | z = k ~ N(mu_k, Sigma_k).

    The E-step is two matrix products around a softmax, over pieces of the data that fit the cache; only sums leave it, so memory
    does not grow with the number of points, and data may be streamed from disk.

    Parameters
    ----------
    n_components : int
        K, the number of components.
    covariance_type : {"full", "tied", "diag", "spherical"}
        A matrix for each component; one matrix for all; variances; one variance for each component.
    tol : float
        EM stops when an iteration gains less than this, in nats per point.
    reg_covar : float
        No eigenvalue of a covariance falls below this, in squared units of the data. Healthy covariances are not changed by it.
    max_iter : int
        The most EM iterations.
    n_init : int
        The number of starts. Each is run shortly, and the best is finished.
    init_params : {"kmeans", "k-means++", "random", "random_from_data"}
        How a start is found.
    weights_init : array of shape (K,), optional
    means_init : array of shape (K, D), optional
    precisions_init : array, shaped as ``precisions_``, optional
        Starting values that replace the ones found.
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

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> mixture = GaussianMixture(n_components=2, random_state=0).fit(X)
    >>> sorted(mixture.means_[:, 0].round(6).tolist())
    [1.0, 10.0]
    """

    items = "points"
    constraints = EM_CONSTRAINTS | {
        "n_components": integer(1),
        "covariance_type": choice(*COVARIANCE_TYPES),
        "reg_covar": real(0.0),
        "n_init": integer(1),
        "verbose_interval": integer(1),
        "init_params": choice("kmeans", "k-means++", "random", "random_from_data"),
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        reduce: str = "threads",
    ):
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.reduce = reduce

    def build(self, n_features: int) -> Mixture:
        """A mixture of Gaussians."""
        emission = Gaussian(self.n_components, n_features, self.covariance_type, self.reg_covar)
        return Mixture(emission, self.init_params, self._given(emission))

    def _given(self, emission: Gaussian) -> dict[str, Tensor]:
        """The user's starting values, checked."""
        given = {}
        if self.weights_init is not None:
            given["weights"] = as_probabilities("weights_init", self.weights_init, (self.n_components,))
        if self.means_init is not None:
            given["means"] = as_shape("means_init", self.means_init, emission.means.shape)
        if self.precisions_init is not None:
            shape = emission.covariances.shape
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

    def bic(self, X: Any) -> float:
        """Bayesian information criterion on X (lower is better): -2 log p(X) + (number of parameters) log n."""
        log_likelihoods = self.score_samples(X)
        return float(-2 * log_likelihoods.sum() + self.model_.count_parameters() * np.log(len(log_likelihoods)))

    def aic(self, X: Any) -> float:
        """Akaike information criterion on X (lower is better): -2 log p(X) + 2 (number of parameters)."""
        return float(-2 * self.score_samples(X).sum() + 2 * self.model_.count_parameters())
