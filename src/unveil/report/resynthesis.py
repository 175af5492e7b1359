"""The report of a resynthesis: a sound before and after, and the codes that it was said again from."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from unveil.audio.score import score_reconstruction
from unveil.core.estimator import Estimator
from unveil.metrics.sparsity import hoyer
from unveil.report import figures
from unveil.report.fitted import learning_curve
from unveil.report.page import Card, Fact, Facts, Page, Picture, Row, Section, Text, write_page
from unveil.report.provenance import how_this_was_made, parameter_table
from unveil.report.separation import Stage


def resynthesis_report(
    path: str | os.PathLike,
    estimator: Estimator,
    original: np.ndarray,
    again: np.ndarray,
    sample_rate: float,
    *,
    frames: np.ndarray,
    title: str = "A sound, said again",
    command: str | None = None,
) -> dict[str, float]:
    """Write a page to listen to a sound before and after its resynthesis, and to look at its codes.

    Parameters
    ----------
    path : path
        The HTML file to write.
    estimator : Estimator
        Which said it again; with ``transform``.
    original, again : ndarray of shape (n_samples,) or (n_channels, n_samples)
    sample_rate : float
        In hertz.
    frames : ndarray of shape (n_frames, n_frequencies)
        The power spectra of the original, whose codes are shown.
    title, command : str
        What the page is called, and how it was made.

    Returns
    -------
    dict of str to float
        The scores on the page: see ``unveil.audio.score.score_reconstruction``, and the sparsity of the codes.
    """
    codes = np.asarray(estimator.transform(frames))  # type: ignore[attr-defined]
    scores = score_reconstruction(original, again, sample_rate) | {
        "Hoyer sparsity": float(np.nanmean(hoyer(codes))),
        "Hoyer sparsity, scaled": float(np.nanmean(hoyer(codes, scaled=True))),
    }
    stage = Stage.of({"original": original, "again": again}, sample_rate)
    sounds = Row([stage.card("Original", original), stage.card("Said again", again)])
    seconds = np.shape(original)[-1] / sample_rate
    said = (
        "The Hoyer sparsity of a code is 1 where a single number of it is not zero, and 0 where all are alike; scaled, each number is "
        "first divided by its root mean square over the frames, since the scale of a latent dimension is often free."
    )
    kept = Facts([Fact(name, value, "dB" if name == "SI-SDR" else "") for name, value in scores.items()])
    learned = [Card("Learning", [learning_curve(estimator)])] if estimator.history_.objective else []
    sections = [
        Section("Sounds", [Text(stage.described()), sounds]),
        Section("How much is kept", [kept, Text(said)]),
        Section(
            "Codes", [Card("Codes of all frames", [_codes(codes, seconds)]), Row(learned)] if learned else [_codes(codes, seconds)]
        ),
        how_this_was_made([parameter_table({"model": estimator})], command),
    ]
    summary = (
        f"A sound of {seconds:.1f} s was said again by {type(estimator).__name__}, from {codes.shape[1]} numbers for each frame."
    )
    write_page(Path(path), Page(title, summary, sections))
    return scores


def _codes(codes: np.ndarray, seconds: float) -> Picture:
    figure = figures.activations(np.abs(codes), seconds_per_item=seconds / len(codes), noun="latent dimension")
    alt = f"Image of {codes.shape[1]} latent dimensions over {seconds:.1f} s."
    return Picture(figure, alt, "Magnitudes, each relative to the largest of its dimension.")
