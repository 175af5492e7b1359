"""Onsets of made-up words at known times: at every sample rate, loudness and level of noise; and what is no such sound."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from unveil.audio.features import log_mel
from unveil.audio.onsets import OnsetDetector, detect_onsets, onset_features
from unveil.errors import IdentifiabilityWarning, InputError
from unveil.metrics.onsets import onset_f_measure

RATE = 8000


def word(rate, rng):
    """A hiss and two glides, of lengths that vary by a tenth."""
    hiss = 0.2 * rng.normal(size=round(0.08 * rng.uniform(0.9, 1.1) * rate))
    glides = [
        np.sin(2 * np.pi * np.cumsum(np.linspace(low, high, round(0.15 * rng.uniform(0.9, 1.1) * rate))) / rate)
        for low, high in ((300, 900), (2500, 1300))
    ]
    return np.concatenate([hiss, *glides])


def words(rate=RATE, n_words=12, noise=0.02, seed=0):
    """A sound, and when its words begin."""
    rng = np.random.default_rng(seed)
    pieces, onsets, n = [], [], 0
    for _ in range(n_words):
        gap, said = np.zeros(round(rng.uniform(0.2, 0.6) * rate)), word(rate, rng)
        onsets.append((n + len(gap)) / rate)
        pieces += [gap, said]
        n += len(gap) + len(said)
    clean = np.concatenate([*pieces, np.zeros(rate // 3)])
    return clean + noise * rng.normal(size=len(clean)), np.array(onsets)


@pytest.fixture(scope="module")
def detector():
    return OnsetDetector.learn(words()[0], RATE)


def test_onsets_of_words_not_heard_before(detector):
    sound, onsets = words(seed=1)
    found = detector(sound)
    assert onset_f_measure(onsets, found).f_measure == 1
    assert_allclose(found, onsets, rtol=0, atol=0.03)  # the window is 50 ms long


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
def test_any_sample_rate(rate):
    sound, onsets = words(rate)
    found = detect_onsets(sound, rate)
    assert onset_f_measure(onsets, found).f_measure == 1


@pytest.mark.parametrize("noise", [0.0, 0.001, 0.01, 0.1])
def test_any_level_of_noise(noise):
    sound, onsets = words(noise=noise, seed=2)
    assert onset_f_measure(onsets, detect_onsets(sound, RATE)).f_measure >= 0.95


@pytest.mark.parametrize("init", ["moments", "kmeans"])
def test_either_start(init):
    sound, onsets = words(seed=3)
    assert onset_f_measure(onsets, detect_onsets(sound, RATE, init=init)).f_measure == 1


def test_several_recordings_of_different_loudness():
    recordings = [gain * words(n_words=4, seed=seed)[0] for seed, gain in ((4, 1.0), (5, 0.01), (6, 30.0))]
    detector = OnsetDetector.learn(recordings, RATE)
    for seed in (7, 8):
        sound, onsets = words(seed=seed)
        assert onset_f_measure(onsets, detector(sound)).f_measure == 1


def test_the_onsets_are_where_the_path_leaves_the_silence(detector):
    sound, _ = words(seed=1)
    path, silence = detector.states(sound), set(np.flatnonzero(detector.silent_states))
    expected = [t * 0.01 for t in range(1, len(path)) if path[t - 1] in silence and path[t] not in silence]
    assert_allclose(detector(sound), expected, rtol=0, atol=1e-12)
    assert set(np.diff(path) % 8) == {0, 1}


def test_the_silent_states_are_between_words(detector):
    sound, onsets = words(seed=1)
    silent = detector.silent_states[detector.states(sound)]
    assert silent[np.round((onsets - 0.1) * 100).astype(int)].all()  # gaps are 0.2 s at least
    assert not silent[np.round((onsets + 0.15) * 100).astype(int)].any()


@pytest.mark.parametrize("turn", range(6))
@pytest.mark.parametrize(
    ("energy", "silent"),
    [
        ([-1, 1, 2, 0, 0.3, 0.5], [0]),
        ([-1, -0.9, 2, 0, 0.3, 0.5], [0, 1]),
        ([-1, -0.9, 2, 0, -0.86, -0.9], [0, 1, 4, 5]),
        ([-1, 1, 2, -0.9, 0.3, 0.5], [0]),  # as quiet as that, but inside of the word
        ([0, 0, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5]),
    ],
)
def test_silence_is_the_lowest_state_and_its_quiet_neighbours(energy, silent, turn):
    means = np.roll(np.array(energy, dtype=float), turn)[:, None] + np.array([-0.5, 0.5])
    expected = np.isin(np.arange(6), (np.array(silent) + turn) % 6)
    found = OnsetDetector(SimpleNamespace(means_=means), RATE).silent_states
    assert_array_equal(found, expected)


@pytest.mark.parametrize("gain", [1e-3, 0.5, 200.0])
def test_loudness_changes_nothing(detector, gain):
    sound, _ = words(seed=1)
    assert_allclose(onset_features(gain * sound, RATE), onset_features(sound, RATE), rtol=0, atol=1e-8)
    assert_array_equal(detector(gain * sound), detector(sound))


@pytest.mark.parametrize("noise", [0.0, 1e-5, 0.02], ids=["digital silence", "near silence", "background"])
def test_a_long_silence_at_the_beginning(noise):
    sound, onsets = words(seed=9)
    sound = np.concatenate([noise * np.random.default_rng(0).normal(size=4 * RATE), sound])
    assert onset_f_measure(onsets + 4, detect_onsets(sound, RATE)).f_measure == 1


def test_what_has_begun_before_the_recording_is_no_onset(detector):
    sound, onsets = words(seed=1)
    begin = onsets[0] + 0.1
    found = detector(sound[round(begin * RATE) :])
    assert_allclose(found, onsets[1:] - begin, rtol=0, atol=0.03)


def test_times_do_not_drift():
    rate = 11025  # of which 10 ms are not a whole number of samples
    sound, onsets = words(rate, n_words=80, seed=10)
    found = detect_onsets(sound, rate)
    assert onsets[-1] > 55
    assert_allclose(found[-10:], onsets[-10:], rtol=0, atol=0.03)


def test_features_by_their_definition():
    sound, _ = words(n_words=3)
    energy = np.exp(log_mel(sound, RATE, n_mels=20, window=0.05, hop=0.01))
    background = np.exp(np.quantile(np.log(energy), 0.3, axis=0))
    above = np.log(1 + np.maximum(energy, background) / (3 * background))
    above -= above.mean(0)
    scale = [max(column.std(), 0.5 * above.std()) for column in above.T]
    assert_allclose(onset_features(sound, RATE), above / scale, rtol=0, atol=1e-9)


def test_silence_around_a_recording_is_as_quiet_as_its_background():
    sound, _ = words(n_words=5)
    frames = onset_features(np.concatenate([np.zeros(2 * RATE), sound]), RATE)
    for band in frames.T:
        assert_allclose(band[:190], band.min(), rtol=0, atol=1e-12)  # below which 30 % of the others are, too
        assert (band[200:] <= band.min() + 1e-12).mean() > 0.25


def test_a_band_without_sound_stays_small():
    sound, _ = words(RATE, seed=1, noise=0)
    upper = 3 * np.fft.irfft(np.fft.rfft(sound), n=3 * len(sound))  # 24000 Hz, nothing above 4000 Hz
    for noise in (0, 0.01):
        frames = onset_features(upper + noise * np.random.default_rng(0).normal(size=len(upper)), 3 * RATE)
        assert np.isfinite(frames).all()
        assert frames[:, -3:].std(0).max() < 0.3 < frames[:, 5].std()


def test_the_input_is_not_modified():
    sound, _ = words()
    before = sound.copy()
    detect_onsets(sound, RATE)
    assert_array_equal(sound, before)


def test_the_same_seed_gives_the_same_onsets():
    sound, _ = words()
    assert_array_equal(detect_onsets(sound, RATE, random_state=3), detect_onsets(sound, RATE, random_state=3))


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (np.zeros(RATE), "recording 0: silent"),
        (np.zeros(0), "recording 0 has shape"),
        (np.full(RATE, np.nan), "recording 0 holds NaN"),
        (np.ones((1, RATE)), "average or choose"),
        (np.random.default_rng(0).normal(size=RATE // 5), "0.21 s of sound is too short for 8 states; give at least 0.40 s"),
    ],
)
def test_what_is_no_recording_of_words_is_refused(sound, message):
    with pytest.raises(InputError, match=message):
        OnsetDetector.learn([sound], RATE)
    with pytest.raises(InputError):
        detect_onsets(sound, RATE)


@pytest.mark.parametrize("rate", [8000, 48000])
@pytest.mark.parametrize("gain", [1.0, 1e-3])
def test_a_steady_background_is_doubted(rate, gain):
    with pytest.warns(IdentifiabilityWarning, match="recording 0 is hardly more than a steady background"):
        OnsetDetector.learn(gain * np.random.default_rng(0).normal(size=2 * rate), rate)


def test_words_in_much_noise_are_not_doubted():
    with warnings.catch_warnings():
        warnings.simplefilter("error", IdentifiabilityWarning)
        onset_features(words(noise=0.5)[0], RATE)  # as much noise as there is signal, nearly


def test_nothing_to_learn_from_is_refused():
    with pytest.raises(InputError, match="too short"):
        OnsetDetector.learn([], RATE)


def test_what_is_no_sound_to_search_is_refused(detector):
    for sound, message in ((np.zeros(RATE), "silent"), (np.ones((2, RATE)), "average"), (words()[0][:800], "too short")):
        with pytest.raises(InputError, match=message):
            detector(sound)
