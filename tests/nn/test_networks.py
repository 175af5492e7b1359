"""Networks: shapes, sequences that do not touch each other, and starts that come from a generator alone."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from unveil.core.neural import start
from unveil.core.noise import SharedNoise
from unveil.errors import ParameterError
from unveil.nn.architectures import decoder, encoder
from unveil.nn.conv import ConvolutionalDecoder, ConvolutionalEncoder, shape_of_row
from unveil.nn.mlp import MLP
from unveil.nn.recurrent import GRU


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 7, 12), (1, 50), (2, 9)])
@pytest.mark.parametrize("channels", [(4,), (4, 6)])
def test_convolutions_go_there_and_back(shape, channels):
    n = int(np.prod(shape))
    inner, outer = ConvolutionalEncoder(shape, channels, 5), ConvolutionalDecoder(5, channels[::-1], shape)
    assert inner(torch.zeros(7, n)).shape == (7, 5)
    assert outer(torch.zeros(7, 5)).shape == (7, n)
    assert outer(torch.zeros(2, 7, 5)).shape == (2, 7, n)
    assert inner.first_weight().shape[0] == channels[0]
    assert outer.last_bias().shape == (shape[0],)


def test_several_outputs_for_each_pixel():
    network = decoder("conv", 4, 2 * 3 * 64, (6,), shape=(3, 8, 8))
    assert network(torch.zeros(5, 4)).shape == (5, 2 * 3 * 64)
    assert encoder("conv", 4 * 64, 7, (6,), shape=(1, 8, 8))(torch.zeros(5, 4 * 64)).shape == (5, 7)


def test_shape_of_a_row():
    assert shape_of_row(784) == (1, 28, 28)
    assert shape_of_row(513) == (1, 513)
    with pytest.raises(ParameterError, match="rows of 10 numbers"):
        shape_of_row(10, (1, 3, 3))


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_recurrent_networks_keep_sequences_apart(direction):
    network, generator = GRU(3, 6, 2, direction), torch.Generator().manual_seed(0)
    start(network, generator)
    pieces = [torch.randn(n, 3, generator=generator) for n in (4, 9, 1, 6)]
    together = network(torch.cat(pieces), torch.tensor([4, 9, 1, 6])).split([4, 9, 1, 6])
    for piece, found in zip(pieces, together, strict=True):
        assert_allclose(found.detach(), network(piece, torch.tensor([len(piece)])).detach(), rtol=1e-5, atol=1e-6)
        expected, _ = network.units(piece[:, None])
        assert_allclose(found.detach(), network.output(expected[:, 0]).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MLP((6, 5, 3)),
        lambda: ConvolutionalEncoder((1, 8, 8), (4,), 3),
        lambda: ConvolutionalDecoder(3, (4,), (1, 8, 8)),
        lambda: GRU(4, 5, 3),
    ],
)
def test_start_is_that_of_torch_and_comes_from_the_generator(make):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second, third = make(), make(), make()
    for network, seed in ((first, 1), (second, 1), (third, 2)):
        start(network, torch.Generator().manual_seed(seed))
    assert torch.equal(torch.get_rng_state(), before)
    for mine, same, other in zip(first.parameters(), second.parameters(), third.parameters(), strict=True):
        assert torch.equal(mine, same)
        assert not torch.equal(mine, other)
        assert torch.isfinite(mine).all()


@pytest.mark.parametrize("kind", [lambda: nn.Linear(40, 30), lambda: nn.Conv2d(6, 30, 4), lambda: nn.GRU(20, 30)])
def test_start_spreads_as_that_of_torch(kind):
    torch.manual_seed(0)
    theirs, ours = kind(), kind()
    start(ours, torch.Generator().manual_seed(0))
    for mine, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        if mine.numel() > 500:
            assert_allclose(mine.abs().max().item(), expected.abs().max().item(), rtol=0.02, atol=0)
            assert_allclose(mine.std().item(), expected.std().item(), rtol=0.1, atol=0)


def test_shared_noise_is_spread_evenly():
    noise, like = SharedNoise(16), torch.zeros(5, 3, dtype=torch.float64)
    normal = torch.stack([noise.normal(like) for _ in range(16)])
    assert torch.equal(normal[:, 0], normal[:, 4])
    assert_allclose(normal[:, 0].mean(0), 0, rtol=0, atol=1e-12)
    assert_allclose(normal[:, 0].square().mean(0), 1, rtol=1e-12, atol=0)
    uniform = torch.stack([noise.uniform(like) for _ in range(16)])[:, 0]
    assert_allclose(uniform.sort(0).values, np.repeat(((np.arange(16) + 0.5) / 16)[:, None], 3, 1), rtol=1e-12, atol=0)
    assert not torch.equal(uniform[:, 0], uniform[:, 1])
