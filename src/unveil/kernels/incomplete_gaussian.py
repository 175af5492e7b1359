"""Gaussian densities of observations with gaps (NaN), by exact conditioning (Ghahramani and Jordan, 1994).

An observation x has observed entries o and missing entries m. Its density is the marginal one, N(x_o; mu_o, Sigma_oo), and given a
component the missing entries are normal, with

    E[x_m | x_o] = mu_m + Sigma_mo Sigma_oo^-1 (x_o - mu_o),   Cov[x_m | x_o] = Sigma_mm - Sigma_mo Sigma_oo^-1 Sigma_om.

With P the inverse of Sigma_oo in a D x D matrix that is zero elsewhere, and y = x - center with zeros for what is missing, all of that is
algebra of full size: the features of y times natural parameters made of P are the density, and E[y | x_o] = G y + h. P, G and h depend
only on *which* entries are observed, so rows are grouped by that. A row of which nothing is observed says nothing: its density is 1, and
it counts for nothing.

Where features are independent given the component (diag, spherical), nothing needs to be expected: every entry that is observed has a
density of its own, and missing ones are left out of the sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from unveil.kernels.gaussian import natural_parameters, quadratic_features

_CHUNK = 2**18  # numbers in the largest intermediate results: 2 MiB, which a cache holds


@dataclass(frozen=True)
class Patterns:
    """Rows ordered by which of their entries are observed, in blocks of W rows that share one pattern; some slots stay empty.

    Attributes
    ----------
    observed : Tensor of shape (P, D)
        The distinct patterns: 1 where observed, 0 where missing.
    pattern : Tensor of shape (B,), int64
        The pattern of each block, in ascending order.
    slot : Tensor of shape (n,), int64
        Where each row is among the B W slots.
    features : Tensor of shape (B, W, F)
        The features of the rows, in their slots.
    """

    observed: Tensor
    pattern: Tensor
    slot: Tensor
    features: Tensor


@dataclass(frozen=True)
class Incomplete:
    """Observations with gaps.

    Attributes
    ----------
    values : Tensor of shape (n, D)
        y = x - center; 0 where missing.
    observed : Tensor of shape (n, D)
        1 where observed, 0 where missing.
    patterns : Patterns or None
        The rows by what is observed; None where features are independent given the component.
    """

    values: Tensor
    observed: Tensor
    patterns: Patterns | None


def has_missing(values: Tensor) -> bool:
    """Whether there is a NaN, at the cost of one sum when there is none."""
    return bool(values.sum().isnan()) and bool(values.isnan().any())


def incomplete(values: Tensor, center: Tensor, covariance_type: str) -> Incomplete:
    """What densities and moments need of values (n, D) with NaN for what is missing."""
    missing = values.isnan()
    y = torch.where(missing, 0.0, values.to(center.dtype) - center)
    observed = (~missing).to(center.dtype)
    return Incomplete(y, observed, _group(y, observed) if covariance_type in ("full", "tied") else None)


def available_moments(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted mean and variance of what is observed of each column, and its weight: (D,) each; NaN where that is zero."""
    missing = values.isnan()
    weight = weights @ (~missing).to(weights.dtype)
    mean = weights @ torch.where(missing, 0.0, values.to(weights.dtype)) / weight
    variance = weights @ torch.where(missing, 0.0, values.to(weights.dtype) - mean).square() / weight
    return mean, variance, weight


# ---- grouping ------------------------------------------------------------------------------------------------------------


