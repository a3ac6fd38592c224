"""Updates as machine code: the equations of an optimiser in one pass over flat arrays, in place.

    for each vector of elements: load p, g, slots; the equations; store p, slots

See `rnnc.backends.updates` for what an update is.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import numpy as np

from rnnc.backends.llvm.emitter import Function, Module, Val, i64, vector
from rnnc.backends.llvm.jit import compile_assembly
from rnnc.backends.llvm.parts import address
from rnnc.backends.llvm.phase import ELEMENT_BYTES, SCALARS
from rnnc.backends.llvm.target import Target, host
from rnnc.backends.llvm.vectormath import VectorMath
from rnnc.ir.errors import BackendError
from rnnc.ir.graph import Graph, Node
from rnnc.ir.ops import BATCH, Array, Kind
from rnnc.ir.passes import optimize


def compile_update(graph: Graph, target: Target | None = None) -> LlvmUpdate:
    """Compiles an update. Raises BackendError if it is not elementwise."""
    return LlvmUpdate(optimize(graph)[0], target or host())


class LlvmUpdate:
    """A compiled update."""

    def __init__(self, graph: Graph, target: Target) -> None:
        inputs = [n for n in graph.nodes if n.op == "input"]
        self._vectors = tuple(n.attr("name") for n in inputs if n.shape == (BATCH,))
        self._numbers = tuple(n.attr("name") for n in inputs if n.shape != (BATCH,))
        self._dtype = np.dtype(graph.dtype)
        module = Module()
        module.add(_emit(graph, self._vectors, self._numbers, target))
        self._code = compile_assembly(module.text(), target)
        prototype = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)
        self._function = prototype(self._code.address("rnnc_update"))

    def run(self, arrays: Mapping[str, Array], scalars: Mapping[str, float]) -> None:
        """See `rnnc.backends.updates.Update.run`."""
        numbers = np.array([scalars[name] for name in self._numbers], self._dtype)
        pointers = (ctypes.c_void_p * len(self._vectors))(*(address(arrays[name]) for name in self._vectors))
        size = arrays[self._vectors[0]].size
        self._function(size, ctypes.addressof(pointers), address(numbers))


def _emit(graph: Graph, vectors: tuple[str, ...], numbers: tuple[str, ...], target: Target) -> Function:
    """void rnnc_update(i64 size, ptr to the arrays' pointers, ptr to the numbers)."""
    f = Function("rnnc_update", [Val("i64", "%size"), Val("ptr", "%arrays"), Val("ptr", "%numbers")])
    size, arrays, given = f.parameters
    scalar, item, lanes = SCALARS[graph.dtype], ELEMENT_BYTES[graph.dtype], target.lanes(graph.dtype)
    pointers = {name: f.load("ptr", f.element(arrays, n, "ptr"), 8) for n, name in enumerate(vectors)}
    constants = {name: f.load(scalar, f.element(given, n, scalar), item) for n, name in enumerate(numbers)}
    whole = f.binary("and", size, i64(-lanes))
    for width, start, stop in ((lanes, i64(0), whole), (1, whole, size)):
        one = _Pass(f, graph, pointers, constants, vector(width, scalar), item)
        with f.loop(start, stop, width) as loop:
            one.emit(loop.index)
    f.ret()
    return f


class _Pass:
    """The equations on one vector of elements."""

    def __init__(
        self, f: Function, graph: Graph, pointers: Mapping[str, Val], numbers: Mapping[str, Val], type_: str, item: int
    ) -> None:
        self.f = f
        self.graph = graph
        self.pointers = pointers
        self.type = type_
        self.item = item
        self.lanes = int(type_.split(" ")[0][1:])
        self.math = VectorMath(f, SCALARS[graph.dtype], self.lanes)
        self.numbers = {name: f.splat(value, self.lanes) for name, value in numbers.items()}

    def emit(self, index: Val) -> None:
        """Elements from `index` on: all is loaded before anything is stored."""
        values: dict[Node, Val] = {}
        for node in self.graph.nodes:
            values[node] = self._value(node, values, index)
        for name, output in self.graph.outputs.items():
            assert isinstance(output, Node)
            self.f.store(values[output], self._pointer(name, index), self.item)

    def _pointer(self, name: str, index: Val) -> Val:
        return self.f.element(self.pointers[name], index, SCALARS[self.graph.dtype])

    def _value(self, node: Node, values: Mapping[Node, Val], index: Val) -> Val:
        if node.op == "input":
            name = node.attr("name")
            if name in self.numbers:
                return self.numbers[name]
            return self.f.load(self.type, self._pointer(name, index), self.item)
        if node.op in ("const", "zeros"):
            return self.math.constant(node.attr("value") if node.op == "const" else 0.0)
        if node.spec.kind is not Kind.ELEMENTWISE:
            raise BackendError(f"{node}: an update is elementwise, {node.op} is not")
        assert node.spec.emit is not None
        made: Val = node.spec.emit(self.math, *(values[i] for i in node.inputs))
        return made
