"""Minibatches: every item once, with all that belongs to it; and batches of chosen items, against indexing."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from unveil.data.batch import Batches
from unveil.data.layout import as_rows, offsets_of
from unveil.data.streams import open_batches


def ragged(n_items=23, seed=0):
    """Sequences whose first column says which item, the second which step; weights and labels say the same."""
    lengths = np.random.default_rng(seed).integers(1, 9, n_items)
    items = np.repeat(np.arange(n_items), lengths)
    steps = np.concatenate([np.arange(length) for length in lengths])
    table = np.c_[items, steps].astype(float)
    return Batches(as_rows(table), offsets_of(lengths), weights=10.0 + np.arange(n_items), labels=100 * items + steps), lengths


def points(n_items=23):
    table = np.c_[np.arange(n_items), np.zeros(n_items)].astype(float)
    return Batches(as_rows(table), weights=10.0 + np.arange(n_items), labels=100 * np.arange(n_items))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def check(batch, lengths):
    """The items in a batch, after making sure that each is whole and has its weight and labels."""
    values = batch.values.numpy()
    items = values[batch.offsets[:-1].numpy(), 0].astype(int)
    for i, item in enumerate(items):
        rows = slice(int(batch.offsets[i]), int(batch.offsets[i + 1]))
        assert_array_equal(values[rows, 0], np.full(lengths[item], item))
        assert_array_equal(values[rows, 1], np.arange(lengths[item]))
        assert_array_equal(batch.labels[rows].numpy(), 100 * item + np.arange(lengths[item]))
    assert_array_equal(batch.weights.numpy(), 10.0 + items)
    return items.tolist()


@pytest.mark.parametrize("n_steps", [1, 7, 30, 1000])
def test_every_sequence_once(n_steps):
    batches, lengths = ragged()
    made = list(batches.minibatches(n_steps, generator()))
    items = [item for batch in made for item in check(batch, lengths)]
    assert sorted(items) == list(range(23))
    assert items != list(range(23))  # they are shuffled
    assert all(batch.n_steps < n_steps + lengths.max() for batch in made)
    again = [item for batch in batches.minibatches(n_steps, generator()) for item in check(batch, lengths)]
    other = [item for batch in batches.minibatches(n_steps, generator(1)) for item in check(batch, lengths)]
    assert again == items != other


@pytest.mark.parametrize("n_steps", [1, 5, 22, 23, 24])
def test_every_point_once(n_steps):
    made = list(points().minibatches(n_steps, generator()))
    items = [item for batch in made for item in check(batch, np.ones(23, dtype=int))]
    assert sorted(items) == list(range(23))
    full, rest = divmod(23, n_steps)
    assert [batch.n_steps for batch in made] == [n_steps] * full + [rest] * (rest > 0)


def test_data_on_disk_comes_in_its_order(tmp_path):
    table = np.arange(60.0).reshape(30, 2)
    np.save(tmp_path / "x.npy", table)
    made = [batch.values for batch in open_batches(tmp_path / "x.npy").as_points().minibatches(8, generator())]
    assert [len(values) for values in made] == [8, 8, 8, 6]
    assert_array_equal(torch.cat(made).numpy(), table)


@pytest.mark.parametrize("items", [[0], [3, 1, 22], [5, 5, 0]])
def test_taken_items(items):
    batches, lengths = ragged()
    assert check(batches.take(np.array(items)), lengths) == items
    assert check(points().take(np.array(items)), np.ones(23, dtype=int)) == items


def test_taken_items_without_weights_and_labels():
    batches = Batches(as_rows(np.arange(8.0).reshape(4, 2)))
    batch = batches.take(np.array([2, 0]))
    assert_array_equal(batch.values.numpy(), [[4.0, 5.0], [0.0, 1.0]])
    assert batch.weights is None
    assert batch.labels is None
