"""Matrices that share eigenvectors are made diagonal, others as much as brute force can; tensors come apart."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from unveil.kernels.joint_diagonalization import joint_diagonalizer, tensor_components


def rotation(size, seed):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def off_diagonal(matrices, rotation):
    return float((((rotation.T @ matrices @ rotation) * (1 - np.eye(len(rotation)))) ** 2).sum())


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 20])
def test_matrices_with_common_eigenvectors_become_diagonal(size):
    rng, vectors = np.random.default_rng(0), rotation(size, 1)
    matrices = np.stack([vectors * rng.normal(size=size) @ vectors.T for _ in range(5)])
    found = joint_diagonalizer(torch.from_numpy(matrices)).numpy()
    assert_allclose(found.T @ found, np.eye(size), rtol=0, atol=1e-12)
    assert off_diagonal(matrices, found) < 1e-18 * (matrices**2).sum()
    assert_allclose(np.sort(np.abs(found.T @ vectors).max(1)), np.ones(size), rtol=0, atol=1e-8)


def test_one_matrix_gets_its_eigenvectors():
    matrix = np.cov(np.random.default_rng(2).normal(size=(5, 30)))
    found = joint_diagonalizer(torch.from_numpy(matrix)[None]).numpy()
    assert_allclose(np.sort(np.diag(found.T @ matrix @ found)), np.linalg.eigvalsh(matrix), rtol=1e-10, atol=0)


def test_no_rotation_of_space_does_better():
    matrices = np.random.default_rng(3).normal(size=(4, 3, 3))
    matrices = matrices + matrices.transpose(0, 2, 1)
    reached = off_diagonal(matrices, joint_diagonalizer(torch.from_numpy(matrices)).numpy())
    starts = Rotation.random(30, rng=np.random.default_rng(4)).as_rotvec()
    best = min(minimize(lambda v: off_diagonal(matrices, Rotation.from_rotvec(v).as_matrix()), start).fun for start in starts)
    assert_allclose(reached, best, rtol=1e-6, atol=0)


def test_the_data_is_left_as_it_was():
    matrices = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = matrices.clone()
    joint_diagonalizer(matrices)
    assert torch.equal(matrices, before)


@pytest.mark.parametrize("size", [1, 2, 5, 12])
def test_an_orthogonal_tensor_comes_apart(size):
    vectors, strengths = rotation(size, 5), 0.5 + np.random.default_rng(6).random(size)
    vectors[:, 0] *= -1
    tensor = np.einsum("h,ah,bh,ch->abc", strengths, vectors, vectors, vectors)
    found, directions = (each.numpy() for each in tensor_components(torch.from_numpy(tensor)))
    order = np.argsort(found)
    assert_allclose(found[order], np.sort(strengths), rtol=1e-9, atol=0)
    assert_allclose(directions[:, order], vectors[:, np.argsort(strengths)], rtol=0, atol=1e-7)  # their signs, too
