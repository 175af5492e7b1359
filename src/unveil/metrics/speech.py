"""How well speech is kept: quality as listeners rate it (PESQ), and intelligibility (STOI and extended STOI).

PESQ is computed by the package ``pesq``, the code of the recommendation: ``pip install unveil[speech]``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import ceil
from types import ModuleType

import numpy as np
import soxr
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike
from scipy.signal import firwin, resample_poly

from unveil.errors import InputError, ParameterError

PESQ_LONGEST = 20.0  # seconds
STOI_RATE = 10_000  # Hz; the constants of STOI below are those of its authors
STOI_FRAME, STOI_HOP, STOI_FFT = 256, 128, 512  # samples
STOI_BANDS, STOI_LOWEST = 15, 150.0  # third octaves, and the centre of the lowest in Hz
STOI_SEGMENT = 30  # frames: 384 ms
STOI_CLIP = 1 + 10 ** (15 / 20)  # an amplitude at which the signal-to-distortion ratio is -15 dB
STOI_RANGE = 40.0  # dB: quieter frames of the reference are silence


@dataclass(frozen=True, eq=False)
class SpeechScores:
    """Scores of each clip, NaN where a clip is without speech.

    Attributes
    ----------
    pesq_wb, pesq_nb : ndarray of shape (n_clips,)
        PESQ of wide and of narrow band (MOS-LQO, 1 to 4.64 or 4.55).
    stoi, estoi : ndarray of shape (n_clips,)
        At most 1.
    n_without_speech : int
        The clips that have a score missing; means leave them out.
    """

    pesq_wb: np.ndarray
    pesq_nb: np.ndarray
    stoi: np.ndarray
    estoi: np.ndarray
    n_without_speech: int

    def means(self) -> dict[str, float]:
        """Mean of each score over the clips that have it; NaN when none has."""
        scores = {name: getattr(self, name) for name in ("pesq_wb", "pesq_nb", "stoi", "estoi")}
        known = {name: values[np.isfinite(values)] for name, values in scores.items()}
        return {name: float(values.mean()) if len(values) else np.nan for name, values in known.items()}


def score_speech(pairs: Iterable[tuple[ArrayLike, ArrayLike]], sample_rate: float) -> SpeechScores:
    """PESQ of both bands, STOI and extended STOI of many clips.

    Parameters
    ----------
    pairs : iterable of (reference, estimate)
        Clean and processed signals of one channel, each pair of one length.
    sample_rate : float
        Of all of them, in Hz.

    Returns
    -------
    SpeechScores

    Raises
    ------
    InputError
        As :func:`pesq` and :func:`stoi` do.
    """
    rows = [
        (
            pesq(reference, estimate, sample_rate, "wb"),
            pesq(reference, estimate, sample_rate, "nb"),
            stoi(reference, estimate, sample_rate),
            stoi(reference, estimate, sample_rate, extended=True),
        )
        for reference, estimate in pairs
    ]
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    return SpeechScores(*table.T, n_without_speech=int(np.isnan(table).any(axis=1).sum()))


def pesq(reference: ArrayLike, estimate: ArrayLike, sample_rate: float, mode: str = "wb") -> float:
    """Perceptual evaluation of speech quality: what listeners would say, from 1 (bad) to 4.64 (wide band) or 4.55 (narrow band).

    Say which band a figure is for: wide and narrow band differ by half a point on the same clip.

    Parameters
    ----------
    reference, estimate : array_like of shape (n_samples,)
        Clean and processed speech, from a quarter of a second to 20 seconds: more utterances than fit in the tables of the
        recommendation's code would overrun them. Their levels do not matter.
    sample_rate : float
        In Hz. Signals are resampled to 16 kHz, but for narrow band at 8 kHz.
    mode : {"wb", "nb"}
        Wide band (P.862.2, ``pesq_wb``) or narrow band (P.862 with the mapping of P.862.1, ``pesq_nb``).

    Returns
    -------
    float
        MOS-LQO; NaN where no speech is found, or one of the signals is silent.

    Raises
    ------
    InputError
        When the signals are not of one length, finite, and in these bounds, or the package ``pesq`` is not installed.
    ParameterError
        When the mode is another one, or the sample rate is not positive.

    References
    ----------
    .. [1] ITU-T Recommendations P.862 (2001), P.862.1 (2003) and P.862.2 (2007).
    """
    if mode not in ("wb", "nb"):
        raise ParameterError(f"mode={mode!r}: expected 'wb' or 'nb'")
    reference, estimate = _clips(reference, estimate, sample_rate)
    seconds = len(reference) / sample_rate
    if not 0.25 < seconds <= PESQ_LONGEST:
        raise InputError(f"PESQ takes clips of 0.25 to {PESQ_LONGEST:g} s, got {seconds:.4g} s; cut longer ones into clips")
    package = _pesq_package()
    rate = 8000 if mode == "nb" and sample_rate == 8000 else 16_000
    if not (reference.any() and estimate.any()):
        return np.nan
    try:
        return float(package.pesq(rate, *_resampled(reference, estimate, sample_rate, rate), mode))
    except package.NoUtterancesError:
        return np.nan


def stoi(reference: ArrayLike, estimate: ArrayLike, sample_rate: float, extended: bool = False) -> float:
    r"""Short-time objective intelligibility: how alike the envelopes of third-octave bands are over 384 ms; at most 1.

    With the envelopes :math:`X, Y` (15 bands, 30 frames) of a segment of both signals, where frames that are silent in the reference
    have been cut out,

    .. math:: d = \operatorname{mean}_{\text{bands}} \operatorname{corr}(X_b, \min(\alpha_b Y_b, (1 + 10^{15/20}) X_b)),
              \qquad \alpha_b = \|X_b\| / \|Y_b\|,

    and STOI is the mean of d over all segments. The extended one normalises the bands over the frames, and then the frames over the
    bands, and has :math:`d = \frac1{30} \sum_t \tilde X_t' \tilde Y_t`; it also tells modulated noise.

    Parameters
    ----------
    reference, estimate : array_like of shape (n_samples,)
        Clean and processed speech.
    sample_rate : float
        In Hz. Signals are resampled to 10 kHz.
    extended : bool
        Extended STOI (``estoi``) instead of STOI (``stoi``).

    Returns
    -------
    float
        NaN where the reference holds less than 0.4 s of speech. A band in which nothing varies counts as not correlated.

    Raises
    ------
    InputError
        When the signals are not of one length and finite.
    ParameterError
        When the sample rate is not positive.

    References
    ----------
    .. [1] C. H. Taal, R. C. Hendriks, R. Heusdens, J. Jensen, "An algorithm for intelligibility prediction of time-frequency
       weighted noisy speech", IEEE Transactions on Audio, Speech, and Language Processing 19(7), 2011.
    .. [2] J. Jensen, C. H. Taal, "An algorithm for predicting the intelligibility of speech masked by modulated noise maskers",
       IEEE/ACM Transactions on Audio, Speech, and Language Processing 24(11), 2016.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(size=(2, 16_000))
    >>> round(stoi(noise[0], 3 * noise[0], 16_000), 6), abs(stoi(*noise, 16_000)) < 0.3
    (1.0, True)
    """
    signals = (_at_stoi_rate(signal, sample_rate) for signal in _clips(reference, estimate, sample_rate))
    signals = _without_silence(*signals)
    envelopes = [_band_envelopes(signal) for signal in signals]
    if envelopes[0].shape[1] < STOI_SEGMENT:
        return np.nan
    reference, estimate = (sliding_window_view(bands, STOI_SEGMENT, axis=1).swapaxes(0, 1) for bands in envelopes)
    return _extended_similarity(reference, estimate) if extended else _similarity(reference, estimate)


def _at_stoi_rate(signal: np.ndarray, sample_rate: float) -> np.ndarray:
    """The signal at 10 kHz, by the filter of the authors' code: another one may tip frames over the threshold of silence."""
    ratio = Fraction(STOI_RATE) / Fraction(sample_rate).limit_denominator(1000)
    if ratio == 1:
        return signal
    slowest = max(ratio.numerator, ratio.denominator)
    n_taps = 2 * ceil(20 * slowest * (60 - 8) / 28.714) + 1  # 60 dB down within a tenth of the pass band (Kaiser)
    lowpass = firwin(n_taps, 1 / slowest, window=("kaiser", 0.1102 * (60 - 8.7)))
    return resample_poly(signal, ratio.numerator, ratio.denominator, window=lowpass)


