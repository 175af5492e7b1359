"""Wiener masks by hand, by optimality, and at the ends of the number range."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from unveil.kernels.wiener import wiener_masks


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 3.0])
def test_shares_of_powers(power):
    sources = np.random.default_rng(0).gamma(1.0, size=(3, 5, 7)) + 1e-3
    masks = wiener_masks(torch.from_numpy(sources), power)
    assert_allclose(masks, sources**power / (sources**power).sum(0), rtol=1e-12, atol=0)
    assert_allclose(masks.sum(0), np.ones((5, 7)), rtol=1e-12, atol=0)


def test_by_hand():
    assert_allclose(wiener_masks(torch.tensor([[3.0], [4.0]]).double()), [[9 / 25], [16 / 25]], rtol=1e-14, atol=0)
    assert_allclose(wiener_masks(torch.tensor([[3.0], [4.0]]).double(), 1.0), [[3 / 7], [4 / 7]], rtol=1e-14, atol=0)


def test_the_mask_is_the_best_linear_estimate_of_independent_sources():
    """Of all weights w, the mean of (s_1 - w (s_1 + s_2))^2 is least at the mask; by expected squares, s_i ~ N(0, v_i^2)."""
    v = np.array([1.5, 0.7])
    mask = wiener_masks(torch.from_numpy(v[:, None]))[0].item()
    weights = np.linspace(0, 1, 100_001)
    error = (1 - weights) ** 2 * v[0] ** 2 + weights**2 * v[1] ** 2
    assert_allclose(mask, weights[error.argmin()], rtol=0, atol=2e-5)


@pytest.mark.parametrize("n_sources", [1, 2, 3])
def test_silence_is_shared_evenly(n_sources):
    masks = wiener_masks(torch.zeros(n_sources, 2))
    assert_allclose(masks, np.full((n_sources, 2), 1 / n_sources), rtol=1e-6, atol=0)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_neither_whispers_nor_thunder_get_lost_in_single_precision(scale):
    masks = wiener_masks(scale * torch.tensor([[3.0, 0.0], [4.0, 1.0]]))
    assert_allclose(masks, [[0.36, 0.0], [0.64, 1.0]], rtol=1e-5, atol=0)


def test_sources_are_not_written_to():
    sources = torch.tensor([[3.0, 0.0], [4.0, 0.0]])
    wiener_masks(sources)
    assert sources.tolist() == [[3.0, 0.0], [4.0, 0.0]]
