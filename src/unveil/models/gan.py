"""Generative adversarial networks: a generator that learns what a critic cannot tell from data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized

from unveil.core.constraints import choice, integer, optional, real
from unveil.core.estimator import Estimator, as_array
from unveil.core.history import History
from unveil.core.neural import START_SAMPLE, AdversarialModel, Loss, Network, start
from unveil.core.run import Run
from unveil.data.batch import Batch, Batches
from unveil.data.layout import as_numeric
from unveil.errors import InputError
from unveil.learn.adversarial import ADVERSARIAL_CONSTRAINTS, adversarial
from unveil.learn.sgd import DTYPES
from unveil.metrics.generation import Memorization, memorization
from unveil.nn.architectures import ARCHITECTURE_CONSTRAINTS, decoder, encoder, units
from unveil.nn.conv import shape_of_row
from unveil.nn.layers import ACTIVATIONS

CRITIC, GENERATOR = "critic", "generator"
START_ITERATIONS = 15  # of the power method, before learning

Price = Callable[[Tensor], Tensor]


def _taken_for_data(value: Tensor) -> Tensor:
    """-log D, where D is the sigmoid of the critic's value: what is paid to be sure that something is data."""
    return functional.softplus(-value)


def _taken_for_sample(value: Tensor) -> Tensor:
    """-log(1 - D)."""
    return functional.softplus(value)


def _not_taken_for_sample(value: Tensor) -> Tensor:
    """log(1 - D)."""
    return -functional.softplus(value)


# What the critic pays for its value of data, and of samples; and what the generator pays for that of samples.
LOSSES: dict[str, tuple[Price, Price, Price]] = {
    "non-saturating": (_taken_for_data, _taken_for_sample, _taken_for_data),
    "minimax": (_taken_for_data, _taken_for_sample, _not_taken_for_sample),
    "wasserstein": (torch.neg, torch.positive, torch.neg),
}

GAN_CONSTRAINTS = (
    ARCHITECTURE_CONSTRAINTS
    | ADVERSARIAL_CONSTRAINTS
    | {
        "n_latent": integer(1),
        "architecture": choice("mlp", "conv"),
        "critic_hidden": optional(units),
        "critic_activation": choice(*ACTIVATIONS),
        "loss": choice(*LOSSES),
        "penalty": choice("none", "clip", "gradient", "r1"),
        "penalty_weight": real(0.0),
        "clip_bound": real(0.0, open_below=True),
        "normalization": choice("none", "spectral"),
        "output": choice("linear", "sigmoid"),
    }
)


