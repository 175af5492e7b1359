"""Which transitions there may be: the named structures entry by entry, orders against all permutations, and what learning keeps."""

from itertools import permutations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.special import softmax

from unveil.data.batch import Batches
from unveil.data.layout import as_rows, offsets_of
from unveil.errors import InputError, ParameterError
from unveil.models.gaussian_hmm import GaussianHMM
from unveil.models.hmm import HMM
from unveil.models.mixture_of_hmms import MixtureOfHMMs
from unveil.models.topology import allowed_transitions, states_by_time, states_in_order

MASK = np.array([[1, 1, 0, 1], [0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 1, 1]], dtype=bool)
ALGORITHMS = ("em", "hard-em", "stochastic-em")


def structure(name, n_states):
    """Which transitions a named structure allows, from its definition."""
    may = {
        "full": lambda i, j: True,
        "left-right": lambda i, j: j >= i,
        "bakis": lambda i, j: j in (i, i + 1),
        "cyclic": lambda i, j: j in (i, (i + 1) % n_states),
    }[name]
    return np.array([[may(i, j) for j in range(n_states)] for i in range(n_states)])


def chain(transition, n_sequences, length, seed, spread=0.5, first=None):
    """Sequences from a chain whose states are at different places in the plane, and their states."""
    rng = np.random.default_rng(seed)
    n_states = len(transition)
    places = 3.0 * rng.permutation(np.stack([np.arange(n_states), np.arange(n_states) ** 2 % 5], 1))
    sequences, paths = [], []
    for _ in range(n_sequences):
        path = [rng.integers(n_states) if first is None else first]
        while len(path) < length:
            path.append(rng.choice(n_states, p=transition[path[-1]]))
        sequences.append(places[path] + spread * rng.normal(size=(length, 2)))
        paths.append(np.array(path))
    return sequences, paths, places


def noise(n_sequences=12, length=30, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(length, 2)).cumsum(0) for _ in range(n_sequences)]


@pytest.mark.parametrize("n_states", [1, 2, 4])
@pytest.mark.parametrize("name", ["full", "left-right", "bakis", "cyclic"])
def test_named_structures(name, n_states):
    starts, allowed = allowed_transitions(name, n_states)
    assert_array_equal(allowed.numpy(), structure(name, n_states))
    only_first = name in ("left-right", "bakis")
    assert_array_equal(starts.numpy(), [i == 0 or not only_first for i in range(n_states)])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("transitions", ["left-right", "bakis", "cyclic", MASK], ids=["left-right", "bakis", "cyclic", "mask"])
def test_what_is_impossible_stays_impossible(transitions, algorithm):
    X = noise()
    hmm = GaussianHMM(4, transitions=transitions, algorithm=algorithm, max_iter=15, tol=0.0, transmat_prior=1.5, batch_size=64)
    hmm.set_params(random_state=0, startprob_prior=1.5).fit(X)
    allowed = structure(transitions, 4) if isinstance(transitions, str) else transitions
    assert_array_equal(hmm.transmat_ > 0, allowed)
    assert_allclose(hmm.transmat_.sum(1), 1.0, rtol=1e-12, atol=0)
    if transitions in ("left-right", "bakis") if isinstance(transitions, str) else False:
        assert_array_equal(hmm.startprob_, [1.0, 0.0, 0.0, 0.0])
        assert all((np.diff(path) >= 0).all() for path in hmm.predict(X))
    hmm.partial_fit(noise(seed=1))
    assert_array_equal(hmm.transmat_ > 0, allowed)


def test_zeros_of_starting_values_stay_zero_under_priors():
    X, start = noise(), structure("bakis", 3) / structure("bakis", 3).sum(1, keepdims=True)
    hmm = GaussianHMM(3, transmat_init=start, startprob_init=[0.5, 0.5, 0.0], transmat_prior=3.0, startprob_prior=2.0, sticky=1.0)
    hmm.set_params(max_iter=10, tol=0.0, random_state=0).fit(X)
    assert_array_equal(hmm.transmat_ > 0, start > 0)
    assert_array_equal(hmm.startprob_ > 0, [True, True, False])
    assert (np.diff(hmm.history_.objective) >= -1e-10).all()


