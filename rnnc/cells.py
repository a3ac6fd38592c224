"""Cells: the equations of one time step, written over symbolic values.

A cell declares its parameters and states, and defines one step. Everything after lowering sees only the equations. To
write a cell, subclass `Cell` (as a frozen dataclass if it has fields), and pass an instance to `rnnc.Recurrent`:

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
            n = tanh(xn + linear(f * state.h, un, bn))            # a second matmul, which needs the first
            h = (1 - f) * state.h + f * n
            return h, {"h": h}

Shapes in a step: x is (B, input width), a state is (B, its width), a weight is (rows, columns), a bias is (rows,).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, SupportsIndex

from rnnc.checking import checks
from rnnc.checking.arguments import explained_class
from rnnc.ir.equations import Value, linear, relu, sigmoid, tanh
from rnnc.ir.errors import ArgumentTypeError
from rnnc.references import reference, warn_if_main

if TYPE_CHECKING:
    from rnnc.initializers import Init

__all__ = ["Cell", "ElmanCell", "GRUCell", "LSTMCell", "Parameter", "ProjectedLSTMCell", "ResetFirstGRUCell"]

Shape = tuple[int, ...]


class Parameter(tuple[int, ...]):
    """A parameter's shape with its initializer, for `Cell.parameters`: `rnnc.Parameter((hidden_size,), init="ones")`.

    It is a tuple, equal to its shape.

    shape: a tuple of one or two sizes.
    init: an initializer (`rnnc.initializers`), "zeros", "ones", "orthogonal", "xavier_uniform", "xavier_normal", or a
        function of (shape, generator). None: the default, as for a bare shape (`Spec.init`).
    Raises ArgumentError or ArgumentTypeError.
    """

    init: Init | None

    def __new__(cls, shape: Shape, init: Init | str | None = None) -> Self:
        if not isinstance(shape, tuple):
            raise ArgumentTypeError(f"shape: expected a tuple of sizes, got {checks.came(shape)}")
        from rnnc.initializers import check_init

        made = super().__new__(cls, shape)
        made.init = check_init("init", init, shape)
        return made

    def __getnewargs__(self) -> tuple[Shape, Init | None]:
        return tuple(self), self.init


def as_axes(size: int | Shape) -> Shape:
    """The sizes of a state's axes after the batch axis, from its declaration: one width, or a tuple of sizes."""
    return size if isinstance(size, tuple) else (size,)


class Cell:
    """The base of cells. A subclass defines `name` and `step`, and overrides the defaults below where they differ.

    By default a cell has one state h of width hidden_size, and `gates` stacked gates with PyTorch's parameters
    weight_ih, weight_hh, bias_ih and bias_hh. Cells are values: they never change, and are equal if their fields are.
    """

    name: ClassVar[str]
    gates: ClassVar[int] = 1

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, Shape]:
        """The shape of each parameter, by name, in the order in which they are listed and initialised.

        A shape is a tuple of one or two sizes, or a `Parameter`. Without `bias` a cell leaves out its biases; `step`
        then reads None for them, which `linear` accepts.
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
        """The width of each state, by name, in the order in which a call takes and returns them.

        A state may have several axes: {"c": (m, n)} is (B, m, n) in `step`, and has m * n columns in a call's array.
        """
        return {"h": hidden_size}

    def output_size(self, hidden_size: int) -> int:
        """The width of the output of a step. The default is that of the first state."""
        return math.prod(as_axes(next(iter(self.states(hidden_size).values()))))

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        """The equations of one step: returns (output, {state: new value}).

        x: (B, input width). state: its attributes are the old states, (B, width). p: its attributes are the parameters.
        The output is (B, output_size). The values are symbolic; see `rnnc.ir.equations` for their functions.
        """
        raise NotImplementedError(f"{type(self).__name__} has no equations: define step(self, x, state, p)")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        """Pickles the cell. The pickle names its class.

        Raises ArgumentError if the class cannot be imported by name. Warns (RnncWarning) if it is defined in the main
        script.
        """
        warn_if_main(reference(type(self)))
        return super().__reduce_ex__(protocol)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *sorted(vars(self).items())))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


@explained_class
@dataclass(frozen=True, repr=False, eq=False)  # `Cell` has both
class ElmanCell(Cell):
    """Simple recurrence:  h' = f(W x + b + U h + b'),  f = tanh or relu (Elman 1990, "Finding structure in time")."""

    name: ClassVar[str] = "rnn"
    nonlinearity: Literal["tanh", "relu"] = "tanh"

    def __post_init__(self) -> None:
        checks.choice("nonlinearity", self.nonlinearity, ("tanh", "relu"))

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        activation = {"tanh": tanh, "relu": relu}[self.nonlinearity]
        h = activation(linear(x, p.weight_ih, p.bias_ih) + linear(state.h, p.weight_hh, p.bias_hh))
        return h, {"h": h}


@explained_class
@dataclass(frozen=True, repr=False, eq=False)  # `Cell` has both
class GRUCell(Cell):
    """Gated recurrent unit whose reset gate multiplies the product U h. The gates are in PyTorch's order r, z, n.

    After Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder for statistical machine
    translation", version 1. PyTorch, Keras (reset_after=True) and ONNX (linear_before_reset=1) have this form. It needs
    one matmul per step.
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
@dataclass(frozen=True, repr=False, eq=False)  # `Cell` has both
class ResetFirstGRUCell(Cell):
    """Gated recurrent unit whose reset gate multiplies h before the product. The parameters are those of `GRUCell`.

    Cho et al. 2014, the published version. Keras (reset_after=False) and ONNX (linear_before_reset=0) have this form.
    A step has two matmuls, of which the second needs r. Only the sum of the two biases matters. Keras has one bias, so
    for its weights set the other one to zero.
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
@dataclass(frozen=True, repr=False, eq=False)  # `Cell` has both
class LSTMCell(Cell):
    """Long short-term memory, Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000.

    It has no peepholes. The gates are in PyTorch's order i, f, g, o, and the states are h and c.
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
@dataclass(frozen=True, repr=False, eq=False)  # `Cell` has both
class ProjectedLSTMCell(Cell):
    """Long short-term memory whose h is projected to proj_size:  h = R (o * tanh(c)).

    Sak et al. 2014, "Long short-term memory recurrent neural network architectures for large scale acoustic
    modeling". As in PyTorch, R is the parameter weight_hr (proj_size, hidden_size), without a bias.
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
