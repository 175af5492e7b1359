"""Importance sampling against probabilistic PCA's closed form, Gaussian integrals, and quadrature."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.integrate import quad
from scipy.stats import multivariate_normal
from torch.autograd.functional import hessian
from torch.func import jacrev, vmap

from unveil.errors import ConvergenceWarning, InputError, ParameterError
from unveil.kernels import importance
from unveil.kernels.importance import find_modes, gauss_newton_precision, hessian_precision, log_marginal

pytestmark = [
    pytest.mark.filterwarnings("error"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated"),  # torch's own, when it first differentiates forwards
]

LOG_2PI = math.log(2 * math.pi)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def log_gaussian_joint(decode, x, variance):
    """log N(x; f(z), variance I) + log N(z; 0, I) for any number of draws of each item."""

    def log_joint(z):
        squares = (decode(z) - x).square().sum(-1) / variance + z.square().sum(-1)
        return -0.5 * (squares + z.shape[-1] * LOG_2PI + x.shape[-1] * (LOG_2PI + math.log(variance)))

    return log_joint


class LinearGaussian:
    """x = W z + e: the posterior is N(M^-1 W'x / s^2, M^-1), M = I + W'W / s^2, and x ~ N(0, W W' + s^2 I)."""

    def __init__(self, n_items=40, n_latents=3, n_outputs=10, variance=0.3):
        self.variance = variance
        self.weights = torch.randn(n_outputs, n_latents, dtype=torch.float64, generator=generator(1))
        latents = torch.randn(n_items, n_latents, dtype=torch.float64, generator=generator(2))
        noise = torch.randn(n_items, n_outputs, dtype=torch.float64, generator=generator(3))
        self.x = self.decode(latents) + variance**0.5 * noise
        self.log_joint = log_gaussian_joint(self.decode, self.x, variance)
        self.precision = torch.eye(n_latents, dtype=torch.float64) + self.weights.T @ self.weights / variance
        self.precisions = self.precision.expand(n_items, -1, -1)
        self.modes = self.x @ self.weights @ torch.linalg.inv(self.precision) / variance

    def decode(self, z):
        return z @ self.weights.T

    def log_likelihood(self):
        covariance = self.weights @ self.weights.T + self.variance * torch.eye(len(self.weights), dtype=torch.float64)
        return multivariate_normal(np.zeros(len(covariance)), covariance.numpy()).logpdf(self.x.numpy())


@pytest.fixture(scope="module")
def linear():
    return LinearGaussian()


def test_draws_of_the_posterior_itself_give_the_exact_likelihood(linear):
    found = log_marginal(linear.log_joint, linear.modes, linear.precisions, n_draws=50, inflation=1.0, generator=generator())
    assert_allclose(found.log_likelihood, linear.log_likelihood(), rtol=1e-10, atol=0)  # all weights are p(x)
    assert_allclose(found.effective_sample_size, 50, rtol=1e-10, atol=0)
    assert_allclose(found.standard_error, 0, rtol=0, atol=1e-6)


def test_wider_proposals_are_right_to_monte_carlo_error(linear):
    found = log_marginal(linear.log_joint, linear.modes, linear.precisions, n_draws=2000, generator=generator())
    z_scores = (found.log_likelihood - torch.from_numpy(linear.log_likelihood())) / found.standard_error
    assert z_scores.abs().max() < 4
    assert 0.7 < z_scores.square().mean().sqrt() < 1.3  # 1 +- 3 / sqrt(2 * 40) or so: the standard error is the true one
    # E_q[w^2] / E_q[w]^2 = (c^2 / sqrt(2 c^2 - 1))^L for N(0, I) and N(0, c^2 I); 40 x 2000 draws
    expected = 2000 * (math.sqrt(2 * 1.15**2 - 1) / 1.15**2) ** 3
    assert_allclose(found.effective_sample_size.mean(), expected, rtol=0.01, atol=0)


def test_a_proposal_that_is_off_is_still_right_with_fewer_effective_draws(linear):
    found = log_marginal(linear.log_joint, linear.modes + 0.1, 0.7 * linear.precisions, n_draws=4000, generator=generator(5))
    z_scores = (found.log_likelihood - torch.from_numpy(linear.log_likelihood())) / found.standard_error
    assert z_scores.abs().max() < 4
    assert found.effective_sample_size.max() < 4000


def test_draws_come_in_blocks(linear, monkeypatch):
    sizes = []

    def log_joint(z):
        sizes.append(len(z))
        return linear.log_joint(z)

    monkeypatch.setattr(importance, "BLOCK", 40 * 30)
    found = log_marginal(log_joint, linear.modes, linear.precisions, n_draws=100, generator=generator())
    assert sizes == [30, 30, 30, 10]
    assert found.n_draws == 100
    assert (found.log_likelihood - torch.from_numpy(linear.log_likelihood())).abs().max() < 4 * found.standard_error.max()


def test_the_generator_decides(linear):
    first, again, other = (
        log_marginal(linear.log_joint, linear.modes, linear.precisions, n_draws=9, generator=generator(seed)).log_likelihood
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_modes_of_a_linear_model_are_its_posterior_means(linear):
    starts = torch.randn(2, *linear.modes.shape, dtype=torch.float64, generator=generator())
    before = starts.clone()
    found = find_modes(linear.log_joint, starts, n_steps=300)
    assert_allclose(found, linear.modes, rtol=0, atol=1e-6)
    assert torch.equal(starts, before)
    assert not found.requires_grad


def test_the_best_start_of_each_item_wins():
    # log p = -(z^2 - 1)^2 + slope z has its higher maximum on the side of the slope.
    slope = torch.tensor([0.5, -0.5, 0.5], dtype=torch.float64)

    def log_joint(z):
        return -(z[..., 0].square() - 1).square() + slope * z[..., 0]

    starts = torch.tensor([-1.0, 1.0], dtype=torch.float64)[:, None, None].expand(2, 3, 1)
    found = find_modes(log_joint, starts, n_steps=300)
    assert_allclose(found[:, 0].sign(), slope.sign(), rtol=0, atol=0)
    assert_allclose(4 * found[:, 0] * (found[:, 0].square() - 1), slope, rtol=0, atol=1e-3)  # the slope is zero there


def test_the_way_does_not_end_below_where_it_has_been(linear):
    found = find_modes(linear.log_joint, linear.modes[None], n_steps=3, step_size=1.0)
    assert torch.equal(found, linear.modes)


def decoder(n_latents, n_outputs):
    first = torch.randn(n_latents, 8, dtype=torch.float64, generator=generator(6))
    second = torch.randn(8, n_outputs, dtype=torch.float64, generator=generator(7))
    return lambda z: torch.tanh(z @ first) @ second


def test_precisions_are_those_of_autograd():
    decode, x = decoder(2, 5), torch.randn(4, 5, dtype=torch.float64, generator=generator(8))
    modes = 0.1 * torch.randn(4, 2, dtype=torch.float64, generator=generator(9))
    prior = torch.eye(2, dtype=torch.float64) + torch.arange(4.0).double()[:, None, None]
    jacobians = vmap(jacrev(decode))(modes)
    expected = jacobians.mT @ jacobians / 0.2 + prior
    assert_allclose(gauss_newton_precision(decode, modes, 0.2, prior), expected, rtol=1e-10, atol=0)
    wide = 100.0  # so that the prior makes every Hessian definite
    for i, found in enumerate(hessian_precision(log_gaussian_joint(decode, x, wide), modes)):
        exact = -hessian(lambda z, i=i: log_gaussian_joint(decode, x[i], wide)(z), modes[i])
        assert_allclose(found, exact, rtol=1e-10, atol=1e-12)


def test_both_precisions_of_a_linear_model_are_its_posteriors(linear):
    prior = torch.eye(3)
    assert_allclose(gauss_newton_precision(linear.decode, linear.modes, 0.3, prior), linear.precisions, rtol=1e-10, atol=1e-12)
    assert_allclose(hessian_precision(linear.log_joint, linear.modes), linear.precisions, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_nonlinear_model_is_right_by_quadrature(exact, dtype):
    x = torch.tensor([[-1.0, 0.3], [0.2, 1.0], [1.5, 2.0]], dtype=dtype)

    def decode(z):
        return torch.cat([z, torch.exp(z / 2)], -1)

    log_joint = log_gaussian_joint(decode, x, 0.2)
    modes = find_modes(log_joint, torch.zeros(1, 3, 1, dtype=dtype))
    precisions = hessian_precision(log_joint, modes) if exact else gauss_newton_precision(decode, modes, 0.2, torch.eye(1))
    found = log_marginal(log_joint, modes, precisions, n_draws=4000, generator=generator())
    for i in range(3):
        density = log_gaussian_joint(decode, x[i].double(), 0.2)
        area = quad(lambda z, density=density: float(density(torch.tensor([z], dtype=torch.float64)).exp()), -6, 6)[0]
        assert_allclose(found.log_likelihood[i], math.log(area), rtol=0, atol=4 * float(found.standard_error[i]))
    assert found.log_likelihood.dtype == torch.float64
    assert found.effective_sample_size.min() > 3000


def test_a_maximum_that_is_far_away_is_not_seen():
    x = torch.tensor([[9.0]], dtype=torch.float64)
    log_joint = log_gaussian_joint(torch.square, x, 0.5)  # maxima near -3 and 3
    modes = find_modes(log_joint, torch.ones(1, 1, 1, dtype=torch.float64))
    found = log_marginal(log_joint, modes, hessian_precision(log_joint, modes), n_draws=4000, generator=generator())
    area = quad(lambda z: float(log_joint(torch.tensor([[z]], dtype=torch.float64)).exp()), -6, 6, points=[-3, 3])[0]
    assert_allclose(found.log_likelihood[0], math.log(area / 2), rtol=0, atol=4 * float(found.standard_error[0]))


def test_a_saddle_is_told_and_mended():
    def log_joint(z):
        return z[..., 0].square() - 2 * z[..., 1].square()

    with pytest.warns(ConvergenceWarning, match="at 3 of 3 modes .* find_modes with more steps or starts"):
        found = hessian_precision(log_joint, torch.zeros(3, 2))
    assert_allclose(found, np.broadcast_to(np.diag([2.0, 4.0]), (3, 2, 2)), rtol=1e-6, atol=1e-6)


def test_what_is_wrong_is_told(linear):
    with pytest.raises(InputError, match="40 of 40 precisions are not positive definite"):
        log_marginal(linear.log_joint, linear.modes, -linear.precisions, generator=generator())
    with pytest.raises(ParameterError, match=r"n_draws=0 and inflation=1\.15: expected positive numbers"):
        log_marginal(linear.log_joint, linear.modes, linear.precisions, n_draws=0, generator=generator())
