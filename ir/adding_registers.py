"""Shift registers that add to what they shift, as sums of delay lines.

The adjoint of a delay line is such a register: each tap adds its gradient to the step that it has read.

    loop t = T-1 .. 0:                                          three steps a, b, c side by side
      carry %26 = %32[t+1] | d:past.n;  %32 = concat(%20[t], add(%21[t], %26{0:4}));  %30[t] = add(%22[t], %26{4:8})
->
    %30[t] = add(%22[t], %21[t+1], %20[t+2])                    with a delay line of %21, and one of %20

The line of the value that enters first starts at the initial state. The final state is the sum of the lines' last
values, each at its own columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rnnc.ir.delay_lines import shifting
from rnnc.ir.families import Family
from rnnc.ir.ops import Attrs
from rnnc.ir.ordering import readers
from rnnc.ir.shape_rules import BATCH, Shape

Readers = Mapping[Family, Sequence[Family]]


@dataclass(frozen=True)
class Term:
    """The columns from `start` on of a value off the cycle, or of the state itself: a term of a sum."""

    value: Family
    start: int


@dataclass(frozen=True)
class Register:
    """A state (B, slots * width) that moves by one slot per step.

    entering: slot -> the terms that are added there. visible: values of the loop that others read, with their terms.
    """

    carry: Family
    width: int
    entering: Mapping[int, tuple[Term, ...]]
    visible: Mapping[Family, tuple[Term, ...]]

    @property
    def slots(self) -> int:
        """The number of steps that the state holds."""
        return int(self.carry.shape[-1]) // self.width

    @property
    def first(self) -> int:
        """The slot that nothing moves into: the first one, if time runs backward."""
        return 0 if self.carry.attr("delta") < 0 else self.slots - 1

    def steps(self, slot: int) -> int:
        """The number of steps that a value entering at a slot stays in the state."""
        return self.slots - slot if self.carry.attr("delta") < 0 else slot + 1


def split_registers(cycles: Sequence[set[Family]], members: list[Family], outputs: set[Family]) -> list[Family]:
    """Replaces the registers among the cycles by delay lines. Returns the states of the new lines."""
    following = readers({family: family.reads() for family in members})
    numbers = iter(range(max((f.index for f in members), default=0) + 1, 2**63))
    exits = {f.attr("state"): f for f in members if f.op == "exit"}
    made: list[Family] = []
    for cycle in cycles:
        register = _register(cycle, following, outputs)
        if register is not None:
            made += _Split(register, exits.get(register.carry.attr("state")), numbers).run()
    return made


# ---- which loops are registers


def _register(cycle: set[Family], following: Readers, outputs: set[Family]) -> Register | None:
    carries = [f for f in cycle if f.op == "carry"]
    if len(carries) != 1 or carries[0].source is None or len(cycle) < 2 or shifting(cycle) is not None:
        return None
    carry = carries[0]
    visible = _visible(cycle, carry, following, outputs)
    for width in _widths(cycle, carry):
        entering = _entering(cycle, carry, width)
        if entering is None:
            continue
        terms = {family: _terms(cycle, carry, family, 0, int(family.shape[-1])) for family in visible}
        known = {family: found for family, found in terms.items() if found is not None}
        register = Register(carry, width, entering, known)
        if len(known) == len(visible) and register.first in entering and _each_in_a_slot(register):
            return register
    return None


def _visible(cycle: set[Family], carry: Family, following: Readers, outputs: set[Family]) -> list[Family]:
    """The values of the loop that others read, and the slices of the state outside it."""
    outside = {f: [r for r in following[f] if r not in cycle and r.op != "exit"] for f in cycle}
    slices = [r for r in outside[carry] if r.op == "slice"]
    inside = [f for f in cycle if f in outputs or any(r not in slices for r in outside[f])]
    return sorted([*inside, *slices], key=lambda f: f.index)


def _widths(cycle: set[Family], carry: Family) -> list[int]:
    """The widths that a slot may have: those of values that the loop puts side by side."""
    whole = int(carry.shape[-1])
    widths = {int(part.shape[-1]) for f in cycle if f.op == "concat" for part in f.inputs}
    return sorted(width for width in widths if whole % width == 0)


def _entering(cycle: set[Family], carry: Family, width: int) -> dict[int, tuple[Term, ...]] | None:
    """The terms that enter at each slot; None if a slot of the new state is more than its neighbour and such terms."""
    assert carry.source is not None
    slots = int(carry.shape[-1]) // width
    found: dict[int, tuple[Term, ...]] = {}
    for slot in range(slots):
        terms = _terms(cycle, carry, carry.source, slot * width, (slot + 1) * width)
        neighbour = slot + int(carry.attr("delta"))
        expected = [neighbour * width] if 0 <= neighbour < slots else []
        if terms is None or [t.start for t in terms if t.value is carry] != expected:
            return None
        entering = tuple(t for t in terms if t.value is not carry)
        if not all(t.value.timed and BATCH in t.value.shape for t in entering):
            return None
        if entering:
            found[slot] = entering
    return found


def _terms(cycle: set[Family], carry: Family, value: Family, start: int, stop: int) -> tuple[Term, ...] | None:
    """The terms whose sum the columns start:stop of a value are; None if they are no such sum."""
    if value is carry or (value not in cycle and not _is_slice_of(value, carry)):
        return () if value.op == "zeros" else (Term(value, start),)
    if value.op == "slice" and value.attr("axis") == -1:
        first = value.attr("start")
        return _terms(cycle, carry, value.inputs[0], first + start, first + stop)
    if value.op == "concat":
        at = 0
        for part in value.inputs:
            width = int(part.shape[-1])
            if at <= start and stop <= at + width:
                return _terms(cycle, carry, part, start - at, stop - at)
            at += width
        return None
    if value.op != "add" or any(i.shape != value.shape for i in value.inputs):
        return None
    found = [_terms(cycle, carry, i, start, stop) for i in value.inputs]
    known = [terms for terms in found if terms is not None]
    return tuple(t for terms in known for t in terms) if len(known) == len(found) else None


def _is_slice_of(value: Family, carry: Family) -> bool:
    return value.op == "slice" and value.inputs[0] is carry


def _each_in_a_slot(register: Register) -> bool:
    """True if each visible value reads columns of single slots only."""
    for family, terms in register.visible.items():
        size = int(family.shape[-1])
        if any(t.value is register.carry and t.start % register.width + size > register.width for t in terms):
            return False
    return True


# ---- the lines


class _Split:
    """The replacement of one register."""

    def __init__(self, register: Register, last: Family | None, numbers: Iterator[int]) -> None:
        self.register, self.last, self.numbers = register, last, numbers
        self.slices: dict[tuple[Family, int, int], Family] = {}

    def run(self) -> list[Family]:
        register, carry = self.register, self.register.carry
        entering = {slot: self._sum(terms, register.width) for slot, terms in register.entering.items()}
        like, initial = replace(carry), carry.initial
        lines = {slot: self._line(like, slot, value) for slot, value in entering.items()}
        lines[register.first].initial = initial
        for family, terms in register.visible.items():
            size = int(family.shape[-1])
            read = [part for t in terms for part in self._read(t, size, lines)]
            family.op, family.attrs, family.inputs = "add", (), tuple(read)
            if len(read) == 1 and read[0].op == "slice":
                family.op, family.attrs, family.inputs = "slice", read[0].attrs, read[0].inputs
        if self.last is not None:
            self._finish(self.last, lines)
        return list(lines.values())

    def _line(self, like: Family, slot: int, value: Family) -> Family:
        """The state of a delay line of a value that enters at a slot. It starts at zeros."""
        width, steps = self.register.width, self.register.steps(slot)
        state, delta = f"{like.attr('state')}+{slot}", int(like.attr("delta"))
        shape = (BATCH, steps * width)
        carry = self._new(like, "carry", (), (("state", state), ("delta", delta)), shape)
        carry.initial = self._zeros(like, steps * width)
        if steps == 1:
            carry.source = value
            return carry
        parts = (value, carry) if delta < 0 else (carry, value)
        both = self._new(like, "concat", parts, (("axis", -1),), (BATCH, (steps + 1) * width))
        start = 0 if delta < 0 else width
        carry.source = self._slice(both, start, start + steps * width)
        return carry

    def _read(self, term: Term, size: int, lines: Mapping[int, Family]) -> list[Family]:
        """The terms of a visible value that a term of it becomes: of the state, one per line that has it by then."""
        if term.value is not self.register.carry:
            return [self._slice(term.value, term.start, term.start + size)]
        slot, column = divmod(term.start, self.register.width)
        backward = self.register.carry.attr("delta") < 0
        found = []
        for entered, line in lines.items():
            place = slot - entered if backward else slot
            if 0 <= place and (entered <= slot if backward else slot <= entered):
                start = place * self.register.width + column
                found.append(self._slice(line, start, start + size))
        return found

    def _finish(self, last: Family, lines: Mapping[int, Family]) -> None:
        """The last value of the state becomes the sum of those of the lines, each from the slot on where it entered."""
        if len(lines) == 1:
            line = lines[self.register.first]
            assert line.source is not None
            last.attrs, last.inputs = line.attrs, (line.source,)
            return
        whole, backward, terms = int(last.shape[-1]), self.register.carry.attr("delta") < 0, []
        for line in lines.values():
            assert line.source is not None
            width = int(line.shape[-1])
            end = self._new(last, "exit", (line.source,), line.attrs, line.shape)
            if width < whole:
                zeros = self._zeros(last, whole - width)
                parts = (zeros, end) if backward else (end, zeros)
                end = self._new(last, "concat", parts, (("axis", -1),), last.shape)
            terms.append(end)
        last.op, last.attrs, last.inputs = "add", (), tuple(terms)

    def _sum(self, terms: Sequence[Term], width: int) -> Family:
        parts = [self._slice(t.value, t.start, t.start + width) for t in terms]
        return parts[0] if len(parts) == 1 else self._new(parts[0], "add", tuple(parts), (), parts[0].shape)

    def _slice(self, family: Family, start: int, stop: int) -> Family:
        if start == 0 and stop == family.shape[-1]:
            return family
        key = (family, start, stop)
        if key not in self.slices:
            attrs = (("axis", -1), ("start", start), ("stop", stop))
            self.slices[key] = self._new(family, "slice", (family,), attrs, (*family.shape[:-1], stop - start))
        return self.slices[key]

    def _zeros(self, like: Family, width: int) -> Family:
        made = self._new(like, "zeros", (), (), (BATCH, width))
        made.timed = False
        return made

    def _new(self, like: Family, op: str, inputs: tuple[Family, ...], attrs: Attrs, shape: Shape) -> Family:
        """A new family with the dtype, site and steps of another one."""
        made = replace(like, index=next(self.numbers), members={}, initial=None, source=None)
        return replace(made, op=op, inputs=inputs, attrs=attrs, shape=shape)
