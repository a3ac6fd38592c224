"""The right sides of a program's text: a value, of an expression over values that are known (`rnnc.ir.parse_program`).

    add(%17[t], %12)          %15 @ weight_hh_l0'          %24[t]{0:4}          %38[t-1] | h.0_l0 {state="h_l0"}

The shape and dtype of a value follow from its operands.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rnnc.ir.errors import IRError
from rnnc.ir.families import Family
from rnnc.ir.ops import OPS, Kind, result_dtype
from rnnc.ir.parsing import Parser, Token
from rnnc.ir.program import is_summed
from rnnc.ir.program_text import PLAIN_NAME
from rnnc.ir.shape_rules import AttrValue, Dim, Shape
from rnnc.ir.verify import ATTRIBUTE_TYPES


@dataclass
class LoopBody:
    """A loop that is being read.

    line_of: what it is a delay line of, or the token that names it. sources: the carries that wait for their sources,
    each with the token that names it.
    """

    direction: int
    line_of: Token | Family | None
    values: list[Family] = field(default_factory=list)
    sources: list[tuple[Family, Token]] = field(default_factory=list)


class ValueParser(Parser):
    """Reads expressions. known: the values that have been read so far."""

    tokens = re.compile(
        rf"""
        (?P<blank>  [ \t\r]+ | \#.*)
      | (?P<string> "(?:[^"\\] | \\.)*")
      | (?P<float>  -?(?: (?:inf|nan)\b | [0-9]+(?: \.[0-9]+ (?:e[+-]?[0-9]+)? | e[+-]?[0-9]+ )) (?![\w.:]) )
      | (?P<int>    -?[0-9]+ (?![\w.]) (?!:[A-Za-z_.]) )
      | (?P<ref>    %[0-9]+)
      | (?P<name>   {PLAIN_NAME.pattern} )
      | (?P<mark>   \.\. | [=:@,(){{}}\[\]|'+-])
        """,
        re.VERBOSE | re.ASCII,
    )

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.known: dict[str, Family] = {}
        """Name -> value; the text of a number, or of zeros, -> the one value of that kind."""
        self.home: dict[Family, int] = {}
        """Value of a loop -> the number of the loop."""
        self.bodies: list[LoopBody] = []
        self.loop: LoopBody | None = None
        self.dtype = ""

    # -- expressions

    def expression(self, keyword: str) -> Family:
        at = self.token
        if keyword == "carry":
            return self.carry(at)
        if self.accept_word("last"):
            return self.final(self.operand(), at)
        if self.accept_word("sum"):
            for word in ("over", "t", "of"):
                self.word(word)
            terms = [self.term()]
            while self.accept("+"):
                terms.append(self.term())
            return self.summed(terms, at)
        if self.token.kind == "name" and self.token.text in OPS and self.follows("("):
            op = self.op()
            self.mark("(")
            operands = tuple(self.items(")", self.operand))
            return self.checked(op, operands, self.attrs(), at)
        return self.infix(at)

    def infix(self, at: Token) -> Family:
        if self.accept_word("rows"):
            self.word("of")
            return self.checked("reduce_rows", (self.operand(),), self.attrs(), at)
        left = self.operand()
        if self.accept("{"):
            start = self.integer("the first column")
            self.mark(":")
            stop = self.integer("the end of the columns")
            axis = -1
            if self.accept(","):
                self.word("axis")
                axis = self.integer("0")
            self.mark("}")
            return self.checked("slice", (left,), {"axis": axis, "start": start, "stop": stop}, at)
        outer = self.accept("'")
        self.mark("@")
        right = self.operand()
        if outer:
            return self.checked("outer", (left, right), {}, at)
        return self.checked("matmul", (left, right), {"transpose_b": self.accept("'")}, at)

    def carry(self, at: Token) -> Family:
        if self.loop is None:
            self.fail("a carry lies in a loop", at)
        source = self.token
        self.step()
        given = self.zeros(lambda: True) if source.text == "zeros" else None
        self.mark("[")
        self.word("t")
        delta = -self.integer("-1 or +1") if self.token.kind == "int" else self.plus()
        self.mark("]")
        self.mark("|")
        initial = self.operand()
        attrs = {**self.attrs(), "delta": delta}
        if delta != self.loop.direction or initial.timed:
            what = "reads a step that the loop has not done" if delta != self.loop.direction else "starts at one value"
            self.fail(f"a carry {what}", at)
        if attrs.get("state") in {f.attr("state") for body in self.bodies for f in body.values if f.op == "carry"}:
            self.fail(f"the state {attrs['state']!r} is carried twice", at)
        made = self.new("carry", (), self.ordered("carry", attrs, at))
        made.shape, made.dtype, made.timed, made.initial = initial.shape, initial.dtype, True, initial
        if given is None:
            self.loop.sources.append((made, source))
        made.source = given
        return made

    def plus(self) -> int:
        self.mark("+")
        return -self.integer("1")

    def final(self, read: Family, at: Token) -> Family:
        attrs = self.attrs()
        carries = [f for body in self.bodies for f in body.values if f.op == "carry"]
        carried = [f for f in carries if f.attr("state") == attrs.get("state")]
        if not carried or carried[0].source is not read:
            self.fail(f"{read!r} is not what a state of that name carries", at)
        made = self.new("exit", (read,), self.ordered("exit", {**attrs, "delta": carried[0].attr("delta")}, at))
        made.shape, made.dtype = read.shape, read.dtype
        return made

    def term(self) -> Family:
        if not (self.token.kind == "ref" and self.follows(":")):
            return self.operand()
        at = self.token
        index = self.index()
        self.mark(":")
        made = self.infix(at)
        made.index = index
        if at.text in self.known:
            return self.known[at.text]
        if not is_summed(made):
            self.fail(f"{at.text} is not a sum over rows of values at each step", at)
        self.define(made, at)
        return made

    def summed(self, terms: list[Family], at: Token) -> Family:
        if not all(term.timed for term in terms):
            self.fail("a sum over t adds values of each step", at)
        made = self.checked("tsum", tuple(terms), {}, at)
        made.timed = False
        return made

    def operand(self) -> Family:
        token = self.token
        if token.kind == "float":
            self.step()
            return self.leaf(token.text, "const", {"value": float(token.text)}, ())
        if token.kind == "name" and token.text == "zeros":
            self.step()
            return self.zeros(self.each_step)
        found = self.find(token)
        self.step()
        timed = self.each_step()
        local = self.loop is not None and found in self.loop.values
        if timed != (found.timed and not local):
            what = "a value of this step" if local else f"{'a value at each step' if found.timed else 'one value'}"
            self.fail(f"{token.text} is {what}: write it {'without' if timed else 'with'} [t]", token)
        return found

    def zeros(self, each_step: Callable[[], bool]) -> Family:
        """Zeros, from their sizes on. each_step: reads whether there are some at each step."""
        self.mark("(")
        shape = tuple(self.items(")", self.size))
        timed = each_step()
        made = self.leaf(f"zeros{shape}{timed}", "zeros", {}, shape)
        made.timed = timed
        return made

    # -- values

    def checked(self, op: str, operands: tuple[Family, ...], attrs: dict[str, AttrValue], at: Token) -> Family:
        """A value whose shape and dtype follow from its operands."""
        spec = OPS[op]
        if spec.kind in (Kind.LEAF, Kind.CARRY) or op == "tsum" and not operands:
            self.fail(f"{op} is not written like this", at)
        if not operands or spec.arity is not None and len(operands) != spec.arity:
            self.fail(f"{op} takes {spec.arity or 'one or more'} operands, got {len(operands)}", at)
        made = self.new(op, operands, self.ordered(op, attrs, at))
        try:
            made.shape = spec.shape([f.shape for f in operands], dict(made.attrs))
            made.dtype = result_dtype(spec, [f.dtype for f in operands])
        except (IRError, IndexError, ValueError, TypeError) as error:
            self.fail(f"{op} does not fit its operands: {error}", at)
        made.timed = self.loop is not None or any(f.timed for f in operands)
        return made

    def ordered(self, op: str, attrs: dict[str, AttrValue], at: Token) -> dict[str, AttrValue]:
        """The attributes in the order of the table. Fails if there are others, or of other types."""
        declared = OPS[op].attrs
        if set(attrs) != set(declared):
            self.fail(f"{op} has the attributes {', '.join(declared) or 'none'}, got {', '.join(attrs) or 'none'}", at)
        for name, value in attrs.items():
            if name in ATTRIBUTE_TYPES and type(value) is not ATTRIBUTE_TYPES[name]:
                self.fail(f"{name} is {ATTRIBUTE_TYPES[name].__name__}, got {value!r}", at)
        return {name: attrs[name] for name in declared}

    def new(self, op: str, operands: tuple[Family, ...], attrs: dict[str, Any]) -> Family:
        return Family(-1, op, operands, tuple(attrs.items()), (), self.dtype, None, False)

    def leaf(self, key: str, op: str, attrs: dict[str, Any], shape: Shape) -> Family:
        """A number, or zeros: equal ones are one value."""
        if key not in self.known:
            self.known[key] = self.new(op, (), attrs)
            self.known[key].shape = shape
        return self.known[key]

    def define(self, made: Family, at: Token) -> None:
        if at.text in self.known:
            self.fail(f"{at.text} is defined twice", at)
        self.known[at.text] = made
        if self.loop is not None:
            self.home[made] = len(self.bodies) - 1

    def find(self, token: Token) -> Family:
        if token.kind not in ("ref", "name", "string"):
            self.fail("expected a value", token, found=True)
        if token.text not in self.known:
            self.fail(f"{token.text} is read before it is defined", token)
        return self.known[token.text]

    # -- the smallest parts

    def name(self) -> str:
        """The name of an input or output."""
        token = self.token
        if token.kind == "string":
            self.step()
            return self.decoded(token)
        return self.take("name", "a name")

    def each_step(self) -> bool:
        """Whether [t] comes next."""
        if not (self.token.text == "[" and self.follows("t")):
            return False
        self.step()
        self.word("t")
        self.mark("]")
        return True

    def attrs(self) -> dict[str, AttrValue]:
        return dict(self.items("}", self.attr)) if self.accept("{") else {}

    def size(self) -> Dim:
        return self.integer("a size") if self.token.kind == "int" else self.take("name", "a size, B or T")

    def accept_word(self, word: str) -> bool:
        comes = self.token.kind == "name" and self.token.text == word
        if comes:
            self.step()
        return comes

    def follows(self, text: str) -> bool:
        """Whether the token after the current one has this text."""
        return self.after.text == text

    def indent(self, token: Token) -> int:
        line = self.lines[token.line - 1]
        return len(line) - len(line.lstrip())
