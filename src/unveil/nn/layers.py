"""Layers without a start of their own: nothing touches the global random state."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from unveil.kernels.affine import affine

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky-relu": partial(nn.LeakyReLU, 0.2),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
}


def layer(kind: type[nn.Module], *arguments: Any, **options: Any) -> nn.Module:
    """A layer whose parameters have no values yet."""
    return kind(*arguments, **options, device="meta").to_empty(device="cpu")


class Linear(nn.Linear):
    """x W^T + b, as PyTorch's, by whichever library makes it faster."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., n_inputs) to (..., n_outputs)."""
        return affine(input, self.weight, self.bias)
