"""What the experiment on moments simulates, measures and says."""

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from unveil.experiments import moment_rates
from unveil.experiments.moment_rates import MomentRates, finds_order, in_true_order, simulate, simulate_mixture


def test_a_simulated_chain_has_its_transitions():
    transition = np.array([[0.9, 0.1], [0.4, 0.6]])
    x, states = simulate(np.array([[0.0], [50.0]]), transition, np.array([1.0, 0.0]), 500, 40, np.random.default_rng(0))
    assert_array_equal(states[:, 0], np.zeros(500))
    assert_array_equal((x[:, :, 0] > 25).astype(int), states)
    counts = np.zeros((2, 2))
    np.add.at(counts, (states[:, :-1], states[:, 1:]), 1)
    assert_allclose(counts / counts.sum(1, keepdims=True), transition, rtol=0, atol=0.03)


def test_a_simulated_mixture_stays_in_its_block():
    x, clusters, means, transition = simulate_mixture(50, 0)
    assert x.shape == (50, 20, 15)
    assert_allclose(transition.sum(1), np.ones(9), rtol=1e-12, atol=0)
    assert not transition[:3, 3:].any()
    nearest = ((x[:, :, None] - means) ** 2).sum(3).argmin(2) // 3
    assert (nearest == clusters[:, None]).mean() > 0.95


def test_rows_are_named_as_fits_best():
    true = np.array([[0.0], [1.0], [2.0]])
    assert_array_equal(in_true_order(np.array([[2.1], [0.1], [0.9]]), true), [1, 2, 0])


def test_orders_are_found():
    assert finds_order("bakis", 4, 100, 0)
    assert finds_order("cyclic", 4, 100, 0)


def test_slopes_and_tables():
    sizes = (100, 400, 1600)
    errors = np.stack([np.full((2, 4), 3.0 / np.sqrt(n)) for n in sizes])
    result = MomentRates(sizes, dict.fromkeys(moment_rates.DEPERMUTATIONS, errors), {("bakis", 5, 30): 0.5}, 6)
    assert_allclose(result.slope("eigen", 1), -0.5, rtol=1e-9, atol=0)
    assert len(result.table) == 10
    assert result.table[-1] == {"structure": "bakis", "states": 5, "sequences": 30, "seeds": 6, "right order": 0.5}
    mixtures, orders = moment_rates.sections(result)
    assert "−0.50 (means)" in mixtures.blocks[0].text
    assert list(orders.blocks[0].rows[0]) == ["bakis, 5 states", 50.0]


def test_a_small_run():
    found = moment_rates.run(quick=True)
    assert found.errors["all-lag"][-1, :, 0].max() < 0.08
    assert found.errors["all-lag"][-1, :, 2].min() == 1.0
    assert set(found.orders.values()) == {1.0}
