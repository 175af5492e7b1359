"""What a blind separation found: components, their sources, and whether the recording determines them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from unveil.report.drawing import HALF, WHOLE, blank, styled, whole_numbers
from unveil.report.page import Fact, Facts, Picture, Section, Text
from unveil.report.theme import LIGHT, category_colours

if TYPE_CHECKING:
    from unveil.models.revealing_factorial_hmm import RevealingFactorialHMM


def found_section(model: RevealingFactorialHMM, activations: np.ndarray, frames_per_second: float) -> Section:
    """Components over time in the colours of their sources, and what speaks against trusting them.

    Parameters
    ----------
    model : RevealingFactorialHMM
        Fitted.
    activations : ndarray of shape (n_frames, S)
    frames_per_second : float
    """
    found = model.diagnostics_
    counts = np.bincount(model.sources_, minlength=model.n_chains)
    facts = [Fact(f"components of source{k + 1}", int(count)) for k, count in enumerate(counts)]
    facts += [
        Fact("residual", f"{100 * found.residual:.1f}", "%"),
        Fact("playing together within a source", f"{100 * found.frustration:.0f}", "%"),
    ]
    said = [f"Doubtful: {doubt}." for doubt in found.doubts] or ["Nothing speaks against the result."]
    return Section(
        "What was found", [Facts(facts), *map(Text, said), activations_picture(activations, model.sources_, frames_per_second)]
    )


def activations_picture(activations: np.ndarray, sources: np.ndarray, frames_per_second: float) -> Picture:
    """Activations (n_frames, S) of components, one line for each, in the colours of their sources (S,)."""
    return Picture(
        _draw_activations(activations, sources, frames_per_second),
        "Activations of all components over time, coloured by the source that they were given to.",
        "Each line is one component that was found, in the colour of its source.",
    )


def residuals_picture(curves: Mapping[str, np.ndarray], limit: float) -> Picture:
    """Residuals by the number of components, for one or several recordings, and the limit above which there is a warning."""
    return Picture(
        _draw_residuals(curves, limit),
        "The residual falls with the number of components where all are heard alone, and stays high where they never are.",
        "What at most one component of each source leaves of the cluster centres' energy. Above the line there is a warning.",
    )


@styled
def _draw_activations(activations: np.ndarray, sources: np.ndarray, frames_per_second: float) -> Figure:
    colours = category_colours(int(sources.max()) + 1)
    figure = blank(WHOLE, 1.0 + 0.16 * activations.shape[1])
    axes = figure.subplots()
    seconds = np.arange(len(activations)) / frames_per_second
    height = np.quantile(activations, 0.999)
    for i, (activation, source) in enumerate(zip(activations.T, sources, strict=True)):
        axes.fill_between(seconds, i, i + np.clip(activation / height, 0, 1), color=colours[source], linewidth=0)
    axes.set(xlabel="seconds", ylabel="component", yticks=[], xlim=(0, seconds[-1]))
    for k, colour in enumerate(colours):
        axes.fill_between([], [], color=colour, label=f"source{k + 1}")
    figure.legend(loc="outside upper right", ncols=len(colours), frameon=False)
    return figure


@styled
def _draw_residuals(curves: Mapping[str, np.ndarray], limit: float) -> Figure:
    figure = blank(1.4 * HALF, 0.75 * HALF)
    axes = figure.subplots()
    for (name, curve), colour in zip(curves.items(), category_colours(len(curves)), strict=True):
        axes.plot(np.arange(1, len(curve) + 1), curve, color=colour, label=name)
    axes.axhline(limit, color=LIGHT["muted"], linewidth=0.8, linestyle="--")
    axes.set(xlabel="components", ylabel="residual", ylim=(0, None))
    whole_numbers(axes.xaxis)
    axes.legend(frameon=False)
    return figure
