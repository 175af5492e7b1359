"""A page of sections, tables, figures and players, written as one HTML file that needs nothing else."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from unveil.data.files import atomic_path
from unveil.report.players import Player
from unveil.report.svg import inline_svg
from unveil.report.theme import DARK, LIGHT

DASH = "–"
WIDE = 600  # CSS pixels: figures that are wider scroll sideways on a phone


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Points:
    """A list, each point a sentence or two."""

    kind: ClassVar[str] = "points"
    texts: Sequence[str]


@dataclass(frozen=True)
class Code:
    """Something typed, letter by letter."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Fact:
    """A number (or a word) that matters, what it is, and in which unit."""

    name: str
    value: Any
    unit: str = ""


@dataclass(frozen=True)
class Facts:
    """Facts side by side."""

    kind: ClassVar[str] = "facts"
    facts: Sequence[Fact]


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row is its heading.

    Attributes
    ----------
    columns : sequence of str
        The headings.
    rows : sequence of sequences
        Cells: text, numbers, or None and NaN, which are shown as a dash.
    caption : str
        What the table holds.
    digits : int, optional
        Decimals of the fractions; by default four significant digits.
    colours : sequence of str, optional
        Of the dot at the head of each row, to find the row in a figure.
    """

    kind: ClassVar[str] = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str
    digits: int | None = None
    colours: Sequence[str] | None = None


@dataclass(frozen=True)
class Picture:
    """A figure with its description.

    Attributes
    ----------
    figure : Figure
        See ``unveil.report.figures``.
    alt : str
        What is to be seen, for those who do not see it.
    caption : str
        How to read it.
    timed : bool
        Whether the figure's first axis is the time of the player in the same card, which then moves a line over it.
    """

    kind: ClassVar[str] = "picture"
    figure: Figure
    alt: str
    caption: str = ""
    timed: bool = False

    @property
    def width(self) -> float:
        """In CSS pixels, at the size that it is best read at."""
        return 105 * self.figure.get_figwidth()

    @property
    def box(self) -> dict[str, float]:
        """Where the first axes are, in percent of the figure from its left and top, and where their horizontal axis begins and ends."""
        axes = self.figure.axes[0]
        place, (start, stop) = axes.get_position(), axes.get_xlim()
        return {
            "left": 100 * place.x0,
            "width": 100 * place.width,
            "top": 100 * (1 - place.y1),
            "height": 100 * place.height,
            "start": start,
            "stop": stop,
        }


@dataclass(frozen=True)
class Card:
    """Blocks that belong together, one above the other."""

    kind: ClassVar[str] = "card"
    title: str
    blocks: Sequence[Any]


@dataclass(frozen=True)
class Row:
    """Cards side by side, where there is room.

    Attributes
    ----------
    cards : sequence of Card
    even : bool
        Whether they are made equally high.
    """

    kind: ClassVar[str] = "row"
    cards: Sequence[Card]
    even: bool = True


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading."""

    title: str
    blocks: Sequence[Text | Points | Code | Facts | Table | Picture | Player | Card | Row]


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes
    ----------
    title : str
    summary : str
        One or two sentences: what was done.
    sections : sequence of Section
    """

    title: str
    summary: str
    sections: Sequence[Section]


def write_page(path: str | os.PathLike, page: Page) -> Path:
    """Write a page to one HTML file; when that fails, nothing is left behind.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> path = write_page(f"{folder}/page.html", Page("A page", "It says hello.", [Section("Words", [Text("Hello.")])]))
    >>> "Hello." in path.read_text(encoding="utf-8")
    True
    """
    html = render(page).encode("utf-8", errors="replace")  # names of files may hold what is no text
    with atomic_path(path) as temporary:
        temporary.write_bytes(html)
    return Path(path)


def render(page: Page) -> str:
    """The page as HTML."""
    counter = itertools.count(1)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("unveil", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(cell=as_text, numeric=is_numeric)
    environment.globals.update(new_id=lambda: f"n{next(counter)}")
    environment.globals.update(
        light=LIGHT, dark=DARK, wide=WIDE, draw=lambda figure: Markup(inline_svg(figure, f"f{next(counter)}-"))
    )
    return environment.get_template("page.html").render(page=page)


def is_numeric(value: Any) -> bool:
    """Whether a cell holds a number, or stands for one that is missing."""
    return value is None or (isinstance(value, Real) and not isinstance(value, (bool, np.bool_)))


def as_text(value: Any, digits: int | None = None) -> str:
    """A cell as text.

    Examples
    --------
    >>> as_text(float("nan")), as_text(-2.34567, 1), as_text(True), as_text(123456)
    ('–', '−2.3', 'yes', '123,456')
    """
    if value is None or (isinstance(value, Real) and math.isnan(value)):
        return DASH
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{int(value):,}".replace("-", "−")
    if not isinstance(value, Real):
        return str(value)
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:,.{digits}f}" if digits is not None else _significant(float(value))
    return text.replace("-", "−")


def _significant(value: float, digits: int = 4) -> str:
    """Four significant digits at least, and no exponent for numbers of everyday size."""
    if value == 0 or not 1e-4 <= abs(value) < 1e9:
        return f"{value:.{digits}g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"
