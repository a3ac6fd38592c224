"""The planner: Program -> Plan. It schedules a step into phases by a rule, whatever the cell.

A matmul needs whole rows of its left operand, and a sum over units needs whole rows too; everything else works unit by
unit. So a value's **level** within a step is the number of such barriers before it; values of one level and one width
are one phase, computed in registers. A value read across a barrier gets a buffer, and nothing else does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from rnnc.backends.llvm.plan import Buffer, Feed, Phase, Place, Plan, Region, Space, State, Weight
from rnnc.ir.errors import BackendError
from rnnc.ir.families import Family
from rnnc.ir.ops import Kind
from rnnc.ir.program import Loop, Program


def plan(program: Program) -> Plan:
    """Lays out a program. Raises BackendError, naming the value, for what this backend cannot express."""
    return _Planner(program).plan()


@dataclass(frozen=True)
class _Product:
    """A matmul seen as accumulators: the columns start:stop of lhs @ rhs."""

    lhs: Family
    weight: Weight


@dataclass(frozen=True)
class _Read:
    """How one value reads another: barrier = the operand must be in a buffer first."""

    operand: Family
    barrier: bool


class _Shape:
    """What each value of the program is to a code generator: folded into another, or computed."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.bound = set(program.bind) | {f for f in program.inputs if not f.timed and "B" not in f.shape}
        self.all = list(_everything(program))
        self.readers: dict[Family, list[Family]] = defaultdict(list)
        for reader in self.all:
            for operand in reader.reads():
                self.readers[operand].append(reader)

    def time_free(self, family: Family) -> bool:
        """A parameter, a number, or made of those alone."""
        return family in self.bound or family.op == "const"

    def product(self, family: Family) -> _Product | None:
        """The matmul a value is, or is a slice of, if nobody needs that matmul whole."""
        if family.op == "matmul" and not self._only_sliced(family):
            return self._columns(family, 0, int(family.shape[-1]))
        if family.op == "slice" and family.attr("axis") == -1:
            matmul, start = family.inputs[0], family.attr("start")
            if matmul.op == "matmul" and self._only_sliced(matmul):
                return self._columns(matmul, start, family.attr("stop"))
        return None

    def _only_sliced(self, matmul: Family) -> bool:
        readers = self.readers[matmul]
        return bool(readers) and all(r.op == "slice" and r.attr("axis") == -1 for r in readers)

    def _columns(self, matmul: Family, start: int, stop: int) -> _Product:
        lhs, rhs = matmul.inputs
        if not self.time_free(rhs):
            raise BackendError(f"{matmul!r}: the llvm backend multiplies by parameters only, not by {rhs!r}")
        return _Product(lhs, Weight(rhs, bool(matmul.attr("transpose_b")), start, stop))

    def absorbed(self, family: Family) -> bool:
        """A product that one sum alone reads is accumulated right into that sum."""
        readers = self.readers[family]
        return (
            self.product(family) is not None
            and len(readers) == 1
            and readers[0].op == "add"
            and (family not in self.program.stored or readers[0].timed)
        )

    def computed(self, family: Family) -> bool:
        """A value that some phase must compute; the rest is addressing, or known before."""
        if self.time_free(family) or not family.timed or family.op in ("carry", "input"):
            return False
        if family.op == "matmul" and self._only_sliced(family):
            return False
        if self.product(family):
            return not self.absorbed(family)
        return family.op != "slice"

    def base(self, family: Family) -> tuple[Family, int]:
        """The value a slice is a view of, and its first column there."""
        column = 0
        while family.op == "slice" and not self.product(family) and not self.time_free(family):
            if family.attr("axis") != -1:
                raise BackendError(f"{family!r}: the llvm backend slices the last axis only")
            column += family.attr("start")
            family = family.inputs[0]
        return family, column

    def reads(self, family: Family) -> list[_Read]:
        """What a computed value reads, with views and products looked through."""
        product = self.product(family)
        if product:
            return [_Read(self.base(product.lhs)[0], True)]
        found = []
        for operand in family.inputs:
            if self.absorbed(operand):
                found += self.reads(operand)
            elif not self.time_free(operand):
                found.append(self._read(family, operand))
        return found

    def _read(self, reader: Family, operand: Family) -> _Read:
        base, _ = self.base(operand)
        whole = base is operand
        narrow = base.shape[-1] != reader.shape[-1] and not self.inline_scalar(base)
        if reader.op == "reduce_sum":
            barrier = self.has_product(base)
        else:
            barrier = narrow or reader.op == "concat"
        return _Read(base, barrier or not whole or base.op in ("reduce_sum", "concat"))

    def inline_scalar(self, family: Family) -> bool:
        """A number a row, cheap enough to compute again wherever it is read."""
        return family.shape[-1] == 1 and family.spec.kind is Kind.ELEMENTWISE and not self.has_product(family)

    def has_product(self, family: Family) -> bool:
        """Whether computing a value in registers involves a matmul."""
        if not self.computed(family):
            return False
        if self.product(family) or any(self.absorbed(i) for i in family.inputs):
            return True
        inline = family.spec.kind is Kind.ELEMENTWISE
        return inline and any(self.has_product(i) for i in family.inputs)


