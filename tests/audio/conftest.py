"""Sounds of which the parts are known."""

import numpy as np
import pytest

from unveil.audio.duet import make_duet
from unveil.audio.separate import Separator
from unveil.data import datasets
from unveil.models.nmf import NMF

RATE = 8000


def swelling(frequencies, swell: float, seconds: float, rate: int = RATE) -> np.ndarray:
    """A chord of sines that swells and ebbs, and begins and ends in silence."""
    t = np.arange(int(seconds * rate)) / rate
    envelope = np.sin(np.pi * t / seconds) ** 0.5 * (0.6 + 0.4 * np.sin(2 * np.pi * swell * t))
    return 0.3 * envelope * sum(np.sin(2 * np.pi * f * t + f) for f in frequencies) / len(frequencies)


@pytest.fixture(scope="session")
def tones():
    """Two parts of 4 s, and 1 s of other sound of each to learn from."""
    chords = {"low": (210, 420, 640), "high": (1500, 2250, 3100)}
    parts = {name: swelling(chord, 1.0 + i, 4.0) for i, (name, chord) in enumerate(chords.items())}
    examples = {name: swelling(chord, 3.0, 1.0) for name, chord in chords.items()}
    return parts, examples


@pytest.fixture(scope="session")
def separator(tones):
    """Learned from the tones, two atoms for each."""
    return Separator.learn(tones[1], RATE, model=NMF(2, max_iter=40, random_state=0))


@pytest.fixture(scope="session")
def notes():
    """The packaged notes by instrument, and their sample rate."""
    loaded = datasets.load("notes")
    names = sorted(set(loaded.target))
    return {
        name: [x for x, label in zip(loaded.data, loaded.target, strict=True) if label == name] for name in names
    }, loaded.sample_rate


@pytest.fixture(scope="session")
def duet(notes):
    """Six seconds of contrabass and flute."""
    return make_duet(notes[0], notes[1], note_seconds={"contrabass": 0.8, "flute": 0.45}, seconds=6.0)
