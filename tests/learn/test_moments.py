"""Moments are what loops over the data give; they add; and what is matched with them is what closed forms say."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import beta

from unveil.data.batch import Batches
from unveil.data.rows import MemoryRows
from unveil.learn.moments import collect_state_moments, match_moments, match_spherical_gaussians, match_three_views
from unveil.learn.reduce import serial, threads


def batches_of(sequences, weights=None, batch_steps=None):
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in sequences])])
    return Batches(MemoryRows(np.concatenate(sequences)), offsets, weights=weights, batch_steps=batch_steps)


# ---- any model


def gamma(theta):
    shape, scale = theta
    return torch.stack([shape * scale, shape * (shape + 1) * scale**2])


@pytest.mark.parametrize("start", [(1.0, 1.0), (30.0, 0.01)])
def test_the_gamma_distribution_has_a_closed_form(start):
    x = np.random.default_rng(0).gamma(2.5, 1.7, 500)
    found = match_moments(gamma, [x.mean(), (x**2).mean()], start, positive=True)
    assert_allclose(found.parameters, [x.mean() ** 2 / x.var(), x.var() / x.mean()], rtol=1e-8, atol=0)
    assert found.residual < 1e-8


def test_the_beta_distribution_by_its_moments():
    def moments(theta):
        a, b = theta
        return torch.stack([a / (a + b), a * (a + 1) / ((a + b) * (a + b + 1))])

    found = match_moments(moments, [beta.moment(1, 2.0, 5.0), beta.moment(2, 2.0, 5.0)], [1.0, 1.0], positive=True)
    assert_allclose(found.parameters, [2.0, 5.0], rtol=1e-7, atol=0)


def test_what_cannot_be_matched_says_so():
    found = match_moments(gamma, [1.0, 0.5], [1.0, 1.0], positive=True)  # E[x^2] < E[x]^2
    assert found.residual > 0.1


# ---- states


def by_loops(features, weights):
    """The sums of ``StateMoments``, one term at a time."""
    size = features[0].shape[1]
    sums = {name: np.zeros((size, size)) for name in ("gram", "lagged", "together")}
    sums |= {name: np.zeros(size) for name in ("total", "earlier", "first")} | dict.fromkeys(("weight", "pairs", "sequences"), 0.0)
    for sequence, w in zip(features, weights, strict=True):
        sums["first"] += w * sequence[0]
        sums["sequences"] += w
        for t, row in enumerate(sequence):
            sums["total"] += w * row
            sums["weight"] += w
            sums["gram"] += w * np.outer(row, row)
            for s, other in enumerate(sequence):
                if s != t:
                    sums["together"] += w * np.outer(row, other)
                if s == t + 1:
                    sums["lagged"] += w * np.outer(row, other)
                    sums["earlier"] += w * row
                    sums["pairs"] += w
    return sums


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("batch_steps", [None, 5])
def test_state_moments_are_sums_over_pairs(weighted, batch_steps):
    rng = np.random.default_rng(0)
    sequences = [rng.random((length, 3)) for length in (4, 1, 7, 2, 1)]
    weights = rng.random(5) if weighted else None
    batches = batches_of(sequences, weights, batch_steps)
    for reduce in (serial, threads):
        found = collect_state_moments(lambda batch: batch.values, batches, reduce=reduce)
        for name, expected in by_loops(sequences, np.ones(5) if weights is None else weights).items():
            assert_allclose(getattr(found, name), expected, rtol=1e-12, atol=1e-12, err_msg=name)


# ---- mixtures


def mixture(n, seed=0):
    rng = np.random.default_rng(seed)
    means = 2.0 * rng.normal(size=(4, 6)) + 100.0
    return means, means[rng.integers(4, size=n)] + rng.normal(size=(n, 6))


def error_of(n, seed=0):
    means, x = mixture(n, seed)
    found = match_spherical_gaussians(batches_of([x]), 4, torch.from_numpy(x[:50].mean(0)), reduce=threads)
    distances = np.linalg.norm(means[:, None] - found.means.numpy(), axis=2)
    return distances.min(1).max(), found


def test_errors_fall_with_the_root_of_the_data():
    few, many = (np.median([error_of(n, seed)[0] for seed in range(5)]) for n in (2_000, 200_000))
    assert 5 < few / many < 20  # ten, but for chance
    _, found = error_of(200_000)
    assert_allclose(found.weights, np.full(4, 0.25), rtol=0, atol=0.02)
    assert_allclose(found.noise_variance, 1.0, rtol=0.02, atol=0)
    assert found.spectrum[2] > 1.5 * found.noise_level > found.noise_level > found.spectrum[3]


def test_weights_are_repeats():
    _, x = mixture(300)
    counts = np.random.default_rng(1).integers(0, 3, 300)
    center = torch.from_numpy(x.mean(0))
    weighted = match_spherical_gaussians(Batches(MemoryRows(x), weights=counts.astype(float)), 4, center)
    repeated = match_spherical_gaussians(Batches(MemoryRows(np.repeat(x, counts, axis=0))), 4, center)
    assert_allclose(weighted.means, repeated.means, rtol=1e-7, atol=0)


def chain_of_symbols(n_sequences, length, seed=0):
    rng = np.random.default_rng(seed)
    symbols = np.array([[0.7, 0.2, 0.1, 0.0], [0.1, 0.1, 0.7, 0.1], [0.0, 0.1, 0.1, 0.8]])
    transition = np.array([[0.8, 0.2, 0.0], [0.0, 0.7, 0.3], [0.3, 0.0, 0.7]])
    state = rng.integers(3, size=n_sequences)
    steps = []
    for _ in range(length):
        steps.append((rng.random(n_sequences)[:, None] > symbols.cumsum(1)[state]).sum(1))
        state = (rng.random(n_sequences)[:, None] > transition.cumsum(1)[state]).sum(1)
    return symbols, list(np.stack(steps, 1)[:, :, None].astype(float))


def test_three_views_find_symbols():
    symbols, sequences = chain_of_symbols(4000, 20)

    def indicators(batch):
        return torch.nn.functional.one_hot(batch.values[:, 0].long(), 4).double()

    found = match_three_views(batches_of(sequences), 3, indicators, reduce=threads)
    distances = np.abs(symbols[:, None] - found.means.numpy()).sum(2)
    assert_allclose(distances.min(1), np.zeros(3), rtol=0, atol=0.06)
    assert found.spectrum[2] > found.noise_level > found.spectrum[3]
    weights = found.weights[torch.from_numpy(distances.argmin(1))]
    assert_allclose(weights, [3 / 7, 2 / 7, 2 / 7], rtol=0, atol=0.02)  # 1 / (1 - stay), in proportion
