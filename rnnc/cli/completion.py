"""`rnnc completion`: what makes a shell complete commands, options and their values. It is made of the parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rnnc.cli.parser import add_command

if TYPE_CHECKING:
    from rnnc.cli.parser import Commands, Parser

DESCRIPTION = """\
Print a script that makes a shell complete commands, options and their values at the tab key.

  bash    eval "$(rnnc completion bash)"                           in ~/.bashrc
  zsh     eval "$(rnnc completion zsh)"                            in ~/.zshrc, after compinit
  fish    rnnc completion fish > ~/.config/fish/completions/rnnc.fish
"""


def add(commands: Commands) -> None:
    """Declares the command."""
    parser = add_command(
        commands,
        "completion",
        lambda options: print(SHELLS[options.shell](described()), end=""),
        help="print what makes a shell complete commands and options",
        description=DESCRIPTION,
    )
    parser.add_argument("shell", choices=tuple(SHELLS), help="the shell")


class Option(NamedTuple):
    """An option. words: its known values; None if it has no value, and no words if that is a file or a number."""

    names: tuple[str, ...]
    help: str
    words: tuple[str, ...] | None


class Command(NamedTuple):
    """A command. words: values of its place arguments; without them they are files."""

    name: str
    help: str
    options: tuple[Option, ...]
    words: tuple[str, ...]


def described() -> list[Command]:
    """All commands; the first one, without a name, is rnnc itself."""
    from rnnc.cli.entry import command_parser

    parser = command_parser()
    found = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    helps = {action.dest: action.help or "" for action in found._choices_actions}
    commands = [_described(name, helps[name], each) for name, each in found.choices.items()]
    return [Command("", "", _options(parser), tuple(found.choices)), *commands]


def _described(name: str, help: str, parser: Parser) -> Command:
    words = [word for action in parser._actions if not action.option_strings for word in _words(parser, action)]
    return Command(name, help, _options(parser), tuple(words))


def _options(parser: Parser) -> tuple[Option, ...]:
    return tuple(
        Option(tuple(a.option_strings), a.help or "", None if a.nargs == 0 else _words(parser, a))
        for a in parser._actions
        if a.option_strings
    )


def _words(parser: Parser, action: argparse.Action) -> tuple[str, ...]:
    return tuple(map(str, action.choices)) if action.choices is not None else parser.words.get(action.dest, ())


# ---- bash


def bash(commands: Sequence[Command]) -> str:
    """A function that looks at the command and at the word before the cursor."""
    cases = "\n".join(line for command in commands for line in _bash_cases(command))
    return f"""\
_rnnc() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} command= words=
    [ "$COMP_CWORD" -gt 1 ] && command=${{COMP_WORDS[1]}}
    case "$command:$before:$current" in
{cases}
    esac
    if [ "$words" = FILES ]; then
        compopt -o filenames 2>/dev/null
        COMPREPLY=($(compgen -f -- "$current"))
    else
        COMPREPLY=($(compgen -W "$words" -- "$current"))
    fi
}}
complete -F _rnnc rnnc
"""


def _bash_cases(command: Command) -> Iterator[str]:
    for option in command.options:
        if option.words is not None:
            cases = "|".join(f"{command.name}:{name}:*" for name in option.names)
            yield f'        {cases}) words="{" ".join(option.words) or "FILES"}" ;;'
    names = [name for option in command.options for name in option.names]
    yield f'        {command.name}:*:-*) words="{" ".join(names)}" ;;'
    yield f'        {command.name}:*) words="{" ".join(command.words) or "FILES"}" ;;'


# ---- zsh


def zsh(commands: Sequence[Command]) -> str:
    """A function in the terms of zsh's `_arguments`."""
    described = "\n".join(f"            {_quoted(f'{c.name}:{c.help}')}" for c in commands[1:])
    cases = "\n".join(_zsh_case(command) for command in commands[1:])
    own = " ".join(_zsh_option(option) for option in commands[0].options)
    return f"""\
#compdef rnnc
_rnnc() {{
    local curcontext="$curcontext" state line
    typeset -A opt_args
    _arguments -C {own} '1: :->command' '*:: :->rest'
    case $state in
    command)
        local -a commands
        commands=(
{described}
        )
        _describe command commands ;;
    rest)
        case $line[1] in
{cases}
        esac ;;
    esac
}}
compdef _rnnc rnnc
"""


def _zsh_case(command: Command) -> str:
    place = f"'*: :({' '.join(command.words)})'" if command.words else "'*: :_files'"
    options = " ".join(_zsh_option(option) for option in command.options)
    return f"        {command.name}) _arguments {options} {place} ;;"


def _zsh_option(option: Option) -> str:
    """The argument of `_arguments` for an option, with each of its names."""
    help = option.help.replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")
    value = "" if option.words is None else f": :({' '.join(option.words)})" if option.words else ": :_files"
    return " ".join(_quoted(f"{name}[{help}]{value}") for name in option.names)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# ---- fish


def fish(commands: Sequence[Command]) -> str:
    """One line per command, option and list of values."""
    return "\n".join(line for command in commands for line in _fish_lines(command)) + "\n"


def _fish_lines(command: Command) -> Iterator[str]:
    where = f"__fish_seen_subcommand_from {command.name}" if command.name else "__fish_use_subcommand"
    start = f"complete -c rnnc -n {_fish_quoted(where)}"
    if not command.name:
        yield "complete -c rnnc -n __fish_use_subcommand -f"
    else:
        yield f"complete -c rnnc -n __fish_use_subcommand -a {command.name} -d {_fish_quoted(command.help)}"
        if command.words:
            yield f"{start} -f -a {_fish_quoted(' '.join(command.words))}"
    for option in command.options:
        names = " ".join(f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in option.names)
        value = (
            "" if option.words is None else f" -x -a {_fish_quoted(' '.join(option.words))}" if option.words else " -r"
        )
        yield f"{start} {names} -d {_fish_quoted(option.help)}{value}"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}
