"""Expected sufficient statistics as values: they add, and they scale."""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from typing import Any, Self

import torch
from torch import Tensor


def identity() -> Any:
    """A field that must be equal in two statistics for them to add, such as the centre that moments are about."""
    return field(metadata={"identity": True})


@dataclass(frozen=True)
class Statistics:
    """Expected sufficient statistics: a commutative monoid under ``+``, and a cone under ``*``.

    Subclasses are frozen dataclasses whose fields are tensors, numbers, statistics, or tuples of these. Because they add, an
    E-step can run over batches in memory, on disk, in threads or on other machines; because they scale,
    ``(1 - rho) * old + rho * new`` is stochastic EM.

    Examples
    --------
    >>> @dataclass(frozen=True)
    ... class Count(Statistics):
    ...     n: float
    >>> Count(2.0) + 3 * Count(1.0)
    Count(n=5.0)
    """

    def __add__(self, other: Self) -> Self:
        if type(other) is not type(self):
            raise TypeError(f"cannot add {type(other).__name__} to {type(self).__name__}: statistics of different models")
        return self._map(lambda each: _add(getattr(self, each.name), getattr(other, each.name)), other)

    def __mul__(self, scale: float) -> Self:
        return self._map(lambda each: _scale(getattr(self, each.name), scale))

    __rmul__ = __mul__

    def numel(self) -> int:
        """How many numbers these are."""
        return sum(_numel(getattr(self, each.name)) for each in fields(self))

    def _map(self, combine, other: Self | None = None) -> Self:
        return type(self)(**{each.name: self._kept(each, other) if _is_identity(each) else combine(each) for each in fields(self)})

    def _kept(self, each: Field, other: Self | None) -> Any:
        """An identity field, after making sure that both sides agree on it."""
        mine = getattr(self, each.name)
        theirs = mine if other is None else getattr(other, each.name)
        same = mine is theirs or (torch.equal(mine, theirs) if isinstance(mine, Tensor) else mine == theirs)
        if not same:
            raise ValueError(f"cannot add statistics with different {each.name}: they come from different initialisations")
        return mine


def _add(mine: Any, other: Any) -> Any:
    """A sum; of tuples, entry by entry."""
    return tuple(_add(*each) for each in zip(mine, other, strict=True)) if isinstance(mine, tuple) else mine + other


def _scale(value: Any, scale: float) -> Any:
    return tuple(_scale(each, scale) for each in value) if isinstance(value, tuple) else value * scale


def _numel(value: Any) -> int:
    if isinstance(value, tuple):
        return sum(_numel(each) for each in value)
    return value.numel() if isinstance(value, Tensor | Statistics) else 1


def _is_identity(each: Field) -> bool:
    return bool(each.metadata.get("identity"))


@dataclass(frozen=True)
class ModelStatistics(Statistics):
    """What every model's statistics hold beside its own: how much data they speak of, and how well it was explained.

    Attributes
    ----------
    weight : float
        The weighted number of steps.
    log_likelihood : float
        Weighted sum over items of log p(x), or of the bound on it, in nats, under the parameters that made the
        statistics; NaN when it was not asked for.
    """

    weight: float
    log_likelihood: float
