"""Gaussian densities and covariance floors against scipy and against other covariances that are allowed."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from unveil.emissions.gaussian import Gaussian
from unveil.kernels.gaussian import (
    COVARIANCE_TYPES,
    floor_covariances,
    identity_covariance,
    inverse,
    log_determinants,
    n_quadratic,
    natural_parameters,
    prior_exponent,
    prior_moments,
    quadratic_features,
    symmetric,
)

TYPES = pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
SIZES = pytest.mark.parametrize(("n_components", "n_features"), [(1, 1), (3, 1), (1, 4), (3, 4)])


def random_positive_definite(rng, *shape):
    root = rng.normal(size=(*shape, shape[-1]))
    return root @ np.swapaxes(root, -1, -2) + 0.1 * np.eye(shape[-1])


def random_covariances(rng, n_components, n_features, covariance_type):
    return {
        "full": lambda: random_positive_definite(rng, n_components, n_features),
        "tied": lambda: random_positive_definite(rng, n_features),
        "diag": lambda: rng.gamma(2.0, size=(n_components, n_features)),
        "spherical": lambda: rng.gamma(2.0, size=n_components),
    }[covariance_type]()


def as_matrix(covariances, k, n_features, covariance_type):
    """The covariance matrix of component k."""
    return {
        "full": lambda: covariances[k],
        "tied": lambda: covariances,
        "diag": lambda: np.diag(covariances[k]),
        "spherical": lambda: covariances[k] * np.eye(n_features),
    }[covariance_type]()


def example(n_components, n_features, covariance_type, seed=0):
    rng = np.random.default_rng(seed)
    covariances = random_covariances(rng, n_components, n_features, covariance_type)
    return rng.normal(size=(20, n_features)), rng.normal(size=(n_components, n_features)), covariances


def densities(x, means, covariances, covariance_type):
    """log N(x; mu_k, Sigma_k), of shape (n, K), by scipy."""
    columns = [
        multivariate_normal(mean, as_matrix(covariances, k, len(mean), covariance_type)).logpdf(x).reshape(-1)
        for k, mean in enumerate(means)
    ]
    return np.stack(columns, axis=1)


@TYPES
@SIZES
def test_densities_are_products_of_features_and_natural_parameters(covariance_type, n_components, n_features):
    x, means, covariances = example(n_components, n_features, covariance_type)
    natural, constant = natural_parameters(*map(torch.from_numpy, (means, covariances)), covariance_type)
    features = quadratic_features(torch.from_numpy(x), torch.zeros(x.shape[1], dtype=torch.float64), covariance_type)
    assert features.shape == (20, n_quadratic(n_features, covariance_type) + n_features)
    assert_allclose(features @ natural.T + constant, densities(x, means, covariances, covariance_type), rtol=1e-10, atol=1e-10)


@TYPES
@SIZES
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_densities_of_the_emission_are_measured_from_its_centre(covariance_type, n_components, n_features, offset):
    x, means, covariances = example(n_components, n_features, covariance_type)
    x, means = x + offset, means + offset
    emission = Gaussian(n_components, n_features, covariance_type)
    with torch.no_grad():
        emission.center.fill_(offset)
        emission.means.copy_(torch.from_numpy(means))
        emission.covariances.copy_(torch.from_numpy(covariances))
        found = emission.log_density(emission.features(torch.from_numpy(x)))
    assert_allclose(found, densities(x, means, covariances, covariance_type), rtol=1e-8, atol=1e-7)


@TYPES
def test_densities_follow_a_parameter_that_changes(covariance_type):
    x, means, covariances = example(2, 3, covariance_type)
    emission, features = Gaussian(2, 3, covariance_type), None
    with torch.no_grad():
        features = emission.features(torch.from_numpy(x))
        unit = emission.log_density(features)
        assert_allclose(unit[:, 0], multivariate_normal(np.zeros(3), np.eye(3)).logpdf(x), rtol=1e-10, atol=0)
        emission.means.copy_(torch.from_numpy(means))
        emission.covariances.copy_(torch.from_numpy(covariances))
        assert_allclose(emission.log_density(features), densities(x, means, covariances, covariance_type), rtol=1e-10, atol=1e-10)


@TYPES
def test_densities_differentiate(covariance_type):
    x, means, covariances = example(2, 3, covariance_type)
    features = quadratic_features(torch.from_numpy(x[:3]), torch.zeros(x.shape[1], dtype=torch.float64), covariance_type)

    def total(means, covariances):
        if covariance_type in ("full", "tied"):
            covariances = (covariances + covariances.mT) / 2
        natural, constant = natural_parameters(means, covariances, covariance_type)
        return features @ natural.T + constant

    assert torch.autograd.gradcheck(total, [torch.from_numpy(each).requires_grad_() for each in (means, covariances)])


@TYPES
def test_one_m_step_gives_weighted_moments(covariance_type):
    """Against numpy's weighted covariances, for data far from zero."""
    rng = np.random.default_rng(3)
    x, responsibilities = 1e6 + rng.normal(size=(50, 3)) * [1.0, 2.0, 0.5], rng.dirichlet(np.ones(2), 50)
    emission = Gaussian(2, 3, covariance_type)
    emission.initialize(torch.from_numpy(x), torch.from_numpy(responsibilities))
    full = np.stack([np.cov(x.T, aweights=r, bias=True) for r in responsibilities.T])
    share = responsibilities.sum(0) / 50
    expected = {
        "full": full,
        "tied": np.tensordot(share, full, 1),
        "diag": np.diagonal(full, axis1=1, axis2=2),
        "spherical": np.trace(full, axis1=1, axis2=2) / 3,
    }[covariance_type]
    with torch.no_grad():
        assert_allclose(emission.covariances, expected, rtol=1e-7, atol=1e-7)
        assert_allclose(emission.means, [np.average(x, axis=0, weights=r) for r in responsibilities.T], rtol=1e-13, atol=0)


