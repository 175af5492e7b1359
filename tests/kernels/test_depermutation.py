"""States of blocks in any order find their blocks again."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import block_diag
from sklearn.metrics import adjusted_rand_score

from unveil.kernels.depermutation import cut_embedding, eigen_embedding, split_rows, split_rows_evenly


def shuffled_blocks(sizes, seed, leak=0.0):
    """Transitions of blocks with a little flow between them, in a random order; and the block of each state."""
    rng = np.random.default_rng(seed)
    transition = block_diag(*[rng.dirichlet(np.ones(size), size) for size in sizes])
    n_states = sum(sizes)
    transition = (1 - leak) * transition + leak / n_states
    order = rng.permutation(n_states)
    return torch.from_numpy(transition[order][:, order]), np.repeat(np.arange(len(sizes)), sizes)[order]


@pytest.mark.parametrize("embedding", [eigen_embedding, cut_embedding])
@pytest.mark.parametrize("leak", [0.0, 0.03])
@pytest.mark.parametrize("sizes", [(3, 3), (2, 2, 2), (4, 4, 4)])
def test_blocks_are_found(embedding, leak, sizes):
    for seed in range(3):
        transition, blocks = shuffled_blocks(sizes, seed, leak)
        rows, eigenvalues = embedding(transition, len(sizes))
        assert adjusted_rand_score(blocks, split_rows_evenly(rows, len(sizes), 0)) == 1.0
        assert adjusted_rand_score(blocks, split_rows(rows, len(sizes), 0)) == 1.0
        assert eigenvalues[len(sizes) - 1] > 0.9 > eigenvalues[len(sizes)]


def test_eigenvalues_are_those_of_the_matrix():
    transition, _ = shuffled_blocks((3, 4), 0, 0.1)
    assert_allclose(eigen_embedding(transition, 2)[1], np.sort(np.abs(np.linalg.eigvals(transition)))[::-1], rtol=1e-9, atol=1e-12)


def test_a_cut_through_a_pair_of_complex_eigenvalues_stays_real():
    """Going round three states has the eigenvalues 1 and a pair; a cut after the second must take the third as well."""
    around = torch.tensor([[0.1, 0.9, 0], [0, 0.1, 0.9], [0.9, 0, 0.1]]).double()
    rows, _ = eigen_embedding(around, 2)
    assert not rows.is_complex()
    assert_allclose(rows, around, rtol=0, atol=1e-12)


def test_a_state_that_never_occurs_does_no_harm():
    flow = torch.tensor([[0.5, 0.1, 0], [0.1, 0.3, 0], [0, 0, 0.0]]).double()
    rows, eigenvalues = cut_embedding(flow, 2)
    assert bool(rows.isfinite().all())
    assert bool(eigenvalues.isfinite().all())


def test_even_parts_are_even():
    rows = torch.tensor([[0.0], [0.1], [0.2], [5.0]]).double()  # three together, and one apart
    assert_array_equal(np.bincount(split_rows_evenly(rows, 2, 0)), [2, 2])
    assert_array_equal(np.sort(np.bincount(split_rows(rows, 2, 0))), [1, 3])
