"""The execution of code on a device. Buffers are arrays; commands are library calls and launches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rnnc.backends import fresh
from rnnc.backends.cuda.code import (
    BatchedProduct,
    Command,
    GpuCode,
    LineEnd,
    Map,
    PersistentKernel,
    StepLaunches,
    Sum,
    Wavefront,
)
from rnnc.backends.cuda.emit.kernel import TIMED, Counter, Kernel, Named, Size, Source, Weights, stride_of
from rnnc.backends.cuda.emit.recurrence import COUNTER_STRIDE
from rnnc.backends.cuda.run.device import Array, Device, LoadedUnit, blocks_for
from rnnc.backends.cuda.schedule.layouts import WAVE_CHUNKS, RecurrenceLayout
from rnnc.backends.planning.plan import Buffer, Line, Place, RowSum, Space, Weight
from rnnc.ir.errors import ArgumentError
from rnnc.ir.families import Family, operands_first

LAUNCH_ROWS = 2**31 - 1
"""The most rows of all steps, which kernels count with 32 bits."""
SUM_OPERANDS = "tf32"
"""The format of operands of sums over rows on tensor cores. Small gradients would underflow in float16."""
LEAST_CHUNK = 4
"""The fewest steps per chunk of a wavefront."""
MOST_GROUPS = 65535
"""The largest second axis of a grid."""


class Loaded:
    """Code on a device, without parameters. Threads may use it at the same time."""

    def __init__(self, code: GpuCode, device: Device) -> None:
        self.code = code
        self.device = device
        self.unit: LoadedUnit = device.load(code.source(), code.kernels)

    def pack(self, values: Values) -> list[Array]:
        """The packed weights of all recurrences."""
        kernels = {kernel.name: kernel for kernel in self.code.kernels}
        result = []
        for pack in self.code.packs:
            kernel = kernels[pack.shape.pack]
            dtype = np.dtype(np.uint32 if pack.shape.element == "unsigned" else self.code.dtype)
            target = fresh.empty(pack.bytes // dtype.itemsize, dtype, self.device.xp)
            grid = (blocks_for(self.device.chip, pack.bytes // 4, kernel.threads), 1, 1)
            for family, numbers in pack.fills():
                self.unit.launch(kernel, grid, (values[family], target, *numbers))
            result.append(target)
        return result

    def make(self, values: Values) -> None:
        """Computes all values that commands read, so that calls need not."""
        for command in flat([*self.code.first, *self.code.second]):
            if isinstance(command, BatchedProduct):
                values.narrowed(command.weight.family, self.device, self.code.operands)
            for kernel in launched(command):
                for source in kernel.arguments:
                    if isinstance(source, Family):
                        values[source]


class Values:
    """The values without a batch axis: parameters, numbers, and values computed from them when first needed."""

    def __init__(self, xp: Any, dtype: str, known: Mapping[Family, Array]) -> None:
        self._xp = xp
        self._dtype = np.dtype(dtype)
        self._known = dict(known)
        self._narrowed: dict[Family, Array] = {}

    def __getitem__(self, family: Family) -> Array:
        """The value, C-contiguous."""
        for made in operands_first([family], self._known):
            if made is family or made.op != "const":
                self._known[made] = self._xp.ascontiguousarray(self._computed(made), dtype=self._dtype)
        return self._known[family]

    def narrowed(self, family: Family, device: Device, operands: str | None) -> Array:
        """The value as operands of `Device.gemm`."""
        if operands is None:
            return self[family]
        if family not in self._narrowed:
            self._narrowed[family] = device.narrow(self[family], operands)
        return self._narrowed[family]

    def _computed(self, family: Family) -> Array:
        if family.op == "zeros":
            return self._xp.zeros([int(size) for size in family.shape], self._dtype)
        meaning = family.spec.meaning
        assert meaning is not None
        return meaning(*(self._operand(i) for i in family.inputs), **dict(family.attrs))

    def _operand(self, family: Family) -> Any:
        """The value of an operand. A constant is a NumPy scalar, which both array libraries accept."""
        return self._dtype.type(family.attr("value")) if family.op == "const" else self[family]

    def with_sums(self, sums: Mapping[Family, Array]) -> Values:
        """These values together with sums over rows, from which other values can then be computed."""
        return Values(self._xp, self._dtype.name, self._known | dict(sums))


def flat(commands: Iterable[Command]) -> Iterator[Command]:
    """The commands, with each wavefront replaced by the commands of its stages."""
    for command in commands:
        if isinstance(command, Wavefront):
            for stage in command.stages:
                yield from flat(stage)
        else:
            yield command


def launched(command: Command) -> tuple[Kernel, ...]:
    """The kernels of a command; none if it is a library call."""
    if isinstance(command, (Map, PersistentKernel)):
        return (command.kernel,)
    return command.kernels if isinstance(command, StepLaunches) else ()


class Run:
    """One call: its sizes, its buffers, and its named arrays with one row per sequence."""

    def __init__(self, loaded: Loaded, values: Values, packed: Sequence[Array], steps: int, batch: int) -> None:
        if steps * batch > LAUNCH_ROWS:
            raise ArgumentError(f"x: expected T * B <= {LAUNCH_ROWS:,}, got {steps} * {batch}")
        self.loaded = loaded
        self.code, self.device, self.unit = loaded.code, loaded.device, loaded.unit
        self.values = values
        self.packed = packed
        self.steps, self.batch = steps, batch
        self.buffers: dict[Buffer, Array] = {}
        self.named: dict[str, Array] = {}
        self.sums: dict[Family, Array] = {}
        self.span, self.direction = (0, steps), 1  # the steps to run, counted in this direction
        self.layers = 1  # the stages of a wavefront that share the chip

    def copy(self) -> Run:
        """An independent run with the same buffers and values."""
        other = Run(self.loaded, self.values, self.packed, self.steps, self.batch)
        other.buffers, other.named, other.sums = dict(self.buffers), dict(self.named), dict(self.sums)
        return other

    def run(self, commands: Iterable[Command]) -> None:
        """Executes commands, in order."""
        for command in commands:
            match command:
                case BatchedProduct():
                    self._product(command)
                case Map():
                    self._map(command)
                case PersistentKernel():
                    self._whole(command)
                case StepLaunches():
                    self._launches(command)
                case LineEnd():
                    self._line_end(command.line, command.starts)
                case Wavefront():
                    self._wave(command)
                case Sum():
                    self._sum(command.total)

    # ---- buffers

    def rows(self, buffer: Buffer) -> int:
        """The number of rows of a buffer."""
        if buffer.space in TIMED:
            return (buffer.before + self.steps + buffer.after) * self.batch
        return self.batch * (2 if buffer.double else 1)

    def array(self, buffer: Buffer) -> Array:
        """The array (rows, stride) of a buffer, which is made when it is first needed."""
        if buffer not in self.buffers:
            shape = (self.rows(buffer), stride_of(buffer, self.code.dtype))
            self.buffers[buffer] = fresh.empty(shape, self.code.dtype, self.device.xp)
        return self.buffers[buffer]

    def view(self, place: Place, width: int) -> Array:
        """A view of the columns of a place, (rows, width). Of a line, it has the rows that all steps read."""
        array = self.array(place.buffer)
        if place.buffer.space is Space.LINE:
            first = (place.buffer.before - place.shift) * self.batch
            array = array[first : first + self.steps * self.batch]
        return array[:, place.column : place.column + width]

    def _line_end(self, line: Line, starts: bool) -> None:
        """Copies the initial state of a delay line into its buffer, or the final state out of it."""
        steps = self.array(line.buffer).reshape(-1, self.batch, line.width)
        if not starts:
            at = self.steps if line.direction > 0 else line.buffer.before
            last = steps[at : at + line.steps].transpose(1, 0, 2).reshape(self.batch, -1)
            targets = [self.named.get(name) for name in line.finals]
            targets += [self.view(line.kept, last.shape[-1])] if line.kept is not None else []
            for target in targets:
                if target is not None:
                    target[...] = last
            return
        first = steps[: line.steps] if line.direction > 0 else steps[line.buffer.before + self.steps :]
        initial = self.named.get(line.initial) if line.initial is not None else None
        if initial is None:
            first[...] = 0
        else:
            first[...] = initial.reshape(self.batch, line.steps, line.width).transpose(1, 0, 2)

    def drop(self, keep: Iterable[Buffer]) -> None:
        """Frees all buffers but these."""
        kept = set(keep)
        self.buffers = {buffer: array for buffer, array in self.buffers.items() if buffer in kept}

    # ---- commands

    def _product(self, product: BatchedProduct) -> None:
        operands = self.code.operands
        start, rows = self._rows_of(product)
        out = self.view(product.target, product.width)[start : start + rows]
        lhs = self.device.narrow(self.view(product.lhs, product.inner)[start : start + rows], operands)
        self.device.gemm(out, lhs, self._matrix(product.weight), product.accumulate, operands)

    def _rows_of(self, command: BatchedProduct | Map) -> tuple[int, int]:
        """The first row and the number of rows: one per sequence, or those of the span of steps."""
        if command.per_sequence:
            return 0, self.batch
        start, stop = self.span
        first = start if self.direction > 0 else self.steps - stop
        return first * self.batch, (stop - start) * self.batch

    def _matrix(self, weight: Weight) -> Array:
        matrix = self.values.narrowed(weight.family, self.device, self.code.operands)
        return (matrix.T if weight.transposed else matrix)[:, weight.start : weight.stop]

    def _map(self, command: Map) -> None:
        start, rows = self._rows_of(command)
        blocks = blocks_for(self.device.chip, rows * command.elements, command.kernel.threads)
        self._launch(command.kernel, (blocks, 1, 1), {"start": start, "rows": rows})

    def _whole(self, command: PersistentKernel) -> None:
        slices = max(layout.slices for layout in command.layouts)
        width = slices * len(command.layouts) * self.layers  # the grid has the slices of the widest layout for all
        once = max(1, self.device.chip.sms // width)
        tile, groups = self._tiles(command.layouts[0], once, once if command.cooperative else MOST_GROUPS)
        grid = (slices, groups, len(command.layouts))
        counters = len(command.layouts) * groups * COUNTER_STRIDE
        start, stop = self.span
        self._launch(command.kernel, grid, {"tile": tile, "from": start, "to": stop}, counters, command.cooperative)

    def _launches(self, command: StepLaunches) -> None:
        once = max(1, self.device.chip.sms // command.layout.slices)
        tile, groups = self._tiles(command.layout, once, MOST_GROUPS)
        grid = (command.layout.slices, groups, 1)
        begin, *phases, end = command.kernels
        self._launch(begin, grid, {"tile": tile})
        prepared = [self._arguments(kernel, {"tile": tile, "n": 0}, 0) for kernel in phases]
        places = [kernel.arguments.index(Size("n")) for kernel in phases]
        for n in map(np.int32, range(self.steps)):
            for kernel, arguments, place in zip(phases, prepared, places, strict=True):
                arguments[place] = n
                self.unit.launch(kernel, grid, arguments)
        self._launch(end, grid, {"tile": tile})

    def _wave(self, wave: Wavefront) -> None:
        """Runs a wavefront chunk by chunk.

        In each round later stages are queued first, so that a stage does not wait for this round's work of the stage
        before it.
        """
        chunks = max(1, min(WAVE_CHUNKS, self.steps // LEAST_CHUNK))
        bounds = [self.steps * n // chunks for n in range(chunks + 1)]
        self._prepare(wave)
        self.direction, self.layers = wave.direction, len(wave.stages)
        with self.device.streams(len(wave.stages)) as streams:
            for round_ in range(chunks + len(wave.stages) - 1):
                for number in reversed(range(len(wave.stages))):
                    chunk = round_ - number
                    if 0 <= chunk < chunks:
                        self.span = (bounds[chunk], bounds[chunk + 1])
                        with streams.use(number, after=number - 1 if number else None):
                            self.run(wave.stages[number])
        self.span, self.direction, self.layers = (0, self.steps), 1, 1

    def _prepare(self, wave: Wavefront) -> None:
        """Makes the values and buffers of all stages before they run side by side."""
        self.loaded.make(self.values)
        for command in flat([wave]):
            if isinstance(command, BatchedProduct):
                self.array(command.lhs.buffer)
                self.array(command.target.buffer)
            for kernel in launched(command):
                for source in kernel.arguments:
                    if isinstance(source, Buffer):
                        self.array(source)

    def _tiles(self, layout: RecurrenceLayout, once: int, most: int) -> tuple[int, int]:
        """The rows per tile and the number of groups, at most `most`. once: the number of groups that fill the chip."""
        tile = min(layout.rows, -(-self.batch // min(once, self.batch)))
        return tile, min(most, -(-self.batch // tile))

    def _launch(
        self,
        kernel: Kernel,
        grid: tuple[int, int, int],
        sizes: Mapping[str, int],
        counters: int = 0,
        cooperative: bool = False,
    ) -> None:
        self.unit.launch(kernel, grid, self._arguments(kernel, sizes, counters), cooperative)

    def _arguments(self, kernel: Kernel, sizes: Mapping[str, int], counters: int) -> list[object]:
        known = {"T": self.steps, "B": self.batch, **sizes}
        return [self._argument(source, known, counters) for source in kernel.arguments]

    def _argument(self, source: Source, sizes: Mapping[str, int], counters: int) -> object:
        match source:
            case Buffer():
                return self.array(source)
            case Family():
                return self.values[source]
            case Weights(number, _):
                return self.packed[number]
            case Named(name):
                return self.named.get(name)
            case Size(name):
                return np.int32(sizes[name])
            case Counter():
                return self.device.xp.zeros(max(1, counters), np.uint32)
        raise AssertionError(source)

    # ---- sums over rows

    def _sum(self, total: RowSum) -> None:
        family = total.target
        out = self.sums.get(family)
        if out is None:
            out = fresh.empty([int(s) for s in family.shape], self.code.dtype, self.device.xp)
            self.sums[family] = out
        matrix = out.reshape(-1, int(family.shape[-1]))
        kind, narrow = SUM_OPERANDS if self.code.operands else None, self.device.narrow
        for number, term in enumerate(total.terms):
            rhs = None if term.rhs is None else self.view(term.rhs, term.units)
            if rhs is None:
                self.device.sum_rows(matrix[0], self.view(term.lhs, term.units), number > 0)
            else:
                self.device.gemm(
                    matrix, narrow(self.view(term.lhs, term.rows), kind).T, narrow(rhs, kind), number > 0, kind
                )
