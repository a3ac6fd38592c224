"""Delay lines: loops that only shift a value in time, so that what they hold can be read where it already is.

    loop t = 0 .. T-1:
      carry %6 = %8[t-1] | past.0;  %7 = concat(%6, x[t]);  %8 = %7{4:12}     %6[t]: x[t-2] and x[t-1], side by side
    %10[t] = %6[t]{0:4}                                                       is x[t-2]

Such a loop lies on no cycle but its own, and computes nothing. A backend that keeps x over time, with the steps of the
initial state in front of it, needs no loop: the final state is the last steps, and `%10[t]` is another row of x.

A matrix product of values side by side is the sum of their products, in which each reads its own rows:

    %12[t] = concat(%10[t], x[t]);  %13[t] = %12[t] @ %4'
->
    %13[t] = add(%10[t] @ %4{0:4}', x[t] @ %4{4:8}')
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rnnc.ir.families import Family
from rnnc.ir.ops import Kind
from rnnc.ir.ordering import readers

Readers = Mapping[Family, Sequence[Family]]


@dataclass(frozen=True)
class DelayLine:
    """A state that holds a value of the last steps, or of the next ones, side by side, the oldest first.

    carry: the state, (B, steps * width). source: the value that it holds, (B, width). direction: 1 for the last steps,
    -1 for the next ones. shifts: how many steps back each read of it looks; a negative number looks ahead.
    """

    carry: Family
    source: Family
    direction: int
    shifts: tuple[int, ...]

    @property
    def width(self) -> int:
        """The number of columns of one step."""
        return int(self.source.shape[-1])

    @property
    def steps(self) -> int:
        """The number of steps that the state holds."""
        return int(self.carry.shape[-1]) // self.width

    def shift(self, start: int, stop: int) -> tuple[int, int] | None:
        """The shift of columns start:stop of the state, and their first column of the source.

        None if they are not all of one step.
        """
        slot, column = divmod(start, self.width)
        if column + stop - start > self.width:
            return None
        return (self.steps - slot if self.direction > 0 else -1 - slot), column


def delay_lines(
    cycles: Sequence[set[Family]], members: Iterable[Family], outputs: set[Family], crossing: set[Family]
) -> dict[int, DelayLine]:
    """The number of each cycle that is a delay line, and all of whose readers read single steps of it.

    crossing: outputs of the second half that the first one may compute.
    """
    listed = list(members)
    following = readers({family: family.reads() for family in listed})
    exits = {f.attr("state"): f for f in listed if f.op == "exit"}
    found: dict[int, DelayLine] = {}
    for number, cycle in enumerate(cycles):
        line = shifting(cycle)
        last = exits.get(line.carry.attr("state")) if line is not None else None
        if line is None or last is not None and (last in crossing or any(r.op == "carry" for r in following[last])):
            continue
        shifts = _shifts_read(line, cycle, following, outputs)
        if shifts:
            found[number] = replace(line, shifts=tuple(sorted(shifts)))
    return found


def delay_line(cycle: set[Family], following: Readers, outputs: set[Family]) -> DelayLine | None:
    """The delay line that a cycle of a rolled program is, whose readers all read single steps of it; None otherwise."""
    line = shifting(cycle)
    shifts = None if line is None else _shifts_read(line, cycle, following, outputs)
    return replace(line, shifts=tuple(sorted(shifts))) if line is not None and shifts else None


# ---- which loops are delay lines


def shifting(cycle: set[Family]) -> DelayLine | None:
    """The delay line that the values of a cycle are, without its readers; None if they do anything else."""
    carry = next((f for f in cycle if f.op == "carry"), None)
    if carry is None or carry.source is None or carry.initial is None or carry.initial.op not in ("input", "zeros"):
        return None
    direction, new = int(carry.attr("delta")), carry.source
    if len(cycle) == 1:
        source: Family | None = new if new is not carry else None
    else:
        source = _pushed(carry, new, direction) if len(cycle) == 3 else None
    return DelayLine(carry, source, direction, ()) if source is not None and source.timed else None


def _pushed(carry: Family, new: Family, direction: int) -> Family | None:
    """x, if the new state is the old one without its oldest step, and with x for the newest; else None."""
    if new.op != "slice" or new.inputs[0].op != "concat" or new.attr("axis") != -1:
        return None
    parts, start = new.inputs[0].inputs, new.attr("start")
    if len(parts) != 2 or parts[direction < 0] is not carry:
        return None
    source = parts[direction > 0]
    width, whole = int(source.shape[-1]), int(carry.shape[-1])
    return source if start == (width if direction > 0 else 0) and not whole % width else None


def _shifts_read(line: DelayLine, cycle: set[Family], following: Readers, outputs: set[Family]) -> set[int] | None:
    """The shifts of all reads of a delay line; None if a value other than a product reads more than one step of it."""
    found: set[int] = set()
    todo = [line.carry]
    while todo:
        view = todo.pop()
        pieces = [p for p in pieces_of(view, {line.carry: line}) if p.base is line.carry]
        one_step = is_slice_of_state(view) and len(pieces) == 1
        others = [reader for reader in following[view] if reader not in cycle]
        views = [r for r in others if r.op == "slice" or (r.op == "concat" and not one_step)]
        consumers = [reader for reader in others if reader not in views]
        alone = one_step and all(_reads_units(reader) for reader in consumers)
        if not alone and (view in outputs or not all(_multiplies(reader, view) for reader in consumers)):
            return None
        if consumers or view in outputs:
            found |= {shift[0] for p in pieces if (shift := line.shift(p.start, p.stop)) is not None}
        todo += views
    return found


def _multiplies(reader: Family, view: Family) -> bool:
    return reader.spec.kind is Kind.MATMUL and reader.inputs[1] is not view


def _reads_units(reader: Family) -> bool:
    return reader.op == "concat" or reader.spec.kind in (Kind.ELEMENTWISE, Kind.CARRY, Kind.MATMUL, Kind.OUTER)


def is_slice_of_state(view: Family) -> bool:
    """True for a state, and for a slice of one."""
    while view.op == "slice":
        view = view.inputs[0]
    return view.op == "carry"


# ---- products


@dataclass(frozen=True)
class Piece:
    """The columns start:stop of a value."""

    base: Family
    start: int
    stop: int

    @property
    def width(self) -> int:
        return self.stop - self.start


def pieces_of(view: Family, lines: Mapping[Family, DelayLine]) -> list[Piece]:
    """The columns that a view consists of, side by side. Columns of a delay line are cut into its steps."""
    if view.op == "slice" and view.timed:
        return _cut(pieces_of(view.inputs[0], lines), view.attr("start"), view.attr("stop"))
    if view.op == "concat" and view.timed:
        return _joined([piece for part in view.inputs for piece in pieces_of(part, lines)], lines)
    whole = int(view.shape[-1])
    width = lines[view].width if view in lines else whole
    return [Piece(view, start, start + width) for start in range(0, whole, width)]


def _cut(pieces: Iterable[Piece], start: int, stop: int) -> list[Piece]:
    found, at = [], 0
    for piece in pieces:
        first, last = max(start - at, 0), min(stop - at, piece.width)
        if first < last:
            found.append(Piece(piece.base, piece.start + first, piece.start + last))
        at += piece.width
    return found


def _joined(pieces: Iterable[Piece], lines: Mapping[Family, DelayLine]) -> list[Piece]:
    """The pieces, with neighbours that are neighbouring columns of one value, and of one step, as one."""
    found: list[Piece] = []
    for piece in pieces:
        last = found[-1] if found else None
        if last is not None and last.base is piece.base and last.stop == piece.start:
            line = lines.get(piece.base)
            if line is None or line.shift(last.start, piece.stop) is not None:
                found[-1] = Piece(piece.base, last.start, piece.stop)
                continue
        found.append(piece)
    return found


def split_products(members: list[Family], lines: Iterable[DelayLine], outputs: set[Family]) -> None:
    """Replaces each product of several steps of delay lines by the sum of the products of each step.

    A sum over time of such products, the gradient of a weight, becomes those of each step, side by side.
    """
    by_carry = {line.carry: line for line in lines}
    split = _Splitter(members, by_carry, outputs)
    for family in members:
        if family.spec.kind is Kind.MATMUL and family.timed:
            pieces = pieces_of(family.inputs[0], by_carry)
            simple = len(pieces) == 1 and is_slice_of_state(family.inputs[0])
            if not simple and any(p.base in by_carry for p in pieces):
                split.split(family, pieces)
        elif family.op == "tsum" and [i.op for i in family.inputs] == ["outer"]:
            pieces = pieces_of(family.inputs[0].inputs[1], by_carry)
            if len(pieces) > 1 and any(p.base in by_carry for p in pieces):
                split.split_sum(family, pieces)


class _Splitter:
    def __init__(self, members: list[Family], lines: Mapping[Family, DelayLine], outputs: set[Family]) -> None:
        self.outputs = outputs
        self.following = readers({family: family.reads() for family in members})
        self.next = max((f.index for f in members), default=0) + 1
        self.slices: dict[tuple[Family, int, int, int], Family] = {}

    def split(self, product: Family, pieces: Sequence[Piece]) -> None:
        """Makes the products of all pieces, and the sums that take the place of the product, or of its slices."""
        terms = self._terms(product, pieces)
        views = self.following[product]
        if product in self.outputs or not views or any(v.op != "slice" for v in views):
            self._becomes_sum(product, terms)
            return
        for view in views:
            start, stop = view.attr("start"), view.attr("stop")
            self._becomes_sum(view, [self._slice(term, -1, start, stop) for term in terms])

    def split_sum(self, total: Family, pieces: Sequence[Piece]) -> None:
        """Makes a sum over time of each piece, and puts them side by side in the place of the whole one."""
        (product,) = total.inputs
        parts = []
        for piece in pieces:
            part = self._slice(piece.base, -1, piece.start, piece.stop)
            shape = (total.shape[0], piece.width)
            made = replace(self._new(product, (product.inputs[0], part)), shape=shape)
            parts.append(replace(self._new(total, (made,)), shape=shape))
        total.op, total.attrs, total.inputs = "concat", (("axis", -1),), tuple(parts)

    def _terms(self, product: Family, pieces: Sequence[Piece]) -> list[Family]:
        lhs, rhs = product.inputs
        axis, terms, at = -1 if product.attr("transpose_b") else 0, [], 0
        for piece in pieces:
            part = self._slice(piece.base, -1, piece.start, piece.stop)
            weight = self._slice(rhs, axis, at, at + piece.width)
            terms.append(self._new(product, (part, weight)))
            at += piece.width
        return terms

    def _becomes_sum(self, value: Family, terms: Sequence[Family]) -> None:
        """A value becomes the sum of the terms, or they become terms of the one sum that reads it."""
        reader = self._only_sum(value)
        if reader is not None:
            reader.inputs = tuple(t for i in reader.inputs for t in (terms if i is value else (i,)))
            return
        if len(terms) == 1:
            value.op, value.attrs, value.inputs = terms[0].op, terms[0].attrs, terms[0].inputs
        else:
            value.op, value.attrs, value.inputs = "add", (), tuple(terms)

    def _only_sum(self, value: Family) -> Family | None:
        """The sum that alone reads a value, if there is one."""
        following = self.following[value]
        if value in self.outputs or len(following) != 1 or following[0].shape != value.shape:
            return None
        return following[0] if following[0].op == "add" else None

    def _slice(self, family: Family, axis: int, start: int, stop: int) -> Family:
        if start == 0 and stop == family.shape[axis]:
            return family
        key = (family, axis, start, stop)
        if key not in self.slices:
            shape = list(family.shape)
            shape[axis] = stop - start
            attrs = (("axis", axis), ("start", start), ("stop", stop))
            made = self._new(family, (family,))
            self.slices[key] = replace(made, op="slice", attrs=attrs, shape=tuple(shape))
        return self.slices[key]

    def _new(self, like: Family, inputs: tuple[Family, ...]) -> Family:
        """A new family with the op, shape and place of another one."""
        made = replace(like, index=self.next, inputs=inputs, members={}, initial=None, source=None)
        self.next += 1
        return made
