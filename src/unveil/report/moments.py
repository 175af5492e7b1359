"""What the moments of the data say of how many states and clusters there are, where learning started from moments."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unveil.report.drawing import HALF, WHOLE, blank, styled, whole_numbers
from unveil.report.page import Picture, Section, Text
from unveil.report.sample import Sample
from unveil.report.theme import CATEGORIES, LIGHT

MOST_VALUES = 40
SPECTRA = {"three-view": "singular value at distance 2"}


def moments(estimator: Any, sample: Sample | None) -> Section | None:
    """Of what started from moments: the values whose gaps count the states, and the clusters."""
    found = getattr(estimator, "moments_", None)
    if found is None:
        return None
    alt = f"{len(found.spectrum)} values of the moments, the largest first; {found}."
    caption = "Filled: what is counted. A gap after the filled ones says that there are so many."
    return Section("Moments", [Text(f"Learning started from moments: {found}."), Picture(_draw(found), alt, caption)])


@styled
def _draw(found: Any) -> Figure:
    two = found.eigenvalues is not None
    figure = blank(WHOLE if two else HALF, 2.4)
    axes = np.atleast_1d(figure.subplots(1, 2 if two else 1))
    of_covariance = found.method != "three-view" and np.isfinite(found.gap)
    label = "eigenvalue of the covariance" if of_covariance else SPECTRA.get(found.method, "singular value of Phi")
    _draw_values(axes[0], found.spectrum, found.n_states - of_covariance, label)
    if two:
        _draw_values(axes[1], found.eigenvalues, found.n_clusters, "eigenvalue of clusters")
    return figure


def _draw_values(axes: Axes, values: np.ndarray, n_counted: int, label: str) -> None:
    places, counted = np.arange(1, len(values) + 1)[:MOST_VALUES], min(n_counted, MOST_VALUES)
    axes.vlines(places, 0, values[:MOST_VALUES], color=LIGHT["line"], lw=1)
    axes.plot(places[:counted], values[:counted], "o", ms=4, color=CATEGORIES[0])
    axes.plot(places[counted:], values[counted:MOST_VALUES], "o", ms=4, mfc="none", color=CATEGORIES[0])
    axes.set(xlabel="place", ylabel=label)
    whole_numbers(axes.xaxis)