def test_statistics_of_batches_add_up_and_refuse_another_centre():
    rng = np.random.default_rng(4)
    x, responsibilities = torch.from_numpy(rng.normal(size=(30, 2))), torch.from_numpy(rng.dirichlet(np.ones(3), 30))
    emission = Gaussian(3, 2, "full")
    everything = emission.expect(emission.features(x), responsibilities)
    halves = [emission.expect(emission.features(x[part]), responsibilities[part]) for part in (slice(11), slice(11, None))]
    total = halves[0] + halves[1]
    for name in ("count", "first", "second"):
        assert_allclose(getattr(total, name), getattr(everything, name), rtol=1e-12, atol=1e-12)
    moved = Gaussian(3, 2, "full")
    moved.center.fill_(1.0)
    with pytest.raises(ValueError, match="different center"):
        halves[0] + moved.expect(moved.features(x), responsibilities)


@TYPES
def test_a_class_without_data_keeps_its_parameters(covariance_type):
    x = torch.from_numpy(np.random.default_rng(5).normal(size=(40, 2)))
    emission = Gaussian(2, 2, covariance_type)
    emission.initialize(x, torch.full((40, 2), 0.5, dtype=torch.float64))
    before = emission.means.detach().clone(), emission.covariances.detach().clone()
    only_first = torch.tensor([[1.0, 0.0]]).double().repeat(20, 1)
    emission.maximize(emission.expect(emission.features(x[:20]), only_first))
    with torch.no_grad():
        assert_allclose(emission.means[0], x[:20].mean(0), rtol=1e-10, atol=1e-12)
        assert_allclose(emission.means[1], before[0][1], rtol=0, atol=0)
        if covariance_type != "tied":
            assert_allclose(emission.covariances[1], before[1][1], rtol=0, atol=0)
        assert torch.isfinite(emission.covariances).all()


