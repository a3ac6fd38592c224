"""Cells: one time step each, written as equations over symbolic values.

A cell says which parameters and states it has and what one step computes; everything after lowering sees only
the equations. To write your own, subclass `Cell` (as a frozen dataclass if it has fields) and hand an instance to
`rnnc.Recurrent`:

    from rnnc.ir.equations import linear, sigmoid, tanh

    @dataclass(frozen=True)
    class MinimalGated(rnnc.Cell):                                # Zhou et al. 2016
        name: ClassVar[str] = "mgu"
        gates: ClassVar[int] = 2

        def step(self, x, state, p):
            xf, xn = linear(x, p.weight_ih, p.bias_ih).split(2)
            uf, un = p.weight_hh.split(2)
            bf, bn = p.bias_hh.split(2)
            f = sigmoid(xf + linear(state.h, uf, bf))
            n = tanh(xn + linear(f * state.h, un, bn))            # a second matmul, which waits for the first
            h = (1 - f) * state.h + f * n
            return h, {"h": h}

Shapes in a step: x is (B, input width), a state (B, its width), a weight (rows, columns), a bias (rows,).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, Literal, Self, SupportsIndex

from rnnc.checking import checks
from rnnc.checking.arguments import explained_class
from rnnc.initializers import Init, check_init
from rnnc.ir.equations import Value, linear, relu, sigmoid, tanh
from rnnc.ir.errors import ArgumentTypeError
from rnnc.references import reference, warn_if_main

__all__ = ["Cell", "ElmanCell", "GRUCell", "LSTMCell", "Parameter", "ProjectedLSTMCell", "ResetFirstGRUCell"]

Shape = tuple[int, ...]


class Parameter(tuple[int, ...]):
    """A shape that also says how the parameter starts: `rnnc.Parameter((hidden_size,), init="ones")`.

    shape: one or two sizes.
    init: an initializer (`rnnc.initializers`), "zeros", "ones", "orthogonal", "xavier_uniform", "xavier_normal", or a
        function of (shape, generator). None: the default, as for a bare shape (`Spec.init`).
    It is a tuple, and equal to its shape.
    """

    init: Init | None

    def __new__(cls, shape: Shape, init: Init | str | None = None) -> Self:
        if not isinstance(shape, tuple):
            raise ArgumentTypeError(f"shape: expected a tuple of sizes, got {checks.came(shape)}")
        made = super().__new__(cls, shape)
        made.init = check_init("init", init, shape)
        return made

    def __getnewargs__(self) -> tuple[Shape, Init | None]:
        return tuple(self), self.init


def as_axes(size: int | Shape) -> Shape:
    """The axes of a state's units, of what a cell declares: one of this width, or several."""
    return size if isinstance(size, tuple) else (size,)


class Cell:
    """One step of a recurrent network. A subclass gives `name`, `step`, and what differs from the defaults below.

    The defaults describe a cell of one state h, as wide as hidden_size, and `gates` stacked gates with PyTorch's
    parameters weight_ih, weight_hh, bias_ih, bias_hh. Cells are values: equal if their fields are, never changed.
    """

    name: ClassVar[str]
    gates: ClassVar[int] = 1

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, Shape]:
        """Name -> shape, in the order in which they are listed and initialised. A shape may be a `Parameter`.

        With bias=False a cell leaves its biases out; `step` then reads None for them, which `linear` understands.
        """
        rows = self.gates * hidden_size
        shapes: dict[str, Shape] = {
            "weight_ih": (rows, input_size),
            "weight_hh": (rows, self.output_size(hidden_size)),
        }
        if bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        return shapes

    def states(self, hidden_size: int) -> Mapping[str, int | Shape]:
        """Name -> width of each state, in the order in which a call takes and returns them.

        A state may have several axes: {"c": (m, n)} is (B, m, n) in `step`, and a call's array has m * n columns.
        """
        return {"h": hidden_size}

    def output_size(self, hidden_size: int) -> int:
        """Width of the output of a step: as a rule that of the first state."""
        return math.prod(as_axes(next(iter(self.states(hidden_size).values()))))

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        """The equations: from the input, the old states and the parameters, the output and the new states."""
        raise NotImplementedError(f"{type(self).__name__} has no equations: define step(self, x, state, p)")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        """For a pickle, which names the class: ArgumentError if it has no name to import, a warning if only one
        script can."""
        warn_if_main(reference(type(self)))
        return super().__reduce_ex__(protocol)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *sorted(vars(self).items())))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


