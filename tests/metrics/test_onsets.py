"""The F-measure of onsets beside mir_eval and beside all matchings."""

import itertools

import mir_eval
import numpy as np
import pytest
from numpy.testing import assert_allclose

from unveil.errors import InputError, ParameterError
from unveil.metrics.onsets import onset_f_measure


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("tolerance", [0.02, 0.05, 0.3])
def test_it_is_mir_evals(seed, tolerance):
    rng = np.random.default_rng(seed)
    reference = np.sort(rng.uniform(0, 4, size=rng.integers(1, 40)))
    estimate = np.sort(rng.uniform(0, 4, size=rng.integers(1, 40)))
    expected = mir_eval.onset.f_measure(reference, estimate, window=tolerance)
    assert_allclose(onset_f_measure(reference, estimate, tolerance), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_no_other_matching_has_more_pairs(seed):
    rng = np.random.default_rng(seed)
    reference, estimate = rng.uniform(0, 1, size=5), rng.uniform(0, 1, size=6)
    near = np.abs(reference[:, None] - estimate) <= 0.15
    most = max(near[np.arange(5), chosen].sum() for chosen in map(list, itertools.permutations(range(6), 5)))
    assert_allclose(onset_f_measure(reference, estimate, 0.15), [2 * most / 11, most / 6, most / 5], rtol=0, atol=1e-12)


def test_an_onset_is_matched_once():
    assert_allclose(onset_f_measure([1.0], [0.99, 1.0, 1.01]), [0.5, 1 / 3, 1.0], rtol=0, atol=1e-12)


def test_the_nearest_is_not_always_the_match():
    assert onset_f_measure([1.0, 1.06], [1.04, 1.1]).f_measure == 1.0  # 1.04 is nearest to both


def test_the_order_does_not_matter():
    assert onset_f_measure([3.0, 1.0, 2.0], [2.0, 3.0, 1.0]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("reference", "estimate"), [([], [1.0]), ([1.0], []), ([], [])])
def test_where_there_is_nothing_the_score_is_zero(reference, estimate):
    assert onset_f_measure(reference, estimate) == (0.0, 0.0, 0.0)


def test_what_is_no_time_is_refused():
    with pytest.raises(InputError, match="estimate_s"):
        onset_f_measure([1.0], [np.nan])
    with pytest.raises(InputError, match="flat list"):
        onset_f_measure([[1.0]], [1.0])
    for tolerance in (-0.1, np.nan):
        with pytest.raises(ParameterError, match="tolerance"):
            onset_f_measure([1.0], [1.0], tolerance)
