"""Information criteria: how well a fitted model explains data, less a price for its size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unveil.core.mixins import ClusterMixin
from unveil.data.batch import Batch
from unveil.errors import ParameterError


@dataclass(frozen=True)
class InformationCriteria:
    """The criteria of one fitted model on one data set; of each, lower is better.

    Attributes
    ----------
    log_likelihood : float
        log p(x) of all data, or the bound on it that the model has, in nats.
    complete_log_likelihood : float
        log p(x, z) at the most probable latent values z, in nats; NaN for a model that does not find them.
    n_parameters : int
        The number of free scalars.
    n_steps : float
        The (weighted) number of points, or of steps in all sequences together.

    Examples
    --------
    >>> found = InformationCriteria(log_likelihood=-100.0, complete_log_likelihood=-101.0, n_parameters=3, n_steps=50)
    >>> round(found.bic, 2), found.aic, round(found.icl, 2)
    (211.74, 206.0, 213.74)
    """

    log_likelihood: float
    complete_log_likelihood: float
    n_parameters: int
    n_steps: float

    @property
    def bic(self) -> float:
        """-2 log p(x) + n_parameters log n_steps."""
        return -2 * self.log_likelihood + self.n_parameters * math.log(self.n_steps)

    @property
    def aic(self) -> float:
        """-2 log p(x) + 2 n_parameters."""
        return -2 * self.log_likelihood + 2 * self.n_parameters

    @property
    def icl(self) -> float:
        """-2 log p(x, z) + n_parameters log n_steps."""
        return -2 * self.complete_log_likelihood + self.n_parameters * math.log(self.n_steps)


def information_criteria(estimator: Any, X: Any, lengths: Any = None) -> InformationCriteria:
    """All criteria of a fitted estimator whose model counts its parameters.

    Raises
    ------
    ParameterError
        When the number of the model's parameters is not defined.
    """
    model = estimator._fitted_model()
    if not hasattr(model, "count_parameters"):
        name = type(estimator).__name__
        raise ParameterError(f"{name} does not count its parameters, so it has no BIC, AIC or ICL; compare held-out scores instead")
    n_steps, log_likelihood = _weighted_sums(estimator, X, lengths, model.objective)
    complete = math.nan
    if isinstance(estimator, ClusterMixin):
        complete = _weighted_sums(estimator, X, lengths, lambda batch: _log_joint_of_cluster(model, batch))[1]
    elif hasattr(model, "viterbi"):
        complete = _weighted_sums(estimator, X, lengths, lambda batch: model.viterbi(batch)[1])[1]
    return InformationCriteria(log_likelihood, complete, model.count_parameters(), n_steps)


def _log_joint_of_cluster(model: Any, batch: Batch) -> Tensor:
    """log p(x, z) = log p(x) + log p(z | x) at the most probable cluster z of each item, of shape (n_items,)."""
    posterior = model.posterior(batch)
    return posterior.log_likelihood + posterior.responsibilities.amax(1).log()


def _weighted_sums(estimator: Any, X: Any, lengths: Any, per_item: Any) -> tuple[float, float]:
    """The number of steps, and the sum of a function over the items, each counted as often as its weight says."""

    def sums(batch: Batch) -> Tensor:
        values = per_item(batch).double()
        total = values.sum() if batch.weights is None else values @ batch.weights.to(values)
        return torch.stack([total.new_tensor(batch.total_weight), total])[None]

    of_batches, _ = estimator._map(X, lengths, sums)
    n_steps, total = of_batches.sum(0).tolist()
    return n_steps, total


class CriteriaMixin:
    """For estimators whose model counts its parameters: criteria to choose between fitted models, lower is better.

    References
    ----------
    Schwarz (1978), Estimating the dimension of a model. Akaike (1974), A new look at the statistical model identification.
    Biernacki, Celeux and Govaert (2000), Assessing a mixture model for clustering with the integrated completed likelihood.
    """

    def bic(self, X: Any, *, lengths: Any = None) -> float:
        """Bayesian information criterion on X: ``-2 log p(X) + n_parameters log n``.

        n is the number of points; for sequences, that of the steps in all of them together.
        """
        return information_criteria(self, X, lengths).bic

    def aic(self, X: Any, *, lengths: Any = None) -> float:
        """Akaike information criterion on X: ``-2 log p(X) + 2 n_parameters``."""
        return information_criteria(self, X, lengths).aic

    def icl(self, X: Any, *, lengths: Any = None) -> float:
        """Integrated complete likelihood on X: ``-2 log p(X, z) + n_parameters log n``, which prefers latent values that are certain.

        z are the most probable latent values: the cluster of each item for a model that clusters, the path of states (Viterbi) for a
        hidden Markov model. n is as in ``bic``.

        Raises
        ------
        ParameterError
            When the model does not find the most probable latent values.
        """
        found = information_criteria(self, X, lengths)
        if math.isnan(found.complete_log_likelihood):
            raise ParameterError(f"{type(self).__name__} has no most probable latent values, so no ICL; use bic or aic")
        return found.icl
