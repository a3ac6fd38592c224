"""Losses and their gradients alone, against PyTorch: cross-entropy, binary cross-entropy and CTC.

python -m benchmarks.losses                        # one thread, CPU time, medians of 9 rounds
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.timing import Contestant, clock_for, race
from rnnc import losses
from rnnc.compiled import CompileOptions
from rnnc.ir.autodiff import vjp
from rnnc.ir.computation import Computation
from rnnc.ir.graph import Graph
from rnnc.ir.shape_rules import BATCH


class Case(NamedTuple):
    """A loss, the shape (T, B, N) of the output, targets, and the mean loss in PyTorch, of a tensor (T, B, N)."""

    name: str
    loss: losses.Loss
    shape: tuple[int, int, int]
    targets: Any
    theirs: Callable[[Any], Any]


def cases() -> list[Case]:
    """The cases that are timed."""
    import torch

    F, rng = torch.nn.functional, np.random.default_rng(0)
    found = []
    for shape in ((50, 32, 17), (50, 32, 1000)):
        classes = rng.integers(0, shape[2], shape[:2])
        flat = torch.from_numpy(classes).reshape(-1)
        found.append(
            Case(
                "cross_entropy",
                losses.cross_entropy(),
                shape,
                classes,
                lambda z, t=flat: F.cross_entropy(z.reshape(len(t), -1), t),
            )
        )
    bits = rng.integers(0, 2, (50, 32, 100)).astype(np.float32)
    there = torch.from_numpy(bits)
    found.append(
        Case("bce", losses.bce(), bits.shape, bits, lambda z: F.binary_cross_entropy_with_logits(z, there.to(z.dtype)))
    )
    for shape, count in (((100, 32, 30), 20), ((100, 32, 80), 20), ((200, 16, 80), 40)):
        labels = rng.integers(1, shape[2], (shape[1], count))
        sizes = (torch.full((shape[1],), shape[0]), torch.full((shape[1],), count))
        given = torch.from_numpy(labels)
        found.append(
            Case(
                f"ctc, {count} labels",
                losses.ctc(longest=count),
                shape,
                labels,
                lambda z, t=given, n=sizes: F.ctc_loss(z.log_softmax(-1), t, *n),
            )
        )
    return found


def ours(case: Case, z: Any) -> Callable[[], tuple[float, Any]]:
    """A call that returns the mean loss and the gradient."""
    steps, rows, size = case.shape

    def build(steps: int, lengths: bool) -> Graph:
        graph = Graph("float32", steps, share=False)
        graph.outputs["output"] = tuple(graph.input("z", (BATCH, size), t) for t in range(steps))
        losses.add_loss(graph, case.loss)
        graph = vjp(graph, ["z"], {"loss": "d:loss"})
        graph.outputs.pop("output")
        return graph

    target, counts = case.loss.encode(case.targets, size, "float32")
    feeds = {"z": z, "target": target, "d:loss": np.full(1, 1 / counts.sum(), np.float32)}
    found = {"loss": np.zeros(1, np.float32), "d:z": np.zeros_like(z)}
    bound = CompileOptions("llvm", 1).compile(Computation(build)).bind({})

    def call() -> tuple[float, Any]:
        bound.start(feeds, found, steps, rows, None)
        return float(found["loss"][0] / counts.sum()), found["d:z"]

    return call


def theirs(case: Case, z: Any) -> Callable[[], tuple[float, Any]]:
    """The same in PyTorch."""
    import torch

    def call() -> tuple[float, Any]:
        variable = torch.from_numpy(z).requires_grad_()
        loss = case.theirs(variable)
        loss.backward()
        return loss.item(), variable.grad

    return call


def main() -> None:
    """Prints microseconds per call. Raises AssertionError if the results are not those of PyTorch in float64."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print("| loss | T, B, N | rnnc us | torch us | torch / rnnc |\n|---|---|---|---|---|")
    for case in cases():
        z = np.random.default_rng(1).standard_normal(case.shape, dtype=np.float32)
        calls = {"rnnc": ours(case, z), "torch": theirs(case, z)}
        (value, gradient), (expected, slope) = calls["rnnc"](), theirs(case, z.astype(np.float64))()
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        np.testing.assert_allclose(gradient, slope.numpy(), rtol=0, atol=2e-5 * float(slope.abs().max()))
        timings = race({name: Contestant(call) for name, call in calls.items()}, rounds, clock_for(1))
        mine, other = (1e6 * timings[name].median for name in calls)
        shape = ", ".join(map(str, case.shape))
        print(f"| {case.name} | {shape} | {mine:.0f} | {other:.0f} | {other / mine:.2f} |")


if __name__ == "__main__":
    main()
