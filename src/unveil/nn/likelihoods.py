"""Families of observations whose parameters a decoder gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from unveil.core.neural import Likelihood
from unveil.data.batch import Batch
from unveil.errors import InputError, ParameterError

LOG_2PI = math.log(2 * math.pi)
POWER_FLOOR = 1e-10  # of the mean power: 100 dB below it; silence has no logarithm
START_LOG_VARIANCE = -2.0  # of the same: with a variance of 1, a decoder would at first do best without its latent variables
LEAST_LOG_VARIANCE = -14.0  # of data in units of its own standard deviation: nothing is exact


class _Standardized(Likelihood):
    """What is common to families whose data has a location and a scale: both are taken from the data, feature by feature."""

    def __init__(self, n_features: int, n_outputs: int):
        super().__init__()
        self.n_features, self.n_inputs, self.n_outputs = n_features, n_features, n_outputs
        self.register_buffer("location", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))

    def _standardize_to(self, values: Tensor) -> None:
        scale = values.double().std(0, correction=0)
        self.location.copy_(values.double().mean(0))
        self.scale.copy_(torch.where(scale > 0, scale, torch.ones_like(scale)))

    def _standardized(self, values: Tensor) -> Tensor:
        return (values - self.location) / self.scale


class Gaussian(_Standardized):
    """x_d ~ N(m_d, s_d^2), where the decoder gives m, and s^2 too or not.

    Parameters
    ----------
    n_features : int
    variance : {"features", "shared", "network"} or float
        s^2 is learned, one for each feature or one for all; or the decoder gives it for each observation; or it is this number,
        in squared units of the data.
    """

    def __init__(self, n_features: int, variance: str | float = "features"):
        super().__init__(n_features, n_features * (2 if variance == "network" else 1))
        self._variance = variance
        if variance in ("features", "shared"):
            self.log_variance = nn.Parameter(torch.full((n_features,) if variance == "features" else (), START_LOG_VARIANCE))

    def check(self, batch: Batch) -> None:
        """Every finite number is in range."""

    def initialize(self, values: Tensor) -> None:
        """Location and scale of each feature; with a variance that all share, one scale for all."""
        self._standardize_to(values)
        if self._variance != "features" and self._variance != "network":
            self.scale.fill_(self.scale.double().square().mean().sqrt().item())

    def start_bias(self, values: Tensor) -> Tensor:
        """The mean of the data."""
        bias = self.location.new_zeros(self.n_outputs)
        bias[self.n_features :] = START_LOG_VARIANCE
        return bias

    def encoder_input(self, values: Tensor) -> Tensor:
        """Standardised."""
        return self._standardized(values)

    def log_density(self, values: Tensor, outputs: Tensor) -> Tensor:
        """-1/2 sum_d [(x_d - m_d)^2 / s_d^2 + log(2 pi s_d^2)]."""
        mean, log_variance = self._parameters_of(outputs)
        squares = (self._standardized(values) - mean).square() * (-log_variance).exp()
        constant = self.n_features * LOG_2PI + 2 * self.scale.log().sum()
        return -0.5 * (squares.sum(-1) + log_variance.expand_as(mean).sum(-1) + constant)

    def _parameters_of(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance in units of the scale."""
        if self._variance == "network":
            mean, log_variance = outputs.chunk(2, -1)
            return mean, log_variance.clamp_min(LEAST_LOG_VARIANCE)
        if isinstance(self._variance, str):
            return outputs, self.log_variance.clamp_min(LEAST_LOG_VARIANCE)
        return outputs, math.log(self._variance) - 2 * self.scale.log()  # a number, in units of the scale

    def best_log_density(self, values: Tensor) -> Tensor:
        """At m = x, where the variance is settled; without bound where it is not."""
        return self.log_density(values, self._standardized(values))

    def mean(self, outputs: Tensor) -> Tensor:
        """m."""
        return self.location + self.scale * outputs[..., : self.n_features]

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """m + s e, with e ~ N(0, I)."""
        mean, log_variance = self._parameters_of(outputs)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype).to(mean.device)
        return self.location + self.scale * (mean + (0.5 * log_variance).exp() * noise)


