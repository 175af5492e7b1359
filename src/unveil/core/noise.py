"""Random numbers for latent variables: each item's own, or the same few for all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor


class Noise(ABC):
    """Where random numbers for latent variables come from."""

    @abstractmethod
    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers in the shape of ``like``."""

    @abstractmethod
    def uniform(self, like: Tensor) -> Tensor:
        """Uniform numbers in [0, 1) in the shape of ``like``."""


class RandomNoise(Noise):
    """Numbers of its own for each item."""

    def __init__(self, generator: torch.Generator):
        self._generator = generator

    def normal(self, like: Tensor) -> Tensor:
        """From the generator."""
        return self._draw(torch.randn, like)

    def uniform(self, like: Tensor) -> Tensor:
        """From the generator."""
        return self._draw(torch.rand, like)

    def _draw(self, function: Callable[..., Tensor], like: Tensor) -> Tensor:
        return function(like.shape, generator=self._generator, dtype=like.dtype, device=self._generator.device).to(like.device)


class SharedNoise(Noise):
    """The same few draws for every item, spread evenly: an estimate is then a function of its item alone, whatever its company.

    In each dimension the draws are the middles of as many equally probable intervals, in random order: a Latin hypercube (McKay,
    Beckman and Conover, 1979). Normal ones are scaled to a variance of 1.
    """

    def __init__(self, n_draws: int, seed: int = 0):
        self._generator, self._n_draws = torch.Generator().manual_seed(seed), n_draws
        self._designs: dict[str, list[Tensor]] = {"normal": [], "uniform": []}

    def normal(self, like: Tensor) -> Tensor:
        """The next of the normal draws."""
        return self._next("normal", like)

    def uniform(self, like: Tensor) -> Tensor:
        """The next of the uniform draws."""
        return self._next("uniform", like)

    def _next(self, kind: str, like: Tensor) -> Tensor:
        if not self._designs[kind]:
            order = torch.rand(self._n_draws, *like.shape[1:], generator=self._generator, dtype=torch.float64).argsort(0)
            points = (order.double() + 0.5) / self._n_draws
            if kind == "normal":
                points = torch.special.ndtri(points)
                points = points / points.square().mean(0).sqrt().clamp_min(torch.finfo(points.dtype).tiny)
            self._designs[kind] = list(points)
        return self._designs[kind].pop(0).to(like).expand_as(like)
