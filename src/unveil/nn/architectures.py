"""The kinds of encoder and decoder that neural models choose from by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from unveil.core.constraints import choice
from unveil.core.neural import Network
from unveil.errors import ParameterError
from unveil.nn.conv import ConvolutionalDecoder, ConvolutionalEncoder
from unveil.nn.layers import ACTIVATIONS
from unveil.nn.mlp import MLP
from unveil.nn.recurrent import GRU

ARCHITECTURES = ("mlp", "conv", "recurrent")


def units(name: str, value: Any) -> None:
    """Numbers of units of hidden layers: whole numbers of at least 1, or none of them."""
    sizes = value if isinstance(value, (tuple, list)) else [value]
    if not all(isinstance(size, int) and not isinstance(size, bool) and size >= 1 for size in sizes):
        raise ParameterError(
            f"{name}={value!r}: expected a whole number >= 1 for each hidden layer, as (400,); () for a linear model"
        )


def row_shape(name: str, value: Any) -> None:
    """None, or channels and one or two sides."""
    sides = value if isinstance(value, (tuple, list)) else ()
    if value is not None and (len(sides) not in (2, 3) or not all(isinstance(side, int) and side >= 1 for side in sides)):
        raise ParameterError(f"{name}={value!r}: expected (channels, height, width) or (channels, length)")


ARCHITECTURE_CONSTRAINTS = {
    "architecture": choice(*ARCHITECTURES),
    "hidden": units,
    "activation": choice(*ACTIVATIONS),
    "shape": row_shape,
}


def encoder(
    architecture: str, n_inputs: int, n_outputs: int, hidden: Any, activation: str = "relu", shape: Sequence[int] = ()
) -> Network:
    """A network from data to statistics of latent variables; ``hidden`` is given from the data inwards.

    Examples
    --------
    >>> encoder("mlp", 784, 40, (400,)).first_weight().shape
    torch.Size([400, 784])
    """
    sizes = as_sizes(hidden)
    if architecture == "mlp" or not sizes:
        return MLP((n_inputs, *sizes, n_outputs), activation)
    if architecture == "conv":
        return ConvolutionalEncoder(_with_channels(shape, n_inputs), sizes, n_outputs, activation)
    return GRU(n_inputs, _only(sizes), n_outputs, "both")


def decoder(
    architecture: str, n_inputs: int, n_outputs: int, hidden: Any, activation: str = "relu", shape: Sequence[int] = ()
) -> Network:
    """A network from latent variables to parameters of a family of observations; ``hidden`` is given from the data inwards."""
    sizes = as_sizes(hidden)[::-1]
    if architecture == "mlp" or not sizes:
        return MLP((n_inputs, *sizes, n_outputs), activation)
    if architecture == "conv":
        return ConvolutionalDecoder(n_inputs, sizes, _with_channels(shape, n_outputs), activation)
    return GRU(n_inputs, _only(sizes), n_outputs)


def as_sizes(hidden: Any) -> tuple[int, ...]:
    """Hidden layers as a tuple."""
    return tuple(hidden) if isinstance(hidden, (tuple, list)) else (hidden,)


def _with_channels(shape: Sequence[int], n_numbers: int) -> tuple[int, ...]:
    """The shape of rows that hold several numbers for each feature: as many more channels."""
    return (shape[0] * n_numbers // math.prod(shape), *shape[1:])


def _only(sizes: tuple[int, ...]) -> int:
    if len(sizes) != 1:
        raise ParameterError(f"hidden={sizes!r}: a recurrent network has one layer; give one number")
    return sizes[0]
