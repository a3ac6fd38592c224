"""Subject: cells whose states and parameters have nasty names. A name must not decide anything: the results are those
of the same cell with plain names, or the cell is refused when its spec is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import numpy as np

import rnnc
from rnnc.ir.equations import Value, linear, sigmoid, tanh
from rnnc.ir.errors import RnncError
from tests.fuzz.agreement import MODES, Data, check_agreement, draw_data, draw_modes
from tests.fuzz.faults import Fault, Tally, acceptance, foreign
from tests.fuzz.source import Source

__all__ = ["Case", "Data", "NamedCell"]

ROOTS = ("h", "d", "t", "x", "c", "s", "output", "valid", "loss", "state", "p", "e", "i", "w", "n", "o", "a")
FRONTS = ("", "d_", "t_", "d_d_", "t_d_", "d_t_", "_", "__", "initial", "final")
BACKS = ("", "_0", "_n", "_l0", "_l0_reverse", "_0_l0", "_n_l0", "_reverse", "0", "_", "__", "_t")
ODD = (
    "class", "lambda", "None", "True", "self", "__class__", "__dict__", "__init__", "__getattr__", "__eq__", "target",
    "classes", "scale", "lengths", "rows", "order", "weights", "scratch", "steps", "batch", "slab", "const", "zeros",
    "carry", "matmul", "input", "d_output", "d_x", "t_x", "d_h_n", "t_d_x", "d_d_h", "h_0", "h_n", "weight_ih_l0",
    "ħ", "µ", "μ", "Å", "变量", "ﬁ", "fi", "x" * 300, "v1", "f0", "_1", "l0", "T", "B", "step", "float", "nan", "inf",
    "bias", "name", "gates", "f32", "true", "void", "define", "llvm",
)  # fmt: skip


@dataclass(frozen=True)
class NamedCell(rnnc.Cell):
    """A gated cell of one or two states; all names are given."""

    name: ClassVar[str] = "named"

    states_: tuple[str, ...] = ("h",)
    parameters_: tuple[str, ...] = ("u", "v", "b")

    def states(self, hidden_size: int) -> dict[str, int]:
        return {name: hidden_size + n for n, name in enumerate(self.states_)}

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        width = hidden_size + len(self.states_) - 1
        u, v, b = self.parameters_
        return {u: (hidden_size, input_size), v: (hidden_size, width), b: (width,)}

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        u, v, b = (getattr(p, name) for name in self.parameters_)
        old = [getattr(state, name) for name in self.states_]
        h = tanh(linear(x, u) + linear(old[-1] * sigmoid(b), v)) * sigmoid(old[0])
        if len(old) == 1:
            return h, {self.states_[0]: h}
        return h, {self.states_[0]: h, self.states_[1]: 0.5 * old[1] + b}


@dataclass(frozen=True)
class Case:
    """A cell, and a call of it."""

    cell: NamedCell
    num_layers: int
    bidirectional: bool
    data: Data
    modes: tuple[str, ...] = MODES


def draw(source: Source) -> Case:
    count = source.pick((1, 2))
    states = tuple(_name(source) for _ in range(count))
    parameters = tuple(_name(source) if source.chance(50) else plain for plain in ("u", "v", "b"))
    cell = NamedCell(states, parameters)
    layers, both = 2 if source.chance(20) else 1, source.chance(20)
    return Case(cell, layers, both, draw_data(source), draw_modes(source))


def _name(source: Source) -> str:
    if source.chance(25):
        return source.pick(ODD)
    return source.pick(FRONTS) + source.pick(ROOTS) + source.pick(BACKS)


def check(case: Case, tally: Tally) -> None:
    tally["calls"] += 1
    options = {"num_layers": case.num_layers, "bidirectional": case.bidirectional, "dtype": "float64"}
    try:
        spec = rnnc.Recurrent(case.cell, 3, 4, **options)
    except RnncError as error:
        tally[type(error).__name__] += 1
        if _harmless(case.cell):
            raise Fault("refused", "spec", f"{type(error).__name__}: {error}") from error
        return
    except Exception as error:
        raise foreign("spec", error) from error
    states, parameters = case.cell.states_, case.cell.parameters_
    if len({*states}) < len(states) or len({*parameters}) < len(parameters):
        raise Fault("accepted", "spec", f"two states or two parameters of one name: {states}, {parameters}")
    plain = rnnc.Recurrent(NamedCell(("first", "second")[: len(states)]), 3, 4, **options)
    params = spec.init(0)
    if len(params) != len(plain.parameter_shapes()):
        raise Fault("wrong", "parameters", f"{list(params)}: two parameters of one name")
    check_agreement(spec, (case.data,), tally, case.modes, oracle=plain)
    _check_texts(spec, tally)


def _check_texts(spec: rnnc.Spec, tally: Tally) -> None:
    with acceptance("texts", tally), np.errstate(all="ignore"):
        program = rnnc.compile(spec, backend="reference")
        for stage in program.stages:
            program.ir(stage)


def _harmless(cell: NamedCell) -> bool:
    """Names that no cell may be refused for: one letter each, all different."""
    names = (*cell.states_, *cell.parameters_)
    return all(len(name) == 1 and name.isalpha() and name.isascii() for name in names) and len({*names}) == len(names)
