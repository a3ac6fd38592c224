"""What a layer is: equations over what it reads at a step, as a cell's, with or without states.

@dataclass(frozen=True)
class Gain(rnnc.Layer):
    size: int

    def parameter_shapes(self):
        return {"gain": (self.size,)}

    def step(self, x, state, p):
        return x * p.gain
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from rnnc.cells import Parameter, Shape
from rnnc.checking import checks
from rnnc.initializers import Uniform, default, started
from rnnc.ir.equations import Value
from rnnc.references import reference

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["EVEN", "MOST", "Layer", "Noise", "Pace", "Readout"]

Stepped = Value | Mapping[str, Value] | tuple[Value, Mapping[str, Value]]
"""What the equations of a step return: an output, or an output and new states; of a readout, new states alone."""


@dataclass(frozen=True)
class Noise:
    """Random numbers that a layer multiplies by in training, (B, width) per step: `p.<name>`, None in inference.

    p: a number is 0 with this probability, else 1 / (1 - p). fixed: one draw per sequence instead of one per step.
    """

    width: int
    p: float
    fixed: bool = False


class Pace(NamedTuple):
    """How many steps a layer gives for those that it reads.

    Its equations run once for every `stride` steps that it reads, at step u * stride, and give `factor` steps each,
    side by side. Of n steps it makes ceil((n - fewer) / stride) * factor + more, and none where that is negative.
    """

    stride: int = 1
    factor: int = 1
    fewer: int = 0
    more: int = 0

    def steps(self, n: Any) -> Any:
        """The number of steps that it makes of n, an integer or an array of them."""
        most = max if isinstance(n, int) else np.maximum
        return most(most(-(-(n - self.fewer) // self.stride), 0) * self.factor + self.more, 0)


MOST = 2**20
"""The largest number in a `Pace`, and of steps of padding."""
EVEN = Pace()
"""As many steps as it reads."""


class Layer:
    """Base of all layers but recurrent specs: frozen dataclasses, checked when they are made, equal by value.

    A subclass defines `step`, and what differs from the defaults below: a layer that keeps the width, without
    parameters or states. It holds no arrays.

    inputs: how many values it reads; None: one or more, which `step` then gets as a tuple.
    window: how many steps before and after its own the equations read: x is then (B, (before + 1 + after) * N), the
        oldest step first, and zeros where the sequence has no such step.
    pace: how many steps it makes of those that it reads.
    statistics: the names of parameters that are statistics of the data. They have no gradients: a training step gives
        them what `renewed` says. A layer that has some reads in training the `p.mean` and `p.variance`, (N,), of its
        first input over the `p.count`, (1,), steps that all rows of the batch have; each is None in inference.
    sees_padding: whether its equations read `p.inside`, (B, before + 1 + after): 1 for each step of the window that the
        row has, 0 for one before its start or past its end.
    """

    inputs: ClassVar[int | None] = 1
    statistics: ClassVar[tuple[str, ...]] = ()

    @property
    def window(self) -> tuple[int, int]:
        """(steps before, steps after)."""
        return 0, 0

    @property
    def pace(self) -> Pace:
        """How many steps it makes of those that it reads."""
        return EVEN

    @property
    def sees_padding(self) -> bool:
        """Whether `step` reads `p.inside`."""
        return False

    @property
    def width(self) -> int | None:
        """The width of what it reads, where its arguments say; None: any."""
        return None

    @property
    def untrained(self) -> str | None:
        """Why it cannot be trained; None: it can."""
        return None

    @property
    def memory(self) -> int | None:
        """The width M of the states of an encoder that it reads all of (`rnnc.Decoder`); None: it reads none.

        `step` reads them as `p.memory`, (B, S, M), and as `p.valid`, (B, S), the mask of those that a row has.
        """
        return None

    def parameter_shapes(self) -> dict[str, Shape]:
        """Name -> shape of every parameter, as in the state_dict of PyTorch's layer, if it has one."""
        return {}

    def init(self, rng: np.random.Generator) -> dict[str, Array]:
        """New parameters (float64): as `rnnc.Parameter` says, else as a cell's, with bound 1/sqrt(inputs per unit)."""
        found = {}
        for name, shape in self.parameter_shapes().items():
            bound = 1 / math.sqrt(math.prod(shape[1:]) if len(shape) > 1 else shape[0])
            init = shape.init if isinstance(shape, Parameter) else None
            init = default(name, shape, Uniform(-bound, bound)) if init is None else init
            found[name] = started(name, init, tuple(shape), rng, "float64")
        return found

    def output_width(self, *widths: int) -> int:
        """The width of a step that it gives, from the widths of what it reads; by default they are the same.

        Raises ShapeError if those do not fit; that of `width` has been checked.
        """
        return widths[0]

    def states(self, *widths: int) -> dict[str, int]:
        """Name -> width of each state, for these widths of what it reads; all start at zeros."""
        return {}

    def noise(self, *widths: int) -> dict[str, Noise]:
        """Name -> the random numbers of a training step."""
        return {}

    def renewed(self, p: SimpleNamespace) -> dict[str, Value]:
        """What a training step makes of each of its `statistics`, from the old ones and those of the batch."""
        raise NotImplementedError(f"{type(self).__name__} does not renew its statistics: define renewed(self, p)")

    def step(self, x: Any, state: SimpleNamespace, p: SimpleNamespace) -> Stepped:
        """The equations: from values (B, N), old states and parameters, the output and, if any, the new states.

        The output is (B, pace.factor * output_width).
        """
        raise NotImplementedError(f"{type(self).__name__} has no equations: define step(self, x, state, p)")

    def to_dict(self) -> dict[str, Any]:
        """Every argument as plain data, and "type": the layer's name, or "module:Class" of a user's."""
        own = type(self).__module__.startswith("rnnc.layers.")
        values = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]
        return {"type": type(self).__name__ if own else reference(type(self))} | values

    def _set(self, name: str, value: object) -> None:
        """A field in its normal form, while the layer is made."""
        object.__setattr__(self, name, value)


class Readout(Layer):
    """Base of layers that make one value per sequence of values per step: their states at the end, and `result`.

    A row that has no steps keeps its states at zeros.
    """

    def step(self, x: Any, state: SimpleNamespace, p: SimpleNamespace) -> Any:
        """The equations: from a value (B, N), old states and parameters, the new states."""
        raise NotImplementedError(f"{type(self).__name__} has no equations: define step(self, x, state, p)")

    def result(self, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        """The value per sequence, from the last states."""
        raise NotImplementedError(f"{type(self).__name__} has no result: define result(self, state, p)")


def size(layer: Layer, name: str, minimum: int = 1) -> None:
    """A field that is a size."""
    layer._set(name, checks.integer(name, getattr(layer, name), minimum))


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
