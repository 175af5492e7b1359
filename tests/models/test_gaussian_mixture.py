"""The Gaussian mixture against scikit-learn and scipy, and on data of which the truth is known."""

import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn import mixture
from sklearn.exceptions import ConvergenceWarning as SklearnConvergenceWarning

from unveil.data.batch import Batch, Batches
from unveil.data.layout import as_rows
from unveil.emissions.gaussian import Gaussian
from unveil.errors import ConvergenceWarning, InputError, ParameterError
from unveil.kernels.gaussian import floor_covariances
from unveil.models.gaussian_mixture import GaussianMixture

TYPES = ("full", "tied", "diag", "spherical")


@pytest.fixture(scope="module")
def blobs():
    """Three overlapping clusters of different shapes in three dimensions."""
    rng = np.random.default_rng(0)
    shapes = rng.normal(size=(3, 3, 3))
    sizes = (150, 90, 60)
    return np.concatenate(
        [3 * rng.normal(size=3) + rng.normal(size=(n, 3)) @ shape for n, shape in zip(sizes, shapes, strict=True)]
    )


def start(covariance_type, n_components=3, n_features=3, seed=1):
    """Starting values that are no one's favourites."""
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(n_components, n_features, 2 * n_features))
    precisions = roots @ roots.transpose(0, 2, 1) / (10 * n_features)
    diagonal = np.diagonal(precisions, axis1=1, axis2=2).copy()
    return {
        "weights_init": rng.dirichlet(4 * np.ones(n_components)),
        "means_init": 2 * rng.normal(size=(n_components, n_features)),
        "precisions_init": {
            "full": precisions,
            "tied": precisions[0],
            "diag": diagonal,
            "spherical": diagonal[:, 0].copy(),
        }[covariance_type],
    }


def both(X, covariance_type, n_iter, **changes):
    """Ours and scikit-learn's, from the same start, after the same number of iterations."""
    common = dict(start(covariance_type), n_components=3, covariance_type=covariance_type, tol=0.0, reg_covar=0.0, max_iter=n_iter)
    ours = GaussianMixture(**common | changes).fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SklearnConvergenceWarning)
        theirs = mixture.GaussianMixture(**common).fit(X)
    return ours, theirs


def full_covariances(covariances, covariance_type, n_components, n_features):
    return {
        "full": lambda: covariances,
        "tied": lambda: np.repeat(covariances[None], n_components, 0),
        "diag": lambda: np.array([np.diag(each) for each in covariances]),
        "spherical": lambda: np.array([each * np.eye(n_features) for each in covariances]),
    }[covariance_type]()


def log_joint_by_scipy(estimator, X):
    full = full_covariances(estimator.covariances_, estimator.covariance_type, *estimator.means_.shape)
    densities = [multivariate_normal(mean, each).logpdf(X) for mean, each in zip(estimator.means_, full, strict=True)]
    return np.log(estimator.weights_) + np.stack(densities, 1)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("n_iter", [1, 12])
def test_equals_scikit_learn(blobs, covariance_type, n_iter):
    ours, theirs = both(blobs, covariance_type, n_iter)
    assert ours.n_iter_ == n_iter
    assert_allclose(ours.weights_, theirs.weights_, rtol=1e-8, atol=0)
    assert_allclose(ours.means_, theirs.means_, rtol=1e-8, atol=1e-10)
    assert_allclose(ours.covariances_, theirs.covariances_, rtol=1e-7, atol=1e-9)
    assert_allclose(ours.precisions_, theirs.precisions_, rtol=1e-7, atol=1e-9)
    assert_allclose(np.abs(ours.precisions_cholesky_), np.abs(theirs.precisions_cholesky_), rtol=1e-7, atol=1e-9)
    assert_allclose(ours.lower_bound_, theirs.lower_bound_, rtol=1e-10, atol=0)
    assert_allclose(ours.score_samples(blobs), theirs.score_samples(blobs), rtol=1e-8, atol=1e-9)
    assert_allclose(ours.predict_proba(blobs), theirs.predict_proba(blobs), rtol=1e-6, atol=1e-10)
    assert_array_equal(ours.predict(blobs), theirs.predict(blobs))
    assert_allclose(ours.bic(blobs), theirs.bic(blobs), rtol=1e-10, atol=0)
    assert_allclose(ours.aic(blobs), theirs.aic(blobs), rtol=1e-10, atol=0)
    assert ours.model_.count_parameters() == theirs._n_parameters()


