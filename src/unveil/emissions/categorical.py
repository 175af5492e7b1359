"""Categorical observations: symbols from a finite alphabet in each column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unveil.core.constraints import integer, real
from unveil.core.model import Emission, Penalized
from unveil.core.statistics import Statistics
from unveil.emissions.columns import check_entries
from unveil.errors import ParameterError
from unveil.kernels.simplex import normalize

_MOST_SYMBOLS = 10_000_000
_EXPECTED = "expected whole numbers from 0; code the categories, NaN too, as 0, 1, 2, ..."


@dataclass(frozen=True)
class CategoricalStatistics(Statistics):
    """How often each class gives each symbol.

    Attributes
    ----------
    counts : Tensor of shape (K, D, S)
        sum_n r_nk [x_nd = s].
    """

    counts: Tensor


class Categorical(Emission, Penalized):
    """p(x | z = k) = prod_d p_kd(x_d), for columns of whole numbers 0 .. S_d - 1 that are independent given the class.

    Missing values are not supported: a NaN is an error, and a category of its own is the remedy.

    Parameters
    ----------
    n_components, n_features : int
        K and D.
    n_categories : int or sequence of D int, optional
        S, the same for every column, or one number for each; by default the largest value that ``initialize`` sees, plus one.
    prior : float
        At least 1: the concentration of a symmetric Dirichlet prior on each distribution. 1 is flat (maximum likelihood); with
        more, every category counts as if it had been seen ``prior - 1`` times in each class. A probability that is exactly zero
        is not subject to it: it stays zero.

    Attributes
    ----------
    probabilities : Parameter of shape (K, D, S)
        p_kd(s), where S is the largest number of categories; zero for those that a column does not have.
    n_symbols : Tensor of shape (D,), int64
        S_d.

    References
    ----------
    Rabiner (1989), A tutorial on hidden Markov models and selected applications in speech recognition.

    Examples
    --------
    >>> rolls = torch.tensor([[0.0], [0.0], [2.0], [1.0]], dtype=torch.float64)
    >>> dice = Categorical(n_components=1, n_features=1, n_categories=3)
    >>> dice.maximize(dice.expect(dice.features(rolls), torch.ones(4, 1, dtype=torch.float64)))
    >>> dice.probabilities.tolist()
    [[[0.5, 0.25, 0.25]]]
    """

    n_symbols: Tensor

    def __init__(self, n_components: int, n_features: int, n_categories: int | Sequence[int] | None = None, prior: float = 1.0):
        super().__init__()
        real(1.0)("prior", prior)
        self.n_components, self.n_features = n_components, n_features
        self.n_categories, self.prior = n_categories, prior
        self.register_buffer("n_symbols", self._given_categories())
        self._resize()

    def _given_categories(self) -> Tensor:
        """S_d for each column; 0 where it is to be found."""
        if self.n_categories is None:
            return torch.zeros(self.n_features, dtype=torch.int64)
        given = [*self.n_categories] if isinstance(self.n_categories, Sequence) else [self.n_categories] * self.n_features
        if len(given) != self.n_features:
            raise ParameterError(
                f"n_categories={self.n_categories!r} has {len(given)} numbers; expected one for each of {self.n_features} columns"
            )
        for each in given:
            integer(1)("n_categories", each)
        return torch.tensor(given, dtype=torch.int64)

    def _resize(self) -> None:
        """Even probabilities, of the shape that the numbers of categories ask for."""
        possible = self._possible().double()
        even = possible / self.n_symbols.clamp_min(1)[:, None]
        self.probabilities = nn.Parameter(even.repeat(self.n_components, 1, 1))

    def _possible(self) -> Tensor:
        """Which categories each column has, of shape (D, S)."""
        n_symbols = self.n_symbols
        return torch.arange(int(n_symbols.max()), device=n_symbols.device) < n_symbols[:, None]

    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        """Take the number of categories from what is loaded, where none was given."""
        n_symbols = state_dict.get(f"{prefix}n_symbols")
        if self.n_categories is None and n_symbols is not None and n_symbols.shape == self.n_symbols.shape:
            self.n_symbols.copy_(n_symbols)
            self._resize()
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    @torch.no_grad()
    def initialize(self, values: Tensor, responsibilities: Tensor) -> None:
        """Frequencies in each class, two parts, and in all of the data, one part: what no class can give, EM could never find."""
        if self.n_categories is None:
            check_symbols(values)
            self.n_symbols.copy_(values.amax(0).long() + 1)
            self._resize()
        counts = self.expect(self.features(values), responsibilities).counts
        overall = normalize(counts.sum(0) + self._possible())
        self.probabilities.copy_((2 * normalize(counts, overall.expand_as(counts)) + overall) / 3)

    def features(self, values: Tensor) -> Tensor:
        """The symbols as whole numbers, of shape (n, D), after making sure that they are."""
        symbols = values.long()
        known = (symbols == values) & (symbols >= 0) & (symbols < self.n_symbols)
        if not bool(known.all()):
            self._refuse(values)
        return symbols

    def _refuse(self, values: Tensor) -> None:
        check_entries(values, _is_whole(values), _EXPECTED)
        seen, needed = self.n_symbols, int(values.max()) + 1
        known = f"{int(seen.min())}" if int(seen.min()) == int(seen.max()) else f"{seen.tolist()}"
        check_entries(values, values < seen, f"the model knows {known} categories, from 0; pass n_categories={needed}")

    def log_density(self, features: Tensor) -> Tensor:
        """sum_d log p_kd(x_d), of shape (n, K)."""
        table = log_probabilities(self.probabilities).permute(1, 2, 0).contiguous()  # (D, S, K): a row for each symbol
        density = table[0].index_select(0, features[:, 0])
        for d in range(1, self.n_features):
            density = density + table[d].index_select(0, features[:, d])
        return density.T.contiguous().T  # components first in memory, as chains read it

    def expect(self, features: Tensor, responsibilities: Tensor) -> CategoricalStatistics:
        """Weighted counts of the symbols."""
        counts = torch.zeros_like(self.probabilities, requires_grad=False)
        for d in range(self.n_features):
            counts[:, d].index_add_(1, features[:, d], responsibilities.T.to(counts.dtype))
        return CategoricalStatistics(counts)

    @torch.no_grad()
    def maximize(self, statistics: CategoricalStatistics) -> None:
        """p_kd(s) in proportion to the count plus ``prior - 1``; a class without data keeps its own."""
        counts = statistics.counts
        pseudo = (self.prior - 1) * (self.probabilities > 0)
        alive = counts.sum(2, keepdim=True) > 0
        self.probabilities.copy_(normalize(torch.where(alive, counts + pseudo, 0.0), self.probabilities))

    def log_prior(self) -> float:
        """(prior - 1) sum of log p_kd(s) over the probabilities that are not zero."""
        possible = self.probabilities.detach()
        return (self.prior - 1) * float(possible[possible > 0].log().sum())

    @torch.no_grad()
    def sample(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """One row of symbols for each class index, of shape (n, D)."""
        probabilities = self.probabilities.cpu()[classes.cpu()].flatten(0, 1)
        symbols = torch.multinomial(probabilities, 1, generator=generator).view(len(classes), self.n_features)
        return symbols.to(self.probabilities)

    def count_parameters(self) -> int:
        """K sum_d (S_d - 1)."""
        return self.n_components * int((self.n_symbols - 1).sum())


def check_symbols(values: Tensor) -> None:
    """Raise InputError that names the first entry of ``values`` (n, D) that is no symbol."""
    check_entries(values, _is_whole(values) & (values < _MOST_SYMBOLS), _EXPECTED)


def log_probabilities(probabilities: Tensor) -> Tensor:
    """Logarithms that are -inf at zero, where the gradient is zero instead of NaN."""
    positive = probabilities > 0
    return torch.where(positive, probabilities, 1.0).log().masked_fill(~positive, -torch.inf)


def _is_whole(values: Tensor) -> Tensor:
    return (values >= 0) & (values == values.floor()) & torch.isfinite(values)
