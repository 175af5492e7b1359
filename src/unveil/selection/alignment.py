"""States of different fits under one numbering: EM may find the same states in any order."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from unveil.core.estimator import Estimator
from unveil.core.mixins import ClusterMixin
from unveil.core.model import Emission
from unveil.errors import ParameterError


def align_states(reference: Estimator, other: Estimator, X: Any = None, *, lengths: Any = None) -> np.ndarray:
    r"""The permutation of the states (or clusters) of ``other`` that fits those of the reference best.

    .. math:: p = \arg\max_\sigma \sum_k s(k, \sigma(k))

    where :math:`\sigma` runs over the permutations (Hungarian algorithm), and the similarity :math:`s(k, l)` is the overlap of the
    posteriors on data X, :math:`\sum_t p(z_t = k | x) \, q(z_t = l | x)`; without data it is minus the symmetric Kullback-Leibler
    divergence of the Gaussians of the two states.

    Parameters
    ----------
    reference, other : Estimator
        Fitted, with the same number of states.
    X : array, list of arrays, tensor or Batches, optional
        Data to compare the posteriors on; not needed for Gaussian states.
    lengths : sequence of int, optional
        The lengths of the sequences in the rows of X.

    Returns
    -------
    permutation : ndarray of int of shape (n_states,)
        State k of the reference is state ``permutation[k]`` of the other: see ``permute_states``.

    Raises
    ------
    ParameterError
        When the numbers of states differ, or there are no Gaussians to compare and no data.

    Examples
    --------
    >>> from unveil.models.gaussian_mixture import GaussianMixture
    >>> X = np.array([[0.0], [0.1], [5.0], [5.1], [9.0], [9.1]])
    >>> a, b = (GaussianMixture(3, random_state=seed).fit(X) for seed in (0, 1))
    >>> b = permute_states(b, align_states(a, b))
    >>> bool(np.all(a.predict(X) == b.predict(X)))
    True
    """
    for each in (reference, other):
        check_is_fitted(each, "model_")
    similarity = _minus_divergence(reference, other) if X is None else _overlap(reference, other, X, lengths)
    if similarity.shape[0] != similarity.shape[1]:
        raise ParameterError("reference has {} states and other {}; compare fits of one size".format(*similarity.shape))
    return linear_sum_assignment(similarity, maximize=True)[1]


def _overlap(reference: Estimator, other: Estimator, X: Any, lengths: Any) -> np.ndarray:
    """sum_t p(z_t = k | x) q(z_t = l | x), of shape (n_states, n_states)."""
    first, second = (_posteriors(each, X, lengths) for each in (reference, other))
    return first.T @ second


def _posteriors(estimator: Any, X: Any, lengths: Any) -> np.ndarray:
    """Posteriors of all steps (or items), of shape (n, n_states)."""
    if not hasattr(estimator, "predict_proba"):
        raise ParameterError(
            f"{type(estimator).__name__} has no states or clusters to align; use a mixture or a hidden Markov model"
        )
    found = estimator.predict_proba(X) if lengths is None else estimator.predict_proba(X, lengths=lengths)
    tables = found if isinstance(found, list) else [found]
    return np.concatenate([np.asarray(table).reshape(-1, table.shape[-1]) for table in tables])


def _minus_divergence(reference: Any, other: Any) -> np.ndarray:
    r"""Minus KL(p || q) + KL(q || p) of Gaussians p = N(mu, S) of the reference and q = N(nu, T) of the other.

    .. math:: \tfrac12 [\mathrm{tr}(T^{-1} S) + \mathrm{tr}(S^{-1} T) - 2 D + (\mu - \nu)' (S^{-1} + T^{-1}) (\mu - \nu)]
    """
    (means, S), (nus, T) = _gaussians(reference), _gaussians(other)
    if means.shape[1] != nus.shape[1]:
        raise ParameterError(f"reference has {means.shape[1]} features and other {nus.shape[1]}; compare fits to the same data")
    inverse_S, inverse_T = np.linalg.inv(S), np.linalg.inv(T)
    traces = np.einsum("kij,lji->kl", S, inverse_T) + np.einsum("kij,lji->kl", inverse_S, T)
    difference = means[:, None] - nus
    distances = np.einsum("kli,klij,klj->kl", difference, inverse_S[:, None] + inverse_T, difference)
    return -(traces + distances) / 2 + means.shape[1]


def _gaussians(estimator: Any) -> tuple[np.ndarray, np.ndarray]:
    """Means (n_states, n_features) and covariance matrices (n_states, n_features, n_features) of Gaussian states."""
    means, covariances = getattr(estimator, "means_", None), getattr(estimator, "covariances_", None)
    kind = getattr(estimator, "covariance_type", None)
    if np.ndim(means) != 2 or covariances is None or kind not in ("full", "tied", "diag", "spherical"):
        raise ParameterError(
            f"the states of {type(estimator).__name__} are not single Gaussians; give data X to compare posteriors on"
        )
    n_states, n_features = means.shape
    if kind == "diag":
        covariances = covariances[:, :, None] * np.eye(n_features)
    elif kind == "spherical":
        covariances = covariances[:, None, None] * np.eye(n_features)
    return means, np.broadcast_to(covariances, (n_states, n_features, n_features))


def permute_states(estimator: Estimator, permutation: Sequence[int] | np.ndarray) -> Estimator:
    """A fitted estimator with its states renumbered: the same distribution, in another order.

    Parameters
    ----------
    estimator : Estimator
        A fitted mixture or hidden Markov model. It is not changed. Of one that clusters, the clusters are renumbered.
    permutation : sequence of int of shape (n_states,)
        State k of the new estimator is state ``permutation[k]`` of the old one, as ``align_states`` gives it.

    Returns
    -------
    Estimator
        A copy. Its constructor parameters are the old ones: starting values that the user gave are not renumbered.

    Raises
    ------
    ParameterError
        When ``permutation`` is not one, or the estimator's states cannot be renumbered.

    Examples
    --------
    >>> from unveil.models.gaussian_mixture import GaussianMixture
    >>> mixture = GaussianMixture(2, random_state=0).fit([[0.0], [0.1], [5.0], [5.1]])
    >>> bool(np.all(permute_states(mixture, [1, 0]).means_ == mixture.means_[::-1]))
    True
    """
    check_is_fitted(estimator, "model_")
    permuted = copy.deepcopy(estimator)
    model, order = permuted.model_, _checked(permutation, estimator)
    with torch.no_grad():
        for probabilities, axes in _latents(permuted):
            for axis in axes:
                probabilities.copy_(probabilities.index_select(axis, order))
        _permute_densities(model.emission, order)
    if not _same_distribution(estimator.model_, model):
        raise ParameterError(f"the states of {type(estimator).__name__} share what cannot be told apart; they cannot be renumbered")
    return permuted


def _latents(estimator: Estimator) -> list[tuple[Tensor, tuple[int, ...]]]:
    """The probabilities of what is renumbered, each with the axes along which it stands."""
    model, kinds = estimator.model_, {name.split(".")[0] for name, _ in estimator.model_.named_parameters()}
    if kinds == {"weights", "emission"}:
        return [(model.weights, (0,))]
    if kinds != {"weights", "initial", "transition", "emission"}:
        raise ParameterError(
            f"{type(estimator).__name__} is no mixture and no hidden Markov model; only their states are renumbered"
        )
    if isinstance(estimator, ClusterMixin):
        return [(model.weights, (0,)), (model.initial, (0,)), (model.transition, (0,))]
    structure = model.structure
    free = structure.starts.all() and structure.allowed.all() and structure.held is None and structure.groups is None
    if not free:
        raise ParameterError(f"the states of this {type(estimator).__name__} have places in a structure; they cannot be renumbered")
    return [(model.initial, (1,)), (model.transition, (1, 2))]


def _permute_densities(emission: Emission, order: Tensor) -> None:
    """Reorder the densities in place: those of a state stand side by side on the first axis, but for a covariance that is tied."""
    for part in emission.modules():
        for name, parameter in part.named_parameters(recurse=False):
            size, beyond = divmod(len(parameter), len(order))
            tied = name == "covariances" and getattr(part, "covariance_type", None) == "tied"
            if not tied and not beyond:
                parameter.copy_(parameter[(order[:, None] * size + torch.arange(size, device=order.device)).flatten()])


def _same_distribution(first: Any, second: Any) -> bool:
    """Whether a sequence drawn from the first is as likely under both."""
    drawn = replace(first.sample(1, 50, torch.Generator().manual_seed(0)), labels=None)
    with torch.no_grad():
        return torch.allclose(first.objective(drawn), second.objective(drawn), rtol=1e-9, atol=1e-9)


def _checked(permutation: Any, estimator: Estimator) -> Tensor:
    """The permutation as a tensor, after making sure that it is one of as many states as there are."""
    probabilities, axes = _latents(estimator)[0]
    order, n_states = np.asarray(permutation), probabilities.shape[axes[0]]
    if order.shape != (n_states,) or sorted(order.tolist()) != list(range(n_states)):
        raise ParameterError(f"permutation={order.tolist()}: expected each of 0 .. {n_states - 1} once")
    return torch.from_numpy(order.astype(np.int64)).to(probabilities.device)
