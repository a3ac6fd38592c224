"""Cells as a user writes them, in a file of their own: published equations that no vendor ships a kernel for.

They differ where a compiler might assume too much: matmuls in sequence, none in the recurrence, a reduction over hidden
units, one, two or three states, vectors as parameters, an output that is no state, or wider or narrower than one.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import rnnc
from rnnc.ir.equations import Value, concat, linear, mean, relu, rsqrt, sigmoid, tanh

Shapes = dict[str, tuple[int, ...]]
Stepped = tuple[Value, dict[str, Value]]


@dataclass(frozen=True)
class MinimalGatedUnit(rnnc.Cell):
    """Zhou et al. (2016), "Minimal gated unit for recurrent neural networks": the second matmul waits for a gate."""

    name: ClassVar[str] = "minimal_gated_unit"

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> Shapes:
        shapes: Shapes = {"weight_ih": (2 * hidden_size, input_size), "weight_hh": (2 * hidden_size, hidden_size)}
        return shapes | ({"bias": (2 * hidden_size,)} if bias else {})

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Stepped:
        x_forget, x_new = linear(x, p.weight_ih, p.bias).split(2)
        w_forget, w_new = p.weight_hh.split(2)
        f = sigmoid(x_forget + linear(state.h, w_forget))
        n = tanh(x_new + linear(f * state.h, w_new))
        h = (1 - f) * state.h + f * n
        return h, {"h": h}


@dataclass(frozen=True)
class PeepholeLSTM(rnnc.Cell):
    """Gers and Schmidhuber (2000), "Recurrent nets that time and count": the gates see the cell state."""

    name: ClassVar[str] = "peephole_lstm"
    gates: ClassVar[int] = 4

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> Shapes:
        return super().parameters(input_size, hidden_size, bias) | {"peephole": (3 * hidden_size,)}

    def states(self, hidden_size: int) -> dict[str, int]:
        return {"h": hidden_size, "c": hidden_size}

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Stepped:
        see_i, see_f, see_o = p.peephole.split(3)
        gates = linear(x, p.weight_ih, p.bias_ih) + linear(state.h, p.weight_hh, p.bias_hh)
        i, f, g, o = gates.split(4)
        i = sigmoid(i + see_i * state.c)
        f = sigmoid(f + see_f * state.c)
        c = f * state.c + i * tanh(g)
        h = sigmoid(o + see_o * c) * tanh(c)
        return h, {"h": h, "c": c}


@dataclass(frozen=True)
class LayerNormLSTM(rnnc.Cell):
    """Ba et al. (2016), "Layer normalization": both products and the cell state are normalised over their units."""

    name: ClassVar[str] = "layer_norm_lstm"
    eps: float = 1e-5

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> Shapes:
        rows = 4 * hidden_size
        shapes: Shapes = {
            "weight_ih": (rows, input_size),
            "weight_hh": (rows, hidden_size),
            "scale_ih": (rows,),
            "scale_hh": (rows,),
            "scale_c": (hidden_size,),
        }
        return shapes | ({"bias": (rows,), "bias_c": (hidden_size,)} if bias else {})

    def states(self, hidden_size: int) -> dict[str, int]:
        return {"h": hidden_size, "c": hidden_size}

    def normed(self, v: Value) -> Value:
        centred = v - mean(v)
        return centred * rsqrt(mean(centred * centred) + self.eps)

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Stepped:
        gates = self.normed(linear(x, p.weight_ih)) * p.scale_ih
        gates = gates + self.normed(linear(state.h, p.weight_hh)) * p.scale_hh
        i, f, g, o = (gates if p.bias is None else gates + p.bias).split(4)
        c = sigmoid(f) * state.c + sigmoid(i) * tanh(g)
        shown = self.normed(c) * p.scale_c
        h = sigmoid(o) * tanh(shown if p.bias_c is None else shown + p.bias_c)
        return h, {"h": h, "c": c}


@dataclass(frozen=True)
class SimpleRecurrentUnit(rnnc.Cell):
    """Lei et al. (2018), "Simple recurrent units for highly parallelizable recurrence": no matmul reads the state.

    The output is the highway and no state; its skip goes through a fourth projection, so that sizes may differ.
    """

    name: ClassVar[str] = "simple_recurrent_unit"

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> Shapes:
        shapes: Shapes = {"weight": (4 * hidden_size, input_size), "see_c": (2 * hidden_size,)}
        return shapes | ({"bias": (2 * hidden_size,)} if bias else {})

    def states(self, hidden_size: int) -> dict[str, int]:
        return {"c": hidden_size}

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Stepped:
        new, forget, reset, skip = linear(x, p.weight).split(4)
        see_forget, see_reset = p.see_c.split(2)
        forget = forget + see_forget * state.c
        reset = reset + see_reset * state.c
        if p.bias is not None:
            bias_forget, bias_reset = p.bias.split(2)
            forget, reset = forget + bias_forget, reset + bias_reset
        f, r = sigmoid(forget), sigmoid(reset)
        c = f * state.c + (1 - f) * new
        return r * c + (1 - r) * skip, {"c": c}


@dataclass(frozen=True)
class IndependentRNN(rnnc.Cell):
    """Li et al. (2018), "Independently recurrent neural network": each unit sees only its own past."""

    name: ClassVar[str] = "independent_rnn"

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> Shapes:
        shapes: Shapes = {"weight_ih": (hidden_size, input_size), "recurrent": (hidden_size,)}
        return shapes | ({"bias": (hidden_size,)} if bias else {})

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Stepped:
        h = relu(linear(x, p.weight_ih, p.bias) + p.recurrent * state.h)
        return h, {"h": h}


@dataclass(frozen=True)
class NestedLSTM(rnnc.Cell):
    """Moniz and Krueger (2017), "Nested LSTMs": the cell state is the output of an inner LSTM. Three states."""

    name: ClassVar[str] = "nested_lstm"

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> Shapes:
        rows = 4 * hidden_size
        shapes: Shapes = {
            "weight_ih": (rows, input_size),
            "weight_hh": (rows, hidden_size),
            "inner_ih": (rows, hidden_size),
            "inner_hh": (rows, hidden_size),
        }
        return shapes | ({"bias": (rows,), "inner_bias": (rows,)} if bias else {})

    def states(self, hidden_size: int) -> dict[str, int]:
        return {"h": hidden_size, "c": hidden_size, "inner": hidden_size}

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Stepped:
        i, f, g, o = (linear(x, p.weight_ih, p.bias) + linear(state.h, p.weight_hh)).split(4)
        inner_x = sigmoid(i) * tanh(g)
        inner_h = sigmoid(f) * state.c
        gates = linear(inner_x, p.inner_ih, p.inner_bias) + linear(inner_h, p.inner_hh)
        i, f, g, inner_o = gates.split(4)
        inner = sigmoid(f) * state.inner + sigmoid(i) * tanh(g)
        c = sigmoid(inner_o) * tanh(inner)
        h = sigmoid(o) * tanh(c)
        return h, {"h": h, "c": c, "inner": inner}


@dataclass(frozen=True)
class ElmanNetwork(rnnc.Cell):
    """Elman (1990) with the paper's output units: y = W_o h + b_o, of a width of its own."""

    name: ClassVar[str] = "elman_network"
    outputs: int = 3

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> Shapes:
        shapes: Shapes = {
            "weight_ih": (hidden_size, input_size),
            "weight_hh": (hidden_size, hidden_size),
            "weight_ho": (self.outputs, hidden_size),
        }
        return shapes | ({"bias_h": (hidden_size,), "bias_o": (self.outputs,)} if bias else {})

    def output_size(self, hidden_size: int) -> int:
        return self.outputs

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Stepped:
        h = tanh(linear(x, p.weight_ih, p.bias_h) + linear(state.h, p.weight_hh))
        return linear(h, p.weight_ho, p.bias_o), {"h": h}


