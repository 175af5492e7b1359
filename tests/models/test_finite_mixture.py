"""Mixtures with labels, priors and starts of every kind, against sums and maxima written out."""

from itertools import permutations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from scipy.stats import multivariate_normal, poisson
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs

import unveil
from unveil.data.batch import Batches
from unveil.data.layout import as_rows
from unveil.emissions.normal_inverse_wishart import NormalInverseWishart
from unveil.emissions.product import Product
from unveil.models.finite_mixture import Mixture
from unveil.models.gaussian_mixture import GaussianMixture
from unveil.models.gaussian_mixture_classifier import GaussianMixtureClassifier
from unveil.models.mixture_model import MixtureModel


def blobs(n=300, seed=0):
    return make_blobs(n, 2, centers=np.array([[0.0, 0.0], [4.0, 1.0], [1.0, 5.0]]), cluster_std=1.5, random_state=seed)


def one_batch(X, **options):
    return next(iter(Batches(as_rows(X), **options)))


def log_joint(mixture, X):
    """log pi_k N(x_n; mu_k, Sigma_k), (n, K), by scipy."""
    parameters = zip(mixture.means_, mixture.covariances_, strict=True)
    return np.array([multivariate_normal(mean, covariance).logpdf(X) for mean, covariance in parameters]).T + np.log(
        mixture.weights_
    )


# ---- labels ----------------------------------------------------------------------------------------------------------


def test_labels_are_masks():
    X, truth = blobs(60)
    y = np.where(np.arange(60) % 2, truth, -1)
    mixture = GaussianMixture(3, random_state=0).fit(X)
    joint = log_joint(mixture, X)
    masked = np.where((y[:, None] >= 0) & (np.arange(3) != y[:, None]), -np.inf, joint)
    batch = one_batch(X, labels=y)
    assert_allclose(mixture.model_.objective(batch).detach().numpy(), logsumexp(masked, 1), rtol=1e-10, atol=0)
    responsibilities = mixture.model_.posterior(batch).responsibilities.numpy()
    assert_allclose(responsibilities, softmax(masked, 1), rtol=1e-9, atol=1e-12)
    assert_array_equal(responsibilities[y >= 0], np.eye(3)[y[y >= 0]])
    statistics = mixture.model_.expect(batch)
    assert_allclose(statistics.count.numpy(), softmax(masked, 1).sum(0), rtol=1e-10, atol=0)
    assert_allclose(statistics.log_likelihood, logsumexp(masked, 1).sum(), rtol=1e-10, atol=0)


def test_labels_of_classes_with_several_components():
    X, truth = blobs(60)
    y = np.where(np.arange(60) % 2, truth, -1)
    model = GaussianMixtureClassifier(2, random_state=0, max_iter=3, tol=0.0).fit(X, y).model_
    density = model.emission.log_density(model.emission.features(torch.from_numpy(X))).detach().numpy()
    joint = density + np.log(model.weights.detach().numpy())
    of_component = np.array([0, 0, 1, 1, 2, 2])
    assert_array_equal(model.classes.numpy(), of_component)
    masked = np.where((y[:, None] >= 0) & (of_component != y[:, None]), -np.inf, joint)
    assert_allclose(model.objective(one_batch(X, labels=y)).detach().numpy(), logsumexp(masked, 1), rtol=1e-10, atol=0)


def test_some_labels_rise_and_name_the_components():
    X, truth = blobs()
    order = np.array([2, 0, 1])
    y = np.where(np.arange(300) % 20 == 0, order[truth], -1)
    mixture = GaussianMixture(3, random_state=0, tol=1e-10, max_iter=200).fit(X, y)
    assert (np.diff(mixture.history_.objective) >= -1e-12).all()
    agreement = [np.mean(mixture.predict(X) == np.array(names)[truth]) for names in permutations(range(3))]
    assert np.mean(mixture.predict(X) == order[truth]) == max(agreement)
    with_labels = mixture.model_.objective(one_batch(X, labels=y)).detach().mean()
    assert_allclose(mixture.history_.objective[-1], with_labels, rtol=1e-6, atol=0)
    assert_allclose(mixture.score_samples(X), logsumexp(log_joint(mixture, X), 1), rtol=1e-9, atol=0)  # without them


def test_a_class_that_no_label_names():
    X, truth = blobs()
    y = np.where((truth == 1) & (np.arange(300) % 5 == 0), 2, -1)  # only class 2 is known, of the blob 1
    mixture = GaussianMixture(3, random_state=0).fit(X, y)
    assert np.mean(mixture.predict(X)[truth == 1] == 2) > 0.9


@pytest.mark.parametrize("emission", ["poisson", "gaussian"])
def test_all_but_one_label_is_counting(emission):
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=400)
    X = rng.poisson(np.array([2.0, 9.0, 20.0])[y])[:, None].astype(float)
    y[-1] = -1
    mixture = MixtureModel(3, emission=emission, random_state=0, max_iter=1, tol=0.0, reg_covar=0.0).fit(X, y)
    mixture.set_params(warm_start=True).fit(
        X[:-1], np.where(np.arange(399) < 1, -1, y[:-1]), sample_weight=np.r_[1e-12, np.ones(398)]
    )
    known, table = y[1:-1], X[1:-1]
    means = [table[known == k].mean() for k in range(3)]
    found = mixture.model_.emission.rates if emission == "poisson" else mixture.model_.emission.means
    assert_allclose(found.detach()[:, 0], means, rtol=1e-9, atol=0)
    assert_allclose(mixture.weights_, np.bincount(known) / 398, rtol=1e-9, atol=0)


