"""The revealing factorial HMM: components and sources recovered, sums by brute force, a warning where there is doubt."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linear_sum_assignment, nnls

from unveil.data.batch import Batch, Batches
from unveil.data.layout import as_rows
from unveil.errors import IdentifiabilityWarning, InputError, ParameterError
from unveil.models import revealing_graph
from unveil.models.revealing_chains import RevealingChains
from unveil.models.revealing_factorial_hmm import RevealingDiagnostics, RevealingFactorialHMM
from unveil.models.revealing_graph import Centres, RevealingGraph, affinity, group, sparse_activations, unexplained

F = 60


def chain(n_components, rng, stay=0.6):
    """Transitions between silence and components."""
    moves = rng.dirichlet([20.0, *[10.0] * n_components], n_components + 1)
    return stay * np.eye(n_components + 1) + (1 - stay) * moves


def walk(moves, length, rng):
    path = [0]
    for _ in range(length - 1):
        path.append(rng.choice(len(moves), p=moves[path[-1]]))
    return np.array(path)


def scene(seed, n_components=(3, 4), length=800, noise=0.002, alone=True, shape=0.3):
    """Frames, the true components and their sources, the paths and the transitions; low features belong to the first sources."""
    rng = np.random.default_rng(seed)
    sources = np.repeat(np.arange(len(n_components)), n_components)
    tilt = np.exp(-0.5 * ((np.arange(F) - F * (sources[:, None] + 0.5) / len(n_components)) / (F / len(n_components))) ** 2)
    spectra = rng.gamma(shape, size=(len(sources), F)) * tilt
    spectra /= np.linalg.norm(spectra, axis=1, keepdims=True)
    moves = [chain(n, rng) for n in n_components]
    paths = np.stack([walk(each, length, rng) for each in moves], 1)
    if not alone:
        paths = paths[(paths > 0).all(1)]
    plays = np.concatenate([np.eye(n + 1)[path, 1:] for n, path in zip(n_components, paths.T, strict=True)], 1)
    values = (plays * rng.uniform(0.5, 1.0, plays.shape)) @ spectra
    return np.abs(values + noise * rng.normal(size=values.shape)), spectra, sources, paths, moves


def matched(estimator, spectra):
    """Which true component each found one is, by the assignment of the largest cosines, and these."""
    cosines = estimator.components_ @ spectra.T
    rows, columns = linear_sum_assignment(-cosines)
    return columns, cosines[rows, columns]


@pytest.mark.parametrize("seed", range(3))
def test_components_and_their_sources_are_found(seed):
    X, spectra, sources, _, _ = scene(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error", IdentifiabilityWarning)
        fhmm = RevealingFactorialHMM(max_components=12, random_state=0).fit(X)
    assert fhmm.n_components_ == 7
    order, cosines = matched(fhmm, spectra)
    assert cosines.min() > 0.99
    assert_array_equal(fhmm.sources_, sources[order])
    assert_allclose(np.linalg.norm(fhmm.components_, axis=1), 1.0, rtol=1e-12, atol=0)
    assert fhmm.diagnostics_.residual < 0.03
    assert fhmm.diagnostics_.n_parts == 1


@pytest.mark.parametrize("seed", range(3))
def test_three_sources(seed):
    X, spectra, sources, _, _ = scene(seed, (2, 2, 2), length=1500, shape=0.1)  # spectra that have little in common
    fhmm = RevealingFactorialHMM(3, max_components=9, random_state=0).fit(X)
    order, cosines = matched(fhmm, spectra)
    assert cosines.min() > 0.98
    assert_array_equal(fhmm.sources_, sources[order])


def test_many_clusters_do_no_harm():
    X, spectra, sources, _, _ = scene(0)
    for n_clusters in (60, 200):
        fhmm = RevealingFactorialHMM(n_clusters=n_clusters, random_state=1).fit(X)
        order, cosines = matched(fhmm, spectra)
        assert cosines.min() > 0.98
        assert_array_equal(fhmm.sources_, sources[order])


def test_the_published_recipe_finds_them_in_clean_data():
    X, spectra, sources, _, _ = scene(3, noise=1e-4)
    fhmm = RevealingFactorialHMM(method="lasso", n_clusters=40, random_state=0).fit(X)
    assert fhmm.n_components_ == 7
    order, cosines = matched(fhmm, spectra)
    assert cosines.min() > 0.98
    assert_array_equal(fhmm.sources_, sources[order])


def test_chains_are_those_that_made_the_data():
    X, spectra, _, paths, moves = scene(1, length=2500)
    fhmm = RevealingFactorialHMM(max_components=8, random_state=0).fit(X)
    order, _ = matched(fhmm, spectra)
    for k, (transmat, true, start) in enumerate(zip(fhmm.transmat_, moves, fhmm.startprob_, strict=True)):
        states = np.r_[0, 1 + order[fhmm.sources_ == k] - (0 if k == 0 else 3)]
        assert_allclose(transmat, true[np.ix_(states, states)], rtol=0, atol=0.08)  # 6000 steps, and softer notes are missed
        assert_allclose(transmat.sum(1), 1.0, rtol=1e-12, atol=0)
        assert_allclose(start.sum(), 1.0, rtol=1e-12, atol=0)
    found = fhmm.predict_states(X)
    own = [np.r_[0, 1 + order[fhmm.sources_ == k] - (0 if k == 0 else 3)] for k in range(2)]
    assert (np.stack([own[k][found[:, k]] for k in range(2)], 1) == paths).mean() > 0.97


@pytest.mark.parametrize("seed", range(2))
def test_what_is_never_heard_alone_is_doubted(seed):
    X, *_ = scene(seed, length=1500, alone=False)
    with pytest.warns(IdentifiabilityWarning, match="observability|connectivity|sources were found"):
        fhmm = RevealingFactorialHMM(random_state=0).fit(X)
    assert fhmm.diagnostics_.doubts


def test_each_doubt_has_its_reason():
    words = {
        "observability": RevealingDiagnostics(0.051, np.zeros(1), 1, 0.0, 2, 2),
        "connectivity": RevealingDiagnostics(0.0, np.zeros(1), 2, 0.0, 2, 2),
        "only 1 of 2 sources": RevealingDiagnostics(0.0, np.zeros(1), 1, 0.0, 1, 2),
    }
    for word, diagnostics in words.items():
        assert len(diagnostics.doubts) == 1
        assert word in diagnostics.doubts[0]
    assert not RevealingDiagnostics(0.049, np.zeros(1), 1, 0.5, 2, 2).doubts


def test_a_single_source_is_not_two():
    X, *_ = scene(0, (1,))
    with pytest.warns(IdentifiabilityWarning, match="only 1 of 2 sources"):
        RevealingFactorialHMM(random_state=0, max_components=1).fit(X)


def test_sources_that_never_meet_are_doubted():
    rng = np.random.default_rng(0)
    spectra = np.kron(np.eye(4), np.ones(15)) + 0.01
    X = spectra[rng.integers(4, size=400)] * rng.uniform(0.5, 1, (400, 1))
    with pytest.warns(IdentifiabilityWarning, match="connectivity"):
        RevealingFactorialHMM(n_clusters=4, random_state=0).fit(X)


@pytest.fixture(scope="module")
def small():
    """A fitted model of few components, whose sums can be written out, and a short sequence."""
    X, *_ = scene(0, (1, 2), length=400)
    return RevealingFactorialHMM(n_clusters=20, max_components=5, random_state=0).fit(X), X[:5]


def combinations(fhmm):
    """For each combination of states, the components that play."""
    own = [np.flatnonzero(fhmm.sources_ == k) for k in range(2)]
    return {
        (a, b): [*([own[0][a - 1]] if a else []), *([own[1][b - 1]] if b else [])]
        for a, b in itertools.product(range(len(own[0]) + 1), range(len(own[1]) + 1))
    }


def log_emission(fhmm, x, playing):
    """log N(x; W h, sigma^2) at the best gains that are not below the quietest, by scipy."""
    variance, least = float(fhmm.model_.noise_variance.detach()), 0.1 * fhmm.model_.mean_gains.numpy()
    rest = x - sum((least[i] * fhmm.components_[i] for i in playing), np.zeros(len(x)))
    left = nnls(fhmm.components_[playing].T, rest)[1] if playing else np.linalg.norm(rest)
    return -0.5 * (left**2 / variance + len(x) * np.log(2 * np.pi * variance))


def joint(fhmm, X):
    """log p(X, paths) for all paths."""
    table = combinations(fhmm)
    densities = [{states: log_emission(fhmm, x, playing) for states, playing in table.items()} for x in X]
    first, moves = fhmm.startprob_, fhmm.transmat_
    found = {}
    for paths in itertools.product(table, repeat=len(X)):
        value = sum(np.log(first[k][paths[0][k]]) for k in range(2)) + sum(d[s] for d, s in zip(densities, paths, strict=True))
        found[paths] = value + sum(np.log(moves[k][a[k], b[k]]) for a, b in itertools.pairwise(paths) for k in range(2))
    return found


def test_the_likelihood_is_the_sum_over_all_paths(small):
    fhmm, X = small
    everything = joint(fhmm, X[:4])
    assert_allclose(fhmm.score(X[:4]), np.logaddexp.reduce(list(everything.values())), rtol=1e-9, atol=0)


def test_the_best_paths_are_those_of_all(small):
    fhmm, X = small
    everything = joint(fhmm, X[:4])
    assert_array_equal(fhmm.predict_states(X[:4]), max(everything, key=everything.get))


def test_the_objective_differentiates(small):
    fhmm, X = small
    batch = Batch(torch.from_numpy(X), torch.tensor([0, len(X)]))
    model = fhmm.model_
    model.zero_grad()
    model.objective(batch).sum().backward()
    variance = float(model.noise_variance.detach())
    for parameter, step in (
        (model.components, 1e-3 * variance**0.5),
        (model.noise_variance, 1e-4 * variance),
        (model.transition, 1e-5),
    ):
        place = np.unravel_index(int(parameter.grad.abs().argmax()), parameter.shape)
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter[place] += sign * step
                ends.append(float(model.objective(batch).sum()))
                parameter[place] -= sign * step
        assert_allclose(float(parameter.grad[place]), (ends[0] - ends[1]) / (2 * step), rtol=1e-4, atol=0)


def test_activations_are_non_negative_least_squares(small):
    fhmm, X = small
    assert_allclose(fhmm.transform(X), [nnls(fhmm.components_.T, x)[0] for x in X], rtol=0, atol=1e-9)


def test_shares_add_up_and_belong_to_the_sources():
    X, _, _, paths, _ = scene(2)
    fhmm = RevealingFactorialHMM(max_components=12, random_state=0).fit(X)
    low, high = fhmm.separate(X)
    assert_allclose(low + high, X, rtol=1e-12, atol=1e-12)
    only_low = (paths[:, 0] > 0) & (paths[:, 1] == 0)
    assert np.linalg.norm(high[only_low]) < 0.1 * np.linalg.norm(X[only_low])


def test_samples_have_the_marginals_of_the_chains(small):
    fhmm, _ = small
    X, labels = fhmm.sample(2000, length=3, random_state=1)
    assert X.shape == (2000, 3, F)
    assert (X >= 0).all()
    n_states = fhmm.model_.n_states
    starts = np.bincount(labels[:, 0], minlength=n_states**2).reshape(n_states, n_states) / 2000
    assert_allclose(starts.sum(1)[: len(fhmm.startprob_[0])], fhmm.startprob_[0], rtol=0, atol=0.04)
    assert_allclose(starts.sum(0)[: len(fhmm.startprob_[1])], fhmm.startprob_[1], rtol=0, atol=0.04)
    silent = X[labels == 0]
    assert np.abs(silent).max() < 6 * float(fhmm.model_.noise_variance.detach()) ** 0.5


@pytest.mark.parametrize("n_sources", [2, 3])
def test_the_residual_is_that_of_the_best_combination(n_sources, monkeypatch):
    rng = np.random.default_rng(0)
    components, points, weights = rng.gamma(0.3, size=(6, 15)), rng.gamma(0.3, size=(25, 15)), rng.uniform(1, 5, 25)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    sources = np.arange(6) % n_sources
    own = [[None, *np.flatnonzero(sources == k)] for k in range(n_sources)]
    left = []
    for x in points:
        chosen = [[i for i in each if i is not None] for each in itertools.product(*own)]
        left.append(min(nnls(components[each].T, x)[1] if each else np.linalg.norm(x) for each in chosen))
    expected = weights @ np.square(left) / weights.sum()
    centres = Centres(torch.from_numpy(points), torch.from_numpy(weights))
    found = unexplained(centres, torch.from_numpy(components), torch.from_numpy(sources), n_sources)
    assert_allclose(found, expected, rtol=1e-8, atol=0)
    used = sparse_activations(centres.directions, torch.from_numpy(components), torch.from_numpy(sources), n_sources).numpy()
    for k in range(n_sources):
        assert ((used[:, sources == k] > 0).sum(1) <= 1).all()
    monkeypatch.setattr(revealing_graph, "_TOO_MANY_COMBINATIONS", 1)  # only the likeliest components of each source
    fewer = unexplained(centres, torch.from_numpy(components), torch.from_numpy(sources), n_sources)
    assert expected - 1e-12 <= fewer < 1.2 * expected


def test_affinity_is_co_activity_less_chance_and_likeness():
    frames = torch.from_numpy(np.array([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1]]))
    found = affinity(frames, torch.eye(3).double()).numpy()
    assert_allclose(found[0, 1], 1 / 8 - 0.3 * (3 / 8) * (2 / 8), rtol=1e-12, atol=0)
    assert_allclose(found[0, 2], -0.3 * (3 / 8) * (4 / 8), rtol=1e-12, atol=0)
    assert_allclose(np.diag(found), 0.0, rtol=0, atol=0)
    alike = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.0, 0.6, 0.8]], dtype=torch.float64)  # the last two have a cosine of 0.6
    playing = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]], dtype=torch.float64)
    chance, likeness = (2 / 4) * (1 / 4), 4 * (0.6 - 0.3) * (1 / 4) * (1 / 3)
    assert_allclose(affinity(playing @ alike, alike)[1, 2], (1 - 0.6 / 0.7) * -0.3 * chance - likeness, rtol=1e-10, atol=0)


def test_components_that_play_together_get_different_sources():
    frames = np.array(
        [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1]]
    )
    found = group(torch.from_numpy(frames), torch.eye(4).double(), 2, torch.Generator().manual_seed(0))
    assert found[0] == found[1] != found[2] == found[3]


def test_sources_are_in_the_order_of_their_centroids():
    X, *_ = scene(4)
    for x in (X, X[:, ::-1]):
        fhmm = RevealingFactorialHMM(max_components=12, random_state=0).fit(x)
        centroids = [np.average(np.arange(F), weights=fhmm.components_[fhmm.sources_ == k].sum(0)) for k in range(2)]
        assert centroids[0] < centroids[1]
        assert (np.diff(fhmm.sources_) >= 0).all()


def test_loudness_does_not_matter():
    X, *_ = scene(0)
    first, other = (RevealingFactorialHMM(max_components=12, random_state=0).fit(scale * X) for scale in (1.0, 1e6))
    assert_allclose(other.components_, first.components_, rtol=0, atol=1e-9)
    assert_array_equal(other.predict_states(1e6 * X), first.predict_states(X))


def test_silent_frames_are_silence():
    X, *_ = scene(0, noise=0.0)
    fhmm = RevealingFactorialHMM(max_components=12, random_state=0).fit(X)
    assert_array_equal(fhmm.predict_states(np.zeros((3, F))), np.zeros((3, 2)))


def test_nothing_but_silence_is_refused():
    with pytest.raises(InputError, match="silence"):
        RevealingFactorialHMM().fit(np.zeros((20, 4)))
    with pytest.raises(ParameterError, match="method"):
        RevealingFactorialHMM(method="guess").fit(np.ones((20, 4)))


def test_weights_count_frames():
    """A sequence of weight zero is as if it were not there."""
    X, *_ = scene(0)
    strange = np.abs(np.random.default_rng(9).normal(size=(200, F)))
    fhmm = RevealingFactorialHMM(max_components=12, random_state=0).fit([X, strange], sample_weight=[1.0, 0.0])
    assert_allclose(
        fhmm.components_, RevealingFactorialHMM(max_components=12, random_state=0).fit(X).components_, rtol=0, atol=1e-9
    )


def test_taking_over_a_graph_sets_what_it_says():
    graph = RevealingGraph(torch.eye(3).double(), torch.tensor([0, 0, 1]), 0.1, 2, 2, 0.3, torch.tensor([0.5, 0.2, 0.1]).double())
    model = RevealingChains(2, 4, 3)
    model.adopt(graph, Batches(as_rows(np.eye(3)), np.array([0, 3])))
    assert model.n_components == 3
    assert model.n_states == 3
    assert_array_equal(model.sources, [0, 0, 1, -1])
    assert_allclose(model.mean_gains[:3], 1.0, rtol=0, atol=1e-6)
