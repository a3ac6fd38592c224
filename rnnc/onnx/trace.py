"""Reading a graph before any call: constants are folded, branches are taken, and shapes are worked out.

The result is a list of steps, each of which reads a tensor of the call. If the graph depends on the size of an axis, or
on the numbers in an input, and these are not known, NeedsNumber or NeedsValue names them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.ir.errors import OnnxError, RnncError
from rnnc.onnx.file import Body, File, Node, ValueType
from rnnc.onnx.loop_form import LoopForm
from rnnc.onnx.neutral import filled, without_work
from rnnc.onnx.ops import OPS
from rnnc.onnx.ops.table import MISFITS, Given, Left, Op, check_bytes, folded
from rnnc.onnx.order import all_reads
from rnnc.onnx.scan_form import ScanForm, results_of
from rnnc.onnx.sizes import Dims, NeedsValue, SameSize, Size, static
from rnnc.onnx.values import Filled, Known, Step, Tensor, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["Facts", "Traced", "input_shape", "needed", "traced"]


VIEWS = ("Dropout", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that as a rule take no memory of their own for what they make of a constant."""


@dataclass
class Facts:
    """What is known beyond the file. numbers: sizes of axes; values: numbers of inputs; aliases: axes of one size."""

    numbers: dict[str, int] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)

    def root(self, symbol: str) -> str:
        """The name that stands for all axes of one size."""
        while symbol in self.aliases:
            symbol = self.aliases[symbol]
        return symbol


@dataclass(frozen=True, eq=False)
class Traced:
    """The graph as far as it could be read. notes: for explain(), what became of nodes that are not among the steps."""

    inputs: Mapping[str, Tensor]
    steps: Sequence[Step]
    outputs: Mapping[str, Value]
    notes: Sequence[tuple[Node, str]]
    opset: int


def traced(file: File, outputs: Sequence[str], facts: Facts) -> Traced:
    """Raises OnnxError for a graph that is wrong, NeedsNumber or NeedsValue for one that needs more facts.

    outputs: which of the file's outputs count. Axes that turn out to have one size are added to the facts.
    """
    while True:
        try:
            return _Trace(file, facts).run(outputs)
        except SameSize as found:
            first, second = (facts.root(name) for name in found.names)
            if first == second:
                raise AssertionError(found) from None
            facts.aliases[second] = first


def input_shape(name: str, kind: ValueType, facts: Facts) -> Dims:
    """An input's sizes, each with its name: T, B, ... are found by names, also where the file says the number."""
    assert kind.shape is not None
    sizes: list[Size] = []
    for number, size in enumerate(kind.shape):
        symbol = facts.root(size if isinstance(size, str) and size else f"{name}.{number}")
        if isinstance(size, int):
            facts.numbers[symbol] = size
        sizes.append(Size.of(symbol, facts.numbers))
    return tuple(1 if static(size) == 1 else size for size in sizes)


