"""The Gaussian mixture Bayes classifier: y ~ Categorical(pi), x | y = c a Gaussian mixture, and y may be hidden too."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from unveil.core.constraints import integer
from unveil.core.estimator import Estimator, as_array
from unveil.core.history import History
from unveil.core.mixins import ClassifyMixin, ImputeMixin
from unveil.core.reading import Supervision
from unveil.data.batch import Batch, Batches
from unveil.learn.restarts import VARIANT_CONSTRAINTS, em_from_starts, em_settings
from unveil.models.emission_settings import GAUSSIAN_CONSTRAINTS, SAVED_AS, build_emission
from unveil.models.finite_mixture import Mixture


class GaussianMixtureClassifier(ClassifyMixin, ImputeMixin, Estimator):
    """Bayes classifier whose classes are Gaussian mixtures, learned with or without unlabelled points.

    Each point has a class, a component of that class, and given it a normal density::

        y ~ Categorical(pi),   z | y = c ~ Categorical(w_c),   x | y = c, z = k ~ N(mu_ck, Sigma_ck).

    A class of -1 in ``y`` is unknown: such points are learned from as well, by EM over their classes (semi-supervised learning).
    The classifier knows what is unlike everything it has seen: ``score_samples`` is log p(x), low for outliers.

    Parameters
    ----------
    n_components : int
        Components of each class.
    covariance_type : {"full", "tied", "diag", "spherical"}
        A matrix for each component; one matrix for all of all classes; variances; one variance for each component.
    algorithm : {"em", "hard-em", "stochastic-em"}
        Exact EM; each point wholly to one component; or an M-step after every minibatch.
    tol : float
        EM stops when an iteration gains less than this, in nats per point.
    reg_covar : float
        No eigenvalue of a covariance falls below this, in squared units of the data.
    max_iter : int
        The most EM iterations.
    n_init : int
        The number of starts. Each is run shortly, and the best is finished.
    emission_prior : None, "conjugate" or NormalInverseWishart
        Prior of means and covariances, for classes with few points.
    batch_size : int
        Points in a minibatch of stochastic EM.
    random_state : int, RandomState or None
        Seeds the starts and the samples.
    warm_start : bool
        Whether ``fit`` goes on from the fitted parameters, where there are some.
    verbose : int
        1 shows the progress.
    reduce : {"threads", "serial"}
        Where the E-step runs.

    Attributes
    ----------
    classes_ : ndarray of shape (C,)
        The classes in ``y``, sorted.
    class_prior_ : ndarray of shape (C,)
        pi.
    means_ : ndarray of shape (C, n_components, D)
    history_ : History

    References
    ----------
    Hastie and Tibshirani (1996), Discriminant analysis by Gaussian mixtures. Nigam et al. (2000), Text classification from labeled and
    unlabeled documents using EM.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 2)) + np.repeat([[0.0], [6.0]], 100, axis=0)
    >>> y = np.full(200, -1)
    >>> y[:3], y[-3:] = 0, 1  # three labels of each class
    >>> classifier = GaussianMixtureClassifier(random_state=0).fit(X, y)
    >>> bool((classifier.predict(X) == np.repeat([0, 1], 100)).mean() > 0.99)
    True
    >>> bool(classifier.score_samples([[50.0, 50.0]])[0] < classifier.score_samples(X).min())
    True
    """

    items = "points"
    allows_nan = True
    supervision = Supervision("item", "")
    constraints = VARIANT_CONSTRAINTS | GAUSSIAN_CONSTRAINTS | {"n_components": integer(1), "n_init": integer(1)}
    saved_as = SAVED_AS

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        algorithm: str = "em",
        tol: float = 1e-4,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        emission_prior: Any = None,
        batch_size: int = 1024,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        reduce: str = "threads",
    ):
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.algorithm = algorithm
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.emission_prior = emission_prior
        self.batch_size = batch_size
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.reduce = reduce

    def build(self, n_features: int) -> Mixture:
        """One mixture of the components of all classes, in which a label leaves those of its class."""
        classes = torch.arange(len(self.classes_)).repeat_interleave(self.n_components)
        return Mixture(build_emission(self, len(classes), n_features), classes=classes)

    def learn(self, model: Mixture, batches: Batches, generator: torch.Generator) -> History:
        """EM from several starts."""
        return em_from_starts(model, batches, generator, **em_settings(self))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each point, of shape (n,)."""
        best, _ = self._map(X, None, lambda batch: self._class_posterior(batch).argmax(1))
        return self.classes_[as_array(best)]

    def predict_proba(self, X: Any) -> Any:
        """p(y = c | x), of shape (n, C)."""
        probabilities, layout = self._map(X, None, self._class_posterior)
        return layout.per_item(probabilities)

    def _class_posterior(self, batch: Batch) -> torch.Tensor:
        return self.model_.posterior(batch).responsibilities.unflatten(1, (len(self.classes_), -1)).sum(2)

    @property
    def class_prior_(self) -> np.ndarray:
        """The class probabilities pi, of shape (C,)."""
        return as_array(self.model_.weights).reshape(len(self.classes_), -1).sum(1)

    @property
    def means_(self) -> np.ndarray:
        """The means of the components, of shape (C, n_components, D)."""
        means = as_array(self.model_.emission.means)
        return means.reshape(len(self.classes_), self.n_components, -1)
