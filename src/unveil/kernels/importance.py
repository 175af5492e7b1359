"""Log marginal likelihoods by importance sampling, from a Gaussian around the maximum of each item's joint density.

With draws z_s ~ q of a proposal density,

    log p(x) = log E_q[p(x, z) / q(z)] ~ log (1/S) sum_s w_s,    w_s = p(x, z_s) / q(z_s).

The mean is unbiased, so its logarithm is on average too low: a stochastic lower bound. The proposal is Laplace's approximation of
p(z | x), with its standard deviations inflated: q(z) = N(z; m, c^2 P^-1), where m maximises log p(x, z) and P is minus its Hessian there.
Other maxima, far away, are not seen by it: two that are alike make the estimate too low by log 2, and the effective sample size does
not tell.

In all of this, ``log_joint`` takes latent values of shape (..., n_items, n_latents), the items always in the same order and any
number of axes before them, and returns log p(x_i, z_i), of shape (..., n_items). It may be float32; weights are float64.

References
----------
Tierney and Kadane (1986), Accurate approximations for posterior moments and marginal densities.
Wu, Burda, Salakhutdinov and Grosse (2017), On the quantitative analysis of decoder-based generative models.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jvp, vmap

from unveil.errors import ConvergenceWarning, InputError, ParameterError

LogJoint = Callable[[Tensor], Tensor]
BLOCK = 1 << 13  # draws of all items together that are decoded at a time


@dataclass(frozen=True, eq=False)
class ImportanceEstimate:
    """Estimates for each item.

    Attributes
    ----------
    log_likelihood : Tensor of shape (n_items,), float64
        log p(x_i), in nats.
    effective_sample_size : Tensor of shape (n_items,), float64
        (sum_s w_s)^2 / sum_s w_s^2: ``n_draws`` where the proposal is the posterior, and 1 where one draw outweighs all others,
        so that log p(x) is likely to be far too low.
    n_draws : int
    """

    log_likelihood: Tensor
    effective_sample_size: Tensor
    n_draws: int

    @property
    def standard_error(self) -> Tensor:
        """Of each ``log_likelihood``, to first order: sqrt(1 / ESS - 1 / n_draws); only to be trusted where the ESS is large."""
        return (1 / self.effective_sample_size - 1 / self.n_draws).clamp_min(0).sqrt()


def log_marginal(
    log_joint: LogJoint,
    modes: Tensor,
    precisions: Tensor,
    *,
    n_draws: int = 1000,
    inflation: float = 1.15,
    generator: torch.Generator,
) -> ImportanceEstimate:
    """Estimate log p(x_i) of all items by draws around their modes; memory does not grow with the number of draws.

    Parameters
    ----------
    log_joint : callable
        As above: (..., n_items, n_latents) -> (..., n_items).
    modes : Tensor of shape (n_items, n_latents)
        Means of the proposals, such as `find_modes` finds. The draws have their dtype.
    precisions : Tensor of shape (n_items, n_latents, n_latents)
        Such as `gauss_newton_precision` or `hessian_precision` finds. Positive definite.
    n_draws : int
        Of each item.
    inflation : float
        c: how much wider than Laplace's approximation the proposal is, in standard deviations. Above 1, tails of the posterior that
        are a little heavier than a Gaussian's do no harm.
    generator : torch.Generator

    Raises
    ------
    InputError
        When a precision is not positive definite.
    ParameterError
        When ``n_draws`` or ``inflation`` is not positive.

    Examples
    --------
    For z ~ N(0, 1) and x | z ~ N(z, 1), where x ~ N(0, 2), the mode is x / 2 and the precision 2:

    >>> x = torch.tensor([0.0, 3.0])
    >>> def log_joint(z):
    ...     return -0.5 * (z[..., 0] ** 2 + (x - z[..., 0]) ** 2) - math.log(2 * math.pi)
    >>> generator = torch.Generator().manual_seed(0)
    >>> found = log_marginal(log_joint, x[:, None] / 2, torch.full((2, 1, 1), 2.0), generator=generator)
    >>> bool(((found.log_likelihood + x**2 / 4 + math.log(4 * math.pi) / 2).abs() < 4 * found.standard_error).all())
    True
    """
    if n_draws < 1 or not 0 < inflation < math.inf:
        raise ParameterError(f"n_draws={n_draws} and inflation={inflation}: expected positive numbers")
    factors = _cholesky(precisions)  # P = F F', so that z = m + c F'^-1 e has covariance c^2 P^-1
    n_items, n_latents = modes.shape
    log_scale = factors.diagonal(dim1=1, dim2=2).log().sum(1) - n_latents * (math.log(inflation) + math.log(2 * math.pi) / 2)
    spreads = inflation * torch.linalg.inv(factors).to(modes.dtype)
    log_weights = torch.empty(n_draws, n_items, dtype=torch.float64, device=modes.device)
    for block in log_weights.split(max(1, BLOCK // n_items)):
        noise = torch.randn(len(block), n_items, n_latents, dtype=modes.dtype, device=modes.device, generator=generator)
        draws = modes + torch.einsum("snk,nkl->snl", noise, spreads)
        log_proposal = log_scale - noise.double().square().sum(-1) / 2
        block.copy_(_evaluate(log_joint, draws) - log_proposal)
    log_total = log_weights.logsumexp(0)
    effective = (2 * log_total - (2 * log_weights).logsumexp(0)).exp()
    return ImportanceEstimate(log_total - math.log(n_draws), effective, n_draws)


def find_modes(log_joint: LogJoint, starts: Tensor, *, n_steps: int = 150, step_size: float = 0.1) -> Tensor:
    """The largest log p(x_i, z_i) of each item that gradient steps (Adam) pass on their way from several starts.

    Parameters
    ----------
    log_joint : callable
        As above; differentiable.
    starts : Tensor of shape (n_starts, n_items, n_latents)
        All in one batch; encoded means, or draws of the prior that happen to be near.
    n_steps : int
    step_size : float
        About how far each step goes, in units of the latent variables: a tenth of their standard deviation or less.

    Returns
    -------
    Tensor of shape (n_items, n_latents)
    """
    points = starts.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([points], lr=step_size, betas=(0.9, 0.99))  # the steep first steps are soon forgotten
    best, modes = torch.full(starts.shape[:-1], -torch.inf, dtype=torch.float64, device=starts.device), starts.detach().clone()
    for step in range(n_steps + 1):
        values = log_joint(points)
        with torch.no_grad():
            better = values > best
            best = torch.where(better, values.double(), best)
            modes = torch.where(better[..., None], points, modes)
        if step < n_steps:
            (points.grad,) = torch.autograd.grad(-values.sum(), points)
            optimizer.step()
    winners = best.argmax(0)
    return modes[winners, torch.arange(len(winners), device=winners.device)]


def gauss_newton_precision(
    decode: Callable[[Tensor], Tensor], modes: Tensor, noise_variance: float, prior_precision: Tensor
) -> Tensor:
    """Precision of Laplace's approximation for Gaussian outputs, without the curvature of the decoder: J'J / sigma^2 + prior.

    This is minus the Hessian of log N(x; f(z), sigma^2 I) + log p(z) where the residual x - f(z) is small or f is linear, and always
    positive definite.

    Parameters
    ----------
    decode : callable
        f: (n_items, n_latents) -> (n_items, n_outputs).
    modes : Tensor of shape (n_items, n_latents)
    noise_variance : float
        sigma^2.
    prior_precision : Tensor of shape (n_latents, n_latents) or (n_items, n_latents, n_latents)
        Minus the Hessian of log p(z), or a positive definite matrix that is like it: of the most responsible component of a mixture.

    Returns
    -------
    Tensor of shape (n_items, n_latents, n_latents), float64
    """
    directions = torch.eye(modes.shape[1], dtype=modes.dtype, device=modes.device)
    modes = modes.detach()

    def slope(direction: Tensor) -> Tensor:  # of all items along one latent direction: one column of each Jacobian
        return jvp(decode, (modes,), (direction.expand_as(modes),))[1]

    with warnings.catch_warnings():  # torch scripts its own decompositions when it first differentiates forwards
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)
        jacobians = vmap(slope)(directions)
    return torch.einsum("kno,lno->nkl", jacobians, jacobians).double() / noise_variance + prior_precision.double()


def hessian_precision(log_joint: LogJoint, modes: Tensor) -> Tensor:
    """Minus the exact Hessian of log p(x_i, z_i), made positive definite, of shape (n_items, n_latents, n_latents), float64.

    At a maximum it is so of itself. Where it is not, its eigenvalues are replaced by their absolute values, and a ConvergenceWarning
    says so.
    """
    modes = modes.detach().clone().requires_grad_()
    (slopes,) = torch.autograd.grad(log_joint(modes).sum(), modes, create_graph=True)
    rows = [torch.autograd.grad(slope.sum(), modes, retain_graph=True)[0] for slope in slopes.unbind(1)]
    hessians = torch.stack(rows, 1).double()
    values, vectors = torch.linalg.eigh(-(hessians + hessians.mT) / 2)
    n_indefinite = int((values <= 0).any(1).sum())
    if n_indefinite:
        warnings.warn(
            f"at {n_indefinite} of {len(modes)} modes log p(x, z) is not at a strict maximum; find_modes with more steps or starts",
            ConvergenceWarning,
            stacklevel=2,
        )
    values = values.abs()
    values = values.maximum(1e-6 * values.amax(1, keepdim=True))
    return (vectors * values[:, None]) @ vectors.mT


@torch.no_grad()
def _evaluate(log_joint: LogJoint, draws: Tensor) -> Tensor:
    return log_joint(draws).double()


def _cholesky(precisions: Tensor) -> Tensor:
    factors, failed = torch.linalg.cholesky_ex(precisions.double())
    if failed.any():
        raise InputError(f"{int((failed > 0).sum())} of {len(failed)} precisions are not positive definite; give some that are")
    return factors
