"""Cells whose states are matrices, as users write them: products of two values of the step, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import rnnc
from rnnc.ir.equations import (
    Value,
    absolute,
    concat,
    exp,
    linear,
    matvec,
    maximum,
    outer,
    sigmoid,
    softmax,
    softplus,
    square,
    tanh,
    total,
    vecmat,
)

Stepped = tuple[Value, dict[str, Value]]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class MatrixLSTM(rnnc.Cell):
    """mLSTM, Beck et al. 2024, "xLSTM: Extended Long Short-Term Memory", equations 19 to 27, of several heads.

    The states are kept divided by exp(m), so that the exponential gates do not overflow (their equations 15 to 17).
    """

    heads: int = 1
    name: ClassVar[str] = "mlstm"

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> Shapes:
        shapes: Shapes = {
            "weight": (4 * hidden_size, input_size),
            "gates": (2 * self.heads, input_size),
        }
        return shapes | ({"bias": (4 * hidden_size,), "gate_bias": (2 * self.heads,)} if bias else {})

    def states(self, hidden_size: int) -> Mapping[str, int | tuple[int, ...]]:
        size = hidden_size // self.heads
        return {"c": (self.heads, size, size), "n": (self.heads, size), "m": self.heads}

    def output_size(self, hidden_size: int) -> int:
        return hidden_size

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Stepped:
        _, heads, size = state.n.shape
        q, k, v, o = (part.reshape(-1, heads, size) for part in linear(x, p.weight, p.bias).split(4))
        i, f = linear(x, p.gates, p.gate_bias).split(2)
        log_f = -softplus(-f)
        m = maximum(log_f + state.m, i)
        i, f = exp(i - m), exp(log_f + state.m - m)
        k = k * size**-0.5
        c = f[:, :, None, None] * state.c + i[:, :, None, None] * outer(v, k)
        n = f[:, :, None] * state.n + i[:, :, None] * k
        h = sigmoid(o) * matvec(c, q) / maximum(absolute(total(n * q)), exp(-m)[:, :, None])
        return h.reshape(-1, heads * size), {"c": c, "n": n, "m": m}


@dataclass(frozen=True)
class DeltaRule(rnnc.Cell):
    """Fast weights with the delta rule, Schlag et al. 2021, "Linear Transformers Are Secretly Fast Weight Programmers".

    W = W + beta (v - W k) k', y = W q; keys and queries are positive and add up to 1.
    """

    name: ClassVar[str] = "delta_rule"

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> Shapes:
        return {"weight": (3 * hidden_size, input_size), "weight_beta": (1, input_size)}

    def states(self, hidden_size: int) -> Mapping[str, int | tuple[int, ...]]:
        return {"w": (hidden_size, hidden_size)}

    def output_size(self, hidden_size: int) -> int:
        return hidden_size

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Stepped:
        q, k, v = linear(x, p.weight).split(3)
        q, k = softmax(q), softmax(k)
        beta = sigmoid(linear(x, p.weight_beta))
        w = state.w + outer(beta * (v - matvec(state.w, k)), k)
        return matvec(w, q), {"w": w}


@dataclass(frozen=True)
class SlotMemory(rnnc.Cell):
    """Attention of a query over a memory of slots, which it then writes to: content-based, after Graves et al. 2014.

    a = softmax(M q / sqrt(width)), r = a M; the memory decays where it is written.
    """

    slots: int
    name: ClassVar[str] = "slot_memory"

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> Shapes:
        width = hidden_size + input_size
        return {"weight": (4 * hidden_size, width), "weight_h": (hidden_size, 2 * hidden_size)}

    def states(self, hidden_size: int) -> Mapping[str, int | tuple[int, ...]]:
        return {"h": hidden_size, "memory": (self.slots, hidden_size)}

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Stepped:
        size = int(state.h.shape[-1])
        query, key, erase, add = linear(concat(state.h, x), p.weight).split(4)
        read = softmax(matvec(state.memory, query) * size**-0.5)
        write = softmax(matvec(state.memory, key) * size**-0.5)
        r = vecmat(read, state.memory)
        memory = state.memory * (1 - outer(write, sigmoid(erase))) + outer(write, tanh(add))
        h = tanh(linear(concat(r, query), p.weight_h))
        return h, {"h": h, "memory": memory}


@dataclass(frozen=True)
class RotatedMatrix(rnnc.Cell):
    """A state that a matrix made of x multiplies in every step, (B, m, k) @ (B, k, n), and a norm of its groups."""

    columns: int
    groups: int = 1
    name: ClassVar[str] = "rotated_matrix"

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> Shapes:
        return {
            "weight": (hidden_size * hidden_size, input_size),
            "weight_in": (hidden_size * self.columns, input_size),
            "gain": (self.columns,),
        }

    def states(self, hidden_size: int) -> Mapping[str, int | tuple[int, ...]]:
        return {"s": (hidden_size, self.columns)}

    def output_size(self, hidden_size: int) -> int:
        return hidden_size * self.columns

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Stepped:
        _, rows, columns = state.s.shape
        turn = tanh(linear(x, p.weight)).reshape(-1, rows, rows)
        new = turn @ state.s * p.gain + linear(x, p.weight_in).reshape(-1, rows, columns)
        grouped = new.reshape(-1, self.groups, rows * columns // self.groups)
        spread = grouped - grouped.mean(axis=-1)
        normed = spread / (square(spread).mean(axis=-1) + 0.1) ** 0.5
        largest = state.s.max(axis=1)
        return normed.reshape(-1, rows * columns), {"s": tanh(normed.reshape(-1, rows, columns) + 0.1 * largest)}
