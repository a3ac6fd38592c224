"""The arguments that several commands take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rnnc.backends import MODULES
from rnnc.compiled import CompileOptions

if TYPE_CHECKING:
    import argparse

    from rnnc.cli.parser import Parser

SPEC_HELP = "a .json, .toml or model file, or module:object (the current folder comes last on the path)"


def add_spec(command: Parser) -> None:
    """SPEC, and --trust."""
    command.add_argument("spec", metavar="SPEC", help=SPEC_HELP)
    add_trust(command)


def add_trust(command: Parser) -> None:
    """--trust, for files that name a cell of another module."""
    command.add_argument(
        "--trust", action="append", default=[], metavar="MODULE", help="a module that a file may name for its cell"
    )


def add_backend(command: Parser) -> None:
    """--backend and --threads, of which `chosen` makes the options of a compilation."""
    command.add_argument("--backend", default="llvm", help="llvm (default), reference, cuda or cuda-emulated")
    command.add_argument("--threads", type=int, default=None, help="default: RNNC_NUM_THREADS, or all cores")
    command.words["backend"] = tuple(MODULES)


def chosen(options: argparse.Namespace) -> CompileOptions:
    """The checked options of a compilation."""
    return CompileOptions.of(options.backend, options.threads, None)
