"""Families: the nodes of a graph up to a shift of time, and the cycles among them.

    %3 = tanh(%1) @ t=0;  %4 = tanh(%2) @ t=1          %1 and %2 are one family
->
    %3 and %4 are one family, with a member at each step

Two nodes belong to one family if they have the same op, attributes, shape and operand families, and differ only in
their step: this is value numbering modulo t. A carry is a leaf, identified by its state. If every family has a member
at every step, the steps are equal up to a shift of time. Otherwise the error names the node that differs.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rnnc.ir.errors import RollError
from rnnc.ir.ordering import strongly_connected

if TYPE_CHECKING:  # stored code brings families without graphs
    from rnnc.ir.graph import Graph, Node, Site
    from rnnc.ir.ops import Attrs, Op
    from rnnc.ir.shape_rules import Shape


@dataclass(eq=False)
class Family:
    """One value of the rolled program. A timed family has a value at every step; any other has a single value.

    members: step -> the node that is this value at that step; empty if the family is not timed.
    initial, source: of a carry, which has no inputs: its initial value, and the family that it reads one step back.
    """

    index: int
    op: str
    inputs: tuple[Family, ...]
    attrs: Attrs
    shape: Shape
    dtype: str
    site: Site | None
    timed: bool
    members: dict[int, Node] = field(default_factory=dict)
    initial: Family | None = None
    source: Family | None = None

    @property
    def spec(self) -> Op:
        """The row of the op table."""
        from rnnc.ir.ops import OPS

        return OPS[self.op]

    def attr(self, name: str) -> Any:
        """The value of an attribute."""
        return dict(self.attrs)[name]

    def reads(self) -> tuple[Family, ...]:
        """Everything this value depends on, including a carry's source."""
        return self.inputs + tuple(f for f in (self.source, self.initial) if f is not None)

    @property
    def name(self) -> str:
        """The name that a Program prints."""
        if self.op == "input":
            return str(self.attr("name"))
        if self.op == "zeros":
            return "zeros"
        return repr(self.attr("value")) if self.op == "const" else f"%{self.index}"

    def __repr__(self) -> str:
        return f"{self.name} = {self.op}" + (f" ({self.site})" if self.site else "")


def operands_first(values: Iterable[Family], known: Container[Family] = ()) -> list[Family]:
    """The values and all that they are computed from, each once and after its operands.

    `known` values are left out, and so is what only they are computed from.
    """
    found: dict[Family, None] = {}
    todo = list(values)[::-1]
    while todo:
        family = todo[-1]
        missing = [i for i in family.inputs if i not in found and i not in known]
        if missing and family not in found and family not in known:
            todo += reversed(missing)
            continue
        todo.pop()
        if family not in known:
            found[family] = None
    return list(found)


def families(graph: Graph) -> dict[Node, Family]:
    """The family of each live node. Raises RollError if the steps are not alike."""
    numbering = _Numbering(graph.steps)
    live = graph.live()
    for node in graph.nodes:
        if node in live:
            numbering.add(node)
    numbering.check_steps()
    numbering.link_carries()
    return numbering.of


def recurrences(graph: Graph) -> dict[Node, int | None]:
    """Each live node -> the number of the recurrence (a cycle through carries) it belongs to, or None."""
    of = families(graph)
    number: dict[Family, int] = {}
    for cycle in cycles(set(of.values())):
        first = min(f.index for f in cycle)
        number.update(dict.fromkeys(cycle, first))
    return {node: number.get(family) for node, family in of.items()}


def cycles(members: Iterable[Family]) -> list[set[Family]]:
    """The recurrences: strongly connected components that have a cycle. A state kept unchanged is a cycle of one."""
    reads = {family: family.reads() for family in sorted(members, key=lambda f: f.index)}
    found = [set(c) for c in strongly_connected(reads) if len(c) > 1 or c[0] in reads[c[0]]]
    return sorted(found, key=lambda c: min(f.index for f in c))


class _Numbering:
    """Value numbering modulo time, in creation order."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.of: dict[Node, Family] = {}
        self.all: list[Family] = []
        self._known: dict[Any, Family] = {}

    def add(self, node: Node) -> None:
        if node.step is None:
            self.of[node] = self._new(node, self._summed(node) if node.op == "tsum" else None)
            return
        key = self._key(node)
        family = self._known.get(key)
        if family is None:
            family = self._known[key] = self._new(node)
        if node.step in family.members:
            raise RollError(f"{node} repeats {family.members[node.step]}: run common_subexpressions before rolling")
        family.members[node.step] = node
        self.of[node] = family

    def _key(self, node: Node) -> Any:
        if node.op == "carry":
            return ("carry", node.attrs)
        operands = [self.of[i].index for i in node.inputs]
        if node.spec.commutative:
            operands.sort()
        return node.op, node.attrs, node.shape, node.dtype, tuple(operands)

    def _summed(self, node: Node) -> tuple[Family, ...]:
        """The terms of a sum over time, as families. A family may be a term several times."""
        terms: dict[Family, list[int]] = {}
        for term in node.inputs:
            terms.setdefault(self.of[term], []).append(term.step or 0)
        result: list[Family] = []
        for family, steps in terms.items():
            times = len(steps) // self.steps
            if sorted(steps) != sorted(list(range(self.steps)) * times):
                raise RollError(f"{node} sums {family!r} at the steps {sorted(steps)}, not equally often at each")
            result += [family] * times
        return tuple(sorted(result, key=lambda f: f.index))

    def _new(self, node: Node, inputs: tuple[Family, ...] | None = None) -> Family:
        if inputs is None:
            inputs = () if node.op == "carry" else tuple(self.of[i] for i in node.inputs)
        family = Family(
            len(self.all), node.op, inputs, node.attrs, node.shape, node.dtype, node.site, node.step is not None
        )
        self.all.append(family)
        return family

    def check_steps(self) -> None:
        """Raises RollError unless every family has a member at every step."""
        for family in self.all:
            if family.timed and len(family.members) != self.steps:
                present = sorted(family.members)
                node = family.members[present[0]]
                raise RollError(
                    f"{node} has no equal at every step: its like exists at steps {present} of {self.steps}; "
                    "the steps are not equal up to a shift of time"
                )

    def link_carries(self) -> None:
        """Sets each carry's source, one family one step away, and its initial value, which is time-free."""
        carries = {f.attr("state"): f for f in self.all if f.op == "carry"}
        for carry in carries.values():
            delta = carry.attr("delta")
            first = 0 if delta > 0 else self.steps - 1
            for step, node in carry.members.items():
                self._link(carry, node, step, first, delta)
        for family in self.all:
            if family.op == "exit":
                self._link_exit(family, carries.get(family.attr("state")))

    def _link(self, carry: Family, node: Node, step: int, first: int, delta: int) -> None:
        previous = node.inputs[0]
        read = self.of[previous]
        if step == first:
            if previous.step is not None:
                raise RollError(f"{node}: the first step of a carry must read a time-free value, it reads {previous}")
            carry.initial = read
        elif previous.step != step - delta:
            raise RollError(f"{node} must read step {step - delta}, it reads {previous}")
        elif carry.source not in (None, read):
            raise RollError(f"{node} reads {read!r}, at other steps it reads {carry.source!r}")
        else:
            carry.source = read

    def _link_exit(self, family: Family, carry: Family | None) -> None:
        if carry is not None and carry.source is None:  # one template step: the exit names the next state
            carry.source = family.inputs[0]
        if carry is not None and carry.source is not family.inputs[0]:
            raise RollError(f"{family!r} does not read what the carry of its state reads")
