"""`parse_program`: the Program that a text describes. The grammar is that of `rnnc.ir.program_text`, line by line.

    program   = "program" dtype [ "inputs:" { value } ] [ "bind:" { value } ] "run:" { value | loop } "return" outputs ;
    value     = keyword target [ "=" expression [ attrs ] ] [ dtype ] "[" sizes "]" [ "@" site ] ;
    loop      = "loop" "t" "=" span "carries" names [ ":" "a" "delay" "line" "of" name ] { value } ;
    operand   = ( ref | name | number | "zeros" "(" sizes ")" ) [ "[t]" ] ;

The body of a loop is what is indented more than its first line. `#` starts a comment. A value is read after it is
defined, but for the source of a carry. What a text says twice, such as shapes and which values are kept over time, is
checked against what follows from the rest.
"""

from __future__ import annotations

from rnnc.ir.delay_lines import DelayLine, delay_line
from rnnc.ir.errors import ParseError
from rnnc.ir.families import Family
from rnnc.ir.ops import Kind
from rnnc.ir.ordering import readers
from rnnc.ir.parse_values import LoopBody, ValueParser
from rnnc.ir.parsing import Token
from rnnc.ir.program import Loop, Program, Statement, is_parameter, is_summed
from rnnc.ir.program_text import FINAL, KEYWORDS
from rnnc.ir.shape_rules import BATCH, Shape
from rnnc.ir.stored import stored_values
from rnnc.ir.verify import FLOATS


def parse_program(text: str) -> Program:
    """The program that a text describes.

    Raises ParseError, which names the line, if the text does not follow the grammar, or if the program breaks a rule:
    a shape that does not follow from the operands, a value that is read before it is defined, or outside its loop.
    """
    return _ProgramParser(text).program()


