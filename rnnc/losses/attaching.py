"""Losses in the graph of a network: sums over rows and steps, without padding."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from rnnc.ir.equations import Value
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.ir.graph import Graph, Node, Output
from rnnc.ir.locating import located
from rnnc.ir.lower import Names
from rnnc.ir.names import LOSS, OUTPUT, TARGET, VALID, WEIGHT, in_layer, part
from rnnc.ir.shape_rules import BATCH, Shape
from rnnc.losses.base import Loss, SequenceLoss


@dataclass(frozen=True)
class Roles:
    """What the arrays of a loss are called in a lowered network.

    output, target, weight, loss: see `rnnc.ir.names`. constants: what follows the names of the loss's constants.
    positions: how many steps of the output lie side by side in a frame. weighted: whether there are weights.
    inside: the input that says which positions a row has, (B, positions) per frame, 1 or 0; None: all of them. Only a
        `SequenceLoss` reads it: elsewhere a weight of 0 says so.
    """

    output: str = OUTPUT
    target: str = TARGET
    weight: str = WEIGHT
    loss: str = LOSS
    constants: str = ""
    positions: int = 1
    weighted: bool = False
    inside: str | None = None

    def constant(self, name: str) -> str:
        """What a constant of the loss is called."""
        return part(name, self.constants) if self.constants else name


HELD = "held:target"
"""The state that holds the target of a row: no name of a user's."""
ONLY = Roles()
"""Those of the loss of the only output, without weights."""


def add_loss(graph: Graph, loss: Loss, roles: Roles = ONLY) -> None:
    """Adds the output `roles.loss` (1,) to a lowered network: the sum over rows and steps, without padding.

    It is computed from the output `roles.output`, which stays, from the input `roles.target`, (B, W) at each step or
    once, and from the loss's constants. Each row's loss is multiplied by the input `roles.weight`, (B, 1), if there are
    weights; a weight of 0 leaves it out, whatever it is.
    """
    adding = _Adding(graph, loss, roles)
    graph.outputs[roles.loss] = adding.sum_of(graph.outputs[roles.output])


class _Apart(Graph):
    """A graph in which the constants of a loss have names of their own, because other losses have such, too."""

    def __init__(self, graph: Graph, roles: Roles, constants: Collection[str]) -> None:
        self.__dict__.update(graph.__dict__)  # the same lists
        self._roles, self._constants = roles, constants

    def input(self, name: str, shape: Shape, step: int | None = None, dtype: str | None = None) -> Node:
        return super().input(self._roles.constant(name) if name in self._constants else name, shape, step, dtype)