def all_orders_fit(counts, allowed):
    return max((counts[np.ix_(order, order)] * allowed).sum() for order in permutations(range(len(counts))))


@pytest.mark.parametrize("transitions", ["bakis", "cyclic", MASK, "left-right"], ids=["bakis", "cyclic", "mask", "left-right"])
@pytest.mark.parametrize("seed", range(4))
def test_order_is_the_best_of_all(transitions, seed):
    rng = np.random.default_rng(seed)
    n_states = 4 if isinstance(transitions, np.ndarray) else 5
    counts = rng.gamma(0.3, 10.0, size=(n_states, n_states))
    _, allowed = allowed_transitions(transitions, n_states)
    order = states_in_order(torch.from_numpy(counts), allowed).numpy()
    assert sorted(order) == list(range(n_states))
    fit = (counts[np.ix_(order, order)] * allowed.numpy()).sum()
    assert_allclose(fit, all_orders_fit(counts, allowed.numpy()), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["bakis", "cyclic"])
@pytest.mark.parametrize("n_states", [8, 13])
@pytest.mark.parametrize("seed", range(3))
def test_order_of_many_states_is_found_again(name, n_states, seed):
    rng = np.random.default_rng(seed)
    allowed = structure(name, n_states)
    counts = rng.uniform(0, 1, size=allowed.shape) + allowed * rng.uniform(20, 40, size=allowed.shape) + 300 * np.eye(n_states)
    shuffle = rng.permutation(n_states)
    shuffled = counts[np.ix_(shuffle, shuffle)]
    order = states_in_order(torch.from_numpy(shuffled), torch.from_numpy(allowed)).numpy()
    assert_allclose((shuffled[np.ix_(order, order)] * allowed).sum(), (counts * allowed).sum(), rtol=1e-12, atol=0)


def test_states_by_time_cuts_each_sequence_evenly():
    sequences = torch.tensor([0] * 6 + [1] * 4 + [2] * 2)
    assert_array_equal(states_by_time(sequences, 3), [0, 0, 1, 1, 2, 2, 0, 0, 1, 2, 0, 1])


@pytest.mark.parametrize("seed", range(5))
def test_bakis_finds_the_order(seed):
    truth = np.where(structure("bakis", 5), 0.15, 0.0) + np.diag([0.7] * 4 + [0.85])
    X, paths, places = chain(truth, 15, 50, seed, first=0)
    hmm = GaussianHMM(5, transitions="bakis", random_state=seed).fit(X)
    assert_allclose(hmm.means_, places, rtol=0, atol=0.3)
    assert np.mean(np.concatenate(hmm.predict(X)) == np.concatenate(paths)) > 0.99


@pytest.mark.parametrize("n_states", [4, 6])
@pytest.mark.parametrize("seed", range(4))
def test_cyclic_finds_the_order(seed, n_states):
    truth = np.where(structure("cyclic", n_states), 0.3, 0.0) + 0.4 * np.eye(n_states)
    X, paths, places = chain(truth, 8, 80, seed)
    hmm = GaussianHMM(n_states, transitions="cyclic", random_state=seed, n_init=3).fit(X)
    shift = int(np.square(hmm.means_ - places[0]).sum(1).argmin())  # a cycle may begin anywhere
    assert_allclose(np.roll(hmm.means_, -shift, 0), places, rtol=0, atol=0.3)
    assert np.mean((np.concatenate(hmm.predict(X)) - shift) % n_states == np.concatenate(paths)) > 0.99


# ---- what is held ----------------------------------------------------------------------------------------------------


HELD = np.array([[True, False, False], [False, False, False], [False, True, False]])
START = np.array([[0.3, 0.3, 0.4], [0.1, 0.7, 0.2], [0.25, 0.6, 0.15]])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_held_transitions_stay_to_the_last_bit(algorithm):
    hmm = GaussianHMM(3, transmat_init=START, fixed_transitions=HELD, algorithm=algorithm, max_iter=8, tol=0.0, random_state=0)
    hmm.fit(noise())
    assert_array_equal(hmm.transmat_[HELD], START[HELD])
    assert_allclose(hmm.transmat_.sum(1), 1.0, rtol=1e-12, atol=0)
    assert (np.abs(hmm.transmat_ - START)[~HELD] > 1e-6).all()


