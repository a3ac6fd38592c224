"""rnnc beside PyTorch, ONNX Runtime, OpenVINO and JAX, all in one run on this machine.

    python -m benchmarks                                        # everything, one thread (about 15 minutes)
    python -m benchmarks --only inference,training --threads 1,2
    python -m benchmarks --rows W1,W3 --quick                   # two workloads, in seconds
    python -m benchmarks --json now.json --resume               # rows that now.json has are not measured again
    python -m benchmarks --against before.json --fail-slower 10 # what changed; exit status 1 if a row is 10% slower

Results are verified against rnnc's reference backend in float64 before anything is timed. Contestants take turns; a
table shows medians. docs/benchmarks.md says what its columns mean. The Markdown goes to stdout, progress to stderr.
Ctrl-C, or a row that fails, leaves the other rows; the exit status is 1 if a row failed, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.machine import Machine
from benchmarks.parts.all_parts import PARTS
from benchmarks.parts.jobs import Job, Setting
from benchmarks.peers.entries import NEEDED, lacking, reason
from benchmarks.results import chart, comparison, tables
from benchmarks.results.record import Record

INTERRUPTED = 130


def selected(options: argparse.Namespace) -> list[Job]:
    """In the order of the tables, one thread before more."""
    jobs = [job for part in options.only for threads in options.threads for job in PARTS[part](threads)]
    return [job for job in jobs if not options.rows or any(_named(job, row) for row in options.rows)]


def _named(job: Job, row: str) -> bool:
    """By its first word ("W3"), or by any part of its name that is longer than this."""
    return row == job.name.split()[0] or " " in row and row in job.name


def run(jobs: Sequence[Job], record: Record, setting: Setting, json: Path | None) -> int:
    """Adds rows to the record, and writes it after each. Returns an exit status."""
    status = 0
    for number, job in enumerate(jobs, start=1):
        if any(job.gave(row) for row in record.rows):
            continue
        start = time.perf_counter()
        _say(f"[{number}/{len(jobs)}] {job.part}, {tables.count(job.threads)}: {job.name} ...", end=" ")
        try:
            rows = job.measure(setting)
        except KeyboardInterrupt:
            _say("interrupted")
            return INTERRUPTED
        except Exception as error:
            status = 1
            _say(f"failed: {reason(error)}")
            continue
        record.rows += rows
        if json is not None:
            record.write(json)
        shown = "; ".join(f"{tables.microseconds(row.ours)} us {tables.best(row)}".strip() for row in rows)
        _say(f"{shown} [{time.perf_counter() - start:.1f} s]")
    return status


def started(options: argparse.Namespace, machine: Machine) -> Record:
    """An empty record, or with --resume that of the file. Raises ValueError if that one is of another machine."""
    found = Record(machine.described(tuple(options.threads)), versions())
    if not (options.resume and options.json.exists()):
        return found
    before = Record.read(options.json)
    if before.machine["name"] != machine.name:
        raise ValueError(f"--resume: {options.json} is of {before.machine['name']}, this machine is {machine.name}")
    for name in ("peak", "dot_peak"):
        found.machine[name] = found.machine[name] | before.machine[name]
    return Record(found.machine, before.packages | found.packages, before.rows)


def versions() -> dict[str, str]:
    found = {}
    for name in ("rnnc", "numpy", "llvmlite", *NEEDED):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def peers_of(names: Sequence[str]) -> tuple[str, ...]:
    """Those that are installed; the others are named on stderr."""
    for name in names:
        if missing := lacking(name):
            _say(f"{name}: left out, not installed: {', '.join(missing)} (pip install '.[bench]')")
    return tuple(name for name in names if not lacking(name))


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=_words, default=list(PARTS), help=f"parts, of {','.join(PARTS)}")
    parser.add_argument("--rows", type=_words, default=[], help="workloads, e.g. W1,W3; or words of a row's name")
    parser.add_argument("--threads", type=_counts, default=[1], help="e.g. 1,2 (default 1)")
    parser.add_argument("--peers", type=_words, default=list(NEEDED), help=f"of {','.join(NEEDED)}; '' for none")
    parser.add_argument("--quick", action="store_true", help="3 rounds, 1 second: to see whether it works")
    parser.add_argument("--seconds", type=float, help="of each race, after which it ends (default 10)")
    parser.add_argument("--list", action="store_true", help="print the rows, and measure nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record, after each row")
    parser.add_argument("--resume", action="store_true", help="go on from the file that --json names")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables here, not to stdout")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a picture")
    parser.add_argument("--against", type=Path, metavar="OLD.json", help="compare with an earlier record")
    parser.add_argument(
        "--fail-slower", type=float, metavar="PERCENT", help="with --against: exit status 1 beyond this"
    )
    options = parser.parse_args(argv)
    for name, known in (("only", PARTS), ("peers", NEEDED)):
        if unknown := [word for word in getattr(options, name) if word not in known]:
            parser.error(f"--{name}: unknown {', '.join(unknown)}; there are {', '.join(known)}")
    if options.resume and options.json is None:
        parser.error("--resume goes on from a file: name it with --json FILE")
    if options.fail_slower is not None and options.against is None:
        parser.error("--fail-slower compares with a record: name it with --against OLD.json")
    if options.seconds is not None and not options.seconds > 0:
        parser.error(f"--seconds: expected more than 0, got {options.seconds:g}")
    return options


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _counts(text: str) -> list[int]:
    counts = [int(word) if word.isdecimal() else 0 for word in text.split(",")]
    if min(counts) < 1:
        raise argparse.ArgumentTypeError(f"expected numbers of threads such as 1,2, got {text!r}")
    return counts


def _say(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    jobs = selected(options)
    if options.list:
        print("\n".join(f"{job.part}, {tables.count(job.threads)}: {job.name}" for job in jobs))
        return 0
    machine = Machine()
    try:
        old = Record.read(options.against) if options.against else None
        record = started(options, machine)
    except (OSError, ValueError) as error:
        _say(f"benchmarks: {error}")
        return 2
    warnings.filterwarnings("ignore", message="TF32 acceleration")  # oneDNN's flags mention Intel GPUs, once
    setting = Setting(machine, peers_of(options.peers), options.seconds or 10.0)
    if options.quick:
        setting = Setting(machine, setting.peers, options.seconds or 1.0, rounds=3, runs=1)
    status = run(jobs, record, setting, options.json)
    text = tables.markdown(record)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    else:
        print(text)
    if options.svg:
        options.svg.write_text(chart.svg(record), encoding="utf-8")
    if old is not None:
        print(comparison.report(old, record))
        slower = options.fail_slower is not None
        if slower and any(change.slower_by(options.fail_slower) for change in comparison.changes(old, record)):
            status = status or 1
    return status


if __name__ == "__main__":
    sys.exit(main())
