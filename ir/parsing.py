"""Recursive descent over texts of the IR: tokens, the smallest parts of a grammar, errors that name the line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, NamedTuple, NoReturn, TypeVar

from rnnc.ir.errors import IRError, ParseError
from rnnc.ir.graph import Site
from rnnc.ir.ops import OPS
from rnnc.ir.shape_rules import AttrValue

MAX_DIGITS = 20
"""The most characters of an int: enough for 64 bits with a sign."""
_SITE = re.compile(r"l(\d+)(?:\.(fwd|bwd))?((?:\.(?:grad|tangent))*)", re.ASCII)
_BOOLS = {"true": True, "false": False}
_DIRECTIONS = {None: None, "fwd": 0, "bwd": 1}
_END = "the end of the text"
_T = TypeVar("_T")


def print_literal(value: AttrValue) -> str:
    """The text of an attribute. Raises IRError for one that is neither an int, a float, a bool nor a str."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value)
        case int():
            return int.__repr__(value)
        case float():
            return float.__repr__(value)
    raise IRError(f"cannot print the attribute value {value!r} of type {type(value).__name__}")


class Token(NamedTuple):
    """A token: the group of the regular expression that found it, its text and its line."""

    kind: str
    text: str
    line: int


class Parser:
    """The base of both parsers. Each rule of a grammar is a method, which reads from `self.token` on.

    `self.after` is the token after that one.

    tokens: finds the next token; its groups are kinds of tokens, of which "blank" is left out.
    """

    tokens: ClassVar[re.Pattern[str]]

    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")
        self.rest = self._found(self.lines)
        self.token = next(self.rest)
        self.after = next(self.rest, self.token)

    def _found(self, lines: Sequence[str]) -> Iterator[Token]:
        for number, line in enumerate(lines, 1):
            at = 0
            while at < len(line):
                found = self.tokens.match(line, at)
                if found is None:
                    raise ParseError(f"line {number}: unexpected {line[at]!r}, in: {line.strip()}")
                if found.lastgroup != "blank":
                    yield Token(str(found.lastgroup), found.group(), number)
                at = found.end()
        yield Token("end", _END, max(len(lines), 1))

    # -- parts of both grammars

    def op(self) -> str:
        """The name of an op."""
        token = self.token
        op = self.take("name", "an op")
        if op not in OPS:
            from difflib import get_close_matches  # only for this message

            near = get_close_matches(op, OPS, 1)
            self.fail(f"unknown op {op!r}" + (f" (did you mean {near[0]}?)" if near else ""), token)
        return op

    def attr(self) -> tuple[str, AttrValue]:
        """An attribute, with its value."""
        name = self.take("name", "the name of an attribute")
        self.mark("=")
        return name, self.literal()

    def literal(self) -> AttrValue:
        """A number, a string, true or false."""
        kind, text, _ = token = self.token
        self.step()
        if kind == "int":
            return self.number(token)
        if kind == "float":
            return float(text)
        if kind == "string":
            return self.decoded(token)
        if kind == "name" and text in _BOOLS:
            return _BOOLS[text]
        self.fail("expected a number, a string, true or false", token, found=True)

    def site(self) -> Site:
        """A layer, with a direction and marks."""
        token = self.token
        found = _SITE.fullmatch(self.take("name", "a site"))
        if found is None:
            self.fail("expected a site such as l0, l0.fwd or l0.bwd", token, found=True)
        return Site(int(found[1]), _DIRECTIONS[found[2]], tuple(found[3].split(".")[1:]))

    # -- the smallest parts

    def items(self, end: str, item: Callable[[], _T]) -> Iterator[_T]:
        """Items separated by commas, up to and including the closing mark."""
        if self.accept(end):
            return
        yield item()
        while not self.accept(end):
            if not self.accept(","):
                self.fail(f"expected ',' or {end!r}", found=True)
            yield item()

    def integer(self, what: str) -> int:
        token = self.token
        self.take("int", what)
        return self.number(token)

    def index(self) -> int:
        token = self.token
        self.take("ref", "a node such as %0")
        return self.number(token)

    def number(self, token: Token) -> int:
        if len(token.text) > MAX_DIGITS:
            self.fail(f"{token.text} is too large", token)
        return int(token.text.removeprefix("%"))

    def decoded(self, token: Token) -> str:
        try:
            return str(json.loads(token.text))
        except json.JSONDecodeError as error:
            self.fail(f"{token.text} is no JSON string ({error.msg})", token)

    def take(self, kind: str, what: str) -> str:
        """Steps over the current token and returns its text. Fails unless it is of the given kind."""
        text = self.token.text
        if self.token.kind != kind:
            self.fail(f"expected {what}", found=True)
        self.step()
        return text

    def word(self, word: str, what: str = "") -> None:
        if self.token.kind != "name" or self.token.text != word:
            self.fail(f"expected {what or repr(word)}", found=True)
        self.step()

    def mark(self, mark: str) -> None:
        if not self.accept(mark):
            self.fail(f"expected {mark!r}", found=True)

    def accept(self, mark: str) -> bool:
        """Steps over the mark if it comes next. Returns whether it did."""
        comes = self.token.kind == "mark" and self.token.text == mark
        if comes:
            self.step()
        return comes

    def step(self) -> None:
        if self.token.kind != "end":
            self.token, self.after = self.after, next(self.rest, self.after)

    def fail(self, message: str, token: Token | None = None, *, found: bool = False) -> NoReturn:
        at = token or self.token
        if found:
            message += f", found {_END if at.kind == 'end' else repr(at.text)}"
        raise ParseError(f"line {at.line}: {message}, in: {self.lines[at.line - 1].strip()}")
