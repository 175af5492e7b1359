"""The density of data that a decoder makes of latent variables of any distribution: p(x) = int p(z) N(x; f(z), v I) dz.

The integral has no closed form. Around the mode m of p(x, z), with the Jacobian J of f there, Laplace's approximation is

    log p(x) = log p(m) + log N(x; f(m), v I) + L/2 log 2 pi - 1/2 log det P,      P = J'J / v - d2/dz2 log p(z),

where the curvature of f is left out (Gauss and Newton), so that it is exact where f is linear and p(z) is one Gaussian. A sequence of
T steps is one item with T L latent variables: a decoder looks at each step by itself, but the distribution ties them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from unveil.core.model import LikelihoodModel, Model
from unveil.core.neural import CodingModel, TwoStepModel
from unveil.data.batch import Batch, Batches
from unveil.data.rows import MemoryRows
from unveil.data.workers import map_batches
from unveil.errors import InputError
from unveil.kernels.importance import gauss_newton_precision, log_marginal

LOG_2PI = math.log(2 * math.pi)
MOST_LATENT = 512  # latent variables of an item, whose precision is a matrix of as many rows and columns
NEWTON_STEPS = 6
SHRINKINGS = (1.0, 0.5, 0.2, 0.05, 0.0)  # of a Newton step; the best is taken, if only by staying where it is
LEAST_VARIANCE = 1e-12
LEAST_CURVATURE = 1e-6  # of the largest one


class ImplicitDensity(TwoStepModel):
    """Latent variables of any distribution, which a decoder makes into data.

    Parameters
    ----------
    coder : CodingModel
        Encoder and decoder.
    base : Model
        The distribution of the latent variables.
    coder_in_sequences, base_in_sequences : bool
        Which of the two look at whole sequences.
    variance : float, optional
        v; by default the mean squared error of reconstruction, which ``settle`` finds.
    """

    def __init__(
        self,
        coder: CodingModel,
        base: Model,
        *,
        coder_in_sequences: bool = False,
        base_in_sequences: bool = False,
        variance: float | None = None,
    ):
        super().__init__()
        self.coder, self.base = coder, base
        self._coder_in_sequences, self._base_in_sequences = coder_in_sequences, base_in_sequences
        self._given = variance
        self.register_buffer("variance", torch.tensor(1.0 if variance is None else float(variance), dtype=torch.float64))
        self.register_buffer("spreads", torch.ones(coder.latent.n_codes, dtype=torch.float64))

    def steps(self) -> tuple[CodingModel, Model]:
        """First the networks, then the distribution."""
        return self.coder, self.base

    def initialize(self, batches: Batches, generator: torch.Generator) -> None:
        """Start both; the distribution from the codes of networks that have learned nothing."""
        self.coder.initialize(self.observed(batches), generator)
        self.base.initialize(self.encode(batches), generator)

    def observed(self, batches: Batches) -> Batches:
        """The data as the networks take it."""
        return batches if self._coder_in_sequences else as_points(batches)

    @torch.no_grad()
    def encode(self, batches: Batches) -> Batches:
        """The codes E[z | x] of all data, float64, in memory, as the distribution takes them."""
        codes = torch.cat(list(map_batches(self.codes, batches)))
        encoded = Batches(MemoryRows(codes), batches.offsets, weights=batches.weights)
        return encoded if self._base_in_sequences else as_points(encoded)

    def codes(self, batch: Batch) -> Tensor:
        """E[z | x] of each step, float64, of shape (n_steps, n_codes)."""
        return self.coder.codes(batch).double()

    def reconstruct(self, batch: Batch) -> Tensor:
        """f(E[z | x]) of each step."""
        return self.coder.reconstruct(batch)

    @torch.no_grad()
    def settle(self, batches: Batches) -> None:
        """After learning: the spread of the codes, and the variance of what the decoder leaves, if it was not given."""
        weight = error = 0.0
        first, second = torch.zeros_like(self.spreads), torch.zeros_like(self.spreads)
        for batch in batches:
            codes, weights = self.codes(batch), batch.step_weights
            weights = codes.new_ones(len(codes)) if weights is None else weights.double()
            squares = (batch.values.double() - self.reconstruct(batch).double()).square().mean(1)
            weight, error = weight + float(weights.sum()), error + float(weights @ squares)
            first, second = first + weights @ codes, second + weights @ codes.square()
        spreads = (second / weight - (first / weight).square()).clamp_min(0).sqrt()
        self.spreads.copy_(torch.where(spreads > 0, spreads, torch.ones_like(spreads)))
        if self._given is None:
            self.variance.fill_(max(error / weight, LEAST_VARIANCE))

    def decode(self, codes: Batch) -> Tensor:
        """f(z) of each step, of shape (n_steps, n_features)."""
        return self.coder.likelihood.mean(self.coder.decode(codes.values.to(self.coder.dtype), codes))

    def sample(self, n_sequences: int, length: int, generator: torch.Generator) -> Batch:
        """Codes of the distribution, decoded, with noise of variance v."""
        codes = self.base.sample(n_sequences, length, generator)
        means = self.decode(codes.to(self.variance.device))
        noise = torch.randn(means.shape, generator=generator, dtype=means.dtype).to(means.device)
        return Batch(means + self.variance.sqrt().to(means) * noise, codes.offsets, labels=codes.labels)

    def objective(self, batch: Batch) -> Tensor:
        """Laplace's approximation of log p(x) of each item."""
        return self._of_items(batch, lambda joint: joint.laplace())

    def log_likelihood(self, batch: Batch, n_draws: int, generator: torch.Generator) -> Tensor:
        """log p(x) of each item by importance sampling, from Gaussians around the modes."""

        def estimate(joint: Joint) -> Tensor:
            modes = joint.modes()
            precisions = joint.precisions(modes)
            return log_marginal(joint, modes, precisions, n_draws=n_draws, generator=generator).log_likelihood

        return self._of_items(batch, estimate)

    def _of_items(self, batch: Batch, function: Callable[[Joint], Tensor]) -> Tensor:
        """A function of the joint densities of items, those of one length together."""
        batch = self.coder.ready(batch)
        result = torch.empty(batch.n_sequences, dtype=torch.float64, device=batch.values.device)
        for items, joint in self._joints(batch):
            result[items] = function(joint)
        return result

    def _joints(self, batch: Batch) -> Iterator[tuple[Tensor, Joint]]:
        codes = self.codes(batch)
        for length in batch.lengths.unique().tolist():
            if length * codes.shape[1] > MOST_LATENT:
                raise InputError(
                    f"an item has {length} steps of {codes.shape[1]} latent variables: more than the {MOST_LATENT} over which log p(x) is "
                    "integrated; score shorter sequences, or lower n_latent"
                )
            items = (batch.lengths == length).nonzero()[:, 0]
            rows = (batch.offsets[:-1][items, None] + torch.arange(length)).to(codes.device)
            yield items.to(codes.device), Joint(self, batch.values[rows].double(), codes[rows].flatten(1))

    def log_base(self, codes: Tensor, length: int) -> Tensor:
        """log p(z) of items of one length, of shape (...) for codes (..., length * n_codes)."""
        assert isinstance(self.base, LikelihoodModel)
        return self.base.objective(_items_of(codes, length)).reshape(codes.shape[:-1])

    @property
    def base_dtype(self) -> torch.dtype:
        """The type in which the distribution works, which says how exact its gradients are."""
        return next((each.dtype for each in self.base.parameters()), torch.float64)

    def count_parameters(self) -> int:
        """Of the generative part: distribution and decoder."""
        return sum(p.numel() for part in (self.base, self.coder.latent, self.coder.decoder) for p in part.parameters())