class GANModel(AdversarialModel):
    """x = location + scale * g(z), with z ~ N(0, I), against a critic that sees (x - location) / scale.

    Parameters
    ----------
    generator, critic : Network
        From latent variables to data, and from data to one number.
    n_latent, n_features : int
    loss : {"non-saturating", "minimax", "wasserstein"}
    penalty : {"none", "clip", "gradient", "r1"}
        What keeps the critic smooth.
    penalty_weight, clip_bound : float
        How much.
    output : {"linear", "sigmoid"}
        What ends the generator; with "linear", location and scale are those of the data, else 0 and 1.
    """

    def __init__(
        self,
        generator: Network,
        critic: Network,
        n_latent: int,
        n_features: int,
        *,
        loss: str = "non-saturating",
        penalty: str = "none",
        penalty_weight: float = 1.0,
        clip_bound: float = 0.01,
        output: str = "linear",
    ):
        super().__init__()
        self.generator, self.critic = generator, critic
        self._n_latent, self._output = n_latent, output
        self._data_price, self._sample_price, self._generator_price = LOSSES[loss]
        self._penalty, self._penalty_weight, self._clip_bound = penalty, penalty_weight, clip_bound
        self.register_buffer("location", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))

    @torch.no_grad()
    def initialize(self, batches: Batches, generator: torch.Generator) -> None:
        """Look at the data's range or scale, and draw networks."""
        if self._output == "sigmoid":
            for batch in batches:
                _check_shares(batch.values)
        else:
            self._standardize_to(*batches.sample_steps(START_SAMPLE, generator)[:2])
        start(self.generator, generator)
        _start_critic(self.critic, generator)
        self.after_move(CRITIC)

    def _standardize_to(self, values: Tensor, weights: Tensor) -> None:
        """Location and scale of each feature; what does not vary keeps its unit."""
        shares = (weights / weights.sum()).to(values)[:, None]
        location = (shares * values).sum(0)
        scale = (shares * (values - location).square()).sum(0).sqrt()
        self.location.copy_(location)
        self.scale.copy_(torch.where(scale > 1e-12 * location.abs(), scale, torch.ones_like(scale)))

    def players(self) -> dict[str, nn.Module]:
        """The critic moves first."""
        return {CRITIC: self.critic, GENERATOR: self.generator}

    def player_loss(self, player: str, batch: Batch, generator: torch.Generator) -> Loss:
        """Means over the data of a minibatch and as many samples."""
        codes = self.draw(batch.n_steps, generator)
        if player == GENERATOR:
            return Loss(self._generator_price(self._value(self._shape(codes))).mean(), {})
        with torch.no_grad():
            samples = self._shape(codes)
        weights = 1.0 if batch.step_weights is None else batch.step_weights
        return self._critic_loss(self._standardized(batch.values), samples, weights, generator)

    def _critic_loss(self, data: Tensor, samples: Tensor, weights: Tensor | float, generator: torch.Generator) -> Loss:
        """What the critic pays, with its penalty."""
        of_data, of_samples = self._value(torch.cat([data, samples])).chunk(2)
        parts = {"data": (weights * self._data_price(of_data)).mean(), "samples": self._sample_price(of_samples).mean()}
        if self._penalty == "gradient":
            share = torch.rand(len(data), 1, generator=generator, dtype=data.dtype, device=generator.device)
            between = torch.lerp(samples, data, share.to(data.device))
            excess = (self._slope(between).norm(dim=1) - 1).square()
            parts["penalty"] = self._penalty_weight * (weights * excess).mean()
        elif self._penalty == "r1":
            parts["penalty"] = self._penalty_weight / 2 * (weights * self._slope(data).square().sum(1)).mean()
        return Loss(torch.stack(list(parts.values())).sum(), parts)

    def _slope(self, points: Tensor) -> Tensor:
        """The critic's gradient at some points, which can be differentiated again."""
        points = points.detach().requires_grad_()
        return torch.autograd.grad(self._value(points).sum(), points, create_graph=True)[0]

    @torch.no_grad()
    def after_move(self, player: str) -> None:
        """Bring the critic's parameters back into their box, where they have one."""
        if player == CRITIC and self._penalty == "clip":
            for parameter in self.critic.parameters():
                parameter.clamp_(-self._clip_bound, self._clip_bound)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """z ~ N(0, I), of shape (n, n_latent)."""
        codes = torch.randn(n, self._n_latent, generator=generator, dtype=self.location.dtype, device=generator.device)
        return codes.to(self.location.device)

    def generate(self, codes: Tensor) -> Tensor:
        """The data that codes stand for, of shape (n, n_features)."""
        return self.location + self.scale * self._shape(codes)

    def discriminate(self, batch: Batch) -> Tensor:
        """The critic's value of each step, of shape (n_steps,)."""
        return self._value(self._standardized(batch.to(dtype=self.location.dtype).values))

    def sample(self, n_sequences: int, length: int, generator: torch.Generator) -> Batch:
        """What the generator makes of codes from the prior."""
        return Batch(self.generate(self.draw(n_sequences * length, generator)), torch.arange(n_sequences + 1) * length)

    def _standardized(self, values: Tensor) -> Tensor:
        return (values - self.location) / self.scale

    def _shape(self, codes: Tensor) -> Tensor:
        """What the generator makes of codes, in the critic's units."""
        outputs = self.generator(codes)
        return outputs.sigmoid() if self._output == "sigmoid" else outputs

    def _value(self, points: Tensor) -> Tensor:
        return self.critic(points)[:, 0]

    def count_parameters(self) -> int:
        """Of the generator; the critic only serves learning."""
        return sum(parameter.numel() for parameter in self.generator.parameters())


def _check_shares(values: Tensor) -> None:
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        remedy = "divide grey levels by their largest, or use output='linear'"
        raise InputError(f"output='sigmoid': X has values from {low:g} to {high:g}; expected numbers in [0, 1]: {remedy}")


