"""What models that learn by gradients are: networks around latent variables, and players against each other."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from unveil.core.model import LikelihoodModel, Model
from unveil.core.noise import Noise
from unveil.data.batch import Batch, Batches

START_SAMPLE = 20000  # steps that scales and biases are taken from


@dataclass(frozen=True)
class Loss:
    """What a minibatch costs.

    Attributes
    ----------
    total : Tensor of shape ()
        What is minimised, in nats (or the unit of the loss) for each step.
    parts : dict of str to Tensor of shape ()
        What people read beside it, such as reconstruction and Kullback-Leibler divergence, in the same unit.
    """

    total: Tensor
    parts: dict[str, Tensor]


class GradientModel(LikelihoodModel):
    """A model whose loss has a gradient, for ``unveil.learn.sgd``.

    ``objective`` has no randomness of its own: where a bound needs random numbers, it uses the same few for every item.
    """

    @abstractmethod
    def inspect(self, batch: Batch) -> None:
        """Raise InputError where the model cannot be learned from data, before anything is done with it."""

    @abstractmethod
    def loss(self, batch: Batch, generator: torch.Generator, epoch: float) -> Loss:
        """What a minibatch costs after ``epoch`` passes over the data, on which warm-ups depend; infinity is after all of them."""


class AdversarialModel(Model):
    """Players with a loss each, for ``unveil.learn.adversarial``, which puts the model into training mode and back."""

    @abstractmethod
    def players(self) -> dict[str, nn.Module]:
        """Who plays, by name, in the order in which they move; each moves its own parameters."""

    @abstractmethod
    def player_loss(self, player: str, batch: Batch, generator: torch.Generator) -> Loss:
        """What a player has to pay on a minibatch."""

    def after_move(self, player: str) -> None:
        """Bring a player's parameters back to where they are allowed, after each of its moves."""


