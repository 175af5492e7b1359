"""Bernoulli observations: columns of zeros and ones, with missing entries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unveil.core.constraints import real
from unveil.core.model import Emission, Imputes, Moments, Penalized
from unveil.core.statistics import Statistics
from unveil.emissions.columns import check_entries


@dataclass(frozen=True)
class BernoulliStatistics(Statistics):
    """How often each class gives a one, and a zero, where something was observed.

    Attributes
    ----------
    ones, zeros : Tensor of shape (K, D)
        sum_n r_nk [x_nd = 1], and the same for 0.
    """

    ones: Tensor
    zeros: Tensor


class Bernoulli(Emission, Penalized, Imputes, Moments):
    """p(x | z = k) = prod_d mu_kd^x_d (1 - mu_kd)^(1 - x_d), for columns of 0 and 1 that are independent given the class.

    NaN is missing, and contributes nothing: since the columns are independent, that is exact.

    Parameters
    ----------
    n_components, n_features : int
        K and D.
    prior : float
        At least 1: a Beta(prior, prior) prior on each mean. 1 is flat (maximum likelihood); with more, each class counts as if
        it had given ``prior - 1`` ones and as many zeros more. A mean that is exactly 0 or 1 is not subject to it: it stays.

    Attributes
    ----------
    means : Parameter of shape (K, D)
        mu_kd = p(x_d = 1 | z = k).

    References
    ----------
    Bishop (2006), Pattern recognition and machine learning, section 9.3.3.

    Examples
    --------
    >>> answers = torch.tensor([[1.0, 0.0], [1.0, torch.nan], [0.0, 0.0]], dtype=torch.float64)
    >>> family = Bernoulli(n_components=1, n_features=2, prior=2.0)
    >>> family.maximize(family.expect(family.features(answers), torch.ones(3, 1, dtype=torch.float64)))
    >>> family.means.tolist()
    [[0.6, 0.25]]
    """

    def __init__(self, n_components: int, n_features: int, prior: float = 1.0):
        super().__init__()
        real(1.0)("prior", prior)
        self.n_components, self.n_features, self.prior = n_components, n_features, prior
        self.means = nn.Parameter(torch.full((n_components, n_features), 0.5, dtype=torch.float64))

    @torch.no_grad()
    def initialize(self, values: Tensor, responsibilities: Tensor) -> None:
        """Frequencies in each class, two parts, and in all of the data, one part: what no class can give, EM could never find."""
        statistics = self.expect(self.features(values), responsibilities)
        ones, count = statistics.ones, statistics.ones + statistics.zeros
        overall = (ones.sum(0) + 1) / (count.sum(0) + 2)
        self.means.copy_((2 * torch.where(count > 0, ones / count, overall) + overall) / 3)

    def features(self, values: Tensor) -> Tensor:
        """[x = 1] and [x = 0] of each column, of shape (n, 2 D): both are zero where a value is missing."""
        zeros, ones = values == 0, values == 1
        check_entries(values, zeros | ones | values.isnan(), "expected 0, 1 or NaN; code the column so, or take it as categorical")
        return torch.cat([ones.T, zeros.T]).to(self.means.dtype).T  # contiguous over the data, for the products after

    def log_density(self, features: Tensor) -> Tensor:
        """The sum over observed columns of log mu_kd or log(1 - mu_kd), of shape (n, K)."""
        probabilities = torch.cat([self.means, 1 - self.means], 1)
        impossible = probabilities <= 0
        density = (torch.where(impossible, 1.0, probabilities).log() @ features.T).T
        if bool(impossible.any()):  # apart, for 0 times -inf is NaN
            density = density.masked_fill(features @ impossible.T.to(features.dtype) > 0, -torch.inf)
        return density

    def expect(self, features: Tensor, responsibilities: Tensor) -> BernoulliStatistics:
        """Weighted counts of ones and of zeros."""
        return BernoulliStatistics(*(responsibilities.T.to(features.dtype) @ features).split(self.n_features, 1))

    @torch.no_grad()
    def maximize(self, statistics: BernoulliStatistics) -> None:
        """mu_kd = (ones + prior - 1) / (all + 2 prior - 2); a mean that no data speaks of stays."""
        count = statistics.ones + statistics.zeros
        pseudo = (self.prior - 1) * self._is_free()
        means = (statistics.ones + pseudo) / (count + 2 * pseudo)
        self.means.copy_(torch.where(count > 0, means, self.means).clamp(0, 1))

    def _is_free(self) -> Tensor:
        return (self.means > 0) & (self.means < 1)

    def log_prior(self) -> float:
        """(prior - 1) sum of log mu_kd (1 - mu_kd) over the means that are neither 0 nor 1."""
        free = self.means.detach()[self._is_free()]
        return (self.prior - 1) * float((free.log() + torch.log1p(-free)).sum())

    @torch.no_grad()
    def sample(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """One row of zeros and ones for each class index, of shape (n, D)."""
        return torch.bernoulli(self.means.cpu()[classes.cpu()], generator=generator).to(self.means)

    def impute(self, values: Tensor, responsibilities: Tensor) -> Tensor:
        """The values with sum_k r_nk mu_kd in place of NaN."""
        return torch.where(values.isnan(), responsibilities @ self.means.detach(), values)

    def moments(self) -> tuple[Tensor, Tensor]:
        """mu_kd, and mu_kd (1 - mu_kd)."""
        return self.means, self.means * (1 - self.means)

    def count_parameters(self) -> int:
        """K D means."""
        return self.n_components * self.n_features