# ---- priors ----------------------------------------------------------------------------------------------------------


def test_weights_maximise_the_posterior():
    X, _ = blobs()
    model = GaussianMixture(3, weights_prior=8.5).build(2)
    model.initialize(Batches(as_rows(X)), torch.Generator().manual_seed(0))
    statistics = model.expect(one_batch(X))
    model.maximize(statistics)
    counts = statistics.count.numpy() + 7.5
    found = minimize(lambda u: -(counts @ np.log(softmax(u))), np.zeros(3), tol=1e-12)
    assert_allclose(model.weights.detach().numpy(), softmax(found.x), rtol=1e-4, atol=1e-6)
    assert_allclose(model.weights.detach().numpy(), counts / counts.sum(), rtol=1e-12, atol=0)
    assert_allclose(model.log_prior(), 7.5 * np.log(model.weights.detach().numpy()).sum(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("prior", [{"weights_prior": 10.7}, {"emission_prior": "conjugate"}], ids=str)
def test_posterior_rises(prior):
    X, _ = blobs()
    mixture = GaussianMixture(5, random_state=0, max_iter=30, tol=0.0, **prior).fit(X)
    assert (np.diff(mixture.history_.objective) >= -1e-12).all()
    before = mixture.history_.objective[-1]
    assert (mixture.score_samples(X).sum() + mixture.model_.log_prior()) / 300 >= before - 1e-12


def test_small_changes_lower_the_posterior():
    """At the fixed point, every direction on the simplex goes down."""
    X, _ = blobs(150)
    mixture = GaussianMixture(3, weights_prior=6.0, random_state=0, tol=1e-13, max_iter=2000).fit(X)
    densities = log_joint(mixture, X) - np.log(mixture.weights_)
    rng = np.random.default_rng(0)

    def posterior(weights):
        return logsumexp(densities + np.log(weights), 1).sum() + 5.0 * np.log(weights).sum()

    for _ in range(20):
        direction = rng.normal(size=3)
        direction -= direction.mean()
        assert posterior(mixture.weights_ + 1e-3 * direction) < posterior(mixture.weights_)


def test_a_component_that_is_impossible_stays_so_under_a_prior():
    X, _ = blobs()
    mixture = GaussianMixture(3, weights_init=[0.5, 0.5, 0.0], weights_prior=3.0, random_state=0, max_iter=5, tol=0.0).fit(X)
    assert mixture.weights_[2] == 0.0
    assert (np.diff(mixture.history_.objective) >= -1e-12).all()


# ---- starts ----------------------------------------------------------------------------------------------------------


def test_a_start_from_kmeans_is_kmeans():
    X, _ = blobs()
    model = GaussianMixture(3, reg_covar=0.0).build(2)
    model.initialize(Batches(as_rows(X)), torch.Generator().manual_seed(0))
    theirs = KMeans(3, n_init=10, random_state=0).fit(X)
    order = np.square(theirs.cluster_centers_[:, None] - model.emission.means.detach().numpy()).sum(2).argmin(0)
    assert_allclose(model.emission.means.detach().numpy(), theirs.cluster_centers_[order], rtol=0, atol=0.1)
    assert_allclose(model.weights.detach().numpy(), np.bincount(theirs.labels_)[order] / 300, rtol=0, atol=0.02)


def test_given_values_are_kept():
    rates = np.array([[2.0], [5.0]])
    X = np.random.default_rng(0).poisson(3.0, size=(50, 1))
    model = MixtureModel(2, emission="poisson", weights_init=[0.3, 0.7], emission_init={"rates": rates}).build(1)
    model.initialize(Batches(as_rows(X)), torch.Generator().manual_seed(0))
    assert_array_equal(model.emission.rates.detach(), rates)
    expected = logsumexp(poisson.logpmf(X, rates.T) + np.log([0.3, 0.7]), 1)
    assert_allclose(model.objective(one_batch(X)).detach().numpy(), expected, rtol=1e-12, atol=0)


def test_free_parameters_by_hand():
    assert GaussianMixture(3).build(2).count_parameters() == 2 + 3 * 2 + 3 * 3
    assert MixtureModel(4, emission="poisson").build(5).count_parameters() == 3 + 4 * 5
    assert isinstance(MixtureModel(2).build(1), Mixture)


# ---- saving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"emission": "poisson", "weights_prior": 2.0},
        {"emission": "categorical"},
        {"emission": Product({0: "gaussian", 1: "poisson"})},
        {"emission_prior": NormalInverseWishart([1.0, 1.0], 0.1, 5, np.eye(2))},
    ],
    ids=str,
)
def test_the_same_after_saving_and_loading(options, tmp_path):
    X = np.random.default_rng(0).poisson(np.repeat([[2.0, 9.0], [8.0, 3.0]], 100, axis=0)).astype(float)
    mixture = MixtureModel(2, **options, random_state=0, max_iter=5, tol=0.0).fit(X)
    mixture.save(tmp_path / "mixture")
    loaded = unveil.load(tmp_path / "mixture")
    assert_array_equal(loaded.predict_proba(X), mixture.predict_proba(X))
    assert_array_equal(loaded.score_samples(X), mixture.score_samples(X))
    assert_allclose(loaded.model_.log_prior(), mixture.model_.log_prior(), rtol=1e-12, atol=0)
