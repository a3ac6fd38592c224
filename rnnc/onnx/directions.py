"""Recurrent nodes between reversals, as nodes of the other direction; two nodes of opposite directions, as one.

Exporters write a backward direction as a forward node on a reversed sequence, reversed again behind it:

    X --> LSTM ------------------------------> Y         X --> LSTM, bidirectional --> Split --> Y
    X --> Reverse --> LSTM --> V --> Reverse --> W   becomes                                 --> W

A reversal is a Slice with step -1 along time, or a ReverseSequence by the node's own sequence_lens. The one behind the
node meets a second one, which this file adds, and a network cancels the two (`Placed.flipped`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.onnx.attributes import Attributes
from rnnc.onnx.file import Node
from rnnc.onnx.ops.cutting import is_reversing, slice_ranges
from rnnc.onnx.ops.recurrence import C0, H0, LENGTHS, B, P, R, W, X
from rnnc.onnx.ops.table import Given
from rnnc.onnx.recurrent import RECURRENT
from rnnc.onnx.trace import Traced, needed
from rnnc.onnx.values import Known, Step, Tensor, Value, is_ready

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["with_joined_directions"]

GONE = {
    "Slice": "folded: the recurrent node behind it runs in the other direction",
    "ReverseSequence": "folded: the recurrent node behind it runs in the other direction",
    "Cast": "folded: it only makes other integers of lengths",
}
"""Operators that this file makes superfluous, and what explain() says of them."""

TURNED = {"forward": "reverse", "reverse": "forward"}


def with_joined_directions(traced: Traced) -> Traced:
    """The same graph with fewer recurrent nodes and reversals. Steps that nothing reads any more are left out."""
    steps = _joined(_turned(_of_plain_lengths(traced.steps), traced.opset))
    kept = needed(steps, traced.outputs.values())
    names = {step.node.name for step in kept}
    gone = [step.node for step in traced.steps if step.node.name not in names and step.node.op in GONE]
    notes = [(node, GONE[node.op]) for node in gone]
    return replace(traced, steps=kept, notes=[*traced.notes, *notes])


# ---- reversals


def _of_plain_lengths(steps: Sequence[Step]) -> Sequence[Step]:
    """Nodes beside a ReverseSequence read the lengths that a Cast made of others: the two ask for other integers."""
    if not any(step.node.op == "ReverseSequence" for step in steps):
        return steps
    casts = {step.made[0]: step for step in steps if step.node.op == "Cast" and len(step.tensors) == 1}
    found = []
    for step in steps:
        number = {"ReverseSequence": 1}.get(step.node.op, LENGTHS if _is_recurrent(step) else -1)
        lengths = plain = _input(step, number) if number > 0 else None
        while isinstance(plain, Tensor) and plain in casts and _whole(casts[plain].tensors[0]):
            plain = casts[plain].tensors[0]
        if isinstance(plain, Tensor) and plain is not lengths:
            names = (*step.node.inputs[:number], plain.name, *step.node.inputs[number + 1 :])
            values = (*step.inputs[:number], plain, *step.inputs[number + 1 :])
            step = replace(step, node=replace(step.node, inputs=names), inputs=values)
        found.append(step)
    return found


def _whole(tensor: Tensor) -> bool:
    return tensor.dtype in ("int32", "int64")


@dataclass(frozen=True)
class _Reversal:
    """What is reversed, along which axis. lengths: of the part of each row that is reversed; None: all of it."""

    x: Tensor
    axis: int
    lengths: Tensor | None


def _reversal(step: Step | None, opset: int) -> _Reversal | None:
    """What a step reverses, if it does nothing else."""
    x = None if step is None else _input(step, 0)
    if step is None or not isinstance(x, Tensor) or step.node.domain or step.why:
        return None
    given = Given(step.node, step.inputs, opset, lambda tensor: None)
    if step.node.op == "ReverseSequence" and isinstance(lengths := step.inputs[1], Tensor):
        return _Reversal(x, given.attributes.integer("time_axis", 0), lengths)
    if step.node.op == "Slice" and all(map(is_ready, step.inputs[1:])):
        ranges = slice_ranges(given)
        if len(ranges) == 1 and all(map(is_reversing, ranges.values())):
            return _Reversal(x, next(iter(ranges)), None)
    return None


def _turned(steps: Sequence[Step], opset: int) -> list[Step]:
    """Nodes behind a reversal read what it reads, in the other direction; what they give is reversed instead."""
    makers = {tensor: step for step in steps for tensor in step.made}
    found: list[Step] = []
    for step in steps:
        x = step.inputs[X] if _is_recurrent(step) else None
        reversal = _reversal(makers.get(x), opset) if isinstance(x, Tensor) else None
        if reversal is None or not _fits(step, reversal):
            found.append(step)
        else:
            found += _one_turned(step, reversal)
    return found


def _is_recurrent(step: Step) -> bool:
    return step.node.op in RECURRENT and not step.node.domain and not step.why


def _fits(step: Step, reversal: _Reversal) -> bool:
    """Whether a node runs over just the axis and the parts of rows that are reversed, in one direction."""
    one = step.node.attributes.get("direction", "forward") in TURNED
    return one and reversal.axis == _batch_first(step) and reversal.lengths is _input(step, LENGTHS)


def _batch_first(step: Step) -> bool:
    return step.node.attributes.get("layout", 0) == 1


def _input(step: Step, number: int) -> Value | None:
    return step.inputs[number] if number < len(step.inputs) else None


def _one_turned(step: Step, reversal: _Reversal) -> list[Step]:
    node, y = step.node, step.outputs[0]
    way = TURNED[str(node.attributes.get("direction", "forward"))]
    natural = None if y is None else Tensor(f"{y.name} turned", y.dtype, y.dims)
    turned = replace(
        node,
        inputs=(reversal.x.name, *node.inputs[1:]),
        outputs=("" if natural is None else natural.name, *node.outputs[1:]),
        attributes={**node.attributes, "direction": way},
    )
    made = Step(turned, (reversal.x, *step.inputs[1:]), (natural, *step.outputs[1:]))
    return [made] if y is None or natural is None else [made, _reversed(natural, y, reversal)]


def _reversed(x: Tensor, y: Tensor, reversal: _Reversal) -> Step:
    """The step that makes y of x. The batch of Y is its axis 2, or 0 where time is axis 1."""
    name = f"{y.name} reversed"
    if reversal.lengths is not None:
        axes = {"time_axis": reversal.axis, "batch_axis": 0 if reversal.axis else 2}
        node = Node(name, "ReverseSequence", "", (x.name, reversal.lengths.name), (y.name,), axes)
        return Step(node, (x, reversal.lengths), (y,))
    numbers = {"start": -1, "stop": -(2**63) + 1, "axis": reversal.axis, "step": -1}
    constants = [Known(np.array([number])) for number in numbers.values()]
    names = (f"{name} {what}" for what in numbers)
    return Step(Node(name, "Slice", "", (x.name, *names), (y.name,)), (x, *constants), (y,))


# ---- pairs


def _joined(steps: Sequence[Step]) -> list[Step]:
    """Each pair of nodes that read the same in opposite directions as a bidirectional one, in place of the first."""
    waiting: list[Step] = []
    partners: dict[Step, Step] = {}
    for step in filter(_can_join, steps):
        partner = next((other for other in waiting if _are_pair(other, step)), None)
        if partner is None:
            waiting.append(step)
        else:
            waiting.remove(partner)
            partners[partner] = step
    gone = set(partners.values())
    found: list[Step] = []
    for step in steps:
        if step in partners:
            found += _pair(step, partners[step])
        elif step not in gone:
            found.append(step)
    return found


def _can_join(step: Step) -> bool:
    """Whether a node has one direction, constant weights, and no initial state that a call brings."""
    free = [_input(step, number) for number in (W, R, B, P, H0, C0)]
    plain = not {"activation_alpha", "activation_beta"} & set(step.node.attributes)
    one = _is_recurrent(step) and step.node.attributes.get("direction", "forward") in TURNED
    return one and plain and all(value is None or isinstance(value, Known) for value in free)


def _are_pair(a: Step, b: Step) -> bool:
    """Whether two nodes differ in nothing but direction, activations, and the numbers of their weights."""

    def shared(step: Step) -> tuple[Any, ...]:
        own = {name: v for name, v in step.node.attributes.items() if name not in ("direction", "activations")}
        shapes = [getattr(_input(step, number), "shape", None) for number in (W, R)]
        peepholes = _input(step, P) is not None
        return step.node.op, own, shapes, peepholes, _input(step, X), _input(step, LENGTHS)

    ways = {str(step.node.attributes.get("direction", "forward")) for step in (a, b)}
    return len(ways) == 2 and shared(a) == shared(b)


def _pair(step: Step, other: Step) -> list[Step]:
    """Two nodes as one, and the steps that part what it gives."""
    both = sorted((step, other), key=lambda s: str(s.node.attributes.get("direction", "forward")))
    name = ", ".join(s.node.name for s in both)
    inputs = [_both(both, number) for number in range(P + 1)]
    names = [both[0].node.read(number) if number in (X, LENGTHS) else f"{name} {number}" for number in range(P + 1)]
    used = [any(len(s.outputs) > n and s.outputs[n] is not None for s in both) for n in range(3)]
    outputs = [_wide(both, n, f"{name} {n}") if is_used else None for n, is_used in enumerate(used)]
    while inputs[-1] is None:
        inputs.pop()
    while outputs[-1] is None:
        outputs.pop()
    node = Node(
        name,
        step.node.op,
        "",
        tuple("" if value is None else label for value, label in zip(inputs, names, strict=False)),
        tuple("" if output is None else output.name for output in outputs),
        {**step.node.attributes, "direction": "bidirectional", "activations": _activations(both)},
    )
    joined = Step(node, tuple(inputs), tuple(outputs))
    return [joined, *(_parted(both, n, output) for n, output in enumerate(outputs) if output is not None)]


def _both(steps: Sequence[Step], number: int) -> Value | None:
    """An input of both nodes: the same one, or their constants side by side. A bias or state that one lacks is 0."""
    values = [_input(step, number) for step in steps]
    if number in (X, LENGTHS) or values == [None, None]:
        return values[0]
    arrays = [value.array for value in values if isinstance(value, Known)]
    if len(arrays) < 2:
        arrays = [value.array if isinstance(value, Known) else np.zeros_like(arrays[0]) for value in values]
    return Known(np.concatenate(arrays, _state_axis(steps[0]) if number in (H0, C0) else 0))


def _activations(steps: Iterable[Step]) -> tuple[str, ...]:
    return tuple(f for s in steps for f in Attributes(s.node).texts("activations", RECURRENT[s.node.op]))


def _state_axis(step: Step) -> int:
    """The axis of directions in initial and last states."""
    return 1 if _batch_first(step) else 0


def _output_axis(step: Step, number: int) -> int:
    """The axis of directions in an output: Y, then the states."""
    return _state_axis(step) if number else 2 if _batch_first(step) else 1


def _wide(steps: Sequence[Step], number: int, name: str) -> Tensor:
    """Output `number` of both nodes together."""
    one = next(s.outputs[number] for s in steps if number < len(s.outputs) and s.outputs[number] is not None)
    assert one is not None
    axis = _output_axis(steps[0], number)
    return Tensor(name, one.dtype, (*one.shape[:axis], 2, *one.shape[axis + 1 :]))


def _parted(steps: Sequence[Step], number: int, wide: Tensor) -> Step:
    """The outputs of each node as parts of that of both."""
    outputs = tuple(s.outputs[number] if number < len(s.outputs) else None for s in steps)
    names = tuple("" if output is None else output.name for output in outputs)
    axis = _output_axis(steps[0], number)
    return Step(Node(f"{wide.name} parted", "Split", "", (wide.name,), names, {"axis": axis}), (wide,), outputs)
