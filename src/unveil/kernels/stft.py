"""The short-time Fourier transform and its exact inverse."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def stft(signal: Tensor, n_fft: int, hop: int, window: str = "hann") -> Tensor:
    """Complex spectrogram (..., n_fft // 2 + 1, n_frames) of real signals (..., n_samples).

    Frames are windowed by a Hann window, or by half of a sine (``window="sine"``), and centred on multiples of ``hop``; the signal is
    taken to be zero outside.

    Examples
    --------
    >>> x = torch.randn(2, 1000, dtype=torch.float64)
    >>> bool((istft(stft(x, 256, 64), 256, 64, 1000) - x).abs().max() < 1e-12)
    True
    """
    flat = signal.reshape(-1, signal.shape[-1])
    frames = {"window": _window(window, signal, n_fft), "center": True, "pad_mode": "constant"}
    spectrum = torch.stft(flat, n_fft, hop, **frames, return_complex=True)
    return spectrum.reshape(*signal.shape[:-1], *spectrum.shape[-2:])


def istft(spectrum: Tensor, n_fft: int, hop: int, n_samples: int, window: str = "hann") -> Tensor:
    """The signals (..., n_samples) of complex spectrograms (..., n_fft // 2 + 1, n_frames).

    Undoes ``stft`` exactly; of a changed spectrogram it gives the signal whose transform is closest in the least squares sense
    (Griffin and Lim, 1984).
    """
    flat = spectrum.reshape(-1, *spectrum.shape[-2:])
    signal = torch.istft(flat, n_fft, hop, window=_window(window, spectrum.real, n_fft), center=True, length=n_samples)
    return signal.reshape(*spectrum.shape[:-2], n_samples)


def n_frames(n_samples: int, hop: int) -> int:
    """How many frames ``stft`` makes of a signal."""
    return n_samples // hop + 1


def window_length(sample_rate: int, seconds: float = 0.15) -> int:
    """The power of two that is nearest to ``seconds`` of samples: long enough to resolve the partials of low notes."""
    return max(64, 2 ** round(torch.log2(torch.tensor(seconds * sample_rate)).item()))


def _window(kind: str, like: Tensor, n_fft: int) -> Tensor:
    if kind == "sine":
        return torch.sin(math.pi * (torch.arange(n_fft, dtype=like.dtype, device=like.device) + 0.5) / n_fft)
    return torch.hann_window(n_fft, dtype=like.dtype, device=like.device)
