"""Hard EM against its definition, against k-means, and against a discriminant analysis written out by hand."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs

from unveil.data.batch import Batches
from unveil.data.layout import as_rows
from unveil.errors import ParameterError
from unveil.learn.em import em
from unveil.models.gaussian_mixture import GaussianMixture
from unveil.models.linear_dynamical_system import LinearDynamicalSystem
from unveil.models.mixture_model import MixtureModel

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")


def blobs(n=300, spread=2.0, seed=0):
    return make_blobs(n, 2, centers=np.array([[0.0, 0.0], [4.0, 1.0], [1.0, 5.0]]), cluster_std=spread, random_state=seed)[0]


def log_joint(mixture, X):
    """log pi_k N(x_n; mu_k, Sigma_k), (n, K), by scipy."""
    covariances = {
        "full": lambda k: mixture.covariances_[k],
        "tied": lambda k: mixture.covariances_,
        "diag": lambda k: np.diag(mixture.covariances_[k]),
        "spherical": lambda k: mixture.covariances_[k] * np.eye(2),
    }[mixture.covariance_type]
    densities = [multivariate_normal(mixture.means_[k], covariances(k)).logpdf(X) for k in range(len(mixture.means_))]
    return np.array(densities).T + np.log(mixture.weights_)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_objective_is_the_best_joint_and_rises(covariance_type):
    X = blobs()
    mixture = GaussianMixture(3, covariance_type=covariance_type, algorithm="hard-em", init_params="random_from_data", tol=1e-12)
    mixture.set_params(random_state=1).fit(X)
    assert mixture.converged_
    assert mixture.n_iter_ > 2
    assert (np.diff(mixture.history_.objective) >= -1e-12).all()
    assert_allclose(mixture.history_.objective[-1], log_joint(mixture, X).max(1).mean(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_one_iteration_fits_each_component_to_its_points(covariance_type):
    X = blobs()
    start = GaussianMixture(3, covariance_type=covariance_type, max_iter=2, tol=0.0, random_state=0).fit(X)
    labels = log_joint(start, X).argmax(1)
    start.set_params(warm_start=True, max_iter=1, algorithm="hard-em", reg_covar=0.0).fit(X)
    assert_allclose(start.weights_, np.bincount(labels) / len(X), rtol=1e-12, atol=0)
    means = np.array([X[labels == k].mean(0) for k in range(3)])
    assert_allclose(start.means_, means, rtol=1e-10, atol=1e-12)
    scatters = np.array([np.cov(X[labels == k].T, bias=True) for k in range(3)])
    expected = {
        "full": scatters,
        "tied": np.einsum("k,kij->ij", np.bincount(labels) / len(X), scatters),
        "diag": scatters.diagonal(axis1=1, axis2=2),
        "spherical": scatters.trace(axis1=1, axis2=2) / 2,
    }[covariance_type]
    assert_allclose(start.covariances_, expected, rtol=1e-9, atol=1e-12)


def test_converges_to_where_kmeans_does():
    """With equal weights and one spherical covariance, the most probable component is the nearest: Lloyd's iterations.

    A tied covariance is spherical where the data is balanced, each point beside its mirror images in every quadrant of its cluster;
    the weights are equal because the clusters are.
    """
    rng = np.random.default_rng(0)
    quarter = rng.uniform(0.1, 1.5, size=(40, 2))
    quarter = np.concatenate([quarter, quarter[:, ::-1]])
    ring = np.concatenate([quarter * sign for sign in np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])])
    X = np.concatenate([ring + center for center in ([0.0, 0.0], [6.0, 0.0], [0.0, 6.0])])
    seeds = np.array([[1.5, 1.5], [4.0, 0.5], [0.5, 4.0]])
    start = {"weights_init": np.full(3, 1 / 3), "means_init": seeds, "precisions_init": np.eye(2)}
    kmeans = KMeans(3, init=seeds, n_init=1, tol=0.0).fit(X)
    mixture = GaussianMixture(3, covariance_type="tied", algorithm="hard-em", tol=1e-12, **start).fit(X)
    assert_allclose(mixture.means_, kmeans.cluster_centers_, rtol=0, atol=1e-10)
    assert_array_equal(mixture.predict(X), kmeans.labels_)
    assert_allclose(mixture.covariances_, kmeans.inertia_ / (2 * len(X)) * np.eye(2), rtol=1e-9, atol=1e-10)


def test_first_assignment_is_that_of_kmeans():
    """From equal weights and a unit covariance on any data: one iteration gives the means of one iteration of Lloyd's algorithm."""
    X, seeds = blobs(), np.array([[-1.0, 2.0], [3.0, 3.0], [2.0, -1.0]])
    start = {"weights_init": np.full(3, 1 / 3), "means_init": seeds, "precisions_init": np.ones(3)}
    mixture = GaussianMixture(3, covariance_type="spherical", algorithm="hard-em", tol=0.0, max_iter=1, **start).fit(X)
    nearest = np.square(X[:, None] - seeds).sum(2).argmin(1)
    assert_allclose(mixture.means_, [X[nearest == k].mean(0) for k in range(3)], rtol=1e-10, atol=1e-12)


