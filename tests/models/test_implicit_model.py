"""Implicit models against closed forms: a linear decoder under one Gaussian is a Gaussian, and HMMs keep the likelihood of their codes."""

import itertools
import json

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.base import clone

import unveil
from unveil.core.storage import read_model, write_model
from unveil.errors import InputError, ModelFileError, ParameterError
from unveil.models.autoencoder import Autoencoder
from unveil.models.gan import GAN
from unveil.models.gaussian_hmm import GaussianHMM
from unveil.models.gaussian_mixture import GaussianMixture
from unveil.models.gaussian_mixture_classifier import GaussianMixtureClassifier
from unveil.models.implicit_model import ImplicitModel
from unveil.models.mixture_of_hmms import MixtureOfHMMs
from unveil.models.vae import VAE

LINEAR = Autoencoder(2, hidden=(), max_epochs=20, batch_size=64, learning_rate=1e-2, dtype="float64")
CURVED = Autoencoder(1, hidden=8, max_epochs=30, batch_size=32, learning_rate=1e-2, activation="tanh", dtype="float64")
RECURRENT = Autoencoder(2, hidden=4, architecture="recurrent", max_epochs=2, dtype="float64")


def plane(n=1000, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)) @ np.random.default_rng(9).normal(size=(2, 5)) + 0.3 * rng.normal(size=(n, 5)) + 1


def walks(n=12, seed=0):
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(9).normal(size=(2, 5))
    return [centers[np.sort(rng.integers(2, size=t))] + 0.2 * rng.normal(size=(t, 5)) for t in rng.integers(2, 6, n)]


def linear_map(model):
    """Offset and matrix of a linear decoder, read off at the origin and the unit vectors."""
    n_codes = len(model.code_variances_)
    offset, *columns = model.inverse_transform(np.vstack([np.zeros(n_codes), np.eye(n_codes)]))
    return offset, np.array(columns).T - offset[:, None]


@pytest.fixture(scope="module")
def on_a_plane():
    return ImplicitModel(LINEAR, GaussianMixture(1), random_state=0).fit(plane())


@pytest.fixture(scope="module")
def clusters_on_a_plane():
    return ImplicitModel(LINEAR, GaussianMixture(3), random_state=0).fit(plane())


@pytest.fixture(scope="module")
def of_walks():
    return ImplicitModel(LINEAR, GaussianHMM(2), random_state=0).fit(walks())


def densities(model, X):
    """log N(x; f(mu_k), W S_k W' + v I) of each component of the base (n, K): a linear decoder, in closed form."""
    offset, matrix = linear_map(model)
    noise = model.variance_ * np.eye(len(offset))
    parts = zip(model.base_.means_, model.base_.covariances_, strict=True)
    of_components = [
        multivariate_normal(offset + matrix @ mean, matrix @ covariance @ matrix.T + noise).logpdf(X) for mean, covariance in parts
    ]
    return np.stack(of_components, -1)


def test_laplace_is_exact_for_a_linear_decoder_under_one_gaussian(on_a_plane):
    X = plane(200, seed=1)
    expected = densities(on_a_plane, X)[:, 0]
    assert_allclose(on_a_plane.score_samples(X), expected, rtol=0, atol=1e-8)
    assert_allclose(on_a_plane.score(X), expected.mean(), rtol=0, atol=1e-8)


def test_importance_sampling_agrees_with_the_closed_form(clusters_on_a_plane):
    model, X = clusters_on_a_plane, plane(100, seed=1)
    expected = logsumexp(densities(model, X), axis=1, b=model.base_.weights_)
    found = model.log_likelihood(X, n_draws=4000)
    assert_allclose(found, expected, rtol=0, atol=0.15)
    assert abs((found - expected).mean()) < 0.01
    assert_array_equal(found, model.log_likelihood(X, n_draws=4000))
    assert not np.array_equal(found, model.log_likelihood(X, n_draws=4000, random_state=1))


def test_laplace_is_near_for_a_mixture(clusters_on_a_plane):
    model, X = clusters_on_a_plane, plane(100, seed=1)
    expected = logsumexp(densities(model, X), axis=1, b=model.base_.weights_)
    assert abs((model.score_samples(X) - expected).mean()) < 0.05


