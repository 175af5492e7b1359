"""The factorial hidden Markov model against a chain of all combinations, gradients, closed forms and what made the data."""

import itertools
import pickle
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linear_sum_assignment
from scipy.stats import multivariate_normal

import unveil
from unveil.data.batch import Batches
from unveil.data.layout import read_sequences
from unveil.errors import IdentifiabilityWarning, InputError, ParameterError
from unveil.learn.em import em
from unveil.models.factorial_hmm import FactorialHMM
from unveil.models.gaussian_hmm import GaussianHMM

RNG = np.random.default_rng


def random_parameters(seed, n_chains=2, n_states=3, n_features=2, covariance_type="diag", spread=2.0):
    rng = RNG(seed)
    a = rng.normal(size=(n_features, n_features))
    full = a @ a.T / n_features + 0.2 * np.eye(n_features)
    covariance = {"diag": np.diagonal(full), "spherical": np.array(0.4)}.get(covariance_type, full)
    return {
        "n_chains": n_chains,
        "n_states": n_states,
        "covariance_type": covariance_type,
        "startprob_init": rng.dirichlet(np.ones(n_states), n_chains),
        "transmat_init": 0.6 * np.eye(n_states) + 0.4 * rng.dirichlet(np.ones(n_states), (n_chains, n_states)),
        "means_init": spread * rng.normal(size=(n_chains, n_states, n_features)),
        "covariance_init": covariance,
    }


def as_it_is(X, **settings):
    """An estimator with given parameters that have not learned anything yet."""
    estimator = FactorialHMM(**settings)
    batches, _ = read_sequences(X)
    model = estimator.build(batches.n_features)
    model.initialize(batches, torch.Generator().manual_seed(0))
    estimator.model_, estimator.n_features_in_ = model, batches.n_features
    return estimator


def drawn(seed, n_sequences=6, length=30, **options):
    """Sequences, the estimator that made them, and the numbers of the combinations."""
    settings = random_parameters(seed, **options)
    some = [RNG(seed).normal(size=(20, settings["means_init"].shape[2]))]
    estimator = as_it_is(some, **settings)
    X, labels = estimator.sample(n_sequences, length=length, random_state=seed)
    return list(X), estimator, labels


def flattened(estimator):
    """One chain whose states are all combinations."""
    pi, a = np.ones(1), np.ones((1, 1))
    for start, transition in zip(estimator.startprob_, estimator.transmat_, strict=True):
        pi, a = np.kron(pi, start), np.kron(a, transition)
    means = np.array([sum(chosen) for chosen in itertools.product(*estimator.means_)])
    covariance = estimator.covariance_
    full = covariance if covariance.ndim == 2 else np.diag(np.broadcast_to(covariance, means.shape[1]))
    return GaussianHMM(
        len(pi), covariance_type="tied", startprob_init=pi, transmat_init=a, means_init=means, covariances_init=full, max_iter=1
    )


def started(hmm, X):
    """A Gaussian HMM with its starting values."""
    batches, _ = read_sequences(X)
    hmm.model_ = hmm.build(batches.n_features)
    hmm.model_.initialize(batches, torch.Generator().manual_seed(0))
    hmm.n_features_in_ = batches.n_features
    return hmm


# ---- oracles -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance_type", ["diag", "full", "tied", "spherical"])
def test_it_is_one_chain_of_all_combinations(covariance_type):
    X, estimator, _ = drawn(0, covariance_type=covariance_type)
    X[0] = X[0][:7]
    flat = started(flattened(estimator), X)
    assert_allclose(estimator.score_samples(X), flat.score_samples(X), rtol=1e-12, atol=0)
    log_joint, paths = flat.decode(X)
    combinations = np.array(list(itertools.product(range(3), repeat=2)))
    for mine, path in zip(estimator.predict_states(X), paths, strict=True):
        assert_array_equal(mine, combinations[path])
    on = np.eye(3)[combinations].reshape(9, 6)
    for mine, proba in zip(estimator.predict_proba(X), flat.predict_proba(X), strict=True):
        assert_allclose(mine.reshape(-1, 6), proba @ on, rtol=0, atol=1e-10)
    n_steps = sum(map(len, X))
    penalty = estimator.model_.count_parameters() * np.log(n_steps)
    assert_allclose(estimator.icl(X), -2 * log_joint.sum() + penalty, rtol=1e-10, atol=0)
    assert_allclose(estimator.bic(X), -2 * flat.score_samples(X).sum() + penalty, rtol=1e-10, atol=0)


