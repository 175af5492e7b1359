"""Circuits and paths beside all permutations; and where there are too many of these, beside the exact method and planted ones."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from unveil.errors import InputError
from unveil.kernels import hamiltonian
from unveil.kernels.hamiltonian import heaviest_circuit, heaviest_path


def weight_of_path(weights, order, starts=None):
    bonus = 0.0 if starts is None else starts[order[0]]
    return bonus + sum(weights[i, j] for i, j in itertools.pairwise(order))


def weight_of_circuit(weights, order):
    return weight_of_path(weights, [*order, order[0]])


def is_order(order, n):
    return order.shape == (n,) and order.dtype == np.int64 and sorted(order.tolist()) == list(range(n))


def random_weights(n, seed):
    """Of both signs, and with a diagonal that would tempt whoever read it."""
    return np.random.default_rng(seed).normal(size=(n, n)) + 100 * np.eye(n)


def planted(n, rng, noise):
    """Weights of an order that is heavier than all else, from each node on."""
    order = rng.permutation(n)
    weights = noise * rng.uniform(size=(n, n))
    weights[order, np.roll(order, -1)] += 1
    return order, weights


@pytest.mark.parametrize("n", range(2, 9))
@pytest.mark.parametrize("seed", range(3))
def test_no_circuit_is_heavier(n, seed):
    weights = random_weights(n, seed)
    found = heaviest_circuit(weights)
    assert is_order(found, n)
    assert found[0] == 0
    best = max(weight_of_circuit(weights, (0, *rest)) for rest in itertools.permutations(range(1, n)))
    assert_allclose(weight_of_circuit(weights, found), best, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", range(1, 8))
@pytest.mark.parametrize("seed", range(3))
def test_no_path_is_heavier(n, seed):
    weights, starts = random_weights(n, seed), np.random.default_rng(seed + 50).normal(size=n)
    for bonus in (None, starts, 100 * starts):
        found = heaviest_path(weights, bonus)
        assert is_order(found, n)
        best = max(weight_of_path(weights, order, bonus) for order in itertools.permutations(range(n)))
        assert_allclose(weight_of_path(weights, found, bonus), best, rtol=0, atol=1e-10)


def test_a_bonus_chooses_where_the_path_starts():
    for first in range(5):
        assert heaviest_path(random_weights(5, 0), 1000 * np.eye(5)[first])[0] == first


@pytest.mark.parametrize("n", [9, 12, 14])
@pytest.mark.parametrize("seed", range(4))
def test_local_searches_come_close_to_the_exact_method(n, seed):
    weights = hamiltonian._checked(np.random.default_rng(seed).uniform(size=(n, n)))
    found, exact = hamiltonian._best_of_local_searches(weights), hamiltonian._held_karp(weights)
    assert is_order(found, n)
    assert found[0] == 0
    heaviest = weight_of_circuit(weights, exact)
    assert 0.98 * heaviest <= weight_of_circuit(weights, found) <= heaviest + 1e-12


def test_most_local_searches_are_exact():
    exact = []
    for seed in range(20):
        weights = hamiltonian._checked(np.random.default_rng(seed).uniform(size=(12, 12)))
        orders = hamiltonian._best_of_local_searches(weights), hamiltonian._held_karp(weights)
        exact.append(np.isclose(*(weight_of_circuit(weights, order) for order in orders), rtol=0, atol=1e-9))
    assert np.mean(exact) >= 0.8  # 18 of these 20, when this was written


@pytest.mark.parametrize("n", [14, 20, 40])
def test_it_is_never_lighter_than_a_greedy_circuit_nor_heavier_than_the_assignment(n):
    for seed in range(5):
        weights = random_weights(n, seed)
        found = weight_of_circuit(weights, heaviest_circuit(weights))
        np.fill_diagonal(weights, -1000)
        for start in range(n):
            order = [start]
            while len(order) < n:
                order.append(max(set(range(n)) - set(order), key=lambda j, i=order[-1]: weights[i, j]))
            assert found >= weight_of_circuit(weights, order) - 1e-9
        row, column = hamiltonian.linear_sum_assignment(weights, maximize=True)
        assert found <= weights[row, column].sum() + 1e-9


@pytest.mark.parametrize("n", [4, 12, 13, 14, 30, 60])
def test_a_planted_order_is_found(n):
    rng = np.random.default_rng(n)
    order, weights = planted(n, rng, noise=0.9)
    assert_array_equal(heaviest_circuit(weights), np.roll(order, -int(np.argmin(order))))
    weights[order[-1], order[0]] = 0.0
    starts = np.zeros(n)
    starts[order[0]] = 1.0
    assert_array_equal(heaviest_path(weights, starts), order)


def test_cycles_are_patched_into_one():
    blocks = np.kron(np.eye(8), np.ones((3, 3))) + 0.01 * np.random.default_rng(0).uniform(size=(24, 24))  # heaviest: 8 cycles
    order = heaviest_circuit(blocks)
    assert is_order(order, 24)
    assert (order // 3 == np.roll(order, 1) // 3).sum() == 16  # each block is entered and left once


@pytest.mark.parametrize("seed", range(5))
def test_two_cycles_are_patched_where_it_costs_least(seed):
    weights = hamiltonian._checked(np.random.default_rng(seed).uniform(size=(9, 9)))
    successor = np.array([1, 2, 3, 0, 5, 6, 7, 8, 4])
    weights[np.arange(9), successor] += 10  # the assignment
    best = max(
        weights[np.arange(9), successor].sum()
        + (weights[i, successor[j]] + weights[j, successor[i]] - weights[i, successor[i]] - weights[j, successor[j]])
        for i in range(4)
        for j in range(4, 9)
    )
    found = hamiltonian._patched_assignment(weights)
    assert is_order(found, 9)
    assert_allclose(weight_of_circuit(weights, found), best, rtol=0, atol=1e-12)


def test_only_differences_matter():
    weights = random_weights(20, 1)
    assert_array_equal(heaviest_circuit(1e-8 * weights - 5), heaviest_circuit(weights))
    assert_array_equal(heaviest_circuit(np.zeros((20, 20))), heaviest_circuit(np.ones((20, 20))))


@pytest.mark.parametrize("diagonal", [np.nan, -np.inf, 1e9])
def test_the_diagonal_is_not_read(diagonal):
    for n in (5, 20):
        weights = random_weights(n, 2)
        other = np.where(np.eye(n, dtype=bool), diagonal, weights)
        assert_array_equal(heaviest_circuit(other), heaviest_circuit(weights))
        assert_array_equal(heaviest_path(other), heaviest_path(weights))


def test_the_weights_are_not_modified():
    weights = random_weights(16, 0)
    before = weights.copy()
    heaviest_path(weights, np.zeros(16))
    heaviest_circuit(weights)
    assert_array_equal(weights, before)


@pytest.mark.parametrize(
    "weights", [np.zeros((2, 3)), np.zeros(4), np.zeros((0, 0)), [[0, np.nan], [1, 0]], [[0, -np.inf], [1, 0]]]
)
def test_what_is_no_graph_is_refused(weights):
    with pytest.raises(InputError, match=r"square matrix|finite numbers"):
        heaviest_circuit(weights)


@pytest.mark.parametrize("starts", [[1.0, 2.0], [0.0, np.nan, 0.0], 3.0])
def test_what_is_no_bonus_is_refused(starts):
    with pytest.raises(InputError, match="one bonus for each node"):
        heaviest_path(np.zeros((3, 3)), starts)
