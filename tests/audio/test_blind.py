"""Melodies are separated with no examples, and it is said when they cannot be."""

import warnings

import numpy as np
import pytest
import soundfile
from numpy.testing import assert_allclose

from unveil.audio.blind import BlindSeparator, separate_blind, separate_file_blind
from unveil.errors import IdentifiabilityWarning, InputError, ParameterError
from unveil.metrics.bss import bss_eval
from unveil.models.revealing_factorial_hmm import RevealingFactorialHMM

RATE = 8000
PITCHES = ((110.0, 147.0, 196.0), (660.0, 880.0, 1047.0))  # of two instruments


def tone(pitch, seconds, rng):
    """A note with decaying partials of fixed strengths, at a random loudness."""
    t = np.arange(int(seconds * RATE)) / RATE
    partials = [np.exp(-0.3 * h) * np.sin(2 * np.pi * h * pitch * t) for h in range(1, 8) if h * pitch < 0.45 * RATE]
    fade = np.minimum(1.0, np.minimum(t, t[::-1]) / 0.02)
    return rng.uniform(0.5, 1.0) * fade * np.sum(partials, 0)


def melody(pitches, seconds, length, rng, rests):
    """Notes and rests in a row."""
    notes = []
    while sum(map(len, notes), 0) < length:
        notes.append(np.zeros(int(seconds * RATE)) if rng.random() < rests else tone(rng.choice(pitches), seconds, rng))
    return np.concatenate(notes)[:length]


def duet(seed, seconds=16.0, rests=0.35):
    rng = np.random.default_rng(seed)
    parts = [melody(p, s, int(seconds * RATE), rng, rests) for p, s in zip(PITCHES, (0.7, 0.4), strict=True)]
    return np.stack([0.1 * part / part.std() for part in parts])


@pytest.fixture(scope="module")
def separated():
    parts = duet(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", IdentifiabilityWarning)
        return parts, separate_blind(parts.sum(0), RATE)


def test_the_parts_come_back_in_the_order_of_their_centroids(separated):
    parts, found = separated
    assert list(found.sources) == ["source1", "source2"]
    scores = bss_eval(parts, np.stack(list(found.sources.values())), permute=False)
    assert scores.sdr.min() > 15.0
    assert found.trustworthy


def test_the_estimates_add_up_to_the_mixture(separated):
    parts, found = separated
    assert_allclose(sum(found.sources.values()), parts.sum(0), rtol=0, atol=1e-10)


def test_what_else_is_told(separated):
    _, found = separated
    assert found.n_fft == 1024
    assert found.hop == 256
    assert found.activations.shape == (int(16.0 * RATE) // 256 + 1, found.model.n_components_)
    assert found.diagnostics.residual < 0.03
    assert len(found.model.sources_) == found.activations.shape[1]


def test_the_same_seed_gives_the_same(separated):
    parts, found = separated
    again = separate_blind(parts.sum(0), RATE)
    for name, estimate in found.sources.items():
        assert_allclose(again.sources[name], estimate, rtol=0, atol=0)


def test_stereo_is_learned_on_the_mean_and_adds_up_in_each_channel():
    parts = duet(1)
    image = np.stack([np.outer([0.8, 0.4], parts[0]), np.outer([0.3, 0.9], parts[1])])  # (source, channel, sample)
    mixture = image.sum(0)
    before = mixture.copy()
    found = separate_blind(mixture, RATE)
    estimates = np.stack(list(found.sources.values()))
    assert estimates.shape == image.shape
    assert_allclose(estimates.sum(0), mixture, rtol=0, atol=1e-10)
    assert_allclose(mixture, before, rtol=0, atol=0)
    for channel in range(2):
        assert bss_eval(image[:, channel], estimates[:, channel]).sdr.min() > 12.0


@pytest.mark.parametrize("seed", range(2))
def test_parts_that_are_never_alone_are_doubted(seed):
    parts = duet(seed, seconds=30.0, rests=0.0)
    with pytest.warns(IdentifiabilityWarning):
        found = separate_blind(parts.sum(0), RATE)
    assert not found.trustworthy
    assert_allclose(sum(found.sources.values()), parts.sum(0), rtol=0, atol=1e-10)


def test_a_file_is_separated_as_its_samples_are(separated, tmp_path):
    parts, found = separated
    soundfile.write(tmp_path / "mix.wav", parts.sum(0), RATE, subtype="DOUBLE")
    paths, learned = separate_file_blind(tmp_path / "mix.wav", tmp_path / "out")
    assert sorted(path.name for path in paths.values()) == ["source1.wav", "source2.wav"]
    assert learned.model.n_components_ == found.model.n_components_
    for name, path in paths.items():
        samples, rate = soundfile.read(path)
        assert rate == RATE
        assert_allclose(samples, found.sources[name], rtol=0, atol=1e-6)  # 32-bit samples


def test_long_recordings_are_learned_from_their_beginning(monkeypatch, separated):
    parts, found = separated
    monkeypatch.setattr("unveil.audio.blind.LEARNING_SECONDS", 16.0)
    longer = np.concatenate([parts.sum(0), parts.sum(0)[: 3 * RATE]])
    learned = BlindSeparator.learn(longer, RATE)
    assert_allclose(learned.model.components_, found.model.components_, rtol=0, atol=1e-2)  # the last frame sees what follows
    whole = learned(longer)
    assert whole.sources["source1"].shape == longer.shape
    assert_allclose(sum(whole.sources.values()), longer, rtol=0, atol=1e-10)


def test_settings_of_the_model_are_taken(separated):
    parts, _ = separated
    model = RevealingFactorialHMM(n_clusters=60, max_components=8, random_state=1)
    found = separate_blind(parts.sum(0), RATE, model=model)
    assert found.model.n_clusters == 60
    assert found.model.n_components_ <= 8
    assert not hasattr(model, "model_")  # what was given stays as it was


@pytest.mark.parametrize(
    ("mixture", "n_sources", "message"),
    [
        (np.zeros(8000), 2, "silent"),
        (np.full(8000, np.nan), 2, "NaN"),
        (np.sin(np.arange(100.0)), 2, "some seconds"),
        (np.sin(np.arange(8000.0)), 1, "expected 2 to 6"),
        (np.sin(np.arange(8000.0)), 7, "expected 2 to 6"),
        (np.outer([1, -1], np.sin(np.arange(8000.0))), 2, "one of the channels"),
    ],
)
def test_what_cannot_be_separated(mixture, n_sources, message):
    with pytest.raises((InputError, ParameterError), match=message):
        separate_blind(mixture, RATE, n_sources)


def test_a_constant_does_no_harm(separated):
    parts, _ = separated
    found = separate_blind(parts.sum(0) + 0.3, RATE)
    estimates = np.stack(list(found.sources.values()))
    assert bss_eval(parts, estimates - estimates.mean(1, keepdims=True)).sdr.min() > 12


def test_channels_that_cancel_are_refused():
    part = duet(0).sum(0)
    with pytest.raises(InputError, match="the mean of the channels is silent"):
        separate_blind(np.stack([part, -part * (1 + 1e-7)]), RATE)


def test_settings_that_are_none():
    part = duet(0).sum(0)
    with pytest.raises(ParameterError, match="sample_rate=0: expected a whole number"):
        separate_blind(part, 0)
    with pytest.raises(ParameterError, match="model=str: expected a RevealingFactorialHMM"):
        separate_blind(part, RATE, model="nmf")
