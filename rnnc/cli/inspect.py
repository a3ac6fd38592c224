"""`rnnc inspect`: a stage of the pipeline, from equations to machine code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rnnc.cli.color import add_color, colored, wanted
from rnnc.cli.common import add_backend, add_spec, chosen
from rnnc.cli.dumps import (
    GRAPH_FORMATS,
    MODEL_FORMATS,
    add_stage,
    computation_of,
    formatted,
    one_phase,
    stage_of,
    stage_text,
)
from rnnc.cli.parser import add_command
from rnnc.cli.specs import load_model
from rnnc.ir.errors import ArgumentError
from rnnc.ir.passes import PASS_NAMES

if TYPE_CHECKING:
    import argparse

    from rnnc.cli.parser import Commands

DESCRIPTION = f"""\
Print a stage of a spec, a network or a model file, from the equations to the machine code.

stages:
  lowered      the equations, unrolled over --steps time steps
  PASS         the graph after a pass: {", ".join(PASS_NAMES[:5])},
               {", ".join(PASS_NAMES[5:])}
  optimized    the graph after all passes, and what each of them did
  rolled       loops over any number of steps
  plan         the loops laid out as phases, with their buffers     llvm, cuda
  llvm, asm    LLVM's assembly, and the machine code                llvm
  commands, cuda, ptx: what the host does, CUDA C, PTX              cuda
"""


def add(commands: Commands) -> None:
    """Declares the command."""
    parser = add_command(
        commands,
        "inspect",
        _run,
        help="print a stage of a spec, from equations to machine code",
        description=DESCRIPTION,
        examples=[
            "rnnc inspect spec.toml                            the loops",
            "rnnc inspect spec.toml --stage lowered --steps 2  the equations, unrolled over two steps",
            "rnnc inspect spec.toml --after gate_fusion        the graph after a pass",
            "rnnc inspect spec.toml --derivative vjp           the loops of the gradients",
            "rnnc inspect my_models:encoder --stage asm        the machine code",
            "rnnc inspect spec.toml --stage asm --phase loop0_step0  the loop over time alone",
            "rnnc inspect spec.toml --format svg > spec.svg    a picture",
        ],
    )
    add_spec(parser)
    add_stage(parser)
    parser.add_argument("--after", metavar="PASS", help="the graph after this pass")
    parser.add_argument("--before", metavar="PASS", help="the graph before this pass")
    parser.words["after"] = parser.words["before"] = PASS_NAMES
    parser.add_argument("--phase", metavar="NAME", help="of plan or asm: this phase alone, such as loop0_step0")
    formats = ("text", *GRAPH_FORMATS, *MODEL_FORMATS)
    parser.add_argument("--format", choices=formats, default="text", help=f"{', '.join(formats)} (default text)")
    add_color(parser)
    add_backend(parser)


def _run(options: argparse.Namespace) -> None:
    model = load_model(options.spec, options.trust)
    if options.format in MODEL_FORMATS:
        if any(getattr(options, name) is not None for name in ("stage", "before", "after")):
            raise ArgumentError(f"--format {options.format}: shows the whole network; leave out --stage")
        print(MODEL_FORMATS[options.format](model, options), end="")
        return
    stage, compiling, computation = stage_of(options), chosen(options), computation_of(model, options)
    if options.format != "text":
        if options.phase is not None:
            raise ArgumentError("--phase: is shown as text; leave out --format")
        print(formatted(computation, stage, options.steps, options.format), end="")
        return
    text = stage_text(computation, stage, options.steps, compiling)
    text = (text if options.phase is None else one_phase(text, stage, options.phase)).rstrip("\n")
    print(colored(text) if wanted(options) else text)
