"""A model so small that its EM can be followed by hand, and data for it."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from unveil.core.model import EMModel, Posterior
from unveil.core.statistics import ModelStatistics
from unveil.data.batch import Batch, Batches, MemoryRows


@dataclass(frozen=True)
class Sums(ModelStatistics):
    total: torch.Tensor


class HalfWay(EMModel):
    """One number m whose objective is -(x - m)^2 per step, and whose M-step goes half way to the mean of the data.

    From a distance d to the mean of constant data the objectives are -d^2, -d^2 / 4, -d^2 / 16, ...
    """

    def __init__(self, start: float = 0.0):
        super().__init__()
        self.position = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self.evaluated: list[bool] = []

    @property
    def at(self) -> float:
        return self.position.item()

    def initialize(self, batches: Batches, generator: torch.Generator) -> None:
        with torch.no_grad():
            self.position.copy_(20 * torch.rand((), generator=generator, dtype=torch.float64) - 10)

    def sample(self, n_sequences: int, length: int, generator: torch.Generator) -> Batch:
        values = self.position + torch.randn(n_sequences * length, 1, generator=generator, dtype=torch.float64)
        return Batch(values.detach(), torch.arange(n_sequences + 1) * length)

    def objective(self, batch: Batch) -> torch.Tensor:
        return -((batch.values[:, 0] - self.position) ** 2)

    def expect(self, batch: Batch, *, evaluate: bool = True) -> Sums:
        self.evaluated.append(evaluate)
        log_likelihood = float(self.objective(batch).sum()) if evaluate else float("nan")
        return Sums(batch.total_weight, log_likelihood, batch.values.sum())

    def maximize(self, statistics: Sums) -> None:
        with torch.no_grad():
            self.position.copy_((self.position + statistics.total / statistics.weight) / 2)

    def posterior(self, batch: Batch) -> Posterior:
        return Posterior(self.objective(batch))


@pytest.fixture
def half_way():
    return HalfWay


@pytest.fixture
def eights():
    """Forty steps of 8 in batches of 10."""
    return Batches(MemoryRows(torch.full((40, 1), 8.0, dtype=torch.float64)), batch_steps=10)
