"""The cells of ONNX's RNN, GRU and LSTM with all that its attributes may say. Gates are in ONNX's order.

Equations: https://onnx.ai/onnx/operators/onnx__RNN.html, onnx__GRU.html, onnx__LSTM.html. Where they leave a choice
(what `clip` acts on), they do as ONNX Runtime does; docs/onnx.md lists the choices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

from rnnc.cells import Cell, Shape
from rnnc.ir.equations import Value, clip, linear
from rnnc.layers.activations import FORMULAS

__all__ = ["Applied", "OnnxGRUCell", "OnnxLSTMCell", "OnnxRNNCell"]

Applied = tuple[str, float, float]
"""An activation: its name in `rnnc.layers.activations.FORMULAS`, alpha and beta, 0 where it has none."""

Function = Callable[[Value], Value]
Stepped = tuple[Value, dict[str, Value]]


def _function(applied: Applied, bound: float | None = None) -> Function:
    """The activation of what is clipped to [-bound, bound] before."""
    name, alpha, beta = applied

    def function(x: Value) -> Value:
        clipped = x if bound is None else clip(x, -bound, bound)
        return FORMULAS[name].function(clipped, alpha, beta)

    return function


@dataclass(frozen=True)
class OnnxRNNCell(Cell):
    """Ht = f(W Xt + Wb + R Ht-1 + Rb).

    f: the activation. clip: bound of what it reads.
    """

    f: Applied
    clip: float | None = None
    name: ClassVar[str] = "onnx_rnn"

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Stepped:
        gate = linear(x, p.weight_ih, p.bias_ih) + linear(state.h, p.weight_hh, p.bias_hh)
        h = _function(self.f, self.clip)(gate)
        return h, {"h": h}


@dataclass(frozen=True)
class OnnxGRUCell(Cell):
    """Gates z, r, h; Ht = (1 - zt) * ht + zt * Ht-1.

    f, g: the activations of zt and rt, and of ht. clip: bound of what they read.
    linear_before_reset: whether rt is applied to the product R Ht-1 + Rb, or to Ht-1 before it.
    """

    f: Applied
    g: Applied
    clip: float | None = None
    linear_before_reset: bool = False
    name: ClassVar[str] = "onnx_gru"
    gates: ClassVar[int] = 3

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Stepped:
        f, g = _function(self.f, self.clip), _function(self.g, self.clip)
        xz, xr, xh = linear(x, p.weight_ih, p.bias_ih).split(3)
        rz, rr, rh = p.weight_hh.split(3)
        bz, br, bh = (None, None, None) if p.bias_hh is None else p.bias_hh.split(3)
        z = f(xz + linear(state.h, rz, bz))
        r = f(xr + linear(state.h, rr, br))
        if self.linear_before_reset:
            n = g(xh + r * linear(state.h, rh, bh))
        else:
            n = g(xh + linear(r * state.h, rh, bh))
        h = (1 - z) * n + z * state.h
        return h, {"h": h}


@dataclass(frozen=True)
class OnnxLSTMCell(Cell):
    """Gates i, o, f, c; Ct = ft * Ct-1 + it * ct, Ht = ot * h(Ct).

    f, g, h: the activations of the gates, of ct, and of Ct on its way to Ht. clip: bound of what f and g read; h reads
        Ct as it is.
    input_forget: ft is 1 - it. peepholes: the gates see the cell state, i and f the old one, o the new one; the
        parameter peephole (3H,) has the order i, o, f.
    """

    f: Applied
    g: Applied
    h: Applied
    clip: float | None = None
    input_forget: bool = False
    peepholes: bool = False
    name: ClassVar[str] = "onnx_lstm"
    gates: ClassVar[int] = 4

    def states(self, hidden_size: int) -> dict[str, int]:
        return {"h": hidden_size, "c": hidden_size}

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, Shape]:
        own: dict[str, Shape] = {"peephole": (3 * hidden_size,)} if self.peepholes else {}
        return super().parameters(input_size, hidden_size, bias) | own

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Stepped:
        f, g = _function(self.f, self.clip), _function(self.g, self.clip)
        gates = linear(x, p.weight_ih, p.bias_ih) + linear(state.h, p.weight_hh, p.bias_hh)
        gate_i, gate_o, gate_f, gate_c = gates.split(4)
        see_i, see_o, see_f = p.peephole.split(3) if self.peepholes else (None, None, None)
        i = f(_seeing(gate_i, state.c, see_i))
        forget = 1 - i if self.input_forget else f(_seeing(gate_f, state.c, see_f))
        c = forget * state.c + i * g(gate_c)
        h = f(_seeing(gate_o, c, see_o)) * _function(self.h)(c)
        return h, {"h": h, "c": c}


def _seeing(gate: Value, c: Value, peephole: Value | None) -> Value:
    return gate if peephole is None else gate + peephole * c
