"""Hidden Markov models against sums over all paths, against hmmlearn, and against counting by hand."""

from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from hmmlearn.hmm import CategoricalHMM, PoissonHMM
from hmmlearn.hmm import GaussianHMM as TheirGaussianHMM
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

import unveil
from unveil.data.batch import Batches
from unveil.data.layout import as_rows, offsets_of
from unveil.emissions.categorical import Categorical
from unveil.emissions.mixture import GaussianMixtureEmission
from unveil.emissions.normal_inverse_wishart import NormalInverseWishart
from unveil.emissions.product import Product
from unveil.errors import InputError
from unveil.models.gaussian_hmm import GaussianHMM
from unveil.models.hmm import HMM
from unveil.models.mixture_of_hmms import MixtureOfHMMs

START = np.array([0.5, 0.3, 0.2])
TRANSITION = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.3, 0.1, 0.6]])
MEANS = np.array([[0.0, 1.0], [1.5, -0.5], [-1.0, -1.0]])
VARIANCES = np.array([[1.0, 0.5], [0.7, 1.2], [0.4, 0.9]])


def observations(n_steps=5, seed=0):
    return np.random.default_rng(seed).normal(size=(n_steps, 2))


def sequences(n=8, low=3, high=12, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(length, 2)).cumsum(0) for length in rng.integers(low, high, n)]


def fitted(**changes):
    """A Gaussian HMM with the parameters above, to the last bit: everything is given, and nothing is learned."""
    given = {"startprob_init": START, "transmat_init": TRANSITION, "means_init": MEANS, "covariances_init": VARIANCES}
    options = given | {"fixed": ("startprob", "transmat", "emission"), "max_iter": 1, "tol": 0.0, "random_state": 0} | changes
    return GaussianHMM(3, **options).fit(sequences())


def every_path(log_emission, start=START, transition=TRANSITION):
    """All paths (n_paths, n_steps), and log p(x, path) of each."""
    n_steps, n_states = log_emission.shape
    paths = np.array(list(product(range(n_states), repeat=n_steps)))
    with np.errstate(divide="ignore"):
        scores = np.log(start)[paths[:, 0]] + np.log(transition)[paths[:, :-1], paths[:, 1:]].sum(1)
    return paths, scores + log_emission[np.arange(n_steps), paths].sum(1)


def log_normal(x, means=MEANS, variances=VARIANCES):
    """log N(x; mu_m, diag v_m), (n_steps, M), of what is not missing."""
    return np.nansum(stats.norm.logpdf(x[:, None], means, np.sqrt(variances)), 2)


def state_probabilities(paths, scores):
    """p(z_t = m | x), (n_steps, M)."""
    weights = softmax(scores)
    return np.array([[weights[paths[:, t] == m].sum() for m in range(3)] for t in range(paths.shape[1])])


def batches_of(X, **options):
    return Batches(as_rows(np.concatenate(X)), offsets_of([len(x) for x in X]), **options)


def one_batch(X, **options):
    return next(iter(batches_of(X, **options)))


def their_gaussian(ours):
    theirs = TheirGaussianHMM(ours.n_states, "diag")
    theirs.startprob_, theirs.transmat_ = ours.startprob_, ours.transmat_
    theirs.means_, theirs.covars_ = ours.means_, ours.covariances_
    return theirs


# ---- what one asks of the states -------------------------------------------------------------------------------------


def test_score_of_steps_is_the_predictive_density():
    X, hmm = observations(), fitted()
    surprise = hmm.score_steps(X)
    up_to = [0.0] + [logsumexp(every_path(log_normal(X[: t + 1]))[1]) for t in range(len(X))]
    assert_allclose(surprise, -np.diff(up_to), rtol=1e-10, atol=1e-12)
    assert_allclose(surprise.sum(), -hmm.score_samples(X)[0], rtol=1e-12, atol=0)


def test_score_of_steps_adds_up_in_every_sequence():
    X, hmm = sequences(), fitted()
    total = [each.sum() for each in hmm.score_steps(X)]
    assert_allclose(total, -hmm.score_samples(X), rtol=1e-10, atol=0)


