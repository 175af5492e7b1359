"""Choosing a size: the right one is found, failures are rows, and held-out scores are what they say."""

import csv
import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture as SklearnMixture
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score

from unveil.data.batch import Batches, MemoryRows
from unveil.data.layout import offsets_of
from unveil.data.streams import open_batches
from unveil.errors import ConvergenceWarning, InputError, ParameterError
from unveil.models.gaussian_hmm import GaussianHMM
from unveil.models.gaussian_mixture import GaussianMixture
from unveil.models.mixture_of_hmms import MixtureOfHMMs
from unveil.models.nmf import NMF
from unveil.selection import Selection, select
from unveil.selection.folds import ChosenRows, chosen_items


@pytest.fixture
def points():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(centre, 1, size=(60, 2)) for centre in (-6, 0, 6)])


@pytest.fixture
def sequences():
    """From a chain of two states, of different lengths."""
    rng = np.random.default_rng(0)
    return [rng.normal(np.repeat(rng.permutation([0.0, 5.0, 0.0]), n)[:, None], 1.0) for n in rng.integers(6, 15, size=12)]


def in_three_forms(sequences):
    X, lengths = np.concatenate(sequences), [len(each) for each in sequences]
    return [(sequences, None), (X, lengths), (Batches(MemoryRows(X), offsets_of(lengths)), None)]


# ---------------------------------------------------------------------------------------------------------------------
# The choice
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["bic", "icl", "cv"])
def test_as_many_components_as_there_are(points, criterion):
    found = select(GaussianMixture(random_state=0), points, {"n_components": range(1, 5)}, criterion=criterion, cv=3)
    assert found.best_params == {"n_components": 3}
    assert found.best_estimator.n_components == 3
    assert len(found.best_estimator.means_) == 3


@pytest.mark.parametrize("criterion", ["bic", "aic", "icl", "cv"])
def test_as_many_states_as_there_are(sequences, criterion):
    found = select(GaussianHMM(random_state=0), sequences, {"n_states": [1, 2]}, criterion=criterion, cv=3)
    assert found.best_params == {"n_states": 2}


def test_as_many_clusters_of_sequences_as_there_are():
    rng = np.random.default_rng(0)
    slopes = np.repeat([-0.5, 0.5], 10)
    walks = [np.cumsum(rng.normal(slope, 0.3, size=(rng.integers(10, 20), 1)), axis=0) for slope in slopes]
    found = select(
        MixtureOfHMMs(n_states=2, n_init=1, random_state=0, max_iter=300), walks, {"n_clusters": [1, 2]}, criterion="icl"
    )
    assert found.best_params == {"n_clusters": 2}


def test_the_best_of_iris_is_that_of_scikit_learn():
    X = load_iris().data
    types, sizes = ["full", "spherical"], [1, 2, 3]
    found = select(GaussianMixture(tol=1e-6, max_iter=1000, random_state=0), X, {"covariance_type": types, "n_components": sizes})
    peers = [
        SklearnMixture(k, covariance_type=kind, tol=1e-6, max_iter=1000, random_state=0).fit(X).bic(X)
        for kind, k in itertools.product(types, sizes)
    ]
    assert found.best_params == {"covariance_type": "full", "n_components": 2}  # two of the three species overlap
    assert int(np.argmin(peers)) == found.best_index
    assert_allclose(found.best.bic, min(peers), rtol=1e-6, atol=0)


def test_the_best_estimator_is_fitted_to_all_data_as_it_came(points):
    frame = pd.DataFrame(points, columns=["a", "b"])
    found = select(GaussianMixture(random_state=0), frame, {"n_components": [2, 3]}, criterion="cv")
    alone = GaussianMixture(3, random_state=0).fit(frame)
    assert_allclose(found.best_estimator.means_, alone.means_, rtol=1e-12, atol=0)
    assert found.best_estimator.feature_names_in_.tolist() == ["a", "b"]


def test_what_is_given_is_not_changed(points):
    estimator, grid, before = GaussianMixture(random_state=0), {"n_components": [1, 2]}, points.copy()
    select(estimator, points, grid, criterion="cv")
    assert not hasattr(estimator, "model_")
    assert estimator.n_components == 1
    assert grid == {"n_components": [1, 2]}
    assert (points == before).all()