def test_curved_decoder_against_numerical_integration():
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, np.pi, 300)
    X = np.stack([np.cos(angles), np.sin(angles)], 1) + 0.05 * rng.normal(size=(300, 2))
    model = ImplicitModel(CURVED, GaussianMixture(1), random_state=0).fit(X)
    codes = model.transform(X)
    grid = np.linspace(codes.min() - 5 * codes.std(), codes.max() + 5 * codes.std(), 20001)[:, None]
    log_prior, decoded = model.base_.score_samples(grid), model.inverse_transform(grid)
    log_noise = -0.5 * np.square(X[:10, None] - decoded).sum(2) / model.variance_ - np.log(2 * np.pi * model.variance_)
    expected = logsumexp(log_prior + log_noise, axis=1) + np.log(grid[1] - grid[0])
    assert_allclose(model.log_likelihood(X[:10], n_draws=4000), expected, rtol=0, atol=0.05)
    assert_allclose(model.score_samples(X[:10]), expected, rtol=0, atol=0.3)  # the decoder's own curvature is left out


def test_likelihood_of_sequences_is_the_sum_over_paths(of_walks):
    """Of a linear decoder: sum_z p(z) prod_t N(x_t; f(mu_z_t), W S W' + v I)."""
    model, sequences = of_walks, [each[:3] for each in walks(6, seed=1)]
    offset, matrix = linear_map(model)
    base, noise = model.base_, model.variance_ * np.eye(5)
    states = [
        multivariate_normal(offset + matrix @ mean, matrix @ np.diag(variances) @ matrix.T + noise)
        for mean, variances in zip(base.means_, base.covariances_, strict=True)
    ]
    expected = []
    for x in sequences:
        of_paths = []
        for path in itertools.product(range(2), repeat=len(x)):
            with np.errstate(divide="ignore"):
                log_path = np.log(base.startprob_[path[0]]) + sum(np.log(base.transmat_[i, j]) for i, j in itertools.pairwise(path))
            of_paths.append(log_path + sum(states[z].logpdf(each) for z, each in zip(path, x, strict=True)))
        expected.append(logsumexp(of_paths))
    assert_allclose(model.log_likelihood(sequences, n_draws=2000), expected, rtol=0, atol=0.1)
    assert_allclose(model.score_samples(sequences), expected, rtol=0, atol=0.3)


def test_variance_is_the_error_of_reconstruction(on_a_plane):
    assert_allclose(on_a_plane.variance_, np.square(plane() - on_a_plane.reconstruct(plane())).mean(), rtol=1e-10, atol=0)
    assert_allclose(on_a_plane.code_variances_, on_a_plane.transform(plane()).var(0), rtol=1e-10, atol=0)
    assert ImplicitModel(LINEAR, GaussianMixture(1), variance=0.5, random_state=0).fit(plane()).variance_ == 0.5


def test_moments_of_samples(on_a_plane):
    model, (samples, labels) = on_a_plane, on_a_plane.sample(40000, random_state=0)
    offset, matrix = linear_map(model)
    covariance = matrix @ model.base_.covariances_[0] @ matrix.T + model.variance_ * np.eye(5)
    largest = np.diag(covariance).max()  # standard errors: of means (C / n)^.5, of covariances at most C (2 / n)^.5
    assert_allclose(samples.mean(0), offset + matrix @ model.base_.means_[0], rtol=0, atol=5 * (largest / 40000) ** 0.5)
    assert_allclose(np.cov(samples.T), covariance, rtol=0, atol=5 * largest * (2 / 40000) ** 0.5)
    assert_array_equal(labels, 0)
    across = np.linalg.svd(matrix)[0][:, 2:]  # where there is nothing but noise
    noise = np.var((samples - offset) @ across, axis=0)
    assert_allclose(noise, model.variance_, rtol=5 * (2 / 40000) ** 0.5, atol=0)


def test_samples_of_sequences_have_the_likelihood_of_the_base():
    """Without noise, the linear code of a sample is the code that was drawn."""
    model = ImplicitModel(LINEAR, GaussianHMM(2), variance=0.0, random_state=0).fit(walks(40))
    samples, states = model.sample(400, length=5, random_state=1)
    assert samples.shape == (400, 5, 5)
    offset, matrix = linear_map(model)
    codes = (samples - offset) @ np.linalg.pinv(matrix).T
    drawn, of_base = model.base_.sample(400, length=5, random_state=1)
    assert_allclose(codes, drawn, rtol=0, atol=1e-8)
    assert_array_equal(states, of_base)
    scores = model.base_.score_samples(codes)
    fresh = model.base_.score_samples(model.base_.sample(4000, length=5, random_state=2)[0])
    assert abs(scores.mean() - fresh.mean()) < 4 * fresh.std() / 20


