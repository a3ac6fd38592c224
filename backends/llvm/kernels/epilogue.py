"""The equations of a phase for a few vectors of units, as all kinds of phases use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rnnc.backends.llvm.asm.builder import Function, Val, i64, vector
from rnnc.backends.llvm.asm.dtypes import ELEMENT_BYTES, SCALARS
from rnnc.backends.llvm.asm.vectormath import VectorMath
from rnnc.backends.llvm.packing.tile import Tile
from rnnc.backends.planning.plan import Phase, Place
from rnnc.ir.families import Family


@dataclass(frozen=True)
class PhaseSignature:
    """The order of a phase function's arguments.

    panels; first, stop: those to compute; rows; backward (1: the last panel first); per feed: lhs, its row stride, the
    size of k, packed weights; the packed vectors; per place: pointer, row stride. Strides are in elements.
    """

    feeds: int
    places: tuple[Place, ...]

    def parameters(self) -> list[Val]:
        names = ["i64 %panels", "i64 %first", "i64 %stop", "i64 %rows", "i64 %backward"]
        for n in range(self.feeds):
            names += [f"ptr %lhs{n}", f"i64 %lhs_stride{n}", f"i64 %inner{n}", *self.weights(n)]
        names.append("ptr %vectors")
        for n in range(len(self.places)):
            names += [f"ptr %place{n}", f"i64 %place_stride{n}"]
        return [Val(*name.split(" ")) for name in names]

    def weights(self, feed: int) -> list[str]:
        """The arguments of a feed that tell where its weights are."""
        return [f"ptr %weights{feed}"]


def signature(phase: Phase) -> PhaseSignature:
    """The signature of a phase's function. Its places are in the order of first use, each once."""
    used = dict.fromkeys([*phase.loads.values(), *(place for _, place in phase.stores)])
    return PhaseSignature(len(phase.feeds), tuple(used))


def number_of(family: Family) -> float:
    """The value of a constant, or of zeros."""
    return float(family.attr("value")) if family.op == "const" else 0.0


@dataclass(frozen=True)
class Spot:
    """One vector of units of one row. lanes: the number of its units that exist."""

    row: Val
    panel: Val
    vector: int
    lanes: int


