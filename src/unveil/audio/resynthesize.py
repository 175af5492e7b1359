"""Sound said again by a model of its power spectra: analysis, reconstruction, and synthesis with the phases of the original."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from unveil.audio.separate import check_signal
from unveil.core.estimator import Estimator
from unveil.data.files import audio_files, read_audio, resample
from unveil.errors import InputError, ParameterError
from unveil.kernels.stft import istft, stft

WINDOW_SECONDS = 0.064
OVERLAP = 4  # windows over each sample
CHUNK_SECONDS = 30.0
PATH = (str, os.PathLike)


def resynthesize(
    samples: np.ndarray,
    sample_rate: int,
    estimator: Estimator,
    *,
    model_rate: int | None = None,
    on_progress: Callable[[float], Any] = lambda fraction: None,
) -> np.ndarray:
    """A sound as a model of power spectra says it: how much of it the model's latent variables keep can be heard.

    With the short-time Fourier transform S of the sound, and the model's reconstruction v of the power |S|^2, frame by frame, the
    result is the sound whose transform is closest to ``sqrt(v) exp(i arg S)``. Windows are halves of a sine, of 64 ms, with an overlap
    of 75 %, as in `power_frames`. Long sounds are worked on in chunks of 30 s, with enough around them that no seam is left.

    Parameters
    ----------
    samples : ndarray of shape (n_samples,) or (n_channels, n_samples)
        Channels are worked on one by one.
    sample_rate : int
        In hertz.
    estimator : Estimator
        Fitted to rows of `power_frames`: a VAE, SparseDictionaryVAE or VariationalSparseCoding with likelihood="power", or anything
        else that can ``reconstruct`` them.
    model_rate : int, optional
        The rate of the sounds that the model has learned from, in hertz, to which sound is resampled, and back again. By default
        ``sample_rate``, where windows of 64 ms then have as many frequencies as the model; else what these make of it.
    on_progress : callable
        Called with the fraction that is done.

    Returns
    -------
    ndarray of the shape of ``samples``
        At the same rate and level.

    Raises
    ------
    InputError
        When the sound is silent, empty, holds NaN or has its axes the wrong way round.
    ParameterError
        When the estimator does not reconstruct power spectra.

    References
    ----------
    Sadeghi and Magron (2022), A sparsity-promoting dictionary model for variational autoencoders, for the protocol.

    Examples
    --------
    >>> import unveil
    >>> rng = np.random.default_rng(0)
    >>> tones = [np.sin(2 * np.pi * f * np.arange(8000) / 8000) + 0.01 * rng.normal(size=8000) for f in (400, 800, 1200)]
    >>> vae = unveil.VAE(n_latent=2, likelihood="power", hidden=32, learning_rate=0.01, max_epochs=60, random_state=0)
    >>> vae = vae.fit(power_frames(tones, 8000))
    >>> again = resynthesize(tones[1], 8000, vae)
    >>> again.shape, bool(np.corrcoef(again, tones[1])[0, 1] > 0.9)
    ((8000,), True)
    """
    check_signal(samples, "the sound")
    n_fft, rate = _analysis_of(estimator, sample_rate, model_rate)
    channels = resample(np.atleast_2d(np.asarray(samples, dtype=np.float64)), sample_rate, rate)
    peak, around, again = np.abs(channels).max() or 1.0, 2 * n_fft, np.empty_like(channels)
    for start, stop in _chunks(channels.shape[1], n_fft, round(CHUNK_SECONDS * rate)):
        begin = max(start - around, 0)
        piece = _said_again(channels[:, begin : stop + around] / peak, n_fft, estimator)
        again[:, start:stop] = peak * piece[:, start - begin : stop - begin]
        on_progress(stop / channels.shape[1])
    return _of_length(resample(again, rate, sample_rate), np.shape(samples)[-1]).reshape(np.shape(samples))


def power_frames(sounds: str | os.PathLike | Iterable[Any], sample_rate: int) -> np.ndarray:
    """Power spectra |S|^2 of sounds, frame by frame, for models to learn from.

    Each sound is made mono and divided by its peak; so levels of recordings do not matter, but those within a recording do.

    Parameters
    ----------
    sounds : path, or sequence of paths or ndarrays
        A sound file or a folder of them; several; or arrays (n_samples,) or (n_channels, n_samples) at ``sample_rate``.
    sample_rate : int
        In hertz; files are resampled to it.

    Returns
    -------
    ndarray of shape (n_frames, n_frequencies), in float32
        The frames of all sounds, one after the other. At 16000 Hz there are 513 frequencies, and 62.5 frames in a second.

    Raises
    ------
    InputError
        When there is no sound, or one that is silent or damaged.

    Examples
    --------
    >>> power_frames([np.sin(np.arange(16000)), np.cos(np.arange(8000))], 16000).shape
    (95, 513)
    """
    n_fft = window_length(sample_rate)
    frames = []
    for i, sound in enumerate(audio_files(sounds) if isinstance(sounds, PATH) else sounds):
        samples, name = (read_audio(sound, sample_rate)[0], str(sound)) if isinstance(sound, PATH) else (sound, f"sound {i}")
        check_signal(samples, name)
        mono = np.atleast_2d(np.asarray(samples, dtype=np.float32)).mean(0)
        check_signal(mono, f"{name}, made mono")
        spectrum = stft(torch.from_numpy(mono / np.abs(mono).max()), n_fft, n_fft // OVERLAP, "sine")
        frames.append(spectrum.abs().square().T.numpy())
    if not frames:
        raise InputError("there are no sounds; give at least one")
    return np.concatenate(frames)


def power_frames_for(estimator: Estimator, samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Power spectra of a sound (n_frames, n_features) as an estimator has learned from them, whatever the rate of the sound.

    Raises
    ------
    ParameterError
        When the estimator does not reconstruct power spectra.
    """
    _, rate = _analysis_of(estimator, sample_rate, None)
    return power_frames([resample(np.atleast_2d(np.asarray(samples, dtype=np.float64)), sample_rate, rate)], rate)


