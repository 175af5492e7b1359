"""Gaussian mixture observations against scipy, scikit-learn and hmmlearn."""

import numpy as np
import pytest
import torch
from hmmlearn import hmm
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

from unveil.data.batch import Batch
from unveil.emissions.mixture import GaussianMixtureEmission
from unveil.errors import ParameterError
from unveil.models.chain_mixture import ChainMixture

K, G, D = 2, 3, 2
RNG = np.random.default_rng(0)
WEIGHTS = RNG.dirichlet(2 * np.ones(G), size=K)
MEANS = 3 * RNG.normal(size=(K, G, D))
VARIANCES = RNG.gamma(3.0, 0.5, size=(K, G, D))
ROOTS = RNG.normal(size=(K, G, D, D))
FULL = ROOTS @ ROOTS.swapaxes(2, 3) + np.eye(D)
VALUES = 3 * RNG.normal(size=(50, D))


def at(covariance_type):
    emission = GaussianMixtureEmission(K, D, G, covariance_type)
    covariances = {"diag": VARIANCES, "full": FULL}[covariance_type]
    with torch.no_grad():
        emission.weights.copy_(torch.as_tensor(WEIGHTS))
        emission.densities.means.copy_(torch.as_tensor(MEANS).flatten(0, 1))
        emission.densities.covariances.copy_(torch.as_tensor(covariances).flatten(0, 1))
    return emission


def log_joint(covariance_type):
    """log p(x, g | z = k), of shape (50, K, G)."""
    full = {"diag": VARIANCES[..., None] * np.eye(D), "full": FULL}[covariance_type]
    each = [[multivariate_normal(MEANS[k, g], full[k, g]).logpdf(VALUES) for g in range(G)] for k in range(K)]
    return np.moveaxis(each, 2, 0) + np.log(WEIGHTS)


def features(emission):
    return emission.features(torch.as_tensor(VALUES))


@pytest.mark.parametrize("covariance_type", ["diag", "full"])
def test_densities_against_scipy(covariance_type):
    emission = at(covariance_type)
    found = emission.log_density(features(emission)).detach()
    assert_allclose(found, logsumexp(log_joint(covariance_type), axis=2), rtol=1e-10, atol=0)


def test_maximiser_is_the_weighted_moments_of_each_density():
    r = RNG.dirichlet(np.ones(K), size=50)
    joint = log_joint("full")
    within = r[:, :, None] * np.exp(joint - logsumexp(joint, axis=2, keepdims=True))
    emission = at("full")
    emission.maximize(emission.expect(features(emission), torch.as_tensor(r)))
    count = within.sum(0)
    means = np.einsum("nkg,nd->kgd", within, VALUES) / count[..., None]
    away = VALUES[:, None, None] - means
    covariances = np.einsum("nkg,nkgd,nkge->kgde", within, away, away) / count[..., None, None]
    assert_allclose(emission.weights.detach(), count / count.sum(1, keepdims=True), rtol=1e-9, atol=0)
    assert_allclose(emission.densities.means.detach(), means.reshape(-1, D), rtol=1e-8, atol=1e-10)
    assert_allclose(emission.densities.covariances.detach(), covariances.reshape(-1, D, D), rtol=1e-8, atol=1e-10)


def test_one_class_learns_as_scikit_learns_mixture():
    """From the same start, ten steps."""
    other = GaussianMixture(
        G, weights_init=WEIGHTS[0], means_init=MEANS[0], precisions_init=np.linalg.inv(FULL[0]), max_iter=10, tol=0.0, reg_covar=0.0
    )
    with pytest.warns(UserWarning, match="did not converge"):
        other.fit(VALUES)
    emission = GaussianMixtureEmission(1, D, G, "full", reg_covar=0.0)
    with torch.no_grad():
        emission.weights.copy_(torch.as_tensor(WEIGHTS[:1]))
        emission.densities.means.copy_(torch.as_tensor(MEANS[0]))
        emission.densities.covariances.copy_(torch.as_tensor(FULL[0]))
    for _ in range(10):
        emission.maximize(emission.expect(features(emission), torch.ones(50, 1, dtype=torch.float64)))
    assert_allclose(emission.weights[0].detach(), other.weights_, rtol=1e-6, atol=0)
    assert_allclose(emission.densities.means.detach(), other.means_, rtol=1e-6, atol=1e-8)
    assert_allclose(emission.log_density(features(emission))[:, 0].detach(), other.score_samples(VALUES), rtol=1e-6, atol=0)


@pytest.mark.parametrize("covariance_type", ["diag", "full"])
def test_chains_against_hmmlearn(covariance_type):
    start, transitions = np.array([0.7, 0.3]), np.array([[0.9, 0.1], [0.2, 0.8]])
    other = hmm.GMMHMM(K, G, covariance_type=covariance_type, init_params="")
    other.startprob_, other.transmat_ = start, transitions
    other.weights_, other.means_ = WEIGHTS, MEANS
    other.covars_ = {"diag": VARIANCES, "full": FULL}[covariance_type]
    model = ChainMixture(1, K, at(covariance_type))
    with torch.no_grad():
        model.initial.copy_(torch.as_tensor(start[None]))
        model.transition.copy_(torch.as_tensor(transitions[None]))
    batch = Batch(torch.as_tensor(VALUES), torch.tensor([0, 15, 50]))
    assert_allclose(model.objective(batch).sum().item(), other.score(VALUES, [15, 35]), rtol=1e-10, atol=0)
    assert_allclose(model.posterior(batch).states[:, 0], other.predict_proba(VALUES, [15, 35]), rtol=1e-7, atol=1e-12)


