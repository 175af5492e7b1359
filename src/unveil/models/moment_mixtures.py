"""Mixtures of the densities that steps have in no order: by moments where that determines them, and else by likelihood."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unveil.core.model import Emission
from unveil.data.batch import Batch, Batches
from unveil.data.rows import MemoryRows
from unveil.emissions.categorical import Categorical, check_symbols
from unveil.emissions.gaussian import Gaussian
from unveil.errors import IdentifiabilityWarning, InputError
from unveil.kernels.gaussian import identity_covariance
from unveil.kernels.simplex import normalize, one_hot
from unveil.learn.em import em
from unveil.learn.moments import (
    Features,
    MixtureEstimate,
    collect_state_moments,
    match_spherical_gaussians,
    match_three_views,
)
from unveil.learn.reduce import threads
from unveil.models.finite_mixture import Mixture
from unveil.models.moment_diagnostics import MomentDiagnostics, warn_of_doubts
from unveil.models.starts import START_SAMPLE

MakeEmission = Callable[[int], Emission]

_N_STARTS, _SHORT, _LONG = 3, 5, 20  # of k-means, and EM steps from each and from the best, on a sample of the steps
_POLISH = 5  # EM steps on all of them
_MOST_SYMBOLS = 1000  # more have too large moments, and too little data for each
_FINE_SAMPLE = 20_000  # steps that tell many densities apart well enough
_ALIKE = 1e-3  # nats per step


@dataclass(frozen=True)
class Marginal:
    """A mixture of densities that the steps of sequences have, whatever their order.

    Attributes
    ----------
    responsibilities : callable
        From a batch to responsibilities (n_steps, K).
    method : str
        "hsu-kakade", "three-view", "likelihood", or "symbols" where every symbol is a density.
    spectrum : Tensor, optional
        What the moments say about how many densities there are, the largest value first.
    gap : float
        The last value that counts, over the level of noise.
    mixture : Mixture, optional
        Where there is one.
    """

    responsibilities: Features
    method: str
    spectrum: Tensor | None = None
    gap: float = float("nan")
    mixture: Mixture | None = None


def fit_marginal(
    make_emission: MakeEmission, batches: Batches, n_components: int, generator: torch.Generator, *, fine: bool = False
) -> Marginal | None:
    """The mixture of K densities that the steps have; None for symbols where moments do not determine it.

    Gaussians come from Hsu and Kakade's moments where there are as many features as densities, if they are then as likely as what EM
    finds from several starts: the moments assume noise that is alike in all directions. Symbols come from three views. With ``fine``,
    components need not mean anything, and every symbol is one.
    """
    family = make_emission(1)
    if isinstance(family, Categorical):
        return _symbols(batches)[0] if fine else _by_three_views(batches, n_components)
    sample = _sample(batches, _FINE_SAMPLE if fine else START_SAMPLE, generator)
    started = [_from_kmeans(make_emission, n_components, sample, generator) for _ in range(1 if fine else _N_STARTS)]
    spectrum, gap, by_moments = None, float("nan"), None
    if isinstance(family, Gaussian) and not fine and batches.n_features >= n_components > 1 and not _have_nan(sample):
        estimate = match_spherical_gaussians(batches, n_components, sample.rows.read(0, sample.n_steps).mean(0), reduce=threads)
        spectrum, gap = estimate.spectrum, float(estimate.spectrum[n_components - 2]) / max(estimate.noise_level, 1e-300)
        by_moments = Mixture(make_emission(n_components))
        place_gaussians(by_moments, sample, estimate)
        started.insert(0, by_moments)
    best = _likeliest(started, sample)
    _improve(best, sample, max_iter=_LONG)
    if not fine:
        _improve(best, _points(batches), max_iter=_POLISH)
    return Marginal(_responsibilities_of(best), "hsu-kakade" if best is by_moments else "likelihood", spectrum, gap, best)


def _from_kmeans(make_emission: MakeEmission, n_components: int, sample: Batches, generator: torch.Generator) -> Mixture:
    mixture = Mixture(make_emission(n_components))
    mixture.initialize(sample, generator)
    return mixture


def _likeliest(mixtures: list[Mixture], sample: Batches) -> Mixture:
    """The one with the highest likelihood after some EM steps of each; the first one of those that are alike."""
    if len(mixtures) == 1:
        return mixtures[0]
    reached = torch.tensor([_improve(each, sample, max_iter=_SHORT) for each in mixtures])
    return mixtures[int((reached >= reached.max() - _ALIKE).long().argmax())]


def _improve(mixture: Mixture, points: Batches, *, max_iter: int) -> float:
    """Some EM steps; the mean log-likelihood before the last of them."""
    return em(mixture, points, max_iter=max_iter, tol=1e-3, reduce=threads, warn=False).objective[-1]


def _responsibilities_of(mixture: Mixture) -> Features:
    return lambda batch: mixture.posterior(replace(batch, labels=None)).responsibilities


def _points(batches: Batches) -> Batches:
    """The steps as points, each with its sequence's weight, without labels."""
    weights = batches.weights
    if weights is not None and batches.offsets is not None:
        weights = weights.repeat_interleave(torch.as_tensor(batches.offsets).diff().to(weights.device))
    return batches.replace(offsets=None, weights=weights, labels=None)


