"""Modules of rnnc.torch against those of torch.nn, in the same PyTorch program.

    python -m benchmarks.torch_modules                     # one thread, CPU time, medians of 9 rounds
    python -m benchmarks.torch_modules --threads 2         # wall time
    python -m benchmarks.torch_modules --widths 512,1024 --rounds 3
    python -m benchmarks.torch_modules --packed            # a PackedSequence of rows of T / B, 2 T / B, ..., T steps

Two columns of each: a call under no_grad, and a step of training (forward, backward, SGD). Both modules have the same
parameters, must give the same output and gradients, and take turns. Then the overhead of a module's call over that of a
`rnnc.Model`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from statistics import geometric_mean
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import rnnc
from benchmarks.timing import Clock, Contestant, clock_for, race

BATCHES, WIDTHS, STEPS = (1, 8, 32, 64), (32, 128, 256), (1, 50)


def ragged(x: Any) -> Any:
    """A PackedSequence: the rows' numbers of steps fall from T to T / B."""
    steps, batch, _ = x.shape
    lengths = [max(1, steps * row // batch) for row in range(batch, 0, -1)]
    return pack_padded_sequence(x, lengths)


def values(result: Any) -> Any:
    """The output of a module, as one tensor."""
    output = result[0]
    return output.data if isinstance(output, PackedSequence) else output


def call(module: Any, x: Any) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad():
            return module(x)

    return run


def step(module: Any, x: Any) -> Callable[[], object]:
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-9)

    def run() -> object:
        optimizer.zero_grad()
        loss = values(module(x)).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return run


def check(ours: Any, theirs: Any, x: Any) -> None:
    """Raises AssertionError unless outputs and gradients agree."""
    found, expected = values(ours(x)), values(theirs(x))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    gradients = (
        torch.autograd.grad(y.square().mean(), list(m.parameters())) for y, m in ((found, ours), (expected, theirs))
    )
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def table(kind: str, sizes: Iterable[tuple[int, int, int]], packed: bool, rounds: int, clock: Clock) -> None:
    print(f"\n| {kind} | no_grad: rnnc us | torch us | torch / rnnc | training: rnnc us | torch us | torch / rnnc |")
    print("|---|---|---|---|---|---|---|")
    ratios: list[list[float]] = [[], []]
    for width, steps, batch in sizes:
        theirs = getattr(nn, kind)(width, width)
        ours = getattr(rnnc.torch, kind)(width, width)
        ours.load_state_dict(theirs.state_dict())
        x = torch.randn(steps, batch, width)
        x = ragged(x) if packed else x
        check(ours, theirs, x)
        cells = []
        for found, make in zip(ratios, (call, step), strict=True):
            contestants = {"rnnc": Contestant(make(ours, x)), "torch": Contestant(make(theirs, x))}
            times = race(contestants, rounds, clock)
            a, b = times["rnnc"].median * 1e6, times["torch"].median * 1e6
            cells += [f"{a:.0f}", f"{b:.0f}", f"{b / a:.2f}"]
            found.append(b / a)
        print(f"| B{batch} H{width} T{steps} | {' | '.join(cells)} |", flush=True)
    for name, found in zip(("no_grad", "training"), ratios, strict=True):
        print(f"{name}: lowest {min(found):.2f}, geometric mean {geometric_mean(found):.2f}, highest {max(found):.2f}")


def overhead(rounds: int, threads: int, clock: Clock) -> None:
    print("\na call of one step, B = 1, H = 32, us     model    module   overhead")
    for kind in ("GRU", "LSTM"):
        module = getattr(rnnc.torch, kind)(32, 32)
        model = rnnc.compile(module.spec, module.state_dict(), threads=threads)
        x = np.random.default_rng(0).standard_normal((1, 1, 32), dtype=np.float32)
        state = model(x)[1]
        for name, given in (("", (x,)), (" with states", (x, state))):
            contestants = {
                "model": Contestant(partial(model, *given)),
                "module": Contestant(partial(module, *_tensors(given))),
            }
            with torch.no_grad():
                times = race(contestants, rounds, clock)
            a, b = times["model"].median * 1e6, times["module"].median * 1e6
            print(f"  {kind + name:<36}{a:10.2f}{b:10.2f}{b - a:10.2f}")


def _tensors(arrays: Any) -> Any:
    return tuple(map(_tensors, arrays)) if isinstance(arrays, tuple) else torch.from_numpy(arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kinds", default="LSTM,GRU")
    for name, default in (("batches", BATCHES), ("widths", WIDTHS), ("steps", STEPS)):
        parser.add_argument(f"--{name}", type=_numbers, default=default, metavar="N,N")
    parser.add_argument("--packed", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    clock = clock_for(options.threads)
    overhead(options.rounds, options.threads, clock)
    for kind in options.kinds.split(","):
        sizes = product(options.widths, options.steps, options.batches)
        table(kind, sizes, options.packed, options.rounds, clock)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


if __name__ == "__main__":
    main()
