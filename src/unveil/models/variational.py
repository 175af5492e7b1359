"""Variational autoencoders of every kind: an encoder, latent variables, a decoder and a likelihood, learned by a lower bound.

What tells one kind from another are its latent variables; their files say how.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from torch import Tensor

from unveil.core.constraints import choice, integer, real
from unveil.core.estimator import as_array
from unveil.core.neural import GradientModel, HasDensities, Latent, Likelihood, Loss, Network, Noise
from unveil.data.batch import Batch, Batches
from unveil.data.layout import as_numeric
from unveil.errors import IdentifiabilityWarning, InputError
from unveil.learn.sgd import DTYPES, SGD_CONSTRAINTS
from unveil.nn.architectures import ARCHITECTURE_CONSTRAINTS, decoder, encoder
from unveil.nn.conv import shape_of_row
from unveil.nn.layers import start
from unveil.nn.likelihoods import LIKELIHOODS, variance_setting

START_SAMPLE = 20000  # steps that scales and biases are taken from
BOUND_DRAWS = 8  # of the latent variables, for a bound that is evaluated
BOUND_SEED = 11
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


class VariationalModel(GradientModel):
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
        super().__init__()
        self.encoder, self.latent, self.decoder, self.likelihood = encoder, latent, decoder, likelihood
        self._beta, self._warmup = beta, warmup
        for name in ("divergences", "code_means", "code_squares"):
            self.register_buffer(name, torch.zeros(0))

    @torch.no_grad()
    def initialize(self, batches: Batches, generator: torch.Generator) -> None:
        """Make sure of the data's range, and start with what is known of its scale."""
        for batch in batches:
            self.likelihood.check(batch.values)
        values = batches.sample_steps(START_SAMPLE, generator)[0]
        for part in (self.encoder, self.decoder):
            start(part, generator)
        self.latent.initialize(generator)
        self.likelihood.initialize(values)
        start_decoder_at(self.decoder, self.likelihood.start_bias(values))

    def loss(self, batch: Batch, generator: torch.Generator, epoch: float) -> Loss:
        """Means over the steps of a minibatch."""
        values = batch.values
        statistics = self.encode(batch)
        codes = self.latent.draw(statistics, Noise(generator), epoch)
        reconstruction = -self.likelihood.log_density(values, self.decode(codes, batch))
        divergence = self.latent.divergence(statistics, codes, epoch).sum(-1)
        beta = self._beta * (min(epoch / self._warmup, 1.0) if self._warmup else 1.0)
        weights = batch.step_weights
        if weights is not None:
            reconstruction, divergence = weights * reconstruction, weights * divergence
        reconstruction, divergence = reconstruction.mean(), divergence.mean()
        return Loss(reconstruction + beta * divergence, {"reconstruction": reconstruction, "KL": divergence})

    def objective(self, batch: Batch) -> Tensor:
        """The evidence lower bound of each sequence."""
        reconstruction, divergence = self.bound(batch)
        return per_sequence(-reconstruction - divergence, batch)

    def bound(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The two parts of minus the evidence lower bound for each step: reconstruction and divergence, both of shape (n_steps,)."""
        batch = self.ready(batch)
        statistics, noise = self.encode(batch), Noise.fixed(BOUND_SEED)
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
        statistics, noise = self.encode(batch), Noise.fixed(BOUND_SEED)
        total = torch.full((batch.n_sequences,), -math.inf, dtype=torch.float64, device=batch.values.device)
        for _ in range(n_draws):
            codes = latent.draw(statistics, noise, math.inf)
            likelihood = self.likelihood.log_density(batch.values, self.decode(codes, batch))
            weight = likelihood + latent.log_prior(codes) - latent.log_posterior(codes, statistics)
            total = torch.logaddexp(total, per_sequence(weight, batch).double())
        return total - math.log(n_draws)

    def ready(self, batch: Batch) -> Batch:
        """A batch in the type that the networks work in, after a look at its range."""
        self.likelihood.check(batch.values)
        return batch.to(dtype=self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """The type that the networks work in."""
        return next(self.decoder.parameters()).dtype

    def encode(self, batch: Batch) -> Tensor:
        """What q(z | x) is made of, of shape (n_steps, n_statistics)."""
        return self.encoder(self.likelihood.encoder_input(batch.values), batch.lengths)

    def decode(self, codes: Tensor, batch: Batch | None = None) -> Tensor:
        """What p(x | z) is made of, of shape (n_steps, n_outputs)."""
        return self.decoder(self.latent.observe(codes), None if batch is None else batch.lengths)

    def codes(self, batch: Batch) -> Tensor:
        """E[z | x] of each step, of shape (n_steps, n_codes)."""
        return self.latent.mean(self.encode(self.ready(batch)))

    def reconstruct(self, batch: Batch) -> Tensor:
        """E[x | z] at z = E[z | x], of shape (n_steps, n_features)."""
        return self.likelihood.mean(self.decode(self.codes(batch), batch))

    def sample(self, n_sequences: int, length: int, generator: torch.Generator) -> Batch:
        """Codes from the prior, and observations given these."""
        codes, classes = self.latent.sample(n_sequences * length, generator)
        offsets = torch.arange(n_sequences + 1) * length
        where = next(self.decoder.parameters())
        blank = Batch(torch.empty(n_sequences * length, 0), offsets)
        outputs = self.decode(codes.to(where), blank)
        return Batch(self.likelihood.sample(outputs, generator), offsets, labels=classes)

    @torch.no_grad()
    def settle(self, batches: Batches) -> None:
        """Take down how the latent variables are used on the data, which also tells priors that follow it."""
        n, divergences, means, squares, drawn = 0, 0.0, 0.0, 0.0, 0.0
        noise = Noise(torch.Generator().manual_seed(BOUND_SEED))
        for batch in batches:
            statistics = self.encode(self.ready(batch))
            codes, mean = self.latent.draw(statistics, noise, math.inf), self.latent.mean(statistics)
            divergences = divergences + self.latent.divergence(statistics, codes, math.inf).double().sum(0)
            means, squares = means + mean.double().sum(0), squares + mean.double().square().sum(0)
            drawn, n = drawn + codes.double().square().sum(0), n + len(codes)
        for name, value in (("divergences", divergences), ("code_means", means), ("code_squares", squares)):
            setattr(self, name, (torch.as_tensor(value) / n).to(self.dtype))
        self.latent.settle(torch.as_tensor(drawn) / n)

    def count_parameters(self) -> int:
        """Of the generative part: prior, decoder and likelihood; the encoder only serves inference."""
        return sum(p.numel() for part in (self.latent, self.decoder, self.likelihood) for p in part.parameters())


def start_decoder_at(network: Network, bias: Tensor) -> None:
    """Let a decoder begin with outputs around ``bias``; where several share a parameter, it becomes their mean."""
    with torch.no_grad():
        own = network.last_bias()
        own.copy_(bias.reshape(len(own), -1).mean(1))


def per_sequence(values: Tensor, batch: Batch) -> Tensor:
    """Sums over the steps of each sequence, of shape (n_sequences,)."""
    if batch.holds_points:
        return values
    return values.new_zeros(batch.n_sequences).index_add(0, batch.sequence_of_step.to(values.device), values)


class VariationalMixin(ClassNamePrefixFeaturesOutMixin, TransformerMixin):
    """What estimators of variational autoencoders can do beyond scores and samples."""

    learns_in_epochs = True

    @property
    def items(self) -> Literal["points", "sequences"]:
        """A recurrent network takes sequences, others points."""
        return "sequences" if self.architecture == "recurrent" else "points"  # type: ignore[attr-defined]

    def assemble(self, latent: Latent, n_features: int) -> VariationalModel:
        """The model around latent variables of some kind."""
        self._check_size(n_features)
        likelihood = LIKELIHOODS[self.likelihood](n_features, {"variance": self.variance, "n_values": self.n_values})  # type: ignore[attr-defined]
        shape = shape_of_row(n_features, self.shape) if self.architecture == "conv" else ()  # type: ignore[attr-defined]
        settings = self.hidden, self.activation, shape  # type: ignore[attr-defined]
        inner = encoder(self.architecture, likelihood.n_inputs, settings[0], latent.n_statistics, *settings[1:])  # type: ignore[attr-defined]
        outer = decoder(self.architecture, latent.n_latent, settings[0], likelihood.n_outputs, *settings[1:])  # type: ignore[attr-defined]
        model = VariationalModel(inner, latent, outer, likelihood, self.beta, self.warmup)  # type: ignore[attr-defined]
        return model.to(DTYPES[self.dtype])  # type: ignore[attr-defined]

    def _check_size(self, n_features: int) -> None:
        if self.n_latent > n_features:  # type: ignore[attr-defined]
            raise InputError(
                f"n_latent={self.n_latent} but X has {n_features} features; the latent variables are fewer, lower n_latent"  # type: ignore[attr-defined]
            )

    def transform(self, X: Any, *, lengths: Any = None) -> Any:
        """E[z | x] of each row, of shape (n, n_codes)."""
        codes, layout = self._map(X, lengths, self._fitted_model().codes)  # type: ignore[attr-defined]
        return layout.per_step(codes)

    def reconstruct(self, X: Any, *, lengths: Any = None) -> Any:
        """The rows as the model says them again, E[x | z] at z = E[z | x], of the shape of X."""
        values, layout = self._map(X, lengths, self._fitted_model().reconstruct)  # type: ignore[attr-defined]
        return layout.per_step(values)

    def inverse_transform(self, Z: Any) -> Any:
        """The observations E[x | z] (n, n_features) that codes (n, n_codes) stand for; of a recurrent network, of one sequence."""
        model = self._fitted_model()  # type: ignore[attr-defined]
        codes = torch.as_tensor(as_numeric(Z, "Z"), dtype=model.dtype)
        whole = Batch(codes, torch.tensor([0, len(codes)])) if self.items == "sequences" else None
        with torch.no_grad():
            return as_array(model.likelihood.mean(model.decode(codes.to(next(model.parameters()).device), whole)))

    def bound(self, X: Any, *, lengths: Any = None) -> tuple[Any, Any]:
        """The two parts of minus ``score_samples`` for each row, in nats: reconstruction and Kullback-Leibler divergence."""
        parts, layout = self._map(X, lengths, lambda batch: torch.stack(self._fitted_model().bound(batch), 1))  # type: ignore[attr-defined]
        return layout.per_step(parts[:, 0]), layout.per_step(parts[:, 1])

    @property
    def kl_per_dimension_(self) -> Any:
        """How much each latent dimension says about the data it was learned from, in nats: mean KL(q(z_l | x) || p(z_l))."""
        return as_array(self._fitted_model().divergences)  # type: ignore[attr-defined]

    @property
    def code_variances_(self) -> Any:
        """The variance over the data of E[z_l | x]: 0 for a dimension that is not used."""
        model = self._fitted_model()  # type: ignore[attr-defined]
        return as_array(model.code_squares - model.code_means.square())

    @property
    def n_active_(self) -> int:
        """The number of active units: latent dimensions whose mean varies over the data by more than 0.01."""
        return int((self.code_variances_ > ACTIVE).sum())

    @property
    def _n_features_out(self) -> int:
        return len(self.code_variances_)

    def settled(self, model: VariationalModel, batches: Batches) -> None:
        """After learning: take down how the latent variables are used, and warn where most of them are not."""
        model.settle(batches)
        variances = (model.code_squares - model.code_means.square()).double()
        n_active = int((variances > ACTIVE).sum())
        if n_active < len(variances) / 2:
            warnings.warn(
                f"posterior collapse: {n_active} of {len(variances)} latent dimensions are active (their mean varies over the data by more "
                f"than {ACTIVE}); lower n_latent or beta, raise warmup, or learn longer",
                IdentifiabilityWarning,
                stacklevel=3,
            )
