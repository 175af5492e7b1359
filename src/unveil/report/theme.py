"""Colours and lettering that the page and its figures share, for light and for dark screens."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_hex, to_rgba

# Text has a contrast of at least 4.5 to the card that it stands on, and categories at least 3 in both themes. Figures are drawn in
# the light colours, which the page replaces by its own: so nothing that is to stay as it is may have one of them.
LIGHT = {
    "paper": "#f7f6f3",
    "card": "#fffefd",
    "ink": "#1d2530",
    "muted": "#5a6470",
    "line": "#e3e1db",
    "accent": "#2563a8",
    "tint": "#eef3f9",
}
DARK = {
    "paper": "#13171c",
    "card": "#1b2027",
    "ink": "#e5e8ec",
    "muted": "#9aa5b2",
    "line": "#313842",
    "accent": "#86b4ec",
    "tint": "#222c39",
}

CATEGORIES = ("#3b7ac9", "#d1661d", "#2f9668", "#9a62c4", "#c8475b", "#148fa3", "#a07d1e", "#c4569b")

# Few levels: an eye tells no more apart, and a picture of few colours is a small file.
LEVELS: Colormap = colormaps["magma"].resampled(64)
# From nothing to the colour: what lies behind shows through, so a cell is pale on white and dim on black.
SHARES: Colormap = LinearSegmentedColormap.from_list("shares", [to_rgba(CATEGORIES[0], 0.03), to_rgba(CATEGORIES[0], 0.8)], N=256)

STYLE: dict[str, Any] = {
    "axes.edgecolor": LIGHT["muted"],
    "axes.facecolor": "none",
    "axes.labelcolor": LIGHT["muted"],
    "axes.labelsize": 9,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": LIGHT["ink"],
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.unicode_minus": True,
    "figure.dpi": 100,
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",  # the widest of the usual ones: what fits in it fits in a reader's own
    "font.size": 9,
    "grid.color": LIGHT["line"],
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "savefig.dpi": 160,
    "svg.fonttype": "none",
    "text.color": LIGHT["ink"],
    "text.parse_math": False,  # names are a user's own, and may hold dollar signs
    "xtick.color": LIGHT["muted"],
    "xtick.labelsize": 8.5,
    "xtick.major.size": 3,
    "xtick.major.width": 0.6,
    "ytick.color": LIGHT["muted"],
    "ytick.labelsize": 8.5,
    "ytick.major.size": 3,
    "ytick.major.width": 0.6,
}


def category_colours(n_categories: int) -> list[str]:
    """A colour for each category, the same ones in every figure and table of a page."""
    if n_categories <= len(CATEGORIES):
        return list(CATEGORIES[:n_categories])
    return [_colour(i / n_categories, luminance=(0.16, 0.27)[i % 2]) for i in range(n_categories)]


def _colour(hue: float, luminance: float) -> str:
    """A colour of a given hue, as bright to the eye as any other of its luminance: hues differ in that for equal lightness."""
    low, high = 0.0, 1.0
    for _ in range(20):
        lightness = (low + high) / 2
        rgb = colorsys.hls_to_rgb(hue, lightness, 0.6)
        low, high = (lightness, high) if relative_luminance(rgb) < luminance else (low, lightness)
    return to_hex(rgb)


def relative_luminance(rgb: Sequence[float]) -> float:
    """How bright a colour of red, green and blue in [0, 1] is; the contrast of two is (brighter + 0.05) / (darker + 0.05)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
