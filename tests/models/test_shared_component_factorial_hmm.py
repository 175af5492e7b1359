"""The factorial HMM with a shared component: sums by brute force, components recovered, and a warning where they cannot be."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from hmmlearn.hmm import GaussianHMM as ReferenceHMM
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import multivariate_normal

from unveil.core.estimator import as_array
from unveil.data.batch import Batch
from unveil.errors import IdentifiabilityWarning, ParameterError
from unveil.models.shared_component_factorial_hmm import SharedComponentFactorialHMM
from unveil.models.shared_component_identification import (
    co_occurrence,
    coherence,
    coherences,
    find_shared,
    group_by_occurrence,
    identify_components,
    read_as_shared,
)

D = 100


def draw_components(n_chains, n_states, seed, *, incoherent=True, n_features=D):
    """Components (K, M, D) of unit variance with a common last one, to which the others are orthogonal."""
    rng = np.random.default_rng(seed)
    own, shared = rng.normal(size=(n_chains, n_states - 1, n_features)), rng.normal(size=n_features)
    shared *= np.sqrt(n_features) / np.linalg.norm(shared)
    if incoherent:
        own -= (own @ shared / (shared @ shared))[:, :, None] * shared
    return np.concatenate([own, np.broadcast_to(shared, (n_chains, 1, n_features))], 1)


def superimpose(components, states, snr_db, seed):
    """Noisy sums (n, D) for states (n, K), and the standard deviation of the noise."""
    sums = components[np.arange(len(components)), states].sum(1)
    noise = np.sqrt(np.square(sums).mean() / 10 ** (snr_db / 10))
    return sums + noise * np.random.default_rng(seed + 1000).normal(size=sums.shape), noise


def draw_states(n_chains, n_states, seed, n_each=40):
    return np.random.default_rng(seed + 2000).integers(n_states, size=(n_each * n_states**n_chains, n_chains))


def scene(n_chains, n_states, snr_db, seed, **options):
    components, states = draw_components(n_chains, n_states, seed, **options), draw_states(n_chains, n_states, seed)
    return components, states, superimpose(components, states, snr_db, seed)[0]


def all_sums(components):
    n_chains, n_states, _ = components.shape
    return np.array([components[range(n_chains), i].sum(0) for i in itertools.product(range(n_states), repeat=n_chains)])


def matched(reference, estimate):
    """The estimate with its chains, and the own components of each, in the order of the reference; and those orders."""
    best = (np.inf,)
    for chains in itertools.permutations(range(len(reference))):
        costs = [cdist(mine[:-1], estimate[k, :-1], "sqeuclidean") for mine, k in zip(reference, chains, strict=True)]
        orders = [linear_sum_assignment(cost)[1] for cost in costs]
        total = sum(cost[np.arange(len(order)), order].sum() for cost, order in zip(costs, orders, strict=True))
        if total < best[0]:
            best = total, chains, [np.r_[order, len(order)] for order in orders]
    _, chains, orders = best
    return np.stack([estimate[k, order] for k, order in zip(chains, orders, strict=True)]), chains, orders


def relative_error(reference, estimate):
    return np.linalg.norm(estimate - reference) / np.linalg.norm(reference)


def small_model(n_chains=2, n_states=3, n_features=2, seed=0):
    """A model with random parameters."""
    generator = torch.Generator().manual_seed(seed)
    model = SharedComponentFactorialHMM(n_chains, n_states).build(n_features)
    with torch.no_grad():
        for probabilities in (model.initial, model.transition):
            drawn = torch.rand(probabilities.shape, dtype=torch.float64, generator=generator)
            probabilities.copy_(drawn / drawn.sum(-1, keepdim=True))
        model.dictionary.copy_(torch.randn(model.dictionary.shape, dtype=torch.float64, generator=generator))
        model.center.copy_(torch.randn(n_features, dtype=torch.float64, generator=generator))
        model.noise_variance.fill_(0.3)
    return model


def small_batch(n_features=2, lengths=(4, 1, 3)):
    values = np.random.default_rng(1).normal(size=(sum(lengths), n_features))
    return Batch(torch.from_numpy(values), torch.tensor([0, *np.cumsum(lengths)]))


# ---- likelihood, posterior and paths against the sum over all paths -------------------------------------------------------


def by_brute_force(model, x):
    """log p(x), the posterior of each chain's states (T, K, M), the most probable paths (T, K), over all paths of all chains."""
    n_chains, n_states = model.initial.shape
    initial, transition, components = (as_array(each) for each in (model.initial, model.transition, model.stacked_components))
    paths = np.array(list(itertools.product(range(n_states), repeat=n_chains * len(x)))).reshape(-1, len(x), n_chains)
    chain = np.arange(n_chains)
    log_joint = np.log(initial[chain, paths[:, 0]]).sum(1)
    for t in range(1, len(x)):
        log_joint += np.log(transition[chain, paths[:, t - 1], paths[:, t]]).sum(1)
    means = components[chain, paths].sum(2)
    noise = multivariate_normal(np.zeros(x.shape[1]), float(model.noise_variance.detach()))
    log_joint += noise.logpdf(x - means).reshape(len(paths), -1).sum(1)
    evidence = np.logaddexp.reduce(log_joint)
    posterior = np.exp(log_joint - evidence)
    states = np.stack([(posterior[:, None, None] * (paths == m)).sum(0) for m in range(n_states)], -1)
    return evidence, states, paths[log_joint.argmax()], log_joint.max()


