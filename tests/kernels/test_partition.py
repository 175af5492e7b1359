"""The best partition of small graphs, by trying all of them."""

import itertools

import numpy as np
import pytest
import torch

from unveil.kernels.partition import affinity_within, improved_partition, partition


def random_affinity(n_nodes, seed):
    values = np.random.default_rng(seed).normal(size=(n_nodes, n_nodes))
    values = values + values.T
    np.fill_diagonal(values, 0.0)
    return torch.from_numpy(values)


def least(affinity, n_groups):
    every = itertools.product(range(n_groups), repeat=len(affinity))
    return min(affinity_within(affinity, torch.tensor(groups)) for groups in every)


def test_affinity_within_counts_pairs_both_ways():
    affinity = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 4.0], [2.0, 4.0, 0.0]])
    assert affinity_within(affinity, torch.tensor([0, 1, 1])) == 8.0
    assert affinity_within(affinity, torch.tensor([0, 1, 2])) == 0.0


@pytest.mark.parametrize(("n_nodes", "n_groups"), [(2, 2), (9, 2), (7, 3), (6, 4)])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_partition_is_found(n_nodes, n_groups, seed):
    affinity = random_affinity(n_nodes, seed)
    found = partition(affinity, n_groups, torch.Generator().manual_seed(0))
    assert affinity_within(affinity, found) == pytest.approx(least(affinity, n_groups), rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_no_single_move_improves(seed):
    affinity, generator = random_affinity(12, seed), torch.Generator().manual_seed(seed)
    start = torch.randint(3, (12,), generator=generator)
    found = improved_partition(affinity, start, 3)
    value = affinity_within(affinity, found)
    assert value <= affinity_within(affinity, start)
    for node, group in itertools.product(range(12), range(3)):
        moved = found.clone()
        moved[node] = group
        assert affinity_within(affinity, moved) >= value - 1e-9


@pytest.mark.parametrize("n_groups", [2, 3, 4])
def test_complete_multipartite_graphs_are_coloured_by_their_spectrum(n_groups):
    colours = torch.arange(20) % n_groups
    affinity = (colours[:, None] != colours).double()
    found = partition(affinity, n_groups, torch.Generator(), n_random=0)
    assert affinity_within(affinity, found) == 0.0
    assert len(found.unique()) == n_groups


def test_the_spectrum_colours_what_single_moves_do_not():
    """A long cycle in a random order, from which moves alone end in a local optimum."""
    order = np.random.default_rng(0).permutation(60)
    affinity = torch.zeros(60, 60)
    affinity[order, np.roll(order, 1)] = affinity[np.roll(order, 1), order] = 1.0
    assert affinity_within(affinity, improved_partition(affinity, torch.zeros(60, dtype=torch.int64), 2)) > 0
    assert affinity_within(affinity, partition(affinity, 2, torch.Generator(), n_random=0)) == 0.0


def test_a_single_node_and_a_single_group():
    generator = torch.Generator().manual_seed(0)
    assert partition(torch.zeros(1, 1), 2, generator).shape == (1,)
    assert partition(random_affinity(4, 0), 1, generator).tolist() == [0, 0, 0, 0]
