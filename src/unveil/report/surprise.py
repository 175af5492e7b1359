"""What a chain makes of one sequence as it goes on: how surprising each step is, and which states it may be in."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unveil.report.drawing import WHOLE
from unveil.report.page import Card, Picture
from unveil.report.theme import LIGHT, STYLE, category_colours

MOST_STEPS = 400  # as many as can be told apart
MANY_CORNERS = 8000  # more are drawn as pixels


def surprise_card(estimator: Any, item: np.ndarray) -> Card | None:
    """The card of a page for an estimator that says how surprising each step is; None for others."""
    if not all(hasattr(estimator, name) for name in ("score_steps", "filter_proba", "predict_proba")):
        return None
    shown = min(len(item), MOST_STEPS)
    surprise = estimator.score_steps(item)
    worst = int(np.argmax(surprise[:shown]))
    alt = f"How surprising each of {shown} steps is; most so is step {worst}. Below: probabilities of the states."
    caption = (
        "Above: minus the log-likelihood of a step, given those before it. Below: the states' probabilities, once from the past alone "
        "(filtered), once from the whole sequence (smoothed)."
    )
    figure = surprise_figure(surprise, estimator.filter_proba(item), estimator.predict_proba(item))
    return Card("Surprise over time", [Picture(figure, alt, f"The first sequence. {caption}")])


def surprise_figure(surprise: np.ndarray, filtered: np.ndarray, smoothed: np.ndarray) -> Figure:
    """The surprise of each step, and below it the shares of the states, as they are known at that step and in the end.

    Parameters
    ----------
    surprise : ndarray of shape (n_steps,)
        -log p(x_t | x_1 .. x_{t-1}), in nats. At most 400 steps are drawn.
    filtered, smoothed : ndarray of shape (n_steps, n_states)
        p(z_t | x_1 .. x_t), and p(z_t | x_1 .. x_T).
    """
    surprise, filtered, smoothed = (each[:MOST_STEPS] for each in (surprise, filtered, smoothed))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WHOLE, 3.3), layout="constrained")
        above, *below = figure.subplots(3, 1, sharex=True, height_ratios=[1.0, 0.34, 0.34])
        above.grid(axis="y")
        above.step(np.arange(len(surprise)), surprise, where="mid", color=LIGHT["ink"], linewidth=1.1)
        above.set_ylabel("nats")
        above.set_xlim(-0.5, len(surprise) - 0.5)
        for axes, shares, name in zip(below, (filtered, smoothed), ("filtered", "smoothed"), strict=True):
            _draw_shares(axes, shares, name)
        below[-1].set_xlabel("step")
    return figure


def _draw_shares(axes: Axes, shares: np.ndarray, name: str) -> None:
    """The probabilities of the states stacked upon each other, a block for each step."""
    edges = np.arange(len(shares) + 1) - 0.5
    tops = np.concatenate([np.zeros((len(shares), 1)), np.cumsum(shares, axis=1)], axis=1)
    tops[:, -1] = 1.0  # but for rounding
    drawn = np.flatnonzero(shares.max(0) > 0)
    colours = category_colours(shares.shape[1])
    raster = len(drawn) * len(shares) > MANY_CORNERS
    for state in drawn:
        axes.stairs(
            tops[:, state + 1], edges, baseline=tops[:, state], fill=True, color=colours[state], linewidth=0, rasterized=raster
        )
    axes.set_ylim(0, 1)
    axes.set_yticks([0.5], [name])
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
