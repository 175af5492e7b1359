"""Layers without a start of their own, and their start from a generator: nothing touches the global random state."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
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


def start(module: nn.Module, generator: torch.Generator) -> None:
    """Torch's usual start of linear, convolutional and recurrent layers: uniform within one over the root of the inputs."""
    for part in module.modules():
        own = dict(part.named_parameters(recurse=False))
        if not own:
            continue
        bound = _fan_in(part) ** -0.5
        with torch.no_grad():
            for parameter in own.values():
                parameter.uniform_(-bound, bound, generator=generator)


def _fan_in(part: nn.Module) -> int:
    """How many numbers each output of a layer is made of."""
    if isinstance(part, nn.RNNBase):
        return part.hidden_size
    weight = part.weight
    if isinstance(part, (nn.ConvTranspose1d, nn.ConvTranspose2d)):
        return weight.shape[0] * weight[0, 0].numel() // int(torch.tensor(part.stride).prod())
    return weight[0].numel()