@pytest.mark.parametrize(("n_chains", "n_states"), [(2, 3), (3, 2), (1, 3)])
def test_everything_is_the_sum_over_all_paths(n_chains, n_states):
    model, batch = small_model(n_chains, n_states), small_batch(lengths=(3, 1, 2))
    expected = [by_brute_force(model, batch.values[a:b].numpy()) for a, b in itertools.pairwise(batch.offsets.tolist())]
    evidence = np.array([each[0] for each in expected])
    assert_allclose(as_array(model.objective(batch)), evidence, rtol=1e-10, atol=0)
    found = model.posterior(batch)
    assert_allclose(as_array(found.log_likelihood), evidence, rtol=1e-10, atol=0)
    assert_allclose(as_array(found.states), np.concatenate([each[1] for each in expected]), rtol=1e-9, atol=1e-12)
    paths, score = model.viterbi(batch)
    assert_array_equal(paths.numpy(), np.concatenate([each[2] for each in expected]))
    assert_allclose(score.numpy(), [each[3] for each in expected], rtol=1e-10, atol=0)
    parts = np.einsum("tkm,kmd->tkd", np.concatenate([each[1] for each in expected]), as_array(model.stacked_components))
    assert_allclose(as_array(model.parts(batch)), parts, rtol=1e-9, atol=1e-12)


def test_one_chain_is_a_hidden_markov_model():
    model, batch = small_model(1, 3), small_batch()
    reference = ReferenceHMM(3, covariance_type="spherical")
    reference.startprob_, reference.transmat_ = as_array(model.initial[0]), as_array(model.transition[0])
    reference.means_, reference.covars_ = as_array(model.stacked_components[0]), np.full(3, 0.3)
    lengths = batch.lengths.tolist()
    assert_allclose(
        float(model.objective(batch).detach().sum()), reference.score(batch.values.numpy(), lengths), rtol=1e-10, atol=0
    )