def test_combinations_have_the_densities_of_their_sums():
    X, estimator, _ = drawn(1, covariance_type="full")
    batch = next(iter(read_sequences(X[:1])[0]))
    densities = [multivariate_normal(mean, estimator.covariance_).logpdf(X[0]) for mean in estimator.combination_means()]
    assert_allclose(estimator.model_.log_emission(batch).detach(), np.array(densities).T, rtol=1e-10, atol=1e-10)


def test_expected_moments_are_those_of_the_combinations():
    X, estimator, _ = drawn(2, n_chains=3, n_states=2)
    batch = next(iter(read_sequences(X)[0]))
    found, flat = estimator.model_.expect(batch), started(flattened(estimator), X)
    proba = np.concatenate(flat.predict_proba(X))
    on = np.eye(2)[np.array(list(itertools.product(range(2), repeat=3)))].reshape(8, 6)
    y = np.concatenate(X) - estimator.model_.center.numpy()
    assert_allclose(found.indicators, on.T @ np.diag(proba.sum(0)) @ on, rtol=0, atol=1e-9)
    assert_allclose(found.products, (proba @ on).T @ y, rtol=0, atol=1e-9)


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "variational"])
def test_the_m_step_leaves_no_gradient(exact):
    """At its result, the expected complete-data log-likelihood is flat in means and covariance: here it is summed up by hand."""
    X, _, _ = drawn(3, covariance_type="full")
    model = as_it_is(X, **random_parameters(33, covariance_type="full"), inference="exact" if exact else "variational").model_
    batch = next(iter(read_sequences(X)[0]))
    s = model.expect(batch)
    model.maximize(s)
    means, covariance = model.means.detach().clone().requires_grad_(), model.covariance.detach().clone().requires_grad_()
    o = (means - model.center / 2).flatten(0, 1)
    residual = s.squares - s.products.T @ o - o.T @ s.products + o.T @ s.indicators @ o
    expected = -0.5 * (s.weight * torch.logdet(covariance) + (torch.linalg.inv(covariance) * residual).sum())
    expected.backward()
    assert_allclose(means.grad, 0.0, rtol=0, atol=1e-7)
    assert_allclose(covariance.grad, 0.0, rtol=0, atol=1e-7)


@pytest.mark.parametrize("inference", ["exact", "variational"])
def test_the_objective_has_the_gradient_of_its_values(inference):
    """By central differences; the bound is at a maximum over q, so that there only its explicit part counts."""
    X, _, _ = drawn(4, n_sequences=2, length=8)
    model = as_it_is(X, **random_parameters(4), inference=inference, n_sweeps=60).model_
    batch = next(iter(read_sequences(X)[0]))
    model.objective(batch).sum().backward()
    for name in ("means", "covariance"):
        parameter = model.get_parameter(name)
        with torch.no_grad():
            for index in [(0,) * parameter.ndim, tuple(size - 1 for size in parameter.shape)]:
                kept, values = parameter[index].item(), []
                for step in (1e-5, -1e-5):
                    parameter[index] = kept + step
                    values.append(float(model.objective(batch).sum()))
                parameter[index] = kept
                assert_allclose(parameter.grad[index], (values[0] - values[1]) / 2e-5, rtol=1e-5, atol=1e-5)


