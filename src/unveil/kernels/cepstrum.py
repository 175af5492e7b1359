"""Mel bands, cepstral coefficients and their slopes: what speech recognition looks at (Davis and Mermelstein, 1980)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def mel(frequency: Tensor) -> Tensor:
    """Pitch in mel of frequencies in hertz: 2595 log10(1 + f / 700) (O'Shaughnessy, 1987; also HTK's)."""
    return 2595 * torch.log10(1 + frequency / 700)


def mel_filterbank(n_mels: int, n_fft: int, sample_rate: float, low: float = 0.0, high: float | None = None) -> Tensor:
    """Triangular bands (n_mels, n_fft // 2 + 1) over the frequencies of ``stft``, equally wide in mel, each one peaking at 1.

    Band b is 1 - abs(mel(f) - m_b) / s where that is positive, and the centres m_b lie s apart between ``low`` and ``high`` in hertz,
    by default half the sample rate (The HTK Book, section 5.4).

    Examples
    --------
    >>> bands = mel_filterbank(20, 512, 16000)
    >>> bands.shape, bool((bands.sum(1) > 0).all())
    (torch.Size([20, 257]), True)
    """
    edges = mel(torch.tensor([low, sample_rate / 2 if high is None else high], dtype=torch.float64))
    points = torch.linspace(float(edges[0]), float(edges[1]), n_mels + 2, dtype=torch.float64)
    pitches = mel(torch.arange(n_fft // 2 + 1, dtype=torch.float64) * sample_rate / n_fft)
    spacing = points[1] - points[0]
    return (1 - (pitches - points[1:-1, None]).abs() / spacing).clamp_min(0)


def cosine_basis(n_points: int, n_coefficients: int) -> Tensor:
    """The first rows (n_coefficients, n_points) of the orthonormal DCT-II: cos(pi k (n + 1/2) / N) sqrt(2 / N), row 0 over sqrt(2)."""
    k = torch.arange(n_coefficients, dtype=torch.float64)[:, None]
    n = torch.arange(n_points, dtype=torch.float64)
    basis = torch.cos(math.pi * k * (n + 0.5) / n_points) * math.sqrt(2 / n_points)
    basis[0] /= math.sqrt(2)
    return basis


def slopes(features: Tensor, reach: int = 2) -> Tensor:
    """Regression slopes over time of features (n_frames, D): sum_k k (c_{t+k} - c_{t-k}) / (2 sum_k k^2), k = 1 .. ``reach``.

    The first and the last frame are repeated beyond the ends (The HTK Book, equation 5.16).
    """
    n_frames = len(features)
    padded = torch.cat([features[:1].expand(reach, -1), features, features[-1:].expand(reach, -1)])
    rises = [k * (padded[reach + k :][:n_frames] - padded[reach - k :][:n_frames]) for k in range(1, reach + 1)]
    return sum(rises) / (2 * sum(k * k for k in range(1, reach + 1)))
