"""Stochastic EM against EM: the same where one minibatch holds everything, and near it where there is much data."""

import copy
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from unveil.data.batch import Batches
from unveil.data.layout import as_rows, offsets_of
from unveil.errors import InputError
from unveil.learn.em import em
from unveil.learn.stochastic import RunningStatistics, stochastic_em
from unveil.models.gaussian_hmm import GaussianHMM
from unveil.models.gaussian_mixture import GaussianMixture
from unveil.models.hmm import HMM
from unveil.models.mixture_model import MixtureModel
from unveil.models.mixture_of_hmms import MixtureOfHMMs

PLACES = np.array([[0.0, 0.0], [3.0, 1.0], [1.0, 4.0]])


def points(n=600, seed=0):
    rng = np.random.default_rng(seed)
    return PLACES[rng.integers(3, size=n)] + rng.normal(size=(n, 2))


def sequences(n=40, seed=0):
    rng, made = np.random.default_rng(seed), []
    for length in rng.integers(10, 40, n):
        path = [rng.integers(3)]
        while len(path) < length:
            path.append(path[-1] if rng.random() < 0.8 else rng.integers(3))
        made.append(PLACES[path] + rng.normal(size=(length, 2)))
    return made


def parameters(model):
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def assert_same_parameters(one, other, rtol=1e-9):
    assert one.state_dict().keys() == other.state_dict().keys()
    for name, value in parameters(one).items():
        assert_allclose(value, parameters(other)[name], rtol=rtol, atol=1e-10, err_msg=name)


