"""The Gaussian HMM against hmmlearn, and where hidden Markov models are known to go wrong."""

import itertools

import numpy as np
import pytest
import torch
from hmmlearn import hmm
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from unveil.data.batch import Batch, Batches
from unveil.data.layout import as_rows, offsets_of
from unveil.errors import InputError
from unveil.learn.em import em
from unveil.models.gaussian_hmm import GaussianHMM
from unveil.models.gaussian_mixture import GaussianMixture

START = np.array([0.6, 0.3, 0.1])
TRANSITIONS = np.array([[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.3, 0.1, 0.6]])
MEANS = np.array([[0.0, 0.0], [3.0, -1.0], [-2.0, 2.0]])
VARIANCES = np.array([[1.0, 0.5], [0.7, 1.5], [1.2, 0.8]])
FULL = np.array([[[1.0, 0.3], [0.3, 0.5]], [[0.7, -0.2], [-0.2, 1.5]], [[1.2, 0.1], [0.1, 0.8]]])
COVARIANCES = {"diag": VARIANCES, "full": FULL, "tied": FULL[0], "spherical": VARIANCES[:, 0]}


def draw(n_sequences=12, seed=0, low=2, high=40):
    rng = np.random.default_rng(seed)
    sequences, paths = [], []
    for length in rng.integers(low, high, n_sequences):
        path = [rng.choice(3, p=START)]
        while len(path) < length:
            path.append(rng.choice(3, p=TRANSITIONS[path[-1]]))
        sequences.append(MEANS[path] + rng.normal(size=(length, 2)) * np.sqrt(VARIANCES[path]))
        paths.append(np.array(path))
    return sequences, paths


def guess(covariance_type):
    """A start that is near the truth, but not it."""
    rng = np.random.default_rng(8)
    return {
        "startprob_init": rng.dirichlet(3 * np.ones(3)),
        "transmat_init": rng.dirichlet(3 * np.ones(3), size=3),
        "means_init": MEANS + rng.normal(size=MEANS.shape),
        "covariances_init": 1.5 * COVARIANCES[covariance_type],
    }


def ours(covariance_type="diag", **changes):
    common = {"n_states": 3, "covariance_type": covariance_type, "tol": 0.0, "reg_covar": 0.0, **guess(covariance_type)}
    return GaussianHMM(**common | changes)


def theirs(covariance_type, implementation, n_iter, given=None):
    """hmmlearn without its priors, so that it maximises the likelihood."""
    given = given or guess(covariance_type)
    model = hmm.GaussianHMM(
        3,
        covariance_type=covariance_type,
        implementation=implementation,
        n_iter=n_iter,
        tol=-np.inf,
        init_params="",
        min_covar=0,
        covars_prior=0,
        covars_weight=0,
        means_weight=0,
    )
    model.startprob_, model.transmat_ = given["startprob_init"], given["transmat_init"]
    model.means_, model.covars_ = given["means_init"], given["covariances_init"]
    return model


def at_truth(covariance_type="diag", X=None, **changes):
    """Ours with the true parameters themselves: fitted, and then set."""
    X = draw()[0] if X is None else X
    given = {
        "startprob_init": START,
        "transmat_init": TRANSITIONS,
        "means_init": MEANS,
        "covariances_init": COVARIANCES[covariance_type],
    }
    given |= changes
    estimator = ours(covariance_type, max_iter=1, **given).fit(X)
    names = {"initial": "startprob_init", "transition": "transmat_init", "emission.means": "means_init"}
    names["emission.covariances"] = "covariances_init"
    state = estimator.model_.state_dict()
    for name, parameter in names.items():
        state[name].copy_(torch.from_numpy(np.asarray(given[parameter])).reshape(state[name].shape))
    return estimator


def in_full(covariance_type):
    return {
        "full": FULL,
        "tied": np.repeat(FULL[:1], 3, 0),
        "diag": np.array([np.diag(each) for each in VARIANCES]),
        "spherical": VARIANCES[:, 0, None, None] * np.eye(2),
    }[covariance_type]


def all_paths(X, covariance_type="diag"):
    """log p(x, z) of every path z, by enumeration."""
    densities = [multivariate_normal(mean, each) for mean, each in zip(MEANS, in_full(covariance_type), strict=True)]
    emissions = np.stack([np.atleast_1d(density.logpdf(X)) for density in densities], 1)
    paths = np.array(list(itertools.product(range(3), repeat=len(X))))
    joint = np.log(START)[paths[:, 0]] + emissions[np.arange(len(X)), paths].sum(1)
    return paths, joint + np.log(TRANSITIONS)[paths[:, :-1], paths[:, 1:]].sum(1)