def test_filtered_and_smoothed_probabilities():
    X, hmm = observations(), fitted()
    filtered = [state_probabilities(*every_path(log_normal(X[: t + 1])))[-1] for t in range(len(X))]
    assert_allclose(hmm.filter_proba(X), filtered, rtol=1e-10, atol=1e-12)
    assert_allclose(hmm.predict_proba(X), state_probabilities(*every_path(log_normal(X))), rtol=1e-10, atol=1e-12)


def test_decoding_is_the_best_of_all_paths():
    X, hmm = observations(), fitted()
    paths, scores = every_path(log_normal(X))
    score, path = hmm.decode(X)
    assert_allclose(score, [scores.max()], rtol=1e-12, atol=0)
    assert_array_equal(path, paths[scores.argmax()])


def test_decoding_as_hmmlearn_does():
    X, hmm = sequences(), fitted()
    score, found = hmm.decode(X)
    for x, log_joint, path in zip(X, score, found, strict=True):
        theirs, their_path = their_gaussian(hmm).decode(x)
        assert_allclose(log_joint, theirs, rtol=1e-10, atol=0)
        assert_array_equal(path, their_path)


@pytest.mark.parametrize("covariance_type", ["diag", "full", "tied", "spherical"])
def test_forecast(covariance_type):
    """p(z_{T+h} | x) = p(z_T | x) A^h; the moments are those of a mixture, state by state."""
    shaped = {
        "diag": VARIANCES,
        "full": np.array([np.diag(v) + 0.2 for v in VARIANCES]),
        "tied": np.array([[1.0, 0.3], [0.3, 0.8]]),
        "spherical": np.array([0.5, 1.0, 2.0]),
    }[covariance_type]
    hmm = fitted(covariance_type=covariance_type, covariances_init=shaped)
    X = sequences()
    ahead = hmm.forecast(X, 4)
    variances = {
        "full": lambda m: np.diag(shaped[m]),
        "tied": lambda m: np.diag(shaped),
        "spherical": lambda m: shaped[m] * np.ones(2),
    }
    of_state = np.array([variances.get(covariance_type, lambda m: shaped[m])(m) for m in range(3)])
    for i, x in enumerate(X):
        last = hmm.predict_proba(x)[-1]
        for h in range(4):
            p = last @ np.linalg.matrix_power(TRANSITION, h + 1)
            assert_allclose(ahead.states[i, h], p, rtol=1e-9, atol=1e-12)
            mean = sum(p[m] * MEANS[m] for m in range(3))
            second = sum(p[m] * (of_state[m] + MEANS[m] ** 2) for m in range(3))
            assert_allclose(ahead.mean[i, h], mean, rtol=1e-9, atol=1e-12)
            assert_allclose(ahead.standard_deviation[i, h], np.sqrt(second - mean**2), rtol=1e-9, atol=1e-12)
    single = hmm.forecast(X[0], 4)
    assert_allclose(single.mean, ahead.mean[0], rtol=1e-12, atol=0)


def test_forecast_is_what_comes():
    """Monte Carlo: from draws of the last state on, simulated onwards."""
    X, hmm, rng = observations(), fitted(), np.random.default_rng(1)
    n = 40_000
    states = rng.choice(3, size=n, p=hmm.predict_proba(X)[-1])
    for _ in range(3):
        states = (rng.random((n, 1)) > TRANSITION[states].cumsum(1)).sum(1)
    drawn = MEANS[states] + np.sqrt(VARIANCES[states]) * rng.normal(size=(n, 2))
    ahead = hmm.forecast(X, 3)
    assert_allclose(ahead.mean[2], drawn.mean(0), rtol=0, atol=5 * drawn.std(0).max() / np.sqrt(n))
    assert_allclose(ahead.standard_deviation[2], drawn.std(0), rtol=0.02, atol=0)  # its error is about sd / sqrt(2 n) = 0.4 %


def test_forecast_of_symbols_has_states_only():
    X = np.random.default_rng(0).integers(3, size=(50, 1))
    ahead = HMM(2, emission="categorical", random_state=0, tol=0.1).fit(X).forecast(X, 2)
    assert ahead.states.shape == (2, 2)
    assert ahead.mean is None
    assert ahead.standard_deviation is None


def test_forecast_of_tied_states():
    hmm = GaussianHMM(3, tied_states=[0, 1, 0], max_iter=3, tol=0.0, random_state=0).fit(sequences())
    ahead = hmm.forecast(sequences()[0], 2)
    assert_allclose(ahead.mean, ahead.states @ hmm.means_[[0, 1, 0]], rtol=1e-12, atol=0)


