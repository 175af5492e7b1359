"""The short-time Fourier transform against a direct sum, scipy, and its own inverse."""

import numpy as np
import pytest
import scipy.signal
import torch
from numpy.testing import assert_allclose

from unveil.kernels.stft import istft, n_frames, stft, window_length


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def hann(n_fft):
    """The periodic Hann window, by its formula."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)


def transform_by_sums(signal, n_fft, hop):
    """Each frame cut out, windowed and multiplied by the matrix of complex exponentials."""
    padded = np.concatenate([np.zeros(n_fft // 2), signal, np.zeros(n_fft)])
    exponentials = np.exp(-2j * np.pi * np.outer(np.arange(n_fft // 2 + 1), np.arange(n_fft)) / n_fft)
    starts = range(0, len(signal) + 1, hop)
    return np.stack([exponentials @ (hann(n_fft) * padded[start : start + n_fft]) for start in starts], axis=1)


@pytest.mark.parametrize(
    ("n_samples", "n_fft", "hop"), [(1000, 256, 64), (1001, 256, 64), (777, 128, 32), (100, 256, 64), (1, 64, 16)]
)
def test_frames_are_windowed_fourier_sums(n_samples, n_fft, hop):
    signal = noise(n_samples)
    found = stft(signal, n_fft, hop)
    assert found.shape == (n_fft // 2 + 1, n_frames(n_samples, hop))
    assert_allclose(found, transform_by_sums(signal.numpy(), n_fft, hop), rtol=0, atol=1e-10)


def test_frames_are_scipys():
    signal = noise(1024)
    n_fft, hop = 256, 64
    _, _, theirs = scipy.signal.stft(signal.numpy(), nperseg=n_fft, noverlap=n_fft - hop, window="hann", padded=False)
    assert_allclose(stft(signal, n_fft, hop), theirs * hann(n_fft).sum(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("n_samples", [1, 63, 64, 100, 999, 1000, 1001, 4097])
@pytest.mark.parametrize(("n_fft", "hop"), [(256, 64), (256, 128), (64, 16)])
def test_the_inverse_is_exact(n_samples, n_fft, hop):
    signal = noise(n_samples)
    assert_allclose(istft(stft(signal, n_fft, hop), n_fft, hop, n_samples), signal, rtol=0, atol=1e-12)


def test_the_inverse_is_exact_in_single_precision():
    signal = noise(1001, dtype=torch.float32)
    back = istft(stft(signal, 256, 64), 256, 64, 1001)
    assert back.dtype == torch.float32
    assert_allclose(back, signal, rtol=0, atol=1e-5)


def test_channels_are_transformed_one_by_one():
    signals = noise(2, 3, 501)
    spectra = stft(signals, 128, 32)
    assert spectra.shape == (2, 3, 65, n_frames(501, 32))
    for i in range(2):
        for j in range(3):
            assert_allclose(spectra[i, j], stft(signals[i, j], 128, 32), rtol=0, atol=1e-12)
    assert_allclose(istft(spectra, 128, 32, 501), signals, rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [5, 20, 100])
def test_a_sine_peaks_in_its_bin(k):
    n_fft, hop = 256, 64
    signal = torch.from_numpy(np.cos(2 * np.pi * k * np.arange(4096) / n_fft))
    magnitude = stft(signal, n_fft, hop).abs()[:, 4:-4]  # frames that lie inside the signal
    assert (magnitude.argmax(0) == k).all()
    # the window's own transform: half of its sum at the peak, half of that beside it, nothing beyond
    assert_allclose(magnitude[k], np.full(magnitude.shape[1], n_fft / 4), rtol=1e-9, atol=0)
    assert_allclose(magnitude[k + 1], np.full(magnitude.shape[1], n_fft / 8), rtol=1e-9, atol=0)
    assert_allclose(magnitude[k + 2], np.zeros(magnitude.shape[1]), rtol=0, atol=1e-9)


def test_energy_is_kept():
    """Parseval: with squared Hann windows that overlap by three quarters, sum over frames of w^2 is 3/2 everywhere."""
    n_fft, hop = 256, 64
    signal = torch.cat([torch.zeros(n_fft), noise(2000), torch.zeros(n_fft)]).double()
    power = stft(signal, n_fft, hop).abs().square()
    two_sided = 2 * power.sum() - power[0].sum() - power[-1].sum()
    assert_allclose(two_sided / n_fft, 1.5 * signal.square().sum(), rtol=1e-10, atol=0)


def test_the_inverse_of_a_changed_spectrogram_is_the_closest_signal():
    n_fft, hop, n_samples = 32, 8, 90
    basis = stft(torch.eye(n_samples, dtype=torch.float64), n_fft, hop).reshape(n_samples, -1).T.numpy()
    wanted = stft(noise(n_samples), n_fft, hop) * noise(n_fft // 2 + 1, n_frames(n_samples, hop), seed=1).abs()
    # the real transform counts the inner bins twice, as both halves of the spectrum
    twice = np.repeat(np.r_[1.0, np.full(n_fft // 2 - 1, np.sqrt(2.0)), 1.0], wanted.shape[1])
    design, goal = basis * twice[:, None], wanted.numpy().ravel() * twice
    solution = np.linalg.lstsq(np.vstack([design.real, design.imag]), np.concatenate([goal.real, goal.imag]), rcond=None)[0]
    assert_allclose(istft(wanted, n_fft, hop, n_samples), solution, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("rate", "length"), [(8000, 1024), (16000, 2048), (22050, 4096), (44100, 8192), (48000, 8192), (100, 64)])
def test_windows_last_about_150_milliseconds(rate, length):
    assert window_length(rate) == length


def test_transforms_differentiate():
    signal, spectrum = noise(11).requires_grad_(), noise(2, 5, 3)
    spectrum = torch.complex(*spectrum).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: torch.view_as_real(stft(x, 8, 4)), signal)
    assert torch.autograd.gradcheck(lambda x: istft(x, 8, 4, 11), spectrum)


def test_sine_window_is_half_a_sine_and_its_inverse_exact():
    """A constant signal under half a sine: the sum of the window is the zero frequency of a frame in the middle."""
    window = np.sin(np.pi * (np.arange(64) + 0.5) / 64)
    spectrum = stft(torch.ones(640, dtype=torch.float64), 64, 16, "sine")
    assert_allclose(spectrum[0, 20].abs(), window.sum(), rtol=1e-12, atol=0)
    x = torch.randn(3, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_allclose(istft(stft(x, 64, 16, "sine"), 64, 16, 1000, "sine"), x, rtol=0, atol=1e-12)
