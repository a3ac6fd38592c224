"""Graph: unrolled time steps in SSA form, and the builder that keeps the rules of time.

A node belongs to one time step, or to none (a parameter, a sum of biases, a final state). Steps are numbered in
absolute time, in the reverse direction too. The builder enforces the rule that makes rolling possible: **only `carry`
reads another step**, `exit` reads the last one, and `tsum` reads all of them. Any other op is refused if its operands
lie at two different steps.

The order of creation is always a topological order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from rnnc.ir.errors import IRError
from rnnc.ir.ops import OPS, Attrs, Kind, Op, result_dtype
from rnnc.ir.shape_rules import AttrValue, Shape


@dataclass(frozen=True, order=True)
class Site:
    """The layer and direction whose equations made a node. It serves messages, dumps and drawings, never decisions."""

    layer: int
    direction: int | None = None  # 0 forward, 1 backward, None for nodes that join both
    marks: tuple[str, ...] = ()  # "grad", "tangent": the modes of differentiation that made the node, in order

    def __str__(self) -> str:
        direction = () if self.direction is None else (("fwd", "bwd")[self.direction],)
        return ".".join((f"l{self.layer}", *direction, *self.marks))

    def marked(self, mark: str) -> Site:
        """The site of nodes that differentiation derives from nodes of this one."""
        return replace(self, marks=(*self.marks, mark))


@dataclass(frozen=True, eq=False, init=False)
class Node:
    """One value. Immutable, and equal only to itself.

    index: its position in the graph, which is also its printed name.
    step: the time step that it belongs to; None if it is time-free, the same at all steps.
    """

    index: int
    op: str
    inputs: tuple[Node, ...]
    attrs: Attrs
    shape: Shape
    dtype: str
    step: int | None
    site: Site | None

    def __init__(
        self,
        index: int,
        op: str,
        inputs: tuple[Node, ...],
        attrs: Attrs,
        shape: Shape,
        dtype: str,
        step: int | None,
        site: Site | None,
    ) -> None:
        """Written out, because a frozen dataclass's own takes three times as long, and each pass makes every node."""
        fields = self.__dict__
        fields["index"], fields["op"], fields["inputs"], fields["attrs"] = index, op, inputs, attrs
        fields["shape"], fields["dtype"], fields["step"], fields["site"] = shape, dtype, step, site

    @property
    def spec(self) -> Op:
        """The row of the op table."""
        return OPS[self.op]

    def attr(self, name: str) -> Any:
        """The value of an attribute."""
        return dict(self.attrs)[name]

    def __str__(self) -> str:
        where = ", ".join(str(p) for p in (self.site, None if self.step is None else f"t={self.step}") if p is not None)
        return f"%{self.index} = {self.op}" + (f" ({where})" if where else "")

    __repr__ = __str__


class _Auto(Enum):
    JOIN = 0


_JOIN = _Auto.JOIN

_STATE_OPS = frozenset(name for name, row in OPS.items() if row.kind is Kind.CARRY)

Output = Node | tuple[Node, ...]
"""A graph output: one value, or one value per step."""


