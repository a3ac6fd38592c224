"""The command line: python -m tests.sanitize --only quick,ragged."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.sanitize.reports import EXCUSES, Report, read
from tests.sanitize.workload import HELD, PLANTED

ROOT = Path(__file__).resolve().parent.parent.parent
PARTS = (*PLANTED, *HELD)
VALGRIND = (
    "valgrind", "--error-limit=no", "--num-callers=24", "--fair-sched=yes", "--show-leak-kinds=definite", "--xml=yes"
)  # fmt: skip


class Outcome(NamedTuple):
    """What became of a part. failed: why it did not run to its end, or nothing."""

    part: str
    report: Report
    seconds: float
    failed: str

    @property
    def bad(self) -> bool:
        """Whether the part did not end, has an error, or lacks the one that was planted."""
        if self.part in PLANTED:
            return bool(self.failed) or not self.report.own
        return bool(self.failed or self.report.own or self.report.unknown)


def main(arguments: list[str] | None = None) -> int:
    """Runs the parts. 1 if generated code has an error, or if a planted one is not seen; 2 if there is no valgrind."""
    options = _parser().parse_args(arguments)
    if shutil.which(VALGRIND[0]) is None:
        print("make sanitize needs valgrind, which is not installed: nothing was checked", file=sys.stderr)
        return 2
    parts = options.only.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        print(f"--only: expected some of {', '.join(PARTS)}, got {', '.join(unknown)}", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="rnnc-sanitize-"))
    try:
        with ThreadPoolExecutor(options.jobs) as pool:
            outcomes = list(pool.map(lambda part: _run(part, folder), parts))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(_summary(outcomes))
    return int(any(outcome.bad for outcome in outcomes))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.sanitize", description="Generated code under memcheck.")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default: 2)")
    return parser


def _run(part: str, folder: Path) -> Outcome:
    """One part: first as it is, which fills the cache of compiled code, then under valgrind."""
    cache = str(folder / part)
    environment = os.environ | {"RNNC_CACHE_DIR": cache, "PYTHONMALLOC": "malloc", "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "tests.sanitize.workload", part]
    first = _call([*command, "--prepare"], environment)
    if first.returncode:
        return Outcome(part, Report.empty(), 0.0, f"fails without valgrind, too\n{first.stderr[-2000:]}")
    start, found = time.monotonic(), folder / f"{part}.xml"
    done = _call([*VALGRIND, f"--xml-file={found}", *command], environment)
    seconds = time.monotonic() - start
    failed = "" if f"{part}: done" in done.stdout else f"status {done.returncode}\n{done.stderr[-2000:]}"
    outcome = Outcome(part, read(found, done.stdout), seconds, failed)
    print(f"{part}: {'BAD' if outcome.bad else 'as it should be'}, {seconds:.0f} seconds", flush=True)
    return outcome


def _call(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def _summary(outcomes: list[Outcome]) -> str:
    lines = [f"\n{'part':<12} {'of generated code':>18} {'unknown':>8} {'excused':>8} {'seconds':>8}"]
    for part, report, seconds, failed in outcomes:
        counts = f"{len(report.own):>18} {len(report.unknown):>8} {report.excused.total():>8} {seconds:>8.0f}"
        lines.append(f"{part:<12} {counts}  {'PLANTED: must be seen' if part in PLANTED else ''} {failed}".rstrip())
    held = [outcome.report for outcome in outcomes if outcome.part in HELD]
    lines.append(f"errors of generated code or its entry: {sum(len(r.own) for r in held)}, in {len(held)} parts")
    excused = {e.library: sum(o.report.excused[e.library] for o in outcomes) for e in EXCUSES}
    lines += [f"excused: {excused[e.library]} in {e.library}: {e.reason}" for e in EXCUSES if excused[e.library]]
    for outcome in outcomes:
        if outcome.bad:
            lines += [f"\n{outcome.part}:", *(outcome.report.own + outcome.report.unknown)[:5]]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