@pytest.mark.parametrize("covariance_type", TYPES)
def test_densities_against_scipy(blobs, covariance_type):
    estimator = GaussianMixture(3, covariance_type=covariance_type, tol=0.0, max_iter=3, random_state=0).fit(blobs)
    joint = log_joint_by_scipy(estimator, blobs)
    assert_allclose(estimator.score_samples(blobs), logsumexp(joint, 1), rtol=1e-9, atol=1e-10)
    assert_allclose(estimator.predict_proba(blobs), np.exp(joint - logsumexp(joint, 1)[:, None]), rtol=1e-8, atol=1e-12)
    assert_array_equal(estimator.predict(blobs), joint.argmax(1))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_log_likelihood_of_the_history_is_of_the_start(blobs, covariance_type):
    """The first objective belongs to the starting values, before any update."""
    given = start(covariance_type)
    estimator = GaussianMixture(3, covariance_type=covariance_type, tol=0.0, max_iter=2, **given).fit(blobs)
    precisions = given["precisions_init"]
    covariances = np.linalg.inv(precisions) if covariance_type in ("full", "tied") else 1 / precisions
    full = full_covariances(covariances, covariance_type, 3, 3)
    densities = [multivariate_normal(mean, each).logpdf(blobs) for mean, each in zip(given["means_init"], full, strict=True)]
    expected = logsumexp(np.log(given["weights_init"]) + np.stack(densities, 1), 1).mean()
    assert_allclose(estimator.history_.objective[0], expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_one_component_is_the_mean_and_the_covariance(blobs, covariance_type):
    estimator = GaussianMixture(1, covariance_type=covariance_type).fit(blobs)
    covariance = np.cov(blobs.T, bias=True)
    expected = {
        "full": covariance[None],
        "tied": covariance,
        "diag": blobs.var(0)[None],
        "spherical": np.array([blobs.var(0).mean()]),
    }[covariance_type]
    assert_allclose(estimator.means_[0], blobs.mean(0), rtol=1e-10, atol=1e-12)
    assert_allclose(estimator.covariances_, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_recovers_known_parameters(covariance_type):
    """Within five standard errors of the estimates that knew the labels."""
    rng = np.random.default_rng(3)
    n, weights = 6000, np.array([0.5, 0.3, 0.2])
    means = np.array([[0.0, 0.0], [8.0, 1.0], [-2.0, 9.0]])
    covariances = {
        "full": np.array([[[1.0, 0.5], [0.5, 2.0]], [[0.5, -0.2], [-0.2, 0.5]], [[3.0, 1.0], [1.0, 1.0]]]),
        "tied": np.repeat(np.array([[[1.0, 0.6], [0.6, 2.0]]]), 3, 0),
        "diag": np.array([np.diag([1.0, 3.0]), np.diag([0.5, 0.2]), np.diag([2.0, 1.0])]),
        "spherical": np.array([np.eye(2), 0.3 * np.eye(2), 2.5 * np.eye(2)]),
    }[covariance_type]
    labels = rng.choice(3, n, p=weights)
    X = means[labels] + np.einsum("nij,nj->ni", np.linalg.cholesky(covariances)[labels], rng.normal(size=(n, 2)))
    estimator = GaussianMixture(3, covariance_type=covariance_type, tol=1e-8, max_iter=300, n_init=3, random_state=0).fit(X)
    assert estimator.converged_
    _, order = linear_sum_assignment(((means[:, None] - estimator.means_) ** 2).sum(-1))
    found = full_covariances(estimator.covariances_, covariance_type, 3, 2)[order]
    counts = n * weights
    assert (np.abs(estimator.weights_[order] - weights) < 5 * np.sqrt(weights * (1 - weights) / n)).all()
    variances = np.diagonal(covariances, axis1=1, axis2=2)
    assert (np.abs(estimator.means_[order] - means) < 5 * np.sqrt(variances / counts[:, None])).all()
    products = variances[:, :, None] * variances[:, None, :] + covariances**2
    assert (np.abs(found - covariances) < 5 * np.sqrt(products / counts[:, None, None])).all()
    assert (order[labels] == estimator.predict(X)).mean() > 0.98


@pytest.mark.parametrize("covariance_type", TYPES)
def test_samples_have_the_moments_of_their_component(covariance_type):
    given = start(covariance_type)
    X = np.random.default_rng(0).normal(size=(50, 3))
    estimator = GaussianMixture(3, covariance_type=covariance_type, max_iter=1, tol=0.0, **given).fit(X)
    model = estimator.model_
    with torch.no_grad():  # back to the given values, which are far from alike
        model.weights.copy_(torch.from_numpy(given["weights_init"]))
        model.emission.means.copy_(torch.from_numpy(given["means_init"]))
        precisions = given["precisions_init"]
        covariances = np.linalg.inv(precisions) if covariance_type in ("full", "tied") else 1 / precisions
        model.emission.covariances.copy_(torch.from_numpy(covariances))
    n = 60_000
    values, labels = estimator.sample(n, random_state=1)
    full = full_covariances(covariances, covariance_type, 3, 3)
    for k, weight in enumerate(given["weights_init"]):
        mine = values[labels == k]
        assert abs(len(mine) / n - weight) < 5 * np.sqrt(weight * (1 - weight) / n)
        variances = np.diag(full[k])
        assert (np.abs(mine.mean(0) - given["means_init"][k]) < 5 * np.sqrt(variances / len(mine))).all()
        spread = np.sqrt((np.outer(variances, variances) + full[k] ** 2) / len(mine))
        assert (np.abs(np.cov(mine.T) - full[k]) < 5 * spread).all()


@pytest.mark.parametrize("covariance_type", ["full", "diag", "tied", "spherical"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_variance_far_from_zero(covariance_type, dtype):
    """N(1e4, 1) in single precision: raw moments would cancel to a variance of 8, or of -8."""
    n = 20_000
    X = np.random.default_rng(0).normal(1e4, 1, size=(n, 2)).astype(dtype)
    estimator = GaussianMixture(1, covariance_type=covariance_type).fit(X)
    covariance = full_covariances(estimator.covariances_, covariance_type, 1, 2)[0]
    assert_allclose(np.diag(covariance), 1.0, rtol=5 * np.sqrt(2 / n), atol=0)
    assert_allclose(covariance[0, 1], 0.0, rtol=0, atol=5 / np.sqrt(n))
    assert_allclose(estimator.means_[0], X.astype(np.float64).mean(0), rtol=1e-12, atol=0)


def test_a_million_standard_deviations_from_zero(blobs):
    """A shift and a scale of the data shift and scale the fit."""
    for covariance_type in TYPES:
        plain = GaussianMixture(3, covariance_type=covariance_type, max_iter=5, tol=0.0, reg_covar=0.0, random_state=0).fit(blobs)
        far = GaussianMixture(
            3,
            covariance_type=covariance_type,
            max_iter=5,
            tol=0.0,
            reg_covar=0.0,
            weights_init=plain.weights_,
            means_init=plain.means_ + 1e6,
            precisions_init=plain.precisions_,
        ).fit(blobs + 1e6)
        near = GaussianMixture(
            3,
            covariance_type=covariance_type,
            max_iter=5,
            tol=0.0,
            reg_covar=0.0,
            weights_init=plain.weights_,
            means_init=plain.means_,
            precisions_init=plain.precisions_,
        ).fit(blobs)
        assert_allclose(far.means_ - 1e6, near.means_, rtol=0, atol=1e-7)
        assert_allclose(far.covariances_, near.covariances_, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_constant_column_stays_at_the_floor(blobs, covariance_type):
    X = np.column_stack([blobs, np.full(len(blobs), 4.0)])
    estimator = GaussianMixture(2, covariance_type=covariance_type, reg_covar=1e-4, random_state=0).fit(X)
    full = full_covariances(estimator.covariances_, covariance_type, 2, 4)
    assert np.linalg.eigvalsh(full).min() > 0.99e-4
    if covariance_type != "spherical":
        assert_allclose(full[:, 3, 3], 1e-4, rtol=1e-6, atol=0)
    assert_allclose(estimator.means_[:, 3], 4.0, rtol=1e-12, atol=0)
    assert np.isfinite(estimator.score(X))


def test_floor_leaves_healthy_covariances_alone(blobs):
    """Unlike a number added to the diagonal."""
    with_floor, without = (
        GaussianMixture(3, max_iter=5, tol=0.0, reg_covar=floor, **start("full")).fit(blobs) for floor in (1e-3, 0.0)
    )
    assert_array_equal(with_floor.covariances_, without.covariances_)


def test_floored_covariance_is_the_best_one_above_the_floor():
    """Against a search: no covariance with eigenvalues above the floor has a higher likelihood."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 3)) * np.array([2.0, 1.0, 0.01])
    scatter = root @ root.T
    floor = 0.05
    best = floor_covariances(torch.from_numpy(scatter)[None], floor, "full")[0].numpy()
    assert np.linalg.eigvalsh(scatter).min() < floor
    assert_allclose(np.linalg.eigvalsh(best).min(), floor, rtol=1e-9, atol=0)

    def log_likelihood(covariance):
        return -np.linalg.slogdet(covariance)[1] - np.trace(np.linalg.solve(covariance, scatter))

    reached = log_likelihood(best)
    for _ in range(500):
        change = rng.normal(size=(3, 3)) * 10.0 ** rng.uniform(-4, -1)
        values, vectors = np.linalg.eigh(best + change + change.T)
        assert log_likelihood((vectors * np.maximum(values, floor)) @ vectors.T) <= reached + 1e-9


@pytest.mark.parametrize("covariance_type", TYPES)
def test_singular_covariance_without_a_floor_is_one_line(covariance_type):
    X = np.repeat(np.arange(6.0)[:, None], 3, 1) if covariance_type in ("full", "tied") else np.ones((6, 3))
    with pytest.raises(InputError, match="larger reg_covar than 0") as raised:
        GaussianMixture(1, covariance_type=covariance_type, reg_covar=0.0).fit(X)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_precisions(blobs, covariance_type):
    estimator = GaussianMixture(3, covariance_type=covariance_type, random_state=0, max_iter=5, tol=0.0).fit(blobs)
    if covariance_type in ("full", "tied"):
        product = estimator.covariances_ @ estimator.precisions_
        assert_allclose(product, np.broadcast_to(np.eye(3), product.shape), rtol=0, atol=1e-10)
        root = estimator.precisions_cholesky_
        assert_allclose(root @ np.swapaxes(root, -1, -2), estimator.precisions_, rtol=1e-9, atol=1e-12)
        assert_array_equal(np.tril(root, -1), np.zeros_like(root))
    else:
        assert_allclose(estimator.covariances_ * estimator.precisions_, 1.0, rtol=1e-12, atol=0)
        assert_allclose(estimator.precisions_cholesky_**2, estimator.precisions_, rtol=1e-12, atol=0)


def test_warm_start_goes_on_where_it_stopped(blobs):
    common = {"n_components": 3, "tol": 0.0, **start("full")}
    straight = GaussianMixture(max_iter=8, **common).fit(blobs)
    stepwise = GaussianMixture(max_iter=5, warm_start=True, **common).fit(blobs)
    stepwise.set_params(max_iter=3).fit(blobs)
    assert_allclose(stepwise.means_, straight.means_, rtol=1e-10, atol=1e-12)
    cold = GaussianMixture(max_iter=5, **common).fit(blobs).set_params(max_iter=3).fit(blobs)
    assert not np.allclose(cold.means_, straight.means_, rtol=1e-6, atol=0)


def test_best_of_many_starts_is_kept():
    rng = np.random.default_rng(5)
    X = np.concatenate([rng.normal(c, 0.3, size=(30, 2)) for c in rng.uniform(-9, 9, size=(6, 2))])
    many = GaussianMixture(6, n_init=8, init_params="random_from_data", max_iter=60, random_state=2, tol=1e-6).fit(X)
    assert len(many.history_.restarts) == 8
    assert len({round(each, 6) for each in many.history_.restarts}) > 1
    assert many.lower_bound_ >= max(many.history_.restarts) - 1e-12
    assert max(many.history_.restarts) in many.history_.objective
    assert (np.diff(many.history_.objective) >= -1e-9 * np.abs(many.history_.objective[:-1])).all()
    assert many.history_.iterations == list(range(len(many.history_.iterations)))
    assert_allclose(many.score(X), many.lower_bound_, rtol=1e-6, atol=0)


@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
def test_every_kind_of_start_leads_somewhere(blobs, init_params):
    estimator = GaussianMixture(3, init_params=init_params, max_iter=200, tol=1e-5, random_state=0).fit(blobs)
    one = GaussianMixture(1).fit(blobs)
    assert estimator.score(blobs) > one.score(blobs)
    assert_allclose(estimator.weights_.sum(), 1.0, rtol=1e-12, atol=0)


def test_converged_or_warned(blobs):
    with pytest.warns(ConvergenceWarning, match="max_iter=2"):
        short = GaussianMixture(3, max_iter=2, tol=1e-9, init_params="random", random_state=0).fit(blobs)
    assert not short.converged_
    long = GaussianMixture(3, max_iter=500, tol=1e-5, init_params="random", random_state=0).fit(blobs)
    assert long.converged_
    assert long.n_iter_ < 500
    gains = np.diff(long.history_.objective)
    assert gains[-1] < 1e-5
    assert (gains[:-1] >= 1e-5).all()


def test_weights_count_items():
    X = np.array([[0.0], [1.0], [5.0]])
    estimator = GaussianMixture(1).fit(X, sample_weight=[1.0, 3.0, 0.0])
    assert_allclose(estimator.means_, [[0.75]], rtol=1e-12, atol=0)
    assert_allclose(estimator.covariances_, [[[0.1875]]], rtol=1e-12, atol=0)


def test_dead_component_keeps_its_parameters():
    X = np.random.default_rng(0).normal(size=(80, 2))
    far = np.array([[0.0, 0.0], [1e4, 1e4]])
    estimator = GaussianMixture(
        2, covariance_type="diag", means_init=far, weights_init=[0.5, 0.5], precisions_init=np.ones((2, 2)), max_iter=5, tol=0.0
    ).fit(X)
    assert_array_equal(estimator.means_[1], far[1])
    assert_array_equal(estimator.covariances_[1], [1.0, 1.0])
    assert_allclose(estimator.weights_, [1.0, 0.0], rtol=0, atol=1e-300)
    assert np.isfinite(estimator.score(X))


def test_starting_values_that_are_no_distribution(blobs):
    for bad in ({"weights_init": [0.5, 0.6, 0.1]}, {"precisions_init": -np.ones((3, 3, 3))}):
        with pytest.raises(ParameterError, match=next(iter(bad))):
            GaussianMixture(3, **bad).fit(blobs)


def test_objective_differentiates(blobs):
    """The gradient of the log-likelihood by the parameters, against differences."""
    estimator = GaussianMixture(3, max_iter=3, tol=0.0, random_state=0).fit(blobs)
    model = estimator.model_
    batch = next(iter(Batches(as_rows(blobs))))
    model.objective(batch).sum().backward()
    for parameter in (model.weights, model.emission.means):
        index = (1,) * parameter.ndim
        moved = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter[index] += step
                moved.append(float(model.objective(batch).sum()))
                parameter[index] -= step
        assert_allclose(float(parameter.grad[index]), (moved[0] - moved[1]) / 2e-5, rtol=1e-5, atol=1e-6)


def test_density_follows_a_changed_parameter():
    """What is kept from one batch to the next is made anew when a parameter changes."""
    emission = Gaussian(2, 3, "full")
    values = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        emission.log_density(emission.features(values))
        emission.means[0] += 1.5
        emission.covariances[1] *= 2.0
        found = emission.log_density(emission.features(values)).numpy()
    expected = [
        multivariate_normal(np.full(3, 1.5), np.eye(3)).logpdf(values),
        multivariate_normal(np.zeros(3), 2 * np.eye(3)).logpdf(values),
    ]
    assert_allclose(found, np.stack(expected, 1), rtol=1e-10, atol=1e-12)


def test_start_of_weighted_data_uses_the_weights():
    """The start is fitted to weighted moments: with one component, it is already the end."""
    rng = np.random.default_rng(0)
    X, weights = rng.normal(size=(40, 2)), rng.uniform(0, 3, 40)
    estimator = GaussianMixture(1, max_iter=1, tol=0.0).fit(X, sample_weight=weights)
    expected = multivariate_normal(np.average(X, axis=0, weights=weights), np.cov(X.T, aweights=weights, ddof=0)).logpdf(X)
    assert_allclose(estimator.history_.objective[0], np.average(expected, weights=weights), rtol=1e-10, atol=0)


def test_posterior_of_a_batch_is_of_its_items(blobs):
    model = GaussianMixture(3, max_iter=2, tol=0.0, random_state=0).fit(blobs).model_
    values = torch.from_numpy(blobs[:7])
    posterior = model.posterior(Batch(values, torch.arange(8)))
    assert_allclose(posterior.responsibilities.sum(1).numpy(), 1.0, rtol=1e-12, atol=0)
    assert_allclose(
        posterior.log_likelihood.numpy(), model.objective(Batch(values, torch.arange(8))).detach().numpy(), rtol=1e-12, atol=0
    )
