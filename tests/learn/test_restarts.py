"""Several starts: the best is kept, as a copy, and finished."""

import warnings
from functools import partial

import pytest
import torch
from numpy.testing import assert_allclose

from unveil.core.history import History
from unveil.errors import ConvergenceWarning
from unveil.learn.em import em
from unveil.learn.restarts import em_from_starts, with_restarts

LEARN = partial(em, tol=1e-6)


def starts_of(model, batches, n, seed):
    """Where the model starts, n times."""
    generator, positions = torch.Generator().manual_seed(seed), []
    for _ in range(n):
        model.initialize(batches, generator)
        positions.append(model.at)
    return positions


def best_of(starts):
    return min(starts, key=lambda start: abs(8 - start))


def run(model, batches, seed=0, learn=LEARN, **options):
    options = {"n_init": 5, "max_iter": 50, "short_iter": 3} | options
    return with_restarts(learn, model, batches, torch.Generator().manual_seed(seed), **options)


@pytest.mark.parametrize("seed", range(5))
def test_the_start_that_got_furthest_is_finished(half_way, eights, seed):
    starts = starts_of(half_way(), eights, 5, seed)
    model = half_way()
    history = run(model, eights, seed)
    reached = [-((8 - start) ** 2) / 16 for start in starts]  # after two of its three steps
    assert_allclose(history.restarts, reached, rtol=1e-12, atol=0)
    best = best_of(starts)
    assert_allclose(history.objective, [-((8 - best) ** 2) / 4**i for i in range(len(history.objective))], rtol=1e-10, atol=1e-300)
    assert_allclose(model.at, 8 - (8 - best) / 2**history.n_iter, rtol=1e-12, atol=0)


def test_the_best_is_kept_although_worse_ones_come_after(half_way, eights):
    """What is kept must be a copy: the model itself goes on to the next start."""
    seed = 1
    starts = starts_of(half_way(), eights, 4, seed)
    assert best_of(starts) != starts[-1], "the seed is not what it should be"
    model, best = half_way(), best_of(starts)
    history = run(model, eights, seed, n_init=4, max_iter=3)
    assert history.n_iter == 3
    assert_allclose(model.at, 8 - (8 - best) / 8, rtol=1e-12, atol=0)


def test_the_record_is_one_run(half_way, eights):
    history = run(half_way(), eights)
    assert history.iterations == list(range(len(history.objective)))
    assert history.converged
    assert history.n_iter == len(history.objective) - 1
    assert len(history.restarts) == 5


def test_the_limit_holds_for_both_parts_together(half_way, eights):
    with pytest.warns(ConvergenceWarning):
        history = run(half_way(), eights, max_iter=8)
    assert (history.n_iter, len(history.objective), history.converged) == (8, 8, False)


def test_short_runs_are_not_longer_than_the_limit(half_way, eights):
    history = run(half_way(), eights, max_iter=2, short_iter=3)
    assert (history.n_iter, len(history.objective)) == (2, 2)


def test_short_runs_do_not_warn(half_way, eights):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(half_way(), eights).converged


def test_a_short_run_that_converged_is_the_result(half_way, eights):
    history = run(half_way(), eights, learn=partial(em, tol=1.0), short_iter=20)
    assert history.converged
    assert history.n_iter == len(history.objective) - 1
    assert history.restarts[0] != history.restarts[1]


def test_one_start_is_one_run(half_way, eights):
    model, history = half_way(), run(half_way(), eights, n_init=1)
    alone = half_way(starts_of(model, eights, 1, 0)[0])
    expected = LEARN(alone, eights, max_iter=50)
    assert (history.objective, history.n_iter, history.restarts) == (expected.objective, expected.n_iter, [])


def test_the_same_generator_gives_the_same_run_and_another_does_not(half_way, eights):
    models = [half_way() for _ in range(3)]
    first, second, other = (run(model, eights, seed) for model, seed in zip(models, (1, 1, 2), strict=True))
    assert first.objective == second.objective
    assert first.restarts == second.restarts
    assert models[0].at == models[1].at
    assert first.objective != other.objective
    assert len(set(first.restarts)) == 5


def test_runs_evaluated_now_and_then_join_without_a_gap(half_way, eights):
    history = run(half_way(), eights, learn=partial(em, tol=1e-6, evaluate_every=2), short_iter=4)
    assert history.iterations == list(range(0, 2 * len(history.iterations), 2))
    ratios = [later / earlier for earlier, later in zip(history.objective, history.objective[1:], strict=False)]
    assert_allclose(ratios, [1 / 16] * len(ratios), rtol=1e-6, atol=0)


def test_em_goes_on_from_an_earlier_fit(half_way, eights):
    model, generator = half_way(), torch.Generator().manual_seed(0)
    history = em_from_starts(model, eights, generator, fitted=half_way(4.0), n_init=5, max_iter=2, tol=0.0)
    assert history.objective == [-16.0, -4.0]
    assert history.restarts == []
    assert model.at == 7.0


def test_em_hands_its_settings_on(half_way, eights):
    generator = torch.Generator().manual_seed(0)
    history = em_from_starts(half_way(), eights, generator, n_init=3, max_iter=9, tol=0.5, relative=True, evaluate_every=3)
    assert history.iterations[1] == 3
    assert history.converged
    assert isinstance(history, History)


def test_progress_is_shown_where_there_is_a_title_only(half_way, eights, capsys, monkeypatch):
    monkeypatch.setattr("unveil.learn.progress.time.monotonic", iter(range(0, 10_000, 100)).__next__)
    em_from_starts(half_way(4.0), eights, torch.Generator().manual_seed(0), max_iter=3, tol=0.0)
    assert capsys.readouterr().err == ""
    em_from_starts(half_way(), eights, torch.Generator(), fitted=half_way(4.0), max_iter=3, tol=0.0, title="Walk")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["Walk: 1/3 -16 nats/step", "Walk: 2/3 -4 nats/step", "Walk: 3/3 -1 nats/step"]