def as_points(batches: Batches) -> Batches:
    """Each step an item of its own, which counts as often as its sequence."""
    if batches.offsets is None or batches.weights is None:
        return batches.as_points()
    lengths = torch.from_numpy(batches.offsets).diff().to(batches.weights.device)
    return batches.replace(offsets=None, weights=batches.weights.repeat_interleave(lengths))


def _items_of(codes: Tensor, length: int) -> Batch:
    """Codes (..., length * n_codes) as a batch of sequences, or of points."""
    steps = codes.reshape(-1, codes.shape[-1] // length)
    return Batch(steps, torch.arange(len(steps) // length + 1) * length)


@dataclass(frozen=True, eq=False)
class Joint:
    """log p(x_i, z_i) of items of one length, as a function of their codes (..., n_items, length * n_codes).

    Attributes
    ----------
    density : ImplicitDensity
    values : Tensor of shape (n_items, length, n_features), float64
        x.
    starts : Tensor of shape (n_items, length * n_codes), float64
        What the encoder makes of them, near which the modes are sought.
    """

    density: ImplicitDensity
    values: Tensor
    starts: Tensor

    @property
    def length(self) -> int:
        """Of each item, in steps."""
        return self.values.shape[1]

    def __call__(self, codes: Tensor) -> Tensor:
        """log p(z) + log N(x; f(z), v I), of shape (..., n_items)."""
        residuals = self.values.flatten(1) - self._decode(codes)
        variance = self.density.variance
        log_noise = residuals.square().sum(-1) / variance + residuals.shape[-1] * (LOG_2PI + variance.log())
        return self.density.log_base(codes, self.length) - 0.5 * log_noise

    def _decode(self, codes: Tensor) -> Tensor:
        return self.density.decode(_items_of(codes, self.length)).double().reshape(*codes.shape[:-1], -1)

    @torch.no_grad()
    def laplace(self) -> Tensor:
        """The approximation of log p(x) of each item."""
        modes = self.modes()
        log_determinants = 2 * torch.linalg.cholesky(self.precisions(modes)).diagonal(dim1=1, dim2=2).log().sum(1)
        return self(modes) + 0.5 * (modes.shape[1] * LOG_2PI - log_determinants)

    def modes(self) -> Tensor:
        """The most probable codes, by Newton steps from the encoder's, none of which lowers the joint density."""
        modes = self.starts
        shrinkings = modes.new_tensor(SHRINKINGS)[:, None, None]
        for _ in range(NEWTON_STEPS):
            step = torch.linalg.solve(self.precisions(modes), _slopes(self, modes))
            tried = modes + shrinkings * step
            best = self(tried).argmax(0)
            modes = tried[best, torch.arange(len(best), device=best.device)]
        return modes

    @torch.no_grad()
    def precisions(self, codes: Tensor) -> Tensor:
        """P = J'J / v - d2/dz2 log p(z), made positive definite, of shape (n_items, length * n_codes, length * n_codes)."""
        n_items, n_latent = codes.shape
        steps = codes.reshape(n_items * self.length, -1)
        blocks = gauss_newton_precision(
            lambda each: self.density.decode(_items_of(each, 1)), steps, float(self.density.variance), steps.new_zeros(())
        )
        precisions = self._base_curvature(codes)
        by_step = precisions.view(n_items, self.length, n_latent // self.length, self.length, -1)
        for t, block in enumerate(blocks.view(n_items, self.length, *blocks.shape[1:]).unbind(1)):
            by_step[:, t, :, t] += block
        return _positive_definite(precisions)

    def _base_curvature(self, codes: Tensor) -> Tensor:
        """Minus the Hessian of log p(z), by central differences of its gradient: densities need to be differentiable only once."""
        width = self.density.spreads.repeat(self.length) * torch.finfo(self.density.base_dtype).eps ** (1 / 3)
        shifts = torch.diag(width)[:, None]
        slopes = _slopes(lambda z: self.density.log_base(z, self.length), torch.cat([codes + shifts, codes - shifts]))
        above, below = slopes.chunk(2)
        hessians = ((above - below) / (2 * width[:, None, None])).movedim(0, 1)
        return -(hessians + hessians.mT).contiguous() / 2


def _slopes(function: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """The gradient of each item's value."""
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        (slopes,) = torch.autograd.grad(function(points).sum(), points)
    return slopes


def _positive_definite(matrices: Tensor) -> Tensor:
    """The same matrices; between the components of a mixture, where curvatures can be negative, with their absolute values."""
    values, vectors = torch.linalg.eigh(matrices)
    values = values.abs()
    values = values.maximum(LEAST_CURVATURE * values.amax(1, keepdim=True))
    return (vectors * values[:, None]) @ vectors.mT
