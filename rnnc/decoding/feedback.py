"""Lowering a decoder: the steps of a network, unrolled, each of which reads the number chosen at the step before.

The network is lowered as any (`rnnc.networks.lowering`), with a mask of valid rows; its steps are then copied one by
one:

    %x = input "x" t=1           ->  one_hot(number of t=0) @ table
    %v = input "valid" t=1       ->  the row has not chosen the end symbol before
    %s = output of t=1           ->  the number of t=1, by the equations of a `Choice`

What is fed back are states of their own: `rnnc.ir.graph.Graph.carry` alone crosses steps, so roll makes one loop of it.
A choice with several hypotheses has one copy of each step for each of them; the states of the next step are then those
of the hypothesis that each one goes on from. What depends on no hypothesis is copied once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rnnc.decoding.choices import Choice, Hypothesis, Next
from rnnc.ir import names
from rnnc.ir.equations import Value, concat, maximum, one_hot, where
from rnnc.ir.graph import Graph, Node
from rnnc.ir.shape_rules import BATCH
from rnnc.networks.lowering import lower_network

if TYPE_CHECKING:
    from rnnc.graph import Graph as Network

NUMBERS, PARENTS, NOISE = "numbers", "parents", "noise"
"""Outputs of each step, (B, hypotheses): the numbers, and the hypotheses that they go on from. The random input."""
FIELDS = Hypothesis._fields


@dataclass(frozen=True)
class Feedback:
    """What is fed back into a network.

    step: the network of a step. fed: its input of numbers. scores: the name of its output in the lowered graph.
    end: the end symbol, if there is one.
    """

    step: Network
    fed: str
    choice: Choice
    end: int | None

    @property
    def scores(self) -> str:
        """The name of the scores in the lowered network."""
        (name,) = self.step.output_names.values()
        return name

    @property
    def width(self) -> int:
        """The number of scores."""
        (source,) = self.step.outputs.values()
        return self.step.kinds[source].width

    @property
    def tables(self) -> dict[str, str]:
        """The rows that the last number looks up, by their names in the lowered network: the name of their table."""
        tables = self.step.tables
        return {rows: self.step.table_of(name) for name, (source, rows) in tables.items() if source == self.fed}


def of_hypothesis(name: str, number: int) -> str:
    """The name of what each hypothesis has of its own: a state, an initial or a final value."""
    return f"{name}~{number}"


def initial(field_name: str, number: int) -> str:
    """The name of the initial value of a field of a hypothesis."""
    return of_hypothesis(names.initial(field_name, ""), number)


def final(field_name: str, number: int) -> str:
    """The name of the final value of a field of a hypothesis."""
    return of_hypothesis(names.final(field_name, ""), number)


def lower_feedback(feedback: Feedback, steps: int, memory: int = 0) -> Graph:
    """The graph of `steps` steps. memory: the number of states of the encoder that layers read.

    Inputs: the parameters of the network, the initial states and fields of each hypothesis, and "noise", (B, V) per
    step, for a random choice. Outputs: "numbers" and, of several hypotheses, "parents", (B, hypotheses) per step; the
    final states and fields of each hypothesis.
    """
    source = lower_network(feedback.step, steps, lengths=feedback.end is not None, memory=memory)
    return _Unrolling(feedback, source).run()


@dataclass
class _Copy:
    """The nodes of one hypothesis, by those of the network as it was lowered. moved: after the choice of their step."""

    made: dict[Node, Node] = field(default_factory=dict)
    moved: dict[Node, Node] = field(default_factory=dict)


class _Unrolling:
    def __init__(self, feedback: Feedback, source: Graph) -> None:
        self.feedback, self.source = feedback, source
        self.graph = Graph(source.dtype, source.steps, share=False)
        self.count = feedback.choice.hypotheses
        self.copies = [_Copy() for _ in range(self.count)]
        self.common: dict[Node, Node] = {}
        self.same = _unmoved(source)
        self.tables, self.shapes = feedback.tables, feedback.step.parameter_shapes()
        self.ends = {node for node in source.nodes if node.op == "exit"}
        self.read_later = {node.inputs[0] for node in source.nodes if node.op in ("carry", "exit")}

    def run(self) -> Graph:
        for node in self.source.nodes:
            if node.step is None and node not in self.ends:
                self._time_free(node)
        fields = [self._first(k) for k in range(self.count)]
        numbers, parents = list[Node](), list[Node]()
        for t in range(self.graph.steps):
            old = [self._carried(hypothesis, k, t) for k, hypothesis in enumerate(fields)]
            self._copy_step(t, old)
            chosen = self._chosen(t, old)
            fields = [self._continued(k, after, old) for k, after in enumerate(chosen)]
            self._move(t, chosen)
            numbers.append(concat([hypothesis.last for hypothesis in fields]).node)
            if chosen_from := [after.parent for after in chosen if after.parent is not None]:
                parents.append(concat(chosen_from).node)
        self._finish(fields)
        self.graph.outputs |= {NUMBERS: tuple(numbers)} | ({PARENTS: tuple(parents)} if parents else {})
        return self.graph

    # ---- the network's own nodes

    def _time_free(self, node: Node) -> None:
        if node in self.same:
            self.common[node] = self.graph.copy_node(node, [self.common[i] for i in node.inputs])
            return
        for k, copy in enumerate(self.copies):  # an initial state
            copy.made[node] = self.graph.input(of_hypothesis(node.attr("name"), k), node.shape)

    def _of(self, copy: _Copy, node: Node) -> Node:
        return self.common[node] if node in self.same else copy.made[node]

    def _later(self, copy: _Copy, node: Node) -> Node:
        """A value as the step after it reads it."""
        return copy.moved[node] if node in copy.moved else self._of(copy, node)

    def _copy_step(self, t: int, old: Sequence[Hypothesis]) -> None:
        for node in self.source.nodes:
            if node.step != t:
                continue
            self.graph.site = node.site
            if node in self.same:
                self.common[node] = self.graph.copy_node(node, [self.common[i] for i in node.inputs])
                continue
            for k, copy in enumerate(self.copies):
                copy.made[node] = self._node(k, node, old[k])

    def _node(self, k: int, node: Node, old: Hypothesis) -> Node:
        copy = self.copies[k]
        if table := self._table(node):
            return self._row(old, self._parameter(table))
        if node.op == "matmul" and (table := self._table(node.inputs[0])):
            if made := self._product_of_rows(table, node, old):
                return made
        if node.op == "carry":
            source = self._later(copy, node.inputs[0])
            return self.graph.carry(source, of_hypothesis(node.attr("state"), k), 1, int(node.step or 0))
        if node.op != "input":
            return self.graph.copy_node(node, [self._of(copy, i) for i in node.inputs])
        assert node.attr("name") == names.VALID
        return (0.5 > old.ended).node

    def _table(self, node: Node) -> str | None:
        """The table whose rows a node is. After the end they need no mask: the end symbol has a row, too."""
        if node.op == "select" and node.inputs[0].op == "input":
            node = node.inputs[1]
        return self.tables.get(node.attr("name")) if node.op == "input" else None

    def _product_of_rows(self, table: str, node: Node, old: Hypothesis) -> Node | None:
        """(one_hot @ table) @ weight as one_hot @ (table @ weight), which is made once, where that is less work."""
        (rows, size), width = self.shapes[table], int(node.shape[-1])
        if rows * width > rows * size + size * width:
            return None
        weight, transposed = self.common[node.inputs[1]], bool(node.attr("transpose_b"))
        made = self.graph.add("matmul", (self._parameter(table), weight), transpose_b=transposed)
        return self._row(old, made)

    def _parameter(self, name: str) -> Node:
        return self.graph.input(name, tuple(self.shapes[name]))

    def _row(self, old: Hypothesis, table: Node) -> Node:
        """The row of the number chosen last."""
        return self.graph.add("matmul", (one_hot(old.last, int(table.shape[0])).node, table), transpose_b=False)

    # ---- what is fed back

    def _first(self, k: int) -> Hypothesis:
        return Hypothesis(*(self._value(self.graph.input(initial(name, k), (BATCH, 1))) for name in FIELDS))

    def _value(self, node: Node) -> Value:
        return Value(self.graph, node)

    def _carried(self, hypothesis: Hypothesis, k: int, t: int) -> Hypothesis:
        carried = (
            self.graph.carry(value.node, of_hypothesis(name, k), 1, t)
            for name, value in zip(FIELDS, hypothesis, strict=True)
        )
        return Hypothesis(*map(self._value, carried))

    def _chosen(self, t: int, old: Sequence[Hypothesis]) -> list[Next]:
        outputs = self.source.outputs[self.feedback.scores]
        assert isinstance(outputs, tuple)
        scores = [self._value(self._of(copy, outputs[t])) for copy in self.copies]
        self.graph.site = None
        noise = None
        if self.feedback.choice.random:
            noise = self._value(self.graph.input(NOISE, scores[0].node.shape, t))
        return self.feedback.choice.choose(scores, old, self.feedback.end, noise)

    def _continued(self, k: int, after: Next, old: Sequence[Hypothesis]) -> Hypothesis:
        """A hypothesis after a step. One that has ended repeats the end symbol, and changes no more."""
        _, ended, score, length = (_from_parent(values, after.parent, k) for values in zip(*old, strict=True))
        was, end = ended > 0.5, self.feedback.end
        number = after.number if end is None else where(was, float(end), after.number)
        if end is not None:
            ended = maximum(ended, (0.5 > abs(number - float(end))).as_numbers())
        if self.count > 1:  # a hypothesis that cannot be: there were fewer sequences than hypotheses
            ended = where(after.score > -float("inf"), ended, 1.0)
            return Hypothesis(number, ended, after.score, length + (1.0 - ended))
        return Hypothesis(number, ended, where(was, score, after.score), length + (1.0 - ended))

    def _move(self, t: int, chosen: Sequence[Next]) -> None:
        """The states for the next step: those of the hypotheses that the next ones go on from."""
        for node in self.source.nodes:
            if node.step != t or node in self.same or node not in self.read_later:
                continue
            values = [self._value(copy.made[node]) for copy in self.copies]
            for k, copy in enumerate(self.copies):
                copy.moved[node] = _from_parent(values, chosen[k].parent, k).node

    def _finish(self, fields: Sequence[Hypothesis]) -> None:
        for name, node in self.source.outputs.items():
            if not isinstance(node, Node) or node in self.same:
                continue
            for k, copy in enumerate(self.copies):
                state = of_hypothesis(node.attr("state"), k)
                self.graph.outputs[of_hypothesis(name, k)] = self.graph.exit(
                    self._later(copy, node.inputs[0]), state, 1
                )
        for k, hypothesis in enumerate(fields):
            for name, value in zip(FIELDS, hypothesis, strict=True):
                self.graph.outputs[final(name, k)] = self.graph.exit(value.node, of_hypothesis(name, k), 1)


def _from_parent(values: Sequence[Value], parent: Value | None, k: int) -> Value:
    """The value of the hypothesis with the number `parent`, or k's own."""
    if parent is None:
        return values[k]
    found = values[-1]
    for number in reversed(range(len(values) - 1)):
        found = where(number + 0.5 > parent, values[number], found)
    return found


def _unmoved(graph: Graph) -> set[Node]:
    """The nodes that depend on no state that changes, and on no input of a step: parameters, and values of a row."""
    ends = [n for n in graph.nodes if n.op == "exit" and n.inputs[0].op == "carry"]
    still = {n.attr("state") for n in ends if n.attr("state") == n.inputs[0].attr("state")}
    starts = {n.inputs[0] for n in graph.nodes if n.op == "carry" and n.inputs[0].step is None}
    starts -= {n.inputs[0] for n in graph.nodes if n.op == "carry" and n.attr("state") in still}
    found: set[Node] = set()
    for node in graph.nodes:
        leaf = node.op == "input" and (node.step is not None or node in starts)
        moves = node.op in ("carry", "exit") and node.attr("state") not in still
        if not leaf and not moves and all(i in found for i in node.inputs):
            found.add(node)
    return found
