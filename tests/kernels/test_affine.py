"""Affine maps against the same in double precision, below and above the size from which another library makes them."""

import pytest
import torch
from torch.func import vmap

from unveil.kernels import affine as module
from unveil.kernels.affine import WORTH, affine

SIZES = [(3, 5, 4), (1, 2048, 2048), (64, 513, 130), (2048, 2, 1030)]


def parts(n, n_inputs, n_outputs, *, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = ((n, n_inputs), (n_outputs, n_inputs), (n_outputs,))
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def by_definition(values, weight, bias):
    return values.double() @ weight.double().T + bias.double()


def is_close(found, expected):
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("sizes", SIZES)
def test_the_map_and_its_gradients(sizes):
    inputs = parts(*sizes)
    found, expected = affine(*inputs), by_definition(*inputs)
    is_close(found, expected)
    slope = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad((found * slope).sum(), inputs)
    for one, other in zip(gradients, torch.autograd.grad((expected * slope).sum(), inputs), strict=True):
        is_close(one, other)


@pytest.mark.parametrize("sizes", SIZES)
def test_gradients_of_gradients(sizes):
    """As penalties on the slope of a critic need them."""

    def penalty(map_of):
        values, weight, bias = inputs
        (slope,) = torch.autograd.grad(map_of(values, weight, bias).square().sum(), values, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), inputs)

    inputs = parts(*sizes)
    for one, other in zip(penalty(affine), penalty(by_definition), strict=True):
        is_close(one, other)


def test_only_the_gradients_that_are_asked_for():
    values, weight, bias = parts(64, 513, 130)
    affine(values.detach(), weight, bias.detach()).sum().backward()
    assert (values.grad, bias.grad) == (None, None)
    is_close(weight.grad, values.detach().double().sum(0).expand_as(weight))


def test_strides_do_not_matter():
    values, weight, bias = parts(130, 513, 130)
    is_close(affine(values.T.contiguous().T, weight.T.contiguous().T, bias), by_definition(values, weight, bias))
    is_close(affine(values[:, ::2], weight[:, ::2], bias), by_definition(values[:, ::2], weight[:, ::2], bias))


def test_without_a_bias():
    values, weight, _ = parts(64, 513, 130)
    is_close(affine(values, weight), values.double() @ weight.double().T)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_type_stays(dtype):
    assert affine(*parts(64, 513, 130, dtype=dtype)).dtype is dtype


def test_lower_precision_where_it_is_asked_for():
    with torch.autocast("cpu", torch.bfloat16):
        assert affine(*parts(64, 513, 130)).dtype is torch.bfloat16


def test_leading_axes_and_transformations_of_functions():
    values, weight, bias = parts(2 * 64, 513, 130)
    stacked, expected = values.detach().unflatten(0, (2, 64)), by_definition(values, weight, bias).unflatten(0, (2, 64))
    is_close(affine(stacked, weight, bias), expected)
    is_close(vmap(lambda each: affine(each, weight, bias))(stacked), expected)


@pytest.mark.skipif(not module._HAS_ONEDNN, reason="this PyTorch has no oneDNN beside MKL")
@pytest.mark.parametrize(("sizes", "is_worth_it"), [(SIZES[0], False), *((sizes, True) for sizes in SIZES[1:])])
def test_large_products_are_made_by_the_faster_library(sizes, is_worth_it):
    assert (sizes[0] * sizes[1] * sizes[2] >= WORTH) is is_worth_it
    assert ("OneDnn" in affine(*parts(*sizes)).grad_fn.name()) is is_worth_it
