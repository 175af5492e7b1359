"""Bad data and bad settings: one line that says what was expected, what came and the remedy; and nothing that was there is lost."""

import re

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.exceptions import NotFittedError

from unveil.errors import InputError, ParameterError


def one_line(raised):
    message = str(raised.value)
    assert message
    assert "\n" not in message
    assert len(message) < 400
    return message


def refused(case, X, match, kind=InputError, estimator=None, **arguments):
    with pytest.raises(kind, match=match) as raised:
        (estimator or case.new()).fit(X, **arguments)
    return one_line(raised)


def spoiled(case, value, item=3, step=1, column=2):
    """The data with one bad value, and the row that it is in when all is one table."""
    arrays = [each.copy() for each in case.arrays()]
    if case.takes_sequences:
        arrays[item][step, column] = value
        row = sum(len(each) for each in arrays[:item]) + step
    else:
        arrays[0][item, column] = value
        row = item
    return (arrays if case.takes_sequences else arrays[0]), row, column


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_value_that_is_no_number_is_named_with_its_place(case, value, word):
    if case.cls.allows_nan and np.isnan(value):
        estimator = case.new().fit(spoiled(case, value)[0])
        assert all(np.isfinite(each.detach().numpy()).all() for each in estimator.model_.state_dict().values())
        return
    X, row, column = spoiled(case, value)
    message = refused(case, X, word)
    assert re.search(rf"\brow {row}\b", message)
    assert re.search(rf"\bcolumn {column}\b", message)
    fitted = case.new().fit(case.data())
    for verb in (*case.scoring, *case.outputs(fitted, case.data())):
        with pytest.raises(InputError, match=word) as raised:
            getattr(fitted, verb)(X)
        assert f"row {row}" in one_line(raised)


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::sklearn.exceptions.ConvergenceWarning")
def test_overflow_is_not_mistaken_for_infinity(case):
    """A sum that overflows is looked at more closely."""
    X = case.arrays(n_items=20)
    huge = [each / np.abs(each).max() * 1e307 for each in X]
    given = huge if case.takes_sequences else huge[0]
    try:
        case.new().fit(given)
    except InputError as error:
        assert "infinity at" not in str(error)  # noqa: PT017  (an error is allowed here, but not that one)
        assert "\n" not in str(error)  # noqa: PT017


def test_nothing(case, tools):
    for nothing in (np.empty((0, tools.n_features)), np.empty((5, 0)), [], np.empty(0)):
        refused(case, nothing, r"\b0\b|array=\[\]")
    for nothing in (torch.empty(0, tools.n_features), torch.empty(5, 0)):
        refused(case, nothing, "shape")


def test_wrong_number_of_dimensions(case):
    refused(case, np.ones(5), "2D array")
    refused(case, 3.0, "2D array")
    refused(case, torch.ones(5), "2 dimensions")
    refused(case, np.ones((2, 2, 2, 2)), "dim")


def test_values_that_are_not_numbers(case):
    refused(case, np.array([["a", "b"], ["c", "d"]]), "could not convert|not numbers|string")
    refused(case, np.array([[1.0, 2.0], [3.0, 4.0]]) * 1j, "[Cc]omplex")
    refused(case, [[1.0, 2.0], [3.0]], "inhomogeneous|same|shape")


def test_points_are_not_sequences(point_case):
    case = point_case
    refused(case, [np.ones((3, 2)), np.ones((4, 2))], "numpy.concatenate")
    refused(case, case.data(), "lengths", lengths=[len(case.data())])


def test_sequences_that_cannot_be_used(sequence_case, tools):
    case = sequence_case
    arrays = case.arrays()
    with_empty = [*arrays[:2], np.empty((0, tools.n_features)), *arrays[2:]]
    assert "sequence 2" in refused(case, with_empty, "empty")
    with_narrow = [*arrays[:4], np.ones((5, tools.n_features - 1)), *arrays[4:]]
    assert "sequence 4" in refused(case, with_narrow, f"{tools.n_features - 1} columns")
    refused(case, np.empty((3, 0, 2)), "shape")
    table = np.concatenate(arrays)
    for lengths, match in (
        ([3, 4], "sum to 7"),
        ([len(table) + 1], "sum to"),
        ([len(table), 0], r"lengths\[1\] is 0"),
        ([len(table) + 2, -2], r"lengths\[1\] is -2"),
        ([0.5 * len(table), 0.5 * len(table)], "whole numbers"),
        (len(table), "list of whole numbers"),
    ):
        refused(case, table, match, lengths=lengths)


