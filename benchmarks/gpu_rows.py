"""Rows of the table of benchmarks/gpu.py: one network, one kind of call, all contestants in turns on one stream.

Results are held against float64 first; who is off is not timed. Times are those between two CUDA events, so that what
the host is too slow for counts, and shows beside the same call as a CUDA graph.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import rnnc
from benchmarks.gpu_peers import NamedArrays, TorchPeer
from benchmarks.timing import Clock, Timed, race
from rnnc.backends import cuda
from tests.pairwise import covering
from tests.user_cells import MinimalGatedUnit

CELLS = ("lstm", "gru", "rnn", "minimal_gated_unit")
SIZES: dict[str, Sequence[Any]] = {
    "cell": CELLS,
    "hidden": (128, 256, 512, 1024, 2048),
    "batch": (1, 4, 16, 64, 128),
    "steps": (25, 100, 384, 1024),
    "operands": (None, "tf32", "float16", "bfloat16"),
}
VERIFIED = 1 << 26
"""Elements of x on which results are verified, at most; longer sequences are cut short for it."""
TOLERANCE = {None: 1e-4, "tf32": 1e-2, "float16": 1e-2, "bfloat16": 5e-2}
"""Of the largest magnitude in each array; training steps, which sum over many rows, are allowed four times as much."""


@dataclass(frozen=True)
class Config:
    """One row. operands: what tensor cores take, or None for float32."""

    cell: str
    hidden: int
    batch: int
    steps: int
    operands: str | None = None
    training: bool = False

    @property
    def title(self) -> str:
        kind = "training" if self.training else "forward"
        return f"{self.cell} H{self.hidden} B{self.batch} T{self.steps} {self.operands or 'float32'} {kind}"

    @property
    def tolerance(self) -> float:
        return TOLERANCE[self.operands] * (4 if self.training else 1)

    @property
    def verified_steps(self) -> int:
        return min(self.steps, max(8, VERIFIED // (self.batch * self.hidden)))

    def spec(self, dtype: str = "float32") -> Any:
        make: dict[str, Callable[..., Any]] = {"rnn": rnnc.RNN, "gru": rnnc.GRU, "lstm": rnnc.LSTM}
        if self.cell in make:
            return make[self.cell](self.hidden, self.hidden, dtype=dtype)
        return rnnc.Recurrent(MinimalGatedUnit(), self.hidden, self.hidden, dtype=dtype)


QUICK = (
    Config("lstm", 768, 16, 1024, "float16"),
    Config("lstm", 256, 1, 384),
    Config("lstm", 1024, 16, 100),
    Config("gru", 512, 64, 100, "tf32"),
    Config("rnn", 128, 4, 384),
    Config("lstm", 2048, 64, 25, "bfloat16"),
    Config("minimal_gated_unit", 512, 16, 100),
)


def every(full: bool, quick: bool) -> list[Config]:
    """Forward and training of each: all combinations, or such that all pairs of sizes meet, or a few."""
    if quick:
        found = list(QUICK)
    else:
        found = [Config(**choice) for choice in covering(SIZES, len(SIZES) if full else 2)]
    return [Config(**{**asdict(config), "training": training}) for config in found for training in (False, True)]


# ------------------------------------------------------------------------------------------ the data


@dataclass(frozen=True)
class Data:
    """params by name, and arrays: "x" (T, B, I), "state_0" and on (1, B, H), "d_output" (T, B, H); float32."""

    params: dict[str, NDArray[np.float32]]
    arrays: dict[str, NDArray[np.float32]]

    @staticmethod
    def of(config: Config) -> Data:
        rng = np.random.default_rng(0)
        bound = config.hidden**-0.5
        spec = config.spec()
        shapes = dict(spec.parameter_shapes())
        params = {name: rng.uniform(-bound, bound, shape).astype(np.float32) for name, shape in shapes.items()}
        timed = (config.steps, config.batch, config.hidden)
        arrays = {"x": rng.standard_normal(timed, np.float32)}
        for number, width in enumerate(spec.states.values()):
            arrays[f"state_{number}"] = rng.uniform(-1, 1, (1, config.batch, width)).astype(np.float32)
        arrays["d_output"] = rng.standard_normal(timed, np.float32)
        return Data(params, arrays)

    def first(self, steps: int) -> Data:
        """The same, of so many steps."""
        return Data(self.params, {n: a if n.startswith("state") else a[:steps] for n, a in self.arrays.items()})


# ------------------------------------------------------------------------------------------ rnnc


class Ours:
    """rnnc, as a user calls it with arrays on the GPU; it is compiled once, for data of any length."""

    def __init__(self, config: Config, data: Data, stream: Any) -> None:
        self.config, self.stream = config, stream
        self._up = cuda.arrays.from_host
        options = {"backend": "cuda", "matmul": config.operands}
        make: Any = rnnc.vjp if config.training else rnnc.compile
        self.program: Any = make(config.spec(), **options)
        with stream:  # whatever is queued elsewhere, this stream would not wait for
            self.params = {name: self._up(array) for name, array in data.params.items()}
            self._bound = self.program if config.training else self.program.bind(self.params)

    def calls(self, data: Data) -> Callable[[], Any]:
        """What is timed."""
        with self.stream:
            arrays = {name: self._up(array) for name, array in data.arrays.items()}
        states = tuple(array for name, array in arrays.items() if name.startswith("state"))
        x, state, bound = arrays["x"], states if len(states) > 1 else states[0], self._bound
        if not self.config.training:
            return lambda: bound(x, state)

        def step() -> Any:
            (output, _), pullback = bound(self.params, x, state)
            return output, pullback(arrays["d_output"])

        return step

    def around(self) -> AbstractContextManager[Any]:
        found: AbstractContextManager[Any] = self.stream
        return found

    def result(self, data: Data) -> NamedArrays:
        with self.around():
            output, others = self.calls(data)()
            if self.config.training:
                d_params, d_x, d_state = others
                states = d_state if isinstance(d_state, tuple) else (d_state,)
                named = {f"d_{name}": array for name, array in d_params.items()} | {"d_x": d_x}
                named |= {f"d_state_{i}": array for i, array in enumerate(states)}
            else:
                states = others if isinstance(others, tuple) else (others,)
                named = {f"state_{i}": array for i, array in enumerate(states)}
            return {name: cuda.arrays.to_host(array) for name, array in ({"output": output} | named).items()}

    def graph(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """The call as a CUDA graph, in memory of its own; see `rnnc.backends.cuda.run.device.CupyDevice`."""
        xp = cuda.arrays.xp
        pool = xp.cuda.MemoryPool()
        with xp.cuda.using_allocator(pool.malloc), self.stream:
            call()
            self.stream.begin_capture()
            try:
                kept = call()
            finally:
                graph = self.stream.end_capture()
        keep = (pool, kept, call)

        def launch(keep: Any = keep) -> None:
            graph.launch(self.stream)

        return launch

    def estimate(self) -> float | None:
        """Microseconds a step by the schedule's model: of all recurrences, one after the other."""
        found = re.findall(r"estimated ([\d.]+) us per step", self.program.explain())
        return sum(map(float, found)) if found else None


