"""Separate any recording of instruments that rest at times, with no examples of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import clone

from unveil.audio.separate import Separator, check_signal, read_beginning
from unveil.core.constraints import integer
from unveil.core.history import History
from unveil.data.batch import Batches
from unveil.data.files import open_audio
from unveil.data.layout import as_rows
from unveil.errors import InputError, ParameterError
from unveil.kernels.stft import stft, window_length
from unveil.models.nmf import NMF
from unveil.models.revealing_factorial_hmm import RevealingDiagnostics, RevealingFactorialHMM

WINDOW_SECONDS = 0.128
LEARNING_SECONDS = 180.0  # of a long recording: components are learned from its beginning
ACTIVATION_STEPS = 200
MOST_SOURCES = 6  # all combinations of their notes are tried
_SILENT = 1e-4  # of the largest sample
_FLOOR = 1e-6  # of a component's largest entry: no frequency is impossible

Advance = Callable[[float], Any]


@dataclass(frozen=True, eq=False)
class BlindSeparation:
    """What was found in a mixture.

    Attributes
    ----------
    sources : dict of str to ndarray
        The estimate of each source, in the shape of the mixture; they add up to it. "source1" is the one of lowest spectral centroid.
    model : RevealingFactorialHMM
        The components, the source of each, and ``diagnostics_``, whose ``doubts`` say what is not determined.
    activations : ndarray of shape (n_frames, S)
        How loud each component is in the beginning that was learned from: the mean of the channels, frames a quarter window apart.
    sample_rate : int
        In hertz.
    n_fft, hop : int
        Window length and step of the frames, in samples.
    """

    sources: dict[str, np.ndarray]
    model: RevealingFactorialHMM
    activations: np.ndarray
    sample_rate: int
    n_fft: int
    hop: int

    @property
    def diagnostics(self) -> RevealingDiagnostics:
        """Whether the recording determines its sources."""
        return self.model.diagnostics_

    @property
    def trustworthy(self) -> bool:
        """Whether nothing speaks against the result."""
        return not self.diagnostics.doubts


@dataclass(frozen=True, eq=False)
class BlindSeparator:
    """Components learned from a mixture, ready to take it apart.

    Attributes
    ----------
    model : RevealingFactorialHMM
        Fitted to the mixture's magnitude spectra.
    separator : Separator
        Of the components of each source.
    activations : ndarray of shape (n_frames, S)
        Of the components, in what was learned from.
    """

    model: RevealingFactorialHMM
    separator: Separator
    activations: np.ndarray

    @classmethod
    def learn(
        cls,
        mixture: np.ndarray,
        sample_rate: int,
        n_sources: int = 2,
        *,
        model: RevealingFactorialHMM | None = None,
        n_fft: int | None = None,
        random_state: int = 0,
    ) -> BlindSeparator:
        """Learn from a mixture (n_samples,) or (n_channels, n_samples); parameters as for ``separate_blind``."""
        check_signal(mixture, "the mixture")
        integer(1)("sample_rate", sample_rate)
        if not 2 <= n_sources <= MOST_SOURCES:
            raise ParameterError(f"n_sources={n_sources}: expected 2 to {MOST_SOURCES}")
        if model is not None and not isinstance(model, RevealingFactorialHMM):
            raise ParameterError(f"model={type(model).__name__}: expected a RevealingFactorialHMM")
        n_fft = n_fft or window_length(sample_rate, WINDOW_SECONDS)
        hop = n_fft // 4
        beginning = np.atleast_2d(mixture)[:, : int(LEARNING_SECONDS * sample_rate)]
        if beginning.shape[1] < 4 * n_fft:
            raise InputError(
                f"the mixture lasts {beginning.shape[1] / sample_rate:.2f} s; give some seconds, in which notes return"
            )
        mono = beginning.mean(0, dtype=np.float64)
        mono -= mono.mean()  # a constant is no note
        if np.abs(mono).max() <= _SILENT * np.abs(beginning).max():
            raise InputError("the mean of the channels is silent; give one of the channels")
        frames = stft(torch.from_numpy(mono), n_fft, hop).abs().T
        fitted: Any = RevealingFactorialHMM(random_state=random_state) if model is None else clone(model)
        fitted.set_params(n_chains=n_sources).fit(frames.numpy())
        names = source_names(n_sources)
        spectra = {name: fitted.components_[fitted.sources_ == k] for k, name in enumerate(names)}
        models = {name: dictionary(atoms, frames, name) for name, atoms in spectra.items()}
        return cls(fitted, Separator(models, sample_rate, n_fft, hop), fitted.transform(frames.numpy()))

    def __call__(self, mixture: np.ndarray, *, on_progress: Advance = lambda fraction: None) -> BlindSeparation:
        """Take a mixture apart, the one learned from or another one of the same instruments."""
        sources = self.separator(mixture, on_progress=on_progress)
        return BlindSeparation(
            sources, self.model, self.activations, self.separator.sample_rate, self.separator.n_fft, self.separator.hop
        )


def source_names(n_sources: int) -> list[str]:
    """What sources are called that have no names."""
    return [f"source{k + 1}" for k in range(n_sources)]


def dictionary(components: np.ndarray, frames: torch.Tensor, name: str) -> NMF:
    """Components as a fitted model of one source, whose activations are found by Kullback-Leibler divergence."""
    if not len(components):
        raise InputError(
            f"{name} was not found: the mixture has components of fewer sources; ask for fewer, or give a longer recording"
        )
    nmf = NMF(len(components), components_init=np.maximum(components, _FLOOR * components.max()), max_iter=ACTIVATION_STEPS)
    nmf.n_features_in_, nmf.history_ = components.shape[1], History()
    nmf.model_ = nmf.build(components.shape[1])
    nmf.model_.initialize(Batches(as_rows(frames)), torch.Generator().manual_seed(0))  # takes over what is given: nothing is random
    return nmf


def separate_blind(
    mixture: np.ndarray,
    sample_rate: int,
    n_sources: int = 2,
    *,
    model: RevealingFactorialHMM | None = None,
    n_fft: int | None = None,
    random_state: int = 0,
    on_progress: Advance = lambda fraction: None,
) -> BlindSeparation:
    """Separate a mixture into its sources with no examples of them.

    A revealing factorial HMM of the mixture's magnitude spectra finds the notes, and which of them belong to one source, from the
    moments in which not all sources play. What each adds is then shared out by Wiener masks. Notes that never sound alone cannot
    be told from sums of notes: an ``IdentifiabilityWarning`` says so.

    Parameters
    ----------
    mixture : ndarray of shape (n_samples,) or (n_channels, n_samples)
        The sound to take apart, some seconds at least. Components are learned from the mean of the channels, in the first three
        minutes; each channel is then taken apart, in all its length.
    sample_rate : int
        In hertz.
    n_sources : int
        K.
    model : RevealingFactorialHMM, optional
        With other settings than its own; its ``n_chains`` is set to ``n_sources``.
    n_fft : int, optional
        Window length in samples; by default the power of two nearest to 0.128 s.
    random_state : int
        Seeds the clusters and the grouping, where no ``model`` is given.
    on_progress : callable
        Called with the fraction of the mixture that is taken apart.

    Returns
    -------
    BlindSeparation

    Raises
    ------
    InputError
        When the mixture is silent, too short, holds NaN or has its axes the wrong way round, or has fewer sources.

    Warns
    -----
    IdentifiabilityWarning
        When the recording does not determine its sources: the estimates may then be mixtures of them.

    References
    ----------
    The thesis of Y. C. Subakan (2018, University of Illinois), chapter 3, for the model.

    Examples
    --------
    >>> rate, rng = 8000, np.random.default_rng(0)
    >>> t = np.arange(rate // 2) / rate
    >>> def melody(pitches):
    ...     notes = [np.hanning(len(t)) * np.sin(2 * np.pi * f * t) if f else np.zeros(len(t)) for f in rng.choice(pitches, 24)]
    ...     return np.concatenate(notes)
    >>> low, high = melody([0, 200, 260, 330]), melody([0, 1500, 1700, 1900])
    >>> found = separate_blind(low + np.roll(high, 1500), rate)
    >>> bool(np.abs(found.sources["source1"] - low).max() < 0.1)
    True
    """
    settings = {"model": model, "n_fft": n_fft, "random_state": random_state}
    return BlindSeparator.learn(mixture, sample_rate, n_sources, **settings)(mixture, on_progress=on_progress)


def separate_file_blind(
    mixture: str | os.PathLike,
    folder: str | os.PathLike,
    n_sources: int = 2,
    *,
    model: RevealingFactorialHMM | None = None,
    random_state: int = 0,
    on_progress: Advance = lambda fraction: None,
) -> tuple[dict[str, Path], BlindSeparator]:
    """Separate a sound file of any length into ``folder``/source1.wav and so on, with its sample rate and channels.

    Returns
    -------
    paths : dict of str to Path
        The files by the names of the sources.
    learned : BlindSeparator
        The ``diagnostics_`` of its model say whether to trust them.
    """
    with open_audio(mixture) as file:
        sample_rate = file.samplerate
    beginning = read_beginning(mixture, LEARNING_SECONDS)
    learned = BlindSeparator.learn(beginning, sample_rate, n_sources, model=model, random_state=random_state)
    return learned.separator.separate_file(mixture, folder, on_progress=on_progress), learned
