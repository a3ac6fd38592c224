"""Real models as libraries: what they weigh, how far they are from their own programs, and what a frame takes."""

from __future__ import annotations

import ctypes
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import rnnc
from benchmarks.exported import runners
from benchmarks.exported.matrix import largest_error, shown
from benchmarks.exported.nets import LSTM_SIZES, Net, amplifier_json
from benchmarks.exported.programs import Given, at_once, write_given
from benchmarks.timing import Contestant, Timed, race
from rnnc.exporting.sizes import sizes

TURN = 0.02
"""Seconds."""


@dataclass(frozen=True)
class Weight:
    """Bytes of code, of constants, and of a state. code: None where they are not told apart (WebAssembly)."""

    code: int | None
    constants: int
    state: int


@dataclass(frozen=True)
class Row:
    """A net on a target. step, piece: a frame of steps, and of one call on all frames, in nanoseconds or, under QEMU,
    instructions. piece: None if the net gives one value per sequence."""

    net: str
    frame: str
    target: str
    weight: Weight
    error: float
    tolerance: float
    step: float
    piece: float | None
    unit: str
    peers: Mapping[str, float]


class Racing:
    """The libraries of a net, and its peers, take turns in one race; those under QEMU count instructions."""

    def __init__(self, net: Net, folder: Path, targets: Sequence[str]) -> None:
        self.net, self.folder = net, folder
        made = rnnc.export(net.model, folder, "net", targets=list(targets))
        self.api, self.given = made.interface, Given((np.ascontiguousarray(net.x),))
        write_given(folder, self.api, self.given)
        self.targets, self.frames = targets, len(net.x)

    def rows(self, rounds: int, peers: Mapping[str, Timed]) -> list[Row]:
        """A row per target that can be run. Errors are known before anything is timed."""
        errors = {target: self._error(target) for target in self.targets}
        contestants: dict[str, Timed] = dict(peers) | {name: Contestant(call) for name, call in self.net.peers}
        for target in set(self.targets) - set(runners.EMULATED):
            loaded = (runners.wasmtime if target == "wasm32" else runners.native)(self.folder, target)
            contestants[f"{target} step"] = runners.Repeated(loaded.by_steps)
            if at_once(self.api):
                contestants[f"{target} piece"] = runners.Repeated(loaded.at_once)
        times = race(contestants, rounds, time.thread_time, TURN) if contestants else {}
        found = {name: timing.median * 1e9 / self.frames for name, timing in times.items()}
        for target in set(self.targets) & set(runners.EMULATED):
            runner = runners.EMULATED[target]
            found[f"{target} step"] = runner.instructions(self.folder, target, steps=1) / self.frames
            if at_once(self.api):
                found[f"{target} piece"] = runner.instructions(self.folder, target, runs=1) / self.frames
        others = {name: found[name] for name in contestants if name.partition(" ")[0] not in self.targets}
        return [self._row(target, errors[target], found, others) for target in self.targets]

    def _row(self, target: str, error: float, found: Mapping[str, float], peers: Mapping[str, float]) -> Row:
        unit = "instructions" if target in runners.EMULATED else "ns"
        step, piece = found[f"{target} step"], found.get(f"{target} piece")
        net, shown_peers = self.net, peers if target in runners.NATIVE else {}
        weight = _weight(self.folder / target, self.api.state_bytes)
        return Row(net.name, net.frame, target, weight, error, net.tolerance, step, piece, unit, shown_peers)

    def _error(self, target: str) -> float:
        want = self.net.want
        found = runners.run(self.folder, target, want.size * self.api.item)
        return largest_error(shown(found, self.api, self.given, want.shape), want)


