"""Gaussian observations with missing values and with a prior: exact EM, exact maximisers, against scipy and closed forms."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.stats import invgamma, invwishart, multivariate_normal, norm

from unveil.data.batch import Batch, Batches
from unveil.data.layout import as_rows
from unveil.emissions.gaussian import Gaussian, NormalInverseWishart
from unveil.errors import InputError, ParameterError
from unveil.kernels.gaussian import COVARIANCE_TYPES
from unveil.learn.em import em
from unveil.models.gaussian_hmm import ChainMixture
from unveil.models.gaussian_mixture import Mixture

TYPES = pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
PRIORS = pytest.mark.parametrize("prior", [None, "conjugate"])


def clusters(n_rows=150, n_features=3, missing=0.2, seed=0, offset=0.0):
    """Three overlapping clusters, with gaps, a row that has none, and rows that have nothing."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(n_features, n_features))
    x = 2 * rng.normal(size=(3, n_features))[rng.integers(3, size=n_rows)] + rng.normal(size=(n_rows, n_features)) @ mixing
    gaps = rng.random(x.shape) < missing
    gaps[0] = False
    if missing:
        gaps[1:3] = True
    return torch.from_numpy(np.where(gaps, np.nan, x) + offset)


def shares(n_rows, n_components=3, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(n_components), n_rows))


def started(x, covariance_type, n_components=3, **options):
    emission = Gaussian(n_components, x.shape[1], covariance_type, **options)
    emission.initialize(x, shares(len(x), n_components))
    return emission


def as_matrices(emission):
    covariances, eye = emission.covariances.detach().numpy(), np.eye(emission.n_features)
    return {
        "full": lambda: covariances,
        "tied": lambda: np.stack([covariances] * emission.n_components),
        "diag": lambda: covariances[:, :, None] * eye,
        "spherical": lambda: covariances[:, None, None] * eye,
    }[emission.covariance_type]()


def run(model, x, n_iter, **options):
    return em(model, Batches(as_rows(x.numpy()), allow_nan=True, **options), max_iter=n_iter, tol=0.0)


# ---- missing values ------------------------------------------------------------------------------------------------------


@TYPES
def test_only_gaps_leave_the_fast_path(covariance_type):
    x = clusters()
    emission = started(x, covariance_type)
    assert isinstance(emission.features(x[:1]), torch.Tensor)
    assert not isinstance(emission.features(x[:2]), torch.Tensor)


@TYPES
def test_densities_are_those_of_what_is_observed(covariance_type):
    x = clusters(offset=1e3)
    emission = started(x, covariance_type)
    found = emission.log_density(emission.features(x)).detach()
    for n in range(30):
        o = ~np.isnan(x[n].numpy())
        for k, (mean, sigma) in enumerate(zip(emission.means.detach().numpy(), as_matrices(emission), strict=True)):
            expected = multivariate_normal(mean[o], sigma[np.ix_(o, o)]).logpdf(x[n, o]) if o.any() else 0.0
            assert_allclose(found[n, k], expected, rtol=1e-8, atol=1e-8)


@TYPES
@PRIORS
def test_no_step_of_em_loses(covariance_type, prior):
    """Of a mixture, which knows nothing of gaps, and for each step the posterior of its parameters."""
    x = clusters(offset=50.0)
    model = Mixture(started(x, covariance_type, prior=prior))
    batches = Batches(as_rows(x.numpy()), allow_nan=True, batch_steps=40)
    reached = []
    for _ in range(40):
        statistics = sum_of(model.expect(batch) for batch in batches)
        reached.append(statistics.log_likelihood + model.emission.log_prior())
        model.maximize(statistics)
    steps = np.diff(reached)
    assert (steps >= -1e-9 * np.abs(reached[:-1])).all(), steps.min()
    assert reached[-1] > reached[0] + 1.0


def sum_of(statistics):
    first, *others = statistics
    for each in others:
        first = first + each
    return first


@TYPES
def test_statistics_of_batches_with_and_without_gaps_add(covariance_type):
    x, r = clusters(), shares(150)
    emission = started(x, covariance_type)
    whole = emission.expect(emission.features(x), r)
    assert whole.count.shape == (3,)
    parts = [
        emission.expect(emission.features(x[rows]), r[rows]) for rows in (slice(1), slice(1, 2), slice(2, 70), slice(70, None))
    ]
    for name, value in vars(sum_of(parts)).items():
        assert_allclose(value.detach(), getattr(whole, name).detach(), rtol=1e-10, atol=1e-10)


