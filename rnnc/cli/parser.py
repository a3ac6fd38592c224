"""Parser: argparse whose errors are one line, name the word that was meant, and whose options can be completed."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from rnnc.checking.checks import suggestion

if TYPE_CHECKING:
    Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


class Parser(argparse.ArgumentParser):
    """A parser of rnnc's. words: destination of an argument -> values that the shell may complete.

    Values of arguments with `choices` are known without it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # An abbreviation of an option would break with the next option that begins like it.
        own = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
        super().__init__(*args, **{**own, **kwargs})
        self.words: dict[str, tuple[str, ...]] = {}

    def error(self, message: str) -> NoReturn:
        """Prints one line, and exits with 2."""
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help shows what it takes\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """What argparse finds. Exits if there is more: the parser of a command knows best what was meant."""
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            word = str(rest[0]).partition("=")[0]
            if word.startswith("-"):
                self.error(f"there is no option {word}{suggestion(word, self.option_names())}")
            self.error(f"one argument too many: {rest[0]!r}")
        return found, rest

    def option_names(self) -> list[str]:
        """The names of all options."""
        return [name for action in self._actions for name in action.option_strings]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Called by argparse for each value of an argument."""
        if action.choices is not None and value not in action.choices:
            known = list(map(str, action.choices))
            meant = suggestion(str(value), known)
            raise argparse.ArgumentError(action, f"expected {_listed(known)}, got {value!r}{meant}")


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def subcommands(parser: Parser) -> Commands:
    """The place to which commands are added. `command` is None if none is given."""
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=Parser)
    commands.required = False
    return commands


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    help: str,
    description: str = "",
    examples: Iterable[str] = (),
) -> Parser:
    """The parser of a new command. run: called with the options; what it returns is the exit code, None for 0."""
    listed = "".join(f"  {line}\n" for line in examples)
    parser = commands.add_parser(
        name,
        help=help,
        description=description or f"{help[:1].upper()}{help[1:]}.",
        epilog=f"examples:\n{listed}" if listed else None,
    )
    parser.set_defaults(run=run)
    return parser


class VersionAction(argparse.Action):
    """Prints the version. To read it takes 10 ms, for the few who ask."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "nargs": 0})

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from rnnc.files.models import version

        print(f"rnnc {version() or '(not installed)'}")
        parser.exit()
