"""`rnnc bench`: the time of a call for several lengths and batches, beside NumPy's or PyTorch's in turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc import extras
from rnnc.checking import checks
from rnnc.cli.common import add_backend, add_spec
from rnnc.cli.parser import add_command
from rnnc.cli.specs import load_model
from rnnc.cli.timing import duration, example, timed
from rnnc.ir.errors import ArgumentError
from rnnc.programs import check_spec, compile
from rnnc.specs import Spec

if TYPE_CHECKING:
    import argparse

    from rnnc.cli.parser import Commands

Call = Callable[[Any], Any]
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}


def add(commands: Commands) -> None:
    """Declares the command."""
    parser = add_command(
        commands,
        "bench",
        _run,
        help="time a recurrent spec for several lengths and batches, beside others",
        description="Time calls of a recurrent spec. Peers are called in turns with it, in this process, after their "
        "results\nhave been compared. Times are medians of wall time.",
        examples=[
            "rnnc bench spec.toml",
            "rnnc bench spec.toml --time-steps 1,100 --batch 1,32 --threads 1",
            "rnnc bench spec.toml --against torch --against reference",
        ],
    )
    add_spec(parser)
    parser.add_argument("--time-steps", default="1,100", metavar="T,...", help="lengths (default 1,100)")
    parser.add_argument("--batch", default="1,16", metavar="B,...", help="batches (default 1,16)")
    parser.add_argument(
        "--against", action="append", default=[], choices=tuple(PEERS), help="a peer; several if repeated"
    )
    parser.add_argument("--seconds", type=float, default=0.5, help="time per row and peer (default 0.5)")
    add_backend(parser)


def _run(options: argparse.Namespace) -> int:
    spec = check_spec(load_model(options.spec, options.trust))
    lengths, batches = _numbers("--time-steps", options.time_steps), _numbers("--batch", options.batch)
    if not 0 < options.seconds < 1e4:
        raise ArgumentError(f"--seconds: expected a positive number, got {options.seconds}")
    params = spec.init(seed=0)
    calls: dict[str, Call] = {"rnnc": compile(spec, params, backend=options.backend, threads=options.threads)}
    calls |= {name: PEERS[name](spec, params, options.threads) for name in options.against}
    print(f"{spec}, backend {options.backend}\n")
    print(f"{'T':>6} {'B':>5} {'per call':>10} {'per step':>10}" + "".join(f"{name:>20}" for name in list(calls)[1:]))
    agree, tolerance = True, TOLERANCE[str(spec.dtype)]
    for steps in lengths:
        for batch in batches:
            x = example(spec, steps, batch)
            worst = _worst(calls, x)
            agree = agree and worst <= tolerance
            times = _in_turns(calls, x, options.seconds)
            own = times["rnnc"]
            others = "".join(f"{f'{duration(t)} ({t / own:.2f}x)':>20}" for n, t in times.items() if n != "rnnc")
            note = "" if worst <= tolerance else f"   differs by {worst:.1e}"
            print(f"{steps:>6} {batch:>5} {duration(own):>10} {duration(own / steps):>10}{others}{note}", flush=True)
    return int(not agree)


def _numbers(option: str, text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise ArgumentError(f"{option}: expected integers with commas, such as 1,100; got {text!r}") from None
    return [checks.integer(option, number, 1) for number in found]


def _worst(calls: dict[str, Call], x: Any) -> float:
    """The largest difference of any output from rnnc's."""
    found = [np.asarray(call(x)[0]) for call in calls.values()]
    return max((float(np.abs(other - found[0]).max()) for other in found[1:]), default=0.0)


def _in_turns(calls: dict[str, Call], x: Any, seconds: float) -> dict[str, float]:
    """The median of each. The number of calls is that which fits the slowest."""
    slowest = max(timed(lambda call=call: call(x))[0] for call in calls.values())  # type: ignore[misc]
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(max(3, min(10_000, int(seconds / slowest)))):
        for name, call in calls.items():
            times[name].append(timed(lambda call=call: call(x))[0])  # type: ignore[misc]
    return {name: statistics.median(found) for name, found in times.items()}


def _reference(spec: Spec, params: dict[str, Any], threads: int | None) -> Call:
    return compile(spec, params, backend="reference")


def _torch(spec: Spec, params: dict[str, Any], threads: int | None) -> Call:
    """PyTorch's module of the same kind, with the same parameters."""
    torch: Any = extras.load("torch", "comparisons with PyTorch", "torch")
    data = spec.to_dict()
    kind, reset_after = str(data.pop("type")), data.pop("reset_after", True)
    if not hasattr(torch.nn, kind) or not reset_after:
        raise ArgumentError(f"--against torch: PyTorch has no module for {spec}")
    dtype = getattr(torch, str(data.pop("dtype", "float32")))
    try:
        module = getattr(torch.nn, kind)(**data).to(dtype)
    except TypeError as error:
        raise ArgumentError(f"--against torch: PyTorch has no module for {spec} ({error})") from None
    module.load_state_dict({name: torch.from_numpy(array) for name, array in params.items()})
    if threads is not None:
        torch.set_num_threads(threads)

    def call(x: Any) -> Sequence[Any]:
        with torch.inference_mode():
            output = module(torch.from_numpy(x))
        return (output[0].numpy(), output[1])

    return call


PEERS: dict[str, Callable[[Spec, dict[str, Any], int | None], Call]] = {"torch": _torch, "reference": _reference}
"""What rnnc may be timed beside: name -> the function that makes its call."""
