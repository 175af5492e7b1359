"""From a matplotlib figure to drawing instructions inside a page, in the page's own colours and lettering."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

from unveil.report.theme import LIGHT, STYLE

MANY_PIXELS = 100
_NOT_DRAWN = ("metadata", "style")
_THEMED = {colour: f"var(--{name}, {colour})" for name, colour in LIGHT.items()}


def inline_svg(figure: Figure, prefix: str) -> str:
    """The ``<svg>`` element of a figure, to be put into a page.

    Colours of the theme become the page's variables, so the figure turns dark where the page does; letters stay text.

    Parameters
    ----------
    figure : Figure
        As ``unveil.report.figures`` draws them.
    prefix : str
        Put before every id, so that figures on one page do not get in each other's way.
    """
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True)
    root = ElementTree.fromstring(buffer.getvalue())
    _clean(root, prefix)
    for measure in ("width", "height"):
        root.attrib.pop(measure)
    root.attrib.update({"aria-hidden": "true", "focusable": "false"})  # the figure around it carries the description
    return ElementTree.tostring(root, encoding="unicode")


def _clean(element: ElementTree.Element, prefix: str) -> None:
    """Rename, recolour and thin out an element and all below it."""
    element.tag = _local(element.tag)
    if element.tag == "image" and min(float(element.get("width", 0)), float(element.get("height", 0))) > MANY_PIXELS:
        element.attrib.pop("style", None)  # scaled smoothly; images of few pixels are cells with edges
    element.attrib = {_local(name): _attribute(_local(name), value, prefix) for name, value in element.attrib.items()}
    for child in list(element):
        if _local(child.tag) in _NOT_DRAWN:
            element.remove(child)
        else:
            _clean(child, prefix)


def _local(name: str) -> str:
    """A name without its namespace, which a page does not use."""
    return name.rpartition("}")[2]


def _attribute(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return prefix + value
    if name == "href" and value.startswith("#"):
        return f"#{prefix}{value[1:]}"
    if name == "href" or name == "d":
        return value.replace("\n", "")
    value = value.replace("url(#", f"url(#{prefix}")
    if name == "style":
        value = re.sub(r"font-family: [^;]*;? ?", "", value)
        value = re.sub(r"#[0-9a-f]{6}\b", lambda colour: _THEMED.get(colour[0], colour[0]), value)
    return value