class _Adding:
    """One loss, while it is added to a graph. size: the width of a step of the output."""

    def __init__(self, graph: Graph, loss: Loss, roles: Roles) -> None:
        output = graph.outputs[roles.output]
        self.loss, self.roles, self.positions = loss, roles, roles.positions
        self.size = int((output if isinstance(output, Node) else output[0]).shape[-1]) // roles.positions
        constants = loss.constants(self.size, graph.dtype)
        _check_constants(graph, loss, constants)
        self.graph = _Apart(graph, roles, constants) if roles.constants else graph
        self.width = loss.target_width(self.size)
        valid = [node for node in graph.nodes if node.op == "input" and node.attr("name") == VALID]
        self.valid = {node.step: node for node in valid}

    def sum_of(self, output: Output) -> Node:
        """The sum over rows and steps."""
        if isinstance(self.loss, SequenceLoss):
            return self._over_time(self.loss, output)
        if isinstance(output, Node):
            return self._frame(output)
        return self.graph.tsum([self._frame(node) for node in output])

    def _frame(self, output: Node) -> Node:
        """The sum over rows of the loss at one step, or at all positions of one frame."""
        targets = self.graph.input(self.roles.target, (BATCH, self.positions * self.width), output.step)
        rows = []
        for number, (one, target) in enumerate(zip(self._cut(output), self._cut(targets), strict=True)):
            read = self._left_out(target, output.step, number)
            with located(self.loss._users_code):
                row = self._checked("row", self.loss.row(self._value(one), self._value(read)))
            rows.append(self._weighted(row, output.step, number))
        row = self.graph.sum(rows)
        if output.step in self.valid:
            row = self._kept(output.step, row, self.graph.const(0.0))
        return self._over_rows(row)

    def _cut(self, frame: Node) -> list[Node]:
        """The positions of a frame."""
        width = int(frame.shape[-1]) // self.positions
        return [self.graph.slice(frame, -1, n * width, (n + 1) * width) for n in range(self.positions)]

    def _left_out(self, target: Node, step: int | None, number: int) -> Node:
        """A target, or zeros where its weight is 0: a NaN there must not reach a gradient, not even as 0 * NaN."""
        if not self.roles.weighted:
            return target
        _, there = self._weight(step, number, self.positions)
        return self.graph.add("select", (there, target, self.graph.const(0.0)))

    def _weighted(self, row: Node, step: int | None, number: int, positions: int | None = None) -> Node:
        if not self.roles.weighted:
            return row
        weight, there = self._weight(step, number, self.positions if positions is None else positions)
        return self.graph.add("select", (there, self.graph.add("mul", (row, weight)), self.graph.const(0.0)))

    def _weight(self, step: int | None, number: int, positions: int) -> tuple[Node, Node]:
        """The weight at a position, and whether it is above 0."""
        frame = self.graph.input(self.roles.weight, (BATCH, positions), step)
        weight = self.graph.slice(frame, -1, number, number + 1)
        return weight, self.graph.add("greater", (weight, self.graph.const(0.0)))

    def _over_rows(self, row: Node) -> Node:
        return self.graph.add("reduce_rows", (row,), keep=False)

    def _kept(self, step: int | None, new: Node, old: Node) -> Node:
        """The new value in rows that have not ended."""
        return self.graph.add("select", (self.valid[step], new, old)) if step in self.valid else new

    # ---- losses that read whole rows

    def _over_time(self, loss: SequenceLoss, output: Output) -> Node:
        """The sum over rows of a recurrence's results. Its states stay as they are where a row has ended."""
        if isinstance(output, Node):
            raise ArgumentError(
                f"loss {loss.name}: it reads an output that has a value per step, and this one has one per sequence; "
                "leave the readout out"
            )
        target = self.graph.input(self.roles.target, (BATCH, self.width))
        widths = loss.states(self.size)
        with located(loss.start):
            started = self._read("start", loss.start(self._value(target)), widths, some=True)
        states = {name: self.graph.zeros((BATCH, width)) for name, width in widths.items()} | started
        held = self._held(target)
        for t, frame in enumerate(output):
            old = {state: self.graph.carry(node, self._state(state), 1, t) for state, node in states.items()}
            new = self._through(loss, frame, held[t], old)
            states = {state: self._kept(t, new[state], old[state]) for state in widths}
        ends = {state: self.graph.exit(node, self._state(state), 1) for state, node in states.items()}
        with located(loss.result):
            row = self._checked("result", loss.result(self._names(ends), self._value(target)))
        return self._over_rows(self._weighted(row, None, 0, 1))

    def _through(self, loss: SequenceLoss, frame: Node, target: Node, states: Mapping[str, Node]) -> Mapping[str, Node]:
        """The states after the positions of a frame that a row has."""
        inside = None
        if self.roles.inside is not None:
            inside = self._cut(self.graph.input(self.roles.inside, (BATCH, self.positions), frame.step))
        for number, one in enumerate(self._cut(frame)):
            with located(loss.step):
                returned = loss.step(self._value(one), self._value(target), self._names(states))
                new = self._read("step", returned, _widths(states))
            if inside is not None:
                there = self.graph.add("greater", (inside[number], self.graph.const(0.5)))
                new = {name: self.graph.add("select", (there, node, states[name])) for name, node in new.items()}
            states = new
        return states

    def _held(self, target: Node) -> list[Node]:
        """The target at each step: a state that never changes, as compiled code reads what is one per sequence so."""
        found: list[Node] = []
        for t in range(self.graph.steps):
            found.append(self.graph.carry(found[-1] if found else target, self._state(HELD), 1, t))
        self.graph.exit(found[-1], self._state(HELD), 1)
        return found

    def _state(self, state: str) -> str:
        return in_layer(self.roles.loss, state)

    # ---- what equations get, and what they return

    def _value(self, node: Node) -> Value:
        return Value(self.graph, node)

    def _names(self, nodes: Mapping[str, Node]) -> Names:
        return Names("state", {name: self._value(node) for name, node in nodes.items()})

    def _read(self, method: str, returned: object, widths: Mapping[str, int], some: bool = False) -> dict[str, Node]:
        """The states that a method returned, (B, width) each. some: it may have left some out."""
        who = f"loss {type(self.loss).__name__}: {method}"
        found = returned if isinstance(returned, Mapping) else None
        if found is None or not (set(found) <= set(widths) if some else set(found) == set(widths)):
            came = repr(returned) if found is None else ", ".join(sorted(map(str, found)))
            raise ArgumentTypeError(f"{who} must return the states {', '.join(widths)} by name, it returned {came}")
        nodes = {}
        for state, value in found.items():
            if not isinstance(value, Value) or value.as_numbers().node.shape != (BATCH, widths[state]):
                came = f"shape {value.shape}" if isinstance(value, Value) else repr(value)
                raise ArgumentError(f"{who} returned {state!r} as {came}; expected ('B', {widths[state]})")
            nodes[state] = value.as_numbers().node
        return nodes

    def _checked(self, method: str, row: object) -> Node:
        """The node that the equations returned. Raises an error unless it is one number per row."""
        who = f"loss {type(self.loss).__name__}: {method}"
        if not isinstance(row, Value):
            raise ArgumentTypeError(f"{who} must return a symbolic value of shape (B, 1), it returned {row!r}")
        if row.node.shape != (BATCH, 1):
            raise ArgumentError(
                f"{who} must return one number per row, shape (B, 1), it returned {row.shape}; use total()"
            )
        return row.as_numbers().node


def _widths(nodes: Mapping[str, Node]) -> dict[str, int]:
    """Name -> width of states."""
    return {name: int(node.shape[-1]) for name, node in nodes.items()}


def _check_constants(graph: Graph, loss: Loss, constants: Collection[str]) -> None:
    """Raises ArgumentError if a constant has the name of an input of the network, or of the target."""
    taken = {TARGET, WEIGHT, VALID} | {n.attr("name") for n in graph.nodes if n.op == "input"}
    for name in constants:
        if not isinstance(name, str) or not name.isidentifier() or name in taken:
            raise ArgumentError(
                f"loss {type(loss).__name__}: the constant {name!r} needs a name that is an identifier and none of "
                f"the network's inputs {', '.join(sorted(n for n in taken if n.isidentifier()))}"
            )