@TYPES
def test_rows_without_a_value_change_nothing(covariance_type):
    x, r = clusters(), shares(150)
    emission, seen = started(x, covariance_type), ~x.isnan().all(1)
    assert int((~seen).sum()) >= 2
    everything = emission.expect(emission.features(x), r)
    observed = emission.expect(emission.features(x[seen]), r[seen])
    for name, value in vars(observed).items():
        assert_allclose(getattr(everything, name).detach(), value.detach(), rtol=1e-12, atol=1e-12)
    before = {name: value.clone() for name, value in emission.state_dict().items()}
    emission.maximize(emission.expect(emission.features(x[1:3]), r[1:3]))
    for name, value in emission.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_one_normal_with_a_monotone_pattern_has_a_closed_form(covariance_type):
    """x2 missing from some row on: the moments of all x1, and the regression of x2 on x1 where there are both (Anderson, 1957)."""
    rng = np.random.default_rng(3)
    first = rng.normal(2.0, 1.5, size=80)
    second = 0.8 * first + rng.normal(size=80)
    second[50:] = np.nan
    model = Mixture(Gaussian(1, 2, covariance_type))
    x = torch.from_numpy(np.column_stack([first, second]))
    model.emission.initialize(x, torch.ones(80, 1).double())
    run(model, x, 300)
    slope, intercept = np.polyfit(first[:50], second[:50], 1)
    residual = np.var(second[:50] - slope * first[:50] - intercept)
    variance = np.var(first)
    expected = [[variance, slope * variance], [slope * variance, residual + slope**2 * variance]]
    assert_allclose(model.emission.means[0].detach(), [first.mean(), intercept + slope * first.mean()], rtol=1e-8, atol=0)
    assert_allclose(model.emission.covariances.detach().reshape(2, 2), expected, rtol=1e-8, atol=0)


