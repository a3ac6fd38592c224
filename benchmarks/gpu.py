"""The cuda backend on the GPU at hand: is it right, what do its parts cost, how fast is it beside PyTorch (cuDNN).

    python -m benchmarks.gpu                                  # everything (an hour or so)
    python -m benchmarks.gpu --quick --markdown gpu.md        # in less than four minutes
    python -m benchmarks.gpu --only table --cells lstm,gru --operands float16 --minutes 9 --json gpu.json
    python -m benchmarks.gpu --only table --full              # every combination; for a night

about      the device, its driver, versions
micro      barriers, launches, the second-level cache: what the backend's model of a chip estimates
matrix     the test matrix, forward and derivatives, against float64 references
sanitizer  compute-sanitizer over some of it, where that tool is found
table      rnnc, torch.nn's modules, torch.compile, and the first two as CUDA graphs: microseconds a time step, medians
           of rounds in which all take turns on one stream, between CUDA events; verified against float64 first

Work is done by processes of their own: what hangs or faults is reported, and the rest goes on. What is found is
written to the files after each section and row, so that a run may be cut off. torch is needed for the peers alone;
its networks are float16 as a whole where rnnc rounds operands.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_rows import CELLS, SIZES, Config, every
from benchmarks.gpu_worker import ROOT, Answer, InProcess, Worker, ask_all
from rnnc.backends.cuda.run import availability as driver

SECTIONS = ("about", "micro", "matrix", "sanitizer", "table")
TOOLS = ("memcheck", "racecheck", "synccheck")
ORDERS = ("forward", "gradients", "tangents", "second")
SANITIZED_EACH = 24
"""Every so many cases of the matrix go through each tool of compute-sanitizer."""
QUICK_MINUTES = 3.6
CASE_SECONDS, ROW_SECONDS, MICRO_SECONDS, TOOL_SECONDS = 120.0, 300.0, 60.0, 240.0
CALLED, GRAPHS = ("rnnc", "torch", "torch.compile"), ("rnnc graph", "torch graph")
"""Columns of the table: as they are called, and the same as CUDA graphs, where the host has no part in it."""


@dataclass
class Report:
    """What was found, as text and as data; written out whenever something is added."""

    markdown: Path | None
    json: Path | None
    text: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

    def say(self, line: str = "") -> None:
        """A line of the report."""
        print(line, flush=True)
        self.text.append(line)
        self.write()

    def keep(self, section: str, value: Any) -> None:
        """The figures of a section."""
        self.data[section] = value
        self.write()

    def write(self) -> None:
        if self.markdown is not None:
            self.markdown.write_text("\n".join(self.text) + "\n", encoding="utf-8")
        if self.json is not None:
            self.json.write_text(json.dumps(self.data, indent=1) + "\n", encoding="utf-8")


class Benchmark:
    """One run: options, who does the work, and the report."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.report = Report(options.markdown, options.json)
        self.worker: Worker | InProcess = InProcess() if options.in_process else Worker()
        self.end = time.monotonic() + options.minutes * 60
        self.failures = 0
        self.torch = False

    def run(self) -> int:
        """0 if all that was tried is right."""
        try:
            for section in SECTIONS:
                if section in self.options.only:
                    getattr(self, section)()
        finally:
            self.worker.close()
        return int(self.failures > 0)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def ask(self, request: dict[str, Any], seconds: float) -> Answer:
        """An answer, within what time is left."""
        return self.worker.ask(request, max(1.0, min(seconds, self.left)))

    # ---- sections

    def about(self) -> None:
        packages = ("rnnc", "numpy", "torch")
        found = self.ask({"work": "about", "packages": packages}, CASE_SECONDS)
        self.report.keep("about", found)
        self.report.say("; ".join(found.get("lines", [f"failed: {found.get('failed')}"])))
        self.torch = bool(found.get("torch"))
        if not self.torch:
            self.report.say("no PyTorch that sees the GPU: no peers")

    def micro(self) -> None:
        found = self.ask({"work": "micro", "short": self.options.rounds == 1}, MICRO_SECONDS)
        self.report.keep("micro", found)
        self._head("Costs", "| | measured | estimate | |")
        if "failed" in found:
            self._fail(f"| failed: {found['failed']} | | | |")
        for name, one in found.get("measurements", {}).items():
            measured = f"{one['measured']:.3g}" if "measured" in one else f"failed: {one['failed']}"
            self.failures += "failed" in one
            estimate = "" if one["estimate"] is None else f"{one['estimate']:.3g}"
            self.report.say(f"| {name} | {measured} | {estimate} | {one['unit']} |")

    def matrix(self) -> None:
        from benchmarks.gpu_matrix import selected

        self._head("The test matrix", "| | cases | right | worst float32 | worst float64 |")
        jobs = 1 if self.options.in_process else self.options.jobs
        workers = [InProcess() if self.options.in_process else Worker() for _ in range(jobs)]
        numbers = range(0, len(selected()), self.options.each)
        try:
            for order in self.options.orders:
                requests = [{"work": "matrix", "order": order, "number": n} for n in numbers]
                outcomes = list(ask_all(workers, requests, CASE_SECONDS, self.end))
                self._order(order, outcomes, [selected()[n].dtype for n in numbers])
        finally:
            for worker in workers:
                worker.close()

    def _order(self, order: str, outcomes: Sequence[Answer], dtypes: Sequence[str]) -> None:
        self.report.keep(f"matrix {order}", outcomes)
        right = ["error" in outcome and outcome["error"] <= outcome["allowed"] for outcome in outcomes]
        skipped = sum("skipped" in outcome for outcome in outcomes)
        largest = []
        for dtype in ("float32", "float64"):
            errors = [o["error"] for o, d in zip(outcomes, dtypes, strict=True) if d == dtype and "error" in o]
            largest.append(f"{max(errors):.1e}" if errors else "")
        self.report.say(f"| {order} | {len(outcomes) - skipped} | {sum(right)} | {' | '.join(largest)} |")
        if skipped:
            self.report.say(f"| time is up: {skipped} cases were not run | | | | |")
        for outcome, good in zip(outcomes, right, strict=True):
            if not good and "skipped" not in outcome:
                why = outcome.get("failed") or f"relative error {outcome['error']:.2g}"
                self._fail(f"| wrong: {outcome.get('title', order)}: {_cell(why)} | | | | |")

    def sanitizer(self) -> None:
        self._head("compute-sanitizer", "| tool | |")
        tool = find_sanitizer()
        if tool is None:
            self.report.say("| | not found: it comes with the CUDA toolkit |")
            return
        for name in TOOLS:
            self.report.say(f"| {name} | {self._sanitize(tool, name)} |")

    def _sanitize(self, tool: str, name: str) -> str:
        each = "1000" if self.options.quick else str(SANITIZED_EACH)
        command = [tool, "--tool", name, "--error-exitcode", "9", sys.executable, "-m", "benchmarks.gpu_matrix", each]
        try:
            seconds = max(1.0, min(TOOL_SECONDS, self.left))
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired as late:
            return f"not finished within {late.timeout:.0f} s"
        except OSError as failure:
            return f"does not run: {failure}"
        told = [line for line in done.stdout.splitlines() if line.startswith("=========") and "Error" in line]
        if done.returncode:
            self.failures += 1
            return f"exit {done.returncode}: {_cell('; '.join(told[:4]) or done.stderr[-300:])}"
        return "nothing found"

    def table(self) -> None:
        peers = [peer for peer in self.options.peers if self.torch] if "about" in self.options.only else []
        rows = []
        called, graphs = " | ".join(CALLED), " | ".join(GRAPHS)
        head = f"| | {called} | best peer / rnnc | {graphs} | torch / rnnc | estimate | error | |"
        self._head("Microseconds a time step", head)
        for config in self.options.configs:
            if self.left < 5:
                self.report.say("| time is up" + " |" * 11)
                break
            request = {"work": "row", "config": asdict(config), "peers": peers, "rounds": self.options.rounds}
            found = self.ask(request, ROW_SECONDS)
            rows.append({"title": config.title, **found})
            self.report.keep("table", rows)
            self.failures += "failed" in found or "rnnc" in found.get("notes", {})
            self.report.say(row_text(config, found))
        self.report.say()
        self.report.say(summary(rows))

    # ---- lines

    def _head(self, title: str, head: str) -> None:
        self.report.say(f"\n## {title}\n\n{head}\n|{'---|' * (head.count('|') - 1)}")

    def _fail(self, line: str) -> None:
        self.failures += 1
        self.report.say(line)


