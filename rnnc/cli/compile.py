"""`rnnc compile`: compiles a spec, a network or an edited text, times every part of it, and writes a model file."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnc.checking import checks
from rnnc.cli.common import SPEC_HELP, add_backend, add_trust, chosen
from rnnc.cli.parser import add_command
from rnnc.cli.specs import load_model, steps_of_model
from rnnc.cli.timing import call_seconds, duration, example, timed
from rnnc.compiled import Compiled, CompileOptions
from rnnc.computations import forward
from rnnc.ir.errors import ArgumentError, FileError
from rnnc.ir.pipeline import PIPELINE, SHARED_STAGES, UNROLLED_STAGES, Artefacts
from rnnc.programs import Program
from rnnc.specs import Spec

if TYPE_CHECKING:
    import argparse

    from rnnc.cli.parser import Commands
    from rnnc.files.models import Architecture

Row = tuple[str, float, str]
"""A label, seconds, and a note."""

DESCRIPTION = """\
Compile a spec, a network, a model file or an .onnx file, and time every part of it, from the import to a call.

--weights and --output make a model file of a spec or network and its weights, which rnnc.load and `rnnc run` read.
--from compiles the text of a stage, such as one that `rnnc inspect` has printed and you have changed. Its inputs and
outputs are held against those of SPEC; without SPEC they may be any.
"""


def add(commands: Commands) -> None:
    """Declares the command."""
    parser = add_command(
        commands,
        "compile",
        _run,
        help="compile a spec, a network or an edited dump, and time every part of it",
        description=DESCRIPTION,
        examples=[
            "rnnc compile spec.toml",
            "rnnc compile spec.toml --time-steps 100 --batch 16 --threads 1",
            "rnnc compile network.json --weights trained.safetensors --output model.rnnc",
            "rnnc inspect spec.toml --stage rolled > edited.txt; rnnc compile spec.toml --from rolled edited.txt",
        ],
    )
    parser.add_argument("spec", metavar="SPEC", nargs="?", help=f"{SPEC_HELP}, or an .onnx file")
    parser.add_argument("--from", nargs=2, metavar=("STAGE", "FILE"), dest="start", help="compile the text of a stage")
    parser.add_argument("--weights", metavar="FILE", help=".safetensors, .npz, PyTorch, Keras or ONNX: the parameters")
    parser.add_argument("--prefix", metavar="TEXT", help="of the names in that file: take only those, without it")
    parser.add_argument("--output", metavar="FILE", help="a model file to write, with --weights")
    parser.add_argument(
        "--time-steps", type=int, default=100, metavar="T", help="steps of the timed call (default 100)"
    )
    parser.add_argument("--batch", type=int, default=1, metavar="B", help="sequences in the timed call (default 1)")
    parser.add_argument("--repeat", type=int, default=0, metavar="N", help="timed calls (default: one second of them)")
    add_trust(parser)
    add_backend(parser)
    parser.words["start"] = (*UNROLLED_STAGES, SHARED_STAGES[-1])


def _run(options: argparse.Namespace) -> None:
    for name in ("time_steps", "batch", "repeat"):
        checks.integer(f"--{name.replace('_', '-')}", getattr(options, name), int(name != "repeat"))
    for name in ("output", "prefix"):
        if getattr(options, name) is not None and options.weights is None:
            raise ArgumentError(f"--{name}: goes with --weights FILE, the parameters")
    rows = _rows(options, chosen(options))
    for label, seconds, note in rows:
        print(f"  {label:<16}{duration(seconds):>12}   {note}".rstrip(), flush=True)


def _rows(options: argparse.Namespace, compiling: CompileOptions) -> Iterator[Row]:
    """What is compiled, by what the arguments name."""
    if options.spec is None:
        if options.start is None or options.weights is not None:
            raise ArgumentError(
                "SPEC: expected a spec, a network or a model file; without one, --from STAGE FILE alone"
            )
        return _alone(options.start[0], options.start[1], compiling)
    if Path(options.spec).suffix == ".onnx":
        return _onnx(options, compiling)
    model = load_model(options.spec, options.trust)
    print(f"{_shown(model)}, backend {options.backend}\n")
    if isinstance(model, Spec):
        return _spec(model, options, compiling)
    if options.start is not None:
        raise ArgumentError(f"--from: goes with a recurrent spec, or without SPEC, got {checks.came(model)}")
    return _network(model, options, compiling)


def _shown(model: Architecture) -> str:
    text = str(model)
    return text if isinstance(model, Spec) or len(text) < 200 else type(model).__name__


# ---- a spec


def _spec(spec: Spec, options: argparse.Namespace, compiling: CompileOptions) -> Iterator[Row]:
    """The parts in the order in which they run."""
    yield "import rnnc", _import_seconds(), "in a new interpreter"
    from rnnc import backends

    seconds, _ = timed(lambda: backends.get(compiling.backend))
    yield "load backend", seconds, "its modules and libraries"
    if options.start is not None:
        seconds, program = timed(lambda: Program(spec, compiling).with_stage(options.start[0], _text(options.start[1])))
        yield "compile()", seconds, f"from {options.start[0]} of {options.start[1]}"
    else:
        shared = 0.0
        for label, seconds in _shared_timings(spec):
            shared += seconds
            yield label, seconds, ""
        seconds, program = timed(lambda: Program(spec, compiling))
        again = sum(seconds for _, seconds in _shared_timings(spec))
        codegen = max(seconds - again, 0.0)
        yield "codegen", codegen, "the rest of compile()"
        yield "compile()", shared + codegen, "the four above"
    parameters = _weights(options) or spec.init(seed=0)
    seconds, model = timed(lambda: program.bind(parameters))
    yield "bind", seconds, ""
    yield from _call_rows(model, example(spec, options.time_steps, options.batch), options)
    yield from _written(spec, parameters, options)


def _shared_timings(spec: Spec) -> Iterator[tuple[str, float]]:
    """The label and seconds of the stages before any backend, on the template steps."""
    made = Artefacts(PIPELINE, forward(spec))
    for label, stage in zip(("lower", "optimize", "roll"), SHARED_STAGES, strict=True):
        yield label, timed(lambda stage=stage: made[stage])[0]  # type: ignore[misc]


def _call_rows(call: Any, x: Any, options: argparse.Namespace) -> Iterator[Row]:
    seconds, _ = timed(lambda: call(x))
    yield "first call", seconds, f"T = {options.time_steps}, B = {options.batch}"
    times = call_seconds(lambda: call(x), options.repeat)
    middle = statistics.median(times)
    note = f"{duration(middle / options.time_steps)} per step; median of {len(times)}, best {duration(min(times))}"
    yield "a call", middle, note


def _import_seconds() -> float:
    """Seconds of `import rnnc` in a new interpreter, with the path of this one and not first the current folder."""
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; import time; t = time.perf_counter(); import rnnc; "
        "print(time.perf_counter() - t)"
    )
    command = [sys.executable, "-c", code]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


# ---- networks, and texts


def _network(model: Architecture, options: argparse.Namespace, compiling: CompileOptions) -> Iterator[Row]:
    parameters = _weights(options)
    if parameters is None:
        seconds, _ = timed(lambda: Compiled(steps_of_model(model), compiling))
        yield "compile()", seconds, "without parameters; give --weights to bind some"
        return
    made: Any = model
    seconds, _ = timed(lambda: made.compile(parameters, backend=compiling.backend, threads=compiling.threads))
    yield "compile()", seconds, "with parameters"
    yield from _written(model, parameters, options)


def _onnx(options: argparse.Namespace, compiling: CompileOptions) -> Iterator[Row]:
    from rnnc.onnx.network import from_onnx

    if options.weights is not None or options.start is not None:
        raise ArgumentError("--weights, --from: an .onnx file has its own weights and is compiled as a whole")
    print(f"{options.spec}, backend {options.backend}\n")
    seconds, _ = timed(lambda: from_onnx(options.spec, backend=compiling.backend, threads=compiling.threads))
    yield "compile()", seconds, "read, compiled and bound"


def _alone(stage: str, file: str, compiling: CompileOptions) -> Iterator[Row]:
    from rnnc.ir.edited import edited

    print(f"{stage} of {file}, backend {compiling.backend}\n")
    seconds, computation = timed(lambda: edited(stage, _text(file)))
    yield "parse", seconds, ""
    seconds, _ = timed(lambda: Compiled(computation, compiling))
    yield "compile()", seconds, "a text alone has no parameters; give SPEC to call it"


# ---- files


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"--from: {path}: cannot be read as text: {error}") from error


def _weights(options: argparse.Namespace) -> dict[str, Any] | None:
    """The parameters in the file that --weights names."""
    if options.weights is None:
        return None
    from rnnc.files.weights import load_weights, take

    found = load_weights(options.weights)
    return found if options.prefix is None else take(found, options.prefix)


def _written(model: Architecture, parameters: dict[str, Any], options: argparse.Namespace) -> Iterator[Row]:
    if options.output is not None:
        from rnnc.files.models import save

        seconds, _ = timed(lambda: save(options.output, model, parameters))
        yield "write", seconds, f"{options.output}, {Path(options.output).stat().st_size:,} bytes"
