"""Code of a phase whose units are a grid, such as a matrix per row. One walk computes all values.

    for each row: for each line of the grid, a few at a time:
        for each vector of the line: load; the equations; store; reductions += value
        reductions along the line: combine the lanes, store

A value is computed in the outermost loop in which its operands are known: once per line if it does not vary along the
line. Reductions over the last axes stay in registers. A reduction that keeps the last axis adds to memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from rnnc.backends.llvm.asm.builder import Function, Val, i64, lane_mask
from rnnc.backends.llvm.kernels.epilogue import Epilogue, number_of
from rnnc.backends.llvm.packing.tile import Tile
from rnnc.backends.planning.grids import reduced_axes, steps_along
from rnnc.backends.planning.plan import Phase, Place
from rnnc.ir.families import Family

LINES = 4
"""Lines per iteration. They share common operands, and hide the latency of each other's reductions."""

Known = dict[Family, Val]


@dataclass(frozen=True, eq=False)
class Reduction:
    """One reduction over units.

    steps: the stride of the result along each axis; 0 along axes that are reduced.
    carried: the first of the trailing axes that are all reduced, where its accumulators start; the number of axes if
    the last axis is kept. in_memory: whether it adds to results in memory.
    """

    family: Family
    steps: tuple[int, ...]
    carried: int
    in_memory: bool
    targets: tuple[Place, ...]

    @staticmethod
    def of(family: Family, phase: Phase) -> Reduction:
        """The reduction of a phase's sum."""
        axes = phase.axes
        reduced = reduced_axes(family, axes)
        kept = [1 if n in reduced else size for n, size in enumerate(axes)]
        steps = tuple(0 if n in reduced else prod(kept[n + 1 :]) for n in range(len(axes)))
        carried = len(axes)
        while carried and carried - 1 in reduced:
            carried -= 1
        in_memory = any(n < carried for n in reduced)
        return Reduction(family, steps, carried, in_memory, tuple(p for f, p in phase.stores if f is family))

    @property
    def width(self) -> int:
        """The width of the result."""
        return int(self.family.shape[-1])


