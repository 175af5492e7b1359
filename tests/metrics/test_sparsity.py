"""Hoyer's sparsity against its definition and its extremes."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from unveil.errors import IdentifiabilityWarning, InputError
from unveil.metrics.sparsity import hoyer

pytestmark = pytest.mark.filterwarnings("error")


def by_definition(code):
    root = np.sqrt(len(code))
    return (root - np.abs(code).sum() / np.sqrt((code**2).sum())) / (root - 1)


def test_hoyer_of_each_code_is_its_definition():
    codes = np.random.default_rng(0).normal(size=(4, 5, 7))
    expected = [[by_definition(code) for code in row] for row in codes]
    assert_allclose(hoyer(codes), expected, rtol=1e-12, atol=0)
    assert_allclose(hoyer(np.moveaxis(codes, 2, 0), axis=0), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("n_dimensions", [2, 3, 64])
def test_one_hot_is_1_and_constant_is_0(n_dimensions):
    assert_allclose(hoyer(-3 * np.eye(n_dimensions)), 1.0, rtol=1e-12, atol=0)
    assert_allclose(hoyer(np.full((2, n_dimensions), -0.3)), 0.0, rtol=0, atol=1e-12)
    assert 0 <= hoyer(np.full(n_dimensions, 0.1)) <= 1


@pytest.mark.parametrize("scale", [1e-300, 1e200])
def test_scale_does_not_matter_without_overflow(scale):
    codes = np.random.default_rng(1).normal(size=(6, 5))
    assert_allclose(hoyer(scale * codes), hoyer(codes), rtol=1e-12, atol=0)
    assert_allclose(hoyer(scale * codes, scaled=True), hoyer(codes, scaled=True), rtol=1e-12, atol=0)


def test_scaled_divides_each_dimension_by_its_root_mean_square():
    codes = np.random.default_rng(2).normal(size=(3, 20, 8))
    rms = np.sqrt((codes**2).mean((0, 1)))
    assert_allclose(hoyer(codes, scaled=True), hoyer(codes / rms), rtol=1e-12, atol=0)
    stretched = codes * np.logspace(-3, 3, 8)
    assert_allclose(hoyer(stretched, scaled=True), hoyer(codes, scaled=True), rtol=1e-10, atol=0)
    assert hoyer(stretched).mean() > hoyer(codes).mean() + 0.3  # what the free scales look like
    assert_allclose(hoyer(codes.swapaxes(0, 2), axis=0, scaled=True), hoyer(codes, scaled=True).T, rtol=1e-12, atol=0)


def test_a_dimension_that_is_not_used_stays_so():
    codes = np.random.default_rng(3).normal(size=(50, 4))
    codes[:, 2] = 0
    used = codes[:, [0, 1, 3]]
    codes_of_unit_power = np.insert(used / np.sqrt((used**2).mean(0)), 2, 0.0, axis=1)
    assert_allclose(hoyer(codes, scaled=True), hoyer(codes_of_unit_power), rtol=1e-12, atol=0)


def test_zero_codes_are_nan_and_told():
    codes = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    with pytest.warns(IdentifiabilityWarning, match="2 of 3 codes are zero, and have no sparsity: NaN"):
        assert_array_equal(hoyer(codes), [np.nan, 1.0, np.nan])
    with pytest.warns(IdentifiabilityWarning, match="3 of 3"):
        assert np.isnan(hoyer(np.zeros((3, 4)), scaled=True)).all()


@pytest.mark.parametrize(
    ("codes", "axis", "message"),
    [
        (np.ones((3, 1)), -1, r"two dimensions or more along axis -1, got shape \(3, 1\)"),
        (np.ones((0, 3)), -1, r"got shape \(0, 3\)"),
        (np.ones(3), 1, r"along axis 1, got shape \(3,\)"),
        (2.0, -1, r"got shape \(\)"),
        (np.array([1.0, np.nan]), -1, "real and finite"),
        (np.array([1.0, 1j]), -1, "real and finite"),
    ],
)
def test_hoyer_says_what_is_wrong(codes, axis, message):
    with pytest.raises(InputError, match=message):
        hoyer(codes, axis)
