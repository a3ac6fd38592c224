"""Translation units of the cuda backend for a chip, and what NVRTC makes of them: for tests and for
benchmarks/cuda_compiles.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any

from rnnc.backends.cuda.code import GpuCode, PersistentKernel, StepLaunches, generate
from rnnc.backends.cuda.emit.tensor_products import KINDS as OPERANDS
from rnnc.backends.cuda.run.execution import flat
from rnnc.backends.cuda.schedule.chip import A100, B200, H100, Chip, Usage, usage_fits
from rnnc.backends.cuda.schedule.layouts import RecurrenceLayout, Restriction
from rnnc.backends.cuda.schedule.weight_memory import WeightMemory
from rnnc.backends.cuda.tools.nvrtc import compile_cubin
from rnnc.backends.planning.planner import plan
from rnnc.ir.autodiff import jvp, vjp
from rnnc.ir.computation import Computation
from rnnc.ir.graph import Graph
from rnnc.ir.lower import lower
from rnnc.ir.stacks import Stack
from tests.networks import CELLS, stack_of
from tests.pairwise import covering

CHIPS = (A100, H100, B200)
KINDS = ("forward", "vjp", "jvp", "hvp")
MOST_SPILLS = 128
"""Bytes a thread may spill to memory, stores and loads each, where a test wishes for weights in registers."""


@dataclass(frozen=True)
class Unit:
    """A translation unit. kind: of `KINDS`. home: None as the model of the chip chooses."""

    cell: str
    kind: str = "forward"
    lengths: bool = False
    hidden_size: int = 40
    num_layers: int = 1
    bidirectional: bool = False
    dtype: str = "float32"
    operands: str | None = None
    weights_in: WeightMemory | None = None
    chip: Chip = H100

    def __str__(self) -> str:
        said = [self.cell, self.kind, *(["lengths"] if self.lengths else []), f"H={self.hidden_size}"]
        said += [f"{self.num_layers} layers"] if self.num_layers > 1 else []
        said += ["both directions"] if self.bidirectional else []
        said += [
            self.operands or self.dtype,
            self.weights_in.value if self.weights_in else "the model's choice",
            self.chip.arch,
        ]
        return ", ".join(said)

    def code(self) -> GpuCode:
        stack = stack_of(
            self.cell,
            self.num_layers,
            self.bidirectional,
            input_size=self.hidden_size,
            hidden_size=self.hidden_size,
            dtype=self.dtype,
        )
        computation = Computation(partial(build, stack, self.kind), late(stack, self.kind))
        planned = plan(computation.program(lengths=self.lengths), computation.late)
        return generate(planned, self.chip, self.operands, Restriction(weights_in=self.weights_in))


def build(stack: Stack, kind: str, steps: int, lengths: bool) -> Graph:
    """The graph of a kind of derivative with respect to all inputs."""
    graph = lower(stack, steps, lengths=lengths)
    if kind == "jvp":
        return jvp(graph, inputs_of(graph))
    if kind in ("vjp", "hvp"):
        graph = vjp(graph, inputs_of(graph))
    return jvp(graph, inputs_of(graph)) if kind == "hvp" else graph


def inputs_of(graph: Graph) -> tuple[str, ...]:
    names = (str(n.attr("name")) for n in graph.nodes if n.op == "input" and n.dtype != "bool")
    return tuple(dict.fromkeys(names))


def late(stack: Stack, kind: str) -> frozenset[str]:
    """What belongs to a pullback."""
    if kind != "vjp":
        return frozenset()
    graph = build(stack, kind, 1, False)
    return frozenset(name for name in (*inputs_of(graph), *graph.outputs) if name.startswith("d:"))


@dataclass(frozen=True)
class Made:
    """A compiled unit: what its kernels use, and how long NVRTC took for it."""

    unit: Unit
    code: GpuCode
    usage: dict[str, Usage]
    seconds: float

    def problems(self) -> Iterator[str]:
        """What a chip would refuse, or what is slow for no reason."""
        for kernel in self.code.kernels:
            usage = self.usage[kernel.name]
            reason = usage_fits(usage, kernel.threads, self.code.chip, kernel.shared)
            if reason is not None:
                yield f"{kernel.name}: {reason}"
            if max(usage.spill_stores, usage.spill_loads) > (0 if self.unit.weights_in is None else MOST_SPILLS):
                yield f"{kernel.name} spills: {usage}"

    def recurrences(self) -> Iterator[tuple[str, tuple[RecurrenceLayout, ...]]]:
        """The kernels that run steps, with their ways."""
        for command in flat([*self.code.first, *self.code.second]):
            if isinstance(command, PersistentKernel):
                yield command.kernel.name, command.layouts
            elif isinstance(command, StepLaunches):
                yield from ((kernel.name, (command.layout,)) for kernel in command.kernels[1:-1])


def compiled(unit: Unit) -> Made:
    """Compiles for the unit's chip."""
    code = unit.code()
    source = code.source()
    start = time.thread_time()
    found = compile_cubin(source, unit.chip.arch)
    return Made(unit, code, found.kernels, time.thread_time() - start)


OPTIONS: Mapping[str, Sequence[Any]] = {
    "kind": KINDS,
    "numbers": ("float32", "float64", *OPERANDS),
    "weights_in": tuple(WeightMemory),
    "chip": CHIPS,
    "lengths": (False, True),
    "bidirectional": (False, True),
}


def some_units() -> list[Unit]:
    """All pairs of options; cells take turns."""
    choices = zip(covering(OPTIONS, 2), cycle(CELLS), strict=False)
    return [unit_of(dict(choice, cell=cell), hidden_size=24) for choice, cell in choices]


def all_units() -> list[Unit]:
    """All pairs of options for each cell, two layers if forward."""
    choices = [choice for cell in CELLS for choice in covering({"cell": (cell,), **OPTIONS}, 2)]
    return [unit_of(choice, num_layers=2 if choice["kind"] == "forward" else 1) for choice in choices]


def unit_of(choice: dict[str, Any], **more: Any) -> Unit:
    options = {name: value for name, value in choice.items() if name != "numbers"}
    if choice["numbers"] in OPERANDS:
        return Unit(**options, operands=choice["numbers"], **more)
    return Unit(**options, dtype=choice["numbers"], **more)


SIZES = (128, 512, 1024, 2048)


def sized_units(chip: Chip = H100, cells: Sequence[str] = ("lstm", "gru", "rnn", "layer_norm_lstm")) -> list[Unit]:
    """Forward at sizes in use, as the model of the chip chooses."""
    return [
        Unit(cell, hidden_size=size, operands=operands, chip=chip)
        for cell in cells
        for size in SIZES
        for operands in (None, "tf32", "float16")
    ]
