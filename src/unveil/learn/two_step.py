"""Learning in two steps: first how latent variables become data, then how they are distributed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unveil.core.history import History
from unveil.core.neural import TwoStepModel
from unveil.data.batch import Batches

Learner = Callable[[Any, Batches], History]
SECOND = "second step"


def two_step(model: TwoStepModel, batches: Batches, *, first: Learner, second: Learner) -> History:
    """Learn the first part of a model from data, and the second from the latent variables that the first makes of the data.

    Neither step looks back: the second takes the latent variables as given, which makes it a problem of its own, of few
    dimensions, that any learner of densities solves.

    Parameters
    ----------
    model : TwoStepModel
        Learned in place.
    batches : Batches
        The data.
    first, second : callable
        ``first(part, data)`` makes one of ``model.steps()`` better, from its start to its end, and returns its History.

    Returns
    -------
    History
        Of the first step; the objective of the second, for each step of latent variables, is in ``parts["second step"]``.
        Seconds are those of both, and it has converged where both have.

    References
    ----------
    Subakan, Koyejo and Smaragdis (2018), Learning the base distribution in implicit generative models.
    """
    inner, outer = model.steps()
    before = first(inner, batches)
    after = second(outer, model.encode(batches))
    return History(
        objective=before.objective,
        iterations=before.iterations,
        n_iter=before.n_iter,
        converged=before.converged and after.converged,
        seconds=before.seconds + after.seconds,
        restarts=after.restarts,
        parts={**before.parts, SECOND: after.objective},
        waiting=before.waiting,
    )
