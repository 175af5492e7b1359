"""Variational autoencoders: Gaussian latent variables, whose posterior a network approximates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from sklearn.utils.metaestimators import available_if

from unveil.core.constraints import integer
from unveil.core.estimator import Estimator
from unveil.core.history import History
from unveil.core.neural import START_SAMPLE
from unveil.core.run import Run
from unveil.data.batch import Batches
from unveil.learn.sgd import sgd, sgd_settings
from unveil.learn.training import Epoch
from unveil.models.variational import VARIATIONAL_CONSTRAINTS, VariationalMixin, VariationalModel
from unveil.nn.normal_latent import MixtureLatent, NormalLatent, normal_parts


def _has_clusters(estimator: VAE) -> bool:
    return estimator.n_clusters > 1


class VAE(VariationalMixin, Estimator):
    """Variational autoencoder, for points or sequences, by stochastic gradients of the evidence lower bound.

    Latent variables are drawn from a prior, and a network makes them into the parameters of the observations::

        z ~ N(0, I)   or   z ~ sum_k w_k N(mu_k, diag(s_k^2)),      x | z ~ p(x | decoder(z)).

    A second network approximates the posterior by ``q(z | x) = N(m(x), diag(s^2(x)))``. Both learn together, to maximise the bound
    ``log p(x) >= E_q[log p(x | z)] - KL(q(z | x) || p(z))``, in nats.

    Parameters
    ----------
    n_latent : int
        The dimension of z; at most the number of features.
    likelihood : {"gaussian", "bernoulli", "power", "poisson", "categorical"}
        What rows hold: numbers; shares in [0, 1]; power spectra |X|^2 of sound, as zero-mean complex Gaussians (minus this
        log-likelihood is the Itakura-Saito divergence); counts; or whole numbers below ``n_values``.
    hidden : int or tuple of int
        Units (or channels) of each hidden layer, from the data inwards; () makes encoder and decoder linear.
    n_clusters : int
        1 for a standard normal prior; else the number of components of a mixture of Gaussians as prior, which ``predict`` tells.
    variance : {"features", "shared", "network"} or float
        With likelihood="gaussian": the variance of x given z is learned, one for each feature or one for all; or the decoder
        gives it; or it is this number, in squared units of the data.
    n_values : int
        With likelihood="categorical": how many values there are.
    beta : float
        Weight of the divergence while learning; scores always have 1.
    warmup : float
        Epochs in which this weight rises from 0: against posterior collapse.
    architecture : {"mlp", "conv", "recurrent"}
        Networks that look at each row as it is; as an image or a piece of signal; or at whole sequences, with a z at each step.
    shape : tuple of int, optional
        With architecture="conv": (channels, height, width), or (channels, length); by default a square image of one channel.
    activation : str
        Between layers: "relu", "leaky-relu", "tanh", "sigmoid", "softplus" or "elu".
    batch_size : int
        Items (points, or sequences) in a minibatch.
    max_epochs : int
        The most passes over the data.
    learning_rate : float
        Of Adam.
    schedule : {"constant", "linear", "cosine"}
        How the learning rate falls until the last epoch: not, or to a fiftieth.
    clip_norm : float, optional
        Gradients are made no longer than this.
    validation_fraction : float
        The share of the items that is held out to stop early by; ``fit(..., validation=)`` replaces it.
    patience : int, optional
        How many epochs without a gain on held-out data are borne; the model is left at its best.
    device : {"auto", "cpu", "cuda"}
        Where to learn; "auto" takes a GPU where there is one.
    dtype : {"float32", "float64"}
        Of the networks.
    precision : {"full", "bfloat16"}
        Of matrix products while learning.
    random_state : int, RandomState or None
        Seeds the start, the order, the noise, and the samples.
    verbose : int
        1 shows the progress.

    Attributes
    ----------
    kl_per_dimension_ : ndarray of shape (n_latent,)
        In nats: what each dimension says about the data. Of a mixture prior, one number for all dimensions.
    n_active_ : int
        How many dimensions are in use; fewer than half of them give a warning (posterior collapse).
    history_ : History
        Its ``parts`` hold the reconstruction and the divergence of each epoch, in nats, also on held-out data.

    References
    ----------
    Kingma and Welling (2014), Auto-encoding variational Bayes. Rezende, Mohamed and Wierstra (2014), Stochastic backpropagation and
    approximate inference in deep generative models. Higgins et al. (2017), beta-VAE.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> angles = rng.uniform(0, np.pi, size=400)
    >>> X = np.stack([np.cos(angles), np.sin(angles)], axis=1) + 0.05 * rng.normal(size=(400, 2))
    >>> vae = VAE(n_latent=1, hidden=32, max_epochs=60, batch_size=32, learning_rate=5e-3, random_state=0).fit(X)
    >>> vae.transform(X).shape, bool(np.abs(vae.reconstruct(X) - X).mean() < 0.1)
    ((400, 1), True)
    """

    constraints = VARIATIONAL_CONSTRAINTS | {"n_clusters": integer(1)}

    def __init__(
        self,
        n_latent: int = 2,
        *,
        likelihood: str = "gaussian",
        hidden: Any = (400,),
        n_clusters: int = 1,
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
        self.n_latent = n_latent
        self.likelihood = likelihood
        self.hidden = hidden
        self.n_clusters = n_clusters
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

    def build(self, n_features: int) -> VariationalModel:
        """Networks around Gaussian latent variables."""
        if self.n_clusters == 1:
            return self.assemble(NormalLatent(self.n_latent), n_features)
        return self.assemble(MixtureLatent(self.n_latent, self.n_clusters, self._clusters_begin), n_features)

    @property
    def _clusters_begin(self) -> int:
        """The epoch at which clusters are placed on the codes: after a fifth of the training, and ten at most."""
        return min(self.max_epochs // 5, 10) if self.n_clusters > 1 else 0

    def learn(self, model: VariationalModel, batches: Batches, generator: torch.Generator, run: Run = Run()) -> History:
        """Gradients of the bound; then a look at how the latent variables are used."""

        def place_clusters(epoch: Epoch) -> None:
            if epoch.number + 1 == self._clusters_begin:
                with torch.no_grad():
                    codes = torch.cat([model.codes(batch.to(model.divergences.device)) for batch in batches])
                model.latent.place(codes[:: -(-len(codes) // START_SAMPLE)], seed)

        seed = int(torch.randint(2**31, (), generator=generator))
        settings = sgd_settings(self, replace(run, callbacks=(place_clusters, *run.callbacks)))
        history = sgd(model, batches, generator, **settings, patient_until=max(self.warmup, self._clusters_begin))
        self.after_learning(model, batches)
        return history

    def posterior(self, X: Any, *, lengths: Any = None) -> tuple[Any, Any]:
        """q(z | x) of each row: means and standard deviations, both of shape (n, n_latent)."""
        model = self._fitted_model()
        parts, layout = self._map(X, lengths, lambda batch: torch.cat(normal_parts(model.encode(model.ready(batch))), 1))
        mean, log_variance = parts.chunk(2, 1)
        return layout.per_step(mean), layout.per_step((0.5 * log_variance).exp())

    def log_likelihood(self, X: Any, *, lengths: Any = None, n_draws: int = 500) -> Any:
        """log p(x) of each item in nats, by importance sampling with draws from q(z | x): a bound that is tighter with more draws."""
        integer(1)("n_draws", n_draws)
        model = self._fitted_model()
        values, layout = self._map(X, lengths, lambda batch: model.log_likelihood(batch, n_draws))
        return layout.per_item(values)

    @available_if(_has_clusters)
    def predict(self, X: Any, *, lengths: Any = None) -> Any:
        """The most probable component of the prior at E[z | x], for each row."""
        model = self._fitted_model()
        best, layout = self._map(X, lengths, lambda batch: model.latent.log_joint(model.codes(batch)).argmax(-1))
        return layout.per_step(best)