def test_sampled_paths_are_as_frequent_as_they_should_be():
    X, hmm, n = observations(4), fitted(), 4000
    drawn = np.array(hmm.sample_posterior(X, n, random_state=0))
    paths, scores = every_path(log_normal(X))
    expected = softmax(scores)
    counted = np.array([(drawn == path).all(1).mean() for path in paths])
    assert_allclose(counted, expected, rtol=0, atol=5 * np.sqrt(expected.max() / n))
    frequencies = np.array([(drawn == m).mean(0) for m in range(3)]).T
    assert_allclose(frequencies, hmm.predict_proba(X), rtol=0, atol=5 * 0.5 / np.sqrt(n))
    many = hmm.sample_posterior(sequences(), 2, random_state=0)
    assert [len(path) for path in many[1]] == [len(x) for x in sequences()]


def test_imputes_from_the_states_around():
    X, hmm = observations(), fitted()
    X[2], X[3, 1] = np.nan, np.nan
    posterior = state_probabilities(*every_path(log_normal(X)))
    filled = hmm.impute(X)
    assert_allclose(filled[2], posterior[2] @ MEANS, rtol=1e-10, atol=1e-12)
    assert_allclose(filled[3, 1], posterior[3] @ MEANS[:, 1], rtol=1e-10, atol=1e-12)
    assert_array_equal(filled[~np.isnan(X)], X[~np.isnan(X)])
    assert np.isnan(X[2]).all()  # what was handed in is as it was


