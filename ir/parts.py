"""Parts: a computation is cut where values of rows read a sum over all rows.

    %5 = tsum(reduce_rows(%3), ...)                    the sum of %3 over all rows and steps
    %6 = sub(%3, %5) @ t
->
    part 0:  ...;  output "part:0" = [%3, ...];  output "part:1" = %5
    part 1:  sub("part:0", "part:1") @ t

Such a sum is known when all rows of all steps are, so what reads it is computed in a later part. The number of a
value's part is the number of such sums, one behind the other, that it waits for. Each part is a computation of its own,
which a backend compiles as any other. A value of an earlier part is an input of it; a sum, which has no batch axis, is
a parameter. Parts are few: a normalisation by the statistics of a batch makes three more of a training step.

Cheap values are computed again in the part that reads them, if their operands are at hand there (`rnnc.ir.recompute`).

The graph with lengths decides the parts. Without its masks, which then are the identity, it is the graph without
lengths, so that both pass on the same values.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from rnnc.ir import names
from rnnc.ir.computation import Computation
from rnnc.ir.errors import IRError
from rnnc.ir.families import Family, families
from rnnc.ir.graph import Graph, Node
from rnnc.ir.ops import Kind
from rnnc.ir.passes.rebuild import Mapping, rebuild
from rnnc.ir.pipeline import TEMPLATE_STEPS
from rnnc.ir.shape_rules import BATCH, Shape


class Passed(NamedTuple):
    """A value that one part makes and later ones read: its name, shape and dtype. timed: there is one per step."""

    name: str
    shape: Shape
    dtype: str
    timed: bool


@dataclass(frozen=True)
class Part:
    """A part of a computation.

    inputs, outputs: the names of all its inputs but "valid", and of those outputs that are the whole computation's.
    passed: what it makes for later parts.
    """

    computation: Computation
    inputs: frozenset[str]
    outputs: frozenset[str]
    passed: tuple[Passed, ...]


def parts_of(computation: Computation) -> list[Part]:
    """The parts of a computation of one half, in the order in which they run.

    Raises IRError if a later part reads a sum over the rows of one step, for which there are no arrays.
    """

    @cache
    def cut(steps: int) -> _Cut:
        return _Cut(computation.build(steps, True))

    def part(number: int) -> Part:
        def build(steps: int, lengths: bool) -> Graph:
            return cut(steps).graph(number, lengths)

        graph, whole = build(TEMPLATE_STEPS, False), cut(TEMPLATE_STEPS)
        inputs = frozenset(node.attr("name") for node in graph.nodes if node.op == "input")
        passed = whole.passed(number)
        own = frozenset(graph.outputs) - {value.name for value in passed}
        return Part(Computation(build), inputs, own, passed)

    return [part(number) for number in range(cut(TEMPLATE_STEPS).count)]


class _Cut:
    """A graph with lengths, and what of it belongs to which part."""

    def __init__(self, graph: Graph) -> None:
        self.whole = _with_sums_apart(rebuild(graph, lambda *_: None))
        self.of = families(self.whole)
        self.all = sorted(set(self.of.values()), key=lambda f: f.index)
        self.number = _numbers(self.all)
        self.count = 1 + max(self.number.values(), default=0)
        self.reading = [_Reading(self.all, self.number, number) for number in range(self.count)]
        given = {family for reading in self.reading for family in reading.given}
        self.names = {f: names.passed(n) for n, f in enumerate(f for f in self.all if f in given)}

    def passed(self, number: int) -> tuple[Passed, ...]:
        """What a part makes for later ones."""
        made = [(family, name) for family, name in self.names.items() if self.number[family] == number]
        return tuple(Passed(name, family.shape, family.dtype, family.timed) for family, name in made)

    def graph(self, number: int, lengths: bool) -> Graph:
        """The graph of a part."""
        reading, made = self.reading[number], Graph(self.whole.dtype, self.whole.steps)
        new: Mapping = {}
        for node in self.whole.nodes:
            if (family := self.of.get(node)) is None:
                continue
            made.site = node.site
            if family in reading.given:
                new[node] = self._input(made, node, lengths)
            elif self.number[family] == number or family in reading.again:
                new[node] = _copied(made, node, new, lengths)
        for name, output in self.whole.outputs.items():
            first = output[0] if isinstance(output, tuple) else output
            if self.number[self.of[first]] == number:
                made.outputs[name] = tuple(new[n] for n in output) if isinstance(output, tuple) else new[output]
        for family, nodes in self._members(number).items():
            every = tuple(new[node] for node in nodes)
            made.outputs[self.names[family]] = every if family.timed else every[0]
        return rebuild(made, lambda *_: None)

    def _input(self, made: Graph, node: Node, lengths: bool) -> Node:
        """A value of an earlier part. Past the end of a row it is zeros, as every output is."""
        value = made.input(self.names[self.of[node]], node.shape, node.step)
        if not lengths or node.step is None:
            return value
        valid = made.input(names.VALID, (BATCH, 1), node.step, dtype="bool")
        return made.add("select", (valid, value, made.const(0.0)))

    def _members(self, number: int) -> dict[Family, list[Node]]:
        """The nodes of each value that a part makes for later ones, step by step."""
        found: dict[Family, list[Node]] = defaultdict(list)
        for node in self.whole.nodes:
            family = self.of.get(node)
            if family in self.names and self.number[family] == number:
                found[family].append(node)
        return {family: sorted(nodes, key=lambda n: n.step or 0) for family, nodes in found.items()}


def _copied(graph: Graph, node: Node, new: Mapping, lengths: bool) -> Node:
    """A copy of a node. In a graph without lengths every row runs at every step: a mask chooses the first operand."""
    if lengths or not any(map(_is_mask, node.inputs)):
        return graph.copy_node(node, [new[i] for i in node.inputs])
    if node.op != "select":
        raise IRError(f"{node}: only a select may read the mask of lengths")
    chosen = new[node.inputs[1]]
    if chosen.op == "zeros" or (chosen.op == "const" and chosen.attr("value") == 0.0):
        return graph.zeros(node.shape, node.step)
    return graph.spread(chosen, node.shape, node.step)


def _is_mask(node: Node) -> bool:
    return node.op == "input" and node.attr("name") == names.VALID


# ---- the number of a value's part


def _numbers(every: Sequence[Family]) -> dict[Family, int]:
    """The number of the part of each value. every: all values, operands first.

    A state's values are all of one part. Its next value may come later in the list, hence the repetition.
    """
    states = {f.attr("state"): f for f in every if f.op == "carry"}
    gathered = _gathered(every)
    number = dict.fromkeys(every, 0)
    changed = True
    while changed:
        changed = False
        for family in every:
            read = [*family.reads(), *([states[family.attr("state")]] if family.op == "exit" else [])]
            rows = family.timed or BATCH in family.shape
            least = max((number[f] + (rows and f in gathered) for f in read), default=0)
            if least > number[family]:
                number[family], changed = least, True
    return number


def _gathered(every: Sequence[Family]) -> set[Family]:
    """The values that are known when all rows of all steps are: sums over them, and what is made of those alone."""
    found: set[Family] = set()
    for family in every:
        if not family.timed and BATCH not in family.shape:
            sums = family.op == "tsum" or any(BATCH in i.shape for i in family.inputs)
            if sums or any(i in found for i in family.inputs):
                found.add(family)
    return found


def _with_sums_apart(graph: Graph) -> Graph:
    """The graph with a sum over time of values of several parts as a sum of such sums.

    tsum(%3 of part 0, %7 of part 2, ...)  ->  add(tsum(%3, ...), tsum(%7, ...))
    """
    of = families(graph)
    number = _numbers(sorted(set(of.values()), key=lambda f: f.index))

    def rule(made: Graph, node: Node, new: Mapping) -> Node | None:
        terms: dict[int, list[Node]] = defaultdict(list)
        for term in node.inputs if node.op == "tsum" else ():
            terms[number[of[term]]].append(new[term])
        return made.sum([made.tsum(some) for some in terms.values()]) if len(terms) > 1 else None

    return rebuild(graph, rule)


# ---- what a part reads of earlier ones


class _Reading:
    """What a part reads of earlier ones.

    given: the values that it is given. again: those that it computes again, because their operands are at hand.
    """

    def __init__(self, every: Sequence[Family], number: dict[Family, int], part: int) -> None:
        read = _read(f for f in every if number[f] == part)
        read = {f for f in read if number[f] < part or f.dtype == "bool"}
        self.given = {f for f in read if not _is_light(f)}
        at_hand = set(self.given)
        for family in every:
            if _is_light(family) and at_hand.issuperset(family.inputs):
                at_hand.add(family)
        self.given |= {f for f in read if f not in at_hand and f.dtype != "bool"}
        self.again = set[Family]()
        todo = [f for f in read if f not in self.given]
        while todo:
            family = todo.pop()
            if family not in self.again and family not in self.given:
                self.again.add(family)
                todo += family.inputs
        for family in self.given:
            if family.timed and BATCH not in family.shape:
                raise IRError(f"{family!r}: a sum over the rows of one step is read by a later part")


def _read(values: Iterable[Family]) -> set[Family]:
    """What values read, and what the masks among that read: no array of numbers holds a mask."""
    found, todo = set[Family](), [i for f in values for i in f.reads()]
    while todo:
        family = todo.pop()
        if family not in found:
            found.add(family)
            todo += family.inputs if family.dtype == "bool" else ()
    return found


def _is_light(family: Family) -> bool:
    """True for a value that is computed again if its operands are at hand: it is cheap, or made of parameters."""
    kind = family.spec.kind
    if kind in (Kind.LEAF, Kind.VIEW):
        return True
    if family.timed or BATCH in family.shape:
        return kind is Kind.ELEMENTWISE and not family.spec.costly
    return family.op != "tsum" and not any(BATCH in i.shape for i in family.inputs)
