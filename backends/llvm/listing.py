"""The machine code of a plan as a reader wants it: each function says which phase it is, each loop what it computes.

    # phase loop0_step0: 40 units, each step, l0.fwd
    #   for k < 40: %29, %26, %24 += h_l0[previous][k] * packed weights
    phase_loop0_step0:
        ...
    # for k < 40: %29, %26, %24 += h_l0[previous][k] * packed weights        the innermost loop, depth 3
    .LBB1_12:

Labels of generated code begin with the part of a phase that they belong to, such as "feed0.body72" (`Function.part`).
LLVM repeats them in comments, which are read here, and leaves nothing of them in the code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rnnc.backends.llvm.kernels.plan_module import Emitted
from rnnc.backends.planning.plan import Phase, Plan, Region, feed_line, phase_lines

EPILOGUE = "epilogue"
_LABEL = re.compile(r"^(?:\.?L?BB[\w$.]*:|(?:#|//) %bb\.\d+:)\s*(?:#|//) %(?P<part>\w+)\.\w+|^(?P<plain>\S+:).*$")
_LOOP = re.compile(r"(?:=>\s*)?This (?P<kind>Inner )?Loop Header: Depth=(?P<depth>\d+)")
_FEEDS = re.compile(r"feed(?P<numbers>[\d_]+)(?:x(?P<rows>\d+))?")
_COMMENT = re.compile(r"\s*(?:#|//) .*$")
_KEPT = re.compile(r"(?:#|//) \d+-byte|Folded|Spill|Reload")
_FUNCTION = re.compile(r"^([A-Za-z_][\w$.]*):")


class Notes(NamedTuple):
    """What a listing says. functions: name -> the lines above it. loops: (function, part) -> what its loops compute.

    Phases that differ in sizes alone share a function, which has the lines of each; its loops have those of the first.
    """

    functions: dict[str, list[str]]
    loops: dict[tuple[str, str], str]


def notes_of(plan: Plan, emitted: Emitted) -> Notes:
    """The notes of a plan's functions."""
    notes = Notes({}, {})
    for (region, phase), function in zip(plan.phases(), emitted.names, strict=True):
        for name in (function, function.replace("phase_", "dots_", 1)):
            first = name not in notes.functions
            notes.functions.setdefault(name, []).extend(_header(region, phase))
            if first:
                for number, feed in enumerate(phase.feeds):
                    notes.loops[name, f"feed{number}"] = feed_line(phase, feed)
                notes.loops[name, EPILOGUE] = _epilogue(phase)
    return notes


def _header(region: Region, phase: Phase) -> list[str]:
    rows = "each step" if phase in region.steps else "chunk of steps" if region.steps else "all rows"
    head, *rest = phase_lines(phase, rows)
    sites = dict.fromkeys(str(f.site) for f in (*phase.accumulators, *phase.values) if f.site is not None)
    return [f"{head.strip()}{', ' if sites else ''}{', '.join(sites)}", *(line[2:] for line in rest)]


def _epilogue(phase: Phase) -> str:
    made = ", ".join(dict.fromkeys(value.op for value in phase.values)) or "no equations"
    return f"epilogue: {made}; stores {', '.join(f'{f.name} -> {place}' for f, place in phase.stores) or 'nothing'}"


def annotated(assembly: str, notes: Notes) -> str:
    """The listing of LLVM's assembly with labels (`assembly_of`), without LLVM's own comments."""
    return "\n".join(_lines(assembly.splitlines(), notes)) + "\n"


def _lines(lines: Sequence[str], notes: Notes) -> Iterator[str]:
    function = ""
    for number, line in enumerate(lines):
        found = _FUNCTION.match(line)
        if found and not found[1].startswith((".L", "L", "BB")):
            function = found[1]
            yield from (f"# {note}" for note in notes.functions.get(function, ()))
        label = _LABEL.match(line)
        if label is not None and label["part"] is not None:
            loop = _loop_after(lines, number)
            if loop is not None:
                yield from _loop_notes(function, label["part"], loop, notes)
        if line.lstrip().startswith(("#", "//")) and not line.lstrip().startswith(("#APP", "#NO_APP")):
            continue
        yield line if _KEPT.search(line) else _COMMENT.sub("", line)


def _loop_after(lines: Sequence[str], number: int) -> re.Match[str] | None:
    """What LLVM says of the loop that begins at a label: on its own line, or in the comments below it."""
    for line in (lines[number], *lines[number + 1 : number + 8]):
        if found := _LOOP.search(line):
            return found
        if line is not lines[number] and not line.lstrip().startswith(("#", "//")):
            return None
    return None


def _loop_notes(function: str, part: str, loop: re.Match[str], notes: Notes) -> Iterator[str]:
    """The notes of a loop. "feed0_1x3" is the loop over k of feeds 0 and 1, which share weights, of 3 rows."""
    kind = "innermost loop" if loop["kind"] else "loop"
    feeds = _FEEDS.fullmatch(part)
    parts = [part] if feeds is None else [f"feed{number}" for number in feeds["numbers"].split("_")]
    rows = "" if feeds is None or not feeds["rows"] else f", {feeds['rows']} rows at once".replace("1 rows", "1 row")
    for name in parts:
        if (function, name) in notes.loops:
            yield f"# {notes.loops[function, name]}   ({kind}, depth {loop['depth']}{rows})"


# ---- one phase of a text


def phases_in(text: str) -> list[str]:
    """The names of the phases of a plan, or of a listing."""
    return list(dict.fromkeys(re.findall(r"(?m)^(?:# |  )phase (\S+):", text)))


def phase_of_plan(text: str, name: str) -> str:
    """The lines of one phase of the text of a plan."""
    found = re.search(rf"(?m)^  phase {re.escape(name)}:.*\n(?:    .*\n)*", text)
    return found[0] if found else ""


def phase_of_listing(text: str, name: str) -> str:
    """The function of one phase in a listing, with the notes above it; "" if there is none."""
    lines = text.splitlines()
    start = next((n for n, line in enumerate(lines) if line.startswith(f"# phase {name}:")), None)
    if start is None:
        return ""
    while start and lines[start - 1].startswith("#"):  # the notes of phases that share the function
        start -= 1
    end = next((n for n in range(start, len(lines)) if re.match(r"\.?L?func_end", lines[n])), len(lines))
    return "\n".join(lines[start:end]) + "\n"