def test_parts_are_those_fitted_one_after_the_other(clusters_on_a_plane):
    model, X = clusters_on_a_plane, plane()
    assert_allclose(model.transform(X), model.autoencoder_.transform(X), rtol=0, atol=0)
    assert_allclose(model.reconstruct(X), model.autoencoder_.reconstruct(X), rtol=0, atol=0)
    assert_allclose(model.inverse_transform(model.transform(X)), model.reconstruct(X), rtol=1e-12, atol=1e-12)
    assert_array_equal(model.predict(X), model.base_.predict(model.transform(X)))
    alone = GaussianMixture(3, random_state=0).fit(model.transform(X))
    assert_allclose(model.base_.score(model.transform(X)), alone.score(model.transform(X)), rtol=0, atol=0.02)
    assert model.base_.history_.objective == model.history_.parts["second step"]
    assert set(model.autoencoder_.history_.parts) == {"loss", "distortion", "held-out loss", "held-out distortion"}


@pytest.mark.parametrize("parts", [(LINEAR, GaussianHMM(1)), (RECURRENT, GaussianMixture(1))], ids=["HMM", "recurrent"])
def test_weights_of_sequences_are_those_of_their_steps(parts):
    sequences, weights = walks(6), np.array([1.0, 2.0, 0.0, 1.0, 3.0, 1.0])
    model = ImplicitModel(*parts, random_state=0).fit(sequences, sample_weight=weights)
    codes, steps = np.concatenate(model.transform(sequences)), np.repeat(weights, [len(each) for each in sequences])
    assert_allclose(model.base_.means_[0], np.average(codes, axis=0, weights=steps), rtol=1e-8, atol=1e-10)
    errors = np.square(np.concatenate(sequences) - np.concatenate(model.reconstruct(sequences))).mean(1)
    assert_allclose(model.variance_, np.average(errors, weights=steps), rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("autoencoder", "base", "items", "scored"),
    [
        (LINEAR, GaussianMixture(2), "points", True),
        pytest.param(VAE(2, hidden=4, max_epochs=2), VAE(1, hidden=4, max_epochs=2), "points", True, marks=pytest.mark.slow),
        (LINEAR, GAN(2, hidden=4, max_epochs=2), "points", False),
        (LINEAR, GaussianHMM(2), "sequences", True),
        pytest.param(LINEAR, MixtureOfHMMs(2, 2), "sequences", True, marks=pytest.mark.slow),
        pytest.param(RECURRENT, GaussianMixture(2), "sequences", False, marks=pytest.mark.slow),
        (RECURRENT, GaussianHMM(2), "sequences", False),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "fit") else str(value),
)
@pytest.mark.filterwarnings("ignore::unveil.errors.IdentifiabilityWarning")
def test_parts_of_every_kind(autoencoder, base, items, scored, tmp_path):
    X = walks(8) if items == "sequences" else np.concatenate(walks())
    model = ImplicitModel(autoencoder, base, random_state=0).fit(X)
    assert model.items == items
    assert model.has_likelihood is scored
    assert hasattr(model, "score") is hasattr(model, "score_samples") is hasattr(model, "log_likelihood") is scored
    values, labels = model.sample(3, length=4) if items == "sequences" else model.sample(3)
    assert values.shape == ((3, 4, 5) if items == "sequences" else (3, 5))
    assert labels.shape == values.shape[:-1]
    if scored:
        assert_allclose(model.score_samples(X), model.log_likelihood(X, n_draws=300), rtol=0, atol=3)
    if items == "sequences":
        assert [len(each) for each in model.transform(X)] == [len(each) for each in X]
    model.save(tmp_path / "model.unveil")
    loaded = unveil.load(tmp_path / "model.unveil")
    assert_array_equal(loaded.sample(3, random_state=1)[0], model.sample(3, random_state=1)[0])
    if scored:
        assert_array_equal(loaded.score_samples(X), model.score_samples(X))
    if hasattr(base, "predict"):
        assert_array_equal(np.hstack(loaded.predict(X)), np.hstack(model.predict(X)))
        found = model.predict(X)
        if items == "points" or isinstance(base, MixtureOfHMMs):
            assert found.shape == (len(X),)
        else:
            assert [len(each) for each in found] == [len(each) for each in X]


