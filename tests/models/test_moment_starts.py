"""Starts from moments recover what generated the data, in any order of states and structure; and say so where they cannot."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linear_sum_assignment

from unveil.data.batch import Batches
from unveil.data.rows import MemoryRows
from unveil.errors import IdentifiabilityWarning, InputError, ParameterError
from unveil.metrics.clustering import clustering_accuracy
from unveil.models import load
from unveil.models.categorical_hmm import CategoricalHMM
from unveil.models.gaussian_hmm import GaussianHMM
from unveil.models.gaussian_mixture import GaussianMixture
from unveil.models.hmm import HMM
from unveil.models.mixture_of_hmms import MixtureOfHMMs


def simulate(means, transition, start, n_sequences, length, rng):
    """Sequences (n, length, D) of Gaussians of variance 1 around the means of a chain's states, and the states."""
    states = np.empty((n_sequences, length), int)
    states[:, 0] = rng.choice(len(start), size=n_sequences, p=start)
    for t in range(1, length):
        uniform = rng.random(n_sequences)[:, None]
        states[:, t] = (uniform > transition.cumsum(1)[states[:, t - 1]]).sum(1).clip(max=len(start) - 1)
    return means[states] + rng.normal(size=(n_sequences, length, means.shape[1])), states


def in_true_order(found, true):
    """The index of the found row for each true one."""
    distances = ((found[:, None] - true[None]) ** 2).sum(2)
    rows, columns = linear_sum_assignment(distances)
    return rows[np.argsort(columns)]


# ---------------------------------------------------------------------------------------------------------------------
# Mixtures of chains
# ---------------------------------------------------------------------------------------------------------------------


def three_chains(n_sequences, seed, separation=8):
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(9, 15)) * separation / np.sqrt(30)
    transition = np.zeros((9, 9))
    for block in (slice(0, 3), slice(3, 6), slice(6, 9)):
        transition[block, block] = rng.dirichlet(np.ones(3), 3)
    sequences, states = simulate(means, transition, rng.dirichlet(np.full(9, 3.0)), n_sequences, 20, rng)
    return list(sequences), states[:, 0] // 3, means, transition


def errors(model, sequences, clusters, means, transition):
    """Relative error of the means, mean error of a row of transitions, and accuracy of the clusters."""
    found_means, found = model.means_.reshape(9, -1), np.zeros((9, 9))
    for c in range(3):
        found[3 * c : 3 * c + 3, 3 * c : 3 * c + 3] = model.transmat_[c]
    order = in_true_order(found_means, means)
    return (
        np.linalg.norm(found_means[order] - means) / np.linalg.norm(means),
        np.abs(found[np.ix_(order, order)] - transition).sum(1).mean(),
        clustering_accuracy(clusters, model.predict(sequences)),
    )


def of_three_chains(depermute="all-lag", max_iter=0, **settings):
    return MixtureOfHMMs(
        3, 3, covariance_type="spherical", init="moments", depermute=depermute, max_iter=max_iter, random_state=0, **settings
    )


@pytest.mark.parametrize("depermute", ["all-lag", "ncut", "eigen"])
def test_a_mixture_of_chains_is_recovered_without_em(depermute):
    data = three_chains(1000, 0)
    of_means, of_transitions, accuracy = errors(of_three_chains(depermute).fit(data[0]), *data)
    assert of_means < 0.05
    assert of_transitions < 0.06
    assert accuracy == 1.0


def test_errors_fall_with_the_root_of_the_number_of_sequences():
    few, many = (
        np.mean(
            [errors(of_three_chains("ncut").fit(data[0]), *data)[:2] for data in (three_chains(n, seed) for seed in range(3))], 0
        )
        for n in (150, 2400)
    )
    assert_allclose(few / many, [4.0, 4.0], rtol=0.5, atol=0)


def test_em_goes_on_from_there():
    sequences, *_ = three_chains(60, 1)
    before, after = of_three_chains().fit(sequences), of_three_chains(max_iter=20).fit(sequences)
    assert before.history_.n_iter == 0
    assert_allclose(after.history_.objective[0], before.history_.objective[0], rtol=1e-12, atol=0)
    assert after.score(sequences) > before.score(sequences)


def test_batches_make_no_difference():
    sequences, *_ = three_chains(60, 2)
    rows, offsets = MemoryRows(np.concatenate(sequences)), np.arange(61) * 20
    whole, cut = (of_three_chains().fit(Batches(rows, offsets, batch_steps=steps)) for steps in (10_000, 90))
    assert_allclose(cut.means_, whole.means_, rtol=0, atol=1e-6)
    assert_allclose(cut.transmat_, whole.transmat_, rtol=0, atol=1e-6)


