"""Losses in the graph of a network: sums over rows and steps, without padding."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rnnc.ir.equations import Value
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.ir.graph import Graph, Node, Output
from rnnc.ir.locating import located
from rnnc.ir.lower import Names
from rnnc.ir.names import LOSS, OUTPUT, TARGET, VALID
from rnnc.ir.shape_rules import BATCH
from rnnc.losses.base import Loss, SequenceLoss

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


class Roles(NamedTuple):
    """The names that a loss has in a graph: of the output that it reads, of its target, and of the sum itself.

    weight: the input that holds a factor of the loss of each row, (B, 1): at each step, or if the target is one per
        sequence, alone. None: there are no factors.
    """

    output: str = OUTPUT
    target: str = TARGET
    loss: str = LOSS
    weight: str | None = None


def add_loss(graph: Graph, loss: Loss, roles: Roles | None = None) -> None:
    """Adds the output "loss" (1,) to a lowered network: the sum over rows and steps, without padding.

    It is computed from the output "output", which stays, and from the inputs "target" and the loss's constants.
    """
    add_losses(graph, [(loss, Roles() if roles is None else roles)])


def add_losses(graph: Graph, losses: Sequence[tuple[Loss, Roles]]) -> None:
    """Adds several losses to a lowered network, each with names of its own, as `add_loss` does.

    Raises ArgumentError if a constant has the name of an input of the network, or two losses one with other values.
    """
    taken = {TARGET, VALID} | {node.attr("name") for node in graph.nodes if node.op == "input"}
    sizes = [(loss, _size(graph.outputs[roles.output])) for loss, roles in losses]
    constants(sizes, graph.dtype, taken | {roles.target for _, roles in losses})
    for loss, roles in losses:
        graph.outputs[roles.loss] = _Adding(graph, loss, roles).sum_of(graph.outputs[roles.output])


def constants(
    losses: Sequence[tuple[Loss, int]], dtype: str, taken: Collection[str] = (TARGET, VALID)
) -> dict[str, Array]:
    """The constants of the losses of a network, by name. losses: each with the size of the output that it reads.

    taken: names of other inputs. Raises ArgumentError if a constant has one of them, or two losses one with other
    values.
    """
    found: dict[str, Array] = {}
    for loss, size in losses:
        for name, value in loss.constants(size, dtype).items():
            who = f"loss {type(loss).__name__}: the constant {name!r}"
            if not isinstance(name, str) or not name.isidentifier() or name in taken:
                raise ArgumentError(
                    f"{who} needs a name that is an identifier and none of the network's inputs "
                    f"{', '.join(sorted(n for n in taken if n.isidentifier()))}"
                )
            if not np.array_equal(found.setdefault(name, value), value):
                raise ArgumentError(f"{who} has other values than that of the loss of another output; rename it")
    return found


def _size(output: Output) -> int:
    return int((output if isinstance(output, Node) else output[0]).shape[-1])


class _Adding:
    """One loss, while it is added to a graph."""

    def __init__(self, graph: Graph, loss: Loss, roles: Roles) -> None:
        self.graph, self.loss, self.roles = graph, loss, roles
        valid = [node for node in graph.nodes if node.op == "input" and node.attr("name") == VALID]
        self.valid = {node.step: node for node in valid}

    def sum_of(self, output: Output) -> Node:
        """The sum over rows and steps."""
        size = _size(output)
        self.width = self.loss.target_width(size)
        if isinstance(self.loss, SequenceLoss):
            return self._over_time(self.loss, output, size)
        if isinstance(output, Node):
            return self._row(output)
        return self.graph.tsum([self._row(node) for node in output])

    def _row(self, output: Node) -> Node:
        """The sum over rows of the loss at one step."""
        target = self.graph.input(self.roles.target, (BATCH, self.width), output.step)
        with located(self._equations()):
            row = self._checked("row", self.loss.row(self._value(output), self._value(target)))
        return self._summed(row, output.step)

    def _equations(self) -> object:
        """The code of the user's that a message names, if there is any."""
        return getattr(self.loss, "function", self.loss.row)

    def _summed(self, row: Node, step: int | None) -> Node:
        if self.roles.weight is not None:
            row = self.graph.add("mul", (row, self.graph.input(self.roles.weight, (BATCH, 1), step)))
        if step is not None and step in self.valid:
            row = self.graph.add("select", (self.valid[step], row, self.graph.const(0.0)))
        return self.graph.add("reduce_rows", (row,), keep=False)

    def _over_time(self, loss: SequenceLoss, output: Output, size: int) -> Node:
        """The sum over rows of a loss that reads all steps: a recurrence, whose states stay where a row has ended."""
        if isinstance(output, Node):
            raise ArgumentError(
                f"loss {loss.name}: it reads an output that has a value per step, and this one has one per sequence; "
                "leave the readout out"
            )
        target = self._value(self.graph.input(self.roles.target, (BATCH, self.width)))
        widths = loss.states(size)
        with located(loss.start):
            started = self._read("start", loss.start(target), widths, some=True)
        zeros = {state: self.graph.zeros((BATCH, width)) for state, width in widths.items() if state not in started}
        states = started | zeros
        held = self._held(target.node)
        for t, node in enumerate(output):
            old = {state: self.graph.carry(states[state], self._state(state), 1, t) for state in widths}
            with located(loss.step):
                returned = loss.step(self._value(node), self._value(held[t]), self._names(old))
                states = self._read("step", returned, widths)
            states = {state: self._kept(t, new, old[state]) for state, new in states.items()}
        ends = {state: self.graph.exit(node, self._state(state), 1) for state, node in states.items()}
        with located(loss.result):
            row = self._checked("result", loss.result(self._names(ends), target))
        return self._summed(row, None)

    def _held(self, target: Node) -> list[Node]:
        """The target at each step: a state that never changes, as compiled code reads what is one per sequence so."""
        found: list[Node] = []
        for t in range(self.graph.steps):
            found.append(self.graph.carry(found[-1] if found else target, self._state(TARGET), 1, t))
        self.graph.exit(found[-1], self._state(TARGET), 1)
        return found

    def _state(self, state: str) -> str:
        return f"{self.roles.loss}.{state}"

    def _value(self, node: Node) -> Value:
        return Value(self.graph, node)

    def _names(self, nodes: dict[str, Node]) -> Names:
        return Names("state", {name: self._value(node) for name, node in nodes.items()})

    def _kept(self, step: int, new: Node, old: Node) -> Node:
        return self.graph.add("select", (self.valid[step], new, old)) if step in self.valid else new

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
