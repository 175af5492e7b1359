"""Variational autoencoders whose latent variables are sparse combinations of a dictionary's atoms."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from unveil.core.constraints import choice, integer, optional
from unveil.core.estimator import Estimator, as_array
from unveil.core.history import History
from unveil.core.neural import Latent
from unveil.core.noise import Noise
from unveil.core.run import Run
from unveil.data.batch import Batches
from unveil.errors import ParameterError
from unveil.learn.sgd import sgd, sgd_settings
from unveil.models.variational import VARIATIONAL_CONSTRAINTS, VariationalMixin, VariationalModel
from unveil.nn.normal_latent import drawn_from, normal_parts


def cosine_dictionary(n_latent: int, n_atoms: int) -> Tensor:
    """Atoms cos(pi k (i + 1/2) / n_atoms) of unit norm, as the columns of a matrix (n_latent, n_atoms).

    As many atoms as dimensions are the orthonormal discrete cosine transform; more are over-complete, their frequencies closer.

    Examples
    --------
    >>> atoms = cosine_dictionary(8, 8)
    >>> bool((atoms.T @ atoms - torch.eye(8)).abs().max() < 1e-14), cosine_dictionary(8, 16).shape
    (True, torch.Size([8, 16]))
    """
    i, k = torch.arange(n_latent, dtype=torch.float64)[:, None], torch.arange(n_atoms, dtype=torch.float64)
    atoms = torch.cos(math.pi * k * (i + 0.5) / n_atoms)
    return atoms / atoms.norm(dim=0)


class DictionaryLatent(Latent):
    """z = D a, where each row has its own prior a ~ N(0, diag(gamma)), and q(a | x) = N(m(x), diag(s^2(x))).

    The codes are a. ``variances`` are E[a^2] over the data, once they are known: the scales of codes that are drawn without data.
    """

    dictionary: Tensor
    variances: Tensor

    def __init__(self, dictionary: Tensor):
        super().__init__()
        self.n_latent, self.n_codes = dictionary.shape
        self.n_statistics = 2 * self.n_codes
        self.register_buffer("dictionary", dictionary)
        self.register_buffer("variances", torch.ones(self.n_codes))

    def initialize(self, generator: torch.Generator) -> None:
        """The dictionary is fixed, and nothing is known yet of the variances."""
        self.variances.fill_(1.0)

    def draw(self, statistics: Tensor, noise: Noise, epoch: float) -> Tensor:
        """Reparametrised."""
        return drawn_from(*normal_parts(statistics), noise)

    def divergence(self, statistics: Tensor, codes: Tensor, epoch: float) -> Tensor:
        """1/2 log(1 + m^2 / s^2): KL(N(m, s^2) || N(0, gamma)) at its minimum over gamma, which is at gamma = m^2 + s^2.

        Its gradient is the one with gamma held fixed there, since that with respect to gamma is 0.
        """
        mean, log_variance = normal_parts(statistics)
        return 0.5 * torch.log1p(mean.square() * (-log_variance).exp())

    def mean(self, statistics: Tensor) -> Tensor:
        """m."""
        return normal_parts(statistics)[0]

    def mean_square(self, statistics: Tensor) -> Tensor:
        """gamma = m^2 + s^2."""
        mean, log_variance = normal_parts(statistics)
        return mean.square() + log_variance.exp()

    def observe(self, codes: Tensor) -> Tensor:
        """D a."""
        return codes @ self.dictionary.T

    def sample(self, n_samples: int, generator: torch.Generator) -> tuple[Tensor, None]:
        """a ~ N(0, E[a^2])."""
        deviations = self.variances.cpu().sqrt()
        return deviations * torch.randn(n_samples, len(deviations), generator=generator, dtype=deviations.dtype), None

    def settle(self, squares: Tensor) -> None:
        """Take E[a^2] over the data as the variances of new codes."""
        self.variances.copy_(squares)


class SparseDictionaryVAE(VariationalMixin, Estimator):
    """Variational autoencoder with a sparse dictionary model (SDM-VAE), by stochastic gradients of the evidence lower bound.

    Each row has its own prior variance for each atom of a fixed dictionary D, and a network makes the combination of atoms into the
    parameters of the observations::

        a ~ N(0, diag(gamma)),      z = D a,      x | z ~ p(x | decoder(z)).

    With ``q(a | x) = N(m(x), diag(s^2(x)))`` the best variances are ``gamma = m^2 + s^2``, as in sparse Bayesian learning, and leave

        log p(x; gamma) >= E_q[log p(x | D a)] - 1/2 sum_k log(1 + m_k^2 / s_k^2),

    which has no weight to tune: an atom that a row does not need costs nothing.

    Parameters
    ----------
    n_latent : int
        The dimension of z, which the decoder takes; at most the number of features.
    dictionary : {"identity", "dct"}
        The atoms: each dimension of z by itself; or cosines of unit norm.
    n_atoms : int, optional
        With dictionary="dct": how many; by default ``n_latent``, and with more of them the dictionary is over-complete.
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
    warmup : float
        Epochs in which this weight rises from 0: against posterior collapse.
    architecture, shape, activation, batch_size, max_epochs, learning_rate, schedule, clip_norm, validation_fraction, patience, device, \
