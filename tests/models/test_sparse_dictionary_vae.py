"""A sparse dictionary model's divergence is that of Gaussians at the best variances; its dictionary is what it says."""

import numpy as np
import pytest
import scipy.fft
import torch
from numpy.testing import assert_allclose
from scipy.optimize import minimize_scalar
from torch.distributions import Normal, kl_divergence

import unveil
from unveil.core.noise import RandomNoise
from unveil.data.batch import Batch
from unveil.errors import InputError, ParameterError
from unveil.models.sparse_dictionary_vae import DictionaryLatent, SparseDictionaryVAE, cosine_dictionary
from unveil.models.vae import VAE

CHEAP = {"hidden": 16, "max_epochs": 3, "batch_size": 32, "dtype": "float64", "random_state": 0}


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def latent():
    return DictionaryLatent(torch.eye(5, dtype=torch.float64))


def statistics(generator, n=7, n_codes=5):
    """Means and log-variances."""
    return torch.randn(n, 2 * n_codes, generator=generator, dtype=torch.float64)


def spectra(n=200, n_features=12, seed=0):
    rng = np.random.default_rng(seed)
    variances = 0.01 + rng.gamma(1.0, size=(n, 3)) ** 2 @ rng.random((3, n_features)) ** 4
    return variances * rng.exponential(size=(n, n_features))


def test_the_divergence_is_that_of_gaussians_at_the_best_variance(latent, generator):
    parts = statistics(generator)
    mean, deviation = parts[:, :5], (0.5 * parts[:, 5:]).exp()
    gamma = mean.square() + deviation.square()
    expected = kl_divergence(Normal(mean, deviation), Normal(torch.zeros(()), gamma.sqrt()))
    assert_allclose(latent.divergence(parts, mean, 0.0), expected, rtol=1e-12, atol=1e-14)


def test_no_other_variance_has_a_smaller_divergence(latent, generator):
    parts = statistics(generator, 1)
    mean, deviation = parts[0, :5], (0.5 * parts[0, 5:]).exp()
    for k, found in enumerate(latent.divergence(parts, mean, 0.0)[0]):
        one = Normal(mean[k], deviation[k])
        best = minimize_scalar(lambda log_gamma, one=one: float(kl_divergence(one, Normal(0.0, np.exp(log_gamma / 2)))))
        assert_allclose(found, best.fun, rtol=1e-6, atol=1e-8)


