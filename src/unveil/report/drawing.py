"""What all figures of a report share."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from unveil.report.theme import LEVELS, STYLE

HALF, WHOLE = 4.5, 9.4  # widths in inches: half a page, which is all of a phone, and all of a page
MOST_POINTS = 5000
MANY_DOTS = 300  # more are drawn as pixels


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the style of the page, and leave matplotlib's settings as they were."""

    @functools.wraps(draw)
    def drawn(*args: Any, **kwargs: Any) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def blank(width: float, height: float) -> Figure:
    """A figure of a size in inches, with nothing in it."""
    return Figure(figsize=(width, height), layout="constrained")


def thinned(n: int, most: int = MOST_POINTS) -> np.ndarray:
    """At most ``most`` of the indices below n, evenly spread."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))


def pooled(values: np.ndarray, most: int) -> np.ndarray:
    """At most ``most`` columns: the largest value of each group of neighbours, so that no short event is lost."""
    step = math.ceil(values.shape[-1] / most)
    return np.maximum.reduceat(values, np.arange(0, values.shape[-1], step), axis=-1)


def whole_numbers(axis: Any) -> None:
    """Ticks at whole numbers only."""
    axis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def draw_image(axes: Axes, values: np.ndarray, extent: Sequence[float], colours: tuple) -> AxesImage:
    """An image that fills the axes, its first row at the bottom, with no more pixels than there are values."""
    low, high = colours
    return axes.imshow(
        values, extent=tuple(extent), aspect="auto", origin="lower", cmap=LEVELS, vmin=low, vmax=high, interpolation="none"
    )


def add_colour_bar(figure: Figure, image: AxesImage, label: str, ticks: np.ndarray | None = None) -> None:
    """Which colour of an image is how much, beside it."""
    bar = figure.colorbar(image, ax=image.axes, aspect=28, pad=0.02 * HALF / figure.get_figwidth(), ticks=ticks)
    bar.outline.set_visible(False)
    bar.set_label(label)


def names_or_numbers(names: Sequence[str] | None, n_features: int) -> list[str]:
    """The names of features, or what they are called that have none."""
    return [str(name) for name in names] if names is not None else [f"feature {d}" for d in range(n_features)]
