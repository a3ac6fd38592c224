"""`rnnc diff`: what a pass changed, or where two specs or two dumps differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rnnc.cli.color import add_color, colored_difference, wanted
from rnnc.cli.common import add_backend, add_trust, chosen
from rnnc.cli.dumps import add_stage, computation_of, pass_named, stage_of, stage_text
from rnnc.cli.parser import add_command
from rnnc.cli.specs import SUFFIXES, load_model
from rnnc.ir.errors import ArgumentError
from rnnc.ir.passes import PASS_NAMES
from rnnc.ir.pipeline import before_pass

if TYPE_CHECKING:
    import argparse

    from rnnc.cli.parser import Commands

DESCRIPTION = """\
Show what a pass changed (one SPEC and --pass), or where two specs, networks or files with dumps differ.

A value of the new dump has the name of the old value in its place; a value that is new has a mark: %31'.
The exit code is 0 if nothing differs, 1 if something does.
"""
DUMPS = (".ir", ".txt", ".ll", ".s", ".cu", ".ptx")


def add(commands: Commands) -> None:
    """Declares the command."""
    parser = add_command(
        commands,
        "diff",
        _run,
        help="show what a pass changed, or where two specs or dumps differ",
        description=DESCRIPTION,
        examples=[
            "rnnc diff spec.toml --pass gate_fusion          what a pass changed",
            "rnnc diff lstm.toml gru.toml                    the loops of two specs",
            "rnnc diff lstm.toml gru.toml --stage asm        their machine code",
            "rnnc diff old.ir new.ir                         two files with dumps",
        ],
    )
    parser.add_argument("old", metavar="A", help="a spec, or a file with a dump (.ir, .txt, .ll, .s, .cu, .ptx)")
    parser.add_argument("new", metavar="B", nargs="?", help="another one; not with --pass")
    parser.add_argument("--pass", metavar="PASS", dest="changed_by", help="the pass whose changes are shown")
    parser.words["changed_by"] = PASS_NAMES
    parser.add_argument("--context", type=int, default=1, metavar="N", help="equal lines around others (default 1)")
    add_stage(parser)
    add_trust(parser)
    add_color(parser)
    add_backend(parser)
    parser.set_defaults(before=None, after=None)


def _run(options: argparse.Namespace) -> int:
    from rnnc.ir.difference import difference

    if options.context < 0:
        raise ArgumentError(f"--context: expected an integer >= 0, got {options.context}")
    lines = difference(*_texts(options), options.context)
    text = "\n".join(lines)
    if lines:
        print(colored_difference(text) if wanted(options) else text)
    else:
        print("no difference")
    return int(bool(lines))


def _texts(options: argparse.Namespace) -> tuple[str, str]:
    """Both dumps."""
    if options.changed_by is not None:
        if options.new is not None or options.stage is not None:
            raise ArgumentError("--pass: compares the graph before and after it; leave out B and --stage")
        options.after = pass_named("--pass", options.changed_by)
        computation = computation_of(load_model(options.old, options.trust), options)
        first, second = (
            stage_text(computation, stage, options.steps, chosen(options))
            for stage in (before_pass(options.after), options.after)
        )
        return first, second
    if options.new is None:
        raise ArgumentError("B: expected a second spec or dump, or --pass to see what a pass changed")
    return _text(options.old, options), _text(options.new, options)


def _text(name: str, options: argparse.Namespace) -> str:
    path = Path(name)
    if path.suffix in DUMPS and path.suffix not in SUFFIXES:
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ArgumentError(f"{name}: cannot be read as text: {error}") from error
    computation = computation_of(load_model(name, options.trust), options)
    return stage_text(computation, stage_of(options), options.steps, chosen(options))