# ---- variational inference -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_variational_bound_is_below_the_likelihood(seed):
    X, _, _ = drawn(seed, n_chains=3, n_states=2, spread=1.0)
    settings = random_parameters(seed, n_chains=3, n_states=2, spread=1.0)
    exact, bound = (as_it_is(X, **settings, inference=each).score_samples(X) for each in ("exact", "variational"))
    assert (bound < exact).all()
    assert (exact - bound).mean() < 0.2 * np.abs(exact).mean()


def test_the_variational_bound_is_what_it_says():
    """E_q[log p(x, z)] - E_q[log q(z)], summed over all paths of a short sequence with the chains' own forward-backward."""
    X, _, _ = drawn(5, n_sequences=1, length=3, n_states=2)
    estimator = as_it_is(X, **random_parameters(5, n_states=2), inference="variational")
    batch = next(iter(read_sequences(X)[0]))
    model = estimator.model_
    h = model._variational(batch).log_emission.numpy()
    paths, q = list(itertools.product(range(2), repeat=3)), []
    for k in range(2):
        weights = [log_prior(estimator, k, path) + sum(h[t, k, m] for t, m in enumerate(path)) for path in paths]
        q.append(np.exp(weights) / np.exp(weights).sum())
    bound = 0.0
    for (a, first), (b, second) in itertools.product(zip(paths, q[0], strict=True), zip(paths, q[1], strict=True)):
        mean = estimator.means_[0][list(a)] + estimator.means_[1][list(b)]
        log_x = multivariate_normal(np.zeros(2), np.diag(estimator.covariance_)).logpdf(X[0] - mean).sum()
        bound += first * second * (log_x + log_prior(estimator, 0, a) + log_prior(estimator, 1, b) - np.log(first * second))
    assert_allclose(estimator.score_samples(X)[0], bound, rtol=1e-10, atol=0)


def log_prior(estimator, k, path):
    steps = np.log(estimator.transmat_[k][path[:-1], path[1:]])
    return np.log(estimator.startprob_[k, path[0]]) + steps.sum()


def test_sweeps_that_begin_softly_find_better_posteriors():
    """Than sweeps from even states with the full likelihood at once, which settle early."""
    soft, hard = [], []
    for seed in range(4):
        X, estimator, _ = drawn(seed, n_chains=3, n_features=4, spread=4.0)
        batch, model = next(iter(read_sequences(X)[0])), estimator.model_
        even = torch.full((batch.n_steps, 3, 3), 1 / 3, dtype=torch.float64)
        for found, start in ((soft, None), (hard, even)):
            found.append(float(model._bound(model._variational(batch, start), batch).detach().mean()))
    assert (np.array(soft) > hard).all()


def test_with_one_chain_variational_inference_is_exact():
    X, _, _ = drawn(6, n_chains=1)
    settings = random_parameters(6, n_chains=1)
    exact, variational = (as_it_is(X, **settings, inference=each) for each in ("exact", "variational"))
    assert_allclose(variational.score_samples(X), exact.score_samples(X), rtol=1e-12, atol=0)
    assert_allclose(variational.icl(X), exact.icl(X), rtol=1e-12, atol=0)
    for first, second in zip(variational.predict_proba(X), exact.predict_proba(X), strict=True):
        assert_allclose(first, second, rtol=0, atol=1e-12)


def test_variational_em_does_not_lower_the_bound():
    X, _, _ = drawn(7, n_chains=3)
    batches, _ = read_sequences(X)
    for seed in range(3):
        model = FactorialHMM(3, 3, inference="variational", n_sweeps=2).build(2)
        model.initialize(batches, torch.Generator().manual_seed(seed))
        objective = np.array(em(model, batches, max_iter=40, tol=0.0).objective)
        assert (np.diff(objective) >= -1e-10 * np.abs(objective[1:])).all()
        assert objective[-1] > objective[0] + 0.1


