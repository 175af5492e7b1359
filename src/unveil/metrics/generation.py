"""How good generated samples are: likelihood under a kernel density, fidelity, variety, modes that are missed, memorisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from unveil.errors import InputError, ParameterError
from unveil.metrics.distances import BLOCK, centred_tables, distance_blocks, nearest_rows, real_tables
from unveil.metrics.parzen import check_positive, log_densities, validated_bandwidth


@dataclass(frozen=True)
class KDEScore:
    """Parzen score: its mean over the reference points and the standard error of that, in nats, and the bandwidth used."""

    score: float
    standard_error: float
    bandwidth: float


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares of samples and of reference points that lie on each other's manifold; see :func:`precision_recall`."""

    precision: float
    recall: float
    density: float
    coverage: float


@dataclass(frozen=True, eq=False)
class ModeCoverage:
    """Which modes the samples reach.

    Attributes
    ----------
    n_covered : int
        Modes that have at least the asked part of their fair share of the samples.
    covered : ndarray of bool of shape (n_modes,)
    shares : ndarray of shape (n_modes,)
        q_k: of the samples that are near some centre, the share that is near this one.
    high_quality : float
        Share of all samples that are near some centre.
    kl_to_uniform : float
        sum_k q_k log(n_modes q_k), in nats; NaN when no sample is near any centre.
    """

    n_covered: int
    covered: np.ndarray
    shares: np.ndarray
    high_quality: float
    kl_to_uniform: float


@dataclass(frozen=True, eq=False)
class Memorization:
    """How near the samples are to the training points.

    Attributes
    ----------
    ratio : float
        ``sample_distance / test_distance``: 1 for samples as far from the training points as unseen data, 0 for copies.
    sample_distance, test_distance : float
        Median distance of the samples, and of the test points, to the nearest training point.
    nearest : ndarray of int of shape (n_samples,)
    distances : ndarray of shape (n_samples,)
        The row of the training point that is nearest to each sample, and the distance to it.
    """

    ratio: float
    sample_distance: float
    test_distance: float
    nearest: np.ndarray
    distances: np.ndarray


def kde_score(
    reference: ArrayLike,
    samples: ArrayLike,
    bandwidth: float | str = "validated",
    validation: ArrayLike | None = None,
    *,
    grid: ArrayLike | None = None,
) -> KDEScore:
    r"""Parzen score: log-likelihood of held-out data under Gaussian kernels around the samples.

    .. math:: \frac1m \sum_{j=1}^m \log \frac1n \sum_{i=1}^n \mathcal N(x_j;\, s_i,\, h^2 I)

    It prefers blur, and depends on the number of samples and on the bandwidth: only compare scores that agree in both.

    Parameters
    ----------
    reference : array_like of shape (m, n_features)
        Held-out data x.
    samples : array_like of shape (n, n_features)
        What the model generated.
    bandwidth : float or "validated"
        h, the *standard deviation* of the kernels, in units of the data: a "variance 0.1" is ``bandwidth=0.1**0.5``. "validated"
        takes the one under which the score of ``validation`` is best.
    validation : array_like of shape (n_validation, n_features), optional
        Held-out data that is not in ``reference``; needed for a validated bandwidth.
    grid : array_like of shape (n_bandwidths,), optional
        The bandwidths to choose from. By default, from 0.001 to 10 times the standard deviation of the validation data, to 8 %.

    Raises
    ------
    InputError
        When the data are not tables of finite numbers with the same columns, or validation data is missing.
    ParameterError
        When a bandwidth is not positive.

    References
    ----------
    .. [1] I. Goodfellow et al., "Generative adversarial nets", NeurIPS, 2014.
    .. [2] L. Theis, A. van den Oord, M. Bethge, "A note on the evaluation of generative models", ICLR, 2016: what it cannot tell.

    Examples
    --------
    One kernel, on the only reference point, is as high as a Gaussian of that variance:

    >>> found = kde_score([[0.0, 0.0]], [[0.0, 0.0]], bandwidth=0.1)
    >>> round(found.score, 4), round(-math.log(2 * math.pi * 0.01), 4)
    (2.7673, 2.7673)
    """
    if isinstance(bandwidth, str):
        bandwidth = validated_bandwidth(bandwidth, validation, samples, grid)
    check_positive("bandwidth", bandwidth)
    reference, samples = centred_tables(reference=reference, samples=samples)
    found = log_densities(reference, samples, [float(bandwidth)])[0]
    standard_error = float(found.std()) / math.sqrt(len(found)) if len(found) > 1 else math.nan
    return KDEScore(float(found.mean()), standard_error, float(bandwidth))


