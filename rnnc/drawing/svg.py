"""A layout as SVG text. The style has colours for light and for dark pages."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as xml

from rnnc.drawing.layout import HEIGHT

if TYPE_CHECKING:
    from rnnc.drawing.layout import Arrow, Box, Label, Layout

STYLE = """
text { font: 11px sans-serif; fill: #222 } .shape { font-family: monospace; fill: #666 }
.name { font-weight: bold } .state { font-family: monospace; font-size: 10px; fill: #666 } .inside { fill: #222 }
rect { stroke: #555; stroke-width: 1; fill: #eee } .input { fill: #fff } .cell { fill: #cfe3f7 }
.reverse { fill: #f7dccf } .join { fill: #e2d8f0 } .layer { fill: #dcefd8 } .once { fill: #f5ecc2 }
path { fill: none; stroke: #555; stroke-width: 1.2; marker-end: url(#head) }
path.state { stroke: #b5542b } path.line { marker-end: none }
marker path { fill: #555; stroke: none; marker-end: none }
@media (prefers-color-scheme: dark) {
text { fill: #ddd } .shape, .state { fill: #aaa } .inside { fill: #222 } rect { stroke: #bbb }
path { stroke: #bbb } path.state { stroke: #f0a070 } marker path { fill: #bbb } }
"""


def svg(layout: Layout, *, selectable: bool = False) -> str:
    """The text of an SVG file, in one namespace and without scripts.

    selectable: for an element of the class "picture" in a page: boxes tell their site and step, and can be reached by
    keyboard.
    """
    width, height = layout.size
    size = {"width": _number(width), "height": _number(height), "viewBox": f"0 0 {_number(width)} {_number(height)}"}
    root = xml.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **size})
    # Inside of a page, a style holds for the whole page.
    xml.SubElement(root, "style").text = f".picture svg {{{STYLE}}}" if selectable else STYLE
    marker = {"id": "head", "viewBox": "0 0 6 6", "refX": "6", "refY": "3", "markerWidth": "6", "markerHeight": "6"}
    head = xml.SubElement(xml.SubElement(root, "defs"), "marker", {**marker, "orient": "auto"})
    xml.SubElement(head, "path", {"d": "M0 0L6 3L0 6z"})
    for arrow in layout.arrows:
        _arrow(root, arrow, height)
    for box in layout.boxes:
        _box(root, box, height, selectable)
    for label in layout.labels:
        _label(root, label, height)
    xml.indent(root, " ")
    return xml.tostring(root, encoding="unicode") + "\n"


def _box(root: xml.Element, box: Box, height: float, selectable: bool) -> None:
    held = {"data-site": box.site, "data-step": str(box.step), "tabindex": "0", "role": "button"}
    group = xml.SubElement(root, "g", held if selectable and box.site else {})
    xml.SubElement(group, "title").text = box.title
    place = {"x": box.x - box.width / 2, "y": height - box.y - HEIGHT / 2, "width": box.width, "height": HEIGHT}
    numbers = {name: _number(value) for name, value in place.items()}
    xml.SubElement(group, "rect", {"class": box.kind, "rx": "4", **numbers})
    middle = {"x": _number(box.x), "y": _number(height - box.y + 4), "text-anchor": "middle"}
    xml.SubElement(group, "text", {"class": "inside", **middle}).text = box.text


def _arrow(root: xml.Element, arrow: Arrow, height: float) -> None:
    (x0, y0), (x1, y1) = ((x, height - y) for x, y in (arrow.start, arrow.end))
    line = f"M{_number(x0)} {_number(y0)}"
    if arrow.bent:
        aside = max(x0, x1) + 60
        line += f"C{_number(aside)} {_number(y0)} {_number(aside)} {_number(y1)} "
    else:
        line += "L"
    xml.SubElement(root, "path", {"class": arrow.kind, "d": f"{line}{_number(x1)} {_number(y1)}"})


def _label(root: xml.Element, label: Label, height: float) -> None:
    place = {"x": _number(label.x), "y": _number(height - label.y), "text-anchor": label.anchor}
    xml.SubElement(root, "text", {"class": label.kind, **place}).text = label.text


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
