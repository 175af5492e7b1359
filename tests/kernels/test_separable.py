"""Pure columns are found, columns are expressed by each other, and non-negative least squares are those of other solvers."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import nnls
from sklearn.linear_model import Lasso

from unveil.kernels.separable import non_negative_least_squares, self_expression, successive_projection


def tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array))


@pytest.mark.parametrize("seed", range(5))
def test_pure_columns_are_found_among_mixtures(seed):
    rng = np.random.default_rng(seed)
    pure = rng.gamma(0.5, size=(30, 6))
    columns = np.concatenate([pure / pure.sum(0), (pure / pure.sum(0)) @ rng.dirichlet(np.ones(6), 80).T], 1)
    order = rng.permutation(columns.shape[1])
    found = successive_projection(tensor(columns[:, order]), 10)
    assert sorted(order[found].tolist()) == list(range(6))


def test_the_longest_columns_come_first():
    columns = np.diag([1.0, 3.0, 2.0])
    assert successive_projection(tensor(columns), 2) == [1, 2]


def test_the_matrix_is_not_written_to():
    columns = tensor(np.random.default_rng(0).random((5, 4)))
    before = columns.clone()
    successive_projection(columns, 3)
    assert torch.equal(columns, before)


@pytest.mark.parametrize("penalty", [0.01, 0.1, 1.0])
def test_self_expression_is_a_lasso_for_each_column(penalty):
    rng = np.random.default_rng(1)
    X = rng.gamma(0.3, size=(30, 12))
    X /= np.linalg.norm(X, axis=0)
    H = self_expression(tensor(X), penalty).numpy()
    assert_allclose(np.diag(H), 0.0, rtol=0, atol=0)
    for c in range(12):
        others = np.arange(12) != c
        lasso = Lasso(alpha=penalty / 2 / len(X), positive=True, fit_intercept=False, tol=1e-14, max_iter=100_000)
        assert_allclose(H[others, c], lasso.fit(X[:, others], X[:, c]).coef_, rtol=0, atol=1e-6)  # where FISTA stops


def test_a_pure_column_cannot_be_expressed_and_a_mixture_can():
    rng = np.random.default_rng(2)
    pure = rng.gamma(0.3, size=(40, 3))
    X = np.c_[pure, pure[:, 0] + 2 * pure[:, 1]]
    X /= np.linalg.norm(X, axis=0)
    left = np.linalg.norm(X - X @ self_expression(tensor(X), 1e-6).numpy(), axis=0)
    assert left[3] < 1e-3
    assert left[2] > 0.3


@pytest.mark.parametrize(("n_atoms", "n_problems"), [(1, 50), (2, 200), (10, 300), (24, 200)])
def test_many_problems_with_one_dictionary(n_atoms, n_problems):
    rng = np.random.default_rng(n_atoms)
    W = rng.gamma(0.3, size=(60, n_atoms))
    X = rng.normal(size=(n_problems, 60)) + rng.gamma(0.3, size=(n_problems, n_atoms)) @ W.T
    found = non_negative_least_squares(tensor(W.T @ W), tensor(X @ W)).numpy()
    assert (found >= 0).all()
    assert_allclose(found, np.stack([nnls(W, x)[0] for x in X]), rtol=0, atol=1e-8)


def test_many_problems_with_a_dictionary_each():
    rng = np.random.default_rng(0)
    W, x = rng.normal(size=(7, 5, 20, 3)), rng.normal(size=(7, 1, 20))
    gram, targets = W.swapaxes(-1, -2) @ W, np.einsum("abfk,abf->abk", W, np.broadcast_to(x, (7, 5, 20)))
    found = non_negative_least_squares(tensor(gram), tensor(targets)).numpy()
    assert found.shape == (7, 5, 3)
    for i, j in np.ndindex(7, 5):
        assert_allclose(found[i, j], nnls(W[i, j], x[i, 0])[0], rtol=0, atol=1e-8)


def test_equal_and_empty_atoms_do_no_harm():
    rng = np.random.default_rng(3)
    W = rng.random((20, 3))
    W = np.c_[W, W[:, 0], np.zeros(20)]
    X = rng.random((30, 20))
    found = non_negative_least_squares(tensor(W.T @ W), tensor(X @ W)).numpy()
    least = [nnls(W, x)[1] for x in X]
    assert_allclose(np.linalg.norm(X - found @ W.T, axis=1), least, rtol=1e-9, atol=0)


def test_no_problem_and_no_atom():
    assert non_negative_least_squares(torch.eye(2).double(), torch.zeros(0, 2).double()).shape == (0, 2)
    assert non_negative_least_squares(torch.zeros(0, 0).double(), torch.zeros(3, 0).double()).shape == (3, 0)