def test_one_item(case, tools):
    """One step may be too few for the classes; then it is refused, and else the fit is finite."""
    one = np.full((1, tools.n_features), 2.0)
    for estimator in (
        case.new(),
        case.new(**{name: 1 for name in ("n_components", "n_states", "n_clusters") if name in vars(case.new())}),
    ):
        try:
            estimator.fit(one)
        except InputError as error:
            assert re.search(r"give more|fewer", str(error))  # noqa: PT017  (the other outcome is checked below)
            assert "\n" not in str(error)  # noqa: PT017
            assert tools.settings_of(estimator) == tools.settings_of(case.new())
        else:
            assert all(np.isfinite(each.detach().numpy()).all() for each in estimator.model_.state_dict().values())
            assert np.isfinite(case.score(estimator, one))


def test_more_classes_than_data(case, tools):
    few = np.concatenate(case.arrays())[:4]
    for name in ("n_components", "n_states", "n_clusters"):
        if name not in case.new().get_params():
            continue
        estimator = case.new(**{name: 6})
        try:
            estimator.fit(few)
        except InputError as error:
            assert re.search(rf"{name}=6 but X has .*(give more|fewer)", str(error))  # noqa: PT017
        else:
            assert case.positive or case.cls.learns_in_epochs, (
                "only a dictionary, or a prior, may have more parts than there are items"
            )
            assert np.isfinite(case.score(estimator, few))


def test_constant_and_repeated_columns(case):
    arrays = [each.copy() for each in case.arrays()]
    for each in arrays:
        each[:, 1] = 3.0
        each[:, 2] = each[:, 0]
    X = arrays if case.takes_sequences else arrays[0]
    estimator = case.new().fit(X)
    assert all(np.isfinite(each.detach().numpy()).all() for each in estimator.model_.state_dict().values())
    assert np.isfinite(case.score(estimator, X))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # k-means finds fewer clusters than asked for
def test_everything_the_same(case, tools):
    arrays = [np.full_like(each, 7.0) for each in case.arrays()]
    X = arrays if case.takes_sequences else arrays[0]
    estimator = case.new().fit(X)
    assert all(np.isfinite(each.detach().numpy()).all() for each in estimator.model_.state_dict().values())
    assert np.isfinite(case.score(estimator, X))


def test_other_number_of_features(case, tools):
    estimator = case.new().fit(case.data())
    wide = np.ones((6, tools.n_features + 1))
    for verb in (*case.scoring, *case.outputs(estimator, case.data())):
        for given in (wide, torch.from_numpy(wide)):
            with pytest.raises(
                InputError, match=rf"{tools.n_features + 1} features.*expecting {tools.n_features} features"
            ) as raised:
                getattr(estimator, verb)(given)
            one_line(raised)


def test_not_fitted(case, tmp_path):
    verbs = case.outputs(case.new().fit(case.data()), case.data())
    for verb in (*case.scoring, *verbs):
        with pytest.raises(NotFittedError, match="Call 'fit'") as raised:
            getattr(case.new(), verb)(case.data())
        one_line(raised)
    with pytest.raises(NotFittedError):
        getattr(case.new(), "sample", case.new()._fitted_model)()
    with pytest.raises(NotFittedError):
        case.new().save(tmp_path / "model.unveil")
    assert not (tmp_path / "model.unveil").exists()


def test_sample_weights_that_cannot_be_used(case):
    X = case.data()
    n = case.n_items(case.arrays())
    for weights, match in (
        (np.r_[-1.0, np.ones(n - 1)], "negative"),
        (np.r_[np.nan, np.ones(n - 1)], "NaN"),
        (np.r_[np.inf, np.ones(n - 1)], "infinite"),
        (np.zeros(n), "zero"),
        (np.ones(n - 1), "shape"),
        (np.ones((n, 1)), "shape"),
        (1.0, "shape"),
        (["heavy"] * n, "not a number"),
    ):
        refused(case, X, match, sample_weight=weights)


def test_samples_that_cannot_be_drawn(drawn_case):
    case = drawn_case
    estimator = case.new().fit(case.data())
    for arguments in ({"n_samples": 0}, {"n_samples": -1}, {"n_samples": 2, "length": 0}):
        with pytest.raises(InputError, match="at least 1") as raised:
            estimator.sample(**arguments)
        one_line(raised)


