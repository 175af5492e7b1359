"""Layers without a start of their own: nothing touches the global random state."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

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
