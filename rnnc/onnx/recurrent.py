"""RNN, GRU and LSTM nodes: their attributes as cells, their weights as the parameters of a spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.cells import Cell, ElmanCell, GRUCell, LSTMCell, ResetFirstGRUCell
from rnnc.ir.errors import OnnxError
from rnnc.onnx.activations import applied
from rnnc.onnx.attributes import Attributes
from rnnc.onnx.cells import Applied, OnnxGRUCell, OnnxLSTMCell, OnnxRNNCell
from rnnc.onnx.file import Node
from rnnc.specs import GRU, LSTM, RNN, Recurrent, Spec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["RECURRENT", "Recurrence", "Weights", "parameters_of", "read_recurrence", "spec_of"]

RECURRENT = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
"""Ops, and the activations of one direction where none are given."""

STATES = {"RNN": ("h",), "GRU": ("h",), "LSTM": ("h", "c")}
DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
SIGMOID: Applied = ("sigmoid", 0.0, 0.0)
TANH: Applied = ("tanh", 0.0, 0.0)
RELU: Applied = ("relu", 0.0, 0.0)


@dataclass(frozen=True)
class Recurrence:
    """What a recurrent node computes. label: the node in messages.

    reverse: for each direction, whether it runs from the end. cells: theirs. batch_first: layout 1.
    hidden_size: as the node says, if it does.
    """

    label: str
    op: str
    reverse: tuple[bool, ...]
    cells: tuple[Cell, ...]
    batch_first: bool
    hidden_size: int | None

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the states, in the order of the node's inputs initial_h, initial_c and outputs Y_h, Y_c."""
        return STATES[self.op]


@dataclass(frozen=True)
class Weights:
    """The weights of a node, D directions first: w (D, G*H, I), r (D, G*H, H), b (D, 2*G*H), p (D, 3*H)."""

    w: Array
    r: Array
    b: Array | None = None
    p: Array | None = None


def read_recurrence(node: Node, peepholes: bool = False) -> Recurrence:
    """What a node's attributes say. peepholes: whether it has the input P. Raises OnnxError."""
    op = node.op.removeprefix("DynamicQuantize")
    given = Attributes(node)
    reverse = DIRECTIONS[given.choice("direction", "forward", DIRECTIONS)]
    usual = RECURRENT[op]
    names = given.texts("activations", usual * len(reverse))
    if len(names) != len(usual) * len(reverse):
        expected = f"expected {len(usual)} for each of {len(reverse)} directions"
        raise OnnxError(f"{node.label}: activations: {expected}, got {list(names)}")
    alphas, betas = given.floats("activation_alpha"), given.floats("activation_beta")
    if "activations" not in given:  # then nothing has an alpha, as in ONNX Runtime
        alphas = betas = ()
    functions = applied(node.label, names, alphas, betas)
    options = _options(op, given, peepholes)
    of_each = [functions[at : at + len(usual)] for at in range(0, len(functions), len(usual))]
    return Recurrence(
        label=node.label,
        op=op,
        reverse=reverse,
        cells=tuple(_cell(op, own, options) for own in of_each),
        batch_first=given.choice_of("layout", 0, (0, 1)) == 1,
        hidden_size=given.size("hidden_size"),
    )


def _options(op: str, given: Attributes, peepholes: bool) -> dict[str, Any]:
    """What all directions share."""
    clip = given.number("clip", None)
    if clip is not None and not clip >= 0:
        raise OnnxError(f"{given.label}: clip: expected a number >= 0, got {clip}")
    own: dict[str, Any] = {}
    if op == "GRU":
        own = {"linear_before_reset": given.choice_of("linear_before_reset", 0, (0, 1)) == 1}
    if op == "LSTM":
        own = {"input_forget": given.choice_of("input_forget", 0, (0, 1)) == 1, "peepholes": peepholes}
    return {"clip": clip} | own


def _cell(op: str, functions: Sequence[Applied], options: Mapping[str, Any]) -> Cell:
    """rnnc's own cell where it is just that, else ONNX's with its options."""
    plain = not any(value for name, value in options.items() if name not in ("clip", "linear_before_reset"))
    if plain and options["clip"] is None:
        if op == "RNN" and functions[0] in (TANH, RELU):
            return ElmanCell("tanh" if functions[0] == TANH else "relu")
        if op == "GRU" and tuple(functions) == (SIGMOID, TANH):
            return GRUCell() if options["linear_before_reset"] else ResetFirstGRUCell()
        if op == "LSTM" and tuple(functions) == (SIGMOID, TANH, TANH):
            return LSTMCell()
    kinds: dict[str, Callable[..., Cell]] = {"RNN": OnnxRNNCell, "GRU": OnnxGRUCell, "LSTM": OnnxLSTMCell}
    return kinds[op](*functions, **options)


