"""How well sources are separated: BSS-eval (SDR, SIR, SAR) and the scale-invariant SDR, all in decibels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike
from scipy.fft import irfft, next_fast_len, rfft
from scipy.linalg import LinAlgError, cho_factor, cho_solve, toeplitz
from scipy.optimize import linear_sum_assignment

from unveil.errors import InputError, ParameterError


@dataclass(frozen=True, eq=False)
class BSSEval:
    r"""Figures of BSS-eval for each reference, and for every pair of a reference :math:`j` and an estimate :math:`k`.

    An estimate is split into what filters of ``filter_length`` taps can make of the references, and the rest:

    .. math:: \hat s_k = \underbrace{P_j \hat s_k}_{s_{jk}}
                       + \underbrace{P \hat s_k - P_j \hat s_k}_{e^{interf}_{jk}}
                       + \underbrace{\hat s_k - P \hat s_k}_{e^{artif}_k}

    where :math:`P_j` projects on the delayed versions of reference :math:`j` and :math:`P` on those of all references.
    A figure is NaN where its reference or its estimate is silent.

    Attributes
    ----------
    sdr : ndarray of shape (n_sources,)
        :math:`\mathrm{SDR}_{j\pi(j)}` in dB: distortion of all kinds in the estimate matched to reference :math:`j`.
    sir : ndarray of shape (n_sources,)
        :math:`\mathrm{SIR}_{j\pi(j)}` in dB: interference in the estimate matched to reference :math:`j`.
    sar : ndarray of shape (n_sources,)
        :math:`\mathrm{SAR}_{\pi(j)}` in dB: artifacts in the estimate matched to reference :math:`j`.
    permutation : ndarray of int of shape (n_sources,)
        :math:`\pi = \arg\max_\pi \frac1n \sum_j \mathrm{SIR}_{j\pi(j)}`: the estimate matched to each reference.
    pairs_sdr : ndarray of shape (n_sources, n_estimates)
        :math:`\mathrm{SDR}_{jk} = 10 \log_{10} \|s_{jk}\|^2 / \|e^{interf}_{jk} + e^{artif}_k\|^2` in dB.
    pairs_sir : ndarray of shape (n_sources, n_estimates)
        :math:`\mathrm{SIR}_{jk} = 10 \log_{10} \|s_{jk}\|^2 / \|e^{interf}_{jk}\|^2` in dB.
    pairs_sar : ndarray of shape (n_estimates,)
        :math:`\mathrm{SAR}_k = 10 \log_{10} \|s_{jk} + e^{interf}_{jk}\|^2 / \|e^{artif}_k\|^2` in dB, the same for
        every :math:`j`, because :math:`s_{jk} + e^{interf}_{jk} = P \hat s_k`.
    """

    sdr: np.ndarray
    sir: np.ndarray
    sar: np.ndarray
    permutation: np.ndarray
    pairs_sdr: np.ndarray
    pairs_sir: np.ndarray
    pairs_sar: np.ndarray


def bss_eval(reference: ArrayLike, estimate: ArrayLike, *, filter_length: int = 512, permute: bool = True) -> BSSEval:
    r"""Score separated sources by BSS-eval version 3: distortion, interference and artifacts.

    Any filter of ``filter_length`` taps may be applied to a reference at no cost; :class:`BSSEval` has the equations.
    The scale of a signal does not matter.

    Parameters
    ----------
    reference : array_like of shape (n_sources, n_samples) or (n_samples,)
        The true sources.
    estimate : array_like of the same shape
        The separated sources, in any order.
    filter_length : int, default 512
        Taps of the allowed filters, in samples. 512 is BSS-eval v3, 1 is the instantaneous projection. Figures for
        different lengths cannot be compared.
    permute : bool, default True
        Match the estimates to the references by the best mean SIR; otherwise estimate :math:`j` is for reference
        :math:`j`.

    Returns
    -------
    BSSEval
        The figures in dB, in the order of the references, and the permutation.

    Raises
    ------
    InputError
        When the shapes differ, the signals are shorter than the filter, or a sample is NaN or infinite.
    ParameterError
        When ``filter_length`` is not a positive integer.

    Notes
    -----
    A silent reference (all samples zero) has NaN figures; so has the reference that is matched to a silent estimate.
    The others are as if the silent signal were not there. With one audible reference nothing interferes: SIR is
    ``inf``. Where delayed references are linearly dependent, the projection is regularised at the rounding level.

    References
    ----------
    .. [1] E. Vincent, R. Gribonval, C. Févotte, "Performance measurement in blind audio source separation",
       IEEE Transactions on Audio, Speech, and Language Processing 14(4), 2006.
    .. [2] E. Vincent et al., "The signal separation evaluation campaign (2007-2010): achievements and remaining
       challenges", Signal Processing 92, 2012.

    Examples
    --------
    Two orthogonal sources come out in the wrong order, each with a tenth of the other's amplitude:

    >>> import numpy as np
    >>> reference = np.array([[1.0, 1.0, 1.0, 1.0], [1.0, -1.0, 1.0, -1.0]])
    >>> estimate = np.array([[0.1, 1.0], [1.0, 0.1]]) @ reference
    >>> scores = bss_eval(reference, estimate, filter_length=1)
    >>> scores.permutation
    array([1, 0])
    >>> scores.sir.round(6)
    array([20., 20.])
    """
    reference, estimate = (_unit_peak(np.atleast_2d(x)) for x in _signals(reference, estimate))
    _check_sizes(reference, filter_length)
    n_sources = len(reference)
    heard = reference.any(axis=1)
    pairs_sdr, pairs_sir = np.full((2, n_sources, n_sources), np.nan)
    pairs_sar = np.full(n_sources, np.nan)
    if heard.any():
        pairs_sdr[heard], pairs_sir[heard], pairs_sar[:] = _figures(reference[heard], estimate, filter_length)
    permutation = _best_permutation(pairs_sir) if permute else np.arange(n_sources)
    matched = np.arange(n_sources), permutation
    return BSSEval(
        sdr=pairs_sdr[matched],
        sir=pairs_sir[matched],
        sar=np.where(heard, pairs_sar[permutation], np.nan),
        permutation=permutation,
        pairs_sdr=pairs_sdr,
        pairs_sir=pairs_sir,
        pairs_sar=pairs_sar,
    )


def si_sdr(reference: ArrayLike, estimate: ArrayLike, *, zero_mean: bool = False) -> np.ndarray:
    r"""Scale-invariant signal-to-distortion ratio.

    .. math:: \mathrm{SI\text{-}SDR} = 10 \log_{10} \frac{\|\alpha s\|^2}{\|\alpha s - \hat s\|^2}, \qquad
              \alpha = \frac{\langle \hat s, s \rangle}{\|s\|^2}

    Parameters
    ----------
    reference : array_like of shape (..., n_samples)
        The true signals :math:`s`.
    estimate : array_like of the same shape
        The estimated signals :math:`\hat s`, in the same order.
    zero_mean : bool, default False
        Remove the mean of each signal first, as some toolboxes do; by default the signals are taken as they are.

    Returns
    -------
    ndarray of shape (...)
        SI-SDR in dB: NaN where the reference or the estimate is silent, ``inf`` where they are proportional.

    Raises
    ------
    InputError
        When the shapes differ, there are no samples, or a sample is NaN or infinite.

    References
    ----------
    .. [1] J. Le Roux, S. Wisdom, H. Erdogan, J. R. Hershey, "SDR - half-baked or well done?", ICASSP, 2019.

    Examples
    --------
    >>> si_sdr([1.0, 1.0, 1.0, 1.0], [3.3, 2.7, 3.3, 2.7]).round(6)
    np.float64(20.0)
    """
    reference, estimate = _signals(reference, estimate)
    if zero_mean:
        reference, estimate = _centred(reference), _centred(estimate)
    reference, estimate = _unit_peak(reference), _unit_peak(estimate)
    with np.errstate(invalid="ignore"):  # 0 / 0 for a silent reference
        scale = np.sum(reference * estimate, axis=-1, keepdims=True) / np.sum(reference**2, axis=-1, keepdims=True)
    target = scale * reference
    return _decibels(_energy(target), _energy(target - estimate))


def _figures(reference: np.ndarray, estimate: np.ndarray, n_taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """SDR and SIR of all pairs and SAR of all estimates, in dB, from the energies of the parts."""
    target, interference, distortion = np.zeros((3, len(reference), len(estimate)))
    explained, artifacts = np.zeros((2, len(estimate)))
    # The parts are formed sample by sample: a difference of energies would cancel where the estimate is good.
    for samples, own_part, joint_part in _projections(reference, estimate, n_taps):
        target += _energy(own_part)
        interference += _energy(joint_part - own_part)
        distortion += _energy(samples - own_part)
        explained += _energy(joint_part)
        artifacts += _energy(samples - joint_part)
    return _decibels(target, distortion), _decibels(target, interference), _decibels(explained, artifacts)


def _projections(reference: np.ndarray, estimate: np.ndarray, n_taps: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Blocks in time of the estimates s_k (k, t), of P_j s_k (j, k, t) and of P s_k (k, t), by overlap-save."""
    n_fft, step = _block_sizes(n_taps)
    own, joint = (rfft(filters, n_fft) for filters in _projection_filters(reference, estimate, n_taps))
    margin = n_taps - 1
    reference = np.pad(reference, ((0, 0), (margin, margin)))
    estimate = np.pad(estimate, ((0, 0), (0, margin)))  # a filtered reference rings on after the estimate's end
    for start in range(0, estimate.shape[1], step):
        samples = estimate[:, start : start + step]
        valid = slice(margin, margin + samples.shape[1])
        spectra = rfft(reference[:, start : start + n_fft], n_fft)[:, None]
        yield samples, irfft(spectra * own, n_fft)[..., valid], irfft((spectra * joint).sum(axis=0), n_fft)[..., valid]


