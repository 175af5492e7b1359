"""Where the E-step runs makes no difference to its result, to the last bit."""

import operator
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pytest
import torch

from unveil.core.statistics import ModelStatistics
from unveil.data.batch import Batches, MemoryRows
from unveil.learn.em import em
from unveil.learn.reduce import REDUCTIONS, serial, threads
from unveil.models.gaussian_hmm import GaussianHMM


@dataclass(frozen=True)
class Product(ModelStatistics):
    matrix: torch.Tensor


def product(batch):
    values = batch.values
    return Product(batch.total_weight, float(values.exp().sum()), values.T @ values)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def source(n_steps=700, batch_steps=64):
    values = np.random.default_rng(0).normal(size=(n_steps, 6)) * np.logspace(-6, 3, 6)
    return Batches(MemoryRows(values), batch_steps=batch_steps)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("batch_steps", [1, 64, 300, 1000])
def test_threads_give_what_one_after_the_other_gives_exactly(batch_steps):
    batches = source(batch_steps=batch_steps)
    one_by_one, side_by_side = serial(product, batches), threads(product, batches)
    assert one_by_one.weight == side_by_side.weight == 700
    assert one_by_one.log_likelihood == side_by_side.log_likelihood
    assert torch.equal(one_by_one.matrix, side_by_side.matrix)


def test_the_sum_is_over_all_batches_in_their_order():
    batches = source()
    parts = [product(batch) for batch in batches]
    total = reduce(operator.add, parts)
    for each in REDUCTIONS.values():
        found = each(product, batches)
        assert found.weight == 700
        assert torch.equal(found.matrix, total.matrix)


@pytest.mark.usefixtures("two_threads")
def test_a_model_learns_the_same_in_threads_exactly():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(600, 2)) + 4 * np.repeat(rng.integers(0, 3, 60), 10)[:, None]
    batches = Batches(MemoryRows(values), np.arange(0, 601, 20), batch_steps=100)
    estimator, fits = GaussianHMM(n_states=3), []
    for each in REDUCTIONS.values():
        model = estimator.build(2)
        model.initialize(batches, torch.Generator().manual_seed(0))
        fits.append((em(model, batches, max_iter=8, tol=0.0, reduce=each).objective, model.state_dict()))
    (first, state), (second, other) = fits
    assert first == second
    assert len(set(first)) == 8
    assert all(torch.equal(state[name], other[name]) for name in state)


def test_nothing_to_sum_is_an_error():
    for each in REDUCTIONS.values():
        with pytest.raises(TypeError):
            each(product, [])
