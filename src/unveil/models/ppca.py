"""Probabilistic principal components and factor analysis: x = W z + mu + e, with z ~ N(0, I) of few dimensions."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from torch import Tensor

from unveil.core.constraints import as_shape, choice, integer, real
from unveil.core.criteria import CriteriaMixin
from unveil.core.estimator import Estimator, as_array
from unveil.core.history import History
from unveil.core.mixins import ImputeMixin
from unveil.data.batch import Batch, Batches, MemoryRows
from unveil.emissions.low_rank_gaussian import (
    NOISES,
    LowRankGaussian,
    MomentStatistics,
    center_near,
    column_moments,
    complete_moments,
)
from unveil.errors import InputError, ParameterError
from unveil.learn.reduce import REDUCTIONS, Reduce
from unveil.learn.restarts import EM_CONSTRAINTS, em_from_starts, em_settings
from unveil.models.finite_mixture import Mixture
from unveil.models.starts import CENTER_SAMPLE


class PPCA(ImputeMixin, CriteriaMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, Estimator):
    """Probabilistic principal component analysis, or factor analysis, by maximum likelihood; NaN is a missing value.

    Each point is a linear function of a few latent variables, and noise::

        z ~ N(0, I_q),   x | z ~ N(W z + mu, Psi),   so   x ~ N(mu, W W' + Psi),

    where Psi is ``sigma^2 I`` (probabilistic PCA: the columns of W span the principal subspace) or ``diag(psi)`` (factor analysis).

    Without missing values the likelihood depends on the data through its mean and covariance only: these are streamed once, and all
    else is work on one D x D matrix. Probabilistic PCA is then solved in closed form. With missing values, EM takes in each row the
    expectations of what is missing given what is observed, so nothing is imputed beforehand, and a row that is missing altogether
    changes nothing.

    Parameters
    ----------
    n_components : int
        q, the number of latent variables; at most the number of features.
    noise : {"isotropic", "diagonal"}
        One noise variance for all features, or one for each: probabilistic PCA, or factor analysis.
    method : {"auto", "closed-form", "em"}
        "closed-form" refuses data that has none: with missing values, or diagonal noise. "em" goes through the points in every
        iteration. "auto" does that only where values are missing.
    tol : float
        EM stops when an iteration gains less than this, in nats per point.
    noise_floor : float
        No noise variance falls below this fraction of the variance of the data: of its feature's, or of the mean of all features'.
    max_iter : int
        The most EM iterations.
    noise_variance_init : array, shaped as ``noise_variance_``, optional
        Starting value of EM, that replaces the one found.
    random_state : int, RandomState or None
        Seeds the samples, and the choice of points for a start where there are very many.
    warm_start : bool
        Whether ``fit`` goes on from the fitted parameters, where there are some.
    verbose : int
        1 shows the progress.
    reduce : {"threads", "serial"}
        Where the data is gone through: batches side by side on all cores, or one after the other.

    Attributes
    ----------
    components_ : ndarray of shape (q, D)
        W': its rows are orthogonal (in units of the noise), and in descending order of the variance that they explain. A row divided
        by its length is a principal axis.
    mean_ : ndarray of shape (D,)
    noise_variance_ : ndarray of shape () or (D,)
        sigma^2 or psi, in squared units of the data.
    explained_variance_ : ndarray of shape (q,)
        See there; ``explained_variance_ratio_`` is the share of the total variance.
    converged_ : bool
    n_iter_ : int
    history_ : History

    References
    ----------
    Tipping and Bishop (1999), Probabilistic principal component analysis. Zhao, Yu and Jiang (2008), ML estimation for factor analysis:
    EM or non-EM?

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(500, 1)) * [3.0, 2.0, 1.0] + 0.1 * rng.normal(size=(500, 3))
    >>> ppca = PPCA(n_components=1).fit(X)
    >>> (ppca.components_ / ppca.components_[0, 2]).round(1).tolist()
    [[3.0, 2.0, 1.0]]
    >>> ppca.impute([[6.0, np.nan, 2.0]]).round(1).tolist()
    [[6.0, 4.0, 2.0]]
    """

    items = "points"
    allows_nan = True
    constraints = EM_CONSTRAINTS | {
        "n_components": integer(1),
        "noise": choice(*NOISES),
        "method": choice("auto", "closed-form", "em"),
        "noise_floor": real(0.0, 1.0, open_below=True),
    }

    def __init__(
        self,
        n_components: int = 2,
        *,
        noise: str = "isotropic",
        method: str = "auto",
        tol: float = 1e-6,
        noise_floor: float = 1e-6,
        max_iter: int = 1000,
        noise_variance_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        reduce: str = "threads",
    ):
        self.n_components = n_components
        self.noise = noise
        self.method = method
        self.tol = tol
        self.noise_floor = noise_floor
        self.max_iter = max_iter
        self.noise_variance_init = noise_variance_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.reduce = reduce

    def build(self, n_features: int) -> Mixture:
        """A mixture of one."""
        emission = LowRankGaussian(1, n_features, self.n_components, self.noise, self.noise_floor)
        given = {}
        if self.noise_variance_init is not None:
            start = as_shape("noise_variance_init", self.noise_variance_init, emission.noise_variances.shape[1:])
            if (start <= 0).any():
                raise ParameterError("noise_variance_init holds a number that is not positive; expected positive ones")
            given["noise_variances"] = start[None]
        return Mixture(emission, "random", given)

    def learn(self, model: Mixture, batches: Batches, generator: torch.Generator) -> History:
        """EM: over points that have the moments of the data where it is complete, which is soon done; else over the data."""
        if self.method == "closed-form" and self.noise != "isotropic":
            raise ParameterError("method='closed-form' needs noise='isotropic': factor analysis has no closed form; use 'auto'")
        if self.method != "em":
            moments = streamed_moments(batches, generator, REDUCTIONS[self.reduce])
            if moments is not None:
                batches = points_of_equal_moments(moments)
            elif self.method == "closed-form":
                raise InputError("X contains NaN, for which there is no closed form; use method='auto', or fill or drop the rows")
        return em_from_starts(model, batches, generator, **em_settings(self))

    def transform(self, X: Any) -> Any:
        """E[z | x] of each point, of shape (n, q); of the observed entries where some are missing."""
        return self.posterior(X)[0]

    def posterior(self, X: Any) -> tuple[Any, Any]:
        """The normal distribution of z given each point, or what is observed of it: its mean (n, q) and covariance (n, q, q)."""
        joined, layout = self._map(X, None, self._factors)
        q = self.n_components
        return layout.per_item(joined[:, :q]), layout.per_item(joined[:, q:].unflatten(1, (q, q)))

    def _factors(self, batch: Batch) -> Tensor:
        mean, covariance = self.model_.emission.factors(batch.values, 0)
        return torch.cat([mean, covariance.flatten(1)], 1)

    def inverse_transform(self, Z: Any) -> np.ndarray:
        """The points (n, D) that latent variables (n, q) stand for: W z + mu."""
        return np.asarray(Z) @ self.components_ + self.mean_

    def get_covariance(self) -> np.ndarray:
        """The covariance of the model, W W' + Psi, of shape (D, D)."""
        return as_array(self._fitted_model().emission.covariance_of(0))

    @property
    def components_(self) -> np.ndarray:
        """The loadings W', of shape (q, D)."""
        return as_array(self.model_.emission.loadings[0].T)

    @property
    def mean_(self) -> np.ndarray:
        """The mean mu, of shape (D,)."""
        return as_array(self.model_.emission.means[0])

    @property
    def noise_variance_(self) -> np.ndarray:
        """The noise variance sigma^2, of shape (), or psi, of shape (D,)."""
        return as_array(self.model_.emission.noise_variances[0])

    @property
    def explained_variance_(self) -> np.ndarray:
        """The variance that each component explains, of shape (q,), in squared units of the data.

        With isotropic noise it is that of the data along the principal axis, noise included: the eigenvalue of the covariance. With
        diagonal noise it is the variance that the features share, the sum of squared loadings.
        """
        shared = np.square(self.components_).sum(1)
        return shared + self.noise_variance_ if self.noise == "isotropic" else shared

    @property
    def explained_variance_ratio_(self) -> np.ndarray:
        """``explained_variance_`` as shares of the total variance of the model, of shape (q,)."""
        return self.explained_variance_ / np.trace(self.get_covariance())

    @property
    def _n_features_out(self) -> int:
        return self.n_components


