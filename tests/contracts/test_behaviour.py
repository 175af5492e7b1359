"""What every estimator promises its user: repeatable, harmless to its input, the same after a file, the same in any form of data."""

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

import unveil
from unveil.data.batch import Batches


def assert_same_numbers(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert_array_equal(first[name], second[name], err_msg=name)


def test_same_seed_same_parameters_bit_for_bit(case, tools):
    X = case.data()
    starts = {"n_init": 3} if "n_init" in case.new().get_params() else {}
    first, second = (case.new(random_state=3, **starts).fit(X) for _ in range(2))
    assert_same_numbers(tools.numbers_of(first.model_), tools.numbers_of(second.model_))
    assert first.history_.objective == second.history_.objective
    assert len(first.history_.restarts) == starts.get("n_init", 0)


def test_another_seed_another_start(case, tools):
    X = case.data()
    if "n_init" not in case.new().get_params() and not case.cls.learns_in_epochs:
        return  # it is learned in closed form, or from one start that the data gives
    fits = [tools.numbers_of(case.new(random_state=seed, **{case.limit: 1}).fit(X).model_) for seed in range(6)]
    assert any(not np.array_equal(fits[0][name], fit[name]) for fit in fits[1:] for name in fit)


def test_random_state_object_is_used_up(case, tools):
    X = case.data()
    shared = np.random.RandomState(5)
    first = case.new(random_state=shared).fit(X)
    again = case.new(random_state=np.random.RandomState(5)).fit(X)
    assert_same_numbers(tools.numbers_of(first.model_), tools.numbers_of(again.model_))
    untouched = np.random.RandomState(5)
    assert shared.randint(2**31 - 1) != untouched.randint(2**31 - 1)


def test_global_random_state_is_left_alone(case):
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    estimator = case.new().fit(case.data())
    if hasattr(estimator, "sample"):
        estimator.sample(3)
    assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


def every_verb(case, estimator, X, lengths):
    estimator.fit(X, **lengths)
    case.outputs(estimator, X, **lengths)
    if not lengths:
        case.score(estimator, X)


def test_arrays_are_not_written_to(case):
    X = case.data()
    before = copy.deepcopy(X)
    every_verb(case, case.new(), X, {})
    for mine, kept in zip(X if isinstance(X, list) else [X], before if isinstance(before, list) else [before], strict=True):
        assert_array_equal(mine, kept)


def test_tensors_are_not_written_to(case):
    table, lengths = case.table()
    X = torch.from_numpy(table)
    before, version = X.clone(), X._version
    every_verb(case, case.new(), X, lengths)
    assert torch.equal(X, before)
    assert X._version == version
    assert not X.requires_grad


def test_parameters_given_as_arrays_are_not_written_to(given_case):
    case = given_case
    fitted = case.new().fit(case.data())
    names = [
        name for name in fitted.get_params(deep=False) if name.endswith("_init") and hasattr(fitted, name.removesuffix("init"))
    ]
    assert names
    given = {name: getattr(fitted, name.removesuffix("init")) for name in names}
    before = copy.deepcopy(given)
    case.new(**given).fit(case.data())
    for name in names:
        assert_array_equal(given[name], before[name])


@pytest.mark.parametrize("form", ["read-only", "memory-mapped", "Fortran", "strided", "backwards", "nested list"])
def test_form_of_the_array_does_not_matter(case, form, tmp_path, tools):
    plain, lengths = case.table()
    if form == "read-only":
        given = plain.copy()
        given.flags.writeable = False
    elif form == "memory-mapped":
        np.save(tmp_path / "X.npy", plain)
        given = np.load(tmp_path / "X.npy", mmap_mode="r")
    elif form == "Fortran":
        given = np.asfortranarray(plain)
    elif form == "strided":
        given = np.repeat(plain, 2, axis=0)[::2]
    elif form == "backwards":
        given = np.ascontiguousarray(plain[::-1])[::-1]
    else:
        given = plain.tolist()
    assert_array_equal(given, plain)
    reference, other = case.new().fit(plain, **lengths), case.new().fit(given, **lengths)
    for name, expected in tools.numbers_of(reference.model_).items():
        assert_allclose(tools.numbers_of(other.model_)[name], expected, rtol=1e-12, atol=1e-12, err_msg=name)
    found = case.outputs(other, given, **lengths)
    for verb, expected in case.outputs(reference, plain, **lengths).items():
        assert_allclose(found[verb], expected, rtol=1e-10, atol=1e-12, err_msg=verb)


def test_whole_numbers_are_data(case, tools):
    table, lengths = case.table(scale=10)
    whole = np.round(table).astype(np.int64)
    first, second = case.new().fit(whole, **lengths), case.new().fit(whole.astype(np.float64), **lengths)
    assert_same_numbers(tools.numbers_of(first.model_), tools.numbers_of(second.model_))


def test_data_frame(case, tools):
    pandas = pytest.importorskip("pandas")
    table, lengths = case.table()
    frame = pandas.DataFrame(table, columns=list("abcd"))
    before = frame.copy()
    estimator = case.new().fit(frame, **lengths)
    assert list(estimator.feature_names_in_) == list("abcd")
    assert_same_numbers(tools.numbers_of(estimator.model_), tools.numbers_of(case.new().fit(table, **lengths).model_))
    assert frame.equals(before)


def test_saved_and_loaded_is_the_same_bit_for_bit(case, tmp_path, tools):
    X = case.data()
    estimator = case.new().fit(X)
    estimator.save(tmp_path / "model.unveil")
    loaded = unveil.load(tmp_path / "model.unveil")
    assert type(loaded) is case.cls
    assert tools.settings_of(loaded) == tools.settings_of(estimator)
    assert loaded.history_ == estimator.history_
    assert loaded.n_features_in_ == estimator.n_features_in_
    assert_same_numbers(tools.numbers_of(loaded.model_), tools.numbers_of(estimator.model_))
    expected, found = case.outputs(estimator, X), case.outputs(loaded, X)
    assert expected
    for verb in expected:
        assert_array_equal(tools.flat(found[verb]), tools.flat(expected[verb]), err_msg=verb)
    assert case.score(loaded, X) == case.score(estimator, X)
    if hasattr(estimator, "sample"):
        for mine, theirs in zip(estimator.sample(4, random_state=1), loaded.sample(4, random_state=1), strict=True):
            assert_array_equal(mine, theirs)


def test_saved_with_array_parameters(case, tmp_path):
    X = case.data()
    fitted = case.new().fit(X)
    names = [
        name for name in fitted.get_params(deep=False) if name.endswith("_init") and hasattr(fitted, name.removesuffix("init"))
    ]
    estimator = case.new(**{name: getattr(fitted, name.removesuffix("init")) for name in names}).fit(X)
    estimator.save(tmp_path / "model.unveil")
    loaded = unveil.load(tmp_path / "model.unveil")
    for name in names:
        assert_array_equal(getattr(loaded, name), getattr(estimator, name))
    assert case.score(loaded, X) == case.score(estimator, X)


def test_clone_and_parameters(case, tools):
    estimator = case.new(**{case.limit: 4}).fit(case.data())
    copied = clone(estimator)
    assert tools.settings_of(copied) == tools.settings_of(estimator)
    assert not hasattr(copied, "model_")
    assert_same_numbers(tools.numbers_of(copied.fit(case.data()).model_), tools.numbers_of(estimator.model_))
    plain = case.cls()
    assert plain.set_params(**estimator.get_params()) is plain
    assert tools.settings_of(plain) == tools.settings_of(estimator)
    with pytest.raises(ValueError, match="no_such_parameter"):
        plain.set_params(no_such_parameter=1)


def test_fitting_changes_no_parameter(case, tools):
    estimator = case.new()
    before = copy.deepcopy(tools.settings_of(estimator))
    estimator.fit(case.data())
    assert tools.settings_of(estimator) == before


def test_arrays_give_arrays_and_tensors_give_tensors(case):
    table, lengths = case.table()
    estimator = case.new().fit(table, **lengths)
    from_arrays = case.outputs(estimator, table, **lengths)
    assert from_arrays
    assert all(type(value) is np.ndarray for value in from_arrays.values())
    from_tensors = case.outputs(estimator, torch.from_numpy(table), **lengths)
    assert all(isinstance(value, torch.Tensor) for value in from_tensors.values())
    for verb, expected in from_arrays.items():
        assert_allclose(from_tensors[verb].numpy(), expected, rtol=1e-12, atol=1e-12, err_msg=verb)
    assert type(case.score(estimator, torch.from_numpy(table))) is float
    for name in dir(estimator):
        if name.endswith("_") and not name.startswith("_") and name not in ("model_", "history_"):
            assert not isinstance(getattr(estimator, name), torch.Tensor), name


def test_lists_of_tensors_give_tensors(sequence_case):
    case = sequence_case
    tensors = [torch.from_numpy(each) for each in case.arrays()]
    for verb, value in case.outputs(case.new().fit(tensors), tensors).items():
        assert all(isinstance(each, torch.Tensor) for each in (value if isinstance(value, list) else [value])), verb


def test_fitted_on_tensors_is_fitted_on_arrays(case, tools):
    table, lengths = case.table()
    first, second = case.new().fit(torch.from_numpy(table), **lengths), case.new().fit(table, **lengths)
    for name, expected in tools.numbers_of(second.model_).items():
        assert_allclose(tools.numbers_of(first.model_)[name], expected, rtol=1e-12, atol=1e-12, err_msg=name)


def test_single_precision_data_is_worked_on_in_double_precision(case, tools):
    table, lengths = case.table()
    single = table.astype(np.float32)
    first, second = case.new().fit(single, **lengths), case.new().fit(single.astype(np.float64), **lengths)
    for name, expected in tools.numbers_of(second.model_).items():
        assert_allclose(tools.numbers_of(first.model_)[name], expected, rtol=1e-9, atol=1e-10, err_msg=name)


def test_fitted_attributes_are_copies(case):
    estimator = case.new().fit(case.data())
    names = [name for name in dir(case.cls) if name.endswith("_") and not name.startswith("_")]
    arrays = [name for name in names if isinstance(getattr(estimator, name), np.ndarray)]
    assert arrays or not case.scoring, "only networks may be all that there is"
    for name in arrays:
        before = getattr(estimator, name).copy()
        getattr(estimator, name)[...] = -1.0
        assert_array_equal(getattr(estimator, name), before)


def test_score_is_the_mean_of_the_items(scored_case, tools):
    case = scored_case
    X = case.data()
    estimator = case.new().fit(X)
    assert_allclose(estimator.score(X), np.mean(estimator.score_samples(X)), rtol=1e-12, atol=0)
    assert len(estimator.score_samples(X)) == case.n_items(case.arrays())


def test_forms_of_sequences_agree(sequence_case, tools):
    case = sequence_case
    arrays = case.arrays()
    table, lengths = np.concatenate(arrays), [len(each) for each in arrays]
    from_list, from_table = case.new().fit(arrays), case.new().fit(table, lengths=lengths)
    assert_same_numbers(tools.numbers_of(from_list.model_), tools.numbers_of(from_table.model_))
    listed, tabled = case.outputs(from_list, arrays), case.outputs(from_table, table, lengths=lengths)
    for verb, value in listed.items():
        if isinstance(value, list):
            assert [len(each) for each in value] == lengths
        assert_array_equal(tools.flat(value), tabled[verb], err_msg=verb)

    stacked = np.stack([each[:3] for each in arrays])
    short = list(stacked)
    from_stack, from_short = case.new().fit(stacked), case.new().fit(short)
    assert_same_numbers(tools.numbers_of(from_stack.model_), tools.numbers_of(from_short.model_))
    for verb, value in case.outputs(from_stack, stacked).items():
        assert len(value) == len(short)
        assert_array_equal(value.reshape(-1, *tools.flat(case.outputs(from_short, short)[verb]).shape[1:]).squeeze(),
                           tools.flat(case.outputs(from_short, short)[verb]).squeeze(), err_msg=verb)  # fmt: skip


def test_sequences_are_independent_of_their_company(sequence_case, tools):
    case = sequence_case
    arrays = case.arrays()
    estimator = case.new().fit(arrays)
    together = case.outputs(estimator, arrays)
    for i in (0, 7, len(arrays) - 1):
        for verb, value in case.outputs(estimator, [arrays[i]]).items():
            assert_allclose(np.squeeze(value[0]), np.squeeze(together[verb][i]), rtol=1e-10, atol=1e-12, err_msg=verb)


def test_streamed_from_a_file_is_in_memory(case, tmp_path, tools):
    arrays = [each[:3] for each in case.arrays()] if case.takes_sequences else case.arrays()
    np.save(tmp_path / "X.npy", np.stack(arrays) if case.takes_sequences else arrays[0])
    streamed = unveil.open_batches(tmp_path / "X.npy").replace(batch_steps=20)
    X = arrays if case.takes_sequences else arrays[0]
    on_disk, in_memory = case.new().fit(streamed), case.new().fit(X)
    for name, expected in tools.numbers_of(in_memory.model_).items():
        found = tools.numbers_of(on_disk.model_)[name]
        assert_allclose(found, expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max(), err_msg=name)
    for verb, expected in case.outputs(in_memory, X).items():
        assert_allclose(case.outputs(on_disk, streamed)[verb], tools.flat(expected), rtol=1e-8, atol=1e-10, err_msg=verb)


def test_batches_in_memory_are_data(case, tools):
    arrays = case.arrays()
    lengths = [len(each) for each in arrays]
    batches = Batches(case.batches(arrays).rows, np.cumsum([0, *lengths]) if case.takes_sequences else None)
    assert_same_numbers(tools.numbers_of(case.new().fit(batches).model_), tools.numbers_of(case.new().fit(case.data()).model_))


def test_sample_has_the_shape_of_data_and_repeats(drawn_case, tools):
    case = drawn_case
    estimator = case.new().fit(case.data())
    values, labels = estimator.sample(5, length=3, random_state=2) if case.takes_sequences else estimator.sample(5, random_state=2)
    assert values.shape == ((5, 3, tools.n_features) if case.takes_sequences else (5, tools.n_features))
    assert labels.shape == values.shape[:-1]
    assert np.isfinite(values).all()
    options = {"length": 3} if case.takes_sequences else {}
    assert_array_equal(estimator.sample(5, random_state=2, **options)[0], values)
    assert not np.array_equal(estimator.sample(5, random_state=3, **options)[0], values)
    assert np.isfinite(case.score(estimator, values))


def test_warm_start_goes_on(warm_case, tools):
    """Three iterations and then three more are six."""
    case = warm_case
    X = case.data()
    one_start = {"n_init": 1} if "n_init" in case.new().get_params() else {}
    straight = case.new(max_iter=6, **one_start).fit(X)
    stepwise = case.new(max_iter=3, warm_start=True, **one_start).fit(X)
    halfway = stepwise.score(X)
    stepwise.fit(X)
    gained = stepwise.score(X) - halfway
    assert gained > 0 or (not one_start and gained > -1e-9 * abs(halfway))  # a closed form has nothing left to gain
    if not hasattr(stepwise, "transform"):  # activations of items are found anew
        for name, expected in tools.numbers_of(straight.model_).items():
            assert_allclose(tools.numbers_of(stepwise.model_)[name], expected, rtol=1e-9, atol=1e-12, err_msg=name)
