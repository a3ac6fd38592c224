"""Weights of other libraries as parameters of rnnc's specs: their gates in another order, their matrices transposed.

    weights = rnnc.take(rnnc.load("model.keras"), "layers/gru/cell/vars/")
    params = rnnc.gates.from_keras("GRU", weights["0"], weights["1"], weights["2"])
    model = rnnc.compile(rnnc.GRU(64, 128), params)

Each function takes the arrays of one layer and returns its parameters by name, "weight_ih_l0" and so on; the dicts of
several layers and directions are joined with `|`. The arrays that are given stay as they are. After this nothing knows
where weights came from: orders of gates exist in the table below, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.checking import checks
from rnnc.checking.arguments import explained
from rnnc.checking.arrays import as_array
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["from_cell", "from_cudnn", "from_dynet", "from_keras", "from_onnx"]

ORDERS = {
    "rnnc": {"RNN": "h", "GRU": "rzn", "LSTM": "ifgo"},
    "onnx": {"RNN": "h", "GRU": "zrn", "LSTM": "iofg"},
    "keras": {"RNN": "h", "GRU": "zrn", "LSTM": "ifgo"},
    "cudnn": {"GRU": "zrn", "LSTM": "ifgo"},
    "dynet": {"GRU": "Zrn", "LSTM": "ifog"},
}
"""The gates of each library in the order of its rows. i input, f forget, g candidate of c, o output; r reset, z update,
n candidate of h. Z is an update gate of the other sense, h' = (1 - Z) h + Z n: as 1 - sigmoid(a) is sigmoid(-a), its
weights are those of z with the other sign."""


@explained
def from_onnx(kind: str, W: Any, R: Any, B: Any = None, *, layer: int = 0) -> dict[str, Array]:
    """The parameters of an RNN, GRU or LSTM node of ONNX, from its inputs W, R and B.

    kind: "RNN", "GRU" or "LSTM". W: (D, G * H, I), R: (D, G * H, H), B: (D, 2 * G * H) or None, which is bias=False.
    A second direction gets names with "_reverse". A GRU with linear_before_reset=0 is `rnnc.GRU(reset_after=False)`.
    Source: https://onnx.ai/onnx/operators/onnx__LSTM.html, onnx__GRU.html, onnx__RNN.html.
    Raises ArgumentError, ArgumentTypeError or ShapeError.
    """
    order = _order("onnx", kind)
    w, r = _array("W", W, 3), _array("R", R, 3)
    b = None if B is None else _array("B", B, 2)
    rows = len(order) * r.shape[2]
    if w.shape[:2] != r.shape[:2] or w.shape[1] != rows or (b is not None and b.shape != (len(w), 2 * rows)):
        shapes = f"expected W (D, {len(order)} H, I), R (D, {len(order)} H, H), B (D, {2 * len(order)} H)"
        raise ShapeError(f"{kind}: {shapes}, got {w.shape}, {r.shape}, {None if b is None else b.shape}")
    if len(w) > 2:
        raise ShapeError(f"W: expected 1 or 2 directions, got {len(w)}")
    found: dict[str, Array] = {}
    for way in range(len(w)):
        b_ih, b_hh = (None, None) if b is None else (b[way, :rows], b[way, rows:])
        found |= _named(kind, order, w[way], r[way], b_ih, b_hh, layer, way == 1)
    return found


@explained
def from_keras(
    kind: str, kernel: Any, recurrent_kernel: Any, bias: Any = None, *, layer: int = 0, reverse: bool = False
) -> dict[str, Array]:
    """The parameters of a Keras layer SimpleRNN, GRU or LSTM, from the arrays of its cell.

    kind: "RNN", "GRU" or "LSTM". kernel: (I, G * H). recurrent_kernel: (H, G * H). bias: (G * H,), or None for
        use_bias=False. That of a GRU with reset_after=True, Keras's default, is (2, 3 * H): compile it as
        `rnnc.GRU(I, H)`, any other one as `rnnc.GRU(I, H, reset_after=False)`.
    layer, reverse: for the names; the cell of a Bidirectional layer's backward_layer has reverse=True.
    Source: https://keras.io/api/layers/recurrent_layers/ (the cells' call).
    Raises ArgumentError, ArgumentTypeError or ShapeError.
    """
    order = _order("keras", kind)
    w, r = _array("kernel", kernel, 2), _array("recurrent_kernel", recurrent_kernel, 2)
    rows = _check_kernels(order, w, r)
    b_ih, b_hh = _keras_biases(kind, bias, rows)
    return _named(kind, order, w.T, r.T, b_ih, b_hh, layer, reverse)


@explained
def from_cudnn(
    kind: str, kernel: Any, recurrent_kernel: Any, bias: Any, *, layer: int = 0, reverse: bool = False
) -> dict[str, Array]:
    """The parameters of a Keras layer CuDNNGRU or CuDNNLSTM, from its arrays.

    kind: "GRU" or "LSTM". kernel: (I, G * H). recurrent_kernel: (H, G * H). bias: (2 * G * H,), of the input and of h.
    cuDNN reads the numbers of each gate's block, which look like (I, H), as (H, I). Its GRU is `rnnc.GRU(I, H)`.
    Source: keras.layers.CuDNNGRU, and the conversion in Keras's hdf5_format.preprocess_weights_for_loading.
    Raises ArgumentError, ArgumentTypeError or ShapeError.
    """
    order = _order("cudnn", kind)
    w, r, b = _array("kernel", kernel, 2), _array("recurrent_kernel", recurrent_kernel, 2), _array("bias", bias, 1)
    rows = _check_kernels(order, w, r)
    if b.shape != (2 * rows,):
        raise ShapeError(f"bias: expected shape {(2 * rows,)}, got {b.shape}; a layer of Keras's own is from_keras")
    w, r = (np.concatenate([_as_rows(block) for block in np.split(a, len(order), axis=1)]) for a in (w, r))
    return _named(kind, order, w, r, b[:rows], b[rows:], layer, reverse)


@explained
def from_dynet(kind: str, *parameters: Any, forget_bias: float = 1.0, layer: int = 0) -> dict[str, Array]:
    """The parameters of one layer of a DyNet builder, from its arrays in the order of DyNet's own parameter list.

    kind: "LSTM", a (Compact)VanillaLSTMBuilder without layer norm: Wx (4 H, I), Wh (4 H, H), b (4 H); or "GRU", a
        GRUBuilder: x2z, h2z, bz, x2r, h2r, br, x2h, h2h, bh, to be compiled as `rnnc.GRU(I, H, reset_after=False)`.
    forget_bias: what the LSTM adds to its forget gate (DyNet's default: 1).
    Source: dynet/lstm.cc, dynet/nodes-lstm.cc and dynet/gru.cc.
    Raises ArgumentError, ArgumentTypeError or ShapeError.
    """
    order = _order("dynet", kind)
    expected = 3 if kind == "LSTM" else 9
    if len(parameters) != expected:
        raise ArgumentError(f"parameters: expected the {expected} arrays of a layer of {kind}, got {len(parameters)}")
    given = [_array(f"parameters[{n}]", value, 1 if n % 3 == 2 else 2) for n, value in enumerate(parameters)]
    w, r, b = (np.concatenate(given[part::3]) for part in range(3))
    rows = _check_kernels(order, w.T, r.T)
    if b.shape != (rows,):
        raise ShapeError(f"{kind}: expected biases of {rows} numbers, got {b.shape}")
    if kind == "LSTM":
        size = rows // len(order)
        b = b.copy()
        b[size : 2 * size] += checks.number("forget_bias", forget_bias, -1e30)
    return _named(kind, order, w, r, b, np.zeros_like(b), layer, False)


@explained
def from_cell(state: Mapping[str, Any], *, layer: int = 0, reverse: bool = False) -> dict[str, Array]:
    """The parameters of a torch.nn.LSTMCell, GRUCell or RNNCell, from its state_dict: the same with a layer's names.

    Raises ArgumentError, ArgumentTypeError or ShapeError.
    """
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    if not isinstance(state, Mapping):
        raise ArgumentTypeError(f"state: expected a cell's state_dict(), got {checks.came(state)}")
    if set(state) not in (set(names), set(names[:2])):
        raise ArgumentError(f"state: expected {', '.join(names)}, got {', '.join(map(str, state)) or 'nothing'}")
    suffix = _suffix(layer, reverse)
    arrays = {name: _array(name, state[name], 2 if "weight" in name else 1) for name in names if name in state}
    return {name + suffix: np.array(array, order="C") for name, array in arrays.items()}


# ---- from one order to another


def _order(library: str, kind: object) -> str:
    return ORDERS[library][checks.choice("kind", kind, tuple(ORDERS[library]))]


def _named(
    kind: str, order: str, w: Array, r: Array, b_ih: Array | None, b_hh: Array | None, layer: int, reverse: bool
) -> dict[str, Array]:
    """Arrays whose rows are gates in `order`, as parameters of a spec."""
    suffix = _suffix(layer, reverse)
    found = {"weight_ih": w, "weight_hh": r} | ({} if b_ih is None else {"bias_ih": b_ih, "bias_hh": b_hh})
    return {name + suffix: _reordered(kind, order, array) for name, array in found.items() if array is not None}


def _reordered(kind: str, order: str, array: Array) -> Array:
    blocks = dict(zip(order, np.split(array, len(order)), strict=True))
    blocks |= {gate.lower(): -block for gate, block in blocks.items() if gate.isupper()}
    return np.concatenate([blocks[gate] for gate in ORDERS["rnnc"][kind]])


def _as_rows(block: Array) -> Array:
    """The numbers of a block, (columns, rows) to look at, read as (rows, columns)."""
    return block.reshape(block.shape[::-1])


def _suffix(layer: object, reverse: object) -> str:
    way = "_reverse" if checks.flag("reverse", reverse) else ""
    return f"_l{checks.integer('layer', layer, 0)}{way}"


# ---- checks


def _array(name: str, value: object, axes: int) -> Array:
    array = as_array(name, value)
    if array.ndim != axes:
        raise ShapeError(f"{name}: expected {axes} axes, got shape {array.shape}")
    return array


def _check_kernels(order: str, w: Array, r: Array) -> int:
    """The columns of both kernels, all gates together: (I, G * H) and (H, G * H)."""
    gates, size = len(order), len(r)
    if r.shape[1] != gates * size or w.shape[1] != gates * size:
        what = f"expected (I, {gates} H) and (H, {gates} H) for {gates} gates"
        raise ShapeError(f"kernel, recurrent_kernel: {what}, got {w.shape} and {r.shape}")
    return gates * size


def _keras_biases(kind: str, bias: Any, rows: int) -> tuple[Array | None, Array | None]:
    """The biases of the input and of h. Keras has one, but for GRUs with reset_after=True."""
    if bias is None:
        return None, None
    b = as_array("bias", bias)
    if b.shape == (rows,):
        return b, np.zeros_like(b)
    if kind == "GRU" and b.shape == (2, rows):
        return b[0], b[1]
    expected = f"{(rows,)} or {(2, rows)}" if kind == "GRU" else f"{(rows,)}"
    hint = "; the arrays of a CuDNN layer are from_cudnn's" if b.shape == (2 * rows,) else ""
    raise ShapeError(f"bias: expected shape {expected}, got {b.shape}{hint}")