def _similarity(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Mean correlation of segments (n, bands, frames), after the estimate is clipped where distortions would outweigh all else."""
    levels = np.linalg.norm(reference, axis=2, keepdims=True)
    clipped = np.minimum(_normalized(estimate, 2) * levels, STOI_CLIP * reference)
    return float((_standardized(reference, 2) * _standardized(clipped, 2)).sum(2).mean())


def _extended_similarity(reference: np.ndarray, estimate: np.ndarray) -> float:
    """The same over bands and frames together."""
    reference, estimate = (_standardized(_standardized(segments, 2), 1) for segments in (reference, estimate))
    return float((reference * estimate).sum(1).mean())


def _standardized(segments: np.ndarray, axis: int) -> np.ndarray:
    centred = segments - segments.mean(axis, keepdims=True)
    rounding = 1e-12 * np.linalg.norm(segments, axis=axis, keepdims=True)  # what is left of a constant
    return _normalized(np.where(np.linalg.norm(centred, axis=axis, keepdims=True) > rounding, centred, 0), axis)


def _normalized(segments: np.ndarray, axis: int) -> np.ndarray:
    norms = np.linalg.norm(segments, axis=axis, keepdims=True)
    return segments / np.where(norms > 0, norms, 1)


def _without_silence(reference: np.ndarray, estimate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both signals without the frames that are silent in the reference, put together again by overlap-add."""
    reference, estimate = _frames(reference), _frames(estimate)
    levels = np.linalg.norm(reference, axis=1)
    heard = levels > levels.max(initial=0) * 10 ** (-STOI_RANGE / 20)
    return _overlap_add(reference[heard]), _overlap_add(estimate[heard])


def _frames(signal: np.ndarray) -> np.ndarray:
    """Windowed frames that overlap by half; like the authors' code, without the one that would end with the signal."""
    if len(signal) <= STOI_FRAME:
        return np.empty((0, STOI_FRAME))
    return sliding_window_view(signal[:-1], STOI_FRAME)[::STOI_HOP] * np.hanning(STOI_FRAME + 2)[1:-1]


def _overlap_add(frames: np.ndarray) -> np.ndarray:
    halves = frames.reshape(-1, 2, STOI_HOP)
    signal = np.zeros((len(halves) + 1, STOI_HOP))
    signal[:-1] += halves[:, 0]
    signal[1:] += halves[:, 1]
    return signal.ravel()


def _band_envelopes(signal: np.ndarray) -> np.ndarray:
    """Amplitude of each third-octave band in each frame, of shape (bands, frames)."""
    power = np.abs(np.fft.rfft(_frames(signal), STOI_FFT)) ** 2
    return np.sqrt(_third_octaves() @ power.T)


@cache
def _third_octaves() -> np.ndarray:
    """Which bins of the spectrum each band holds, of shape (bands, bins)."""
    centres = STOI_LOWEST * 2 ** (np.arange(STOI_BANDS) / 3)
    bin_width = STOI_RATE / STOI_FFT
    first, last = (np.round(centres * 2**edge / bin_width)[:, None] for edge in (-1 / 6, 1 / 6))
    bins = np.arange(STOI_FFT // 2 + 1)
    return ((bins >= first) & (bins < last)).astype(np.float64)


@cache
def _pesq_package() -> ModuleType:
    try:
        import pesq as package
    except ImportError as error:
        raise InputError("PESQ needs the package pesq; pip install 'unveil[speech]'") from error
    return package


def _resampled(reference: np.ndarray, estimate: np.ndarray, sample_rate: float, rate: int) -> tuple[np.ndarray, np.ndarray]:
    if sample_rate == rate:
        return reference, estimate
    return soxr.resample(reference, sample_rate, rate), soxr.resample(estimate, sample_rate, rate)


def _clips(reference: ArrayLike, estimate: ArrayLike, sample_rate: float) -> tuple[np.ndarray, np.ndarray]:
    if not 0 < sample_rate < np.inf:
        raise ParameterError(f"sample_rate={sample_rate!r}: expected a positive number of Hz")
    reference, estimate = _clip("reference", reference), _clip("estimate", estimate)
    if len(reference) != len(estimate):
        raise InputError(f"expected signals of one length, got {len(reference)} and {len(estimate)} samples; cut them alike")
    return reference, estimate


def _clip(name: str, signal: ArrayLike) -> np.ndarray:
    signal = np.asarray(signal)
    if signal.ndim != 1 or not signal.size:
        raise InputError(f"{name}: expected one channel, of shape (n_samples,), got {signal.shape}; score each channel alone")
    if signal.dtype.kind not in "biuf" or not np.isfinite(signal).all():
        raise InputError(f"{name}: expected real and finite samples; mend or leave out that signal")
    return signal.astype(np.float64)