@TYPES
def test_samples_have_the_moments_that_they_should(covariance_type):
    _, means, covariances = example(2, 2, covariance_type, seed=1)
    emission = Gaussian(2, 2, covariance_type)
    with torch.no_grad():
        emission.means.copy_(torch.from_numpy(means))
        emission.covariances.copy_(torch.from_numpy(covariances))
    n = 20_000
    classes = torch.arange(2 * n) % 2
    drawn = emission.sample(classes, torch.Generator().manual_seed(0)).numpy()
    for k in range(2):
        matrix, mine = as_matrix(covariances, k, 2, covariance_type), drawn[k::2]
        assert_allclose(mine.mean(0), means[k], rtol=0, atol=4.5 * np.sqrt(matrix.diagonal().max() / n))
        error = np.sqrt((np.outer(matrix.diagonal(), matrix.diagonal()) + matrix**2).max() / n)
        assert_allclose(np.cov(mine.T, bias=True), matrix, rtol=0, atol=4.5 * error)


@pytest.mark.parametrize(("n_components", "n_features"), [(2, 3), (4, 1)])
def test_free_parameters_by_hand(n_components, n_features):
    counts = {kind: Gaussian(n_components, n_features, kind).count_parameters() for kind in COVARIANCE_TYPES}
    expected = {
        (2, 3): {"full": 18, "tied": 12, "diag": 12, "spherical": 8},
        (4, 1): {"full": 8, "tied": 5, "diag": 8, "spherical": 8},
    }
    assert counts == expected[n_components, n_features]


@TYPES
def test_precisions_are_inverse_covariances_and_back(covariance_type):
    _, _, covariances = example(3, 4, covariance_type)
    precisions = inverse(torch.from_numpy(covariances), covariance_type)
    for k in range(3):
        product = as_matrix(covariances, k, 4, covariance_type) @ as_matrix(precisions.numpy(), k, 4, covariance_type)
        assert_allclose(product, np.eye(4), rtol=0, atol=1e-10)
    assert_allclose(inverse(precisions, covariance_type), covariances, rtol=1e-9, atol=1e-10)


@TYPES
def test_log_determinants_are_numpys(covariance_type):
    _, _, covariances = example(3, 4, covariance_type)
    found = log_determinants(torch.from_numpy(covariances), covariance_type)
    expected = np.log(covariances) if covariance_type in ("diag", "spherical") else np.linalg.slogdet(covariances)[1]
    assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


@TYPES
def test_unit_covariances_are_their_own_inverses(covariance_type):
    unit = identity_covariance(4, covariance_type)
    assert unit.shape == {"diag": (4,), "spherical": ()}.get(covariance_type, (4, 4))
    assert_allclose(inverse(unit, covariance_type), unit, rtol=0, atol=0)


@TYPES
def test_a_prior_is_worth_its_observations(covariance_type):
    """Moments of data made for it: m_0 with the weight kappa_0, and points around zero whose scatter is Psi but that do not count."""
    mean, kappa = torch.tensor([1.0, -2.0, 0.5]).double(), torch.full((2,), 0.3, dtype=torch.float64)
    root = torch.from_numpy(np.random.default_rng(9).normal(size=(3, 3)))
    scale = {"diag": root.square().sum(0), "spherical": root.square().sum()}.get(covariance_type, root.T @ root)
    around = quadratic_features(root, torch.zeros(3).double(), covariance_type)[:, :-3].sum(0)
    expected = 0.3 * quadratic_features(mean[None], torch.zeros(3).double(), covariance_type)[0]
    first, second = prior_moments(mean, kappa, scale, covariance_type)
    assert_allclose(first, expected[-3:].expand(2, -1), rtol=1e-12, atol=0)
    share = 2 if covariance_type == "tied" else 1  # both classes have one covariance, and one Psi between them
    assert_allclose(second, (expected[:-3] + around / share).expand(2, -1), rtol=1e-12, atol=1e-12)


def test_exponents_of_the_prior_by_hand():
    """kappa_0 = 1/2, nu_0 = 7, K = 2, D = 3: 7 + 3 + 1 for the inverse Wishart, 7 + 2 for the inverse gamma, and 1/2 for each mean."""
    found = {kind: prior_exponent(0.5, 7.0, 2, 3, kind) for kind in COVARIANCE_TYPES}
    assert found == {"full": 11.5, "tied": 12.0, "diag": 9.5, "spherical": 10.5}


def test_symmetric_matrices_from_their_triangles():
    assert symmetric(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), 3).tolist() == [[1, 2, 3], [2, 4, 5], [3, 5, 6]]