def _projection_filters(reference: np.ndarray, estimate: np.ndarray, n_taps: int) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares filters (j, k, tap) that make estimate k of reference j alone, and of all references together."""
    n_sources = len(reference)
    correlation = _correlations(reference, np.concatenate([reference, estimate]), n_taps)
    between, towards = correlation[:, :n_sources], correlation[:, n_sources:].swapaxes(1, 2)
    # <s_i(t - a), s_j(t - b)> depends on a - b only: one Toeplitz block for each pair of references.
    gram = np.block([[toeplitz(between[i, j], between[j, i]) for j in range(n_sources)] for i in range(n_sources)])
    blocks = [slice(j * n_taps, (j + 1) * n_taps) for j in range(n_sources)]
    own = np.stack([_solve(gram[block, block], towards[j]) for j, block in enumerate(blocks)])
    joint = own if n_sources == 1 else _solve(gram, np.concatenate(towards)).reshape(own.shape)
    return own.swapaxes(1, 2), joint.swapaxes(1, 2)


def _correlations(reference: np.ndarray, signals: np.ndarray, n_lags: int) -> np.ndarray:
    """r[j, k, l] = sum over t of reference[j, t] signals[k, t + l], for the lags l = 0 ... n_lags - 1."""
    n_fft, step = _block_sizes(n_lags)
    cross_spectrum = np.zeros((len(reference), len(signals), n_fft // 2 + 1), dtype=complex)
    for start in range(0, reference.shape[1], step):
        early = rfft(reference[:, start : start + step], n_fft)
        late = rfft(signals[:, start : start + n_fft], n_fft)
        cross_spectrum += early.conj()[:, None] * late
    return irfft(cross_spectrum, n_fft)[..., :n_lags]


def _block_sizes(n_taps: int) -> tuple[int, int]:
    """FFT length, and how many samples each block advances so that n_taps lags do not wrap around."""
    n_fft = next_fast_len(max(4096, 8 * n_taps), real=True)
    return n_fft, n_fft - n_taps + 1


def _solve(gram: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve the normal equations; where they are singular, for a solution that projects as well as any.

    Cholesky also for one Toeplitz block: the Levinson recursion is faster, but where a reference is band-limited the
    block is singular to rounding, and the recursion then returns a wrong answer without notice.
    """
    gram = gram.T  # the same matrix in LAPACK's order of columns, which spares a copy
    try:
        return cho_solve(cho_factor(gram, check_finite=False), right, check_finite=False)
    except LinAlgError:
        # A ridge just above the rounding errors of the matrix: it caps the figures of such references near 130 dB.
        ridge = 16 * np.finfo(float).eps * np.trace(gram)
        return cho_solve(cho_factor(gram + ridge * np.eye(len(gram)), check_finite=False), right, check_finite=False)