def test_the_diagnostics_of_a_clear_case():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = of_three_chains("ncut").fit(three_chains(300, 0)[0]).moments_
    assert found.method == "hsu-kakade"
    assert found.n_transitions == 300 * 19
    assert found.spectrum[7] > found.spectrum[8]
    assert found.gap > 1.0
    assert 1.0 <= found.condition < 2.0
    assert found.residual < 0.05
    assert_allclose(found.cluster_gap, found.eigenvalues[2] - found.eigenvalues[3], rtol=1e-12, atol=0)
    assert found.cluster_gap > 0.2
    assert str(found).startswith("9 densities by hsu-kakade, condition number 1.")
    assert "of the moment of 5700 transitions left; 3 clusters by an eigenvalue of " in str(found)


def test_what_was_learned_is_saved_and_the_diagnostics_are_of_the_fit(tmp_path):
    sequences, *_ = three_chains(40, 3)
    model = of_three_chains().fit(sequences)
    model.save(tmp_path / "model.unveil")
    again = load(tmp_path / "model.unveil")
    assert_array_equal(again.predict(sequences), model.predict(sequences))
    assert again.moments_ is None
    assert MixtureOfHMMs(2, 2, max_iter=1, tol=0.0, random_state=0).fit(sequences).moments_ is None


# ---------------------------------------------------------------------------------------------------------------------
# Structures
# ---------------------------------------------------------------------------------------------------------------------


def chain_in_order(n_states, n_sequences, seed, *, around):
    rng = np.random.default_rng(seed)
    means, stay = rng.normal(size=(n_states, 15)) * 5 / np.sqrt(30), rng.uniform(0.5, 0.85, n_states)
    transition = np.diag(stay) + np.diag(1 - stay[:-1], 1)
    transition[-1, 0 if around else -1] += 1 - stay[-1]
    start = np.full(n_states, 1 / n_states) if around else np.eye(n_states)[0]
    sequences, _ = simulate(means, transition, start, n_sequences, 4 * n_states, rng)
    return list(sequences), means, transition


@pytest.mark.parametrize("seed", range(6))
def test_a_left_to_right_chain_comes_in_its_order(seed):
    sequences, means, transition = chain_in_order(8, 300, seed, around=False)
    hmm = GaussianHMM(8, covariance_type="spherical", transitions="bakis", init="moments", max_iter=0, random_state=0).fit(
        sequences
    )
    assert_array_equal(in_true_order(hmm.means_, means), np.arange(8))
    assert_allclose(hmm.transmat_, transition, rtol=0, atol=0.08)
    assert_array_equal(hmm.transmat_ > 0, transition > 0)
    assert_array_equal(hmm.startprob_, np.eye(8)[0])


def test_a_cyclic_chain_comes_in_its_order():
    sequences, means, transition = chain_in_order(5, 200, 0, around=True)
    hmm = GaussianHMM(5, covariance_type="spherical", transitions="cyclic", init="moments", max_iter=0, random_state=0).fit(
        sequences
    )
    order = in_true_order(hmm.means_, means)
    assert_array_equal((order - order[0]) % 5, np.arange(5))
    assert_allclose(hmm.transmat_[np.ix_(order, order)], transition, rtol=0, atol=0.08)


def test_a_structure_of_ones_own():
    """Out of the middle state to two loops, each of which comes back: a mask that no name has."""
    mask = np.eye(5, dtype=bool)
    for i, j in ((0, 1), (1, 2), (2, 0), (0, 3), (3, 4), (4, 0)):
        mask[i, j] = True
    rng = np.random.default_rng(0)
    transition = mask * rng.uniform(0.2, 1.0, (5, 5))
    transition /= transition.sum(1, keepdims=True)
    means = 3.0 * rng.normal(size=(5, 8))
    sequences, _ = simulate(means, transition, np.full(5, 0.2), 300, 20, rng)
    hmm = GaussianHMM(5, covariance_type="spherical", transitions=mask, init="moments", max_iter=5, random_state=0).fit(
        list(sequences)
    )
    assert_array_equal(hmm.transmat_ > 0, mask)
    order = in_true_order(hmm.means_, means)
    assert_allclose(hmm.transmat_[np.ix_(order, order)], transition, rtol=0, atol=0.05)


def test_other_emissions_start_from_moments_too():
    rng = np.random.default_rng(0)
    rates = np.array([[1.0, 20.0, 5.0], [15.0, 2.0, 5.0], [4.0, 4.0, 30.0]])
    transition = np.array([[0.8, 0.2, 0.0], [0.0, 0.7, 0.3], [0.4, 0.0, 0.6]])
    _, states = simulate(rates, transition, np.full(3, 1 / 3), 100, 20, rng)
    hmm = HMM(3, emission="poisson", init="moments", max_iter=0, random_state=0).fit(list(rng.poisson(rates[states]).astype(float)))
    order = in_true_order(hmm.model_.emission.rates.detach().numpy(), rates)
    assert_allclose(hmm.transmat_[np.ix_(order, order)], transition, rtol=0, atol=0.06)
    assert hmm.moments_.method == "likelihood"