def streamed_moments(batches: Batches, generator: torch.Generator, reduce: Reduce) -> MomentStatistics | None:
    """The weighted count, sum and second moments of the points about a centre near their mean; None where there is a NaN."""
    values, weights, _ = batches.sample_steps(CENTER_SAMPLE, generator)
    center = center_near(*column_moments(values, weights))
    moments = reduce(partial(_moments_of_batch, center=center), batches)
    return None if bool(moments.first.isnan().any()) else moments


def _moments_of_batch(batch: Batch, center: Tensor) -> MomentStatistics:
    y = (batch.values.to(center.dtype) - center).contiguous()
    if batch.weights is not None:
        return complete_moments(y, batch.weights.to(y)[:, None], center)
    count = y.new_full((1,), len(y))
    return MomentStatistics(count, y.sum(0, keepdim=True), (y.T @ y)[None], center)


def points_of_equal_moments(moments: MomentStatistics) -> Batches:
    """2 D weighted points with the same total weight, mean and covariance, and so the same likelihood under any Gaussian.

    For eigenvalues l_d and eigenvectors u_d of the covariance they are ``mean +- sqrt(D l_d) u_d``.
    """
    count, first, second = moments.count[0], moments.first[0], moments.second[0]
    mean = first / count
    covariance = second / count - mean[:, None] * mean
    if not bool(covariance.isfinite().all()):
        raise InputError("a covariance overflows: the squares of X are too large for its numbers; rescale X")
    variances, directions = torch.linalg.eigh(covariance)
    steps = (directions * (variances.clamp_min(0) * len(mean)).sqrt()).T
    points = moments.center + mean + torch.cat([steps, -steps])
    return Batches(MemoryRows(points), weights=(count / len(points)).expand(len(points)).cpu().numpy())
