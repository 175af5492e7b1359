"""Mixtures of variational autoencoders: clusters that each have latent variables and networks of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from unveil.core.constraints import choice, integer
from unveil.core.estimator import Estimator, as_array
from unveil.core.history import History
from unveil.core.mixins import ClusterMixin
from unveil.core.model import Posterior
from unveil.core.neural import START_SAMPLE, GradientModel, Loss
from unveil.core.run import Run
from unveil.data.batch import Batch, Batches, MemoryRows
from unveil.errors import InputError
from unveil.learn.sgd import DTYPES, sgd, sgd_settings
from unveil.models.vae import VAE
from unveil.models.variational import VARIATIONAL_CONSTRAINTS, VariationalModel
from unveil.nn.likelihoods import negative_is_wrong


@dataclass(frozen=True)
class ClusterPosterior(Posterior):
    """What the mixture says of the clusters.

    Attributes
    ----------
    responsibilities : Tensor of shape (n, K)
        w_k exp(bound_k(x)), normalised: p(k | x) where the bounds are tight.
    """

    responsibilities: Tensor


class VAEMixture(GradientModel):
    """log p(x) >= log sum_k w_k exp(bound_k(x)), where bound_k is the evidence lower bound of the k-th variational autoencoder.

    The gradient of this bound is the expectation-maximisation of clusters at each step: every component learns from each item as
    much as it is responsible for it.
    """

    def __init__(self, components: list[VariationalModel]):
        super().__init__()
        self.components = nn.ModuleList(components)
        self.logits = nn.Parameter(torch.zeros(len(components)))

    def inspect(self, batch: Batch) -> None:
        """Make sure of the data's range, which is that of each component."""
        self.components[0].inspect(batch)

    @torch.no_grad()
    def initialize(self, batches: Batches, generator: torch.Generator) -> None:
        """Each component starts at the scale and the mean of one cluster of k-means: alike, they would stay alike."""
        values = batches.sample_steps(START_SAMPLE, generator)[0].contiguous()
        if len(values) < len(self.components):
            raise InputError(f"n_clusters={len(self.components)} but X has {len(values)} points; give more, or fewer clusters")
        seed = int(torch.randint(2**31, (), generator=generator))
        scale = values.std(0, correction=0)
        standard = ((values - values.mean(0)) / torch.where(scale > 0, scale, 1.0)).numpy()
        clusters = torch.from_numpy(KMeans(len(self.components), n_init=10, random_state=seed).fit(standard).labels_)
        for k, component in enumerate(self.components):
            members = values[clusters == k] if bool((clusters == k).any()) else values
            component.initialize(Batches(MemoryRows(members)), generator)
        self.logits.copy_((clusters.bincount(minlength=len(self.components)) + 1.0).log())

    def loss(self, batch: Batch, generator: torch.Generator, epoch: float) -> Loss:
        """Minus the bound, as a mean over the points of a minibatch, with one draw of the latent variables for each component."""
        bounds = torch.stack([-component.losses(batch, generator, epoch)[0] for component in self.components], 1)
        total = -(bounds + self.logits.log_softmax(0)).logsumexp(1)
        return Loss((total if batch.weights is None else batch.weights * total).mean(), {})

    def objective(self, batch: Batch) -> Tensor:
        """The bound of each point."""
        return self._joint(batch).logsumexp(1)

    def posterior(self, batch: Batch) -> ClusterPosterior:
        """Which component each point is from."""
        joint = self._joint(batch)
        return ClusterPosterior(joint.logsumexp(1), joint.softmax(1))

    def _joint(self, batch: Batch) -> Tensor:
        """log w_k + bound_k(x), of shape (n, K)."""
        return torch.stack([component.objective(batch) for component in self.components], 1) + self.logits.log_softmax(0)

    def sample(self, n_sequences: int, length: int, generator: torch.Generator) -> Batch:
        """A cluster by its weight, then a point of it."""
        weights = self.logits.detach().cpu().softmax(0)
        clusters = torch.multinomial(weights, n_sequences, replacement=True, generator=generator)
        drawn = torch.stack([component.sample(n_sequences, 1, generator).values for component in self.components])
        values = drawn[clusters.to(drawn.device), torch.arange(n_sequences, device=drawn.device)]
        return Batch(values, torch.arange(n_sequences + 1), labels=clusters)

    def count_parameters(self) -> int:
        """Of all components, and their weights."""
        return sum(component.count_parameters() for component in self.components) + len(self.logits) - 1


class MixtureOfVAEs(ClusterMixin, Estimator):
    """Mixture of variational autoencoders: clusters that lie on curved surfaces, each with a decoder of its own.

    ::

        k ~ Categorical(w),   z ~ N(0, I),   x | k, z ~ p(x | decoder_k(z)).

    All learn together, by stochastic gradients of a lower bound on the log-likelihood, from the clusters of k-means.

    Parameters
    ----------
    n_clusters : int
    n_latent : int
        The dimension of z in each cluster.
    likelihood, hidden, variance, n_values, beta, warmup, architecture, shape, activation, batch_size, max_epochs, learning_rate, \
schedule, clip_norm, validation_fraction, patience, device, dtype, precision, random_state, verbose
        As in ``VAE``; the architecture is "mlp" or "conv".

    Attributes
    ----------
    weights_ : ndarray of shape (n_clusters,)
    history_ : History

    References
    ----------
    Dilokthanakul et al. (2016), Deep unsupervised clustering with Gaussian mixture variational autoencoders. Kopf et al. (2021), Mixture-
    of-experts variational autoencoder.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> angles = rng.uniform(0, np.pi, size=300)
    >>> arc = np.stack([np.cos(angles), np.sin(angles)], 1) + 0.05 * rng.normal(size=(300, 2))
    >>> X = np.concatenate([arc, arc * [1, -1] - [0, 1]])
    >>> mixture = MixtureOfVAEs(2, 1, hidden=16, max_epochs=60, batch_size=32, learning_rate=5e-3, random_state=0).fit(X)
    >>> from unveil.metrics.clustering import clustering_accuracy
    >>> bool(clustering_accuracy(np.repeat([0, 1], 300), mixture.predict(X)) > 0.9)
    True
    """

    learns_in_epochs = True
    constraints = VARIATIONAL_CONSTRAINTS | {"n_clusters": integer(1), "architecture": choice("mlp", "conv")}

    def __init__(
        self,
        n_clusters: int = 2,
        n_latent: int = 2,
        *,
        likelihood: str = "gaussian",
        hidden: Any = (400,),
        variance: str | float = "features",
        n_values: int = 2,
        beta: float = 1.0,
        warmup: float = 0.0,
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
        self.n_clusters = n_clusters
        self.n_latent = n_latent
        self.likelihood = likelihood
        self.hidden = hidden
        self.variance = variance
        self.n_values = n_values
        self.beta = beta
        self.warmup = warmup
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

    def build(self, n_features: int) -> VAEMixture:
        """As many variational autoencoders as there are clusters."""
        settings = {name: value for name, value in self.get_params().items() if name != "n_clusters"}
        return VAEMixture([VAE(**settings).build(n_features) for _ in range(self.n_clusters)]).to(DTYPES[self.dtype])

    def learn(self, model: VAEMixture, batches: Batches, generator: torch.Generator, run: Run = Run()) -> History:
        """Gradients of the bound."""
        return sgd(model, batches, generator, **sgd_settings(self, run), patient_until=self.warmup)

    @property
    def weights_(self) -> Any:
        """The share of each cluster, of shape (n_clusters,)."""
        return as_array(self._fitted_model().logits.softmax(0))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = negative_is_wrong(self.likelihood)
        return tags