def test_one_normal_with_any_pattern_is_where_the_likelihood_is_highest():
    """Against a direct search over the mean and the Cholesky factor of the covariance, row by row."""
    x = clusters(n_rows=40, missing=0.3)
    model = Mixture(started(x, "full", n_components=1))
    reached = run(model, x, 500).objective[-1] * len(x)
    rows = [(row[~np.isnan(row)], ~np.isnan(row)) for row in x.numpy() if not np.isnan(row).all()]
    triangle = np.tril_indices(3)

    def cost(entries):
        factor = np.zeros((3, 3))
        factor[triangle] = entries[3:]
        sigma = factor @ factor.T
        return -sum(multivariate_normal(entries[:3][o], sigma[np.ix_(o, o)]).logpdf(row) for row, o in rows)

    found = minimize(cost, np.concatenate([np.nanmean(x, axis=0), np.diag(np.nanstd(x, axis=0))[triangle]]), method="BFGS")
    assert_allclose(reached, -found.fun, rtol=1e-7, atol=0)
    assert_allclose(model.emission.means[0].detach(), found.x[:3], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("covariance_type", ["diag", "spherical"])
def test_independent_features_need_one_step(covariance_type):
    x = clusters(offset=20.0)
    emission = started(x, covariance_type, n_components=1)
    expected = np.nanvar(x, axis=0)
    if covariance_type == "spherical":
        residuals = x.numpy() - np.nanmean(x, axis=0)
        expected = np.nanmean(residuals**2)
    assert_allclose(emission.means[0].detach(), np.nanmean(x, axis=0), rtol=1e-12, atol=0)
    assert_allclose(emission.covariances[0].detach(), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("covariance_type", ["diag", "spherical"])
def test_a_feature_that_a_class_never_shows_keeps_its_parameters(covariance_type):
    x, r = clusters(missing=0.0), torch.eye(3).double()[torch.arange(150) % 3]
    emission = Gaussian(3, 3, covariance_type)
    emission.initialize(x, r)
    before = emission.means.detach().clone()
    x = x + 1.0
    x[r[:, 1] > 0, 2] = torch.nan
    emission.maximize(emission.expect(emission.features(x), r))
    expected = before + 1.0
    expected[1, 2] = before[1, 2]
    assert_allclose(emission.means.detach(), expected, rtol=1e-10, atol=1e-10)
    assert bool((emission.covariances > 0.1).all())


@TYPES
def test_imputation_is_the_conditional_mean(covariance_type):
    x, r = clusters(offset=30.0), shares(150)
    emission = started(x, covariance_type)
    filled = emission.impute(x, r)
    assert torch.equal(filled[~x.isnan()], x[~x.isnan()])
    means, sigmas = emission.means.detach().numpy(), as_matrices(emission)
    for n in range(40):
        o = ~np.isnan(x[n].numpy())
        expected = sum(
            r[n, k].item() * (mean[~o] + sigma[np.ix_(~o, o)] @ np.linalg.solve(sigma[np.ix_(o, o)], x[n, o].numpy() - mean[o]))
            for k, (mean, sigma) in enumerate(zip(means, sigmas, strict=True))
        )
        assert_allclose(filled[n, ~o], expected, rtol=1e-9, atol=1e-9)


@TYPES
def test_a_start_measures_from_the_mean_of_the_values_that_are_there(covariance_type):
    x, r = clusters(offset=1e4), shares(150) * 2.0
    emission = Gaussian(3, 3, covariance_type)
    emission.initialize(x, r)
    assert_allclose(emission.center, np.nanmean(x, axis=0), rtol=1e-12, atol=0)
    assert_allclose(emission.means.detach().mean(0), np.nanmean(x, axis=0), rtol=0, atol=1.0)
    assert bool((torch.from_numpy(np.linalg.eigvalsh(as_matrices(emission))) > 1e-3).all())


def test_a_column_without_a_value_is_named():
    x = clusters()
    x[:, 1] = torch.nan
    with pytest.raises(InputError, match=r"column 1 of X has no value among 150 rows; leave it out"):
        started(x, "full")


@TYPES
def test_a_collapsed_covariance_is_one_line(covariance_type):
    x = clusters()
    emission = started(x, covariance_type)
    with torch.no_grad():
        emission.covariances.zero_()
    with pytest.raises(InputError, match="not positive definite: a component collapsed"):
        emission.log_density(emission.features(x))


@TYPES
def test_gradients_are_finite_where_data_is_missing(covariance_type):
    """And equal to differences of the density along a direction."""
    x = clusters(n_rows=20)
    emission = started(x, covariance_type)
    emission.log_density(emission.features(x)).sum().backward()
    rng = np.random.default_rng(5)
    for parameter in (emission.means, emission.covariances):
        assert bool(parameter.grad.isfinite().all())
        direction = torch.from_numpy(rng.normal(size=parameter.shape))
        if parameter is emission.covariances and covariance_type in ("full", "tied"):
            direction = direction + direction.mT
        sides = []
        for step in (1e-5, -2e-5):
            with torch.no_grad():
                parameter += step * direction
                sides.append(float(emission.log_density(emission.features(x)).sum()))
        with torch.no_grad():
            parameter += 1e-5 * direction
        assert_allclose(float((parameter.grad * direction).sum()), (sides[0] - sides[1]) / 2e-5, rtol=1e-5, atol=1e-5)


def test_a_chain_learns_from_sequences_with_gaps():
    x = clusters(n_rows=90)
    given = {"initial": torch.full((1, 3), 1 / 3).double(), "transition": torch.full((1, 3, 3), 1 / 3).double()}
    emission = started(x, "full")
    given |= {"means": emission.means.detach().clone(), "covariances": emission.covariances.detach().clone()}
    model = ChainMixture(1, 3, emission, given)
    batches = Batches(as_rows(x.numpy()), offsets=np.array([0, 30, 45, 90]), allow_nan=True)
    model.initialize(batches, torch.Generator().manual_seed(0))
    objective = np.array(em(model, batches, max_iter=30, tol=0.0).objective)
    assert (np.diff(objective) >= -1e-9 * np.abs(objective[:-1])).all()
    assert objective[-1] > objective[0]
    posterior = model.posterior(Batch(x[:30], torch.tensor([0, 30])))
    assert_allclose(posterior.states.sum((1, 2)), np.ones(30), rtol=1e-9, atol=0)


# ---- the prior -----------------------------------------------------------------------------------------------------------


def some_prior(covariance_type, n_features=3, **changes):
    """One whose every number matters."""
    rng = np.random.default_rng(7)
    root = rng.normal(size=(n_features, n_features))
    scale = {"diag": 1.0 + rng.random(n_features), "spherical": 1.7}.get(covariance_type, root @ root.T + np.eye(n_features))
    settings = {"mean": rng.normal(size=n_features), "mean_precision": 0.7, "degrees_of_freedom": n_features + 1.5, "scale": scale}
    return NormalInverseWishart(**settings | changes)


def scipy_log_prior(prior, emission):
    """log p(means, covariances) by scipy, from its definition."""
    means, covariances = emission.means.detach().numpy(), emission.covariances.detach().numpy()
    kind, nu, kappa = emission.covariance_type, prior.degrees_of_freedom, prior.mean_precision
    of_means = sum(
        multivariate_normal(prior.mean, sigma / kappa).logpdf(mean)
        for mean, sigma in zip(means, as_matrices(emission), strict=True)
    )
    if kind == "tied":
        return of_means + invwishart(nu, prior.scale).logpdf(covariances)
    if kind == "full":
        return of_means + sum(invwishart(nu, prior.scale).logpdf(sigma) for sigma in covariances)
    return of_means + invgamma(nu / 2, scale=np.asarray(prior.scale) / 2).logpdf(covariances).sum()


@TYPES
@pytest.mark.parametrize("n_features", [1, 3])
def test_log_prior_is_scipys_up_to_a_constant(covariance_type, n_features):
    prior, differences = some_prior(covariance_type, n_features), []
    for seed in range(4):
        emission = Gaussian(3, n_features, covariance_type, prior=prior)
        emission.initialize(clusters(n_features=n_features, missing=0.0, seed=seed, offset=seed), shares(150, seed=seed))
        differences.append(emission.log_prior() - scipy_log_prior(prior, emission))
    assert_allclose(differences, np.full(4, differences[0]), rtol=0, atol=1e-8)


def complete_data_posterior(emission, prior, x, r):
    """sum_n r_nk log N(x_n; mu_k, Sigma_k) + log p(parameters), by scipy."""
    parameters = zip(emission.means.detach().numpy(), as_matrices(emission), r.T.numpy(), strict=True)
    likelihood = sum(weight @ multivariate_normal(mean, sigma).logpdf(x.numpy()) for mean, sigma, weight in parameters)
    return likelihood + scipy_log_prior(prior, emission)


def moved(emission, rng, size, floor):
    """Other parameters near by: some with other means only, some with other covariances only."""
    which = rng.integers(3)
    if which != 0:
        emission.means += size * torch.from_numpy(rng.normal(size=emission.means.shape))
    if which != 1:
        noise = size * torch.from_numpy(rng.normal(size=emission.covariances.shape))
        if emission.covariance_type in ("full", "tied"):
            values, vectors = torch.linalg.eigh(emission.covariances + noise + noise.mT)
            emission.covariances.copy_((vectors * values.clamp_min(floor)[..., None, :]) @ vectors.mT)
        else:
            emission.covariances.copy_((emission.covariances + noise).clamp_min(floor))


@TYPES
@pytest.mark.parametrize("floor", [1e-6, 1.2])
@torch.no_grad()
def test_the_m_step_is_the_maximiser_of_the_posterior(covariance_type, floor):
    """Nothing near it that is above the floor has more; with the higher floor, some eigenvalues lie on it."""
    x, prior = clusters(missing=0.0, n_rows=40), some_prior(covariance_type)
    r = shares(40) * torch.tensor([1.0, 0.6, 0.05])  # the third class is mostly prior
    emission = Gaussian(3, 3, covariance_type, floor, prior)
    emission.initialize(x, r)
    best, found = complete_data_posterior(emission, prior, x, r), {k: v.clone() for k, v in emission.state_dict().items()}
    lowest = np.linalg.eigvalsh(as_matrices(emission)).min()
    assert lowest < 1.2 + 1e-9
    assert floor < 1 or lowest > 1.2 - 1e-9
    rng = np.random.default_rng(0)
    for size in (1e-4, 1e-3, 1e-2, 0.1):
        for _ in range(40):
            emission.load_state_dict(found)
            moved(emission, rng, size, floor)
            assert complete_data_posterior(emission, prior, x, r) <= best + 1e-9


@pytest.mark.parametrize("covariance_type", ["diag", "spherical"])
@torch.no_grad()
def test_the_m_step_with_gaps_is_the_maximiser_where_features_are_independent(covariance_type):
    x, prior, r = clusters(n_rows=40, missing=0.4), some_prior(covariance_type), shares(40)
    emission = Gaussian(3, 3, covariance_type, prior=prior)
    emission.initialize(x, r)

    def posterior():
        sigma = np.stack([np.diag(each) for each in as_matrices(emission)]) ** 0.5
        density = np.nan_to_num(norm(emission.means.numpy(), sigma).logpdf(x.numpy()[:, None]), nan=0.0).sum(2)
        return (r.numpy() * density).sum() + scipy_log_prior(prior, emission)

    best, found, rng = posterior(), {k: v.clone() for k, v in emission.state_dict().items()}, np.random.default_rng(0)
    for size in (1e-4, 1e-3, 1e-2):
        for _ in range(40):
            emission.load_state_dict(found)
            moved(emission, rng, size, 1e-6)
            assert posterior() <= best + 1e-9


@TYPES
@pytest.mark.parametrize("mean_precision", [0.7, 1e-13])
def test_a_class_without_data_goes_to_the_mode_of_the_prior(covariance_type, mean_precision):
    """However little it is worth beside the data of other classes."""
    prior, x = some_prior(covariance_type, mean_precision=mean_precision), clusters(missing=0.0)
    emission = Gaussian(2, 3, covariance_type, prior=prior)
    r = torch.tensor([[1.0, 0.0]]).double().expand(150, 2)
    emission.initialize(x, r)
    assert_allclose(emission.means[1].detach(), prior.mean, rtol=1e-10, atol=1e-10)
    if covariance_type != "tied":
        power = {"full": 3 + 2, "diag": 3, "spherical": 3 + 2}[covariance_type]
        expected = np.asarray(prior.scale) / (prior.degrees_of_freedom + power)
        assert_allclose(emission.covariances[1].detach(), expected, rtol=1e-9, atol=1e-10)


@TYPES
def test_conjugate_hyperparameters_are_those_of_fraley_and_raftery(covariance_type):
    x = clusters(missing=0.0, offset=3.0)
    emission = started(x, covariance_type, prior="conjugate")
    covariance = np.cov(x.numpy().T, bias=True) / 3 ** (2 / 3)
    diagonal = np.trace(covariance) / 3
    expected = {"diag": np.full(3, diagonal), "spherical": diagonal}.get(covariance_type, covariance)
    assert_allclose(emission.prior_mean, x.mean(0), rtol=1e-10, atol=0)
    assert_allclose(emission.prior_scale, expected, rtol=1e-9, atol=1e-9)
    assert (float(emission.prior_mean_precision), float(emission.prior_degrees_of_freedom)) == (0.01, 5.0)


def test_conjugate_hyperparameters_are_of_the_values_that_are_there():
    x = clusters(offset=3.0)
    emission = started(x, "diag", prior="conjugate")
    assert_allclose(emission.prior_mean, np.nanmean(x, axis=0), rtol=1e-10, atol=0)
    assert_allclose(emission.prior_scale, np.full(3, np.nanvar(x, axis=0).mean() / 3 ** (2 / 3)), rtol=1e-9, atol=0)


def test_one_class_by_fraley_and_raftery():
    """Their table for ellipsoidal and spherical covariances, written out."""
    x = clusters(missing=0.0).numpy()
    n, d, mean = *x.shape, x.mean(0)
    scatter = (x - mean).T @ (x - mean)
    for kind in ("full", "spherical"):
        prior = some_prior(kind)
        kappa, nu, shift = prior.mean_precision, prior.degrees_of_freedom, mean - prior.mean
        between = kappa * n / (kappa + n) * np.outer(shift, shift)
        expected = (prior.scale + between + scatter) / (nu + n + d + 2)
        if kind == "spherical":
            expected = (prior.scale + np.trace(between + scatter)) / (nu + n * d + d + 2)
        emission = Gaussian(1, d, kind, prior=prior)
        emission.initialize(torch.from_numpy(x), torch.ones(n, 1).double())
        assert_allclose(emission.means[0].detach(), (n * mean + kappa * prior.mean) / (n + kappa), rtol=1e-10, atol=1e-12)
        assert_allclose(emission.covariances[0].detach(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_a_component_on_one_point_does_not_collapse(covariance_type):
    """Five copies of one point and a component that starts there: without a prior its covariance falls to the floor."""
    x = clusters(n_rows=60, missing=0.0)
    x[:5] = torch.tensor([9.0, 9.0, 9.0])
    first = torch.zeros(60, 2).double()
    first[:5, 0] = first[5:, 1] = 1.0
    smallest = {}
    for prior in (None, "conjugate"):
        model = Mixture(Gaussian(2, 3, covariance_type, 1e-9, prior))
        model.emission.initialize(x, first)
        run(model, x, 50)
        smallest[prior] = np.linalg.eigvalsh(as_matrices(model.emission)[0]).min()
    assert_allclose(smallest[None], 1e-9, rtol=1e-3, atol=0)
    assert smallest["conjugate"] > 1e-2


@TYPES
@pytest.mark.parametrize("prior", ["conjugate", "given"])
def test_the_prior_is_saved_with_the_parameters(covariance_type, prior):
    prior = some_prior(covariance_type) if prior == "given" else prior
    x, r = clusters(missing=0.0), shares(150)
    fitted = started(x, covariance_type, prior=prior)
    loaded = Gaussian(3, 3, covariance_type, prior=prior)
    shapes = {name: value.shape for name, value in loaded.state_dict().items()}
    assert shapes == {name: value.shape for name, value in fitted.state_dict().items()}
    loaded.load_state_dict(fitted.state_dict())
    assert loaded.log_prior() == fitted.log_prior() != 0
    for each in (loaded, fitted):
        each.maximize(each.expect(each.features(x), r))
    assert torch.equal(loaded.covariances, fitted.covariances)


def test_a_given_prior_is_not_changed_by_data():
    prior = some_prior("full")
    emission = started(clusters(offset=100.0), "full", prior=prior)
    assert_array_equal(emission.prior_mean, prior.mean)
    assert_array_equal(emission.prior_scale, prior.scale)


@TYPES
def test_without_a_prior_nothing_is_added(covariance_type):
    emission = started(clusters(), covariance_type)
    assert emission.log_prior() == 0.0
    assert set(emission.state_dict()) == {"means", "covariances", "center"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean_precision": 0.0}, "mean_precision=0.0: expected a number > 0"),
        ({"degrees_of_freedom": -1}, "degrees_of_freedom=-1: expected a number > 0"),
        ({"degrees_of_freedom": 2.0}, r"prior.degrees_of_freedom=2.0: expected a number > 2 for 3 features"),
        ({"mean": [0.0]}, r"prior.mean has shape \(1,\); expected \(3,\)"),
        ({"scale": [1.0, 1.0, 1.0]}, r"prior.scale has shape \(3,\); expected \(3, 3\)"),
        ({"scale": -1.0}, "prior.scale is not symmetric and positive definite"),
        ({"scale": np.full((3, 3), np.nan)}, "prior.scale holds NaN"),
    ],
)
def test_priors_that_are_none_are_one_line(changes, message):
    with pytest.raises(ParameterError, match=message):
        Gaussian(2, 3, "full", prior=some_prior("full", **changes))


def test_a_prior_of_another_kind_is_refused():
    with pytest.raises(ParameterError, match="prior='flat': expected None, 'conjugate' or a NormalInverseWishart"):
        Gaussian(2, 3, prior="flat")


@TYPES
def test_a_number_is_a_scale_for_every_type(covariance_type):
    prior = some_prior(covariance_type, scale=2.0)
    scale = Gaussian(2, 3, covariance_type, prior=prior).prior_scale
    expected = {"diag": np.full(3, 2.0), "spherical": 2.0}.get(covariance_type, 2.0 * np.eye(3))
    assert_array_equal(scale, expected)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_moments_are_those_of_many_samples(covariance_type):
    gaussian = Gaussian(2, 3, covariance_type)
    generator = torch.Generator().manual_seed(0)
    values, responsibilities = torch.randn(50, 3, generator=generator).double(), torch.rand(50, 2, generator=generator).double()
    gaussian.initialize(2 * values, responsibilities)
    drawn = [gaussian.sample(torch.full((200_000,), k), torch.Generator().manual_seed(1)) for k in range(2)]
    means, variances = (each.detach().numpy() for each in gaussian.moments())
    assert_allclose(means, [each.mean(0).numpy() for each in drawn], rtol=0, atol=0.03)
    assert_allclose(variances, [each.var(0).numpy() for each in drawn], rtol=0.02, atol=0)
