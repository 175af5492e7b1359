"""From the constructor parameters that hidden Markov estimators share to their model, checked."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unveil.core.constraints import as_probabilities, choice, integer, real
from unveil.errors import ParameterError
from unveil.learn.restarts import VARIANT_CONSTRAINTS
from unveil.models.chain_mixture import ChainMixture, ChainStructure
from unveil.models.chain_starts import Start, start_by_clusters, start_by_moments
from unveil.models.emission_settings import GAUSSIAN_CONSTRAINTS, EmissionMaker, build_emission, given_emission
from unveil.models.topology import allowed_transitions, check_mask, check_reachable, check_transitions

BLOCKS = ("weights", "startprob", "transmat", "emission")


def _check_fixed(name: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, (tuple, list, set, frozenset)) or not set(map(str, value)) <= set(BLOCKS):
        raise ParameterError(f"{name}={value!r}: expected some of {', '.join(map(repr, BLOCKS))} in a tuple")


def _check_groups(name: str, value: Any) -> None:
    if value is None:
        return
    groups = np.asarray(value)
    whole = groups.ndim == 1 and groups.dtype.kind in "iu" and len(groups) > 0
    if not whole or set(groups.tolist()) != set(range(int(groups.max()) + 1)):
        raise ParameterError(f"{name}={value!r}: expected a group 0, 1, ... for each state, none of them left out")


CHAIN_CONSTRAINTS = (
    VARIANT_CONSTRAINTS
    | GAUSSIAN_CONSTRAINTS
    | {
        "n_states": integer(1),
        "n_init": integer(1),
        "init": choice("kmeans", "moments"),
        "transitions": check_transitions,
        "fixed": _check_fixed,
        "fixed_transitions": check_mask,
        "tied_states": _check_groups,
        "startprob_prior": real(1.0),
        "transmat_prior": real(1.0),
        "sticky": real(0.0),
    }
)


def build_chains(estimator: Any, n_chains: int, n_features: int, *, labels: str = "states") -> ChainMixture:
    """The model of an estimator that has the parameters of ``HMM``, with its structure and starting values checked."""
    groups = _groups(estimator)
    n_densities = n_chains * (estimator.n_states if groups is None else int(groups.max()) + 1)
    emission = build_emission(estimator, n_densities, n_features)
    stacked = (n_chains,) if n_chains > 1 else ()
    given = _given_chain(estimator, n_chains, stacked) | given_emission(estimator, emission, stacked)
    structure = _structure(estimator, given, groups)
    return ChainMixture(n_chains, estimator.n_states, emission, given, structure, labels, _start(estimator, n_features))


def _start(estimator: Any, n_features: int) -> Start:
    """Where learning starts, by the parameters ``init`` and, where there is one, ``depermute``."""
    if estimator.init == "kmeans":
        return start_by_clusters
    if estimator.tied_states is not None:
        raise ParameterError("init='moments' cannot tie states; leave out tied_states, or use init='kmeans'")
    return partial(
        start_by_moments,
        make_emission=EmissionMaker.of(estimator, n_features),
        make_fine=EmissionMaker.of(estimator, n_features, covariance_type="diag"),
        kind=estimator.transitions if isinstance(estimator.transitions, str) else "",
        depermute=getattr(estimator, "depermute", "ncut"),
    )


def _groups(estimator: Any) -> Tensor | None:
    """Which density each state has."""
    if estimator.tied_states is None:
        return None
    if len(estimator.tied_states) != estimator.n_states:
        raise ParameterError(
            f"tied_states={estimator.tied_states!r}: expected one group for each of {estimator.n_states} states (n_states)"
        )
    return torch.from_numpy(np.asarray(estimator.tied_states, dtype=np.int64))


def _structure(estimator: Any, given: dict[str, Tensor], groups: Tensor | None) -> ChainStructure:
    starts, allowed = allowed_transitions(estimator.transitions, estimator.n_states)
    if "transition" in given and ((given["transition"] > 0) & ~allowed).any():
        raise ParameterError("transmat_init gives probability to a transition that `transitions` forbids; make these agree")
    held = None
    if estimator.fixed_transitions is not None:
        held = torch.from_numpy(np.asarray(estimator.fixed_transitions).astype(bool))
        if held.shape != allowed.shape:
            raise ParameterError(
                f"fixed_transitions has shape {tuple(held.shape)}; expected a mask of shape {tuple(allowed.shape)}"
            )
        if "transition" not in given:
            raise ParameterError("fixed_transitions holds entries of transmat_init; give that as well")
    if "initial" in given:
        starts = (given["initial"] > 0).any(0)
    check_reachable(starts, allowed)
    return ChainStructure(
        starts,
        allowed,
        held,
        frozenset(estimator.fixed or ()),
        groups,
        forwards=isinstance(estimator.transitions, str) and estimator.transitions in ("left-right", "bakis"),
        startprob_prior=float(estimator.startprob_prior),
        transmat_prior=float(estimator.transmat_prior),
        sticky=float(estimator.sticky),
    )


def _given_chain(estimator: Any, n_chains: int, stacked: tuple[int, ...]) -> dict[str, Tensor]:
    """Starting values of the chains."""
    n_states, given = estimator.n_states, {}
    if estimator.startprob_init is not None:
        initial = as_probabilities("startprob_init", estimator.startprob_init, (*stacked, n_states))
        given["initial"] = initial.view(n_chains, n_states)
    if estimator.transmat_init is not None:
        transition = as_probabilities("transmat_init", estimator.transmat_init, (*stacked, n_states, n_states))
        given["transition"] = transition.view(n_chains, n_states, n_states)
    return given