def test_the_m_step_is_least_squares_on_certain_states():
    """With next to no noise the posterior is certain, and the components are those of numpy's regression on the true states."""
    components, states, X = scene(2, 3, 60, seed=0, n_features=6)
    model = SharedComponentFactorialHMM(2, 3).build(6)
    with torch.no_grad():
        model._set_components(torch.from_numpy(components))
        model.noise_variance.fill_(1e-4)
    model.maximize(model.expect(Batch(torch.from_numpy(X), torch.tensor([0, len(X)]))))
    counts = np.stack([(states[:, k] == m) for k in range(2) for m in range(2)] + [(states == 2).sum(1)], 1).astype(float)
    expected, *_ = np.linalg.lstsq(counts, X, rcond=None)
    assert_allclose(as_array(model.stacked_components)[:, :2].reshape(4, 6), expected[:4], rtol=1e-8, atol=1e-10)
    assert_allclose(as_array(model.stacked_components)[:, 2], np.stack([expected[4]] * 2), rtol=1e-8, atol=1e-10)
    variance = np.square(X - counts @ expected).mean()
    assert_allclose(float(model.noise_variance.detach()), variance, rtol=1e-6, atol=0)
    pairs = np.zeros((3, 3))
    np.add.at(pairs, (states[:-1, 1], states[1:, 1]), 1.0)
    assert_allclose(as_array(model.transition[1]), pairs / pairs.sum(1, keepdims=True), rtol=1e-8, atol=1e-12)


def test_the_order_of_chains_and_states_does_not_matter():
    model, batch = small_model(), small_batch()
    other = small_model()
    with torch.no_grad():
        order = [1, 0, 2]  # the shared state stays the last one
        other._set_components(model.stacked_components.flip(0)[:, order])
        other.initial.copy_(model.initial.flip(0)[:, order])
        other.transition.copy_(model.transition.flip(0)[:, order][:, :, order])
    for _ in range(3):
        statistics = [each.expect(batch) for each in (model, other)]
        assert_allclose(statistics[1].log_likelihood, statistics[0].log_likelihood, rtol=1e-10, atol=0)
        for each, its in zip((model, other), statistics, strict=True):
            each.maximize(its)
    assert_allclose(as_array(other.stacked_components.flip(0)[:, order]), as_array(model.stacked_components), rtol=1e-7, atol=1e-9)


# ---- identification --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_chains", [1, 2, 3])
def test_components_are_read_from_the_sums_themselves(n_chains):
    components = draw_components(n_chains, 4, seed=3)
    centers = np.random.default_rng(0).permutation(all_sums(components))
    found = identify_components(centers, n_chains, 4, seed=0)
    assert found.n_singles == 3 * n_chains
    if n_chains > 1:  # one chain has nothing to share
        assert_allclose(found.incoherence, 0.0, rtol=0, atol=1e-12)
        assert_allclose(matched(components, found.components)[0], components, rtol=0, atol=1e-10)


def test_the_projections_on_the_shared_component_count_chains():
    components = draw_components(3, 3, seed=1)
    counts = np.array([sum(m == 2 for m in i) for i in itertools.product(range(3), repeat=3)])
    shared, projections = find_shared(all_sums(components), 3)
    assert_allclose(shared, components[0, -1], rtol=0, atol=1e-12)
    assert_allclose(projections, counts, rtol=0, atol=1e-12)


def test_what_is_missing_is_found_in_what_the_rest_leaves_over():
    components = draw_components(2, 4, seed=2)
    alone = 0 * 4 + 3  # the combination of the first component of the first chain and the shared one
    found = identify_components(np.delete(all_sums(components), alone, 0), 2, 4, seed=0)
    assert found.n_singles == 5
    assert_allclose(matched(components, found.components)[0], components, rtol=0, atol=1e-10)


def test_clusters_that_were_split_are_averaged():
    components = draw_components(2, 4, seed=2)
    sums, nudge = all_sums(components), 0.01 * np.random.default_rng(0).normal(size=D)
    split = np.vstack([np.delete(sums, 3, 0), sums[3] + nudge, sums[3] - nudge])
    found = identify_components(split, 2, 4, seed=0)
    assert found.n_singles == 7
    assert_allclose(matched(components, found.components)[0], components, rtol=0, atol=1e-3)


def test_what_never_occurs_together_is_one_group():
    chains = np.random.default_rng(0).permutation(np.repeat(np.arange(3), 4))
    together = (chains[:, None] != chains).astype(float)
    groups = group_by_occurrence(together, 3, seed=0)
    assert_array_equal(groups[:, None] == groups, chains[:, None] == chains)


