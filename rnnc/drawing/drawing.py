"""`draw`: the picture of a spec or a network, unrolled over a few steps, as SVG text."""

from __future__ import annotations

import os
from pathlib import Path

from rnnc.checking import checks
from rnnc.checking.arguments import explained
from rnnc.drawing.layout import Layout
from rnnc.drawing.svg import svg
from rnnc.graph import Graph
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.ir.names import OUTPUT, X
from rnnc.layered import Layered
from rnnc.specs import Spec

MOST_BOXES = 4000
"""The largest picture; browsers slow down beyond it."""


@explained
def draw(model: Spec | Layered, steps: int = 4, *, path: str | os.PathLike[str] | None = None) -> str:
    """The picture of a network, unrolled over so many steps, as the text of an SVG file.

    Layers go upward, time goes to the right. A recurrent layer shows its cells, one per step, layer and direction, with
    the states that pass between them, and the concatenation of both directions. Shapes are (T, B, width), or (B, width)
    for one value per sequence; h_n[i] is where PyTorch's final states, and those of an `rnnc.Model`, hold a state.

    model: a spec, a `rnnc.Sequential` or a `rnnc.Graph`. steps: steps of the inputs; where layers have strides, a
        whole number of frames (`Graph.frame`). path: a file to write the text to.
    Raises ArgumentError or ArgumentTypeError.
    """
    steps = checks.integer("steps", steps, 1)
    layout = layout_of(model, steps)
    if len(layout.boxes) > MOST_BOXES:
        what = f"{steps} steps of this network are {len(layout.boxes)} boxes"
        raise ArgumentError(f"steps: {what}, expected at most {MOST_BOXES}; draw fewer steps")
    text = svg(layout)
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text


def layout_of(model: object, steps: int | None) -> Layout:
    """The layout of a picture of so many steps; None: of one frame. Raises as `draw`."""
    if isinstance(model, Spec):
        name = type(model).__name__.lower()
        model = Graph({X: model.input_size}, {name: (model, X)}, {OUTPUT: name})
    if not isinstance(model, Layered):
        came = checks.came(model)
        raise ArgumentTypeError(f"model: expected a spec, a rnnc.Sequential or a rnnc.Graph, got {came}")
    graph = model.graph()
    steps = graph.frame if steps is None else steps
    if steps % graph.frame:
        raise ArgumentError(f"steps: expected whole frames of {graph.frame} steps, which the strides need, got {steps}")
    return Layout(graph, steps)