def row_text(config: Config, found: Answer) -> str:
    """A row of the table."""
    if "failed" in found:
        return f"| {config.title}{' |' * 10} failed: {_cell(found['failed'])} |"
    times = {name: timing["median"] * 1e6 / config.steps for name, timing in found["seconds"].items()}
    error = found["errors"].get("rnnc")
    notes = "; ".join(f"{who}: {why}" for who, why in found["notes"].items())
    columns = [
        config.title,
        *(_time(times.get(name)) for name in CALLED),
        _time(ratio_of(found)),
        *(_time(times.get(name)) for name in GRAPHS),
        _time(ratio_of(found, GRAPHS)),
        _time(found["estimate_us"]),
        "" if error is None else f"{error:.1e}",
        _cell(notes),
    ]
    return "| " + " | ".join(columns) + " |"


def ratio_of(found: Answer, names: Sequence[str] = CALLED) -> float | None:
    """The best peer's time over rnnc's, which is the first of the names."""
    seconds = {name: timing["median"] for name, timing in found.get("seconds", {}).items()}
    ours, *peers = (seconds.get(name) for name in names)
    theirs = [value for value in peers if value is not None]
    return min(theirs) / ours if theirs and ours else None


def summary(rows: Sequence[Answer]) -> str:
    """In how many rows rnnc is faster, and in which least and most."""
    lines = [f"{len(rows)} rows"]
    for what, names in (("as called", CALLED), ("as graphs", GRAPHS)):
        ratios = sorted((ratio, row["title"]) for row in rows if (ratio := ratio_of(row, names)) is not None)
        if ratios:
            faster, (least, where), (most, there) = sum(r >= 1 for r, _ in ratios), ratios[0], ratios[-1]
            lines.append(
                f"{what}: {len(ratios)} with a peer, rnnc is faster in {faster}; median ratio "
                f"{ratios[len(ratios) // 2][0]:.2f}, least {least:.2f} ({where}), most {most:.2f} ({there})"
            )
    return "\n".join(lines)


