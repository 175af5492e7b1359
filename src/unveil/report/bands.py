"""What a linear dynamical system makes of one sequence: the smoothed mean with a band around it, and where nothing was observed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from unveil.report.theme import CATEGORIES, LIGHT, STYLE

WIDTH, PANEL_HEIGHT = 9.4, 1.5  # inches
MOST_COLUMNS, MOST_STEPS = 6, 2000
DEVIATIONS = 1.959964  # on either side of the mean of a normal distribution lie 95 %
MANY_DOTS = 300  # more are drawn as pixels


def bands_figure(estimator: Any, item: np.ndarray, *, names: Sequence[str] | None = None) -> Figure:
    """The observed values of a sequence over time, the smoothed mean C z + d of each column, and the band that holds 95 % of new values.

    Parameters
    ----------
    estimator : LinearDynamicalSystem
        A fitted one; or another with ``smooth``, ``observation_``, ``observation_offset_`` and ``observation_noise_``.
    item : ndarray of shape (n_steps, n_features)
        One sequence, with NaN where a value is missing: that is shaded. At most 6 columns and 2000 steps are drawn.
    names : sequence of str, optional
        Of the columns; by default those that the estimator was fitted with.
    """
    item = np.asarray(item, dtype=np.float64)
    mean, deviation = (each[:MOST_STEPS, :MOST_COLUMNS] for each in _bands(estimator, item))
    observed = item[:MOST_STEPS, :MOST_COLUMNS]
    if names is None:
        names = getattr(estimator, "feature_names_in_", [f"feature {d}" for d in range(item.shape[1])])
    with matplotlib.rc_context(STYLE):
        n_panels = observed.shape[1]
        figure = Figure(figsize=(WIDTH, 0.9 + PANEL_HEIGHT * n_panels), layout="constrained")
        panels = figure.subplots(n_panels, 1, sharex=True, squeeze=False)[:, 0]
        for panel, *column, name in zip(panels, observed.T, mean.T, deviation.T, names, strict=False):
            _draw_band(panel, *column)
            panel.set_ylabel(str(name))
        panels[-1].set_xlabel("step")
        _legend(figure, bool(np.isnan(observed).any()))
    return figure


def _bands(estimator: Any, item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (n_steps, n_features) of an observation at each step, given all that is observed."""
    mean, covariance = estimator.smooth(item, return_cov=True)
    observation = estimator.observation_
    variance = np.einsum("dk,tkl,dl->td", observation, covariance, observation) + np.diagonal(estimator.observation_noise_)
    return mean @ observation.T + estimator.observation_offset_, np.sqrt(variance)


def _draw_band(axes: Axes, observed: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> None:
    steps = np.arange(len(observed))
    for start, stop in _stretches(np.isnan(observed)):
        axes.axvspan(start - 0.5, stop - 0.5, color=LIGHT["muted"], alpha=0.12, linewidth=0, zorder=0)
    axes.fill_between(
        steps, mean - DEVIATIONS * deviation, mean + DEVIATIONS * deviation, color=CATEGORIES[0], alpha=0.18, linewidth=0, zorder=1
    )
    axes.plot(steps, mean, color=CATEGORIES[0], zorder=3)
    many = len(observed) > MANY_DOTS
    axes.scatter(steps, observed, color=LIGHT["ink"], s=3 if many else 8, alpha=0.65, linewidth=0, zorder=2, rasterized=many)
    axes.set_xlim(-0.5, len(observed) - 0.5)
    axes.margins(y=0.08)


def _stretches(flags: np.ndarray) -> list[tuple[int, int]]:
    """Where runs of True begin, and where they have ended."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def _legend(figure: Figure, with_gaps: bool) -> None:
    axes = figure.axes[0]
    dots = axes.scatter([], [], color=LIGHT["ink"], s=8, alpha=0.65, linewidth=0)
    (line,) = axes.plot([], [], color=CATEGORIES[0])
    shown = {"observed": dots, "smoothed mean": line, "95 % band": Patch(color=CATEGORIES[0], alpha=0.18, linewidth=0)}
    if with_gaps:
        shown["missing"] = Patch(color=LIGHT["muted"], alpha=0.12, linewidth=0)
    figure.legend(list(shown.values()), list(shown), loc="outside upper left", ncols=len(shown), frameon=False, fontsize=8.5)