def test_variational_statistics_add_and_count_weights():
    X, _, _ = drawn(8)
    model = as_it_is(X, **random_parameters(8), inference="variational").model_
    counts = np.array([2, 0, 1, 3, 1, 1])
    batches, _ = read_sequences(X)
    weighted = model.expect(next(iter(batches.replace(weights=counts.astype(float)))))
    repeated, _ = read_sequences([X[i] for i in np.repeat(np.arange(6), counts)])
    model.forget()
    parts = [model.expect(batch) for batch in repeated.replace(batch_steps=1)]
    assert len(parts) == 8
    total = sum(parts[1:], parts[0])
    for name in ("initial", "transitions", "indicators", "products", "squares"):
        assert_allclose(getattr(weighted, name), getattr(total, name), rtol=1e-9, atol=1e-9, err_msg=name)
    assert_allclose(weighted.log_likelihood, total.log_likelihood, rtol=1e-10, atol=0)


def test_variational_paths_cannot_be_improved_by_one_chain_and_are_scored_right():
    X, _, _ = drawn(9, n_chains=3, n_states=2, n_sequences=2, length=12)
    settings = random_parameters(9, n_chains=3, n_states=2)
    variational, exact = (as_it_is(X, **settings, inference=each) for each in ("variational", "exact"))
    batch = next(iter(read_sequences(X)[0]))
    paths, score = variational.model_.viterbi(batch)
    best, highest = exact.model_.viterbi(batch)
    assert (score <= highest + 1e-9).all()
    assert_allclose(variational.model_.log_joint(batch, one_hot(best)).detach(), highest, rtol=1e-12, atol=0)
    for n, k, t in itertools.product(range(2), range(3), range(12)):
        changed = paths.clone()
        changed[12 * n + t, k] = 1 - changed[12 * n + t, k]
        assert (variational.model_.log_joint(batch, one_hot(changed)) <= score + 1e-9).all()


def one_hot(paths):
    return torch.nn.functional.one_hot(paths, 2).double()


def test_many_chains_are_learned_variationally():
    X, _, _ = drawn(10, n_chains=6, n_features=8, n_sequences=3)
    estimator = FactorialHMM(12, 2, n_init=1, max_iter=3, tol=0.0, random_state=0).fit(X)
    assert not estimator.model_.exact
    assert FactorialHMM(10, 2).build(8).exact
    assert estimator.predict_states(X)[0].shape == (30, 12)
    assert estimator.predict_proba(X)[0].shape == (30, 12, 2)
    assert estimator.sample(2, length=5)[1].max() < 2**12


# ---- recovery and reduction ----------------------------------------------------------------------------------------------


def test_it_finds_the_sums_and_the_dynamics_that_made_the_data():
    X, truth, labels = drawn(14, n_sequences=30, length=100, n_features=3)
    found = FactorialHMM(2, 3, random_state=0).fit(X)
    gain = found.score(X) - truth.score(X)
    assert 0 < gain < 1.5  # nats per sequence; 34 parameters fit half a nat each of the noise in 30 sequences
    sums, true = found.combination_means(), truth.combination_means()
    apart = ((sums[:, None] - true) ** 2).sum(2)
    _, order = linear_sum_assignment(apart)
    assert_allclose(sums, true[order], rtol=0, atol=0.15)  # about 100 steps or more for each combination
    assert_allclose(found.covariance_, truth.covariance_, rtol=0.1, atol=0)
    mine = np.ravel_multi_index(np.concatenate(found.predict_states(X)).T, (3, 3))
    best = np.ravel_multi_index(np.concatenate(truth.predict_states(X)).T, (3, 3))
    assert (order[mine] == labels.ravel()).mean() > (best == labels.ravel()).mean() - 0.01
    diagonals = np.sort(np.diagonal(found.transmat_, axis1=1, axis2=2).ravel())
    assert_allclose(diagonals, np.sort(np.diagonal(truth.transmat_, axis1=1, axis2=2).ravel()), rtol=0, atol=0.1)


