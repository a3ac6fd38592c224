"""A computation that is compiled from the text of a stage, such as one that a reader has printed and changed.

text of "rolled"  ->  parse_program  ->  Program  ->  the backend's own stages
text of a graph   ->  parse_graph    ->  Graph, verified  ->  the passes behind it  ->  roll  ->  ...
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rnnc.ir.computation import Computation, Start
from rnnc.ir.errors import ArgumentError
from rnnc.ir.graph import Graph
from rnnc.ir.parse_program import parse_program
from rnnc.ir.pipeline import SHARED_STAGES, TEMPLATE_STEPS, UNROLLED_STAGES, Optimized
from rnnc.ir.program import Program
from rnnc.ir.text import parse_graph
from rnnc.ir.verify import verify

EDITABLE = (*UNROLLED_STAGES, SHARED_STAGES[-1])
"""The stages whose texts can be compiled. (After them come machine words, whose meaning the plan decides.)"""

Interface = Mapping[str, tuple[Any, ...]]


def edited(stage: str, text: str, original: Computation | None = None) -> Computation:
    """The computation that the text of a stage describes.

    stage: one of EDITABLE. A graph has as many steps as compiled code is made from (TEMPLATE_STEPS). original: a
    computation whose inputs and outputs it must have; default: any, and one half.
    The computation knows no lengths, because the text does not.
    Raises ParseError, VerifyError or RollError, which name the line or the node, and ArgumentError if the inputs or
    outputs are others.
    """
    if stage not in EDITABLE:
        from difflib import get_close_matches

        near = get_close_matches(str(stage), EDITABLE, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ArgumentError(f"stage: expected one of {', '.join(EDITABLE)}, got {stage!r}{hint}")

    def build(steps: int, lengths: bool) -> Graph:
        if lengths:
            raise ArgumentError(f"lengths: this was compiled from a text of stage {stage!r}, which knows no lengths")
        has = f"{TEMPLATE_STEPS} steps, " if stage in UNROLLED_STAGES else ""
        raise ArgumentError(
            f"stage: this was compiled from a text of stage {stage!r}: there are {has}no earlier stages"
        )

    late = frozenset[str]() if original is None else original.late
    made = Computation(build, late, f"{stage} of a text:\n{text}", start=_start(stage, text))
    if original is not None:
        _check_interface(made.program(), original.program())
    return made


def _start(stage: str, text: str) -> Start:
    if stage not in UNROLLED_STAGES:
        return Start(stage, parse_program(text), None)
    graph = verify(parse_graph(text))
    if graph.steps != TEMPLATE_STEPS:
        raise ArgumentError(
            f"text: expected a graph of {TEMPLATE_STEPS} steps (--steps {TEMPLATE_STEPS}), got {graph.steps}"
        )
    return Start(stage, Optimized(graph, ()) if stage == SHARED_STAGES[1] else graph, graph.steps)


def _check_interface(found: Program, expected: Program) -> None:
    """Raises ArgumentError for other outputs, or for inputs that there are not, or that have another type."""
    for what, made, known in (
        ("input", _inputs(found), _inputs(expected)),
        ("output", _outputs(found), _outputs(expected)),
    ):
        for name, kind in made.items():
            if known.get(name) != kind:
                raise ArgumentError(f"text: {what} {name!r} is {_shown(kind)}, expected {_shown(known.get(name))}")
        if what == "output" and (missing := sorted(set(known) - set(made))):
            raise ArgumentError(f"text: the output {', '.join(map(repr, missing))} is missing")


def _inputs(program: Program) -> Interface:
    return {f.name: (f.dtype, f.shape, f.timed) for f in program.inputs}


def _outputs(program: Program) -> Interface:
    return {name: (f.dtype, f.shape, f.timed) for name, f in program.outputs.items()}


def _shown(kind: tuple[Any, ...] | None) -> str:
    if kind is None:
        return "none of that name"
    dtype, shape, timed = kind
    return f"{dtype}[{', '.join(map(str, (['T'] if timed else []) + list(shape)))}]"