def test_numbers_of_a_row(points):
    found = select(GaussianMixture(random_state=0), points, {"n_components": (k for k in (1, 2))})
    for candidate, k in zip(found.candidates, (1, 2), strict=True):
        fitted = GaussianMixture(k, random_state=0).fit(points)
        assert candidate.params == {"n_components": k}
        assert candidate.n_parameters == k - 1 + 2 * k + 3 * k
        assert_allclose(candidate.log_likelihood, fitted.score_samples(points).sum(), rtol=1e-12, atol=0)
        for name in ("bic", "aic", "icl"):
            assert_allclose(candidate.value(name), getattr(fitted, name)(points), rtol=1e-12, atol=0)
        assert np.isnan(candidate.cv_mean)
        assert candidate.seconds > 0
        assert candidate.converged is True


# ---------------------------------------------------------------------------------------------------------------------
# Cross-validation
# ---------------------------------------------------------------------------------------------------------------------


def test_held_out_scores_of_points_by_hand(points):
    found = select(GaussianMixture(2, random_state=7), points, {"reg_covar": [1e-6]}, criterion="cv", cv=4)
    scores = [
        GaussianMixture(2, random_state=7).fit(points[train]).score(points[test])
        for train, test in KFold(4, shuffle=True, random_state=7).split(points)
    ]
    assert_allclose(found.best.cv_mean, np.mean(scores), rtol=1e-10, atol=0)
    assert_allclose(found.best.cv_std, np.std(scores), rtol=1e-8, atol=0)


def test_held_out_scores_of_sequences_are_per_step_and_the_same_in_every_form(sequences):
    scores = []
    for train, test in KFold(3, shuffle=True, random_state=1).split(sequences):
        held_out = [sequences[i] for i in test]
        fitted = GaussianHMM(2, random_state=1).fit([sequences[i] for i in train])
        scores.append(fitted.score_samples(held_out).sum() / sum(map(len, held_out)))
    for X, lengths in in_three_forms(sequences):
        found = select(GaussianHMM(2, random_state=1), X, {"n_states": [2]}, criterion="cv", cv=3, lengths=lengths)
        assert_allclose(found.best.cv_mean, np.mean(scores), rtol=1e-8, atol=0)


def test_sequences_of_one_length_may_be_stacked(sequences):
    stacked = np.stack([each[:18] for each in sequences])
    results = [select(GaussianHMM(random_state=0), X, {"n_states": [1, 2]}, criterion="cv", cv=3) for X in (stacked, list(stacked))]
    assert_allclose(*[[row["cv_mean"] for row in found.table] for found in results], rtol=1e-12, atol=0)


def test_the_same_again_with_the_same_seed_and_other_folds_with_another(points):
    means = [
        select(GaussianMixture(random_state=seed), points, {"n_components": [1]}, criterion="cv").best.cv_mean for seed in (0, 0, 1)
    ]
    assert means[0] == means[1] != means[2]


def test_data_on_disk_gives_the_same_scores(points, tmp_path):
    np.save(tmp_path / "points.npy", points)
    grid = {"n_components": [1, 3]}
    results = [
        select(GaussianMixture(random_state=0), X, grid, criterion="cv") for X in (points, open_batches(tmp_path / "points.npy"))
    ]
    assert_allclose(*[[row["cv_mean"] for row in found.table] for found in results], rtol=1e-9, atol=0)


def test_tensors_are_data_too(points):
    results = [
        select(GaussianMixture(random_state=0), X, {"n_components": [2]}, criterion="cv")
        for X in (points, torch.from_numpy(points))
    ]
    assert results[0].best.cv_mean == results[1].best.cv_mean


def test_missing_values_are_held_out_with_their_rows():
    X = np.random.default_rng(0).random((30, 4))
    X[3, 1] = np.nan
    found = select(NMF(max_iter=10, tol=0, random_state=0), X, {"n_components": [1, 2]}, criterion="cv", cv=3)
    assert np.isfinite([row["cv_mean"] for row in found.table]).all()
    assert found.best.n_parameters is None


def test_chosen_rows_are_read_in_pieces():
    rows, chosen = MemoryRows(np.arange(40.0).reshape(20, 2)), np.array([1, 4, 5, 17, 19])
    picked = ChosenRows(rows, chosen)
    assert picked.n_rows == 5
    for start, stop in [(0, 5), (1, 3), (4, 5), (2, 2)]:
        assert picked.read(start, stop).tolist() == (np.arange(40.0).reshape(20, 2)[chosen[start:stop]]).tolist()
    assert picked.place(3) == rows.place(17)


