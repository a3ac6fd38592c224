"""Updates as machine code: the equations of an optimiser in one pass over flat arrays, in place.

    for each vector of elements: load p, g, slots; the equations; store p, slots

`rnnc.optimizers.update_graph` defines an update. At the end of a training step, each thread calls `rnnc_apply` and, for
each table, `rnnc_apply_rows`: they compute the factor that clips from the sums of squares, then update a share of the
dense parameters, or of the rows. If the norm is too large, or if the norm or a loss is not finite, no member changes
anything.
"""

from __future__ import annotations

from collections.abc import Mapping

from rnnc.backends.llvm.asm.builder import Function, Module, Val, define, i64, vector
from rnnc.backends.llvm.asm.dtypes import ELEMENT_BYTES, SCALARS
from rnnc.backends.llvm.asm.records import Record
from rnnc.backends.llvm.asm.target import Target
from rnnc.backends.llvm.asm.vectormath import VectorMath
from rnnc.backends.llvm.kernels.gradients import share
from rnnc.backends.training.protocol import EPSILON
from rnnc.ir.errors import BackendError
from rnnc.ir.graph import Graph, Node
from rnnc.ir.names import CLIPPING, SLOPE, UPDATED
from rnnc.ir.ops import Kind
from rnnc.ir.shape_rules import BATCH

_SUMS = "i64 member, i64 members, ptr squares, ptr losses, i64 many, i64 apart, ptr clip, ptr numbers, ptr arrays"
APPLY = Record("apply", f"{_SUMS}, i64 dense, ptr updates")
APPLY_ROWS = Record("apply_rows", f"{_SUMS}, ptr rows, ptr count, i64 width")
"""squares: one sum per member, SQUARES_APART doubles apart. losses: `many` losses per member, each member's `apart`
elements apart. clip: two numbers, the largest norm (infinity if there is none), and the largest norm after clipping
from which an update is made; the result is NOT_FINITE if the norm is larger or NaN. numbers: the scalars of the update.
arrays: pointers to the arrays, of `dense` elements; or to the tables and to the gradients of their rows. updates: the
address of the number of updates made. rows: the numbers of the rows. count: the address of their number. width:
elements per row."""

SQUARES_APART = 8
LOSSES_APART = 16
"""Losses in a cache line: members write to different lines."""
NOT_FINITE = 3


def emit_update(graph: Graph, target: Target) -> tuple[Module, tuple[str, ...], tuple[str, ...]]:
    """The module of an update, and the names of its arrays and of its scalars, in order.

    graph: the optimised graph of the update. Raises BackendError if it is not elementwise.
    """
    inputs = [n for n in graph.nodes if n.op == "input"]
    vectors = tuple(n.attr("name") for n in inputs if n.shape == (BATCH,))
    numbers = tuple(n.attr("name") for n in inputs if n.shape != (BATCH,))
    module = Module()
    module.add(_emit(graph, vectors, numbers, target))
    module.add(_emit_apply(graph.dtype, vectors, numbers))
    module.add(_emit_apply_rows(graph.dtype, vectors, numbers))
    return module, vectors, numbers


def _emit(graph: Graph, vectors: tuple[str, ...], numbers: tuple[str, ...], target: Target) -> Function:
    """The function of all equations. arrays: pointers to `size` elements each. numbers: the scalars, in order."""
    f = define("void rnnc_update(i64 size, ptr arrays, ptr numbers)")
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
    """The function of a member's share of the update of dense parameters (APPLY)."""
    f = define("i32 rnnc_apply(ptr given)")
    given = APPLY.loads(f, f.parameters[0])
    update = _Update(f, dtype, given, vectors, numbers)
    with f.when(update.good):
        start, stop = share(f, given["dense"], given["member"], given["members"])
        update.call(f.sub(stop, start), {UPDATED: start})
    counts = f.binary("and", update.good, f.compare("eq", given["member"], 0))
    with f.when(counts):  # counted in machine code, so that nothing can come between an update and its count
        f.store(f.add(f.load("i64", given["updates"], 8), 1), given["updates"], 8)
    f.ret(f.select(update.good, Val("i32", "0"), Val("i32", str(NOT_FINITE))))
    return f


