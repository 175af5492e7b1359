"""Labels as users give them: what they become, and what is said where they are wrong."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.preprocessing import LabelEncoder

from unveil.data.batch import Batches
from unveil.data.labels import has_unknown, read_classes, read_labels
from unveil.data.layout import as_rows, offsets_of
from unveil.errors import InputError
from unveil.models.gaussian_hmm import GaussianHMM
from unveil.models.gaussian_mixture import GaussianMixture
from unveil.models.mixture_of_hmms import MixtureOfHMMs

LENGTHS = [3, 1, 4]
PARTS = [[0, 1, -1], [2], [-1, -1, 0, 2]]
FLAT = [0, 1, -1, 2, -1, -1, 0, 2]


def ragged():
    return Batches(as_rows(np.zeros((8, 2))), offsets_of(LENGTHS))


def points(n=8):
    return Batches(as_rows(np.zeros((n, 2))))


@pytest.mark.parametrize(
    "y",
    [
        PARTS,
        tuple(np.array(part) for part in PARTS),
        [np.array(part)[:, None] for part in PARTS],
        [torch.tensor(part) for part in PARTS],
        FLAT,
        np.array(FLAT, dtype=np.int8),
        np.array(FLAT, dtype=float),
        torch.tensor(FLAT),
    ],
    ids=["lists", "arrays", "columns", "tensors", "flat list", "int8", "whole floats", "flat tensor"],
)
def test_labels_of_steps(y):
    labels = read_labels(y, ragged(), 3, each="step")
    assert_array_equal(labels, FLAT)
    assert labels.dtype == np.int64


def test_labels_of_items_are_spread_over_their_steps():
    assert_array_equal(read_labels([2, -1, 0], ragged(), 3, each="item"), [2, 2, 2, -1, 0, 0, 0, 0])
    assert_array_equal(read_labels(FLAT, points(), 3, each="item"), FLAT)


def test_booleans_are_two_classes():
    assert_array_equal(read_labels([True, False, True], ragged(), 2, each="item"), [1, 1, 1, 0, 1, 1, 1, 1])


def changed(index, value):
    labels = np.array(FLAT, dtype=float)
    labels[index] = value
    return labels


@pytest.mark.parametrize(
    ("y", "each", "message"),
    [
        (FLAT[:-1], "step", "y has 7 labels for 8 steps"),
        ([0, 1], "item", "y has 2 labels for 3 items"),
        ([PARTS[0], [2, 2], PARTS[2]], "step", "y has 2 labels for sequence 1, which has 1 steps"),
        (PARTS[:2], "step", "y has 4 labels for 8 steps"),
        (changed(6, 3), "step", "y holds 3 at step 2 of sequence 2; expected 0 to 2, or -1"),
        (changed(3, -2), "step", "y holds -2 at step 0 of sequence 1"),
        ([0, 5, 1], "item", "y holds 5 at item 1"),
        (changed(5, 0.5), "step", r"y holds 0.5 at step 1 of sequence 2; number the classes"),
        (changed(0, np.nan), "step", "y holds nan at step 0 of sequence 0"),
        ([0, np.inf, 1], "item", "y holds inf at item 1"),
        (["a", "b", "a"], "item", "number the classes 0, 1"),
        ([0, None, 1], "item", "number the classes 0, 1"),
    ],
)
def test_bad_labels_are_named(y, each, message):
    with pytest.raises(InputError, match=message) as caught:
        read_labels(y, ragged(), 3, each=each)
    assert "\n" not in str(caught.value)


def test_bad_label_of_a_single_sequence_or_point():
    single = Batches(as_rows(np.zeros((8, 2))), offsets_of([8]))
    with pytest.raises(InputError, match="y holds 3 at step 6; expected 0 to 1"):
        read_labels(np.where(np.arange(8) == 6, 3, 1), single, 2, each="step")
    with pytest.raises(InputError, match="y holds 3 at item 6; expected 0, or -1"):
        read_labels(np.where(np.arange(8) == 6, 3, 0), points(), 1, each="item")


@pytest.mark.parametrize(
    ("y", "expected"),
    [([0, 1, -1], True), ([0.0, -1.0], True), ([0, 1], False), (["-1", "a"], False), ([True, False], False), ([], False)],
)
def test_unknown_labels_are_numbers(y, expected):
    assert has_unknown(y) is expected


@pytest.mark.parametrize("y", [["b", "a", "b", "c"], [7, 3, 3, 12], [2.0, 1.0, 2.0, 5.0], [True, False, True, True]], ids=str)
def test_classes_are_those_of_a_label_encoder(y):
    classes, numbers = read_classes(y, 4)
    encoder = LabelEncoder()
    assert_array_equal(numbers, encoder.fit_transform(y))
    assert_array_equal(classes, encoder.classes_)


def test_unknown_classes():
    classes, numbers = read_classes([-1, 4, 9, -1, 4], 5)
    assert_array_equal(classes, [4, 9])
    assert_array_equal(numbers, [-1, 0, 1, -1, 0])
    names, numbers = read_classes(["-1", "a", "b"], 3)  # a name is a name
    assert_array_equal(names, ["-1", "a", "b"])
    assert_array_equal(numbers, [0, 1, 2])


def test_minus_one_and_one_are_two_classes():
    classes, numbers = read_classes([-1, 1, 1], 3)
    assert_array_equal(classes, [-1, 1])
    assert_array_equal(numbers, [0, 1, 1])


@pytest.mark.parametrize(("y", "message"), [([1, 2], "y has 2 labels for 3 items"), ([-1, -1, -1], "no class that is known")])
def test_bad_classes(y, message):
    with pytest.raises(InputError, match=message):
        read_classes(y, 3)


def data(n=12):
    return np.random.default_rng(0).normal(size=(n, 2))


def test_estimators_say_where():
    with pytest.raises(InputError, match="y holds 4 at step 3; expected 0 to 1"):
        GaussianHMM(2).fit(data(), np.where(np.arange(12) == 3, 4, 0))
    with pytest.raises(InputError, match="y has 5 labels for sequence 1, which has 6 steps"):
        GaussianHMM(2).fit([data(6), data(6)], [np.zeros(6, int), np.zeros(5, int)])
    with pytest.raises(InputError, match="y has 11 labels for 12 steps"):
        GaussianHMM(2).fit(data(), np.zeros(11, int))
    with pytest.raises(InputError, match="y holds 2 at item 1"):
        MixtureOfHMMs(2, 1).fit([data(6), data(6)], [0, 2])
    with pytest.raises(InputError, match=r"y holds 1\.5 at item 2"):
        GaussianMixture(2).fit(data(), np.where(np.arange(12) == 2, 1.5, -1.0))


def test_complete_labels_are_ignored_by_clustering():
    X, y = data(200), np.arange(200) % 2
    with_labels, without = (GaussianMixture(2, random_state=0).fit(X, labels) for labels in (y, None))
    assert_array_equal(with_labels.means_, without.means_)
    strings = GaussianMixture(2, random_state=0).fit(X, np.where(y, "a", "b"))
    assert_array_equal(strings.means_, without.means_)
    partly = GaussianMixture(2, random_state=0).fit(X, np.where(np.arange(200) < 150, y, -1))
    assert not np.allclose(partly.means_, without.means_)
    halves = np.array([X[:150][y[:150] == k].mean(0) for k in (0, 1)])
    assert np.linalg.norm(partly.means_ - halves) < np.linalg.norm(partly.means_ - halves[::-1])
