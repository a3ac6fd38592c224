"""Specs: descriptions of recurrent networks. `LSTM`, `GRU` and `RNN` take PyTorch's arguments, `Recurrent` any cell.

A spec is frozen, checked when it is made, equal by value and hashable. It gives the names and shapes of its parameters,
and the plain description that lowering reads. It holds no arrays.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, cast

import numpy as np

from rnnc.cells import (
    Cell,
    ElmanCell,
    GRUCell,
    LSTMCell,
    Parameter,
    ProjectedLSTMCell,
    ResetFirstGRUCell,
    Shape,
    as_axes,
)
from rnnc.checking import checks
from rnnc.checking.arguments import explained_class
from rnnc.checking.declarations import cell_from_dict, cell_to_dict, check_cell
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, RnncWarning
from rnnc.ir.stacks import Direction, Stack, Step
from rnnc.plain_data import PlainData
from rnnc.references import check_trusted

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = ["GRU", "LSTM", "RNN", "Recurrent", "Spec", "Way"]


class Way(NamedTuple):
    """A direction of a layer. suffix: of its parameters' names. reverse: True if it runs from the last step."""

    suffix: str
    cell: Cell
    reverse: bool = False


class Spec(PlainData):
    """The base of specs: frozen dataclasses whose fields are the arguments, checked when a spec is made."""

    if TYPE_CHECKING:  # each subclass declares them again, in PyTorch's order
        input_size: int
        hidden_size: int
        num_layers: int
        bias: bool
        batch_first: bool
        dropout: float
        bidirectional: bool
        dtype: DTypeLike  # may be given as a NumPy dtype or scalar type; is "float32" or "float64" afterwards

        @property
        def cell(self) -> Cell:
            """The equations of one step."""

    def __post_init__(self) -> None:
        if type(self) not in SPECS.values():
            raise ArgumentTypeError(f"{type(self).__name__}: for new equations use rnnc.Recurrent(cell, ...)")
        for field in fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, field.name, _check(field.name, getattr(self, field.name)))
        if self.dropout and self.num_layers == 1:
            _warn(
                f"dropout={self.dropout} acts between layers, and num_layers is 1: it does nothing; "
                "for dropout behind the layer put rnnc.Dropout after it in a rnnc.Sequential"
            )

    # Python takes a millisecond to generate these for four classes of ten fields.

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if type(self) is type(other) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    def __repr__(self) -> str:
        shown = [f"{name}={value!r}" for name, value, default in _fields(self) if value != default]
        return f"{type(self).__name__}({', '.join(shown)})"

    # ---- sizes and names

    @property
    def num_directions(self) -> int:
        """The number of directions, D in the shapes: 2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def output_size(self) -> int:
        """The width of the output, both directions together."""
        return self.num_directions * self.cell.output_size(self.hidden_size)

    @property
    def states(self) -> dict[str, int]:
        """The width of each state, by name, in the order of a call. A state's array is (num_layers * D, B, width).

        The width of a state with several axes is the product of their sizes.
        """
        return {name: math.prod(as_axes(size)) for name, size in self.cell.states(self.hidden_size).items()}

    def parameter_shapes(self) -> dict[str, Shape]:
        """The shape of every parameter, by name, in PyTorch's order.

        The names are weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, weight_ih_l0_reverse, ..., weight_ih_l1, ...
        """
        return {
            base + layer.suffix: tuple(shape)
            for directions in self.stack().layers
            for layer in directions
            for base, shape in layer.parameters.items()
        }

    def init(self, seed: int | np.random.Generator = 0) -> dict[str, NDArray[Any]]:
        """New parameters: name -> array in the spec's dtype.

        Each is made by the initializer that its cell declares (`rnnc.Parameter`). The default is PyTorch's
        distribution, uniform in [-1/sqrt(H), 1/sqrt(H)] with H = hidden_size; vectors whose name is that of a norm's
        gain or bias start at 1 or 0 (`rnnc.initializers.default`).
        seed: an integer in 0..2**128, or a generator. The same seed gives the same numbers, which are not those of
        PyTorch's generator. In float32 they are the rounded numbers of float64.
        Raises ArgumentError or ArgumentTypeError.
        """
        from rnnc.initializers import Uniform, default, started

        if not isinstance(seed, np.random.Generator):
            seed = np.random.default_rng(checks.integer("seed", seed, 0, 2**128))
        bound = 1 / math.sqrt(self.hidden_size)
        found = {}
        for layer in self.stack().flat:
            for base, shape in layer.parameters.items():
                name, init = base + layer.suffix, shape.init if isinstance(shape, Parameter) else None
                init = default(base, shape, Uniform(-bound, bound)) if init is None else init
                found[name] = started(name, init, tuple(shape), seed, cast(str, self.dtype))
        return found

    def stack(self) -> Stack:
        """The plain description that lowering reads: one `Direction` per layer and direction."""
        layers = []
        width = self.input_size
        for k in range(self.num_layers):
            layers.append(tuple(self._layer(width, f"_l{k}{way.suffix}", way) for way in self.ways))
            width = self.output_size
        return Stack(self.input_size, cast(str, self.dtype), tuple(layers))

    @property
    def ways(self) -> tuple[Way, ...]:
        """The directions of every layer."""
        return (Way("", self.cell), Way("_reverse", self.cell, reverse=True))[: self.num_directions]

    @property
    def reads_ahead(self) -> bool:
        """True if a step depends on later steps, so that a sequence cannot be run piece by piece."""
        return any(way.reverse for way in self.ways)

    @property
    def is_ours(self) -> bool:
        """True if rnnc's own cells compute the steps, so that the arguments say all about the equations."""
        return all(type(way.cell).__module__ == Cell.__module__ for way in self.ways)

    def _layer(self, width: int, suffix: str, way: Way) -> Direction:
        cell, size = way.cell, self.hidden_size
        parameters = cell.parameters(width, size, self.bias)
        axes = {name: as_axes(declared) for name, declared in cell.states(size).items()}
        several = {name: sizes for name, sizes in axes.items() if len(sizes) > 1}
        step: Step = cell.step
        if several:
            from rnnc.ir.lower import with_axes

            step = with_axes(step, several)
        return Direction(
            suffix=suffix,
            parameters=parameters,
            states={name: math.prod(sizes) for name, sizes in axes.items()},
            output_size=cell.output_size(size),
            reverse=way.reverse,
            step=step,
            optional=tuple(name for name in cell.parameters(width, size, True) if name not in parameters),
        )

    # ---- plain data

    def to_dict(self) -> dict[str, Any]:
        """Every argument as plain data, and "type", the name of the spec's class.

        A cell becomes {"type": "module:Class", ...}. Raises ArgumentError or ArgumentTypeError if a cell has no form as
        plain data.
        """
        data = {"type": type(self).__name__} | {name: value for name, value, _ in _fields(self)}
        return data | {name: cell_to_dict(value) for name, value in data.items() if isinstance(value, Cell)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, trusted: Collection[str] = ()) -> Self:
        """The spec that `to_dict` described.

        data: may leave out arguments that have a default, and "type" if the method is called on a subclass.
        trusted: names of modules that may be imported for a user's cell. Importing a module runs it, so by default a
            cell must be in rnnc, or in a module that the program has already imported.
        Raises ArgumentError or ArgumentTypeError.
        """
        trusted = check_trusted(trusted)
        if not isinstance(data, Mapping):
            raise ArgumentTypeError(f"data: expected a dict such as spec.to_dict() returns, got {checks.came(data)}")
        values = dict(data)
        kind = checks.choice("type", values.pop("type", None if cls is Spec else cls.__name__), tuple(SPECS))
        if not issubclass(SPECS[kind], cls):
            raise ArgumentError(
                f"type: {cls.__name__}.from_dict got the data of a {kind}; use rnnc.{kind} or rnnc.Spec"
            )
        check_arguments(SPECS[kind], values)
        cells = {name: values[name] for name in ("cell", "backward") if isinstance(values.get(name), Mapping)}
        values |= {name: cell_from_dict(value, trusted) for name, value in cells.items()}
        return cast(Self, SPECS[kind](**values))


