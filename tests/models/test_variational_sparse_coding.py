"""Spikes and slabs: their divergence and their draws, against sums over what is on and quadrature over what it is."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.integrate import quad
from scipy.stats import norm

import unveil
from unveil.core.noise import RandomNoise
from unveil.errors import ParameterError
from unveil.models.variational_sparse_coding import SpikeAndSlabLatent, VariationalSparseCoding

CHEAP = {"likelihood": "gaussian", "hidden": 16, "max_epochs": 6, "batch_size": 32, "dtype": "float64", "random_state": 0}
ALPHA, INF = 0.2, math.inf


@pytest.fixture
def latent():
    return SpikeAndSlabLatent(4, ALPHA, warmup_epochs=4.0, max_epochs=10)


def parts(n=1, seed=0):
    """Probabilities of being on, means, deviations; and what the encoder gives for them."""
    rng = np.random.default_rng(seed)
    on, mean, deviation = rng.uniform(0.05, 0.95, (n, 4)), rng.normal(size=(n, 4)), rng.uniform(0.2, 2.0, (n, 4))
    statistics = np.concatenate([np.log(on / (1 - on)), mean, 2 * np.log(deviation)], 1)
    return on, mean, deviation, torch.from_numpy(statistics)


def sparse_data(n=300, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, 4)) * (rng.random((n, 4)) < 0.3)) @ rng.normal(size=(4, 12)) + 0.1 * rng.normal(size=(n, 12))


def divergence_by_quadrature(on, mean, deviation):
    """int q log(q / p) over the line, and the same at the point 0."""
    q, p = norm(mean, deviation), norm(0, 1)
    reach = mean - 12 * deviation, mean + 12 * deviation
    slab = quad(lambda z: on * q.pdf(z) * (np.log(on) + q.logpdf(z) - np.log(ALPHA) - p.logpdf(z)), *reach, epsabs=1e-12)[0]
    return slab + (1 - on) * np.log((1 - on) / (1 - ALPHA))


def test_the_divergence_by_quadrature(latent):
    on, mean, deviation, statistics = parts(3)
    expected = np.vectorize(divergence_by_quadrature)(on, mean, deviation)
    assert_allclose(latent.divergence(statistics, None, INF), expected, rtol=1e-8, atol=1e-10)


def test_the_divergence_is_the_mean_of_the_log_ratio_of_densities(latent):
    *_, statistics = parts()
    many = statistics.expand(100_000, -1)
    codes = latent.draw(many, RandomNoise(torch.Generator().manual_seed(0)), INF)
    ratio = latent.log_posterior(codes, many) - latent.log_prior(codes)
    error = float(ratio.std() / len(ratio) ** 0.5)
    assert abs(float(ratio.mean() - latent.divergence(statistics, None, INF).sum())) < 5 * error


def test_the_divergence_is_zero_at_the_prior(latent):
    logit = math.log(ALPHA / (1 - ALPHA))
    statistics = torch.tensor([[logit] * 4 + [0.0] * 8], dtype=torch.float64)
    assert_allclose(latent.divergence(statistics, None, INF), np.zeros((1, 4)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("logit", [-1e4, -50.0, 50.0, 1e4])
def test_certain_spikes_have_a_finite_divergence_and_gradient(latent, logit):
    statistics = torch.tensor([[logit] * 4 + [0.3] * 8], requires_grad=True)
    total = latent.divergence(statistics, None, INF).sum()
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(statistics.grad).all()
    expected = -4 * math.log(1 - ALPHA) if logit < 0 else 4 * (-math.log(ALPHA) + 0.5 * (0.09 + math.exp(0.3) - 1.3))
    assert_allclose(total.detach(), expected, rtol=1e-5, atol=0)


def test_draws_are_zero_as_often_as_q_says(latent):
    on, mean, deviation, statistics = parts()
    draws = latent.draw(statistics.expand(40_000, -1), RandomNoise(torch.Generator().manual_seed(0)), INF).numpy()
    used = draws != 0
    assert (np.abs(used.mean(0) - on[0]) < 5 * np.sqrt(on[0] * (1 - on[0]) / len(draws))).all()
    for j in range(4):
        slab = draws[used[:, j], j]
        assert abs(slab.mean() - mean[0, j]) < 5 * deviation[0, j] / np.sqrt(len(slab))
        assert_allclose(slab.std(), deviation[0, j], rtol=0.05, atol=0)
    assert_allclose(latent.mean(statistics), on * mean, rtol=1e-12, atol=0)


def test_certainty_leaves_nothing_to_chance(latent):
    statistics = torch.tensor([[1e4, 1e4, -1e4, -1e4] + [1.0] * 8]).expand(1000, -1)
    draws = latent.draw(statistics, RandomNoise(torch.Generator().manual_seed(0)), INF)
    assert (draws[:, :2] != 0).all()
    assert (draws[:, 2:] == 0).all()


@pytest.mark.parametrize(("epoch", "sharpness"), [(4.0, 110.0), (10.0, 200.0), (30.0, 200.0)])
def test_while_learning_spikes_are_relaxed_by_a_sigmoid_that_gets_sharper(latent, epoch, sharpness):
    on, mean, deviation, statistics = parts(50)
    found = latent.draw(statistics, RandomNoise(torch.Generator().manual_seed(5)), epoch).numpy()
    generator = torch.Generator().manual_seed(5)
    e, u = (draw(50, 4, generator=generator, dtype=torch.float64).numpy() for draw in (torch.randn, torch.rand))
    expected = (mean + deviation * e) / (1 + np.exp(-sharpness * (u - 1 + on)))
    assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_the_warm_up_begins_with_gaussians(latent):
    on, mean, deviation, statistics = parts(5)
    slab = 0.5 * (mean**2 + deviation**2 - 1 - 2 * np.log(deviation))
    assert_allclose(latent.divergence(statistics, None, 0.0), slab, rtol=1e-10, atol=1e-12)
    spike, warmed_up = on * np.log(on / ALPHA) + (1 - on) * np.log((1 - on) / (1 - ALPHA)), (2.0 / 4.0) ** 2
    halfway = (1 - warmed_up + warmed_up * on) * slab + warmed_up * spike
    assert_allclose(latent.divergence(statistics, None, 2.0), halfway, rtol=1e-10, atol=1e-12)
    assert_allclose(latent.divergence(statistics, None, 4.0), latent.divergence(statistics, None, INF), rtol=0, atol=0)
    draws = latent.draw(statistics.repeat(4000, 1), RandomNoise(torch.Generator().manual_seed(0)), 0.0)
    assert (draws.abs() > 1e-6).double().mean() > 0.99  # of a sigmoid of c u, which is 1/2 at the least


def test_relaxed_draws_have_a_gradient_for_the_spikes(latent):
    *_, statistics = parts(2000)
    statistics.requires_grad_()
    latent.draw(statistics, RandomNoise(torch.Generator().manual_seed(0)), 8.0).sum().backward()
    assert (statistics.grad[:, :4].abs().sum(0) > 0).all()


def test_the_prior_is_as_sparse_as_it_says(latent):
    codes, classes = latent.sample(40_000, torch.Generator().manual_seed(0))
    used = codes != 0
    assert classes is None
    assert_allclose(used.double().mean(0), np.full(4, ALPHA), rtol=0, atol=5 * math.sqrt(ALPHA * 0.8 / 40_000))
    assert_allclose(codes[used].std(), 1.0, rtol=0.03, atol=0)


def test_early_stopping_waits_for_the_spikes():
    seen = []
    settings = CHEAP | {"max_epochs": 8, "patience": 1, "learning_rate": 0.05}
    VariationalSparseCoding(3, warmup_epochs=5.0, **settings).fit(
        sparse_data(), callbacks=[lambda epoch: seen.append(epoch.number)]
    )
    assert max(seen) >= 5


def test_a_small_alpha_makes_codes_sparser():
    X, shares = sparse_data(), []
    for alpha in (0.1, 0.5, 0.95):
        vsc = VariationalSparseCoding(4, alpha=alpha, **CHEAP | {"max_epochs": 25, "learning_rate": 0.02}).fit(X)
        on, mean, deviation = vsc.posterior(X)
        assert ((on >= 0) & (on <= 1) & (deviation > 0)).all()
        assert_allclose(vsc.transform(X), on * mean, rtol=1e-10, atol=1e-14)
        shares.append(on.mean())
    assert shares[0] < shares[1] < shares[2]
    assert shares[0] < 0.5


def test_the_log_likelihood_of_a_linear_model_is_the_sum_over_what_is_on(latent):
    """With a linear decoder, p(x) is a mixture of Gaussians, one for each set of latent variables that are on."""
    vsc = VariationalSparseCoding(
        2, alpha=0.3, warmup_epochs=0.0, **CHEAP | {"hidden": (), "max_epochs": 30, "learning_rate": 0.03}
    )
    X = sparse_data()[:, :3]
    model = vsc.fit(X).model_
    with torch.no_grad():
        zero, one = (
            model.likelihood.mean(model.decode(each)).numpy() for each in (torch.zeros(1, 2).double(), torch.eye(2).double())
        )
        noise = (model.likelihood.scale**2 * model.likelihood.log_variance.exp()).numpy()
    W = (one - zero).T
    density = 0.0
    for on in ((0, 0), (0, 1), (1, 0), (1, 1)):
        weight = np.prod([0.3 if each else 0.7 for each in on])
        covariance = W @ np.diag(on) @ W.T + np.diag(noise)
        difference = X[:20] - zero
        mahalanobis = np.einsum("nd,nd->n", difference, np.linalg.solve(covariance, difference.T).T)
        density = density + weight * np.exp(-0.5 * mahalanobis) / np.sqrt(np.linalg.det(2 * np.pi * covariance))
    exact = np.log(density)
    with torch.no_grad():
        batch, _ = vsc._read(X[:20])
        found = model.log_likelihood(next(iter(batch)), 2000).numpy()
        bound = vsc.score_samples(X[:20])
    assert_allclose(np.median(found - exact), 0.0, rtol=0, atol=0.05)  # of 2000 draws, of which few count for unlikely items
    assert (found < exact + 0.1).all()
    assert bound.mean() < exact.mean() + 0.1


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.5, -0.1, "half"])
def test_alpha_is_a_probability_that_leaves_a_choice(alpha):
    with pytest.raises(ParameterError, match="alpha"):
        VariationalSparseCoding(2, alpha=alpha, **CHEAP).fit(sparse_data())


def test_a_saved_model_says_the_same(tmp_path):
    X = sparse_data()
    vsc = VariationalSparseCoding(3, **CHEAP | {"learning_rate": 0.02}).fit(X)
    vsc.save(tmp_path / "model")
    again = unveil.load(tmp_path / "model")
    assert_allclose(again.transform(X), vsc.transform(X), rtol=0, atol=0)
    assert_allclose(again.score_samples(X), vsc.score_samples(X), rtol=0, atol=0)