@pytest.mark.parametrize("prior", [1.0, 2.5])
def test_m_step_is_the_best_that_leaves_held_entries(prior):
    X = noise()
    hmm = GaussianHMM(3, transmat_init=START, fixed_transitions=HELD, transmat_prior=prior, random_state=0)
    batches = Batches(as_rows(np.concatenate(X)), offsets_of([len(x) for x in X]))
    model = hmm.build(2)
    model.initialize(batches, torch.Generator().manual_seed(0))
    statistics = model.expect(next(iter(batches)))
    model.maximize(statistics)
    counts = statistics.transitions[0].numpy() + prior - 1.0
    for i in range(3):
        free = ~HELD[i]
        room = 1.0 - START[i, HELD[i]].sum()
        found = minimize(lambda u: -counts[i, free] @ np.log(room * softmax(u)), np.zeros(free.sum()), tol=1e-12)  # noqa: B023
        assert_allclose(model.transition[0, i].detach().numpy()[free], room * softmax(found.x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("block", "attribute"), [("startprob", "startprob_"), ("transmat", "transmat_"), ("emission", "means_")])
def test_fixed_blocks_stay(block, attribute, algorithm):
    places = np.array([[-3.0, 0.0], [0.0, 0.0], [3.0, 1.0]])
    given = {"startprob_init": [0.2, 0.5, 0.3], "transmat_init": START, "means_init": places}
    hmm = GaussianHMM(3, **given, fixed=(block,), algorithm=algorithm, max_iter=5, tol=0.0, random_state=0).fit(noise())
    free = GaussianHMM(3, **given, algorithm=algorithm, max_iter=5, tol=0.0, random_state=0).fit(noise())
    start = given[{"startprob": "startprob_init", "transmat": "transmat_init", "emission": "means_init"}[block]]
    assert_array_equal(getattr(hmm, attribute), start)
    assert not np.allclose(getattr(free, attribute), start)
    if algorithm == "em":
        assert (np.diff(hmm.history_.objective) >= -1e-10).all()


def test_fixed_weights_of_clusters_stay():
    mixture = MixtureOfHMMs(2, 2, fixed=("weights",), n_init=1, max_iter=1, tol=0.0, random_state=0).fit(noise())
    more = MixtureOfHMMs(2, 2, fixed=("weights",), n_init=1, max_iter=9, tol=0.0, random_state=0).fit(noise())
    assert_array_equal(mixture.weights_, more.weights_)


# ---- shared densities ------------------------------------------------------------------------------------------------


def test_tied_states_are_an_untied_model_with_copied_parameters():
    X, groups = noise(), [0, 1, 0, 1]
    tied = GaussianHMM(4, tied_states=groups, max_iter=6, tol=0.0, random_state=0).fit(X)
    assert tied.means_.shape == (2, 2)
    copied = {"means_init": tied.means_[groups], "covariances_init": tied.covariances_[groups]}
    untied = GaussianHMM(4, startprob_init=tied.startprob_, transmat_init=tied.transmat_, **copied, max_iter=1, tol=0.0)
    model = untied.build(2)
    batches = Batches(as_rows(np.concatenate(X)), offsets_of([len(x) for x in X]))
    model.initialize(batches, torch.Generator().manual_seed(0))
    batch = next(iter(batches))
    assert_allclose(tied.score_samples(X), model.objective(batch).detach().numpy(), rtol=1e-12, atol=0)
    one, other = tied.model_.expect(batch), model.expect(batch)
    assert_allclose(one.transitions.numpy(), other.transitions.numpy(), rtol=1e-9, atol=1e-12)
    pooled = torch.stack([other.emission.first[[0, 2]].sum(0), other.emission.first[[1, 3]].sum(0)])
    center = other.emission.center - one.emission.center  # both measure from the mean of the data
    assert_allclose(center.numpy(), 0.0, rtol=0, atol=1e-12)
    assert_allclose(one.emission.first.numpy(), pooled.numpy(), rtol=1e-9, atol=1e-9)
    assert (np.diff(tied.history_.objective) >= -1e-10).all()


def test_tied_states_of_a_cycle_start_from_their_groups():
    """Two states share each place, so every visit lasts two steps at least: k-means for four places would cut both in two."""
    rng = np.random.default_rng(0)
    truth = 0.5 * np.eye(4) + 0.5 * np.roll(np.eye(4), 1, 1)
    path = [0]
    while len(path) < 1500:
        path.append(rng.choice(4, p=truth[path[-1]]))
    X = np.array([0.0, 0.0, 4.0, 4.0])[path][:, None] + rng.normal(size=(1500, 1))
    hmm = GaussianHMM(4, transitions="cyclic", tied_states=[0, 0, 1, 1], random_state=0, tol=1e-6).fit(X)
    assert_allclose(sorted(hmm.means_[:, 0]), [0.0, 4.0], rtol=0, atol=0.2)
    assert_allclose(np.diag(hmm.transmat_).mean(), 0.5, rtol=0, atol=0.05)


# ---- counting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 3 + 12 + 16),  # diagonal: two means and two variances for each state
        ({"transitions": "bakis"}, 0 + 3 + 16),
        ({"transitions": "left-right"}, 0 + 3 + 2 + 1 + 16),
        ({"transitions": "cyclic"}, 3 + 4 + 16),
        ({"transitions": MASK}, 3 + (2 + 1 + 1 + 2) + 16),
        ({"tied_states": [0, 1, 0, 0]}, 3 + 12 + 8),
        ({"fixed": ("transmat",)}, 3 + 16),
        ({"fixed": ("startprob", "emission")}, 12),
        ({"transmat_init": np.full((4, 4), 0.25), "fixed_transitions": np.eye(4)}, 3 + 4 * 2 + 16),
        ({"transitions": "bakis", "covariance_type": "full", "tied_states": [0, 0, 1, 1]}, 3 + 2 * (2 + 3)),
    ],
)
def test_free_parameters_by_hand(options, expected):
    assert GaussianHMM(4, **options).build(2).count_parameters() == expected


