"""Projections are nearest points, and the flows found are minima: by their conditions, and by a general solver."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import minimize, nnls

from unveil.kernels.simplex_fista import fit_flow, fit_weights, project_to_simplices


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("masked", [False, True])
def test_projections_satisfy_their_conditions(masked):
    points, totals = torch.from_numpy(3 * random(50, 6)), torch.from_numpy(np.random.default_rng(1).random(50) * 2)
    mask = torch.from_numpy(np.random.default_rng(2).random((50, 6)) < 0.5) if masked else torch.ones(50, 6, dtype=torch.bool)
    mask[:, 2] = True
    found = project_to_simplices(points, totals, mask if masked else None)
    assert_allclose(found.sum(1), totals, rtol=1e-12, atol=1e-12)
    assert float(found.min()) >= 0
    assert not found[~mask].any()
    for point, nearest, allowed in zip(
        points, found, mask, strict=True
    ):  # x - p is the same where x > 0, and not smaller elsewhere
        shift = (point - nearest)[allowed & (nearest > 0)]
        assert_allclose(shift, shift[:1].expand_as(shift), rtol=0, atol=1e-12)
        assert (point - nearest)[allowed].max() <= shift[0] + 1e-12


def test_a_total_of_zero_gives_zeros():
    assert_allclose(
        project_to_simplices(torch.tensor([[1.0, 2.0]]).double(), torch.zeros(1).double()), [[0.0, 0.0]], rtol=0, atol=0
    )


def chain(n_states, seed, sharpness=1.0):
    rng = np.random.default_rng(seed)
    transition, totals = rng.dirichlet(np.ones(n_states), n_states), rng.dirichlet(np.full(n_states, 5.0))
    features = np.eye(n_states) + rng.random((n_states, n_states)) / sharpness
    return totals[:, None] * transition, totals, features


@pytest.mark.parametrize(("n_states", "n_features"), [(2, 2), (3, 5), (9, 9), (15, 30)])
def test_an_exact_moment_gives_the_flow(n_states, n_features):
    flow, totals, _ = chain(n_states, 0)
    features = random(n_features, n_states, seed=1)
    found = fit_flow(*map(torch.from_numpy, (features @ flow @ features.T, features, totals)), max_iter=100_000, tol=1e-14)
    assert_allclose(found, flow, rtol=0, atol=1e-7)


def conditions(moment, features, flow, mask):
    """For each row the slope of the squared error, less its smallest value where an entry may be."""
    slope = features.T @ (features @ flow @ features.T - moment) @ features
    return slope - np.where(mask, slope, np.inf).min(1, keepdims=True)


@pytest.mark.parametrize("masked", [False, True])
def test_a_noisy_moment_gives_a_minimum(masked):
    flow, totals, features = chain(6, 2)
    mask = ~np.eye(6, dtype=bool) if masked else np.ones((6, 6), bool)
    moment = features @ flow @ features.T + 0.05 * random(6, 6, seed=3)
    tensors = map(torch.from_numpy, (moment, features, totals))
    found = fit_flow(*tensors, torch.from_numpy(mask) if masked else None, max_iter=100_000, tol=1e-15).numpy()
    assert_allclose(found.sum(1), totals, rtol=1e-12, atol=0)
    slope = conditions(moment, features, found, mask)
    assert np.abs(slope[found > 1e-8]).max() < 1e-8  # the least slope wherever there is flow
    assert not found[~mask].any()
    assert (found < 1e-8).sum() > 6  # the noise pushes some to the border


def test_a_general_solver_finds_no_better_one():
    flow, totals, features = chain(3, 4)
    moment = features @ flow @ features.T + 0.1 * random(3, 3, seed=5)

    def error(flat):
        return ((features @ flat.reshape(3, 3) @ features.T - moment) ** 2).sum()

    sums = [{"type": "eq", "fun": lambda flat, i=i: flat.reshape(3, 3)[i].sum() - totals[i]} for i in range(3)]
    start = np.repeat(totals / 3, 3)
    best = minimize(
        error, start, bounds=[(0, None)] * 9, constraints=sums, method="SLSQP", options={"ftol": 1e-15, "maxiter": 1000}
    )
    found = fit_flow(*map(torch.from_numpy, (moment, features, totals)), tol=1e-13).numpy()
    assert_allclose(found, best.x.reshape(3, 3), rtol=0, atol=1e-5)
    assert error(found.ravel()) <= best.fun + 1e-12


def test_weights_are_least_squares_on_the_simplex():
    features, mean = np.abs(random(8, 5)), np.abs(random(8, seed=1))
    heavy = 1e4  # a weight on the sum makes non-negative least squares a problem on the simplex
    best, _ = nnls(np.vstack([features, np.full(5, heavy)]), np.append(mean, heavy))
    assert_allclose(fit_weights(torch.from_numpy(mean), torch.from_numpy(features), tol=1e-13), best, rtol=0, atol=1e-6)


def test_weights_keep_to_the_possible():
    features = torch.from_numpy(np.abs(random(4, 4)))
    mask = torch.tensor([True, False, True, False])
    found = fit_weights(features @ torch.full((4,), 0.25).double(), features, mask)
    assert not found[~mask].any()
    assert_allclose(float(found.sum()), 1.0, rtol=0, atol=1e-12)