CASES = {
    "points": (GaussianMixture(3), points, lambda X: Batches(as_rows(X))),
    "prior": (GaussianMixture(3, weights_prior=5.0, emission_prior="conjugate"), points, lambda X: Batches(as_rows(X))),
    "sequences": (
        GaussianHMM(3, sticky=3.0, startprob_prior=2.0),
        sequences,
        lambda X: Batches(as_rows(np.concatenate(X)), offsets_of([len(x) for x in X])),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_minibatch_of_everything_is_one_step_of_em(name):
    estimator, data, as_batches = CASES[name]
    batches, model = as_batches(data()), estimator.build(2)
    model.initialize(batches, torch.Generator().manual_seed(0))
    other = copy.deepcopy(model)
    one = em(model, batches, max_iter=1, tol=0.0)
    two = stochastic_em(other, batches, max_iter=1, tol=0.0, batch_size=10**6, generator=torch.Generator().manual_seed(0))
    assert_same_parameters(model, other)
    assert two.n_iter == 1
    if name == "points":  # with a prior, the one includes it from before the update, the other from after it
        assert_allclose(one.objective, two.objective, rtol=1e-12, atol=0)


def test_running_average_by_hand():
    model = GaussianMixture(2).build(1)
    batches = [next(iter(Batches(as_rows(np.full((n, 1), float(n)))))) for n in (2, 3, 4)]
    model.initialize(Batches(as_rows(np.array([[0.0], [9.0]]))), torch.Generator().manual_seed(0))
    running, statistics = RunningStatistics(model), [model.expect(batch) for batch in batches]
    for each in statistics:
        running.add(each)
    rates = [1.0, 3**-0.7, 4**-0.7]
    shares = [rates[0] * (1 - rates[1]) * (1 - rates[2]), rates[1] * (1 - rates[2]), rates[2]]
    count = sum(share * each.count.numpy() for share, each in zip(shares, statistics, strict=True))
    weight = sum(share * each.weight for share, each in zip(shares, statistics, strict=True))
    assert_allclose(running.average.count.numpy(), count, rtol=1e-12, atol=0)
    assert_allclose(running.of(100.0).count.numpy(), 100 * count / weight, rtol=1e-12, atol=0)
    assert running.of(100.0).weight == pytest.approx(100.0)
    assert running.weight == 9.0


def test_comes_near_em_in_few_passes():
    X = points(20_000)
    start = {"weights_init": np.full(3, 1 / 3), "means_init": [[1.0, 1.0], [1.5, 1.0], [1.0, 1.5]], "random_state": 0}
    start["precisions_init"] = np.array([0.3 * np.eye(2)] * 3)
    em_fit = GaussianMixture(3, **start, tol=1e-8, max_iter=500).fit(X)
    online = GaussianMixture(3, algorithm="stochastic-em", max_iter=8, tol=0.0, batch_size=100, **start).fit(X)
    same = GaussianMixture(3, max_iter=8, tol=0.0, **start).fit(X)
    assert_allclose(online.score(X), em_fit.score(X), rtol=0.005, atol=0)
    assert same.score(X) < em_fit.score(X) - 0.01 * abs(em_fit.score(X))  # EM has not come as far in as many passes


def test_sequences_come_near_em_too():
    X = sequences(800)
    em_fit = GaussianHMM(3, random_state=0, tol=1e-6).fit(X)
    online = GaussianHMM(3, algorithm="stochastic-em", max_iter=5, tol=0.0, batch_size=500, random_state=1).fit(X)
    assert_allclose(online.score(X), em_fit.score(X), rtol=0.005, atol=0)


def test_stops_when_a_pass_gains_little():
    X = points(3000)
    mixture = GaussianMixture(3, algorithm="stochastic-em", random_state=0, tol=1e-2, batch_size=200).fit(X)
    assert mixture.converged_
    assert mixture.n_iter_ < 20
    assert len(mixture.history_.objective) == mixture.n_iter_


def test_is_repeatable():
    fits = [GaussianMixture(3, algorithm="stochastic-em", random_state=5, batch_size=100, max_iter=3).fit(points()) for _ in "ab"]
    assert_array_equal(fits[0].means_, fits[1].means_)


def test_labels_and_weights_go_along():
    """With every label known and one minibatch per class order, the weights are the weighted shares of the classes."""
    X, y, weights = points(), np.arange(600) % 3, 1.0 + np.arange(600) % 2
    y[0] = -1
    mixture = GaussianMixture(3, algorithm="stochastic-em", random_state=0, batch_size=50, max_iter=20, tol=0.0)
    mixture.fit(X, y, sample_weight=weights)
    shares = [weights[y == k].sum() / weights.sum() for k in range(3)]
    assert_allclose(mixture.weights_, shares, rtol=0, atol=0.05)
    centers = np.array([np.average(X[y == k], axis=0, weights=weights[y == k]) for k in range(3)])
    assert_allclose(mixture.means_, centers, rtol=0, atol=0.4)  # labels have nothing to do with places, so all are near one another
    assert np.ptp(mixture.means_, axis=0).max() < 1.0


def test_minibatches_without_weight_change_nothing():
    X = points(300)
    weights = np.ones(300)
    weights[100:] = 0.0
    mixture = GaussianMixture(3, algorithm="stochastic-em", random_state=0, batch_size=1, max_iter=1, tol=0.0)
    mixture.fit(X, sample_weight=weights)
    assert np.isfinite(mixture.means_).all()
    assert np.isfinite(mixture.history_.objective).all()


@pytest.mark.parametrize("reg_covar", [1e-6])
def test_impossible_data_is_refused(reg_covar):
    X = points()
    mixture = GaussianMixture(3, algorithm="stochastic-em", random_state=0, reg_covar=reg_covar).fit(X)
    before = mixture.means_.copy()
    mixture.set_params(warm_start=True)
    with pytest.raises(InputError):
        mixture.fit(np.where(np.arange(600)[:, None] == 7, np.inf, X))
    assert_array_equal(mixture.means_, before)


# ---- pieces ----------------------------------------------------------------------------------------------------------


def test_pieces_come_near_everything_at_once():
    X = points(20_000)
    everything = GaussianMixture(3, random_state=0, tol=1e-8, max_iter=300).fit(X)
    pieces = GaussianMixture(3, random_state=0)
    for piece in np.split(X, 20):
        pieces.partial_fit(piece)
    assert_allclose(pieces.score(X), everything.score(X), rtol=0.005, atol=0)
    assert pieces.n_iter_ == 20
    assert len(pieces.history_.objective) == 20


def test_the_first_piece_warns_of_nothing_and_keeps_the_settings():
    mixture = GaussianMixture(3, random_state=0, max_iter=77, tol=0.25)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mixture.partial_fit(points())
    assert (mixture.max_iter, mixture.tol) == (77, 0.25)


def test_a_small_piece_is_one_step():
    X = points()
    mixture = GaussianMixture(3, random_state=0, reg_covar=0.0).partial_fit(X)
    model = GaussianMixture(3, random_state=0, reg_covar=0.0, max_iter=2, tol=0.0).fit(X).model_
    assert_same_parameters(mixture.model_, model)  # one iteration for the start, and the first update


def test_a_piece_is_cut_into_minibatches_of_the_chosen_size():
    X = points()
    whole, halves = (GaussianMixture(3, random_state=0, batch_size=size).partial_fit(X) for size in (600, 300))
    assert (whole._running.n_updates, halves._running.n_updates) == (1, 2)
    assert not np.allclose(whole.means_, halves.means_)


def test_a_fit_is_not_forgotten_at_once():
    """A few points of one component after a fit: the others stay where they are, and keep some weight."""
    X, rng = points(3000), np.random.default_rng(1)
    mixture = GaussianMixture(3, random_state=0, tol=1e-6).fit(X)
    means, weights, score = mixture.means_.copy(), mixture.weights_.copy(), mixture.score(X)
    mixture.partial_fit(PLACES[0] + rng.normal(size=(20, 2)))
    assert_allclose(mixture.means_, means, rtol=0, atol=0.3)
    assert_allclose(mixture.weights_, weights, rtol=0, atol=0.1)
    assert mixture.score(X) > score - 0.05


def test_a_fit_of_sequences_is_not_forgotten_at_once():
    X = sequences(200)
    hmm = GaussianHMM(3, random_state=0, tol=1e-6).fit(X)
    score = hmm.score(X)
    transitions = hmm.transmat_.copy()
    hmm.partial_fit(X[0][:5])
    assert hmm.score(X) > score - 0.01 * abs(score)
    assert_allclose(hmm.transmat_, transitions, rtol=0, atol=0.1)


def test_another_fit_starts_the_average_anew():
    mixture = GaussianMixture(3, random_state=0).partial_fit(points())
    first = mixture._running
    mixture.partial_fit(points(seed=1))
    assert mixture._running is first
    mixture.fit(points()).partial_fit(points(seed=1))
    assert mixture._running is not first


def test_pieces_with_labels():
    X = points(1500)
    y = np.square(X[:, None] - PLACES).sum(2).argmin(1)
    order = np.array([2, 0, 1])  # names that nobody would find by chance
    mixture = GaussianMixture(3, random_state=0)
    for part, labels in zip(np.split(X, 5), np.split(y, 5), strict=True):
        labels = np.where(np.arange(300) % 10 == 0, order[labels], -1)
        mixture.partial_fit(part, labels)
    assert_allclose(mixture.means_[order], PLACES, rtol=0, atol=0.4)


@pytest.mark.parametrize(
    "estimator", [HMM(2, random_state=0), MixtureOfHMMs(2, 2, n_init=1, random_state=0), GaussianHMM(3, random_state=0)], ids=str
)
def test_pieces_of_sequences(estimator):
    for seed in range(4):
        estimator.partial_fit(sequences(10, seed))
    assert estimator.n_iter_ == 4
    assert np.isfinite(estimator.score(sequences()))
    with pytest.raises(InputError, match="X has 3 features"):
        estimator.partial_fit([np.zeros((5, 3))])


def test_pieces_of_counts():
    rng = np.random.default_rng(0)
    X = rng.poisson(np.repeat([[2.0, 9.0], [8.0, 3.0]], 500, axis=0))[rng.permutation(1000)]
    mixture = MixtureModel(2, emission="poisson", random_state=0)
    for piece in np.split(X, 10):
        mixture.partial_fit(piece)
    assert_allclose(np.sort(mixture.model_.emission.rates.detach().numpy(), 0), [[2.0, 3.0], [8.0, 9.0]], rtol=0, atol=0.7)


def test_bad_pieces():
    mixture = GaussianMixture(3, random_state=0).partial_fit(points())
    before = mixture.means_.copy()
    with pytest.raises(InputError, match="X has 3 features, but GaussianMixture is expecting 2 features"):
        mixture.partial_fit(np.zeros((10, 3)))
    with pytest.raises(InputError, match="contains infinity at row 4, column 1"):
        mixture.partial_fit(np.where((np.arange(10)[:, None] == 4) & (np.arange(2) == 1), np.inf, points(10)))
    with pytest.raises(InputError, match="y has 3 labels for 10 items"):
        mixture.partial_fit(points(10), [0, 1, -1])
    with pytest.raises(InputError):
        mixture.partial_fit(points(10), sample_weight=np.zeros(10))
    assert_array_equal(mixture.means_, before)
    with pytest.raises(InputError):
        GaussianMixture(3).partial_fit(points(2))