@dataclass
class Graph:
    """A list of nodes in topological order, and named outputs.

    dtype: the float dtype of all arithmetic.
    steps: the number of unrolled time steps.
    share: whether to merge equal nodes while building (value numbering). Lowering turns it off, so that the dump
        shows the equations as written. Passes turn it on.
    """

    dtype: str
    steps: int
    share: bool = True
    nodes: list[Node] = field(default_factory=list)
    outputs: dict[str, Output] = field(default_factory=dict)
    site: Site | None = None
    _numbers: dict[Any, Node] = field(default_factory=dict, repr=False)
    _live: tuple[int, list[Node], frozenset[Node]] | None = field(default=None, repr=False)

    def add(
        self, op: str, inputs: Sequence[Node] = (), *, step: int | None | _Auto = _JOIN, **attrs: AttrValue
    ) -> Node:
        """Appends a node, or returns an equal one. Shape and dtype are inferred, and the step if it is not given.

        Raises IRError if the operands lie at different time steps, or do not fit the op.
        """
        row = OPS[op]
        if row.arity is not None and len(inputs) != row.arity or row.arity is None and not inputs:
            raise IRError(f"{op} takes {row.arity or 'one or more'} operands, got {len(inputs)}")
        ordered = tuple((name, attrs[name]) for name in row.attrs)
        shape = row.shape([n.shape for n in inputs], attrs)
        dtype = result_dtype(row, [n.dtype for n in inputs]) if inputs else self.dtype
        when = self._join(op, inputs) if isinstance(step, _Auto) else step
        if self.share and _is_zero(row, inputs):
            return self.zeros(shape, when)
        return self._append(op, tuple(inputs), ordered, shape, dtype, when)

    def input(self, name: str, shape: Shape, step: int | None = None, dtype: str | None = None) -> Node:
        """An argument of the network: time-free, or the value of one step."""
        return self._append("input", (), (("name", name),), shape, dtype or self.dtype, step)

    def const(self, value: float) -> Node:
        """A number of the graph's dtype."""
        return self.add("const", value=float(value), step=None)

    def zeros(self, shape: Shape, step: int | None = None) -> Node:
        """Zeros of a shape. They lie at a step if the node that reads them must lie there."""
        return self._append("zeros", (), (), shape, self.dtype, step)

    def spread(self, x: Node, shape: Shape, step: int | None = None) -> Node:
        """x broadcast to a shape. A time-free x is moved to the given step as well."""
        if x.shape == shape and (step is None or x.step is not None):
            return x
        return self.add("add", (x, self.zeros(shape, step if x.step is None else None)))

    def over_groups(self, op: str, x: Node, size: int, inner: int) -> Node:
        """`expand`, `group_sum` or `group_max` of units as a grid (outer, size, inner); groups of one are x itself."""
        if size == 1:
            return x
        made = OPS[op].shape([x.shape], {"size": size, "inner": inner})
        if self.share and x.op == "zeros" and op != "group_max":
            return self.zeros(made, x.step)
        if op != "expand" and x.shape[-1] == size:  # over all units
            return self.add({"group_sum": "reduce_sum", "group_max": "reduce_max"}[op], (x,))
        return self.add(op, (x,), size=size, inner=inner)

    def carry(self, previous: Node, state: str, delta: int, step: int) -> Node:
        """The value `previous` of step - delta, read at `step`. At the loop's first step it is a time-free value."""
        return self.add("carry", (previous,), state=state, delta=delta, step=step)

    def exit(self, last: Node, state: str, delta: int) -> Node:
        """The value of a state after its loop's last step."""
        return self.add("exit", (last,), state=state, delta=delta, step=None)

    def slice(self, x: Node, axis: int, start: int, stop: int) -> Node:
        """x[..., start:stop, ...]. A slice of the whole axis is x itself, and a slice of zeros is zeros."""
        if start == 0 and stop == x.shape[axis]:
            return x
        if self.share and x.op == "zeros":
            return self.zeros(OPS["slice"].shape([x.shape], {"axis": axis, "start": start, "stop": stop}), x.step)
        return self.add("slice", (x,), axis=axis, start=start, stop=stop)

    def concat(self, xs: Sequence[Node], axis: int) -> Node:
        """The operands side by side. One operand is returned as it is, and adjoining slices become one slice."""
        if len(xs) == 1:
            return xs[0]
        if self.share and (whole := _adjoining(xs, axis)):
            return self.slice(whole, axis, xs[0].attr("start"), xs[-1].attr("stop"))
        return self.add("concat", tuple(xs), axis=axis)

    def sum(self, terms: Sequence[Node]) -> Node:
        """The n-ary sum of the terms. One term is returned as it is."""
        return terms[0] if len(terms) == 1 else self.add("add", tuple(terms))

    def tsum(self, terms: Sequence[Node]) -> Node:
        """The sum over time: a time-free sum of values of all steps."""
        return self.add("tsum", tuple(terms), step=None)

    def copy_node(self, node: Node, inputs: Sequence[Node]) -> Node:
        """The same op with operands of the same shapes, dtypes and steps."""
        return self._append(node.op, tuple(inputs), node.attrs, node.shape, node.dtype, node.step)

    def _join(self, op: str, inputs: Sequence[Node]) -> int | None:
        found: int | None = None
        for node in inputs:
            if node.step is None or node.step == found:
                continue
            if found is not None:
                read = ", ".join(map(str, inputs))
                raise IRError(f"{op} reads several time steps ({read}); only a carry may read another step")
            found = node.step
        return found

    def _append(
        self, op: str, inputs: tuple[Node, ...], attrs: Attrs, shape: Shape, dtype: str, step: int | None
    ) -> Node:
        node = Node(len(self.nodes), op, inputs, attrs, shape, dtype, step, self.site)
        if self.share or not inputs:
            operands = [n.index for n in inputs]
            if len(operands) > 1 and OPS[op].commutative:
                operands.sort()
            key = (op, tuple(operands), _exact(attrs) if op == "const" else attrs, shape, dtype, step)
            known = self._numbers.setdefault(key, node)
            if known is not node:
                return known
        self.nodes.append(node)
        return node

    def roots(self) -> Iterator[Node]:
        """All output nodes."""
        for output in self.outputs.values():
            yield from output if isinstance(output, tuple) else (output,)

    def live(self) -> frozenset[Node]:
        """The nodes that an output depends on.

        The exit of a live carry is live too, whether it is read or not. If it were dropped, the last step would lose
        nodes that the other steps keep, and the steps would no longer be alike. Roll drops it later.
        """
        roots = list(self.roots())
        if self._live is None or self._live[:2] != (len(self.nodes), roots):  # every pass asks, some of them twice
            self._live = len(self.nodes), roots, self._reached(roots)
        return self._live[2]

    def _reached(self, roots: Sequence[Node]) -> frozenset[Node]:
        states: dict[str, list[Node]] = {}
        for node in self.nodes:
            if node.op in _STATE_OPS:
                states.setdefault(node.attr("state"), []).append(node)
        seen = set(roots)
        todo = list(seen)
        while todo:
            node = todo.pop()
            reads = node.inputs
            if node.op in _STATE_OPS:  # a state is seen through the first of its nodes, and has no more to add
                reads = (*reads, *states.pop(node.attr("state"), ()))
            for read in reads:
                if read not in seen:
                    seen.add(read)
                    todo.append(read)
        return frozenset(seen)

    def users(self) -> dict[Node, int]:
        """How often each live node is read, by nodes and by outputs."""
        live = self.live()
        count = dict.fromkeys(live, 0)
        for reader in live:
            for node in reader.inputs:
                count[node] += 1
        for node in self.roots():
            count[node] += 1
        return count

    def counts(self) -> dict[str, int]:
        """Number of nodes of each op."""
        result: dict[str, int] = {}
        for node in self.nodes:
            result[node.op] = result.get(node.op, 0) + 1
        return result

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and self._plain() == other._plain()

    def _plain(self) -> tuple[Any, ...]:
        nodes = [(n.op, _indices(n.inputs), _exact(n.attrs), n.shape, n.dtype, n.step, n.site) for n in self.nodes]
        outputs = [(k, _indices(o) if isinstance(o, tuple) else o.index) for k, o in self.outputs.items()]
        return self.dtype, self.steps, nodes, outputs


