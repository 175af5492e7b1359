"""From what users hold to batches, and results back in its shape."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from unveil.data.layout import (
    Layout,
    as_numeric,
    as_rows,
    check_lengths,
    check_weights,
    is_many_sequences,
    offsets_of,
    read_sequences,
)
from unveil.errors import InputError


def sequences(dtype=np.float64):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(length, 2)).astype(dtype) for length in (3, 1, 4)]


@pytest.mark.parametrize("container", [list, tuple])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_list_of_tables(container, dtype):
    given = container(sequences(dtype))
    batches, layout = read_sequences(given)
    (only,) = batches
    assert only.lengths.tolist() == [3, 1, 4]
    assert_array_equal(only.values, np.concatenate(given))
    assert only.values.dtype == torch.from_numpy(given[0]).dtype
    assert (layout.form, layout.tensor, layout.offsets.tolist()) == ("list", False, [0, 3, 4, 8])


def test_a_stack_of_sequences():
    given = np.random.default_rng(0).normal(size=(3, 4, 2))
    batches, layout = read_sequences(given)
    (only,) = batches
    assert only.lengths.tolist() == [4, 4, 4]
    assert_array_equal(only.values.reshape(3, 4, 2), given)
    assert (layout.form, layout.tensor) == ("stack", False)


def test_tensors_give_tensors():
    given = [torch.from_numpy(each) for each in sequences()]
    batches, layout = read_sequences(given)
    assert layout.tensor
    assert_array_equal(next(iter(batches)).values, torch.cat(given))
    assert isinstance(layout.per_item(torch.zeros(3)), torch.Tensor)
    assert read_sequences(torch.zeros(2, 3, 1))[1].tensor


def test_weights_and_missing_values_are_handed_on():
    given = sequences()
    given[2][0, 1] = np.nan
    batches, _ = read_sequences(given, weights=np.array([1.0, 2.0, 3.0]), allow_nan=True)
    assert next(iter(batches)).weights.tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(InputError, match="NaN at row 4, column 1"):
        list(read_sequences(given)[0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([np.zeros((2, 3)), np.zeros((0, 3))], "sequence 1 is empty"),
        ([np.zeros((2, 3)), np.zeros((2, 2))], "sequence 1 has 2 columns where sequence 0 has 3"),
        ([np.zeros((2, 0))], "sequence 0 has no columns"),
        ([np.zeros((2, 1)), np.array([["a"]])], "sequence 1 holds values of type <U1, which are not numbers"),
        (np.zeros((2, 0, 3)), r"X has shape \(2, 0, 3\)"),
        (np.zeros((0, 2, 3)), r"X has shape \(0, 2, 3\)"),
    ],
)
def test_sequences_that_cannot_be_used(given, message):
    with pytest.raises(InputError, match=message):
        read_sequences(given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([np.zeros((2, 1))], True),
        ((np.zeros((2, 1)), torch.zeros(3, 1)), True),
        (np.zeros((2, 3, 1)), True),
        (torch.zeros(2, 3, 1), True),
        (np.zeros((2, 3)), False),
        ([[1.0, 2.0]], False),
        ([np.zeros(2)], False),
        ([], False),
        (None, False),
    ],
)
def test_what_counts_as_many_sequences(given, expected):
    assert is_many_sequences(given) is expected


# ---- numbers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floating_point_arrays_stay_what_they_are(dtype):
    array = np.ones((2, 2), dtype=dtype)
    assert as_numeric(array) is array


@pytest.mark.parametrize(
    "given", [[[1, 2]], np.array([[1, 2]], dtype=np.uint8), np.array([["1", "2"]]), np.array([[1, 2]], dtype=object)]
)
def test_what_reads_as_numbers_becomes_double_precision(given):
    array = as_numeric(given)
    assert array.dtype == np.float64
    assert_array_equal(array, [[1.0, 2.0]])


def test_tensors_are_cut_from_their_graph():
    given = torch.ones(2, 2, requires_grad=True)
    assert not as_numeric(given).requires_grad
    assert as_numeric(torch.ones(2, dtype=torch.int32)).dtype == torch.float64
    assert as_numeric(torch.ones(2, dtype=torch.float32)).dtype == torch.float32


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.array([[1j]]), "values holds complex numbers"),
        (np.array([["x"]]), "values holds values of type <U1"),
        (np.array([[{}]], dtype=object), "values holds values of type object"),
    ],
)
def test_what_are_not_numbers(given, message):
    with pytest.raises(InputError, match=message):
        as_numeric(given, "values")


def test_read_only_and_reversed_arrays_are_taken_without_a_word(recwarn):
    given = np.arange(6.0).reshape(3, 2)
    given.setflags(write=False)
    assert_array_equal(as_rows(given).read(0, 3), given)
    assert_array_equal(as_rows(given[::-1]).read(0, 3), given[::-1])
    assert_array_equal(as_rows(given[:, ::-1]).read(1, 2), given[1:2, ::-1])
    assert_array_equal(as_rows(np.asfortranarray(given)).read(1, 3), given[1:3])
    assert not recwarn.list


# ---- back to the shape of what was given ---------------------------------------------------------------------------------


def test_results_of_steps_come_back_in_the_form_of_the_data():
    per_step = torch.arange(8.0)
    offsets = np.array([0, 3, 4, 8])
    as_list = Layout("list", offsets, tensor=False).per_step(per_step)
    assert [each.tolist() for each in as_list] == [[0, 1, 2], [3], [4, 5, 6, 7]]
    assert all(isinstance(each, np.ndarray) for each in as_list)
    stack = Layout("stack", np.array([0, 4, 8]), tensor=False)
    assert stack.per_step(per_step).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert stack.per_step(torch.zeros(8, 5)).shape == (2, 4, 5)
    assert Layout("array", offsets, tensor=False).per_step(per_step).tolist() == per_step.tolist()
    assert Layout("batches", offsets, tensor=False).per_step(torch.zeros(8, 5)).shape == (8, 5)


def test_results_of_items_are_one_array():
    for form in ("array", "list", "stack", "batches"):
        found = Layout(form, np.array([0, 1, 2]), tensor=False).per_item(torch.tensor([1.0, 2.0]))
        assert isinstance(found, np.ndarray)
        assert found.tolist() == [1.0, 2.0]


# ---- lengths and weights -------------------------------------------------------------------------------------------------


def test_offsets_are_running_sums():
    found = offsets_of([3, 1, 4])
    assert found.tolist() == [0, 3, 4, 8]
    assert found.dtype == np.int64
    assert offsets_of([]).tolist() == [0]


def test_lengths_that_cover_the_rows_are_taken():
    assert check_lengths([3, 1, 4], 8).tolist() == [3, 1, 4]
    assert check_lengths(np.array([8], dtype=np.uint8), 8).tolist() == [8]


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([3, 4], "lengths sum to 7 where X has 8 rows"),
        ([3, 6], "lengths sum to 9"),
        ([3, 0, 5], r"lengths\[1\] is 0"),
        ([3, -1, 6], r"lengths\[1\] is -1"),
        ([4.0, 4.0], "type float64; expected a list of whole numbers"),
        ([[4, 4]], r"shape \(1, 2\)"),
        (8, r"shape \(\)"),
        (["4", "4"], "expected a list of whole numbers"),
        ([True, True], "type bool"),
    ],
)
def test_lengths_that_do_not_fit(lengths, message):
    with pytest.raises(InputError, match=message):
        check_lengths(lengths, 8)


@pytest.mark.parametrize(
    "given", [[1, 0, 2], np.array([1, 0, 2], dtype=np.float32), torch.tensor([1.0, 0.0, 2.0], requires_grad=True)]
)
def test_weights_become_double_precision(given):
    found = check_weights(given, 3)
    assert found.dtype == np.float64
    assert found.tolist() == [1.0, 0.0, 2.0]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, 2.0], r"shape \(2,\); expected one weight for each of the 3 items"),
        ([[1.0, 2.0, 3.0]], r"shape \(1, 3\)"),
        ([1.0, -1.0, 1.0], "a negative, NaN or infinite weight"),
        ([1.0, np.nan, 1.0], "a negative, NaN or infinite weight"),
        ([1.0, np.inf, 1.0], "a negative, NaN or infinite weight"),
        ([0.0, 0.0, 0.0], "zero for every item"),
    ],
)
def test_weights_that_do_not_fit(weights, message):
    with pytest.raises(InputError, match=message):
        check_weights(weights, 3)