def _everything(program: Program) -> Iterable[Family]:
    for statement in program.statements:
        yield from statement.body if isinstance(statement, Loop) else (statement,)


class _Planner:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.shape = _Shape(program)
        self.buffers: list[Buffer] = []
        self.places: dict[Family, Place] = {}  # where a value can be read
        self.extra: dict[Family, list[Place]] = defaultdict(list)  # where else it must be written
        self.loops = list(program.loops())
        self.loop_of = {f: n for n, loop in enumerate(self.loops) for f in loop.body}
        output = program.outputs["output"]
        self.output = self._buffer("output", Space.OUTPUT, int(output.shape[-1]))

    def plan(self) -> Plan:
        for family in self.program.inputs:
            if family.timed:
                self.places[family] = Place(self._buffer(family.name, Space.INPUT, int(family.shape[-1])))
        context = self._contexts()
        self._place_outputs()
        self._place_timed(context)
        regions: list[Region] = []
        pending: list[Family] = []
        for statement in self.program.statements:
            if isinstance(statement, Loop):
                self._flush(regions, pending)
                regions.append(self._recurrence(self.loops.index(statement), context))
            elif statement in context and context[statement] is None:
                pending.append(statement)
        self._flush(regions, pending)
        return Plan(self.program, regions, self.buffers, self.output)

    def _buffer(self, name: str, space: Space, width: int, double: bool = False) -> Buffer:
        buffer = Buffer(name, space, width, double)
        self.buffers.append(buffer)
        return buffer

    # -- where off-cycle values are computed -----------------------------------------------------------

    def _contexts(self) -> dict[Family, int | None]:
        """Each computed value outside loops -> the loop it serves alone, or None."""
        context: dict[Family, int | None] = {}
        serves: dict[Family, set[int | None]] = defaultdict(set)
        for family in reversed(self.shape.all):
            if not self.shape.computed(family):
                continue
            if family in self.loop_of:
                target: int | None = self.loop_of[family]
            else:
                returned = family in self.program.outputs.values()
                wanted = serves[family]
                target = next(iter(wanted)) if len(wanted) == 1 and not returned else None
                context[family] = target
            for read in self.shape.reads(family):
                serves[read.operand].add(target)
        return context

    def _place_outputs(self) -> None:
        output = self.program.outputs["output"]
        base, column = self.shape.base(output)
        if base is output and self.shape.computed(output):
            self._put(output, Place(self.output, column))
        else:  # the output is the input, or a part of another value: copied
            raise BackendError(f"{output!r}: the output must be computed, not be a view of another value")

    def _place_timed(self, context: dict[Family, int | None]) -> None:
        """Buffers over time: concats first, since their parts live inside them."""
        for family in reversed(self.shape.all):
            outside = family not in self.loop_of
            if family.op == "concat" and outside:
                self._place_concat(family)
        for family in self.shape.all:
            if not self.shape.computed(family) or family in self.places:
                continue
            if family in self.loop_of:
                if family in self.program.stored:
                    self._put(family, Place(self._buffer(f"y{family.index}", Space.TIMED, int(family.shape[-1]))))
            elif context[family] is None and self._needs_buffer(family, context):
                self._put(family, Place(self._buffer(f"y{family.index}", Space.TIMED, int(family.shape[-1]))))

    def _needs_buffer(self, family: Family, context: dict[Family, int | None]) -> bool:
        """An off-cycle value read by a loop or across a barrier; others stay in registers."""
        for reader in self.shape.all:
            if not self.shape.computed(reader):
                continue
            for read in self.shape.reads(reader):
                if read.operand is family and (
                    read.barrier or reader in self.loop_of or context.get(reader) is not None
                ):
                    return True
        return False

    def _place_concat(self, family: Family) -> None:
        if family not in self.places:
            self._put(family, Place(self._buffer(f"y{family.index}", Space.TIMED, int(family.shape[-1]))))
        home, column = self.places[family].buffer, self.places[family].column
        for part in family.inputs:
            if self.shape.computed(part) and part not in self.places:
                self._put(part, Place(home, column))
            elif self.shape.computed(part):
                self.extra[part].append(Place(home, column))
            else:
                raise BackendError(f"{family!r}: a concat of an input or a slice is not supported outside a loop")
            column += int(part.shape[-1])

    def _put(self, family: Family, place: Place) -> None:
        self.places[family] = place

    # -- regions ------------------------------------------------------------------------------------------

    def _flush(self, regions: list[Region], pending: list[Family]) -> None:
        """Time-batched work that more than one loop reads, or none."""
        todo = [f for f in pending if f.op != "concat"]
        if todo:
            phases = _Levels(self, todo, f"batch{len(regions)}", Space.TIMED).phases()
            regions.append(Region(f"batch{len(regions)}", 0, [], phases, []))
        pending.clear()

    def _recurrence(self, number: int, context: dict[Family, int | None]) -> Region:
        loop = self.loops[number]
        name = f"loop{number}"
        before = [f for f in self.shape.all if f in context and context[f] == number]
        batched = _Levels(self, before, f"{name}_batched", Space.CHUNK).phases(also_stored=self._read_by_loop(loop))
        states = [self._state(carry, loop) for carry in loop.carries]
        body = [f for f in loop.body if self.shape.computed(f)]
        steps = _Levels(self, body, f"{name}_step", Space.STEP).phases()
        self._decide_doubles(states, steps)
        return Region(name, loop.direction, states, batched, steps)

    def _read_by_loop(self, loop: Loop) -> set[Family]:
        return {r.operand for f in loop.body if self.shape.computed(f) for r in self.shape.reads(f)}

    def _state(self, carry: Family, loop: Loop) -> State:
        assert carry.initial is not None and carry.source is not None
        if carry.initial.op != "input" or not self.shape.computed(carry.source) or carry.source not in self.loop_of:
            raise BackendError(f"{carry!r}: the llvm backend carries computed values that start at an input")
        buffer = self._buffer(str(carry.attr("state")), Space.STATE, int(carry.shape[-1]))
        self.places[carry] = Place(buffer, 0, previous=True)
        current = Place(buffer)
        self.extra[carry.source].append(current)
        final = next(
            (n for n, f in self.program.outputs.items() if f.op == "exit" and f.attr("state") == carry.attr("state")),
            None,
        )
        return State(carry, buffer, carry.initial.name, final)

    def _decide_doubles(self, states: list[State], steps: list[Phase]) -> None:
        """A state may be overwritten in place if only the phase that writes it reads it, unit by unit."""
        for state in states:
            for phase in steps:
                writes = any(p.buffer is state.buffer for _, p in phase.stores)
                feeds = any(f.lhs.buffer is state.buffer and f.lhs.previous for f in phase.feeds)
                reads = any(p.buffer is state.buffer and p.previous for p in phase.loads.values())
                moved = any(p.buffer is state.buffer and p.column for p in phase.loads.values())
                if feeds or (reads and (not writes or moved or phase.sums)):
                    state.buffer.double = True


