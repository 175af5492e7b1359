"""When words begin: a cyclic hidden Markov model of a word and the silence after it, learned without labels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unveil.audio.features import log_mel
from unveil.audio.separate import check_signal
from unveil.errors import IdentifiabilityWarning, InputError
from unveil.models.gaussian_hmm import GaussianHMM

WINDOW, HOP = 0.050, 0.010  # seconds; a long window, since what matters is the energy, and its noise
BACKGROUND_SHARE = 0.3  # at least this share of the frames is background
BACKGROUND_MARGIN = 3.0  # energies count from so many times the background on: its own fluctuations hardly show
LEAST_CONTRAST = 0.05  # standard deviation of a frame's mean, in nats: noise has 0.03, and words at 0 dB 0.1
SMALLEST_SCALE = 0.5  # of a band, beside all: one without words stays small
HARDLY_LOUDER = 0.05  # of the range of the states' energies
VARIANCE_FLOOR = 0.01  # of features that have variance 1
FRAMES_FOR_A_STATE = 5


@dataclass(frozen=True)
class OnsetDetector:
    """A model of a repeated word and the silence after it, ready to say when words begin.

    The frames of a sound, log energies in mel bands, follow a hidden Markov chain that can only stay where it is or go on to the next
    state, from the last one to the first::

        z_t in {z_{t-1}, z_{t-1} + 1 mod M},   x_t | z_t = m ~ N(mu_m, diag(sigma_m^2)).

    So it goes round once for each word. The state of lowest energy is the silence between words, together with those next to it that
    are hardly louder; and an onset is where the most probable path (Viterbi) leaves the silence.

    Attributes
    ----------
    hmm : GaussianHMM
        A fitted chain with ``transitions="cyclic"`` over ``onset_features``.
    sample_rate : int
        In hertz.
    n_mels : int
        How many bands there are.

    References
    ----------
    Subakan, Traa, Smaragdis and Hsu (2015), Method of moments learning for left-to-right hidden Markov models.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> glide = np.sin(2 * np.pi * np.cumsum(np.linspace(300, 2500, 3200)) / 8000) * np.hanning(3200)
    >>> sound = 0.01 * rng.normal(size=8 * 8000)
    >>> for begin in (0.5, 1.7, 2.6, 4.0, 5.1, 6.5):
    ...     sound[round(begin * 8000) :][:3200] += glide
    >>> OnsetDetector.learn(sound, 8000)(sound).round(1).tolist()
    [0.5, 1.7, 2.6, 4.0, 5.1, 6.5]
    """

    hmm: GaussianHMM
    sample_rate: int
    n_mels: int = 20

    @classmethod
    def learn(
        cls,
        recordings: np.ndarray | Sequence[np.ndarray],
        sample_rate: int,
        *,
        n_states: int = 8,
        n_mels: int = 20,
        init: str = "moments",
        max_iter: int = 5,
        random_state: Any = 0,
    ) -> OnsetDetector:
        """Learn from one or several recordings of the same word, said again and again; no onset need be known.

        Parameters
        ----------
        recordings : ndarray of shape (n_samples,), or list of these
            Words with silence (or any steady background) between them.
        sample_rate : int
            Of all of them, in hertz.
        n_states : int
            M; one of them will be the silence. The more there are, the longer a word lasts at least, one frame of 10 ms each.
        n_mels : int
            How many mel bands there are between 0 and half the sample rate.
        init : str
            How ``GaussianHMM`` starts.
        max_iter : int
            The number of EM iterations from there.
        random_state : int, RandomState or None
            Seeds the start.

        Raises
        ------
        InputError
            When a recording is silent, empty, holds NaN or has several channels, or there is too little of them.
        """
        recordings = [recordings] if isinstance(recordings, np.ndarray) else list(recordings)
        frames = [onset_features(x, sample_rate, n_mels=n_mels, name=f"recording {i}") for i, x in enumerate(recordings)]
        _check_duration(frames, n_states)
        hmm = cyclic_hmm(n_states, init=init, max_iter=max_iter, random_state=random_state).fit(frames)
        return cls(hmm, sample_rate, n_mels)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """The times in seconds at which words begin in a sound (n_samples,); what has begun before it is not one."""
        silent = self.silent_states[self.states(samples)]
        left = np.flatnonzero(silent[:-1] & ~silent[1:]) + 1
        return left * self.hop

    def states(self, samples: np.ndarray) -> np.ndarray:
        """The state of each frame of a sound (n_samples,), along the most probable path; frame t is centred on ``t * hop``."""
        frames = onset_features(samples, self.sample_rate, n_mels=self.n_mels)
        _check_duration([frames], self.hmm.n_states)
        return self.hmm.predict(frames)

    @property
    def silent_states(self) -> np.ndarray:
        """Which states are silence (M,), bool: the one of lowest energy, and on both sides those that are hardly louder."""
        energy = self.hmm.means_.mean(1)
        quiet = energy <= energy.min() + HARDLY_LOUDER * np.ptp(energy)
        from_lowest = np.roll(quiet, -energy.argmin())
        together = np.logical_and.accumulate(from_lowest) | np.logical_and.accumulate(from_lowest[::-1])[::-1]
        return np.roll(together, energy.argmin())

    @property
    def hop(self) -> float:
        """From one frame to the next, in seconds: a whole number of samples."""
        return round(HOP * self.sample_rate) / self.sample_rate


def detect_onsets(samples: np.ndarray, sample_rate: int, **settings: Any) -> np.ndarray:
    """The times in seconds at which words begin in a recording of one word, said again and again.

    Parameters
    ----------
    samples : ndarray of shape (n_samples,)
        One channel.
    sample_rate : int
        In hertz.
    **settings
        Of ``OnsetDetector.learn``, which learns from the recording itself.

    Returns
    -------
    ndarray of shape (n_onsets,)

    Raises
    ------
    InputError
        When the recording is silent, empty, too short, holds NaN or has several channels.

    Examples
    --------
    >>> sound = 0.01 * np.random.default_rng(0).normal(size=5 * 16000)
    >>> for begin in (0.5, 1.6, 2.5, 4.0):
    ...     sound[round(begin * 16000) :][:6400] += np.sin(2 * np.pi * np.cumsum(np.linspace(200, 3000, 6400)) / 16000)
    >>> detect_onsets(sound, 16000).round(1).tolist()
    [0.5, 1.6, 2.5, 4.0]
    """
    return OnsetDetector.learn(samples, sample_rate, **settings)(samples)


def onset_features(samples: np.ndarray, sample_rate: int, *, n_mels: int = 20, name: str = "the sound") -> np.ndarray:
    """Log energies in mel bands, over the background's (n_frames, n_mels), with mean 0 and variance about 1 over the recording.

    With the energy E_tb of band b in frame t, and the background N_b, below which it is in 30 % of the frames::

        x_tb = log(1 + max(E_tb, N_b) / (3 N_b))

    So what is as quiet as the background, or quieter, such as digital silence, is all alike; and loudness does not matter, nor does
    a steady filter.

    Parameters
    ----------
    samples : ndarray of shape (n_samples,)
        One channel.
    sample_rate : int
        In hertz.
    n_mels : int
        How many bands there are between 0 and half the sample rate.
    name : str
        What errors call the sound.

    Warns
    -----
    IdentifiabilityWarning
        When nothing stands out of the background.
    """
    if np.ndim(samples) != 1:
        raise InputError(f"{name} has shape {np.shape(samples)}; expected (n_samples,): average or choose its channels")
    check_signal(samples, name)
    bands = log_mel(samples, sample_rate, n_mels=n_mels, window=WINDOW, hop=HOP)
    sounding = bands[bands.max(1) > bands.min()]
    background = np.quantile(sounding if len(sounding) else bands, BACKGROUND_SHARE, axis=0)
    above = np.log1p(np.exp(np.maximum(bands - background, 0.0)) / BACKGROUND_MARGIN)
    centered = above - above.mean(0)
    if centered.mean(1).std() < LEAST_CONTRAST:
        warnings.warn(
            f"{name} is hardly more than a steady background, so its onsets mean little; record the words louder or closer",
            IdentifiabilityWarning,
            stacklevel=2,
        )
    scale = np.maximum(centered.std(0), SMALLEST_SCALE * centered.std())
    return centered / np.where(scale > 0, scale, 1.0)


def cyclic_hmm(n_states: int, *, init: str, max_iter: int, random_state: Any = 0) -> GaussianHMM:
    """The chain before it is fitted: a sound may begin anywhere in a word, and EM makes exactly ``max_iter`` iterations."""
    return GaussianHMM(
        n_states,
        transitions="cyclic",
        init=init,
        max_iter=max_iter,
        tol=0.0,
        reg_covar=VARIANCE_FLOOR,
        startprob_init=np.full(n_states, 1 / n_states),
        fixed=("startprob",),
        random_state=random_state,
    )


def _check_duration(frames: list[np.ndarray], n_states: int) -> None:
    n_frames, least = sum(map(len, frames)), FRAMES_FOR_A_STATE * n_states
    if n_frames < least:
        raise InputError(f"{n_frames * HOP:.2f} s of sound is too short for {n_states} states; give at least {least * HOP:.2f} s")
