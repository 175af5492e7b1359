"""Models that decode latent variables, compared by one likelihood whatever they were learned by: implicit models, VAEs and GANs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unveil.core.constraints import integer, real
from unveil.core.estimator import Estimator
from unveil.data.batch import Batch
from unveil.errors import InputError
from unveil.kernels.importance import ImportanceEstimate, find_modes, gauss_newton_precision, log_marginal
from unveil.models.gan import GAN
from unveil.models.gaussian_mixture import GaussianMixture
from unveil.models.implicit_model import ImplicitModel
from unveil.models.vae import VAE
from unveil.nn.normal_latent import NormalLatent

LOG_2PI = math.log(2 * math.pi)
N_TRIED = 20000  # draws of the prior, of which the one whose image is nearest is where a mode is sought from
STEP = 0.1  # of the search for modes, in standard deviations of the latent variables


@dataclass(frozen=True, eq=False)
class Decoder:
    """z ~ p(z), x = f(z), of a fitted model.

    Attributes
    ----------
    draw : callable
        ``draw(n, generator)``: n latent values (n, L), float64.
    decode : callable
        f: latent values (n, L) to points (n, n_features).
    log_prior : callable
        log p(z) of latent values (n, L).
    prior_precision : callable
        Of the most responsible part of the prior at latent values (n, L): (n, L, L), or (L, L) for all.
    encode : callable, optional
        Points to latent values that may have made them.
    """

    draw: Callable[[int, torch.Generator], Tensor]
    decode: Callable[[Tensor], Tensor]
    log_prior: Callable[[Tensor], Tensor]
    prior_precision: Callable[[Tensor], Tensor]
    encode: Callable[[Any], Tensor] | None = None

    @torch.no_grad()
    def generate(self, n_samples: int, random_state: int = 0) -> np.ndarray:
        """Points (n_samples, n_features) without noise: what is decoded from draws of the prior."""
        return self.decode(self.draw(n_samples, _seeded(random_state))).numpy()


@singledispatch
def decoder_of(estimator: Estimator) -> Decoder:
    """A fitted implicit model, VAE or GAN as what they have in common.

    Raises
    ------
    InputError
        When the estimator is none of these, or its latent variables are neither normal nor a mixture of Gaussians.

    Examples
    --------
    >>> gan = GAN(n_latent=2, hidden=8, max_epochs=1, random_state=0).fit(np.random.default_rng(0).normal(size=(100, 3)))
    >>> decoder_of(gan).generate(5).shape
    (5, 3)
    """
    raise InputError(
        f"{type(estimator).__name__} is no model that decodes a known distribution; give a fitted ImplicitModel, VAE or GAN"
    )


@decoder_of.register
def _(estimator: ImplicitModel) -> Decoder:
    base, density = estimator.base_, estimator._fitted_model()
    if not isinstance(base, GaussianMixture) or base.covariance_type != "full" or estimator.items == "sequences":
        raise InputError(
            "an ImplicitModel is compared where its base is a GaussianMixture with full covariances; use log_likelihood"
        )
    precisions = torch.from_numpy(base.precisions_)
    return Decoder(
        draw=lambda n, generator: density.base.sample(n, 1, generator).values,
        decode=lambda codes: density.decode(_points(codes)),
        log_prior=lambda codes: density.base.objective(_points(codes.double())),
        prior_precision=lambda codes: precisions[density.base.posterior(_points(codes.double())).responsibilities.argmax(1)],
        encode=lambda X: torch.as_tensor(estimator.transform(X)).double(),
    )


@decoder_of.register
def _(estimator: VAE) -> Decoder:
    model = estimator._fitted_model()
    if not isinstance(model.latent, NormalLatent) or estimator.items == "sequences":
        raise InputError("a VAE is compared where its prior is normal and its networks take points; use log_likelihood")

    def decode(codes: Tensor) -> Tensor:
        return model.likelihood.mean(model.decode(codes.to(model.dtype)))

    return _under_normal_prior(decode, model.latent.n_codes, encode=lambda X: torch.as_tensor(estimator.transform(X)).double())


@decoder_of.register
def _(estimator: GAN) -> Decoder:
    model = estimator._fitted_model()
    return _under_normal_prior(lambda codes: model.generate(codes.to(model.location.dtype)), estimator.n_latent)


def _under_normal_prior(
    decode: Callable[[Tensor], Tensor], n_latent: int, encode: Callable[[Any], Tensor] | None = None
) -> Decoder:
    precision = torch.eye(n_latent, dtype=torch.float64)
    return Decoder(
        draw=lambda n, generator: torch.randn(n, n_latent, generator=generator, dtype=torch.float64),
        decode=decode,
        log_prior=lambda codes: -0.5 * (codes.double().square().sum(-1) + n_latent * LOG_2PI),
        prior_precision=lambda codes: precision,
        encode=encode,
    )


def marginal_likelihood(
    estimator: Estimator, X: Any, variance: float, *, n_draws: int = 1000, random_state: int = 0
) -> ImportanceEstimate:
    """log int p(z) N(x; f(z), variance I) dz of points under a fitted implicit model, VAE or GAN, by importance sampling.

    The same noise around what each model decodes makes models comparable that were learned in different ways, even those that have
    no likelihood of their own. The most probable latent values are sought from what the encoder says, where there is one, and from
    the draw of the prior that comes nearest. In expectation the estimate is too low, and most so where few draws count.

    Parameters
    ----------
    estimator : ImplicitModel, VAE or GAN
        Fitted.
    X : array-like of shape (n, n_features)
        Points.
    variance : float
        Of the noise of each feature, in squared units of the data.
    n_draws : int
        For each point.
    random_state : int
        Seeds the draws.

    Returns
    -------
    ImportanceEstimate
        ``log_likelihood`` (n,) in nats, and ``effective_sample_size`` (n,).

    References
    ----------
    Wu, Burda, Salakhutdinov and Grosse (2017), On the quantitative analysis of decoder-based generative models.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> gan = GAN(n_latent=2, hidden=8, max_epochs=1, random_state=0).fit(X)
    >>> marginal_likelihood(gan, X[:5], variance=0.5).log_likelihood.shape
    torch.Size([5])
    """
    integer(1)("n_draws", n_draws)
    real(0.0, open_below=True)("variance", variance)
    model, generator = decoder_of(estimator), _seeded(random_state)
    x = estimator._read(X)[0].read(0, len(X)).values

    def log_joint(codes: Tensor) -> Tensor:
        flat = codes.reshape(-1, codes.shape[-1])
        squares = (x - model.decode(flat).reshape(*codes.shape[:-1], -1)).square().sum(-1).double()
        log_prior = model.log_prior(flat).reshape(codes.shape[:-1])
        return log_prior - 0.5 * (squares / variance + x.shape[1] * (LOG_2PI + math.log(variance)))

    with torch.no_grad():
        tried = model.draw(N_TRIED, generator)
        decoded = model.decode(tried)
        starts = [tried[torch.cdist(x.to(decoded), decoded).argmin(1)]]
    if model.encode is not None:
        starts.append(model.encode(X))
    modes = find_modes(log_joint, torch.stack(starts), step_size=STEP * float(tried.std(0).mean()))
    with torch.no_grad():
        precisions = gauss_newton_precision(model.decode, modes, variance, model.prior_precision(modes))
        return log_marginal(log_joint, modes, precisions, n_draws=n_draws, generator=generator)


def _points(codes: Tensor) -> Batch:
    return Batch(codes, torch.arange(len(codes) + 1))


def _seeded(random_state: int) -> torch.Generator:
    return torch.Generator().manual_seed(random_state)
