"""The form of a Loop that is a Scan: one round per step of a sequence, of which round t reads step t.

    for t in range(len(x)):                  Loop(len(x), true, h): the body gives  Gather(x, t) -> ... -> h, y[t]
        h = cell(x[t], h)

The body may read the number of its round only where it reads a sequence. The condition always holds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rnnc.ir.errors import OnnxError
from rnnc.onnx.file import Body
from rnnc.onnx.ops.table import Given, Left, axis_in
from rnnc.onnx.scan_form import check_body, check_states
from rnnc.onnx.sizes import same
from rnnc.onnx.values import Known, Scanned, Step, Tensor, Value

__all__ = ["LoopForm"]

STATES = 2
"""The number of the input that is the first state, of a node and of its body: behind count and condition."""


class LoopForm:
    """What a node says. Raises OnnxError for one that is wrong, Left for one that is not compiled."""

    def __init__(self, given: Given) -> None:
        body = given.node.attributes.get("body")
        if not isinstance(body, Body):
            raise OnnxError(f"{given.label}: body: expected a graph, found none")
        if len(body.inputs) != len(given.inputs) or len(given.inputs) <= STATES:
            raise Left(
                f"its body reads {len(body.inputs)} values, it has {len(given.inputs)}; expected a state at least"
            )
        if given.optional(0) is None or not _holds(given.optional(1)):
            raise Left("it may end at any round")
        self.given, self.body = given, body
        names = [f"{given.node.name}: {name}" for name in body.inputs]
        self._round = Tensor(names[0], "int64", ())
        starts = [given.value(number) for number in range(STATES, len(given.inputs))]
        self._states = [Tensor(n, v.dtype, tuple(v.shape)) for n, v in zip(names[STATES:], starts, strict=True)]

    def bound(self) -> dict[str, Value]:
        """What the body reads, by its names."""
        return dict(zip(self.body.inputs, (self._round, Known(np.array(True)), *self._states), strict=True))

    def scanned(self, steps: Sequence[Step], values: Sequence[Value]) -> Scanned:
        """The body as it was read. Raises Left if a node in it is left, OnnxError if a state changes its shape."""
        goes_on, *made = values
        if not _holds(goes_on):
            raise Left("its condition is computed")
        own = {*self._states, *(tensor for step in steps for tensor in step.made)}
        reads = [step for step in steps if self._reads_a_step(step) and step.tensors[0] not in own]
        for step in reads:
            self._check_rounds(step)
        if not reads:
            raise Left("its body reads no sequence step by step")
        rest, xs = [step for step in steps if step not in reads], [step.made[0] for step in reads]
        if any(self._round in step.tensors for step in rest) or self._round in made:
            raise Left("its body reads the number of its round, other than to read a step of a sequence")
        check_body(rest, [*xs, *self._states], made)
        count = len(self._states)
        check_states(self.given, self._states, made)
        read = [step.tensors[0] for step in reads]
        return Scanned(
            steps=tuple(rest),
            states=tuple(self._states),
            xs=tuple(xs),
            nexts=tuple(made[:count]),
            outputs=tuple(made[count:]),
            read=tuple(read),
            axes=tuple(self._axis(step) for step in reads),
            out_axes=(0,) * len(made[count:]),
            backward=False,
            turned=(False,) * len(made[count:]),
            opset=self.given.opset,
            starts=STATES,
        )

    def _reads_a_step(self, step: Step) -> bool:
        """Whether a node of the body reads the step of the round."""
        plain = step.node.op == "Gather" and not step.node.domain and not step.why
        return plain and len(step.tensors) == 2 and step.tensors[1] is self._round

    def _check_rounds(self, step: Step) -> None:
        """Raises Left unless there are as many rounds as steps of what a node reads."""
        (rounds,), shape = self.given.dims(0), step.tensors[0].shape
        if not same(shape[self._axis(step)], rounds):
            raise Left(f"it has {rounds} rounds, and reads a sequence of shape {shape}")

    def _axis(self, step: Step) -> int:
        given = Given(step.node, step.inputs, self.given.opset, lambda tensor: None)
        return axis_in(given, given.attributes.integer("axis", 0), len(step.tensors[0].shape))


def _holds(condition: Value | None) -> bool:
    """Whether a condition is left out, or known to be true."""
    return condition is None or (isinstance(condition, Known) and bool(condition.array.all()))
