"""The function of a plan for a team: threads that compute one stream, or a few, together.

    i32 rnnc_share(context, progress, member, members)

It is the plan's function (`kernels.plan_function`), run by all members at the same time:

    a phase                            -> each member computes its share of the panels of units
    copies, phases of another kind     -> member 0 does them
    where one reads what others write  -> a barrier
    regions that do not read each other, such as the two directions of a layer, if there are as many as members
                                       -> a region per member, without barriers

Every number is computed as one thread computes it, so results are equal to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from rnnc.backends.llvm.asm.builder import COLD, Function, Module, Val, define, i64
from rnnc.backends.llvm.asm.records import Record
from rnnc.backends.llvm.kernels.plan_function import PlanFunction
from rnnc.backends.llvm.kernels.plan_module import Emitted
from rnnc.backends.llvm.kernels.stopwatch import BARRIERS
from rnnc.backends.llvm.kernels.waiting import add_to, load_word, pause
from rnnc.backends.planning.hazards import barriers
from rnnc.backends.planning.plan import Buffer, Phase, Place, Plan, Region

PROGRESS = Record("progress", "ptr scratch, i64 slept")
"""What the members of one run share. scratch: the scratch memory, or null if there is not enough. slept: whether a
member has waited so long that it let others run. A word follows on a cache line of its own: how often members have come
to a barrier."""
ARRIVED = 64
"""The offset of that word, in bytes."""
PROGRESS_BYTES = 2 * ARRIVED


def emit_team(plan: Plan, emitted: Emitted) -> Module:
    """The module of `rnnc_share`. It calls the functions of the phases, which the plan's own module defines."""
    module = Module()
    module.add(TeamFunction(plan, emitted).emit())
    return module


def can_share(phase: Phase) -> bool:
    """True if threads may compute different panels of a phase at the same time."""
    return not (phase.axes or phase.sums)


def groups(regions: Sequence[Region]) -> list[list[Region]]:
    """Successive regions that do not access what others of the same group write."""
    found: list[list[Region]] = []
    for region in regions:
        if found and not any(_depend(region, other) for other in found[-1]):
            found[-1].append(region)
        else:
            found.append([region])
    return found


def _depend(region: Region, other: Region) -> bool:
    """True if one of two regions writes what the other one accesses."""
    return any(_overlap(a, b) for a in _written(region) for b in (*_written(other), *_read(other))) or any(
        _overlap(a, b) for a in _read(region) for b in _written(other)
    )


def _written(region: Region) -> list[tuple[Buffer, int, int]]:
    """(Buffer, first column, end) of all that a region writes."""
    found = [
        (place.buffer, place.column, place.column + int(family.shape[-1]))
        for phase in (*region.batched, *region.steps)
        for family, place in phase.stores
    ]
    return found + [_all(state.kept) for state in region.states if state.kept is not None]


def _read(region: Region) -> list[tuple[Buffer, int, int]]:
    places = [state.initial for state in region.states if isinstance(state.initial, Place)]
    for phase in (*region.batched, *region.steps):
        places += [*phase.loads.values(), *(feed.lhs for feed in phase.feeds)]
    return [_all(place) for place in places]


def _all(place: Place) -> tuple[Buffer, int, int]:
    return place.buffer, 0, place.buffer.width


def _overlap(a: tuple[Buffer, int, int], b: tuple[Buffer, int, int]) -> bool:
    return a[0] is b[0] and a[1] < b[2] and b[1] < a[2]


def waits_of(region: Region, units: dict[int, int]) -> set[int]:
    """The numbers of the step phases before which members wait. units: per panel, by the id of the phase."""
    return barriers(region, lambda phase: units[id(phase)] if can_share(phase) else None)


