"""Measures of dictionaries on small ones by hand, the ranks, and the whole experiment in small."""

import itertools
import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from unveil.experiments import unidentifiable
from unveil.experiments.unidentifiable import Ranks, Starts, distance, distance_of_sums, measured_ranks, simulated, sums_of
from unveil.report.page import Page, render


def test_distance_is_over_the_best_order():
    """Against every order of chains and states."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 2, 3, 2))
    tried = [
        np.sqrt(np.mean((first - np.stack([second[k][list(order)] for k, order in zip(chains, orders, strict=True)])) ** 2))
        for chains in itertools.permutations(range(2))
        for orders in itertools.product(itertools.permutations(range(3)), repeat=2)
    ]
    assert_allclose(distance(first, second), min(tried), rtol=1e-12, atol=0)
    assert_allclose(distance(first, first[::-1, ::-1]), 0.0, rtol=0, atol=1e-12)


def test_sums_do_not_see_what_is_moved_between_chains():
    rng = np.random.default_rng(1)
    dictionary = rng.normal(size=(2, 3, 2))
    moved = dictionary + np.array([5.0, -5.0])[:, None, None]
    assert_allclose(sums_of(dictionary)[4], dictionary[0, 1] + dictionary[1, 1], rtol=1e-12, atol=0)
    assert_allclose(distance_of_sums(dictionary, moved), 0.0, rtol=0, atol=1e-7)
    assert distance(dictionary, moved) > 3
    far = 100.0 * dictionary  # so that no other order is better
    assert_allclose(distance_of_sums(far, far + 0.5), 1.0, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("n_chains", "n_states", "rank"), [(2, 3, 5), (3, 4, 10), (4, 5, 17)])
def test_the_ranks_of_the_source(n_chains, n_states, rank):
    found = measured_ranks(n_chains, n_states, 1)
    assert found.found == (rank,)
    assert found.bound == rank
    assert (found.singular_values[:rank] > 1e-3).all()
    assert (found.singular_values[rank:] < 1e-12).all()


def test_simulated_sequences_stay_at_their_sums():
    X, means, transition = simulated(3)
    assert_allclose(transition.sum(2), 1.0, rtol=0, atol=1e-12)
    steps = np.concatenate(X)
    nearest = ((steps[:, None] - sums_of(means)) ** 2).sum(2).min(1)
    assert_allclose(nearest.mean(), 2 * unidentifiable.NOISE**2, rtol=0.15, atol=0)  # some noise is nearer to another sum


def test_only_runs_as_good_as_the_best_are_compared():
    base = 100.0 * np.random.default_rng(2).normal(size=(2, 3, 2))
    shifted = base + np.array([0.6, -0.6])[:, None, None]
    dictionaries, none = np.stack([base + 7.0, base, shifted, base + 9.0]), np.zeros((1, 2))
    starts = Starts(0, none, np.array([-2.0, -1.0, -1.00005, -1.5]), -1.1, dictionaries, dictionaries + 0.0, 0.0, base)
    assert_array_equal(starts.best, [1, 2])
    assert_allclose(starts.distances(), [[2.0, 2.0, 0.0]], rtol=1e-9, atol=1e-5)  # in deviations of 0.3
    assert starts.row["as good"] == 2
    alone = Starts(0, none, np.array([-2.0, -1.0]), -1.1, dictionaries, dictionaries, 0.0, base)
    assert alone.row["sums"] is None


def test_the_experiment_in_small():
    heard = []
    result = unidentifiable.run(quick=True, on_progress=heard.append)
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    table = json.loads(json.dumps(result.table))
    assert [row["highest rank"] for row in table[:3]] == [5, 10, 17]
    row = table[3]
    assert row["as good"] >= 2
    assert row["difference"] < 1e-9
    assert row["dictionaries"] > 1.0
    assert row["sums"] < 1e-3
    assert row["balanced"] < 1e-3
    assert row["nats per step"] > row["of the truth"]
    sections = unidentifiable.sections(result)
    page = render(Page(unidentifiable.TITLE, "", sections))
    assert "equally good" in page
    assert isinstance(result.ranks[0], Ranks)
