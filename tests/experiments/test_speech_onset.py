"""Strings of words, the summary of runs, and what the report says; and a few real runs where the data is there."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from unveil.audio.onsets import OnsetDetector
from unveil.experiments import speech_onset
from unveil.experiments.speech_onset import BEST, MOMENTS, RANDOM, THRESHOLD, Run, SpeechOnset, Takes, Words, random_start
from unveil.report.page import Table, Text

RATE = 8000


def takes(n=20):
    rng = np.random.default_rng(0)
    sweep = np.sin(2 * np.pi * np.cumsum(np.linspace(300, 2500, 2400)) / RATE)
    return Takes("ann", 7, tuple((1 + 0.01 * i) * np.r_[sweep, 0.3 * rng.normal(size=800)] for i in range(n)), RATE)


@pytest.mark.parametrize("snr", [20, 10])
def test_words_are_where_they_are_said_to_be(snr):
    said = takes()
    learned, tested = said.learned_and_tested(snr, seed=1)
    assert len(learned.onsets) == 30
    assert len(tested.onsets) == 20
    for words in (learned, tested):
        gaps = np.diff(words.onsets, prepend=-0.4) - 0.4  # words last 0.4 s
        assert ((gaps >= 0.2 - 1e-3) & (gaps <= 0.6 + 1e-3)).all()
        at = (words.onsets * RATE).round().astype(int)
        cut = np.stack([words.samples[i : i + 3200] for i in at])
        likeness = (cut @ np.stack(said.sounds).T / [sound @ sound for sound in said.sounds]).max(1)
        assert (likeness > 0.9).all()
        inside = np.zeros(len(words.samples), bool)
        inside[(at[:, None] + np.arange(3200)).ravel()] = True
        signal = np.mean([np.square(sound).mean() for sound in said.sounds])
        noise = np.square(words.samples[~inside]).mean()
        assert_allclose(10 * np.log10(signal / noise), snr, rtol=0, atol=1.5)  # takes differ by 1.6 dB in power
    assert (np.diff(learned.onsets) != np.diff(takes().learned_and_tested(snr, seed=2)[0].onsets)).any()


def test_no_take_is_learned_and_tested():
    marked = Takes("ann", 7, tuple(np.full(800, 1.0 + i) for i in range(20)), RATE)  # its height tells a take
    found = []
    for words in marked.learned_and_tested(200, seed=0):
        found.append([round(words.samples[round(onset * RATE) + 400]) for onset in words.onsets])
    assert not set(found[0]) & set(found[1])
    assert [len(set(each)) for each in found] == [12, 8]
    assert max(found[0].count(take) for take in found[0]) == 3


def test_a_random_start_is_what_em_begins_with():
    frames = np.random.default_rng(0).normal(size=(200, 4))
    hmm = random_start(frames, 0, np.random.default_rng(1)).fit(frames)
    assert all((hmm.means_[m] == frames).all(1).any() for m in range(6))
    assert_allclose(hmm.covariances_, np.ones((6, 4)), rtol=0, atol=1e-12)
    allowed = np.eye(6, dtype=bool) | np.roll(np.eye(6, dtype=bool), 1, axis=1)
    assert_array_equal(hmm.transmat_ > 0, allowed)


def test_the_threshold_finds_words_in_silence():
    rng = np.random.default_rng(0)
    steady = Takes("ann", 7, tuple(rng.normal(size=3200) for _ in range(20)), RATE)
    learned, _ = steady.learned_and_tested(20, seed=0)
    found = speech_onset.energy_threshold(learned.samples, RATE)
    assert_allclose(found, learned.onsets, rtol=0, atol=0.03)


def runs(speaker="jackson", digit=7):
    made = []
    for snr in speech_onset.SNRS:
        for start, n_iter in ((MOMENTS, 5), (RANDOM, 20), (BEST, 20), (THRESHOLD, 0)):
            score = {MOMENTS: 0.99, RANDOM: 0.7, BEST: 1.0, THRESHOLD: 0.5}[start]
            made += [Run(speaker, digit, snr, start, n_iter, seed, score - 0.1 * seed, 0.1 + seed) for seed in (0, 1)]
    return made


@pytest.fixture(scope="module")
def result():
    learned, tested = takes().learned_and_tested(20, seed=0)
    detector = OnsetDetector.learn(learned.samples, RATE, n_states=6)
    return SpeechOnset((*runs(), *runs("theo"), *runs("theo", 8)), detector, tested)


def test_the_table_is_of_means_and_spread(result):
    first = result.table[0]
    assert (first["speaker"], first["digit"], first["SNR, dB"], first["start"], first["EM iterations"]) == (
        "jackson",
        7,
        20,
        MOMENTS,
        5,
    )
    assert (first["runs"], first["seeds"]) == (2, [0, 1])
    assert_allclose([first["F"], first["spread"], first["worst"], first["seconds"]], [0.94, 0.05, 0.89, 0.6], rtol=0, atol=1e-12)
    assert len(result.table) == 3 * 8


def test_what_the_report_says(result):
    measured, detection, others = speech_onset.sections(result)
    assert isinstance(measured.blocks[0], Text)
    assert "best of 5 random, 20 iterations" in measured.blocks[0].text
    assert len(measured.blocks[2].rows) == 8
    picture = detection.blocks[0].blocks[1]
    assert "8 true onsets and 8 found ones" in picture.alt
    table = others.blocks[1]
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == ["theo 7", "theo 8", "mean"]
    assert "better in 0 of 4 cases, and worse in 0." in others.blocks[0].text
    assert_allclose(table.rows[2][1:], [0.94, 0.95] * 2, rtol=0, atol=1e-12)


def test_the_report_says_when_random_starts_are_worse(result):
    worse = tuple(run for run in runs() if run.start != BEST)
    rows = SpeechOnset(worse, result.detector, result.words).table
    assert "does not reach that" in speech_onset._reading(rows)


def test_a_few_real_runs(real_data):
    found = speech_onset.run(quick=True)
    scores = {(run.snr, run.start): [] for run in found.runs}
    for run in found.runs:
        scores[run.snr, run.start].append(run.f_measure)
    for snr in speech_onset.SNRS:
        assert np.mean(scores[snr, MOMENTS]) >= 0.98
        assert np.mean(scores[snr, MOMENTS]) > np.mean(scores[snr, THRESHOLD])
        assert len(scores[snr, RANDOM]) == 5 * len(scores[snr, BEST])
    assert isinstance(found.words, Words)
