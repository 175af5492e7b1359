"""Affine maps of rows, x W^T + b, which are most of the work of training networks.

PyTorch hands products of single precision on processors to MKL, which uses half of the vector width of processors that are not
Intel's. oneDNN, the library of PyTorch's convolutions, uses all of it: large products then take half the time, small ones longer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

WORTH = 1 << 22  # multiplications: below, oneDNN takes longer to find what it has compiled than it gains


def affine(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b, of shape (..., n_outputs), to be differentiated as often as one likes.

    Parameters
    ----------
    values : Tensor of shape (..., n_inputs)
    weight : Tensor of shape (n_outputs, n_inputs)
    bias : Tensor of shape (n_outputs,), optional

    Examples
    --------
    >>> affine(torch.ones(1, 2), torch.tensor([[1.0, 2.0]]), torch.tensor([0.5]))
    tensor([[3.5000]])
    """
    if _suits_onednn(values, weight):
        return _OneDnnAffine.apply(values, weight, bias)
    return functional.linear(values, weight, bias)


def _suits_onednn(values: Tensor, weight: Tensor) -> bool:
    """Whether a product is large, of the one type that oneDNN has, and outside of what only PyTorch's own operations can do."""
    return (
        values.ndim == 2
        and values.shape[0] * weight.numel() >= WORTH
        and values.dtype is weight.dtype is torch.float32
        and values.device.type == weight.device.type == "cpu"
        and _HAS_ONEDNN
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()  # vmap, jvp
    )


class _OneDnnAffine(torch.autograd.Function):
    """Its derivatives are affine maps again: of the gradient by W, and of the transposed gradient by the transposed values."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(values, weight)
        return torch.ops.mkldnn._linear_pointwise(_dense(values), _dense(weight), bias, "none", [], "")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, weight = ctx.saved_tensors
        of_values, of_weight, of_bias = ctx.needs_input_grad
        return (
            affine(gradient, weight.T) if of_values else None,
            affine(gradient.T, values.T) if of_weight else None,
            gradient.sum(0) if of_bias else None,
        )


def _dense(matrix: Tensor) -> Tensor:
    """The matrix as it is where it or its transpose has no gaps, else a copy: oneDNN takes no other strides."""
    return matrix if matrix.is_contiguous() or matrix.T.is_contiguous() else matrix.contiguous()


def _finds_onednn() -> bool:
    """Whether this PyTorch has oneDNN, under the name that its own compiler calls it by, and may call MKL without."""
    named = hasattr(torch.ops.mkldnn, "_linear_pointwise") and hasattr(torch._C, "_are_functorch_transforms_active")
    return torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available() and named


_HAS_ONEDNN = _finds_onednn()