def test_with_one_chain_it_is_a_gaussian_hmm_with_tied_covariance():
    X, _, _ = drawn(12, n_chains=1)
    start = random_parameters(13, n_chains=1, covariance_type="full")
    mine = FactorialHMM(**start, max_iter=10, tol=0.0).fit(X)
    other = GaussianHMM(
        3,
        covariance_type="tied",
        startprob_init=start["startprob_init"][0],
        transmat_init=start["transmat_init"][0],
        means_init=start["means_init"][0],
        covariances_init=start["covariance_init"],
        max_iter=10,
        tol=0.0,
    ).fit(X)
    assert_allclose(mine.history_.objective, other.history_.objective, rtol=1e-10, atol=0)
    assert_allclose(mine.means_[0], other.means_, rtol=0, atol=1e-8)
    assert_allclose(mine.covariance_, other.covariances_, rtol=0, atol=1e-8)


def test_sequences_of_one_step_and_one_state():
    X = list(RNG(0).normal(size=(50, 1, 2)))
    found = FactorialHMM(2, 1, covariance_type="full", random_state=0).fit(X)
    points = np.concatenate(X)
    normal = multivariate_normal(points.mean(0), np.cov(points.T, bias=True))
    assert_allclose(found.score_samples(X), normal.logpdf(points), rtol=1e-9, atol=0)


def test_samples_have_the_moments_of_the_model():
    X, estimator, labels = drawn(14, n_sequences=200, length=50, covariance_type="full")
    states = estimator.split_labels(labels)
    assert states.shape == (200, 50, 2)
    residual = X - estimator.combination_means()[labels]
    assert_allclose(np.cov(residual.reshape(-1, 2).T), estimator.covariance_, rtol=0, atol=0.1)
    assert_allclose(residual.mean((0, 1)), 0.0, rtol=0, atol=0.05)
    for k in range(2):
        moves = np.zeros((3, 3))
        np.add.at(moves, (states[:, :-1, k], states[:, 1:, k]), 1)
        assert_allclose(moves / moves.sum(1, keepdims=True), estimator.transmat_[k], rtol=0, atol=0.04)


# ---- what the data cannot tell -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_chains", "n_states"), [(1, 3), (2, 3), (3, 2)])
def test_the_rank_and_an_alternative(n_chains, n_states):
    X, _, _ = drawn(15, n_chains=n_chains, n_states=n_states, n_sequences=10)
    estimator = FactorialHMM(n_chains, n_states, max_iter=5, tol=0.0, n_init=1, random_state=0).fit(X)
    found = estimator.identifiability()
    assert found.n_means == n_chains * n_states
    assert found.rank == found.rank_bound == n_chains * n_states - (n_chains - 1)
    other = estimator.with_means(found.alternative)
    assert_allclose(other.score_samples(X), estimator.score_samples(X), rtol=1e-12, atol=0)
    assert_array_equal(np.concatenate(other.predict_states(X)), np.concatenate(estimator.predict_states(X)))
    moved = np.abs(found.alternative - estimator.means_).max()
    assert moved > estimator.means_.std((0, 1)).max() if n_chains > 1 else moved == 0
    shifts = found.alternative - estimator.means_
    assert_allclose(shifts - shifts.mean(1, keepdims=True), 0.0, rtol=0, atol=1e-12)
    assert_allclose(shifts.mean(1).sum(0), 0.0, rtol=0, atol=1e-12)
    shortest = estimator.with_means(found.balanced)
    assert_allclose(shortest.score_samples(X), estimator.score_samples(X), rtol=1e-12, atol=0)
    assert_allclose(np.ptp(found.balanced.mean(1), axis=0), 0.0, rtol=0, atol=1e-12)
    assert (found.balanced**2).sum() <= (estimator.means_**2).sum()


