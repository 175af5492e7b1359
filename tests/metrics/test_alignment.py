"""Alignment of paths of states: beside all permutations, and where labels leave it open."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from unveil.errors import InputError
from unveil.metrics.alignment import align_states


def test_a_permutation_is_found_again():
    rng = np.random.default_rng(0)
    path = rng.integers(0, 5, size=200)
    permutation = rng.permutation(5)
    other = permutation[path]  # state k is called permutation[k] there
    assert_array_equal(align_states(path, other), permutation)
    assert_array_equal(np.argsort(align_states(path, other))[other], path)


@pytest.mark.parametrize("seed", range(10))
def test_no_permutation_agrees_in_more_steps(seed):
    rng = np.random.default_rng(seed)
    reference, other = rng.integers(0, 4, size=(2, 25))
    found = np.sum(align_states(reference, other)[reference] == other)
    best = max(np.sum(np.array(p)[reference] == other) for p in itertools.permutations(range(4)))
    assert found == best


def test_lists_of_paths_of_different_lengths():
    reference = [np.array([0, 0, 1]), np.array([2]), np.array([1, 2])]
    other = [np.array([1, 1, 2]), np.array([0]), np.array([2, 0])]
    assert_array_equal(align_states(reference, other), [1, 2, 0])
    assert_array_equal(align_states([[0, 0, 1], [2], [1, 2]], [[1, 1, 2], [0], [2, 0]]), [1, 2, 0])


def test_a_table_of_paths_is_as_good_as_a_list():
    reference, other = np.array([[0, 1, 1], [2, 2, 0]]), np.array([[2, 0, 0], [1, 1, 2]])
    assert_array_equal(align_states(reference, other), [2, 0, 1])


def test_unknown_states_do_not_count():
    assert_array_equal(align_states([0, 1, -1, -1, -1], [1, 0, 0, 1, 1]), [1, 0])
    assert_array_equal(align_states([0, 1, 0, 1, 1], [1, 0, -1, -1, -1]), [1, 0])


def test_states_that_are_never_there_keep_their_numbers():
    assert_array_equal(align_states([0, 0, 5], [0, 0, 5]), range(6))
    assert_array_equal(align_states([0, 1, 4], [1, 0, 4]), [1, 0, 2, 3, 4])


def test_where_several_permutations_agree_equally_most_states_keep_their_numbers():
    assert_array_equal(align_states([1, 1, 2, 2, 0], [0, 2, 2, 0, 0]), [0, 1, 2])


def test_one_labelling_may_have_more_states():
    assert_array_equal(align_states([0, 0, 1, 1, 1], [2, 2, 0, 0, 1]), [2, 0, 1])
    assert_array_equal(align_states([2, 2, 0, 0, 1], [0, 0, 1, 1, 1]), [1, 2, 0])


@pytest.mark.parametrize(
    ("reference", "other", "message"),
    [
        ([0, 1], [0, 1, 1], "paths of lengths"),
        ([[0, 1], [0]], [[0], [1, 0]], "paths of lengths"),
        ([0.5, 1.0], [0, 1], "reference holds a path of shape"),
        ([0, 1], ["a", "b"], "other holds a path of shape"),
        ([-1, 0], [0, -1], "share no step"),
        ([], [], "reference holds a path"),
    ],
)
def test_what_is_no_pair_of_paths_is_refused(reference, other, message):
    with pytest.raises(InputError, match=message):
        align_states(reference, other)
