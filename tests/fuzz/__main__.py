"""The command line: python -m tests.fuzz --only calls,specs --seconds 60; or make fuzz KIND=calls,specs SECONDS=60."""

from __future__ import annotations

import argparse
import os
import random
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from tests.fuzz import writing
from tests.fuzz.campaign import ROOT, Campaign, Finding, Limits, Summary
from tests.fuzz.subjects import SUBJECTS


def main(arguments: list[str] | None = None) -> int:
    """Runs a campaign for each subject; 1 if one found a fault."""
    options = _parser().parse_args(arguments)
    if options.seed is None:
        options.seed = random.randrange(10**9)
    subjects = options.only.split(",")
    unknown = [name for name in subjects if name not in SUBJECTS]
    if unknown:
        sys.exit(f"--only: expected some of {', '.join(SUBJECTS)}, got {', '.join(unknown)}")
    print(f"seed {options.seed}; again: make fuzz SEED={options.seed} KIND={options.only}", flush=True)
    seconds = None if options.cases is not None else options.seconds / len(subjects)
    limits = Limits(options.cases, seconds, options.timeout, options.shrink, options.jobs)
    cache = tempfile.mkdtemp(prefix="rnnc-fuzz-")
    try:
        environment = {"RNNC_CACHE_DIR": os.path.join(cache, "rnnc") if options.cache else "off"}
        summaries = []
        for name in subjects:
            campaign = Campaign(
                name, options.seed, limits, found=lambda f: _report(f, options.out), environment=environment
            )
            summaries.append(campaign.run())
            print(f"{name}: {summaries[-1].cases} cases, {summaries[-1].failures} failed", flush=True)
            if summaries[-1].interrupted:
                break
    finally:
        shutil.rmtree(cache, ignore_errors=True)
    print("\n" + table(summaries))
    return int(any(summary.failures for summary in summaries))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Random cases of everything a user does.")
    parser.add_argument("--only", default=",".join(SUBJECTS), help="comma-separated subjects (default: all)")
    parser.add_argument("--seconds", type=float, default=60.0, help="time for all subjects together (default: 60)")
    parser.add_argument("--cases", type=int, help="cases per subject, however long they take")
    parser.add_argument("--seed", type=int, help="of the first case; the next ones count up (default: random)")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default: 2)")
    parser.add_argument("--out", type=Path, default=ROOT / "fuzz-found", help="folder for tests of what is found")
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds after which a case hangs (default: 180)")
    parser.add_argument("--shrink", type=float, default=60.0, help="seconds to shrink one finding (default: 60)")
    parser.add_argument("--cache", action="store_true", help="keep compiled code on disk between processes")
    return parser


def _report(finding: Finding, folder: Path) -> None:
    finding.path = writing.write(finding, folder)
    again = f"make fuzz KIND={finding.subject} SEED={finding.seed} CASES=1"
    note = "" if finding.alone else "\n  does not fail alone: it needs the cases before it"
    print(
        f"\nFOUND {finding.signature}\n  {finding.message.splitlines()[0][:300]}\n  {finding.case[:600]}{note}\n"
        f"  again: {again}\n  test: {shlex.quote(str(finding.path))}",
        flush=True,
    )


def table(summaries: list[Summary]) -> str:
    """What became of all cases, a line per subject; outcomes are counted per call, failures per case."""
    lines = [f"{'subject':<10} {'cases':>8} {'calls':>9} {'failures':>9} {'kinds':>6} {'seconds':>8}  outcomes"]
    for summary in summaries:
        outcomes = ", ".join(f"{name} {count:,}" for name, count in summary.tally.most_common() if name != "calls")
        lines.append(
            f"{summary.subject:<10} {summary.cases:>8,} {summary.tally['calls']:>9,} {summary.failures:>9,}"
            f" {len(summary.findings):>6} {summary.seconds:>8.1f}  {outcomes}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
