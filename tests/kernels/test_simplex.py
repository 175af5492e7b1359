"""Functions of the probability simplex against scipy, and at the ends of the number range."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp, softmax

from unveil.kernels.simplex import normalize, normalize_log_


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("n_classes", [1, 2, 7])
def test_responsibilities_and_evidence(scale, n_classes):
    log_joint = scale * np.random.default_rng(0).normal(size=(50, n_classes))
    responsibilities = torch.from_numpy(log_joint.copy())
    log_evidence = normalize_log_(responsibilities)
    assert_allclose(log_evidence, logsumexp(log_joint, axis=1), rtol=1e-14, atol=1e-14)
    assert_allclose(responsibilities, softmax(log_joint, axis=1), rtol=1e-11, atol=1e-300)


def test_responsibilities_where_classes_are_impossible():
    log_joint = torch.tensor([[-torch.inf, 0.0, 0.0], [-torch.inf, -torch.inf, -800.0], [-torch.inf] * 3])
    log_evidence = normalize_log_(log_joint)
    assert_allclose(log_evidence, [np.log(2.0), -800.0, -np.inf], rtol=1e-6, atol=0)
    assert log_joint.tolist() == [[0.0, 0.5, 0.5], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]


def test_counts_become_probabilities():
    counts = torch.tensor([[1.0, 3.0], [0.0, 5.0], [1e-30, 3e-30]], dtype=torch.float64)
    assert_allclose(normalize(counts), [[0.25, 0.75], [0.0, 1.0], [0.25, 0.75]], rtol=1e-14, atol=0)


def test_a_row_without_counts_keeps_what_it_had_or_is_even():
    counts = torch.tensor([[0.0, 0.0, 0.0, 0.0], [2.0, 2.0, 4.0, 0.0]], dtype=torch.float64)
    previous = torch.tensor([[0.1, 0.2, 0.3, 0.4], [1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    assert normalize(counts).tolist() == [[0.25] * 4, [0.25, 0.25, 0.5, 0.0]]
    assert normalize(counts, previous).tolist() == [[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.5, 0.0]]


@pytest.mark.parametrize("total", [1e-307, 3e-308, 2e-308, 1e-310, 5e-324])
def test_probabilities_sum_to_one_however_few_counts_there_are(total):
    counts = torch.tensor([[total / 2, total / 2], [1.0, 1.0]], dtype=torch.float64)
    assert_allclose(normalize(counts).sum(-1), [1.0, 1.0], rtol=1e-12, atol=0)
    previous = torch.tensor([[0.25, 0.75], [0.5, 0.5]], dtype=torch.float64)
    assert_allclose(normalize(counts, previous).sum(-1), [1.0, 1.0], rtol=1e-12, atol=0)


def test_along_the_last_axis_of_more_than_two():
    counts = np.random.default_rng(1).gamma(1.0, size=(2, 3, 4))
    assert_allclose(normalize(torch.from_numpy(counts)), counts / counts.sum(-1, keepdims=True), rtol=1e-14, atol=0)


def test_counts_are_not_written_to():
    counts = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    normalize(counts)
    assert_array_equal(counts, [[1.0, 3.0], [0.0, 0.0]])
