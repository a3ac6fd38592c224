"""Explanations as data: for each phase of machine code, how it is computed, what limits it, and what would help."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rnnc.ir.errors import ArgumentError
from rnnc.limits import Level, Limits, limits

if TYPE_CHECKING:
    from rnnc.backends.llvm.code import LlvmCode
    from rnnc.compiled import Compiled

__all__ = ["Advice", "Explanation", "PhaseFacts", "explained_as_data"]

FILLED = 0.75
"""The share of a phase's vectors below which they are said to be badly filled."""


@dataclass(frozen=True)
class PhaseFacts:
    """A phase: one pass over rows x units of products and equations.

    kind: "hoisted" (the rows of many steps at once) or "step". layers: whose equations it computes. units, panels,
    panel_units: its width, and the panels of register tiles that cover it. filled: the share of the panels' units that
    exist. rows: the most rows per tile. inner: the sizes of its products' sums. flops: multiplications and additions
    of products per row. weight_bytes: the packed weights that a run reads. level: where these fit: "L1", ..., or
    "memory". row_seconds: the least time of a single row. rows_to_peak: the rows from which arithmetic is the limit,
    not the reading of weights; 0 without products. grid: it walks a grid of units, without register tiles.
    """

    name: str
    kind: str
    layers: tuple[str, ...]
    units: int
    panels: int
    panel_units: int
    filled: float
    rows: int
    inner: tuple[int, ...]
    flops: int
    weight_bytes: int
    level: str
    row_seconds: float
    rows_to_peak: int
    grid: bool

    def seconds(self, rows: float, runs: float, machine: Limits) -> float:
        """The least time of so many runs, of so many rows in all."""
        return machine.seconds(self.flops * rows, self.weight_bytes, runs)


@dataclass(frozen=True)
class Advice:
    """Something outside of a fast path. what: the fact. why: its cause. change: what to change in spec or call."""

    what: str
    why: str
    change: str