def test_a_weight_that_is_zero_stays_zero():
    emission = at("diag")
    with torch.no_grad():
        emission.weights[0] = torch.tensor([0.0, 0.4, 0.6], dtype=torch.float64)
    joint = log_joint("diag")[:, 0] + np.log([1e-300, 0.4, 0.6]) - np.log(WEIGHTS[0])
    assert_allclose(emission.log_density(features(emission))[:, 0].detach(), logsumexp(joint, axis=1), rtol=1e-10, atol=0)
    emission.log_density(features(emission)).sum().backward()
    assert all(torch.isfinite(each.grad).all() for each in emission.parameters())
    emission.maximize(emission.expect(features(emission), torch.full((50, K), 0.5, dtype=torch.float64)))
    assert emission.weights[0, 0] == 0.0


def test_clusters_within_classes_are_found():
    """Each class is two distant clusters in a crossed arrangement, which no single normal density can describe."""
    centers = np.array([[[0.0, 0.0], [10.0, 10.0]], [[0.0, 10.0], [10.0, 0.0]]])
    classes, parts = np.repeat([0, 1], 200), np.tile([0, 1], 200)
    values = centers[classes, parts] + 0.1 * np.random.default_rng(1).normal(size=(400, 2))
    emission = GaussianMixtureEmission(2, 2, 2)
    emission.initialize(torch.as_tensor(values), torch.as_tensor(np.eye(2)[classes]))
    found = emission.densities.means.detach().numpy().reshape(2, 2, 2)
    found = np.stack([each[each[:, 0].argsort()] for each in found])
    assert_allclose(found, centers, rtol=0, atol=0.05)
    assert_allclose(emission.weights.detach(), np.full((2, 2), 0.5), rtol=1e-12, atol=0)


@pytest.mark.parametrize("n_inside", [0, 1, 2])
def test_a_class_with_fewer_values_than_densities_can_be_started(n_inside):
    r = torch.zeros(50, K, dtype=torch.float64)
    r[:, 0] = 1.0
    r[:n_inside] = torch.tensor([0.0, 1.0], dtype=torch.float64)
    emission = GaussianMixtureEmission(K, D, G)
    emission.initialize(torch.as_tensor(VALUES), r)
    assert torch.isfinite(emission.log_density(features(emission))).all()
    assert_allclose(emission.weights.detach().sum(1), np.ones(K), rtol=1e-12, atol=0)


def test_starts_repeat():
    r = torch.as_tensor(RNG.dirichlet(np.ones(K), size=50))
    found = []
    for _ in range(2):
        emission = GaussianMixtureEmission(K, D, G)
        emission.initialize(torch.as_tensor(VALUES), r)
        found.append(emission.densities.means.detach())
    assert_array_equal(*found)


def test_missing_entries_are_integrated_out_and_imputed():
    emission = at("full")
    first = np.column_stack([VALUES[:, 0], np.full(50, np.nan)])
    joint = np.stack(
        [
            [np.log(WEIGHTS[k, g]) + multivariate_normal(MEANS[k, g, 0], FULL[k, g, 0, 0]).logpdf(VALUES[:, 0]) for g in range(G)]
            for k in range(K)
        ]
    )
    found = emission.log_density(emission.features(torch.as_tensor(first))).detach()
    assert_allclose(found, logsumexp(joint, axis=1).T, rtol=1e-9, atol=0)
    r = RNG.dirichlet(np.ones(K), size=50)
    within = r.T[:, None] * np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    slope = FULL[..., 1, 0] / FULL[..., 0, 0]
    expected = (within * (MEANS[..., 1, None] + slope[..., None] * (VALUES[:, 0] - MEANS[..., 0, None]))).sum((0, 1))
    filled = emission.impute(torch.as_tensor(first), torch.as_tensor(r))
    assert_array_equal(filled[:, 0], VALUES[:, 0])
    assert_allclose(filled[:, 1], expected, rtol=1e-8, atol=1e-10)


def test_a_start_takes_missing_entries():
    holes = np.where(RNG.random(VALUES.shape) < 0.2, np.nan, VALUES)
    emission = GaussianMixtureEmission(K, D, 2)
    emission.initialize(torch.as_tensor(holes), torch.as_tensor(RNG.dirichlet(np.ones(K), size=50)))
    assert torch.isfinite(emission.log_density(emission.features(torch.as_tensor(holes)))).all()


def test_the_prior_of_the_densities_is_that_of_the_family():
    emission = GaussianMixtureEmission(K, D, G, prior="conjugate")
    r = torch.as_tensor(RNG.dirichlet(np.ones(K), size=50))
    emission.initialize(torch.as_tensor(VALUES), r)
    assert emission.log_prior() == emission.densities.log_prior() != 0.0
    assert at("diag").log_prior() == 0.0


def test_a_number_of_densities_out_of_range():
    with pytest.raises(ParameterError, match="n_mixtures=0: expected a whole number >= 1"):
        GaussianMixtureEmission(2, 2, 0)