class GridWalk(Epilogue):
    """Phases that walk a grid: elementwise values, stores, and reductions over some of its axes."""

    def __init__(self, phase: Phase, name: str, tile: Tile, dtype: str) -> None:
        super().__init__(phase, name, tile, dtype)
        self.axes = phase.axes
        self.reductions = [Reduction.of(family, phase) for family in phase.sums]
        self.rights = tuple(prod(self.axes[n + 1 :]) for n in range(len(self.axes)))
        self.steps = {family: self._steps(family, place) for family, place in phase.loads.items()}
        self.steps |= dict.fromkeys(phase.vectors, self.rights)
        self.depths = self._depths()
        self.varying = self._varying()
        self.fused = self._fused()

    def _steps(self, family: Family, place: Place) -> tuple[int, ...] | None:
        """The strides of a load along each axis, in columns; None if it must be loaded column by column."""
        if family.shape[-1] == 1:
            return (0,) * len(self.axes)
        return steps_along(place.grid, self.axes) if place.grid else self.rights

    def _depths(self) -> dict[Family, int]:
        """Value -> the number of loops it depends on, counted from the outermost."""
        depths: dict[Family, int] = {}
        for family, steps in self.steps.items():
            along = [n for n, step in enumerate(steps) if step] if steps is not None else [len(self.axes) - 1]
            depths[family] = max(along, default=-1) + 1
        for value in self.phase.values:
            depths[value] = max((depths.get(i, 0) for i in value.inputs), default=0)
        return depths

    def _varying(self) -> set[Family]:
        """The values that differ from line to line."""
        line = len(self.axes) - 2
        found = {family for family, steps in self.steps.items() if steps is None or steps[line]}
        for value in self.phase.values:
            if any(i in found for i in value.inputs):
                found.add(value)
        return found

    def _fused(self) -> set[Family]:
        """The products that only one sum reads, at the same depth. They become fused multiply-adds."""
        readers: dict[Family, list[Family]] = {}
        for reader in (*self.phase.values, *self.phase.sums):
            for operand in reader.inputs:
                readers.setdefault(operand, []).append(reader)
        stored = {family for family, _ in self.phase.stores}
        found = set()
        for value in self.phase.values:
            reader, *others = readers.get(value, [value])
            if value.op != "mul" or others or value in stored:
                continue
            adds = reader.op == "add" and self.depths[reader] == self.depths[value]
            sums = reader.op in ("group_sum", "reduce_sum") and self.depths[value] == len(self.axes)
            if adds and (reader in self.varying) == (value in self.varying) or sums:
                found.add(value)
        return found

    # ---- the loops

    def emit(self) -> Function:
        f = self.f
        with f.part("epilogue"), f.loop(0, self.arg("rows")) as rows:
            self.row = rows.index
            for reduction in self.reductions:
                if reduction.in_memory:
                    self._clear(reduction)
            self._nest([], {}, {})
            for reduction in self.reductions:
                if reduction.in_memory:
                    self._copy(reduction)
        f.ret()
        return f

    def _nest(self, at: list[Val], known: Known, carried: Mapping[Reduction, list[Val]]) -> dict[Reduction, list[Val]]:
        """Emits the loops over the remaining axes, and returns the accumulators. at: the indices of the outer axes."""
        f, axis = self.f, len(at)
        known = self._at_depth(axis, at, known, {})
        starting = [r for r in self.reductions if r.carried == axis]
        inside = dict(carried) | {r: [self._identity(r)] * LINES for r in starting}
        if axis == len(self.axes) - 2:
            inside = self._lines(at, known, inside)
        else:
            with f.loop(0, i64(self.axes[axis]), carried=_flat(inside)) as loop:
                made = self._nest([*at, loop.index], known, _filled(inside, loop.values))
                loop.next(_flat(made))
            inside = _filled(inside, loop.values)
        for reduction in starting:
            self._finish(reduction, at, inside.pop(reduction))
        return inside

    def _lines(self, at: list[Val], known: Known, inside: dict[Reduction, list[Val]]) -> dict[Reduction, list[Val]]:
        """All lines of the last axis: LINES at a time, then the rest one by one."""
        size, f = self.axes[-2], self.f
        whole = size // LINES * LINES
        for start, stop, lines in ((0, whole, LINES), (whole, size, 1)):
            if start < stop:
                with f.loop(start, i64(stop), lines, carried=_flat(inside)) as loop:
                    each = [[*at, f.add(loop.index, n)] for n in range(lines)]
                    loop.next(_flat(self._side_by_side(each, known, _filled(inside, loop.values))))
                inside = _filled(inside, loop.values)
        return inside

    def _side_by_side(
        self, lines: list[list[Val]], known: Known, carried: dict[Reduction, list[Val]]
    ) -> dict[Reduction, list[Val]]:
        """A few lines, vector by vector."""
        f, lanes, size, axis = self.f, self.tile.lanes, self.axes[-1], len(self.axes) - 1
        shared: Known = {}
        each = [self._at_depth(axis, line, known, shared) for line in lines]
        starting = [r for r in self.reductions if r.carried == axis]
        inside = carried | {r: [self._identity(r)] * len(lines) for r in starting}
        whole = size // lanes * lanes
        if whole > lanes:
            with f.loop(0, i64(whole), lanes, carried=_flat(inside)) as loop:
                made = self._vector(lines, each, _filled(inside, loop.values), loop.index, lanes)
                loop.next(_flat(made))
            inside = _filled(inside, loop.values)
        elif whole:
            inside = self._vector(lines, each, inside, i64(0), lanes)
        if whole < size:
            inside = self._vector(lines, each, inside, i64(whole), size - whole)
        for reduction in starting:
            for line, total in zip(lines, inside.pop(reduction), strict=True):
                self._finish(reduction, line, [total])
        return inside

    def _vector(
        self, lines: list[list[Val]], each: list[Known], inside: dict[Reduction, list[Val]], index: Val, count: int
    ) -> dict[Reduction, list[Val]]:
        """One vector of each line: equations, stores, reductions."""
        shared: Known = {}
        places = [[*line, index] for line in lines]
        depth = len(self.axes)
        made = [self._at_depth(depth, at, known, shared, count) for at, known in zip(places, each, strict=True)]
        for at, known in zip(places, made, strict=True):
            self._store(at, known, count)
        result = {reduction: list(values) for reduction, values in inside.items()}
        for reduction in self.reductions:
            if reduction not in inside:
                self._add_in_memory(reduction, places, [self._value_of(reduction, known) for known in made], count)
                continue
            for n, known in enumerate(made):
                result[reduction][n] = self._added(reduction, result[reduction][n], known, count)
        return result

    # ---- values

    def _at_depth(self, depth: int, at: list[Val], known: Known, shared: Known, count: int = 0) -> Known:
        """Adds the values of a depth, whose axes are at the indices `at`. shared: the values common to all lines."""
        known = dict(known)
        for family in (*self.steps, *self.phase.values):
            if self.depths[family] != depth or family in self.fused:
                continue
            common = family not in self.varying
            if common and family in shared:
                known[family] = shared[family]
                continue
            known[family] = self._read(family, at, count) if family in self.steps else self._value(family, known)
            if common:
                shared[family] = known[family]
        return known

    def _value(self, value: Family, known: Known) -> Val:
        assert value.spec.emit is not None
        products = [i for i in value.inputs if i in self.fused]
        if value.op == "add" and products:
            return self._sum(value, products, known)
        made: Val = value.spec.emit(self.math, *(self._operand(i, known) for i in value.inputs))
        return made

    def _sum(self, value: Family, products: list[Family], known: Known) -> Val:
        """A sum: its terms, to which the fused products are added one after the other."""
        terms = [self._operand(i, known) for i in value.inputs if i not in products]
        total = terms[0] if terms else self._value(products.pop(0), known)
        for term in terms[1:]:
            total = self.math.add(total, term)
        for product in products:
            total = self._multiplied(product, total, known)
        return total

    def _multiplied(self, product: Family, total: Val, known: Known) -> Val:
        a, b = (self._operand(i, known) for i in product.inputs)
        return self.f.fma(a, b, total)

    def _operand(self, family: Family, known: Known) -> Val:
        return self.math.constant(number_of(family)) if family.op in ("const", "zeros") else known[family]

    def _read(self, family: Family, at: Sequence[Val], count: int) -> Val:
        """A load, or a value without a batch axis."""
        lanes, steps = self.tile.lanes, self.steps[family]
        if family not in self.phase.loads:
            return self._as_kept(family, self.vector_from(family, self._offset(self.rights, at), count))
        place = self.phase.loads[family]
        if steps is None:
            unit = self._offset(self.rights, at)
            return self._as_kept(family, self.load_scattered(place, self.row, unit, int(family.shape[-1])))
        pointer = self._pointer(place, self._offset(steps, at))
        if len(at) < len(self.axes) or not steps[-1]:
            return self._as_kept(family, self.f.splat(self.f.load(self.scalar, pointer, self.bytes), lanes))
        whole = lanes if place.buffer.padded else count
        return self._as_kept(family, self.f.load_lanes(self.type, pointer, whole, self.bytes))

    def _offset(self, steps: Sequence[int], at: Sequence[Val]) -> Val:
        """The distance from the first column, in columns."""
        total = i64(0)
        for step, index in zip(steps, at, strict=False):
            total = self.f.add(total, self.f.mul(index, step))
        return total

    def _pointer(self, place: Place, offset: Val) -> Val:
        return self.f.element(self.place_pointer(place, self.row, i64(0), 1), offset, self.scalar)

    def _store(self, at: Sequence[Val], known: Known, count: int) -> None:
        for family, place in self.phase.stores:
            if family in self.phase.sums:
                continue
            value = self._operand(family, known)
            if family.dtype == "bool":
                value = self.math.select(value, self.math.constant(1.0), self.math.constant(0.0))
            self.f.store_lanes(value, self._pointer(place, self._offset(self.rights, at)), count, self.bytes)

    # ---- reductions

    def _identity(self, reduction: Reduction) -> Val:
        assert reduction.family.spec.identity is not None
        return self.math.constant(reduction.family.spec.identity)

    def _combined(self, reduction: Reduction, a: Val, b: Val) -> Val:
        assert reduction.family.spec.emit is not None
        made: Val = reduction.family.spec.emit(self.math, a, b)
        return made

    def _valid(self, reduction: Reduction, value: Val, count: int) -> Val:
        """The value with lanes past the end of a line replaced by the identity."""
        if count == self.tile.lanes:
            return value
        return self.f.select(lane_mask(self.tile.lanes, count), value, self._identity(reduction))

    def _value_of(self, reduction: Reduction, known: Known) -> Val:
        operand = reduction.family.inputs[0]
        return self._value(operand, known) if operand in self.fused else self._operand(operand, known)

    def _added(self, reduction: Reduction, total: Val, known: Known, count: int) -> Val:
        """An accumulator combined with the operand of the reduction."""
        operand = reduction.family.inputs[0]
        if operand in self.fused and count == self.tile.lanes:
            return self._multiplied(operand, total, known)
        return self._combined(reduction, total, self._valid(reduction, self._value_of(reduction, known), count))

    def _add_in_memory(self, reduction: Reduction, places: list[list[Val]], values: list[Val], count: int) -> None:
        """Adds the lines' vectors to a result that keeps the last axis."""
        if not reduction.steps[-2]:  # all lines share one result
            total = values[0]
            for value in values[1:]:
                total = self._combined(reduction, total, value)
            places, values = places[:1], [total]
        for at, value in zip(places, values, strict=True):
            pointer = self._pointer(reduction.targets[0], self._offset(reduction.steps, at))
            before = self.f.load_lanes(self.type, pointer, count, self.bytes)
            self.f.store_lanes(self._combined(reduction, before, value), pointer, count, self.bytes)

    def _finish(self, reduction: Reduction, at: Sequence[Val], totals: list[Val]) -> None:
        """Combines accumulators and their lanes, and stores the number or adds it to its place."""
        total = totals[0]
        for other in totals[1:]:
            total = self._combined(reduction, total, other)
        total = self.all_lanes(reduction.family, total)
        offset = self._offset(reduction.steps, at)
        for target in reduction.targets[:1] if reduction.in_memory else reduction.targets:
            pointer = self._pointer(target, offset)
            if reduction.in_memory:
                before = self.f.splat(self.f.load(self.scalar, pointer, self.bytes), self.tile.lanes)
                total = self._combined(reduction, before, total)
            self.f.store(self.f.value(self.scalar, f"extractelement {total}, i64 0"), pointer, self.bytes)

    def _clear(self, reduction: Reduction) -> None:
        """Sets a result to the identity, before it is added to."""
        value = self._identity(reduction)
        for index, count in self._parts_of(reduction.width):
            self.f.store_lanes(value, self._pointer(reduction.targets[0], index), count, self.bytes)

    def _copy(self, reduction: Reduction) -> None:
        """Copies a result to its other places."""
        for target in reduction.targets[1:]:
            for index, count in self._parts_of(reduction.width):
                source = self._pointer(reduction.targets[0], index)
                value = self.f.load_lanes(self.type, source, count, self.bytes)
                self.f.store_lanes(value, self._pointer(target, index), count, self.bytes)

    def _parts_of(self, width: int) -> Iterator[tuple[Val, int]]:
        """The vectors that cover a width: (where it begins, the number of its lanes in use)."""
        lanes = self.tile.lanes
        whole = width // lanes * lanes
        if whole:
            with self.f.loop(0, i64(whole), lanes) as loop:
                yield loop.index, lanes
        if whole < width:
            yield i64(whole), width - whole


def _flat(carried: Mapping[Reduction, list[Val]]) -> list[Val]:
    return [value for values in carried.values() for value in values]


def _filled(like: Mapping[Reduction, list[Val]], flat: Sequence[Val]) -> dict[Reduction, list[Val]]:
    """The same accumulators with other values."""
    values = iter(flat)
    return {reduction: [next(values) for _ in old] for reduction, old in like.items()}
