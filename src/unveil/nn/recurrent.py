"""Networks that look at more than one step of a sequence."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence

from unveil.core.neural import Network
from unveil.nn.layers import Linear, layer


class GRU(Network):
    """Gated recurrent units over each sequence, and a linear layer at each step (Cho et al., 2014).

    Parameters
    ----------
    n_inputs, n_hidden, n_outputs : int
    direction : {"forward", "both"}
        Whether a step sees what came before it, or the whole sequence.

    Examples
    --------
    >>> GRU(3, 8, 2, "both")(torch.zeros(5, 3), lengths=torch.tensor([4, 1])).shape
    torch.Size([5, 2])
    """

    def __init__(self, n_inputs: int, n_hidden: int, n_outputs: int, direction: str = "forward"):
        super().__init__()
        both = direction == "both"
        self.units = layer(nn.GRU, n_inputs, n_hidden, bidirectional=both)
        self.output = layer(Linear, n_hidden * (2 if both else 1), n_outputs)

    def forward(self, values: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(n_steps, n_inputs) to (n_steps, n_outputs); without lengths, each step is a sequence of its own."""
        if values.ndim > 2:  # several draws of each sequence
            return torch.stack([self(each, lengths) for each in values])
        sizes = [1] * len(values) if lengths is None else lengths.tolist()
        hidden, _ = self.units(pack_sequence(values.split(sizes), enforce_sorted=False))
        assert isinstance(hidden, PackedSequence)
        return self.output(torch.cat(unpack_sequence(hidden)))

    def first_weight(self) -> Tensor:
        """Of the inputs to the gates."""
        return self.units.weight_ih_l0

    def last_bias(self) -> Tensor:
        """Of the linear layer."""
        return self.output.bias