@explained_class
@dataclass(frozen=True)
class ElmanCell(Cell):
    """Simple recurrence, Elman 1990, "Finding structure in time":  h' = f(W x + b + U h + b'),  f = tanh or relu."""

    name: ClassVar[str] = "rnn"
    nonlinearity: Literal["tanh", "relu"] = "tanh"

    def __post_init__(self) -> None:
        checks.choice("nonlinearity", self.nonlinearity, ("tanh", "relu"))

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        activation = {"tanh": tanh, "relu": relu}[self.nonlinearity]
        h = activation(linear(x, p.weight_ih, p.bias_ih) + linear(state.h, p.weight_hh, p.bias_hh))
        return h, {"h": h}


@explained_class
@dataclass(frozen=True)
class GRUCell(Cell):
    """Gated recurrent unit, the reset gate applied to the product U h; gates in PyTorch's order r, z, n.

    After Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder for statistical machine
    translation", version 1. The form of PyTorch, Keras (reset_after=True) and ONNX (linear_before_reset=1): one
    matmul a step.
    """

    name: ClassVar[str] = "gru"
    gates: ClassVar[int] = 3

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        h = state.h
        xr, xz, xn = linear(x, p.weight_ih, p.bias_ih).split(3)
        hr, hz, hn = linear(h, p.weight_hh, p.bias_hh).split(3)
        r = sigmoid(xr + hr)
        z = sigmoid(xz + hz)
        n = tanh(xn + r * hn)
        h = (1 - z) * n + z * h
        return h, {"h": h}


@explained_class
@dataclass(frozen=True)
class ResetFirstGRUCell(Cell):
    """Gated recurrent unit, the reset gate applied to h before the product; parameters as those of `GRUCell`.

    Cho et al. 2014, the published version; Keras's reset_after=False, ONNX's linear_before_reset=0. The second matmul
    of a step waits for r. Of the two biases only the sum counts: Keras has one of them, so leave the other at zero.
    """

    name: ClassVar[str] = "gru_reset_first"
    gates: ClassVar[int] = 3

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        h = state.h
        xr, xz, xn = linear(x, p.weight_ih, p.bias_ih).split(3)
        ur, uz, un = p.weight_hh.split(3)
        br, bz, bn = (None, None, None) if p.bias_hh is None else p.bias_hh.split(3)
        r = sigmoid(xr + linear(h, ur, br))
        z = sigmoid(xz + linear(h, uz, bz))
        n = tanh(xn + linear(r * h, un, bn))
        h = (1 - z) * n + z * h
        return h, {"h": h}


@explained_class
@dataclass(frozen=True)
class LSTMCell(Cell):
    """Long short-term memory, Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000.

    No peepholes; gates in PyTorch's order i, f, g, o; states h and c.
    """

    name: ClassVar[str] = "lstm"
    gates: ClassVar[int] = 4

    def states(self, hidden_size: int) -> dict[str, int]:
        return {"h": hidden_size, "c": hidden_size}

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        gates = linear(x, p.weight_ih, p.bias_ih) + linear(state.h, p.weight_hh, p.bias_hh)
        i, f, g, o = gates.split(4)
        c = sigmoid(f) * state.c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(c)
        return h, {"h": h, "c": c}


@explained_class
@dataclass(frozen=True)
class ProjectedLSTMCell(Cell):
    """Long short-term memory with h projected to proj_size:  h = R (o * tanh(c)).

    Sak et al. 2014, "Long short-term memory recurrent neural network architectures for large scale acoustic
    modeling", as PyTorch's proj_size: R is the parameter weight_hr (proj_size, hidden_size), without a bias.
    """

    proj_size: int
    name: ClassVar[str] = "lstm_projected"
    gates: ClassVar[int] = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "proj_size", checks.integer("proj_size", self.proj_size, 1))

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, Shape]:
        return super().parameters(input_size, hidden_size, bias) | {"weight_hr": (self.proj_size, hidden_size)}

    def states(self, hidden_size: int) -> dict[str, int]:
        return {"h": self.proj_size, "c": hidden_size}

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        gates = linear(x, p.weight_ih, p.bias_ih) + linear(state.h, p.weight_hh, p.bias_hh)
        i, f, g, o = gates.split(4)
        c = sigmoid(f) * state.c + sigmoid(i) * tanh(g)
        h = linear(sigmoid(o) * tanh(c), p.weight_hr)
        return h, {"h": h, "c": c}