def test_em_moves_means_only_where_the_data_speaks():
    """A start that is shifted by c_k from chain to chain ends with the same shift, and the same likelihood."""
    X, _, _ = drawn(16)
    start = random_parameters(17)
    shift = np.array([3.0, -3.0])[:, None, None] * [1.0, -2.0]
    first = FactorialHMM(**start, max_iter=8, tol=0.0).fit(X)
    second = FactorialHMM(**start | {"means_init": start["means_init"] + shift}, max_iter=8, tol=0.0).fit(X)
    assert_allclose(second.history_.objective, first.history_.objective, rtol=1e-10, atol=0)
    assert_allclose(second.means_ - first.means_, np.broadcast_to(shift, (2, 3, 2)), rtol=0, atol=1e-8)


def test_fewer_parameters_than_means():
    model = FactorialHMM(3, 4, covariance_type="full").build(5)
    assert model.count_parameters() == 3 * 3 + 3 * 4 * 3 + 5 * (12 - 2) + 15
    assert FactorialHMM(1, 4).build(5).count_parameters() == 3 + 12 + 20 + 5


def test_states_that_do_not_occur_are_told():
    X = [np.repeat([[0.0], [5.0]], 20, axis=0) + 0.1 * RNG(0).normal(size=(40, 1))]
    start = {"startprob_init": [[0.5, 0.5], [1.0, 0.0]], "transmat_init": [[[0.5, 0.5], [0.5, 0.5]], [[1.0, 0.0], [1.0, 0.0]]]}
    estimator = FactorialHMM(2, 2, **start, random_state=0).fit(X)
    with pytest.warns(IdentifiabilityWarning, match="determine 2 means, of 3"):
        assert estimator.identifiability().rank == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error", IdentifiabilityWarning)
        FactorialHMM(1, 2, n_init=1, random_state=0).fit(X).identifiability()


# ---- use -----------------------------------------------------------------------------------------------------------------


def test_a_saved_model_still_says_what_is_determined(tmp_path):
    X, _, _ = drawn(18)
    estimator = FactorialHMM(2, 3, max_iter=3, tol=0.0, n_init=1, random_state=0).fit(X)
    estimator.save(tmp_path / "chains.unveil")
    loaded = unveil.load(tmp_path / "chains.unveil")
    assert loaded.identifiability().rank == 5
    assert_array_equal(loaded.identifiability().alternative, estimator.identifiability().alternative)


def test_what_cannot_be_done():
    X = [np.zeros((5, 2))]
    with pytest.raises(ParameterError, match="use inference='variational'"):
        FactorialHMM(17, 2, inference="exact").fit(X)
    with pytest.raises(ParameterError, match="too many to number"):
        FactorialHMM(63, 2).fit(X)
    with pytest.raises(InputError, match="NaN"):
        FactorialHMM().fit([np.full((5, 2), np.nan)])
    estimator = FactorialHMM(max_iter=1, tol=0.0, n_init=1, random_state=0).fit([RNG(0).normal(size=(20, 2))])
    with pytest.raises(ParameterError, match=r"means has shape \(3,\)"):
        estimator.with_means([1.0, 2.0, 3.0])


def test_on_another_device_the_definition_is_used():
    """Where there is no accelerator, by asking for a gradient."""
    X, estimator, _ = drawn(19)
    batches: Batches = read_sequences(X)[0]
    batch = next(iter(batches))
    with torch.no_grad():
        quick = estimator.model_.objective(batch)
    slow = estimator.model_.objective(batch)
    assert slow.requires_grad
    assert not quick.requires_grad
    assert_allclose(slow.detach(), quick, rtol=1e-12, atol=0)


def test_it_can_be_pickled():
    x = np.random.default_rng(0).normal(size=(40, 2))
    fitted = FactorialHMM(n_init=1, max_iter=2, tol=0.0, random_state=0).fit(x)
    assert pickle.loads(pickle.dumps(fitted)).score(x) == fitted.score(x)
