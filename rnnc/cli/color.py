"""Colours of dumps on a terminal. In a pipe, with NO_COLOR, or on a dumb terminal there are none."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from rnnc.ir import settings

if TYPE_CHECKING:
    import argparse

    from rnnc.cli.parser import Parser

CHOICES = ("auto", "always", "never")

_STYLES = {
    "comment": "2",  # dim
    "string": "32",  # green
    "name": "36",  # cyan: values
    "shape": "33",  # yellow
    "keyword": "1",  # bold
    "number": "35",  # magenta
}
_TOKENS = re.compile(
    r"""
    (?P<comment> (?:\#|;) .* )
  | (?P<string>  "(?:[^"\\\n] | \\.)*" )
  | (?P<name>    %[\w.$]+ )
  | (?P<shape>   \[ [A-Z\d][^\]\n=]* \] )
  | (?P<keyword> ^\s*[a-z_]\w*(?=[ :]) | \b[a-z_]\w*(?=\() | ^\s*[\w.$]+:$ )
  | (?P<number>  (?<![\w.%])-?\d+(?:\.\d+)?(?:e[-+]?\d+)?\b )
    """,
    re.VERBOSE | re.MULTILINE,
)
_DIFFERENCES = {"-": "31", "+": "32", "@": "36"}


def add_color(command: Parser) -> None:
    """--color."""
    command.add_argument("--color", choices=CHOICES, default="auto", help="colours: on a terminal (default auto)")


def wanted(options: argparse.Namespace) -> bool:
    """Whether output to stdout is coloured."""
    if options.color != "auto":
        return bool(options.color == "always")
    return sys.stdout.isatty() and not settings.colors_refused()


def colored(text: str) -> str:
    """The text of a stage with colours."""
    return _TOKENS.sub(lambda found: _painted(found.group(), _STYLES[str(found.lastgroup)]), text)


def colored_difference(text: str) -> str:
    """The text of a difference with colours: red lines are gone, green ones are new."""
    return "\n".join(map(_difference_line, text.split("\n")))


def _difference_line(line: str) -> str:
    return _painted(line, _DIFFERENCES[line[0]]) if line[:1] in _DIFFERENCES else line


def _painted(text: str, style: str) -> str:
    return f"\x1b[{style}m{text}\x1b[0m"
