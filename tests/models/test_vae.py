"""Variational autoencoders against closed forms: linear ones are probabilistic PCA, and bounds lie below the likelihood."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal

from unveil.core.noise import RandomNoise
from unveil.data.batch import Batch
from unveil.errors import IdentifiabilityWarning, InputError, ParameterError
from unveil.metrics.clustering import clustering_accuracy
from unveil.models.ppca import PPCA
from unveil.models.vae import VAE
from unveil.nn.normal_latent import MixtureLatent, NormalLatent

QUICK = {"max_epochs": 2, "hidden": 8, "batch_size": 16, "random_state": 0}


def factors(n=1000, d=6, q=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, q)) @ (2 * rng.normal(size=(q, d))) + 0.5 * rng.normal(size=(n, d)) + np.arange(d)


def as_ppca(vae, ppca):
    """Set a linear VAE to a fitted PPCA: decoder W z + mu, encoder M^-1 W' (x - mu), and the posterior's covariance."""
    model, W, variance = vae.model_, torch.from_numpy(ppca.components_.T), float(ppca.noise_variance_)
    location, scale = model.likelihood.location.double(), model.likelihood.scale.double()
    posterior = torch.linalg.inv(W.T @ W / variance + torch.eye(W.shape[1]))
    with torch.no_grad():
        decoder, encoder = model.decoder.layers[0], model.encoder.layers[0]
        decoder.weight.copy_(W / scale[:, None])
        decoder.bias.copy_((torch.from_numpy(ppca.mean_) - location) / scale)
        mean = posterior @ W.T / variance
        encoder.weight.copy_(torch.cat([mean * scale, torch.zeros_like(mean)]))
        encoder.bias.copy_(torch.cat([mean @ (location - torch.from_numpy(ppca.mean_)), posterior.diagonal().log()]))
    return vae


def orthogonal(ppca):
    """PPCA's components are orthogonal, so its posterior is a product over dimensions, and the bound of a VAE is tight."""
    gram = ppca.components_ @ ppca.components_.T
    assert_allclose(gram, np.diag(np.diag(gram)), rtol=0, atol=1e-8 * gram.max())
    return ppca


def test_bound_of_a_linear_vae_at_the_solution_is_the_likelihood():
    X = factors()
    ppca = orthogonal(PPCA(2).fit(X))
    vae = VAE(2, **QUICK | {"hidden": ()}, variance=float(ppca.noise_variance_), dtype="float64").fit(X)
    as_ppca(vae, ppca)
    reconstruction, divergence = vae.bound(X)
    assert_allclose(vae.score_samples(X), -reconstruction - divergence, rtol=1e-12, atol=0)
    # Of the draws, of which there are few, each item has the same: their mean and square are not exactly 0 and 1.
    assert_allclose(vae.log_likelihood(X, n_draws=20), ppca.score_samples(X), rtol=0, atol=1e-6)
    mean, deviation = vae.posterior(X)
    expected = ppca.posterior(X)
    assert_allclose(mean, expected[0], rtol=1e-8, atol=1e-8)
    assert_allclose(deviation**2, np.diagonal(expected[1], axis1=1, axis2=2), rtol=1e-8, atol=0)
    assert_allclose(vae.transform(X), mean, rtol=1e-12, atol=0)


def test_learned_linear_vae_reaches_the_likelihood_of_ppca():
    X = factors(2000)
    ppca = PPCA(2).fit(X)
    settings = {
        "hidden": (),
        "max_epochs": 100,
        "learning_rate": 5e-2,
        "schedule": "cosine",
        "patience": None,
        "validation_fraction": 0.0,
    }
    vae = VAE(2, **settings, variance=float(ppca.noise_variance_), random_state=0).fit(X)
    weights, location, scale = vae.model_.decoder.layers[0], vae.model_.likelihood.location, vae.model_.likelihood.scale
    W, mean = (weights.weight * scale[:, None]).detach().numpy(), (location + scale * weights.bias).detach().numpy()
    exact = multivariate_normal(mean, W @ W.T + ppca.noise_variance_ * np.eye(6)).logpdf(X).mean()
    assert_allclose(exact, ppca.score(X), rtol=0.005, atol=0)
    assert exact <= ppca.score(X) + 1e-6
    assert_allclose(vae.log_likelihood(X[:200], n_draws=300).mean(), ppca.score(X[:200]), rtol=0.01, atol=0)


