"""Pictures of what each state or component gives, whatever its family: ellipses among the data, rates, probabilities of symbols."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from unveil.core.estimator import as_array
from unveil.core.model import Emission, Moments
from unveil.emissions.bernoulli import Bernoulli
from unveil.emissions.categorical import Categorical
from unveil.emissions.gaussian import Gaussian
from unveil.emissions.low_rank_gaussian import LowRankGaussian
from unveil.emissions.mixture import GaussianMixtureEmission
from unveil.emissions.poisson import Poisson
from unveil.emissions.product import ProductEmission
from unveil.report.drawing import HALF, WHOLE
from unveil.report.figures import MOST_PANELS, clusters_of_points, covariance_matrices
from unveil.report.page import Card, Picture, as_text
from unveil.report.theme import LEVELS, LIGHT, SHARES, STYLE

MOST_FEATURES_IN_PANELS = 6
MOST_NAMED_ROWS = 30
MOST_CELLS_WITH_NUMBERS = 60
LONGEST_NAME, SHORT_NAME, LONGEST_BADGE = 18, 4, 8


@dataclass(frozen=True)
class Owners:
    """Whose the densities of an emission are: states, clusters or classes, each of which may have several, or share one.

    Attributes
    ----------
    noun : str
        What they are.
    of_density : ndarray of int of shape (K,)
        The owner of each density, whose colour it has; -1 for a density that is not to be drawn.
    names : list of K str
        What is written at each density.
    colours : list of str
        One for each owner.
    """

    noun: str
    of_density: np.ndarray
    names: list[str]
    colours: list[str]

    @property
    def drawn(self) -> np.ndarray:
        """The densities that are drawn."""
        return np.flatnonzero(self.of_density >= 0)

    @property
    def drawn_names(self) -> list[str]:
        """Their names."""
        return [self.names[k] for k in self.drawn]

    @property
    def drawn_colours(self) -> list[str]:
        """Their colours."""
        return [self.colours[self.of_density[k]] for k in self.drawn]


@dataclass(frozen=True)
class Points:
    """Observed values (n, D), some of them NaN, and the owner that each row most probably is from."""

    values: np.ndarray
    labels: np.ndarray


# ---------------------------------------------------------------------------------------------------------------------
# What an emission consists of
# ---------------------------------------------------------------------------------------------------------------------


def parts_of(emission: Emission) -> Iterator[tuple[Emission, list[int]]]:
    """The families that columns are independent in, with their columns: one, but for products."""
    if not isinstance(emission, ProductEmission):
        yield emission, list(range(emission.n_features))
        return
    for part, columns in zip(emission.parts, emission.columns, strict=True):
        for inner, within in parts_of(part):
            yield inner, [columns[d] for d in within]


@dataclass(frozen=True)
class Normals:
    """Normal densities: their means (G, D), covariances (G, D, D), and to which of an emission's K densities each belongs (G,)."""

    means: np.ndarray
    covariances: np.ndarray
    of_density: np.ndarray


@singledispatch
def normals_of(part: Any) -> Normals | None:
    """The normal densities of a family that consists of such; None of others."""
    return None


@normals_of.register
def _(part: Gaussian) -> Normals:
    means = as_array(part.means)
    covariances = covariance_matrices(as_array(part.covariances), part.covariance_type, *means.shape)
    return Normals(means, covariances, np.arange(len(means)))


@normals_of.register
def _(part: LowRankGaussian) -> Normals:
    covariances = as_array(torch.stack([part.covariance_of(k) for k in range(part.n_components)]))
    return Normals(as_array(part.means), covariances, np.arange(part.n_components))