@dataclass(frozen=True)
class FastAndSlow(rnnc.Cell):
    """Mikolov et al. (2015), "Learning longer memory in recurrent neural networks": a leaky average of the projected
    input, narrower than h, beside it. Two states of different widths, and an output that holds both.
    """

    name: ClassVar[str] = "fast_and_slow"
    leak: float = 0.95

    def slow_size(self, hidden_size: int) -> int:
        return hidden_size // 4 + 1

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> Shapes:
        slow = self.slow_size(hidden_size)
        shapes: Shapes = {
            "weight_slow": (slow, input_size),
            "weight_ih": (hidden_size, input_size),
            "weight_sh": (hidden_size, slow),
            "weight_hh": (hidden_size, hidden_size),
        }
        return shapes | ({"bias": (hidden_size,)} if bias else {})

    def states(self, hidden_size: int) -> dict[str, int]:
        return {"h": hidden_size, "s": self.slow_size(hidden_size)}

    def output_size(self, hidden_size: int) -> int:
        return hidden_size + self.slow_size(hidden_size)

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Stepped:
        s = (1 - self.leak) * linear(x, p.weight_slow) + self.leak * state.s
        h = sigmoid(linear(x, p.weight_ih, p.bias) + linear(s, p.weight_sh) + linear(state.h, p.weight_hh))
        return concat(h, s), {"h": h, "s": s}