def test_chosen_items_keep_their_weights_and_labels():
    values, labels = np.arange(6.0)[:, None], np.array([0, 0, 1, 2, 2, 2])
    batches = Batches(MemoryRows(values), offsets_of([2, 1, 3]), weights=np.array([1.0, 5.0, 2.0]), labels=labels)
    (batch,) = list(chosen_items(batches, np.array([0, 2])))
    assert batch.values[:, 0].tolist() == [0, 1, 3, 4, 5]
    assert batch.lengths.tolist() == [2, 3]
    assert batch.weights.tolist() == [1.0, 2.0]
    assert batch.labels.tolist() == [0, 0, 2, 2, 2]


def test_an_item_that_counts_twice_counts_twice_when_held_out(points):
    weights = np.where(np.arange(len(points)) < 90, 3.0, 1.0)
    found = select(
        GaussianMixture(random_state=0), Batches(MemoryRows(points), weights=weights), {"n_components": [2]}, criterion="cv"
    )
    scores = []
    for train, test in KFold(5, shuffle=True, random_state=0).split(points):
        fitted = GaussianMixture(2, random_state=0).fit(points[train], sample_weight=weights[train])
        scores.append(np.average(fitted.score_samples(points[test]), weights=weights[test]))
    assert_allclose(found.best.cv_mean, np.mean(scores), rtol=1e-9, atol=0)


def test_fewer_items_than_folds(sequences):
    with pytest.raises(InputError, match="cv=5 but X has 1 sequences, and whole sequences are held out"):
        select(GaussianHMM(), np.concatenate(sequences), {"n_states": [1]}, criterion="cv")
    with pytest.raises(ParameterError, match="cv=1"):
        select(GaussianHMM(), sequences, {"n_states": [1]}, criterion="cv", cv=1)


# ---------------------------------------------------------------------------------------------------------------------
# What fails
# ---------------------------------------------------------------------------------------------------------------------


def test_a_combination_that_fails_is_a_row(points):
    found = select(GaussianMixture(random_state=0), points, {"n_components": [2, 1000, 0]}, criterion="bic")
    assert [bool(candidate.error) for candidate in found.candidates] == [False, True, True]
    assert "n_components=1000" in found.candidates[1].error
    assert np.isnan(found.candidates[1].bic)
    assert found.best_params == {"n_components": 2}


def test_a_fold_that_fails_is_a_row_too():
    X = np.random.default_rng(0).normal(size=(10, 1))
    found = select(GaussianMixture(random_state=0, covariance_type="spherical"), X, {"n_components": [1, 9]}, criterion="cv", cv=5)
    assert "n_samples=8" in found.candidates[1].error
    assert found.best_index == 0


def test_nothing_that_can_be_fitted(points):
    with pytest.raises(InputError, match=r"none of the 2 combinations can be fitted; the first says: n_components=1000 but"):
        select(GaussianMixture(), points, {"n_components": [1000, 2000]})
    points[5, 0] = np.nan
    with pytest.raises(InputError):
        select(GaussianHMM(covariance_type="nonsense"), points, {"n_states": [1]})


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({}, "the grid is empty"),
        ({"n_components": []}, r"grid\['n_components'\] has no values"),
        ({"n_component": [1]}, "'n_component' is no parameter of GaussianMixture; it has .*covariance_type, .*n_components"),
        ({"covariance_type": "full"}, r"expected several values; write \['full'\]"),
        ({"n_components": 3}, r"expected several values; write \[3\]"),
    ],
)
def test_a_grid_that_is_none(points, grid, message):
    with pytest.raises(ParameterError, match=message):
        select(GaussianMixture(), points, grid)


def test_a_criterion_that_there_is_not(points):
    with pytest.raises(ParameterError, match="criterion='dic': expected one of 'bic', 'aic', 'icl', 'cv'"):
        select(GaussianMixture(), points, {"n_components": [1]}, criterion="dic")


@pytest.mark.parametrize("criterion", ["bic", "aic", "icl"])
def test_a_criterion_that_the_estimator_does_not_have(points, criterion):
    estimator = NMF(max_iter=5, tol=0, random_state=0)
    with pytest.raises(ParameterError, match=f"NMF has no {criterion.upper()}; choose by criterion='cv'"):
        select(estimator, np.abs(points), {"n_components": [1, 2]}, criterion=criterion)


def test_fits_that_do_not_converge_are_told_of_by_the_table_and_the_best_by_a_warning(points):
    estimator = GaussianMixture(random_state=0, tol=1e-12, max_iter=2)
    points /= 6  # so that components overlap
    with pytest.warns(ConvergenceWarning, match="the best fit .*'n_components': 3.* did not converge") as caught:
        found = select(estimator, points, {"n_components": [3]})
    assert len(caught) == 1
    assert found.best.converged is False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        select(GaussianMixture(random_state=0), points, {"n_components": [1]})
        select(estimator.set_params(tol=0), points, {"n_components": [3]})  # two iterations were asked for


