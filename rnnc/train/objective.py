"""What a training makes small: the losses of a network's outputs, each with a factor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from rnnc.checking import checks
from rnnc.ir import names
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.losses import Loss, LossLike, Roles, add_loss, check_loss

INSIDE = "inside"
"""The input that says which positions of a frame a row has."""

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.graph import Graph
    from rnnc.ir.graph import Graph as IRGraph
    from rnnc.layered import Layered

    Array = NDArray[Any]

    Given = LossLike | Mapping[str, LossLike | tuple[LossLike, float]]
    """A loss of the only output, or output -> loss, or (loss, factor)."""


class Part(NamedTuple):
    """The loss of an output.

    factor: of its mean in the sum of all. roles: the names of its arrays. size: the width of the output. timed: whether
    there is a target per step.
    """

    loss: Loss
    factor: float
    roles: Roles
    size: int
    timed: bool


@dataclass(frozen=True)
class Objective:
    """The sum over outputs of factor * (summed loss / terms), where terms are the targets that count.

    parts: by the name of the output. An output that is not among them is not trained.
    """

    parts: Mapping[str, Part]

    @property
    def losses(self) -> dict[str, Loss]:
        """The losses, by output."""
        return {output: part.loss for output, part in self.parts.items()}

    @property
    def places(self) -> tuple[str, ...]:
        """The names of the losses in the lowered graph."""
        return tuple(part.roles.loss for part in self.parts.values())

    def attach(self, graph: IRGraph) -> None:
        """Adds the losses to a lowered network."""
        for part in self.parts.values():
            add_loss(graph, part.loss, part.roles)

    def constants(self, dtype: str) -> dict[str, Array]:
        """The inputs of the equations that are the same in every call."""
        found: dict[str, Array] = {}
        for part in self.parts.values():
            made = part.loss.constants(part.size, dtype)
            found |= {part.roles.constant(name): array for name, array in made.items()}
        return found

    def means(self, sums: Sequence[float], terms: Mapping[str, float]) -> dict[str, float]:
        """The mean losses by output; 0 where no target counts. sums: in the order of the parts."""
        pairs = zip(self.parts, sums, strict=True)
        return {output: loss / terms[output] if terms[output] else 0.0 for output, loss in pairs}

    def total(self, means: Mapping[str, float]) -> float:
        """The sum that is made small."""
        return sum(part.factor * means[output] for output, part in self.parts.items())

    def seeds(self, terms: Mapping[str, float]) -> tuple[float, ...]:
        """For each part, the derivative of the whole by its summed loss."""
        each = self.parts.items()
        return tuple(part.factor / terms[output] if terms[output] else 0.0 for output, part in each)


def objective_of(model: Layered, loss: Given, weighted: bool = False) -> Objective:
    """The objective of a network. weighted: whether batches may have weights.

    Raises ArgumentError or ArgumentTypeError, which name the output.
    """
    graph = model.graph()
    if not isinstance(loss, Mapping):
        if len(graph.outputs) > 1:
            came = f"got {checks.came(loss)}; give one for each, as a dict"
            raise ArgumentTypeError(f"loss: the network has the outputs {', '.join(map(repr, graph.outputs))}, {came}")
        return Objective({name: _part(graph, name, check_loss(loss), 1.0, weighted) for name in graph.outputs})
    if not loss or not set(loss) <= set(graph.outputs):
        came = ", ".join(map(checks.shown, loss)) or "none"
        raise ArgumentError(f"loss: expected losses of the outputs {', '.join(map(repr, graph.outputs))}, got {came}")
    found = {}
    for name in graph.outputs:
        if name in loss:
            given, factor = _pair(f"loss[{name!r}]", loss[name])
            found[name] = _part(graph, name, given, factor, weighted)
    return Objective(found)


def _pair(label: str, given: object) -> tuple[Loss, float]:
    """A loss and its factor."""
    loss, factor = given if isinstance(given, tuple) and len(given) == 2 else (given, 1.0)
    try:
        return check_loss(loss), checks.number(f"{label}[1]", factor, above=True)
    except (ArgumentError, ArgumentTypeError) as error:
        raise type(error)(str(error).replace("loss:", f"{label}:", 1)) from None


def _part(graph: Graph, output: str, loss: Loss, factor: float, weighted: bool) -> Part:
    source = graph.outputs[output]
    kind, alone = graph.kinds[source], len(graph.outputs) == 1
    timed, framed = kind.timed and not loss.per_row, kind.timed and not graph.even

    def named(role: str) -> str:
        return role if alone else names.part(role, output)

    roles = Roles(
        output=named(names.OUTPUT),
        target=named(names.TARGET),
        weight=named(names.WEIGHT),
        loss=named(names.LOSS),
        constants="" if alone else output,
        positions=graph.timing(False).positions(source) if kind.timed else 1,
        weighted=weighted or (framed and timed),  # a weight of 0 where a row has no step
        inside=named(INSIDE) if framed and loss.per_row else None,
    )
    return Part(loss, factor, roles, kind.width, timed)