# ---- specs and parameters


def spec_of(node: Recurrence, weights: Weights) -> Spec:
    """The spec of a node with these weights. Raises OnnxError if their shapes do not fit the node or each other."""
    input_size, hidden_size = _check_weights(node, weights)
    cells, bias, dtype = node.cells, weights.b is not None, weights.w.dtype
    common: dict[str, Any] = {"input_size": input_size, "hidden_size": hidden_size, "bias": bias, "dtype": dtype}
    common["bidirectional"] = len(cells) == 2
    if node.reverse != (True,) and len(set(cells)) == 1:
        match cells[0]:
            case ElmanCell(nonlinearity=function):
                return RNN(nonlinearity=function, **common)
            case GRUCell() | ResetFirstGRUCell():
                return GRU(reset_after=isinstance(cells[0], GRUCell), **common)
            case LSTMCell():
                return LSTM(**common)
    backward = cells[1] if len(set(cells)) == 2 else None
    return Recurrent(cells[0], backward=backward, reverse=node.reverse == (True,), **common)


def _check_weights(node: Recurrence, weights: Weights) -> tuple[int, int]:
    """(input_size, hidden_size)."""
    count, gates = len(node.cells), node.cells[0].gates
    if weights.w.dtype.name not in ("float32", "float64"):
        raise OnnxError(f"{node.label}: W: expected float32 or float64, got {weights.w.dtype}")
    for name, array, axes in (("W", weights.w, 3), ("R", weights.r, 3), ("B", weights.b, 2), ("P", weights.p, 2)):
        if array is not None and (array.ndim != axes or array.dtype != weights.w.dtype):
            expected = f"expected {axes} axes of {weights.w.dtype}"
            raise OnnxError(f"{node.label}: {name}: {expected}, got {array.dtype} of shape {array.shape}")
    hidden = weights.r.shape[-1] if node.hidden_size is None else node.hidden_size
    inner = weights.w.shape[-1]
    shapes: dict[str, tuple[int, ...]] = {"W": (count, gates * hidden, inner), "R": (count, gates * hidden, hidden)}
    shapes |= {"B": (count, 2 * gates * hidden), "P": (count, 3 * hidden)}
    for name, array in (("W", weights.w), ("R", weights.r), ("B", weights.b), ("P", weights.p)):
        if array is not None and array.shape != shapes[name]:
            meant = f"{count} directions, {gates} gates and hidden_size {hidden}"
            raise OnnxError(f"{node.label}: {name}: expected shape {shapes[name]} for {meant}, got {array.shape}")
    if not hidden or not inner:
        raise OnnxError(f"{node.label}: expected sizes >= 1, got input size {inner}, hidden_size {hidden}")
    return inner, hidden


ORDERS: Mapping[type[Cell], tuple[int, ...]] = {
    LSTMCell: (0, 2, 3, 1),  # i, f, c, o of ONNX's i, o, f, c
    GRUCell: (1, 0, 2),  # r, z, h of z, r, h
    ResetFirstGRUCell: (1, 0, 2),
}
"""For rnnc's own cells: which gate of ONNX's each of theirs is. All others have ONNX's order."""


def parameters_of(node: Recurrence, spec: Spec, weights: Weights) -> dict[str, Array]:
    """The weights as the parameters of `spec_of`."""
    found: dict[str, Array] = {}
    for number, way in enumerate(spec.ways):
        own: dict[str, Array] = {"weight_ih": weights.w[number], "weight_hh": weights.r[number]}
        if weights.b is not None:
            own["bias_ih"], own["bias_hh"] = np.split(weights.b[number], 2)
        order = ORDERS.get(type(way.cell), tuple(range(way.cell.gates)))
        own = {name: _reordered(array, order) for name, array in own.items()}
        if weights.p is not None:
            own["peephole"] = np.ascontiguousarray(weights.p[number])
        found |= {f"{name}_l0{way.suffix}": array for name, array in own.items()}
    return found


def _reordered(array: Array, order: Sequence[int]) -> Array:
    """The blocks of rows of the gates in another order."""
    blocks = np.split(array, len(order))
    return np.concatenate([blocks[k] for k in order])