def window_length(sample_rate: int) -> int:
    """How many samples 64 ms are, to the nearest multiple of 8, so that windows overlap evenly.

    Examples
    --------
    >>> window_length(16000), window_length(8000), window_length(22050)
    (1024, 512, 1408)
    """
    return max(8 * round(WINDOW_SECONDS * sample_rate / 8), 8)


def _analysis_of(estimator: Any, sample_rate: int, model_rate: int | None) -> tuple[int, int]:
    """Window length and sample rate of what an estimator has learned from, after making sure that it fits."""
    check_is_fitted(estimator)
    name = type(estimator).__name__
    if not hasattr(estimator, "reconstruct"):
        raise ParameterError(f"{name} does not reconstruct what it was given; expected a VAE, or another model of power spectra")
    family = getattr(estimator, "family", "power")
    if family != "power":
        raise ParameterError(f"{name} is one of {family} rows; expected one of power spectra, that has learned from power_frames")
    n_fft = 2 * (estimator.n_features_in_ - 1)
    if model_rate is None:
        model_rate = sample_rate if window_length(sample_rate) == n_fft else round(n_fft / WINDOW_SECONDS)
    if window_length(model_rate) != n_fft:
        raise ParameterError(
            f"{name} has {n_fft // 2 + 1} features, but at {model_rate} Hz power_frames has {window_length(model_rate) // 2 + 1}; "
            "give the rate that it has learned from as model_rate"
        )
    return n_fft, model_rate


def _chunks(n_samples: int, n_fft: int, length: int) -> Iterator[tuple[int, int]]:
    """Where chunks begin, which is at the centre of a frame, and end."""
    hop = n_fft // OVERLAP
    step = max(length // hop, 1) * hop
    for start in range(0, n_samples, step):
        yield start, min(start + step, n_samples)


def _said_again(channels: np.ndarray, n_fft: int, estimator: Any) -> np.ndarray:
    """Channels (n_channels, n_samples) with magnitudes of the model, and phases of their own."""
    hop = n_fft // OVERLAP
    spectrum = stft(torch.from_numpy(channels), n_fft, hop, "sine")
    power = torch.stack([estimator.reconstruct(frames).double() for frames in spectrum.abs().square().mT])
    again = torch.polar(power.mT.clamp_min(0).sqrt(), spectrum.angle())
    return istft(again, n_fft, hop, channels.shape[1], "sine").numpy()


def _of_length(channels: np.ndarray, n_samples: int) -> np.ndarray:
    """Cut, or filled up with silence: resampling there and back may be a sample off."""
    return np.pad(channels, ((0, 0), (0, max(n_samples - channels.shape[1], 0))))[:, :n_samples]
