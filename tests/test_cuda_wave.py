"""Layers as a wavefront: chunks of steps on streams of their own give what one layer after the other gives, in whatever
order the streams get on, as long as they wait for what they are told to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.backends.cuda import CudaCode
from rnnc.backends.cuda.emit.kernel import Kernel
from rnnc.backends.cuda.emulated import EmulatedDevice
from rnnc.backends.cuda.emulator import find_compiler
from rnnc.backends.cuda.schedule.chip import EMULATED
from rnnc.backends.cuda.schedule.layouts import Restriction
from rnnc.computations import forward
from rnnc.ir.autodiff import vjp
from rnnc.ir.computation import Computation
from rnnc.ir.graph import Graph
from rnnc.ir.lower import lower
from tests.forward_calls import run_stack

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="emulating CUDA needs a C++ compiler")

STEPS, BATCH = 19, 3
STACKS = {
    "three layers": rnnc.LSTM(5, 7, 3),
    "layers of several phases": rnnc.GRU(6, 5, 2, reset_after=False, dtype="float64"),
}


class DeferredDevice(EmulatedDevice):
    """Streams that do nothing until all is queued, and then go on as unevenly as their waits allow.

    eager: which of the lanes that can go on does: the first or the last. deaf: they wait for nothing.
    """

    def __init__(self, *, last_first: bool, deaf: bool = False) -> None:
        super().__init__()
        self.last_first, self.deaf = last_first, deaf
        self.queues: list[list[Any]] = []
        self.lane: int | None = None

    def later(self, work: Callable[[], None]) -> None:
        if self.lane is None:
            work()
        else:
            self.queues[self.lane].append(work)

    def load(self, source: str, kernels: Sequence[Kernel]) -> DeferredUnit:
        return DeferredUnit(self, super().load(source, kernels))

    def gemm(self, out: Any, a: Any, b: Any, accumulate: bool, operands: str | None) -> None:
        whole = super().gemm
        self.later(lambda: whole(out, a, b, accumulate, operands))

    @contextmanager
    def streams(self, count: int) -> Iterator[DeferredDevice]:
        self.queues = [[] for _ in range(count)]
        yield self
        done = [0] * count
        while any(done[n] < len(queue) for n, queue in enumerate(self.queues)):
            self._advance(done)

    @contextmanager
    def use(self, number: int, after: int | None) -> Iterator[None]:
        if after is not None and not self.deaf:
            self.queues[number].append((after, len(self.queues[after])))
        self.lane = number
        yield
        self.lane = None

    def _advance(self, done: list[int]) -> None:
        """One more item of a lane that need not wait."""
        order = range(len(done))[:: -1 if self.last_first else 1]
        number = next(n for n in order if done[n] < len(self.queues[n]) and self._ready(self.queues[n][done[n]], done))
        item = self.queues[number][done[number]]
        done[number] += 1
        if callable(item):
            item()

    def _ready(self, item: Any, done: list[int]) -> bool:
        return callable(item) or done[item[0]] >= item[1]


class DeferredUnit:
    """A unit whose launches wait for their turn."""

    def __init__(self, device: DeferredDevice, unit: Any) -> None:
        self.device, self.unit = device, unit

    def launch(self, kernel: Kernel, grid: Any, arguments: Sequence[object], cooperative: bool = False) -> None:
        given = list(arguments)
        self.device.later(lambda: self.unit.launch(kernel, grid, given, cooperative))


def gradients(spec: Any, device: EmulatedDevice, wave: bool, lengths: Any = None) -> dict[str, Any]:
    """All outputs of a vjp, by name."""

    def build(steps: int, ragged: bool) -> Graph:
        graph = lower(spec.stack(), steps, lengths=ragged)
        names = (n.attr("name") for n in graph.nodes if n.op == "input" and n.dtype != "bool")
        return vjp(graph, list(dict.fromkeys(names)))

    names = [name for name in build(1, False).outputs if name.startswith("d:")]
    seeds = ["d:" + name for name in build(1, False).outputs if not name.startswith("d:")]
    code = CudaCode(
        Computation(build, frozenset(names + seeds)), EMULATED, lambda: device, restriction=Restriction(wave=wave)
    )
    assert ("wave " in code.text("commands")) == wave
    random = np.random.default_rng(0)
    arrays = {}
    for node in build(STEPS, False).nodes:
        if node.op == "input" and node.attr("name") not in arrays:
            sizes = [BATCH if size == "B" else int(size) for size in node.shape]
            shape = sizes if node.step is None else [STEPS, *sizes]
            arrays[node.attr("name")] = random.uniform(-0.5, 0.5, shape).astype(spec.dtype)
    made = {}
    for name, output in build(STEPS, False).outputs.items():
        nodes = output if isinstance(output, tuple) else (output,)
        sizes = [BATCH if size == "B" else int(size) for size in nodes[0].shape]
        made[name] = np.full([len(nodes), *sizes] if isinstance(output, tuple) else sizes, np.nan, spec.dtype)
    first = {name: array for name, array in arrays.items() if name not in seeds}
    tape = code.bind({}).start(first, {n: a for n, a in made.items() if n not in names}, STEPS, BATCH, lengths)
    tape.finish({name: arrays[name] for name in seeds}, {name: made[name] for name in names})
    return made


@pytest.mark.sampled(4)
@pytest.mark.parametrize("last_first", (False, True), ids=("first lane first", "last lane first"))
@pytest.mark.parametrize("ragged", (False, True), ids=("dense", "ragged"))
@pytest.mark.parametrize("name", STACKS)
def test_a_wave_computes_what_one_layer_after_the_other_does(name: str, ragged: bool, last_first: bool) -> None:
    lengths = np.array([STEPS, 0, 6]) if ragged else None
    expected = gradients(STACKS[name], EmulatedDevice(), False, lengths)
    found = gradients(STACKS[name], DeferredDevice(last_first=last_first), True, lengths)
    for key, value in expected.items():
        assert np.isfinite(value).all(), key
        rounding = (
            32 * np.finfo(value.dtype).eps * np.abs(value).max()
        )  # a library's Gemm depends on how many rows it has
        np.testing.assert_allclose(found[key], value, rtol=0, atol=rounding, err_msg=key)


def test_without_its_waits_a_wave_is_wrong() -> None:
    """The test above would show a wait that is missing."""
    spec = STACKS["three layers"]
    found = gradients(spec, DeferredDevice(last_first=True, deaf=True), True)
    assert not np.array_equal(found["output"], gradients(spec, EmulatedDevice(), False)["output"])


@pytest.mark.parametrize("steps", (1, 3, 4, 33))
def test_few_steps(steps: int) -> None:
    spec = rnnc.RNN(4, 6, 2)
    x = np.random.default_rng(0).standard_normal((steps, 2, 4)).astype("float32")
    results = []
    for wave in (False, True):
        code = CudaCode(forward(spec), EMULATED, EmulatedDevice, restriction=Restriction(wave=wave))
        output, (final,) = run_stack(code.bind(spec.init(seed=0)), spec.stack(), x)
        results.append((output, final))
    for one, other in zip(*results, strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_layers_side_by_side_are_resident_together() -> None:
    """Cooperative launches that did not fit beside each other would take turns, and be no wavefront."""
    chip, spec, batch = replace(EMULATED, sms=12), rnnc.LSTM(3, 8, 3), 40
    device = GridDevice()
    device.chip = chip
    code = CudaCode(forward(spec), chip, lambda: device, restriction=Restriction(slices=2, wave=True))
    run_stack(code.bind(spec.init(seed=0)), spec.stack(), np.zeros((4, batch, 3), "float32"))
    assert device.blocks == [4, 4, 4]  # two groups of two slices each


class GridDevice(EmulatedDevice):
    """Notes how many blocks cooperative launches have."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[int] = []

    def load(self, source: str, kernels: Sequence[Kernel]) -> Any:
        unit = super().load(source, kernels)

        class Noting:
            def launch(_, kernel: Kernel, grid: Any, arguments: Any, cooperative: bool = False) -> None:
                self.blocks += [int(np.prod(grid))] * cooperative
                unit.launch(kernel, grid, arguments, cooperative)

        return Noting()


def test_directions_and_last_values_keep_layers_apart() -> None:
    """A backward direction reads the last step first: the layer above cannot start before the one below has ended."""
    program = rnnc.compile(rnnc.LSTM(5, 7, 2, bidirectional=True), backend="cuda")
    assert "wave " not in program.ir("commands")
    assert "wave " in rnnc.compile(rnnc.LSTM(128, 256, 3), backend="cuda").ir("commands")
