"""The page about a comparison of fits: its figure holds the criterion, its table every fit."""

import itertools
import re

import numpy as np
import pytest
from matplotlib.colors import to_hex
from numpy.testing import assert_allclose

from unveil.errors import InputError
from unveil.models.gaussian_mixture import GaussianMixture
from unveil.report.selection import criterion_curve, selection_report
from unveil.report.theme import category_colours
from unveil.selection import Candidate, Selection


@pytest.fixture(scope="module")
def estimator():
    return GaussianMixture(2, random_state=0, max_iter=5, tol=0).fit(np.random.default_rng(0).normal(size=(30, 2)))


def selection_of(estimator, values, *, sizes=(1, 2, 3), kinds=("full", "diag"), criterion="bic", failed=()):
    """A selection with given values of the criterion, one for each kind and size."""
    candidates = []
    for (kind, size), value in zip(itertools.product(kinds, sizes), values, strict=True):
        params = {"covariance_type": kind, "n_components": size}
        found = {"cv_mean": value, "cv_std": 0.25} if criterion == "cv" else {criterion: value}
        if (kind, size) in failed:
            candidates.append(Candidate(params, error=f"no {kind} of {size}", seconds=0.1))
        else:
            candidates.append(Candidate(params, n_parameters=7, log_likelihood=-50.0, seconds=0.1, converged=True, **found))
    choose = np.nanargmax if criterion == "cv" else np.nanargmin
    return Selection(candidates, criterion, int(choose([each.value(criterion) for each in candidates])), estimator)


def curves(figure):
    """Places and values of the line of each label, by its colour."""
    containers = figure.axes[0].containers
    return {each.get_label(): (to_hex(each[0].get_color()), *np.array(each[0].get_data(), dtype=float)) for each in containers}


def test_a_line_for_each_kind(estimator):
    found = curves(criterion_curve(selection_of(estimator, [5, 4, 6, 9, 8, 7])))
    assert found.keys() == {"full", "diag"}
    for (colour, places, values), expected, own in zip(found.values(), [[5, 4, 6], [9, 8, 7]], category_colours(2), strict=True):
        assert colour == own
        assert_allclose(places, [1, 2, 3], rtol=0, atol=0)
        assert_allclose(values, expected, rtol=0, atol=0)


def test_sizes_are_in_order_and_failures_left_out(estimator):
    selection = selection_of(estimator, [5, 4, 6], sizes=(3, 1, 2), kinds=("full",), failed={("full", 2)})
    _, places, values = next(iter(curves(criterion_curve(selection)).values()))
    assert (list(places), list(values)) == ([1, 3], [4, 5])


def test_the_ring_is_at_the_best(estimator):
    figure = criterion_curve(selection_of(estimator, [5, 4, 6, 9, 8, 7]))
    (ring,) = [line for line in figure.axes[0].lines if line.get_markersize() == 12]
    assert ring.get_xydata().tolist() == [[2, 4]]


def test_bars_of_cross_validation_are_standard_deviations(estimator):
    figure = criterion_curve(selection_of(estimator, [-5, -4, -6], kinds=("full",), criterion="cv"))
    (segments,) = [each.get_segments() for each in figure.axes[0].containers[0][2]]
    assert_allclose([segment[:, 1] for segment in segments], [[-5.25, -4.75], [-4.25, -3.75], [-6.25, -5.75]], rtol=1e-12, atol=0)


def test_without_a_number_the_kinds_stand_side_by_side(estimator):
    selection = selection_of(estimator, [5, 4, 6], sizes=(3,), kinds=("full", "tied", "diag"))
    axes = criterion_curve(selection).axes[0]
    assert axes.get_xlabel() == "covariance_type"
    assert [each.get_text() for each in axes.get_xticklabels()] == ["full", "tied", "diag"]
    assert axes.containers[0][0].get_linestyle() == "None"


@pytest.mark.parametrize("sign", [1, -1])
def test_fits_that_are_much_worse_do_not_flatten_the_others(estimator, sign):
    values = sign * np.array([10.0, 11, 12, 13, 14, 5000])
    selection = selection_of(estimator, values, criterion="bic" if sign > 0 else "cv")
    low, high = sorted(sign * np.array(criterion_curve(selection).axes[0].get_ylim()))
    assert low < 10
    assert 14 < high < 100
    even = selection_of(estimator, sign * np.arange(10.0, 16), criterion="bic" if sign > 0 else "cv")
    low, high = sorted(sign * np.array(criterion_curve(even).axes[0].get_ylim()))
    assert low < 10 < 15 < high


def test_the_page_has_every_fit_and_every_error(estimator, tmp_path):
    selection = selection_of(estimator, [5, 4, 6, 9, 8, 7], failed={("diag", 3)})
    page = selection_report(tmp_path / "page.html", selection, command="unveil select").read_text(encoding="utf-8")
    rows = [re.sub(r"<[^>]*>", " ", row).split() for row in re.findall(r"<tr>(.*?)</tr>", page, flags=re.DOTALL)]
    fits = [row for row in rows if row[0] in ("full", "diag")]
    assert [row[:2] for row in fits[:6]] == [[kind, size] for kind in ("full", "diag") for size in "123"]
    assert [row[2] == "best" for row in fits[:6]] == [False, True, False, False, False, False]
    assert fits[5][2] == "failed"
    assert fits[6] == ["diag", "3", "no", "diag", "of", "3"]
    assert "5 of 6 combinations were fitted; covariance_type full, n_components 2 has the lowest BIC." in page
    assert "unveil select" in page


def test_the_facts(estimator, tmp_path):
    page = selection_report(tmp_path / "page.html", selection_of(estimator, [5, 4, 6], kinds=("full",)), title="Mine").read_text(
        encoding="utf-8"
    )
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd><span class=\"value\">(.*?)</span>", page))
    assert facts == {"covariance_type": "full", "n_components": "2", "BIC": "4", "ahead of the next": "1", "free parameters": "7"}
    assert "<h1>Mine</h1>" in page


def test_a_page_that_cannot_be_written(estimator, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError):
        selection_report(tmp_path / "file" / "page.html", selection_of(estimator, [5, 4, 6], kinds=("full",)))
