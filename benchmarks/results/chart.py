"""A record as a picture: per row, the best peer's time over rnnc's, and the share of the roofline. SVG text."""

from __future__ import annotations

from xml.etree import ElementTree as xml

from benchmarks.results.record import Record, Row
from benchmarks.results.tables import TITLES, count

LABELS, BARS, NAMES, SHARES, LINE, MARGIN = 250, 330, 100, 110, 17, 12
MOST = 4.0
"""The longest bar; longer ones end there, with their number."""
STYLE = """
text { font: 11px sans-serif; fill: #222 } .title { font-weight: bold } .small { font-size: 10px; fill: #666 }
rect { fill: #4c86c6 } rect.slower { fill: #c6624c } rect.share { fill: #8fb98b } rect.whole { fill: #e6e6e6 }
line { stroke: #555; stroke-width: 1 }
@media (prefers-color-scheme: dark) {
text { fill: #ddd } .small { fill: #aaa } rect.whole { fill: #444 } line { stroke: #bbb } }
"""


def svg(record: Record) -> str:
    """The text of an SVG file, in one namespace and without scripts; without rows that have no peer and no roofline."""
    root = xml.Element("svg", {"xmlns": "http://www.w3.org/2000/svg"})
    xml.SubElement(root, "style").text = STYLE
    y = MARGIN + LINE
    for part in TITLES:
        for threads in sorted({row.threads for row in record.rows}):
            rows = [row for row in record.of_part(part, threads) if row.gain or row.share]
            if rows:
                y = _group(root, f"{TITLES[part].partition(':')[0]}, {count(threads)}", rows, y) + LINE
    _text(root, MARGIN, y, f"{record.machine['name']}; bars: best peer's time / rnnc's, the line is 1", "small")
    size = f"{2 * MARGIN + LABELS + BARS + NAMES + SHARES + 40}", f"{y + MARGIN}"
    root.attrib |= {"width": size[0], "height": size[1], "viewBox": f"0 0 {size[0]} {size[1]}"}
    xml.indent(root, " ")
    return xml.tostring(root, encoding="unicode") + "\n"


def _group(root: xml.Element, title: str, rows: list[Row], y: int) -> int:
    """Draws a title and rows from y on; returns where they end."""
    left = MARGIN + LABELS
    _text(root, MARGIN, y, title, "title")
    _text(root, left + BARS + NAMES, y, "share of the roofline", "small")
    start = y + 6
    for row in rows:
        y += LINE
        _text(root, MARGIN, y, row.name)
        if row.gain and row.best_peer:
            length = BARS * min(row.gain, MOST) / MOST
            _rect(root, left, y, length, "faster" if row.gain >= 1 else "slower")
            _text(root, left + length + 4, y, f"{row.gain:.2f} {row.best_peer[0]}", "small")
        if row.share:
            _rect(root, left + BARS + NAMES, y, SHARES, "whole")
            _rect(root, left + BARS + NAMES, y, SHARES * min(row.share, 1), "share")
            _text(root, left + BARS + NAMES + SHARES + 4, y, f"{row.share:.0%}", "small")
    one = f"{left + BARS / MOST:g}"
    xml.SubElement(root, "line", {"x1": one, "x2": one, "y1": f"{start}", "y2": f"{y + 4}"})
    return y + LINE


def _text(root: xml.Element, x: float, y: float, text: str, kind: str = "") -> None:
    xml.SubElement(root, "text", {"x": f"{x:.1f}", "y": f"{y}", **({"class": kind} if kind else {})}).text = text


def _rect(root: xml.Element, x: float, y: float, width: float, kind: str) -> None:
    place = {"x": f"{x:.1f}", "y": f"{y - 9}", "width": f"{width:.1f}", "height": f"{LINE - 6}"}
    xml.SubElement(root, "rect", {"class": kind, **place})
