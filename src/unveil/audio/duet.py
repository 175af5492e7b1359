"""A duet made of single notes: material to try separation on, with the true parts known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unveil.errors import InputError

FADE_SECONDS = 0.025


@dataclass(frozen=True)
class Duet:
    """A mixture, its parts, and other sound of the same instruments to learn from.

    Attributes
    ----------
    mixture : ndarray of shape (n_samples,)
        The sum of the parts.
    parts : dict of str to ndarray of shape (n_samples,)
        What each instrument plays.
    training : dict of str to list of ndarray
        The beginning of each note; not one sample of it is in the mixture.
    sample_rate : int
        In hertz.
    """

    mixture: np.ndarray
    parts: dict[str, np.ndarray]
    training: dict[str, list[np.ndarray]]
    sample_rate: int


def make_duet(
    notes: Mapping[str, Sequence[np.ndarray]],
    sample_rate: int,
    *,
    note_seconds: Mapping[str, float],
    seconds: float = 24.0,
    training_seconds: float = 2.0,
    seed: int = 0,
) -> Duet:
    """Let each instrument play notes at random, one after the other, all parts equally loud.

    Parameters
    ----------
    notes : dict of str to list of ndarray
        Recordings of single notes by instrument, each longer than ``training_seconds`` and a note.
    sample_rate : int
        In hertz.
    note_seconds : dict of str to float
        How long each instrument's notes are.
    seconds : float
        The length of the duet.
    training_seconds : float
        The beginning of each recording is for training; the notes played are cut from the rest.
    seed : int
        Decides who plays what when.

    Returns
    -------
    Duet
    """
    rng = np.random.default_rng(seed)
    cut, n_samples = int(training_seconds * sample_rate), int(seconds * sample_rate)
    parts = {}
    for name, recordings in notes.items():
        length = int(note_seconds[name] * sample_rate)
        endings = [recording[cut:] for recording in recordings]
        if any(len(ending) < length for ending in endings):
            raise InputError(f"a note of {name} is shorter than {training_seconds + note_seconds[name]:g} s; leave it out")
        parts[name] = _play(endings, length, n_samples, sample_rate, rng)
    loudest = np.abs(sum(parts.values())).max()
    parts = {name: 0.9 * part / loudest for name, part in parts.items()}
    training = {name: [recording[:cut] for recording in recordings] for name, recordings in notes.items()}
    return Duet(np.sum(list(parts.values()), axis=0), parts, training, sample_rate)


def _play(endings: list[np.ndarray], length: int, n_samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Notes of one length in a row, cut at random from the recordings and faded at both ends, of unit variance in all."""
    part = np.zeros(n_samples)
    edge = np.arange(length) / (FADE_SECONDS * sample_rate)
    envelope = np.minimum(1.0, np.minimum(edge, edge[::-1]))
    for start in range(0, n_samples - length + 1, length):
        ending = endings[rng.integers(len(endings))]
        offset = rng.integers(len(ending) - length + 1)
        part[start : start + length] = ending[offset : offset + length] * envelope * rng.uniform(0.5, 1.0)
    return part / part.std()