class Epilogue:
    """A phase function under construction: its arguments, addresses, and the equations."""

    def __init__(self, phase: Phase, name: str, tile: Tile, dtype: str) -> None:
        self.phase = phase
        self.tile = tile
        self.scalar = SCALARS[dtype]
        self.bytes = ELEMENT_BYTES[dtype]
        self.type = vector(tile.lanes, self.scalar)
        self.signature = self._signature(phase)
        self.f = Function(name, self.signature.parameters())
        self.math = VectorMath(self.f, self.scalar, tile.lanes)
        self.named = {p.name: p for p in self.f.parameters}

    def _signature(self, phase: Phase) -> PhaseSignature:
        return signature(phase)

    def arg(self, name: str) -> Val:
        return self.named["%" + name]

    def place_pointer(self, place: Place, row: Val, panel: Val, width: int) -> Val:
        """The address of a place's first unit of a panel, in a row."""
        number = self.signature.places.index(place)
        start = self.f.mul(row, self.arg(f"place_stride{number}"))
        if width > 1:
            start = self.f.add(start, self.f.mul(panel, self.tile.units))
        return self.f.element(self.arg(f"place{number}"), start, self.scalar)

    def vector_at(self, family: Family, panel: Val, v: int) -> Val:
        """A time-free operand with one number per unit."""
        number = self.phase.vectors.index(family)
        start = self.f.mul(panel, len(self.phase.vectors) * self.tile.units)
        index = self.f.add(start, number * self.tile.units + v * self.tile.lanes)
        loaded = self.f.load(self.type, self.f.element(self.arg("vectors"), index, self.scalar), self.bytes)
        return self._as_kept(family, loaded)

    def vector_from(self, family: Family, unit: Val, count: int) -> Val:
        """`count` units of a time-free operand from any unit on: one load if they lie side by side in the arena."""
        f, lanes, each = self.f, self.tile.lanes, len(self.phase.vectors)
        number = self.phase.vectors.index(family)
        if each == 1 or self.phase.axes[-1] % lanes == 0:
            index = f.add(f.mul(unit, each), number * lanes)
            return f.load_lanes(self.type, f.element(self.arg("vectors"), index, self.scalar), count, self.bytes)

        def place(unit: Val) -> Val:
            panel, rest = f.udiv(unit, lanes), f.value("i64", f"urem {unit}, {lanes}")
            return f.add(f.mul(panel, each * lanes), f.add(rest, number * lanes))

        return self._by_lane([f.element(self.arg("vectors"), place(f.add(unit, n)), self.scalar) for n in range(count)])

    def load_scattered(self, place: Place, row: Val, unit: Val, width: int) -> Val:
        """A value that is read lane by lane, because it is a grid with other axes than the phase's."""
        f, first = self.f, self.place_pointer(place, row, i64(0), 1)
        pointers = []
        for lane in range(self.tile.lanes):
            left, column = f.minimum(f.add(unit, lane), i64(width - 1)), i64(0)
            for size, step in reversed(place.grid):
                column = f.add(column, f.mul(f.value("i64", f"urem {left}, {size}"), step))
                left = f.udiv(left, size)
            pointers.append(f.element(first, column, self.scalar))
        return self._by_lane(pointers)

    def _by_lane(self, pointers: Sequence[Val]) -> Val:
        """One number per lane. Lanes past the last pointer are zero."""
        vector = Val(self.type, "zeroinitializer")
        for lane, pointer in enumerate(pointers):
            number = self.f.load(self.scalar, pointer, self.bytes)
            vector = self.f.value(self.type, f"insertelement {vector}, {number}, i64 {lane}")
        return vector

    def all_lanes(self, family: Family, total: Val) -> Val:
        """The combined lanes of a reduction, in every lane. Each round halves the number of partial results."""
        assert family.spec.emit is not None
        lanes = every = self.tile.lanes
        while lanes > 1:
            lanes //= 2
            order = ", ".join(f"i32 {(n + lanes) % every}" for n in range(every))
            turned = self.f.value(self.type, f"shufflevector {total}, {total}, <{every} x i32> <{order}>")
            total = family.spec.emit(self.math, total, turned)
        return total

    def load_at(self, family: Family, row: Val, panel: Val, v: int, lanes: int) -> Val:
        """A value kept in a buffer: a vector of units, or a row's only number in all lanes."""
        return self._as_kept(family, self._load_floats(family, row, panel, v, lanes))

    def _as_kept(self, family: Family, loaded: Val) -> Val:
        """A value as loaded from a buffer, where a mask is kept as 0 and 1."""
        return self.math.greater(loaded, self.math.constant(0.0)) if family.dtype == "bool" else loaded

    def _load_floats(self, family: Family, row: Val, panel: Val, v: int, lanes: int) -> Val:
        place = self.phase.loads[family]
        width = int(family.shape[-1])
        if place.grid:
            unit = self.f.add(self.f.mul(panel, self.tile.units), v * self.tile.lanes)
            return self.load_scattered(place, row, unit, width)
        pointer = self.place_pointer(place, row, panel, width)
        if width == 1:
            return self.f.splat(self.f.load(self.scalar, pointer, self.bytes), self.tile.lanes)
        pointer = self.f.element(pointer, v * self.tile.lanes, self.scalar)
        count = self.tile.lanes if place.buffer.padded else lanes
        return self.f.load_lanes(self.type, pointer, count, self.bytes)

    def values(self, spots: Sequence[Spot], known: Sequence[Mapping[Family, Val]]) -> list[dict[Family, Val]]:
        """The values of the equations at some spots. known: the accumulators of each spot.

        The spots take turns, value by value, so that each hides the latency of the others.
        """
        each = [dict(one) for one in known]
        for value in self.phase.values:
            for spot, one in zip(spots, each, strict=True):
                one[value] = self._value_at(value, spot, one)
        read = [family.inputs[0] for family in self.phase.sums]
        read += [family for family, _ in self.phase.stores if family not in self.phase.sums]  # may be a copy of a load
        for family in dict.fromkeys(read):
            for spot, one in zip(spots, each, strict=True):
                self._operand_at(family, spot, one)
        return each

    def _value_at(self, value: Family, spot: Spot, known: dict[Family, Val]) -> Val:
        """The value of one equation."""
        if value in self.phase.late:
            operands = [known[value], *(self._operand_at(term, spot, known) for term in self.phase.late[value])]
        else:
            operands = [self._operand_at(i, spot, known) for i in value.inputs]
        assert value.spec.emit is not None
        result: Val = value.spec.emit(self.math, *operands)
        return result

    def _operand_at(self, family: Family, spot: Spot, known: dict[Family, Val]) -> Val:
        """A value that is known, a constant, or a value that is loaded now and known from then on."""
        if family not in known:
            if family.op in ("const", "zeros"):
                return self.math.constant(number_of(family))
            if family in self.phase.loads:
                known[family] = self.load_at(family, spot.row, spot.panel, spot.vector, spot.lanes)
            else:
                known[family] = self.vector_at(family, spot.panel, spot.vector)
        return known[family]

    def lanes_of(self, v: int, tail: int) -> int:
        """The number of units in vector v of a panel that is full (tail 0) or has `tail` units."""
        return self.tile.lanes if tail == 0 else max(0, min(self.tile.lanes, tail - v * self.tile.lanes))