def test_missing_values_are_no_obstacle():
    sequences, means, transition = chain_in_order(4, 200, 1, around=False)
    rng = np.random.default_rng(2)
    holed = [np.where(rng.random(each.shape) < 0.1, np.nan, each) for each in sequences]
    hmm = GaussianHMM(4, covariance_type="diag", transitions="bakis", init="moments", max_iter=3, random_state=0).fit(holed)
    assert_array_equal(in_true_order(hmm.means_, means), np.arange(4))
    assert_allclose(hmm.transmat_, transition, rtol=0, atol=0.06)


# ---------------------------------------------------------------------------------------------------------------------
# Symbols, and points
# ---------------------------------------------------------------------------------------------------------------------


def symbols(n_sequences, seed=0, length=20):
    rng = np.random.default_rng(seed)
    tables = np.array([[0.7, 0.2, 0.1, 0.0], [0.1, 0.1, 0.7, 0.1], [0.0, 0.1, 0.1, 0.8]])
    transition = np.array([[0.8, 0.2, 0.0], [0.0, 0.7, 0.3], [0.3, 0.0, 0.7]])
    _, states = simulate(np.zeros((3, 1)), transition, np.full(3, 1 / 3), n_sequences, length, rng)
    drawn = (rng.random(states.shape)[..., None] > tables.cumsum(1)[states]).sum(2)
    return list(drawn[:, :, None].astype(float)), tables, transition


def test_symbols_come_from_three_views():
    sequences, tables, transition = symbols(3000)
    hmm = CategoricalHMM(3, init="moments", max_iter=0, random_state=0).fit(sequences)
    order = in_true_order(hmm.emissionprob_, tables)
    assert_allclose(hmm.emissionprob_[order], tables, rtol=0, atol=0.04)
    assert_allclose(hmm.transmat_[np.ix_(order, order)], transition, rtol=0, atol=0.05)
    assert hmm.moments_.method == "three-view"


def test_sequences_of_symbols_are_clustered():
    first, *_ = symbols(150, 1)
    other = [3.0 - each for each in symbols(150, 2)[0]]
    model = MixtureOfHMMs(2, 3, emission="categorical", init="moments", random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IdentifiabilityWarning)  # the states of so few symbols are not determined; clusters are
        model.fit(first + other)
    many = MixtureOfHMMs(2, 3, emission="categorical", n_init=10, random_state=0).fit(first + other)
    assert clustering_accuracy(many.predict(first + other), model.predict(first + other)) > 0.95
    assert model.score(first + other) > many.score(first + other) - 0.05


def test_a_mixture_of_points_needs_no_luck():
    for seed in range(4):
        rng = np.random.default_rng(seed)
        means = 2.0 * rng.normal(size=(9, 15))
        x = means[rng.integers(9, size=3000)] + rng.normal(size=(3000, 15))
        found = GaussianMixture(9, covariance_type="spherical", init_params="moments", random_state=seed).fit(x)
        assert_allclose(found.means_[in_true_order(found.means_, means)], means, rtol=0, atol=0.35)
        truth = GaussianMixture(
            9, covariance_type="spherical", weights_init=np.full(9, 1 / 9), means_init=means, precisions_init=np.ones(9)
        )
        assert found.score(x) >= truth.fit(x).score(x) - 1e-3


# ---------------------------------------------------------------------------------------------------------------------
# What moments cannot do
# ---------------------------------------------------------------------------------------------------------------------


def test_little_data_is_doubted():
    sequences, *_ = chain_in_order(4, 1, 0, around=False)
    with pytest.warns(IdentifiabilityWarning, match="15 transitions for 4 states are few; give more data"):
        GaussianHMM(4, init="moments", max_iter=0, random_state=0).fit(sequences)


def test_states_that_look_alike_are_doubted():
    """Two of three states have the same density: no features tell them apart."""
    rng = np.random.default_rng(0)
    means = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [9.0, 9.0, 0.0]])
    sequences, _ = simulate(means, rng.dirichlet(np.ones(3), 3), np.full(3, 1 / 3), 200, 20, rng)
    with pytest.warns(IdentifiabilityWarning, match="fewer than 3 densities above the noise"):
        hmm = GaussianHMM(3, covariance_type="spherical", init="moments", max_iter=0, random_state=0).fit(list(sequences))
    for values in (hmm.means_, hmm.covariances_, hmm.transmat_, hmm.startprob_):
        assert np.isrealobj(values)
        assert np.isfinite(values).all()
    assert hmm.transmat_.min() >= 0
    assert hmm.covariances_.min() > 0


