"""The emulated GPU with wishes: recurrences are laid out as a test asks, threads run in any order, and all memory that
a kernel is given lies between guards.

`Way.backend` makes a backend of a way; results that are not written are NaN there, whoever allocated them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from rnnc import backends
from rnnc.backends.cuda.compiled import CudaBound, CudaCode, CudaTape
from rnnc.backends.cuda.emit.kernel import Kernel
from rnnc.backends.cuda.emit.tensor_products import KINDS
from rnnc.backends.cuda.emulated import EmulatedDevice
from rnnc.backends.cuda.emulator import EmulatedModule
from rnnc.backends.cuda.run import execution as run
from rnnc.backends.cuda.schedule.chip import EMULATED, Chip
from rnnc.backends.cuda.schedule.layouts import RecurrenceLayout, Restriction
from rnnc.backends.cuda.schedule.weight_memory import WeightMemory
from rnnc.ir.computation import Computation

Array = np.ndarray[Any, Any]

ROOMY: Chip = replace(
    EMULATED,
    name="roomy",
    sms=24,
    registers_per_sm=10**9,
    registers_per_thread=10**6,
    shared_per_sm=16 << 20,
    shared_per_block=4 << 20,
)
"""Room for every way at every size of a test; four slices for each of three layers of two directions."""

SLICES = {"one slice": 1, "two": 2, "many": 3}
"""How many slices at least; with "one slice" and "two", no more than that."""
FIRST, REVERSED = 0, 1
"""Orders of threads; other numbers shuffle."""


@dataclass(frozen=True)
class Divided(Restriction):
    """Wishes for so many slices, as far as a recurrence has units for them."""

    divided: str = "one slice"

    def allows(self, layout: RecurrenceLayout) -> bool:
        most = max((shape.phase.width for shape in layout.phases), default=1)
        least = min(SLICES[self.divided], most)
        return super().allows(layout) and layout.slices >= least and (self.divided == "many" or layout.slices == least)


@dataclass(frozen=True)
class Way:
    """A way of recurrences, and the order of threads. slices: of `SLICES`. wave: layers, as far as they can, run as a
    wavefront, in chunks of one step."""

    weights_in: WeightMemory = WeightMemory.REGISTERS
    slices: str = "one slice"
    order: int = FIRST
    wave: bool = False
    chip: Chip = ROOMY

    def __str__(self) -> str:
        return f"{self.weights_in.value}, {self.slices}, order {self.order}{', wave' * self.wave}"

    @staticmethod
    def of(number: int) -> Way:
        """Any 12 numbers in a row have all pairs of homes and slices."""
        orders = (FIRST, REVERSED, 2 + number)
        return Way(
            list(WeightMemory)[number % 4],
            list(SLICES)[number // 4 % 3],
            orders[(number + number // 4 + number // 12) % 3],
            (number // 2) % 2 == 0,
        )

    @property
    def restriction(self) -> Restriction:
        return Divided(weights_in=self.weights_in, wave=self.wave, divided=self.slices)

    def backend(self, monkeypatch: pytest.MonkeyPatch) -> str:
        """The name of a backend that goes this way, known to rnnc for the time of a test."""
        name = f"cuda-emulated ({self}, {self.chip.sms} blocks)"
        monkeypatch.setattr(run, "LEAST_CHUNK", 1)
        monkeypatch.setitem(backends.MODULES, name, name)
        monkeypatch.setitem(cast(dict[str, Any], sys.modules), name, WishedBackend(self))
        return name

    def code(self, computation: Computation, operands: str | None = None) -> PoisonedCode:
        """A compiled computation."""
        return PoisonedCode(computation, self.chip, self.device, operands, self.restriction)

    def device(self) -> GuardedDevice:
        return GuardedDevice(self.order, self.chip)


class WishedBackend:
    """What `rnnc.backends.base.Backend` asks of a module."""

    OPERANDS = tuple(KINDS)

    def __init__(self, layout: Way) -> None:
        self._way = layout

    def compile(self, computation: Computation, *, threads: int | None, operands: str | None = None) -> CudaCode:
        return self._way.code(computation, operands)


# ------------------------------------------------------------------------------------------ guards


class StrayWrite(AssertionError):
    """A kernel wrote beside what it was given."""


class Guarded:
    """A copy of an array between margins of NaNs, each with bits of its own: what is read there spoils results, and
    what is written there is found, even if it was read from such a margin. The copy is aligned as the array is."""

    MARGIN = 512

    def __init__(self, array: Array, number: int) -> None:
        self.array = array
        words = (array.nbytes + 3) // 4 + 3 * self.MARGIN // 4
        self._guard = _nans(number, words)
        self._memory = self._guard.copy()
        ahead = self.MARGIN + (array.ctypes.data - self._memory.ctypes.data) % 256
        self._inside = slice(ahead, ahead + array.nbytes)
        self.copy = self._memory[self._inside].view(array.dtype).reshape(array.shape)
        self.copy[...] = array

    def give_back(self, where: str) -> None:
        """Copies what changed into the array. Raises StrayWrite."""
        if self.array.flags.writeable:
            self.array[...] = self.copy
        self._memory[self._inside] = self._guard[self._inside]
        if not np.array_equal(self._memory, self._guard):
            first = int(np.flatnonzero(self._memory != self._guard)[0]) - self._inside.start
            raise StrayWrite(f"{where}: wrote at byte {first} of an array of {self.array.nbytes} bytes")


def _nans(number: int, words: int) -> NDArray[np.uint8]:
    """Bytes that are NaNs in float32 and in float64, different ones for each number and place."""
    low = (np.arange(words, dtype=np.uint64) * 40503 + number * 9973 + 1) % 65521
    return (low + 0xFFFF0000).astype(np.uint32).view(np.uint8)


class GuardedDevice(EmulatedDevice):
    """An emulated device that guards the arrays of each launch, and whose order of threads may be changed.

    Unless threads run in order, a stream of a wavefront runs as far ahead of the others as it may: all that was queued
    on the first, then on the second.
    """

    def __init__(self, order: int = FIRST, chip: Chip = ROOMY) -> None:
        super().__init__(order)
        self.chip = chip
        self._stream: list[Callable[[], None]] | None = None
        self._queued: list[list[Callable[[], None]]] = []

    def load(self, source: str, kernels: Sequence[Kernel]) -> GuardedUnit:
        return GuardedUnit(EmulatedModule(source, shared_limit=self.chip.shared_per_block), self)

    def queue(self, work: Callable[[], None]) -> None:
        """Does it, at once or in its stream."""
        if self._stream is None:
            work()
        else:
            self._stream.append(work)

    def narrow(self, array: Array, operands: str | None) -> Array:
        if operands is not None:  # a new array: what it is made of must be there
            self._run_streams()
        narrowed: Array = super().narrow(array, operands)
        return narrowed

    def gemm(self, out: Array, a: Array, b: Array, accumulate: bool, operands: str | None) -> None:
        self.queue(partial(super().gemm, out, a, b, accumulate, operands))

    def sum_rows(self, out: Array, a: Array, accumulate: bool) -> None:
        self.queue(partial(super().sum_rows, out, a, accumulate))

    @contextmanager
    def streams(self, count: int) -> Iterator[Any]:
        if self.order == FIRST:
            with super().streams(count) as streams:
                yield streams
            return
        self._queued = [[] for _ in range(count)]
        yield self
        self._run_streams()

    @contextmanager
    def use(self, number: int, after: int | None) -> Iterator[None]:
        """See `rnnc.backends.cuda.run.device.Streams.use`. It waits for those before it only: they have run."""
        assert after is None or after < number
        self._stream = self._queued[number]
        yield
        self._stream = None

    def _run_streams(self) -> None:
        stream, self._stream = self._stream, None
        for queued in self._queued:
            for work in queued:
                work()
            queued.clear()
        self._stream = stream


class GuardedUnit:
    """A translation unit whose launches are guarded."""

    def __init__(self, module: EmulatedModule, device: GuardedDevice) -> None:
        self._module = module
        self._device = device

    def launch(
        self, kernel: Kernel, grid: tuple[int, int, int], arguments: Sequence[object], cooperative: bool = False
    ) -> None:
        self._device.queue(partial(self._launch, kernel, grid, tuple(arguments), cooperative))

    def _launch(
        self, kernel: Kernel, grid: tuple[int, int, int], arguments: Sequence[object], cooperative: bool
    ) -> None:
        guarded: dict[tuple[int, int], Guarded] = {}
        given: list[object] = []
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                assert argument.flags.c_contiguous, kernel.name
                key = (argument.ctypes.data, argument.nbytes)
                if key not in guarded:
                    guarded[key] = Guarded(argument, len(guarded))
                given.append(guarded[key].copy)
            else:
                given.append(argument)
        self._module.launch(
            kernel.name,
            grid=grid,
            block=kernel.threads,
            shared=kernel.shared,
            arguments=given,
            cooperative=cooperative,
            order=self._device.order,
        )
        for number, one in enumerate(guarded.values()):
            one.give_back(f"{kernel.name}, array {number}")


# ------------------------------------------------------------------------------------------ results that start as NaN


def poison(outputs: Mapping[str, Array]) -> None:
    for array in outputs.values():
        array[...] = np.nan


class PoisonedCode(CudaCode):
    """Results start as NaN."""

    def bind(self, parameters: Mapping[str, Array]) -> CudaBound:
        return PoisonedBound(self, parameters)


class PoisonedBound(CudaBound):
    """Results start as NaN, in both halves."""

    def start(
        self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], steps: int, batch: int, lengths: Array | None
    ) -> CudaTape:
        poison(outputs)
        tape = super().start(inputs, outputs, steps, batch, lengths)
        finish: Callable[[Mapping[str, Array], Mapping[str, Array]], None] = tape.finish

        def poisoned(inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
            poison(outputs)
            finish(inputs, outputs)

        tape.finish = poisoned  # type: ignore[method-assign]
        return tape
