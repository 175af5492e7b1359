"""Which transitions a hidden Markov model may make: named structures and masks."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import torch
from scipy.optimize import quadratic_assignment
from torch import Tensor

from unveil.errors import ParameterError

STRUCTURES = ("full", "left-right", "bakis", "cyclic")
_FEW_STATES, _N_RELAXATIONS = 7, 20


def check_transitions(name: str, value: Any) -> None:
    """A constructor parameter: one of the named structures, or a square boolean mask."""
    if isinstance(value, str) or value is None:
        if value not in STRUCTURES:
            raise ParameterError(f"{name}={value!r}: expected one of {', '.join(map(repr, STRUCTURES))}, or a square mask")
        return
    check_mask(name, value)


def check_mask(name: str, value: Any) -> None:
    """A constructor parameter: None, or a square mask of True and False, in which rows are where from."""
    if value is None:
        return
    mask = np.asarray(value)
    if mask.ndim != 2 or mask.shape[0] != mask.shape[1] or not np.isin(mask, (0, 1)).all():
        shown = f"an array of shape {mask.shape}" if mask.ndim > 1 else repr(value)
        raise ParameterError(f"{name}={shown}: expected a square mask of True and False, rows are where from")


def allowed_transitions(transitions: Any, n_states: int) -> tuple[Tensor, Tensor]:
    """The states that a sequence may begin in (M,), and the transitions that it may make (M, M), both bool.

    Notes
    -----
    ``"left-right"``: from each state to itself and all later ones, from the first. ``"bakis"``: to itself and the next one, from the
    first. ``"cyclic"``: to itself and the next one, from the last to the first; it may begin anywhere.

    Raises
    ------
    ParameterError
        When a mask has another size, a state without a way out, or one that no path reaches.
    """
    everywhere = torch.ones(n_states, dtype=torch.bool)
    first = torch.arange(n_states) == 0
    if isinstance(transitions, str):
        square, stays = torch.ones(n_states, n_states, dtype=torch.bool), torch.eye(n_states, dtype=torch.bool)
        return {
            "full": (everywhere, square),
            "left-right": (first, square.triu()),
            "bakis": (first, square.triu().tril(1)),
            "cyclic": (everywhere, stays | stays.roll(1, 1)),
        }[transitions]
    mask = torch.from_numpy(np.asarray(transitions).astype(bool))
    if mask.shape != (n_states, n_states):
        raise ParameterError(f"transitions has shape {tuple(mask.shape)} for n_states={n_states}; expected one row for each state")
    stuck = ~mask.any(1)
    if stuck.any():
        raise ParameterError(f"transitions: state {int(stuck.long().argmax())} has no way out; let it stay where it is, at least")
    return everywhere, mask


def check_reachable(starts: Tensor, allowed: Tensor) -> None:
    """Refuse a structure with a state that no path reaches: it could never be learned."""
    reached = starts
    for _ in range(len(starts)):
        reached = reached | allowed[reached].any(0)
    if not reached.all():
        lost = int((~reached).long().argmax())
        raise ParameterError(f"transitions: no path reaches state {lost}; allow a transition to it, or let sequences begin there")


def states_in_order(counts: Tensor, allowed: Tensor) -> Tensor:
    """Which found state to put in the place of each state (M,), so that the counted transitions (M, M) fit the allowed ones best.

    This is a quadratic assignment problem: for few states every order is tried, for many the best of several local searches is taken.
    """
    kept = counts.double().cpu().numpy() / max(float(counts.sum()), 1e-300)
    mask = allowed.double().cpu().numpy()
    if mask.diagonal().all():  # then staying fits every order alike, and would only hide the rest
        np.fill_diagonal(kept, 0.0)
    if len(kept) <= _FEW_STATES:
        orders = np.array(list(permutations(range(len(kept)))))
    else:
        guesses = [_most_frequent_path(kept, first) for first in range(len(kept))] + _relaxed_orders(kept, mask)
        orders = np.array([_improved_by_swaps(order, kept, mask) for order in guesses])
    fits = (kept[orders[:, :, None], orders[:, None, :]] * mask).sum((1, 2))
    return torch.from_numpy(orders[fits.argmax()])


def _most_frequent_path(kept: np.ndarray, first: int) -> np.ndarray:
    """All states, each followed by the one that most often comes after it and is not there yet."""
    path, left = [first], set(range(len(kept))) - {first}
    while left:
        path.append(max(left, key=lambda state: kept[path[-1], state]))
        left.remove(path[-1])
    return np.array(path)


def _relaxed_orders(kept: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    """Orders from the relaxation of Vogelstein et al. (2015), from several starts."""
    options = {"maximize": True, "P0": "randomized", "rng": np.random.default_rng(0)}
    return [quadratic_assignment(mask, kept, method="faq", options=options).col_ind for _ in range(_N_RELAXATIONS)]


def _improved_by_swaps(order: np.ndarray, kept: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The order after all swaps of two states that make it fit better."""
    guess = np.stack([np.arange(len(order)), order], 1)
    options = {"maximize": True, "partial_guess": guess, "rng": np.random.default_rng(0)}
    return quadratic_assignment(mask, kept, method="2opt", options=options).col_ind


def share_of_changes(counts: Tensor, allowed: Tensor) -> float:
    """The share of the counted transitions (M, M) from one state to another that are allowed; 1 where there are none."""
    changes = counts.double() - counts.double().diag().diag()
    return float((changes * allowed).sum() / changes.sum()) if bool(changes.any()) else 1.0


def states_by_time(sequences: Tensor, n_states: int) -> Tensor:
    """The state of each step when every sequence is cut into M parts of one length, for chains that only go forwards."""
    _, within, lengths = sequences.unique_consecutive(return_inverse=True, return_counts=True)
    starts = (lengths.cumsum(0) - lengths)[within]
    position = torch.arange(len(sequences)) - starts
    return (position * n_states // lengths[within]).clamp_max(n_states - 1)