# ---------------------------------------------------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def found(points) -> Selection:
    grid = {"covariance_type": ["full", "diag"], "n_components": [1, 3, 999]}
    return select(GaussianMixture(random_state=0), points, grid)


def test_the_table_as_text(found):
    lines = str(found).splitlines()
    assert lines[0].split() == [
        "covariance_type",
        "n_components",
        "parameters",
        "log-likelihood",
        "BIC",
        "AIC",
        "ICL",
        "seconds",
        "converged",
    ]
    rows = lines[1:7]
    assert {len(line) for line in rows} == {len(lines[0])}
    assert [line[0] for line in rows].count("*") == 1
    marked = next(line.split() for line in rows if line.startswith("*"))
    assert marked[1:3] == [found.best_params["covariance_type"], "3"]
    assert marked[5] == f"{found.best.bic:.2f}"
    assert sum("n_components=999 but X has" in line for line in lines) == 2
    assert lines[-1] == "* the lowest BIC"


def test_the_table_as_a_data_frame(found):
    frame = pd.DataFrame(found.table)
    assert len(frame) == 6
    assert frame["bic"].idxmin() == found.best_index
    assert frame.loc[found.best_index, "covariance_type"] == found.best_params["covariance_type"]


def test_the_table_as_csv(found, tmp_path):
    path = found.to_csv(tmp_path / "table.csv")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["n_components"] for row in rows] == ["1", "3", "999"] * 2
    assert float(rows[found.best_index]["bic"]) == found.best.bic
    assert rows[2]["bic"] == ""
    assert "n_components=999" in rows[2]["error"]


def test_the_table_as_html(points):
    found = select(GaussianMixture(random_state=0), points, {"covariance_type": ["full", "<b>"]})
    html = found._repr_html_()
    assert html.count("<tr") == 3
    assert html.count("font-weight: bold") == 1
    assert "&lt;b&gt;" in html
    assert "<b>" not in html


def test_progress_is_shown_when_asked_for(points, capsys, monkeypatch):
    monkeypatch.setattr("unveil.selection.search.ProgressBar", lambda title, quiet: _Recorder(title, quiet))
    _Recorder.shown.clear()
    select(GaussianMixture(random_state=0), points, {"n_components": [1, 999]}, verbose=1)
    assert _Recorder.shown == [("Comparing GaussianMixtures", False), (0, 2), (1, 2)]


class _Recorder:
    shown: list = []

    def __init__(self, title, quiet):
        self.shown.append((title, quiet))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def __call__(self, iteration):
        self.shown.append((iteration.iteration, iteration.max_iter))


# ---------------------------------------------------------------------------------------------------------------------
# scikit-learn's own tools
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimator", "grid"),
    [
        (GaussianHMM(random_state=0), {"n_states": [1, 2]}),
        (MixtureOfHMMs(n_states=2, n_init=1, random_state=0, max_iter=300), {"n_clusters": [1, 2]}),
    ],
    ids=["GaussianHMM", "MixtureOfHMMs"],
)
def test_grid_search_over_ragged_sequences(sequences, estimator, grid):
    search = GridSearchCV(estimator, grid, cv=3, error_score="raise").fit(sequences)
    (name, values), folds = next(iter(grid.items())), list(KFold(3).split(sequences))
    for value, mean in zip(values, search.cv_results_["mean_test_score"], strict=True):
        scores = [
            clone(estimator).set_params(**{name: value}).fit([sequences[i] for i in train]).score([sequences[i] for i in test])
            for train, test in folds
        ]
        assert_allclose(mean, np.mean(scores), rtol=1e-9, atol=0)
    assert len(search.best_estimator_.score_samples(sequences)) == len(sequences)


def test_cross_val_score_over_ragged_sequences(sequences):
    scores = cross_val_score(GaussianHMM(2, random_state=0), sequences, cv=3, error_score="raise")
    assert scores.shape == (3,)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("cls", [GaussianHMM, MixtureOfHMMs, GaussianMixture])
def test_parameters_are_cloned_read_and_set(cls):
    estimator = cls(covariance_type="full", random_state=3)
    copied = clone(estimator)
    assert copied is not estimator
    assert copied.get_params() == estimator.get_params()
    assert copied.set_params(tol=0.5).tol == 0.5
    assert estimator.tol != 0.5
    with pytest.raises(ValueError, match="nonsense"):
        estimator.set_params(nonsense=1)
