"""Autoencoders against PCA, exact Jacobians and hand-made penalties."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA

from unveil.core.noise import RandomNoise
from unveil.data.batch import Batch
from unveil.errors import InputError, ParameterError
from unveil.models.autoencoder import Autoencoder, squared_jacobian

QUICK = {"max_epochs": 3, "hidden": 8, "batch_size": 16, "random_state": 0}
LINEAR = {
    "hidden": (),
    "max_epochs": 120,
    "learning_rate": 3e-2,
    "schedule": "cosine",
    "validation_fraction": 0.0,
    "patience": None,
}


def data(n=600, d=8, seed=0):
    """Variances 16, 9, 4 along three directions, and 0.25 along the others; far from the origin."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return rng.normal(size=(n, d)) * np.r_[4, 3, 2, np.full(d - 3, 0.5)] @ rotation + 10 * np.arange(d)


def as_batch(X):
    return Batch(torch.from_numpy(X), torch.arange(len(X) + 1))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_linear_one_finds_the_principal_subspace(seed):
    X = data(seed=seed)
    linear, pca = Autoencoder(3, **LINEAR, random_state=seed).fit(X), PCA(3).fit(X)
    decoder = linear.model_.decoder.first_weight().detach().numpy().astype(float)
    assert subspace_angles(decoder, pca.components_.T).max() < 0.05
    error = np.square(X - pca.inverse_transform(pca.transform(X))).sum(1).mean()
    assert_allclose(-linear.score(X), error, rtol=2e-3, atol=0)
    assert_allclose(linear.reconstruct(X).mean(0), X.mean(0), rtol=0, atol=0.02)


def test_score_is_minus_the_squared_error():
    X = data()
    model = Autoencoder(2, **QUICK, dtype="float64").fit(X)
    assert_allclose(-model.score_samples(X), np.square(X - model.reconstruct(X)).sum(1), rtol=1e-8, atol=0)
    assert_allclose(model.inverse_transform(model.transform(X)), model.reconstruct(X), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("loss", "distortion"),
    [
        ("cross-entropy", lambda x, y: -(x * np.log(y) + (1 - x) * np.log1p(-y))),
        ("kullback-leibler", lambda x, y: x * np.log(x / y) - x + y),
        ("itakura-saito", lambda x, y: x / y - np.log(x / y) - 1),
    ],
)
def test_distortions(loss, distortion):
    X = np.random.default_rng(0).uniform(0.05, 0.95, size=(80, 6))
    model = Autoencoder(2, **QUICK, loss=loss, dtype="float64").fit(X)
    assert_allclose(-model.score_samples(X), distortion(X, model.reconstruct(X)).sum(1), rtol=1e-6, atol=0)


def test_jacobian_is_the_exact_one_in_the_mean():
    """For a linear map A it is |A|^2; for a network, that of torch.func."""
    network = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3)).double()
    inputs = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    exact = torch.func.vmap(torch.func.jacrev(network))(inputs.detach()).square().sum((1, 2))
    draws = [squared_jacobian(network(inputs), inputs, RandomNoise(torch.Generator().manual_seed(i))).detach() for i in range(4000)]
    mean, error = torch.stack(draws).mean(0), torch.stack(draws).std(0) / 4000**0.5
    assert ((mean - exact.detach()).abs() < 5 * error).all()


def test_penalties_are_added_to_the_distortion():
    X = data()
    model = Autoencoder(3, **QUICK, sparsity=0.5, contraction=0.2, dtype="float64").fit(X).model_
    batch = as_batch(X)
    loss = model.loss(batch, torch.Generator().manual_seed(0), 0.0)
    codes = model.codes(batch)
    norms = model.decoder.first_weight().norm(dim=0)
    assert_allclose(loss.parts["distortion"].item(), -model.objective(batch).mean().item(), rtol=1e-12, atol=0)
    assert_allclose(loss.parts["sparsity"].item(), 0.5 * (codes.abs() * norms).sum(1).mean().item(), rtol=1e-12, atol=0)
    assert_allclose(loss.total.item(), sum(part.item() for part in loss.parts.values()), rtol=1e-12, atol=0)


