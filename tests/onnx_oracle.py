"""RNN, GRU and LSTM of the ONNX standard, written in NumPy from its equations: an oracle that shares no code with rnnc.

https://onnx.ai/onnx/operators/onnx__LSTM.html, onnx__GRU.html, onnx__RNN.html. Computes in the dtype of its arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Function = Callable[[Array], Array]

FUNCTIONS: Mapping[str, Callable[[float, float], Function]] = {
    "Relu": lambda a, b: lambda x: np.maximum(x, 0),
    "Tanh": lambda a, b: np.tanh,
    "Sigmoid": lambda a, b: lambda x: 1 / (1 + np.exp(-x)),
    "Affine": lambda a, b: lambda x: a * x + b,
    "LeakyRelu": lambda a, b: lambda x: np.where(x >= 0, x, a * x),
    "ThresholdedRelu": lambda a, b: lambda x: np.where(x > a, x, 0),
    "ScaledTanh": lambda a, b: lambda x: a * np.tanh(b * x),
    "HardSigmoid": lambda a, b: lambda x: np.clip(a * x + b, 0, 1),
    "Elu": lambda a, b: lambda x: np.where(x >= 0, x, a * np.expm1(np.minimum(x, 0))),
    "Softsign": lambda a, b: lambda x: x / (1 + np.abs(x)),
    "Softplus": lambda a, b: lambda x: np.logaddexp(0, x),
}
ALPHA = {"Affine": 1.0, "LeakyRelu": 0.01, "ThresholdedRelu": 1.0, "ScaledTanh": 1.0, "HardSigmoid": 0.2, "Elu": 1.0}
BETA = {"Affine": 0.0, "ScaledTanh": 1.0, "HardSigmoid": 0.5}
DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def functions(attributes: Mapping[str, Any], op: str, directions: int) -> list[list[Function]]:
    """Per direction; an alpha (a beta) is consumed by each function that has one, in order."""
    names = attributes.get("activations", DEFAULTS[op] * directions)
    alphas, betas = (iter(_stored(attributes.get(f"activation_{which}", []))) for which in ("alpha", "beta"))
    made = [
        FUNCTIONS[n](
            next(alphas, ALPHA[n]) if n in ALPHA else 0.0,
            next(betas, BETA[n]) if n in BETA else 0.0,
        )
        for n in names
    ]
    return [made[i::1][: len(DEFAULTS[op])] for i in range(0, len(made), len(DEFAULTS[op]))]


def _stored(numbers: Sequence[float]) -> list[float]:
    """Numbers as a file holds them."""
    return [float(np.float32(number)) for number in numbers]


def recurrent(op: str, attributes: Mapping[str, Any], inputs: Sequence[Array | None]) -> list[Array]:
    """[Y, Y_h] or [Y, Y_h, Y_c]. A row of length 0 gives zeros throughout, as ONNX Runtime does."""
    x, w, r, b, lengths, h0, c0, p = [*inputs, *[None] * (8 - len(inputs))]
    assert x is not None and w is not None and r is not None
    batch_first = attributes.get("layout", 0) == 1
    if batch_first:
        x = x.swapaxes(0, 1)
        h0, c0 = (None if s is None else s.swapaxes(0, 1) for s in (h0, c0))
    steps, batch, _ = x.shape
    count, _, hidden = r.shape
    lengths = np.full(batch, steps) if lengths is None else lengths
    zeros = np.zeros((count, batch, hidden), x.dtype)
    h0, c0 = (zeros if s is None else s for s in (h0, c0))
    b = np.zeros((count, 2 * GATES[op] * hidden), x.dtype) if b is None else b
    p = np.zeros((count, 3 * hidden), x.dtype) if p is None else p
    bound = _stored([attributes.get("clip", np.inf)])[0]
    y = np.zeros((steps, count, batch, hidden), x.dtype)
    last = [zeros.copy(), zeros.copy()]
    ways = {"forward": [1], "reverse": [-1], "bidirectional": [1, -1]}[attributes.get("direction", "forward")]
    for d, (way, f) in enumerate(zip(ways, functions(attributes, op, count), strict=True)):
        for row in range(batch):
            h, c = h0[d, row], c0[d, row]
            for t in range(lengths[row])[::way]:
                h, c = _step(op, attributes, f, bound, x[t, row], h, c, w[d], r[d], b[d], p[d])
                y[t, d, row] = h
            if lengths[row]:
                last[0][d, row], last[1][d, row] = h, c
    if batch_first:
        y, last = y.transpose(2, 0, 1, 3), [s.swapaxes(0, 1) for s in last]
    return [y, *last[: 2 if op == "LSTM" else 1]]


def _step(
    op: str,
    attributes: Mapping[str, Any],
    f: list[Function],
    bound: float,
    x: Array,
    h: Array,
    c: Array,
    w: Array,
    r: Array,
    b: Array,
    p: Array,
) -> tuple[Array, Array]:
    def clip(v: Array) -> Array:
        return np.clip(v, -bound, bound)

    wb, rb = np.split(b, 2)
    xs = np.split(w @ x + wb, GATES[op])
    hs = np.split(r @ h + rb, GATES[op])
    if op == "RNN":
        h = f[0](clip(xs[0] + hs[0]))
    elif op == "GRU":
        z, reset = (f[0](clip(xs[k] + hs[k])) for k in (0, 1))
        if attributes.get("linear_before_reset", 0):
            inner = reset * hs[2]
        else:
            inner = np.split(r, 3)[2] @ (reset * h) + np.split(rb, 3)[2]
        h = (1 - z) * f[1](clip(xs[2] + inner)) + z * h
    else:
        see_i, see_o, see_f = np.split(p, 3)
        i = f[0](clip(xs[0] + hs[0] + see_i * c))
        forget = f[0](clip(xs[2] + hs[2] + see_f * c))
        if attributes.get("input_forget", 0):
            forget = 1 - i
        c = forget * c + i * f[1](clip(xs[3] + hs[3]))
        h = f[0](clip(xs[1] + hs[1] + see_o * c)) * f[2](c)
    return h, c