def test_the_gradient_is_the_one_at_a_fixed_variance(latent, generator):
    free, fixed = (statistics(torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    latent.divergence(free, free[:, :5], 0.0).sum().backward()
    mean, log_variance = fixed.chunk(2, 1)
    gamma = (mean.square() + log_variance.exp()).detach()
    kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(torch.zeros(()), gamma.sqrt())).sum().backward()
    assert_allclose(free.grad, fixed.grad, rtol=1e-10, atol=1e-12)


def test_the_divergence_does_not_see_the_scale_of_an_atom(latent, generator):
    parts = statistics(generator)
    scales = torch.tensor([1e-3, 0.1, 1.0, 10.0, 300.0], dtype=torch.float64)
    scaled = torch.cat([parts[:, :5] * scales, parts[:, 5:] + 2 * scales.log()], 1)
    assert_allclose(latent.divergence(scaled, scaled, 0.0), latent.divergence(parts, parts, 0.0), rtol=0, atol=1e-6)


def test_as_many_cosines_as_dimensions_are_the_discrete_cosine_transform():
    assert_allclose(cosine_dictionary(6, 6), scipy.fft.dct(np.eye(6), norm="ortho", axis=0).T, rtol=0, atol=1e-14)


@pytest.mark.parametrize("n_atoms", [1, 4, 8, 16, 33])
def test_atoms_have_unit_norm_and_are_all_different(n_atoms):
    atoms = cosine_dictionary(8, n_atoms).numpy()
    assert atoms.shape == (8, n_atoms)
    assert_allclose(np.linalg.norm(atoms, axis=0), np.ones(n_atoms), rtol=0, atol=1e-14)
    assert np.abs(atoms.T @ atoms - np.diag(np.ones(n_atoms))).max() < 1 - 1e-4
    assert np.linalg.matrix_rank(atoms) == min(8, n_atoms)


def test_the_decoder_takes_the_combination_of_atoms(generator):
    atoms = cosine_dictionary(4, 9)
    codes = torch.randn(3, 9, generator=generator, dtype=torch.float64)
    expected = [[sum(atoms[i, k] * code[k] for k in range(9)) for i in range(4)] for code in codes]
    assert_allclose(DictionaryLatent(atoms).observe(codes), np.array(expected), rtol=1e-12, atol=1e-14)


def test_draws_have_the_moments_of_q(latent):
    parts = statistics(torch.Generator().manual_seed(2), 1).expand(40_000, -1)
    draws = latent.draw(parts, RandomNoise(torch.Generator().manual_seed(3)), 0.0)
    mean, variance = parts[0, :5], parts[0, 5:].exp()
    error = (variance / len(draws)).sqrt()
    assert ((draws.mean(0) - mean).abs() < 5 * error).all()
    assert_allclose(draws.var(0), variance, rtol=0.05, atol=0)


def test_new_codes_have_the_mean_squares_of_the_data(latent, generator):
    squares = torch.tensor([0.0, 0.1, 1.0, 4.0, 25.0], dtype=torch.float64)
    latent.settle(squares)
    codes, classes = latent.sample(40_000, generator)
    assert classes is None
    assert_allclose(codes.square().mean(0), squares, rtol=0.05, atol=0)


def test_a_fitted_model_samples_at_the_level_of_its_data():
    X = spectra()
    vae = SparseDictionaryVAE(3, **CHEAP | {"max_epochs": 15, "learning_rate": 0.01}).fit(X)
    drawn, labels = vae.sample(2000)
    assert drawn.shape == (2000, 12)
    assert (drawn >= 0).all()
    assert (labels == -1).all()
    assert 0.2 < np.median(drawn.mean(0) / X.mean(0)) < 5
    codes = vae.model_.latent.variances.numpy()
    assert (codes > vae.transform(X).var(0) * 0.9).all()


def test_variances_are_the_mean_squares_of_codes():
    X = spectra()
    vae = SparseDictionaryVAE(3, dictionary="dct", n_atoms=7, **CHEAP).fit(X)
    gamma, codes = vae.variances(X), vae.transform(X)
    assert gamma.shape == codes.shape == (200, 7)
    assert (gamma > codes**2).all()
    assert_allclose(gamma.mean(0), vae.model_.latent.variances, rtol=1e-10, atol=0)
    assert_allclose(vae.dictionary_, cosine_dictionary(3, 7), rtol=0, atol=1e-15)


def test_the_score_is_minus_the_two_parts_of_the_bound():
    X = spectra()
    vae = SparseDictionaryVAE(3, **CHEAP).fit(X)
    reconstruction, divergence = vae.bound(X)
    assert_allclose(vae.score_samples(X), -reconstruction - divergence, rtol=1e-12, atol=0)
    gamma, codes = vae.variances(X), vae.transform(X)
    assert_allclose(divergence, 0.5 * np.log(gamma / (gamma - codes**2)).sum(1), rtol=1e-8, atol=0)


def test_an_identity_dictionary_is_a_vae_but_for_the_divergence():
    X = spectra()
    sparse, plain = SparseDictionaryVAE(3, **CHEAP).fit(X).model_, VAE(3, likelihood="power", **CHEAP).fit(X).model_
    for part in ("encoder", "decoder", "likelihood"):
        getattr(plain, part).load_state_dict(getattr(sparse, part).state_dict())
    batch = Batch(torch.from_numpy(X), torch.arange(len(X) + 1))
    mine, its = (model.loss(batch, torch.Generator().manual_seed(0), 1.0).parts for model in (sparse, plain))
    assert_allclose(mine["reconstruction"].detach(), its["reconstruction"].detach(), rtol=1e-12, atol=0)
    assert 0 < mine["KL"] < its["KL"]  # it is the smallest over variances, of which the VAE has 1


def test_codes_of_what_needs_few_atoms_are_sparser():
    X = spectra(400)
    settings = CHEAP | {"max_epochs": 25, "learning_rate": 0.01}
    vae = SparseDictionaryVAE(8, **settings).fit(X)
    assert np.median(vae.kl_per_dimension_) < 0.5 * vae.kl_per_dimension_.max()


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"dictionary": "wavelets"}, "dictionary"), ({"n_atoms": 0}, "n_atoms"), ({"n_atoms": 5}, "leave n_atoms out")],
)
def test_what_does_not_fit_is_refused(settings, named):
    with pytest.raises(ParameterError, match=named):
        SparseDictionaryVAE(3, **CHEAP | settings).fit(spectra())


def test_powers_are_not_negative():
    with pytest.raises(InputError, match="power"):
        SparseDictionaryVAE(3, **CHEAP).fit(-spectra())


def test_a_saved_model_says_the_same(tmp_path):
    X = spectra()
    vae = SparseDictionaryVAE(3, dictionary="dct", n_atoms=6, **CHEAP).fit(X)
    vae.save(tmp_path / "model")
    again = unveil.load(tmp_path / "model")
    assert_allclose(again.transform(X), vae.transform(X), rtol=0, atol=0)
    assert_allclose(again.sample(5, random_state=1)[0], vae.sample(5, random_state=1)[0], rtol=0, atol=0)


def test_sequences_with_a_recurrent_network():
    sequences = [spectra(n, seed=n) for n in (9, 14, 20)]
    vae = SparseDictionaryVAE(2, architecture="recurrent", dictionary="dct", n_atoms=4, **CHEAP).fit(sequences)
    assert [codes.shape for codes in vae.transform(sequences)] == [(9, 4), (14, 4), (20, 4)]
    assert [gamma.shape for gamma in vae.variances(sequences)] == [(9, 4), (14, 4), (20, 4)]
