"""Convolutions over a chunk of samples, with the positions as steps of a network.

A voice-activity detector cuts a chunk into frames by a strided convolution, and convolves over the few frames:

    (B, 1, 2688) --Conv, stride 128--> (B, 258, 20) --Conv--> (B, 128, 20) --Conv, stride 2--> (B, 64, 10) -- ...

Up to MOST_WRITTEN_OUT positions are columns of one network, with what comes before and after the convolutions
(`rnnc.onnx.layers.PositionConv`). That is faster, but code and compile time grow with their number. More positions are
the steps of a network of their own, so that they are rows of one product: the first convolution becomes a `Linear` of
frames, which are a view of the samples, and the others `Conv1d`. Behind a stride of s only each s-th step counts, and
taps lie s times as far apart; the steps between are computed and not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.onnx.ops.sliding import Convolution
from rnnc.onnx.ops.table import Given, Left
from rnnc.onnx.sizes import static
from rnnc.onnx.values import Known, Step, Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["Frames", "found_frames"]

AXIS = 2
"""The axis of positions in the input and the output of a Conv over one axis."""
MOST_WRITTEN_OUT = 16
"""The most positions that are written out one by one instead. With 16, the detector of tests/test_onnx_chunks.py at
silero-vad's sizes takes 2.1 s to compile, and 0.54 times the time of the other form (AMD Zen 3, one row)."""


@dataclass
class Frames:
    """A chain of convolutions. steps: T of the network. every: tensor -> which of the steps are its positions."""

    first: Step
    steps: int
    every: dict[str, int] = field(default_factory=dict)
    chain: list[Step] = field(default_factory=list)

    def view(self, convolution: Convolution) -> Any:
        """A function: samples (B, C, S) -> frames (T, B, C * kernel), a view where C is 1."""

        def frames(array: Array, sizes: Sequence[int]) -> Array:
            rows, channels, _ = array.shape
            along, between, step = array.strides
            shape = (self.steps, rows, channels, convolution.kernel)
            strides = (step * convolution.stride, along, between, step * convolution.dilation)
            if array.flags.c_contiguous:  # as_strided does the same and takes ten times as long
                cut: Array = np.ndarray(shape, array.dtype, array, 0, strides)
            else:
                cut = np.lib.stride_tricks.as_strided(array, shape, strides, writeable=False)
            return cut.reshape(self.steps, rows, channels * convolution.kernel)

        return frames


def found_frames(steps: Sequence[Step], opset: int) -> Frames | None:
    """The first chain of at least two convolutions that starts at a tensor from outside. steps: of all networks."""
    inside = {tensor.name for step in steps for tensor in step.made}
    for step in steps:
        if not _starts(step, inside, opset):
            continue
        if int(step.made[0].shape[AXIS]) <= MOST_WRITTEN_OUT:
            continue
        frames = Frames(step, int(step.made[0].shape[AXIS]), {step.made[0].name: 1}, [step])
        for other in steps[steps.index(step) + 1 :]:
            _extend(frames, other, opset)
        if sum(link.node.op == "Conv" for link in frames.chain) > 1:
            return frames
    return None


def _convolution(step: Step, opset: int) -> Convolution | None:
    """The Conv of a step, over one axis and with constant weights."""
    if step.node.op != "Conv" or not all(isinstance(value, Known) for value in step.inputs[1:] if value is not None):
        return None
    try:
        return Convolution(Given(step.node, step.inputs, opset, lambda tensor: None))
    except Left:
        return None


def _starts(step: Step, inside: set[str], opset: int) -> bool:
    """Whether it is a convolution that cuts samples from outside into frames."""
    convolution = _convolution(step, opset)
    x = step.inputs[0]
    if convolution is None or not isinstance(x, Tensor) or static(x.shape[AXIS]) is None:
        return False
    fits = convolution.pads(x.shape[AXIS]) == (0, 0) and convolution.groups == 1 and convolution.stride > 1
    return fits and x.name not in inside and (static(step.made[0].shape[AXIS]) or 0) > 1


def _extend(frames: Frames, step: Step, opset: int) -> None:
    """Adds a step that reads nothing but the chain, and that works at each position by itself or convolves."""
    every = {frames.every.get(tensor.name) for tensor in step.tensors}
    if len(every) != 1 or None in every or len(step.made) != 1:
        return
    (now,), (x, *_), (y,) = every, step.tensors, step.made
    assert now is not None
    if step.node.op == "Conv":
        convolution = _convolution(step, opset)
        if convolution is None or not _reaches(convolution, x, now, frames.steps):
            return
        now *= convolution.stride
    elif len(y.shape) != 3 or static(y.shape[AXIS]) != static(x.shape[AXIS]) or not _apart(step):
        return
    if static(x.shape[AXIS]) != 1:
        frames.every[y.name] = now
        frames.chain.append(step)


def _reaches(convolution: Convolution, x: Tensor, every: int, steps: int) -> bool:
    """Whether all places that the convolution takes for 0 lie outside the steps."""
    length = static(x.shape[AXIS])
    if length is None or length * every < steps:
        return False
    before, _ = convolution.pads(length)
    return before <= convolution.span


def _apart(step: Step) -> bool:
    """Whether a step works at each position by itself."""
    return step.node.op in ("Slice", "Identity", "Cast", "Dropout") or (
        all(isinstance(value, Tensor) or _spreads(value) for value in step.inputs if value is not None)
        and (step.node.op in ELEMENTWISE)
    )


def _spreads(value: object) -> bool:
    """Whether a constant is the same at all positions."""
    return isinstance(value, Known) and (not value.array.shape or value.array.shape[-1] == 1)


ELEMENTWISE = (
    *("Abs", "Add", "Clip", "Div", "Elu", "Exp", "LeakyRelu", "Log", "Max", "Min", "Mul", "Neg", "Pow", "Relu"),
    *("Sigmoid", "Sqrt", "Sub", "Tanh"),
)