# ------------------------------------------------------------------------------------------ a row


@dataclass(frozen=True)
class Contestant:
    """Timed by events on CuPy's stream, whatever the clock of the race."""

    call: Callable[[], object]
    around: Callable[[], AbstractContextManager[Any]]
    stream: Any

    def sample(self, calls: int, clock: Clock) -> float:
        """Seconds a call."""
        events = cuda.arrays.xp.cuda
        start, end = events.Event(), events.Event()
        with self.around():
            start.record(self.stream)
            for _ in range(calls):
                self.call()
            end.record(self.stream)
        end.synchronize()
        return float(events.get_elapsed_time(start, end)) / 1e3 / calls


class Row:
    """Who takes part, what was wrong with the others, and the times."""

    def __init__(self, config: Config, peers: Sequence[str]) -> None:
        self.config, self.peers = config, peers
        self.entries: dict[str, Timed] = {}
        self.errors: dict[str, float] = {}
        self.notes: dict[str, str] = {}
        self.stream = cuda.arrays.xp.cuda.Stream(non_blocking=True)
        self.data = Data.of(config)
        self.short = self.data.first(config.verified_steps)
        self.estimate: float | None = None

    @contextmanager
    def _noted(self, who: str) -> Iterator[None]:
        """One that fails does not end the others."""
        try:
            yield
        except Exception as failure:
            self.notes[who] = f"{type(failure).__name__}: {failure}".splitlines()[0][:200]

    def run(self, rounds: int) -> dict[str, Any]:
        exact = self._exact()
        with self._noted("rnnc"):
            self._enter_ours(exact)
        if "torch" in self.peers:
            for name, compiled in (("torch", False), ("torch.compile", True)):
                if not compiled or "compile" in self.peers:
                    with self._noted(name):
                        self._enter_torch(name, compiled, exact)
        timings = race(self.entries, rounds, lambda: 0.0) if self.entries else {}
        return {
            "config": asdict(self.config),
            "title": self.config.title,
            "seconds": {name: asdict(timing) for name, timing in timings.items()},
            "errors": self.errors,
            "notes": self.notes,
            "estimate_us": self.estimate,
        }

    def _exact(self) -> NamedArrays:
        """PyTorch's in float64, or without it the reference backend's."""
        if "torch" in self.peers:
            return self._peer("float64", self.short, False, None).result()
        return reference_result(self.config, self.short)

    def _verified(self, who: str, found: NamedArrays, exact: NamedArrays) -> bool:
        self.errors[who] = worst(found, exact)
        good = self.errors[who] <= self.config.tolerance
        if not good:
            self.notes[who] = f"off by {self.errors[who]:.2g} relative to float64, {self.config.tolerance:g} is allowed"
        return good

    def _enter_ours(self, exact: NamedArrays) -> None:
        ours = Ours(self.config, self.data, self.stream)
        self.estimate = ours.estimate()
        if not self._verified("rnnc", ours.result(self.short), exact):
            return
        call = ours.calls(self.data)
        self.entries["rnnc"] = Contestant(call, ours.around, self.stream)
        with self._noted("rnnc graph"):
            self.entries["rnnc graph"] = Contestant(ours.graph(call), nullcontext, self.stream)

    def _enter_torch(self, name: str, compiled: bool, exact: NamedArrays) -> None:
        short = self._peer(self.config.operands, self.short, compiled, self.stream)
        if self._verified(name, short.result(), exact):
            peer = self._peer(self.config.operands, self.data, compiled, self.stream)
            self.entries[name] = Contestant(peer.call, peer.around, self.stream)
            if not compiled:
                with self._noted("torch graph"), peer.around():
                    self.entries["torch graph"] = Contestant(peer.graph(), peer.around, self.stream)

    def _peer(self, operands: str | None, data: Data, compiled: bool, stream: Any) -> TorchPeer:
        training = self.config.training
        return TorchPeer(
            self.config.cell, data.params, data.arrays, operands, training=training, compiled=compiled, stream=stream
        )