def test_sparsity_does_not_depend_on_the_scale_of_the_code():
    X = data()
    model = Autoencoder(3, **QUICK, sparsity=0.5, dtype="float64").fit(X).model_
    before = model.loss(as_batch(X), torch.Generator(), 0.0).parts["sparsity"].item()
    with torch.no_grad():
        last = model.encoder.layers[-1]
        last.weight.mul_(0.01)
        last.bias.mul_(0.01)
        model.decoder.first_weight().mul_(100.0)
    assert_allclose(model.loss(as_batch(X), torch.Generator(), 0.0).parts["sparsity"].item(), before, rtol=1e-9, atol=0)


def test_sparse_codes_have_zeros_and_contractive_ones_are_calm():
    X = data()
    settings = QUICK | {"max_epochs": 40, "learning_rate": 1e-2, "batch_size": 32}
    plain = Autoencoder(12, **settings, sparsity=1e-6, code_activation="relu").fit(X)
    sparse = Autoencoder(12, **settings, sparsity=0.5, code_activation="relu").fit(X)
    assert (sparse.transform(X) > 0).mean() < 0.7 * (plain.transform(X) > 0).mean()
    free, calm = (Autoencoder(3, **settings, activation="tanh", contraction=weight).fit(X) for weight in (0.0, 1.0))

    def slope(model):
        jacobian = torch.func.vmap(torch.func.jacrev(model.model_.encoder))(torch.zeros(1, 8))
        return jacobian.square().sum().item()

    assert slope(calm) < 0.5 * slope(free)


def test_denoising_restores_what_is_masked():
    """The fourth feature is the sum of the others: where it is missing, one that has learned without holes cannot know."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 3))
    X = np.c_[X, X.sum(1)]
    settings = {"hidden": 64, "max_epochs": 40, "learning_rate": 3e-3, "schedule": "cosine", "random_state": 0}
    plain = Autoencoder(3, **settings).fit(X)
    denoising = Autoencoder(3, **settings, corruption="masking", corruption_level=0.25).fit(X)
    holed = X.copy()
    holed[:, 3] = X[:, 3].mean()
    errors = [np.square(model.reconstruct(holed)[:, 3] - X[:, 3]).mean() for model in (plain, denoising)]
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize(("corruption", "level"), [("masking", 0.3), ("gaussian", 0.5)])
def test_corruption_is_as_strong_as_asked(corruption, level):
    model = Autoencoder(2, **QUICK, corruption=corruption, corruption_level=level).fit(data()).model_
    inputs = torch.full((20_000, 8), 2.0)
    corrupted = model._corrupted(inputs, RandomNoise(torch.Generator().manual_seed(0)))
    if corruption == "masking":
        assert set(corrupted.unique().tolist()) == {0.0, 2.0}
        assert_allclose((corrupted == 0).float().mean().item(), level, rtol=0, atol=0.01)
    else:
        assert_allclose((corrupted - inputs).std().item(), level, rtol=0.02, atol=0)


def test_validation_and_scores_are_without_the_random_numbers_of_corruption():
    X = data()
    model = Autoencoder(2, **QUICK, corruption="masking").fit(X)
    assert_allclose(model.score(X), model.score(X), rtol=0, atol=0)


def test_codes_of_an_autoencoder_have_no_distribution():
    with pytest.raises(AttributeError, match="sample"):
        Autoencoder(2, **QUICK).fit(data()).sample(3)
    with pytest.raises(InputError, match="n_latent=9 but X has 8 features"):
        Autoencoder(9, **QUICK).fit(data())
    Autoencoder(9, **QUICK, sparsity=0.1).fit(data())
    with pytest.raises(ParameterError, match="loss='nothing'"):
        Autoencoder(2, loss="nothing").fit(data())


def test_recurrent_on_sequences():
    rng = np.random.default_rng(0)
    X = [np.cumsum(rng.normal(size=(n, 2)), 0) for n in rng.integers(5, 20, 30)]
    model = Autoencoder(
        1, **QUICK | {"max_epochs": 40, "hidden": 16, "batch_size": 4, "learning_rate": 1e-2}, architecture="recurrent"
    ).fit(X)
    assert [code.shape for code in model.transform(X)] == [(len(each), 1) for each in X]
    scale = np.square(np.concatenate(X) - np.concatenate(X).mean(0)).sum(1).mean()
    assert -model.score(X) / np.mean([len(each) for each in X]) < 0.7 * scale
