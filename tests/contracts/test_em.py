"""What every model learned by EM promises: no step lowers the objective, and its statistics add, however the data is divided."""

import functools
import operator

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from threadpoolctl import ThreadpoolController

from unveil.core.model import log_prior_of
from unveil.learn.em import em


def assert_close(found, expected, *, relative):
    assert found.keys() == expected.keys()
    for name in expected:
        size = np.abs(expected[name]).max()
        assert_allclose(found[name], expected[name], rtol=relative, atol=relative * size, err_msg=name)


def run(model, batches, n_iter, **options):
    model.forget() if hasattr(model, "forget") else None
    return em(model, batches, max_iter=n_iter, tol=0.0, evaluate_every=1, **options)


ORDINARY, SMALL, LARGE, FAR = {}, {"scale": 1e-3}, {"scale": 1e3}, {"scale": 1e-3, "offset": 1e6}


def no_step_lowers(variant, setting):
    changes = {"reg_covar": 1e-12} if "reg_covar" in variant.new().get_params() else {}
    batches = variant.batches(**setting, batch_steps=64)
    model = variant.new(**changes).build(batches.n_features)
    model.initialize(batches, torch.Generator().manual_seed(1))
    objective = np.array(run(model, batches, 40).objective)
    assert len(objective) == 40
    steps = np.diff(objective)
    assert (steps >= -1e-9 * np.abs(objective[:-1])).all(), steps.min()
    from_one_start = "n_init" not in variant.new().get_params()
    assert objective[-1] > objective[0] or (from_one_start and objective[-1] >= objective[0] - 1e-9 * abs(objective[0]))


def test_no_step_lowers_the_objective(variant):
    no_step_lowers(variant, ORDINARY)


@pytest.mark.parametrize("setting", [SMALL, LARGE], ids=["small", "large"])
def test_no_step_lowers_the_objective_at_another_scale(scaled_variant, setting):
    no_step_lowers(scaled_variant, setting)


def test_no_step_lowers_the_objective_far_from_zero(free_variant):
    no_step_lowers(free_variant, FAR)


def test_objective_of_the_history_is_the_objective_of_the_model(free_variant):
    """Summed over items and divided by steps, before the first update; a model that keeps activations improves them first."""
    variant = free_variant
    batches = variant.batches()
    model = variant.started(batches)
    before = (sum(float(model.objective(batch).detach().sum()) for batch in batches) + log_prior_of(model)) / batches.n_steps
    assert_allclose(run(model, batches, 1).objective[0], before, rtol=1e-12, atol=0)


def expected_over(case, model, batches, combine=None):
    model.forget() if hasattr(model, "forget") else None
    parts = [model.expect(batch) for batch in batches]
    return (combine or functools.partial(functools.reduce, operator.add))(parts), len(parts)


def as_tree(parts):
    while len(parts) > 1:
        parts = [functools.reduce(operator.add, parts[i : i + 2]) for i in range(0, len(parts), 2)]
    return parts[0]