class _Trace:
    def __init__(self, file: File, facts: Facts) -> None:
        self.file = file
        self.facts = facts
        self.steps: list[Step] = []
        self.notes: list[tuple[Node, str]] = []
        self.sources: dict[str, frozenset[str]] = {}
        self.taken: set[str] = set()
        self._bytes_read = sum(array.nbytes for array in file.body.constants.values())
        self._bytes = 0  # of constants that nodes make of others

    def run(self, outputs: Sequence[str]) -> Traced:
        body = self.file.body
        inputs = {name: self._input(name, kind) for name, kind in body.inputs.items()}
        known: dict[str, Value] = {**inputs}
        for name, array in self.facts.values.items():
            known[name] = Known(array)
        self._body(body, known)
        found = {name: known[name] for name in outputs}
        steps = needed(self.steps, found.values())
        return Traced(inputs, steps, found, self.notes, self.file.opset)

    def _input(self, name: str, kind: ValueType) -> Tensor:
        if not kind.dtype or kind.shape is None:
            raise OnnxError(f"{self.file.source}: input {name!r}: expected a tensor with a dtype and a number of axes")
        self.sources[name] = frozenset({name})
        self.taken.add(name)
        return Tensor(name, kind.dtype, input_shape(name, kind, self.facts))

    def _body(self, body: Body, known: dict[str, Value]) -> None:
        """Reads the nodes of a graph; known: values by name, to which its own are added."""
        used = {*body.outputs, *(name for node in body.nodes for name in all_reads(node))}
        for name, array in body.constants.items():
            known[name] = Known(array)
        for node in body.nodes:
            inputs = tuple(known[name] if name else None for name in node.inputs)
            try:
                made = self._node(node, inputs, known)
                _check_count(node, made, used)
            except Left as reason:
                made = self._unknown(node, inputs, known, str(reason))
            except RnncError as error:
                raise self._named(error) from None
            except MISFITS as error:
                raise OnnxError(f"{self.file.source}: {node.label}: its inputs do not fit: {error}") from None
            known |= {name: value for name, value in zip(node.outputs, made, strict=False) if name}

    def _named(self, error: RnncError) -> RnncError:
        """An error that names the file."""
        source = self.file.source
        return error if str(error).startswith(source) else type(error)(f"{source}: {error}")

    def _node(self, node: Node, inputs: tuple[Value | None, ...], known: Mapping[str, Value]) -> Sequence[Value]:
        given = Given(node, inputs, self.file.opset, self._need)
        if node.op == "If" and not node.domain:
            return self._branch(given, known)
        if node.op in ("Scan", "Loop") and not node.domain:
            return self._scan(given, known)
        if node.op == "Constant" and not node.domain:
            return [Known(_constant(given))]
        op = OPS.get((node.domain, node.op))
        if op is None:
            raise Left("rnnc does not know the operator")
        if any(isinstance(value, Tensor) and value.dims is None for value in inputs):
            raise Left("it reads what a node that is left gives, whose shape is not known")
        special = _of_shapes(given) or _of_filled(given, op)
        if special:
            self.notes.append((node, "folded: its result is known from shapes"))
            return special
        if op.meaning and all(value is None or isinstance(value, Known) for value in inputs):
            self._count_bytes(given, op)
            self.notes.append((node, "folded: its inputs are constants"))
            return self._folded(given, op.meaning(given))
        if plain := without_work(given, op):
            self.notes.append((node, "folded: its other operand changes nothing, or makes zeros"))
            return plain
        if _is_copy(given):
            self.notes.append((node, "folded: it gives what it reads"))
            return [given.value(0)]
        if op.infer is None:
            for value in given.inputs:
                if isinstance(value, Tensor):
                    self._need(value)
            raise Left("rnnc knows it for constants only")
        return self._left_to_do(given, op.infer(given))

    def _count_bytes(self, given: Given, op: Op) -> None:
        """Raises Left if the constants made so far would take too much memory: a small file can ask for any amount."""
        if op.infer is None or given.node.op in VIEWS:
            return
        self._bytes += sum(math.prod(map(int, shape)) * np.dtype(dtype).itemsize for dtype, shape in op.infer(given))
        check_bytes(self._bytes, 8 * self._bytes_read)

    def _folded(self, given: Given, function: Any) -> Sequence[Value]:
        arrays = [value.array if isinstance(value, Known) else None for value in given.inputs]
        try:
            with np.errstate(all="ignore"):
                return [Known(array) for array in folded(function, arrays)]
        except (*MISFITS, AttributeError, MemoryError) as error:
            raise OnnxError(f"{given.label}: its constants do not fit: {error}") from None

    def _left_to_do(self, given: Given, results: Sequence[tuple[str, Dims]]) -> Sequence[Value]:
        outputs = given.node.outputs
        made = [Tensor(self._unique(name), *result) for name, result in zip(outputs, results, strict=False)]
        self._add(Step(given.node, tuple(given.inputs), tuple(v if v.name else None for v in made)))
        return made

    def _unknown(
        self, node: Node, inputs: tuple[Value | None, ...], known: Mapping[str, Value], why: str
    ) -> Sequence[Value]:
        """A node that nothing but another runtime can do."""
        captured = [known[name] for name in all_reads(node)]
        shapes = self.file.shapes()
        made = []
        for name in node.outputs:
            kind = shapes.get(name, ValueType())
            dims = None if kind.shape is None else input_shape(name, kind, self.facts)
            made.append(Tensor(self._unique(name), kind.dtype, dims))
        outside = tuple(value for value in captured if isinstance(value, Tensor) and value not in inputs)
        self._add(Step(node, inputs, tuple(v if v.name else None for v in made), outside, why))
        return made

    def _add(self, step: Step) -> None:
        source = frozenset[str]().union(*(self.sources[tensor.name] for tensor in step.tensors))
        self.sources |= dict.fromkeys((tensor.name for tensor in step.made), source)
        self.steps.append(step)

    def _unique(self, name: str) -> str:
        """A name that no tensor has yet: two branches that are taken may use the same name."""
        while name and name in self.taken:
            name += "'"
        self.taken.add(name)
        return name

    def _need(self, tensor: Tensor) -> None:
        """Asks for the inputs that a tensor of integers or truth values comes from. Returns if those are numbers."""
        for name in sorted(self.sources[tensor.name]):
            kind = self.file.body.inputs[name]
            if np.dtype(kind.dtype).kind in "iub" and name not in self.facts.values:
                raise NeedsValue(name)

    def _branch(self, given: Given, known: Mapping[str, Value]) -> Sequence[Value]:
        condition = given.dims(0)
        if len(condition) != 1:
            raise OnnxError(f"{given.label}: expected one truth value, got {len(condition)}")
        taken = "then_branch" if int(condition[0]) else "else_branch"
        body = given.node.attributes.get(taken)
        if not isinstance(body, Body):
            raise OnnxError(f"{given.label}: expected a graph {taken}, found none")
        self.notes.append((given.node, f"folded: always its {taken.replace('_', ' ')}"))
        inner = dict(known)
        self._body(body, inner)
        return [inner[name] for name in body.outputs]

    def _scan(self, given: Given, known: Mapping[str, Value]) -> Sequence[Value]:
        """A Scan or a Loop whose body rnnc can compile. Raises Left for any other."""
        form = ScanForm(given) if given.node.op == "Scan" else LoopForm(given)
        bound = form.bound()
        source = frozenset[str]().union(*(self.sources[v.name] for v in given.inputs if isinstance(v, Tensor)))
        self.sources |= {value.name: source for value in bound.values() if isinstance(value, Tensor)}
        inner: dict[str, Value] = {**known, **bound}
        outer, self.steps = self.steps, []
        try:
            self._body(form.body, inner)
            values = [inner[name] for name in form.body.outputs]
            steps = tuple(needed(self.steps, values))
        finally:
            self.steps = outer
        scanned = form.scanned(steps, values)
        made = [
            Tensor(self._unique(name), *result)
            for name, result in zip(given.node.outputs, results_of(scanned), strict=False)
        ]
        outputs = tuple(v if v.name else None for v in made)
        captured = tuple(x for x in scanned.read if x not in given.inputs)
        self._add(Step(given.node, tuple(given.inputs), outputs, captured, scanned=scanned))
        return made


