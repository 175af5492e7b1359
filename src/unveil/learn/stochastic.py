"""Stochastic EM: an M-step after every minibatch, from a running average of the statistics (Cappe and Moulines, 2009)."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch

from unveil.core.history import History
from unveil.core.model import EMModel, log_prior_of
from unveil.core.statistics import ModelStatistics
from unveil.data.batch import Batch, Batches
from unveil.errors import InputError
from unveil.learn.em import Callback, Progress, refuse_non_finite

EXPONENT = 0.7  # of the step sizes (t + 2)^-EXPONENT; in (1/2, 1] they converge (Liang and Klein, 2009, found 0.7 to do well)


@dataclass
class RunningStatistics:
    """An average of the statistics of minibatches, in which older ones are forgotten slowly.

    Minibatches count by the steps, or weight, that they hold: a short last one does not upset what the others have found.

    Attributes
    ----------
    model : EMModel
        Whose they are.
    average : ModelStatistics or None
        Of the minibatches so far.
    n_updates : int
        How many minibatches have gone in.
    weight : float
        The weighted number of steps that have been seen.
    """

    model: EMModel
    average: ModelStatistics | None = None
    n_updates: int = 0
    weight: float = 0.0

    def add(self, statistics: ModelStatistics) -> None:
        """s <- (1 - rho_t) s + rho_t s_t, with rho_t = (t + 2)^-0.7; the first minibatch is taken whole."""
        rate = (self.n_updates + 2) ** -EXPONENT
        self.average = statistics if self.average is None else self.average * (1.0 - rate) + statistics * rate
        self.n_updates += 1
        self.weight += statistics.weight

    def of(self, n_steps: float) -> ModelStatistics:
        """The statistics of so many steps like those seen, so that priors weigh what they should."""
        assert self.average is not None
        return self.average * (n_steps / self.average.weight)


@torch.no_grad()
def stochastic_em(
    model: EMModel,
    batches: Batches,
    *,
    generator: torch.Generator,
    max_iter: int = 100,
    tol: float = 1e-3,
    batch_size: int = 1024,
    callbacks: Iterable[Callback] = (),
    warn: bool = True,
) -> History:
    """Go through the data in minibatches, in another order each time, with an M-step after each.

    It needs a fraction of the passes that EM needs where there is much data; the objective is that of each minibatch before its
    update, averaged over a pass, and need not rise at every one.

    Parameters
    ----------
    model : EMModel
        Improved in place, from the parameters that it has.
    batches : Batches
        The data; in memory its items are shuffled, on disk they come in their order.
    generator : torch.Generator
        Decides the order.
    max_iter : int
        The most passes through the data.
    tol : float
        The least gain, from one pass to the next, worth going on for, in nats per step; 0 makes all passes.
    batch_size : int
        Steps in a minibatch, at least one sequence.
    callbacks : iterable of callable
        Each is called with a ``Progress`` after every pass, and stops the run by returning True.
    warn : bool
        Accepted for the sake of learners that have it.

    Returns
    -------
    History
    """
    history, begin, running = History(), time.perf_counter(), RunningStatistics(model)
    callbacks, n_steps = tuple(callbacks), batches.total_weight
    for iteration in range(max_iter):
        log_likelihood = weight = 0.0
        for batch in batches.minibatches(batch_size, generator):
            statistics = online_step(model, batch, running, n_steps)
            log_likelihood, weight = log_likelihood + statistics.log_likelihood, weight + statistics.weight
        objective = (log_likelihood + log_prior_of(model)) / weight
        refuse_non_finite(objective, iteration)
        history.objective.append(objective)
        history.iterations.append(iteration)
        history.n_iter = iteration + 1
        progress = Progress(iteration, max_iter, objective, model)
        if any([callback(progress) for callback in callbacks]):  # noqa: C419  (every callback is called)
            break
        if tol > 0 and iteration > 0 and objective - history.objective[-2] < tol:
            history.converged = True
            break
    history.seconds = time.perf_counter() - begin
    return history


def online_step(model: EMModel, batch: Batch, running: RunningStatistics, n_steps: float | None = None) -> ModelStatistics:
    """One minibatch: its E-step, the running average, and the M-step for ``n_steps`` steps (by default, for all seen so far)."""
    statistics = model.expect(batch)
    refuse_non_finite(statistics.log_likelihood, running.n_updates)  # before the parameters take it up
    if statistics.weight > 0:
        running.add(statistics)
        model.maximize(running.of(running.weight if n_steps is None else n_steps))
    return statistics


def simulated_statistics(model: EMModel, n_steps: int, length: int, generator: torch.Generator) -> ModelStatistics:
    """What data like that which a model has learned would say: at a maximum of the likelihood, expected statistics are the data's."""
    simulated = model.sample(-(-n_steps // length), length, generator)
    return model.expect(replace(simulated, labels=None))


class PartialFitMixin:
    """For estimators that learn by EM: learning from data that comes in pieces."""

    model_: Any
    history_: History
    max_iter: int
    tol: float
    batch_size: int

    def partial_fit(self, X: Any, y: Any = None, *, lengths: Any = None, sample_weight: Any = None) -> Self:
        """Learn from one more piece of data, in minibatches of ``batch_size``, and forget earlier ones slowly.

        Parameters are those of ``fit``. The first piece also gives the start, where there was no ``fit`` before. The pieces should
        be alike: a first piece that misses a class finds no good start.

        Returns
        -------
        self
        """
        begins = not hasattr(self, "model_")
        if begins:
            self._start(X, y, lengths, sample_weight)
        batches = self._read_labelled(X, y, lengths, sample_weight, reset=False)  # type: ignore[attr-defined]
        if batches.total_weight <= 0:
            raise InputError("sample_weight is zero everywhere: there is nothing to learn from; give a positive one")
        running = self._statistics_so_far(batches, begins)
        log_likelihood = weight = 0.0
        with torch.no_grad():
            for batch in batches.replace(batch_steps=self.batch_size):
                statistics = online_step(self.model_, batch, running)
                log_likelihood, weight = log_likelihood + statistics.log_likelihood, weight + statistics.weight
        history = self.history_
        history.objective.append(log_likelihood / weight)
        history.iterations.append(history.n_iter)
        history.n_iter += 1
        return self

    def _start(self, X: Any, y: Any, lengths: Any, sample_weight: Any) -> None:
        """One iteration of ``fit``, of which nobody expects that it converges."""
        settings = self.max_iter, self.tol
        self.max_iter, self.tol = 1, 0.0
        try:
            self.fit(X, y, lengths=lengths, sample_weight=sample_weight)  # type: ignore[attr-defined]
        finally:
            self.max_iter, self.tol = settings
        self.history_ = History()

    def _statistics_so_far(self, batches: Batches, begins: bool) -> RunningStatistics:
        """Those of the pieces before; after a ``fit``, which keeps none, simulated ones, so that it is not forgotten at once."""
        running = getattr(self, "_running", None)
        if running is None or running.model is not self.model_:
            running = self._running = RunningStatistics(self.model_)
            if not begins:
                length = max(batches.n_steps // batches.n_sequences, 1)
                generator = self._generator()  # type: ignore[attr-defined]
                running.add(simulated_statistics(self.model_, self.batch_size, length, generator))
        return running