def _normalized(network: Network) -> Network:
    """The network with every matrix divided by its largest singular value, so that no layer stretches (Miyato et al., 2018).

    On the meta device nothing has a value, so this draws no random numbers; ``_start_critic`` does.
    """
    network.to("meta")
    for part in list(network.modules()):
        if isinstance(part, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            spectral_norm(part)
    return network.to_empty(device="cpu")


def _start_critic(network: Network, generator: torch.Generator) -> None:
    """The usual start, and singular vectors near those of the matrices that it draws."""
    normalized = [part for part in network.modules() if is_parametrized(part, "weight")]
    if not normalized:
        return start(network, generator)
    network.train()  # the model goes to evaluation mode after learning
    for part in normalized:
        own = part.parametrizations.weight  # type: ignore[union-attr]
        bound = own.original[0].numel() ** -0.5  # type: ignore[index]
        for parameter in (own.original, part.bias):
            parameter.uniform_(-bound, bound, generator=generator)  # type: ignore[union-attr]
        for vector in own.buffers():
            vector.normal_(generator=generator)
        for _ in range(START_ITERATIONS):
            part.weight  # noqa: B018  (in training, each look at it is an iteration of the power method)
    return None


class GAN(Estimator):
    """Generative adversarial network: a generator of points, and a critic that learns to tell them from data.

    Latent variables are drawn, and a network makes them into data; a second network gives each point a value c(x)::

        z ~ N(0, I),      x = m + s * g(z),      D(x) = 1 / (1 + exp(-c(x))),

    with location m and scale s of the data. Each network follows the gradient of its own loss::

                         the critic pays                               the generator pays
        non-saturating   -E[log D(data)] - E[log(1 - D(x))]            -E[log D(x)]
        minimax          the same                                      E[log(1 - D(x))]
        wasserstein      E[c(x)] - E[c(data)]                          -E[c(x)]

    There is no likelihood: look at samples, and at ``unveil.metrics.generation``.

    Parameters
    ----------
    n_latent : int
        The dimension of z.
    hidden : int or tuple of int
        Units (or channels) of each hidden layer of the generator, from the data inwards.
    loss : {"non-saturating", "minimax", "wasserstein"}
        What the players pay; see above.
    penalty : {"none", "clip", "gradient", "r1"}
        What keeps the critic smooth: nothing; its parameters are kept within ``clip_bound``; it also pays
        ``penalty_weight * E[(||grad c|| - 1)^2]`` between data and samples; or ``penalty_weight / 2 * E[||grad c||^2]`` on data.
        Gradients are those in units of standard deviations of the data.
    penalty_weight, clip_bound : float
        See above.
    normalization : {"none", "spectral"}
        With "spectral", each matrix of the critic is divided by its largest singular value.
    critic_steps : int
        Moves of the critic, each on a minibatch of its own, for each move of the generator.
    updates : {"alternating", "simultaneous"}
        Whether the generator sees the critic's last move, or both move from the same place.
    average : float
        Decay of the moving average of the generator's parameters, which is what samples come from; 0 takes the last ones.
    output : {"linear", "sigmoid"}
        What rows hold: any numbers, which are standardised inside; or shares in [0, 1], such as grey levels.
    architecture : {"mlp", "conv"}
        Networks that look at each row as it is, or as an image or a piece of signal.
    shape : tuple of int, optional
        With architecture="conv": (channels, height, width), or (channels, length); by default a square image of one channel.
    activation : str
        Between layers of the generator: "relu", "leaky-relu", "tanh", "sigmoid", "softplus" or "elu".
    critic_hidden : int or tuple of int, optional
        Of the critic; by default as the generator's.
    critic_activation : str
        Between layers of the critic.
    batch_size : int
        Points in each minibatch.
    max_epochs : int
        Passes over the data.
    learning_rate, critic_learning_rate : float
        Of the generator, and of the critic; None gives both the same.
    beta1, beta2 : float
        Momentum of Adam (or of plain gradient descent), which makes modes collapse when it is high; and Adam's memory of squares.
    optimizer : {"adam", "rmsprop", "sgd"}
        How moves are made.
    schedule : {"constant", "linear", "cosine"}
        How the learning rates fall until the last epoch: not, or to a fiftieth.
    device : {"auto", "cpu", "cuda"}
        Where to learn; "auto" takes a GPU where there is one.
    dtype : {"float32", "float64"}
        Of the networks.
    random_state : int, RandomState or None
        Seeds the start, the order, the noise, and the samples.
    verbose : int
        1 shows the progress.

    Attributes
    ----------
    history_ : History
        Its ``parts`` hold what each player paid in each epoch, and what for. They do not tell how good the samples are.

    References
    ----------
    Goodfellow et al. (2014), Generative adversarial nets: both losses. Arjovsky et al. (2017), Wasserstein GAN: clipping. Gulrajani et
    al. (2017), Improved training of Wasserstein GANs. Mescheder et al. (2018), Which training methods for GANs do actually converge?:
    R1. Miyato et al. (2018), Spectral normalization for GANs. Heusel et al. (2017): separate rates. Yazici et al. (2019): averages.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.choice([-2.0, 2.0], size=(1000, 1)) + 0.1 * rng.normal(size=(1000, 1))
    >>> gan = GAN(1, hidden=(32, 32), learning_rate=5e-3, average=0.98, max_epochs=60, random_state=0).fit(X)
    >>> samples, _ = gan.sample(1000)
    >>> bool(0.4 < (samples > 1).mean() < 0.6), bool(0.4 < (samples < -1).mean() < 0.6)
    (True, True)
    """

    constraints = GAN_CONSTRAINTS
    has_likelihood = False
    learns_in_epochs = True

    def __init__(
        self,
        n_latent: int = 16,
        *,
        hidden: Any = (128, 128),
        loss: str = "non-saturating",
        penalty: str = "r1",
        penalty_weight: float = 0.1,
        clip_bound: float = 0.01,
        normalization: str = "none",
        critic_steps: int = 1,
        updates: str = "alternating",
        average: float = 0.995,
        output: str = "linear",
        architecture: str = "mlp",
        shape: tuple[int, ...] | None = None,
        activation: str = "relu",
        critic_hidden: Any = None,
        critic_activation: str = "leaky-relu",
        batch_size: int = 128,
        max_epochs: int = 100,
        learning_rate: float = 1e-3,
        critic_learning_rate: float | None = None,
        beta1: float = 0.0,
        beta2: float = 0.9,
        optimizer: str = "adam",
        schedule: str = "linear",
        device: str = "auto",
        dtype: str = "float32",
        random_state: Any = None,
        verbose: int = 0,
    ):
        self.n_latent = n_latent
        self.hidden = hidden
        self.loss = loss
        self.penalty = penalty
        self.penalty_weight = penalty_weight
        self.clip_bound = clip_bound
        self.normalization = normalization
        self.critic_steps = critic_steps
        self.updates = updates
        self.average = average
        self.output = output
        self.architecture = architecture
        self.shape = shape
        self.activation = activation
        self.critic_hidden = critic_hidden
        self.critic_activation = critic_activation
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.learning_rate = learning_rate
        self.critic_learning_rate = critic_learning_rate
        self.beta1 = beta1
        self.beta2 = beta2
        self.optimizer = optimizer
        self.schedule = schedule
        self.device = device
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    def build(self, n_features: int) -> GANModel:
        """Two networks, in evaluation mode."""
        shape = shape_of_row(n_features, self.shape) if self.architecture == "conv" else ()
        of_critic = self.hidden if self.critic_hidden is None else self.critic_hidden
        generator = decoder(self.architecture, self.n_latent, n_features, self.hidden, self.activation, shape)
        critic = encoder(self.architecture, n_features, 1, of_critic, self.critic_activation, shape)
        if self.normalization == "spectral":
            critic = _normalized(critic)
        settings = {name: getattr(self, name) for name in ("loss", "penalty", "penalty_weight", "clip_bound", "output")}
        return GANModel(generator, critic, self.n_latent, n_features, **settings).to(DTYPES[self.dtype]).eval()

    def learn(self, model: GANModel, batches: Batches, generator: torch.Generator, run: Run = Run()) -> History:
        """Rounds of moves of critic and generator."""
        of_critic = self.learning_rate if self.critic_learning_rate is None else self.critic_learning_rate
        shared = ("batch_size", "max_epochs", "updates", "optimizer", "beta1", "beta2", "schedule", "device")
        return adversarial(
            model,
            batches,
            generator,
            **{name: getattr(self, name) for name in shared},
            learning_rates={CRITIC: of_critic, GENERATOR: self.learning_rate},
            moves={CRITIC: self.critic_steps},
            averages={GENERATOR: self.average} if self.average else {},
            run=run,
            title=type(self).__name__ if self.verbose else None,
        )

    def generate(self, Z: Any) -> Any:
        """The points (n, n_features) that latent variables (n, n_latent) stand for."""
        model = self._fitted_model()
        codes = torch.as_tensor(as_numeric(Z, "Z"), dtype=model.location.dtype, device=model.location.device)
        if codes.ndim != 2 or codes.shape[1] != self.n_latent:
            raise InputError(f"Z has shape {tuple(codes.shape)}; expected (n, n_latent={self.n_latent})")
        with torch.no_grad():
            return as_array(model.generate(codes))

    def inverse_transform(self, Z: Any) -> Any:
        """The same as ``generate``, under the name that scikit-learn's pipelines call."""
        return self.generate(Z)

    def discriminate(self, X: Any) -> Any:
        """The critic's value c(x) of each row, of shape (n,): the higher, the more it takes the row for data."""
        values, layout = self._map(X, None, self._fitted_model().discriminate)
        return layout.per_item(values)

    def memorization(self, X_train: Any, X_test: Any, *, n_samples: int = 1000, random_state: Any = None) -> Memorization:
        """Whether samples are copies of what was learned from; see ``unveil.metrics.generation.memorization``."""
        return memorization(X_train, X_test, self.sample(n_samples, random_state=random_state)[0])
