"""One phase, built from the values that it must store down to accumulators, equations, loads and vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rnnc.backends.planning.grids import are_alike, axes_between, bounds_of, expanded, group_bounds
from rnnc.backends.planning.plan import Feed, Phase, Place, Weight
from rnnc.backends.planning.reading import Reading
from rnnc.backends.planning.storage import Copy, Storage
from rnnc.ir.deep import Calls, run
from rnnc.ir.errors import BackendError
from rnnc.ir.families import Family
from rnnc.ir.ops import Kind


class PhaseBuilder:
    """The builder of one phase, from its roots down to loads, accumulators and vectors."""

    def __init__(
        self, reading: Reading, storage: Storage, loop: int | None, name: str, width: int, group: set[Family]
    ) -> None:
        """loop: the number of the loop whose step this is, or None. group: the values that the phase may compute."""
        self.reading = reading
        self.storage = storage
        self.loop = loop
        self.phase = Phase(name, width)
        self.group = group
        self.done: set[Family] = set()
        self.feeds: list[tuple[Place, int, dict[int, Weight]]] = []

    def build(self, roots: list[Family], copies: Sequence[Copy]) -> Phase:
        for root in roots:
            if root.spec.kind is Kind.REDUCE:
                run(self._need(root.inputs[0]))
                self.phase.sums.append(root)
            else:
                run(self._need(root, compute=True))
            for place in self.storage.targets(root):
                self.phase.stores.append((root, place))
        for family, place in copies:
            if family not in self.done and family.op not in ("const", "zeros"):
                self.done.add(family)
                self._load(family)
            self.phase.stores.append((family, place))
        self.phase.axes = self._axes()
        for place, inner, blocks in self.feeds:
            self.phase.feeds.append(Feed(place, inner, tuple(blocks.items())))
        return self.phase

    def _axes(self) -> tuple[int, ...]:
        """The axes of a phase that walks a grid: those of its reductions, and of the reads that fit them. Else ()."""
        if self.feeds:
            return ()
        bounds = frozenset[int]().union(*map(group_bounds, self.phase.sums))
        for place in self.phase.loads.values():
            more = bounds_of(size for size, _ in place.grid)
            if are_alike(bounds | more):
                bounds |= more
        return axes_between(self.phase.width, bounds) if bounds else ()

    def _need(self, family: Family, compute: bool = False) -> Calls:
        """Makes a value available in registers: as a vector, computed, or loaded."""
        if family in self.done or family.op in ("const", "zeros"):
            return
        self.done.add(family)
        if self.reading.time_free(family):
            self.phase.vectors.append(family)
        elif compute or family in self.group or self._recomputed(family):
            yield self._compute(family)
        else:
            self._load(family)

    def _recomputed(self, family: Family) -> bool:
        return (
            self.reading.computed(family) and self.reading.inline_scalar(family) and family not in self.storage.places
        )

    def _compute(self, family: Family) -> Calls:
        products = [i for i in family.inputs if self.reading.absorbed(i)] if family.op == "add" else []
        if self.reading.product(family):
            products = [family]
        if family.op == "expand":  # stored as columns: its operand is read as a grid
            grid = expanded(((int(family.inputs[0].shape[-1]), 1),), family.attr("size"), family.attr("inner"))
            self.phase.loads[family] = replace(self._where(family.inputs[0]), grid=grid or ())
            return
        if not products:
            for operand in family.inputs:
                yield self._need(operand)
            self.phase.values.append(family)
            return
        others = [] if products == [family] else [i for i in family.inputs if i not in products]
        for operand in others:
            yield self._need(operand)
        known = [i for i in others if i in self.phase.loads or i in self.phase.vectors or i.op in ("const", "zeros")]
        late = [i for i in others if i not in known]
        number = len(self.phase.accumulators)
        self.phase.accumulators.append(family)
        self.phase.initial[family] = known
        if late:
            self.phase.late[family] = late
            self.phase.values.append(family)
        for product in products:
            self._feed(number, product)

    def _feed(self, number: int, family: Family) -> None:
        """Adds a product to the feed that reads the same columns, or to a new one.

        Products whose columns begin at the same place but have another width need a feed of their own, because a place
        is only where columns begin. So do several products of one operand in one sum.
        """
        product = self.reading.product(family)
        assert product is not None
        place, inner = self._where(product.lhs), int(product.lhs.shape[-1])
        for known, size, blocks in self.feeds:
            if (known, size) == (place, inner) and number not in blocks:
                blocks[number] = product.weight
                return
        self.feeds.append((place, inner, {number: product.weight}))

    def _load(self, family: Family) -> None:
        self.phase.loads[family] = self._where(family)

    def _where(self, family: Family) -> Place:
        if (delayed := self.reading.delayed(family)) is not None:
            return delayed.place(self.storage.lines)
        base, column = self.reading.base(family)
        away = base.op == "carry" and self.reading.loop_of[base] != self.loop
        place = (self.storage.over_time if away else self.storage.places).get(base)
        if place is None:
            raise BackendError(f"{family!r} has no place to be read from")
        return Place(place.buffer, place.column + column, place.previous, self.reading.grid(family))
