"""CUDA C as text: indented lines, and the primitives of the op table as C expressions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

REALS = {"float32": "float", "float64": "double"}
BYTES = {"float32": 4, "float64": 8}


class Text:
    """Lines of C, indented by blocks."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._depth = 0
        self._names = 0

    def line(self, code: str = "") -> None:
        """Adds one line or several, with the current indentation; a preprocessor line has none."""
        for part in code.split("\n"):
            indent = "" if part.startswith("#") and not part.startswith("#pragma") else "  " * self._depth
            self._lines.append((indent + part).rstrip())

    @contextmanager
    def block(self, head: str = "") -> Iterator[None]:
        """A context whose lines are those of the block `head { ... }`."""
        self.line(f"{head} {{".strip())
        self._depth += 1
        yield
        self._depth -= 1
        self.line("}")

    def name(self, prefix: str) -> str:
        """A new name in this text."""
        self._names += 1
        return f"{prefix}{self._names}"

    def __str__(self) -> str:
        return "\n".join(self._lines) + "\n"


class Scalars:
    """See `rnnc.ir.ops.Primitives`. Values are C expressions. Each result is a new constant, so the text is in SSA."""

    def __init__(self, text: Text, real: str) -> None:
        self._text = text
        self.real = real
        self._f = "f" if real == "float" else ""

    def constant(self, value: float) -> str:
        if math.isinf(value):
            return f"({self.real})({'-' if value < 0 else ''}RNNC_INFINITY)"
        if math.isnan(value):
            return f"({self.real})(RNNC_INFINITY - RNNC_INFINITY)"
        return f"{value!r}{self._f}" if value >= 0 else f"({value!r}{self._f})"

    def add(self, a: str, b: str) -> str:
        return self.let(f"{a} + {b}")

    def sub(self, a: str, b: str) -> str:
        return self.let(f"{a} - {b}")

    def mul(self, a: str, b: str) -> str:
        return self.let(f"{a} * {b}")

    def div(self, a: str, b: str) -> str:
        return self.let(f"{a} / {b}")

    def neg(self, a: str) -> str:
        return self.let(f"-{a}")

    def absolute(self, a: str) -> str:
        return self._call("fabs", a)

    def sqrt(self, a: str) -> str:
        return self._call("sqrt", a)

    def exp(self, a: str) -> str:
        return self._call("exp", a)

    def log(self, a: str) -> str:
        return self._call("log", a)

    def tanh(self, a: str) -> str:
        return self._call("tanh", a)

    def sin(self, a: str) -> str:
        return self._call("sin", a)

    def cos(self, a: str) -> str:
        return self._call("cos", a)

    def power(self, a: str, b: str) -> str:
        return self._call("pow", a, b)

    def rint(self, a: str) -> str:
        return self._call("rint", a)

    def sigmoid(self, a: str) -> str:
        return self.let(f"rnnc_sigmoid({a})")

    def maximum(self, a: str, b: str) -> str:
        return self.let(f"rnnc_maximum({a}, {b})")

    def minimum(self, a: str, b: str) -> str:
        return self.let(f"rnnc_minimum({a}, {b})")

    def greater(self, a: str, b: str) -> str:
        return self.let(f"{a} > {b}", "bool")

    def greater_equal(self, a: str, b: str) -> str:
        return self.let(f"{a} >= {b}", "bool")

    def select(self, condition: str, a: str, b: str) -> str:
        return self.let(f"{condition} ? {a} : {b}")

    def let(self, expression: str, type_: str | None = None) -> str:
        """The name of a new constant with this value."""
        name = self._text.name("v")
        self._text.line(f"const {type_ or self.real} {name} = {expression};")
        return name

    def _call(self, function: str, *operands: str) -> str:
        return self.let(f"{function}{self._f}({', '.join(operands)})")
