"""The form of a Scan: how many states it has, which axes it cuts, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from rnnc.ir.errors import OnnxError
from rnnc.onnx.file import Body
from rnnc.onnx.ops.shapes import meet
from rnnc.onnx.ops.table import Given, Left, Result, axis_in
from rnnc.onnx.sizes import Dims
from rnnc.onnx.values import Scanned, Step, Tensor, Value

__all__ = ["ScanForm", "check_body", "check_states", "results_of"]


class ScanForm:
    """What the attributes of a node say. Raises OnnxError for one that is wrong, Left for one that is not compiled."""

    def __init__(self, given: Given) -> None:
        body = given.node.attributes.get("body")
        if not isinstance(body, Body):
            raise OnnxError(f"{given.label}: body: expected a graph, found none")
        if given.opset < 9:
            raise Left("a Scan of version 8 has a batch of its own")
        self.given, self.body = given, body
        count = given.attributes.integer("num_scan_inputs", 0)
        self.states_count = len(given.inputs) - count
        if count < 1 or self.states_count < 1 or len(body.inputs) != len(given.inputs):
            raise Left(
                f"it scans {count} of its {len(given.inputs)} inputs; expected one state and one sequence at least"
            )
        self.results_count = len(body.outputs) - self.states_count
        axes = enumerate(self._listed("scan_input_axes", count))
        axes = enumerate(self._listed("scan_input_axes", count))
        self.axes = [axis_in(given, axis, len(self.read[n].shape)) for n, axis in axes]
        directions = self._listed("scan_input_directions", count)
        if len(set(directions)) > 1:
            raise Left("it scans sequences in different directions")
        self.backward = directions[0] == 1
        self.turned = [d != directions[0] for d in self._listed("scan_output_directions", self.results_count)]

    def _listed(self, name: str, count: int) -> list[int]:
        found = self.given.attributes.integers(name)
        if found is not None and len(found) != count:
            raise OnnxError(f"{self.given.label}: {name}: expected {count} integers, got {list(found)}")
        return list(found or [0] * count)

    @property
    def read(self) -> list[Tensor]:
        """The tensors that are scanned."""
        values = [self.given.value(n) for n in range(self.states_count, len(self.given.inputs))]
        if not all(isinstance(value, Tensor) for value in values):
            raise Left("it scans a constant")
        return [value for value in values if isinstance(value, Tensor)]

    def bound(self) -> dict[str, Value]:
        """What the body reads, by its names."""
        return dict(zip(self.body.inputs, self._tensors, strict=True))

    @cached_property
    def _tensors(self) -> list[Tensor]:
        """The states, then what is scanned, as the body reads them."""
        return [*self._states(), *self._xs()]

    def _states(self) -> list[Tensor]:
        names = list(self.body.inputs)
        values = [self.given.value(n) for n in range(self.states_count)]
        return [Tensor(self._inner(name), v.dtype, tuple(v.shape)) for name, v in zip(names, values, strict=False)]

    def _xs(self) -> list[Tensor]:
        names = list(self.body.inputs)[self.states_count :]
        parts = zip(names, self.read, self.axes, strict=True)
        return [Tensor(self._inner(name), x.dtype, x.shape[:axis] + x.shape[axis + 1 :]) for name, x, axis in parts]

    def _inner(self, name: str) -> str:
        return f"{self.given.node.name}: {name}"

    def scanned(self, steps: Sequence[Step], values: Sequence[Value]) -> Scanned:
        """The body as it was read. Raises Left if a node in it is left, OnnxError if a state changes its shape."""
        tensors, count = self._tensors, self.states_count
        check_body(steps, tensors, values)
        check_states(self.given, tensors[:count], values)
        axes = self._listed("scan_output_axes", self.results_count)
        ranks = [len(value.shape) for value in values[count:]]
        return Scanned(
            steps=tuple(steps),
            states=tuple(tensors[:count]),
            xs=tuple(tensors[count:]),
            nexts=tuple(values[:count]),
            outputs=tuple(values[count:]),
            read=tuple(self.read),
            axes=tuple(self.axes),
            out_axes=tuple(axis_in(self.given, axis, rank + 1) for axis, rank in zip(axes, ranks, strict=True)),
            backward=self.backward,
            turned=tuple(self.turned),
            opset=self.given.opset,
        )


def check_body(steps: Sequence[Step], bound: Sequence[Tensor], values: Sequence[Value]) -> None:
    """Raises Left if a node of a body is left, or reads other tensors than those that the body is given."""
    why = next((f"{step.node.label} of its body: {step.why}" for step in steps if step.why), None)
    own = {*bound, *(tensor for step in steps for tensor in step.made)}
    outside = [t.name for step in steps for t in step.tensors if t not in own]
    outside += [value.name for value in values if isinstance(value, Tensor) and value not in own]
    if why or outside:
        raise Left(why or f"its body reads {outside[0]!r} of the graph around it")


def check_states(given: Given, states: Sequence[Tensor], values: Sequence[Value]) -> None:
    """Raises OnnxError if a state changes its shape or dtype. values: what the body gives, the new states first."""
    for old, new in zip(states, values, strict=False):
        if len(old.shape) != len(new.shape) or old.dtype != new.dtype:
            raise OnnxError(f"{given.label}: a state of shape {old.shape} becomes {tuple(new.shape)}")
        for a, b in zip(old.shape, new.shape, strict=True):
            meet(a, b)


def results_of(scanned: Scanned) -> list[Result]:
    """dtype and shape of the last states, and of what the body gives at each step."""
    time = scanned.read[0].shape[scanned.axes[0]]
    found: list[Result] = [(state.dtype, state.shape) for state in scanned.states]
    for value, axis in zip(scanned.outputs, scanned.out_axes, strict=True):
        shape: Dims = tuple(value.shape)
        found.append((value.dtype, (*shape[:axis], time, *shape[axis:])))
    return found
