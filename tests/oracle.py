"""An independent float64 oracle: recurrent networks as loops over time, straight from the papers' equations.

Nothing here touches rnnc, so nothing of rnnc's can make the two agree by mistake. Layouts are PyTorch's:
x (T, B, I), a state (num_layers * D, B, W), parameters `weight_ih_l0`, ..., `bias_hh_l1_reverse`, gates stacked
along the first axis.

A ragged batch means what it says: each row is run alone, over its own length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Arrays = dict[str, Array]
Step = Callable[[Array, Arrays, Arrays], tuple[Array, Arrays]]
"""One step of a cell: x (B, I), states by name (B, W), parameters by base name -> output, new states."""


@dataclass(frozen=True)
class Network:
    """A stack of one cell. `states` holds each state's name and width, in order; `output_size` is a direction's."""

    step: Step
    states: tuple[tuple[str, int], ...]
    output_size: int
    num_layers: int = 1
    bidirectional: bool = False


def run(
    network: Network,
    params: Mapping[str, NDArray[np.floating]],
    x: NDArray[np.floating],
    initial: Mapping[str, NDArray[np.floating]] | None = None,
    lengths: NDArray[np.integer] | None = None,
) -> tuple[Array, Arrays]:
    """Output (T, B, D * output_size) and the last states (num_layers * D, B, W), all in float64."""
    steps, batch = x.shape[:2]
    directions = 2 if network.bidirectional else 1
    weights = {name: value.astype(np.float64) for name, value in params.items()}
    last = _initial(network, batch, initial)
    output = np.zeros((steps, batch, directions * network.output_size))
    row_lengths = np.full(batch, steps) if lengths is None else lengths
    for length in np.unique(row_lengths):
        rows = np.flatnonzero(row_lengths == length)
        states = {name: value[:, rows] for name, value in last.items()}
        output[:length, rows] = _stack(network, weights, x[:length, rows].astype(np.float64), states)
        for name, value in states.items():
            last[name][:, rows] = value
    return output, last


def _initial(network: Network, batch: int, given: Mapping[str, NDArray[np.floating]] | None) -> Arrays:
    count = network.num_layers * (2 if network.bidirectional else 1)
    if given is None:
        return {name: np.zeros((count, batch, width)) for name, width in network.states}
    return {name: given[name].astype(np.float64) for name, _ in network.states}


def _stack(network: Network, weights: Arrays, x: Array, states: Arrays) -> Array:
    """All layers over one rectangular batch; `states` is updated in place to the last states."""
    directions = ("", "_reverse") if network.bidirectional else ("",)
    for layer in range(network.num_layers):
        outputs = []
        for d, direction in enumerate(directions):
            suffix = f"_l{layer}{direction}"
            p = {name.removesuffix(suffix): value for name, value in weights.items() if name.endswith(suffix)}
            index = layer * len(directions) + d
            y, last = _scan(network, p, x, {k: v[index] for k, v in states.items()}, reverse=d == 1)
            outputs.append(y)
            for name, value in last.items():
                states[name][index] = value
        x = np.concatenate(outputs, axis=-1)
    return x


def _scan(network: Network, p: Arrays, x: Array, state: Arrays, reverse: bool) -> tuple[Array, Arrays]:
    output = np.zeros((*x.shape[:2], network.output_size))
    times = range(x.shape[0])
    for t in reversed(times) if reverse else times:
        output[t], state = network.step(x[t], state, p)
    return output, state


# ------------------------------------------------------------------------------------------ the cells


def sigmoid(v: Array) -> Array:
    with np.errstate(invalid="ignore"):  # a NaN comes back as a NaN
        return np.asarray(np.exp(-np.logaddexp(0.0, -v)))


def relu(v: Array) -> Array:
    return np.maximum(v, 0.0)


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    return x @ weight.T if bias is None else x @ weight.T + bias


def _gates(x: Array, h: Array, p: Arrays) -> Array:
    return linear(x, p["weight_ih"], p.get("bias_ih")) + linear(h, p["weight_hh"], p.get("bias_hh"))


def rnn_tanh(x: Array, state: Arrays, p: Arrays) -> tuple[Array, Arrays]:
    """Elman (1990)."""
    h = np.tanh(_gates(x, state["h"], p))
    return h, {"h": h}


def rnn_relu(x: Array, state: Arrays, p: Arrays) -> tuple[Array, Arrays]:
    h = relu(_gates(x, state["h"], p))
    return h, {"h": h}


def gru(x: Array, state: Arrays, p: Arrays) -> tuple[Array, Arrays]:
    """The reset gate multiplies after the recurrent product: the form of cuDNN and PyTorch. Gates r, z, n."""
    h = state["h"]
    xr, xz, xn = np.split(linear(x, p["weight_ih"], p.get("bias_ih")), 3, axis=1)
    hr, hz, hn = np.split(linear(h, p["weight_hh"], p.get("bias_hh")), 3, axis=1)
    r, z = sigmoid(xr + hr), sigmoid(xz + hz)
    h = z * h + (1.0 - z) * np.tanh(xn + r * hn)
    return h, {"h": h}


def gru_before(x: Array, state: Arrays, p: Arrays) -> tuple[Array, Arrays]:
    """Cho et al. (2014): the reset gate multiplies the state before the recurrent product. Gates r, z, n."""
    h = state["h"]
    wr, wz, wn = np.split(p["weight_hh"], 3)
    br, bz, bn = np.split(p["bias_hh"], 3) if "bias_hh" in p else (None, None, None)
    xr, xz, xn = np.split(linear(x, p["weight_ih"], p.get("bias_ih")), 3, axis=1)
    r, z = sigmoid(xr + linear(h, wr, br)), sigmoid(xz + linear(h, wz, bz))
    h = z * h + (1.0 - z) * np.tanh(xn + linear(r * h, wn, bn))
    return h, {"h": h}


def lstm(x: Array, state: Arrays, p: Arrays) -> tuple[Array, Arrays]:
    """Hochreiter and Schmidhuber (1997) with the forget gate of Gers et al. (2000). Gates i, f, g, o.

    With `weight_hr` the state is projected (Sak et al. 2014): h is (B, P) and c is (B, H).
    """
    i, f, g, o = np.split(_gates(x, state["h"], p), 4, axis=1)
    c = sigmoid(f) * state["c"] + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    if "weight_hr" in p:
        h = linear(h, p["weight_hr"])
    return h, {"h": h, "c": c}