class _Levels:
    """The schedule of one group of values into phases."""

    def __init__(self, planner: _Planner, members: list[Family], name: str, space: Space) -> None:
        self.planner = planner
        self.shape = planner.shape
        self.members = members
        self.inside = set(members)
        self.name = name
        self.space = space
        self.level = self._late(self._early())

    def _weight(self, read: _Read) -> int:
        return int(read.barrier and read.operand in self.inside)

    def _early(self) -> dict[Family, int]:
        early: dict[Family, int] = {}
        for family in self.members:
            inputs = [r for r in self.shape.reads(family) if r.operand in self.inside]
            early[family] = max((early[r.operand] + self._weight(r) for r in inputs), default=0)
        return early

    def _late(self, early: dict[Family, int]) -> dict[Family, int]:
        """As late as the readers allow: a value is computed where it is needed, instead of being kept."""
        late: dict[Family, int] = {}
        bound: dict[Family, int] = {}
        for family in reversed(self.members):
            late[family] = bound.get(family, early[family])
            for read in self.shape.reads(family):
                if read.operand in self.inside:
                    limit = late[family] - self._weight(read)
                    bound[read.operand] = min(bound.get(read.operand, limit), limit)
        return late

    def phases(self, also_stored: set[Family] | None = None) -> list[Phase]:
        """The phases in order, with their loads and stores."""
        self._give_buffers(also_stored or set())
        groups: dict[tuple[int, bool, int], list[Family]] = defaultdict(list)
        for family in self.members:
            if family.op == "concat" or (self.shape.inline_scalar(family) and not self._targets(family)):
                continue
            width = int(family.inputs[0].shape[-1]) if family.op == "reduce_sum" else int(family.shape[-1])
            groups[self.level[family], family.op == "reduce_sum", width].append(family)
        result = []
        for number, key in enumerate(sorted(groups)):
            level, sums, width = key
            group = set(groups[key])
            if sums:  # what a sum reads is computed on the way, even if the tiles of this level compute it too
                group.update(groups.get((level, False, width), ()))
            roots = [f for f in groups[key] if sums or self._targets(f)]
            if roots:
                result.append(_PhaseBuilder(self, f"{self.name}{number}", width, group).build(roots))
        return result

    def _give_buffers(self, also_stored: set[Family]) -> None:
        kept = {f for f in also_stored if f in self.inside} | {f for f in self.members if f.op == "reduce_sum"}
        for family in self.members:
            for read in self.shape.reads(family):
                operand = read.operand
                if operand in self.inside and not (self.shape.inline_scalar(operand) and not read.barrier):
                    if read.barrier or self.level[family] > self.level[operand]:
                        kept.add(operand)
        for family in self.members:  # concats before their parts
            if family.op == "concat" and family in kept and family not in self.planner.places:
                self._place_concat(family)
        for family in self.members:
            if family in kept and family not in self.planner.places:
                self._place(family)

    def _place(self, family: Family) -> None:
        current = next((p for p in self.planner.extra[family] if p.buffer.space is Space.STATE), None)
        if current is not None:  # a new state is read where it is kept
            self.planner.extra[family].remove(current)
            self.planner.places[family] = current
            return
        self.planner.places[family] = Place(self.planner._buffer(f"v{family.index}", self.space, int(family.shape[-1])))

    def _place_concat(self, family: Family) -> None:
        self._place(family)
        home, column = self.planner.places[family].buffer, 0
        for part in family.inputs:
            self.planner.extra[part].append(Place(home, column))
            column += int(part.shape[-1])

    def _targets(self, family: Family) -> list[Place]:
        """Where a value must be written."""
        own = self.planner.places.get(family)
        return ([own] if own is not None else []) + self.planner.extra[family]


