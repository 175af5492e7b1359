"""The linear dynamical system: exact EM also with missing values, recovery up to the basis of the states, and its verbs."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal
from sklearn.covariance import empirical_covariance

from unveil.data.layout import read_sequences
from unveil.errors import InputError, ParameterError
from unveil.learn.em import em
from unveil.models.linear_dynamical_system import LinearDynamicalSystem

ANGLE = 0.4
TRANSITION = 0.95 * np.array([[np.cos(ANGLE), -np.sin(ANGLE)], [np.sin(ANGLE), np.cos(ANGLE)]])
OBSERVATION = np.array([[1.0, 0.5], [-0.3, 1.2], [0.8, -0.7]])
OFFSET = np.array([5.0, -2.0, 100.0])
TRANSITION_NOISE = np.array([[0.2, 0.05], [0.05, 0.1]])
OBSERVATION_NOISE = np.array([[0.3, 0.1, 0.0], [0.1, 0.2, -0.05], [0.0, -0.05, 0.4]])
TRUTH = {
    "transition_init": TRANSITION,
    "observation_init": OBSERVATION,
    "observation_offset_init": OFFSET,
    "transition_noise_init": TRANSITION_NOISE,
    "observation_noise_init": OBSERVATION_NOISE,
    "initial_mean_init": np.array([1.0, -1.0]),
    "initial_covariance_init": np.array([[0.5, 0.1], [0.1, 0.3]]),
}
ALL = tuple(name.removesuffix("_init") for name in TRUTH if "offset" not in name)
quiet = pytest.mark.filterwarnings("ignore::unveil.errors.ConvergenceWarning")


def draw(n_sequences=20, low=1, high=40, *, missing=0.0, seed=0):
    rng = np.random.default_rng(seed)
    sequences = []
    for length in rng.integers(low, high, n_sequences):
        z = [rng.multivariate_normal(TRUTH["initial_mean_init"], TRUTH["initial_covariance_init"])]
        while len(z) < length:
            z.append(TRANSITION @ z[-1] + rng.multivariate_normal(np.zeros(2), TRANSITION_NOISE))
        x = np.array(z) @ OBSERVATION.T + OFFSET + rng.multivariate_normal(np.zeros(3), OBSERVATION_NOISE, size=length)
        x[rng.random(x.shape) < missing] = np.nan
        x[rng.random(length) < missing] = np.nan
        sequences.append(x)
    return sequences


def at_truth(X=None, **changes):
    """A fit that changes nothing."""
    return LinearDynamicalSystem(**{"fixed": ALL, "random_state": 0, **TRUTH} | changes).fit(draw() if X is None else X)


def joint_of_observations(n_steps):
    """Mean (T, D) and covariance (T, D, T, D) of all observations, by summing over when each disturbance entered."""
    powers = [np.linalg.matrix_power(TRANSITION, t) for t in range(n_steps)]
    mean = np.array([OBSERVATION @ power @ TRUTH["initial_mean_init"] + OFFSET for power in powers])
    covariance = np.zeros((n_steps, 3, n_steps, 3))
    for t in range(n_steps):
        covariance[t, :, t] += OBSERVATION_NOISE
        for u in range(n_steps):
            for s in range(min(t, u) + 1):
                noise = TRANSITION_NOISE if s else TRUTH["initial_covariance_init"]
                covariance[t, :, u] += OBSERVATION @ powers[t - s] @ noise @ powers[u - s].T @ OBSERVATION.T
    return mean, covariance


def conditioned(x, n_more=0):
    """E and Cov of all entries of x (T, D) and of what follows, given those that are there."""
    n_steps = len(x) + n_more
    mean, covariance = (
        each.reshape(size) for each, size in zip(joint_of_observations(n_steps), [-1, (3 * n_steps,) * 2], strict=True)
    )
    known = np.flatnonzero(~np.isnan(x.ravel()))
    gain = np.linalg.solve(covariance[np.ix_(known, known)], covariance[known]).T
    mean = mean + gain @ (x.ravel()[known] - mean[known])
    return mean.reshape(n_steps, 3), (covariance - gain @ covariance[known]).reshape(n_steps, 3, n_steps, 3)


# ---- learning --------------------------------------------------------------------------------------------------------


def test_em_never_loses_with_missing_values():
    batches, _ = read_sequences(draw(missing=0.25), allow_nan=True)
    model = LinearDynamicalSystem(n_states=2, reg_covar=1e-12).build(3)
    model.initialize(batches, torch.Generator().manual_seed(0))
    objective = np.array(em(model, batches, max_iter=30, tol=0.0).objective)
    assert (np.diff(objective) >= -1e-10 * np.abs(objective[:-1])).all()
    assert objective[-1] > objective[0] + 0.1


def score_of_moments(noise, mapped, squares, products, regressors, n):
    """Slopes of -n log|S| / 2 - tr S^-1 sum E[(y - B u)(y - B u)'] / 2 in B and in S."""
    precision = torch.linalg.inv(noise)
    left = squares - products @ mapped.T - mapped @ products.T + mapped @ regressors @ mapped.T
    return precision @ (products - mapped @ regressors), 0.5 * precision @ (left - n * noise) @ precision


@pytest.mark.parametrize("missing", [0.0, 0.3], ids=["complete", "missing"])
def test_moments_have_the_gradient_of_the_likelihood(missing):
    """Fisher's identity: the slope of log p(x) is the expected slope of log p(x, z), which is one of moments."""
    batches, _ = read_sequences(draw(n_sequences=6, high=10, missing=missing), allow_nan=True)
    model = LinearDynamicalSystem(n_states=2).build(3)
    model.initialize(batches, torch.Generator().manual_seed(1))
    (batch,) = batches
    s, total = model.expect(batch), model.objective(batch).sum()
    names, parameters = zip(*model.named_parameters(), strict=True)
    slopes = dict(zip(names, torch.autograd.grad(total, parameters), strict=True))
    value = {name: parameter.detach() for name, parameter in model.named_parameters()}
    mapped = torch.cat([value["observation"], (value["observation_offset"] - s.center)[:, None]], 1)
    a, q = score_of_moments(value["transition_noise"], value["transition"], s.after, s.across, s.before, s.n_transitions)
    c, r = score_of_moments(value["observation_noise"], mapped, s.squares, s.products, s.regressors, s.n_observed)
    count = torch.tensor([[s.n_sequences]], dtype=torch.float64)
    mean, first = value["initial_mean"][:, None], s.first[:, None]
    m, p = score_of_moments(value["initial_covariance"], mean, s.first_products, first, count, s.n_sequences)
    expected = {
        "transition": a,
        "transition_noise": q,
        "observation": c[:, :-1],
        "observation_offset": c[:, -1],
        "observation_noise": r,
        "initial_mean": m[:, 0],
        "initial_covariance": p,
    }
    for name, slope in slopes.items():
        if name in ("transition_noise", "observation_noise", "initial_covariance"):
            slope = 0.5 * (slope + slope.T)  # only symmetric moves are moves of a covariance
        assert_allclose(slope, expected[name], rtol=1e-7, atol=1e-8, err_msg=name)


@quiet
def test_recovers_dynamics_up_to_the_basis_of_the_states():
    X = draw(n_sequences=60, low=60, high=90, seed=3)
    system = LinearDynamicalSystem(n_states=2, random_state=0, max_iter=200, tol=1e-6).fit(X)
    found, true = (np.sort_complex(np.linalg.eigvals(each)) for each in (system.transition_, TRANSITION))
    assert_allclose(found, true, rtol=0, atol=0.02)  # about 4500 steps: standard errors of some 0.005
    assert_allclose(system.observation_noise_, OBSERVATION_NOISE, rtol=0, atol=0.04)
    # what the basis cannot change: the covariance of successive observations
    now, then = (
        each.observation_ @ np.linalg.matrix_power(each.transition_, 3) @ np.linalg.pinv(each.observation_)
        for each in (system, at_truth())
    )
    assert_allclose(now @ OBSERVATION, then @ OBSERVATION, rtol=0, atol=0.08)
    assert system.score(X) > at_truth().score(X)  # the maximum is above the truth, but by little:
    assert 2 * len(X) * (system.score(X) - at_truth().score(X)) < 60  # chi-squared with 25 degrees of freedom


@quiet
def test_recovers_dynamics_with_half_of_the_entries_missing():
    X = draw(n_sequences=60, low=60, high=90, missing=0.3, seed=4)
    assert 0.45 < np.isnan(np.concatenate(X)).mean() < 0.55
    system = LinearDynamicalSystem(n_states=2, random_state=0, max_iter=200, tol=1e-6).fit(X)
    found, true = (np.sort_complex(np.linalg.eigvals(each)) for each in (system.transition_, TRANSITION))
    assert_allclose(found, true, rtol=0, atol=0.03)
    assert_allclose(system.observation_noise_, OBSERVATION_NOISE, rtol=0, atol=0.08)


def test_sequences_of_length_one_are_points_of_a_gaussian():
    """Every density of one step is normal, so with as many states as features the fit is the sample's mean and covariance."""
    points = np.concatenate(draw())[:60]
    system = LinearDynamicalSystem(n_states=3, tol=1e-9, max_iter=3000, random_state=0).fit(points, lengths=[1] * 60)
    expected = multivariate_normal(points.mean(0), empirical_covariance(points)).logpdf(points)
    assert_allclose(system.score_samples(points, lengths=[1] * 60), expected, rtol=0, atol=1e-3)


def test_states_that_repeat_themselves_are_factor_analysis_over_a_whole_sequence():
    """With A = 1 and Q = 0 a sequence is exchangeable: its mean is a weighted average that does not know the order of the steps."""
    given = {
        "transition_init": [[1.0]],
        "transition_noise_init": [[0.0]],
        "observation_init": [[1.0]],
        "initial_mean_init": [0.0],
        "initial_covariance_init": [[2.0]],
        "observation_noise_init": [[0.5]],
    }
    x = np.random.default_rng(5).normal(size=(7, 1))
    system = LinearDynamicalSystem(1, fixed=ALL, random_state=0, **given).fit(x)
    precision = 1 / 2.0 + 7 / 0.5
    mean, covariance = system.smooth(x, return_cov=True)
    assert_allclose(mean, np.full((7, 1), x.sum() / 0.5 / precision), rtol=1e-12, atol=1e-14)
    assert_allclose(covariance, np.full((7, 1, 1), 1 / precision), rtol=1e-12, atol=0)


# ---- what is given, and what is fixed --------------------------------------------------------------------------------


@quiet
def test_what_is_fixed_stays_and_the_rest_learns():
    X = draw()
    for fixed in (
        ("transition",),
        ("observation", "transition_noise"),
        ("initial_mean", "initial_covariance", "observation_noise"),
    ):
        rough = TRUTH | {"observation_noise_init": 3 * OBSERVATION_NOISE, "transition_noise_init": 3 * TRANSITION_NOISE}
        system = LinearDynamicalSystem(2, fixed=fixed, max_iter=5, tol=0.0, random_state=0, **rough).fit(X)
        held = {*fixed, *(["observation_offset"] if "observation" in fixed else [])}
        for name in (each.removesuffix("_init") for each in TRUTH):
            same = np.array_equal(getattr(system, f"{name}_"), rough[f"{name}_init"])
            assert same == (name in held), name
        assert np.diff(system.history_.objective).min() >= 0


def test_a_given_map_has_no_offset():
    X = [each - OFFSET for each in draw()]
    given = {name: value for name, value in TRUTH.items() if name != "observation_offset_init"}
    system = LinearDynamicalSystem(2, fixed=ALL, random_state=0, **given).fit(X)
    assert_array_equal(system.observation_offset_, np.zeros(3))


@quiet
def test_known_dynamics_and_map_are_enough_to_learn_the_noises():
    """A target in one dimension, of which only the place is seen."""
    rng = np.random.default_rng(6)
    step = np.array([[1.0, 1.0], [0.0, 1.0]])
    X = []
    for _ in range(30):
        z, path = np.array([0.0, 1.0]), []
        for _ in range(80):
            path.append(z[:1] + 2.0 * rng.normal(size=1))
            z = step @ z + np.array([0.5, 1.0]) * 0.2 * rng.normal()
        X.append(np.array(path))
    given = {"transition_init": step, "observation_init": [[1.0, 0.0]]}
    system = LinearDynamicalSystem(2, fixed=("transition", "observation"), max_iter=150, tol=0.0, random_state=0, **given).fit(X)
    assert_allclose(system.observation_noise_, [[4.0]], rtol=0.1, atol=0)
    assert_allclose(system.transition_noise_[1, 1], 0.04, rtol=0.25, atol=0)


def test_fixed_has_to_be_given_and_known():
    for fixed, match in ((("transition",), "transition_init is not given"), (("speed",), "expected"), ("transition", "expected")):
        with pytest.raises(ParameterError, match=match):
            LinearDynamicalSystem(fixed=fixed).fit(draw())


def test_free_parameters():
    """Two that differ by the basis of the states only are one: 4 of the 4 + 9 + 3 + 6 + 2 + 3 numbers say nothing."""
    assert LinearDynamicalSystem(2).build(3).count_parameters() == 4 + (6 + 3) + 3 + 6 + 2 + 3 - 4
    assert at_truth().model_.count_parameters() == 0
    assert at_truth(fixed=("transition",)).model_.count_parameters() == 9 + 3 + 6 + 2 + 3
    X = draw(missing=0.2)
    system = at_truth(X)
    n_observed = sum((~np.isnan(each)).any(1).sum() for each in X)
    deviance = -2 * system.score_samples(X).sum()
    assert_allclose((system.bic(X), system.aic(X)), (deviance, deviance), rtol=1e-12, atol=0)
    free = LinearDynamicalSystem(2, max_iter=1, tol=0.0, random_state=0).fit(X)
    assert_allclose(free.bic(X), -2 * free.score_samples(X).sum() + 23 * np.log(n_observed), rtol=1e-12, atol=0)


# ---- verbs -----------------------------------------------------------------------------------------------------------


def test_impute_is_the_mean_of_the_joint_gaussian():
    X = [each for each in draw(low=2, high=8, missing=0.3) if not np.isnan(each).all()]
    for x, found in zip(X, at_truth().impute(X), strict=True):
        assert_allclose(found, conditioned(x)[0], rtol=1e-9, atol=1e-9)
        assert_array_equal(found[~np.isnan(x)], x[~np.isnan(x)])


def test_forecast_is_the_joint_gaussian_of_what_follows():
    X = [each for each in draw(n_sequences=6, low=1, high=6, missing=0.2) if not np.isnan(each).all()]
    means, covariances = at_truth().forecast(X, n_steps=3)
    assert means.shape == (len(X), 3, 3)
    assert covariances.shape == (len(X), 3, 3, 3)
    for x, mean, covariance in zip(X, means, covariances, strict=True):
        expected, joint = conditioned(x, n_more=3)
        assert_allclose(mean, expected[len(x) :], rtol=1e-9, atol=1e-9)
        for ahead in range(3):
            t = len(x) + ahead
            assert_allclose(covariance[ahead], joint[t, :, t], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n_steps", [0, -1, 1.5, True, "3"])
def test_forecast_of_no_step_is_refused(n_steps):
    with pytest.raises(InputError, match=r"n_steps=.*whole number >= 1"):
        at_truth().forecast(draw(), n_steps)


def test_surprise_of_the_steps_adds_up_to_the_sequence():
    X = draw(low=5, missing=0.2)
    system = at_truth(X)
    steps = system.score_steps(X)
    assert [len(each) for each in steps] == [len(each) for each in X]
    assert_allclose([-each.sum() for each in steps], system.score_samples(X), rtol=1e-10, atol=1e-10)
    assert (np.concatenate(steps)[np.isnan(np.concatenate(X)).all(1)] == 0).all()
    X[0][4] = OFFSET + 50.0
    assert system.score_steps(X)[0][4] > 100.0


def test_smoothing_and_filtering_agree_at_the_end_and_only_there():
    X = draw(low=5, missing=0.2)
    system = at_truth(X)
    smoothed, wide = system.smooth(X, return_cov=True)
    filtered, wider = system.filter(X, return_cov=True)
    for s, v, f, w, x in zip(smoothed, wide, filtered, wider, X, strict=True):
        assert s.shape == (len(x), 2)
        assert v.shape == (len(x), 2, 2)
        assert_allclose((s[-1], v[-1, 0]), (f[-1], w[-1, 0]), rtol=1e-10, atol=1e-12)
        assert (np.trace(v, axis1=1, axis2=2) <= np.trace(w, axis1=1, axis2=2) + 1e-12).all()
        assert np.trace(v[0]) < np.trace(w[0])  # something is observed after it
    for plain, same, again in zip(smoothed, system.transform(X), system.smooth(X), strict=True):
        assert_array_equal(plain, same)
        assert_array_equal(plain, again)


def test_samples_have_the_moments_of_the_model():
    values, labels = at_truth().sample(20_000, length=3, random_state=0)
    assert (labels == -1).all()
    mean, covariance = joint_of_observations(3)
    flat = values.reshape(len(values), -1)
    assert_allclose(flat.mean(0), mean.ravel(), rtol=0, atol=0.04)
    assert_allclose(np.cov(flat.T), covariance.reshape(9, 9), rtol=0, atol=0.08)


def test_numbers_that_overflow_are_refused():
    with pytest.raises(InputError, match="overflow"):
        LinearDynamicalSystem(random_state=0).fit([each * 1e200 for each in draw()])
