"""Which state of one labelling is which of another: labels of hidden states are arbitrary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from unveil.errors import InputError


def align_states(reference: Any, other: Any) -> np.ndarray:
    r"""The permutation of the states of ``other`` under which its paths agree with the reference's in most steps.

    .. math:: p = \arg\max_\sigma \sum_k n_{k \sigma(k)}

    where :math:`n_{kl}` counts the steps that are in state :math:`k` of the reference and in state :math:`l` of the other, and
    :math:`\sigma` runs over the permutations (Hungarian algorithm). States that the counts leave open keep their numbers
    where they can.

    Parameters
    ----------
    reference : array of int of shape (n_steps,), or a list of them
        The path of states of a sequence, or of each of several. A negative label is an unknown state: that step does not count.
    other : array of int, or a list of them
        Other paths of the same lengths. The numbers of states may differ.

    Returns
    -------
    permutation : ndarray of int of shape (n_states,)
        State k of the reference is state ``permutation[k]`` of the other: parameters of the other, indexed by it, are in the
        reference's order, and ``np.argsort(permutation)[path]`` is a path in the reference's states. n_states is the larger number.

    Raises
    ------
    InputError
        When the two are not paths of the same lengths, or share no step with known states.

    Examples
    --------
    >>> permutation = align_states([0, 0, 1, 1, 2], [2, 2, 0, 0, 1])
    >>> permutation
    array([2, 0, 1])
    >>> np.argsort(permutation)[[2, 2, 0, 0, 1]]
    array([0, 0, 1, 1, 2])
    """
    first, second = _paths("reference", reference), _paths("other", other)
    lengths = [[len(path) for path in paths] for paths in (first, second)]
    if lengths[0] != lengths[1]:
        raise InputError(
            f"reference has paths of lengths {lengths[0][:5]}, other of {lengths[1][:5]}; give both for the same steps"
        )
    states, others = np.concatenate(first), np.concatenate(second)
    known = (states >= 0) & (others >= 0)
    if not known.any():
        raise InputError("reference and other share no step whose states are known; give labels of 0 and above")
    n_states = int(max(states[known].max(), others[known].max())) + 1
    overlap = np.eye(n_states) / (n_states + 1)  # less than one step in all: it only decides where the steps do not
    np.add.at(overlap, (states[known], others[known]), 1.0)
    return linear_sum_assignment(overlap, maximize=True)[1]


def _paths(name: str, labels: Any) -> list[np.ndarray]:
    """One array of integers for each sequence."""
    several = isinstance(labels, Sequence) and len(labels) > 0 and np.ndim(labels[0]) > 0
    paths = [np.asarray(each) for each in (labels if several else [labels])]
    paths = [path for each in paths for path in (each if each.ndim == 2 else [each])]
    for path in paths:
        if path.ndim != 1 or path.dtype.kind not in "iu":
            raise InputError(
                f"{name} holds a path of shape {path.shape} and type {path.dtype}; give one whole number for each step, or a list of such"
            )
    return paths
