"""Mixed columns: some numbers, some counts, some symbols, each group with a family of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from unveil.core.model import Emission, Imputes, Moments, Penalized, log_prior_of
from unveil.core.statistics import Statistics
from unveil.emissions.choose import make_emission
from unveil.errors import InputError, ParameterError

Columns = int | slice | Iterable[int]


class Product:
    """An emission option for mixed columns: which columns have which family.

    Called with ``(n_components, n_features)``, it gives a ``ProductEmission``.

    Parameters
    ----------
    columns : mapping, or sequence of pairs, of columns to emission options
        Columns are an int, a tuple of ints, a range or a slice; every column belongs to one group. An option is what
        ``make_emission`` takes: a name such as "gaussian", or a callable such as ``partial(Categorical, n_categories=3)``.
        (Before Python 3.12 a slice cannot be a key: write pairs.)

    Examples
    --------
    >>> mixed = Product({(0, 1): "gaussian", 2: "poisson"})
    >>> mixed(n_components=4, n_features=3).count_parameters()  # for each class two means, three (co)variances and a rate
    24
    """

    def __init__(self, columns: Mapping[Any, Any] | Sequence[tuple[Columns, Any]]):
        self.columns = columns

    def __repr__(self) -> str:
        return f"Product({self.columns!r})"

    @property
    def groups(self) -> list[tuple[Columns, Any]]:
        """Pairs of columns and option, in the order that they were given in."""
        pairs = self.columns.items() if isinstance(self.columns, Mapping) else self.columns
        return [(columns, option) for columns, option in pairs]

    def __call__(self, n_components: int, n_features: int, **settings: Any) -> ProductEmission:
        """The emission; ``settings`` go to the parts that take them, as ``make_emission`` says."""
        columns = [_indices(each, n_features) for each, _ in self.groups]
        _check_partition(columns, n_features)
        parts = [
            make_emission(option, n_components, len(each), **settings)
            for each, (_, option) in zip(columns, self.groups, strict=True)
        ]
        return ProductEmission(parts, columns)


def _indices(columns: Columns, n_features: int) -> list[int]:
    """Columns as the user names them, as indices from 0."""
    everything = range(n_features)
    if isinstance(columns, slice):
        return list(everything[columns])
    try:
        return [everything[each] for each in ([columns] if isinstance(columns, Integral) else columns)]
    except IndexError as error:
        raise ParameterError(
            f"emission has columns {columns!r}, but X has columns 0 to {n_features - 1}; leave out the others"
        ) from error
    except TypeError as error:
        raise ParameterError(f"emission has columns {columns!r}; expected an int, a slice or several ints") from error


def _check_partition(columns: list[list[int]], n_features: int) -> None:
    named = [index for each in columns for index in each]
    for index in range(n_features):
        if named.count(index) != 1:
            found = "in no group" if index not in named else f"named {named.count(index)} times"
            raise ParameterError(f"emission has column {index} {found}; put every column in one group")
    if not all(columns):
        raise ParameterError("emission has a group without columns; leave it out")


@dataclass(frozen=True)
class ProductStatistics(Statistics):
    """Those of each part.

    Attributes
    ----------
    parts : tuple of Statistics
    """

    parts: tuple[Statistics, ...]


class ProductEmission(Emission, Penalized, Imputes, Moments):
    """p(x | z = k) = prod_j p_j(x_j | z = k), over groups j of columns that are independent given the class.

    Parameters
    ----------
    parts : sequence of Emission
        One family for each group, all for the same classes.
    columns : sequence of list of int
        The columns of each group.

    Attributes
    ----------
    parts : ModuleList of Emission

    References
    ----------
    Vermunt and Magidson (2002), Latent class cluster analysis.
    """

    def __init__(self, parts: Sequence[Emission], columns: Sequence[list[int]]):
        super().__init__()
        self.n_components = parts[0].n_components
        self.n_features = sum(map(len, columns))
        self.parts, self.columns = nn.ModuleList(parts), [list(each) for each in columns]

    def initialize(self, values: Tensor, responsibilities: Tensor) -> None:
        """Fit each part to its columns."""
        for part, columns in self._groups():
            with _telling(columns):
                part.initialize(values[:, columns], responsibilities)

    def features(self, values: Tensor) -> tuple[Tensor, ...]:
        """Those of each part."""
        found = []
        for part, columns in self._groups():
            with _telling(columns):
                found.append(part.features(values[:, columns]))
        return tuple(found)

    def log_density(self, features: tuple[Tensor, ...]) -> Tensor:
        """The sum over the parts, of shape (n, K)."""
        first, *others = [part.log_density(each) for part, each in zip(self.parts, features, strict=True)]
        return sum(others, first)

    def expect(self, features: tuple[Tensor, ...], responsibilities: Tensor) -> ProductStatistics:
        """Those of each part, under the same responsibilities."""
        return ProductStatistics(
            tuple(part.expect(each, responsibilities) for part, each in zip(self.parts, features, strict=True))
        )

    def maximize(self, statistics: ProductStatistics) -> None:
        """Each part's own maximiser."""
        for part, each in zip(self.parts, statistics.parts, strict=True):
            part.maximize(each)

    def log_prior(self) -> float:
        """The sum over the parts that have one."""
        return sum(log_prior_of(part) for part in self.parts)

    @torch.no_grad()
    def sample(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """One observation for each class index, of shape (n, D)."""
        values = torch.empty(len(classes), self.n_features, dtype=torch.float64, device=classes.device)
        for part, columns in self._groups():
            values[:, columns] = part.sample(classes, generator)
        return values

    def impute(self, values: Tensor, responsibilities: Tensor) -> Tensor:
        """The values with what each part that can expects in place of NaN."""
        filled = values.clone()
        for part, columns in self._groups():
            if isinstance(part, Imputes):
                filled[:, columns] = part.impute(values[:, columns], responsibilities)
        return filled

    def moments(self) -> tuple[Tensor, Tensor]:
        """Those of each part; NaN in the columns of a part that has none, as symbols have none."""
        found = torch.full((2, self.n_components, self.n_features), torch.nan, dtype=torch.float64)
        for part, columns in self._groups():
            if isinstance(part, Moments):
                found[:, :, columns] = torch.stack(part.moments())
        return found[0], found[1]

    def count_parameters(self) -> int:
        """Those of all parts together."""
        return sum(part.count_parameters() for part in self.parts)

    def _groups(self) -> Iterable[tuple[Any, list[int]]]:
        return zip(self.parts, self.columns, strict=True)


@contextmanager
def _telling(columns: list[int]) -> Iterator[None]:
    """An error about a column of a part also says which columns of X the part has."""
    try:
        yield
    except InputError as error:
        raise InputError(f"among the columns {columns} of X, {error}") from error
