"""Cepstral coefficients against direct sums, scipy's cosine transform, and sounds of which the bands are known."""

import numpy as np
import pytest
import scipy.fft
import scipy.signal
import torch
from numpy.testing import assert_allclose, assert_array_equal

from unveil.audio.features import log_mel, mfcc, trim_silence
from unveil.errors import InputError, ParameterError
from unveil.kernels.cepstrum import cosine_basis, mel, mel_filterbank, slopes


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def tone(frequency, sample_rate, seconds=0.5):
    return np.sin(2 * np.pi * frequency * np.arange(round(seconds * sample_rate)) / sample_rate)


def triangle(band, n_mels, n_fft, sample_rate):
    """One band by the definition: up from its left neighbour's centre, down to its right neighbour's, straight in mel."""
    top = 1127.01048 * np.log(1 + sample_rate / 2 / 700)  # the same scale, by natural logarithms
    left, centre, right = (top * i / (n_mels + 1) for i in (band, band + 1, band + 2))
    row = np.zeros(n_fft // 2 + 1)
    for k in range(len(row)):
        pitch = 1127.01048 * np.log(1 + k * sample_rate / n_fft / 700)
        if left < pitch <= centre:
            row[k] = (pitch - left) / (centre - left)
        elif centre < pitch < right:
            row[k] = (right - pitch) / (right - centre)
    return row


def test_a_thousand_hertz_are_a_thousand_mel():
    found = mel(torch.tensor([0.0, 1000.0, 6300.0], dtype=torch.float64))
    assert_allclose(
        found, [0, 1000, 2595], rtol=0, atol=0.02
    )  # 2595 is rounded so that it is nearly so; 6300 Hz are nine times 700


@pytest.mark.parametrize(("n_mels", "n_fft", "sample_rate"), [(26, 200, 8000), (26, 400, 16000), (40, 512, 16000)])
def test_bands_are_triangles_in_mel(n_mels, n_fft, sample_rate):
    found = mel_filterbank(n_mels, n_fft, sample_rate)
    assert found.shape == (n_mels, n_fft // 2 + 1)
    expected = np.stack([triangle(band, n_mels, n_fft, sample_rate) for band in range(n_mels)])
    assert_allclose(found, expected, rtol=0, atol=1e-6)  # 1127.01048 is 2595 / ln 10 to nine digits


def test_bands_keep_between_their_limits_and_share_what_is_inside():
    bands = mel_filterbank(10, 2000, 8000, low=300, high=3000)
    frequencies = np.arange(1001) * 4.0
    assert not bands[:, (frequencies <= 300) | (frequencies >= 3000)].any()
    inside = (frequencies > 480) & (frequencies < 2550)  # between the centres of the first and the last band
    assert_allclose(bands.sum(0)[inside], np.ones(inside.sum()), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n_points", "n_coefficients"), [(26, 13), (8, 8), (5, 1)])
def test_the_cosine_transform_is_scipys(n_points, n_coefficients):
    values = noise(7, n_points)
    expected = scipy.fft.dct(values, norm="ortho", axis=1)[:, :n_coefficients]
    assert_allclose(torch.from_numpy(values) @ cosine_basis(n_points, n_coefficients).T, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("reach", [1, 2, 4])
def test_slopes_are_those_of_regression_lines(reach):
    features = noise(12, 3)
    found = slopes(torch.from_numpy(features), reach)
    repeated = np.pad(features, ((reach, reach), (0, 0)), mode="edge")
    time = np.arange(-reach, reach + 1)
    expected = [np.polyfit(time, repeated[t : t + len(time)], 1)[0] for t in range(len(features))]
    assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_one_frame_has_no_slope():
    assert_array_equal(slopes(torch.ones(1, 4, dtype=torch.float64)), np.zeros((1, 4)))


def coefficients_by_sums(signal, sample_rate, frame, n_mels=26):
    """The coefficients of one frame inside the signal, from the definition of every step."""
    n_fft, hop = sample_rate // 40, sample_rate // 100
    window = scipy.signal.get_window("hann", n_fft)
    piece = window * signal[frame * hop - n_fft // 2 :][:n_fft]
    k, n = np.arange(n_fft // 2 + 1)[:, None], np.arange(n_fft)
    power = np.abs((piece * np.exp(-2j * np.pi * k * n / n_fft)).sum(1)) ** 2
    energies = [triangle(band, n_mels, n_fft, sample_rate) @ power for band in range(n_mels)]
    return scipy.fft.dct(np.log(energies), norm="ortho")


@pytest.mark.parametrize("sample_rate", [8000, 16000])
def test_a_frame_is_the_cosine_transform_of_its_log_bands(sample_rate):
    signal = noise(sample_rate // 2)
    found = mfcc(signal, sample_rate, deltas=False, normalize="none")
    assert found.shape == (51, 13)
    without_c0 = mfcc(signal, sample_rate, deltas=False, normalize="none", energy=False)
    for frame in (2, 17, 40):
        expected = coefficients_by_sums(signal, sample_rate, frame)
        assert_allclose(found[frame], expected[:13], rtol=0, atol=1e-5)  # the bands' constant has nine digits
        assert_allclose(without_c0[frame], expected[1:14], rtol=0, atol=1e-5)


def test_flat_bands_keep_the_energy_of_a_frame():
    """Parseval: where the bands add up to one, their sum is half the windowed frame's energy times the number of samples."""
    sample_rate, n_fft = 8000, 200
    signal = tone(1000, sample_rate) + tone(2000, sample_rate)  # far from both ends of the scale
    found = np.exp(log_mel(signal, sample_rate))[20].sum()
    piece = scipy.signal.get_window("hann", n_fft) * signal[20 * 80 - n_fft // 2 :][:n_fft]
    assert_allclose(found, n_fft * (piece**2).sum() / 2, rtol=1e-6, atol=0)  # the floor adds 26 bands of 1e-8


@pytest.mark.parametrize("sample_rate", [8000, 16000])
@pytest.mark.parametrize("band", [3, 10, 20, 24])
def test_a_tone_peaks_in_its_band(sample_rate, band):
    centre = 700 * ((1 + sample_rate / 2 / 700) ** ((band + 1) / 27) - 1)
    found = log_mel(tone(centre, sample_rate), sample_rate)
    assert (found[3:-3].argmax(1) == band).all()


def test_slopes_stand_behind_the_coefficients():
    signal = noise(4000)
    static = mfcc(signal, 8000, deltas=False)
    full = mfcc(signal, 8000)
    assert full.shape == (51, 39)
    assert_array_equal(full[:, :13], static)
    padded = np.pad(static, ((2, 2), (0, 0)), mode="edge")
    velocity = (2 * (padded[4:] - padded[:-4]) + padded[3:-1] - padded[1:-3]) / 10
    assert_allclose(full[:, 13:26], velocity, rtol=0, atol=1e-12)
    padded = np.pad(velocity, ((2, 2), (0, 0)), mode="edge")
    assert_allclose(full[:, 26:], (2 * (padded[4:] - padded[:-4]) + padded[3:-1] - padded[1:-3]) / 10, rtol=0, atol=1e-12)


def test_normalization_over_the_utterance():
    signal = noise(4000) * np.linspace(0.1, 1, 4000)
    plain = mfcc(signal, 8000, deltas=False, normalize="none")
    assert_allclose(mfcc(signal, 8000, deltas=False), plain - plain.mean(0), rtol=0, atol=1e-12)
    standard = (plain - plain.mean(0)) / plain.std(0)
    assert_allclose(mfcc(signal, 8000, deltas=False, normalize="variance"), standard, rtol=0, atol=1e-10)


@pytest.mark.parametrize("gain", [1e-4, 0.3, 100.0])
def test_loudness_changes_nothing(gain):
    signal = noise(4000)
    assert_allclose(mfcc(gain * signal, 8000), mfcc(signal, 8000), rtol=0, atol=1e-9)


def test_a_fixed_filter_is_taken_away_where_it_is_smooth():
    signal = noise(16000)
    filtered = scipy.signal.lfilter([1, -0.9], [1], signal)
    plain, other = (mfcc(x, 8000, deltas=False)[2:-2] for x in (signal, filtered))
    raw, coloured = (mfcc(x, 8000, deltas=False, normalize="none")[2:-2] for x in (signal, filtered))
    assert np.abs(coloured - raw).mean(0).max() > 5
    assert np.abs(other - plain).mean() < 0.2


@pytest.mark.parametrize("normalize", ["mean", "variance", "none"])
@pytest.mark.parametrize("signal", [np.zeros(4000), np.zeros(1), np.ones(1), 1e-300 * np.ones(4000), noise(79)])
def test_silence_and_single_frames_give_finite_numbers(signal, normalize):
    found = mfcc(signal, 8000, normalize=normalize)
    assert found.shape == (len(signal) // 80 + 1, 39)
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 1e4


@pytest.mark.parametrize("normalize", ["mean", "variance"])
def test_what_does_not_change_is_zero(normalize):
    assert_allclose(mfcc(np.zeros(4000), 8000, normalize=normalize), np.zeros((51, 39)), rtol=0, atol=1e-9)


def test_trimming_keeps_what_is_between_the_silences():
    signal = np.concatenate([1e-4 * noise(1600), tone(440, 8000), np.zeros(800), tone(440, 8000), 1e-4 * noise(2400)])
    trimmed = trim_silence(signal, 8000)
    assert_array_equal(trimmed, signal[1600:-2400])
    assert_array_equal(mfcc(signal, 8000, trim_db=40), mfcc(trimmed, 8000))
    assert_array_equal(trim_silence(signal, 8000, threshold_db=100), signal)
    assert_array_equal(trim_silence(np.zeros(100), 8000), np.zeros(100))


def test_a_short_last_piece_is_as_loud_as_its_samples():
    signal = np.concatenate([np.ones(800), np.full(10, 0.2)])  # 14 dB below, 10 of the 80 samples of a piece
    assert_array_equal(trim_silence(signal, 8000, threshold_db=20), signal)
    assert_array_equal(trim_silence(signal, 8000, threshold_db=10), signal[:800])


def test_the_input_is_not_modified():
    signal = noise(4000).astype(np.float32)
    before = signal.copy()
    mfcc(signal, 8000, trim_db=30)
    assert_array_equal(signal, before)


@pytest.mark.parametrize(
    ("signal", "message"),
    [(np.zeros((2, 100)), "average or choose"), (np.zeros(0), "n_samples"), (np.array([0, np.nan]), "NaN"), (3.0, "shape")],
)
def test_what_is_no_sound_is_refused(signal, message):
    for function in (mfcc, log_mel, trim_silence):
        with pytest.raises(InputError, match=message):
            function(signal, 8000)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_coefficients": 27}, "expected 1 to 26"),
        ({"n_coefficients": 26, "energy": False}, "expected 1 to 25"),
        ({"n_coefficients": 0}, "expected 1 to 26"),
        ({"n_mels": 80}, "use fewer"),
        ({"n_mels": 0}, "expected at least 1"),
        ({"window": 0.0001}, "too short"),
        ({"hop": 0.0}, "too short"),
        ({"trim_db": 0}, "positive"),
        ({"normalize": "max"}, "mean, variance, none"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ParameterError, match=message):
        mfcc(noise(800), 8000, **settings)
