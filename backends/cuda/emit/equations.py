"""The equations of a phase at one row and one unit, as C: loads, values, stores."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from rnnc.backends.cuda.emit.kernel import TIMED, Parameters, Size, stride_of
from rnnc.backends.cuda.emit.text import REALS, Scalars, Text
from rnnc.backends.planning.plan import Phase, Place, Space
from rnnc.ir.families import Family, operands_first


@dataclass(frozen=True)
class Frame:
    """C expressions for the row, unit and step of the generated code.

    unit: the unit of the phase. timed, sequence: the row in buffers over time, and in those with one row per sequence.
    was, now: the half of a double buffer that the step before has written, and the half that this step writes.
    """

    unit: str
    timed: str
    sequence: str
    was: str = "0"
    now: str = "0"

    def at_unit(self, unit: str) -> Frame:
        """The frame of another unit in the same row."""
        return Frame(unit, self.timed, self.sequence, self.was, self.now)


@dataclass(frozen=True)
class Addresses:
    """Turns places into C expressions. fresh: the buffers that the kernel writes, so that other threads may have."""

    parameters: Parameters
    fresh: frozenset[object] = frozenset()

    def pointer(self, place: Place, frame: Frame, unit: str | None, written: bool = False) -> str:
        """The address of an element. unit: None for the place's first element in the row."""
        buffer = place.buffer
        row = frame.timed if buffer.space in TIMED else frame.sequence
        if steps := buffer.before - place.shift:
            row = f"{row} + {steps} * {self.parameters.use(Size('B'))}"
        if buffer.space is Space.STATE and buffer.double:
            row = f"{frame.was if place.previous else frame.now} * B + {row}"
        name = self.parameters.use(buffer, written)
        terms = [f"(size_t)({row}) * {stride_of(buffer, self.parameters.dtype)}"]
        terms += [str(place.column)] if place.column else []
        terms += [unit] if unit is not None else []
        return f"{name} + {' + '.join(terms)}"

    def load(self, family: Family, place: Place, frame: Frame) -> str:
        """The expression of a loaded number. A mask is stored as 0 and 1."""
        unit = None if family.shape[-1] == 1 else _column(place, frame.unit)
        pointer = self.pointer(place, frame, unit)
        read = f"__ldcg({pointer})" if place.buffer in self.fresh else f"__ldg({pointer})"
        return f"{read} != 0" if family.dtype == "bool" else read

    def vector(self, family: Family, frame: Frame) -> str:
        """The expression of a value without a batch axis, with one number per unit, or one for all units."""
        name = self.parameters.use(family)
        return f"__ldg({name} + {frame.unit})" if family.shape and family.shape[-1] != 1 else f"__ldg({name})"


def _column(place: Place, unit: str) -> str:
    """The column that a unit reads, as C."""
    if not place.grid:
        return unit
    terms, right = [], 1
    for size, step in reversed(place.grid):
        index = unit if right == 1 else f"{unit} / {right}"
        terms += [f"{index} % {size} * {step}"] if step else []
        right *= size
    return " + ".join(reversed(terms))


class Equations:
    """The emitter of the equations of one phase."""

    def __init__(self, phase: Phase, text: Text, addresses: Addresses) -> None:
        self.phase = phase
        self.text = text
        self.addresses = addresses
        self.real = REALS[addresses.parameters.dtype]
        self.scalars = Scalars(text, self.real)

    def declare_loads(self) -> dict[Family, str]:
        """Declares variables for all loads and vectors, to be filled before the products are computed."""
        names = {}
        for family in (*self.phase.loads, *self.phase.vectors):
            names[family] = self.text.name("in")
            kind = "bool" if family.dtype == "bool" else self.real
            self.text.line(f"{kind} {names[family]} = 0;")
        return names

    def fill_loads(self, names: Mapping[Family, str], frame: Frame) -> None:
        """Emits the loads into these variables."""
        for family, name in names.items():
            self.text.line(f"{name} = {self._read(family, frame)};")

    def values(
        self, frame: Frame, known: Mapping[Family, str], needed: Container[Family] | None = None
    ) -> dict[Family, str]:
        """Emits the equations, and returns the expression of each value.

        known: the expressions of accumulators without their initial terms, and of loaded values. needed: the values to
        compute, operands included; None: all.
        """
        made = dict(known)
        for accumulator in self.phase.accumulators:
            total = made[accumulator]
            for term in self.phase.initial[accumulator]:
                total = self.scalars.add(total, self._operand(term, frame, made))
            made[accumulator] = total
        for value in self.phase.values:
            if needed is not None and value not in needed:
                continue
            if value in self.phase.late:
                operands = [made[value], *(self._operand(i, frame, made) for i in self.phase.late[value])]
            else:
                operands = [self._operand(i, frame, made) for i in value.inputs]
            assert value.spec.emit is not None
            made[value] = value.spec.emit(self.scalars, *operands)
        return made

    def stores(self, frame: Frame, made: dict[Family, str]) -> None:
        """Emits the stores of the phase. The loads of values that are only copied come before all stores."""
        kept = [(family, place) for family, place in self.phase.stores if family not in self.phase.sums]
        values = [self._operand(family, frame, made) for family, _ in kept]
        for (family, place), value in zip(kept, values, strict=True):
            if family.dtype == "bool":
                value = f"{value} ? {self.scalars.constant(1.0)} : {self.scalars.constant(0.0)}"
            self.text.line(f"*({self.addresses.pointer(place, frame, frame.unit, written=True)}) = {value};")

    def reduced(self, family: Family, frame: Frame) -> str:
        """The expression of the operand of one sum over units, at one unit."""
        needed = set(operands_first([family.inputs[0]]))
        return self._operand(family.inputs[0], frame, self.values(frame, {}, needed))

    def summed(self, frame: Frame) -> list[str]:
        """The expressions of the operands of all sums over units, at one unit."""
        made = self.values(frame, {})
        return [self._operand(family.inputs[0], frame, made) for family in self.phase.sums]

    def _operand(self, family: Family, frame: Frame, made: dict[Family, str]) -> str:
        if family.op in ("const", "zeros"):
            return self.scalars.constant(float(family.attr("value")) if family.op == "const" else 0.0)
        if family not in made:
            made[family] = self.scalars.let(self._read(family, frame), "bool" if family.dtype == "bool" else None)
        return made[family]

    def _read(self, family: Family, frame: Frame) -> str:
        if family in self.phase.loads:
            return self.addresses.load(family, self.phase.loads[family], frame)
        return self.addresses.vector(family, frame)
