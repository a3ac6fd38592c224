"""A small typed builder of LLVM assembly text.

Text is quick to make, LLVM's own parser reads it, and a person can read it too.
Values are (type, name) pairs. Every method returns a fresh one. Loops and branches are context managers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import NamedTuple

import numpy as np


class Val(NamedTuple):
    """An SSA value or a constant."""

    type: str
    name: str

    def __str__(self) -> str:
        return f"{self.type} {self.name}"


@cache
def i64(value: int) -> Val:
    """An integer constant."""
    return Val("i64", str(value))


def null() -> Val:
    """The null pointer."""
    return Val("ptr", "null")


def vector(lanes: int, scalar: str) -> str:
    """The type of a vector, or of a scalar for one lane."""
    return f"<{lanes} x {scalar}>"


@cache
def lanes_of(type_: str) -> int:
    """The number of lanes of a vector type; 1 for a scalar."""
    return int(type_[1:].split(" ")[0]) if type_.startswith("<") else 1


@cache
def scalar_of(type_: str) -> str:
    """The element type of a vector type. A scalar type is returned as it is."""
    return type_[1:-1].split(" x ")[1] if type_.startswith("<") else type_


def like(type_: str, scalar: str) -> str:
    """The type with as many lanes and other elements."""
    return vector(lanes_of(type_), scalar) if type_.startswith("<") else scalar


def literal(value: float, scalar: str) -> str:
    """A float constant in LLVM's hexadecimal form, rounded to the element type."""
    rounded = float(np.float32(value)) if scalar == "float" else float(value)
    return f"0x{struct.unpack('<Q', struct.pack('<d', rounded))[0]:016X}"


_SUFFIX = {"float": "f32", "double": "f64", "i32": "i32", "i64": "i64", "ptr": "p0"}


@cache
def mangle(type_: str) -> str:
    """The suffix of an overloaded intrinsic, such as v8f32."""
    return (f"v{lanes_of(type_)}" if type_.startswith("<") else "") + _SUFFIX[scalar_of(type_)]


COLD = "nounwind noinline optnone"
"""Attributes of functions that run rarely. LLVM compiles them several times faster."""


@dataclass
class LoopState:
    """A loop under construction."""

    index: Val
    values: list[Val]
    _next: list[Val] | None = None

    def next(self, values: Sequence[Val]) -> None:
        """Sets the carried values of the next iteration. After the loop, `values` are those of the last iteration."""
        self._next = list(values)


