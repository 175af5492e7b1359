"""Autoencoders: a code of few numbers, or of few that are not zero, from which the data can be made again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unveil.core.constraints import choice, integer, real
from unveil.core.estimator import Estimator
from unveil.core.history import History
from unveil.core.neural import CodingModel, Latent, Likelihood, Loss, Network
from unveil.core.noise import Noise, RandomNoise
from unveil.core.run import Run
from unveil.data.batch import Batch, Batches
from unveil.learn.sgd import DTYPES, SGD_CONSTRAINTS, sgd, sgd_settings
from unveil.models.coding import CodesMixin, check_fewer_latent
from unveil.models.variational import per_sequence
from unveil.nn.architectures import ARCHITECTURE_CONSTRAINTS
from unveil.nn.layers import ACTIVATIONS
from unveil.nn.likelihoods import LIKELIHOODS

LOSSES = {"squared": "gaussian", "cross-entropy": "bernoulli", "kullback-leibler": "poisson", "itakura-saito": "power"}
CORRUPTIONS = ("none", "masking", "gaussian")


class Code(Latent):
    """A code that the encoder gives as it is, or after a non-linearity; there is no distribution."""

    def __init__(self, n_latent: int, activation: str = "linear"):
        super().__init__()
        self.n_latent = self.n_codes = self.n_statistics = n_latent
        self.activation = torch.nn.Identity() if activation == "linear" else ACTIVATIONS[activation]()

    def initialize(self, generator: torch.Generator) -> None:
        """There are no parameters."""

    def draw(self, statistics: Tensor, noise: Noise, epoch: float) -> Tensor:
        """The code itself."""
        return self.activation(statistics)

    def divergence(self, statistics: Tensor, codes: Tensor, epoch: float) -> Tensor:
        """There is no prior to differ from."""
        return torch.zeros_like(codes)

    def mean(self, statistics: Tensor) -> Tensor:
        """The code itself."""
        return self.activation(statistics)

    def mean_square(self, statistics: Tensor) -> Tensor:
        """The squared code."""
        return self.activation(statistics).square()

    def observe(self, codes: Tensor) -> Tensor:
        """The code itself."""
        return codes

    def sample(self, n_samples: int, generator: torch.Generator) -> tuple[Tensor, None]:
        """There is no distribution to draw from."""
        raise NotImplementedError("codes of an autoencoder have no distribution; give them one with ImplicitModel")


class AutoencoderModel(CodingModel):
    """Minimises the distortion d(x, decoder(encoder(x'))) and penalties on the code, where x' is x or a corrupted copy.

    Parameters
    ----------
    encoder, decoder : Network
    latent : Latent
    likelihood : Likelihood
        The family whose log-likelihood is minus the distortion, up to a constant.
    corruption : {"none", "masking", "gaussian"}
    corruption_level : float
        The share of numbers that are masked, or the standard deviation of the noise.
    sparsity : float
        Weight of sum_l |z_l| |d_l|, where d_l is what z_l is multiplied with first in the decoder: without it, codes would
        become small, and the decoder large.
    contraction : float
        Weight of the squared Frobenius norm of the Jacobian dz/dx'.
    """

    def __init__(
        self,
        encoder: Network,
        latent: Latent,
        decoder: Network,
        likelihood: Likelihood,
        *,
        corruption: str = "none",
        corruption_level: float = 0.3,
        sparsity: float = 0.0,
        contraction: float = 0.0,
    ):
        super().__init__(encoder, latent, decoder, likelihood)
        self._corruption, self._level = corruption, corruption_level
        self._sparsity, self._contraction = sparsity, contraction

    def loss(self, batch: Batch, generator: torch.Generator, epoch: float) -> Loss:
        """Distortion and penalties, as means over the steps of a minibatch."""
        noise = RandomNoise(generator)
        inputs = self._corrupted(self.likelihood.encoder_input(batch.values), noise)
        with_jacobian = self._contraction > 0
        with torch.set_grad_enabled(torch.is_grad_enabled() or with_jacobian):
            if with_jacobian:
                inputs = inputs.detach().requires_grad_()
            codes = self.latent.mean(self.encoder(inputs, batch.lengths))
            parts = {"distortion": self.distortion(batch.values, self.decode(codes, batch))}
            if self._sparsity > 0:
                parts["sparsity"] = self._sparsity * (codes.abs() @ self.decoder.first_weight().norm(dim=0))
            if with_jacobian:
                parts["contraction"] = self._contraction * squared_jacobian(codes, inputs, noise)
        if batch.step_weights is not None:
            parts = {name: batch.step_weights * value for name, value in parts.items()}
        means = {name: value.mean() for name, value in parts.items()}
        return Loss(torch.stack(list(means.values())).sum(), means)

    def _corrupted(self, inputs: Tensor, noise: Noise) -> Tensor:
        if self._corruption == "masking":
            return inputs * (noise.uniform(inputs) >= self._level)
        return inputs + self._level * noise.normal(inputs) if self._corruption == "gaussian" else inputs

    def distortion(self, values: Tensor, outputs: Tensor) -> Tensor:
        """d(x, x') of each step, of shape (n_steps,): 0 where they agree; of shares in [0, 1], the cross-entropy."""
        return self.likelihood.best_log_density(values) - self.likelihood.log_density(values, outputs)

    def objective(self, batch: Batch) -> Tensor:
        """Minus the distortion of each sequence, without corruption and penalties."""
        batch = self.ready(batch)
        codes = self.latent.mean(self.encode(batch))
        return per_sequence(-self.distortion(batch.values, self.decode(codes, batch)), batch)

    def sample(self, n_sequences: int, length: int, generator: torch.Generator) -> Batch:
        """There is no distribution to draw from."""
        raise NotImplementedError("an autoencoder has no distribution; give its codes one with ImplicitModel")

    def count_parameters(self) -> int:
        """Of both networks."""
        return sum(parameter.numel() for parameter in self.parameters())


def squared_jacobian(outputs: Tensor, inputs: Tensor, noise: Noise) -> Tensor:
    """An estimate of sum_lf (d outputs_l / d inputs_f)^2 of each row, with the right mean: |e' J|^2 for a random sign vector e.

    One pass back serves all rows, where the exact sum would take one for each output (Hutchinson, 1990).
    """
    signs = (noise.uniform(outputs) < 0.5).to(outputs) * 2 - 1
    (gradient,) = torch.autograd.grad((outputs * signs).sum(), inputs, create_graph=True)
    return gradient.square().sum(-1)


class Autoencoder(CodesMixin, Estimator):
    """Autoencoder, for points or sequences: undercomplete, sparse, denoising or contractive, by stochastic gradients.

    An encoder makes each row a code, and a decoder makes the row of the code::

        z = encoder(x),   x' = decoder(z),   minimise  d(x, x') + sparsity * |z|_1 + contraction * |dz/dx|^2.

    With ``hidden=()`` and loss="squared" it is linear, and its codes span the principal subspace. A code has no distribution:
    ``ImplicitModel`` gives it one, and then generates.

    Parameters
    ----------
    n_latent : int
        The length of a code; at most the number of features, but with ``sparsity`` it may be larger.
    loss : {"squared", "cross-entropy", "kullback-leibler", "itakura-saito"}
        d: squared error; cross-entropy, for shares in [0, 1]; and divergences for magnitude or power spectra.
    hidden : int or tuple of int
        Units (or channels) of each hidden layer, from the data inwards; () makes encoder and decoder linear.
    code_activation : str
        "linear", or what codes go through, such as "relu" for codes with many zeros.
    sparsity : float
        Weight of the sum of magnitudes of the code, each in units of what it does to the decoder.
    corruption : {"none", "masking", "gaussian"}
        What is done to the input, but not to what it should become, while learning (a denoising autoencoder).
    corruption_level : float
        The share of numbers that become 0 (or their mean, where data is standardised), or the standard deviation of the noise, in
        units of the data's.
    contraction : float
        Weight of the squared Jacobian of the encoder (a contractive autoencoder).
    architecture, shape, activation, batch_size, max_epochs, learning_rate, schedule, clip_norm, validation_fraction, patience, device, \
dtype, precision, random_state, verbose
        As in ``VAE``.

    Attributes
    ----------
    code_variances_ : ndarray of shape (n_latent,)
        The variance of each number of the code over the data: 0 for one that is not used.
    history_ : History
        Its ``parts`` hold the distortion and the penalties of each epoch, also on held-out data.

    Notes
    -----
    ``score`` is minus the mean distortion: a loss, not a likelihood.

    References
    ----------
    Baldi and Hornik (1989), Neural networks and principal component analysis. Vincent et al. (2010), Stacked denoising autoencoders.
    Rifai et al. (2011), Contractive auto-encoders.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 5))
    >>> autoencoder = Autoencoder(2, hidden=(), max_epochs=100, batch_size=16, learning_rate=1e-2, random_state=0).fit(X)
    >>> bool(np.abs(autoencoder.reconstruct(X) - X).mean() < 0.01)
    True
    """

    can_sample = False
    constraints = (
        SGD_CONSTRAINTS
        | ARCHITECTURE_CONSTRAINTS
        | {
            "n_latent": integer(1),
            "loss": choice(*LOSSES),
            "code_activation": choice("linear", *ACTIVATIONS),
            "sparsity": real(0.0),
            "corruption": choice(*CORRUPTIONS),
            "corruption_level": real(0.0),
            "contraction": real(0.0),
        }
    )

    def __init__(
        self,
        n_latent: int = 2,
        *,
        loss: str = "squared",
        hidden: Any = (400,),
        code_activation: str = "linear",
        sparsity: float = 0.0,
        corruption: str = "none",
        corruption_level: float = 0.3,
        contraction: float = 0.0,
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
        self.loss = loss
        self.hidden = hidden
        self.code_activation = code_activation
        self.sparsity = sparsity
        self.corruption = corruption
        self.corruption_level = corruption_level
        self.contraction = contraction
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

    @property
    def family(self) -> str:
        """The family of observations whose log-likelihood is minus the loss."""
        return LOSSES.get(self.loss, "gaussian")

    def build(self, n_features: int) -> AutoencoderModel:
        """Networks around a code."""
        if self.sparsity == 0:
            check_fewer_latent(self.n_latent, n_features)
        latent = Code(self.n_latent, self.code_activation)
        likelihood = LIKELIHOODS[self.family](
            n_features, {"variance": 0.5}
        )  # minus log N(x; m, I / 2) is |x - m|^2, and a constant
        model = AutoencoderModel(
            *self._around(latent, likelihood),
            corruption=self.corruption,
            corruption_level=self.corruption_level,
            sparsity=self.sparsity,
            contraction=self.contraction,
        )
        return model.to(DTYPES[self.dtype])

    def _around(self, latent: Latent, likelihood: Likelihood) -> tuple[Network, Latent, Network, Likelihood]:
        inner, outer = self.networks(latent, likelihood)
        return inner, latent, outer, likelihood

    def learn(self, model: AutoencoderModel, batches: Batches, generator: torch.Generator, run: Run = Run()) -> History:
        """Gradients of the distortion and the penalties."""
        history = sgd(model, batches, generator, **sgd_settings(self, run))
        model.settle(batches)
        return history
