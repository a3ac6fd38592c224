"""Kernels of recurrences: one launch for all steps, or for a range of steps, or for each phase of a step.

hold this slice's weights on the chip; start the states; barrier
for each step:
    for each phase:
        for each tile of the group's rows:
            stage rows of the left operand in shared memory
            products: the columns of this slice's units
            the equations at each row and unit; stores
        barrier, if another block reads what was stored
the last states

See `rnnc.backends.cuda.schedule.layouts` for slices, groups and tiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rnnc.backends.cuda.emit.equations import Addresses, Equations, Frame
from rnnc.backends.cuda.emit.kernel import VECTOR_BYTES, Counter, Kernel, Named, Parameters, Size, Weights, stride_of
from rnnc.backends.cuda.emit.reductions import emit_grid_reductions, emit_row_reduction
from rnnc.backends.cuda.emit.tensor_products import TensorProduct
from rnnc.backends.cuda.emit.text import BYTES, REALS, Text
from rnnc.backends.cuda.emit.warp_products import WarpProduct
from rnnc.backends.cuda.schedule.layouts import PhaseShape, RecurrenceLayout
from rnnc.backends.cuda.schedule.weight_memory import WeightMemory
from rnnc.backends.planning.hazards import barriers
from rnnc.backends.planning.plan import Place, State
from rnnc.ir.families import Family

COUNTER_STRIDE = 32
"""The distance between barrier counters, in words: each has a cache line of its own."""


def emit_persistent(layouts: Sequence[RecurrenceLayout], numbers: dict[int, int], name: str) -> Kernel:
    """One kernel that runs the steps from .. to of recurrences side by side. blockIdx.z is the recurrence's number.

    numbers: id of a product's shape -> number of its packed weights.
    """
    text, parameters = Text(), Parameters(layouts[0].dtype)
    _sizes(parameters, "from", "to")
    for number, layout in enumerate(layouts):
        with text.block(f"if (blockIdx.z == {number})" if len(layouts) > 1 else ""):
            if len({w.slices for w in layouts}) > 1:
                text.line(f"if (blockIdx.x >= {layout.slices}) return;")
            _Writer(layout, numbers, text, parameters).whole(number)
    return _kernel(layouts, name, text, parameters)


def emit_step_launches(layout: RecurrenceLayout, numbers: dict[int, int], name: str) -> list[Kernel]:
    """The kernels of a recurrence with one launch per phase: its begin, one for each phase, its end."""
    kernels = []
    for part in ("begin", *range(len(layout.phases)), "end"):
        text, parameters = Text(), Parameters(layout.dtype)
        _sizes(parameters)
        writer = _Writer(layout, numbers, text, parameters)
        if part == "begin":
            writer.begin()
        elif part == "end":
            writer.end()
        else:
            writer.one(int(part))
        kernels.append(_kernel([layout], f"{name}_{part}", text, parameters))
    return kernels


def _sizes(parameters: Parameters, *more: str) -> None:
    for size in ("T", "B", "tile", *more):
        parameters.use(Size(size))


def _kernel(layouts: Sequence[RecurrenceLayout], name: str, text: Text, parameters: Parameters) -> Kernel:
    threads = layouts[0].threads
    whole = Text()
    head = f'extern "C" __global__ void __launch_bounds__({threads}, 1) {name}({parameters.declared()})'
    with whole.block(head):
        whole.line(str(text).rstrip())
    shared = max(layout.shared for layout in layouts)
    return Kernel(name, str(whole), parameters.sources(), threads, shared, parameters.names())


class _Writer:
    """The writer of one recurrence into a kernel."""

    def __init__(self, layout: RecurrenceLayout, numbers: dict[int, int], text: Text, parameters: Parameters) -> None:
        self.layout = layout
        self.numbers = numbers
        self.text = text
        self.parameters = parameters
        self.real = REALS[layout.dtype]
        self.barriers = barriers(layout.region)
        stored = {place.buffer for shape in layout.phases for _, place in shape.phase.stores}
        fresh = frozenset({*stored, *(state.buffer for state in layout.region.states)})
        self.addresses = Addresses(parameters, fresh)
        self.weights: dict[int, str] = {}

    # ---- whole kernels

    def whole(self, number: int) -> None:
        self._places()
        if self.layout.slices > 1:
            counters = self.parameters.use(Counter())
            index = f"({number} * gridDim.y + blockIdx.y) * {COUNTER_STRIDE}" if number else (
                f"blockIdx.y * {COUNTER_STRIDE}"
            )  # fmt: skip
            self.text.line(f"unsigned* const counter = {counters} + {index};\nunsigned arrived = 0;")
        self._shared()
        self._hold_weights()
        with self.text.block("if (from == 0)"):
            self._start_states()
            self._barrier()
        with self.text.block("for (int n = from; n < to; n++)"):
            self._moment()
            for position, shape in enumerate(self.layout.phases):
                if position and position in self.barriers:
                    self._barrier()
                self._phase(shape)
            if 0 in self.barriers:
                self._barrier()
        if any(s.finals or s.kept for s in self.layout.region.states):
            with self.text.block("if (to == T)"):
                if 0 not in self.barriers:
                    self._barrier()
                self._finish_states()

    def begin(self) -> None:
        self._places()
        self._start_states()

    def one(self, number: int) -> None:
        self._places()
        self.parameters.use(Size("n"))
        self._moment()
        self._shared()
        self._hold_weights([self.layout.phases[number]])
        self._phase(self.layout.phases[number])

    def end(self) -> None:
        self._places()
        self._finish_states()

    # ---- the place of this block, and the step

    def _places(self) -> None:
        self.text.line("const int slice = blockIdx.x, group = blockIdx.y, groups = gridDim.y;")

    def _moment(self) -> None:
        step = "n" if self.layout.region.direction > 0 else "(T - 1 - n)"
        self.text.line(f"const int at = {step} * B, was = n & 1, now = was ^ 1;")

    def _shared(self) -> None:
        """Declares shared memory: rows first, then accumulators, then weights."""
        self.text.line("extern __shared__ __align__(16) unsigned char staged[];")
        self.text.line(f"{self.real}* const sums = ({self.real}*)(staged + {self.layout.staged});")

    @contextmanager
    def _tiles(self) -> Iterator[None]:
        with self.text.block("for (int first = group * tile; first < B; first += groups * tile)"):
            self.text.line("const int count = min(tile, B - first);")
            yield

    def _barrier(self) -> None:
        if self.layout.slices == 1:
            self.text.line("__syncthreads();")
        else:
            self.text.line(f"rnnc_barrier(counter, arrived += {self.layout.slices});")

    def _frame(self, row: str, unit: str) -> Frame:
        return Frame(unit, f"at + {row}", row, "was", "now")

    # ---- weights

    def _hold_weights(self, phases: Sequence[PhaseShape] | None = None) -> None:
        """Loads a slice's weights into registers or shared memory, or only declares a pointer to them."""
        offset = self.layout.staged + self.layout.sums
        for shape in self.layout.phases if phases is None else phases:
            for product in shape.products:
                number = self.numbers[id(product)]
                own = len(self.weights)
                name = self.weights[id(product)] = f"weights{own}"
                packed = self.parameters.use(Weights(number, product.element))
                source = f"{packed} + (size_t)slice * {product.weight_bytes} / sizeof({product.element})"
                if self.layout.weights_in is WeightMemory.REGISTERS:
                    product.hold(self.text, name, source)
                    continue
                if self.layout.weights_in is WeightMemory.SHARED:
                    self.text.line(f"{product.element}* const shared{own} = ({product.element}*)(staged + {offset});")
                    count = f"{product.weight_bytes} / sizeof({product.element})"
                    with self.text.block(f"for (int i = threadIdx.x; i < {count}; i += {self.layout.threads})"):
                        self.text.line(f"shared{own}[i] = __ldg({source} + i);")
                    source = f"shared{own}"
                    offset += product.weight_bytes
                self.text.line(f"const {product.vector_type}* const {name} = (const {product.vector_type}*)({source});")

    # ---- states

    def _start_states(self) -> None:
        for state in self.layout.region.states:
            width = state.buffer.width
            with self._elements(width):
                frame = Frame("j", "row", "row", "0", "1")
                self.text.line(f"const {self.real} initial = {self._initial(state, frame)};")
                for previous in (True, False)[: 1 + state.buffer.double]:  # both halves: a state may never be written
                    target = self.addresses.pointer(Place(state.buffer, 0, previous), frame, "j", written=True)
                    self.text.line(f"*({target}) = initial;")

    def _initial(self, state: State, frame: Frame) -> str:
        if state.initial is None:
            return "0"
        if isinstance(state.initial, Place):
            return f"*({self.addresses.pointer(state.initial, frame, 'j')})"
        name = self.parameters.use(Named(state.initial))
        return f"{name} ? __ldg({name} + (size_t)row * {state.buffer.width} + j) : 0"

    def _finish_states(self) -> None:
        for state in self.layout.region.states:
            if not state.finals and state.kept is None:
                continue
            with self._elements(state.buffer.width):
                frame = Frame("j", "row", "row", "(T & 1)", "(T & 1)")
                source = self.addresses.pointer(Place(state.buffer), frame, "j")
                self.text.line(f"const {self.real} last = __ldcg({source});")
                for final in state.finals:
                    name = self.parameters.use(Named(final), written=True)
                    self.text.line(f"if ({name}) {name}[(size_t)row * {state.buffer.width} + j] = last;")
                if state.kept is not None:
                    kept = self.addresses.pointer(state.kept, frame, "j", written=True)
                    self.text.line(f"*({kept}) = last;")

    @contextmanager
    def _elements(self, width: int) -> Iterator[None]:
        """A loop of all threads of a group over the elements of the group's rows, with one row per sequence."""
        threads = self.layout.threads
        with self._tiles():
            start, step = ("threadIdx.x", threads)
            if self.layout.slices > 1:
                start, step = f"slice * {threads} + threadIdx.x", threads * self.layout.slices
            with self.text.block(f"for (int i = {start}; i < count * {width}; i += {step})"):
                self.text.line(f"const int row = first + i / {width}, j = i % {width};")
                yield

    # ---- phases

    def _phase(self, shape: PhaseShape) -> None:
        self.text.line(f"// phase {shape.phase.name}")
        with self._tiles():
            equations = Equations(shape.phase, self.text, self.addresses)
            if shape.phase.sums:
                self._reduction(equations)
            elif self.layout.rows * shape.units <= self.layout.threads:
                self._item_each(shape, equations)
            else:
                self._items(shape, equations)

    def _reduction(self, equations: Equations) -> None:
        """Emits reductions. The warps of all slices share the rows, or the slices do if the phase walks a grid."""
        if equations.phase.axes:
            start, step = ("slice", self.layout.slices) if self.layout.slices > 1 else ("0", 1)
            with self.text.block(f"for (int r = {start}; r < count; r += {step})"):
                self.text.line("const int row = first + r;")
                emit_grid_reductions(equations, self._frame("row", "0"), self.layout.threads)
            return
        warps = self.layout.threads // 32
        start, step = "threadIdx.x / 32", warps
        if self.layout.slices > 1:
            start, step = f"slice * {warps} + threadIdx.x / 32", warps * self.layout.slices
        with self.text.block(f"for (int r = {start}; r < count; r += {step})"):
            self.text.line("const int row = first + r;")
            emit_row_reduction(equations, self._frame("row", "0"))

    def _item_each(self, shape: PhaseShape, equations: Equations) -> None:
        """Emits a phase with at most one row and unit per thread, which loads its operands before the products."""
        text = self.text
        text.line(f"const int r = threadIdx.x / {shape.units}, row = first + r;")
        text.line(f"const int u = slice * {shape.units} + threadIdx.x % {shape.units};")
        text.line(f"const bool mine = r < count && u < {shape.phase.width};")
        frame = self._frame("row", "u")
        loaded = equations.declare_loads()
        if loaded:
            with text.block("if (mine)"):
                equations.fill_loads(loaded, frame)
        self._dots(shape)
        with text.block("if (mine)"):
            known = loaded | self._accumulators(shape, "r", f"threadIdx.x % {shape.units}")
            equations.stores(frame, equations.values(frame, known))

    def _items(self, shape: PhaseShape, equations: Equations) -> None:
        """Emits a phase with more rows and units than threads."""
        text, units = self.text, shape.units
        self._dots(shape)
        with text.block(f"for (int i = threadIdx.x; i < count * {units}; i += {self.layout.threads})"):
            text.line(f"const int r = i / {units}, row = first + r, u = slice * {units} + i % {units};")
            text.line(f"if (u >= {shape.phase.width}) continue;")
            frame = self._frame("row", "u")
            known = self._accumulators(shape, "r", f"i % {units}")
            equations.stores(frame, equations.values(frame, known))

    def _accumulators(self, shape: PhaseShape, row: str, unit: str) -> dict[Family, str]:
        """The expression of each accumulator: the sum of its parts."""
        part = self.layout.rows * shape.width
        return {
            family: " + ".join(
                f"sums[{part * n + number * shape.units} + {row} * {shape.width} + {unit}]" for n in range(shape.parts)
            )
            for number, family in enumerate(shape.phase.accumulators)
        }

    def _dots(self, shape: PhaseShape) -> None:
        """Emits the products of a phase: stages each left operand once, and leaves accumulators in shared memory."""
        text = self.text
        if not shape.products:
            return
        if shape.parts > 1 or shape.products[0].element == "unsigned":
            text.line(f"const int part = {self.layout.rows * shape.width};")
        staged: tuple[Place, int, int] | None = None
        for product in shape.products:
            # The number of columns too: rows of different widths may be padded to one size.
            wanted = (product.product.lhs, product.product.inner, product.row_bytes)
            if staged is not None and (staged != wanted or not product.product.fresh):
                text.line("__syncthreads();")
            if staged != wanted:
                with text.block():
                    self._stage(product)
                text.line("__syncthreads();")
            with text.block():
                target = f"sums + {product.product.first * shape.units}"
                product.compute(text, self.weights[id(product)], self.layout.weights_in, target, shape.width)
            staged = wanted
        text.line("__syncthreads();")

    def _stage(self, product: WarpProduct | TensorProduct) -> None:
        place = product.product.lhs
        stride = stride_of(place.buffer, self.layout.dtype)
        vector = VECTOR_BYTES // BYTES[self.layout.dtype]
        aligned = place.buffer.padded and place.column % vector == 0
        source = self.addresses.pointer(place, self._frame("first", "0"), None)
        product.stage(self.text, source, stride, aligned)
