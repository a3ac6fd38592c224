"""A graph with all that is needed to run it: networks, what runs between them, and what became of each node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rnnc.ir.errors import ArgumentError, OnnxError, ShapeError
from rnnc.onnx.direct import DirectCall, Promises, direct_call
from rnnc.onnx.frames import Frames, found_frames
from rnnc.onnx.late import LateRecurrence, is_late
from rnnc.onnx.ops.table import MISFITS, Given
from rnnc.onnx.parts import Parts, moved_ends, op_of, partitioned
from rnnc.onnx.readers import InputAxes, reader
from rnnc.onnx.segment import CannotCompile, Segment, built
from rnnc.onnx.sizes import static
from rnnc.onnx.trace import Traced
from rnnc.onnx.values import Step, Tensor, is_ready

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.onnx.building import Building

    Array = NDArray[Any]

__all__ = ["Moving", "Plan", "Runner"]


MOST_NUMBERS = 1 << 28
"""The largest tensor of known sizes that a step in NumPy may make: 1 GiB of float32."""


class Runner(Protocol):
    """A part of a plan."""

    def run(self, values: dict[str, Array]) -> None:
        """Reads what it needs from the values, by name, and adds what it gives."""


class Moving:
    """A step in NumPy. Raises OnnxError for one that makes more than a call can hold, whatever its inputs are."""

    def __init__(self, step: Step, opset: int, axes: InputAxes) -> None:
        given = Given(step.node, step.inputs, opset, lambda tensor: None)
        meaning = op_of(step).meaning
        assert meaning is not None
        self._function = meaning(given)
        self._label = step.node.label
        self.step = step
        for tensor in step.made:
            if (count := prod(static(size) or 1 for size in tensor.shape)) > MOST_NUMBERS:
                raise OnnxError(f"{self._label}: it gives {count} numbers, of which rnnc moves at most {MOST_NUMBERS}")
        self._reads = [reader(value, axes) for value in step.inputs]
        self._gives = [tensor.name if tensor is not None else "" for tensor in step.outputs]
        first, *others = step.inputs
        simple = len(self._gives) == 1 and isinstance(first, Tensor) and all(is_ready(value) for value in others)
        self._alone = first.name if simple and isinstance(first, Tensor) else ""  # the quick way of most
        self._others = [None if value is None else value.array for value in others if simple and is_ready(value)]

    def run(self, values: dict[str, Array]) -> None:
        """Raises ArgumentError if the inputs of a call do not fit the node."""
        try:
            self._run(values)
        except (*MISFITS, MemoryError) as error:
            raise ArgumentError(f"{self._label}: its inputs do not fit: {error}") from None

    def _run(self, values: dict[str, Array]) -> None:
        if self._alone:
            made = self._function(values[self._alone], *self._others)
            values[self._gives[0]] = made[0] if isinstance(made, tuple) else made
            return
        made = self._function(*[read(values) for read in self._reads])
        arrays = made if isinstance(made, tuple) else (made,)
        for name, array in zip(self._gives, arrays, strict=False):
            if name:
                values[name] = array


class Plan:
    """notes: what became of each node. aliases: pairs of axes that were taken for one size. axes: of the inputs.

    foreign: makes a runner of steps that rnnc cannot do, and of the tensors that are read of them; or None.
    direct: the direct call, if there is one (`rnnc.onnx.direct`).
    """

    def __init__(
        self,
        traced: Traced,
        options: Mapping[str, Any],
        foreign: Any,
        aliases: Sequence[tuple[str, str]],
        axes: InputAxes,
        promises: Promises,
    ) -> None:
        self.traced = traced
        self._axes = axes
        self.aliases = aliases
        self.why: dict[Step, str] = {step: step.why for step in traced.steps if step.why}
        self.notes: dict[Step, str] = {}
        self._options = options
        self._parts, self._buildings = self._cut()
        left = [step for steps in self._parts.outer for step in steps if not self._is_own(step)]
        if left and foreign is None:
            raise OnnxError(self._refusal(left))
        self.segments: list[Segment] = []
        self.runners: list[Runner] = []
        for depth, steps in enumerate(self._parts.outer):
            if depth:
                self._add_network(depth)
            self._add_outer(steps, foreign)
        self._outputs = {name: reader(value, axes) for name, value in traced.outputs.items()}
        seen = self._views(traced)
        self._copied = [n for n, v in traced.outputs.items() if not isinstance(v, Tensor) or v.name in seen]
        self.direct = self._direct(promises)

    def _direct(self, promises: Promises) -> DirectCall | None:
        moving = [runner.step for runner in self.runners if isinstance(runner, Moving)]
        if len(self.segments) != 1 or len(moving) + 1 != len(self.runners):
            return None
        return direct_call(self.traced, self.segments[0], moving, promises)

    def _views(self, traced: Traced) -> set[str]:
        """Tensors that may be views of the caller's arrays: inputs, and what is moved of them in NumPy."""
        made = {tensor.name for step in traced.steps for tensor in step.made}
        found = {v.name for v in traced.outputs.values() if isinstance(v, Tensor) and v.name not in made}
        found |= {tensor.name for step in traced.steps for tensor in step.tensors if tensor.name not in made}
        for runner in self.runners:
            if isinstance(runner, Moving) and any(tensor.name in found for tensor in runner.step.tensors):
                found |= {tensor.name for tensor in runner.step.made}
        return found

    # ---- which step goes where

    def _cut(self) -> tuple[Parts, list[tuple[Building, list[Tensor]]]]:
        """Parts whose networks can all be built: a step that cannot be in one goes elsewhere, and all is done again."""
        late = [step for step in self.traced.steps if is_late(step)]
        outside = dict.fromkeys(late, "its weights come with the call") | self.why
        outside |= dict.fromkeys(moved_ends(self.traced.steps), "it only moves last states")
        first = partitioned(self.traced.steps, outside, set())
        frames = found_frames([step for steps in first.networks for step in steps], self.traced.opset)
        later: set[Step] = set()
        while True:
            chain = set() if frames is None else set(frames.chain)
            parts = partitioned(self.traced.steps, outside, later, chain, pads=frames is None)
            try:
                buildings = [self._built(steps, frames) for steps in parts.networks]
            except CannotCompile as found:
                if frames is not None:
                    later, frames = set(), None
                    continue
                if found.later and found.step not in later:
                    later.add(found.step)
                else:
                    outside[found.step] = self.why[found.step] = found.why
                continue
            return parts, buildings

    def _built(self, steps: Sequence[Step], frames: Frames | None) -> tuple[Building, list[Tensor]]:
        outputs = self._read_elsewhere(steps)
        if frames is not None and frames.first in steps:
            if set(steps) != set(frames.chain):
                raise CannotCompile(frames.first, "other nodes are in its network", later=False)
            return built(steps, outputs, self.traced.opset, frames), outputs
        return built(steps, outputs, self.traced.opset), outputs

    def _read_elsewhere(self, steps: Sequence[Step]) -> list[Tensor]:
        """What these steps give to others, or to the caller."""
        inside = set(steps)
        read = {t.name for step in self.traced.steps if step not in inside for t in step.tensors}
        read |= {value.name for value in self.traced.outputs.values() if isinstance(value, Tensor)}
        return [tensor for step in steps for tensor in step.made if tensor.name in read]

    def _is_own(self, step: Step) -> bool:
        """Whether rnnc does a step that is in no network."""
        op = op_of(step)
        whole = all(np.dtype(tensor.dtype).kind in "iub" for tensor in step.made if tensor.dtype)
        return is_late(step) or (op.meaning is not None and not step.why and (op.moves or whole))

    def _refusal(self, left: Sequence[Step]) -> str:
        listed = "; ".join(f"{step.node.label}: {self.why.get(step, 'not compiled')}" for step in left)
        advice = "from_onnx(..., fallback='onnxruntime') leaves them to ONNX Runtime"
        return f"{len(left)} nodes cannot be compiled: {listed}; {advice}"

    # ---- what runs

    def _add_network(self, depth: int) -> None:
        building, outputs = self._buildings[depth - 1]
        try:
            segment = Segment(building, outputs, self._options)
        except (ArgumentError, ShapeError) as error:
            raise OnnxError(f"its nodes make no network of rnnc: {error}") from error
        self.segments.append(segment)
        self.runners.append(segment)
        for step in self._parts.networks[depth - 1]:
            what = "only names axes" if op_of(step).moves else "compiled"
            self.notes[step] = f"{what}: network {depth}"

    def _add_outer(self, steps: Sequence[Step], foreign: Any) -> None:
        opset, others = self.traced.opset, []
        for step in steps:
            if not self._is_own(step):
                others.append(step)
                continue
            self._flush(others, foreign)
            if is_late(step):
                self.notes[step] = "compiled: bound at each call, for its weights come with the call"
                self.runners.append(LateRecurrence(step, opset, self._options, self._axes))
            else:
                self.notes[step] = "in NumPy, outside the networks"
                self.runners.append(Moving(step, opset, self._axes))
        self._flush(others, foreign)

    def _flush(self, others: list[Step], foreign: Any) -> None:
        if others:
            self.notes |= {step: f"left to ONNX Runtime: {self.why.get(step, 'not compiled')}" for step in others}
            self.runners.append(foreign(list(others), self._read_elsewhere(others)))
            others.clear()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The file's outputs by name, for inputs that have been checked. They are the caller's own."""
        values = dict(inputs)
        for runner in self.runners:
            runner.run(values)
        found = {name: read(values) for name, read in self._outputs.items()}
        for name in self._copied:
            found[name] = found[name].copy()
        return found
