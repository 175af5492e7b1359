"""Packed sequences and sources of batches: what is cut where, and what is refused."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from unveil.data.batch import Batch, Batches, MemoryRows
from unveil.data.streams import open_batches
from unveil.errors import InputError

LENGTHS = [3, 1, 5, 2, 4, 1]
N_STEPS = sum(LENGTHS)
CUTS = [1, 2, 3, 4, 5, 7, 8, 15, N_STEPS, 1000]


def offsets_of(lengths):
    return np.concatenate([[0], np.cumsum(lengths)])


def table(n_features=2):
    return np.arange(float(N_STEPS * n_features)).reshape(N_STEPS, n_features)


def ragged(**settings):
    return Batches(MemoryRows(table()), offsets_of(LENGTHS), **settings)


def batch(**fields):
    return Batch(torch.from_numpy(table()), torch.from_numpy(offsets_of(LENGTHS)), **fields)


# ---- one batch -----------------------------------------------------------------------------------------------------------


def test_sizes_of_a_batch():
    one = batch()
    assert (one.n_steps, one.n_sequences, one.lengths.tolist()) == (N_STEPS, 6, LENGTHS)
    assert one.total_weight == N_STEPS
    assert one.step_weights is None
    assert not one.holds_points
    assert Batch(torch.zeros(3, 1), torch.arange(4)).holds_points


def test_weights_of_sequences_are_those_of_their_steps():
    weights = torch.tensor([1.0, 2.0, 0.5, 0.0, 3.0, 1.0])
    expected = np.repeat(weights.numpy(), LENGTHS)
    weighted = batch(weights=weights)
    assert_array_equal(weighted.step_weights, expected)
    assert_allclose(weighted.total_weight, expected.sum(), rtol=1e-14, atol=0)
    points = Batch(torch.zeros(6, 1), torch.arange(7), weights)
    assert_array_equal(points.step_weights, weights)


def test_padding_puts_sequences_side_by_side():
    values, mask = batch().padded()
    assert values.shape == (6, 5, 2)
    rows = np.split(table(), offsets_of(LENGTHS)[1:-1])
    for n, (length, row) in enumerate(zip(LENGTHS, rows, strict=True)):
        assert_array_equal(values[n, :length], row)
        assert_array_equal(values[n, length:], np.zeros((5 - length, 2)))
        assert mask[n].tolist() == [t < length for t in range(5)]


def test_a_batch_in_another_type_keeps_everything_else():
    one = batch(weights=torch.ones(6, dtype=torch.float64), labels=torch.arange(N_STEPS), start=4)
    single = one.to("cpu", torch.float32)
    assert (single.values.dtype, single.weights.dtype, single.labels.dtype) == (torch.float32, torch.float32, torch.int64)
    assert single.offsets is one.offsets
    assert single.start == 4
    assert_array_equal(single.values, table())


# ---- sources of batches --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_steps", CUTS)
def test_every_cut_gives_all_sequences_whole_and_in_order(batch_steps):
    batches = list(ragged(batch_steps=batch_steps))
    assert torch.cat([each.lengths for each in batches]).tolist() == LENGTHS
    assert_array_equal(torch.cat([each.values for each in batches]), table())
    assert [each.start for each in batches] == [sum(each.n_sequences for each in batches[:i]) for i in range(len(batches))]
    for each in batches:
        assert each.offsets[0] == 0
        assert each.offsets[-1] == each.n_steps == len(each.values)
        assert each.n_steps <= batch_steps or each.n_sequences == 1


@pytest.mark.parametrize("batch_steps", CUTS)
def test_batches_are_as_full_as_they_may_be(batch_steps):
    batches = list(ragged(batch_steps=batch_steps))
    for each, following in pairwise(batches):
        assert each.n_steps + int(following.lengths[0]) > batch_steps


@pytest.mark.parametrize("batch_steps", CUTS)
def test_points_are_cut_anywhere(batch_steps):
    batches = list(Batches(MemoryRows(table()), batch_steps=batch_steps))
    assert [each.n_steps for each in batches[:-1]] == [batch_steps] * (len(batches) - 1)
    assert all(each.holds_points for each in batches)
    assert_array_equal(torch.cat([each.values for each in batches]), table())
    assert [each.start for each in batches] == list(range(0, N_STEPS, batch_steps))


@pytest.mark.parametrize("batch_steps", CUTS)
def test_weights_and_labels_go_with_their_sequences(batch_steps):
    weights, labels = np.linspace(0.5, 2.0, 6), np.arange(N_STEPS) % 3 - 1
    batches = list(ragged(batch_steps=batch_steps, weights=weights, labels=labels))
    assert_array_equal(torch.cat([each.weights for each in batches]), weights)
    assert_array_equal(torch.cat([each.labels for each in batches]), labels)
    assert_array_equal(torch.cat([each.step_weights for each in batches]), np.repeat(weights, LENGTHS))
    for each in batches:
        assert_array_equal(each.weights, weights[each.start : each.start + each.n_sequences])
        assert len(each.labels) == each.n_steps


def test_a_source_can_be_gone_through_again():
    source = ragged(batch_steps=4)
    first, second = ([each.values for each in source] for _ in range(2))
    assert len(first) > 1
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_sizes_of_a_source():
    source = ragged()
    assert (source.n_features, source.n_steps, source.n_sequences, str(source.device)) == (2, N_STEPS, 6, "cpu")
    points = source.as_points()
    assert (points.n_sequences, points.offsets) == (N_STEPS, None)
    assert points.as_points() is points


def test_replaced_settings_leave_the_original_and_the_rest():
    source = ragged(batch_steps=4, weights=np.arange(1.0, 7.0))
    other = source.replace(weights=None)
    assert source.weights is not None
    assert other.weights is None
    assert other.batch_steps == 4
    assert other.rows is source.rows


@pytest.mark.parametrize(("n_features", "expected"), [(1, 16384), (8, 16384), (64, 2048), (512, 512), (100_000, 512)])
def test_batches_take_a_megabyte_within_limits(n_features, expected):
    class Wide:
        n_rows, device = 10_000_000, torch.device("cpu")

    rows = Wide()
    rows.n_features = n_features
    assert Batches(rows).batch_steps == expected


def test_few_steps_are_shared_out_among_the_cores():
    rows = MemoryRows(np.zeros((20_000, 4)))
    expected = max(1024, -(-20_000 // (2 * torch.get_num_threads())))
    assert Batches(rows).batch_steps == expected
    assert len(list(Batches(MemoryRows(np.zeros((16_000, 4)))))) == 1  # a second core would cost more than it gives


@pytest.mark.parametrize("weighted", [False, True])
def test_some_of_the_sequences(weighted):
    values, offsets = np.arange(24.0).reshape(12, 2), np.array([0, 3, 4, 9, 12])
    weights = np.array([1.0, 2.0, 3.0, 4.0]) if weighted else None
    kept = torch.tensor([True, False, False, True])
    (batch,) = Batches(MemoryRows(values), offsets, weights=weights, labels=np.arange(12)).restricted_to(kept)
    assert_array_equal(batch.values, values[[0, 1, 2, 9, 10, 11]])
    assert_array_equal(batch.lengths, [3, 3])
    assert_array_equal(batch.labels, [0, 1, 2, 9, 10, 11])
    assert batch.weights is None if weights is None else batch.weights.tolist() == [1.0, 4.0]


def test_some_of_the_points():
    batches = Batches(MemoryRows(np.arange(8.0).reshape(4, 2))).restricted_to(torch.tensor([False, True, False, True]))
    assert batches.n_sequences == 2
    assert_array_equal(next(iter(batches)).values, [[2.0, 3.0], [6.0, 7.0]])


def test_of_sequences_in_a_file_the_others_count_for_nothing(tmp_path):
    np.savez(tmp_path / "x.npz", values=np.arange(24.0).reshape(12, 2), lengths=np.array([3, 1, 5, 3]))
    batches = open_batches(tmp_path / "x.npz").restricted_to(torch.tensor([True, False, False, True]))
    assert torch.cat([batch.weights for batch in batches]).tolist() == [1.0, 0.0, 0.0, 1.0]
    assert batches.total_weight == 6.0


# ---- types ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floating_point_arrays_are_not_copied(dtype):
    array = table().astype(dtype)
    values = MemoryRows(array).read(0, 3)
    array[0, 0] = 123.0
    assert values[0, 0] == 123.0
    assert values.dtype == {np.float32: torch.float32, np.float64: torch.float64}[dtype]


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int64, np.bool_, np.float16, ">f8", ">f4"])
def test_other_numbers_become_double_precision(dtype):
    array = (table() % 2).astype(dtype)
    values = MemoryRows(array).read(1, 4)
    assert values.dtype == torch.float64
    assert_array_equal(values, (table() % 2)[1:4])


def test_tensors_of_whole_numbers_become_double_precision():
    assert MemoryRows(torch.arange(6).reshape(3, 2)).read(0, 3).dtype == torch.float64


# ---- what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_steps", [1, 4, 1000])
@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_what_is_not_finite_is_named_by_row_and_column(batch_steps, value, name):
    values = table()
    values[9, 1] = value
    with pytest.raises(InputError, match=rf"contains {name} at row 9, column 1; "):
        list(Batches(MemoryRows(values), offsets_of(LENGTHS), batch_steps=batch_steps))


def test_missing_values_pass_where_they_are_allowed_and_infinity_does_not():
    values = table()
    values[3, 0] = np.nan
    assert_array_equal(next(iter(Batches(MemoryRows(values), allow_nan=True))).values, values)
    values[5, 1] = np.inf
    with pytest.raises(InputError, match="infinity at row 5, column 1"):
        list(Batches(MemoryRows(values), allow_nan=True))


def test_sums_that_overflow_are_no_reason_to_complain():
    values = np.full((4, 2), 1e308)
    assert_array_equal(next(iter(Batches(MemoryRows(values)))).values, values)


# ---- samples of steps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_steps", CUTS)
def test_sampled_steps_do_not_depend_on_the_cut(batch_steps):
    weights = np.linspace(0.5, 2.0, 6)
    source = ragged(batch_steps=batch_steps, weights=weights)
    values, step_weights, sequences = source.sample_steps(7, torch.Generator().manual_seed(3))
    rows = (values[:, 0] / 2).long()
    expected = torch.randperm(N_STEPS, generator=torch.Generator().manual_seed(3))[:7].sort().values
    assert_array_equal(rows, expected)
    which = np.repeat(np.arange(6), LENGTHS)[rows]
    assert_array_equal(sequences, which)
    assert_array_equal(step_weights, weights[which])


@pytest.mark.parametrize("n_steps", [N_STEPS, N_STEPS + 1, 10_000])
def test_a_sample_of_all_steps_is_all_of_them(n_steps):
    values, step_weights, sequences = ragged(batch_steps=4).sample_steps(n_steps, torch.Generator().manual_seed(0))
    assert_array_equal(values, table())
    assert_array_equal(step_weights, np.ones(N_STEPS))
    assert_array_equal(sequences, np.repeat(np.arange(6), LENGTHS))


def test_samples_are_fair_and_without_replacement():
    source, counts, n_draws = ragged(), np.zeros(N_STEPS), 2000
    generator = torch.Generator().manual_seed(0)
    for _ in range(n_draws):
        rows = (source.sample_steps(4, generator)[0][:, 0] / 2).long()
        assert len(set(rows.tolist())) == 4
        counts[rows] += 1
    p = 4 / N_STEPS
    assert_allclose(counts / n_draws, np.full(N_STEPS, p), rtol=0, atol=4.5 * np.sqrt(p * (1 - p) / n_draws))
