"""Mixtures of PPCA and of factor analysers against dense formulae, and against the models that they become in special cases."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from unveil.data.batch import Batch
from unveil.errors import InputError
from unveil.metrics.clustering import clustering_accuracy
from unveil.models.gaussian_mixture import GaussianMixture
from unveil.models.mixture_of_ppca import MixtureOfPPCA
from unveil.models.ppca import PPCA

NOISES = ("isotropic", "diagonal")


@pytest.fixture(scope="module")
def planes():
    """Three planes through nearly the same place in five dimensions, and which of them each point is on."""
    rng = np.random.default_rng(0)
    clusters = np.repeat([0, 1, 2], [160, 120, 80])
    axes, centers = rng.normal(size=(3, 2, 5)), rng.normal(size=(3, 5))
    z = 3 * rng.normal(size=(360, 2))
    return np.einsum("nq,nqd->nd", z, axes[clusters]) + centers[clusters] + 0.3 * rng.normal(size=(360, 5)), clusters


@pytest.fixture(scope="module")
def gaps(planes):
    X, _ = planes
    return np.where(np.random.default_rng(1).random(X.shape) < 0.1, np.nan, X)


def log_joint(mixture, X):
    """log pi_k + log N(x_o; mu_k, Sigma_k) of the observed entries by scipy, of shape (n, K)."""
    found = np.zeros((len(X), mixture.n_clusters)) + np.log(mixture.weights_)
    for i, x in enumerate(X):
        seen = ~np.isnan(x)
        for k, (mean, covariance) in enumerate(zip(mixture.means_, mixture.covariances_, strict=True)):
            found[i, k] += multivariate_normal(mean[seen], covariance[np.ix_(seen, seen)]).logpdf(x[seen])
    return found


@pytest.mark.parametrize("noise", NOISES)
def test_likelihood_and_responsibilities(gaps, noise):
    mixture = MixtureOfPPCA(n_clusters=3, n_components=2, noise=noise, max_iter=5, tol=0.0, random_state=0).fit(gaps)
    expected = log_joint(mixture, gaps)
    evidence = logsumexp(expected, axis=1)
    assert_allclose(mixture.score_samples(gaps), evidence, rtol=1e-9, atol=1e-12)
    assert_allclose(mixture.predict_proba(gaps), np.exp(expected - evidence[:, None]), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("noise", NOISES)
def test_covariances_are_loadings_and_noise(planes, noise):
    mixture = MixtureOfPPCA(n_clusters=3, n_components=2, noise=noise, max_iter=3, tol=0.0, random_state=0).fit(planes[0])
    for k in range(3):
        noises = np.diag(np.broadcast_to(mixture.noise_variances_[k], 5))
        expected = mixture.components_[k].T @ mixture.components_[k] + noises
        assert_allclose(mixture.covariances_[k], expected, rtol=1e-12, atol=1e-12)


def test_step_of_em_is_that_of_tipping_and_bishop(planes):
    """Responsibilities, then the principal components of each cluster's weighted covariance."""
    X, _ = planes
    mixture = MixtureOfPPCA(n_clusters=3, n_components=2, max_iter=2, tol=0.0, random_state=0).fit(X)
    r = mixture.predict_proba(X)
    after = MixtureOfPPCA(n_clusters=3, n_components=2, max_iter=3, tol=0.0, random_state=0).fit(X)
    assert_allclose(after.weights_, r.mean(0), rtol=1e-9, atol=0)
    for k in range(3):
        mean = np.average(X, 0, r[:, k])
        values, vectors = np.linalg.eigh(np.cov(X.T, aweights=r[:, k], ddof=0))
        noise = values[:3].mean()
        covariance = (vectors[:, 3:] * (values[3:] - noise)) @ vectors[:, 3:].T + noise * np.eye(5)
        assert_allclose(after.means_[k], mean, rtol=1e-8, atol=1e-9)
        assert_allclose(after.noise_variances_[k], noise, rtol=1e-8, atol=0)
        assert_allclose(after.covariances_[k], covariance, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("noise", NOISES)
def test_one_cluster_is_ppca(gaps, noise):
    settings = {"n_components": 2, "noise": noise, "max_iter": 12, "tol": 0.0}
    mixture, alone = MixtureOfPPCA(n_clusters=1, **settings).fit(gaps), PPCA(**settings).fit(gaps)
    assert_allclose(mixture.covariances_[0], alone.get_covariance(), rtol=1e-9, atol=1e-10)
    assert_allclose(mixture.transform(gaps), alone.transform(gaps), rtol=1e-8, atol=1e-9)
    assert_allclose(mixture.impute(gaps), alone.impute(gaps), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("with_gaps", [False, True])
def test_all_components_but_one_are_full_covariances(planes, gaps, with_gaps):
    """With q = D - 1 the noise is the variance of the one direction left, so nothing is restricted."""
    X = gaps if with_gaps else planes[0]
    settings = {"max_iter": 10, "tol": 0.0, "random_state": 0}
    flat = MixtureOfPPCA(n_clusters=3, n_components=4, max_iter=1, tol=0.0, random_state=0).fit(X)
    start = {"weights_init": flat.weights_, "means_init": flat.means_, "precisions_init": np.linalg.inv(flat.covariances_)}
    full = GaussianMixture(n_components=3, reg_covar=1e-12, **start, **settings).fit(X)
    flat.set_params(warm_start=True, **settings).fit(X)
    assert_allclose(flat.covariances_, full.covariances_, rtol=1e-6, atol=1e-7)
    assert_allclose(flat.score_samples(X), full.score_samples(X), rtol=1e-7, atol=0)


@pytest.mark.parametrize("noise", NOISES)
def test_em_with_gaps_climbs_to_where_the_gradient_vanishes(gaps, noise):
    mixture = MixtureOfPPCA(n_clusters=2, n_components=2, noise=noise, tol=1e-11, max_iter=2000, random_state=0).fit(gaps)
    steps = np.diff(mixture.history_.objective)
    assert (steps >= -1e-10).all(), steps.min()
    batch = Batch(torch.from_numpy(gaps), torch.arange(len(gaps) + 1))
    mixture.model_.objective(batch).mean().backward()
    emission = mixture.model_.emission
    at_floor = emission.noise_variances.detach() <= emission.floor * (1 + 1e-9)
    assert not at_floor.all()
    assert (emission.noise_variances.grad[at_floor] < 0).all()  # less noise would be likelier still
    for gradient in (emission.means.grad, emission.loadings.grad, emission.noise_variances.grad[~at_floor]):
        assert_allclose(gradient, 0.0, rtol=0, atol=1e-4)


def test_planes_are_found_again(planes):
    X, clusters = planes
    mixture = MixtureOfPPCA(n_clusters=3, n_components=2, n_init=10, random_state=0).fit(X)
    assert clustering_accuracy(clusters, mixture.predict(X)) > 0.9
    assert_allclose(mixture.noise_variances_, 0.09, rtol=0.3, atol=0)
    assert_allclose(np.sort(mixture.weights_), [80 / 360, 120 / 360, 160 / 360], rtol=0, atol=0.06)


def test_planes_are_found_again_with_gaps(planes, gaps):
    X, clusters = planes
    mixture = MixtureOfPPCA(n_clusters=3, n_components=2, n_init=10, random_state=0).fit(gaps)
    assert clustering_accuracy(clusters, mixture.predict(gaps)) > 0.85
    holes = np.isnan(gaps)
    filled = mixture.impute(gaps)
    assert_array_equal(filled[~holes], X[~holes])
    of_means = np.sqrt(np.mean((np.nanmean(gaps, 0) - X)[holes] ** 2))
    assert np.sqrt(np.mean((filled - X)[holes] ** 2)) < 0.5 * of_means


def test_transform_is_that_of_the_most_probable_cluster(gaps):
    mixture = MixtureOfPPCA(n_clusters=3, n_components=2, random_state=0).fit(gaps)
    latent = mixture.transform(gaps)
    for i, k in enumerate(mixture.predict(gaps)[:20]):
        seen = ~np.isnan(gaps[i])
        gain = mixture.components_[k][:, seen] @ np.linalg.inv(mixture.covariances_[k][np.ix_(seen, seen)])
        assert_allclose(latent[i], gain @ (gaps[i] - mixture.means_[k])[seen], rtol=1e-8, atol=1e-10)


def test_samples_have_the_moments_of_their_cluster(planes):
    mixture = MixtureOfPPCA(n_clusters=2, n_components=2, noise="diagonal", random_state=0).fit(planes[0])
    drawn, labels = mixture.sample(40_000, random_state=0)
    assert_allclose(np.bincount(labels) / 40_000, mixture.weights_, rtol=0, atol=0.015)
    for k in range(2):
        mine, largest = drawn[labels == k], np.diag(mixture.covariances_[k]).max()
        assert_allclose(mine.mean(0), mixture.means_[k], rtol=0, atol=5 * np.sqrt(largest / len(mine)))
        assert_allclose(np.cov(mine.T), mixture.covariances_[k], rtol=0, atol=5 * largest * np.sqrt(2 / len(mine)))


def test_known_clusters_are_kept(planes):
    X, clusters = planes
    known = np.where(np.arange(360) % 10 == 0, clusters, -1)
    mixture = MixtureOfPPCA(n_clusters=3, n_components=2, random_state=0).fit(X, known)
    assert (mixture.predict(X) == clusters).mean() > 0.9


def test_number_of_parameters():
    model = MixtureOfPPCA(n_clusters=3, n_components=2).build(5)
    assert model.count_parameters() == 2 + 3 * (5 + 10 - 1 + 1)
    assert MixtureOfPPCA(n_clusters=3, n_components=2, noise="diagonal").build(5).count_parameters() == 2 + 3 * (5 + 10 - 1 + 5)


def test_cluster_that_loses_its_points_keeps_its_parameters(planes):
    X, _ = planes
    emission = MixtureOfPPCA(n_clusters=2, n_components=2).build(5).emission
    values, r = torch.from_numpy(X), torch.ones(360, 2, dtype=torch.float64)
    emission.initialize(values, r)
    r[:, 1] = 0.0
    before = [each[1].detach().clone() for each in (emission.means, emission.loadings, emission.noise_variances)]
    emission.maximize(emission.expect(emission.features(values * 2), r))
    for parameter, kept in zip((emission.means, emission.loadings, emission.noise_variances), before, strict=True):
        assert torch.equal(parameter[1], kept)
        assert not torch.equal(parameter[0], kept)


def test_refusals(planes):
    X, _ = planes
    with pytest.raises(InputError, match=r"n_clusters=9 but X has n_samples=5; give more points or fewer clusters"):
        MixtureOfPPCA(n_clusters=9).fit(X[:5])
    with pytest.raises(InputError, match="n_components=6 but X has n_features=5"):
        MixtureOfPPCA(n_components=6).fit(X)
