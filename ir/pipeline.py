"""The pipeline: an ordered list of stages, from equations to the code of a backend.

    lowered      the unrolled graph as written                 a Graph
    dead_code, common_subexpressions, ...: after each pass     a Graph
    optimized    all passes, in the order of ir.passes         a Graph, and what each pass did
    rolled       loops for any number of steps                 a Program
    ...          a backend's own: llvm has plan, llvm, asm; cuda has plan, commands, cuda, ptx

A stage makes its artefact from those of earlier stages. `Artefacts` makes an artefact when it is first asked for, and
keeps it under the stage's name. The graph after each pass is made only for a reader: "optimized" runs all passes, and
keeps none in between. With RNNC_VERIFY=1, as in the tests, the verifier checks each graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rnnc.ir import settings
from rnnc.ir.errors import BackendError
from rnnc.ir.graph import Graph
from rnnc.ir.masking import mask_padding
from rnnc.ir.passes import PASS_NAMES, PASSES, PassRecord, optimize, resume
from rnnc.ir.roll import roll
from rnnc.ir.text import print_graph

if TYPE_CHECKING:
    from rnnc.ir.computation import Computation
    from rnnc.ir.program import Program

TEMPLATE_STEPS = 3
"""The number of steps unrolled for code generation. It is the fewest with one step that is neither first nor last, so
that rolling proves that the steps are alike, and need not assume it. Compile time does not depend on the length of a
sequence."""


@dataclass(frozen=True)
class Stage:
    """A stage of the pipeline. make: earlier artefacts -> its artefact. text: its artefact -> the text for a reader."""

    name: str
    make: Callable[[Artefacts], Any]
    text: Callable[[Any], str]


class Artefacts:
    """The artefacts of a computation, by the names of their stages, each made when it is first asked for.

    steps: the number of unrolled steps. lengths: whether each row ends at its own length. given: what a backend's
    stages need besides, such as options.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        computation: Computation,
        *,
        steps: int = TEMPLATE_STEPS,
        lengths: bool = False,
        given: Any = None,
    ) -> None:
        self.computation, self.steps, self.lengths, self.given = computation, steps, lengths, given
        self._stages = {stage.name: stage for stage in stages}
        start = computation.start
        given_start = start is not None and not lengths and start.steps in (None, steps)
        self._made: dict[str, Any] = {start.stage: start.artefact} if start is not None and given_start else {}

    def __getitem__(self, name: str) -> Any:
        """The artefact of a stage. Raises BackendError if there is no such stage."""
        if name not in self._stages:
            known = ", ".join(repr(stage) for stage in self._stages if stage not in PASS_NAMES)
            raise BackendError(f"stage: got {name!r}, expected {known}, or a pass: {', '.join(PASS_NAMES)}")
        if name not in self._made:
            self._made[name] = self._stages[name].make(self)
        return self._made[name]

    def extended(self, stages: Sequence[Stage], given: Any) -> Artefacts:
        """The same artefacts, with those of further stages."""
        other = Artefacts(stages, self.computation, steps=self.steps, lengths=self.lengths, given=given)
        other._made = self._made
        return other

    def text(self, name: str) -> str:
        """The text of a stage's artefact, for a reader."""
        made = self[name]
        return self._stages[name].text(made)


@dataclass(frozen=True)
class Optimized:
    """A graph after all passes, and what each pass did."""

    graph: Graph
    records: tuple[PassRecord, ...]

    def text(self) -> str:
        """What each pass did, as comments, then the graph."""
        return "".join(f"# {record}\n" for record in self.records) + "\n" + print_graph(self.graph)


def _lower(made: Artefacts) -> Graph:
    return _verified(made.computation.build(made.steps, made.lengths))


def _optimize(made: Artefacts) -> Optimized:
    start = made.computation.start
    if start is not None and start.stage in PASS_NAMES:  # the graph after that pass is given
        return Optimized(_verified(resume(made[start.stage], start.stage)), ())
    graph, records = optimize(_before_passes(made))
    return Optimized(_verified(graph), tuple(records))


def _before_passes(made: Artefacts) -> Graph:
    graph: Graph = made["lowered"]
    return mask_padding(graph) if made.lengths else graph


def _pass_stage(number: int) -> Stage:
    """The stage of one pass: the graph after it."""

    def make(made: Artefacts) -> Graph:
        return PASSES[number](made[PASS_NAMES[number - 1]] if number else _before_passes(made))

    return Stage(PASS_NAMES[number], make, print_graph)


def _verified(graph: Graph) -> Graph:
    """Returns the graph. With RNNC_VERIFY=1, raises VerifyError if it is malformed."""
    if settings.verify():
        from rnnc.ir.verify import verify

        verify(graph)
    return graph


def _roll(made: Artefacts) -> Program:
    return roll(made["optimized"].graph, made.computation.late)


PIPELINE: tuple[Stage, ...] = (
    Stage("lowered", _lower, print_graph),
    *map(_pass_stage, range(len(PASSES))),
    Stage("optimized", _optimize, Optimized.text),
    Stage("rolled", _roll, lambda program: str(program.text())),
)
"""The stages that every backend starts with. All but the last show as many unrolled steps as `Artefacts` is given."""

SHARED_STAGES = tuple(stage.name for stage in PIPELINE if stage.name not in PASS_NAMES)
"""The names of these stages but the passes, which a reader asks for by their names."""

UNROLLED_STAGES = (*PASS_NAMES, *SHARED_STAGES[:-1])
"""The stages whose artefacts are graphs of unrolled steps."""


def before_pass(name: str) -> str:
    """The stage that a pass starts from."""
    number = PASS_NAMES.index(name)
    return PASS_NAMES[number - 1] if number else SHARED_STAGES[0]


def own_stages(stages: Sequence[Stage]) -> tuple[str, ...]:
    """The names of a backend's own stages, which follow the shared ones."""
    return tuple(stage.name for stage in stages[len(PIPELINE) :])
