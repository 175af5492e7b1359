"""Checks of parameters: what passes, and what is said of what does not."""

import re

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from unveil.core.constraints import (
    as_covariances,
    as_probabilities,
    as_shape,
    boolean,
    choice,
    integer,
    optional,
    real,
)
from unveil.errors import ParameterError

NAN, INF = float("nan"), float("inf")

ACCEPTED = [
    (integer(1), [1, 7, np.int32(3), np.uint8(1), 10**30]),
    (integer(-2), [-2, 0]),
    (real(0.0), [0, 0.0, 2.5, np.float32(1.0), np.int64(3)]),
    (real(0.0, 1.0), [0.0, 1, 0.5]),
    (real(0.0, open_below=True), [1e-300, 2]),
    (choice("full", "diag"), ["full", "diag", np.str_("full")]),
    (choice("random", None, 2), ["random", None, 2]),
    (optional(integer(1)), [None, 1]),
    (boolean, [True, False, 0, 1, np.True_]),
]
REFUSED = [
    (integer(1), [0, -3, 1.0, "1", None, True, NAN, np.float64(2.0)], "expected a whole number >= 1"),
    (integer(0), [-1, False, [1]], "expected a whole number >= 0"),
    (real(0.0), [-1e-9, NAN, INF, -INF, "0", None, True, 1j, [0.0]], "expected a number >= 0.0"),
    (real(0.0, 1.0), [1.0001, -0.1, NAN], "expected a number >= 0.0 and <= 1.0"),
    (real(0.0, open_below=True), [0.0, 0, -1], "expected a number > 0.0"),
    (choice("full", "diag"), ["Full", "", None, 0, ["full"]], "expected one of 'full', 'diag'"),
    (choice("a", 0, 1), [True, False, 2, 0.0, "1"], "expected one of 'a', 0, 1"),
    (optional(integer(1)), [0, "None"], "expected a whole number >= 1"),
    (boolean, [2, None, "True", ""], "expected True or False"),
]


@pytest.mark.parametrize(("check", "value"), [(check, value) for check, values in ACCEPTED for value in values])
def test_what_passes(check, value):
    assert check("x", value) is None


@pytest.mark.parametrize(("check", "value", "message"), [(check, v, message) for check, values, message in REFUSED for v in values])
def test_what_does_not_pass_is_named_with_the_remedy(check, value, message):
    with pytest.raises(ParameterError, match=f"^{re.escape(f'n_things={value!r}: {message}')}$"):
        check("n_things", value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_starting_values_are_copied_in_double_precision(dtype):
    given = np.ones((2, 3), dtype=dtype)
    found = as_shape("means_init", given, (2, 3))
    given[0, 0] = 5.0
    assert found.dtype == torch.float64
    assert found.tolist() == [[1.0] * 3] * 2
    assert as_shape("means_init", [[1, 2]], (1, 2)).tolist() == [[1.0, 2.0]]
    assert as_shape("means_init", torch.ones(1, 2), (1, 2)).tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ones((3, 2)), "means_init has shape (3, 2); expected (2, 3)"),
        (np.ones(6), "means_init has shape (6,); expected (2, 3)"),
        (1.0, "means_init has shape (); expected (2, 3)"),
        (np.full((2, 3), NAN), "means_init holds NaN or infinity; expected finite numbers"),
        (np.full((2, 3), INF), "means_init holds NaN or infinity; expected finite numbers"),
    ],
)
def test_starting_values_of_another_shape(value, message):
    with pytest.raises(ParameterError, match=f"^{re.escape(message)}$"):
        as_shape("means_init", value, (2, 3))


def test_probabilities_are_made_to_sum_to_one_exactly():
    found = as_probabilities("weights", [[0.5, 0.5], [1 / 3, 2 / 3 + 5e-7]], (2, 2))
    assert_allclose(found.sum(1), [1.0, 1.0], rtol=1e-15, atol=0)
    assert_allclose(found[0], [0.5, 0.5], rtol=1e-15, atol=0)
    assert as_probabilities("weights", [1.0, 0.0], (2,)).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("value", [[0.5, 0.4], [0.5, 0.50001], [1.5, -0.5], [0.0, 0.0], [2.0, 2.0]])
def test_what_are_no_probabilities(value):
    with pytest.raises(ParameterError, match=r"weights has sums .* expected probabilities that sum to 1"):
        as_probabilities("weights", value, (2,))


@pytest.mark.parametrize(
    ("value", "covariance_type"),
    [
        ([[[2.0, 0.5], [0.5, 1.0]]], "full"),
        ([[2.0, 0.5], [0.5, 1.0]], "tied"),
        ([[2.0, 0.5]], "diag"),
        ([2.0], "spherical"),
    ],
)
def test_covariances_that_pass_come_back(value, covariance_type):
    assert as_covariances("covariances", value, np.shape(value), covariance_type).tolist() == value


@pytest.mark.parametrize(
    ("value", "covariance_type", "message"),
    [
        ([[[1.0, 2.0], [2.0, 1.0]]], "full", "is not symmetric and positive definite"),
        ([[[1.0, 0.5], [0.2, 1.0]]], "full", "is not symmetric and positive definite"),
        ([[1.0, 0.0], [0.0, 0.0]], "tied", "is not symmetric and positive definite"),
        ([[1.0, 0.0]], "diag", "holds a number that is not positive"),
        ([-1.0], "spherical", "holds a number that is not positive"),
    ],
)
def test_what_are_no_covariances(value, covariance_type, message):
    with pytest.raises(ParameterError, match=f"covariances {message}"):
        as_covariances("covariances", value, np.shape(value), covariance_type)


def test_covariances_of_another_shape():
    with pytest.raises(ParameterError, match=re.escape("covariances has shape (2,); expected (2, 2)")):
        as_covariances("covariances", [1.0, 1.0], (2, 2), "tied")
