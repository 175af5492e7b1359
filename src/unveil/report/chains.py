"""The figures of Markov chains: transitions as a matrix and as a graph, and states over time."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch
from matplotlib.ticker import MaxNLocator

from unveil.report.drawing import (
    HALF,
    MANY_DOTS,
    WHOLE,
    blank,
    draw_image,
    names_or_numbers,
    styled,
    thinned,
)
from unveil.report.theme import CATEGORIES, LIGHT, SHARES, category_colours


@styled
def transition_matrix(transmat: np.ndarray) -> Figure:
    """The probabilities of going from one state (rows) to another (columns); with numbers where there is room."""
    n_states = len(transmat)
    side = min(2.0 + 0.3 * n_states, HALF)
    figure = blank(side, side * 0.95)
    axes = figure.add_subplot()
    axes.imshow(transmat, cmap=SHARES, vmin=0, vmax=1, interpolation="none")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.xaxis.set_label_position("top")
    axes.xaxis.tick_top()
    axes.set_xlabel("to state")
    axes.set_ylabel("from state")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, nbins=min(n_states, 12), min_n_ticks=1))
    if n_states <= 10:
        for (i, j), probability in np.ndenumerate(transmat):
            if probability > 0:  # an empty cell says more clearly that this cannot happen
                axes.text(j, i, _probability(probability), ha="center", va="center", fontsize=8)
    return figure


def _probability(value: float) -> str:
    """Two decimals, without claiming a certainty that is not there."""
    if value < 0.005:
        return "<.01"
    if 0.995 <= value < 1:
        return ">.99"
    return "1" if value == 1 else f"{value:.2f}".removeprefix("0")


@styled
def transition_graph(transmat: np.ndarray, startprob: np.ndarray | None = None) -> Figure:
    """States on a circle; an arrow is as wide as its transition is probable, those below 1 % are left out.

    Parameters
    ----------
    transmat : ndarray of shape (n_states, n_states)
        Rows are where from. A ring at a state is the probability of staying.
    startprob : ndarray of shape (n_states,), optional
        Arrows from outside.
    """
    n_states = len(transmat)
    figure = blank(3.6, 3.4)
    axes = figure.add_subplot()
    axes.set_aspect("equal")
    axes.axis("off")
    axes.set(xlim=(-1.75, 1.75), ylim=(-1.7, 1.7))
    angles = np.pi / 2 - 2 * np.pi * np.arange(n_states) / n_states
    outward = np.column_stack([np.cos(angles), np.sin(angles)])
    places = outward if n_states > 1 else np.zeros((1, 2))
    radius = min(0.2, 1.6 / (n_states + 1))
    for i, j in np.argwhere(transmat >= 0.01):
        if i == j:
            _stay(axes, places[i] + 1.35 * radius * outward[i], radius, transmat[i, i])
        else:
            _arrow(axes, places[i], places[j], transmat[i, j], radius, bend=0.16)
    for place, direction, probability in zip(places, outward, [] if startprob is None else startprob, strict=False):
        if probability >= 0.01:
            aside = np.array([[0.77, 0.64], [-0.64, 0.77]]) @ direction  # beside the ring, not through it
            _arrow(axes, place + (radius + 0.48) * aside, place, probability, radius, bend=0.0, colour=CATEGORIES[1])
    for state, (place, colour) in enumerate(zip(places, category_colours(n_states), strict=True)):
        axes.add_patch(Circle(place, radius, facecolor=LIGHT["card"], edgecolor=colour, linewidth=2.4, zorder=3))
        axes.text(*place, str(state), ha="center", va="center_baseline", fontweight="bold", zorder=4)
    return figure


def _stay(axes: Axes, centre: np.ndarray, radius: float, probability: float) -> None:
    ring = Circle(centre, 0.85 * radius, fill=False, edgecolor=LIGHT["muted"], linewidth=_width(probability), zorder=1)
    axes.add_patch(ring)


def _arrow(
    axes: Axes,
    start: np.ndarray,
    end: np.ndarray,
    probability: float,
    radius: float,
    *,
    bend: float,
    colour: str = LIGHT["muted"],
) -> None:
    shrink = 72 * radius  # in points: a unit of these axes is about an inch
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            connectionstyle=f"arc3,rad={bend}",
            arrowstyle="-|>,head_length=0.5,head_width=0.25",
            mutation_scale=7 + 11 * probability,
            linewidth=_width(probability),
            color=colour,
            shrinkA=shrink if bend else 0,
            shrinkB=shrink,
            zorder=2,
        )
    )


def _width(probability: float) -> float:
    return 0.5 + 3.5 * float(probability)


@styled
def state_sequence(
    X: np.ndarray,
    states: np.ndarray,
    *,
    n_states: int | None = None,
    names: Sequence[str] | None = None,
    breaks: Iterable[int] = (),
    symbols: Container[int] = (),
) -> Figure:
    """The features over time, coloured by state; a line has a gap where a value is missing.

    Parameters
    ----------
    X : ndarray of shape (n_steps, n_features)
        Up to 5 features have a panel each; more are shown as an image above the states. More than 5000 steps are thinned out.
    states : ndarray of int of shape (n_steps,)
    n_states : int, optional
        By default as many as ``states`` has.
    names : sequence of str, optional
        Of the features.
    breaks : iterable of int
        The steps at which a new sequence begins.
    symbols : container of int
        The features that are symbols: no line joins them.
    """
    shown = thinned(len(X))
    colours = category_colours(n_states or int(states.max()) + 1)
    many = X.shape[1] > 5
    n_panels = 1 if many else X.shape[1]
    figure = blank(WHOLE, 0.9 + (2.2 if many else 1.05 * n_panels))
    heights = [1.0] * n_panels + [0.16 if n_panels < 3 else 0.24]
    *panels, strip = figure.subplots(n_panels + 1, 1, sharex=True, height_ratios=heights)
    if many:
        draw_image(panels[0], X[shown].T, (-0.5, len(X) - 0.5, -0.5, X.shape[1] - 0.5), (None, None))
        panels[0].set_ylabel("feature")
    else:
        for d, (panel, name) in enumerate(zip(panels, names_or_numbers(names, X.shape[1]), strict=True)):
            _coloured_line(panel, shown, X[shown, d], np.array(colours)[states[shown]], name, joined=d not in symbols)
    for panel in panels:
        for step in breaks:
            panel.axvline(step - 0.5, color=LIGHT["line"], linewidth=0.8, zorder=0)
    _state_strip(strip, states[shown], len(X), colours)
    return figure


def _coloured_line(axes: Axes, steps: np.ndarray, values: np.ndarray, colours: np.ndarray, name: str, *, joined: bool) -> None:
    if joined:
        axes.plot(steps, values, color=LIGHT["muted"], linewidth=0.6, alpha=0.6)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5, min_n_ticks=1))
    there = np.isfinite(values)
    size = 3 if len(steps) > 500 else 9
    axes.scatter(steps[there], values[there], c=colours[there], s=size, linewidth=0, zorder=3, rasterized=len(steps) > MANY_DOTS)
    axes.margins(y=0.1)
    axes.set_ylabel(name)


def _state_strip(axes: Axes, states: np.ndarray, n_steps: int, colours: list[str]) -> None:
    drawn = draw_image(axes, states[None], (-0.5, n_steps - 0.5, 0, 1), (-0.5, len(colours) - 0.5))
    drawn.set_cmap(ListedColormap(colours))
    axes.set_yticks([0.5], ["state"])
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("step")
