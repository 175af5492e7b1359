"""Generation metrics against scikit-learn, scipy, closed forms, brute force, and real images."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize_scalar
from scipy.spatial.distance import cdist
from sklearn.neighbors import KernelDensity, NearestNeighbors

from unveil.data import datasets
from unveil.errors import ConvergenceWarning, InputError, ParameterError
from unveil.metrics import distances
from unveil.metrics.generation import frechet_distance, kde_score, memorization, mode_coverage, precision_recall

pytestmark = pytest.mark.filterwarnings("error")

N_PIXELS = 784


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.fixture
def small_blocks(monkeypatch):
    """So few distances at a time that every table takes several blocks, and the last one is shorter."""
    monkeypatch.setattr(distances, "BLOCK", 7 * 60)


def test_squared_distances_are_right_to_rounding_and_never_negative(small_blocks):
    points = torch.from_numpy(normal(60, 784)).float()
    found = torch.cat([block for _, block in distances.distance_blocks(points, points)])
    assert found.min() == 0  # unclamped, half of the diagonal is negative
    assert_allclose(found, cdist(points, points, "sqeuclidean"), rtol=0, atol=1e-3)  # 1e-7 of |x|^2 + |y|^2, a few times


# Parzen score


@pytest.mark.parametrize("bandwidth", [0.05, 0.3, 2.0])
def test_kde_score_is_the_mean_log_density_of_scikit_learn(small_blocks, bandwidth):
    reference, samples = normal(37, 5), normal(60, 5, seed=1)
    found = kde_score(reference, samples, bandwidth)
    expected = KernelDensity(bandwidth=bandwidth, rtol=0, atol=0).fit(samples).score_samples(reference)
    # float32 distances: about 1e-6 of |x|^2 + |y|^2 ~ 20, over 2 h^2
    assert_allclose(found.score, expected.mean(), rtol=0, atol=2e-5 / (2 * bandwidth**2) + 1e-6)
    assert_allclose(found.standard_error, expected.std(ddof=1) / math.sqrt(37), rtol=1e-5, atol=0)
    assert found.bandwidth == bandwidth


def test_kde_score_does_not_suffer_far_from_zero():
    reference, samples = normal(20, 3), normal(30, 3, seed=1)
    assert_allclose(
        kde_score(reference + 1e5, samples + 1e5, 0.1).score, kde_score(reference, samples, 0.1).score, rtol=1e-5, atol=0
    )


def test_numpy_tensors_and_float32_are_alike_and_stay_as_they_are():
    reference, samples = normal(20, 3).astype(np.float32), normal(30, 3, seed=1).astype(np.float32)
    before = reference.copy(), samples.copy()
    found = kde_score(reference, samples, 0.5)
    assert kde_score(torch.from_numpy(reference).requires_grad_(), torch.from_numpy(samples), 0.5) == found
    assert_array_equal(reference, before[0])
    assert_array_equal(samples, before[1])


def test_the_validated_bandwidth_is_the_best_for_validation_data():
    reference, validation, samples = normal(50, 2), normal(200, 2, seed=1), normal(300, 2, seed=2)
    found = kde_score(reference, samples, validation=validation)

    def loss(log_bandwidth):
        return -KernelDensity(bandwidth=math.exp(log_bandwidth), rtol=1e-8).fit(samples).score(validation)

    best = math.exp(minimize_scalar(loss, bounds=(-4, 2), method="bounded").x)
    assert_allclose(found.bandwidth, best, rtol=0.09, atol=0)  # the grid's step
    assert_allclose(found.score, kde_score(reference, samples, found.bandwidth).score, rtol=1e-12, atol=0)


def test_the_bandwidth_comes_from_a_grid_that_is_given():
    reference, validation, samples = normal(50, 2), normal(200, 2, seed=1), normal(300, 2, seed=2)
    assert kde_score(reference, samples, "validated", validation, grid=[2.0, 0.3, 0.01]).bandwidth == 0.3
    assert kde_score(reference, samples, "validated", validation, grid=[2.0]).bandwidth == 2.0
    with pytest.warns(ConvergenceWarning, match="the smallest bandwidth tried, 1, is the best; give a wider grid"):
        kde_score(reference, samples, "validated", validation, grid=[1.0, 2.0])
    with pytest.warns(ConvergenceWarning, match="the smallest bandwidth tried.* validation points in the samples"):
        kde_score(reference, samples, "validated", samples[:40])  # copies: the likelihood grows without bound


def test_one_reference_point_has_no_standard_error():
    assert math.isnan(kde_score(normal(1, 2), normal(9, 2), 1.0).standard_error)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bandwidth": 0.0}, ParameterError, "bandwidth=0.0: expected a positive number"),
        ({"bandwidth": "silverman"}, ParameterError, "bandwidth='silverman': expected a positive number or 'validated'"),
        ({}, InputError, "validation: a validated bandwidth needs held-out data"),
        ({"validation": normal(9, 2), "grid": [0.1, -1.0]}, ParameterError, "grid=.*: expected a positive number"),
        ({"validation": normal(9, 2), "grid": []}, ParameterError, "grid: expected bandwidths to choose from, got none"),
        ({"validation": normal(9, 3)}, InputError, "same number of columns, got 3 of validation, 2 of samples"),
    ],
)
def test_kde_score_says_what_is_wrong(options, error, message):
    with pytest.raises(error, match=message):
        kde_score(normal(9, 2), normal(9, 2), **options)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (normal(9), r"reference: expected a table of shape \(n, n_features\), got \(9,\)"),
        (normal(0, 2), r"reference: expected a table .* got \(0, 2\)"),
        (np.full((3, 2), np.nan), "reference: expected finite numbers"),
        (np.ones((3, 2)) * 1j, "reference: expected real numbers"),
    ],
)
def test_tables_are_checked(reference, message):
    with pytest.raises(InputError, match=message):
        kde_score(reference, normal(9, 2), 1.0)


# Fréchet distance


def moments_distance(reference, samples):
    """By the general matrix square root."""
    cov_r, cov_s = (np.cov(x, rowvar=False) for x in (reference, samples))
    root = scipy.linalg.sqrtm(cov_r @ cov_s).real
    return np.square(reference.mean(0) - samples.mean(0)).sum() + np.trace(cov_r + cov_s - 2 * root)


def test_frechet_distance_is_that_of_the_general_matrix_square_root(monkeypatch):
    mixing = normal(6, 6, seed=2)
    reference, samples = normal(80, 6) @ mixing + 3, normal(50, 6, seed=1)
    expected = moments_distance(reference, samples)
    assert_allclose(frechet_distance(reference, samples), expected, rtol=1e-10, atol=0)
    monkeypatch.setattr("unveil.metrics.generation.BLOCK", 60)
    assert_allclose(frechet_distance(reference, samples), expected, rtol=1e-10, atol=0)


def test_frechet_distance_of_singular_covariances():
    # Two lines in space: standard deviations s, t along unit vectors u, v with cosine c have distance s^2 + t^2 - 2 s t |c|.
    rng = np.random.default_rng(0)
    u, v = np.linalg.qr(rng.normal(size=(30, 2)))[0].T
    v = 0.6 * u + 0.8 * v
    along, other = rng.normal(size=(2, 10))
    s, t = along.std(ddof=1), other.std(ddof=1)
    found = frechet_distance(np.outer(along - along.mean(), u), np.outer(other - other.mean(), v))
    assert_allclose(found, s**2 + t**2 - 2 * s * t * 0.6, rtol=1e-6, atol=0)  # roots of rounding errors: 1e-8 each
    few = rng.normal(size=(5, 30))
    assert_allclose(frechet_distance(few, few + 2.0), 30 * 4.0, rtol=1e-6, atol=0)
    assert_allclose(frechet_distance(few, few), 0.0, rtol=0, atol=1e-6)


def test_a_covariance_needs_two_rows():
    with pytest.raises(InputError, match="samples: a covariance needs at least 2 rows, got 1"):
        frechet_distance(normal(5, 2), normal(1, 2))


# Precision, recall, density, coverage


def brute_force_precision_recall(reference, samples, k):
    def radii(points):
        return np.sort(cdist(points, points), axis=1)[:, k]

    between = cdist(reference, samples)
    inside = between <= radii(reference)[:, None]
    recalled = (between <= radii(samples)).any(1).mean()
    return inside.any(0).mean(), recalled, inside.sum(0).mean() / k, inside.any(1).mean()


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_precision_recall_is_what_brute_force_counts(small_blocks, k, spread):
    reference, samples = normal(41, 3), spread * normal(60, 3, seed=1)
    found = precision_recall(reference, samples, k)
    expected = brute_force_precision_recall(reference, samples, k)
    assert_allclose([found.precision, found.recall, found.density, found.coverage], expected, rtol=1e-12, atol=0)


def test_samples_of_one_mode_are_precise_but_recall_little():
    reference = np.concatenate([normal(100, 2), normal(100, 2, seed=1) + 50])
    found = precision_recall(reference, 0.3 * normal(200, 2, seed=2))
    assert found.precision == 1.0
    assert max(found.recall, found.coverage) < 0.5  # half of the reference points are in the other mode
    same = precision_recall(reference, reference)
    assert (same.precision, same.recall, same.coverage) == (1.0, 1.0, 1.0)


def test_precision_recall_says_what_is_wrong():
    with pytest.raises(ParameterError, match="n_neighbors=0: expected a positive integer"):
        precision_recall(normal(9, 2), normal(9, 2), 0)
    with pytest.raises(InputError, match="samples: expected more than n_neighbors=5 rows, got 5"):
        precision_recall(normal(9, 2), normal(5, 2))


# Modes


RING = 2 * np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], axis=1)


def test_a_perfect_ring_is_covered_as_the_gaussian_says():
    rng = np.random.default_rng(0)
    samples = RING[rng.integers(8, size=5000)] + 0.02 * rng.normal(size=(5000, 2))
    found = mode_coverage(samples, RING, 0.02)
    assert found.n_covered == 8
    ideal = 1 - math.exp(-4.5)  # the Rayleigh distribution within 3
    assert_allclose(found.high_quality, ideal, rtol=0, atol=4 * math.sqrt(ideal * (1 - ideal) / 5000))
    assert 0 <= found.kl_to_uniform < 0.005  # its expectation is (8 - 1) / (2 * 5000)


def test_modes_are_counted_by_their_shares():
    # 100 samples of 4 modes: fair are 25, so a mode needs 2.5. The last 10 samples are near no mode.
    centers = np.array([[0.0], [10.0], [20.0], [30.0]])
    samples = np.repeat([0.0, 10.29, 20.0, 15.0], [84, 3, 2, 11])[:, None]
    found = mode_coverage(samples, centers, 0.1)
    assert_array_equal(found.covered, [True, True, False, False])
    assert found.n_covered == 2
    assert_allclose(found.shares, np.array([84, 3, 2, 0]) / 89, rtol=1e-12, atol=0)
    assert_allclose(found.high_quality, 0.89, rtol=1e-12, atol=0)
    shares = found.shares[:3]
    assert_allclose(found.kl_to_uniform, (shares * np.log(4 * shares)).sum(), rtol=1e-12, atol=0)
    assert mode_coverage(samples, centers, 0.1, radius=2.0).n_covered == 1
    assert mode_coverage(samples, centers, 0.1, least_share=0.05).n_covered == 3


def test_no_sample_near_any_mode():
    found = mode_coverage(np.full((5, 2), 9.0), RING, 0.02)
    assert found.n_covered == 0
    assert found.high_quality == 0
    assert math.isnan(found.kl_to_uniform)
    with pytest.raises(ParameterError, match="scale=-1: expected a positive number"):
        mode_coverage(RING, RING, -1)


# Memorisation


def test_memorization_finds_the_nearest_training_points(small_blocks):
    train, test, samples = normal(60, 4), normal(31, 4, seed=1), 1.5 * normal(25, 4, seed=2)
    found = memorization(train, test, samples)
    nearest = NearestNeighbors(n_neighbors=1).fit(train)
    of_samples, rows = nearest.kneighbors(samples)
    of_test, _ = nearest.kneighbors(test)
    assert_array_equal(found.nearest, rows[:, 0])
    assert_allclose(found.distances, of_samples[:, 0], rtol=1e-6, atol=0)
    assert_allclose(found.sample_distance, np.median(of_samples), rtol=1e-6, atol=0)
    assert_allclose(found.test_distance, np.median(of_test), rtol=1e-6, atol=0)
    assert_allclose(found.ratio, np.median(of_samples) / np.median(of_test), rtol=1e-6, atol=0)


def test_copies_are_at_distance_zero_and_known_test_points_are_refused():
    train, test = normal(50, 100) + 5, normal(20, 100, seed=1) + 5
    copied = memorization(train, test, train[::3])
    assert_array_equal(copied.distances, 0)
    assert_array_equal(copied.nearest, np.arange(0, 50, 3))
    assert copied.ratio == 0
    with pytest.raises(InputError, match="test: half of its points or more are also in train"):
        memorization(train, train[:10], test)


# Real images


@pytest.fixture
def images(real_data):
    """Training images, and every fifth test image, with pixels in [0, 1]."""
    return datasets.load("mnist").data, datasets.load("mnist", subset="test").data[::5]


def test_parzen_scores_of_real_images(images):
    train, test = images
    for variance in (0.1, 0.04):
        alone = kde_score(test[:1], test[:1], math.sqrt(variance))
        # one kernel at its peak: -392 log(2 pi var); distances are zero but for float32's rounding of |x|^2 ~ 100
        assert_allclose(alone.score, -N_PIXELS / 2 * math.log(2 * math.pi * variance), rtol=0, atol=1e-3)
    drawn = np.random.default_rng(0).choice(55_000, 10_000, replace=False)
    # Which 10000 images are drawn moves the score by about 1, and the standard error over test images is 1.3.
    assert_allclose(kde_score(test, train[drawn], math.sqrt(0.1)).score, 52, rtol=0, atol=3)
    assert_allclose(kde_score(test, train[drawn], 0.2).score, 230, rtol=0, atol=6)
    mean = train[:55_000].mean(0, keepdims=True)
    assert_allclose(kde_score(test, mean, math.sqrt(0.1)).score, -84, rtol=0, atol=3)


def test_real_images_are_not_memorised_but_copies_are(images):
    train, test = images
    unseen = memorization(train[:10_000], test, train[50_000:51_000])
    assert 0.95 < unseen.ratio < 1.05
    assert memorization(train[:10_000], test, train[:500]).ratio == 0
    fidelity = precision_recall(test, train[:2000])
    assert min(fidelity.precision, fidelity.recall, fidelity.coverage) > 0.9
    assert abs(fidelity.density - 1) < 0.1


@pytest.mark.slow
def test_the_validated_bandwidth_of_real_images(images):
    train, test = images
    found = kde_score(test, train[:10_000], validation=train[55_000:56_000])
    assert 0.16 <= found.bandwidth <= 0.20
    assert_allclose(found.score, 240, rtol=0, atol=10)
