"""Families of observations against scipy: densities, means, samples, and divergences from the best fit."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy import stats

from unveil.nn.likelihoods import Bernoulli, Categorical, Gaussian, Poisson, Power

N, D = 40, 3
RNG = np.random.default_rng(0)
OUTPUTS = torch.from_numpy(RNG.normal(size=(N, D)))


def whole(likelihood, values):
    likelihood = likelihood.double()
    likelihood.initialize(torch.from_numpy(values))
    return likelihood


def gaussian(variance="features"):
    values = RNG.normal(size=(N, D)) * [1, 5, 0.1] + [0, 100, 3]
    likelihood = whole(Gaussian(D, variance), values)
    if isinstance(variance, str) and variance != "network":
        with torch.no_grad():
            likelihood.log_variance.add_(0.3)
    return likelihood, values


@pytest.mark.parametrize("variance", ["features", "shared", "network", 0.7])
def test_gaussian(variance):
    likelihood, values = gaussian(variance)
    outputs = torch.from_numpy(RNG.normal(size=(N, likelihood.n_outputs)))
    location, scale = likelihood.location.numpy(), likelihood.scale.numpy()
    mean = location + scale * outputs[:, :D].numpy()
    if variance == "network":
        deviation = scale * np.exp(0.5 * outputs[:, D:].numpy())
    elif variance == 0.7:
        deviation = np.sqrt(0.7)
    else:
        deviation = scale * np.exp(0.5 * likelihood.log_variance.detach().numpy())
    expected = stats.norm(mean, deviation).logpdf(values).sum(1)
    assert_allclose(likelihood.log_density(torch.from_numpy(values), outputs).detach(), expected, rtol=1e-10, atol=1e-10)
    assert_allclose(likelihood.mean(outputs), mean, rtol=1e-12, atol=0)
    many = likelihood.sample(outputs[:1].expand(20_000, -1), torch.Generator().manual_seed(0)).detach().numpy()
    assert_allclose(many.mean(0), mean[0], rtol=0, atol=4 * np.max(deviation) / math.sqrt(20_000))
    assert_allclose(many.std(0), np.broadcast_to(deviation, (N, D))[0], rtol=0.03, atol=0)
    start = likelihood.start_bias(torch.from_numpy(values))
    assert_allclose(likelihood.mean(start[None])[0], values.mean(0), rtol=1e-10, atol=0)


def test_squared_error_is_a_gaussian_of_variance_one_half():
    likelihood, values = gaussian(0.5)
    missing = likelihood.best_log_density(torch.from_numpy(values)) - likelihood.log_density(torch.from_numpy(values), OUTPUTS)
    assert_allclose(missing, np.square(values - likelihood.mean(OUTPUTS).numpy()).sum(1), rtol=1e-8, atol=1e-10)


def test_bernoulli():
    values = RNG.integers(2, size=(N, D)).astype(float)
    likelihood = whole(Bernoulli(D), values)
    expected = stats.bernoulli(torch.sigmoid(OUTPUTS).numpy()).logpmf(values).sum(1)
    assert_allclose(likelihood.log_density(torch.from_numpy(values), OUTPUTS), expected, rtol=1e-10, atol=0)
    assert_allclose(likelihood.start_bias(torch.from_numpy(values)).sigmoid(), values.mean(0), rtol=1e-10, atol=0)
    drawn = likelihood.sample(OUTPUTS[:1].expand(20_000, -1), torch.Generator().manual_seed(0))
    assert_allclose(drawn.mean(0), torch.sigmoid(OUTPUTS[0]), rtol=0, atol=0.02)
    assert torch.isfinite(likelihood.log_density(torch.ones(1, D).double(), torch.full((1, D), -800.0).double())).all()


def test_power_is_that_of_a_complex_gaussian():
    """log p of the complex coefficient, as a function of its power; minus it is the Itakura-Saito divergence and a constant."""
    spectrum = RNG.normal(size=(N, D)) + 1j * RNG.normal(size=(N, D))
    values = np.abs(spectrum) ** 2
    likelihood = whole(Power(D), values)
    variances = OUTPUTS.exp().numpy()
    expected = (
        stats.norm(0, np.sqrt(variances / 2)).logpdf(spectrum.real) + stats.norm(0, np.sqrt(variances / 2)).logpdf(spectrum.imag)
    ).sum(1)
    assert_allclose(likelihood.log_density(torch.from_numpy(values), OUTPUTS), expected, rtol=1e-8, atol=0)
    missing = likelihood.best_log_density(torch.from_numpy(values)) - likelihood.log_density(torch.from_numpy(values), OUTPUTS)
    assert_allclose(missing, (values / variances - np.log(values / variances) - 1).sum(1), rtol=1e-7, atol=1e-8)
    assert_allclose(likelihood.start_bias(torch.from_numpy(values)).exp(), values.mean(0), rtol=1e-8, atol=0)
    drawn = likelihood.sample(OUTPUTS[:1].expand(20_000, -1), torch.Generator().manual_seed(0))
    assert_allclose(drawn.mean(0), variances[0], rtol=0.04, atol=0)
    silence = torch.zeros(2, D).double()
    assert torch.isfinite(likelihood.log_density(silence, OUTPUTS[:2])).all()
    assert torch.isfinite(likelihood.encoder_input(silence)).all()


def test_poisson():
    values = RNG.poisson(3.0, size=(N, D)).astype(float)
    likelihood = whole(Poisson(D), values)
    expected = stats.poisson(OUTPUTS.exp().numpy()).logpmf(values).sum(1)
    assert_allclose(likelihood.log_density(torch.from_numpy(values), OUTPUTS), expected, rtol=1e-10, atol=0)
    rates = OUTPUTS.exp().numpy()
    safe = np.where(values > 0, values, 1.0)
    divergence = (values * np.log(safe / rates) - values + rates).sum(1)
    missing = likelihood.best_log_density(torch.from_numpy(values)) - likelihood.log_density(torch.from_numpy(values), OUTPUTS)
    assert_allclose(missing, divergence, rtol=1e-9, atol=1e-10)
    drawn = likelihood.sample(OUTPUTS[:1].expand(20_000, -1), torch.Generator().manual_seed(0))
    assert_allclose(drawn.mean(0), rates[0], rtol=0.03, atol=0)


def test_categorical():
    values = RNG.integers(4, size=(N, D)).astype(float)
    likelihood = whole(Categorical(D, 4), values)
    outputs = torch.from_numpy(RNG.normal(size=(N, 4 * D)))
    logits = outputs.numpy().reshape(N, 4, D)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = np.log([[shares[i, int(values[i, d]), d] for d in range(D)] for i in range(N)]).sum(1)
    assert_allclose(likelihood.log_density(torch.from_numpy(values), outputs), expected, rtol=1e-10, atol=0)
    assert_allclose(likelihood.mean(outputs), shares.argmax(1), rtol=0, atol=0)
    drawn = likelihood.sample(outputs[:1].expand(20_000, -1), torch.Generator().manual_seed(0)).numpy()
    for d in range(D):
        assert_allclose(np.bincount(drawn[:, d].astype(int), minlength=4) / 20_000, shares[0, :, d], rtol=0, atol=0.02)
    inputs = likelihood.encoder_input(torch.from_numpy(values)).reshape(N, 4, D)
    assert_allclose(inputs.argmax(1), values, rtol=0, atol=0)


@pytest.mark.parametrize(
    "make", [lambda: gaussian()[0], lambda: whole(Bernoulli(D), np.ones((4, D))), lambda: whole(Poisson(D), np.ones((4, D)))]
)
def test_several_draws_at_once(make):
    """Outputs may have an axis in front that values do not have."""
    likelihood = make()
    values, outputs = torch.ones(N, D).double(), torch.stack([OUTPUTS, OUTPUTS + 1])
    together = likelihood.log_density(values, outputs)
    for i in range(2):
        assert_allclose(together[i].detach(), likelihood.log_density(values, outputs[i]).detach(), rtol=1e-12, atol=0)
