"""Separate a mixture into its instruments or voices, given clean examples of each."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from sklearn.base import clone

from unveil.core.estimator import Estimator
from unveil.core.mixins import SeparateMixin
from unveil.data.files import atomic_paths, audio_files, check_sound, open_audio, read_audio, read_samples
from unveil.errors import ConvergenceWarning, InputError, ParameterError
from unveil.kernels.stft import istft, stft, window_length
from unveil.kernels.wiener import spatial_wiener, wiener_masks
from unveil.models.nmf import NMF

CHUNK_SECONDS, OVERLAP_SECONDS = 30.0, 1.0

Advance = Callable[[float], Any]


def default_source_model() -> NMF:
    """What a source is modelled by unless said otherwise: 30 spectra, by Kullback-Leibler divergence."""
    return NMF(n_components=30, max_iter=200, random_state=0)


@dataclass(frozen=True)
class Separator:
    """Models of several sources, ready to take mixtures apart.

    The magnitude spectrogram of the mixture is explained as the sum of what the models can make (``Estimator.explain``), and each
    source gets its Wiener share of the mixture's complex spectrogram. So the estimates add up to the mixture, exactly.
    Long sounds are worked on in chunks of 30 s that are faded into each other: memory does not depend on length.

    Attributes
    ----------
    models : dict of str to Estimator
        For each source a fitted estimator that can ``explain``, all of one class.
    sample_rate : int
        In hertz; the models know spectra of this rate.
    n_fft, hop : int
        Window length and step in samples.
    power : float
        The exponent of the Wiener masks.
    """

    models: Mapping[str, Estimator]
    sample_rate: int
    n_fft: int
    hop: int
    power: float = 2.0

    @classmethod
    def learn(
        cls,
        sources: Mapping[str, Sequence[np.ndarray] | np.ndarray],
        sample_rate: int,
        *,
        model: Estimator | None = None,
        n_fft: int | None = None,
        on_progress: Advance = lambda fraction: None,
    ) -> Separator:
        """Fit one model to the clean examples of each source.

        Parameters
        ----------
        sources : dict of str to array or list of arrays
            Examples of each source, (n_samples,) or (n_channels, n_samples), at ``sample_rate``.
        sample_rate : int
            In hertz.
        model : Estimator, optional
            Cloned for each source; by default an NMF with 30 atoms.
        n_fft : int, optional
            Window length in samples; by default the power of two nearest to 0.15 s.
        on_progress : callable
            Called with the fraction of the sources that are learned.
        """
        if len(sources) < 2:
            raise InputError(f"{len(sources)} source is not a mixture; give clean examples of at least two")
        if model is not None and not isinstance(model, SeparateMixin):
            raise ParameterError(f"model={type(model).__name__}: expected an estimator that can explain a mixture, such as NMF")
        n_fft = n_fft or window_length(sample_rate)
        hop = n_fft // 4
        models = {}
        for name, examples in sources.items():
            examples = [examples] if isinstance(examples, np.ndarray) else list(examples)
            if not examples:
                raise InputError(f"source {name!r} has no examples; give at least one clean recording of it")
            frames = []
            for i, example in enumerate(examples):
                check_signal(example, f"example {i} of source {name!r}")
                mono = np.atleast_2d(example).mean(0)
                frames.append(stft(torch.from_numpy(mono), n_fft, hop).abs().T)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # a dictionary is good long before it has converged
                models[name] = clone(model or default_source_model()).fit(torch.cat(frames).numpy())
            on_progress(len(models) / len(sources))
        return cls(models, sample_rate, n_fft, hop)

    def __call__(self, mixture: np.ndarray, *, on_progress: Advance = lambda fraction: None) -> dict[str, np.ndarray]:
        """The sources in a mixture (n_samples,) or (n_channels, n_samples): for each an array of the mixture's shape."""
        check_signal(mixture, "the mixture")
        channels = np.atleast_2d(np.asarray(mixture, dtype=np.float64))
        parts = list(self._stream(lambda start, stop: channels[:, start:stop], channels.shape[1], on_progress))
        return {
            name: np.concatenate([part[i] for part in parts], axis=1).reshape(mixture.shape) for i, name in enumerate(self.models)
        }

    def separate_file(
        self, mixture: str | os.PathLike, folder: str | os.PathLike, *, on_progress: Advance = lambda fraction: None
    ) -> dict[str, Path]:
        """Separate a sound file of any length into ``folder``/<source>.wav, with its sample rate and channels.

        Nothing is left behind unless all of it succeeds.
        """
        targets = {name: Path(folder) / f"{name}.wav" for name in self.models}
        with open_audio(mixture) as file, ExitStack() as stack:
            if file.samplerate != self.sample_rate:
                raise InputError(
                    f"{mixture}: has {file.samplerate} Hz, the sources were learned at {self.sample_rate} Hz; resample one"
                )
            temporary = stack.enter_context(atomic_paths(list(targets.values())))
            outputs = [
                stack.enter_context(soundfile.SoundFile(path, "w", self.sample_rate, file.channels, subtype="FLOAT"))
                for path in temporary
            ]
            for part in self._stream(partial(read_samples, file), file.frames, on_progress):
                for output, samples in zip(outputs, part, strict=True):
                    output.write(samples.T)
        return targets

    def _stream(self, read: Callable[[int, int], np.ndarray], n_samples: int, on_progress: Advance) -> Iterator[np.ndarray]:
        """Separated pieces (n_sources, n_channels, n) one after the other: chunks, cross-faded where they overlap."""
        chunk, overlap = int(CHUNK_SECONDS * self.sample_rate), int(OVERLAP_SECONDS * self.sample_rate)
        rising = np.linspace(0, 1, overlap + 2)[1:-1]
        tail = None
        for start in range(0, max(n_samples - overlap, 1), chunk - overlap):
            stop = min(start + chunk, n_samples)
            estimates = self._separate_chunk(read(start, stop))
            if tail is not None:
                estimates[..., :overlap] = rising * estimates[..., :overlap] + (1 - rising) * tail
            last = stop == n_samples
            yield estimates if last else estimates[..., :-overlap]
            tail = estimates[..., -overlap:].copy()
            on_progress(stop / n_samples)
            if last:
                return

    def _separate_chunk(self, channels: np.ndarray) -> np.ndarray:
        """The sources (n_sources, n_channels, n_samples) in a piece (n_channels, n_samples); channels have their own activations."""
        spectrum = stft(torch.from_numpy(np.ascontiguousarray(channels)), self.n_fft, self.hop)  # (n_channels, F, T)
        n_channels, n_frequencies, n_frames = spectrum.shape
        if not spectrum.abs().any():
            return np.zeros((len(self.models), *channels.shape))
        frames = spectrum.abs().transpose(1, 2).reshape(-1, n_frequencies)
        first, *others = self.models.values()
        parts = torch.stack(first.explain(frames, others))  # type: ignore[attr-defined]
        masks = wiener_masks(parts, self.power).view(-1, n_channels, n_frames, n_frequencies).transpose(2, 3)
        images = masks * spectrum if n_channels == 1 else spatial_wiener(spectrum, masks)
        return istft(images, self.n_fft, self.hop, channels.shape[1]).numpy()


