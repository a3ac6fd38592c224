"""The HTML file of a report: its sections, and the data, style and script that it holds."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnc.checking import checks
from rnnc.drawing.drawing import layout_of
from rnnc.drawing.svg import svg
from rnnc.explanation import Explanation, explained_as_data
from rnnc.ir.errors import ArgumentError
from rnnc.report.charts import lifetimes, passes_chart, roofline, times
from rnnc.report.facts import buffers_of, functions_of, passes_of, phases_of, stages_of

if TYPE_CHECKING:
    from rnnc.backends.llvm.code import LlvmCode
    from rnnc.compiled import Compiled
    from rnnc.profiling import Profile

MOST_BOXES = 1000
"""The boxes of a picture; with more, steps are left out."""


def report(
    compiled: Compiled,
    model: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    steps: int = 4,
    profile: Profile | None = None,
    layers: Sequence[str] = (),
) -> str:
    """The text of one HTML file about a compiled model, which reads nothing else. See `rnnc.compiled.Compiled.report`.

    model: its spec, or its network of layers. layers: the names of these, by the numbers of their sites.
    Raises ArgumentError on another backend than "llvm".
    """
    steps = checks.integer("steps", steps, 1)
    if compiled.backend != "llvm":
        raise ArgumentError(f"report: backend {compiled.backend!r} has none; compile with backend 'llvm'")
    explanation = explained_as_data(compiled, layers)
    code: LlvmCode = compiled._code  # type: ignore[assignment]
    phases = phases_of(code, explanation, profile)
    drawn = layout_of(model, _fitting(model, steps))
    unrolled = drawn.steps // drawn.graph.frame
    data = {
        "stages": stages_of(compiled, unrolled),
        "functions": functions_of(code),
        "phases": [{name: phase[name] for name in ("name", "sites", "function")} for phase in phases],
    }
    sections = [
        _section("Network", f'<div class="picture">{svg(drawn, selectable=True)}</div>{_hint()}'),
        _section("Selected", '<div id="selected">Nothing is selected: click a box of the picture.</div>', "details"),
        _section("Time", times(profile)) if profile is not None else "",
        _section("What limits each phase", roofline(explanation, phases) + _explained(explanation)),
        _section("Passes", passes_chart(passes_of(compiled, unrolled))),
        _section("Buffers", lifetimes(buffers_of(code.plan), [phase["name"] for phase in phases])),
        _section("Stages", '<div id="stages"></div>'),
    ]
    text = _page(repr(model), sections, data)
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text


def _fitting(model: Any, steps: int) -> int:
    """The most steps, up to a number, whose picture has at most MOST_BOXES boxes. They are whole frames."""
    frame = layout_of(model, None).steps
    steps = max(frame, steps // frame * frame)
    while steps > frame and len(layout_of(model, steps).boxes) > MOST_BOXES:
        steps = max(frame, steps // 2 // frame * frame)
    return steps


def _hint() -> str:
    return (
        '<p class="hint">Layers go upward, time to the right. Click a box, or reach it with Tab and press Enter, '
        "to see it at every stage. Escape selects nothing.</p>"
    )


def _explained(explanation: Explanation) -> str:
    lines = str(explanation).splitlines()[1:]
    return f'<ul class="facts">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>'


def _section(title: str, content: str, style: str = "") -> str:
    name = title.lower().replace(" ", "-")
    return f'<section id="section-{name}" class="{style}"><h2>{escape(title)}</h2>{content}</section>'


def _page(title: str, sections: list[str], data: dict[str, Any]) -> str:
    resources = files("rnnc.report")
    style, script = (resources.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    held = json.dumps(data).replace("</", "<\\/")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<header><h1>{escape(title)}</h1></header>
<main>
{"".join(sections)}
</main>
<script type="application/json" id="data">{held}</script>
<script>
{script}</script>
</body>
</html>
"""
