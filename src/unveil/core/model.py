"""What a model is: a distribution with latent variables. How it is learned is not its concern."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unveil.core.statistics import ModelStatistics, Statistics
from unveil.data.batch import Batch, Batches


@dataclass(frozen=True)
class Posterior:
    """What a model says of the latent variables of a batch; subclasses give one formula for each field.

    Attributes
    ----------
    log_likelihood : Tensor of shape (n_sequences,)
        log p(x), or the lower bound on it, in nats.
    """

    log_likelihood: Tensor


class Model(nn.Module, ABC):
    """A distribution over sequences, with latent variables."""

    @abstractmethod
    def initialize(self, batches: Batches, generator: torch.Generator) -> None:
        """Choose starting parameters from the data; with another state of the generator, other ones."""

    @abstractmethod
    def sample(self, n_sequences: int, length: int, generator: torch.Generator) -> Batch:
        """Draw sequences of one length; the batch's labels are the latent classes, where the model has them."""


class LikelihoodModel(Model):
    """A model that can tell how likely data is."""

    @abstractmethod
    def objective(self, batch: Batch) -> Tensor:
        """log p(x) of each sequence, or a lower bound on it, in nats; differentiable. Shape (n_sequences,)."""


class EMModel(LikelihoodModel):
    """A model whose E-step makes additive statistics and whose M-step needs nothing else.

    After ``expect`` over any division of the data into batches, the sum of the statistics is the same, and
    ``maximize`` of that sum does not lower the objective.
    """

    @abstractmethod
    def expect(self, batch: Batch, *, evaluate: bool = True) -> ModelStatistics:
        """The E-step: expected sufficient statistics of a batch.

        A model for which the objective costs extra may leave it out (NaN) when ``evaluate`` is False.
        """

    @abstractmethod
    def maximize(self, statistics: ModelStatistics) -> None:
        """The M-step: set the parameters to the maximiser of the expected complete-data log-likelihood."""

    @abstractmethod
    def posterior(self, batch: Batch) -> Posterior:
        """The distribution of the latent variables given the batch."""


class HardEMModel(EMModel):
    """A model that can also be learned by hard EM: classification EM for mixtures, Viterbi training for chains."""

    @abstractmethod
    def assign(self, batch: Batch) -> ModelStatistics:
        """The hard E-step: statistics of the most probable latent values z, with log p(x, z) as the log-likelihood."""


class Penalized(ABC):
    """A model, or a part of one, whose parameters have a prior: learning maximises the posterior."""

    @abstractmethod
    def log_prior(self) -> float:
        """log p(parameters), up to a constant; 0 for a flat prior."""


def log_prior_of(part: object) -> float:
    """The log prior of a model or emission; 0 for one that has none."""
    return part.log_prior() if isinstance(part, Penalized) else 0.0


class Imputes(ABC):
    """An emission that takes NaN as missing, and says what it expects there."""

    @abstractmethod
    def impute(self, values: Tensor, responsibilities: Tensor) -> Tensor:
        """The values (n, D) with E[missing | observed] under responsibilities (n, K) in place of NaN."""


class Moments(ABC):
    """An emission whose observations have means and variances."""

    @abstractmethod
    def moments(self) -> tuple[Tensor, Tensor]:
        """E[x | z = k] and Var[x_d | z = k], both of shape (K, D)."""


class Emission(nn.Module, ABC):
    """A family of observation densities, one for each latent class: p(x | z = k), k = 0 .. K - 1.

    ``features`` is computed once for a batch and handed to both ``log_density`` and ``expect``, so an exponential family does
    its E-step in two matrix products around the posterior. One that has many features for each step says how many in ``n_statistics``,
    and gets smaller batches.
    """

    n_components: int
    n_features: int
    n_statistics: int | None = None

    @abstractmethod
    def initialize(self, values: Tensor, responsibilities: Tensor) -> None:
        """Fit to values (n, D) softly assigned to the classes by non-negative responsibilities (n, K)."""

    @abstractmethod
    def features(self, values: Tensor) -> Tensor:
        """What the density depends on, of shape (n, n_statistics), from values of shape (n, n_features)."""

    @abstractmethod
    def log_density(self, features: Tensor) -> Tensor:
        """log p(x | z = k) in nats, of shape (n, K)."""

    @abstractmethod
    def expect(self, features: Tensor, responsibilities: Tensor) -> Statistics:
        """Expected sufficient statistics under responsibilities of shape (n, K)."""

    @abstractmethod
    def maximize(self, statistics: Statistics) -> None:
        """Set the parameters to the maximiser; a class without data keeps its parameters."""

    @abstractmethod
    def sample(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """One observation for each class in ``classes`` (n,), of shape (n, D)."""

    @abstractmethod
    def count_parameters(self) -> int:
        """The number of free scalars, for information criteria."""