@normals_of.register
def _(part: GaussianMixtureEmission) -> Normals:
    inner = normals_of(part.densities)
    return Normals(inner.means, inner.covariances, inner.of_density // part.n_mixtures)


def columns_of_symbols(emission: Emission) -> set[int]:
    """The columns that no line should join, for what is between two symbols means nothing."""
    return {d for part, columns in parts_of(emission) if isinstance(part, (Bernoulli, Categorical)) for d in columns}


def described_columns(emission: Emission) -> dict[int, list[str]]:
    """Mean and standard deviation of each density, for the columns in which they are normal or mixtures of normals."""
    cells = {}
    for part, columns in parts_of(emission):
        if normals_of(part) is not None:
            for column, means, deviations in zip(columns, *(each.T for each in _moments(part)), strict=True):
                pairs = zip(means, deviations, strict=True)
                cells[column] = [f"{as_text(m, 2)}\u00a0±\u00a0{as_text(s, 2)}" for m, s in pairs]
    return dict(sorted(cells.items()))


# ---------------------------------------------------------------------------------------------------------------------
# Pictures
# ---------------------------------------------------------------------------------------------------------------------


def emission_cards(
    emission: Emission, owners: Owners, names: Sequence[str], points: Points | None = None, *, of: str = ""
) -> list[Card]:
    """A card for each family of columns; none for a family that there is no picture of.

    Parameters
    ----------
    emission : Emission
    owners : Owners
        Of its densities.
    names : sequence of str
        Of all columns.
    points : Points, optional
        What normal densities are drawn among.
    of : str
        What the cards' titles end in.
    """
    cards = []
    for part, columns in parts_of(emission):
        own = None if points is None else Points(points.values[:, columns], points.labels)
        picture = picture_of(part, owners, [names[d] for d in columns], own)
        if picture is not None:
            cards.append(Card(f"{_title(part, owners)}{of}", [picture]))
    return cards


def _title(part: Emission, owners: Owners) -> str:
    what = {Poisson: "Rates", Bernoulli: "Probabilities of a one", Categorical: "Probabilities of symbols"}
    return f"{what.get(type(part), 'Observations')} by {owners.noun}"


@singledispatch
def picture_of(part: Any, owners: Owners, names: list[str], points: Points | None) -> Picture | None:
    """What the densities of a family are like; None of a family that nothing is known of."""
    normals = normals_of(part)
    if normals is not None and points is not None:
        return _picture_of_ellipses(normals, owners, names, points)
    if isinstance(part, Moments):
        return _picture_of_spread(part, owners, names)
    return None


@picture_of.register
def _(part: Poisson, owners: Owners, names: list[str], points: Points | None) -> Picture:
    alt = f"The rates of {len(names)} counts in each of {len(owners.drawn)} densities."
    return Picture(value_bars(as_array(part.rates), owners, names), alt, "The expected counts.")


@picture_of.register
def _(part: Bernoulli, owners: Owners, names: list[str], points: Points | None) -> Picture:
    alt = f"The probabilities of a one in {len(names)} columns for each of {len(owners.drawn)} densities."
    return Picture(value_bars(as_array(part.means), owners, names, highest=1.0), alt)


@picture_of.register
def _(part: Categorical, owners: Owners, names: list[str], points: Points | None) -> Picture:
    shown = min(len(names), MOST_PANELS)
    alt = f"The probabilities of the symbols in {shown} columns for each of {len(owners.drawn)} densities."
    caption = "An empty cell cannot happen." + ("" if shown == len(names) else f" The first {shown} of {len(names)} columns.")
    return Picture(symbol_probabilities(as_array(part.probabilities), as_array(part.n_symbols), owners, names), alt, caption)


def _picture_of_ellipses(normals: Normals, owners: Owners, names: list[str], points: Points) -> Picture:
    whose = owners.of_density[normals.of_density]
    figure = clusters_of_points(
        points.values,
        points.labels,
        normals.means,
        normals.covariances,
        names=names,
        owners=whose,
        badges=_badges(owners, normals.of_density),
        noun=owners.noun,
        n_clusters=len(owners.colours),
    )
    alt = f"{len(points.labels)} observations coloured by the most probable of {len(owners.colours)} {plural(owners.noun)}."
    n_missing = int(np.isnan(points.values).any(1).sum())
    caption = "The ellipses are two standard deviations wide on either side." if len(names) > 1 else ""
    if n_missing:
        caption += f" Not drawn, for lack of a value: {as_text(n_missing)} of {as_text(len(points.labels))}."
    return Picture(figure, alt, caption.strip())


def _badges(owners: Owners, of_density: np.ndarray) -> list[str]:
    """What is written at each normal density: its owner's name, if that is long only at the first that is the owner's."""
    names = [owners.names[k] for k in of_density]
    if max(map(len, names)) <= SHORT_NAME:
        return names
    return ["" if name in names[:i] else _shortened(name, LONGEST_BADGE) for i, name in enumerate(names)]


def plural(noun: str) -> str:
    """More than one of them."""
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def _picture_of_spread(part: Moments, owners: Owners, names: list[str]) -> Picture:
    means, deviations = _moments(part)
    alt = f"The means of {len(names)} columns in each of {len(owners.drawn)} densities, with their standard deviations."
    caption = "The bars are two standard deviations long on either side." if len(names) <= MOST_FEATURES_IN_PANELS else "Means."
    return Picture(spread(means, deviations, owners, names), alt, caption)


def _moments(part: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each density (K, D)."""
    means, variances = (as_array(each) for each in part.moments())
    return means, np.sqrt(np.maximum(variances, 0))


# ---------------------------------------------------------------------------------------------------------------------
# Figures
# ---------------------------------------------------------------------------------------------------------------------


def value_bars(values: np.ndarray, owners: Owners, names: Sequence[str], *, highest: float | None = None) -> Figure:
    """A panel for each column with a bar for each density, and its number; of many columns, an image.

    Parameters
    ----------
    values : ndarray of shape (K, D)
        Not negative.
    owners : Owners
        Of the densities.
    names : sequence of D str
    highest : float, optional
        The end of the axes, where the values have one.
    """

    def draw(axes: Axes, rows: np.ndarray, column: int) -> None:
        drawn = values[owners.drawn, column]
        axes.barh(rows, drawn, height=0.7, color=owners.drawn_colours)
        end = highest or max(float(drawn.max()), np.finfo(float).tiny)
        axes.set_xlim(0, 1.3 * end)
        axes.set_xticks([0, end / 2, end] if highest else [])
        axes.spines["bottom"].set_bounds(0, end)
        axes.spines["bottom"].set_visible(highest is not None)
        for row, value in zip(rows, drawn, strict=True):
            axes.text(value + 0.02 * end, row, _short(value), va="center", fontsize=8)

    with matplotlib.rc_context(STYLE):
        if len(names) > MOST_FEATURES_IN_PANELS:
            return _table_of_cells(values[owners.drawn], owners, highest)
        return _panels_of_columns(draw, owners, names)


def _short(value: float) -> str:
    return "<.01" if 0 < value < 0.005 else f"{value:.2f}" if value < 10 else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def spread(means: np.ndarray, deviations: np.ndarray, owners: Owners, names: Sequence[str]) -> Figure:
    """A panel for each column with the mean of each density, and two standard deviations on either side; of many columns, an image.

    Parameters
    ----------
    means, deviations : ndarray of shape (K, D)
    owners : Owners
        Of the densities.
    names : sequence of D str
    """

    def draw(axes: Axes, rows: np.ndarray, column: int) -> None:
        axes.grid(axis="x")
        mean, around = means[owners.drawn, column], 2 * deviations[owners.drawn, column]
        axes.hlines(rows, mean - around, mean + around, colors=owners.drawn_colours, linewidth=2)
        axes.scatter(mean, rows, color=owners.drawn_colours, s=26, zorder=3)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4 if len(names) < 3 else 2))

    with matplotlib.rc_context(STYLE):
        if len(names) > MOST_FEATURES_IN_PANELS:
            return _table_of_cells(means[owners.drawn], owners, None)
        return _panels_of_columns(draw, owners, names)


def symbol_probabilities(probabilities: np.ndarray, n_symbols: np.ndarray, owners: Owners, names: Sequence[str]) -> Figure:
    """A panel for each of at most 12 columns: the densities are its rows, and the symbols its columns.

    Parameters
    ----------
    probabilities : ndarray of shape (K, D, S)
    n_symbols : ndarray of int of shape (D,)
        How many symbols each column has, at most S.
    owners : Owners
        Of the densities.
    names : sequence of D str
    """
    n_panels, n_rows = min(len(names), MOST_PANELS), len(owners.drawn)
    n_across = min(n_panels, 3)
    n_down = -(-n_panels // n_across)
    wide = n_panels > 2 or int(n_symbols.max()) * n_across > 16
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WHOLE if wide else HALF, n_down * _height(n_rows, 0.75)), layout="constrained")
        panels = figure.subplots(n_down, n_across, sharey=True, squeeze=False).ravel()
        for panel in panels[n_panels:]:
            panel.axis("off")
        for d, (panel, name) in enumerate(zip(panels, names, strict=False)):
            _draw_cells(panel, probabilities[owners.drawn, d, : n_symbols[d]])
            panel.set_title(_shortened(name))
            panel.set_xlabel("symbol" if d >= n_panels - n_across else "")
        _name_rows(panels[0], owners)
    return figure


def _draw_cells(axes: Axes, probabilities: np.ndarray) -> None:
    """An image of probabilities, with the numbers where there is room; what is impossible is empty."""
    axes.imshow(probabilities, cmap=SHARES, vmin=0, vmax=1, aspect="auto", interpolation="none")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=min(probabilities.shape[1], 12), min_n_ticks=1))
    if probabilities.size <= MOST_CELLS_WITH_NUMBERS:
        for (row, symbol), probability in np.ndenumerate(probabilities):
            if probability > 0:
                text = _short(probability).removeprefix("0") if probability < 0.995 else "1"
                axes.text(symbol, row, text, ha="center", va="center", fontsize=8)


def _panels_of_columns(draw: Callable[[Axes, np.ndarray, int], None], owners: Owners, names: Sequence[str]) -> Figure:
    """Panels side by side, in which each density has a row."""
    n_rows = len(owners.drawn)
    figure = Figure(figsize=(HALF if len(names) <= 3 else WHOLE, _height(n_rows, 0.6)), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    rows = np.arange(n_rows)
    for column, (panel, name) in enumerate(zip(panels, names, strict=True)):
        draw(panel, rows, column)
        panel.set_title(_shortened(name, LONGEST_NAME if len(names) < 3 else 12))
        panel.spines["left"].set_visible(False)
        panel.tick_params(axis="y", length=0)
    panels[0].set_ylim(n_rows - 0.4, -0.6)
    _name_rows(panels[0], owners)
    return figure


def _table_of_cells(values: np.ndarray, owners: Owners, highest: float | None) -> Figure:
    """An image in which densities are rows and features are columns."""
    figure = Figure(figsize=(WHOLE, _height(len(values), 0.9)), layout="constrained")
    axes = figure.add_subplot()
    colours = {"cmap": LEVELS} if highest is None else {"cmap": SHARES, "vmin": 0, "vmax": highest}
    image = axes.imshow(values, aspect="auto", interpolation="none", **colours)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    axes.set_xlabel("feature")
    bar = figure.colorbar(image, ax=axes, aspect=14, pad=0.01)
    bar.outline.set_visible(False)
    _name_rows(axes, owners)
    return figure


def _height(n_rows: int, around: float) -> float:
    return around + min(0.32 * n_rows, 6.0) + (0.2 if n_rows == 1 else 0)


def _name_rows(axes: Axes, owners: Owners) -> None:
    names = owners.drawn_names
    shown = range(0, len(names), -(-len(names) // MOST_NAMED_ROWS))
    axes.set_yticks(list(shown), [_shortened(names[row]) for row in shown])
    for text, row in zip(axes.get_yticklabels(), shown, strict=True):
        text.set(color=owners.drawn_colours[row], fontweight="bold")
    axes.set_ylabel(owners.noun, color=LIGHT["muted"])


def _shortened(name: str, longest: int = LONGEST_NAME) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"
