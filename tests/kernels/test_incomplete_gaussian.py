"""Gaussians with gaps in the data: against scipy on what is observed, and against the textbook's conditional moments row by row."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal

from unveil.kernels import incomplete_gaussian
from unveil.kernels.gaussian import COVARIANCE_TYPES, n_quadratic, natural_parameters, quadratic_features, symmetric
from unveil.kernels.incomplete_gaussian import (
    available_moments,
    conditional_means,
    expected_moments,
    has_missing,
    incomplete,
    log_density,
)

TYPES = pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
MATRICES = pytest.mark.parametrize("covariance_type", ["full", "tied"])
SIZES = pytest.mark.parametrize(("n_components", "n_features"), [(1, 1), (3, 1), (1, 4), (3, 4)])


def random_covariances(rng, n_components, n_features, covariance_type):
    root = rng.normal(size=(n_components, n_features, n_features))
    full = root @ np.swapaxes(root, 1, 2) + 0.1 * np.eye(n_features)
    return {
        "full": full,
        "tied": full[0],
        "diag": rng.gamma(2.0, size=(n_components, n_features)),
        "spherical": rng.gamma(2.0, size=n_components),
    }[covariance_type]


def as_matrix(covariances, k, n_features, covariance_type):
    return {
        "full": lambda: covariances[k],
        "tied": lambda: covariances,
        "diag": lambda: np.diag(covariances[k]),
        "spherical": lambda: covariances[k] * np.eye(n_features),
    }[covariance_type]()


class Example:
    """Rows with gaps, of which one is complete and one has nothing; densities; and responsibilities with weights in them."""

    def __init__(self, n_components, n_features, covariance_type, n_rows=25, missing=0.4, seed=0):
        rng = np.random.default_rng(seed)
        self.kind, self.n_features = covariance_type, n_features
        self.x = rng.normal(size=(n_rows, n_features))
        gaps = rng.random(self.x.shape) < missing
        gaps[0], gaps[1] = False, True
        self.x[gaps] = np.nan
        self.means = rng.normal(size=(n_components, n_features))
        self.covariances = random_covariances(rng, n_components, n_features, covariance_type)
        self.responsibilities = rng.dirichlet(np.ones(n_components), n_rows) * rng.integers(1, 3, n_rows)[:, None]

    @property
    def tensors(self):
        return torch.from_numpy(self.means), torch.from_numpy(self.covariances)

    def data(self, rows=slice(None), center=None):
        center = np.zeros(self.n_features) if center is None else center
        return incomplete(torch.from_numpy(self.x[rows]), torch.from_numpy(center), self.kind)

    def moments(self, rows=slice(None)):
        return expected_moments(self.data(rows), torch.from_numpy(self.responsibilities[rows]), *self.tensors, self.kind)

    def conditional(self, n, k):
        """E[x | x_o, k] and Cov[x | x_o, k] of a row, by solving for it alone."""
        o = ~np.isnan(self.x[n])
        sigma = as_matrix(self.covariances, k, self.n_features, self.kind)
        gain = np.linalg.solve(sigma[np.ix_(o, o)], sigma[np.ix_(o, ~o)]).T if o.any() else np.zeros((self.n_features, 0))
        mean, covariance = self.x[n].copy(), np.zeros_like(sigma)
        mean[~o] = self.means[k, ~o] + gain @ (self.x[n, o] - self.means[k, o])
        covariance[np.ix_(~o, ~o)] = sigma[np.ix_(~o, ~o)] - gain @ sigma[np.ix_(o, ~o)]
        return mean, covariance


@TYPES
@SIZES
@pytest.mark.parametrize("center", [0.0, 0.7])
def test_densities_are_those_of_what_is_observed(covariance_type, n_components, n_features, center):
    case = Example(n_components, n_features, covariance_type)
    means, covariances = case.tensors
    center = np.full(n_features, center)
    found = log_density(case.data(center=center), means - torch.from_numpy(center), covariances, covariance_type)
    assert found.shape == (25, n_components)
    for n, x in enumerate(case.x):
        o = ~np.isnan(x)
        for k, mean in enumerate(case.means):
            sigma = as_matrix(case.covariances, k, n_features, covariance_type)[np.ix_(o, o)]
            expected = multivariate_normal(mean[o], sigma).logpdf(x[o]) if o.any() else 0.0
            assert_allclose(found[n, k], expected, rtol=1e-10, atol=1e-10)
    assert_array_equal(found[1], np.zeros(n_components))  # exactly: nothing is observed


@MATRICES
@SIZES
def test_moments_are_sums_of_conditional_ones(covariance_type, n_components, n_features):
    case = Example(n_components, n_features, covariance_type)
    count, entries, first, second = case.moments()
    seen = ~np.isnan(case.x).all(1)
    weights = case.responsibilities * seen[:, None]
    assert_allclose(count, weights.sum(0), rtol=1e-12, atol=0)
    assert_allclose(entries, np.repeat(weights.sum(0)[:, None], n_features, 1), rtol=1e-12, atol=0)
    for k in range(n_components):
        mean, square = np.zeros(n_features), np.zeros((n_features, n_features))
        for n, weight in enumerate(weights[:, k]):
            m, c = case.conditional(n, k)
            mean, square = mean + weight * m, square + weight * (np.outer(m, m) + c)
        assert_allclose(first[k], mean, rtol=1e-10, atol=1e-10)
        assert_allclose(symmetric(second[k], n_features), square, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("covariance_type", ["diag", "spherical"])
@SIZES
def test_moments_of_independent_features_leave_gaps_out(covariance_type, n_components, n_features):
    case = Example(n_components, n_features, covariance_type)
    count, entries, first, second = case.moments()
    seen, r = ~np.isnan(case.x), case.responsibilities
    squares = r.T @ np.nan_to_num(case.x) ** 2
    assert_allclose(count, r[seen.any(1)].sum(0), rtol=1e-12, atol=0)
    assert_allclose(entries, r.T @ seen, rtol=1e-12, atol=0)
    assert_allclose(first, r.T @ np.nan_to_num(case.x), rtol=1e-12, atol=1e-12)
    assert_allclose(second, squares if covariance_type == "diag" else squares.sum(1, keepdims=True), rtol=1e-12, atol=1e-12)


@TYPES
@SIZES
def test_what_is_missing_is_expected_from_what_is_not(covariance_type, n_components, n_features):
    case = Example(n_components, n_features, covariance_type)
    r = case.responsibilities / case.responsibilities.sum(1, keepdims=True)
    means, covariances = case.tensors
    found = conditional_means(case.data(), torch.from_numpy(r), means, covariances).numpy()
    expected = np.stack([sum(r[n, k] * case.conditional(n, k)[0] for k in range(n_components)) for n in range(25)])
    gaps = np.isnan(case.x)
    assert_allclose(found[gaps], expected[gaps], rtol=1e-10, atol=1e-10)


@TYPES
@SIZES
def test_without_gaps_it_is_the_complete_case(covariance_type, n_components, n_features):
    case = Example(n_components, n_features, covariance_type)
    case.x = np.random.default_rng(1).normal(size=case.x.shape)
    r, (means, covariances) = torch.from_numpy(case.responsibilities), case.tensors
    features = quadratic_features(torch.from_numpy(case.x), torch.zeros(n_features).double(), covariance_type)
    natural, constant = natural_parameters(means, covariances, covariance_type)
    found = log_density(case.data(), means, covariances, covariance_type)
    assert_allclose(found, features @ natural.T + constant, rtol=1e-12, atol=1e-11)
    count, entries, first, second = case.moments()
    moments, n_products = r.T @ features, n_quadratic(n_features, covariance_type)
    assert_allclose(count, r.sum(0), rtol=1e-13, atol=0)
    assert_allclose(entries, r.sum(0)[:, None].expand(-1, n_features), rtol=1e-13, atol=0)
    assert_allclose(first, moments[:, n_products:], rtol=1e-12, atol=1e-12)
    assert_allclose(second, moments[:, :n_products], rtol=1e-12, atol=1e-12)


@TYPES
def test_moments_of_parts_add_up(covariance_type):
    case = Example(3, 4, covariance_type, n_rows=60)
    parts = [case.moments(rows) for rows in (slice(7), slice(7, 8), slice(8, None))]
    for whole, *each in zip(case.moments(), *parts, strict=True):
        assert_allclose(sum(each), whole, rtol=1e-12, atol=1e-12)


@MATRICES
def test_small_pieces_of_memory_give_the_same(covariance_type, monkeypatch):
    case = Example(3, 4, covariance_type, n_rows=300)
    means, covariances = case.tensors

    def everything():
        r = torch.from_numpy(case.responsibilities)
        return [
            log_density(case.data(), means, covariances, covariance_type),
            *case.moments(),
            conditional_means(case.data(), r, means, covariances),
        ]

    at_once = everything()
    monkeypatch.setattr(incomplete_gaussian, "_CHUNK", 1)
    assert len(list(incomplete_gaussian._chunks(case.data().patterns, 3))) > 16  # patterns of many rows are divided, too
    for one, other in zip(at_once, everything(), strict=True):
        assert_allclose(one, other, rtol=1e-11, atol=1e-11)


@TYPES
def test_densities_differentiate_through_gaps(covariance_type):
    """Against finite differences: no NaN of the data gets into a gradient."""
    case = Example(2, 3, covariance_type, n_rows=6)
    data = case.data()

    def density(means, covariances):
        if covariance_type in ("full", "tied"):
            covariances = (covariances + covariances.mT) / 2
        return log_density(data, means, covariances, covariance_type)

    assert torch.autograd.gradcheck(density, [each.clone().requires_grad_() for each in case.tensors])


# ---- grouping ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_features", [1, 5, 32, 33, 70])
def test_rows_are_grouped_by_what_is_observed(n_features):
    rng = np.random.default_rng(n_features)
    distinct = rng.random((9, n_features)) < 0.5
    x = np.where(distinct[rng.integers(9, size=100)], 1.0 + np.arange(100.0)[:, None], np.nan)
    patterns = incomplete(torch.from_numpy(x), torch.zeros(n_features).double(), "full").patterns
    expected = np.unique(~np.isnan(x), axis=0)
    assert_array_equal(np.unique(patterns.observed.numpy(), axis=0), expected)
    assert len(patterns.observed) == len(expected)
    slots = patterns.features.flatten(0, 1)
    assert len(set(patterns.slot.tolist())) == 100
    assert len(slots) <= 2 * 100 + len(expected)
    assert_array_equal(slots[patterns.slot, -n_features:], np.nan_to_num(x))
    block = patterns.slot // patterns.features.shape[1]
    assert_array_equal(patterns.observed[patterns.pattern[block]], ~np.isnan(x))


def test_two_columns_that_differ_only_beyond_the_first_32():
    x = torch.ones(4, 40, dtype=torch.float64)
    x[0, 35] = x[1, 3] = x[2, 35] = torch.nan
    patterns = incomplete(x, torch.zeros(40).double(), "full").patterns
    assert len(patterns.observed) == 3


# ---- what is there -------------------------------------------------------------------------------------------------------


def test_gaps_are_noticed_and_infinities_are_none():
    assert not has_missing(torch.ones(3, 2))
    assert has_missing(torch.tensor([[1.0, torch.nan]]))
    assert not has_missing(torch.tensor([[torch.inf, -torch.inf]]))  # their sum is NaN
    assert not has_missing(torch.ones(3, 2, dtype=torch.int64))


def test_moments_of_the_available_values():
    rng = np.random.default_rng(2)
    x, counts = rng.normal(size=(30, 3)) + 5, rng.integers(0, 4, 30)
    x[rng.random(x.shape) < 0.3] = np.nan
    x[:, 2] = np.nan
    mean, variance, weight = available_moments(torch.from_numpy(x), torch.from_numpy(counts).double())
    repeated = np.repeat(x, counts, axis=0)[:, :2]
    assert_allclose(mean[:2], np.nanmean(repeated, axis=0), rtol=1e-12, atol=0)
    assert_allclose(variance[:2], np.nanvar(repeated, axis=0), rtol=1e-12, atol=0)
    assert_array_equal(weight, [*np.sum(~np.isnan(repeated), axis=0), 0])


def test_inputs_are_left_as_they_are():
    case = Example(2, 3, "full")
    before = case.x.copy(), case.responsibilities.copy()
    case.moments()
    assert_array_equal(case.x, before[0])
    assert_array_equal(case.responsibilities, before[1])
