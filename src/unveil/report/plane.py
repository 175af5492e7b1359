"""The plane of the first two latent variables: where the points are in it, where the features point, and what it explains."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from unveil.data.batch import Batches
from unveil.data.layout import as_rows
from unveil.errors import InputError
from unveil.report.drawing import HALF, MANY_DOTS, MOST_POINTS
from unveil.report.page import Card, Picture, Row, Section
from unveil.report.theme import CATEGORIES, LIGHT, STYLE

MOST_ARROWS = 12
_REACH = 0.85  # of the way from the middle to the edge that the longest arrow goes
_HIGH = 1.15  # how far the axes go up and down, in units of the farthest point
_LINE = 0.05  # the height of a line of text, as a share of that of the axes
_LETTER = 0.045  # the width of a letter, in units of the farthest point
_LONGEST_NAME = 16


def latent_plane(estimator: Any, sample: Any) -> Section | None:
    """The section of a page for an estimator of principal components or factors; None for others.

    Parameters
    ----------
    estimator : Estimator
        Fitted.
    sample : Sample or None
        Some of the data, as ``unveil.report.model`` draws it; without it only the spectrum is drawn.
    """
    if not hasattr(estimator, "explained_variance_"):
        return None
    cards = [Card("Explained variance", [_picture_of_spectrum(estimator)])]
    if sample is not None and len(estimator.components_) > 1:
        cards.insert(0, Card("Plane of the first two components", [_picture_of_plane(estimator, sample.steps)]))
    return Section("Components", [Row(cards)])


def _picture_of_plane(estimator: Any, X: np.ndarray) -> Picture:
    n_missing = int(np.isnan(X).any(1).sum())
    alt = f"{len(X)} points and {min(len(estimator.components_.T), MOST_ARROWS)} features in the plane of two components."
    caption = "An arrow points where its feature grows, and is as long as the feature depends on the two."
    if len(estimator.components_.T) > MOST_ARROWS:
        caption += f" The {MOST_ARROWS} longest."
    if n_missing:
        caption += " Rings are points of which something is missing."
    return Picture(plane_figure(estimator, X), alt, caption)


def _picture_of_spectrum(estimator: Any) -> Picture:
    share = estimator.explained_variance_ratio_.sum()
    alt = f"The variance that each of {len(estimator.components_)} components explains; together {share:.0%} of the whole."
    caption = "The percentages are of the whole variance."
    if estimator.noise_variance_.ndim == 0:
        caption += " The line is the noise: what each direction that is left out varies by."
    return Picture(spectrum_figure(estimator), alt, caption)


def plane_figure(estimator: Any, X: Any) -> Figure:
    """Points in the plane of the first two latent variables, with an arrow for what each feature owes to them (a biplot).

    Parameters
    ----------
    estimator : Estimator
        Fitted, with ``transform``, ``components_`` and ``explained_variance_ratio_``: such as ``PPCA``.
    X : ndarray of shape (n, n_features)
        NaN is missing; such points are drawn as rings. More than 5000 points are thinned out.

    Raises
    ------
    InputError
        When the model has one latent variable only.

    Examples
    --------
    >>> from unveil.models.ppca import PPCA
    >>> X = np.random.default_rng(0).normal(size=(50, 4))
    >>> plane_figure(PPCA(n_components=2).fit(X), X).axes[0].get_xlabel()[:11]
    'component 1'
    """
    if len(estimator.components_) < 2:
        raise InputError("the model has n_components=1, which makes no plane; fit it with at least 2")
    X = np.asarray(X, dtype=float)
    shown = np.unique(np.linspace(0, len(X) - 1, min(len(X), MOST_POINTS)).round().astype(int))
    points = estimator.transform(Batches(as_rows(X[shown]), allow_nan=True))[:, :2]
    names = getattr(estimator, "feature_names_in_", [f"feature {d}" for d in range(X.shape[1])])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(HALF, 3.9), layout="constrained")
        axes = figure.add_subplot()
        _draw_points(axes, points, np.isnan(X[shown]).any(1))
        _draw_loadings(axes, estimator.components_[:2].T, [str(name) for name in names], np.abs(points).max())
        for set_label, i in ((axes.set_xlabel, 0), (axes.set_ylabel, 1)):
            set_label(f"component {i + 1} ({estimator.explained_variance_ratio_[i]:.0%} of the variance)")
    return figure


def _draw_points(axes: Axes, points: np.ndarray, incomplete: np.ndarray) -> None:
    size = float(np.clip(2500 / len(points), 3, 16))
    raster = len(points) > MANY_DOTS
    axes.scatter(*points[~incomplete].T, s=size, c=CATEGORIES[0], alpha=0.5, linewidth=0, rasterized=raster)
    axes.scatter(
        *points[incomplete].T, s=size, facecolor="none", edgecolor=CATEGORIES[0], alpha=0.6, linewidth=0.7, rasterized=raster
    )


def _draw_loadings(axes: Axes, loadings: np.ndarray, names: list[str], extent: float) -> None:
    """Arrows from the origin for the longest loadings (D, 2), as far as the points go, and their names."""
    lengths = np.linalg.norm(loadings, axis=1)
    longest = np.argsort(-lengths, kind="stable")[:MOST_ARROWS]
    names = [_shortened(names[d]) for d in longest]
    tips = loadings[longest] / max(lengths.max(), np.finfo(float).tiny) * _REACH * extent
    wide = (_REACH + 0.05 + _LETTER * max(map(len, names))) * extent
    axes.set(xlim=(-wide, wide), ylim=(-_HIGH * extent, _HIGH * extent))
    for tip in tips:
        axes.annotate("", tip, (0, 0), arrowprops={"arrowstyle": "-|>", "color": CATEGORIES[1], "linewidth": 1.2, "shrinkB": 0})
    right = tips[:, 0] >= 0
    for side, direction in ((right, 1), (~right, -1)):
        _write_names(axes, tips[side], [name for name, here in zip(names, side, strict=True) if here], extent, direction)


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _write_names(axes: Axes, tips: np.ndarray, names: list[str], extent: float, direction: int) -> None:
    """The names of the arrows that point to one side (direction 1 or -1), beside their tips, where no other one is in the way."""
    gap = 2 * _HIGH * extent * _LINE
    box = {"boxstyle": "square,pad=0.1", "facecolor": LIGHT["card"], "edgecolor": "none", "alpha": 0.75}
    outward = direction * tips[:, 0]
    for own, height, name in zip(outward, _apart(tips[:, 1], gap), names, strict=True):
        beside = direction * np.max(outward[np.abs(tips[:, 1] - height) < gap], initial=own)
        text = axes.text(beside + direction * 0.04 * extent, height, name, ha="left" if direction > 0 else "right", va="center")
        text.set(fontsize=8, color=LIGHT["ink"], bbox=box, in_layout=False)


def _apart(heights: np.ndarray, gap: float) -> np.ndarray:
    """The heights nearest to these, in their order, of which no two are closer than ``gap``.

    Less ``gap`` times their rank they must not decrease, so they are found by isotonic regression.
    """
    from sklearn.isotonic import isotonic_regression

    order = np.argsort(heights, kind="stable")
    ranks = gap * np.arange(len(heights))
    found = np.empty(len(heights))
    found[order] = (isotonic_regression(heights[order] - ranks) + ranks) if len(heights) else []
    return found


def spectrum_figure(estimator: Any) -> Figure:
    """The variance that each component explains, with its share of the whole, over the level of the noise where there is one level.

    Parameters
    ----------
    estimator : Estimator
        Fitted, with ``explained_variance_``, ``explained_variance_ratio_`` and ``noise_variance_``: such as ``PPCA``.

    Examples
    --------
    >>> from unveil.models.ppca import PPCA
    >>> X = np.random.default_rng(0).normal(size=(50, 4))
    >>> len(spectrum_figure(PPCA(n_components=3).fit(X)).axes[0].patches)
    3
    """
    variances, shares = estimator.explained_variance_, estimator.explained_variance_ratio_
    numbers = np.arange(1, len(variances) + 1)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(HALF, 3.9), layout="constrained")
        axes = figure.add_subplot()
        axes.bar(numbers, variances, width=0.7, color=CATEGORIES[0])
        if estimator.noise_variance_.ndim == 0:
            axes.axhline(float(estimator.noise_variance_), color=CATEGORIES[1], linewidth=1.4, linestyle=(0, (4, 2)))
        if len(numbers) <= MOST_ARROWS:
            for number, variance, share in zip(numbers, variances, shares, strict=True):
                axes.annotate(f"{share:.0%}", (number, variance), (0, 3), textcoords="offset points", ha="center", fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.margins(y=0.1)
        axes.set(xlabel="component", ylabel="variance", ylim=(0, None))
    return figure
