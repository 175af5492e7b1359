"""The scenes are what they are said to be, the figures are counted rightly, and real notes are separated."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from unveil.experiments import duet
from unveil.experiments.duet import (
    DUET,
    GRAPH,
    IDEAL,
    LASSO,
    N_CLUSTERS,
    NEVER_ALONE,
    DuetResult,
    Outcome,
    compose,
    ideal,
    load_notes,
    never_alone,
)
from unveil.metrics.bss import bss_eval

RATE = 4000
LENGTHS = {"contrabass": 0.8, "flute": 0.45}


@pytest.fixture(scope="module")
def notes():
    t = np.arange(2 * RATE) / RATE
    return {"contrabass": [np.sin(2 * np.pi * f * t) for f in (60, 90)], "flute": [np.sin(2 * np.pi * f * t) for f in (500, 700)]}


def sounding(part):
    """Which windows of 50 ms sound."""
    return np.abs(part[: len(part) // 200 * 200].reshape(-1, 200)).max(1) > 1e-9


def test_parts_are_equally_loud_and_rest(notes):
    parts = compose(notes, 0, sample_rate=RATE, seconds=60.0)
    assert list(parts) == ["contrabass", "flute"]
    for name, part in parts.items():
        assert_allclose(part.std(), 0.1, rtol=1e-12, atol=0)
        slot = int(LENGTHS[name] * RATE)
        slots = part[: len(part) // slot * slot].reshape(-1, slot)
        assert 0.2 < (np.abs(slots).max(1) == 0).mean() < 0.5  # 35 % of 75 and of 133 slots
        assert_allclose(slots[:, [0, -1]], 0.0, rtol=0, atol=1e-12)  # faded


def test_a_score_repeats_by_its_seed(notes):
    first, again, other = (compose(notes, seed, sample_rate=RATE)["flute"] for seed in (3, 3, 4))
    assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_without_rests_all_slots_sound(notes):
    part = compose(notes, 0, sample_rate=RATE, seconds=8.1, rests=0.0)["contrabass"]
    assert (np.abs(part[: 8 * RATE].reshape(10, -1)).max(1) > 0).all()


def test_never_alone_is_never_alone(notes):
    parts = compose(notes, 0, sample_rate=RATE)
    bass, flute = never_alone(parts, RATE).values()
    near = np.ones(2 * int(0.01 * RATE) + 1)  # sine waves cross zero, and powers are smoothed over 5 ms
    for one, other in ((bass, flute), (flute, bass)):
        assert (np.convolve(np.abs(other) > 0, near, "same")[one != 0] > 0).all()
    assert sounding(bass).any()
    assert np.abs(bass).max() <= (1 + 1e-12) * np.abs(parts["contrabass"]).max()


def test_the_ideal_mask_is_nearly_perfect_where_nothing_overlaps(notes):
    parts = compose(notes, 0, sample_rate=RATE)
    assert bss_eval(np.stack(list(parts.values())), ideal(parts, 512)).sdr.min() > 20.0


def outcome(scene, method, n_clusters, seed, sdr, warned=False, residual=0.02):
    return Outcome(scene, method, n_clusters, seed, sdr, warned, residual)


@pytest.fixture
def result():
    outcomes = [
        outcome(DUET, GRAPH, N_CLUSTERS[1], 0, (20.0, 22.0)),
        outcome(DUET, GRAPH, N_CLUSTERS[1], 1, (24.0, 30.0), residual=0.04),
        outcome(DUET, LASSO, N_CLUSTERS[1], 0, (3.0, 5.0), warned=True),
        outcome(NEVER_ALONE, GRAPH, N_CLUSTERS[1], 0, (1.0, 2.0), warned=True, residual=0.2),
        Outcome(DUET, IDEAL, 0, 0, (28.0, 29.0)),
    ]
    return DuetResult(outcomes, {}, None, {})


def test_the_table_counts_over_runs_and_instruments(result):
    graph, lasso, alone, best = result.table
    assert graph["runs"] == 2
    assert graph["seeds"] == [0, 1]
    assert graph["mean SDR, dB"] == 24.0
    assert graph["standard deviation, dB"] == 3.0
    assert graph["contrabass, dB"] == 22.0
    assert graph["flute, dB"] == 26.0
    assert graph["worst, dB"] == 20.0
    assert graph["largest residual"] == 0.04
    assert graph["warned"] == 0
    assert lasso["talk"] == "almost perfect, no figures"
    assert alone["warned"] == 1
    assert best["clusters"] is best["warned"] is best["largest residual"] is None


def test_what_is_read_from_it(result):
    text = duet.reading(result)
    assert "With 100 clusters the mean SDR is 24.0 dB, and the worst instrument of the worst score has 20.0 dB" in text
    assert "0 of 2 were called doubtful" in text
    assert "1 of 1 were" in text
    table = duet.tabulate(result)
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_packaged_notes_are_there(monkeypatch, tmp_path):
    monkeypatch.delenv("UNVEIL_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    notes = load_notes()
    assert list(notes) == ["contrabass", "flute"]
    assert all(len(each) == 5 for each in notes.values())
    longest = duet.SKIPPED_SECONDS + max(duet.NOTE_SECONDS.values())
    assert all(len(note) >= longest * duet.SAMPLE_RATE for each in notes.values() for note in each)


@pytest.mark.slow
def test_real_notes_are_separated():
    found = duet.run(quick=True)
    rows = {(row["scene"], row["method"]): row for row in found.table}
    assert rows[DUET, GRAPH]["mean SDR, dB"] >= 22.0
    assert rows[DUET, GRAPH]["worst, dB"] >= 15.0
    assert rows[DUET, GRAPH]["warned"] == 0
    assert rows[NEVER_ALONE, GRAPH]["warned"] == 2
    assert rows[DUET, IDEAL]["mean SDR, dB"] > rows[DUET, GRAPH]["mean SDR, dB"]
    assert [section.title for section in duet.sections(found)] == ["Figures", "Listen", "What was found"]
