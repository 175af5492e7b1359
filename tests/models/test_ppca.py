"""Probabilistic PCA and factor analysis against scikit-learn, scipy, dense formulae and autograd, with and without gaps."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize_scalar
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA, FactorAnalysis

import unveil
from unveil.data.batch import Batch, Batches
from unveil.data.layout import as_rows
from unveil.emissions.low_rank_gaussian import LowRankGaussian
from unveil.errors import InputError, ParameterError
from unveil.kernels.low_rank import diagonal_factors
from unveil.models.hmm import HMM
from unveil.models.ppca import PPCA, points_of_equal_moments, streamed_moments

NOISES = ("isotropic", "diagonal")


@pytest.fixture(scope="module")
def X():
    """300 points, 3 latent variables, 7 features, far from zero and noisier from one feature to the next."""
    rng = np.random.default_rng(0)
    loadings = 2.0 * rng.normal(size=(3, 7))
    return rng.normal(size=(300, 3)) @ loadings + rng.normal(size=(300, 7)) * np.linspace(0.3, 1.5, 7) + 10.0


@pytest.fixture(scope="module")
def gaps(X):
    """The same with a fifth missing; nothing is left of two rows."""
    holes = np.random.default_rng(1).random(X.shape) < 0.2
    holes[[5, 80]] = True
    return np.where(holes, np.nan, X)


def with_divisor_n(X):
    """Data whose covariance with divisor n - 1 is that of X with divisor n, so that scikit-learn's PCA is the maximum of likelihood."""
    return X.mean(0) + (X - X.mean(0)) * np.sqrt(1 - 1 / len(X))


def observed_log_density(x, mean, covariance):
    seen = ~np.isnan(x)
    return multivariate_normal(mean[seen], covariance[np.ix_(seen, seen)]).logpdf(x[seen]) if seen.any() else 0.0


def conditioned(x, mean, covariance):
    """E[x | x_o] (D,) and Cov[x | x_o] (D, D) of a dense normal distribution."""
    seen = ~np.isnan(x)
    gain = covariance[:, seen] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
    expected = mean + gain @ (x - mean)[seen]
    return np.where(seen, x, expected), covariance - gain @ covariance[seen]


# ---- closed form ---------------------------------------------------------------------------------------------------------


def test_is_the_pca_of_scikit_learn(X):
    ours, theirs = PPCA(n_components=3).fit(X), PCA(n_components=3).fit(with_divisor_n(X))
    assert_allclose(ours.score_samples(X), theirs.score_samples(X), rtol=1e-10, atol=0)
    assert_allclose(ours.get_covariance(), theirs.get_covariance(), rtol=1e-9, atol=1e-10)
    assert_allclose(ours.noise_variance_, theirs.noise_variance_, rtol=1e-10, atol=0)
    assert_allclose(ours.explained_variance_, theirs.explained_variance_, rtol=1e-10, atol=0)
    assert_allclose(ours.explained_variance_ratio_, theirs.explained_variance_ratio_, rtol=1e-10, atol=0)
    assert_allclose(ours.mean_, X.mean(0), rtol=1e-12, atol=0)
    axes = ours.components_ / np.linalg.norm(ours.components_, axis=1, keepdims=True)
    assert_allclose(np.abs(np.sum(axes * theirs.components_, axis=1)), 1.0, rtol=1e-10, atol=0)
    assert ours.converged_
    assert ours.n_iter_ == 1


def test_latent_variables_are_principal_components_shrunk(X):
    """E[z | x] = (l - s) / sqrt(l (l - s)) of the standardised principal component: Tipping and Bishop, section 3.3."""
    ours, theirs = PPCA(n_components=3).fit(X), PCA(n_components=3).fit(with_divisor_n(X))
    shrunk = theirs.transform(X) * np.sqrt(ours.explained_variance_ - ours.noise_variance_) / ours.explained_variance_
    assert_allclose(np.abs(ours.transform(X)), np.abs(shrunk), rtol=1e-8, atol=1e-9)
    assert_allclose(ours.transform(X[:5].mean(0, keepdims=True)), ours.transform(X[:5]).mean(0)[None], rtol=1e-9, atol=1e-12)
    there_and_back = ours.inverse_transform(ours.transform(X))
    assert_allclose(there_and_back, ours.transform(X) @ ours.components_ + X.mean(0), rtol=1e-10, atol=0)


