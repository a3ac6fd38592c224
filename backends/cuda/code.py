"""The code of a plan for a GPU: one translation unit of kernels, and the commands that the host runs.

product  loop0_sums = x @ weight_ih_l0'             a Gemm of the library
map      loop0_batched0                             equations at every row and unit
loop     loop0                                      all steps of a recurrence in one launch
sum      %42 = y' @ d                               over the rows of all steps
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from textwrap import indent

from rnnc.backends.cuda.emit.batched import emit_map, emit_reduction, reduction_threads
from rnnc.backends.cuda.emit.kernel import Kernel
from rnnc.backends.cuda.emit.packs import PACK_PRELUDE, Pack, pack_kernel
from rnnc.backends.cuda.emit.prelude import PRELUDE
from rnnc.backends.cuda.emit.recurrence import emit_persistent, emit_step_launches
from rnnc.backends.cuda.emit.tensor_products import KINDS, TENSOR_PRELUDE
from rnnc.backends.cuda.schedule.chip import Chip
from rnnc.backends.cuda.schedule.layouts import RecurrenceLayout, Restriction, choose_layouts, wave_pays
from rnnc.backends.cuda.schedule.products import merged, products
from rnnc.backends.planning.plan import Buffer, Line, Phase, Place, Plan, Region, RowSum, Space, Weight
from rnnc.ir.errors import BackendError


@dataclass(frozen=True)
class BatchedProduct:
    """target = lhs @ weight, or += with `accumulate`, over the rows of all steps, or over one row per sequence."""

    lhs: Place
    inner: int
    weight: Weight
    target: Place
    width: int
    per_sequence: bool
    accumulate: bool

    def __str__(self) -> str:
        side = f"{self.weight.family.name}{chr(39) * self.weight.transposed}"
        columns = f"[{self.weight.start}:{self.weight.stop}]"
        return f"product  {self.target} {'+' * self.accumulate}= {self.lhs} @ {side}{columns}"


@dataclass(frozen=True)
class Map:
    """A kernel over the rows of all steps, or over one row per sequence. elements: threads per row."""

    kernel: Kernel
    elements: int
    per_sequence: bool

    def __str__(self) -> str:
        return f"map      {self.kernel}"


@dataclass(frozen=True)
class PersistentKernel:
    """All steps of recurrences that run side by side, in one launch."""

    kernel: Kernel
    layouts: tuple[RecurrenceLayout, ...]

    @property
    def cooperative(self) -> bool:
        """True if blocks wait for each other, so that all must be resident."""
        return any(layout.slices > 1 for layout in self.layouts)

    def __str__(self) -> str:
        return f"loop     {self.kernel}"


@dataclass(frozen=True)
class StepLaunches:
    """A recurrence with one launch per phase: begin, the phases of each step, end."""

    kernels: tuple[Kernel, ...]
    layout: RecurrenceLayout

    def __str__(self) -> str:
        return f"steps    {', '.join(map(str, self.kernels))}"


@dataclass(frozen=True)
class Sum:
    """A sum over rows, by the library."""

    total: RowSum

    def __str__(self) -> str:
        terms = (f"{t.lhs}' @ {t.rhs}" if t.rhs else f"rows of {t.lhs}" for t in self.total.terms)
        return f"sum      {self.total.target.name} = {' + '.join(terms)}"


@dataclass(frozen=True)
class LineEnd:
    """The start of a delay line, whose initial state is copied into its buffer, or its end, and so its final state."""

    line: Line
    starts: bool

    def __str__(self) -> str:
        line = self.line
        if self.starts:
            return f"line     {line.buffer.name}: {line.steps} steps of {line.initial or 'zeros'}"
        targets = ", ".join([*line.finals, *([str(line.kept)] if line.kept else [])])
        return f"line     {targets}: the last {line.steps} steps of {line.buffer.name}"


@dataclass(frozen=True)
class Wavefront:
    """A wavefront of recurrences of one direction that read one another.

    While one recurrence works on a chunk of steps, the next one works on the chunk before.
    """

    stages: tuple[tuple[Command, ...], ...]
    direction: int

    def __str__(self) -> str:
        lines = [f"wave     {len(self.stages)} stages, each a chunk of steps behind the one before"]
        return "\n".join(lines + [f"  {n}: {command}" for n, stage in enumerate(self.stages) for command in stage])


Command = BatchedProduct | Map | PersistentKernel | StepLaunches | LineEnd | Wavefront | Sum


@dataclass
class GpuCode:
    """The code of a plan: kernels, and the commands of the first and of the second half.

    operands: the format of operands for tensor cores, or None.
    """

    plan: Plan
    chip: Chip
    operands: str | None = None
    kernels: list[Kernel] = field(default_factory=list)
    first: list[Command] = field(default_factory=list)
    second: list[Command] = field(default_factory=list)
    packs: list[Pack] = field(default_factory=list)
    layouts: list[RecurrenceLayout] = field(default_factory=list)

    @property
    def dtype(self) -> str:
        """The dtype of every value."""
        return self.plan.program.dtype

    def add(self, kernel: Kernel) -> Kernel:
        """The kernel to launch: this one, which is added, or a known one that does the same to other arguments."""
        for known in self.kernels:
            if (known.pattern, known.threads, known.shared) == (kernel.pattern, kernel.threads, kernel.shared):
                return known.for_(kernel)
        self.kernels.append(kernel)
        return kernel

    def source(self) -> str:
        """The text of the translation unit."""
        tensor = [TENSOR_PRELUDE] if self.operands else []
        packing = [PACK_PRELUDE] if self.packs else []
        return "\n".join([PRELUDE, *tensor, *packing, *(kernel.text for kernel in self.kernels)])

    def commands_text(self) -> str:
        """The commands as text."""
        parts = {"first half" if self.plan.late else "commands": self.first}
        parts |= {"second half": self.second} if self.plan.late else {}
        lines = [(name, [indent(str(command), "  ") for command in part]) for name, part in parts.items()]
        return "".join("\n".join([f"{name}:", *part, ""]) for name, part in lines)


def generate(plan: Plan, chip: Chip, operands: str | None = None, restriction: Restriction | None = None) -> GpuCode:
    """The code of a plan for a chip.

    operands: "float16", "bfloat16" or "tf32", the format of operands of matrix products; None: the plan's dtype.
    restriction: of the layouts of all recurrences, among which the model then chooses.
    Raises BackendError if operands do not fit the dtype, or if a recurrence has no layout on the chip.
    """
    if operands is not None and (operands not in KINDS or plan.program.dtype != "float32"):
        kinds = ", ".join(map(repr, KINDS))
        raise BackendError(f"matmul: expected {kinds} with dtype float32, got {operands!r} with {plan.program.dtype}")
    code = GpuCode(plan, chip, operands)
    for line in plan.lines:
        (code.second if line.late else code.first).append(LineEnd(line, True))
    open_lines = [line for line in plan.lines if line.finals or line.kept is not None]
    for chain in _chains(_side_by_side(plan.regions)):
        commands = code.second if chain[0][0].late else code.first
        read = {buffer for group in chain for region in group for buffer in region.reads()}
        for line in [line for line in open_lines if line.kept is not None and line.kept.buffer in read]:
            commands.append(LineEnd(line, False))
            open_lines.remove(line)
        alone, shared = (_schedules(code, chain, number, restriction) for number in (1, len(chain)))
        if _as_wave(alone, shared, restriction):
            stages = [tuple(_stage(code, group, layouts)) for group, layouts in zip(chain, shared, strict=True)]
            commands.append(Wavefront(tuple(stages), chain[0][0].direction))
        else:
            for group, layouts in zip(chain, alone, strict=True):
                commands += _stage(code, group, layouts)
    for line in open_lines:
        (code.second if line.late else code.first).append(LineEnd(line, False))
    for total in plan.sums:
        (code.second if total.late else code.first).append(Sum(total))
    for name in dict.fromkeys(pack.shape.pack for pack in code.packs):
        code.add(pack_kernel(name, code.dtype))
    return code


def _stage(code: GpuCode, group: Sequence[Region], layouts: Sequence[RecurrenceLayout]) -> Iterator[Command]:
    """The commands of regions that run side by side: their batched phases, then their recurrences."""
    for region in group:
        for phase in region.batched:
            yield from _batched(code, phase, region.per_sequence)
    if layouts:
        yield from _recurrences(code, layouts)


# ---- batched phases


def _batched(code: GpuCode, phase: Phase, per_sequence: bool) -> Iterator[Command]:
    name = f"map_{phase.name}"
    if phase.sums:
        kernel = code.add(emit_reduction(phase, name, code.dtype))
        yield Map(kernel, reduction_threads(phase), per_sequence)
        return
    targets = _direct(phase)
    sums: Buffer | None = None
    if phase.accumulators and targets is None:
        sums = Buffer(f"{phase.name}_sums", Space.ROWS if per_sequence else Space.CHUNK, _width(phase))
        targets = [Place(sums, number * phase.width) for number in range(len(phase.accumulators))]
    yield from _products(phase, targets or [], per_sequence)
    if sums is not None or not phase.accumulators:
        kernel = code.add(emit_map(phase, name, code.dtype, sums))
        yield Map(kernel, phase.width, per_sequence)


def _width(phase: Phase) -> int:
    return len(phase.accumulators) * phase.width


def _direct(phase: Phase) -> list[Place] | None:
    """The place of each accumulator, if a phase only stores its products; else None."""
    if phase.values or any(phase.initial.values()) or len(phase.stores) != len(phase.accumulators):
        return None
    targets = dict(phase.stores)
    return [targets[a] for a in phase.accumulators] if all(a in targets for a in phase.accumulators) else None


def _products(phase: Phase, targets: Sequence[Place], per_sequence: bool) -> Iterator[BatchedProduct]:
    """The products of a phase: one Gemm per run of neighbouring columns that are stored in neighbouring columns."""
    for product in products(phase):
        number = product.first
        for weight, count in merged(product.weights):
            runs = _neighbours(targets[number : number + count], phase.width)
            start = weight.start
            for target, blocks in runs:
                width = blocks * phase.width
                part = Weight(weight.family, weight.transposed, start, start + width)
                yield BatchedProduct(product.lhs, product.inner, part, target, width, per_sequence, not product.fresh)
                start += width
            number += count


def _neighbours(targets: Sequence[Place], width: int) -> list[tuple[Place, int]]:
    runs: list[tuple[Place, int]] = []
    for target in targets:
        if runs:
            last, count = runs[-1]
            if last.buffer is target.buffer and last.column + count * width == target.column:
                runs[-1] = (last, count + 1)
                continue
        runs.append((target, 1))
    return runs


# ---- recurrences


def _side_by_side(regions: Sequence[Region]) -> list[list[Region]]:
    """Groups of consecutive recurrences that are independent of each other, such as the two directions of a layer."""
    groups: list[list[Region]] = []
    for region in regions:
        last = groups[-1] if groups else []
        if last and region.steps and all(r.steps and r.late == region.late for r in last):
            if not any(_written(before) & region.reads() for before in last):
                last.append(region)
                continue
        groups.append([region])
    return groups


def _written(region: Region) -> set[Buffer]:
    stored = {place.buffer for phase in (*region.batched, *region.steps) for _, place in phase.stores}
    return stored | {state.kept.buffer for state in region.states if state.kept is not None}


def _chains(groups: Sequence[list[Region]]) -> list[list[list[Region]]]:
    """Chains of consecutive groups that may form a wavefront, such as the layers of a stack."""
    chains: list[list[list[Region]]] = []
    for group in groups:
        if chains and all(_may_follow(before, group) for before in chains[-1]):
            chains[-1].append(group)
        else:
            chains.append([group])
    return chains


def _may_follow(before: Sequence[Region], group: Sequence[Region]) -> bool:
    """True if a group may run a chunk of steps behind another.

    That takes the same direction and half, and no read of a last value or of a delay line, which other chunks write.
    """
    together = [*before, *group]
    alike = len({(r.direction, r.late) for r in together}) == 1 and all(r.steps for r in together)
    spaces = (Space.ROWS, Space.LINE)
    made = {buffer for region in before for buffer in _written(region) if buffer.space in spaces}
    return alike and not any(made & region.reads() for region in group)


def _schedules(
    code: GpuCode, chain: Sequence[Sequence[Region]], layers: int, restriction: Restriction | None
) -> list[list[RecurrenceLayout]]:
    """The layouts of each group, if so many layers share the chip."""
    result = []
    for group in chain:
        looped = [region for region in group if region.steps or region.states]
        layouts = [_schedule(code, region, layers * len(group), restriction) for region in looped]
        if any(layout.launches for layout in layouts):
            layouts = [_schedule(code, region, 1, restriction) for region in looped]
        result.append(layouts)
    return result


def _schedule(code: GpuCode, region: Region, together: int, restriction: Restriction | None) -> RecurrenceLayout:
    return choose_layouts(region, code.dtype, code.chip, code.operands, together, restriction)


def _as_wave(
    alone: list[list[RecurrenceLayout]], shared: list[list[RecurrenceLayout]], restriction: Restriction | None
) -> bool:
    if len(shared) == 1 or any(layout.launches for layouts in shared for layout in layouts):
        return False
    wanted = None if restriction is None else restriction.wave
    return wave_pays(alone, shared) if wanted is None else wanted


def _recurrences(code: GpuCode, layouts: Sequence[RecurrenceLayout]) -> Iterator[Command]:
    code.layouts += layouts
    numbers = _pack(code, layouts)
    whole = [layout for layout in layouts if not layout.launches]
    if whole:
        name = "_".join(layout.region.name for layout in whole)
        kernel = code.add(emit_persistent(whole, numbers, name))
        yield PersistentKernel(kernel, tuple(whole))
    for layout in layouts:
        if layout.launches:
            kernels = map(code.add, emit_step_launches(layout, numbers, layout.region.name))
            yield StepLaunches(tuple(kernels), layout)


def _pack(code: GpuCode, layouts: Sequence[RecurrenceLayout]) -> dict[int, int]:
    """Adds the packed weights of these recurrences, and returns id of a product's shape -> number of its weights."""
    numbers = {}
    for layout in layouts:
        for shape in layout.phases:
            for product in shape.products:
                numbers[id(product)] = len(code.packs)
                code.packs.append(Pack(product, layout.slices, shape.phase.width))
    return numbers
