"""Scores of separated sources: the metrics themselves, for each source by its name, and averaged over channels."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from unveil.audio.score import score_sources
from unveil.errors import InputError
from unveil.metrics.bss import bss_eval, si_sdr

NAMES = ("SDR", "SIR", "SAR", "SI-SDR")


@pytest.fixture
def sounds():
    rng = np.random.default_rng(0)
    truth = {"a": rng.normal(size=(2, 3000)), "b": rng.normal(size=(2, 3000)), "c": rng.normal(size=(2, 3000))}
    noise = rng.normal(size=(3, 2, 3000))
    mixed = truth["a"] + truth["b"]
    return truth, {name: truth[name] + 0.1 * mixed + 0.05 * noise[i] for i, name in enumerate(truth)}


def by_metrics(truth, guess, channel, **settings):
    """The figures of one channel (metric, source), straight from the metrics."""
    true, found = (np.stack([group[name][channel] for name in truth]) for group in (truth, guess))
    figures = bss_eval(true, found, permute=False, **settings)
    return np.stack([figures.sdr, figures.sir, figures.sar, si_sdr(true, found)])


@pytest.mark.parametrize("filter_length", [1, 64])
def test_mono_is_the_metrics_themselves(sounds, filter_length):
    truth, guess = ({name: x[0] for name, x in group.items()} for group in sounds)
    scores = score_sources(truth, guess, filter_length=filter_length)
    expected = by_metrics(*sounds, 0, filter_length=filter_length)
    assert list(scores) == ["a", "b", "c"]
    assert all(tuple(each) == NAMES for each in scores.values())
    assert_allclose([[scores[name][m] for name in truth] for m in NAMES], expected, rtol=1e-9, atol=1e-9)


def test_stereo_is_the_mean_over_channels(sounds):
    scores = score_sources(*sounds, filter_length=16)
    expected = np.mean([by_metrics(*sounds, channel, filter_length=16) for channel in (0, 1)], axis=0)
    assert_allclose([[scores[name][m] for name in scores] for m in NAMES], expected, rtol=1e-9, atol=1e-9)


def test_a_known_ratio():
    n = np.arange(4000)
    a, b, noise = (np.sin(2 * np.pi * k * n / 4000) for k in (10, 35, 90))  # orthogonal, of equal energy
    scores = score_sources({"a": a, "b": b}, {"a": 3 * (a + 0.1 * b), "b": b + 0.01 * noise}, filter_length=1)
    assert_allclose([scores["a"]["SDR"], scores["a"]["SIR"], scores["a"]["SI-SDR"]], [20, 20, 20], rtol=0, atol=1e-6)
    assert_allclose([scores["b"]["SDR"], scores["b"]["SAR"], scores["b"]["SI-SDR"]], [40, 40, 40], rtol=0, atol=1e-6)


def test_sources_go_by_name_not_by_order_or_best_match(sounds):
    truth, guess = sounds
    scores = score_sources(truth, guess, filter_length=1)
    assert score_sources(truth, dict(reversed(guess.items())), filter_length=1) == scores
    swapped = score_sources(truth, {"a": guess["b"], "b": guess["a"], "c": guess["c"]}, filter_length=1)
    assert swapped["a"]["SDR"] < 0 < 10 < scores["a"]["SDR"]


def test_the_longer_is_cut(sounds):
    truth, guess = sounds
    shorter = {"a": guess["a"][:, :2500], "b": guess["b"], "c": guess["c"]}
    cut = [{name: x[:, :2500] for name, x in group.items()} for group in sounds]
    assert score_sources(truth, shorter, filter_length=1) == score_sources(*cut, filter_length=1)


def test_silence_counts_nothing_and_is_nan_alone(sounds):
    truth, guess = ({name: x.copy() for name, x in group.items()} for group in sounds)
    truth["a"][1] = 0.0
    truth["c"][:] = 0.0
    scores = score_sources(truth, guess, filter_length=1)
    assert all(np.isnan(value) for value in scores["c"].values())
    left = by_metrics({"a": truth["a"], "b": truth["b"], "c": truth["c"]}, guess, 0, filter_length=1)
    assert_allclose([scores["a"][m] for m in NAMES], left[:, 0], rtol=1e-9, atol=1e-9)


def test_channels_that_differ_are_refused(sounds):
    truth, guess = sounds
    mono = {name: x[0] for name, x in truth.items()}
    with pytest.raises(InputError, match="the references have 1 channels and the estimates 2; give both the same"):
        score_sources(mono, guess)