def test_sign_of_an_axis_is_that_of_its_largest_loading(X):
    components = PPCA(n_components=3).fit(X).components_
    assert (components[np.arange(3), np.abs(components).argmax(1)] > 0).all()
    assert_allclose(PPCA(n_components=3).fit(X[::-1].copy()).components_, components, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("method", ["closed-form", "em"])
def test_the_methods_agree(X, method):
    auto, other = PPCA(n_components=3).fit(X), PPCA(n_components=3, method=method).fit(X)
    assert_allclose(other.components_, auto.components_, rtol=1e-8, atol=1e-9)
    assert_allclose(other.score(X), auto.score(X), rtol=1e-12, atol=0)


def test_em_reaches_the_closed_form_from_anywhere(X):
    closed, em = PPCA(n_components=3).fit(X), PPCA(n_components=3, method="em", warm_start=True, tol=0.0, max_iter=2).fit(X)
    with torch.no_grad():
        em.model_.emission.loadings.normal_(generator=torch.Generator().manual_seed(0))
        em.model_.emission.means.fill_(7.0)
    assert em.score(X) < closed.score(X) - 1
    em.fit(X)
    assert_allclose(em.get_covariance(), closed.get_covariance(), rtol=1e-6, atol=1e-9)
    assert_allclose(em.score(X), closed.score(X), rtol=1e-12, atol=0)


def test_sampled_data_give_the_parameters_back():
    rng = np.random.default_rng(3)
    truth = PPCA(n_components=2).fit(rng.normal(size=(50, 2)) @ rng.normal(size=(2, 5)) + 0.5 * rng.normal(size=(50, 5)))
    drawn, _ = truth.sample(20_000, random_state=0)
    again = PPCA(n_components=2).fit(drawn)
    standard_error = np.sqrt(2 / 20_000) * np.diag(truth.get_covariance()).max()
    assert_allclose(again.get_covariance(), truth.get_covariance(), rtol=0, atol=5 * standard_error)
    assert_allclose(again.mean_, truth.mean_, rtol=0, atol=5 * np.sqrt(np.diag(truth.get_covariance()).max() / 20_000))
    assert_allclose(again.noise_variance_, truth.noise_variance_, rtol=0.05, atol=0)


# ---- factor analysis -----------------------------------------------------------------------------------------------------


def test_is_the_factor_analysis_of_scikit_learn(X):
    ours = PPCA(n_components=3, noise="diagonal", tol=1e-11, max_iter=3000).fit(X)
    theirs = FactorAnalysis(n_components=3, tol=1e-9, max_iter=5000).fit(X)
    assert_allclose(ours.score_samples(X).sum(), theirs.score_samples(X).sum(), rtol=1e-7, atol=0)
    assert_allclose(ours.get_covariance(), theirs.get_covariance(), rtol=1e-3, atol=1e-3)
    assert_allclose(ours.noise_variance_, theirs.noise_variance_, rtol=1e-2, atol=0)
    scaled = ours.components_ / np.sqrt(ours.noise_variance_)
    products = scaled @ scaled.T
    assert_allclose(products, np.diag(np.diag(products)), rtol=0, atol=1e-5 * products.max())  # as far as EM has converged
    assert_allclose(ours.explained_variance_, np.square(ours.components_).sum(1), rtol=1e-12, atol=0)


def test_units_of_a_column_do_not_matter_to_factor_analysis(X):
    units = np.array([1e-3, 1.0, 1e3, 10.0, 1.0, 1e-2, 5.0])
    plain, scaled = (PPCA(n_components=2, noise="diagonal", tol=0.0, max_iter=50).fit(each) for each in (X, X * units))
    back = scaled.components_ / units
    back *= np.sign((back * plain.components_).sum(1, keepdims=True))  # the largest loading, which is positive, is another one
    assert_allclose(back, plain.components_, rtol=0, atol=1e-6)
    assert_allclose(scaled.score(X * units), plain.score(X) - np.log(units).sum(), rtol=1e-9, atol=0)


def test_noise_of_one_feature_after_the_other_is_the_best(X):
    """Each found by a search, given the loadings, the earlier ones as they have become and the later ones as they were."""
    covariance, before = np.cov(X.T, ddof=0), np.linspace(0.2, 3.0, 7)
    given = [torch.from_numpy(each) for each in (covariance, before, np.full(7, 1e-6))]
    loadings, noise = diagonal_factors(given[0], 2, *given[1:])
    shared, expected = (loadings @ loadings.T).numpy(), before.copy()

    def loss(value, d):
        model = shared + np.diag(np.where(np.arange(7) == d, value, expected))
        return np.linalg.slogdet(model)[1] + np.trace(np.linalg.solve(model, covariance))

    for d in range(7):
        expected[d] = minimize_scalar(loss, bounds=(1e-6, 50), args=(d,), method="bounded", options={"xatol": 1e-10}).x
    assert_allclose(noise, expected, rtol=1e-5, atol=2e-6)


def test_compressed_data_are_fitted_like_the_data(X):
    """Complete data are replaced by 14 points of equal moments; "em" goes through the data itself."""
    fits = [PPCA(n_components=3, noise="diagonal", method=method, tol=0.0, max_iter=30).fit(X) for method in ("auto", "em")]
    assert_allclose(fits[0].components_, fits[1].components_, rtol=1e-6, atol=1e-8)
    assert_allclose(fits[0].history_.objective, fits[1].history_.objective, rtol=1e-10, atol=0)


def test_points_of_equal_moments(X):
    weights = np.random.default_rng(2).integers(0, 4, len(X)).astype(float)
    data = Batches(as_rows(X), weights=weights, batch_steps=64)
    moments = streamed_moments(data, torch.Generator().manual_seed(0), lambda f, batches: sum_of(map(f, batches)))
    points = next(iter(points_of_equal_moments(moments)))
    assert points.n_steps == 14
    values, counts = points.values.numpy(), points.weights.numpy()
    assert_allclose(counts.sum(), weights.sum(), rtol=1e-12, atol=0)
    assert_allclose(np.average(values, 0, counts), np.average(X, 0, weights), rtol=1e-12, atol=0)
    assert_allclose(np.cov(values.T, aweights=counts, ddof=0), np.cov(X.T, aweights=weights, ddof=0), rtol=1e-9, atol=1e-9)


def sum_of(parts):
    total, *others = parts
    for each in others:
        total = total + each
    return total


# ---- gaps ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", NOISES)
def test_likelihood_is_that_of_what_is_observed(gaps, noise):
    ppca = PPCA(n_components=2, noise=noise, max_iter=10, tol=0.0).fit(gaps)
    expected = [observed_log_density(x, ppca.mean_, ppca.get_covariance()) for x in gaps]
    assert_allclose(ppca.score_samples(gaps), expected, rtol=1e-9, atol=1e-12)
    assert_array_equal(ppca.score_samples(gaps[[5, 80]]), 0.0)


@pytest.mark.parametrize("noise", NOISES)
def test_posterior_and_imputation_are_those_of_the_joint_normal(gaps, noise):
    ppca = PPCA(n_components=2, noise=noise, max_iter=10, tol=0.0).fit(gaps)
    loadings, covariance = ppca.components_.T, ppca.get_covariance()
    joint = np.block([[np.eye(2), loadings.T], [loadings, covariance]])
    mean, spread = ppca.posterior(gaps)
    filled = ppca.impute(gaps)
    for i in (0, 1, 5, 33, 299):
        whole, of_whole = conditioned(np.r_[np.nan, np.nan, gaps[i]], np.r_[0, 0, ppca.mean_], joint)
        assert_allclose(mean[i], whole[:2], rtol=1e-9, atol=1e-12)
        assert_allclose(filled[i], whole[2:], rtol=1e-9, atol=1e-12)
        assert_allclose(spread[i], of_whole[:2, :2], rtol=1e-9, atol=1e-12)
    assert_array_equal(filled[~np.isnan(gaps)], gaps[~np.isnan(gaps)])
    assert_array_equal(ppca.transform(gaps), mean)


@pytest.mark.parametrize("noise", NOISES)
def test_expected_moments_are_those_of_dense_conditioning(gaps, noise):
    rng = np.random.default_rng(4)
    emission = LowRankGaussian(2, 7, 3, noise)
    values, responsibilities = torch.from_numpy(gaps), torch.from_numpy(rng.dirichlet([1, 1], len(gaps)))
    emission.initialize(values, responsibilities**4)
    found = emission.expect(emission.features(values), responsibilities)
    center = emission.center.numpy()
    for k in range(2):
        mean, covariance = emission.means[k].detach().numpy(), emission.covariance_of(k).detach().numpy()
        count, first, second = 0.0, np.zeros(7), np.zeros((7, 7))
        for x, r in zip(gaps, responsibilities[:, k].numpy(), strict=True):
            if np.isnan(x).all():
                continue
            expected, hidden = conditioned(x, mean, covariance)
            y = expected - center
            count, first, second = count + r, first + r * y, second + r * (np.outer(y, y) + hidden)
        assert_allclose(found.count[k], count, rtol=1e-12, atol=0)
        assert_allclose(found.first[k].detach(), first, rtol=1e-9, atol=1e-9)
        assert_allclose(found.second[k].detach(), second, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("noise", NOISES)
def test_em_climbs_to_where_the_gradient_of_the_likelihood_vanishes(gaps, noise):
    ppca = PPCA(n_components=3, noise=noise, tol=1e-11, max_iter=5000).fit(gaps)
    steps = np.diff(ppca.history_.objective)
    assert (steps >= -1e-11).all(), steps.min()
    assert steps[0] > 1e-2
    assert ppca.converged_
    batch = Batch(torch.from_numpy(gaps), torch.arange(len(gaps) + 1))
    ppca.model_.objective(batch).mean().backward()
    emission = ppca.model_.emission
    for parameter in (emission.means, emission.loadings, emission.noise_variances):
        assert_allclose(parameter.grad, 0.0, rtol=0, atol=2e-5)
    with torch.no_grad():
        emission.loadings.mul_(1.1)
    ppca.model_.zero_grad()
    ppca.model_.objective(batch).mean().backward()
    assert float(emission.loadings.grad.abs().max()) > 1e-2


@pytest.mark.parametrize("noise", NOISES)
def test_complete_data_on_the_path_for_gaps(X, noise):
    """A row of which nothing is there makes EM take each row by what is observed of it, and changes nothing."""
    settings = {"n_components": 3, "noise": noise, "tol": 0.0, "max_iter": 40}
    complete, taken = PPCA(**settings).fit(X), PPCA(**settings).fit(np.r_[X, np.full((1, 7), np.nan)])
    assert_allclose(taken.components_, complete.components_, rtol=1e-7, atol=1e-8)
    assert_allclose(taken.noise_variance_, complete.noise_variance_, rtol=1e-7, atol=0)
    assert_allclose(taken.mean_, complete.mean_, rtol=1e-10, atol=0)


def test_rows_of_which_nothing_is_there_change_nothing(gaps):
    many = np.r_[gaps, np.full((500, 7), np.nan)]
    first, second = (PPCA(n_components=2, tol=0.0, max_iter=25).fit(each) for each in (gaps, many))
    assert_allclose(second.get_covariance(), first.get_covariance(), rtol=1e-9, atol=1e-10)
    assert_allclose(second.mean_, first.mean_, rtol=1e-10, atol=0)


@pytest.mark.parametrize("noise", NOISES)
def test_imputation_is_twice_as_good_as_column_means(X, gaps, noise):
    holes = np.isnan(gaps) & ~np.isnan(gaps).all(1, keepdims=True)
    filled = PPCA(n_components=3, noise=noise).fit(gaps).impute(gaps)
    rmse = np.sqrt(np.mean((filled - X)[holes] ** 2))
    of_means = np.sqrt(np.mean((np.nanmean(gaps, 0) - X)[holes] ** 2))
    assert rmse < 0.5 * of_means


def test_missing_values_bias_nothing():
    """From half of the entries, the covariance of all: within errors that the other half would not make three times smaller."""
    rng = np.random.default_rng(6)
    whole = rng.normal(size=(4000, 2)) @ (2 * rng.normal(size=(2, 6))) + rng.normal(size=(4000, 6))
    holed = np.where(rng.random(whole.shape) < 0.5, np.nan, whole)
    truth, found = PPCA(n_components=2).fit(whole), PPCA(n_components=2).fit(holed)
    assert_allclose(found.noise_variance_, truth.noise_variance_, rtol=0.05, atol=0)
    assert_allclose(found.explained_variance_, truth.explained_variance_, rtol=0.1, atol=0)


@pytest.mark.parametrize("noise", NOISES)
def test_weight_of_two_is_the_row_twice_with_gaps(gaps, noise):
    counts = np.random.default_rng(5).integers(0, 3, len(gaps))
    settings = {"n_components": 2, "noise": noise, "tol": 0.0, "max_iter": 15}
    weighted = PPCA(**settings).fit(gaps, sample_weight=counts)
    repeated = PPCA(**settings).fit(np.repeat(gaps, counts, axis=0))
    assert_allclose(weighted.get_covariance(), repeated.get_covariance(), rtol=1e-8, atol=1e-9)


def test_gaps_streamed_from_a_file_in_single_precision(gaps, tmp_path):
    np.save(tmp_path / "X.npy", gaps.astype(np.float32))
    streamed = unveil.open_batches(tmp_path / "X.npy").replace(batch_steps=37)
    settings = {"n_components": 2, "tol": 0.0, "max_iter": 10}
    on_disk, in_memory = PPCA(**settings).fit(streamed), PPCA(**settings).fit(gaps.astype(np.float32))
    assert_allclose(on_disk.get_covariance(), in_memory.get_covariance(), rtol=1e-9, atol=1e-9)
    assert_allclose(on_disk.impute(streamed), in_memory.impute(gaps.astype(np.float32)), rtol=1e-9, atol=1e-9)


def test_saved_with_gaps(gaps, tmp_path):
    fitted = PPCA(n_components=2, noise="diagonal", max_iter=5, tol=0.0).fit(gaps)
    fitted.save(tmp_path / "ppca.unveil")
    assert_array_equal(unveil.load(tmp_path / "ppca.unveil").impute(gaps), fitted.impute(gaps))


# ---- sizes, starts and bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("with_gaps", [False, True])
@pytest.mark.parametrize("kind", ["as many components as features", "duplicates", "constant column", "few rows", "empty column"])
def test_degenerate_data_are_no_crash(X, noise, with_gaps, kind):
    data = {
        "as many components as features": X[:, :3],
        "duplicates": np.repeat(X[:2], 10, axis=0),
        "constant column": np.c_[X[:, :4], np.full(len(X), 3.0)],
        "few rows": X[:2],
        "empty column": np.c_[X[:, :4], np.full(len(X), np.nan)],
    }[kind].copy()
    if with_gaps:
        data[0, 0] = np.nan
    ppca = PPCA(n_components=3, noise=noise, max_iter=30, tol=0.0).fit(data)
    assert np.isfinite(ppca.score(data))
    assert np.isfinite(ppca.impute(data)).all()
    assert (ppca.noise_variance_ > 0).all()
    steps = np.diff(ppca.history_.objective)
    assert (steps >= -1e-7 * np.abs(ppca.history_.objective[0])).all(), steps.min()


def test_as_many_components_as_features_are_the_full_covariance(X):
    ppca = PPCA(n_components=7).fit(X)
    assert_allclose(ppca.get_covariance(), np.cov(X.T, ddof=0), rtol=1e-6, atol=1e-6)


def test_noise_does_not_fall_below_its_floor(X):
    collinear = X[:, :2] @ np.random.default_rng(0).normal(size=(2, 5))
    ppca = PPCA(n_components=2, noise_floor=1e-3).fit(collinear)
    assert_allclose(ppca.noise_variance_, 1e-3 * collinear.var(0).mean(), rtol=1e-9, atol=0)


def test_number_of_parameters_and_criteria(X):
    fits = {noise: PPCA(n_components=3, noise=noise).fit(X) for noise in NOISES}
    n_parameters = {"isotropic": 7 + 21 - 3 + 1, "diagonal": 7 + 21 - 3 + 7}
    for noise, ppca in fits.items():
        assert ppca.model_.count_parameters() == n_parameters[noise]
        total = ppca.score_samples(X).sum()
        assert_allclose(ppca.bic(X), -2 * total + n_parameters[noise] * np.log(300), rtol=1e-12, atol=0)
        assert_allclose(ppca.aic(X), -2 * total + 2 * n_parameters[noise], rtol=1e-12, atol=0)


def test_start_that_is_given_is_taken(gaps):
    start = np.linspace(0.5, 1.0, 7)
    found, given = (
        PPCA(n_components=2, noise="diagonal", noise_variance_init=each, max_iter=1, tol=0.0).fit(gaps) for each in (None, start)
    )
    assert given.history_.objective != found.history_.objective
    with pytest.raises(ParameterError, match="noise_variance_init has shape"):
        PPCA(noise_variance_init=start).fit(gaps)


def test_refusals(X, gaps):
    with pytest.raises(InputError, match="NaN, for which there is no closed form"):
        PPCA(method="closed-form").fit(gaps)
    with pytest.raises(ParameterError, match="needs noise='isotropic'"):
        PPCA(method="closed-form", noise="diagonal").fit(X)
    with pytest.raises(InputError, match="n_components=8 but X has n_features=7"):
        PPCA(n_components=8).fit(X)
    with pytest.raises(InputError, match="nothing but NaN"):
        PPCA().fit(np.full((5, 3), np.nan))
    with pytest.raises(ValueError, match="noise='pink'"):
        LowRankGaussian(1, 3, noise="pink")


# ---- as an emission ------------------------------------------------------------------------------------------------------


def test_gaps_in_blocks_of_rows(gaps, monkeypatch):
    """However few rows are worked on together, the numbers are the same."""
    emission = LowRankGaussian(2, 7, 3)
    values, responsibilities = torch.from_numpy(gaps), torch.from_numpy(np.random.default_rng(0).dirichlet([1, 1], 300))
    emission.initialize(values, responsibilities)

    def results():
        features = emission.features(values)
        statistics = emission.expect(features, responsibilities)
        filled = emission.impute(values, responsibilities)
        return [each.detach() for each in (emission.log_density(features), statistics.second, statistics.count, filled)]

    whole = results()
    monkeypatch.setattr("unveil.emissions.low_rank_gaussian._CHUNK", 7 * 3 * 11)
    for found, expected in zip(results(), whole, strict=True):
        assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_states_of_a_hidden_markov_model(X):
    """A chain whose states differ only in the direction in which the data is spread."""
    rng = np.random.default_rng(7)
    states = np.repeat([0, 1, 0, 1], 60)
    axes = np.array([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0]])
    data = 3 * rng.normal(size=(240, 1)) * axes[states] + 0.3 * rng.normal(size=(240, 3))
    hmm = HMM(n_states=2, emission=lambda k, d: LowRankGaussian(k, d, 1), n_init=5, random_state=0).fit(data)
    found = hmm.predict(data)
    assert max((found == states).mean(), (found != states).mean()) > 0.97
