"""The command line.

`rnnc inspect SPEC` prints a stage of the pipeline, `rnnc explain SPEC` which paths a backend takes, `rnnc compile SPEC`
the time of every stage. `rnnc run MODEL` calls a model file on arrays in files. `rnnc cache` shows the cache of
compiled code.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from rnnc.checking import checks
from rnnc.compiled import Compiled, CompileOptions
from rnnc.computations import DERIVATIVES, forward
from rnnc.ir.errors import ArgumentError, RnncError
from rnnc.ir.pipeline import PIPELINE, SHARED_STAGES, Artefacts
from rnnc.model import Model
from rnnc.plain_data import MOST_CHARACTERS, read_json
from rnnc.programs import check_spec, compile
from rnnc.references import resolve
from rnnc.specs import Spec

if TYPE_CHECKING:
    from rnnc.files.models import Architecture
    from rnnc.ir.computation import Computation

T = TypeVar("T")

SPEC_HELP = "a .json, .toml or model file, or module:object (the current folder comes last on the path)"
EXAMPLES = """\
a file spec.toml:
  type = "LSTM"              # or GRU, RNN, Recurrent
  input_size = 64
  hidden_size = 128          # and any other argument of rnnc.LSTM
examples:
  rnnc inspect spec.toml --stage lowered --steps 2
  rnnc inspect my_models:encoder --stage asm | less
  rnnc compile spec.toml --time-steps 100 --batch 16 --threads 1
  rnnc run model.rnnc --input x.npy --output y.npy
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status: 0, or 2 after printing one line with the error."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except RnncError as error:
        print(f"rnnc {options.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head` has closed the pipe; what Python still flushes goes to the null device
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("rnnc", description=__doc__, epilog=EXAMPLES, formatter_class=layout)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    inspect = commands.add_parser("inspect", help="print a stage of a spec, from equations to machine code")
    inspect.add_argument("spec", metavar="SPEC", help=SPEC_HELP)
    inspect.add_argument(
        "--stage", default="rolled", help="lowered, optimized, rolled (default), or one of the backend's"
    )
    inspect.add_argument("--steps", type=int, default=3, help="unrolled steps in lowered and optimized (default 3)")
    inspect.add_argument("--derivative", choices=tuple(DERIVATIVES), help="of a recurrent spec: its derivative instead")
    inspect.set_defaults(run=_inspect)

    timing = commands.add_parser("compile", help="compile a spec and time every part of it")
    timing.add_argument("spec", metavar="SPEC", help=SPEC_HELP)
    timing.add_argument(
        "--time-steps", type=int, default=100, metavar="T", help="steps of the timed call (default 100)"
    )
    timing.add_argument("--batch", type=int, default=1, metavar="B", help="sequences in the timed call (default 1)")
    timing.add_argument("--repeat", type=int, default=0, metavar="N", help="timed calls (default: one second of them)")
    timing.set_defaults(run=_compile)

    explain = commands.add_parser("explain", help="print which paths the backend takes, and why no faster ones")
    explain.add_argument("spec", metavar="SPEC", help=SPEC_HELP)
    explain.set_defaults(run=_explain)

    running = commands.add_parser("run", help="call a model file on arrays in files")
    _add_run(running)

    kept = commands.add_parser("cache", help="show the compiled code that is kept on disk, or delete it")
    kept.add_argument("--clear", action="store_true", help="delete all entries")
    kept.set_defaults(run=_cache)

    for command in (inspect, timing, explain, running):
        command.add_argument(
            "--trust", action="append", default=[], metavar="MODULE", help="a module that a file may name for its cell"
        )
        command.add_argument("--backend", default="llvm", help="llvm (default), reference, cuda or cuda-emulated")
        command.add_argument("--threads", type=int, default=None, help="default: RNNC_NUM_THREADS, or all cores")
    return parser


def _add_run(running: argparse.ArgumentParser) -> None:
    running.add_argument("model", metavar="MODEL", help="a file of rnnc.save, or of a model's method save")
    running.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="an .npy file, or an .npz file with all inputs; once per input of the network",
    )
    running.add_argument("--output", required=True, metavar="FILE", help="an .npy file, or .npz for several outputs")
    running.add_argument("--lengths", metavar="FILE", help="an .npy file: the length of each sequence")
    running.add_argument("--state", metavar="FILE", help="an .npz file: the state to start from")
    running.add_argument("--final-state", metavar="FILE", help="an .npz file for the state at the end")
    running.set_defaults(run=_run)


# ---- inspect