def test_co_occurrence_counts_centres():
    components = draw_components(2, 3, seed=0)
    singles = components[:, :-1].reshape(4, -1)
    expected = np.kron([[0, 1], [1, 0]], np.ones((2, 2)))
    assert_array_equal(co_occurrence(all_sums(components), singles, components[0, -1], 2), expected)


@pytest.mark.parametrize("state", [(0, 2), (3, 3), (1, 0)])
def test_any_combination_can_be_called_shared(state):
    """The sums stay: which combination is shared no likelihood can tell; which is incoherent, the coherences do."""
    components = draw_components(2, 4, seed=5)
    other = read_as_shared(components, state)
    assert_allclose(other[0, -1], other[1, -1], rtol=0, atol=1e-12)
    gaps = cdist(all_sums(other), all_sums(components))
    assert_allclose(gaps.min(1), 0.0, rtol=0, atol=1e-6)
    assert len(set(gaps.argmin(1))) == 16
    assert_allclose(coherence(other), coherences(components)[state], rtol=1e-10, atol=1e-12)
    found = coherences(other)
    assert_allclose(np.sort(found, axis=None)[0], 0.0, rtol=0, atol=1e-12)
    best = read_as_shared(other, np.unravel_index(found.argmin(), found.shape))
    assert_allclose(matched(components, best)[0], components, rtol=0, atol=1e-10)


def test_coherence_is_the_share_of_length_along_the_shared_component():
    angle = np.array([[[3 * np.cos(0.7), 3 * np.sin(0.7)], [2.0, 0.0]]])
    assert_allclose(coherence(angle), np.cos(0.7), rtol=1e-12, atol=0)
    components = draw_components(2, 4, 0, incoherent=False, n_features=5)
    others, shared = components[:, :-1].reshape(6, 5), components[0, -1]
    along = others @ np.outer(shared, shared) / (shared @ shared)
    assert_allclose(coherence(components), np.linalg.norm(along) / np.linalg.norm(others), rtol=1e-12, atol=0)


def test_another_choice_of_the_shared_state_is_the_same_model():
    model = small_model(n_states=3, n_features=5)
    batch = small_batch(n_features=5)
    model.maximize(model.expect(batch))
    before, parameters = as_array(model.objective(batch)), model.count_parameters()
    paths, occupancy = model.viterbi(batch)[0].numpy(), as_array(model.occupancy)
    components = as_array(model.stacked_components)
    model.settle()
    after = as_array(model.stacked_components)
    assert relative_error(components, after) > 0.1, "another combination is less coherent"
    assert_allclose(as_array(model.objective(batch)), before, rtol=1e-10, atol=0)
    assert model.count_parameters() == parameters
    assert_allclose(coherence(after), coherences(components).min(), rtol=1e-8, atol=1e-12)
    again = model.viterbi(batch)[0].numpy()
    for k in range(2):  # the same paths under other names
        assert len(set(zip(paths[:, k], again[:, k], strict=True))) == len(set(paths[:, k]))
    assert_allclose(as_array(model.expect(batch).combinations).sum(), occupancy.sum(), rtol=1e-10, atol=0)
    order = cdist(all_sums(after), all_sums(components)).argmin(1)
    assert_allclose(as_array(model.occupancy), occupancy[order], rtol=1e-10, atol=1e-12)