def reference_result(config: Config, data: Data) -> NamedArrays:
    """By rnnc's reference backend in float64."""
    double = {name: array.astype(np.float64) for name, array in data.arrays.items()}
    params = {name: array.astype(np.float64) for name, array in data.params.items()}
    states = tuple(array for name, array in double.items() if name.startswith("state"))
    state, spec = states if len(states) > 1 else states[0], config.spec("float64")
    if not config.training:
        output, last = rnnc.compile(spec, params, backend="reference")(double["x"], state)
        lasts = last if isinstance(last, tuple) else (last,)
        return {"output": output} | {f"state_{i}": array for i, array in enumerate(lasts)}
    (output, _), pullback = rnnc.vjp(spec, backend="reference")(params, double["x"], state)
    d_params, d_x, d_state = pullback(double["d_output"])
    found = {"output": output, "d_x": d_x} | {f"d_{name}": array for name, array in d_params.items()}
    changes = d_state if isinstance(d_state, tuple) else (d_state,)
    return found | {f"d_state_{i}": array for i, array in enumerate(changes)}


def worst(found: Mapping[str, Any], exact: Mapping[str, Any]) -> float:
    """The largest error over all arrays, each relative to its largest magnitude."""
    if found.keys() != exact.keys():
        raise AssertionError(f"results {sorted(found)}, expected {sorted(exact)}")
    errors = [np.max(np.abs(found[n].astype(np.float64) - v)) / np.max(np.abs(v)) for n, v in exact.items()]
    return float("inf") if not np.isfinite(errors).all() else float(max(errors))


def measure(config: Config, peers: Sequence[str], rounds: int) -> dict[str, Any]:
    """A row of the table, as plain data. Memory is given back."""
    try:
        return Row(config, peers).run(rounds)
    finally:
        cuda.arrays.xp.get_default_memory_pool().free_all_blocks()
        if "torch" in peers:
            import torch

            torch.cuda.empty_cache()