@explained_class
@dataclass(frozen=True, repr=False, eq=False)
class Recurrent(Spec):
    """Layers of any cell: `rnnc.Recurrent(MyCell(), 64, 128)`. The other arguments are PyTorch's.

    cell: an instance of a subclass of `rnnc.Cell`.
    input_size, hidden_size, num_layers: integers >= 1.
    bias: False if the cell is to leave out its biases.
    batch_first: True if x and the output are (B, T, size), not (T, B, size). States always have the batch second.
    dropout: in [0, 1), between layers. It acts in training only. With one layer it has no effect, and an RnncWarning
        says so.
    bidirectional: True for a second direction in each layer, from the last step to the first. The outputs of both
        directions are concatenated.
    dtype: "float32" or "float64", or such a NumPy dtype, of parameters, inputs, outputs and arithmetic.
    backward: the cell of the second direction of bidirectional layers, if it is not `cell`. Its states and its output
        must have the same names and widths.
    reverse: True if the only direction runs from each row's own last step to its first.
    Raises ArgumentError, ArgumentTypeError or DtypeError.
    """

    cell: Cell
    input_size: int
    hidden_size: int
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False
    dtype: DTypeLike = "float32"
    backward: Cell | None = None
    reverse: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_cell(self.cell, self.input_size, self.hidden_size, self.bias)
        if self.reverse and self.bidirectional:
            raise ArgumentError("reverse: a bidirectional layer has a reverse direction already; expected False")
        if self.backward is not None:
            self._check_backward(self.backward)

    def _check_backward(self, backward: Cell) -> None:
        check_cell(backward, self.input_size, self.hidden_size, self.bias)
        if not self.bidirectional:
            raise ArgumentError("backward: only a layer with bidirectional=True has a second direction")
        for what, came, wanted in (
            ("states", backward.states(self.hidden_size), self.cell.states(self.hidden_size)),
            ("output_size", backward.output_size(self.hidden_size), self.cell.output_size(self.hidden_size)),
        ):
            if came != wanted:
                raise ArgumentError(f"backward: {what} is {came}, that of cell is {wanted}; they must be the same")

    @property
    def ways(self) -> tuple[Way, ...]:
        if self.bidirectional:
            return Way("", self.cell), Way("_reverse", self.backward or self.cell, reverse=True)
        return (Way("", self.cell, reverse=self.reverse),)


