"""Score separated sources against the true ones, and sounds that were said again against the original."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

import numpy as np

from unveil.errors import InputError
from unveil.metrics.bss import bss_eval, si_sdr
from unveil.metrics.speech import PESQ_LONGEST, pesq, stoi


def score_sources(
    references: Mapping[str, np.ndarray], estimates: Mapping[str, np.ndarray], *, filter_length: int = 512
) -> dict[str, dict[str, float]]:
    """SDR, SIR, SAR (BSS-eval) and SI-SDR in decibels of each source, averaged over channels.

    Parameters
    ----------
    references, estimates : dict of str to ndarray of shape (n_samples,) or (n_channels, n_samples)
        True and separated sources by the same names; the longer ones are cut to the shortest.
    filter_length : int
        Of the allowed distortion, in samples: 512 is BSS-eval v3, 1 a gain.

    Returns
    -------
    dict of str to dict of str to float
        For each source its figures by name; NaN for a silent one.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> a, b, noise = rng.normal(size=(3, 4000))
    >>> scores = score_sources({"a": a, "b": b}, {"a": a + 0.1 * noise, "b": b}, filter_length=1)
    >>> 19 < scores["a"]["SDR"] < 21
    True
    """
    names = list(references)
    n_samples = min(each.shape[-1] for each in [*references.values(), *(estimates[name] for name in names)])
    true, estimated = (np.stack([np.atleast_2d(group[name])[:, :n_samples] for name in names]) for group in (references, estimates))
    if true.shape[1] != estimated.shape[1]:
        raise InputError(f"the references have {true.shape[1]} channels and the estimates {estimated.shape[1]}; give both the same")
    by_channel = [
        bss_eval(true[:, channel], estimated[:, channel], filter_length=filter_length, permute=False)
        for channel in range(true.shape[1])
    ]
    figures = {
        "SDR": np.stack([each.sdr for each in by_channel]),
        "SIR": np.stack([each.sir for each in by_channel]),
        "SAR": np.stack([each.sar for each in by_channel]),
        "SI-SDR": si_sdr(true, estimated).T,
    }
    return {name: {metric: _mean(values[:, i]) for metric, values in figures.items()} for i, name in enumerate(names)}


def match_sources(references: Mapping[str, np.ndarray], estimates: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The name of the estimate for each reference, by the best mean SIR of the means of their channels.

    Examples
    --------
    >>> a, b = np.random.default_rng(0).normal(size=(2, 4000))
    >>> match_sources({"a": a, "b": b}, {"first": b, "second": a})
    {'a': 'second', 'b': 'first'}
    """
    n_samples = min(each.shape[-1] for each in [*references.values(), *estimates.values()])
    true, estimated = (
        np.stack([np.atleast_2d(each)[:, :n_samples].mean(0) for each in group.values()]) for group in (references, estimates)
    )
    names, found = list(estimates), bss_eval(true, estimated)
    return {reference: names[i] for reference, i in zip(references, found.permutation, strict=True)}


def _mean(values: np.ndarray) -> float:
    """The mean over channels in which the source sounds."""
    heard = values[~np.isnan(values)]
    return float(heard.mean()) if len(heard) else float("nan")


def score_reconstruction(original: np.ndarray, again: np.ndarray, sample_rate: float) -> dict[str, float]:
    """How much of a sound, of speech in the first place, is kept when it is said again.

    Parameters
    ----------
    original, again : ndarray of shape (n_samples,) or (n_channels, n_samples)
        Channels are averaged.
    sample_rate : float
        In hertz.

    Returns
    -------
    dict of str to float
        "STOI" and "ESTOI" (at most 1), "PESQ wb" (1 to 4.64, of the first 20 s; only where the package ``pesq`` is installed) and
        "SI-SDR" in decibels; NaN where a score finds no speech.

    Examples
    --------
    >>> sound = np.random.default_rng(0).normal(size=16000)
    >>> round(score_reconstruction(sound, sound, 16000)["STOI"], 3)
    1.0
    """
    first, second = (np.atleast_2d(sound).mean(0) for sound in (original, again))
    scores = {"STOI": stoi(first, second, sample_rate), "ESTOI": stoi(first, second, sample_rate, extended=True)}
    seconds = len(first) / sample_rate
    if find_spec("pesq") is not None and seconds > 0.25:
        excerpt = slice(int(PESQ_LONGEST * sample_rate))
        scores["PESQ wb"] = pesq(first[excerpt], second[excerpt], sample_rate)
    return scores | {"SI-SDR": float(si_sdr(first, second))}