def test_weights_of_points_are_repeats():
    X, counts = blobs(60), np.arange(60) % 3
    options = {"algorithm": "hard-em", "max_iter": 3, "tol": 0.0, "means_init": X[:3], "weights_init": np.full(3, 1 / 3)}
    options["precisions_init"] = np.array([np.eye(2)] * 3)
    weighted = GaussianMixture(3, **options).fit(X, sample_weight=counts)
    repeated = GaussianMixture(3, **options).fit(np.repeat(X, counts, axis=0))
    assert_allclose(weighted.means_, repeated.means_, rtol=1e-10, atol=1e-12)
    assert_allclose(weighted.history_.objective, repeated.history_.objective, rtol=1e-10, atol=0)


def test_hard_assignments_keep_to_labels():
    X = blobs(90)
    y = np.where(np.arange(90) < 60, np.arange(90) % 3, -1)
    model = GaussianMixture(3, algorithm="hard-em", random_state=0, max_iter=3, tol=0.0).fit(X, y).model_
    labelled = model.assign(next(iter(Batches(as_rows(X), labels=y))))
    plain = model.assign(next(iter(Batches(as_rows(X)))))
    density = model.emission.log_density(model.emission.features(torch.from_numpy(X))) + model.weights.log()
    expected = np.where(y >= 0, y, density.argmax(1).numpy())
    assert_array_equal(labelled.count.numpy(), np.bincount(expected, minlength=3))
    assert_allclose(labelled.log_likelihood, density.detach().numpy()[np.arange(90), expected].sum(), rtol=1e-12, atol=0)
    assert labelled.log_likelihood < plain.log_likelihood


@pytest.mark.parametrize("prior", [{"weights_prior": 4.0}, {"emission_prior": "conjugate"}], ids=str)
def test_posterior_rises(prior):
    mixture = GaussianMixture(4, algorithm="hard-em", random_state=0, max_iter=20, tol=0.0, **prior).fit(blobs())
    assert (np.diff(mixture.history_.objective) >= -1e-12).all()


def test_counts_too():
    X = np.random.default_rng(0).poisson(np.repeat([[2.0, 9.0], [8.0, 3.0]], 100, axis=0))
    mixture = MixtureModel(2, emission="poisson", algorithm="hard-em", random_state=0).fit(X)
    labels = mixture.predict(X)
    rates = np.array([X[labels == k].mean(0) for k in range(2)])
    assert_allclose(mixture.model_.emission.rates.detach(), rates, rtol=1e-10, atol=0)
    assert (np.diff(mixture.history_.objective) >= -1e-12).all()


def test_models_without_a_hard_step_say_so():
    with pytest.raises(ParameterError, match="has no hard E-step"):
        em(LinearDynamicalSystem(1).build(2), Batches(as_rows(blobs())), hard=True, max_iter=1)
