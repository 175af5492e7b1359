"""Left-to-right models tell made-up words apart, and real digits when they are there."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm

from unveil.audio.features import mfcc
from unveil.experiments import spoken_digits
from unveil.experiments.spoken_digits import Recognizer, SpokenDigits, fit_left_right

RATE = 8000


def word(pitches, rng):
    """Tones one after the other, each of a length of its own, in noise."""
    pieces = [np.sin(2 * np.pi * f * rng.uniform(0.97, 1.03) * np.arange(rng.integers(800, 1600)) / RATE) for f in pitches]
    sound = np.concatenate(pieces)
    return mfcc(sound + 0.05 * rng.normal(size=len(sound)), RATE)


WORDS = {0: (400, 900, 2000), 1: (2000, 900, 400), 2: (400, 2000, 900)}  # the same tones: only their order differs


@pytest.fixture(scope="module")
def words():
    rng = np.random.default_rng(0)
    labels = np.repeat(list(WORDS), 12)
    return [word(WORDS[label], rng) for label in labels], labels


def test_words_that_differ_in_order_are_told_apart(words):
    sequences, labels = words
    train = np.arange(len(labels)) % 3 > 0
    recognizer = Recognizer.learn([sequences[i] for i in np.flatnonzero(train)], labels[train], n_states=3)
    assert_array_equal(recognizer([sequences[i] for i in np.flatnonzero(~train)]), labels[~train])
    assert_array_equal(recognizer(sequences[:1]), labels[:1])


def test_the_chain_only_stays_or_goes_on_by_one(words):
    hmm = fit_left_right(words[0][:12], 4)
    allowed = np.eye(4, dtype=bool) | np.eye(4, k=1, dtype=bool)
    assert not hmm.transmat_[~allowed].any()
    assert_allclose(hmm.transmat_.sum(1), np.ones(4), rtol=0, atol=1e-12)
    assert_array_equal(hmm.startprob_, [1, 0, 0, 0])
    for path in hmm.predict(words[0][:12]):
        assert path[0] == 0
        assert set(np.diff(path)) <= {0, 1}


def test_every_sequence_begins_in_the_first_state():
    rng = np.random.default_rng(2)
    hmm = fit_left_right([rng.normal(size=(12, 2)) for _ in range(20)], 3)  # noise, that may as well begin in another one
    assert_array_equal(hmm.startprob_, [1, 0, 0])


def test_the_states_of_a_word_are_its_tones(words):
    hmm = fit_left_right(words[0][:12], 3)
    for path, sequence in zip(hmm.predict(words[0][:12]), words[0][:12], strict=True):
        assert_array_equal(np.unique(path), [0, 1, 2])
        assert 0.15 < (path == 1).sum() / len(sequence) < 0.55


def result(unknown=None):
    digits = np.tile([0, 1], 10)
    heard = digits.copy()
    heard[:3] = [1, 0, 1]
    return SpokenDigits(np.repeat(["ann", "bob"], 10), digits, heard, unknown, {"features": 1.5})


def test_the_table_counts_by_speaker():
    assert result().table == [
        {"speaker": "ann", "recordings": 10, "held-out takes": 0.7},
        {"speaker": "bob", "recordings": 10, "held-out takes": 1.0},
        {"speaker": "all", "recordings": 20, "held-out takes": 0.85},
    ]
    assert [row["held-out speaker"] for row in result(np.zeros(20, int)).table] == [0.5, 0.5, 0.5]


def test_the_interval_is_wilsons():
    n, p, z = 20, 0.85, norm.ppf(0.975)
    centre, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert_allclose(result().interval(), np.array([centre - half, centre + half]) / (1 + z**2 / n), rtol=0, atol=1e-12)


def test_what_the_report_says():
    accuracy, confusions = spoken_digits.sections(result(np.zeros(20, int)))
    text, table = accuracy.blocks
    assert "features 1.5 s" in text.text
    assert list(table.columns) == ["speaker", "recordings", "held-out takes, %", "held-out speaker, %"]
    assert list(table.rows[-1]) == ["all", 20, 85.0, 50.0]
    assert [list(row) for row in confusions.blocks[0].rows] == [["0", 8, 2], ["1", 1, 9]]


def test_a_few_real_digits(real_data):
    found = spoken_digits.run(quick=True)
    assert len(found.digits) == 3 * 3 * 5
    assert found.unknown is None
    assert (found.heard == found.digits).mean() >= 0.95
    again = spoken_digits.run(quick=True)
    assert_array_equal(again.heard, found.heard)


@pytest.mark.slow
def test_all_real_digits(real_data):
    found = spoken_digits.run()
    assert len(found.digits) == 300
    assert (found.heard == found.digits).mean() >= 0.95
    assert (found.unknown == found.digits).mean() >= 0.75
