"""From the moments that a mixture has, written down from its parameters, come the parameters again."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from unveil.kernels.spectral_mixtures import mean_space, spherical_mixture, three_view_mixture, three_views


def matched(found, true):
    """The order in which found rows are nearest to the true ones."""
    order = torch.cdist(true, found).argmin(1)
    assert len(order.unique()) == len(order)
    return order


def spherical_moments(weights, means, variances, offset):
    """The mean, the covariance, and a function of the space that gives the whitened third moments: all in closed form."""
    mean = weights @ means
    centred = means - mean
    covariance = (weights[:, None] * centred).T @ centred + (weights @ variances) * torch.eye(means.shape[1]).double()

    def third(space):
        whitened = (means - space.origin) @ space.whitener
        gram = space.whitener.T @ space.whitener
        tensor = torch.einsum("h,ha,hb,hc->abc", weights, whitened, whitened, whitened)
        for w, m, v in zip(weights, whitened, variances, strict=True):
            single = w * v * torch.einsum("a,bc->abc", m, gram)
            tensor = tensor + single + single.permute(1, 0, 2) + single.permute(1, 2, 0)
        along = variances + (centred @ space.noise_directions).square().mean(1)
        return tensor, (weights * along) @ whitened

    return mean, covariance, third


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize(("n_components", "n_features"), [(1, 2), (2, 2), (3, 5), (6, 6), (9, 15)])
def test_spherical_gaussians_of_several_variances(n_components, n_features, offset):
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(n_components, generator=generator).double() + 0.3
    weights /= weights.sum()
    means = 2 * torch.randn(n_components, n_features, generator=generator).double() + offset
    variances = torch.rand(n_components, generator=generator).double() + 0.5
    mean, covariance, third = spherical_moments(weights, means, variances, offset)
    space = mean_space(mean, covariance, n_components)
    assert_allclose(space.noise_variance, float(weights @ variances), rtol=1e-9, atol=0)
    assert_allclose(space.whitener.T @ space.root, np.eye(n_components), rtol=0, atol=1e-9)
    found_weights, found_means = spherical_mixture(space, *third(space))
    order = matched(found_means, means)
    assert_allclose(found_means[order], means, rtol=1e-9, atol=1e-9)
    assert_allclose(found_weights[order], weights, rtol=1e-8, atol=0)


def test_too_few_components_in_the_data_give_finite_numbers():
    """Two equal means: there is no gap, and no third component; what comes is real and finite all the same."""
    weights, means = torch.full((3,), 1 / 3).double(), torch.tensor([[0.0, 0, 0, 0], [0, 0, 0, 0], [3, 0, 0, 0]]).double()
    mean, covariance, third = spherical_moments(weights, means, torch.ones(3).double(), 0.0)
    space = mean_space(mean, covariance, 3)
    found = spherical_mixture(space, *third(space))
    assert all(bool(each.isfinite().all()) for each in found)
    assert bool((found[0] >= 0).all())


@pytest.mark.parametrize(("n_states", "n_symbols"), [(2, 2), (3, 6), (5, 5)])
def test_three_views_of_a_chain_of_symbols(n_states, n_symbols):
    rng = np.random.default_rng(1)
    transition = torch.from_numpy(0.4 * rng.dirichlet(np.ones(n_states), n_states) + 0.6 * np.eye(n_states))
    symbols = torch.from_numpy(rng.dirichlet(np.full(n_symbols, 0.5), n_states))
    stationary = torch.linalg.matrix_power(transition, 500)[0]
    flow = stationary[:, None] * transition
    p12, p13 = symbols.T @ flow @ symbols, symbols.T @ flow @ transition @ symbols
    views = three_views(p12, p13, p12, n_states)
    before, after = (flow / stationary).T @ symbols, transition @ symbols  # E[x_1 | h_2], E[x_3 | h_2]
    a, b, c = (each @ view for each, view in zip((before, symbols, after), views.maps, strict=True))
    third = torch.einsum("h,ha,hb,hc->abc", stationary, a, b, c)
    weights, found = three_view_mixture(views, third)
    order = matched(found, symbols)
    assert_allclose(found[order], symbols, rtol=0, atol=1e-8)
    assert_allclose(weights[order], stationary, rtol=1e-6, atol=0)
    assert_allclose(views.singular_values[n_states:], np.zeros(n_symbols - n_states), rtol=0, atol=1e-12)
