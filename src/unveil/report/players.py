"""Sound inside a page: an audio element whose file is part of the page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import soundfile

from unveil.errors import InputError

LONGEST_SECONDS = 60.0
MOST_CHANNELS = 2


@dataclass(frozen=True)
class Player:
    """A sound to listen to.

    Attributes
    ----------
    label : str
        What is heard, for those who do not see the heading above it.
    source : str
        The sound as a data URI.
    seconds : float
        How long it plays.
    note : str
        What was changed for the page; empty where nothing was.
    """

    kind: ClassVar[str] = "player"
    label: str
    source: str
    seconds: float
    note: str = ""


def player(samples: Any, sample_rate: float, label: str, *, gain: float | None = None) -> Player:
    """A player of a sound, which becomes 16-bit FLAC.

    Sound longer than 60 s is cut to its first 60 s, more than two channels are averaged, and sound beyond full scale is made
    quieter; ``note`` then says so. It does not speak of a ``gain`` that was given.

    Parameters
    ----------
    samples : array of shape (n_samples,) or (n_channels, n_samples)
        Full scale is 1.
    sample_rate : number
        In hertz.
    label : str
        What is heard.
    gain : float, optional
        A factor for the samples, to keep several sounds comparable; by default 1, or less where a peak is above 1.

    Examples
    --------
    >>> import numpy as np
    >>> sound = player(np.zeros(8000), 8000, "silence")
    >>> sound.seconds, sound.source[:16]
    (1.0, 'data:audio/flac;')
    """
    whole = as_channels(samples, label)
    channels = excerpt(whole, sample_rate)
    notes = []
    if channels.shape[1] < whole.shape[1]:
        notes.append(f"the first {LONGEST_SECONDS:g} s of {whole.shape[1] / sample_rate:.1f} s")
    if len(channels) > MOST_CHANNELS:
        notes.append(f"the average of its {len(channels)} channels")
        channels = channels.mean(axis=0, keepdims=True)
    if gain is None:
        gain = shared_gain([channels])
        notes += [quieter(gain)] if gain < 1 else []
    return Player(label, _data_uri(gain * channels, sample_rate), channels.shape[1] / sample_rate, "; ".join(notes))


def shared_gain(sounds: Iterable[np.ndarray]) -> float:
    """The factor, at most 1, that brings the loudest of several sounds to full scale."""
    loudest = max(float(np.abs(sound).max(initial=0.0)) for sound in sounds)
    return 1.0 if loudest <= 1 else 1 / loudest


def quieter(gain: float) -> str:
    """What a gain below 1 does, in words."""
    return f"played {-20 * math.log10(gain):.1f} dB quieter, to stay within full scale"


def excerpt(samples: np.ndarray, sample_rate: float) -> np.ndarray:
    """The first minute of a sound, which is what a page plays and shows."""
    return samples[..., : int(LONGEST_SECONDS * sample_rate)]


def as_channels(samples: Any, name: str) -> np.ndarray:
    """Sound as (n_channels, n_samples), after making sure that it is sound."""
    channels = np.atleast_2d(np.asarray(samples, dtype=np.float64))
    if channels.ndim != 2 or channels.shape[0] > channels.shape[1] or channels.size == 0:
        raise InputError(f"{name} has shape {np.shape(samples)}; expected (n_samples,) or (n_channels, n_samples)")
    if not np.isfinite(channels).all():
        raise InputError(f"{name} holds NaN or infinite samples; repair or export it again")
    return channels


def _data_uri(channels: np.ndarray, sample_rate: float) -> str:
    buffer = io.BytesIO()
    soundfile.write(buffer, channels.T, round(sample_rate), format="FLAC", subtype="PCM_16")
    return f"data:audio/flac;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
