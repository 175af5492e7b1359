"""EM on a model that can be followed by hand: from 0 towards 8, half way each time; objectives -64, -16, -4, -1, ..."""

import math
import warnings

import pytest
import torch
from numpy.testing import assert_allclose

from unveil.errors import ConvergenceWarning, InputError
from unveil.learn.em import em


def test_every_iteration_is_one_step_and_its_objective_is_from_before(half_way, eights):
    model = half_way()
    history = em(model, eights, max_iter=4, tol=0.0)
    assert history.objective == [-64.0, -16.0, -4.0, -1.0]
    assert history.iterations == [0, 1, 2, 3]
    assert (history.n_iter, history.converged, history.restarts) == (4, False, [])
    assert model.at == 7.5
    assert history.seconds > 0


@pytest.mark.parametrize(("tol", "n_objectives"), [(100.0, 2), (48.1, 2), (48.0, 3), (47.9, 3), (12.1, 3), (11.9, 4), (0.1, 7)])
def test_it_stops_at_the_first_gain_below_the_tolerance(half_way, eights, tol, n_objectives):
    """Gains are 48, 12, 3, 3/4, 3/16, 3/64; the update that would follow is not made any more."""
    model = half_way()
    history = em(model, eights, tol=tol)
    assert history.objective == [-64.0 / 4**i for i in range(n_objectives)]
    assert (history.converged, history.n_iter) == (True, n_objectives - 1)
    assert model.at == 8 - 8 / 2 ** (n_objectives - 1)


@pytest.mark.parametrize(("tol", "n_objectives"), [(0.76, 2), (0.74, 3), (0.19, 3), (0.18, 4), (0.001, 7)])
def test_a_relative_tolerance_is_a_share_of_the_first_objective(half_way, eights, tol, n_objectives):
    history = em(half_way(), eights, tol=tol, relative=True)
    assert len(history.objective) == n_objectives
    assert history.converged


def test_a_tolerance_of_zero_makes_every_iteration_without_a_warning(half_way, eights):
    model = half_way(8.0)  # there already: no gain at all
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = em(model, eights, max_iter=7, tol=0.0)
    assert (history.n_iter, history.converged, history.objective) == (7, False, [0.0] * 7)


def test_too_few_iterations_are_warned_of(half_way, eights):
    with pytest.warns(ConvergenceWarning, match="EM made max_iter=3 iterations and still gained more than tol=0.001"):
        history = em(half_way(), eights, max_iter=3)
    assert (history.n_iter, history.converged) == (3, False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        em(half_way(), eights, max_iter=3, warn=False)


@pytest.mark.parametrize("every", [2, 3, 5])
def test_the_objective_is_evaluated_as_often_as_asked(half_way, eights, every):
    model = half_way()
    history = em(model, eights, max_iter=7, tol=0.0, evaluate_every=every)
    assert history.iterations == list(range(0, 7, every))
    assert history.objective == [-64.0 / 4**i for i in range(0, 7, every)]
    assert history.n_iter == 7
    assert model.evaluated == [i % every == 0 for i in range(7) for _ in eights]


@pytest.mark.parametrize(("tol", "last"), [(30.1, 2), (29.9, 4), (1.9, 4), (1.8, 6)])
def test_gains_between_evaluations_are_those_of_one_iteration(half_way, eights, tol, last):
    """Evaluated at 0, 2, 4, ...: the gains are (64 - 4) / 2 = 30, (4 - 1/4) / 2 = 1.875, ..."""
    history = em(half_way(), eights, tol=tol, evaluate_every=2)
    assert (history.converged, history.iterations[-1], history.n_iter) == (True, last, last)


def test_a_callback_sees_each_iteration(half_way, eights):
    seen, model = [], half_way()
    em(model, eights, max_iter=3, tol=0.0, callbacks=[seen.append])
    assert [(each.iteration, each.max_iter, each.objective) for each in seen] == [(0, 3, -64.0), (1, 3, -16.0), (2, 3, -4.0)]
    assert all(each.model is model for each in seen)


def test_a_callback_is_told_where_nothing_was_evaluated(half_way, eights):
    seen = []
    em(half_way(), eights, max_iter=4, tol=0.0, evaluate_every=2, callbacks=[lambda progress: seen.append(progress.objective)])
    assert [math.isnan(each) for each in seen] == [False, True, False, True]


def test_a_callback_stops_the_run_and_all_callbacks_are_called(half_way, eights):
    calls = []

    def stop(progress):
        calls.append("stop")
        return progress.iteration == 1

    model = half_way()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = em(model, eights, callbacks=iter([stop, lambda progress: calls.append("other")]))
    assert calls == ["stop", "other"] * 2
    assert (history.n_iter, history.converged, model.at) == (2, False, 6.0)


def test_what_a_callback_returns_besides_true_does_not_stop(half_way, eights):
    assert em(half_way(), eights, max_iter=3, tol=0.0, callbacks=[lambda progress: None]).n_iter == 3


class Derailed:
    """Makes the log-likelihood of the statistics another one at an iteration."""

    def __init__(self, at, value):
        self.at, self.value, self.iteration = at, value, -1

    def __call__(self, function, batches):
        self.iteration += 1
        statistics = sum((function(batch) for batch in list(batches)[1:]), function(next(iter(batches))))
        wrong = self.value if self.iteration == self.at else statistics.log_likelihood
        return type(statistics)(statistics.weight, wrong, statistics.total)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 2])
def test_an_objective_that_is_no_number_is_refused_and_the_parameters_stay(half_way, eights, value, at):
    model = half_way()
    with pytest.raises(InputError, match=f"the log-likelihood became {value} at iteration {at}:"):
        em(model, eights, tol=0.0, reduce=Derailed(at, value))
    assert model.at == 8 - 8 / 2**at


@pytest.mark.parametrize(("tol", "n_iter", "converged"), [(0.0, 5, False), (1e-9, 2, True)])
def test_a_loss_ends_the_run_unless_all_iterations_are_wanted(half_way, eights, tol, n_iter, converged):
    history = em(half_way(), eights, max_iter=5, tol=tol, reduce=Derailed(2, -1e6))
    assert (history.n_iter, history.converged) == (n_iter, converged)


def test_nothing_is_recorded_for_differentiation(half_way, eights):
    enabled = []
    em(half_way(), eights, max_iter=1, tol=0.0, callbacks=[lambda progress: enabled.append(torch.is_grad_enabled())])
    assert enabled == [False]
    assert torch.is_grad_enabled()


def test_the_objective_is_the_mean_over_weighted_steps(half_way, eights):
    values = torch.tensor([[0.0], [2.0]], dtype=torch.float64).repeat(20, 1)
    weighted = eights.replace(rows=type(eights.rows)(values), weights=torch.full((40,), 2.0))
    history = em(half_way(), weighted, max_iter=1, tol=0.0)
    assert_allclose(history.objective, [-(20 * 4.0) / 80.0], rtol=1e-14, atol=0)  # this model does not weight its objective
