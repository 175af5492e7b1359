"""Variational sparse coding: latent variables that are off, or on and Gaussian."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from unveil.core.constraints import real
from unveil.core.estimator import Estimator
from unveil.core.history import History
from unveil.core.neural import HasDensities, Latent
from unveil.core.noise import Noise
from unveil.core.run import Run
from unveil.data.batch import Batches
from unveil.errors import ParameterError
from unveil.learn.sgd import sgd, sgd_settings
from unveil.models.variational import VARIATIONAL_CONSTRAINTS, VariationalMixin, VariationalModel
from unveil.nn.normal_latent import drawn_from, log_normal, normal_parts

SHARPNESS = (50.0, 200.0)  # of the sigmoid that stands for a spike while learning: at the beginning and at the end


def spike_and_slab_parts(statistics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The logit of the probability that a dimension is on, and mean and log-variance of its slab."""
    logit, slab = statistics.tensor_split([statistics.shape[-1] // 3], -1)
    return logit, *normal_parts(slab)


class SpikeAndSlabLatent(Latent, HasDensities):
    """z_j ~ alpha N(0, 1) + (1 - alpha) delta_0, and q(z_j | x) = g_j N(m_j, s_j^2) + (1 - g_j) delta_0.

    While learning, spikes are relaxed and warmed up: lambda = (epoch / warmup_epochs)^2 rises to 1, and all dimensions begin as
    Gaussians that are on.

    Parameters
    ----------
    n_latent : int
    alpha : float
    warmup_epochs : float
        Epochs in which lambda rises.
    max_epochs : int
        Epochs in which spikes get sharp.
    """

    def __init__(self, n_latent: int, alpha: float, warmup_epochs: float, max_epochs: int):
        super().__init__()
        self.n_latent, self.n_codes, self.n_statistics = n_latent, n_latent, 3 * n_latent
        self._alpha, self._warmup_epochs, self._max_epochs = alpha, warmup_epochs, max_epochs

    def initialize(self, generator: torch.Generator) -> None:
        """There are no parameters."""

    def draw(self, statistics: Tensor, noise: Noise, epoch: float) -> Tensor:
        """z = (m + s e) sigmoid(c (u - 1 + g)), with u uniform; a hard spike, u >= 1 - g, after all epochs."""
        logit, mean, log_variance = spike_and_slab_parts(statistics)
        slab = drawn_from(mean, log_variance, noise)
        off = self._warmed_up(epoch) * (-logit).sigmoid()
        above = noise.uniform(mean) - off
        return slab * ((above >= 0).to(slab) if math.isinf(epoch) else (self._sharpness(epoch) * above).sigmoid())

    def _warmed_up(self, epoch: float) -> float:
        """lambda: how far spikes are allowed. Slowly at first: what is switched off before it means anything stays off."""
        return min(epoch / self._warmup_epochs, 1.0) ** 2 if self._warmup_epochs else 1.0

    def _sharpness(self, epoch: float) -> float:
        """c."""
        first, last = SHARPNESS
        return first + (last - first) * min(epoch / self._max_epochs, 1.0)

    def divergence(self, statistics: Tensor, codes: Tensor, epoch: float) -> Tensor:
        """g KL(N(m, s^2) || N(0, 1)) + KL(Bernoulli(g) || Bernoulli(alpha)), of shape (n, n_latent).

        In the warm-up g is 1 - lambda + lambda g in the first term, and the second is weighed with lambda.
        """
        logit, mean, log_variance = spike_and_slab_parts(statistics)
        off, warmed_up = (-logit).sigmoid(), self._warmed_up(epoch)
        of_slab = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
        of_spike = (1 - off) * (logsigmoid(logit) - math.log(self._alpha)) + off * (logsigmoid(-logit) - math.log1p(-self._alpha))
        return (1 - warmed_up * off) * of_slab + warmed_up * of_spike

    def mean(self, statistics: Tensor) -> Tensor:
        """g m."""
        logit, mean, _ = spike_and_slab_parts(statistics)
        return logit.sigmoid() * mean

    def mean_square(self, statistics: Tensor) -> Tensor:
        """g (m^2 + s^2)."""
        logit, mean, log_variance = spike_and_slab_parts(statistics)
        return logit.sigmoid() * (mean.square() + log_variance.exp())

    def observe(self, codes: Tensor) -> Tensor:
        """The codes themselves."""
        return codes

    def sample(self, n_samples: int, generator: torch.Generator) -> tuple[Tensor, None]:
        """On with probability alpha, then standard normal; else 0."""
        slab = torch.randn(n_samples, self.n_latent, generator=generator)
        return slab * (torch.rand(slab.shape, generator=generator) < self._alpha), None

    def log_prior(self, codes: Tensor) -> Tensor:
        """log prod_j [alpha N(z_j; 0, 1)]^on_j (1 - alpha)^off_j, with respect to length where on, and to the point 0 where off."""
        on = math.log(self._alpha) + log_normal(codes, 0.0, 0.0)
        return torch.where(codes != 0, on, math.log1p(-self._alpha)).sum(-1)

    def log_posterior(self, codes: Tensor, statistics: Tensor) -> Tensor:
        """log prod_j [g_j N(z_j; m_j, s_j^2)]^on_j (1 - g_j)^off_j, with respect to the same."""
        logit, mean, log_variance = spike_and_slab_parts(statistics)
        on = logsigmoid(logit) + log_normal(codes, mean, log_variance)
        return torch.where(codes != 0, on, logsigmoid(-logit)).sum(-1)


class VariationalSparseCoding(VariationalMixin, Estimator):
    """Variational sparse coding (VSC): a variational autoencoder whose latent variables are mostly zero.

    Each latent variable is on with a small probability, and else exactly zero: a spike and a slab::

        z_j ~ alpha N(0, 1) + (1 - alpha) delta_0,      x | z ~ p(x | decoder(z)).

    A network approximates the posterior by one of the same kind, ``q(z_j | x) = g_j(x) N(m_j(x), s_j^2(x)) + (1 - g_j(x)) delta_0``,
    whose divergence from the prior is, in nats,

        KL = sum_j g_j [m_j^2 + s_j^2 - 1 - log s_j^2] / 2 + g_j log(g_j / alpha) + (1 - g_j) log((1 - g_j) / (1 - alpha)).

    While learning, draws are relaxed to ``z_j = (m_j + s_j e) sigmoid(c (u - 1 + g_j))`` with u uniform, so that they have a gradient; c
    rises from 50 to 200. Scores and samples have hard spikes.

    Parameters
    ----------
    n_latent : int
        The dimension of z; at most the number of features.
    alpha : float
        The prior probability that a latent variable is on, between 0 and 1: the smaller, the sparser.
    warmup_epochs : float
        Epochs in which spikes come in, with the square of the share that is over: all latent variables begin as on. No epoch before
        is kept as the best. Of fewer epochs in all the model has not learned its spikes.
    likelihood : {"power", "gaussian", "bernoulli", "poisson", "categorical"}
        What rows hold: power spectra |X|^2 of sound, as zero-mean complex Gaussians (minus this log-likelihood is the Itakura-Saito
        divergence); numbers; shares in [0, 1]; counts; or whole numbers below ``n_values``.
    hidden : int or tuple of int
        Units (or channels) of each hidden layer, from the data inwards; () makes encoder and decoder linear.
    variance : {"features", "shared", "network"} or float
        With likelihood="gaussian": the variance of x given z is learned, one for each feature or one for all; or the decoder
        gives it; or it is this number, in squared units of the data.
    n_values : int
        With likelihood="categorical": how many values there are.
    beta : float
        Weight of the divergence while learning; scores always have 1.
    architecture, shape, activation, batch_size, max_epochs, learning_rate, schedule, clip_norm, validation_fraction, patience, device, \
dtype, precision, random_state, verbose
        As in ``VAE``.

    Attributes
    ----------
    kl_per_dimension_ : ndarray of shape (n_latent,)
        In nats: what each dimension says about the data.
    n_active_ : int
        How many dimensions are in use over all data; fewer than half of them give a warning (posterior collapse).
    history_ : History
        Its ``parts`` hold the reconstruction and the divergence of each epoch, in nats, also on held-out data.

    Notes
    -----
    The prior is that of the paper's first version, with a fixed alpha. The final one learns a mixture of spikes and slabs at
    pseudo-inputs. Our warm-up lets spikes in, so that training begins as that of a VAE; theirs begins with spikes alone.

    References
    ----------
    Tonolini, Jensen and Murray-Smith (2020), Variational sparse coding.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> parts = rng.normal(size=(400, 4)) * (rng.random((400, 4)) < 0.3)  # few are on
    >>> X = parts @ rng.normal(size=(4, 12)) + 0.1 * rng.normal(size=(400, 12))
    >>> settings = {"likelihood": "gaussian", "hidden": 32, "learning_rate": 5e-3, "batch_size": 32, "max_epochs": 60}
    >>> vsc = VariationalSparseCoding(n_latent=6, alpha=0.2, **settings, random_state=0).fit(X)
    >>> on, mean, deviation = vsc.posterior(X)
    >>> vsc.transform(X).shape, bool(on.mean() < 0.6), bool(np.allclose(vsc.transform(X), on * mean))
    ((400, 6), True, True)
    """

    constraints = {name: check for name, check in VARIATIONAL_CONSTRAINTS.items() if name != "warmup"} | {
        "alpha": real(0.0, 1.0, open_below=True),
        "warmup_epochs": real(0.0),
    }
    warmup = 0.0  # of the divergence's weight: spikes have a warm-up of their own

    def __init__(
        self,
        n_latent: int = 2,
        *,
        alpha: float = 0.5,
        warmup_epochs: float = 4.0,
        likelihood: str = "power",
        hidden: Any = (400,),
        variance: str | float = "features",
        n_values: int = 2,
        beta: float = 1.0,
        architecture: str = "mlp",
        shape: tuple[int, ...] | None = None,
        activation: str = "relu",
        batch_size: int = 128,
        max_epochs: int = 100,
        learning_rate: float = 1e-3,
        schedule: str = "constant",
        clip_norm: float | None = None,
        validation_fraction: float = 0.1,
        patience: int | None = 10,
        device: str = "auto",
        dtype: str = "float32",
        precision: str = "full",
        random_state: Any = None,
        verbose: int = 0,
    ):
        self.n_latent = n_latent
        self.alpha = alpha
        self.warmup_epochs = warmup_epochs
        self.likelihood = likelihood
        self.hidden = hidden
        self.variance = variance
        self.n_values = n_values
        self.beta = beta
        self.architecture = architecture
        self.shape = shape
        self.activation = activation
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.clip_norm = clip_norm
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.device = device
        self.dtype = dtype
        self.precision = precision
        self.random_state = random_state
        self.verbose = verbose

    def build(self, n_features: int) -> VariationalModel:
        """Networks around spikes and slabs."""
        if self.alpha >= 1:
            raise ParameterError(f"alpha={self.alpha!r}: expected a probability below 1; without spikes it is a VAE")
        return self.assemble(SpikeAndSlabLatent(self.n_latent, self.alpha, self.warmup_epochs, self.max_epochs), n_features)

    def learn(self, model: VariationalModel, batches: Batches, generator: torch.Generator, run: Run = Run()) -> History:
        """Gradients of the bound, whose best epoch is one with spikes; then a look at how the latent variables are used."""
        history = sgd(model, batches, generator, **sgd_settings(self, run), patient_until=self.warmup_epochs)
        self.after_learning(model, batches)
        return history

    def posterior(self, X: Any, *, lengths: Any = None) -> tuple[Any, Any, Any]:
        """q(z | x) of each row: probabilities of being on, and means and standard deviations where on, all of shape (n, n_latent)."""
        model = self._fitted_model()
        statistics, layout = self._map(X, lengths, lambda batch: model.encode(model.ready(batch)))
        logit, mean, log_variance = spike_and_slab_parts(statistics)
        return layout.per_step(logit.sigmoid()), layout.per_step(mean), layout.per_step((0.5 * log_variance).exp())
