"""A campaign: worker processes, the cases they run, and the faults they found."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz import poison
from tests.fuzz.faults import KINDS, Tally
from tests.fuzz.shrinking import Failing, shrink

ROOT = Path(__file__).resolve().parent.parent.parent
MOST_RESIDENT = 1 << 30
"""Bytes of a worker beyond which a new one takes its place: compiled code stays for as long as a process lives."""

PROGRESS = 60.0
"""Seconds from one line of progress to the next."""

MOST_FINDINGS = 20
"""Findings of a subject that are shrunk and reported; further ones are counted."""


class Worker:
    """A process that runs cases. It is started by the first question, and again after it ended."""

    def __init__(self, timeout: float, environment: dict[str, str] | None = None) -> None:
        self.timeout = timeout
        self._environment = {**os.environ, **poison.ENVIRONMENT, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._answers = -1
        self._rest = b""

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer of the process. If it ends, or takes too long, the answer has the kind "crash" or "hang"."""
        if self._process is None:
            self._start()
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
            line = self._line(time.monotonic() + self.timeout)
        except BrokenPipeError:
            line = b""
        if line:
            answer: dict[str, Any] = json.loads(line)
            if answer.get("bytes", 0) > MOST_RESIDENT:
                self.stop()
            return answer
        return self._ended(hung=line is None)

    def stop(self) -> None:
        """Ends the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()
            os.close(self._answers)
            self._process, self._rest = None, b""

    def _start(self) -> None:
        self._answers, theirs = os.pipe()
        self._errors.seek(0)
        self._errors.truncate()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker", str(theirs)],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=self._errors,
            stderr=self._errors,
            pass_fds=(theirs,),
            start_new_session=True,  # Ctrl-C ends the campaign, which ends its processes: it is no crash of a case
        )
        os.close(theirs)

    def _line(self, deadline: float) -> bytes | None:
        """A line of the pipe; nothing if the process ended; None if time ran out."""
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            piece = os.read(self._answers, 1 << 16)
            if not piece:
                return b""
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _ended(self, hung: bool) -> dict[str, Any]:
        assert self._process is not None
        if hung:
            self._process.send_signal(signal.SIGABRT)  # the fault handler prints where it hangs
        code = self._process.wait()
        kind = "hang" if hung else "crash"
        self._errors.seek(0)
        log = self._errors.read().decode(errors="replace")
        self.stop()
        name = signal.Signals(-code).name if code < 0 else f"status {code}"
        return {
            "kind": kind,
            "signature": f"{kind}: {'' if hung else name}{_innermost(log)}",
            "message": f"{KINDS[kind]}: {name}\n{log[-4000:]}",
            "tally": {},
        }


def _innermost(log: str) -> str:
    """The innermost lines of rnnc in what the fault handler printed."""
    lines = [line.strip() for line in log.splitlines() if line.strip().startswith("File ")]
    own = [line for line in lines if "/tests/" not in line]
    inside = [line for line in own if any(part in line for part in ("/rnnc/", "/backends/", "/ir/"))]
    return f" in {'/'.join(inside[0].split('/')[-2:])}" if inside else ""


@dataclass
class Finding:
    """Cases that failed alike. seed: of the first. process: (seed, cases before it) of the process that ran it."""

    subject: str
    seed: int
    signature: str
    message: str
    case: str = ""
    count: int = 1
    alone: bool = True
    path: Path | None = None


@dataclass
class Summary:
    """What became of the cases of a subject."""

    subject: str
    first_seed: int
    cases: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    tally: Tally = field(default_factory=Tally)
    findings: dict[str, Finding] = field(default_factory=dict)

    @property
    def failures(self) -> int:
        """Cases that failed, those that failed alike counted one by one."""
        return sum(finding.count for finding in self.findings.values())


@dataclass
class Limits:
    """When to stop: after `cases` cases or `seconds` seconds, whichever is given and comes first."""

    cases: int | None = None
    seconds: float | None = None
    timeout: float = 60.0
    shrink_seconds: float = 60.0
    jobs: int = 2


class Campaign:
    """Cases of one subject with the seeds first, first + 1, ..., by several processes at once."""

    def __init__(
        self,
        subject: str,
        first_seed: int,
        limits: Limits,
        *,
        found: Callable[[Finding], None] = lambda finding: None,
        environment: dict[str, str] | None = None,
    ) -> None:
        """found: called with each finding once it is shrunk."""
        self.summary = Summary(subject, first_seed)
        self._limits = limits
        self._found = found
        self._environment = environment
        self._lock = threading.Lock()
        self._next = first_seed
        self._stopped = False
        self._start = time.monotonic()

    def run(self) -> Summary:
        """Runs the cases until a limit is reached, or until Ctrl-C."""
        self._start = time.monotonic()
        pool = ThreadPoolExecutor(self._limits.jobs)
        working = [pool.submit(self._work) for _ in range(self._limits.jobs)]
        while any(not future.done() for future in working):
            try:
                wait(working, timeout=PROGRESS, return_when=FIRST_EXCEPTION)
                self._stopped = self._stopped or any(future.done() and future.exception() for future in working)
                self._progress()
            except KeyboardInterrupt:  # the cases at work come to their end
                self._stopped = self.summary.interrupted = True
        for future in working:
            future.result()
        self.summary.seconds = time.monotonic() - self._start
        return self.summary

    def _progress(self) -> None:
        if time.monotonic() - self._start >= PROGRESS:
            print(f"{self.summary.subject}: {self.summary.cases} cases, {self.summary.failures} failed", flush=True)

    def _seed(self) -> int | None:
        """The next seed, or None if it is time to stop."""
        with self._lock:
            done = self._next - self.summary.first_seed
            late = self._limits.seconds is not None and time.monotonic() - self._start >= self._limits.seconds
            if self._stopped or late or self._limits.cases is not None and done >= self._limits.cases:
                return None
            self._next += 1
            return self._next - 1

    def _work(self) -> None:
        worker = Worker(self._limits.timeout, self._environment)
        try:
            while (seed := self._seed()) is not None:
                answer = worker.ask({"subject": self.summary.subject, "seed": seed})
                finding = self._count(seed, answer)
                if finding is not None:
                    self._explain(worker, finding, answer)
                    with self._lock:
                        self._found(finding)
        finally:
            worker.stop()

    def _count(self, seed: int, answer: dict[str, Any]) -> Finding | None:
        """Counts a case; a finding if it is the first that fails in its way."""
        with self._lock:
            self.summary.cases += 1
            self.summary.tally.update(answer["tally"])
            signature = answer.get("signature")
            if signature is None:
                return None
            known = self.summary.findings.get(signature)
            if known is None and len(self.summary.findings) >= MOST_FINDINGS:
                others = Finding(self.summary.subject, seed, "others", "", count=0)
                known = self.summary.findings.setdefault("others", others)
            if known is not None:
                known.count += 1
                return None
            finding = Finding(self.summary.subject, seed, signature, answer["message"])
            self.summary.findings[signature] = finding
            return finding

    def _explain(self, worker: Worker, finding: Finding, answer: dict[str, Any]) -> None:
        """Finds the smallest case that fails alike."""
        subject = self.summary.subject

        def attempt(choices: Sequence[int]) -> dict[str, Any] | None:
            found = worker.ask({"subject": subject, "choices": list(choices)})
            if found.get("kind") != finding.signature.partition(":")[0]:
                return None
            if "choices" not in found:
                found |= worker.ask({"subject": subject, "choices": list(choices), "draw": True})
            return found

        def failing(choices: Sequence[int]) -> Failing | None:
            found = attempt(choices)
            return None if found is None or found["signature"] != finding.signature else _failing(found)

        drawn = answer if "choices" in answer else worker.ask({"subject": subject, "seed": finding.seed, "draw": True})
        finding.case = drawn.get("case", "")
        if attempt(drawn["choices"]) is None:
            worker.stop()  # a fresh process has the last word
            finding.alone = attempt(drawn["choices"]) is not None
        if not finding.alone:
            return
        smallest = shrink(_failing(drawn), failing, self._limits.shrink_seconds)
        found = attempt(smallest.choices)
        if found is not None:
            finding.case, finding.message = found["case"], found["message"]


def _failing(answer: dict[str, Any]) -> Failing:
    return Failing(tuple(answer["choices"]), tuple((start, end) for start, end in answer["spans"]))