def _best_permutation(pairs_sir: np.ndarray) -> np.ndarray:
    # An undefined pair costs more than any defined one, so a silent estimate goes to a silent reference.
    table = np.nan_to_num(pairs_sir, nan=-1e6, posinf=1e4, neginf=-1e4)
    return linear_sum_assignment(table, maximize=True)[1]


def _decibels(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):  # x / 0 = inf, log 0 = -inf, and silence: 0 / 0 = NaN
        return 10 * np.log10(numerator / denominator)


def _energy(signals: np.ndarray) -> np.ndarray:
    return np.einsum("...t,...t->...", signals, signals)


def _centred(signals: np.ndarray) -> np.ndarray:
    shifted = signals - signals[..., :1]  # first, so that a constant becomes exactly silent
    return shifted - shifted.mean(axis=-1, keepdims=True)


def _unit_peak(signals: np.ndarray) -> np.ndarray:
    peak = np.abs(signals).max(axis=-1, keepdims=True)
    return signals / np.where(peak > 0, peak, 1.0)


def _signals(reference: ArrayLike, estimate: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    reference, estimate = _finite("reference", reference), _finite("estimate", estimate)
    if reference.shape != estimate.shape:
        raise InputError(
            f"expected a reference and an estimate of the same shape, got {reference.shape} and {estimate.shape}; "
            "give one estimate for each reference and cut both to the same length"
        )
    if reference.size == 0 or reference.ndim == 0:
        raise InputError(f"expected signals with samples, got shape {reference.shape}; leave empty signals out")
    return reference, estimate


def _finite(name: str, signals: ArrayLike) -> np.ndarray:
    try:
        signals = np.asarray(signals)
    except ValueError as error:
        raise InputError(f"{name}: expected signals of one length, got different lengths; cut them alike") from error
    if signals.dtype.kind not in "biuf":
        raise InputError(f"{name}: expected real samples, got {signals.dtype}; give the waveform as real numbers")
    if not np.isfinite(signals).all():
        raise InputError(f"{name}: expected finite samples, got NaN or infinite ones; mend or leave out that signal")
    return signals.astype(float)


def _check_sizes(signals: np.ndarray, filter_length: int) -> None:
    if not isinstance(filter_length, Integral) or filter_length < 1:
        raise ParameterError(f"filter_length: expected a positive integer, got {filter_length!r}; 512 is BSS-eval v3")
    if signals.ndim != 2:
        raise InputError(f"expected shape (n_sources, n_samples), got {signals.shape}; score each channel alone")
    if signals.shape[1] < filter_length:
        raise InputError(
            f"expected at least {filter_length} samples, the length of the filter, got {signals.shape[1]}; "
            "give longer signals or a smaller filter_length"
        )
