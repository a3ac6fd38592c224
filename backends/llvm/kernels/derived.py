"""Values computed from parameters alone, such as the sum of two biases, by generated code before weights are packed.

    for each value: for each vector of its elements: load its operands; its equations; store

Values that are not elementwise, such as a product of two weights, are left to NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence

from rnnc.backends.llvm.asm.builder import Function, Module, Val, define, i64, vector
from rnnc.backends.llvm.asm.dtypes import ELEMENT_BYTES, SCALARS
from rnnc.backends.llvm.asm.target import Target
from rnnc.backends.llvm.asm.vectormath import VectorMath
from rnnc.backends.llvm.kernels.derivable import elements, leaves
from rnnc.ir.deep import Calls, run
from rnnc.ir.families import Family

NAME = "rnnc_derive"


def emit_derived(values: Sequence[Family], dtype: str, target: Target) -> Module:
    """A module of its own for `add_derived`."""
    module = Module()
    add_derived(module, values, dtype, target)
    return module


def add_derived(module: Module, values: Sequence[Family], dtype: str, target: Target) -> None:
    """Adds `i32 rnnc_derive(ptr given)`. given: the addresses of all `leaves`, then those of the values.

    Values with the same equations, such as the sums of two biases in all layers, share a function.
    """
    f = define(f"i32 {NAME}(ptr given)")
    inputs = leaves(values)
    pointers = [f.load("ptr", f.element(f.parameters[0], n, "ptr"), 8) for n in range(len(inputs) + len(values))]
    given = dict(zip(inputs, pointers, strict=False))
    for number, (value, result) in enumerate(zip(values, pointers[len(inputs) :], strict=True)):
        own = leaves([value])
        name = module.add(_value(f"derive{number}", value, own, dtype, target))
        f.call_defined("void", name, *(given[leaf] for leaf in own), result, i64(elements(value)))
    f.ret(Val("i32", "0"))
    module.add(f)


def _value(name: str, value: Family, inputs: Sequence[Family], dtype: str, target: Target) -> Function:
    """The function of a value: the addresses of its inputs and of the value, and the number of its elements."""
    parameters = [*(f"ptr input{n}" for n in range(len(inputs))), "ptr result", "i64 count"]
    f = define(f"void {name}({', '.join(parameters)})")
    *given, result, count = f.parameters
    lanes = target.lanes(dtype)
    whole = f.binary("and", count, i64(-lanes))
    for width, start, stop in ((lanes, i64(0), whole), (1, whole, count)):
        with f.loop(start, stop, width) as loop:
            made = _Elements(f, dtype, width, dict(zip(inputs, given, strict=True))).kept(value, loop.index)
            f.store(made, f.element(result, loop.index, SCALARS[dtype]), ELEMENT_BYTES[dtype])
    f.ret()
    return f


class _Elements:
    """Some elements side by side."""

    def __init__(self, f: Function, dtype: str, lanes: int, pointers: dict[Family, Val]) -> None:
        self.f, self.lanes, self.pointers = f, lanes, pointers
        self.scalar, self.size = SCALARS[dtype], ELEMENT_BYTES[dtype]
        self.math = VectorMath(f, self.scalar, lanes)
        self._made: dict[tuple[Family, Val], Val] = {}

    def kept(self, family: Family, index: Val) -> Val:
        """As `of`, but a mask is returned as 0 and 1."""
        made = self.of(family, index)
        if family.dtype != "bool":
            return made
        return self.math.select(made, self.math.constant(1.0), self.math.constant(0.0))

    def of(self, family: Family, index: Val) -> Val:
        """The elements index .. index + lanes of a value; `lanes` copies if it has a single element."""
        run(self._make(family, index))
        return self._made[family, index]

    def _make(self, family: Family, index: Val) -> Calls:
        key = family, index
        if key in self._made:
            return
        if family.op in ("const", "zeros"):
            self._made[key] = self.math.constant(family.attr("value") if family.op == "const" else 0.0)
        elif family.op == "input":
            self._made[key] = self._load(family, index)
        elif family.op == "slice":
            source, place = family.inputs[0], self.f.add(index, int(family.attr("start")))
            yield self._make(source, place)
            self._made[key] = self._made[source, place]
        else:
            for operand in family.inputs:
                yield self._make(operand, index)
            assert family.spec.emit is not None
            self._made[key] = family.spec.emit(self.math, *(self._made[operand, index] for operand in family.inputs))

    def _load(self, family: Family, index: Val) -> Val:
        f, pointer = self.f, self.pointers[family]
        if elements(family) == 1:
            return f.splat(f.load(self.scalar, pointer, self.size), self.lanes)
        return f.load(vector(self.lanes, self.scalar), f.element(pointer, index, self.scalar), self.size)
