"""`main`: runs a command, and turns what happens into an exit code.

0    done
1    the answer is no: two things differ, a check failed
2    wrong use: the arguments, a file, or what this machine lacks; one line on stderr says what to do
130  interrupted
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from rnnc.cli import bench, cache, compile, completion, diff, doctor, explain, export, inspect, run, train
from rnnc.cli.parser import Parser, VersionAction, subcommands
from rnnc.ir.errors import RnncError

if TYPE_CHECKING:
    import argparse

COMMANDS: tuple[ModuleType, ...] = (
    inspect,
    explain,
    diff,
    compile,
    bench,
    train,
    run,
    export,
    doctor,
    cache,
    completion,
)
"""The commands, in the order of the help. Each is a module with `add(commands)`."""

DESCRIPTION = "rnnc compiles recurrent networks, and shows every step on the way to the machine code."
EXAMPLES = """\
a first example:
  echo '{"type": "LSTM", "input_size": 64, "hidden_size": 128}' > spec.json
  rnnc inspect spec.json                  the loops that it becomes
  rnnc inspect spec.json --stage asm      the machine code
  rnnc explain spec.json                  what is fast in it, and what is not
  rnnc compile spec.json                  how long it takes to compile and to call

SPEC is a .json or .toml file, a model file of rnnc.save, or module:object.
`rnnc COMMAND --help` shows what a command takes, with examples. Tab completion: `rnnc completion --help`.
Exit codes: 0 done, 1 a comparison or check says no, 2 wrong use, 130 interrupted.
"""

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    parser = command_parser()
    try:
        options = parser.parse_args(arguments)
    except SystemExit as left:  # argparse has printed a help or an error
        return int(left.code or 0)
    if options.command is None:
        parser.print_help(sys.stderr)
        return 2
    return _finished(options)


def command_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser("rnnc", description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("--version", action=VersionAction, help="show the version of rnnc and exit")
    commands = subcommands(parser)
    for module in COMMANDS:
        module.add(commands)
    return parser


def _finished(options: argparse.Namespace) -> int:
    """The exit code of a command, which runs now."""
    try:
        code = options.run(options)
        sys.stdout.flush()
    except RnncError as error:
        print(f"rnnc {options.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head` has closed the pipe; what Python still flushes goes to the null device
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"rnnc {options.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    return int(code or 0)