def frechet_distance(reference: ArrayLike, samples: ArrayLike) -> float:
    r"""Fréchet distance (squared 2-Wasserstein distance) of the Gaussians that have the moments of two sets of features.

    .. math:: \|\mu_r - \mu_s\|^2 + \operatorname{tr}\bigl(C_r + C_s - 2 (C_r^{1/2} C_s C_r^{1/2})^{1/2}\bigr)

    The trace of the last root is the sum of the singular values of :math:`C_r^{1/2} C_s^{1/2}`, with symmetric roots: nothing becomes
    complex, and singular covariances are as good as any.

    Parameters
    ----------
    reference, samples : array_like of shape (n, n_features)
        Features of the data and of the samples, two rows or more of each.

    Returns
    -------
    float
        The distance, in squared units of the features; not negative. It is biased upwards by little data.

    Raises
    ------
    InputError
        When the features are not tables of finite numbers with the same columns and at least two rows.

    References
    ----------
    .. [1] M. Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", NeurIPS, 2017.

    Examples
    --------
    >>> round(frechet_distance([[0.0], [2.0]], [[3.0], [9.0]]), 6)  # means 1 and 6, standard deviations 2^.5 and 18^.5
    33.0
    """
    tables = real_tables(reference=reference, samples=samples)
    for name, table in tables.items():
        if len(table) < 2:
            raise InputError(f"{name}: a covariance needs at least 2 rows, got {len(table)}; give more")
    (mean_r, cov_r), (mean_s, cov_s) = map(_moments, tables.values())
    cross = torch.linalg.svdvals(_square_root(cov_r) @ _square_root(cov_s)).sum()
    return max(0.0, float((mean_r - mean_s).square().sum() + cov_r.trace() + cov_s.trace() - 2 * cross))


def precision_recall(reference: ArrayLike, samples: ArrayLike, n_neighbors: int = 5) -> PrecisionRecall:
    r"""Fidelity and variety, by balls that reach from each point to its k-th nearest neighbour in its own set.

    With the balls :math:`B(x_j)` of the m reference points and :math:`B(s_i)` of the n samples,

    .. math::
        \text{precision} &= \tfrac1n \#\{i : s_i \in \textstyle\bigcup_j B(x_j)\}, &
        \text{recall} &= \tfrac1m \#\{j : x_j \in \textstyle\bigcup_i B(s_i)\}, \\
        \text{density} &= \tfrac1{kn} \textstyle\sum_{i,j} \mathbb 1[s_i \in B(x_j)], &
        \text{coverage} &= \tfrac1m \#\{j : B(x_j) \text{ holds a sample}\}.

    Never read precision alone: samples of one mode only have all of it.

    Parameters
    ----------
    reference, samples : array_like of shape (n, n_features)
        Features of the data and of the samples; equally many, for figures that compare.
    n_neighbors : int
        k.

    Returns
    -------
    PrecisionRecall
        All are in [0, 1] but density, which is 1 in expectation for samples of the data's distribution.

    Raises
    ------
    InputError
        When the features are not tables of finite numbers with the same columns and more than ``n_neighbors`` rows.
    ParameterError
        When ``n_neighbors`` is not a positive integer.

    References
    ----------
    .. [1] T. Kynkäänniemi et al., "Improved precision and recall metric for assessing generative models", NeurIPS, 2019.
    .. [2] M. F. Naeem et al., "Reliable fidelity and diversity metrics for generative models", ICML, 2020: density, coverage.

    Examples
    --------
    >>> precision_recall([[0.0], [1.0], [2.0], [9.0]], [[0.5], [0.6], [0.7]], n_neighbors=1)
    PrecisionRecall(precision=1.0, recall=0.0, density=2.0, coverage=0.5)
    """
    if not isinstance(n_neighbors, Integral) or n_neighbors < 1:
        raise ParameterError(f"n_neighbors={n_neighbors!r}: expected a positive integer")
    reference, samples = centred_tables(reference=reference, samples=samples)
    of_reference, of_samples = _radii("reference", reference, n_neighbors), _radii("samples", samples, n_neighbors)
    n_balls = torch.zeros(len(samples), dtype=torch.int64, device=samples.device)  # of reference points, around each sample
    recalled = n_covered = 0
    for rows, distances in distance_blocks(reference, samples):
        inside = distances <= of_reference[rows, None]
        n_balls += inside.sum(0)
        n_covered += int(inside.any(1).sum())
        recalled += int((distances <= of_samples).any(1).sum())
    return PrecisionRecall(
        precision=float((n_balls > 0).double().mean()),
        recall=recalled / len(reference),
        density=float(n_balls.double().mean()) / n_neighbors,
        coverage=n_covered / len(reference),
    )


