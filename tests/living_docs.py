"""The parts of README.md and docs/*.md that the code writes, so that they cannot go stale. `pytest --update-golden`
renews them.

A part named NAME of `PARTS` stands between `<!-- NAME -->` and `<!-- /NAME -->`. An example is a ```python block
with a block of any other language right after it, which holds what the code prints; the examples of a page run one
after the other in one namespace and one new folder, as in a notebook. A ```console block that starts with `$ rnnc `
holds what the command prints; a ```toml block whose first line is `# NAME.toml` is a file it may read.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import shlex
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnnc.cli import main
from rnnc.ir import text, verify
from rnnc.ir.ops import OPS, Kind, Op
from rnnc.ir.settings import OTHERS, SETTINGS
from tests.api_reference import api_reference

_PART = re.compile(r"(<!-- ([\w-]+) -->\n).*?(<!-- /\2 -->)", re.DOTALL)
_EXAMPLE = re.compile(r"(^```python\n(.*?)^```\n\n```(?!python)\w+\n).*?(^```\n)", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"(^```console\n\$ rnnc ([^\n]*)\n).*?(^```\n)", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"^```toml\n(# ([\w-]+\.toml)\n.*?)^```\n", re.DOTALL | re.MULTILINE)


def renewed(page: str) -> str:
    """The page with its generated parts and the output of its examples as the code gives them now."""
    names: dict[str, Any] = {"__name__": "__main__"}
    page = _PART.sub(lambda found: found[1] + PARTS[found[2]]() + found[3], page)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        page = _EXAMPLE.sub(lambda found: found[1] + printed(found[2], names) + found[3], page)
        for content, name in _FILE.findall(page):
            Path(name).write_text(content, encoding="utf-8")
        return _COMMAND.sub(lambda found: found[1] + answered(found[2]) + found[3], page)


def printed(code: str, names: dict[str, Any] | None = None) -> str:
    """What a piece of Python prints. names: what earlier pieces have defined."""
    names = {"__name__": "__main__"} if names is None else names
    compiled = compile(code, "<example in docs>", "exec", dont_inherit=True)  # not with this file's __future__
    return _output(lambda: exec(compiled, names))


def answered(arguments: str) -> str:
    """What the command line prints. Raises ValueError if it fails; 1 is the answer of a comparison."""

    def run() -> None:
        if main(shlex.split(arguments)) > 1:
            raise ValueError(f"failed: rnnc {arguments}")

    return _output(run)


def _output(run: Callable[[], object]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        run()
    return re.sub(r"(?m)[ \t]+$", "", out.getvalue()).rstrip("\n") + "\n"


# -- parts --------------------------------------------------------------------------------------------


def grammar() -> str:
    """The indented part of the docstring of rnnc.ir.text."""
    return f"```ebnf\n{_indented(text)}\n```\n"


def rules() -> str:
    """The indented part of the docstring of rnnc.ir.verify."""
    return f"```text\n{_indented(verify)}\n```\n"


def _indented(module: object) -> str:
    lines = (inspect.getdoc(module) or "").splitlines()
    return "\n".join(line[4:] for line in lines if line.startswith("    "))


@dataclass(frozen=True)
class Formula:
    """`Primitives` for readers: builds the formula of an elementwise op from its scalar code."""

    def constant(self, value: float) -> str:
        return f"{value:g}"

    def add(self, a: str, b: str) -> str:
        return f"{a} + {b}"

    def sub(self, a: str, b: str) -> str:
        return f"{a} - {b}"

    def mul(self, a: str, b: str) -> str:
        return f"{a} * {b}"

    def div(self, a: str, b: str) -> str:
        return f"{a} / {b}"

    def neg(self, a: str) -> str:
        return f"-{a}"

    def absolute(self, a: str) -> str:
        return f"abs({a})"

    def sqrt(self, a: str) -> str:
        return f"sqrt({a})"

    def exp(self, a: str) -> str:
        return f"exp({a})"

    def log(self, a: str) -> str:
        return f"log({a})"

    def tanh(self, a: str) -> str:
        return f"tanh({a})"

    def sigmoid(self, a: str) -> str:
        return f"1 / (1 + exp(-{a}))"

    def sin(self, a: str) -> str:
        return f"sin({a})"

    def cos(self, a: str) -> str:
        return f"cos({a})"

    def power(self, a: str, b: str) -> str:
        return f"{a} ** {b}"

    def rint(self, a: str) -> str:
        return f"rint({a})"

    def maximum(self, a: str, b: str) -> str:
        return f"max({a}, {b})"

    def minimum(self, a: str, b: str) -> str:
        return f"min({a}, {b})"

    def greater(self, a: str, b: str) -> str:
        return f"{a} > {b}"

    def greater_equal(self, a: str, b: str) -> str:
        return f"{a} >= {b}"

    def select(self, condition: str, a: str, b: str) -> str:
        return f"{a} if {condition} else {b}"


_MEANINGS = {
    "input": "an argument of the network, time-free or one value a step",
    "const": "a number of the graph's dtype",
    "zeros": "0 in the shape of its type, at one step or at all",
    "carry": "the state of step t - delta, read at step t; at its loop's first step the operand is the initial value",
    "exit": "the state after its loop's last step: t = T-1 for delta = 1, t = 0 for delta = -1",
    "tsum": "the sum over all time steps: the operands are values of every step, the result is time-free",
    "matmul": "`a @ b`, or `a @ b.T` with transpose_b",
    "outer": "`a.T @ b`: the sum over rows of their outer products",
    "slice": "`a[start:stop]` along an axis",
    "concat": "the operands side by side along an axis",
    "expand": "each run of `inner` columns, `size` times: `(n, inner)` as `(n, size, inner)`",
    "transpose": "`a.T` of a parameter",
    "permute": "`a` of parameters, its axes in another order",
    "reshape": "`a` of parameters, its numbers in another shape",
    "iota": "0, 1, 2, ... in the place of the elements of a vector without a batch axis",
    "floor": "the largest integer <= a",
    "rint": "the nearest integer, the even one of two",
    "sign": "-1, 0 or 1; NaN of NaN",
    "log1p": "`log(1 + a)`, accurate near 0",
    "expm1": "`exp(a) - 1`, accurate near 0",
    "reduce_sum": "the sum over the last axis, kept with size 1",
    "reduce_max": "the largest of the last axis, kept with size 1",
    "group_sum": "the sum over the middle axis of the columns as `(n, size, inner)`: `(n, inner)` are left",
    "group_max": "the largest along the same axis",
    "reduce_rows": "the sum over the first axis of a matrix, kept with size 1 if `keep`",
}
"""The ops whose scalar code is no formula that a reader would want: all others are elementwise and show theirs."""

_KINDS = {
    Kind.LEAF: "leaf",
    Kind.CARRY: "crosses steps",
    Kind.ELEMENTWISE: "elementwise",
    Kind.MATMUL: "matrix product",
    Kind.VIEW: "view",
    Kind.REDUCE: "reduction",
    Kind.OUTER: "sum over rows",
    Kind.TIME_SUM: "sum over steps",
}


def op_table() -> str:
    """OPS as a Markdown table."""
    rows = ["| op | kind | operands | attributes | meaning |", "|---|---|---|---|---|"]
    for op in OPS.values():
        attributes = ", ".join(f"`{name}`" for name in op.attrs)
        rows.append(f"| `{op.name}` | {_KINDS[op.kind]} | {_operands(op)} | {attributes} | {_meaning(op)} |")
    return "\n".join(rows) + "\n"


def _operands(op: Op) -> str:
    return "a, b, ..." if op.arity is None else ", ".join("abc"[: op.arity])


def _meaning(op: Op) -> str:
    if op.name in _MEANINGS:
        return _MEANINGS[op.name]
    formula = op.emit(Formula(), *("ab" if op.arity is None else "abc"[: op.arity]))
    return f"`{formula}{' + ...' if op.arity is None else ''}`" + (", a mask" if op.boolean else "")


def settings_table() -> str:
    """SETTINGS as a Markdown table."""
    rows = ["| variable | `rnnc.settings(...)` | value | default | |", "|---|---|---|---|---|"]
    rows += [f"| `{s.variable}` | `{s.name}` | {s.kind} | {s.default} | {s.line} |" for s in SETTINGS.values()]
    return "\n".join(rows) + "\n"


def other_variables() -> str:
    """Variables of other programs as a Markdown table."""
    rows = ["| variables | |", "|---|---|", *(f"| {names} | {line} |" for names, line in OTHERS.items())]
    return "\n".join(rows) + "\n"


PARTS: dict[str, Callable[[], str]] = {
    "grammar": grammar,
    "rules": rules,
    "ops": op_table,
    "settings": settings_table,
    "other-variables": other_variables,
    "api": api_reference,
}