def _emit_apply_rows(dtype: str, vectors: tuple[str, ...], numbers: tuple[str, ...]) -> Function:
    """The function of a member's share of the update of a table's rows (APPLY_ROWS)."""
    f = define("i32 rnnc_apply_rows(ptr given)")
    given = APPLY_ROWS.loads(f, f.parameters[0])
    update = _Update(f, dtype, given, vectors, numbers)
    with f.when(update.good):
        first, last = share(f, f.load("i64", given["count"], 8), given["member"], given["members"], 1)
        with f.loop(first, last) as place:
            row = f.load("i64", f.element(given["rows"], place.index, "i64"), 8)
            width = given["width"]
            update.call(width, {UPDATED: f.mul(row, width), SLOPE: f.mul(place.index, width)})
    f.ret(Val("i32", "0"))
    return f


class _Update:
    """The update, as a member calls it. good: the i1 that is 1 if it may be made, the same for every member."""

    def __init__(
        self, f: Function, dtype: str, given: dict[str, Val], vectors: tuple[str, ...], numbers: tuple[str, ...]
    ) -> None:
        self.f, self.given, self.vectors, self.scalar = f, given, vectors, SCALARS[dtype]
        item, scalar = ELEMENT_BYTES[dtype], self.scalar
        self.numbers = f.alloca(scalar, len(numbers), 64)
        for n, _ in enumerate(numbers):
            number = f.load(scalar, f.element(given["numbers"], n, scalar), item)
            f.store(number, f.element(self.numbers, n, scalar), item)
        norm, factor = _factor(f, given)
        self.good = _usable(f, given, norm, factor, scalar, item)
        factor = factor if scalar == "double" else f.value(scalar, f"fptrunc {factor} to {scalar}")
        f.store(factor, f.element(self.numbers, numbers.index(CLIPPING), scalar), item)
        self.pointers = f.alloca("ptr", len(vectors), 64)

    def call(self, size: Val, starts: dict[str, Val]) -> None:
        """Updates `size` elements of each array. starts: the first one of an array, else that of UPDATED."""
        f = self.f
        for n, name in enumerate(self.vectors):
            array = f.load("ptr", f.element(self.given["arrays"], n, "ptr"), 8)
            first = f.element(array, starts.get(name, starts[UPDATED]), self.scalar)
            f.store(first, f.element(self.pointers, n, "ptr"), 8)
        f.call_defined("void", "rnnc_update", size, self.pointers, self.numbers)


def _usable(f: Function, given: Mapping[str, Val], norm: Val, factor: Val, scalar: str, item: int) -> Val:
    """The i1 that is 1 if an update may be made. Comparisons with NaN are false."""
    sum_of = f.alloca("double", 1, 8)
    f.store(f.constant(0.0, "double"), sum_of, 8)
    with f.loop(0, given["members"]) as member, f.loop(0, given["many"]) as number:
        place = f.element(given["losses"], f.add(f.mul(member.index, given["apart"]), number.index), scalar)
        loss = f.load(scalar, place, item)
        loss = loss if scalar == "double" else f.value("double", f"fpext {loss} to double")
        f.store(f.binary("fadd", f.load("double", sum_of, 8), loss), sum_of, 8)
    total = f.load("double", sum_of, 8)
    total = f.binary("fsub", total, total)  # NaN, if a loss is infinite or NaN
    most = f.load("double", f.element(given["clip"], 1, "double"), 8)
    finite = f.value("i1", f"fcmp oeq {total}, 0.0")
    return f.binary("and", finite, f.value("i1", f"fcmp ole {f.binary('fmul', norm, factor)}, {most.name}"))


def _factor(f: Function, given: Mapping[str, Val]) -> tuple[Val, Val]:
    """(the norm of all gradients, the factor that clips gradients of this norm)."""
    with f.loop(0, given["members"], carried=(f.constant(0.0, "double"),)) as loop:
        place = f.element(given["squares"], f.mul(loop.index, SQUARES_APART), "double")
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
        """Updates the elements from `index` on. All operands are loaded before anything is stored."""
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
