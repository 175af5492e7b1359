"""Minibatches for learning by gradients: every item once in each epoch, in memory or read ahead, and the same again when asked."""

import threading

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

import unveil
import unveil.data.minibatches
from unveil.data.batch import Batches
from unveil.data.layout import as_rows, offsets_of
from unveil.data.minibatches import Minibatches, held_out, loaded
from unveil.errors import InputError


def points(n=53):
    return Batches(as_rows(np.arange(3.0 * n).reshape(n, 3)))


def sequences(lengths=(4, 1, 7, 3, 5, 2, 6)):
    steps = np.repeat(np.arange(len(lengths)), lengths)
    values = np.stack([steps, np.concatenate([np.arange(n) for n in lengths])], 1).astype(float)
    return Batches(as_rows(values), offsets_of(lengths), weights=np.arange(1.0, len(lengths) + 1))


@pytest.fixture
def on_disk(tmp_path, monkeypatch):
    """The same data in files that are read in blocks of few rows."""
    monkeypatch.setattr(unveil.data.minibatches, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(unveil.data.minibatches, "BLOCK_BYTES", 8 * 3 * 10)

    def write(batches):
        values = batches.rows.read(0, batches.n_steps).numpy()
        np.save(tmp_path / "X.npy", values)
        opened = unveil.open_batches(tmp_path / "X.npy")
        return opened.replace(offsets=batches.offsets, weights=batches.weights)

    return write


@pytest.mark.parametrize("stored", ["memory", "disk"])
@pytest.mark.parametrize("source", [points, sequences])
@pytest.mark.parametrize("size", [1, 3, 8, 100])
def test_every_item_comes_once_with_its_own_values(stored, source, size, on_disk):
    batches = source()
    minibatches = Minibatches(on_disk(batches) if stored == "disk" else batches, size, seed=1, dtype=torch.float64)
    seen = []
    epoch = list(minibatches.epoch(0))
    for each in epoch:
        assert len(each.items) == each.batch.n_sequences <= size
        assert each.n_steps == each.batch.n_steps
        for i, item in enumerate(each.items):
            start, stop = each.batch.offsets[i : i + 2]
            expected = batches.take(np.array([item]))
            assert torch.equal(each.batch.values[start:stop], expected.values)
            if batches.weights is not None:
                assert_allclose(each.batch.weights[i], expected.weights[0] / batches.weights.mean(), rtol=1e-12, atol=0)
        seen += each.items.tolist()
    assert sorted(seen) == list(range(batches.n_sequences))
    assert len(epoch) == len(minibatches)


@pytest.mark.parametrize("stored", ["memory", "disk"])
def test_order_follows_from_seed_and_epoch(stored, on_disk):
    batches = on_disk(points()) if stored == "disk" else points()

    def items(seed, epoch, skip=0):
        minibatches = Minibatches(batches, 8, seed=seed)
        return [each.items.tolist() for each in minibatches.epoch(epoch, skip)]

    assert items(1, 4) == items(1, 4)
    assert items(1, 4) != items(1, 5)
    assert items(1, 4) != items(2, 4)
    assert items(1, 4, skip=3) == items(1, 4)[3:]


def test_shares_of_processes_add_up():
    """Each process has its share, weighed so that the mean of the means over processes is the mean over the minibatch."""
    whole = list(Minibatches(points(), 7, seed=1, dtype=torch.float64).epoch(0))
    parts = [list(Minibatches(points(), 7, seed=1, dtype=torch.float64, share=(rank, 3)).epoch(0)) for rank in range(3)]
    for i, each in enumerate(whole):
        expected = each.batch.values[:, 0].square().mean()
        means = [(part[i].batch.weights * part[i].batch.values[:, 0].square()).mean() for part in parts]
        assert_allclose(sum(means) / 3, expected, rtol=1e-12, atol=0)
        assert all(part[i].n_steps == each.n_steps for part in parts)


def test_more_processes_than_items():
    parts = [list(Minibatches(points(5), 2, seed=1, dtype=torch.float64, share=(rank, 3)).epoch(0)) for rank in range(3)]
    for whole, *shares in zip(Minibatches(points(5), 2, seed=1, dtype=torch.float64).epoch(0), *parts, strict=True):
        mean = sum((share.batch.weights * share.batch.values[:, 0]).mean() for share in shares) / 3
        assert_allclose(mean, whole.batch.values[:, 0].mean(), rtol=1e-12, atol=0)


def test_reader_ends_with_the_epoch_and_its_errors_arrive(on_disk, monkeypatch):
    minibatches = Minibatches(on_disk(points(200)), 4, seed=0)
    before = threading.active_count()
    for _ in minibatches.epoch(0):
        break
    assert minibatches.waited >= 0
    for thread in threading.enumerate():
        if thread.daemon and thread is not threading.current_thread():
            thread.join(timeout=2)
    assert threading.active_count() <= before
    values = np.arange(600.0).reshape(200, 3)
    values[150, 1] = np.nan
    with pytest.raises(InputError, match="NaN at row 150"):
        list(Minibatches(on_disk(Batches(as_rows(values))), 4, seed=0).epoch(0))


def test_small_files_are_loaded(tmp_path):
    np.save(tmp_path / "X.npy", np.arange(30.0).reshape(10, 3))
    batches = unveil.open_batches(tmp_path / "X.npy")
    assert_array_equal(loaded(batches).rows.read(0, 10), np.arange(30.0).reshape(10, 3))
    assert type(loaded(batches).rows).__name__ == "MemoryRows"


@pytest.mark.parametrize("source", [points, sequences])
@pytest.mark.parametrize("stored", ["memory", "disk"])
def test_held_out_and_learned_are_all(source, stored, on_disk):
    batches = source()
    learned, kept = held_out(on_disk(batches) if stored == "disk" else batches, 0.3, torch.Generator().manual_seed(0))
    assert kept.n_sequences == round(0.3 * batches.n_sequences)
    rows = torch.cat([batch.values for part in (learned, kept) for batch in part]).numpy()
    everything = batches.rows.read(0, batches.n_steps).numpy()
    assert_array_equal(rows[np.lexsort(rows.T[::-1])], everything[np.lexsort(everything.T[::-1])])
    if batches.weights is not None:
        assert_allclose(torch.cat([learned.weights, kept.weights]).sum(), batches.weights.sum(), rtol=1e-12, atol=0)


def test_nothing_is_held_out_of_too_little():
    assert held_out(points(3), 0.1, torch.Generator())[1] is None
    assert held_out(points(3), 0.9, torch.Generator())[1] is None