@dataclass(frozen=True)
class Explanation:
    """What `explanation()` returns. `print` it, or read it.

    target: the instruction set. peak, levels: the limits of one core of this machine, measured (`rnnc.limits`).
    weight_bytes: all packed weights. saved_bytes: kept for a pullback, per row of a step. threads: the most of a call.
    team_batch: the largest batch that several threads share by units; 0 if none.
    """

    what: str
    target: str
    peak: float
    levels: tuple[Level, ...]
    weight_bytes: int
    saved_bytes: int
    threads: int
    team_batch: int
    phases: tuple[PhaseFacts, ...]
    advice: tuple[Advice, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        return asdict(self) | {"levels": [level._asdict() for level in self.levels]}

    def __str__(self) -> str:
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        yield self.what
        rates = ", ".join(f"{level.name} {level.rate / 1e9:.0f} GB/s" for level in self.levels)
        yield f"one core of this machine: {self.peak / 1e9:.0f} GFLOP/s ({self.target}), weights from {rates}"
        fits = next(level.name for level in self.levels if self.weight_bytes <= level.bytes or not level.bytes)
        saved = f"; {self.saved_bytes:,} bytes per row of a step are kept for the pullback" if self.saved_bytes else ""
        yield f"weights: {_size(self.weight_bytes)}, which fit {fits}{saved}"
        for phase in self.phases:
            yield f"phase {phase.name}{_of(phase.layers)}: {_sentence(phase)}"
        for advice in self.advice:
            yield f"outside of a fast path: {advice.what}, because {advice.why}. {advice.change}"
        if not self.advice:
            yield "nothing is outside of the fast paths"


def explained_as_data(compiled: Compiled, names: Sequence[str] = ()) -> Explanation:
    """See `rnnc.compiled.Compiled.explanation`. names: of the layers, by the numbers of their sites."""
    if compiled.backend != "llvm":
        raise ArgumentError(f"explanation: backend {compiled.backend!r} has explain() alone; compile with 'llvm'")
    code: LlvmCode = compiled._code  # type: ignore[assignment]
    machine = limits()
    phases = tuple(_facts(code, machine, names))
    team = code.team
    return Explanation(
        repr(compiled),
        code.target.name,
        machine.flops,
        machine.levels,
        code.manifest.arena_size * code.dtype.itemsize,
        code.saved_bytes(1, 1),
        code.threads,
        team.most_batch if team is not None else 0,
        phases,
        tuple(_advice(compiled, code, phases, machine)),
    )


def _facts(code: LlvmCode, machine: Limits, names: Sequence[str]) -> Iterator[PhaseFacts]:
    from rnnc.backends.llvm.kernels.stopwatch import TimedSection

    item = code.dtype.itemsize
    wide = 4 / item  # vectors of float64 hold half as many numbers
    packed = {id(each.phase): each for each in code.emitted.phases}
    for region, phase in code.plan.phases():
        each = packed[id(phase)]
        panels = each.tile.panels(phase.width)
        words = sum(phase.product.words(feed.inner) * len(feed.blocks) for feed in phase.feeds)
        size = words * panels * each.tile.units * item
        section = TimedSection.of_phase(region, phase, size)
        level, flops = machine.level(size), machine.flops * wide
        reading = size / level.rate
        yield PhaseFacts(
            phase.name,
            section.kind,
            layers_of(section.site, names),
            phase.width,
            panels,
            each.tile.units,
            phase.width / (panels * each.tile.units),
            each.tile.rows,
            tuple(feed.inner for feed in phase.feeds),
            section.flops,
            size,
            level.name,
            max(section.flops / flops, reading),
            max(1, round(reading * flops / section.flops)) if section.flops else 0,
            bool(phase.axes),
        )


def layers_of(site: str, names: Sequence[str]) -> tuple[str, ...]:
    """The layers of a section's sites, by the names of a network's layers: "l1.fwd" is "rnn.fwd"."""
    found = []
    for each in site.split():
        number, dot, rest = each.partition(".")
        layer = int(number.removeprefix("l"))
        found.append((names[layer] if layer < len(names) else number) + dot + rest)
    return tuple(found)


def _advice(compiled: Compiled, code: LlvmCode, phases: Sequence[PhaseFacts], machine: Limits) -> Iterator[Advice]:
    badly_filled: dict[tuple[int, int, int], list[PhaseFacts]] = {}
    for phase in phases:
        if phase.filled < FILLED and phase.flops:
            badly_filled.setdefault((phase.units, phase.panels, phase.panel_units), []).append(phase)
    for (units, panels, each), found in badly_filled.items():
        names = ", ".join(phase.name for phase in found)
        empty = f"vectors of {names} are {1 - found[0].filled:.0%} empty"
        yield Advice(empty, f"{units} units take {panels} x {each}", f"Up to {panels * each} units cost no more time.")
    for phase in phases:
        if phase.grid:
            yield Advice(
                f"phase {phase.name} has no register tiles", "its values are grids", "Vectors per unit would be faster."
            )
    steps = [phase for phase in phases if phase.kind == "step" and phase.flops]
    far = [phase for phase in steps if phase.weight_bytes > machine.levels[min(1, len(machine.levels) - 1)].bytes]
    product = compiled._options.product
    if far and product.weights is None and code.dtype.itemsize == 4 and not code.late:
        read = _size(sum(phase.weight_bytes for phase in far))
        what = f"a step of one stream reads {read} of weights from {far[0].level}"
        change = "weights='int8' reads a quarter of the bytes."
        yield Advice(what, "they are larger than the second-level cache", change)
    if steps and code.threads > 1 and code.manifest.team is not None and code.team is None:
        one = all(phase.panels == 1 for phase in steps)
        why = "its units are one panel" if one else "its steps are shorter than what threads would wait"
        yield Advice("one stream runs on one thread", why, "More rows per call are shared among threads.")
    quick: Any = getattr(compiled, "_quick", None) or getattr(compiled, "_quick_call", None)
    if hasattr(compiled, "calls") and not code.late and quick is None:
        yield Advice("plain calls are checked in Python", "machine code has no way in for them", "See explain().")


def _sentence(phase: PhaseFacts) -> str:
    if not phase.flops:
        return f"{phase.units} units of equations, {'per step' if phase.kind == 'step' else 'of many steps at once'}"
    when = "per step" if phase.kind == "step" else "of many steps at once"
    k = " + ".join(map(str, phase.inner))
    limit = f"a row takes at least {phase.row_seconds * 1e6:.2g} us"
    if phase.rows_to_peak > 1:
        bound = f"reading weights from {phase.level} is the limit below {phase.rows_to_peak} rows, arithmetic above"
    else:
        bound = "arithmetic is the limit"
    return f"{phase.units} units x k = {k} {when}, {_size(phase.weight_bytes)} of weights; {limit}; {bound}"


def _of(layers: Sequence[str]) -> str:
    return f" ({', '.join(layers)})" if layers else ""


def _size(count: int) -> str:
    return f"{count / 1024:,.0f} KiB" if count >= 10_240 else f"{count:,} bytes"
