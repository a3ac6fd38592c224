"""Models that others have trained, as networks of rnnc: RTNeural's JSON files and RNNoise 0.1.

RTNeural (https://github.com/jatinchowdhury18/RTNeural, BSD-3-Clause) writes Keras layers as JSON; RNNoise
(Valin 2018, BSD-3-Clause) holds int8 weights. Their data lies beside a checkout, where there is one (`REAL`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import rnnc
from rnnc.ir.equations import Value, linear, relu, sigmoid

REAL = Path(__file__).resolve().parents[1].parent / "shared" / "real"
Arrays = dict[str, Any]

# ---- RTNeural


def rtneural(text: bytes) -> tuple[rnnc.Sequential, Arrays]:
    """A Keras model's layers."""
    layers: list[Any] = []
    params: Arrays = {}
    for data in json.loads(text)["layers"]:
        layer, arrays = KERAS[data["type"]](data, [np.asarray(w, np.float32) for w in data["weights"]])
        params |= {f"{len(layers)}.{name}": array for name, array in arrays.items()}
        layers += [layer, rnnc.Activation(data["activation"])] if data["activation"] else [layer]
        if data["type"] in ("lstm", "gru"):
            layers.pop()  # the activation is the cell's own
    return rnnc.Sequential(*layers), params


def _dense(data: Any, w: list[Any]) -> tuple[Any, Arrays]:
    return rnnc.Linear(*w[0].shape), {"weight": w[0].T, "bias": w[1]}


def _conv(data: Any, w: list[Any]) -> tuple[Any, Arrays]:
    (taps, inner, units), groups = w[0].shape, data["groups"]
    layer = rnnc.Conv1d(inner * groups, units, taps, dilation=data["dilation"][0], groups=groups)
    return layer, {"weight": w[0].transpose(2, 1, 0), "bias": w[1]}


def _batch_norm(data: Any, w: list[Any]) -> tuple[Any, Arrays]:
    names = ("weight", "bias", "running_mean", "running_var")[-len(w) :]
    layer = rnnc.BatchNorm(len(w[0]), eps=data["epsilon"], affine=len(w) == 4)
    return layer, dict(zip(names, w, strict=True))


def _prelu(data: Any, w: list[Any]) -> tuple[Any, Arrays]:
    return rnnc.PReLU(w[0].size), {"weight": w[0].ravel()}


def _lstm(data: Any, w: list[Any]) -> tuple[Any, Arrays]:
    spec = rnnc.LSTM(w[0].shape[0], w[1].shape[0])
    return spec, _recurrent(w[0], w[1], w[2], np.zeros_like(w[2]))


def _gru(data: Any, w: list[Any]) -> tuple[Any, Arrays]:
    """Keras stacks z, r, n; PyTorch r, z, n."""
    order = np.arange(w[1].shape[1]).reshape(3, -1)[[1, 0, 2]].ravel()
    return rnnc.GRU(w[0].shape[0], w[1].shape[0]), _recurrent(w[0][:, order], w[1][:, order], *w[2][:, order])


def _recurrent(kernel: Any, recurrent: Any, bias_ih: Any, bias_hh: Any) -> Arrays:
    values = {"weight_ih": kernel.T, "weight_hh": recurrent.T, "bias_ih": bias_ih, "bias_hh": bias_hh}
    return {f"{name}_l0": np.ascontiguousarray(array) for name, array in values.items()}


KERAS = {
    "dense": _dense,
    "time-distributed-dense": _dense,
    "conv1d": _conv,
    "batchnorm": _batch_norm,
    "prelu": _prelu,
    "lstm": _lstm,
    "gru": _gru,
}


def rtneural_torch(text: bytes) -> tuple[rnnc.Sequential, Arrays]:
    """A state_dict of two recurrent modules and a dense one."""
    arrays = {name: np.asarray(values, np.float32) for name, values in json.loads(text).items()}
    kind = rnnc.LSTM if "lstm.weight_ih_l0" in arrays else rnnc.GRU
    numbers = {kind.__name__.lower(): "0", f"{kind.__name__.lower()}2": "1", "dense": "2"}
    params = {f"{numbers[owner]}.{name}": a for (owner, name), a in ((k.split("."), v) for k, v in arrays.items())}
    return rnnc.Sequential(kind(1, 8), kind(8, 8, 3), rnnc.Linear(8, 1)), params


# ---- RNNoise


@dataclass(frozen=True)
class ReluGRU(rnnc.Cell):
    """The GRU of RNNoise: gates z, r; the candidate resets the state first, and is a relu."""

    name = "relu_gru"
    gates = 3

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        xz, xr, xn = linear(x, p.weight_ih, p.bias_ih).split(3)
        uz, ur, un = p.weight_hh.split(3)
        z, r = sigmoid(xz + linear(state.h, uz)), sigmoid(xr + linear(state.h, ur))
        h = z * state.h + (1 - z) * relu(xn + linear(r * state.h, un))
        return h, {"h": h}

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        shapes = super().parameters(input_size, hidden_size, bias)
        return {name: shape for name, shape in shapes.items() if name != "bias_hh"}


def rnnoise(arrays: Arrays) -> tuple[rnnc.Graph, Arrays]:
    """Three GRUs with skips around them, and two heads."""
    tanh, squash = rnnc.Activation("tanh"), rnnc.Activation("sigmoid")
    net = rnnc.Graph(
        inputs={"x": 42},
        layers={
            "input_dense": (rnnc.Linear(42, 24), "x"),
            "dense": (tanh, "input_dense"),
            "vad_gru": (rnnc.Recurrent(ReluGRU(), 24, 24), "dense"),
            "vad_output": (rnnc.Linear(24, 1), "vad_gru"),
            "noise_input": (rnnc.Concat(), "dense", "vad_gru", "x"),
            "noise_gru": (rnnc.Recurrent(ReluGRU(), 90, 48), "noise_input"),
            "denoise_input": (rnnc.Concat(), "vad_gru", "noise_gru", "x"),
            "denoise_gru": (rnnc.Recurrent(ReluGRU(), 114, 96), "denoise_input"),
            "denoise_output": (rnnc.Linear(96, 22), "denoise_gru"),
            "gains": (squash, "denoise_output"),
            "vad": (squash, "vad_output"),
        },
        outputs=("gains", "vad"),
    )
    params = {}
    for name, shape in net.parameter_shapes().items():
        layer, _, base = name.partition(".")
        kind = {"weight": "weights", "weight_ih_l0": "weights", "weight_hh_l0": "recurrent_weights"}.get(base, "bias")
        values = arrays[f"{layer}_{kind}"].astype(np.float32) / 256
        params[name] = np.ascontiguousarray(values.reshape(shape[::-1]).T)
    return net, params