def test_loaded_parts_are_those_that_were_given(on_a_plane, tmp_path):
    on_a_plane.save(tmp_path / "model.unveil")
    loaded = unveil.load(tmp_path / "model.unveil")
    assert loaded.base.get_params() == on_a_plane.base.get_params()
    assert {**loaded.autoencoder.get_params(), "hidden": ()} == on_a_plane.autoencoder.get_params()
    assert json.dumps(read_model(tmp_path / "model.unveil")[0]["parameters"]["base"]["estimator"]) == '"GaussianMixture"'


@pytest.mark.parametrize(
    "base", [{"estimator": "os.system", "parameters": {}}, {"estimator": "GaussianMixture", "parameters": {"nonsense": 1}}]
)
def test_file_that_names_what_is_not_here(on_a_plane, base, tmp_path):
    on_a_plane.save(tmp_path / "model.unveil")
    header, tensors = read_model(tmp_path / "model.unveil")
    header["parameters"]["base"] = base
    names = ("estimator", "parameters", "n_features", "feature_names", "history", "classes")
    write_model(tmp_path / "other.unveil", {name: header[name] for name in names}, tensors)
    with pytest.raises(ModelFileError, match=r"os\.system|nonsense"):
        unveil.load(tmp_path / "other.unveil")


def test_parts_are_not_changed_and_can_be_set():
    autoencoder, base = clone(LINEAR), GaussianMixture(2)
    model = ImplicitModel(autoencoder, base, random_state=0)
    before = model.get_params()
    model.fit(plane(100))
    assert model.get_params() == before
    assert vars(autoencoder) == vars(clone(LINEAR))
    assert vars(base) == vars(GaussianMixture(2))
    model.set_params(base__n_components=3, autoencoder__max_epochs=1).fit(plane(100))
    assert model.base_.means_.shape == (3, 2)
    assert model.history_.parts["loss"] == model.autoencoder_.history_.parts["loss"]
    assert len(model.history_.objective) == 1
    other = clone(model)
    assert other.base is not base
    assert other.get_params()["base__n_components"] == 3


def test_default_parts():
    model = ImplicitModel(random_state=0).fit(plane(400))
    assert model.base_.means_.shape == (30, 2)
    assert model.get_params()["base"] is None
    assert np.isfinite(model.score(plane(50, seed=1)))


def test_validation_checkpoint_and_callbacks_are_of_the_first_step(tmp_path):
    seen = []
    model = ImplicitModel(clone(LINEAR).set_params(max_epochs=4), GaussianHMM(2), random_state=0)
    model.fit(walks(), validation=walks(4, seed=1), checkpoint=tmp_path, callbacks=[lambda epoch: seen.append(epoch.number)])
    assert seen == [0, 1, 2, 3]
    assert len(model.history_.parts["held-out loss"]) == 4
    assert list(tmp_path.iterdir())


def test_dimensions_over_which_is_not_integrated(of_walks):
    with pytest.raises(InputError, match=r"300 steps of 2 latent variables.*shorter sequences"):
        of_walks.score_samples([np.zeros((300, 5))])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"autoencoder": GaussianMixture()}, r"autoencoder=GaussianMixture\(\): expected an estimator with an encoder"),
        ({"autoencoder": Autoencoder}, "autoencoder=.*expected"),
        ({"base": LINEAR}, r"base=Autoencoder\(\): expected an estimator that can be sampled from"),
        ({"base": GaussianMixtureClassifier()}, "needs no classes"),
        ({"base": GaussianMixture(0)}, "base__n_components=0: expected a whole number >= 1"),
        ({"autoencoder": Autoencoder(learning_rate=-1)}, "autoencoder__learning_rate=-1: expected a number > 0"),
        ({"variance": -1.0}, r"variance=-1.0: expected a number >= 0.0 or 'residual'"),
        ({"variance": "nonsense"}, "variance='nonsense': expected"),
    ],
)
def test_parameters_that_cannot_be(settings, message):
    with pytest.raises(ParameterError, match=message):
        ImplicitModel(**settings).fit(plane(40))


def test_without_noise_there_is_no_density():
    model = ImplicitModel(LINEAR, GaussianMixture(1), variance=0.0, random_state=0).fit(plane(200))
    assert not hasattr(model, "score")
    samples = model.sample(50)[0]
    assert_allclose(model.reconstruct(samples).shape, samples.shape, rtol=0, atol=0)
    assert torch.linalg.matrix_rank(torch.from_numpy(samples - samples.mean(0)), rtol=1e-8) == 2