def _group(y: Tensor, observed: Tensor) -> Patterns:
    """Order rows by pattern, and give each pattern a whole number of blocks: never more slots than twice the rows and patterns."""
    n_rows, n_features = y.shape
    pattern_of_row, n_patterns = _pattern_numbers(observed.bool())
    order = pattern_of_row.argsort(stable=True)
    n_members = torch.bincount(pattern_of_row, minlength=n_patterns)
    first_member = n_members.cumsum(0) - n_members
    width = -(-n_rows // n_patterns)
    n_blocks = (n_members + width - 1) // width
    first_slot = (n_blocks.cumsum(0) - n_blocks) * width
    slot = torch.empty_like(order)
    slot[order] = torch.arange(n_rows, device=y.device) + (first_slot - first_member)[pattern_of_row[order]]
    pattern = torch.repeat_interleave(torch.arange(n_patterns, device=y.device), n_blocks)
    padded = y.new_zeros(len(pattern) * width, n_features).index_copy(0, slot, y)
    features = quadratic_features(padded, y.new_zeros(n_features), "full").unflatten(0, (len(pattern), width))
    return Patterns(observed[order[first_member]], pattern, slot, features)


def _pattern_numbers(mask: Tensor) -> tuple[Tensor, int]:
    """A number for each distinct row of a mask (n, D), and how many there are: 32 columns at a time are one integer."""
    number = torch.zeros(len(mask), dtype=torch.int64, device=mask.device)
    n_distinct = 1
    for columns in mask.split(32, dim=1):
        bits = (columns.long() << torch.arange(columns.shape[1], device=mask.device)).sum(1)
        distinct, number = ((number << 32) + bits).unique(return_inverse=True)
        n_distinct = len(distinct)
    return number, n_distinct


def _chunks(patterns: Patterns, n_components: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Ranges of blocks that fit the memory together, the patterns in each, and the blocks' places among these."""
    n_features, width = patterns.observed.shape[1], patterns.features.shape[1]
    size = max(1, _CHUNK // (n_components * n_features * max(n_features, width)))
    for start in range(0, len(patterns.pattern), size):
        inside = patterns.pattern[start : start + size]
        first, last = int(inside[0]), int(inside[-1])
        yield slice(start, start + size), slice(first, last + 1), inside - first


# ---- densities -----------------------------------------------------------------------------------------------------------


def log_density(data: Incomplete, means: Tensor, covariances: Tensor, covariance_type: str) -> Tensor:
    """log N(x_o; mu_o, Sigma_oo) of each row for each component (n, K); 0 where nothing is observed.

    ``means`` (K, D) are measured from the centre, here and below.

    Raises
    ------
    torch.linalg.LinAlgError
        When a covariance is not positive definite.
    """
    if data.patterns is None:
        return _independent_log_density(data, means, covariances, covariance_type)
    patterns, found = data.patterns, []
    for blocks, inside, local in _chunks(patterns, len(means)):
        natural, constant = _marginal_natural_parameters(means, covariances, patterns.observed[inside])
        found.append(torch.baddbmm(constant[local][:, None], patterns.features[blocks], natural[local].mT))
    return torch.cat(found).flatten(0, 1)[patterns.slot]


def _independent_log_density(data: Incomplete, means: Tensor, covariances: Tensor, covariance_type: str) -> Tensor:
    """The sum over observed entries of log N(x_d; mu_kd, v_kd): the constant of the density is a sum over entries, too."""
    natural, _ = natural_parameters(means, covariances, covariance_type)
    variances = covariances if covariance_type == "diag" else covariances[:, None]
    constant = -0.5 * (math.log(2 * math.pi) + variances.log() + means.square() / variances)
    features = quadratic_features(data.values, torch.zeros_like(means[0]), covariance_type)
    return torch.addmm(natural @ features.T, constant, data.observed.T).T


def _marginal_natural_parameters(means: Tensor, covariances: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Natural parameters (P, K, F) and constants (P, K) of the marginal densities of the observed entries (P, D)."""
    precisions, log_determinant = _observed_precisions(covariances, observed)
    n_features = observed.shape[1]
    row, column = torch.triu_indices(n_features, n_features, device=means.device)
    quadratic = precisions[..., row, column] * torch.where(row == column, -0.5, -1.0).to(means)
    linear = (precisions @ means[..., None])[..., 0]
    normalizer = math.log(2 * math.pi) * observed.sum(1, keepdim=True) + log_determinant
    constant = -0.5 * (normalizer + (linear * means).sum(-1))
    return torch.cat([quadratic.expand(*linear.shape[:2], -1), linear], -1), constant


def _observed_precisions(covariances: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Sigma_oo^-1 within zeros, and log |Sigma_oo|, by pattern and component: (P, K, D, D) and (P, K), or K = 1 where it is shared.

    They come from the Cholesky factor of Sigma with the rows and columns of what is missing replaced by those of the identity.
    """
    both = (observed[:, :, None] * observed[:, None, :])[:, None]
    cholesky = torch.linalg.cholesky(covariances * both + torch.diag_embed(1 - observed)[:, None])
    return torch.cholesky_inverse(cholesky) * both, 2 * cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)


# ---- moments -------------------------------------------------------------------------------------------------------------


def expected_moments(
    data: Incomplete, responsibilities: Tensor, means: Tensor, covariances: Tensor, covariance_type: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Counts, first and second moments of y, expected under responsibilities (n, K) and the conditional densities.

    Returns
    -------
    count : Tensor of shape (K,)
        Of rows in which something is observed.
    entries : Tensor of shape (K, D)
        How often an entry is part of the moments: when observed, or, for full and tied covariances, as often as its row.
    first : Tensor of shape (K, D)
    second : Tensor of shape (K, S)
        As in the quadratic features of the type of covariance.
    """
    count = responsibilities.T @ data.observed.amax(1)
    if data.patterns is None:
        moments = responsibilities.T @ quadratic_features(data.values, torch.zeros_like(means[0]), covariance_type)
        n_products = moments.shape[1] - means.shape[1]
        return count, responsibilities.T @ data.observed, moments[:, n_products:], moments[:, :n_products]
    first, second = _conditional_moments(data.patterns, responsibilities, means, covariances)
    return count, count[:, None].expand_as(means), first, second


def _conditional_moments(patterns: Patterns, responsibilities: Tensor, means: Tensor, covariances: Tensor) -> tuple[Tensor, Tensor]:
    """sum_n r_nk E[y_n | x_o, k], and the upper triangles of sum_n r_nk (E[y_n | x_o, k] E[y_n | x_o, k]' + Cov[y_n | x_o, k])."""
    n_components, n_features = means.shape
    r_of_slots = _in_slots(patterns, responsibilities)
    first, second = torch.zeros_like(means), means.new_zeros(n_components, n_features, n_features)
    for blocks, inside, local in _chunks(patterns, n_components):
        observed = patterns.observed[inside]
        gain, offset, covariance = _conditional_parameters(means, covariances, observed)
        r = r_of_slots[blocks].mT * observed.amax(1)[local, None, None]  # (B, K, W)
        expected = _expected_values(patterns.features[blocks], gain[local], offset[local])
        weighted = r[..., None] * expected
        first += weighted.sum((0, 2))
        second += _by_component(weighted).mT @ _by_component(expected)
        count = r.new_zeros(len(observed), n_components).index_add_(0, local, r.sum(2))
        second += (count[..., None, None] * covariance).sum(0)
    row, column = torch.triu_indices(n_features, n_features, device=means.device)
    return first, second[:, row, column]


def _expected_values(features: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """E[y | x_o, k] = G y + h, of shape (B, K, W, D)."""
    return features[:, None, :, -offset.shape[2] :] @ gain.mT + offset[:, :, None]


def _by_component(rows: Tensor) -> Tensor:
    """(B, K, W, D) as (K, B W, D)."""
    return rows.transpose(0, 1).flatten(1, 2)


def _conditional_parameters(means: Tensor, covariances: Tensor, observed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """G, h and C with E[y | x_o] = G y + h and Cov[y | x_o] = C: (P, K, D, D), (P, K, D), (P, K, D, D); K = 1 in G and C that are shared.

    What is observed is kept exactly: it is not sent through a matrix and its inverse.
    """
    missing = (1 - observed)[:, None]
    precisions, _ = _observed_precisions(covariances, observed)
    regression = covariances @ precisions * missing[..., None]
    offset = missing * (means - (regression @ means[..., None])[..., 0])
    covariance = (covariances - regression @ covariances) * (missing[..., :, None] * missing[..., None, :])
    return regression + torch.diag_embed(observed)[:, None], offset, (covariance + covariance.mT) / 2


def conditional_means(data: Incomplete, responsibilities: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
    """sum_k r_nk E[y_n | x_o, k], of shape (n, D); only its missing entries are to be used."""
    if data.patterns is None:
        return responsibilities @ means
    patterns, found = data.patterns, []
    r_of_slots = _in_slots(patterns, responsibilities)
    for blocks, inside, local in _chunks(patterns, len(means)):
        gain, offset, _ = _conditional_parameters(means, covariances, patterns.observed[inside])
        expected = _expected_values(patterns.features[blocks], gain[local], offset[local])
        found.append((r_of_slots[blocks].mT[..., None] * expected).sum(1))
    return torch.cat(found).flatten(0, 1)[patterns.slot]


def _in_slots(patterns: Patterns, responsibilities: Tensor) -> Tensor:
    """Responsibilities (B, W, K), zero in empty slots."""
    n_blocks, width, _ = patterns.features.shape
    padded = responsibilities.new_zeros(n_blocks * width, responsibilities.shape[1])
    return padded.index_copy_(0, patterns.slot, responsibilities).unflatten(0, (n_blocks, width))