# ---- recovery --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_chains", "snr_db", "most"),
    # Of least squares with known states the error is about sqrt(K / (10^(snr/10) n / M)), where each component is in n / M of the n steps.
    [(2, 40, 0.006), (2, 20, 0.06), (2, 10, 0.1), (3, 20, 0.06)],
)
def test_components_are_recovered(n_chains, snr_db, most):
    for seed in range(10):
        components, states, X = scene(n_chains, 4, snr_db, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("error", IdentifiabilityWarning)
            hmm = SharedComponentFactorialHMM(n_chains, 4, n_init=5 - n_chains, random_state=seed).fit(X)
        found, chains, orders = matched(components, hmm.components_)
        assert relative_error(components, found) < most
        assert relative_error(components[0, -1], hmm.shared_component_) < most
        paths = hmm.predict_states(X)
        for i, (k, order) in enumerate(zip(chains, orders, strict=True)):
            assert (np.argsort(order)[paths[:, k]] == states[:, i]).mean() > 0.999
        assert hmm.diagnostics_.all_shared_observed
        assert hmm.diagnostics_.n_groups == 1


def test_learning_improves_on_what_the_centres_say():
    components, _, X = scene(2, 4, 10, seed=1)
    hmm = SharedComponentFactorialHMM(2, 4, n_init=1, random_state=0)
    estimates = [hmm.set_params(max_iter=n).build(D) for n in (1, 10)]
    errors = []
    for model, n_iter in zip(estimates, (0, 10), strict=True):
        batches, _ = hmm._read(X, reset=True)
        model.initialize(batches, torch.Generator().manual_seed(0))
        for _ in range(n_iter):
            model.maximize(model.expect(next(iter(batches.replace(batch_steps=len(X))))))
        model.settle()
        errors.append(relative_error(components, matched(components, as_array(model.stacked_components))[0]))
    assert errors[1] < 0.7 * errors[0]


def test_chains_are_learned():
    """Transition probabilities within five standard errors of the true ones."""
    rng = np.random.default_rng(0)
    components = draw_components(2, 3, seed=0, n_features=20)
    transition = rng.dirichlet(np.ones(3), size=(2, 3))
    states, uniform = np.zeros((4000, 2), dtype=int), rng.random((4000, 2, 1))
    for t in range(1, len(states)):
        states[t] = (transition[[0, 1], states[t - 1]].cumsum(1) < uniform[t]).sum(1)
    X, noise = superimpose(components, states, 20, seed=0)
    hmm = SharedComponentFactorialHMM(2, 3, n_init=2, random_state=0).fit(X)
    _, chains, orders = matched(components, hmm.components_)
    for i, (k, order) in enumerate(zip(chains, orders, strict=True)):
        visits = np.bincount(states[:-1, i], minlength=3)
        error = np.sqrt(transition[i] * (1 - transition[i]) / visits[:, None])
        assert (np.abs(hmm.transmat_[k][order][:, order] - transition[i]) < 5 * error + 1e-3).all()
    assert_allclose(hmm.noise_variance_, noise**2, rtol=0.02, atol=0)
    parts = hmm.transform(X)
    truth = components[[0, 1], states]
    assert relative_error(truth, parts[:, list(chains)]) < 0.02
    assert_allclose(hmm.reconstruct(X), parts.sum(1), rtol=1e-10, atol=1e-10)
    assert relative_error(truth.sum(1), hmm.reconstruct(X)) < 0.02 < relative_error(truth.sum(1), X)


def test_sampled_sequences_are_learned_again():
    first = SharedComponentFactorialHMM(2, 3, n_init=2, random_state=0).fit(scene(2, 3, 20, seed=0, n_features=30)[2])
    X, labels = first.sample(20, length=50, random_state=1)
    states = np.stack(np.unravel_index(labels, (3, 3)), -1)
    assert (first.predict_states(X) == states).mean() > 0.99
    again = SharedComponentFactorialHMM(2, 3, n_init=2, random_state=0).fit(X)
    assert relative_error(first.components_, matched(first.components_, again.components_)[0]) < 0.03


def test_number_of_parameters():
    hmm = SharedComponentFactorialHMM(2, 3, n_init=1, random_state=0).fit(scene(2, 3, 20, seed=0, n_features=30)[2])
    assert hmm.model_.count_parameters() == 5 * 30 + 1 + 2 * (2 + 6)
    assert hmm.bic(scene(2, 3, 20, seed=0, n_features=30)[2]) < 0


# ---- what cannot be identified ---------------------------------------------------------------------------------------


def doubts(X, n_chains=2, n_states=4, **options):
    """What the warning of a fit says."""
    hmm = SharedComponentFactorialHMM(n_chains, n_states, **{"n_init": 3, "random_state": 0} | options)
    with pytest.warns(IdentifiabilityWarning) as caught:
        hmm.fit(X)
    assert "\n" not in str(caught[0].message)
    assert hmm.diagnostics_.doubts
    return hmm, str(caught[0].message)


@pytest.mark.parametrize("seed", range(4))
def test_a_coherent_shared_component_is_doubted(seed):
    hmm, message = doubts(scene(2, 4, 20, seed, incoherent=False)[2])
    assert "orthogonal" in message
    assert hmm.diagnostics_.coherence > 0.5 * hmm.diagnostics_.rival_coherence


@pytest.mark.parametrize("seed", range(4))
def test_components_that_were_never_alone_are_doubted(seed):
    components, states = draw_components(2, 4, seed), draw_states(2, 4, seed)
    states = states[(states == 3).sum(1) != 1]
    hmm, message = doubts(superimpose(components, states, 20, seed)[0])
    assert "alone" in message
    assert hmm.diagnostics_.n_singles < 6


@pytest.mark.parametrize("seed", range(4))
def test_components_that_were_never_together_are_doubted(seed):
    """Then nothing says which belong to one chain."""
    components, states = draw_components(2, 4, seed), draw_states(2, 4, seed)
    states = states[(states != 3).sum(1) <= 1]
    hmm, message = doubts(superimpose(components, states, 20, seed)[0])
    assert "separate groups" in message
    assert hmm.diagnostics_.n_groups > 1
    assert relative_error(components[0, -1], hmm.shared_component_) < 0.02


def test_components_that_the_combinations_do_not_determine_are_doubted():
    """Two chains that always move together: of 5 components 3 sums are seen."""
    components, states = draw_components(2, 3, 0), np.random.default_rng(0).integers(3, size=300)
    hmm, message = doubts(superimpose(components, np.stack([states, states], 1), 20, 0)[0], n_states=3)
    assert "determined" in message or "alone" in message
    assert np.isfinite(hmm.components_).all()


@pytest.mark.parametrize(("n_chains", "n_states"), [(3, 3), (2, 3)])
def test_sums_of_other_numbers_are_doubted(n_chains, n_states):
    hmm, message = doubts(scene(2, 4, 20, 0)[2], n_chains, n_states)
    assert "n_chains" in message
    assert np.isfinite(hmm.score(scene(2, 4, 20, 0)[2]))


def test_too_many_combinations_are_refused():
    with pytest.raises(ParameterError, match="joint states"):
        SharedComponentFactorialHMM(7, 4).fit(np.ones((5, 2)))


def test_impossible_transitions_stay_impossible():
    X = scene(2, 3, 20, seed=0, n_features=30)[2]
    given = np.full((2, 3, 3), 1 / 3)
    given[0, 1] = [0.5, 0.5, 0.0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IdentifiabilityWarning)
        hmm = SharedComponentFactorialHMM(2, 3, n_init=1, transmat_init=given, random_state=0).fit(X)
    assert (hmm.transmat_ == 0).sum() == 1


@pytest.mark.parametrize("seed", [0, 2])
def test_sums_that_cannot_be_read_are_learned_from_small_random_components(seed):
    """The centres give wrong components, but likelihood still finds the sums, though not what is shared."""
    components, _, X = scene(2, 4, 20, seed, incoherent=False)
    hmm, _ = doubts(X, n_init=10)
    assert hmm.diagnostics_.n_singles != 6
    assert hmm.diagnostics_.noise_ratio < 1.1
    sums, found = all_sums(components), all_sums(hmm.components_)
    nearest = linear_sum_assignment(cdist(sums, found))[1]
    assert relative_error(sums, found[nearest]) < 0.02