def _is_zero(row: Op, operands: Sequence[Node]) -> bool:
    """Whether the result is zeros: the operands are zeros and perhaps finite numbers, and the op's zero_of holds."""
    zeros = [operand.op == "zeros" for operand in operands]
    if not any(zeros):
        return False
    others = [operand for operand, zero in zip(operands, zeros, strict=True) if not zero]
    if row.kind is not Kind.ELEMENTWISE or not all(i.op == "const" and _is_usual(i.attr("value")) for i in others):
        return False
    return {"all": all(zeros), "any": any(zeros), "first": zeros[:1] == [True]}.get(row.zero_of, False)


def _is_usual(number: float) -> bool:
    return number != 0.0 and math.isfinite(number)


def _adjoining(xs: Sequence[Node], axis: int) -> Node | None:
    """The value of which all xs are adjoining slices, in order; None if there is none."""
    if any(x.op != "slice" or x.attr("axis") != axis or x.inputs != xs[0].inputs for x in xs):
        return None
    if any(a.attr("stop") != b.attr("start") for a, b in zip(xs, xs[1:], strict=False)):
        return None
    return xs[0].inputs[0]


def _exact(attrs: Attrs) -> tuple[tuple[str, type, object], ...]:
    """Attributes as a key that compares exactly: 0.0 is not -0.0, NaN is NaN, and True is not 1."""
    return tuple((name, type(v), v.hex() if isinstance(v, float) else v) for name, v in attrs)


def _indices(nodes: Iterable[Node]) -> tuple[int, ...]:
    return tuple(n.index for n in nodes)


def remap_outputs(outputs: Mapping[str, Output], new: Mapping[Node, Node]) -> dict[str, Output]:
    """The outputs of a graph in terms of the nodes of the rebuilt graph."""
    return {k: tuple(new[n] for n in o) if isinstance(o, tuple) else new[o] for k, o in outputs.items()}