def mode_coverage(
    samples: ArrayLike, centers: ArrayLike, scale: float, *, radius: float = 3.0, least_share: float = 0.1
) -> ModeCoverage:
    """Which modes of a known mixture the samples reach, and how many samples are near any.

    A sample is near a mode when that centre is its nearest, at a distance of at most ``radius * scale``. A mode is covered when at
    least ``least_share`` of its fair share of all samples, ``n_samples / n_modes``, are near it.

    Parameters
    ----------
    samples : array_like of shape (n_samples, n_features)
    centers : array_like of shape (n_modes, n_features)
    scale : float
        Standard deviation of each mode. Of two-dimensional Gaussian modes, 98.9 % are within 3 of them.
    radius : float
    least_share : float

    Returns
    -------
    ModeCoverage

    Raises
    ------
    InputError
        When the samples and centers are not tables of finite numbers with the same columns.
    ParameterError
        When ``scale``, ``radius`` or ``least_share`` is not positive.

    Examples
    --------
    >>> found = mode_coverage([[0.0], [0.1], [4.9], [2.0]], centers=[[0.0], [5.0], [9.0]], scale=0.1)
    >>> found.n_covered, found.high_quality
    (2, 0.75)
    """
    for name, value in {"scale": scale, "radius": radius, "least_share": least_share}.items():
        check_positive(name, value)
    centers, samples = centred_tables(centers=centers, samples=samples)
    nearest, distances = nearest_rows(samples, centers)
    near = distances <= radius * scale
    counts = torch.bincount(nearest[near], minlength=len(centers)).double()
    shares = counts / counts.sum()  # NaN when there are none
    covered = counts >= least_share * len(samples) / len(centers)
    divergence = float(torch.xlogy(shares, shares).sum()) + math.log(len(centers))
    return ModeCoverage(int(covered.sum()), _array(covered), _array(shares), float(near.double().mean()), divergence)


def memorization(train: ArrayLike, test: ArrayLike, samples: ArrayLike) -> Memorization:
    r"""Whether the samples are copies of training points: how near these are, beside how near they are to unseen data.

    .. math:: \text{ratio} = \frac{\operatorname{median}_i \min_t \|s_i - x_t\|}{\operatorname{median}_j \min_t \|x'_j - x_t\|}

    for samples s, training points x and test points x'.

    Parameters
    ----------
    train, test, samples : array_like of shape (n, n_features)

    Returns
    -------
    Memorization
        The ratio, and for each sample its nearest training point, to look at.

    Raises
    ------
    InputError
        When the data are not tables of finite numbers with the same columns, or half of the test points are in the training data.

    Examples
    --------
    >>> found = memorization(train=[[0.0], [10.0]], test=[[2.0], [7.0], [12.0]], samples=[[1.0], [9.0]])
    >>> found.ratio, found.nearest.tolist()
    (0.5, [0, 1])
    """
    train, test, samples = centred_tables(train=train, test=test, samples=samples)
    nearest, distances = nearest_rows(samples, train)
    of_samples, of_test = float(distances.quantile(0.5)), float(nearest_rows(test, train)[1].quantile(0.5))
    if of_test == 0:
        raise InputError("test: half of its points or more are also in train, so they are not unseen; give held-out points")
    return Memorization(of_samples / of_test, of_samples, of_test, _array(nearest), _array(distances))


def _radii(name: str, points: Tensor, n_neighbors: int) -> Tensor:
    """Squared distance of each point to its k-th nearest other point."""
    if len(points) <= n_neighbors:
        raise InputError(f"{name}: expected more than n_neighbors={n_neighbors} rows, got {len(points)}; give more")
    radii = points.new_empty(len(points))
    for rows, distances in distance_blocks(points, points):
        distances[:, rows].fill_diagonal_(math.inf)
        radii[rows] = distances.kthvalue(n_neighbors, dim=1).values
    return radii


def _moments(table: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased covariance, in float64."""
    mean = table.mean(0, dtype=torch.float64)
    blocks = (block - mean for block in table.split(max(1, BLOCK // table.shape[1])))
    return mean, sum(block.T @ block for block in blocks) / (len(table) - 1)


def _square_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy()