def measured(
    nets: Sequence[Callable[[], Net]], targets: Sequence[str], rounds: int, rtneural: Path | None
) -> list[Row]:
    """Rows of all nets. rtneural: a checkout of RTNeural, to race its static models. Raises Lacking."""
    rows = []
    with TemporaryDirectory() as folder:
        peers = {} if rtneural is None else _rtneural(rtneural, Path(folder))
        for make in nets:
            net = make()
            own = {name: peer(net) for name, peer in peers.items() if name[0] == net.name}
            racing = Racing(net, Path(folder) / net.name.replace(" ", "-"), targets)
            rows += racing.rows(rounds, {shown_name: timed for (_, shown_name), timed in own.items()})
    return rows


def _weight(folder: Path, state: int) -> Weight:
    content = (folder / "net.o").read_bytes()
    if not content.startswith(b"\x7fELF"):
        return Weight(None, (folder / "net.wasm").stat().st_size, state)
    found = sizes(content)
    code = sum(size.bytes for size in found if size.is_code)
    return Weight(code, sum(size.bytes for size in found) - code, state)


Peer = Callable[[Net], Timed]


def _rtneural(checkout: Path, folder: Path) -> dict[tuple[str, str], Peer]:
    """(net, name of a peer) -> RTNeural's own, for the two ways to compile it that it recommends."""
    found: dict[tuple[str, str], Peer] = {}
    for name, flag in (("RTNeural, Eigen", "EIGEN"), ("RTNeural, STL", "STL")):
        out = folder / f"rtneural-{flag}.so"
        source = Path(__file__).with_name("rtneural.cpp")
        flags = ["-std=c++17", "-O3", "-march=native", "-w", f"-DRTNEURAL_USE_{flag}=1", "-shared", "-fPIC"]
        flags += ["-DRTNEURAL_DEFAULT_ALIGNMENT=32", f"-I{checkout}", f"-I{checkout / 'modules' / 'Eigen'}"]
        flags += [f"-I{checkout / 'modules' / 'json'}", f"-I{checkout / 'RTNeural'}"]
        subprocess.run(["c++", *flags, str(source), "-o", str(out)], check=True)
        for size in LSTM_SIZES:
            found[f"LSTM {size}, dense", name] = partial(_loaded, path=out, size=size)
    return found


def _loaded(net: Net, path: Path, size: int) -> Timed:
    """A static model with the net's weights, which gives what the net does."""
    library: Any = ctypes.CDLL(str(path))
    weights = path.with_suffix(f".{size}.json")
    weights.write_text(amplifier_json(size))
    x = np.ascontiguousarray(net.x)
    library.rtneural_given(x.ctypes.data_as(ctypes.c_void_p), len(x))
    getattr(library, f"load_{size}")(str(weights).encode())
    run, results = getattr(library, f"by_steps_{size}"), getattr(library, f"results_{size}")
    results.restype = ctypes.POINTER(ctypes.c_float)
    run(1)
    found = np.ctypeslib.as_array(results(), (len(x),))
    np.testing.assert_allclose(found, net.want[:, 0], atol=2e-3)  # its tanh is a rational function

    def call(times: int) -> int:
        return int(run(times)) if x is not None else 0  # keeps x

    return runners.Repeated(call)


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    heads = "net | target | run by | code, B | constants, B | state, B | error | per | by steps | at once | peers"
    lines = [f"| {heads} |", "|---" * 11 + "|"]
    for row in rows:
        weight, wrong = row.weight, "" if row.error <= row.tolerance else " WRONG"
        code = "-" if weight.code is None else f"{weight.code:,}"
        peers = ", ".join(f"{name} {value:,.0f}" for name, value in row.peers.items())
        piece = "-" if row.piece is None else f"{row.piece:,.0f}"
        cells = (row.net, row.target, runners.how(row.target), code, f"{weight.constants:,}", f"{weight.state:,}")
        rest = (f"{row.error:.0e}{wrong}", row.frame, f"{row.step:,.0f} {row.unit}", piece, peers)
        lines.append(f"| {' | '.join((*cells, *rest))} |")
    return "\n".join(lines)