def test_free_parameters_of_clusters_by_hand():
    mixture = MixtureOfHMMs(3, 4, transitions="bakis", tied_states=[0, 0, 1, 1])
    assert mixture.build(2).count_parameters() == 2 + 3 * 3 + 3 * 2 * 4


# ---- bad input -------------------------------------------------------------------------------------------------------


STUCK = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 1]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transitions": STUCK}, "transitions: state 1 has no way out"),
        ({"transitions": np.ones((2, 2))}, r"transitions has shape \(2, 2\) for n_states=3"),
        ({"transitions": np.ones((2, 3))}, "transitions=an array of shape.*square mask"),
        ({"transitions": [[2, 0, 1]] * 3}, "transitions=.*square mask"),
        ({"transitions": "ergodic"}, "transitions='ergodic': expected one of 'full'"),
        ({"transitions": "bakis", "startprob_init": [0.0, 1.0, 0.0]}, "no path reaches state 0"),
        ({"transitions": np.eye(3), "startprob_init": [0.5, 0.5, 0.0]}, "no path reaches state 2"),
        ({"transitions": "bakis", "transmat_init": START}, "a transition that `transitions` forbids"),
        ({"fixed_transitions": HELD}, "give that as well"),
        ({"fixed_transitions": np.eye(2), "transmat_init": START}, r"fixed_transitions has shape \(2, 2\)"),
        ({"fixed": ("means",)}, "fixed=.*expected some of"),
        ({"fixed": "transmat"}, "fixed='transmat'"),
        ({"tied_states": [0, 1]}, "one group for each of 3 states"),
        ({"tied_states": [0, 2, 2]}, "none of them left out"),
        ({"tied_states": [0.5, 1, 0]}, "tied_states="),
        ({"transmat_prior": 0.5}, "transmat_prior=0.5"),
        ({"sticky": -1.0}, "sticky=-1.0"),
    ],
)
@pytest.mark.parametrize("cls", [GaussianHMM, HMM])
def test_bad_structures(cls, options, message):
    with pytest.raises((ParameterError, InputError), match=message) as caught:
        cls(3, **options).fit(noise())
    assert "\n" not in str(caught.value)
