"""Cells that torch.nn does not have, as modules of rnnc.torch and written by hand in PyTorch.

    python -m benchmarks.torch_cells                       # one thread, CPU time, medians of 5 rounds
    python -m benchmarks.torch_cells --compile             # the other one under torch.compile (a C++ compiler; minutes)

A call and a step of training, as in `benchmarks.torch_modules`, of a peephole LSTM and of a layer-normed one.
By hand, the input projection of all steps is one matrix product before the loop.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import rnnc
from benchmarks.timing import Contestant, clock_for, race
from benchmarks.torch_modules import call, check, step
from rnnc.ir.equations import linear, mean, rsqrt, sigmoid, tanh

SIZES = [(1, 128, 50), (8, 128, 50), (32, 256, 50)]


class Peephole(rnnc.Cell):
    """Gers and Schmidhuber (2000)."""

    name = "peephole"
    gates = 4

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> Any:
        return {**super().parameters(input_size, hidden_size, bias), "peephole": (3 * hidden_size,)}

    def states(self, hidden_size: int) -> dict[str, int]:
        return {"h": hidden_size, "c": hidden_size}

    def step(self, x: Any, state: Any, p: Any) -> Any:
        see_i, see_f, see_o = p.peephole.split(3)
        gates = linear(x, p.weight_ih, p.bias_ih) + linear(state.h, p.weight_hh, p.bias_hh)
        i, f, g, o = gates.split(4)
        c = sigmoid(f + see_f * state.c) * state.c + sigmoid(i + see_i * state.c) * tanh(g)
        h = sigmoid(o + see_o * c) * tanh(c)
        return h, {"h": h, "c": c}


class LayerNormed(rnnc.Cell):
    """The sums of the gates are normalised over all of them, and the state over its units."""

    name = "layer_normed"
    gates = 4

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> Any:
        norms = {"gates_gain": (4 * hidden_size,), "gates_bias": (4 * hidden_size,)}
        norms |= {"state_gain": (hidden_size,), "state_bias": (hidden_size,)}
        return {**super().parameters(input_size, hidden_size, False), **norms}

    def states(self, hidden_size: int) -> dict[str, int]:
        return {"h": hidden_size, "c": hidden_size}

    def step(self, x: Any, state: Any, p: Any) -> Any:
        gates = linear(x, p.weight_ih) + linear(state.h, p.weight_hh)
        i, f, g, o = (normed(gates) * p.gates_gain + p.gates_bias).split(4)
        c = sigmoid(f) * state.c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(normed(c) * p.state_gain + p.state_bias)
        return h, {"h": h, "c": c}


def normed(x: Any) -> Any:
    centred = x - mean(x)
    return centred * rsqrt(mean(centred * centred) + 1e-5)


class ByHand(nn.Module):
    """The same in PyTorch. It has the parameters of the other module."""

    def __init__(self, other: Any) -> None:
        super().__init__()
        self._parameters.update(other._parameters)

    def forward(self, x: Any) -> Any:
        h = c = torch.zeros(x.shape[1], self.weight_hh_l0.shape[1])
        output = []
        for seen in self.projected(x).unbind(0):
            h, c = self.step(seen, h, c)
            output.append(h)
        return torch.stack(output), (h, c)


class PeepholeByHand(ByHand):
    def projected(self, x: Any) -> Any:
        return nn.functional.linear(x, self.weight_ih_l0, self.bias_ih_l0)

    def step(self, seen: Any, h: Any, c: Any) -> Any:
        see_i, see_f, see_o = self.peephole_l0.chunk(3)
        i, f, g, o = (seen + nn.functional.linear(h, self.weight_hh_l0, self.bias_hh_l0)).chunk(4, 1)
        c = torch.sigmoid(f + see_f * c) * c + torch.sigmoid(i + see_i * c) * torch.tanh(g)
        return torch.sigmoid(o + see_o * c) * torch.tanh(c), c


class LayerNormedByHand(ByHand):
    def projected(self, x: Any) -> Any:
        return nn.functional.linear(x, self.weight_ih_l0)

    def step(self, seen: Any, h: Any, c: Any) -> Any:
        norm = nn.functional.layer_norm
        gates = seen + nn.functional.linear(h, self.weight_hh_l0)
        gates = norm(gates, gates.shape[1:], self.gates_gain_l0, self.gates_bias_l0)
        i, f, g, o = gates.chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(norm(c, c.shape[1:], self.state_gain_l0, self.state_bias_l0)), c


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| cell | no_grad: rnnc us | by hand us | by hand / rnnc | training: rnnc us | by hand us | by hand / rnnc |")
    print("|---|---|---|---|---|---|---|")
    for cell, kind in ((Peephole(), PeepholeByHand), (LayerNormed(), LayerNormedByHand)):
        for batch, width, steps in SIZES:
            ours = rnnc.torch.Recurrent(cell, width, width)
            theirs: Any = kind(ours)
            x = torch.randn(steps, batch, width)
            if options.compile:
                theirs = torch.compile(theirs)
            check(ours, theirs, x)
            print(f"| {cell.name} B{batch} H{width} T{steps} | {row(ours, theirs, x, options.rounds)} |", flush=True)


def row(ours: Any, theirs: Any, x: Any, rounds: int) -> str:
    cells = []
    makes: tuple[Callable[[Any, Any], Callable[[], object]], ...] = (call, step)
    for make in makes:
        times = race({"a": Contestant(make(ours, x)), "b": Contestant(make(theirs, x))}, rounds, clock_for(1))
        a, b = times["a"].median * 1e6, times["b"].median * 1e6
        cells += [f"{a:.0f}", f"{b:.0f}", f"{b / a:.2f}"]
    return " | ".join(cells)


if __name__ == "__main__":
    main()
