"""What the experiment on pen digits computes and says; and a little of it on real trajectories."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from unveil.experiments import pen_digits
from unveil.experiments.pen_digits import LITERAL, LITERAL_REFINED, METHODS, RANDOM, REFINED, SPECTRAL, PenDigits
from unveil.models.mixture_of_hmms import MixtureOfHMMs


@pytest.fixture
def result():
    accuracy = {}
    for shift, digits in enumerate([(1, 2), (2, 4), (1, 2, 3)]):
        accuracy[digits, SPECTRAL] = np.array([98.0, 99.0]) - shift
        accuracy[digits, RANDOM] = np.array([80.0, 100.0])
        accuracy[digits, REFINED] = np.array([99.0, 100.0])
    for digits in [(1, 2), (2, 4)]:
        accuracy[digits, LITERAL] = accuracy[digits, LITERAL_REFINED] = np.array([50.0, 60.0])
    return PenDigits(accuracy, dict.fromkeys(METHODS, 0.5), 2, 200)


def test_means_and_spreads_are_over_pairs(result):
    assert_allclose(result.over_pairs(SPECTRAL), [97.5, 98.5], rtol=1e-12, atol=0)
    assert_allclose(result.spread(RANDOM), 10.0, rtol=1e-12, atol=0)
    assert_allclose(result.spread(REFINED), 0.5, rtol=1e-12, atol=0)


def test_the_table_has_ours_beside_the_published(result):
    first, _, last = result.table
    assert first["digits"] == "1v2"
    assert (first[SPECTRAL], first["spectral, lowest"], first["spectral, published"]) == (98.5, 98.0, 100)
    assert first["random EM, sd"] == 10.0
    assert last["digits"] == "1, 2, 3"
    assert "spectral, published" not in last
    assert LITERAL not in last


def test_what_the_report_says(result):
    accuracy, literal = pen_digits.sections(result)
    facts, text, table, picture = accuracy.blocks
    assert [fact.value for fact in facts.facts] == ["98.0", "90.0", "99.5", "0.05"]
    assert "2 seeds" in text.text
    assert list(table.rows[0]) == ["1v2", "98.5 ± 0.5 (100)", "90.0 ± 10.0 (96)", "99.5 ± 0.5 (100)"]
    assert table.rows[2][1] == "96.5 ± 0.5"
    assert table.rows[3][0] == "mean of pairs"
    assert picture.figure.axes[0].get_ylabel() == "right cluster (%)"
    assert [list(row) for row in literal.blocks[0].rows] == [
        ["1v2", "55.0 ± 5.0", "55.0 ± 5.0"],
        ["2v4", "55.0 ± 5.0", "55.0 ± 5.0"],
    ]


def test_a_random_start_is_one_that_the_model_takes():
    sequences = [np.random.default_rng(i).normal(size=(9, 2)) for i in range(6)]
    start = pen_digits.random_start(sequences, 2, 3, 0)
    other = pen_digits.random_start(sequences, 2, 3, 1)
    model = MixtureOfHMMs(2, 3, max_iter=0, n_init=1, **start).fit(sequences)
    assert_allclose(model.means_, start["means_init"], rtol=1e-12, atol=0)
    assert not np.allclose(start["means_init"], other["means_init"], rtol=1e-3, atol=0)
    assert {tuple(row) for row in start["means_init"].reshape(6, 2)} <= {tuple(row) for each in sequences for row in each}


def test_real_digits(real_data):
    found = pen_digits.run(quick=True)
    assert found.over_pairs(REFINED).mean() > 95
    assert found.tasks == [(1, 2), (2, 4)]


@pytest.mark.slow
def test_real_digits_twice_are_the_same(real_data):
    found, again = pen_digits.run(quick=True), pen_digits.run(quick=True)
    assert all(np.array_equal(found.accuracy[key], again.accuracy[key]) for key in found.accuracy)
