"""Expectation maximisation, for any model with additive statistics."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch

from unveil.core.history import History
from unveil.core.model import EMModel, HardEMModel, log_prior_of
from unveil.core.statistics import ModelStatistics
from unveil.data.batch import Batch
from unveil.data.workers import cores_for
from unveil.errors import ConvergenceWarning, InputError, ParameterError
from unveil.learn.reduce import Reduce, serial


@dataclass(frozen=True)
class Progress:
    """What a callback sees after each iteration.

    Attributes
    ----------
    iteration : int
        From 0.
    max_iter : int
        The limit.
    objective : float
        Mean log-likelihood (or bound) per step before this iteration's update; NaN when not evaluated.
    model : EMModel
        The model itself, not a copy.
    """

    iteration: int
    max_iter: int
    objective: float
    model: EMModel


Callback = Callable[[Progress], bool | None]


@torch.no_grad()
def em(
    model: EMModel,
    batches: Iterable[Batch],
    *,
    max_iter: int = 100,
    tol: float = 1e-3,
    reduce: Reduce = serial,
    callbacks: Iterable[Callback] = (),
    relative: bool = False,
    evaluate_every: int = 1,
    hard: bool = False,
    warn: bool = True,
) -> History:
    """Alternate E-steps and M-steps until the mean log-likelihood per step gains less than ``tol``.

    Where the model has a prior, its logarithm is part of the objective, which is then the posterior of the parameters.

    Parameters
    ----------
    model : EMModel
        Improved in place, from the parameters that it has.
    batches : iterable of Batch
        Gone through once in each iteration.
    max_iter : int
        The most parameter updates to make; with 0 the start is evaluated, and stays.
    tol : float
        The least gain, per iteration, worth going on for, in nats per step; 0 makes all ``max_iter`` iterations.
    relative : bool
        Whether ``tol`` is a fraction of the first objective instead.
    reduce : callable
        Where the E-step runs: ``serial`` or ``threads`` of ``unveil.learn.reduce``, or one like them.
    callbacks : iterable of callable
        Each is called with a ``Progress`` after every update, and stops the run by returning True.
    evaluate_every : int
        How often to evaluate the objective, for models for which that costs extra.
    hard : bool
        Whether each E-step settles on the most probable latent values: classification EM for mixtures, Viterbi training for chains.
        The objective is then the mean of log p(x, z).
    warn : bool
        Whether to warn when ``max_iter`` was not enough.

    Returns
    -------
    History

    Raises
    ------
    InputError
        When the log-likelihood is NaN or infinite: the model keeps the parameters from before.
    """
    history, begin, callbacks = History(), time.perf_counter(), tuple(callbacks)
    for iteration in range(max(max_iter, 1)):
        evaluate = iteration % evaluate_every == 0
        statistics = reduce(_e_step(model, evaluate, hard), batches)
        objective = (statistics.log_likelihood + log_prior_of(model)) / statistics.weight
        if evaluate:
            refuse_non_finite(objective, iteration)
            gain = (objective - history.objective[-1]) / evaluate_every if history.objective else math.inf
            history.objective.append(objective)
            history.iterations.append(iteration)
            if tol > 0 and gain < tol * (abs(history.objective[0]) if relative else 1.0):
                history.converged = True
                break
        if max_iter == 0:
            break
        # Cores that were woken for little work go on spinning, beside the next E-step's workers.
        with cores_for(statistics.numel()):
            model.maximize(statistics)
        history.n_iter = iteration + 1
        progress = Progress(iteration, max_iter, objective, model)
        if any([callback(progress) for callback in callbacks]):  # noqa: C419  (every callback is called)
            break
    else:
        if warn and tol > 0:
            message = f"EM made max_iter={max_iter} iterations and still gained more than tol={tol:g}; raise one of them"
            warnings.warn(message, ConvergenceWarning, stacklevel=2)
    history.seconds = time.perf_counter() - begin
    return history


def _e_step(model: EMModel, evaluate: bool, hard: bool) -> Callable[[Batch], ModelStatistics]:
    if not hard:
        return partial(model.expect, evaluate=evaluate)
    if not isinstance(model, HardEMModel):
        raise ParameterError(f"{type(model).__name__} has no hard E-step; use soft EM")
    return model.assign


def refuse_non_finite(objective: float, iteration: int) -> None:
    """Raise InputError where an objective is NaN or infinite."""
    if not math.isfinite(objective):
        raise InputError(
            f"the log-likelihood became {objective} at iteration {iteration}: some item has no probability under the model, "
            f"or its numbers overflow; rescale the data, or start from parameters that allow every item"
        )
