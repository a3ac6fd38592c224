"""What `rnnc inspect` and `rnnc diff` show: the stage that the arguments name, of a model, in a format."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rnnc.checking import checks
from rnnc.cli.specs import steps_of_model
from rnnc.compiled import Compiled, CompileOptions
from rnnc.computations import DERIVATIVES
from rnnc.ir.errors import ArgumentError
from rnnc.ir.passes import PASS_NAMES
from rnnc.ir.pipeline import PIPELINE, SHARED_STAGES, UNROLLED_STAGES, Artefacts, Optimized, before_pass
from rnnc.specs import Spec

if TYPE_CHECKING:
    import argparse

    from rnnc.cli.parser import Parser
    from rnnc.files.models import Architecture
    from rnnc.ir.computation import Computation

STAGES = (*SHARED_STAGES, "plan", "llvm", "asm", "commands", "cuda", "ptx")
"""The names of all stages of all backends, in the order of the pipeline."""
DEFAULT_STAGE = "rolled"


def add_stage(command: Parser) -> None:
    """The arguments that choose a stage."""
    command.add_argument(
        "--stage", help=f"lowered, a pass, optimized, rolled, or one of the backend's (default {DEFAULT_STAGE})"
    )
    command.add_argument("--steps", type=int, default=3, help="unrolled steps in graphs (default 3)")
    command.add_argument("--derivative", choices=tuple(DERIVATIVES), help="of a recurrent spec: its derivative instead")
    command.words["stage"] = (*STAGES, *PASS_NAMES)


def computation_of(model: Architecture, options: argparse.Namespace) -> Computation:
    """The computation that is shown: the forward pass, or what --derivative names."""
    if options.derivative is None:
        return steps_of_model(model)
    if not isinstance(model, Spec):
        raise ArgumentError(f"--derivative: only a recurrent spec has one, got {checks.came(model)}")
    return DERIVATIVES[options.derivative](model)


def pass_named(option: str, name: str) -> str:
    """The name, if it is that of a pass. Raises ArgumentError."""
    if name not in PASS_NAMES:
        known = ", ".join(PASS_NAMES)
        raise ArgumentError(f"{option}: expected a pass ({known}), got {name!r}{checks.suggestion(name, PASS_NAMES)}")
    return name


def stage_of(options: argparse.Namespace) -> str:
    """The stage that --stage, --before or --after chooses. Raises ArgumentError for more than one."""
    given = [name for name in ("stage", "before", "after") if getattr(options, name) is not None]
    if len(given) > 1:
        raise ArgumentError(f"--{given[0]}, --{given[1]}: expected one of them")
    if options.before is not None:
        return before_pass(pass_named("--before", options.before))
    if options.after is not None:
        return pass_named("--after", options.after)
    return options.stage or DEFAULT_STAGE


def stage_text(computation: Computation, stage: str, steps: int, compiling: CompileOptions) -> str:
    """The text of a stage. One that all backends share is made without a backend."""
    checks.integer("--steps", steps, 1)
    if stage in (*UNROLLED_STAGES, *SHARED_STAGES):
        return Artefacts(PIPELINE, computation, steps=steps).text(stage)
    return Compiled(computation, compiling).ir(stage)


PHASE_STAGES = ("plan", "asm")


def one_phase(text: str, stage: str, name: str) -> str:
    """The part of a plan, or of a listing of machine code, that is one phase. Raises ArgumentError."""
    from rnnc.backends.llvm.listing import phase_of_listing, phase_of_plan, phases_in

    if stage not in PHASE_STAGES:
        raise ArgumentError(f"--phase: goes with --stage {' or '.join(PHASE_STAGES)}, got {stage!r}")
    found = (phase_of_plan if stage == "plan" else phase_of_listing)(text, name)
    if not found:
        known = phases_in(text)
        raise ArgumentError(f"--phase: expected {', '.join(known)}; got {name!r}{checks.suggestion(name, known)}")
    return found


# ---- formats of graphs


def _json(artefact: Any) -> str:
    from rnnc.ir.data import graph_data, program_data
    from rnnc.ir.graph import Graph

    return json.dumps(graph_data(artefact) if isinstance(artefact, Graph) else program_data(artefact), indent=1) + "\n"


def _dot(artefact: Any) -> str:
    from rnnc.ir.draw import to_dot

    return to_dot(artefact)


def _mermaid(artefact: Any) -> str:
    from rnnc.ir.draw import to_mermaid

    return to_mermaid(artefact)


GRAPH_FORMATS: dict[str, Callable[[Any], str]] = {"json": _json, "dot": _dot, "mermaid": _mermaid}
"""Formats of the artefact of a stage: of graphs, and "json" of rolled programs, too."""


def formatted(computation: Computation, stage: str, steps: int, format: str) -> str:
    """A stage in one of GRAPH_FORMATS. Raises ArgumentError for a stage that has no graph."""
    known = UNROLLED_STAGES if format != "json" else (*UNROLLED_STAGES, SHARED_STAGES[-1])
    if stage not in known:
        shown = ", ".join(name for name in (*SHARED_STAGES, "a pass") if name in known or name == "a pass")
        raise ArgumentError(f"--format {format}: expected --stage with a graph ({shown}), got {stage!r}")
    made = Artefacts(PIPELINE, computation, steps=checks.integer("--steps", steps, 1))[stage]
    return GRAPH_FORMATS[format](made.graph if isinstance(made, Optimized) else made)


# ---- formats of models


def _svg(model: Architecture, options: argparse.Namespace) -> str:
    from rnnc.drawing import draw

    return draw(model, options.steps)  # type: ignore[arg-type]  # draw refuses a decoder


def _html(model: Architecture, options: argparse.Namespace) -> str:
    """The report of a model: all stages on one page."""
    from rnnc.cli.common import chosen
    from rnnc.cli.specs import steps_of_model
    from rnnc.compiled import Compiled
    from rnnc.networks.names import layer_names
    from rnnc.report import report
    from rnnc.specs import Spec

    computation = steps_of_model(model) if options.derivative is None else computation_of(model, options)
    layers = () if isinstance(model, Spec) else layer_names(model.graph())  # type: ignore[union-attr]
    return report(Compiled(computation, chosen(options)), model, steps=options.steps, layers=layers)


MODEL_FORMATS: dict[str, Callable[[Architecture, argparse.Namespace], str]] = {"svg": _svg, "html": _html}
"""Formats that show a whole model, and no single stage."""