def test_settings_of_a_wrong_type_or_out_of_range(case):
    X, checked = case.data(), case.cls.constraints
    assert checked
    for name in checked:
        for wrong in ("nonsense", -1, [2] if not name.endswith("hidden") else [0], object()):
            message = refused(case, X, "expected", ParameterError, case.new(**{name: wrong}))
            assert message.startswith(f"{name}=")


def test_every_setting_is_checked(case):
    """Those that are not in the table are arrays and seeds, which have checks of their own."""
    unchecked = set(case.new().get_params(deep=False)) - set(case.cls.constraints)
    assert all(name.endswith("_init") or name == "random_state" for name in unchecked), unchecked


def test_whole_numbers_are_whole(case):
    counts = {"n_components", "n_states", "n_clusters", "max_iter", "max_epochs", "batch_size", "n_latent", "n_init"}
    for name in set(case.cls.constraints) & counts:
        for wrong in (-1 if name == "max_iter" else 0, 2.5, True, None):
            refused(case, case.data(), "whole number", ParameterError, case.new(**{name: wrong}))


@pytest.mark.parametrize("seed", ["seed", -1, 1.5])
def test_seeds_that_are_none(case, seed):
    refused(case, case.data(), "random_state=", ParameterError, case.new(random_state=seed))


ANY_SIGN = {"means_init", "transition_init", "observation_init", "observation_offset_init", "initial_mean_init"}


def test_starting_values_of_a_wrong_shape_or_not_finite(given_case, tools):
    case, names = given_case, given_case.starting_values
    fitted = case.new().fit(case.data())
    for name in names:
        refused(
            case,
            case.data(),
            rf"{name} has shape \(2, 3, 5, 7\); expected",
            ParameterError,
            case.new(**{name: np.ones((2, 3, 5, 7))}),
        )
        good = getattr(fitted, name.removesuffix("init"))
        for bad in (np.nan, np.inf):
            wrong = good.copy()
            wrong.flat[0] = bad
            refused(case, case.data(), f"{name} holds", ParameterError, case.new(**{name: wrong}))
        refused(case, case.data(), f"{name} holds what is not a number", ParameterError, case.new(**{name: [["a"]]}))
        if name not in ANY_SIGN:
            negative = case.new(**{name: -good - 10.0})
            refused(case, case.data(), f"{name} (has sums|holds|is not)", (InputError, ParameterError), negative)


def failing_fits(case, tools):
    yield "NaN in other columns", {"X": np.full((30, tools.n_features + 2), -np.inf)}
    yield "too narrow, and infinite", {"X": np.full((30, tools.n_features - 1), np.inf)}
    yield "weights", {"X": case.data(), "sample_weight": [1.0]}


def test_fit_that_fails_leaves_the_earlier_one_usable(case, tools):
    X = case.data()
    estimator = case.new().fit(X)
    expected, score = case.outputs(estimator, X), case.score(estimator, X)
    for _, bad in failing_fits(case, tools):
        with pytest.raises(InputError):
            estimator.fit(**bad)
        assert estimator.n_features_in_ == tools.n_features
        assert case.score(estimator, X) == score
        for verb, value in case.outputs(estimator, X).items():
            assert_array_equal(tools.flat(value), tools.flat(expected[verb]))
    estimator.set_params(**{case.limit: -1})
    with pytest.raises(ParameterError):
        estimator.fit(X)
    assert case.score(estimator, X) == score or hasattr(estimator, "transform")


def test_first_fit_that_fails_leaves_it_unfitted(case, tools):
    for _, bad in failing_fits(case, tools):
        estimator = case.new()
        with pytest.raises(InputError):
            estimator.fit(**bad)
        assert not hasattr(estimator, "n_features_in_")
        with pytest.raises(NotFittedError):
            case.score(estimator, case.data())


def test_warm_start_from_other_shapes(warm_case, tools):
    case = warm_case
    estimator = case.new(warm_start=True).fit(case.data())
    score = case.score(estimator, case.data())
    table, lengths = case.table()
    refused(case, table[:, :2], "warm_start", ParameterError, estimator, **lengths)
    assert case.score(estimator, case.data()) == score


def test_negative_values_where_there_are_none(positive_case):
    case = positive_case
    X, row, column = spoiled(case, -0.25)
    message = refused(case, X, "Negative values in data")
    assert f"row {row}, column {column}" in message
    assert "-0.25" in message
    estimator = case.new().fit(case.data())
    with pytest.raises(InputError, match=f"Negative values in data.*row {row}, column {column}"):
        case.score(estimator, X)
