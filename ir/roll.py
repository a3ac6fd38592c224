"""Roll: a graph of a few unrolled steps -> a Program of loops with a run-time trip count.

    %3 = matmul(%x0, %w);  %4 = add(%3, %h0);  %7 = matmul(%x1, %w);  %8 = add(%7, carry(%4));  ...
->
    gemm   %3[t] = x[t] @ w
    loop t = 0 .. T-1:   carry %5 = %4[t-1] | h.0_l0;   map %4[t] = add(%3[t], %5)

1. `families` proves that the steps are equal up to a shift of time.
2. A cycle through carries (a strongly connected component) becomes a loop. So does a carry on no cycle, which is a
   shift in time: nothing moves into such a delay line (`rnnc.ir.delay_lines`). A register that adds to what it shifts
   is a sum of those (`rnnc.ir.adding_registers`). All else is computed for all steps at once: weight hoisting is a
   consequence, not a rewrite.
3. An elementwise value moves into the one loop that reads it or that it is made from, where it needs no buffer. A cheap
   value that several loops read is computed in each of them (`rnnc.ir.recompute`).
4. Statements are put in a stable topological order.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rnnc.ir.adding_registers import split_registers
from rnnc.ir.delay_lines import DelayLine, delay_lines, split_products
from rnnc.ir.errors import RollError
from rnnc.ir.families import Family, cycles, families
from rnnc.ir.graph import Graph, Node, Output
from rnnc.ir.ops import Kind
from rnnc.ir.ordering import descendants, readers, topological
from rnnc.ir.program import Loop, Program, Statement, is_parameter
from rnnc.ir.recompute import recompute
from rnnc.ir.shape_rules import BATCH
from rnnc.ir.stored import stored_values
from rnnc.ir.wide import copy_into_loops, narrows, recompute_apart, recompute_elsewhere, wide_values

Readers = Mapping[Family, Sequence[Family]]
Placement = dict[Family, int]
"""Value -> the number of the loop in which it is computed. Values outside all loops are absent."""


def roll(graph: Graph, late: frozenset[str] = frozenset()) -> Program:
    """Folds the steps of an optimised graph into a Program.

    late: names of inputs that are known later than the others. A value that depends on them is not moved into a loop
    that does not depend on them.
    Raises RollError, which names the node, if the steps are not equal up to a shift of time.
    """
    of = families(graph)
    outputs = {name: _output(name, output, of, graph.steps) for name, output in graph.outputs.items()}
    members = _needed(outputs.values(), {f.attr("state"): f for f in of.values() if f.op == "carry"})
    if added := split_registers(cycles(members), members, set(outputs.values())):
        members = _needed_again(members, outputs, added)
    following = readers({family: family.reads() for family in members})
    loops = cycles(members)
    unread = [f for f in members if f.op == "carry" and not following[f]]
    moving = {f for loop in loops for f in loop}.union(unread)
    loops += [{f} for f in members if f.op == "carry" and f not in moving]
    waits = descendants(following, [f for f in members if f.op == "input" and f.name in late])
    crossing = {f for name, f in outputs.items() if name in late and f not in waits}
    lines = delay_lines(loops, members, set(outputs.values()), crossing)
    if lines:
        members = _with_products_split(members, lines, outputs)
        following = readers({family: family.reads() for family in members})
    shifting = {f: number for number in lines for f in loops[number]}
    place: Placement = {f: number for number, cycle in enumerate(loops) for f in cycle if f not in shifting}
    directions = [_direction(cycle) for cycle in loops]
    _sink_producers(members, following, place, set(outputs.values()))
    waits = descendants(following, [f for f in members if f.op == "input" and f.name in late])
    wide = wide_values(members)
    _sink_consumers(members, following, place, len(loops), waits, wide)
    _place_unread(unread, place, directions)
    members = copy_into_loops(members, place, following, wide, set(outputs.values()))
    stored = stored_values(members, place, outputs.values())
    members = recompute_elsewhere(members, place, stored, wide, set(outputs.values()))
    members = recompute_apart(members, place, wide, set(outputs.values()))
    members = recompute(members, place, stored_values(members, place, outputs.values()), outputs.values())
    return _program(graph.dtype, members, place | shifting, directions, outputs, lines)


def _output(name: str, output: Output, of: dict[Node, Family], steps: int) -> Family:
    if not isinstance(output, tuple):
        return of[output]
    found = {of[n] for n in output}
    if len(found) != 1 or [n.step for n in output] != list(range(steps)):
        raise RollError(f"output {name!r} is not one value over time: {', '.join(map(str, output))}")
    return found.pop()


def _needed(outputs: Iterable[Family], carries: Mapping[str, Family]) -> list[Family]:
    """The families that an output depends on, operands first.

    Exits that only kept the steps alike are dropped. A state whose last value is returned stays.
    """
    seen: set[Family] = set()
    todo = list(outputs)
    while todo:
        family = todo.pop()
        if family not in seen:
            seen.add(family)
            todo += family.reads()
            if family.op == "exit" and family.attr("state") in carries:
                todo.append(carries[family.attr("state")])
    return sorted(seen, key=lambda f: f.index)


def _with_products_split(
    members: list[Family], lines: Mapping[int, DelayLine], outputs: Mapping[str, Family]
) -> list[Family]:
    """The families, operands first, with a product for each step of a delay line that a product reads."""
    split_products(members, lines.values(), set(outputs.values()))
    return _needed_again(members, outputs)


def _needed_again(members: list[Family], outputs: Mapping[str, Family], carries: Iterable[Family] = ()) -> list[Family]:
    """The families that outputs depend on after a rewrite, operands first. carries: those that the rewrite has made."""
    states = {f.attr("state"): f for f in (*members, *carries) if f.op == "carry"}
    needed = _needed(outputs.values(), states)
    return topological({family: family.inputs for family in needed}, lambda f: f.index)


def _direction(cycle: set[Family]) -> int:
    deltas = {int(f.attr("delta")) for f in cycle if f.op == "carry"}
    if len(deltas) > 1:
        names = ", ".join(sorted(repr(f) for f in cycle if f.op == "carry"))
        raise RollError(f"one recurrence runs both forward and backward in time: {names}")
    return deltas.pop()


def _sink_producers(members: list[Family], following: Readers, place: Placement, outputs: set[Family]) -> None:
    """Moves an elementwise value into a loop that alone reads it.

    A value that finishes a matmul outside the loops stays: the matmul's epilogue computes it at no cost.
    """
    finishing = _finishing_gemms(members, place)
    for family in reversed(members):
        readers = {place.get(r) for r in following[family]}
        movable = family.timed and family.spec.kind is Kind.ELEMENTWISE and family not in place
        if movable and len(readers) == 1 and None not in readers and family not in outputs:
            if family not in finishing:
                place[family] = readers.pop() or 0


def _finishing_gemms(members: list[Family], place: Placement) -> set[Family]:
    """The matmuls outside all loops, and the elementwise values that are made from one."""
    found: set[Family] = set()
    for family in members:
        if family.timed and family not in place:
            through = family.op == "slice" or family.spec.kind is Kind.ELEMENTWISE
            if family.spec.kind is Kind.MATMUL or through and any(i in found for i in family.inputs):
                found.add(family)
    return found


def _sink_consumers(
    members: list[Family], following: Readers, place: Placement, loops: int, waits: set[Family], wide: set[Family]
) -> None:
    """An elementwise value made from one loop's step moves into it, if its other operands are there before.

    So does a reduction of a wide one, which need not be kept then; what reads the reduction stays where it is.
    """
    bodies: list[list[Family]] = [[] for _ in range(loops)]
    for family in members:
        if family in place:
            bodies[place[family]].append(family)
    position = {family: number for number, family in enumerate(members)}
    for number, body in enumerate(bodies):
        early = not any(f in waits for f in body)

        def movable(readers: Iterable[Family], early: bool = early) -> Iterator[int]:
            for f in readers:
                moves = f.spec.kind is Kind.ELEMENTWISE or f.op == "expand" or narrows(f, wide)
                if f not in place and f.timed and moves and not (early and f in waits) and not _widens(f, wide, place):
                    yield position[f]

        todo = sorted({n for f in body for n in movable(following[f])})
        after = _after(body, following, place, bodies) if todo else set()
        while todo:
            family = members[heapq.heappop(todo)]
            if family not in place and not any(i in after for i in family.reads()):
                place[family] = number
                body.append(family)
                if family.spec.kind is not Kind.REDUCE:
                    after.discard(family)
                    for n in movable(following[family]):
                        heapq.heappush(todo, n)


def _widens(family: Family, wide: set[Family], place: Placement) -> bool:
    """True for a wide value whose operands in loops are all narrow. It is computed where it is read."""
    if family not in wide or family.op == "expand":
        return False
    return not any(i in wide and i in place and i.op != "expand" for i in family.inputs)


def _after(inside: list[Family], following: Readers, place: Placement, bodies: list[list[Family]]) -> set[Family]:
    """The values that can only be computed after a loop: all that depend on it, and all of each loop that does."""
    seen = set(inside)
    todo = list(inside)
    while todo:
        for reader in following[todo.pop()]:
            if reader not in seen:
                found = bodies[place[reader]] if reader in place else [reader]
                todo += found
                seen.update(found)
    return seen.difference(inside)


def _place_unread(unread: list[Family], place: Placement, directions: list[int]) -> None:
    """Places states that no step reads but whose last value is returned: each in the loop that makes its value.

    If no loop of its direction does, the state becomes a loop of its own, a shift in time.
    """
    for carry in unread:
        assert carry.source is not None
        home = place.get(carry.source)
        if home is None or directions[home] != carry.attr("delta"):
            home = len(directions)
            directions.append(int(carry.attr("delta")))
        place[carry] = home


def _program(
    dtype: str,
    members: list[Family],
    place: Placement,
    directions: list[int],
    outputs: dict[str, Family],
    lines: Mapping[int, DelayLine],
) -> Program:
    bind = _bind_time(members)
    bodies: dict[int, list[Family]] = defaultdict(list)
    for family in members:
        if family in place:
            bodies[place[family]].append(family)
    statements: list[Statement] = []
    for unit in _order(members, place):
        if unit[0] == "loop":
            statements.append(Loop(directions[unit[1]], _body(bodies[unit[1]]), lines.get(unit[1])))
        else:
            family = members[unit[1]]
            if family.spec.kind is not Kind.LEAF and family not in bind:
                statements.append(family)
    inputs = tuple(f for f in members if f.op == "input")
    ordered_bind = tuple(f for f in members if f in bind and f.spec.kind is not Kind.LEAF)
    stored = stored_values(members, place, outputs.values())
    return Program(dtype, inputs, ordered_bind, tuple(statements), outputs, stored)


def _bind_time(members: list[Family]) -> set[Family]:
    """The time-free values that depend on parameters and numbers alone."""
    bind: set[Family] = set()
    for family in members:
        number = family.op == "const" or (family.op == "zeros" and not family.timed)
        known = number or is_parameter(family)
        derived = not family.timed and family.op != "exit" and family.inputs and all(i in bind for i in family.inputs)
        if known or (derived and BATCH not in family.shape):
            bind.add(family)
    return bind


Unit = tuple[str, int]


def _order(members: list[Family], place: Placement) -> list[Unit]:
    """Values and loops, each loop as one unit, in topological order. Ties are broken by first appearance."""
    position = {f: i for i, f in enumerate(members)}

    def unit(family: Family) -> Unit:
        return ("loop", place[family]) if family in place else ("value", position[family])

    reads: dict[Unit, list[Unit]] = {}
    first: dict[Unit, int] = {}
    for family in members:
        own = unit(family)
        first.setdefault(own, family.index)
        reads.setdefault(own, []).extend(unit(read) for read in family.reads() if unit(read) != own)
    return topological(reads, first.__getitem__)


def _body(inside: list[Family]) -> tuple[Family, ...]:
    """The values of one step in topological order. A carry reads the step before, so its source is no operand here."""
    reads = {family: family.inputs for family in inside}
    return tuple(topological(reads, lambda f: (f.op != "carry", f.index)))