class Network(nn.Module, ABC):
    """A function of each step, or of each sequence: values (n_steps, n_inputs) to (n_steps, n_outputs)."""

    @abstractmethod
    def forward(self, values: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The outputs; ``lengths`` of the sequences matters to networks that look at more than one step."""

    @abstractmethod
    def first_weight(self) -> Tensor:
        """What the inputs are multiplied with first, of shape (n_units, n_inputs)."""

    @abstractmethod
    def last_bias(self) -> Tensor:
        """What is added to the outputs last, of shape (n_outputs,), or fewer where some outputs share it."""


class Likelihood(nn.Module, ABC):
    """A family p(x | decoder outputs) of observations of n_features numbers.

    Attributes
    ----------
    n_features : int
    n_outputs : int
        How many numbers the decoder gives for each observation.
    n_inputs : int
        How many numbers the encoder takes.
    """

    n_features: int
    n_outputs: int
    n_inputs: int

    @abstractmethod
    def check(self, batch: Batch) -> None:
        """Raise InputError where a value is outside of the family's range."""

    @abstractmethod
    def initialize(self, values: Tensor) -> None:
        """Set what depends on the scale of the data, from some steps (n, n_features)."""

    @abstractmethod
    def start_bias(self, values: Tensor) -> Tensor:
        """Decoder outputs (n_outputs,) that fit the data best before anything is known of the latent variables."""

    @abstractmethod
    def encoder_input(self, values: Tensor) -> Tensor:
        """The values as a network reads them best, of shape (n, n_inputs)."""

    @abstractmethod
    def log_density(self, values: Tensor, outputs: Tensor) -> Tensor:
        """log p(x | outputs) in nats, of shape (..., n): outputs may have leading axes that values do not have."""

    @abstractmethod
    def best_log_density(self, values: Tensor) -> Tensor:
        """The highest log-density (n,) that any outputs give to values; of shares in [0, 1], 0, as of zeros and ones."""

    @abstractmethod
    def mean(self, outputs: Tensor) -> Tensor:
        """E[x | outputs], of shape (..., n, n_features)."""

    @abstractmethod
    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """One observation for each row of outputs, of shape (n, n_features)."""


class Latent(nn.Module, ABC):
    """A family of latent variables: their prior p(z), and the approximate posterior q(z | x) that the encoder's statistics describe.

    Attributes
    ----------
    n_latent : int
        The dimension of what the decoder takes.
    n_codes : int
        The dimension of z.
    n_statistics : int
        How many numbers the encoder gives for each step.
    """

    n_latent: int
    n_codes: int
    n_statistics: int

    @abstractmethod
    def initialize(self, generator: torch.Generator) -> None:
        """Choose starting parameters, where there are any."""

    @abstractmethod
    def draw(self, statistics: Tensor, noise: Noise, epoch: float) -> Tensor:
        """z ~ q(z | x), differentiable, of shape (n, n_codes)."""

    @abstractmethod
    def divergence(self, statistics: Tensor, codes: Tensor, epoch: float) -> Tensor:
        """KL(q(z | x) || p(z)) in nats, dimension by dimension (n, n_codes) where it is a sum over them, else (n, 1)."""

    @abstractmethod
    def mean(self, statistics: Tensor) -> Tensor:
        """E[z | x] under q, of shape (n, n_codes)."""

    @abstractmethod
    def mean_square(self, statistics: Tensor) -> Tensor:
        """E[z^2 | x] under q, of shape (n, n_codes)."""

    @abstractmethod
    def observe(self, codes: Tensor) -> Tensor:
        """What the decoder takes, of shape (..., n_latent)."""

    @abstractmethod
    def sample(self, n_samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Codes from the prior (n, n_codes), and the class (n,) of each where there are classes."""

    def settle(self, squares: Tensor) -> None:
        """Take in E[z^2] of the codes of the data that was learned from, of shape (n_codes,): for priors that follow the data."""


class HasDensities(ABC):
    """Latent variables whose prior and posterior have densities, so that log p(x) can be estimated by importance sampling."""

    @abstractmethod
    def log_prior(self, codes: Tensor) -> Tensor:
        """log p(z) in nats, of shape (...)."""

    @abstractmethod
    def log_posterior(self, codes: Tensor, statistics: Tensor) -> Tensor:
        """log q(z | x) in nats, of shape (...)."""


class CodingModel(GradientModel):
    """An encoder, latent variables, a decoder and a family of observations, and what they do whatever the loss is.

    Parameters
    ----------
    encoder, decoder : Network
    latent : Latent
    likelihood : Likelihood
    """

    code_means: Tensor
    code_variances: Tensor

    def __init__(self, encoder: Network, latent: Latent, decoder: Network, likelihood: Likelihood):
        super().__init__()
        self.encoder, self.latent, self.decoder, self.likelihood = encoder, latent, decoder, likelihood
        for name in ("code_means", "code_variances"):
            self.register_buffer(name, torch.zeros(latent.n_codes))

    def inspect(self, batch: Batch) -> None:
        """Make sure of the data's range."""
        self.likelihood.check(batch)

    @torch.no_grad()
    def initialize(self, batches: Batches, generator: torch.Generator) -> None:
        """Start with what is known of the scale of the data."""
        values = batches.sample_steps(START_SAMPLE, generator)[0].contiguous()
        for part in (self.encoder, self.decoder):
            start(part, generator)
        self.latent.initialize(generator)
        self.likelihood.initialize(values)
        bias = self.decoder.last_bias()
        bias.copy_(self.likelihood.start_bias(values).reshape(len(bias), -1).mean(1))  # the mean of those that share one

    def ready(self, batch: Batch) -> Batch:
        """A batch in the type that the networks work in, after a look at its range."""
        self.likelihood.check(batch)
        return replace(batch, values=batch.values.to(self.dtype).contiguous())

    @property
    def dtype(self) -> torch.dtype:
        """The type that the networks work in."""
        return next(self.decoder.parameters()).dtype

    def encode(self, batch: Batch) -> Tensor:
        """What is known of the latent variables, of shape (n_steps, n_statistics)."""
        return self.encoder(self.likelihood.encoder_input(batch.values), batch.lengths)

    def decode(self, codes: Tensor, batch: Batch | None = None) -> Tensor:
        """What p(x | z) is made of, of shape (n_steps, n_outputs); the sequences are those of a batch, or each step is one."""
        return self.decoder(self.latent.observe(codes), None if batch is None else batch.lengths)

    def codes(self, batch: Batch) -> Tensor:
        """E[z | x] of each step, of shape (n_steps, n_codes)."""
        return self.latent.mean(self.encode(self.ready(batch)))

    def reconstruct(self, batch: Batch) -> Tensor:
        """E[x | z] at z = E[z | x], of shape (n_steps, n_features)."""
        return self.likelihood.mean(self.decode(self.codes(batch), batch))

    @torch.no_grad()
    def settle(self, batches: Batches, also: Callable[[Tensor], Tensor] | None = None) -> Tensor | None:
        """After learning: take down how codes are distributed on the data, which also tells priors that follow it.

        The mean of what ``also`` makes of the encoder's statistics, from (n_steps, n_statistics) to (n_steps, ...), is given back.
        """
        sums, total = torch.zeros(3, self.latent.n_codes, dtype=torch.float64), None
        for batch in batches:
            statistics = self.encode(self.ready(batch))
            mean, square = self.latent.mean(statistics).double(), self.latent.mean_square(statistics).double()
            sums += torch.stack([mean.sum(0), mean.square().sum(0), square.sum(0)]).cpu()
            if also is not None:
                found = also(statistics).double().sum(0).cpu()
                total = found if total is None else total + found
        mean, mean_square, square = sums / batches.n_steps
        self.code_means.copy_(mean)
        self.code_variances.copy_((mean_square - mean.square()).clamp_min(0))
        self.latent.settle(square)
        return None if total is None else total / batches.n_steps


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
    assert isinstance(weight, Tensor)
    if isinstance(part, (nn.ConvTranspose1d, nn.ConvTranspose2d)):
        return weight.shape[0] * weight[0, 0].numel() // math.prod(part.stride)
    return weight[0].numel()


class TwoStepModel(LikelihoodModel):
    """A model that is learned in two steps: first how latent variables become data, then how they are distributed."""

    @abstractmethod
    def encode(self, batches: Batches) -> Batches:
        """The latent variables of data, for the second step."""

    @abstractmethod
    def steps(self) -> Iterable[nn.Module]:
        """What each step learns."""