class _PhaseBuilder:
    """One phase: from its roots down to loads, accumulators and vectors."""

    def __init__(self, levels: _Levels, name: str, width: int, group: set[Family]) -> None:
        self.levels = levels
        self.shape = levels.shape
        self.places = levels.planner.places
        self.phase = Phase(name, width)
        self.group = group
        self.done: set[Family] = set()
        self.products: dict[Place, list[tuple[int, Weight]]] = defaultdict(list)
        self.inner: dict[Place, int] = {}

    def build(self, roots: list[Family]) -> Phase:
        for root in roots:
            if root.op == "reduce_sum":
                self._need(root.inputs[0])
                self.phase.sums.append(root)
            else:
                self._need(root, compute=True)
            for place in self.levels._targets(root):
                self.phase.stores.append((root, place))
        for place, blocks in self.products.items():
            self.phase.feeds.append(Feed(place, self.inner[place], tuple(blocks)))
        return self.phase

    def _need(self, family: Family, compute: bool = False) -> None:
        """Makes a value available in registers."""
        if family in self.done or family.op == "const":
            return
        self.done.add(family)
        if self.shape.time_free(family):
            self.phase.vectors.append(family)
        elif compute or family in self.group or self._recomputed(family):
            self._compute(family)
        else:
            self._load(family)

    def _recomputed(self, family: Family) -> bool:
        return self.shape.computed(family) and self.shape.inline_scalar(family) and family not in self.places

    def _compute(self, family: Family) -> None:
        products = [i for i in family.inputs if self.shape.absorbed(i)] if family.op == "add" else []
        if self.shape.product(family):
            products = [family]
        if not products:
            for operand in family.inputs:
                self._need(operand)
            self.phase.values.append(family)
            return
        others = [] if products == [family] else [i for i in family.inputs if i not in products]
        for operand in others:
            self._need(operand)
        known = [i for i in others if i in self.phase.loads or i in self.phase.vectors or i.op == "const"]
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
        product = self.shape.product(family)
        assert product is not None
        place = self._where(product.lhs)
        self.products[place].append((number, product.weight))
        self.inner[place] = int(product.lhs.shape[-1])

    def _load(self, family: Family) -> None:
        self.phase.loads[family] = self._where(family)

    def _where(self, family: Family) -> Place:
        base, column = self.shape.base(family)
        if base not in self.places:
            raise BackendError(f"{family!r} has no place to be read from")
        place = self.places[base]
        return Place(place.buffer, place.column + column, place.previous)
