"""The charts of a report: HTML and SVG text without scripts. Colours are in report.css."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rnnc.explanation import Explanation
    from rnnc.profiling import Profile

WIDTH, HEIGHT, EDGE = 640, 300, 46


def times(profile: Profile) -> str:
    """A table of the measured sections, with bars."""
    rows = sorted((row for row in profile.rows if row.runs), key=lambda row: -row.seconds)
    head, *_ = str(profile).splitlines()[1:]
    cells = "".join(
        f"<tr><td>{escape(row.name)}</td><td>{row.kind}</td><td>{escape(row.site)}</td>"
        f"<td>{_bar(0, row.share)}</td><td>{row.seconds * 1e6:,.2f} us</td><td>{row.share:.1%}</td>"
        f"<td>{row.runs:,.0f}</td><td>{f'{row.gflops:.0f}' if row.gflops else ''}</td></tr>"
        for row in rows
    )
    titles = ("section", "kind", "layer", "", "time", "share", "runs", "GFLOP/s")
    return f"<p>{escape(head)}</p>{_table(titles, cells)}"


def passes_chart(passes: Sequence[dict[str, Any]]) -> str:
    """The passes in order, with the number of nodes behind each."""
    most = max((max(each["before"], each["after"]) for each in passes), default=1)
    cells = "".join(
        f'<tr class="{"" if each["changed"] else "idle"}"><td>{each["name"]}</td>'
        f"<td>{_bar(0, each['after'] / most)}</td>"
        f"<td>{each['before']} &rarr; {each['after']}</td><td>{each['milliseconds']:.2f} ms</td></tr>"
        for each in passes
    )
    return _table(("pass", "", "nodes", "time"), cells)


def lifetimes(buffers: Sequence[dict[str, Any]], phases: Sequence[str]) -> str:
    """Each buffer, and the phases from the first to the last that accesses it."""
    count = max(1, len(phases))
    cells = "".join(
        f"<tr><td>{escape(each['name'])}</td><td>{each['space']}: {each['rows']}</td><td>{each['width']}</td>"
        f"<td>{_bar(each['first'] / count, (each['last'] + 1 - each['first']) / count)}</td>"
        f"<td>{_span(each, phases)}</td></tr>"
        for each in buffers
    )
    return _table(("buffer", "rows", "columns", "lifetime", "phases"), cells)


def _span(buffer: dict[str, Any], phases: Sequence[str]) -> str:
    first, last = phases[buffer["first"]], phases[buffer["last"]]
    return escape(first if first == last else f"{first} ... {last}")


def _bar(start: float, share: float) -> str:
    return f'<div class="track"><div class="bar" style="left:{start:.2%};width:{max(share, 0.004):.2%}"></div></div>'


def _table(titles: Sequence[str], cells: str) -> str:
    head = "".join(f"<th>{title}</th>" for title in titles)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{cells}</tbody></table></div>'


# ---- the roofline


def roofline(explanation: Explanation, phases: Sequence[dict[str, Any]]) -> str:
    """Arithmetic per byte of weights against arithmetic per second: the roofs of each cache, and each phase's place.

    A phase that was measured is a full dot, at the rows of that call; others are rings, at the roof, for one row.
    """
    shown = [_place(explanation, phase) for phase in phases if phase["flops"] and phase["weight_bytes"]]
    if not shown:
        return ""
    xs = [x for x, *_ in shown]
    left, right = math.log2(min(xs)) - 1, math.log2(max(*xs, explanation.peak / explanation.levels[-1].rate)) + 1.5
    top = math.log2(explanation.peak / 1e9) + 0.7
    bottom = min(math.log2(y) for _, y, *_ in shown) - 1
    bottom = min(bottom, top - 4)

    def at(x: float, y: float) -> tuple[float, float]:
        across = (math.log2(x) - left) / (right - left)
        up = (math.log2(y) - bottom) / (top - bottom)
        return EDGE + across * (WIDTH - EDGE - 10), HEIGHT - EDGE + 10 - up * (HEIGHT - EDGE)

    parts = [*_roofs(explanation, at, 2**left, 2**right, 2**bottom), *_axes(at, left, right, bottom, top)]
    for x, y, name, measured in shown:
        px, py = at(x, y)
        style = "measured" if measured else "limit"
        title = escape(f"{name}: {y:.0f} GFLOP/s at {x:.1f} flops per byte of weights")
        parts.append(f'<circle class="{style}" cx="{px:.1f}" cy="{py:.1f}" r="5"><title>{title}</title></circle>')
    what = "dots: measured; rings: the limit for one row" if any(each[3] for each in shown) else "the limit for one row"
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="roofline"'
    return f'<svg class="chart" {box}>{"".join(parts)}</svg><p class="hint">{what}</p>'


def _place(explanation: Explanation, phase: dict[str, Any]) -> tuple[float, float, str, bool]:
    """(Flops per byte of weights, GFLOP/s, name, whether it was measured)."""
    if phase.get("gflops"):
        return max(phase["intensity"], 1e-3), phase["gflops"], phase["name"], True
    limit = phase["flops"] / phase["row_seconds"] / 1e9
    return phase["flops"] / phase["weight_bytes"], limit, phase["name"], False


def _roofs(explanation: Explanation, at: Any, left: float, right: float, bottom: float) -> list[str]:
    parts, peak = [], explanation.peak / 1e9
    for level in explanation.levels:
        rate = level.rate / 1e9
        start, end = max(left, bottom / rate), min(right, peak / rate)
        if end <= start:
            continue
        (x0, y0), (x1, y1) = at(start, start * rate), at(end, end * rate)
        parts.append(f'<path class="roof" d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}"><title>{level.name}</title></path>')
        middle = f'x="{(x0 + x1) / 2 - 4:.1f}" y="{(y0 + y1) / 2 - 4:.1f}"'
        parts.append(f'<text {middle} text-anchor="end">{level.name}</text>')
    (x0, y0), (x1, y1) = at(max(left, peak / (explanation.levels[0].rate / 1e9)), peak), at(right, peak)
    parts.append(f'<path class="roof" d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}"/>')
    parts.append(f'<text x="{x1:.1f}" y="{y1 - 6:.1f}" text-anchor="end">{peak:.0f} GFLOP/s</text>')
    return parts


def _axes(at: Any, left: float, right: float, bottom: float, top: float) -> list[str]:
    parts = []
    for power in range(math.ceil(left), math.floor(right) + 1):
        x, y = at(2.0**power, 2**bottom)
        parts.append(f'<text x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle">{2.0**power:g}</text>')
    for power in range(math.ceil(bottom), math.floor(top) + 1):
        x, y = at(2**left, 2.0**power)
        parts.append(f'<path class="grid" d="M{x:.1f} {y:.1f}H{WIDTH - 10}"/>')
        parts.append(f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{2.0**power:g}</text>')
    title = "flops per byte of weights (across), GFLOP/s (up)"
    return [*parts, f'<text x="{WIDTH - 10}" y="{HEIGHT - 2}" text-anchor="end">{title}</text>']