def _inspect(options: argparse.Namespace) -> None:
    model = load_model(options.spec, options.trust)
    steps = checks.integer("--steps", options.steps, 1)
    chosen = CompileOptions.of(options.backend, options.threads, None)
    computation = _steps(model)
    if options.derivative is not None:
        if not isinstance(model, Spec):
            raise ArgumentError(f"--derivative: only a recurrent spec has one, got {checks.came(model)}")
        computation = DERIVATIVES[options.derivative](model)
    if options.stage in SHARED_STAGES:  # needs no backend, so none is loaded
        text = Artefacts(PIPELINE, computation, steps=steps).text(options.stage)
    else:
        text = Compiled(computation, chosen).ir(options.stage)
    print(text.rstrip("\n"))


def _steps(model: Architecture) -> Computation:
    """The forward pass; of a decoder, its steps."""
    from rnnc.decoding.decoder import Decoder
    from rnnc.decoding.decoding import steps_of

    return steps_of(model) if isinstance(model, Decoder) else forward(model)


def _explain(options: argparse.Namespace) -> None:
    chosen = CompileOptions.of(options.backend, options.threads, None)
    if _is_model_file(options.spec):
        from rnnc.files.models import load_model as load_bound

        text = load_bound(options.spec, trusted=options.trust, **chosen.arguments).explain()
    else:
        text = Compiled(_steps(load_model(options.spec, options.trust)), chosen).explain()
    print(text.rstrip("\n"))


# ---- run


def _run(options: argparse.Namespace) -> None:
    from rnnc.files.running import run

    run(options)


# ---- cache


def _cache(options: argparse.Namespace) -> None:
    """Prints the folder of the cache, and the size and last use of each entry; or clears it."""
    from rnnc.backends import cache
    from rnnc.ir import settings

    folder = settings.cache_folder()
    if folder is None:
        print("there is no cache: RNNC_CACHE_DIR is 'off', or the user has no home folder")
        return
    print(folder / cache.FOLDER)
    if options.clear:
        print(f"deleted: {cache.clear()} entries")
        return
    found = cache.entries()
    size, most = sum(entry.size for entry in found), settings.cache_bytes()
    print(f"{len(found)} entries, {size / 1e6:.1f} of at most {most / 1e6:,.0f} MB (RNNC_CACHE_MEGABYTES)")
    now = time.time()
    for entry in reversed(found):
        print(f"  {entry.name[:12]}  {entry.size / 1e3:8,.1f} KB   used {_age(now - entry.used)} ago")


def _age(seconds: float) -> str:
    for unit, scale in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * scale:
            return f"{seconds / scale:.0f} {unit}"
    return f"{max(seconds, 0.0):.0f} seconds"


# ---- compile


def _compile(options: argparse.Namespace) -> None:
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


# ---- specs from outside


def load_model(text: str, trusted: Sequence[str] = ()) -> Architecture:
    """The spec or network in a JSON, TOML or model file, or the one that "module:object" names.

    trusted: modules that a file may name for its cell.
    The current folder comes last on the path, and is on it only if the command line names a module. So files that
    happen to be there are not run. Raises ArgumentError.
    """
    from rnnc.files.models import architecture, architectures, read_architecture

    in_text = Path(text).suffix in (".json", ".toml")
    if in_text or _is_model_file(text):
        if trusted:
            _add_current_folder()
        return architecture(_read(Path(text)), trusted) if in_text else read_architecture(text, trusted)
    if ":" not in text:
        raise ArgumentError(f"SPEC: {text!r} is neither a .json or .toml file, nor a model file, nor module:object")
    _add_current_folder()
    found = resolve(text, (text.partition(":")[0], *trusted))
    if not isinstance(found, architectures()):
        kinds = ", ".join(kind.__name__ for kind in architectures())
        raise ArgumentError(f"SPEC: {text} is not a spec ({kinds}) but {checks.came(found)}")
    return found


def _is_model_file(text: str) -> bool:
    """Whether there is a file of that name, which is not a text."""
    return Path(text).suffix not in (".json", ".toml") and Path(text).is_file()


def _add_current_folder() -> None:
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def _read(path: Path) -> dict[str, object]:
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_CHARACTERS + 1)
        if len(content) > MOST_CHARACTERS:
            raise ArgumentError(f"SPEC: {path}: more than {MOST_CHARACTERS} bytes are no spec")
        toml = path.suffix == ".toml"
        data = tomllib.loads(content.decode()) if toml else read_json(f"SPEC: {path}", content)
    except OSError as error:
        raise ArgumentError(f"SPEC: cannot read {path}: {error.strerror}") from error
    except RnncError:
        raise
    except (ValueError, RecursionError) as error:  # raised by the parser of TOML and the decoder
        raise ArgumentError(f"SPEC: {path}: {error}") from error
    if not isinstance(data, dict):
        raise ArgumentError(f"SPEC: {path}: expected a table of arguments, got {checks.came(data)}")
    return data
