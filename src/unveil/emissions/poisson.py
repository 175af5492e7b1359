"""Poisson observations: columns of counts, with missing entries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unveil.core.constraints import real
from unveil.core.model import Emission, Imputes, Moments, Penalized
from unveil.core.statistics import Statistics
from unveil.emissions.columns import check_entries
from unveil.errors import ParameterError

_LOWEST = 1e-8  # no rate falls below it: a count that a class never gave stays possible


@dataclass(frozen=True)
class PoissonStatistics(Statistics):
    """What each class was counted to give, where something was observed.

    Attributes
    ----------
    first : Tensor of shape (K, D)
        sum_n r_nk x_nd.
    count : Tensor of shape (K, D)
        sum_n r_nk over the n whose column d was observed.
    """

    first: Tensor
    count: Tensor


class Poisson(Emission, Penalized, Imputes, Moments):
    """p(x | z = k) = prod_d exp(-lambda_kd) lambda_kd^x_d / x_d!, for columns of counts that are independent given the class.

    NaN is missing, and contributes nothing: since the columns are independent, that is exact.

    Parameters
    ----------
    n_components, n_features : int
        K and D.
    prior : (float, float), optional
        Shape a >= 1 and rate b >= 0 of a Gamma prior on each rate: as if each class had given a - 1 in b more observations.

    Attributes
    ----------
    rates : Parameter of shape (K, D)
        lambda_kd, the expected counts; at least 1e-8.

    References
    ----------
    Zucchini, MacDonald and Langrock (2016), Hidden Markov models for time series, chapter 2.

    Examples
    --------
    >>> calls = torch.tensor([[3.0], [5.0], [torch.nan]], dtype=torch.float64)
    >>> family = Poisson(n_components=1, n_features=1)
    >>> family.maximize(family.expect(family.features(calls), torch.ones(3, 1, dtype=torch.float64)))
    >>> family.rates.tolist()
    [[4.0]]
    """

    def __init__(self, n_components: int, n_features: int, prior: tuple[float, float] | None = None):
        super().__init__()
        self.n_components, self.n_features, self.prior = n_components, n_features, prior
        self._shape, self._rate = _checked(prior)
        self.rates = nn.Parameter(torch.ones(n_components, n_features, dtype=torch.float64))

    @torch.no_grad()
    def initialize(self, values: Tensor, responsibilities: Tensor) -> None:
        """Means in each class, with the mean of all of the data counted in once; where nothing was observed, that mean."""
        statistics = self.expect(self.features(values), responsibilities)
        overall = statistics.first.sum(0) / statistics.count.sum(0).clamp_min(1e-300)
        self.rates.copy_(((statistics.first + overall) / (statistics.count + 1)).clamp_min(_LOWEST))

    def features(self, values: Tensor) -> Tensor:
        """x, [x is observed], and sum_d log x_d!, of shape (n, 2 D + 1); zero where a value is missing."""
        observed = ~values.isnan()
        counts = torch.where(observed, values, 0.0).to(self.rates.dtype)
        whole = (counts >= 0) & (counts == counts.floor())
        check_entries(values, whole, "expected whole numbers from 0, or NaN; give counts, or take the column as gaussian")
        log_factorials = torch.lgamma(counts + 1).sum(1, keepdim=True)
        return torch.cat([counts.T, observed.T.to(counts.dtype), log_factorials.T]).T  # contiguous over the data

    def log_density(self, features: Tensor) -> Tensor:
        """The sum over observed columns of x_d log lambda_kd - lambda_kd - log x_d!, of shape (n, K)."""
        rates = self.rates.clamp_min(_LOWEST)
        natural = torch.cat([rates.log(), -rates, -torch.ones_like(rates[:, :1])], 1)
        return (natural @ features.T).T

    def expect(self, features: Tensor, responsibilities: Tensor) -> PoissonStatistics:
        """Weighted sums of the counts, and of how many there were."""
        sums = responsibilities.T.to(features.dtype) @ features[:, :-1]
        return PoissonStatistics(*sums.split(self.n_features, 1))

    @torch.no_grad()
    def maximize(self, statistics: PoissonStatistics) -> None:
        """lambda_kd = (first + a - 1) / (count + b), no less than the floor; a rate that no data speaks of stays."""
        alive = statistics.count > 0
        rates = (statistics.first + self._shape - 1) / torch.where(alive, statistics.count + self._rate, 1.0)
        self.rates.copy_(torch.where(alive, rates, self.rates).clamp_min(_LOWEST))

    def log_prior(self) -> float:
        """The sum of (a - 1) log lambda_kd - b lambda_kd."""
        rates = self.rates.detach().clamp_min(_LOWEST)
        return float(((self._shape - 1) * rates.log() - self._rate * rates).sum())

    @torch.no_grad()
    def sample(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """One row of counts for each class index, of shape (n, D)."""
        return torch.poisson(self.rates.cpu()[classes.cpu()], generator=generator).to(self.rates)

    def impute(self, values: Tensor, responsibilities: Tensor) -> Tensor:
        """The values with sum_k r_nk lambda_kd in place of NaN."""
        return torch.where(values.isnan(), responsibilities @ self.rates.detach(), values)

    def moments(self) -> tuple[Tensor, Tensor]:
        """lambda_kd, twice: the mean of a Poisson distribution is its variance."""
        return self.rates, self.rates

    def count_parameters(self) -> int:
        """K D rates."""
        return self.n_components * self.n_features


def _checked(prior: tuple[float, float] | None) -> tuple[float, float]:
    """Shape and rate of the Gamma prior; (1, 0) is flat."""
    if prior is None:
        return 1.0, 0.0
    try:
        shape, rate = prior
    except (TypeError, ValueError) as error:
        raise ParameterError(f"prior={prior!r}: expected None or the pair (shape, rate) of a Gamma distribution") from error
    real(1.0)("prior shape", shape)
    real(0.0)("prior rate", rate)
    return shape, rate
