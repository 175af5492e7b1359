"""Layers of units that are all connected."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from unveil.core.neural import Network
from unveil.nn.layers import ACTIVATIONS, Linear, layer


class MLP(Network):
    """A multilayer perceptron: linear layers with a non-linearity between them, which looks at each step alone.

    Parameters
    ----------
    sizes : sequence of int
        Inputs, hidden units of each layer, outputs; with two of them it is linear.
    activation : str
        A key of ``unveil.nn.layers.ACTIVATIONS``.

    Examples
    --------
    >>> import torch
    >>> MLP((3, 8, 2), "relu")(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """

    def __init__(self, sizes: Sequence[int], activation: str = "relu"):
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(sizes[:-1]):
            layers += [layer(Linear, n_in, n_out), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers, layer(Linear, sizes[-2], sizes[-1]))

    def forward(self, values: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(..., n_inputs) to (..., n_outputs)."""
        return self.layers(values)

    def first_weight(self) -> Tensor:
        """Of the first layer."""
        return self.layers[0].weight

    def last_bias(self) -> Tensor:
        """Of the last layer."""
        return self.layers[-1].bias