class _ProgramParser(ValueParser):
    """One method per rule of the grammar."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.inputs: list[Family] = []
        self.bind: list[Family] = []
        self.statements: list[Statement] = []

    def program(self) -> Program:
        self.word("program")
        token = self.token
        self.dtype = self.take("name", "a dtype")
        if self.dtype not in FLOATS:
            self.fail(f"expected float32 or float64, found {self.dtype!r}", token)
        for section, values in (("inputs:", self.inputs), ("bind:", self.bind)):
            if self.accept_word(section):
                while self.token.kind == "name" and self.token.text not in ("inputs:", "bind:", "run:"):
                    values.append(self.value(section))
        self.word("run:")
        while not (self.token.kind == "name" and self.token.text == "return"):
            self.statement()
        return self.finished(self.returned())

    # -- statements

    def statement(self) -> None:
        if not self.accept_word("loop"):
            value = self.value("run:")
            self.statements += [term for term in value.inputs if is_summed(term) and term not in self.statements]
            self.statements.append(value)
            return
        at = self.token
        self.word("t")
        self.mark("=")
        body = self.loop = LoopBody(self.direction(), None)
        self.word("carries")
        while self.accept(",") or self.token.kind == "ref":
            self.take("ref", "a carry such as %0")
        if self.accept(":"):
            for word in ("a", "delay", "line", "of"):
                self.word(word)
            token = self.token
            self.step()
            body.line_of = self.zeros(lambda: True) if token.text == "zeros" else token
        self.bodies.append(body)
        inner = self.indent(at) + 1
        while self.token.kind == "name" and self.indent(self.token) >= inner:
            body.values.append(self.value("loop"))
        self.loop = None
        for carry, source in body.sources:
            carry.source = self.find(source)
            if not carry.source.timed or carry.source.shape != carry.shape:
                self.fail(f"{carry.name}: the state of shape {carry.shape} cannot come from {carry.source!r}", source)
        if not body.values or not any(f.op == "carry" for f in body.values):
            self.fail("a loop has at least one carry", at)
        self.statements.append(Loop(body.direction, tuple(body.values)))

    def direction(self) -> int:
        """0 .. T-1 or T-1 .. 0."""
        start = self.token
        if self.token.kind == "int":
            self.step()
            self.mark("..")
            self.word("T")
            found = self.integer("1")
            if start.text == "0" and found == -1:
                return 1
        elif self.accept_word("T"):
            found = self.integer("1")
            self.mark("..")
            if found == -1 and self.integer("0") == 0:
                return -1
        self.fail("expected 0 .. T-1 or T-1 .. 0", start)

    def value(self, section: str) -> Family:
        """A line with a value, which is known from then on."""
        at = self.token
        keyword = self.take("name", "a value, such as map or gemm")
        if keyword not in {*KEYWORDS.values(), FINAL}:
            self.fail(f"unknown keyword {keyword!r}, expected one of {', '.join(dict.fromkeys(KEYWORDS.values()))}", at)
        if (keyword == "input") != (section == "inputs:"):
            self.fail("the inputs, and nothing else, stand under 'inputs:'", at)
        target = self.token
        if keyword == "input":
            made = self.new("input", (), {"name": self.name()})
            made.timed = self.each_step()
        else:
            index = self.index()
            kept = self.each_step()
            self.mark("=")
            made = self.expression(keyword)
            made.index = index
        self.typed(made, target)
        if keyword != "input" and made.timed and self.loop is None and not kept:
            self.fail(f"{target.text} has a value at each step: write {target.text}[t]", target)
        self.define(made, target)
        if section == "bind:" and (made.timed or BATCH in made.shape or made.op == "exit"):
            self.fail(f"{target.text} is not known when parameters are bound", target)
        return made

    def typed(self, made: Family, target: Token) -> None:
        """Reads the dtype, the shape and the site of a value, and checks them."""
        dtype = self.take("name", "a dtype") if self.token.kind == "name" else self.dtype
        self.mark("[")
        sizes = list(self.items("]", self.size))
        timed = bool(sizes) and sizes[0] == "T"
        shape: Shape = tuple(sizes[1:] if timed else sizes)
        if made.op == "input":
            made.shape, made.dtype = shape, dtype
            if any(size != BATCH and (isinstance(size, str) or size < 1) for size in shape):
                self.fail(f"expected sizes, and B for the batch, got {shape}", target)
        if timed != (made.timed and self.loop is None) or shape != made.shape or dtype != made.dtype:
            found = [*(["T"] if made.timed and self.loop is None else []), *made.shape]
            right = f"{made.dtype}[{', '.join(map(str, found))}]"
            self.fail(f"{target.text} is {right}, by what it is computed from", target)
        if self.accept("@"):
            made.site = self.site()

    # -- the end

    def returned(self) -> dict[str, Family]:
        self.word("return")
        found: dict[str, Family] = {}
        while self.token.kind != "end":
            at = self.token
            name = self.name()
            if name in found:
                self.fail(f"the output {at.text} is defined twice", at)
            self.mark("=")
            token = self.token
            if token.kind == "float" or token.text == "zeros":
                found[name] = self.operand()
            else:
                found[name] = self.find(token)
                self.step()
            if found[name].timed:
                self.mark("[")
                self.mark(":")
                self.mark("]")
            if is_summed(found[name]):
                self.fail(f"{token.text} is a term of a sum, which is not kept", token)
            if self.token.kind != "end":
                self.mark(",")
        return found

    def finished(self, outputs: dict[str, Family]) -> Program:
        members = [f for s in self.statements for f in (s.body if isinstance(s, Loop) else (s,))]
        every = [*self.inputs, *(f for f in self.known.values() if f.spec.kind is Kind.LEAF), *self.bind, *members]
        every = list(dict.fromkeys(every))
        read = {f for family in every for f in family.reads()} | set(outputs.values())
        free = 1 + max((f.index for f in every), default=0)
        for number, family in enumerate(f for f in every if f.index < 0):
            family.index = free + number
        for family in self.bind:
            if not all(is_parameter(f) or f.op in ("const", "zeros") or f in self.bind for f in family.inputs):
                raise ParseError(f"{family!r} is not known when parameters are bound: it reads another value")
        statements = [self.with_line(s, every, outputs) if isinstance(s, Loop) else s for s in self.statements]
        return Program(
            self.dtype,
            tuple(f for f in self.inputs if f in read),
            tuple(self.bind),
            tuple(statements),
            outputs,
            stored_values(every, self.home, outputs.values()),
        )

    def with_line(self, loop: Loop, every: list[Family], outputs: dict[str, Family]) -> Loop:
        """The loop, with its delay line if the text says that it is one."""
        number = self.home[loop.body[0]]
        at = self.bodies[number].line_of
        if at is None:
            return loop
        following = readers({family: family.reads() for family in every})
        line: DelayLine | None = delay_line(set(loop.body), following, set(outputs.values()))
        held = at if isinstance(at, Family) else self.find(at)
        if line is None or line.source is not held:
            raise ParseError(f"a loop is said to be a delay line of {held!r}, and is not")
        return Loop(loop.direction, loop.body, line)