@dataclass
class Function:
    """One function definition under construction."""

    name: str
    parameters: Sequence[Val]
    result: str = "void"
    attributes: str = "nounwind"
    noalias: frozenset[str] = frozenset()
    lines: list[str] = field(default_factory=list)
    allocas: list[str] = field(default_factory=list)
    declarations: set[str] = field(default_factory=set)
    called: set[str] = field(default_factory=set)
    _count: int = 0
    _block: str = "entry"
    _part: str = ""

    def text(self) -> str:
        """The definition as text."""
        shown = ", ".join(f"{p.type}{' noalias' if p.name in self.noalias else ''} {p.name}" for p in self.parameters)
        body = "\n".join(["entry:", *self.allocas, *self.lines])
        return f"define {self.result} @{self.name}({shown}) {self.attributes} {{\n{body}\n}}\n"

    def declaration(self) -> str:
        """The line by which other modules declare the function."""
        return f"declare {self.result} @{self.name}({', '.join(p.type for p in self.parameters)})"

    @property
    def alone(self) -> bool:
        """True if the function calls nothing but LLVM's intrinsics, so that it can be compiled without its module."""
        return not self.called and all("@llvm." in line for line in self.declarations)

    def line(self, text: str) -> None:
        """Appends an instruction without a result."""
        self.lines.append("  " + text)

    def value(self, type_: str, text: str) -> Val:
        """Appends an instruction, and returns its result."""
        self._count += 1
        name = f"%v{self._count}"
        self.lines.append(f"  {name} = {text}")
        return tuple.__new__(Val, (type_, name))  # as Val(type_, name), in half the time

    def comment(self, text: str) -> None:
        """Appends a comment for the reader of a dump."""
        self.lines.append(f"  ; {text}")

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Code whose labels begin with a name, by which a listing finds it (`rnnc.backends.llvm.listing`)."""
        before, self._part = self._part, f"{name}."
        yield
        self._part = before

    def _label(self, hint: str) -> str:
        self._count += 1
        return f"{self._part}{hint}{self._count}"

    def _begin(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self._block = label

    def binary(self, op: str, a: Val, b: Val) -> Val:
        """Any two-operand instruction on operands of one type."""
        return self.value(a.type, f"{op} {a.type} {a.name}, {b.name}")

    def add(self, a: Val, b: Val | int) -> Val:
        """Integer a + b; constants fold."""
        b = i64(b) if isinstance(b, int) else b
        if b.name == "0":
            return a
        if a.name == "0":
            return b
        return self.binary("add", a, b)

    def sub(self, a: Val, b: Val | int) -> Val:
        """Integer a - b."""
        b = i64(b) if isinstance(b, int) else b
        return a if b.name == "0" else self.binary("sub", a, b)

    def mul(self, a: Val, b: Val | int) -> Val:
        """Integer a * b; constants fold."""
        b = i64(b) if isinstance(b, int) else b
        if "0" in (a.name, b.name):
            return i64(0)
        if b.name == "1":
            return a
        if a.name == "1":
            return b
        return self.binary("mul", a, b)

    def udiv(self, a: Val, b: Val | int) -> Val:
        """Unsigned a / b, rounded down."""
        return self.binary("udiv", a, i64(b) if isinstance(b, int) else b)

    def minimum(self, a: Val, b: Val) -> Val:
        """Unsigned minimum."""
        return self.call("i64", "llvm.umin.i64", a, b)

    def maximum(self, a: Val, b: Val) -> Val:
        """Unsigned maximum."""
        return self.call("i64", "llvm.umax.i64", a, b)

    def compare(self, predicate: str, a: Val, b: Val | int) -> Val:
        """Integer or pointer comparison: eq, ne, ult, ule, ..."""
        b = i64(b) if isinstance(b, int) else b
        return self.value("i1", f"icmp {predicate} {a}, {b.name}")

    def is_null(self, pointer: Val) -> Val:
        """The i1 that is 1 if a pointer is null."""
        return self.value("i1", f"icmp eq {pointer}, null")

    def select(self, condition: Val, a: Val, b: Val) -> Val:
        """a where a condition holds, b elsewhere; lane by lane for a vector of conditions."""
        return self.value(a.type, f"select {condition}, {a}, {b}")

    def fma(self, a: Val, b: Val, c: Val) -> Val:
        """a * b + c: one fused instruction if the target has it, otherwise two instructions."""
        return self.call(a.type, f"llvm.fmuladd.{mangle(a.type)}", a, b, c)

    def constant(self, value: float, type_: str) -> Val:
        """A float constant of a scalar type, or of a vector type with the same number in every lane."""
        scalar = scalar_of(type_)
        text = literal(value, scalar)
        return Val(type_, f"splat ({scalar} {text})" if type_.startswith("<") else text)

    def integer(self, value: int, type_: str) -> Val:
        """An integer constant of a scalar type, or of a vector type with the same number in every lane."""
        return Val(type_, f"splat ({scalar_of(type_)} {value})" if type_.startswith("<") else str(value))

    def splat(self, scalar: Val, lanes: int) -> Val:
        """A vector with a scalar in every lane."""
        type_ = vector(lanes, scalar.type)
        one = self.value(type_, f"insertelement {type_} poison, {scalar}, i64 0")
        return self.value(type_, f"shufflevector {one}, {type_} poison, <{lanes} x i32> zeroinitializer")

    def call(self, result: str, function: str, *arguments: Val) -> Val:
        """Calls a function of another module, which is declared on first use."""
        types = ", ".join([a.type for a in arguments])
        self.declarations.add(f"declare {result} @{function}({types})")
        return self._call(result, function, arguments)

    def call_defined(self, result: str, function: str, *arguments: Val) -> Val:
        """Calls a function that this module defines."""
        self.called.add(function)
        return self._call(result, function, arguments)

    def _call(self, result: str, function: str, arguments: Iterable[Val]) -> Val:
        text = f"call {result} @{function}({', '.join([f'{a.type} {a.name}' for a in arguments])})"
        if result == "void":
            self.line(text)
            return Val("void", "")
        return self.value(result, text)

    def element(self, pointer: Val, index: Val | int, type_: str) -> Val:
        """The address of pointer[index] for elements of a type. For index 0 it is the pointer itself."""
        index = i64(index) if isinstance(index, int) else index
        if index.name == "0":
            return pointer
        return self.value(
            "ptr", f"getelementptr inbounds {type_}, {pointer.type} {pointer.name}, {index.type} {index.name}"
        )

    def load(self, type_: str, pointer: Val, align: int) -> Val:
        """Reads a scalar or vector."""
        return self.value(type_, f"load {type_}, {pointer.type} {pointer.name}, align {align}")

    def store(self, value: Val, pointer: Val, align: int) -> None:
        """Writes a scalar or vector."""
        self.line(f"store {value}, {pointer}, align {align}")

    def prefetch(self, pointer: Val, index: Val, type_: str, *, write: bool = False) -> None:
        """Prefetches the cache line of pointer[index], for a read or a write. The address need not be valid."""
        address = self.value("ptr", f"getelementptr {type_}, {pointer}, {index}")
        hints = (Val("i32", str(int(write))), Val("i32", "3"), Val("i32", "1"))  # read, keep in all levels, data
        self.call("void", "llvm.prefetch.p0", address, *hints)

    def lanes_below(self, count: Val, lanes: int) -> Val:
        """The mask of the first `count` lanes, for a count that is known at run time only."""
        limit = self.splat(self.value("i32", f"trunc {count} to i32"), lanes)
        numbers = ", ".join(f"i32 {lane}" for lane in range(lanes))
        return self.value(f"<{lanes} x i1>", f"icmp ugt {limit}, <{numbers}>")

    def load_lanes(self, type_: str, pointer: Val, count: int, align: int) -> Val:
        """Reads the first `count` lanes. The other lanes are zero, and their memory is not touched."""
        if count >= lanes_of(type_):
            return self.load(type_, pointer, align)
        return self.load_masked(type_, pointer, lane_mask(lanes_of(type_), count), align)

    def load_masked(self, type_: str, pointer: Val, mask: Val, align: int) -> Val:
        """Reads the lanes that a mask selects. The other lanes are zero."""
        function = f"llvm.masked.load.{mangle(type_)}.p0"
        zero = Val(type_, "zeroinitializer")
        return self.call(type_, function, pointer, Val("i32", str(align)), mask, zero)

    def store_lanes(self, value: Val, pointer: Val, count: int, align: int) -> None:
        """Writes the first `count` lanes only."""
        if count >= lanes_of(value.type):
            self.store(value, pointer, align)
            return
        mask = lane_mask(lanes_of(value.type), count)
        function = f"llvm.masked.store.{mangle(value.type)}.p0"
        self.call("void", function, value, pointer, Val("i32", str(align)), mask)

    def alloca(self, type_: str, count: int, align: int) -> Val:
        """Stack memory. The instruction is put in the entry block, so that a loop does not grow the stack."""
        self._count += 1
        name = f"%v{self._count}"
        self.allocas.append(f"  {name} = alloca {type_}, i64 {count}, align {align}")
        return Val("ptr", name)

    def ret(self, value: Val | None = None) -> None:
        """Returns."""
        self.line(f"ret {value}" if value else "ret void")

    def leave(self, condition: Val, value: Val) -> None:
        """Returns a value from here if the condition holds."""
        yes, on = self._label("leave"), self._label("on")
        self.line(f"br {condition}, label %{yes}, label %{on}")
        self._begin(yes)
        self.ret(value)
        self._begin(on)

    @contextmanager
    def loop(
        self, start: Val | int, stop: Val, step: Val | int = 1, carried: Sequence[Val] = ()
    ) -> Iterator[LoopState]:
        """for index in range(start, stop, step), unsigned, with values carried from iteration to iteration.

        If there is no iteration, the carried values keep their initial values.
        """
        start, step = (i64(v) if isinstance(v, int) else v for v in (start, step))
        head, body, done = self._label("head"), self._label("body"), self._label("done")
        before = self._block
        self.line(f"br label %{head}")
        self._begin(head)
        place = len(self.lines)
        state = LoopState(self._fresh("i64"), [self._fresh(v.type) for v in carried])
        inside = self.compare("ult", state.index, stop)
        self.line(f"br {inside}, label %{body}, label %{done}")
        self._begin(body)
        yield state
        after = self.add(state.index, step)
        if carried and state._next is None:
            raise AssertionError("a loop with carried values must set the next ones")
        latch = self._block
        self.line(f"br label %{head}")
        phis = [_phi(state.index, (start, before), (after, latch))]
        for value, first, following in zip(state.values, carried, state._next or (), strict=True):
            phis.append(_phi(value, (first, before), (following, latch)))
        self.lines[place:place] = phis
        self._begin(done)

    def until(self, done: Callable[[], Val], pause: Callable[[Val], object]) -> None:
        """Polls until `done` is true. pause: emits the code between polls, given the number of the poll, 1, 2, ..."""
        head, body, out = self._label("ask"), self._label("wait"), self._label("go")
        turns = self.alloca("i64", 1, 8)
        self.store(i64(0), turns, 8)
        self.line(f"br label %{head}")
        self._begin(head)
        self.line(f"br {done()}, label %{out}, label %{body}")
        self._begin(body)
        turn = self.add(self.load("i64", turns, 8), 1)
        self.store(turn, turns, 8)
        pause(turn)
        self.line(f"br label %{head}")
        self._begin(out)

    @contextmanager
    def when(self, condition: Val) -> Iterator[None]:
        """A block that runs if the condition holds."""
        yes, done = self._label("then"), self._label("done")
        self.line(f"br {condition}, label %{yes}, label %{done}")
        self._begin(yes)
        yield
        self.line(f"br label %{done}")
        self._begin(done)

    @contextmanager
    def switch(self, value: Val, cases: Sequence[int]) -> Iterator[Iterator[int]]:
        """Yields each case in turn; the code emitted meanwhile is its block. Other values are undefined behaviour."""
        labels = {case: self._label(f"case{case}_") for case in cases}
        dead, done = self._label("unreachable"), self._label("done")
        targets = " ".join(f"i64 {case}, label %{label}" for case, label in labels.items())
        self.line(f"switch {value}, label %{dead} [ {targets} ]")
        self._begin(dead)
        self.line("unreachable")

        def blocks() -> Iterator[int]:
            for case, label in labels.items():
                self._begin(label)
                yield case
                self.line(f"br label %{done}")

        yield blocks()
        self._begin(done)

    def _fresh(self, type_: str) -> Val:
        self._count += 1
        return Val(type_, f"%v{self._count}")


def define(prototype: str, attributes: str = "nounwind") -> Function:
    """A new function with an empty body, declared as in C: `define("i64 rnnc_first_row(ptr rows, i64 batch)")`."""
    head, _, inside = prototype.partition("(")
    result, name = head.split()
    parameters = [part.split() for part in inside.rstrip(")").split(",")]
    return Function(name, [Val(type_, f"%{given}") for type_, given in parameters], result, attributes)


def _phi(target: Val, *arms: tuple[Val, str]) -> str:
    shown = ", ".join(f"[ {value.name}, %{block} ]" for value, block in arms)
    return f"  {target.name} = phi {target.type} {shown}"


def lane_mask(lanes: int, count: int) -> Val:
    """The mask of the first `count` lanes."""
    bits = ", ".join(f"i1 {'true' if i < count else 'false'}" for i in range(lanes))
    return Val(f"<{lanes} x i1>", f"<{bits}>")


@dataclass
class Module:
    """The functions of one compilation unit. Functions with equal bodies are emitted once."""

    functions: list[Function] = field(default_factory=list)
    globals: list[str] = field(default_factory=list)
    _known: dict[str, str] = field(default_factory=dict)

    def add(self, function: Function) -> str:
        """Adds a definition and returns its name. If there is an equal definition, returns the name of that one."""
        body = function.text().replace(f"@{function.name}(", "@(", 1)
        known = self._known.setdefault(body, function.name)
        if known == function.name:
            self.functions.append(function)
        return known

    def declarations(self) -> dict[str, str]:
        """Name -> declaration, for each function that is called and not defined here."""
        called = sorted(set().union(*(f.declarations for f in self.functions)))
        defined = {f.name for f in self.functions}
        named = {line.split("@")[1].split("(")[0]: line for line in called}
        return {name: line for name, line in named.items() if name not in defined}

    def text(self) -> str:
        """The module as text."""
        return "\n".join([*self.globals, *self.declarations().values(), "", *(f.text() for f in self.functions)])

    def parts(self) -> tuple[Module, list[Function]]:
        """The module without the functions that can be compiled alone, which are declared instead; and these."""
        alone = [f for f in self.functions if f.alone]
        declared = {f.declaration() for f in alone}
        rest = [replace(f, declarations=f.declarations | declared) for f in self.functions if not f.alone]
        return Module(rest, self.globals), alone