dtype, precision, random_state, verbose
        As in ``VAE``.

    Attributes
    ----------
    dictionary_ : ndarray of shape (n_latent, n_atoms)
        D; ``transform`` gives the codes a, and D a is what the decoder takes.
    kl_per_dimension_ : ndarray of shape (n_atoms,)
        In nats: what each atom says about the data.
    n_active_ : int
        How many atoms are in use; fewer than half of them give a warning (posterior collapse).
    history_ : History
        Its ``parts`` hold the reconstruction and the divergence of each epoch, in nats, also on held-out data.

    Notes
    -----
    Free variances leave the scale of each atom free too: (m, s) and (c m, c s) have the same divergence, and a decoder can make up for
    c. So codes of unlike scales may look sparser than they are: compare with ``unveil.metrics.sparsity.hoyer(codes, scaled=True)``.

    The model has no prior to draw from without data. ``sample`` takes N(0, E[a^2]), with the mean squares of the codes of the data that
    it was learned from: this is ours, and not in the paper.

    References
    ----------
    Sadeghi and Magron (2022), A sparsity-promoting dictionary model for variational autoencoders.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> envelopes = 0.01 + rng.gamma(1.0, size=(400, 3)) ** 2 @ rng.random((3, 24)) ** 4
    >>> X = envelopes * rng.exponential(size=(400, 24))  # power spectra
    >>> vae = SparseDictionaryVAE(n_latent=6, hidden=32, max_epochs=40, batch_size=32, random_state=0).fit(X)
    >>> vae.transform(X).shape, vae.variances(X).shape, bool((vae.reconstruct(X) > 0).all())
    ((400, 6), (400, 6), True)
    """

    constraints = VARIATIONAL_CONSTRAINTS | {"dictionary": choice("identity", "dct"), "n_atoms": optional(integer(1))}

    def __init__(
        self,
        n_latent: int = 2,
        *,
        dictionary: str = "identity",
        n_atoms: int | None = None,
        likelihood: str = "power",
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
        self.n_latent = n_latent
        self.dictionary = dictionary
        self.n_atoms = n_atoms
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

    def build(self, n_features: int) -> VariationalModel:
        """Networks around combinations of atoms."""
        return self.assemble(DictionaryLatent(self._atoms()), n_features)

    def _atoms(self) -> Tensor:
        if self.dictionary == "dct":
            return cosine_dictionary(self.n_latent, self.n_atoms or self.n_latent)
        if self.n_atoms not in (None, self.n_latent):
            raise ParameterError(
                f"n_atoms={self.n_atoms!r}: dictionary='identity' has n_latent={self.n_latent} atoms; leave n_atoms out, or use 'dct'"
            )
        return torch.eye(self.n_latent, dtype=torch.float64)

    def learn(self, model: VariationalModel, batches: Batches, generator: torch.Generator, run: Run = Run()) -> History:
        """Gradients of the bound; then a look at how the atoms are used."""
        history = sgd(model, batches, generator, **sgd_settings(self, run), patient_until=self.warmup)
        self.after_learning(model, batches)
        return history

    def variances(self, X: Any, *, lengths: Any = None) -> Any:
        """gamma = m^2 + s^2 of each row and atom, of shape (n, n_atoms): near 0 where a row does not need an atom."""
        model = self._fitted_model()
        values, layout = self._map(X, lengths, lambda batch: model.latent.mean_square(model.encode(model.ready(batch))))
        return layout.per_step(values)

    @property
    def dictionary_(self) -> Any:
        """The atoms, as columns (n_latent, n_atoms)."""
        return as_array(self._fitted_model().latent.dictionary)