@pytest.mark.parametrize("covariance_type", ["diag", "full"])
@pytest.mark.parametrize("implementation", ["log", "scaling"])
@pytest.mark.parametrize("n_iter", [1, 10])
def test_equals_hmmlearn(covariance_type, implementation, n_iter):
    X, _ = draw()
    lengths = [len(each) for each in X]
    mine = ours(covariance_type, max_iter=n_iter).fit(X)
    other = theirs(covariance_type, implementation, n_iter).fit(np.concatenate(X), lengths)
    assert mine.n_iter_ == n_iter
    assert_allclose(np.array(mine.history_.objective) * sum(lengths), np.array(other.monitor_.history), rtol=1e-9, atol=0)
    assert_allclose(mine.startprob_, other.startprob_, rtol=1e-6, atol=1e-10)
    assert_allclose(mine.transmat_, other.transmat_, rtol=1e-6, atol=1e-10)
    assert_allclose(mine.means_, other.means_, rtol=1e-6, atol=1e-9)
    full = np.array([np.diag(each) for each in mine.covariances_]) if covariance_type == "diag" else mine.covariances_
    assert_allclose(full, other.covars_, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("covariance_type", ["diag", "full"])
def test_score_paths_and_posteriors_against_hmmlearn(covariance_type):
    X, _ = draw(seed=1)
    table, lengths = np.concatenate(X), [len(each) for each in X]
    mine, other = ours(covariance_type, max_iter=4).fit(X), theirs(covariance_type, "log", 4).fit(table, lengths)
    assert_allclose(mine.score_samples(X).sum(), other.score(table, lengths), rtol=1e-9, atol=0)
    assert_allclose(mine.score(X), other.score(table, lengths) / len(X), rtol=1e-9, atol=0)
    each = [other.score(sequence) for sequence in X]
    assert_allclose(mine.score_samples(X), each, rtol=1e-8, atol=1e-9)
    log_probability, path = other.decode(table, lengths)
    scores, paths = mine.decode(X)
    assert_allclose(scores.sum(), log_probability, rtol=1e-9, atol=0)
    assert_array_equal(np.concatenate(paths), path)
    assert_array_equal(np.concatenate(mine.predict(X)), path)
    assert_allclose(np.concatenate(mine.predict_proba(X)), other.predict_proba(table, lengths), rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_everything_against_all_paths(covariance_type):
    """Five steps have 243 paths."""
    X = draw(seed=2, low=5, high=6)[0][0]
    estimator = at_truth(covariance_type)
    paths, joint = all_paths(X, covariance_type)
    posterior = np.exp(joint - logsumexp(joint))
    assert_allclose(estimator.score(X), logsumexp(joint), rtol=1e-10, atol=0)
    scores, path = estimator.decode(X)
    assert_array_equal(path, paths[joint.argmax()])
    assert_allclose(scores, [joint.max()], rtol=1e-10, atol=0)
    smoothed = np.array([[posterior[paths[:, t] == m].sum() for m in range(3)] for t in range(5)])
    assert_allclose(estimator.predict_proba(X), smoothed, rtol=1e-8, atol=1e-12)
    batch = Batch(torch.from_numpy(X), torch.tensor([0, 5]))
    statistics = estimator.model_.expect(batch)
    pairs = np.zeros((3, 3))
    for weight, each in zip(posterior, paths, strict=True):
        np.add.at(pairs, (each[:-1], each[1:]), weight)
    assert_allclose(statistics.transitions[0].numpy(), pairs, rtol=1e-8, atol=1e-12)
    assert_allclose(statistics.initial[0].numpy(), smoothed[0], rtol=1e-8, atol=1e-12)


def test_filtered_against_all_paths():
    X = draw(seed=3, low=5, high=6)[0][0]
    estimator = at_truth("diag", [X] * 2)
    for t in range(5):
        paths, joint = all_paths(X[: t + 1])
        posterior = np.exp(joint - logsumexp(joint))
        expected = [posterior[paths[:, t] == m].sum() for m in range(3)]
        assert_allclose(estimator.filter_proba(X)[t], expected, rtol=1e-8, atol=1e-12)


def test_filtered_knows_nothing_of_the_future():
    X = draw(seed=4, low=20, high=30)[0][0]
    estimator = at_truth("diag", [X])
    changed = X.copy()
    changed[12:] += 3.0
    assert_array_equal(estimator.filter_proba(changed)[:12], estimator.filter_proba(X)[:12])
    assert not np.allclose(estimator.filter_proba(changed)[12:], estimator.filter_proba(X)[12:], rtol=1e-3, atol=1e-3)
    assert not np.allclose(estimator.predict_proba(changed)[:12], estimator.predict_proba(X)[:12], rtol=1e-6, atol=1e-6)
    assert_allclose(estimator.filter_proba(X)[-1], estimator.predict_proba(X)[-1], rtol=1e-9, atol=1e-12)
    assert not np.allclose(estimator.filter_proba(X)[:-1], estimator.predict_proba(X)[:-1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_a_mixture_is_an_hmm_that_forgets(covariance_type):
    """Sequences of length one: initial probabilities are mixture weights."""
    X = np.concatenate(draw()[0])
    given = guess(covariance_type)
    covariances = given["covariances_init"]
    precisions = np.linalg.inv(covariances) if covariance_type in ("full", "tied") else 1 / covariances
    mixture = GaussianMixture(
        3,
        covariance_type=covariance_type,
        tol=0.0,
        max_iter=7,
        reg_covar=0.0,
        weights_init=given["startprob_init"],
        means_init=given["means_init"],
        precisions_init=precisions,
    ).fit(X)
    chain = ours(covariance_type, max_iter=7).fit(X, lengths=np.ones(len(X), dtype=int))
    assert_allclose(chain.history_.objective, mixture.history_.objective, rtol=1e-11, atol=0)
    assert_allclose(chain.startprob_, mixture.weights_, rtol=1e-9, atol=0)
    assert_allclose(chain.means_, mixture.means_, rtol=1e-9, atol=1e-12)
    assert_allclose(chain.covariances_, mixture.covariances_, rtol=1e-8, atol=1e-12)
    assert_allclose(chain.transmat_, given["transmat_init"], rtol=1e-12, atol=0)  # nothing was said of transitions
    assert_array_equal(chain.predict(X, lengths=np.ones(len(X), dtype=int)), mixture.predict(X))


def test_sequences_of_length_one_can_be_scored_with_longer_ones():
    """hmmlearn's transition rows become zero, and it then refuses its own model."""
    rng = np.random.default_rng(0)
    X = [rng.normal(size=(1, 2)) for _ in range(30)]
    estimator = GaussianHMM(3, random_state=0, tol=0.0, max_iter=5).fit(X)
    assert_allclose(estimator.transmat_.sum(1), 1.0, rtol=1e-12, atol=0)
    assert np.isfinite(estimator.score([rng.normal(size=(5, 2))]))
    mixed = GaussianHMM(3, random_state=0, tol=0.0, max_iter=5).fit([*X, rng.normal(size=(9, 2))])
    assert_allclose(mixed.transmat_.sum(1), 1.0, rtol=1e-12, atol=0)


def test_zeros_of_a_left_to_right_chain_stay_zero():
    left_right = np.array([[0.9, 0.1, 0.0], [0.0, 0.8, 0.2], [0.0, 0.0, 1.0]])
    X = [np.sort(each, axis=0) for each in draw(seed=5)[0]]
    estimator = ours(startprob_init=[1.0, 0.0, 0.0], transmat_init=left_right, max_iter=25).fit(X)
    assert_array_equal(estimator.transmat_[left_right == 0], 0.0)
    assert_array_equal(estimator.startprob_, [1.0, 0.0, 0.0])
    assert (estimator.transmat_[[0, 1], [1, 2]] > 0).all()
    assert all((np.diff(path) >= 0).all() for path in estimator.predict(X))
    objective = np.array(estimator.history_.objective)
    assert (np.diff(objective) >= -1e-9 * np.abs(objective[:-1])).all()
    assert estimator.model_.count_parameters() == 0 + 2 + 6 + 6


def test_left_to_right_against_hmmlearn():
    left_right = np.array([[0.9, 0.1, 0.0], [0.0, 0.8, 0.2], [0.0, 0.0, 1.0]])
    given = guess("diag") | {"startprob_init": np.array([1.0, 0.0, 0.0]), "transmat_init": left_right}
    X = [np.sort(each, axis=0) for each in draw(seed=5)[0]]
    mine = ours(max_iter=6, **given).fit(X)
    other = theirs("diag", "log", 6, given).fit(np.concatenate(X), [len(each) for each in X])
    assert_allclose(mine.transmat_, other.transmat_, rtol=1e-6, atol=1e-10)
    assert_allclose(mine.means_, other.means_, rtol=1e-6, atol=1e-9)


def test_five_hundred_features_do_not_underflow():
    """Densities of exp(-1000) and below; hmmlearn's scaling fails here, its logarithms do not."""
    rng = np.random.default_rng(0)
    path = np.repeat([0, 1, 2, 0], 15)
    means = rng.normal(size=(3, 500))
    X = means[path] + rng.normal(size=(60, 500))
    given = guess("diag") | {"means_init": means + 0.3 * rng.normal(size=means.shape), "covariances_init": np.full((3, 500), 2.0)}
    mine = ours(max_iter=3, reg_covar=1e-12, **given).fit(X)
    other = theirs("diag", "log", 3, given).fit(X)
    assert_allclose(np.array(mine.history_.objective) * 60, other.monitor_.history, rtol=1e-9, atol=0)
    assert_allclose(mine.score(X), other.score(X), rtol=1e-9, atol=0)
    assert_allclose(mine.predict_proba(X), other.predict_proba(X), rtol=1e-6, atol=1e-12)
    assert_array_equal(mine.predict(X), path)


def test_dead_state_stays_finite_and_keeps_its_parameters():
    X, _ = draw()
    given = guess("diag")
    given["means_init"] = given["means_init"].copy()
    given["means_init"][2] = 1e4
    estimator = ours(max_iter=8, **given).fit(X)
    assert_array_equal(estimator.means_[2], [1e4, 1e4])
    assert_array_equal(estimator.covariances_[2], given["covariances_init"][2])
    assert_allclose(estimator.transmat_[2], given["transmat_init"][2], rtol=1e-12, atol=0)
    assert_allclose(estimator.transmat_.sum(1), 1.0, rtol=1e-12, atol=0)
    assert_allclose(estimator.transmat_[:2, 2], 0.0, rtol=0, atol=1e-100)
    assert all(np.isfinite(each.detach().numpy()).all() for each in estimator.model_.state_dict().values())
    assert np.isfinite(estimator.score(X))


@pytest.mark.parametrize("rare", [1e-9, 1e-14, 1e-60])
def test_rare_transitions_are_counted(rare):
    """Three transitions that the data makes certain, each of probability 1e-9 before: the count is 1, not 0.018."""
    means = np.arange(4.0)[:, None] * 50
    transitions = np.eye(4) * (1 - rare) + np.eye(4, k=1) * rare
    transitions[3, 3] = 1.0
    X = np.repeat(means, 25, axis=0)
    estimator = GaussianHMM(
        4,
        startprob_init=[1.0, 0, 0, 0],
        transmat_init=transitions,
        means_init=means,
        covariances_init=np.ones((4, 1)),
        max_iter=1,
        tol=0.0,
    )
    model = estimator.build(1)
    model.initialize(Batches(as_rows(X), offsets_of([100])), torch.Generator().manual_seed(0))
    statistics = model.expect(Batch(torch.from_numpy(X), torch.tensor([0, 100])))
    assert_allclose(np.diagonal(statistics.transitions[0].numpy(), 1), 1.0, rtol=1e-9, atol=0)
    assert_allclose(np.diagonal(statistics.transitions[0].numpy()), 24.0, rtol=1e-9, atol=0)
    assert_allclose(statistics.log_likelihood, 3 * np.log(rare) - 50 * np.log(2 * np.pi), rtol=1e-8, atol=0)


def test_state_that_seemed_lost_comes_back():
    """No path changes its state, so there are two: what long favoured one is outweighed by what follows."""
    X = np.repeat([-1.0, 1.0], [200, 300])[:, None] * 10.0
    given = {
        "startprob_init": [0.3, 0.7],
        "transmat_init": np.eye(2),
        "means_init": [[-1.0], [1.0]],
        "covariances_init": np.ones((2, 1)),
    }
    model = GaussianHMM(2, **given).build(1)
    model.initialize(Batches(as_rows(X), offsets_of([500])), torch.Generator().manual_seed(0))
    batch = Batch(torch.from_numpy(X), torch.tensor([0, 500]))
    paths = np.log([0.3, 0.7]) - 250 * np.log(2 * np.pi) - 0.5 * ((X - np.array([-1.0, 1.0])) ** 2).sum(0)
    assert paths[1] > paths[0] + 700
    statistics = model.expect(batch)
    assert_allclose(statistics.log_likelihood, logsumexp(paths), rtol=1e-12, atol=0)
    assert_allclose(statistics.transitions[0].numpy(), [[0.0, 0.0], [0.0, 499.0]], rtol=1e-9, atol=1e-100)
    assert_allclose(model.posterior(batch).states[:, 0].numpy(), np.tile([0.0, 1.0], (500, 1)), rtol=1e-9, atol=1e-100)
    assert_allclose(model.filtered(batch)[199, 0].numpy(), [1.0, 0.0], rtol=1e-9, atol=1e-100)
    assert_allclose(model.filtered(batch)[499, 0].numpy(), [0.0, 1.0], rtol=1e-9, atol=1e-100)


def test_hundred_thousand_steps_in_single_precision():
    """Where log-domain single precision finds 13 090 transitions instead of 99 999, and ends in NaN."""
    rng = np.random.default_rng(0)
    n, n_states = 100_000, 8
    path = np.cumsum(rng.random(n) < 0.05) * 3 % n_states
    X = (2.0 * path[:, None] + rng.normal(size=(n, 2))).astype(np.float32)
    estimator = GaussianHMM(
        n_states, means_init=2.0 * np.arange(n_states)[:, None] * np.ones(2), max_iter=6, tol=0.0, random_state=0
    ).fit(X)
    objective = np.array(estimator.history_.objective)
    assert np.isfinite(objective).all()
    assert (np.diff(objective) >= -1e-9 * np.abs(objective[:-1])).all()
    statistics = estimator.model_.expect(next(iter(Batches(as_rows(X), offsets_of([n])))))
    assert_allclose(float(statistics.transitions.sum()), n - 1, rtol=1e-9, atol=0)
    assert_allclose(float(statistics.initial.sum()), 1.0, rtol=1e-9, atol=0)
    assert_allclose(float(statistics.emission.count.sum()), n, rtol=1e-9, atol=0)
    assert_allclose(estimator.predict_proba(X).sum(1), 1.0, rtol=1e-9, atol=0)


def test_log_likelihood_differentiates():
    """By the means, the variances, the transitions and the initial probabilities; against differences."""
    X = draw(seed=6, n_sequences=3)[0]
    estimator = at_truth("diag", X)
    model = estimator.model_
    batch = next(iter(Batches(as_rows(np.concatenate(X)), offsets_of([len(each) for each in X]))))
    model.objective(batch).sum().backward()
    for parameter in (model.emission.means, model.emission.covariances, model.transition, model.initial):
        for index in ((0,) * parameter.ndim, (0,) * (parameter.ndim - 2) + (0, 1)):
            moved = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    parameter[index] += step
                    moved.append(float(model.objective(batch).sum()))
                    parameter[index] -= step
            assert_allclose(float(parameter.grad[index]), (moved[0] - moved[1]) / 2e-5, rtol=1e-5, atol=1e-6)


def test_gradient_is_fisher_s_identity():
    """The gradient of log p(x) by the means is the sum of posterior-weighted residuals over the variances."""
    X = draw(seed=6, n_sequences=3)[0]
    estimator = at_truth("diag", X)
    batch = next(iter(Batches(as_rows(np.concatenate(X)), offsets_of([len(each) for each in X]))))
    estimator.model_.objective(batch).sum().backward()
    posterior = np.concatenate(estimator.predict_proba(X))
    residuals = np.concatenate(X)[:, None] - MEANS
    expected = (posterior[:, :, None] * residuals / VARIANCES).sum(0)
    assert_allclose(estimator.model_.emission.means.grad.numpy(), expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_samples_have_the_statistics_of_the_chain(covariance_type):
    estimator = at_truth(covariance_type)
    n, length = 400, 60
    values, states = estimator.sample(n, length=length, random_state=3)
    assert values.shape == (n, length, 2)
    first = np.bincount(states[:, 0], minlength=3) / n
    assert (np.abs(first - START) < 5 * np.sqrt(START * (1 - START) / n)).all()
    counts = np.zeros((3, 3))
    np.add.at(counts, (states[:, :-1], states[:, 1:]), 1)
    rows = counts.sum(1, keepdims=True)
    assert (np.abs(counts / rows - TRANSITIONS) < 5 * np.sqrt(TRANSITIONS * (1 - TRANSITIONS) / rows)).all()
    values_, vectors = np.linalg.eig(TRANSITIONS.T)
    stationary = np.real(vectors[:, np.argmax(np.real(values_))])
    stationary /= stationary.sum()
    occupancy = np.bincount(states[:, 20:].ravel(), minlength=3) / states[:, 20:].size
    assert_allclose(occupancy, stationary, rtol=0, atol=0.03)
    covariances = in_full(covariance_type)
    for m in range(3):
        mine = values[states == m]
        variances = np.diag(covariances[m])
        assert (np.abs(mine.mean(0) - MEANS[m]) < 5 * np.sqrt(variances / len(mine))).all()
        spread = np.sqrt((np.outer(variances, variances) + covariances[m] ** 2) / len(mine))
        assert (np.abs(np.cov(mine.T) - covariances[m]) < 5 * spread).all()


def test_recovers_known_parameters():
    X, paths = draw(n_sequences=60, seed=7, low=60, high=80)
    estimator = GaussianHMM(3, tol=1e-7, max_iter=300, n_init=2, random_state=0).fit(X)
    order = [int(np.argmin(((estimator.means_ - mean) ** 2).sum(1))) for mean in MEANS]
    assert sorted(order) == [0, 1, 2]
    steps = np.bincount(np.concatenate(paths))
    assert (np.abs(estimator.means_[order] - MEANS) < 6 * np.sqrt(VARIANCES / steps[:, None])).all()
    assert (np.abs(estimator.covariances_[order] - VARIANCES) < 8 * VARIANCES * np.sqrt(2 / steps[:, None])).all()
    assert_allclose(estimator.transmat_[np.ix_(order, order)], TRANSITIONS, rtol=0, atol=0.08)
    found = np.concatenate(estimator.predict(X))
    assert (np.array([order.index(each) for each in found]) == np.concatenate(paths)).mean() > 0.85


def test_too_few_steps_is_one_line():
    with pytest.raises(InputError, match=r"n_states=4 but X has 3 steps.*fewer states") as raised:
        GaussianHMM(4).fit(np.ones((3, 2)))
    assert "\n" not in str(raised.value)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # of k-means on equal points
def test_impossible_data_under_the_start_is_one_line():
    """A chain that has to stay in a state that the data is infinitely far from."""
    X = np.zeros((6, 1))
    stay, means = [[1.0, 0.0], [0.0, 1.0]], [[1e200], [0.0]]
    given = {"startprob_init": [1.0, 0.0], "transmat_init": stay, "means_init": means, "covariances_init": np.ones((2, 1))}
    estimator = GaussianHMM(2, tol=0.0, **given)
    with pytest.raises(InputError, match="log-likelihood became") as raised:
        estimator.fit(X)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_collapsed_state_without_a_floor_is_one_line(covariance_type):
    """A state whose variance falls to zero is not left out in silence."""
    X = np.repeat([0.0, 5.0, 0.0, 5.0], 6)[:, None] * np.ones(2)
    estimator = GaussianHMM(
        2, covariance_type=covariance_type, means_init=[[0.0, 0.0], [5.0, 5.0]], reg_covar=0.0, max_iter=5, tol=0.0
    )
    with pytest.raises(InputError, match=r"a component collapsed.*larger reg_covar than 0") as raised:
        estimator.fit(X)
    assert "\n" not in str(raised.value)


def test_em_from_the_model_alone():
    """A model can be learned without its estimator, and its M-step depends on nothing but the statistics."""
    X, _ = draw()
    batches = Batches(as_rows(np.concatenate(X)), offsets_of([len(each) for each in X]))
    estimator = ours(max_iter=4).fit(X)
    model = ours().build(2)
    model.initialize(batches, torch.Generator().manual_seed(9))
    history = em(model, batches, max_iter=4, tol=0.0)
    assert_allclose(history.objective, estimator.history_.objective, rtol=1e-11, atol=0)
    assert_allclose(model.transition[0].detach().numpy(), estimator.transmat_, rtol=1e-9, atol=1e-12)