def test_statistics_add(variant, tools):
    """One batch, about seven, one for each item, and added as a tree or backwards."""
    arrays = variant.arrays()
    model = variant.started(variant.batches(arrays))
    rows = sum(len(each) for each in arrays)
    whole, n_parts = expected_over(variant, model, variant.batches(arrays, batch_steps=rows))
    assert n_parts == 1
    expected = tools.fields_of(whole)
    seven, n_parts = expected_over(variant, model, variant.batches(arrays, batch_steps=-(-rows // 7)))
    assert 7 <= n_parts <= 8
    assert_close(tools.fields_of(seven), expected, relative=1e-10)
    for combine in (None, as_tree, lambda parts: functools.reduce(operator.add, parts[::-1])):
        single, n_parts = expected_over(variant, model, variant.batches(arrays, batch_steps=1), combine)
        assert n_parts == variant.n_items(arrays)
        assert_close(tools.fields_of(single), expected, relative=1e-10)


def test_statistics_scale(variant, tools):
    model = variant.started(variant.batches())
    statistics, _ = expected_over(variant, model, variant.batches())
    once, thrice = tools.fields_of(statistics), tools.fields_of(0.25 * statistics + statistics * 2.75)
    for name in once:
        factor = 1.0 if name.endswith("center") else 3.0
        assert_allclose(thrice[name], factor * once[name], rtol=1e-12, atol=1e-12, err_msg=name)


def test_statistics_of_different_models_do_not_add(variant):
    model = variant.started(variant.batches())
    statistics, _ = expected_over(variant, model, variant.batches())
    with pytest.raises(TypeError, match="different models"):
        statistics + 1.0


def test_weight_of_two_is_the_item_twice(variant, tools):
    arrays = variant.arrays()
    n_items = variant.n_items(arrays)
    counts = np.random.default_rng(4).integers(0, 3, n_items)
    counts[:2] = 2, 0
    model = variant.started(variant.batches(arrays))
    weighted, _ = expected_over(variant, model, variant.batches(arrays, weights=counts.astype(float), batch_steps=50))
    repeated = variant.select(arrays, np.repeat(np.arange(n_items), counts))
    again, _ = expected_over(variant, model, variant.batches(repeated))
    plain, _ = expected_over(variant, model, variant.batches(arrays))
    assert_close(tools.fields_of(weighted), tools.fields_of(again), relative=1e-10)
    assert tools.fields_of(weighted)["weight"] != tools.fields_of(plain)["weight"]


def test_weight_of_two_is_the_item_twice_through_a_fit(variant, tools):
    arrays = variant.arrays()
    n_items = variant.n_items(arrays)
    counts = np.random.default_rng(5).integers(1, 3, n_items)
    repeated = variant.select(arrays, np.repeat(np.arange(n_items), counts))
    start = variant.started(variant.batches(arrays)).state_dict()
    ends = []
    for batches in (variant.batches(arrays, weights=counts.astype(float)), variant.batches(repeated)):
        model = variant.new().build(tools.n_features)
        model.load_state_dict(start)
        history = run(model, batches, 5)
        ends.append(tools.numbers_of(model) | {"objective": np.array(history.objective)})
    assert_close(ends[0], ends[1], relative=1e-8)


def test_order_of_the_items_does_not_matter(variant, tools):
    arrays = variant.arrays()
    order = np.random.default_rng(6).permutation(variant.n_items(arrays))
    start = variant.started(variant.batches(arrays)).state_dict()
    ends = []
    for given in (arrays, variant.select(arrays, order)):
        model = variant.new().build(tools.n_features)
        model.load_state_dict(start)
        history = run(model, variant.batches(given), 5)
        ends.append(tools.numbers_of(model) | {"objective": np.array(history.objective)})
    assert_close(ends[0], ends[1], relative=1e-8)


def permuted(model, state):
    """The state of the same model with its latent classes in another order."""
    kind, states = type(model).__name__, None
    if kind in ("Mixture", "Factorization"):
        n_classes = len(state["weights"] if kind == "Mixture" else state["components"])
        densities = np.roll(np.arange(n_classes), 1)
        chosen = dict.fromkeys(("weights", "components", "mean_activation"), densities)
    elif kind == "ChainMixture":
        chains, states = list(range(model.n_chains))[::-1], [2, 0, 1]
        densities = np.array([model.n_states * c + m for c in chains for m in states])
        chosen = dict.fromkeys(("weights", "initial", "transition"), chains)
    else:
        raise NotImplementedError(f"write the permutation of the latent classes of a {kind} here")
    made = {}
    for name, value in state.items():
        each = value.shape[0] // len(densities) if name.startswith("emission.") and value.ndim else 0
        if each and value.shape[0] % len(densities) == 0 and not name.endswith(("center", "tied")):
            made[name] = value[(densities[:, None] * each + np.arange(each)).ravel()]
        else:
            made[name] = value[chosen[name]] if name in chosen else value
    if states is not None:
        made["initial"] = made["initial"][:, states]
        made["transition"] = made["transition"][:, states][:, :, states]
    return made


def test_order_of_the_classes_does_not_matter(exchangeable_variant, tools):
    variant = exchangeable_variant
    batches = variant.batches()
    first = variant.started(batches)
    second = variant.new().build(tools.n_features)
    state = {name: value.clone() for name, value in first.state_dict().items()}
    second.load_state_dict(permuted(first, state))
    assert any(not torch.equal(state[name], value) for name, value in second.state_dict().items())
    objectives = [run(model, batches, 5).objective for model in (first, second)]
    assert_allclose(objectives[1], objectives[0], rtol=1e-10, atol=0)
    expected = {name: value.numpy() for name, value in permuted(first, first.state_dict()).items()}
    assert_close(tools.numbers_of(second), expected, relative=1e-8)


def test_threads_give_the_same_bits_as_serial_on_one_core(em_case, tools):
    """Each thread works on one core; matrix products on many cores round differently."""
    batches = em_case.batches(n_items=120, batch_steps=64)
    assert len(list(batches)) >= 7
    start = em_case.started(batches).state_dict()
    ends = []
    for reduce in (tools.reductions["serial"], tools.reductions["threads"]):
        model = em_case.new().build(tools.n_features)
        model.load_state_dict(start)
        with ThreadpoolController().limit(limits=1, user_api="openmp"):
            history = run(model, batches, 4, reduce=reduce)
        ends.append(tools.numbers_of(model) | {"objective": np.array(history.objective)})
    for name in ends[0]:
        assert_array_equal(ends[0][name], ends[1][name], err_msg=name)


def test_threads_give_the_numbers_of_serial(em_case, tools):
    batches = em_case.batches(n_items=120, batch_steps=64)
    start = em_case.started(batches).state_dict()
    ends = []
    for reduction in ("serial", "threads", "threads"):
        model = em_case.new().build(tools.n_features)
        model.load_state_dict(start)
        history = run(model, batches, 4, reduce=tools.reductions[reduction])
        ends.append(tools.numbers_of(model) | {"objective": np.array(history.objective)})
    assert_close(ends[1], ends[0], relative=1e-10)
    for name in ends[1]:
        assert_array_equal(ends[1][name], ends[2][name], err_msg=name)


def test_division_into_batches_does_not_change_a_fit(em_case, tools):
    arrays = em_case.arrays()
    start = em_case.started(em_case.batches(arrays)).state_dict()
    ends = []
    for batch_steps in (10**6, 40, 1):
        model = em_case.new().build(tools.n_features)
        model.load_state_dict(start)
        run(model, em_case.batches(arrays, batch_steps=batch_steps), 5)
        ends.append(tools.numbers_of(model))
    for other in ends[1:]:
        assert_close(other, ends[0], relative=1e-9)


def test_m_step_of_the_same_statistics_is_the_same(variant, tools):
    """The M-step reads the statistics, and leaves them as they were."""
    batches = variant.batches()
    model = variant.started(batches)
    statistics, _ = expected_over(variant, model, batches)
    before = {name: value.copy() for name, value in tools.fields_of(statistics).items()}
    model.maximize(statistics)
    for name, value in tools.fields_of(statistics).items():
        assert_array_equal(value, before[name], err_msg=name)