class Bernoulli(Likelihood):
    """x_d ~ Bernoulli(p_d), where the decoder gives the logits of p; x may be shares in [0, 1], such as grey levels."""

    def __init__(self, n_features: int):
        super().__init__()
        self.n_features = self.n_inputs = self.n_outputs = n_features

    def check(self, batch: Batch) -> None:
        """Shares in [0, 1]."""
        _check_range(
            batch, 0.0, 1.0, "bernoulli", "numbers in [0, 1]; divide grey levels by their largest, or use likelihood='gaussian'"
        )

    def initialize(self, values: Tensor) -> None:
        """There is no scale."""

    def start_bias(self, values: Tensor) -> Tensor:
        """The logits of the means."""
        share = values.double().mean(0).clamp(0.01, 0.99)
        return share.logit()

    def encoder_input(self, values: Tensor) -> Tensor:
        """As they are."""
        return values

    def log_density(self, values: Tensor, outputs: Tensor) -> Tensor:
        """sum_d [x_d log p_d + (1 - x_d) log(1 - p_d)]: minus the cross-entropy, whose logarithms never meet a zero."""
        values = values.expand_as(outputs)
        return -functional.binary_cross_entropy_with_logits(outputs, values, reduction="none").sum(-1)

    def best_log_density(self, values: Tensor) -> Tensor:
        """0, as of zeros and ones: minus the log-density is then the cross-entropy."""
        return values.new_zeros(len(values))

    def mean(self, outputs: Tensor) -> Tensor:
        """p."""
        return outputs.sigmoid()

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Ones with probability p."""
        uniform = torch.rand(outputs.shape, generator=generator, dtype=outputs.dtype).to(outputs.device)
        return (uniform < outputs.sigmoid()).to(outputs.dtype)


class Power(_Standardized):
    """Power spectra of complex Gaussian coefficients s_f ~ Nc(0, v_f): x_f = |s_f|^2, where the decoder gives log v.

    Minus the log-likelihood is the Itakura-Saito divergence of x from v and a constant. The density is that of s, as a
    function of its power: ``log p = -sum_f [x_f / v_f + log(pi v_f)]``.
    """

    def __init__(self, n_features: int):
        super().__init__(n_features, n_features)
        self.register_buffer("floor", torch.zeros(()))

    def check(self, batch: Batch) -> None:
        """Powers are not negative."""
        _check_range(batch, 0.0, math.inf, "power", "powers, which are not negative; give squared magnitudes |X|^2")

    def initialize(self, values: Tensor) -> None:
        """The scale of the powers' logarithms: powers themselves span too many orders of magnitude for a network."""
        self.floor.copy_(POWER_FLOOR * values.double().mean().clamp_min(torch.finfo(torch.float32).tiny))
        self._standardize_to((values + self.floor).log())

    def start_bias(self, values: Tensor) -> Tensor:
        """The logarithm of the mean power, not the mean of the logarithms: x / v has no bound where v is too small."""
        return (values.double().mean(0) + self.floor).log()

    def encoder_input(self, values: Tensor) -> Tensor:
        """Standardised logarithms."""
        return self._standardized((values + self.floor).log())

    def log_density(self, values: Tensor, outputs: Tensor) -> Tensor:
        """-sum_f [x_f / v_f + log(pi v_f)], with the floor added to x."""
        return -((values + self.floor) * (-outputs).exp() + outputs).sum(-1) - self.n_features * math.log(math.pi)

    def best_log_density(self, values: Tensor) -> Tensor:
        """At v = x: what is missing to it is the Itakura-Saito divergence."""
        return self.log_density(values, (values + self.floor).log())

    def mean(self, outputs: Tensor) -> Tensor:
        """v."""
        return outputs.exp()

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """The power of a complex Gaussian is exponential."""
        uniform = torch.rand(outputs.shape, generator=generator, dtype=outputs.dtype).to(outputs.device)
        return -outputs.exp() * torch.log1p(-uniform)


