"""What a report shows, as plain data: stages, passes, buffers, phases."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rnnc.ir.passes import PASS_NAMES, PASSES
from rnnc.ir.pipeline import PIPELINE, Artefacts
from rnnc.ir.text import print_graph

if TYPE_CHECKING:
    from rnnc.backends.llvm.code import LlvmCode
    from rnnc.backends.planning.plan import Buffer, Phase, Place, Plan
    from rnnc.compiled import Compiled
    from rnnc.explanation import Explanation
    from rnnc.profiling import Profile

SPACES = {
    "input": "the caller's",
    "output": "the caller's",
    "timed": "all steps",
    "line": "all steps, and past or later ones",
    "chunk": "a chunk of steps",
    "state": "this step and the one before",
    "step": "one step",
    "rows": "one value per sequence",
}


def stages_of(compiled: Compiled, steps: int) -> list[dict[str, str]]:
    """Name and text of each stage that is read as a whole. The texts of functions are in `functions_of`."""
    made = Artefacts(PIPELINE, compiled._computation, steps=steps)
    shared = [{"name": name, "text": made.text(name)} for name in ("lowered", "optimized", "rolled")]
    return [*shared, {"name": "plan", "text": compiled.ir("plan")}]


def passes_of(compiled: Compiled, steps: int) -> list[dict[str, Any]]:
    """For each pass: its name, the nodes before and after it, and the milliseconds that it took."""
    graph = Artefacts(PIPELINE, compiled._computation, steps=steps)["lowered"]
    found = []
    for name, run in zip(PASS_NAMES, PASSES, strict=True):
        before, begin = graph, time.perf_counter()
        graph = run(graph)
        milliseconds = (time.perf_counter() - begin) * 1e3
        changed = print_graph(before) != print_graph(graph)
        counts = {"before": len(before.nodes), "after": len(graph.nodes)}
        found.append({"name": name, **counts, "milliseconds": milliseconds, "changed": changed})
    return found


def functions_of(code: LlvmCode) -> dict[str, dict[str, str]]:
    """The LLVM text and the machine code of each function of phases. Phases of the same structure share one."""
    llvm, asm = _llvm_functions(code.text("llvm")), _asm_functions(code.text("asm"))
    return {name: {"llvm": llvm[name], "asm": asm[name]} for name in dict.fromkeys(code.emitted.names)}


def _llvm_functions(text: str) -> dict[str, str]:
    found = {}
    for part in text.split("\ndefine ")[1:]:
        body = part[: part.index("\n}\n") + 3]
        found[body.split("@", 1)[1].split("(", 1)[0]] = f"define {body}"
    return found


_LABEL = re.compile(r"^([A-Za-z_][\w.$]*):", re.MULTILINE)


def _asm_functions(text: str) -> dict[str, str]:
    """The lines from each function's label to the next one."""
    places = [(found[1], found.start()) for found in _LABEL.finditer(text)]
    ends = [start for _, start in places[1:]] + [len(text)]
    return {name: text[start:end].rstrip() + "\n" for (name, start), end in zip(places, ends, strict=True)}


def buffers_of(plan: Plan) -> list[dict[str, Any]]:
    """For each buffer: its columns, what its rows are, and the first and last phase that accesses it."""
    order = [phase for _, phase in plan.phases()]
    spans: dict[Buffer, list[int]] = {}
    for number, phase in enumerate(order):
        for place in _places(phase):
            spans.setdefault(place.buffer, []).append(number)
    return [
        {
            "name": buffer.name,
            "space": buffer.space.value,
            "rows": SPACES[buffer.space.value],
            "width": buffer.width,
            "first": min(numbers),
            "last": max(numbers),
        }
        for buffer, numbers in spans.items()
    ]


def _places(phase: Phase) -> Iterator[Place]:
    yield from phase.loads.values()
    yield from (feed.lhs for feed in phase.feeds)
    yield from (place for _, place in phase.stores)


def phases_of(code: LlvmCode, explanation: Explanation, profile: Profile | None) -> list[dict[str, Any]]:
    """For each phase: its facts, its sites, and what was measured of it."""
    from rnnc.backends.llvm.kernels.stopwatch import TimedSection

    measured = {row.name: row for row in profile.rows} if profile is not None else {}
    sites = {phase.name: TimedSection.of_phase(region, phase, 0).site for region, phase in code.plan.phases()}
    names = {each.phase.name: name for each, name in zip(code.emitted.phases, code.emitted.names, strict=True)}
    found = []
    for facts in explanation.phases:
        known: dict[str, Any] = dict(vars(facts)) | {"sites": sites[facts.name].split(), "function": names[facts.name]}
        if (row := measured.get(facts.name)) is not None:
            rows_per_run = row.rows / row.runs if row.runs else 0.0
            known |= {"seconds": row.seconds, "share": row.share, "runs": row.runs, "gflops": row.gflops}
            known["intensity"] = facts.flops * rows_per_run / facts.weight_bytes if facts.weight_bytes else 0.0
        found.append(known)
    return found