def _time(value: float | None) -> str:
    return "" if value is None else f"{value:.{2 if value < 100 else 1 if value < 1000 else 0}f}"


def _cell(text: str) -> str:
    """Text that does not end a cell of a table."""
    return " ".join(text.replace("|", "/").split())


def find_sanitizer() -> str | None:
    """The path of compute-sanitizer, or None."""
    places = [os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    folders = [folder for place in places if place for folder in (f"{place}/bin", f"{place}/compute-sanitizer")]
    return shutil.which("compute-sanitizer", path=os.pathsep.join([os.environ.get("PATH", ""), *folders]))


# ------------------------------------------------------------------------------------------ options


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"comma-separated sections: {', '.join(SECTIONS)}")
    parser.add_argument("--quick", action="store_true", help=f"a few rows, at most {QUICK_MINUTES} minutes")
    parser.add_argument("--full", action="store_true", help="all combinations of sizes, cells and operands")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--minutes", type=float, help="begin nothing after so long; default: no limit")
    parser.add_argument("--peers", default="torch,compile", help="comma-separated: torch, compile; empty for none")
    parser.add_argument("--cells", default=",".join(CELLS), help="rows of the table: comma-separated cells")
    parser.add_argument("--operands", help="rows of the table: comma-separated, of float32, tf32, float16, bfloat16")
    parser.add_argument("--config", action="append", help='a row, such as "lstm,768,16,1024,float16"; may be repeated')
    parser.add_argument("--orders", default=",".join(ORDERS), help="of the matrix: comma-separated")
    parser.add_argument("--each", type=int, default=1, help="of the matrix: every n-th case")
    parser.add_argument("--jobs", type=int, default=max(1, min(8, (os.cpu_count() or 1) // 2)), help="of the matrix")
    parser.add_argument("--markdown", type=Path, help="also write the report to this file")
    parser.add_argument("--json", type=Path, help="also write every figure to this file")
    parser.add_argument("--in-process", action="store_true", help="no processes of their own, to debug")
    return _checked(parser, parser.parse_args(argv))


def _checked(parser: argparse.ArgumentParser, options: argparse.Namespace) -> argparse.Namespace:
    quick = options.quick
    for name, known in (("only", SECTIONS), ("peers", ("torch", "compile")), ("orders", ORDERS), ("cells", CELLS)):
        chosen = [part for part in getattr(options, name).split(",") if part]
        if unknown := set(chosen) - set(known):
            parser.error(f"--{name}: unknown {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        setattr(options, name, chosen)
    sections = options.only or [s for s in SECTIONS if not (quick and s == "sanitizer")]
    options.only = ["about", *(s for s in sections if s != "about")]
    options.minutes = options.minutes or (QUICK_MINUTES if quick else 1e6)
    options.orders = options.orders[:2] if quick else options.orders
    options.rounds = min(options.rounds, 5) if quick else options.rounds
    if min(options.rounds, options.each, options.jobs) < 1:
        parser.error("--rounds, --each and --jobs are at least 1")
    options.configs = _configs(parser, options)
    return options


def _configs(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Config]:
    if options.config:
        return [Config(*row, training=t) for row in map(_parsed(parser), options.config) for t in (False, True)]
    found = [config for config in every(options.full, options.quick) if config.cell in options.cells]
    if options.operands:
        wanted = [None if name == "float32" else name for name in options.operands.split(",")]
        if unknown := set(wanted) - set(SIZES["operands"]):
            parser.error(f"--operands: unknown {', '.join(map(str, unknown))}")
        found = [config for config in found if config.operands in wanted]
    return found


def _parsed(parser: argparse.ArgumentParser) -> Any:
    def parse(text: str) -> tuple[Any, ...]:
        cell, *sizes = text.split(",")
        kind = sizes.pop() if len(sizes) == 4 else "float32"
        if cell not in CELLS or len(sizes) != 3 or not all(size.isdecimal() and int(size) for size in sizes):
            parser.error(f"--config: expected cell,hidden,batch,steps[,operands], got {text!r}")
        if kind not in ("float32", *SIZES["operands"]):
            parser.error(f"--config: unknown operands {kind!r}")
        return (cell, *map(int, sizes), None if kind == "float32" else kind)

    return parse


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    status = driver.gpu_status()
    if not status.usable:
        print(f"no GPU to measure: {status.reason}", file=sys.stderr)
        return 2
    return Benchmark(options).run()


if __name__ == "__main__":
    sys.exit(main())