class Poisson(_Standardized):
    """x_d ~ Poisson(r_d), where the decoder gives log r; x may be fractions, such as magnitude spectra, up to a constant."""

    def __init__(self, n_features: int):
        super().__init__(n_features, n_features)

    def check(self, batch: Batch) -> None:
        """Counts are not negative."""
        _check_range(batch, 0.0, math.inf, "poisson", "counts, which are not negative")

    def initialize(self, values: Tensor) -> None:
        """The scale of the counts' logarithms."""
        self._standardize_to(values.log1p())

    def start_bias(self, values: Tensor) -> Tensor:
        """The logarithms of the means."""
        return values.double().mean(0).clamp_min(1e-4).log()

    def encoder_input(self, values: Tensor) -> Tensor:
        """Standardised logarithms of one more."""
        return self._standardized(values.log1p())

    def log_density(self, values: Tensor, outputs: Tensor) -> Tensor:
        """sum_d [x_d log r_d - r_d - log x_d!]: minus the generalised Kullback-Leibler divergence, and a constant."""
        return (values * outputs - outputs.exp() - torch.lgamma(values + 1)).sum(-1)

    def best_log_density(self, values: Tensor) -> Tensor:
        """At r = x: what is missing to it is the generalised Kullback-Leibler divergence."""
        return (torch.xlogy(values, values) - values - torch.lgamma(values + 1)).sum(-1)

    def mean(self, outputs: Tensor) -> Tensor:
        """r."""
        return outputs.exp()

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Counts."""
        return torch.poisson(outputs.exp().cpu(), generator=generator).to(outputs.device)


class Categorical(Likelihood):
    """x_d in {0, ..., K - 1}, where the decoder gives the logits of each value.

    Parameters
    ----------
    n_features : int
    n_values : int
        K.
    """

    def __init__(self, n_features: int, n_values: int):
        super().__init__()
        self.n_features, self.n_values = n_features, n_values
        self.n_inputs = self.n_outputs = n_features * n_values

    def check(self, batch: Batch) -> None:
        """Whole numbers below K."""
        _check_range(batch, 0.0, self.n_values - 1.0, "categorical", f"whole numbers from 0 to {self.n_values - 1}; raise n_values")
        if bool((batch.values != batch.values.round()).any()):
            raise InputError("X holds fractions, but likelihood='categorical' takes whole numbers; round them")

    def initialize(self, values: Tensor) -> None:
        """There is no scale."""

    def start_bias(self, values: Tensor) -> Tensor:
        """The logarithms of the shares."""
        return (self._one_hot(values).double().mean(0) + 1e-3).log().flatten()

    def encoder_input(self, values: Tensor) -> Tensor:
        """One for each value that there is: value by value, feature by feature."""
        return self._one_hot(values).flatten(-2)

    def _one_hot(self, values: Tensor) -> Tensor:
        """(n, K, D)."""
        return functional.one_hot(values.long(), self.n_values).to(values.dtype).transpose(-1, -2)

    def _logits(self, outputs: Tensor) -> Tensor:
        """(..., K, D), normalised."""
        return outputs.unflatten(-1, (self.n_values, self.n_features)).log_softmax(-2)

    def log_density(self, values: Tensor, outputs: Tensor) -> Tensor:
        """sum_d log p(x_d)."""
        logits = self._logits(outputs)
        index = values.long().unsqueeze(-2).expand(*logits.shape[:-2], 1, self.n_features)
        return logits.gather(-2, index).squeeze(-2).sum(-1)

    def best_log_density(self, values: Tensor) -> Tensor:
        """0: all on the right values."""
        return values.new_zeros(len(values))

    def mean(self, outputs: Tensor) -> Tensor:
        """The most probable value."""
        return self._logits(outputs).argmax(-2).to(outputs.dtype)

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Values in proportion to their probabilities."""
        shares = self._logits(outputs).exp().transpose(-1, -2).reshape(-1, self.n_values)
        drawn = torch.multinomial(shares.cpu(), 1, generator=generator).reshape(-1, self.n_features)
        return drawn.to(outputs.device, outputs.dtype)


LIKELIHOODS: dict[str, Callable[[int, Any], Likelihood]] = {
    "gaussian": lambda n_features, settings: Gaussian(n_features, settings["variance"]),
    "bernoulli": lambda n_features, settings: Bernoulli(n_features),
    "power": lambda n_features, settings: Power(n_features),
    "poisson": lambda n_features, settings: Poisson(n_features),
    "categorical": lambda n_features, settings: Categorical(n_features, settings["n_values"]),
}


def variance_setting(name: str, value: Any) -> None:
    """One of the words, or a positive number."""
    positive = isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0 and math.isfinite(value)
    if value not in ("features", "shared", "network") and not positive:
        raise ParameterError(f"{name}={value!r}: expected 'features', 'shared', 'network', or a number > 0")


def _check_range(batch: Batch, least: float, most: float, name: str, expected: str) -> None:
    """Raise InputError where a value is below ``least`` or above ``most``."""
    low, high = (float(each) for each in batch.values.aminmax())
    if low >= least and high <= most:
        return
    wrong = low if low < least else high
    row, column = (int(index) for index in (batch.values == wrong).nonzero()[0])
    place = f"{_row(batch, row)}, column {column}"
    what = "Negative values in data" if wrong < 0 else "Values out of range in data"
    raise InputError(f"{what} passed to likelihood={name!r}: {wrong:g} at {place}; it takes {expected}")


def _row(batch: Batch, row: int) -> str:
    if batch.holds_points:
        return f"row {batch.start + row}"
    inside = int((batch.offsets <= row).sum()) - 1
    return f"sequence {batch.start + inside}, step {row - int(batch.offsets[inside])}"


def negative_is_wrong(likelihood: str) -> bool:
    """Whether a family of observations has no negative values."""
    return likelihood != "gaussian"
