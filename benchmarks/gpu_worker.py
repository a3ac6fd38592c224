"""Work for benchmarks/gpu.py in a process of its own, so that a kernel that hangs or faults ends one request alone.

A request and its answer are lines of JSON, on the standard streams. A fault on a GPU ends all use of it by the process,
and a deadlock never ends by itself: whoever asks starts another worker, and goes on with the next request.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
COMMAND = (sys.executable, "-m", "benchmarks.gpu_worker")
Request = dict[str, Any]
Answer = dict[str, Any]
TAIL = 600
"""Characters of what a dead worker said last."""


def answer(request: Request) -> Answer:
    """What was asked for, or {"failed": why}."""
    try:
        return WORK[request["work"]](request)
    except Exception as failure:
        return {"failed": f"{type(failure).__name__}: {failure}"[:TAIL]}


# ------------------------------------------------------------------------------------------ the work


def _about(request: Request) -> Answer:
    """The machine and the versions."""
    from importlib.metadata import PackageNotFoundError, version

    from rnnc.backends.cuda.run.availability import gpu_status
    from rnnc.backends.cuda.schedule.chip import of_device

    status = gpu_status()
    if not status.usable:
        return {"failed": status.reason}
    import cupy

    runtime, chip = cupy.cuda.runtime, of_device()
    lines = [f"{status.reason}: {chip.sms} multiprocessors at {chip.clock_ghz:.2f} GHz, {chip.arch}"]
    driver, built = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    lines.append(f"driver serves CUDA {driver // 1000}.{driver % 1000 // 10}, CuPy {cupy.__version__} is for {built}")
    for name in request["packages"]:
        try:
            lines.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lines.append(f"{name} is not installed as a package")
    return {"lines": lines, "torch": _has_torch()}


def _has_torch() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


def _micro(request: Request) -> Answer:
    from benchmarks.gpu_micro import measurements

    return {"measurements": measurements(request.get("short", False))}


def _count(request: Request) -> Answer:
    from benchmarks.gpu_matrix import selected

    return {"count": len(selected())}


def _matrix(request: Request) -> Answer:
    from benchmarks.gpu_matrix import run

    return run(request["order"], request["number"])


def _row(request: Request) -> Answer:
    from benchmarks.gpu_rows import Config, measure

    return measure(Config(**request["config"]), request["peers"], request["rounds"])


WORK: dict[str, Callable[[Request], Answer]] = {
    "about": _about,
    "micro": _micro,
    "count": _count,
    "matrix": _matrix,
    "row": _row,
}


def serve(requests: Iterable[str], answers: IO[str]) -> None:
    """Answers line by line. Leaves, and says so, when a fault has made the GPU useless."""
    for line in requests:
        found = answer(json.loads(line))
        leaves = "failed" in found and not _device_works()
        answers.write(json.dumps({**found, "leaves": leaves}) + "\n")
        answers.flush()
        if leaves:
            return


def _device_works() -> bool:
    cupy = sys.modules.get("cupy")
    if cupy is None:
        return True
    try:
        cupy.cuda.runtime.deviceSynchronize()
    except Exception:
        return False
    return True


# ------------------------------------------------------------------------------------------ who asks


class Worker:
    """A worker process, started when it is first asked, and again after it was lost."""

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = command
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._said: Any = None

    def ask(self, request: Request, seconds: float) -> Answer:
        """An answer; {"failed": why} if the work failed, or the worker was lost or took longer."""
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = self._answers.get(timeout=seconds)
        except queue.Empty:
            self.close()
            return {"failed": f"no answer within {seconds:.0f} s; the process was ended"}
        except BrokenPipeError:
            line = None
        if line is None:
            code = process.wait()
            said = self._last_words()
            self.close()
            return {"failed": f"the process ended with {code}: {said}"}
        found: Answer = json.loads(line)
        if found.pop("leaves", False):
            self.close()
        return found

    def close(self) -> None:
        """Ends the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, self._said):
                with contextlib.suppress(OSError):
                    stream.close()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._said = tempfile.TemporaryFile()
            self._answers = queue.Queue()
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True, cwd=ROOT
            )
            threading.Thread(target=_read, args=(self._process.stdout, self._answers), daemon=True).start()
        return self._process

    def _last_words(self) -> str:
        self._said.seek(0)
        return str(self._said.read().decode(errors="replace"))[-TAIL:].strip()


def _read(lines: IO[str], answers: queue.Queue[str | None]) -> None:
    with contextlib.suppress(ValueError):  # closed while it was read
        for line in lines:
            answers.put(line)
    answers.put(None)


class InProcess:
    """Answers here, for tests and debuggers; nothing is saved from a fault."""

    def ask(self, request: Request, seconds: float) -> Answer:
        """See `Worker.ask`; takes as long as it takes."""
        return answer(request)

    def close(self) -> None:
        """There is nothing to end."""


def ask_all(
    workers: Sequence[Worker | InProcess], requests: Sequence[Request], seconds: float, end: float
) -> Iterator[Answer]:
    """The answers, in order, by all workers at once; {"skipped": True} for what would begin after the end.

    end: of `time.monotonic`.
    """
    free: queue.Queue[Worker | InProcess] = queue.Queue()
    for worker in workers:
        free.put(worker)

    def ask(request: Request) -> Answer:
        worker = free.get()
        try:
            left = end - time.monotonic()
            return worker.ask(request, min(seconds, left)) if left > 1 else {"skipped": True}
        finally:
            free.put(worker)

    with ThreadPoolExecutor(len(workers)) as pool:
        yield from pool.map(ask, requests)


def main() -> None:
    """Serves; what libraries print goes to the error stream."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
