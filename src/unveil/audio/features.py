"""What speech sounds like, frame by frame: mel-frequency cepstral coefficients."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unveil.data.workers import cores_for
from unveil.errors import InputError, ParameterError
from unveil.kernels.cepstrum import cosine_basis, mel_filterbank, slopes
from unveil.kernels.stft import stft

DYNAMIC_RANGE = 1e-8  # bands of less power than so much of the loudest one (80 dB below) count as silent
SILENCE = 1e-20  # the power of a band of digital silence, whose logarithm must be a number


def mfcc(
    signal: np.ndarray,
    sample_rate: int,
    *,
    n_coefficients: int = 13,
    n_mels: int = 26,
    window: float = 0.025,
    hop: float = 0.010,
    energy: bool = True,
    deltas: bool = True,
    normalize: str = "mean",
    trim_db: float | None = None,
) -> np.ndarray:
    """Mel-frequency cepstral coefficients of a sound: the shape of its spectrum in time, without its pitch.

    With the short-time Fourier transform X of the signal, under a Hann window, and triangular mel bands H_b::

        E_tb = sum_f H_bf |X_ft|^2,   c_tk = sqrt(2 / B) sum_b log(E_tb) cos(pi k (b + 1/2) / B),

    normalised over the utterance, and followed by their slopes over time and the slopes of these. Loudness and a fixed linear filter
    (a microphone, a room) add a constant to the coefficients, which normalisation takes away; so there is no pre-emphasis.

    Parameters
    ----------
    signal : ndarray of shape (n_samples,)
        One channel; silence and a single sample will do.
    sample_rate : int
        In hertz.
    n_coefficients : int
        How many coefficients, at most ``n_mels``.
    n_mels : int
        B, the number of bands between 0 and half the sample rate.
    window, hop : float
        Length of a frame, and the step from one to the next, in seconds. Frames are centred on multiples of ``hop``.
    energy : bool
        Whether the coefficients begin with c_0, the mean log energy of the bands, or with c_1.
    deltas : bool
        Whether the slopes over five frames, and their slopes, are appended: three times as many features.
    normalize : {"mean", "variance", "none"}
        Over the frames each coefficient gets mean 0; mean 0 and variance 1, but 0 where it does not change; or is left as it is.
    trim_db : float, optional
        Leave out the silence before and after the sound: what is more than so many decibels below the loudest frame.

    Returns
    -------
    ndarray of shape (n_frames, n_features)
        One frame for each ``hop`` that has begun; 13 coefficients have 39 features with their slopes.

    Raises
    ------
    InputError
        When the signal has more than one channel, no sample, or one that is not finite.
    ParameterError
        When the settings do not fit together.

    References
    ----------
    Davis and Mermelstein (1980), Comparison of parametric representations for monosyllabic word recognition in continuously spoken
    sentences. Furui (1986), Speaker-independent isolated word recognition using dynamic features of speech spectrum.

    Examples
    --------
    >>> t = np.arange(8000) / 8000
    >>> features = mfcc(np.sin(2 * np.pi * 440 * t) * t, 8000)
    >>> features.shape
    (101, 39)
    """
    if normalize not in NORMALIZATIONS:
        raise ParameterError(f"normalize={normalize!r}: expected one of {', '.join(NORMALIZATIONS)}")
    samples = _check_mono(signal)
    with cores_for(len(samples)):
        if trim_db is not None:
            samples = trim_silence(samples, sample_rate, threshold_db=trim_db)
        energies = log_mel(samples, sample_rate, n_mels=n_mels, window=window, hop=hop)
        first = 0 if energy else 1
        if not 1 <= n_coefficients <= n_mels - first:
            raise ParameterError(f"n_coefficients={n_coefficients}: expected 1 to {n_mels - first}, of n_mels={n_mels} bands")
        basis = cosine_basis(n_mels, first + n_coefficients)[first:]
        coefficients = NORMALIZATIONS[normalize](torch.from_numpy(energies) @ basis.T)
        if deltas:
            velocity = slopes(coefficients)
            coefficients = torch.cat([coefficients, velocity, slopes(velocity)], dim=1)
        return coefficients.numpy()


def log_mel(signal: np.ndarray, sample_rate: int, *, n_mels: int = 26, window: float = 0.025, hop: float = 0.010) -> np.ndarray:
    """Log energies (n_frames, n_mels) in mel bands, as `mfcc` takes them; never more than 80 dB below the loudest.

    Examples
    --------
    >>> tone = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000)
    >>> bands = log_mel(tone, 8000, n_mels=20)
    >>> bands.shape, int(bands[50].argmax())  # 1000 Hz are 1000 mel, of the 2146 at 4000 Hz
    ((101, 20), 9)
    """
    samples = _check_mono(signal)
    n_fft, step = round(window * sample_rate), round(hop * sample_rate)
    if n_fft < 2 or step < 1:
        raise ParameterError(f"window={window:g} and hop={hop:g} s are too short for {sample_rate} Hz; give longer ones")
    if n_mels < 1:
        raise ParameterError(f"n_mels={n_mels}: expected at least 1")
    bands = mel_filterbank(n_mels, n_fft, sample_rate)
    if not bands.any(dim=1).all():
        raise ParameterError(
            f"n_mels={n_mels}: some bands hold no frequency of a window of {window:g} s; use fewer, or a longer window"
        )
    power = bands @ stft(torch.from_numpy(samples), n_fft, step).abs().square()
    return power.clamp_min(max(SILENCE, DYNAMIC_RANGE * float(power.max()))).log().T.contiguous().numpy()


def trim_silence(signal: np.ndarray, sample_rate: int, *, threshold_db: float = 40.0, hop: float = 0.010) -> np.ndarray:
    """The signal from the first to the last piece of ``hop`` seconds with power above so many decibels below the loudest one.

    Silence is given back whole.

    Examples
    --------
    >>> sound = np.concatenate([np.zeros(800), np.ones(1600), np.zeros(800)])
    >>> trim_silence(sound, 8000).shape
    (1600,)
    """
    samples = _check_mono(signal)
    if threshold_db <= 0:
        raise ParameterError(f"threshold_db={threshold_db:g}: expected a positive number of decibels")
    step = max(1, round(hop * sample_rate))
    starts = np.arange(0, len(samples), step)
    power = np.add.reduceat(samples**2, starts) / np.diff(starts, append=len(samples))
    (heard,) = np.nonzero(power >= power.max() * 10 ** (-threshold_db / 10))
    return samples[heard[0] * step : (heard[-1] + 1) * step]


def _check_mono(signal: np.ndarray) -> np.ndarray:
    samples = np.asarray(signal, dtype=np.float64)
    if samples.ndim != 1 or len(samples) == 0:
        raise InputError(f"the signal has shape {samples.shape}; expected (n_samples,): average or choose its channels")
    if not np.isfinite(samples).all():
        raise InputError("the signal holds NaN or infinite samples; repair or export it again")
    return samples


def _center(coefficients: Tensor) -> Tensor:
    """Mean 0 over the frames."""
    return coefficients - coefficients.mean(0)


def _standardize(coefficients: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the frames; what does not change, but for rounding, is 0."""
    centered = _center(coefficients)
    scale = centered.square().mean(0).sqrt()
    still = scale <= 1e-9 * (1 + coefficients.abs().amax(0))
    return torch.where(still, 0.0, centered / scale)


NORMALIZATIONS = {"mean": _center, "variance": _standardize, "none": lambda coefficients: coefficients}
