"""Updates as machine code: the equations of an optimiser in one pass over flat arrays, in place.

    for each vector of elements: load p, g, slots; the equations; store p, slots

See `rnnc.backends.updates` for what an update is. At the end of a training step, members of a crew call
`rnnc_apply`: the factor of clipping from the sums of squares, then a share of the dense parameters and of the rows. If
the norm is too large, or the norm or the loss is no finite number, no member changes anything.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from rnnc.backends.llvm.emitter import Function, Module, Val, i64, vector
from rnnc.backends.llvm.gradient import emit_collect, emit_group, emit_look_up, fields, share
from rnnc.backends.llvm.jit import compile_assembly
from rnnc.backends.llvm.parts import address
from rnnc.backends.llvm.phase import ELEMENT_BYTES, SCALARS
from rnnc.backends.llvm.target import Target, host
from rnnc.backends.llvm.vectormath import VectorMath
from rnnc.backends.trainer import EPSILON, ComposedTrainer, Memory, Trainer
from rnnc.ir.errors import BackendError
from rnnc.ir.graph import Graph, Node
from rnnc.ir.ops import BATCH, Array, Kind
from rnnc.ir.passes import optimize

if TYPE_CHECKING:
    from rnnc.backends import base
    from rnnc.backends.noise import Noise

APPLY = ("member", "members", "squares", "losses", "clip", "numbers", "dense", "arrays", "tables", "rows", "count",
         "width", "updates")  # fmt: skip
"""Fields of `rnnc_apply`. squares: each member's sum, SQUARES_APART words from the next. losses: each member's loss,
LOSSES_APART elements from the next. clip: the address of the largest norm (infinity: any), and of the largest norm
after clipping that an update is made from; the result is NOT_FINITE if it is larger, or no number. numbers: those of
the update. dense: elements of the arrays that `arrays` points to. tables: pointers to the tables and to the gradients
of their rows, or null; rows: which ones, count: the address of how many, width: elements of one. updates: the
address of how many updates there have been."""

APPLY_POINTERS = ("squares", "losses", "clip", "numbers", "arrays", "tables", "rows", "count", "updates")
SQUARES_APART = 8
LOSSES_APART = 16
NOT_FINITE = 3


def compile_update(graph: Graph, target: Target | None = None) -> LlvmUpdate:
    """Compiles an update. Raises BackendError if it is not elementwise."""
    return LlvmUpdate(optimize(graph)[0], target or host())


class LlvmUpdate:
    """A compiled update."""

    def __init__(self, graph: Graph, target: Target) -> None:
        inputs = [n for n in graph.nodes if n.op == "input"]
        self.target = target
        self.vectors = tuple(n.attr("name") for n in inputs if n.shape == (BATCH,))
        self.numbers = tuple(n.attr("name") for n in inputs if n.shape != (BATCH,))
        self._dtype = np.dtype(graph.dtype)
        module = Module()
        module.add(_emit(graph, self.vectors, self.numbers, target))
        module.add(_emit_apply(graph.dtype, self.vectors, self.numbers))
        module.add(emit_look_up())
        module.add(emit_group())
        for collecting in emit_collect(graph.dtype, target):
            module.add(collecting)
        self._code = compile_assembly(module.text(), target)
        prototype = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)
        self._function = prototype(self._code.address("rnnc_update"))

    def address(self, name: str) -> int:
        """Of one of the functions that members of a crew call."""
        return self._code.address(name)

    def trainer(self, function: base.Function, noise: Noise, memory: Memory) -> Trainer:
        """See `rnnc.backends.updates.Update.trainer`."""
        from rnnc.backends.llvm.function import LlvmFunction
        from rnnc.backends.llvm.noise import LlvmNoise
        from rnnc.backends.llvm.trainer import LlvmTrainer

        assert isinstance(function, LlvmFunction) and isinstance(noise, LlvmNoise)
        if function.only_sums:
            return LlvmTrainer(function, self, noise, memory)
        return ComposedTrainer(function, self, noise, memory)

    def run(self, arrays: Mapping[str, Array], scalars: Mapping[str, float]) -> None:
        """See `rnnc.backends.updates.Update.run`."""
        numbers = np.array([scalars[name] for name in self.numbers], self._dtype)
        pointers = (ctypes.c_void_p * len(self.vectors))(*(address(arrays[name]) for name in self.vectors))
        size = arrays[self.vectors[0]].size
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


def _emit_apply(dtype: str, vectors: tuple[str, ...], numbers: tuple[str, ...]) -> Function:
    """i32 rnnc_apply(ptr to the fields of APPLY)."""
    f = Function("rnnc_apply", [Val("ptr", "%context")], result="i32")
    scalar, item = SCALARS[dtype], ELEMENT_BYTES[dtype]
    given = fields(f, f.parameters[0], APPLY, APPLY_POINTERS)
    own = f.alloca(scalar, len(numbers), 64)
    for n, _ in enumerate(numbers):
        f.store(f.load(scalar, f.element(given["numbers"], n, scalar), item), f.element(own, n, scalar), item)
    norm, factor = _factor(f, given)
    good = _usable(f, given, norm, factor, scalar, item)
    factor = factor if scalar == "double" else f.value(scalar, f"fptrunc {factor} to {scalar}")
    f.store(factor, f.element(own, numbers.index("scale"), scalar), item)
    pointers = f.alloca("ptr", len(vectors), 64)

    def update(size: Val, base: Val, starts: dict[str, Val]) -> None:
        for n, name in enumerate(vectors):
            array = f.load("ptr", f.element(base, n, "ptr"), 8)
            f.store(f.element(array, starts.get(name, starts["p"]), scalar), f.element(pointers, n, "ptr"), 8)
        f.call_defined("void", "rnnc_update", size, pointers, own)

    with f.when(good):
        start, stop = share(f, given["dense"], given["member"], given["members"])
        update(f.sub(stop, start), given["arrays"], {"p": start})
    with f.when(f.binary("and", good, f.value("i1", f"icmp ne {given['tables']}, null"))):
        first, last = share(f, f.load("i64", given["count"], 8), given["member"], given["members"], 1)
        with f.loop(first, last) as place:
            row = f.load("i64", f.element(given["rows"], place.index, "i64"), 8)
            width = given["width"]
            update(width, given["tables"], {"p": f.mul(row, width), "g": f.mul(place.index, width)})
    counts = f.binary("and", good, f.compare("eq", given["member"], 0))
    with f.when(counts):  # here, so that nothing comes between an update and its count
        f.store(f.add(f.load("i64", given["updates"], 8), 1), given["updates"], 8)
    f.ret(f.select(good, Val("i32", "0"), Val("i32", str(NOT_FINITE))))
    return f


def _usable(f: Function, given: Mapping[str, Val], norm: Val, factor: Val, scalar: str, item: int) -> Val:
    """Whether an update may be made: every member finds the same. What is no number compares as false."""
    with f.loop(0, given["members"], carried=(f.constant(0.0, "double"),)) as loop:
        place = f.element(given["losses"], f.mul(loop.index, LOSSES_APART), scalar)
        loss = f.load(scalar, place, item)
        loss = loss if scalar == "double" else f.value("double", f"fpext {loss} to double")
        loop.next([f.binary("fadd", loop.values[0], loss)])
    total = f.binary("fsub", loop.values[0], loop.values[0])  # no number, if the loss is none or infinite
    most = f.load("double", f.element(given["clip"], 1, "double"), 8)
    finite = f.value("i1", f"fcmp oeq {total}, 0.0")
    return f.binary("and", finite, f.value("i1", f"fcmp ole {f.binary('fmul', norm, factor)}, {most.name}"))


def _factor(f: Function, given: Mapping[str, Val]) -> tuple[Val, Val]:
    """The norm of all gradients, and the factor that clips one of this norm."""
    with f.loop(0, given["members"], carried=(f.constant(0.0, "double"),)) as loop:
        place = f.element(given["squares"], f.mul(loop.index, SQUARES_APART), "i64")
        loop.next([f.binary("fadd", loop.values[0], f.load("double", place, 8))])
    norm = f.call("double", "llvm.sqrt.f64", loop.values[0])
    factor = f.binary("fdiv", f.load("double", given["clip"], 8), f.binary("fadd", norm, f.constant(EPSILON, "double")))
    one = f.constant(1.0, "double")
    return norm, f.select(f.value("i1", f"fcmp olt {factor}, {one.name}"), factor, one)


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
        self.splats = {name: f.splat(value, self.lanes) for name, value in numbers.items()}

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
            if name in self.splats:
                return self.splats[name]
            return self.f.load(self.type, self._pointer(name, index), self.item)
        if node.op in ("const", "zeros"):
            return self.math.constant(node.attr("value") if node.op == "const" else 0.0)
        if node.spec.kind is not Kind.ELEMENTWISE:
            raise BackendError(f"{node}: an update is elementwise, {node.op} is not")
        assert node.spec.emit is not None
        made: Val = node.spec.emit(self.math, *(values[i] for i in node.inputs))
        return made
