"""Linear decoders under Gaussians and mixtures of these have a closed form, whatever they were learned by."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from unveil.errors import InputError, ParameterError
from unveil.models.autoencoder import Autoencoder
from unveil.models.decoder_based import decoder_of, marginal_likelihood
from unveil.models.gan import GAN
from unveil.models.gaussian_hmm import GaussianHMM
from unveil.models.gaussian_mixture import GaussianMixture
from unveil.models.implicit_model import ImplicitModel
from unveil.models.ppca import PPCA
from unveil.models.vae import VAE

VARIANCE = 0.3
SHORT = {"max_epochs": 3, "hidden": (), "random_state": 0}


def plane(n=300, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)) @ np.random.default_rng(9).normal(size=(2, 4)) + 0.3 * rng.normal(size=(n, 4)) + 1


def implicit(n_components):
    coder = Autoencoder(2, hidden=(), max_epochs=5, dtype="float64")
    return ImplicitModel(coder, GaussianMixture(n_components), random_state=0)


MODELS = [implicit(1), implicit(3), VAE(2, **SHORT), GAN(2, output="linear", **SHORT)]


@pytest.mark.parametrize("model", MODELS, ids=["one Gaussian", "three Gaussians", "VAE", "GAN"])
def test_linear_decoders_have_a_closed_form(model):
    model.fit(plane())
    offset, *columns = model.inverse_transform(np.vstack([np.zeros(2), np.eye(2)]))
    matrix = np.array(columns, dtype=float).T - offset[:, None]
    base = getattr(model, "base_", None)
    weights, means, covariances = (
        ([1.0], [np.zeros(2)], [np.eye(2)]) if base is None else (base.weights_, base.means_, base.covariances_)
    )
    X = plane(20, seed=1)
    parts = [
        multivariate_normal(offset + matrix @ mean, matrix @ covariance @ matrix.T + VARIANCE * np.eye(4)).logpdf(X)
        for mean, covariance in zip(means, covariances, strict=True)
    ]
    found = marginal_likelihood(model, X, VARIANCE, n_draws=2000)
    assert_allclose(found.log_likelihood, logsumexp(parts, axis=0, b=np.array(weights)[:, None]), rtol=0, atol=0.15)
    again = marginal_likelihood(model, X, VARIANCE, n_draws=2000)
    assert_array_equal(found.log_likelihood, again.log_likelihood)
    samples = decoder_of(model).generate(4000, random_state=1)
    expected = sum(w * (offset + matrix @ mean) for w, mean in zip(weights, means, strict=True))
    assert_allclose(samples.mean(0), expected, rtol=0, atol=5 * samples.std() / 4000**0.5)


def test_models_that_cannot_be_compared():
    X = plane()
    for model in (
        PPCA(2),
        VAE(2, n_clusters=2, max_epochs=1, hidden=4),
        ImplicitModel(MODELS[0].autoencoder, GaussianHMM(2), random_state=0),
    ):
        with pytest.raises(InputError, match=r"give a fitted|use log_likelihood"):
            decoder_of(model.fit(X))
    with pytest.raises(ParameterError, match="variance=0"):
        marginal_likelihood(MODELS[0].fit(X), X, 0)
