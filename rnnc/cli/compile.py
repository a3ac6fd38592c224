"""`rnnc compile`: compiles a spec, and times every part of it, from the import to a call."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from rnnc.checking import checks
from rnnc.cli.common import add_backend, add_spec
from rnnc.cli.parser import add_command
from rnnc.cli.specs import load_model
from rnnc.computations import forward
from rnnc.ir.pipeline import PIPELINE, SHARED_STAGES, Artefacts
from rnnc.model import Model
from rnnc.programs import check_spec, compile
from rnnc.specs import Spec

if TYPE_CHECKING:
    import argparse

    from rnnc.cli.parser import Commands

T = TypeVar("T")


def add(commands: Commands) -> None:
    """Declares the command."""
    parser = add_command(
        commands,
        "compile",
        _run,
        help="compile a spec and time every part of it",
        examples=["rnnc compile spec.toml", "rnnc compile spec.toml --time-steps 100 --batch 16 --threads 1"],
    )
    add_spec(parser)
    parser.add_argument(
        "--time-steps", type=int, default=100, metavar="T", help="steps of the timed call (default 100)"
    )
    parser.add_argument("--batch", type=int, default=1, metavar="B", help="sequences in the timed call (default 1)")
    parser.add_argument("--repeat", type=int, default=0, metavar="N", help="timed calls (default: one second of them)")
    add_backend(parser)


def _run(options: argparse.Namespace) -> None:
    spec = check_spec(load_model(options.spec, options.trust))
    steps = checks.integer("--time-steps", options.time_steps, 1)
    batch = checks.integer("--batch", options.batch, 1)
    repeat = checks.integer("--repeat", options.repeat, 0)
    print(f"{spec}, backend {options.backend}\n")
    for label, seconds, note in _timings(spec, options.backend, options.threads, steps, batch, repeat):
        print(f"  {label:<16}{_duration(seconds):>12}   {note}".rstrip(), flush=True)


def _timings(
    spec: Spec, backend: str, threads: int | None, steps: int, batch: int, repeat: int
) -> Iterator[tuple[str, float, str]]:
    """The label, seconds and a note of each part, in the order in which they run."""
    yield "import rnnc", _import_seconds(), "in a new interpreter"
    from rnnc import backends

    seconds, _ = _timed(lambda: backends.get(backend))
    yield "load backend", seconds, "its modules and libraries"
    shared = 0.0
    for label, seconds in _shared_timings(spec):
        shared += seconds
        yield label, seconds, ""
    seconds, program = _timed(lambda: compile(spec, backend=backend, threads=threads))
    again = sum(seconds for _, seconds in _shared_timings(spec))
    codegen = max(seconds - again, 0.0)
    yield "codegen", codegen, "the rest of compile()"
    yield "compile()", shared + codegen, "the four above"
    parameters = spec.init(seed=0)
    seconds, model = _timed(lambda: program.bind(parameters))
    yield "bind", seconds, ""
    x = _example(spec, steps, batch)
    seconds, _ = _timed(lambda: model(x))
    yield "first call", seconds, f"T = {steps}, B = {batch}"
    times = _call_seconds(model, x, repeat)
    middle = statistics.median(times)
    note = f"{_duration(middle / steps)} per step; median of {len(times)}, best {_duration(min(times))}"
    yield "a call", middle, note


def _shared_timings(spec: Spec) -> Iterator[tuple[str, float]]:
    """The label and seconds of the stages before any backend, on the template steps."""
    made = Artefacts(PIPELINE, forward(spec))
    for label, stage in zip(("lower", "optimize", "roll"), SHARED_STAGES, strict=True):
        yield label, _timed(lambda stage=stage: made[stage])[0]  # type: ignore[misc]


def _import_seconds() -> float:
    """Seconds of `import rnnc` in a new interpreter, with the path of this one and not first the current folder."""
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; import time; t = time.perf_counter(); import rnnc; "
        "print(time.perf_counter() - t)"
    )
    command = [sys.executable, "-c", code]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _timed(function: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def _call_seconds(model: Model, x: np.ndarray, repeat: int) -> list[float]:
    """Seconds of each of `repeat` calls; if `repeat` is 0, of as many as fit into one second."""
    times: list[float] = []
    until = time.perf_counter() + 1.0
    while len(times) < repeat or (not repeat and (not times or time.perf_counter() < until)):
        times.append(_timed(lambda: model(x))[0])
    return times


def _example(spec: Spec, steps: int, batch: int) -> np.ndarray:
    shape = (batch, steps) if spec.batch_first else (steps, batch)
    return np.random.default_rng(0).normal(size=(*shape, spec.input_size)).astype(spec.dtype)


def _duration(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}" if seconds / scale < 100 else f"{seconds / scale:.0f} {unit}"
    return f"{seconds * 1e9:.0f} ns"
