"""Convolutions for rows that are images, or pieces of a signal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from unveil.core.neural import Network
from unveil.errors import ParameterError
from unveil.nn.layers import ACTIVATIONS, Linear, layer

KERNEL, STRIDE, PADDING = 4, 2, 1  # halve each side: every output sees as many inputs, which avoids checkerboards (Odena 2016)
LEAST_SIDE = 2


def shape_of_row(n_features: int, shape: Sequence[int] | None = None) -> tuple[int, ...]:
    """Channels and sides of a row: what is given; else a square image where the number is a square; else a signal.

    Examples
    --------
    >>> shape_of_row(784), shape_of_row(800), shape_of_row(3072, (3, 32, 32))
    ((1, 28, 28), (1, 800), (3, 32, 32))
    """
    if shape is not None:
        if math.prod(shape) != n_features or len(shape) not in (2, 3):
            raise ParameterError(
                f"shape={tuple(shape)} for rows of {n_features} numbers; expected (channels, height, width) or (channels, length)"
            )
        return tuple(int(side) for side in shape)
    side = math.isqrt(n_features)
    return (1, side, side) if side * side == n_features else (1, n_features)


def _halved(sides: Sequence[int], times: int) -> list[tuple[int, ...]]:
    """The sides before each halving, and after the last."""
    found = [tuple(sides)]
    for _ in range(times):
        found.append(tuple((side + 2 * PADDING - KERNEL) // STRIDE + 1 for side in found[-1]))
    if min(found[-1]) < 1:
        raise ParameterError(
            f"hidden has {times} layers, each of which halves sides of {min(sides)}; give fewer, or a larger shape"
        )
    return found


class ConvolutionalEncoder(Network):
    """Convolutions that halve the sides, and a linear layer.

    Parameters
    ----------
    shape : (channels, height, width) or (channels, length)
        Of each row of values.
    channels : sequence of int
        Of each convolution.
    n_outputs : int
        For each row.
    activation : str
        Between layers.
    """

    def __init__(self, shape: Sequence[int], channels: Sequence[int], n_outputs: int, activation: str = "relu"):
        super().__init__()
        self.shape, sides = tuple(shape), _halved(shape[1:], len(channels))
        convolution = nn.Conv2d if len(shape) == 3 else nn.Conv1d
        layers: list[nn.Module] = []
        for n_in, n_out in zip((shape[0], *channels[:-1]), channels, strict=True):
            layers += [layer(convolution, n_in, n_out, KERNEL, STRIDE, PADDING), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers, nn.Flatten(), layer(Linear, channels[-1] * math.prod(sides[-1]), n_outputs))

    def forward(self, values: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(n, n_features) to (n, n_outputs)."""
        return self.layers(values.reshape(-1, *self.shape))

    def first_weight(self) -> Tensor:
        """Of the first convolution."""
        return self.layers[0].weight.flatten(1)

    def last_bias(self) -> Tensor:
        """Of the linear layer."""
        return self.layers[-1].bias


class ConvolutionalDecoder(Network):
    """A linear layer, and transposed convolutions that double the sides.

    Parameters
    ----------
    n_inputs : int
        For each row.
    channels : sequence of int
        Of each convolution's input.
    shape : (channels, height, width) or (channels, length)
        Of each row of outputs.
    activation : str
        Between layers.
    """

    def __init__(self, n_inputs: int, channels: Sequence[int], shape: Sequence[int], activation: str = "relu"):
        super().__init__()
        sides = _halved(shape[1:], len(channels))[::-1]
        convolution = nn.ConvTranspose2d if len(shape) == 3 else nn.ConvTranspose1d
        layers: list[nn.Module] = [
            layer(Linear, n_inputs, channels[0] * math.prod(sides[0])),
            ACTIVATIONS[activation](),
            nn.Unflatten(1, (channels[0], *sides[0])),
        ]
        outputs = (*channels[1:], shape[0])
        for i, (n_in, n_out) in enumerate(zip(channels, outputs, strict=True)):
            doubled = [(side - 1) * STRIDE - 2 * PADDING + KERNEL for side in sides[i]]
            missing = tuple(wanted - made for wanted, made in zip(sides[i + 1], doubled, strict=True))
            layers.append(layer(convolution, n_in, n_out, KERNEL, STRIDE, PADDING, output_padding=missing))
            if i < len(channels) - 1:
                layers.append(ACTIVATIONS[activation]())
        self.layers = nn.Sequential(*layers)

    def forward(self, values: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(..., n_inputs) to (..., n_features)."""
        outputs = self.layers(values.reshape(-1, values.shape[-1]))
        return outputs.reshape(*values.shape[:-1], -1)

    def first_weight(self) -> Tensor:
        """Of the linear layer."""
        return self.layers[0].weight

    def last_bias(self) -> Tensor:
        """Of the last convolution: one for each channel."""
        return self.layers[-1].bias
