"""`rnnc inspect`: a stage of the pipeline, from equations to machine code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rnnc.checking import checks
from rnnc.cli.common import add_backend, add_spec, chosen
from rnnc.cli.parser import add_command
from rnnc.cli.specs import load_model, steps_of_model
from rnnc.compiled import Compiled
from rnnc.computations import DERIVATIVES
from rnnc.ir.errors import ArgumentError
from rnnc.ir.pipeline import PIPELINE, SHARED_STAGES, Artefacts
from rnnc.specs import Spec

if TYPE_CHECKING:
    import argparse

    from rnnc.cli.parser import Commands

STAGES = (*SHARED_STAGES, "plan", "llvm", "asm", "commands", "cuda", "ptx")


def add(commands: Commands) -> None:
    """Declares the command."""
    parser = add_command(
        commands,
        "inspect",
        _run,
        help="print a stage of a spec, from equations to machine code",
        examples=[
            "rnnc inspect spec.toml                            the loops",
            "rnnc inspect spec.toml --stage lowered --steps 2  the equations, unrolled over two steps",
            "rnnc inspect spec.toml --derivative vjp           the loops of the gradients",
            "rnnc inspect my_models:encoder --stage asm        the machine code",
        ],
    )
    add_spec(parser)
    parser.add_argument(
        "--stage", default="rolled", help="lowered, optimized, rolled (default), or one of the backend's"
    )
    parser.add_argument("--steps", type=int, default=3, help="unrolled steps in lowered and optimized (default 3)")
    parser.add_argument("--derivative", choices=tuple(DERIVATIVES), help="of a recurrent spec: its derivative instead")
    parser.words["stage"] = STAGES
    add_backend(parser)


def _run(options: argparse.Namespace) -> None:
    model = load_model(options.spec, options.trust)
    steps = checks.integer("--steps", options.steps, 1)
    made = chosen(options)
    computation = steps_of_model(model)
    if options.derivative is not None:
        if not isinstance(model, Spec):
            raise ArgumentError(f"--derivative: only a recurrent spec has one, got {checks.came(model)}")
        computation = DERIVATIVES[options.derivative](model)
    if options.stage in SHARED_STAGES:  # needs no backend, so none is loaded
        text = Artefacts(PIPELINE, computation, steps=steps).text(options.stage)
    else:
        text = Compiled(computation, made).ir(options.stage)
    print(text.rstrip("\n"))
