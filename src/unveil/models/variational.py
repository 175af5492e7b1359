"""Variational autoencoders of every kind: an encoder, latent variables, a decoder and a likelihood, learned by a lower bound.

What tells one kind from another are its latent variables; their files say how.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from unveil.core.constraints import choice, integer, real
from unveil.core.estimator import as_array
from unveil.core.neural import CodingModel, HasDensities, Latent, Likelihood, Loss, Network
from unveil.core.noise import RandomNoise, SharedNoise
from unveil.data.batch import Batch, Batches
from unveil.errors import IdentifiabilityWarning, InputError
from unveil.learn.sgd import DTYPES, SGD_CONSTRAINTS
from unveil.models.coding import CodesMixin, check_fewer_latent
from unveil.nn.architectures import ARCHITECTURE_CONSTRAINTS
from unveil.nn.likelihoods import LIKELIHOODS, variance_setting

BOUND_DRAWS = 8  # of the latent variables, for a bound that is evaluated
ACTIVE = 0.01  # nats, or variance of the mean: a latent dimension with less says nothing about the data (Burda et al., 2016)

VARIATIONAL_CONSTRAINTS = (
    SGD_CONSTRAINTS
    | ARCHITECTURE_CONSTRAINTS
    | {
        "n_latent": integer(1),
        "likelihood": choice(*LIKELIHOODS),
        "variance": variance_setting,
        "n_values": integer(2),
        "beta": real(0.0),
        "warmup": real(0.0),
    }
)


class VariationalModel(CodingModel):
    """p(x, z) = p(z) p(x | decoder(z)), with q(z | encoder(x)) beside it.

    The loss is ``E_q[-log p(x | z)] + beta KL(q(z | x) || p(z))`` for each step, in nats. The objective is the evidence lower bound,
    that is minus the loss with beta = 1, with the same few draws for each item.

    Parameters
    ----------
    encoder, decoder : Network
    latent : Latent
    likelihood : Likelihood
    beta : float
        Weight of the divergence (Higgins et al., 2017).
    warmup : float
        Epochs in which this weight rises from 0 (Bowman et al., 2016).
    """

    def __init__(
        self, encoder: Network, latent: Latent, decoder: Network, likelihood: Likelihood, beta: float = 1.0, warmup: float = 0.0
    ):
        super().__init__(encoder, latent, decoder, likelihood)
        self._beta, self._warmup = beta, warmup
        self.register_buffer("divergences", torch.zeros(self.divergence(torch.zeros(1, latent.n_statistics)).shape[1]))

    def loss(self, batch: Batch, generator: torch.Generator, epoch: float) -> Loss:
        """Means over the steps of a minibatch."""
        each = self.losses(batch, generator, epoch)
        if batch.step_weights is not None:
            each = tuple(batch.step_weights * part for part in each)
        total, reconstruction, divergence = (part.mean() for part in each)
        return Loss(total, {"reconstruction": reconstruction, "KL": divergence})

    def losses(self, batch: Batch, generator: torch.Generator, epoch: float) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of each step, its reconstruction and its divergence, all of shape (n_steps,), with one draw of its latent variables."""
        statistics = self.encode(batch)
        codes = self.latent.draw(statistics, RandomNoise(generator), epoch)
        reconstruction = -self.likelihood.log_density(batch.values, self.decode(codes, batch))
        divergence = self.latent.divergence(statistics, codes, epoch).sum(-1)
        beta = self._beta * (min(epoch / self._warmup, 1.0) if self._warmup else 1.0)
        return reconstruction + beta * divergence, reconstruction, divergence

    def objective(self, batch: Batch) -> Tensor:
        """The evidence lower bound of each sequence."""
        reconstruction, divergence = self.bound(batch)
        return per_sequence(-reconstruction - divergence, batch)

    def bound(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The two parts of minus the evidence lower bound for each step: reconstruction and divergence, both of shape (n_steps,)."""
        batch = self.ready(batch)
        statistics, noise = self.encode(batch), SharedNoise(BOUND_DRAWS)
        reconstruction = divergence = torch.zeros((), dtype=batch.values.dtype, device=batch.values.device)
        for _ in range(BOUND_DRAWS):
            codes = self.latent.draw(statistics, noise, math.inf)
            reconstruction = reconstruction - self.likelihood.log_density(batch.values, self.decode(codes, batch)) / BOUND_DRAWS
            divergence = divergence + self.latent.divergence(statistics, codes, math.inf).sum(-1) / BOUND_DRAWS
        return reconstruction, divergence

    def log_likelihood(self, batch: Batch, n_draws: int) -> Tensor:
        """log 1/S sum_s p(x, z_s) / q(z_s | x) of each sequence: a tighter bound, which reaches log p(x) (Burda et al., 2016)."""
        latent = self.latent
        if not isinstance(latent, HasDensities):
            raise InputError(
                f"{type(latent).__name__} variables have no densities to weigh draws with; use score_samples, the lower bound"
            )
        batch = self.ready(batch)
        statistics, noise = self.encode(batch), SharedNoise(n_draws)
        total = torch.full((batch.n_sequences,), -math.inf, dtype=torch.float64, device=batch.values.device)
        for _ in range(n_draws):
            codes = latent.draw(statistics, noise, math.inf)
            likelihood = self.likelihood.log_density(batch.values, self.decode(codes, batch))
            weight = likelihood + latent.log_prior(codes) - latent.log_posterior(codes, statistics)
            total = torch.logaddexp(total, per_sequence(weight, batch).double())
        return total - math.log(n_draws)

    def sample(self, n_sequences: int, length: int, generator: torch.Generator) -> Batch:
        """Codes from the prior, and observations given these."""
        codes, classes = self.latent.sample(n_sequences * length, generator)
        offsets = torch.arange(n_sequences + 1) * length
        where = next(self.decoder.parameters())
        blank = Batch(torch.empty(n_sequences * length, 0), offsets)
        outputs = self.decode(codes.to(where), blank)
        return Batch(self.likelihood.sample(outputs, generator), offsets, labels=classes)

    def divergence(self, statistics: Tensor) -> Tensor:
        """KL(q || p) dimension by dimension, of shape (n, n_codes) or (n, 1), with the same few draws for each item."""
        noise, codes = SharedNoise(BOUND_DRAWS), []
        for _ in range(BOUND_DRAWS):
            codes.append(self.latent.draw(statistics, noise, math.inf))
        return torch.stack([self.latent.divergence(statistics, each, math.inf) for each in codes]).mean(0)

    def count_parameters(self) -> int:
        """Of the generative part: prior, decoder and likelihood; the encoder only serves inference."""
        return sum(p.numel() for part in (self.latent, self.decoder, self.likelihood) for p in part.parameters())


def per_sequence(values: Tensor, batch: Batch) -> Tensor:
    """Sums over the steps of each sequence, of shape (n_sequences,)."""
    if batch.holds_points:
        return values
    return values.new_zeros(batch.n_sequences).index_add(0, batch.sequence_of_step.to(values.device), values)


class VariationalMixin(CodesMixin):
    """What estimators of variational autoencoders can do beyond scores, samples and codes."""

    def assemble(self, latent: Latent, n_features: int) -> VariationalModel:
        """The model around latent variables of some kind."""
        check_fewer_latent(self.n_latent, n_features)
        likelihood = LIKELIHOODS[self.likelihood](n_features, {"variance": self.variance, "n_values": self.n_values})
        inner, outer = self.networks(latent, likelihood)
        return VariationalModel(inner, latent, outer, likelihood, self.beta, self.warmup).to(DTYPES[self.dtype])

    def bound(self, X: Any, *, lengths: Any = None) -> tuple[Any, Any]:
        """The two parts of minus ``score_samples`` for each row, in nats: reconstruction and Kullback-Leibler divergence."""
        parts, layout = self._map(X, lengths, lambda batch: torch.stack(self._fitted_model().bound(batch), 1))
        return layout.per_step(parts[:, 0]), layout.per_step(parts[:, 1])

    @property
    def kl_per_dimension_(self) -> Any:
        """How much each latent dimension says about the data it was learned from, in nats: mean KL(q(z_l | x) || p(z_l))."""
        return as_array(self._fitted_model().divergences)

    @property
    def n_active_(self) -> int:
        """The number of active units: latent dimensions whose mean varies over the data by more than 0.01."""
        return int((self.code_variances_ > ACTIVE).sum())

    def after_learning(self, model: VariationalModel, batches: Batches) -> None:
        """Take down how the latent variables are used, and warn where most of them are not."""
        divergences = model.settle(batches, also=model.divergence)
        with torch.no_grad():
            model.divergences.copy_(divergences)
        n_codes, n_active = len(model.code_variances), int((model.code_variances > ACTIVE).sum())
        if n_active < n_codes / 2:
            warnings.warn(
                f"posterior collapse: {n_active} of {n_codes} latent dimensions are active (their mean varies over the data by more "
                f"than {ACTIVE}); lower n_latent or beta, raise warmup, or learn longer",
                IdentifiabilityWarning,
                stacklevel=3,
            )