def test_clusters_that_are_not_there_are_doubted():
    sequences, *_ = chain_in_order(3, 200, 0, around=True)
    with pytest.warns(IdentifiabilityWarning, match="hardly fall into 2 clusters"):
        MixtureOfHMMs(2, 3, init="moments", max_iter=0, random_state=0).fit(sequences)


def test_few_symbols_start_from_clusters():
    sequences, *_ = symbols(5)
    with pytest.warns(IdentifiabilityWarning, match="do not determine 3 states"):
        found = CategoricalHMM(3, init="moments", max_iter=0, random_state=0).fit(sequences)
    assert found.moments_ is None
    assert_allclose(found.transmat_, CategoricalHMM(3, max_iter=0, random_state=0).fit(sequences).transmat_, rtol=0, atol=0.5)


def test_more_states_than_symbols_start_from_clusters():
    with pytest.warns(IdentifiabilityWarning, match="fewer states than there are symbols"):
        CategoricalHMM(5, init="moments", max_iter=0, random_state=0).fit(symbols(300)[0])


def test_more_components_than_features_are_doubted():
    x = np.random.default_rng(0).normal(size=(500, 2)) + np.repeat([0.0, 5.0, 10.0, 15.0, 20.0], 100)[:, None]
    with pytest.warns(IdentifiabilityWarning, match="2 features do not determine 5 components"):
        GaussianMixture(5, init_params="moments", random_state=0).fit(x)


def test_known_labels_and_tied_states_are_refused():
    sequences, *_ = chain_in_order(3, 20, 0, around=False)
    labels = [np.full(12, -1) for _ in sequences]
    labels[0][0] = 1
    with pytest.raises(InputError, match="use init='kmeans'"):
        GaussianHMM(3, init="moments").fit(sequences, labels)
    with pytest.raises(ParameterError, match="tied_states"):
        GaussianHMM(3, init="moments", tied_states=(0, 0, 1)).fit(sequences)
    with pytest.raises(InputError, match="init_params='kmeans'"):
        GaussianMixture(2, init_params="moments").fit(np.eye(4), [0, 1, -1, -1])


def test_a_tensor_stays_a_tensor_and_nothing_is_changed():
    sequences, *_ = chain_in_order(3, 20, 0, around=False)
    given = [torch.from_numpy(each.copy()) for each in sequences]
    GaussianHMM(3, init="moments", max_iter=2, tol=0.0, random_state=0).fit(given)
    for before, after in zip(sequences, given, strict=True):
        assert_array_equal(after.numpy(), before)


@pytest.mark.parametrize("model", [GaussianHMM(3, init="moments"), GaussianMixture(2, init_params="moments"), of_three_chains()])
def test_what_started_from_moments_can_be_pickled(model):
    sequences, *_ = three_chains(30, 0)
    data = np.concatenate(sequences) if isinstance(model, GaussianMixture) else sequences
    fitted = model.set_params(max_iter=2, tol=0.0).fit(data)
    assert pickle.loads(pickle.dumps(fitted)).score(data) == fitted.score(data)


@pytest.mark.parametrize("depermute", ["all-lag", "ncut", "eigen"])
def test_sequences_of_one_step_are_refused(depermute):
    sequences, *_ = three_chains(40, 0)
    with pytest.raises(InputError, match="no sequence of X has two steps"):
        of_three_chains(depermute).fit([each[:1] for each in sequences])


def test_what_is_no_symbol_is_refused_as_always():
    sequences, *_ = symbols(20)
    with pytest.raises(InputError, match=r"column 0 of X holds -.; expected whole numbers from 0"):
        CategoricalHMM(3, init="moments").fit([each - 3 for each in sequences])


def test_codes_of_symbols_may_be_far_apart():
    sequences, tables, _ = symbols(3000)
    hmm = CategoricalHMM(3, init="moments", max_iter=0, random_state=0).fit([100 * each for each in sequences])
    found = hmm.emissionprob_[:, ::100]
    assert_allclose(found[in_true_order(found, tables)], tables, rtol=0, atol=0.04)


def test_constant_data_is_doubted_in_few_words():
    with pytest.warns(IdentifiabilityWarning, match=r"condition number \S{1,12}\)"):
        hmm = GaussianHMM(3, init="moments", max_iter=0, random_state=0).fit([np.ones((20, 2))] * 5)
    assert np.isfinite(hmm.means_).all()
    assert "nan" not in str(MixtureOfHMMs(2, 1, init="moments", depermute="ncut", max_iter=0).fit(three_chains(20, 0)[0]).moments_)