def _check_count(node: Node, made: Sequence[Value], used: AbstractSet[str]) -> None:
    """Raises Left if an output is used that rnnc does not compute, such as the mean that a norm may give."""
    for name in node.outputs[len(made) :]:
        if name in used:
            raise Left(f"rnnc does not compute its output {name!r}")


def _constant(given: Given) -> Array:
    attributes = given.attributes
    array = attributes.array("value")
    if array is not None:
        return array
    for name, dtype in (("value_float", "float32"), ("value_int", "int64")):
        if name in attributes:
            return np.array(given.node.attributes[name], dtype)
    for name, dtype in (("value_floats", "float32"), ("value_ints", "int64")):
        if name in attributes:
            return np.array(given.node.attributes[name], dtype)
    raise OnnxError(f"{given.label}: expected numbers, found {sorted(given.node.attributes)}")


def _is_copy(given: Given) -> bool:
    """Whether a node gives the tensor that it reads."""
    node, used = given.node, [name for name in given.node.outputs if name]
    same = node.op == "Cast" and OPS["", "Cast"].infer(given)[0][0] == given.value(0).dtype  # type: ignore[misc]
    return len(used) == 1 and (node.op in ("Identity", "Dropout") or same) and isinstance(given.value(0), Tensor)


def _of_shapes(given: Given) -> Sequence[Value]:
    """The result of a node that only looks at shapes, or that fills or spreads one number over a shape."""
    node = given.node
    if node.op == "Shape":
        shape = given.value(0).shape
        start, end = given.attributes.integer("start", 0), given.attributes.integer("end", len(shape))
        return [_sizes(shape[start:end])]
    if node.op == "Size":
        return [_sizes(tuple(given.value(0).shape), whole=True)]
    if node.op == "ConstantOfShape":
        number = given.attributes.array("value")
        return [filled(np.zeros((), "float32") if number is None else number.reshape(()), given.dims(0))]
    if node.op == "Expand":
        value = given.value(0)
        if isinstance(value, Known) and value.array.size and (value.array == value.array.ravel()[0]).all():
            return [_spread(given, value.array, given.dims(1))]
    return []


def _of_filled(given: Given, op: Op) -> Sequence[Value]:
    """The results of a node that moves equal numbers around."""
    values = [value for value in given.inputs if value is not None]
    repeated = [value for value in values if isinstance(value, Filled)]
    data = values if given.node.op == "Concat" else values[:1]
    if not op.moves or op.infer is None or given.node.op in ("Cast", "Pad") or repeated != data:
        return []
    if any(value.number != repeated[0].number for value in repeated):
        return []
    return [filled(repeated[0].number, shape) for _, shape in op.infer(given)]


def _spread(given: Given, array: Array, shape: Dims) -> Value:
    """An array of equal numbers in the shape that both broadcast to."""
    own = (1,) * (len(shape) - array.ndim) + array.shape
    wide = (1,) * (len(own) - len(shape)) + tuple(shape)
    return filled(array.ravel()[0], tuple(b if a == 1 else a for a, b in zip(own, wide, strict=True)))


def _sizes(shape: Dims, whole: bool = False) -> Known:
    found = np.empty(len(shape), object)
    found[:] = shape
    if whole:
        found = np.array(np.prod(found) if len(shape) else 1, object)
    if not any(isinstance(size, Size) for size in found.ravel()):
        return Known(found.astype(np.int64))
    return Known(found)


def needed(steps: Sequence[Step], outputs: Any) -> list[Step]:
    """The steps that an output depends on."""
    wanted = {value.name for value in outputs if isinstance(value, Tensor)}
    found = []
    for step in reversed(steps):
        if any(tensor.name in wanted for tensor in step.made):
            wanted |= {tensor.name for tensor in step.tensors}
            found.append(step)
    return found[::-1]