def _sample(batches: Batches, n_steps: int, generator: torch.Generator) -> Batches:
    """Some of the steps, as points in memory."""
    values, weights, _ = batches.sample_steps(n_steps, generator)
    kept = weights > 0
    return Batches(MemoryRows(values[kept]), weights=weights[kept], allow_nan=batches.allow_nan)


def _have_nan(points: Batches) -> bool:
    """Whether values are missing among points in memory."""
    return bool(points.rows.read(0, points.n_steps).isnan().any())


@torch.no_grad()
def place_gaussians(mixture: Mixture, sample: Batches, estimate: MixtureEstimate) -> None:
    """Give a mixture of Gaussians the weights and means of an estimate, and its noise for covariances."""
    emission = mixture.emission
    values = sample.rows.read(0, sample.n_steps)
    emission.initialize(values, values.new_ones(len(values), emission.n_components))  # where it measures from, and its prior
    unit = identity_covariance(emission.n_features, emission.covariance_type)
    emission.covariances.copy_((unit * max(estimate.noise_variance, emission.reg_covar)).expand_as(emission.covariances))
    emission.means.copy_(estimate.means)
    mixture.weights.copy_(estimate.weights)


def _symbols(batches: Batches) -> tuple[Marginal, int]:
    """Every symbol that occurs in the first column as a density of its own, and how many these are."""
    occurring = torch.empty(0, dtype=torch.int64)
    for batch in batches:
        check_symbols(batch.values)
        occurring = torch.cat([occurring, batch.values[:, 0].long()]).unique()
    return Marginal(lambda batch: one_hot(_places(batch, occurring), len(occurring)), "symbols"), len(occurring)


def _places(batch: Batch, occurring: Tensor) -> Tensor:
    return torch.searchsorted(occurring, batch.values[:, 0].long())


def start_mixture(mixture: Mixture, batches: Batches, generator: torch.Generator, *, make_emission: MakeEmission) -> None:
    """Give a mixture of points the weights and densities of ``fit_marginal``, with a warning where moments do not determine them.

    Raises
    ------
    InputError
        When classes are known: moments cannot take them.
    """
    if batches.labels is not None and bool((batches.labels >= 0).any()):
        raise InputError("y names known classes, which moments cannot take; use init_params='kmeans'")
    n_components = mixture.emission.n_components
    if batches.n_features < n_components:
        warnings.warn(
            f"moments: {batches.n_features} features do not determine {n_components} components, which EM from several starts finds "
            "instead; use more features or fewer components",
            IdentifiabilityWarning,
            stacklevel=2,
        )
    marginal = fit_marginal(make_emission, batches, n_components, generator)
    mixture.load_state_dict(marginal.mixture.state_dict())
    moments = collect_state_moments(marginal.responsibilities, _points(batches), reduce=threads)
    singular = torch.linalg.svdvals(moments.features)
    spectrum = singular if marginal.spectrum is None else marginal.spectrum
    condition = float(singular[0] / singular[-1].clamp_min(1e-300))
    mixture.moments = MomentDiagnostics(marginal.method, spectrum.numpy(), marginal.gap, condition, n_components)
    warn_of_doubts(mixture.moments)


def _by_three_views(batches: Batches, n_components: int) -> Marginal | None:
    """States of one categorical feature by three successive steps."""
    symbols, n_symbols = _symbols(batches)
    if batches.n_features > 1 or not n_components <= n_symbols <= _MOST_SYMBOLS:
        return None
    estimate = match_three_views(batches, n_components, symbols.responsibilities, reduce=threads)
    gap = float(estimate.spectrum[n_components - 1]) / max(estimate.noise_level, 1e-300)
    if not gap > 1.0:
        return None
    joint = normalize(estimate.means.clamp_min(1e-6)) * estimate.weights[:, None]  # (K, n_symbols)
    of_symbol = (joint / joint.sum(0)).T

    def responsibilities(batch: Batch) -> Tensor:
        return of_symbol[symbols.responsibilities(batch).argmax(1)]

    return Marginal(responsibilities, "three-view", estimate.spectrum, gap)