class TeamFunction(PlanFunction):
    """See the module."""

    def __init__(self, plan: Plan, emitted: Emitted) -> None:
        packed = {id(each.phase): each for each in emitted.phases}
        names = {id(each.phase): name for each, name in zip(emitted.phases, emitted.names, strict=True)}
        super().__init__(plan, emitted.interface, names, packed, {}, {}, emitted.target, "run", list(emitted.sections))
        self.f = define("i32 rnnc_share(ptr context, ptr progress, i64 member, i64 members)", COLD)
        self._alone = False
        self._panel_units = {key: each.tile.units for key, each in packed.items()}

    def emit(self) -> Function:
        f = self.f
        _, self._progress, self._member, self._members = f.parameters
        self._leads = f.compare("eq", self._member, 0)
        self._barriers = f.alloca("i64", 1, 8)
        f.store(i64(0), self._barriers, 8)
        self._read_context()
        size = self._lay_out()
        self._take_scratch(size)
        self._run()
        self._arrive()
        with f.when(self._leads):
            self._wait()
            f.call("void", "rnnc_give_memory", self._field("kept"), self.scratch)
        f.ret(Val("i32", "0"))
        return f

    def _take_scratch(self, size: Val) -> None:
        """Member 0 takes scratch memory. Without any, all members leave."""
        f, place = self.f, PROGRESS.place(self.f, self._progress, "scratch")
        with f.when(self._leads):
            self.scratch = f.call("ptr", "rnnc_take_memory", self._field("kept"), size)
            f.store(self.scratch, place, 8)
            with f.when(f.binary("xor", f.is_null(self.scratch), Val("i1", "true"))):
                self._poison(size)
        self._sync()
        self.scratch = f.load("ptr", place, 8)
        with f.when(f.is_null(self.scratch)):
            self._arrive()
            with f.when(self._leads):
                self._wait()
            f.ret(Val("i32", "1"))
            f._begin(f._label("dead"))
        self._place_buffers()

    # ---- regions

    def _regions(self, regions: Sequence[Region]) -> None:
        f = self.f
        for group in groups(regions):
            for region in group:
                self._keep_lines(region.reads())
            if len(group) == 1:
                self._region(group[0], self.region_start)
                continue
            self._sync()
            few = f.value("i64", f"zext {f.compare('ule', self._members, len(group))} to i64")
            with f.switch(few, (0, 1)) as cases:
                for case in cases:
                    self._side_by_side(group) if case else self._one_by_one(group)
            self._sync()

    def _one_by_one(self, group: Sequence[Region]) -> None:
        for region in group:
            self._region(region, self.region_start)

    def _side_by_side(self, group: Sequence[Region]) -> None:
        """A region per member, or several if there are fewer members."""
        f, offset = self.f, self.region_start
        self._alone = True
        for number, region in enumerate(group):
            turn = f.value("i64", f"urem i64 {number}, {self._members.name}")
            with f.when(f.compare("eq", turn, self._member)):
                self._region(region, offset)
            offset = f.add(offset, self._own_size(region))
        self._alone = False

    def _own_size(self, region: Region) -> Val:
        return super()._region_size(region)

    def _region_size(self, region: Region) -> Val:
        """The memory of a region and of all others of its group."""
        f, size = self.f, i64(0)
        for each in next(group for group in groups(self.plan.regions) if any(region is one for one in group)):
            size = f.add(size, self._own_size(each))
        return size

    # ---- what threads share

    def _lane(self) -> Val:
        return self.f.element(self._progress, self._member, "i8")

    @contextmanager
    def _once(self) -> Iterator[None]:
        if self._alone:
            yield
            return
        with self.f.when(self._leads):
            yield

    def _share(self, phase: Phase) -> tuple[Val, Val]:
        """Panels * member / members up to panels * (member + 1) / members."""
        first, stop = super()._share(phase)
        if self._alone or not can_share(phase):
            return first, stop
        f = self.f
        ends = (f.mul(stop, self._member), f.mul(stop, f.add(self._member, 1)))
        first, stop = (f.udiv(end, self._members) for end in ends)
        return first, stop

    def _invoke(self, function: str, arguments: list[Val]) -> None:
        self.f.call("void", function, *arguments)

    def _call_function(
        self, phase: Phase, rows: Val, row: Val, step: tuple[Val, Val] | None, number: Val | None
    ) -> None:
        if self._alone or can_share(phase):
            super()._call_function(phase, rows, row, step, number)
            return
        with self.f.when(self._leads):
            super()._call_function(phase, rows, row, step, number)

    def _waits(self, region: Region) -> set[int]:
        return waits_of(region, self._panel_units)

    # ---- barriers

    def _sync(self) -> None:
        if self._alone:
            return
        with self._timed(BARRIERS, i64(1)):
            self._arrive()
            self._wait()

    def _arrive(self) -> None:
        """Comes to the next barrier, with all that this member has written. A member but the first ends with it."""
        f = self.f
        f.store(f.add(f.load("i64", self._barriers, 8), 1), self._barriers, 8)
        add_to(f, f.element(self._progress, ARRIVED, "i8"), 1)

    def _wait(self) -> None:
        """Waits until all members have come to the barrier."""
        f, arrived = self.f, self.f.element(self._progress, ARRIVED, "i8")
        wanted = f.mul(f.load("i64", self._barriers, 8), self._members)
        f.until(
            lambda: f.compare("uge", load_word(f, arrived), wanted),
            partial(pause, f, PROGRESS.place(f, self._progress, "slept")),
        )