def test_an_indefinite_covariance_is_refused():
    with pytest.raises(torch.linalg.LinAlgError):
        natural_parameters(torch.zeros(1, 2), torch.tensor([[[1.0, 2.0], [2.0, 1.0]]]), "full")


# ---- floors --------------------------------------------------------------------------------------------------------------


def scatter_with_eigenvalues(rng, values):
    basis = np.linalg.qr(rng.normal(size=(len(values), len(values))))[0]
    return (basis * values) @ basis.T


def likelihood(scatter, covariance):
    """-log|C| - tr(C^-1 S): what the covariance adds to the log-likelihood, twice, per item."""
    return -np.linalg.slogdet(covariance)[1] - np.trace(np.linalg.solve(covariance, scatter))


def test_floors_lift_small_eigenvalues_and_keep_the_directions():
    rng, floor = np.random.default_rng(6), 0.5
    scatter = scatter_with_eigenvalues(rng, [3.0, 1.0, 0.2, 0.0])
    lifted = floor_covariances(torch.from_numpy(scatter), floor, "tied").numpy()
    assert_allclose(np.linalg.eigvalsh(lifted), [0.5, 0.5, 1.0, 3.0], rtol=1e-10, atol=0)
    assert_allclose(lifted @ scatter, scatter @ lifted, rtol=0, atol=1e-10)  # the same eigenvectors


def test_the_floor_is_where_the_likelihood_is_highest():
    """A direct search over C = floor I + L L', from several starts, does not get beyond it, and gets there."""
    rng, floor = np.random.default_rng(7), 0.4
    scatter = scatter_with_eigenvalues(rng, [2.0, 0.3, 0.01])
    lifted = floor_covariances(torch.from_numpy(scatter), floor, "tied").numpy()
    triangle = np.tril_indices(3)

    def cost(entries):
        factor = np.zeros((3, 3))
        factor[triangle] = entries
        return -likelihood(scatter, floor * np.eye(3) + factor @ factor.T)

    reached = max(-minimize(cost, rng.normal(size=6), method="BFGS").fun for _ in range(5))
    assert_allclose(likelihood(scatter, lifted), reached, rtol=1e-6, atol=0)
    assert likelihood(scatter, lifted) >= reached - 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_nothing_else_that_is_allowed_is_likelier(seed):
    rng, floor = np.random.default_rng(seed), 0.3
    scatter = random_positive_definite(rng, 3) * 0.3 - 0.02 * np.eye(3)
    scatter = scatter_with_eigenvalues(rng, np.abs(np.linalg.eigvalsh(scatter)))
    lifted = floor_covariances(torch.from_numpy(scatter[None]), floor, "full").numpy()[0]
    best = likelihood(scatter, lifted)
    for size in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(25):
            noise = rng.normal(size=(3, 3)) * size
            values, vectors = np.linalg.eigh(lifted + noise + noise.T)
            other = (vectors * np.maximum(values, floor)) @ vectors.T
            assert likelihood(scatter, other) <= best + 1e-9


@TYPES
def test_healthy_covariances_are_left_as_they_are(covariance_type):
    _, _, covariances = example(3, 4, covariance_type)
    before = torch.from_numpy(covariances.copy())
    assert torch.equal(floor_covariances(before.clone(), 1e-6, covariance_type), before)


def test_only_the_components_below_the_floor_change():
    rng = np.random.default_rng(8)
    both = np.stack([scatter_with_eigenvalues(rng, [2.0, 1.0]), scatter_with_eigenvalues(rng, [2.0, 0.0])])
    lifted = floor_covariances(torch.from_numpy(both), 0.1, "full").numpy()
    assert_allclose(lifted[0], both[0], rtol=0, atol=0)
    assert_allclose(np.linalg.eigvalsh(lifted[1]), [0.1, 2.0], rtol=1e-10, atol=0)


@pytest.mark.parametrize("covariance_type", ["diag", "spherical"])
def test_variances_are_floored_one_by_one(covariance_type):
    variances = torch.tensor([0.5, 0.1, 0.0], dtype=torch.float64)
    assert floor_covariances(variances, 0.2, covariance_type).tolist() == [0.5, 0.2, 0.2]