def separate(
    mixture: np.ndarray,
    sample_rate: int,
    sources: Mapping[str, Sequence[np.ndarray] | np.ndarray],
    *,
    model: Estimator | None = None,
    n_fft: int | None = None,
) -> dict[str, np.ndarray]:
    """Separate a mixture into sources of which there are clean examples.

    Each source's magnitude spectra are modelled by non-negative matrix factorisation; the mixture is explained by all models at once,
    and shared out by Wiener masks.

    Parameters
    ----------
    mixture : ndarray of shape (n_samples,) or (n_channels, n_samples)
        The sound to take apart.
    sample_rate : int
        Of everything, in hertz.
    sources : dict of str to array or list of arrays
        Clean examples of each source, shaped like ``mixture``; some seconds with the notes or sounds that occur.
    model : Estimator, optional
        Cloned for each source; by default an NMF with 30 atoms.
    n_fft : int, optional
        Window length in samples; by default the power of two nearest to 0.15 s.

    Returns
    -------
    dict of str to ndarray
        The estimate of each source, in the shape of ``mixture``; they add up to it.

    Raises
    ------
    InputError
        When something is silent, empty, holds NaN or has its axes the wrong way round.

    References
    ----------
    Smaragdis, Raj and Shashanka (2007), Supervised and semi-supervised separation of sounds from single-channel mixtures.

    Examples
    --------
    >>> t = np.arange(8000) / 8000
    >>> low, high = np.sin(2 * np.pi * 200 * t), np.sin(2 * np.pi * 1500 * t)
    >>> estimates = separate(low + high, 8000, {"low": low, "high": high})
    >>> bool(np.abs(estimates["low"] - low)[500:-500].max() < 0.001)  # all but the clicks where the tones begin and end
    True
    """
    return Separator.learn(sources, sample_rate, model=model, n_fft=n_fft)(mixture)


def check_signal(samples: Any, name: str) -> None:
    """Refuse what is not a sound: wrong dimensions, NaN, nothing, silence."""
    array = np.asarray(samples)
    if array.ndim not in (1, 2) or array.size == 0:
        raise InputError(f"{name} has shape {array.shape}; expected (n_samples,) or (n_channels, n_samples)")
    if array.ndim == 2 and array.shape[0] > array.shape[1]:
        raise InputError(f"{name} has shape {array.shape}, more channels than samples; transpose it to (n_channels, n_samples)")
    if not np.isfinite(array).all():
        raise InputError(f"{name} holds NaN or infinite samples; repair or export it again")
    check_sound(array, name, allow_clipped=True)


def check_file(path: str | os.PathLike, *, allow_clipped: bool = False) -> int:
    """The sample rate of a sound file, after going through it once: it is whole, not silent and not clipped."""
    with open_audio(path) as file:
        silent, step = True, int(CHUNK_SECONDS * file.samplerate)
        for start in range(0, file.frames, step):
            block = read_samples(file, start, start + step)
            if block.any():
                silent = False
                check_sound(block, str(path), allow_clipped=allow_clipped)
        if silent:
            raise InputError(f"{path}: silent, every sample is zero; check the recording")
        return file.samplerate


def read_examples(
    path: str | os.PathLike, sample_rate: int, *, seconds: float | None = None, allow_clipped: bool = False
) -> list[np.ndarray]:
    """Clean examples from a sound file or a folder of them, mono, at ``sample_rate``; the first ``seconds`` of each."""
    examples = []
    for file in audio_files(path):
        samples, _ = read_audio(file, sample_rate, mono=True)
        kept = samples if seconds is None else samples[: int(seconds * sample_rate)]
        check_sound(kept, str(file), allow_clipped=allow_clipped)
        examples.append(kept)
    return examples


def read_beginning(path: str | os.PathLike, seconds: float = 60.0) -> np.ndarray:
    """The first samples of a sound file, (n_channels, n_samples)."""
    with open_audio(path) as file:
        return read_samples(file, 0, int(seconds * file.samplerate))
