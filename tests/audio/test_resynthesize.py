"""What is said again: nothing is lost but what the model loses, at any length, rate and number of channels."""

import numpy as np
import pytest
import scipy.signal
import soundfile
from numpy.testing import assert_allclose
from sklearn.base import BaseEstimator

import unveil
from unveil.audio import resynthesize as module
from unveil.audio.resynthesize import power_frames, resynthesize, window_length
from unveil.errors import InputError, ParameterError

RATE = 8000


class Louder(BaseEstimator):
    """Reconstructs ``gain`` times the power, and remembers what it was given."""

    def __init__(self, gain=1.0, rate=RATE):
        self.gain, self.rate, self.n_features_in_ = gain, rate, window_length(rate) // 2 + 1

    def fit(self, X):
        return self

    def reconstruct(self, X):
        self.seen = X.numpy()
        return self.gain * X


class Neighbours(Louder):
    """A frame's power depends on that frame alone, but not linearly."""

    def reconstruct(self, X):
        return X.sqrt() * X.amax(1, keepdim=True).sqrt()


def sound(n=12_345, seed=0, shape=()):
    return np.random.default_rng(seed).normal(size=(*shape, n)) * np.hanning(n)


def test_with_the_true_power_nothing_changes():
    for samples in (sound(), sound(300), 1e-4 * sound(), sound(5001, shape=(3,))):
        assert_allclose(resynthesize(samples, RATE, Louder()), samples, rtol=0, atol=1e-12)


def test_magnitudes_are_roots_of_powers():
    samples = sound(4000, shape=(2,))
    assert_allclose(resynthesize(samples, RATE, Louder(4.0)), 2 * samples, rtol=0, atol=1e-12)


def test_frames_are_those_of_another_library():
    samples, model = sound(), Louder()
    resynthesize(samples, RATE, model)
    window = scipy.signal.windows.cosine(512)
    padded = np.pad(samples / np.abs(samples).max(), 256)
    starts = np.arange(0, len(padded) - 511, 128)
    expected = np.abs([np.fft.rfft(window * padded[start : start + 512]) for start in starts]) ** 2
    assert_allclose(model.seen, expected, rtol=0, atol=1e-9 * expected.max())
    assert_allclose(power_frames([samples], RATE), expected, rtol=0, atol=1e-5 * expected.max())


def test_a_model_sees_each_recording_at_the_same_level():
    loud, quiet = Louder(), Louder()
    resynthesize(sound(), RATE, loud)
    resynthesize(0.001 * sound(), RATE, quiet)
    assert_allclose(loud.seen, quiet.seen, rtol=1e-9, atol=0)


def test_chunks_leave_no_seam(monkeypatch):
    samples = sound(20_000, shape=(2,))
    whole = resynthesize(samples, RATE, Neighbours())
    monkeypatch.setattr(module, "CHUNK_SECONDS", 0.3)
    done = []
    pieces = resynthesize(samples, RATE, Neighbours(), on_progress=done.append)
    assert len(done) == 9
    assert done == sorted(done)
    assert done[-1] == 1.0
    assert_allclose(pieces, whole, rtol=0, atol=1e-10)
    assert np.abs(whole - samples).max() > 0.1


def test_channels_do_not_mix():
    samples = sound(6000, shape=(2,))
    samples[0] /= np.abs(samples).max() / np.abs(samples[1]).max()  # the peak is that of the second
    both = resynthesize(samples, RATE, Neighbours())
    alone = resynthesize(samples[1], RATE, Neighbours())
    assert_allclose(both[1], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("rate", "n_samples"), [(16_000, 16_001), (11_025, 9_999), (44_100, 50_000)])
def test_sound_of_another_rate_is_resampled_there_and_back(rate, n_samples):
    tone = np.sin(2 * np.pi * 440 * np.arange(n_samples) / rate) * np.hanning(n_samples)
    again = resynthesize(tone, rate, Louder())
    assert again.shape == tone.shape
    assert_allclose(again, tone, rtol=0, atol=2e-3)


def test_the_rate_of_the_model_may_be_told():
    samples, model = sound(20_000), Louder(rate=22_050)  # whose windows of 1408 samples could be of 22000 Hz
    resynthesize(samples, 44_100, model)
    assert model.seen.shape[0] == round(20_000 * 22_000 / 44_100) // 352 + 1
    resynthesize(samples, 44_100, model, model_rate=22_050)
    assert model.seen.shape[0] == 10_000 // 352 + 1
    with pytest.raises(ParameterError, match="model_rate"):
        resynthesize(samples, 44_100, model, model_rate=16_000)


def test_files_folders_and_arrays_give_the_same_frames(tmp_path):
    sounds = [sound(3000, seed) / 4 for seed in range(3)]
    for i, samples in enumerate(sounds):
        soundfile.write(tmp_path / f"{i}.wav", samples, RATE, subtype="DOUBLE")
    expected = np.concatenate([power_frames([samples], RATE) for samples in sounds])
    assert expected.dtype == np.float32
    for given in (tmp_path, str(tmp_path), [tmp_path / f"{i}.wav" for i in range(3)], sounds, [np.stack([x, x]) for x in sounds]):
        assert_allclose(power_frames(given, RATE), expected, rtol=1e-4, atol=1e-6)
    assert_allclose(power_frames(tmp_path / "0.wav", RATE), power_frames(sounds[:1], RATE), rtol=1e-4, atol=1e-6)


def test_files_are_resampled(tmp_path):
    tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    soundfile.write(tmp_path / "tone.wav", tone, 16_000, subtype="DOUBLE")
    frames = power_frames(tmp_path, RATE)
    assert frames.shape == (8000 // 128 + 1, 257)
    assert frames[30].argmax() == round(1000 / RATE * 512)


def test_what_cannot_be_said_again_is_refused():
    rows = power_frames([sound(3000)], RATE)
    with pytest.raises(InputError, match="silent"):
        resynthesize(np.zeros(1000), RATE, Louder())
    with pytest.raises(InputError, match="transpose"):
        resynthesize(np.ones((1000, 2)), RATE, Louder())
    with pytest.raises(ParameterError, match="does not reconstruct"):
        resynthesize(sound(), RATE, unveil.NMF(2, max_iter=1, tol=0.0).fit(rows))
    with pytest.raises(ParameterError, match="gaussian rows"):
        resynthesize(sound(), RATE, unveil.VAE(2, hidden=4, max_epochs=1).fit(rows))
    with pytest.raises(InputError, match="no sounds"):
        power_frames([], RATE)
    with pytest.raises(InputError, match="sound 1: silent"):
        power_frames([sound(), np.zeros(100)], RATE)
    with pytest.raises(InputError, match="sound 0, made mono: silent"):
        power_frames([np.stack([sound(), -sound()])], RATE)


def test_what_is_above_the_models_frequencies_is_lost_quietly():
    tone = np.sin(2 * np.pi * 15_000 * np.arange(20_000) / 44_100) * np.hanning(20_000)
    again = resynthesize(tone, 44_100, Louder())
    assert np.isfinite(again).all()
    assert np.abs(again).max() < 1e-3