@pytest.mark.parametrize("seed", [0, 1])
def test_bounds_are_in_order(seed):
    """Evidence lower bound < importance-weighted bound < log-likelihood by quadrature over one latent variable."""
    X = factors(300, d=3, q=1, seed=seed)
    vae = VAE(1, **QUICK | {"max_epochs": 20}, dtype="float64").fit(X)
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        outputs = vae.model_.decode(grid)
        log_joint = (
            vae.model_.likelihood.log_density(torch.from_numpy(X), outputs[:, None]) - 0.5 * grid**2 - 0.5 * math.log(2 * math.pi)
        )
        exact = log_joint.logsumexp(0) + math.log(16 / 4000)
    bound, tighter = vae.score_samples(X), vae.log_likelihood(X, n_draws=2000)
    assert vae.score(X) < tighter.mean() <= exact.mean() + 0.01
    assert np.median(np.abs(tighter - exact.numpy())) < 0.01  # far from most data, q(z | x) covers the posterior badly
    assert (bound <= exact.numpy() + 0.05).all()


def test_parts_of_the_loss_are_nats():
    X = factors()
    vae = VAE(2, **QUICK | {"max_epochs": 5}, beta=0.3).fit(X)
    parts = vae.history_.parts
    assert_allclose(parts["loss"], np.add(parts["reconstruction"], 0.3 * np.array(parts["KL"])), rtol=1e-5, atol=0)
    assert_allclose(vae.history_.objective, -np.array(parts["loss"]), rtol=1e-12, atol=0)
    reconstruction, divergence = vae.bound(X)
    assert_allclose(vae.score(X), -(reconstruction + divergence).mean(), rtol=1e-5, atol=0)  # with beta = 1


def test_warmup_lets_the_divergence_come_slowly():
    X = factors()
    model = VAE(2, **QUICK, beta=2.0, warmup=4.0).fit(X).model_
    batch = Batch(torch.from_numpy(X).float(), torch.arange(len(X) + 1))
    for epoch, beta in ((0.0, 0.0), (1.0, 0.5), (3.0, 1.5), (4.0, 2.0), (math.inf, 2.0)):
        loss = model.loss(batch, torch.Generator().manual_seed(0), epoch)
        assert_allclose(loss.total.item(), (loss.parts["reconstruction"] + beta * loss.parts["KL"]).item(), rtol=1e-6, atol=0)


def test_divergence_from_the_standard_normal():
    latent, statistics = NormalLatent(3), torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, log_variance = statistics.chunk(2, 1)
    q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0))
    assert_allclose(latent.divergence(statistics, mean, 0.0), expected, rtol=1e-12, atol=0)
    codes = latent.draw(statistics, RandomNoise(torch.Generator().manual_seed(1)), 0.0)
    assert_allclose(latent.log_posterior(codes, statistics), q.log_prob(codes).sum(1), rtol=1e-12, atol=0)
    assert_allclose(latent.mean_square(statistics), q.mean**2 + q.variance, rtol=1e-12, atol=0)


def test_mixture_prior_is_the_mixture():
    latent, generator = MixtureLatent(2, 3).double(), torch.Generator().manual_seed(0)
    latent.initialize(generator)
    with torch.no_grad():
        latent.logits.copy_(torch.tensor([0.0, 1.0, -1.0]))
        latent.log_variances.normal_(generator=generator)
    weights = latent.logits.softmax(0).detach().numpy()
    codes = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    parts = [
        w * multivariate_normal(m, np.diag(v)).pdf(codes)
        for w, m, v in zip(weights, latent.means.detach().numpy(), latent.log_variances.exp().detach().numpy(), strict=True)
    ]
    assert_allclose(latent.log_prior(codes).detach(), np.log(np.sum(parts, 0)), rtol=1e-10, atol=0)
    drawn, clusters = latent.sample(40_000, generator)
    assert_allclose(np.bincount(clusters, minlength=3) / 40_000, weights, rtol=0, atol=0.01)
    assert_allclose(drawn[clusters == 1].mean(0), latent.means[1].detach(), rtol=0, atol=0.05)


def test_mixture_prior_finds_clusters():
    rng = np.random.default_rng(0)
    classes = rng.integers(3, size=900)
    X = (np.eye(3)[classes] * 6) @ rng.normal(size=(3, 8)) + 0.3 * rng.normal(size=(900, 8))
    vae = VAE(2, n_clusters=3, hidden=32, max_epochs=30, learning_rate=3e-3, batch_size=64, random_state=1, patience=None).fit(X)
    assert clustering_accuracy(classes, vae.predict(X)) > 0.9
    assert vae.kl_per_dimension_.shape == (1,)
    assert not hasattr(VAE(2), "predict")