@explained_class
@dataclass(frozen=True, repr=False, eq=False)
class RNN(Spec):
    """Elman's network, as torch.nn.RNN (`rnnc.cells.ElmanCell`). Other arguments: see `Recurrent`.

    nonlinearity: "tanh" or "relu".
    """

    input_size: int
    hidden_size: int
    num_layers: int = 1
    nonlinearity: Literal["tanh", "relu"] = "tanh"
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False
    dtype: DTypeLike = "float32"

    @property
    def cell(self) -> Cell:
        return ElmanCell(self.nonlinearity)


@explained_class
@dataclass(frozen=True, repr=False, eq=False)
class GRU(Spec):
    """Gated recurrent units, as torch.nn.GRU. Other arguments: see `Recurrent`.

    reset_after: True if the reset gate acts after the product with h (PyTorch's form, `rnnc.cells.GRUCell`), False if
        it acts before it (Cho et al. 2014, `rnnc.cells.ResetFirstGRUCell`). The parameters are the same.
    """

    input_size: int
    hidden_size: int
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False
    reset_after: bool = True
    dtype: DTypeLike = "float32"

    @property
    def cell(self) -> Cell:
        return GRUCell() if self.reset_after else ResetFirstGRUCell()


@explained_class
@dataclass(frozen=True, repr=False, eq=False)
class LSTM(Spec):
    """Long short-term memory, as torch.nn.LSTM (`rnnc.cells.LSTMCell`). Other arguments: see `Recurrent`.

    proj_size: the size to which h is projected, less than hidden_size (`rnnc.cells.ProjectedLSTMCell`); 0 = none.
    """

    input_size: int
    hidden_size: int
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False
    proj_size: int = 0
    dtype: DTypeLike = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.proj_size >= self.hidden_size:
            raise ArgumentError(f"proj_size: expected less than hidden_size = {self.hidden_size}, got {self.proj_size}")

    @property
    def cell(self) -> Cell:
        return ProjectedLSTMCell(self.proj_size) if self.proj_size else LSTMCell()


SPECS: dict[str, type[Spec]] = {"RNN": RNN, "GRU": GRU, "LSTM": LSTM, "Recurrent": Recurrent}


def _check(name: str, value: object) -> object:
    """The normal form of an argument. Its name decides the check, because a name means the same in every spec."""
    match name:
        case "input_size" | "hidden_size" | "num_layers":
            return checks.integer(name, value, 1)
        case "proj_size":
            return checks.integer(name, value, 0)
        case "bias" | "batch_first" | "bidirectional" | "reset_after" | "reverse":
            return checks.flag(name, value)
        case "dropout":
            return checks.probability(name, value)
        case "nonlinearity":
            return checks.choice(name, value, ("tanh", "relu"))
        case "dtype":
            return checks.dtype(name, value)
        case "cell" | "backward" if isinstance(value, Cell):
            return value
        case "backward" if value is None:
            return None
        case _:
            hint = "; call the class to make one" if isinstance(value, type) else ""
            raise ArgumentTypeError(
                f"{name}: expected an instance of a subclass of rnnc.Cell, got {checks.came(value)}{hint}"
            )


def _warn(message: str) -> None:
    """Warns (RnncWarning) at the line that makes a spec: the first frame outside rnnc and generated code."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and (frame.f_code.co_filename == "<string>" or _is_own(frame)):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, RnncWarning, stacklevel=level)


def _is_own(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).split(".")[0] == "rnnc"


def _fields(spec: Spec) -> Iterator[tuple[str, Any, Any]]:
    """The name, value and default of every argument."""
    return ((f.name, getattr(spec, f.name), f.default) for f in fields(spec))  # type: ignore[arg-type]


def check_arguments(kind: type, values: Mapping[str, Any]) -> None:
    """Raises ArgumentError if plain data has an argument unknown to a dataclass, or lacks one that it needs."""
    known = {f.name: f for f in fields(kind)}
    for name in values:
        if name not in known:
            hint = checks.suggestion(str(name), known)
            raise ArgumentError(f"{checks.shown(name)} is not an argument of {kind.__name__}{hint}")
    missing = [name for name, f in known.items() if f.default is MISSING and name not in values]
    if missing:
        raise ArgumentError(f"{kind.__name__} needs {' and '.join(missing)}")
