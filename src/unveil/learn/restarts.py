"""Many short runs from different starts, of which the best is finished (Biernacki, Celeux and Govaert, 2003)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from unveil.core.constraints import boolean, choice, integer, real
from unveil.core.history import History
from unveil.core.model import EMModel, Model
from unveil.data.batch import Batches
from unveil.data.workers import cores_for
from unveil.errors import ParameterError
from unveil.learn.em import em
from unveil.learn.progress import ProgressBar
from unveil.learn.reduce import REDUCTIONS, Reduce, serial
from unveil.learn.stochastic import stochastic_em

Learn = Callable[..., History]

EM_CONSTRAINTS = {
    "max_iter": integer(0),
    "tol": real(0.0),
    "warm_start": boolean,
    "verbose": integer(0),
    "reduce": choice(*REDUCTIONS),
}
ALGORITHMS = ("em", "hard-em", "stochastic-em")
VARIANT_CONSTRAINTS = EM_CONSTRAINTS | {"algorithm": choice(*ALGORITHMS), "batch_size": integer(1)}


def em_settings(estimator: Any) -> dict[str, Any]:
    """The arguments of ``em_from_starts`` from the constructor parameters that estimators learned by EM share."""
    return {
        "fitted": getattr(estimator, "model_", None) if estimator.warm_start else None,
        "n_init": getattr(estimator, "n_init", 1),
        "max_iter": estimator.max_iter,
        "tol": estimator.tol,
        "reduce": REDUCTIONS[estimator.reduce],
        "title": type(estimator).__name__ if estimator.verbose else None,
        "show_every": getattr(estimator, "verbose_interval", 1),
        "algorithm": getattr(estimator, "algorithm", "em"),
        "batch_size": getattr(estimator, "batch_size", 1024),
    }


def with_restarts(
    learn: Learn,
    model: Model,
    batches: Batches,
    generator: torch.Generator,
    *,
    n_init: int,
    max_iter: int,
    short_iter: int = 20,
) -> History:
    """Start ``n_init`` times, run each start shortly, and finish the one with the highest objective.

    Parameters
    ----------
    learn : callable
        ``learn(model, batches, max_iter=..., warn=...)``, a learner with everything else settled.
    model : Model
        Left with the parameters of the best run.
    batches : Batches
        The data.
    generator : torch.Generator
        Makes the starts differ, and repeatable.
    n_init : int
        The number of starts; with 1 there is no short run.
    max_iter : int
        The limit of the final run, the short one that it goes on from included.
    short_iter : int
        The limit of each short run.

    Returns
    -------
    History
        Of the best start from its beginning to its end; ``restarts`` holds what every short run had reached.
    """
    if n_init == 1:
        model.initialize(batches, generator)
        return learn(model, batches, max_iter=max_iter)
    best: tuple[float, History, dict] | None = None
    reached = []
    for _ in range(n_init):
        model.initialize(batches, generator)
        short = learn(model, batches, max_iter=min(short_iter, max_iter), warn=False)
        reached.append(short.objective[-1])
        if best is None or reached[-1] > best[0]:
            best = reached[-1], short, copy.deepcopy(model.state_dict())  # a copy: the live state moves on
    assert best is not None
    _, short, state = best
    model.load_state_dict(state)
    if short.converged or short.n_iter >= max_iter:
        history = short
    else:
        history = _joined(short, learn(model, batches, max_iter=max_iter - short.n_iter))
    history.restarts = reached
    return history


def _joined(first: History, second: History) -> History:
    """One run made of two, the second going on from where the first stopped."""
    return History(
        objective=first.objective + second.objective,
        iterations=first.iterations + [first.n_iter + iteration for iteration in second.iterations],
        n_iter=first.n_iter + second.n_iter,
        converged=second.converged,
        seconds=first.seconds + second.seconds,
    )


def em_from_starts(
    model: EMModel,
    batches: Batches,
    generator: torch.Generator,
    *,
    fitted: Model | None = None,
    n_init: int = 1,
    max_iter: int = 100,
    tol: float = 1e-3,
    reduce: Reduce = serial,
    relative: bool = False,
    evaluate_every: int = 1,
    title: str | None = None,
    show_every: int = 1,
    algorithm: str = "em",
    batch_size: int = 1024,
) -> History:
    """EM as estimators use it: from an earlier fit if there is one, else from ``n_init`` starts; a title shows the progress."""
    batches = batches.at_most(getattr(getattr(model, "emission", None), "n_statistics", None))
    with (
        cores_for(batches.n_steps * batches.n_features),
        ProgressBar(title or "", quiet=title is None, every=show_every) as progress,
    ):
        if algorithm == "stochastic-em" and max_iter > 0:
            learn = partial(stochastic_em, generator=generator, tol=tol, batch_size=batch_size, callbacks=[progress])
        else:
            hard = algorithm == "hard-em"
            learn = partial(
                em, tol=tol, relative=relative, reduce=reduce, evaluate_every=evaluate_every, hard=hard, callbacks=[progress]
            )
        if fitted is not None:
            try:
                model.load_state_dict(fitted.state_dict())
            except RuntimeError as error:
                raise ParameterError(
                    "warm_start=True, but the earlier fit has parameters of other shapes; set warm_start=False to start anew"
                ) from error
            return learn(model, batches, max_iter=max_iter)
        return with_restarts(learn, model, batches, generator, n_init=n_init, max_iter=max_iter)