def test_imputes_with_covariance():
    """E[x_1 | x_0, z] = mu_1 + S_10 / S_00 (x_0 - mu_0), averaged over the states given everything."""
    covariances = np.array([[[1.0, 0.6], [0.6, 0.8]], [[0.7, -0.3], [-0.3, 1.2]], [[0.4, 0.1], [0.1, 0.9]]])
    X, hmm = observations(), fitted(covariance_type="full", covariances_init=covariances)
    X[1, 1] = np.nan
    log_emission = np.array([[stats.multivariate_normal(MEANS[m], covariances[m]).logpdf(x) for m in range(3)] for x in X])
    log_emission[1] = stats.norm.logpdf(X[1, 0], MEANS[:, 0], np.sqrt(covariances[:, 0, 0]))
    expected = MEANS[:, 1] + covariances[:, 1, 0] / covariances[:, 0, 0] * (X[1, 0] - MEANS[:, 0])
    posterior = state_probabilities(*every_path(log_emission))
    assert_allclose(hmm.impute(X)[1, 1], posterior[1] @ expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n", [0, -1, 1.5, True])
def test_bad_numbers(n):
    hmm = fitted()
    with pytest.raises(InputError, match="n_steps="):
        hmm.forecast(observations(), n)
    with pytest.raises(InputError, match="n_samples="):
        hmm.sample_posterior(observations(), n)


# ---- labels ----------------------------------------------------------------------------------------------------------


def test_labels_keep_the_paths_that_agree():
    X, model = observations(), fitted().model_
    labels = np.array([-1, 2, -1, 0, -1])
    paths, scores = every_path(log_normal(X))
    agree = (paths[:, 1] == 2) & (paths[:, 3] == 0)
    batch = one_batch([X], labels=labels)
    assert_allclose(model.objective(batch).detach().numpy(), [logsumexp(scores[agree])], rtol=1e-12, atol=0)
    expected = state_probabilities(paths[agree], scores[agree])
    assert_allclose(model.posterior(batch).states[:, 0].numpy(), expected, rtol=1e-10, atol=1e-12)
    assert_allclose(model.expect(batch).log_likelihood, logsumexp(scores[agree]), rtol=1e-12, atol=0)
    hard = model.assign(batch)
    assert_allclose(hard.log_likelihood, scores[agree].max(), rtol=1e-12, atol=0)
    assert_array_equal(hard.initial[0].numpy(), np.eye(3)[paths[agree][scores[agree].argmax()][0]])


def counted(paths, n_states=3):
    """Initial and transition probabilities by counting."""
    first, pairs = np.zeros(n_states), np.zeros((n_states, n_states))
    for path in paths:
        first[path[0]] += 1
        np.add.at(pairs, (path[:-1], path[1:]), 1)
    return first / first.sum(), pairs / pairs.sum(1, keepdims=True)


@pytest.mark.parametrize("form", ["list", "lengths"])
@pytest.mark.parametrize("algorithm", ["em", "hard-em"])
def test_full_labels_are_counted(algorithm, form):
    rng, X = np.random.default_rng(5), sequences(20)
    paths = [rng.integers(3, size=len(x)) for x in X]
    hmm = GaussianHMM(3, algorithm=algorithm, max_iter=1, tol=0.0, random_state=0, reg_covar=0.0)
    table, everything = np.concatenate(X), np.concatenate(paths)
    if form == "list":
        hmm.fit(X, paths)
    else:
        hmm.fit(table, everything, lengths=[len(x) for x in X])
    first, transitions = counted(paths)
    assert_allclose(hmm.startprob_, first, rtol=1e-10, atol=1e-12)
    assert_allclose(hmm.transmat_, transitions, rtol=1e-10, atol=1e-12)
    for m in range(3):
        assert_allclose(hmm.means_[m], table[everything == m].mean(0), rtol=1e-10, atol=0)
        assert_allclose(hmm.covariances_[m], table[everything == m].var(0), rtol=1e-8, atol=0)


def test_some_labels():
    """Labels lift the likelihood of what they say at every iteration, and name the states."""
    rng, X = np.random.default_rng(5), []
    truth = [np.repeat(rng.permutation(3), rng.integers(5, 15, 3)) for _ in range(10)]
    X = [3.0 * MEANS[path] + rng.normal(size=(len(path), 2)) for path in truth]
    labels = [np.where(rng.random(len(path)) < 0.1, path, -1) for path in truth]
    hmm = GaussianHMM(3, random_state=0, tol=1e-6).fit(X, labels)
    assert (np.diff(hmm.history_.objective) >= -1e-12).all()
    assert np.mean(np.concatenate(hmm.predict(X)) == np.concatenate(truth)) > 0.95
    assert_allclose(hmm.means_, 3.0 * MEANS, rtol=0, atol=0.6)
    plain = their_gaussian(hmm)
    assert_allclose(hmm.score_samples(X), [plain.score(x) for x in X], rtol=1e-9, atol=0)


def test_labels_of_a_structure_that_goes_forwards():
    X = sequences(12, 9, 12)
    paths = [np.arange(len(x)) * 3 // len(x) for x in X]
    for path in paths[1:]:
        path[:] = -1  # only the first sequence is known
    hmm = GaussianHMM(3, transitions="bakis", random_state=0).fit(X, paths)
    assert (np.diff(hmm.history_.objective) >= -1e-12).all()
    assert all((np.diff(path) >= 0).all() for path in hmm.predict(X))


def test_labels_that_the_structure_forbids():
    with pytest.raises(InputError, match="-inf"):
        GaussianHMM(2, transitions="bakis").fit(observations(6), [1, 1, 1, 0, 0, 0])


def test_labels_of_clusters():
    rng = np.random.default_rng(0)
    X = [rng.normal(size=(10, 1)).cumsum(0) for _ in range(10)]
    y = np.array([0, 1] * 5)
    mixture = MixtureOfHMMs(2, 2, n_init=1, random_state=0, max_iter=5, tol=0.0).fit(X, y)
    apart = [HMM(2, max_iter=1, tol=0.0).build(1) for _ in range(2)]
    for c, model in enumerate(apart):  # what each cluster thinks of its own sequences
        rows = slice(2 * c, 2 * c + 2)
        state = dict(model.state_dict())
        state["initial"], state["transition"] = mixture.model_.initial[[c]], mixture.model_.transition[[c]]
        state["emission.means"] = mixture.model_.emission.means[rows]
        state["emission.covariances"] = mixture.model_.emission.covariances[rows]
        model.load_state_dict(state)
    alone = [float(apart[c].objective(one_batch([x])).detach()[0]) for x, c in zip(X, y, strict=True)]
    batch = one_batch(X, labels=np.repeat(y, 10))
    expected = np.array(alone) + np.log(mixture.weights_[y])
    assert_allclose(mixture.model_.objective(batch).detach().numpy(), expected, rtol=1e-10, atol=0)
    assert_allclose(mixture.weights_, [0.5, 0.5], rtol=1e-12, atol=0)
    assert_array_equal(mixture.model_.posterior(batch).responsibilities.numpy(), np.eye(2)[y])
    assert (np.diff(mixture.history_.objective) >= -1e-12).all()


def test_some_labels_name_the_clusters():
    rng = np.random.default_rng(0)
    X = [3.0 * (i % 2) + rng.normal(size=(12, 1)) for i in range(20)]
    y = np.full(20, -1)
    y[[0, 1]] = 1, 0  # against the order in which they would be found or not
    mixture = MixtureOfHMMs(2, 1, n_init=1, random_state=0).fit(X, y)
    assert_array_equal(mixture.predict(X), 1 - np.arange(20) % 2)


# ---- Viterbi training ------------------------------------------------------------------------------------------------


def test_hard_statistics_count_along_the_best_paths():
    X, hmm = sequences(), fitted()
    theirs = their_gaussian(hmm)
    decoded = [theirs.decode(x) for x in X]
    paths, table = [path for _, path in decoded], np.concatenate(X)
    statistics = hmm.model_.assign(one_batch(X))
    everything = np.concatenate(paths)
    first, pairs = np.zeros(3), np.zeros((3, 3))
    for path in paths:
        first[path[0]] += 1
        np.add.at(pairs, (path[:-1], path[1:]), 1)
    assert_array_equal(statistics.initial[0].numpy(), first)
    assert_array_equal(statistics.transitions[0].numpy(), pairs)
    assert_array_equal(statistics.emission.count.numpy(), np.bincount(everything, minlength=3))
    sums = np.array([(table[everything == m] - statistics.emission.center.numpy()).sum(0) for m in range(3)])
    assert_allclose(statistics.emission.first.numpy(), sums, rtol=1e-9, atol=1e-9)
    assert_allclose(statistics.log_likelihood, sum(score for score, _ in decoded), rtol=1e-12, atol=0)


def test_weights_of_sequences_are_repeats_in_hard_statistics():
    X, model = sequences(), fitted().model_
    weights = np.arange(8) % 3
    weighted = model.assign(one_batch(X, weights=weights))
    repeated = model.assign(one_batch([x for x, w in zip(X, weights, strict=True) for _ in range(w)]))
    assert_allclose(weighted.transitions.numpy(), repeated.transitions.numpy(), rtol=1e-12, atol=0)
    assert_allclose(weighted.initial.numpy(), repeated.initial.numpy(), rtol=1e-12, atol=0)
    assert_allclose(weighted.emission.first.numpy(), repeated.emission.first.numpy(), rtol=1e-10, atol=1e-10)
    assert_allclose([weighted.weight, weighted.log_likelihood], [repeated.weight, repeated.log_likelihood], rtol=1e-12, atol=0)


@pytest.mark.parametrize("options", [{}, {"transitions": "bakis"}, {"sticky": 3.0, "transmat_prior": 2.0}], ids=str)
def test_viterbi_training_is_monotone_in_the_joint_likelihood(options):
    X = sequences(30, 20, 40)
    hmm = GaussianHMM(3, algorithm="hard-em", random_state=0, tol=1e-9, **options).fit(X)
    assert (np.diff(hmm.history_.objective) >= -1e-12).all()
    assert hmm.n_iter_ > 1
    score, _ = hmm.decode(X)
    prior = hmm.model_.log_prior()
    assert_allclose(hmm.history_.objective[-1], (score.sum() + prior) / sum(map(len, X)), rtol=1e-6, atol=0)


def test_hard_statistics_of_clusters_take_the_best_chain_and_path():
    rng, X = np.random.default_rng(0), [observations(4, seed) for seed in range(6)]
    given = {
        "startprob_init": rng.dirichlet(np.ones(3), 2),
        "transmat_init": rng.dirichlet(np.ones(3), (2, 3)),
        "means_init": rng.normal(size=(2, 3, 2)),
        "covariances_init": rng.gamma(3, 0.3, size=(2, 3, 2)),
    }
    model = MixtureOfHMMs(2, 3, **given).build(2)
    model.initialize(batches_of(X), torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.weights.copy_(torch.tensor([0.3, 0.7], dtype=torch.float64))
    statistics = model.assign(one_batch(X))
    chains, pairs, total = np.zeros(2), np.zeros((2, 3, 3)), 0.0
    for x in X:
        found = []
        for c in range(2):
            log_emission = log_normal(x, given["means_init"][c], given["covariances_init"][c])
            paths, scores = every_path(log_emission, given["startprob_init"][c], given["transmat_init"][c])
            found.append((scores.max() + np.log([0.3, 0.7][c]), c, paths[scores.argmax()]))
        best, c, path = max(found, key=lambda each: each[0])
        total += best
        chains[c] += 1
        np.add.at(pairs[c], (path[:-1], path[1:]), 1)
    assert_allclose(statistics.log_likelihood, total, rtol=1e-12, atol=0)
    assert_array_equal(statistics.weights.numpy(), chains)
    assert_array_equal(statistics.transitions.numpy(), pairs)
    assert 0 < chains[0] < len(X)  # both are the best of some


# ---- priors ----------------------------------------------------------------------------------------------------------


def test_m_step_maximises_the_posterior():
    """The expected log-likelihood plus the log prior, over the simplex, by a numeric optimiser."""
    X = sequences()
    hmm = GaussianHMM(3, startprob_prior=1.7, transmat_prior=2.3, sticky=4.0, transitions=[[1, 1, 0], [1, 1, 1], [0, 1, 1]])
    model = hmm.build(2)
    model.initialize(batches_of(X), torch.Generator().manual_seed(0))
    statistics = model.expect(one_batch(X))
    model.maximize(statistics)

    def best(counts):
        found = minimize(lambda u: -(counts @ np.log(softmax(u))), np.zeros(len(counts)), tol=1e-12)
        return softmax(found.x)

    initial, transition = model.initial[0].detach().numpy(), model.transition[0].detach().numpy()
    assert_allclose(initial, best(statistics.initial[0].numpy() + 0.7), rtol=1e-4, atol=1e-6)
    for i in range(3):
        allowed = np.abs(np.arange(3) - i) < 2
        prior = 1.3 + 4.0 * (np.arange(3) == i)
        assert_allclose(transition[i, allowed], best((statistics.transitions[0, i].numpy() + prior)[allowed]), rtol=1e-4, atol=1e-6)
    own = 0.7 * np.log(initial).sum() + 4.0 * np.log(np.diag(transition)).sum() + 1.3 * np.log(transition[transition > 0]).sum()
    assert_allclose(model.log_prior(), own, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "prior", [{"transmat_prior": 3.0}, {"sticky": 20.0}, {"startprob_prior": 5.0, "emission_prior": "conjugate"}]
)
def test_posterior_rises(prior):
    X = sequences(20)
    hmm = GaussianHMM(3, random_state=0, max_iter=20, tol=0.0, **prior).fit(X)
    assert (np.diff(hmm.history_.objective) >= -1e-12).all()
    model = hmm.model_
    before = (model.objective(one_batch(X)).detach().sum() + model.log_prior()) / sum(map(len, X))
    assert before >= hmm.history_.objective[-1] - 1e-12


def test_sticky_chains_stay():
    X = [np.random.default_rng(0).normal(size=(300, 2))]
    free, sticky = (GaussianHMM(3, random_state=0, sticky=kappa).fit(X) for kappa in (0.0, 200.0))
    assert (np.diag(sticky.transmat_) > np.diag(free.transmat_)).all()


# ---- other observations ----------------------------------------------------------------------------------------------


def symbols(n_categories=4):
    rng = np.random.default_rng(2)
    return [rng.integers(n_categories, size=(length, 1)) for length in rng.integers(10, 30, 6)]


def test_categorical_as_hmmlearn_has_it():
    X, rng = symbols(), np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), 3)
    theirs = CategoricalHMM(3, n_iter=1, tol=-np.inf, init_params="")
    theirs.startprob_, theirs.transmat_, theirs.emissionprob_ = START, TRANSITION, probabilities
    theirs.n_features = 4
    table, lengths = np.concatenate(X), [len(x) for x in X]
    before = theirs.score(table, lengths)
    theirs.fit(table, lengths)
    name = "probabilities"
    given = {"startprob_init": START, "transmat_init": TRANSITION, "emission_init": {name: probabilities[:, None]}}
    ours = HMM(3, emission=partial(Categorical, n_categories=4), **given, max_iter=1, tol=0.0).fit(X)
    assert_allclose(ours.history_.objective[0] * len(table), before, rtol=1e-10, atol=0)
    assert_allclose(ours.transmat_, theirs.transmat_, rtol=1e-9, atol=1e-12)
    assert_allclose(ours.startprob_, theirs.startprob_, rtol=1e-9, atol=1e-12)
    assert_allclose(ours.model_.emission.get_parameter(name)[:, 0].detach(), theirs.emissionprob_, rtol=1e-9, atol=1e-12)
    assert_allclose(ours.score_samples(X).sum(), theirs.score(table, lengths), rtol=1e-10, atol=0)


def test_poisson_as_hmmlearn_has_it():
    rng = np.random.default_rng(3)
    X = [rng.poisson(5.0, size=(length, 2)) for length in rng.integers(10, 30, 6)]
    rates = np.array([[2.0, 4.0], [5.0, 6.0], [9.0, 3.0]])
    theirs = PoissonHMM(3, n_iter=1, tol=-np.inf, init_params="")
    theirs.startprob_, theirs.transmat_, theirs.lambdas_ = START, TRANSITION, rates
    table, lengths = np.concatenate(X), [len(x) for x in X]
    before = theirs.score(table, lengths)
    theirs.fit(table, lengths)
    given = {"startprob_init": START, "transmat_init": TRANSITION, "emission_init": {"rates": rates}}
    ours = HMM(3, emission="poisson", **given, max_iter=1, tol=0.0).fit(X)
    assert_allclose(ours.history_.objective[0] * len(table), before, rtol=1e-10, atol=0)
    assert_allclose(ours.transmat_, theirs.transmat_, rtol=1e-9, atol=1e-12)
    assert_allclose(ours.model_.emission.rates.detach(), theirs.lambdas_, rtol=1e-9, atol=0)
    assert_allclose(ours.score_samples(X).sum(), theirs.score(table, lengths), rtol=1e-10, atol=0)


# ---- saving ----------------------------------------------------------------------------------------------------------


def _counts(X):
    return [np.round(np.abs(x)) for x in X]


SAVED = {
    "gaussian": ({"emission": "gaussian", "covariance_type": "full"}, lambda X: X),
    "prior": ({"emission_prior": NormalInverseWishart([0.0, 0.0], 0.1, 5, np.eye(2)), "covariance_type": "full"}, lambda X: X),
    "conjugate": ({"emission_prior": "conjugate"}, lambda X: X),
    "mixture": ({"emission": "gaussian-mixture"}, lambda X: X),
    "partial": ({"emission": partial(GaussianMixtureEmission, n_mixtures=2)}, lambda X: X),
    "poisson": ({"emission": "poisson"}, _counts),
    "bernoulli": ({"emission": "bernoulli"}, lambda X: [(x > 0).astype(float) for x in X]),
    "categorical": ({"emission": "categorical"}, _counts),
    "product": (
        {"emission": Product({0: "gaussian", 1: "poisson"})},
        lambda X: [np.c_[x[:, 0], np.round(x[:, 1] ** 2)] for x in X],
    ),
    "mask": ({"transitions": np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1]], dtype=bool)}, lambda X: X),
    "nested mask": ({"transitions": [[True, True, False], [False, True, True], [True, False, True]]}, lambda X: X),
    "tied": ({"tied_states": [0, 1, 0]}, lambda X: X),
    "fixed": ({"fixed": ("startprob",), "fixed_transitions": np.eye(3), "transmat_init": TRANSITION}, lambda X: X),
}


@pytest.mark.parametrize("name", SAVED)
def test_the_same_after_saving_and_loading(name, tmp_path):
    options, made = SAVED[name]
    X = made(sequences(20, 8, 15))
    hmm = HMM(3, **options, max_iter=4, tol=0.0, random_state=0).fit(X)
    hmm.save(tmp_path / "hmm")
    loaded = unveil.load(tmp_path / "hmm")
    assert_array_equal(loaded.score_samples(X), hmm.score_samples(X))
    assert_array_equal(np.concatenate(loaded.predict(X)), np.concatenate(hmm.predict(X)))
    assert_array_equal(loaded.transmat_, hmm.transmat_)
    assert loaded.model_.count_parameters() == hmm.model_.count_parameters()
    again = loaded.set_params(warm_start=True).fit(X), hmm.set_params(warm_start=True).fit(X)
    assert_allclose(again[0].score_samples(X), again[1].score_samples(X), rtol=1e-12, atol=0)