def test_collapse_is_warned_of():
    X = np.random.default_rng(0).normal(size=(500, 4))
    with pytest.warns(IdentifiabilityWarning, match="posterior collapse: 0 of 3 latent dimensions are active"):
        vae = VAE(3, **QUICK | {"max_epochs": 20}, beta=20.0).fit(X)
    assert vae.n_active_ == 0
    assert (vae.kl_per_dimension_ < 0.01).all()
    active = VAE(2, **QUICK | {"max_epochs": 20}).fit(factors())
    assert active.n_active_ == 2
    assert (active.kl_per_dimension_ > 0.3).all()
    assert_allclose(active.code_variances_, active.transform(factors()).var(0), rtol=1e-4, atol=0)
    assert_allclose(active.kl_per_dimension_.sum(), active.bound(factors())[1].mean(), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("likelihood", "wrong", "match"),
    [
        ("bernoulli", 255.0, r"Values out of range.*bernoulli.*255 at row 7, column 2; it takes numbers in \[0, 1\]; divide"),
        ("bernoulli", -0.5, "Negative values in data.*-0.5 at row 7, column 2"),
        ("power", -1.0, "Negative values in data.*'power'.*squared magnitudes"),
        ("poisson", -1.0, "Negative values in data.*'poisson'.*counts"),
        ("categorical", 4.0, "4 at row 7, column 2; it takes whole numbers from 0 to 1; raise n_values"),
        ("categorical", 0.5, "fractions.*whole numbers"),
    ],
)
def test_data_outside_of_the_range_is_refused_before_learning(likelihood, wrong, match, monkeypatch):
    X = np.random.default_rng(0).integers(2, size=(40, 4)).astype(float)
    fitted = VAE(2, **QUICK, likelihood=likelihood).fit(X)
    X[7, 2] = wrong
    with pytest.raises(InputError, match=match):
        fitted.score(X)
    monkeypatch.setattr("unveil.learn.sgd.train", lambda *arguments, **options: pytest.fail("it learned"))
    with pytest.raises(InputError, match=match) as raised:
        VAE(2, **QUICK, likelihood=likelihood).fit(X)
    assert "\n" not in str(raised.value)


def test_more_latent_variables_than_features():
    with pytest.raises(InputError, match="n_latent=7 but X has 6 features"):
        VAE(7).fit(factors())


@pytest.mark.parametrize("variance", ["none", 0, -1.0, True, np.nan])
def test_variance_that_is_none(variance):
    with pytest.raises(ParameterError, match="variance="):
        VAE(2, variance=variance).fit(factors())


@pytest.mark.parametrize("options", [{}, {"variance": "network"}, {"variance": "shared"}, {"architecture": "recurrent"}])
def test_offset_and_scale_of_data_do_not_matter(options):
    X = factors().reshape(50, 20, 6) if options.get("architecture") == "recurrent" else factors()
    moved = X * 1e-3 + 1e3
    first, second = (VAE(2, **QUICK, **options, dtype="float64").fit(each) for each in (X, moved))
    n_steps = 20 if X.ndim == 3 else 1
    assert_allclose(second.score(moved) + n_steps * 6 * math.log(1e-3), first.score(X), rtol=1e-6, atol=1e-6)
    assert_allclose(second.reconstruct(moved), first.reconstruct(X) * 1e-3 + 1e3, rtol=1e-9, atol=0)


def test_sequences_are_seen_whole():
    """The encoder of a recurrent VAE looks at all steps of a sequence, and at no other sequence."""
    rng = np.random.default_rng(0)
    X = [rng.normal(size=(n, 3)) for n in (5, 9, 4, 7)]
    vae = VAE(2, **QUICK, architecture="recurrent").fit(X)
    changed = [each.copy() for each in X]
    changed[1][-1] += 5.0
    before, after = vae.transform(X), vae.transform(changed)
    for i in (0, 2, 3):
        assert_allclose(after[i], before[i], rtol=0, atol=1e-6)
    assert np.abs(after[1][0] - before[1][0]).max() > 1e-6
    assert vae.inverse_transform(before[0]).shape == (5, 3)
    assert_allclose(vae.inverse_transform(before[0]), vae.reconstruct(X)[0], rtol=0, atol=1e-5)


def test_convolutional_on_images():
    rng = np.random.default_rng(0)
    X = (rng.random((100, 2, 7, 10)) < 0.3).astype(float).reshape(100, -1)
    vae = VAE(3, **QUICK | {"hidden": (4, 6)}, likelihood="bernoulli", architecture="conv", shape=(2, 7, 10)).fit(X)
    assert vae.reconstruct(X).shape == X.shape
    assert vae.sample(3)[0].shape == (3, 140)
    with pytest.raises(ParameterError, match="shape="):
        VAE(3, **QUICK, architecture="conv", shape=(2, 7, 11)).fit(X)
    with pytest.raises(ParameterError, match="give fewer"):
        VAE(3, **QUICK | {"hidden": (4, 4, 4, 4)}, architecture="conv", shape=(2, 7, 10)).fit(X)


def test_codes_of_a_wrong_width():
    vae = VAE(2, **QUICK).fit(factors())
    with pytest.raises(InputError, match=r"Z has shape \(4, 3\); expected \(n, 2\)"):
        vae.inverse_transform(np.zeros((4, 3)))
    assert_array_equal(vae.get_feature_names_out(), ["vae0", "vae1"])
