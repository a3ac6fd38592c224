"""What runs exported code: this processor, QEMU's processors, its Cortex-M board, and wasmtime.

On Debian: apt install clang lld gcc-aarch64-linux-gnu gcc-riscv64-linux-gnu gcc-arm-linux-gnueabihf gcc-arm-none-eabi
libnewlib-arm-none-eabi qemu-user qemu-system-arm; pip install wasmtime
"""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from benchmarks.exported.programs import SCRATCH_BYTES
from benchmarks.timing import Clock

HERE = Path(__file__).parent
CORTEX = HERE.parents[1] / "examples" / "export" / "cortex_m"
_PROGRAM, _PLUGIN = HERE / "program.c", HERE / "counting.c"
_FLAGS = ("-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", f"-DSCRATCH_BYTES={SCRATCH_BYTES}")

Results = tuple[bytes, bytes]
"""The outputs that program.c has after its steps, and after one call for all."""


class Lacking(Exception):
    """A tool is not installed."""


@dataclass(frozen=True)
class Loaded:
    """program.c in this process. by_steps, at_once: run all frames so many times; return 0, or what a call returned."""

    by_steps: Callable[[int], int]
    at_once: Callable[[int], int]
    outputs: Callable[[int], bytes]

    def results(self, size: int) -> Results:
        """Both results, of so many bytes."""
        found = []
        for run in (self.by_steps, self.at_once):
            assert (code := run(1)) == 0, f"the library returned {code}"
            found.append(self.outputs(size))
        return found[0], found[1]


@dataclass(frozen=True)
class Repeated:
    """A contestant of a race whose calls are a loop of C. call: does the work so many times."""

    call: Callable[[int], int]

    def sample(self, calls: int, clock: Clock) -> float:
        """Seconds per call."""
        start = clock()
        assert self.call(calls) == 0
        return (clock() - start) / calls


def native(folder: Path, target: str) -> Loaded:
    """program.c with the archive of a target of this processor. Raises Lacking."""
    _need("cc")
    if not target.startswith("x86-64") or platform.machine() != "x86_64":
        raise Lacking("another processor")
    out = folder / target / "program.so"
    archive = folder / target / "libnet.a"
    _do("cc", *_FLAGS, "-shared", "-fPIC", f"-I{folder}", _PROGRAM, archive, "-o", out)
    library = ctypes.CDLL(str(out))
    library.results.restype = ctypes.c_void_p
    return Loaded(library.by_steps, library.at_once, lambda size: ctypes.string_at(library.results(), size))


def wasmtime(folder: Path, target: str = "wasm32") -> Loaded:
    """program.c with the object file, in wasmtime. Raises Lacking."""
    _need("clang", "wasm-ld")
    if find_spec("wasmtime") is None:
        raise Lacking("wasmtime: pip install wasmtime")
    engine: Any = __import__("wasmtime")
    made, out = folder / target / "program.o", folder / target / "program.wasm"
    _do("clang", *_FLAGS, "--target=wasm32", "-ffreestanding", f"-I{folder}", "-c", _PROGRAM, "-o", made)
    names = ("by_steps", "at_once", "results")
    exports = [f"--export={name}" for name in names]
    _do("wasm-ld", "--no-entry", *exports, made, folder / target / "net.o", "-o", out)
    store = engine.Store()
    module = engine.Module.from_file(store.engine, str(out))
    assert not module.imports, "the library needs something of its surroundings"
    found = engine.Instance(store, module, []).exports(store)

    def outputs(size: int) -> bytes:
        start = found["results"](store)
        return bytes(found["memory"].read(store, start, start + size))

    return Loaded(lambda n: int(found["by_steps"](store, n)), lambda n: int(found["at_once"](store, n)), outputs)


@dataclass(frozen=True)
class Emulated:
    """A processor of QEMU. compiler, flags: what builds its programs. runner: what runs one, named last."""

    compiler: str
    flags: tuple[str, ...]
    runner: tuple[str, ...]

    def results(self, folder: Path, target: str) -> Results:
        """Both results. Raises Lacking."""
        text, _ = self._run(folder, target, 0, 0, counted=False)
        first, second = text.split()
        return bytes.fromhex(first), bytes.fromhex(second)

    def instructions(self, folder: Path, target: str, *, steps: int = 0, runs: int = 0) -> float:
        """Instructions per call of by_steps (steps=1) or at_once (runs=1). Raises Lacking."""
        few, many = (self._run(folder, target, n * steps, n * runs, counted=True)[1] for n in (1, 5))
        return (many - few) / 4

    def _run(self, folder: Path, target: str, steps: int, runs: int, *, counted: bool) -> tuple[str, int]:
        _need(self.compiler, self.runner[0])
        out = folder / target / "program"
        more = (f"-DSTEPS_MORE={steps}", f"-DRUNS_MORE={runs}", "-DHOSTED", f"-I{folder}")
        sources = (_PROGRAM, folder / target / "libnet.a")
        _do(self.compiler, *_FLAGS, *more, *sources, *self.flags, "-o", out)
        plugin = ("-plugin", str(_plugin())) if counted else ()
        run = subprocess.run([self.runner[0], *plugin, *self.runner[1:], out], capture_output=True, text=True)
        assert run.returncode == 0, f"{target}: the program returned {run.returncode}: {run.stderr}"
        return run.stdout, int(run.stderr.rpartition("instructions:")[2]) if counted else 0


_CORTEX_CPU, _FPU = ("-mcpu=cortex-m4", "-mthumb"), ("-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")
_CORTEX_LIBRARIES = ("--specs=rdimon.specs", "-nostartfiles", f"-T{CORTEX / 'link.ld'}", "-lc", "-lrdimon")
_CORTEX_FLAGS = (*_CORTEX_CPU, str(CORTEX / "startup.c"), *_CORTEX_LIBRARIES)
_WITHOUT_FPU = "-mfloat-abi=soft"
_BOARD = ("qemu-system-arm", "-machine", "mps2-an386", "-nographic", "-semihosting-config", "enable=on,target=native")

EMULATED = {
    "aarch64": Emulated("aarch64-linux-gnu-gcc", ("-static",), ("qemu-aarch64",)),
    "aarch64-dotprod": Emulated("aarch64-linux-gnu-gcc", ("-static",), ("qemu-aarch64", "-cpu", "max")),
    "armv7": Emulated("arm-linux-gnueabihf-gcc", ("-static",), ("qemu-arm",)),
    "riscv64": Emulated("riscv64-linux-gnu-gcc", ("-static",), ("qemu-riscv64",)),
    "riscv64-v": Emulated(
        "riscv64-linux-gnu-gcc", ("-static",), ("qemu-riscv64", "-cpu", "rv64,v=true,vlen=128,vext_spec=v1.0")
    ),
    "cortex-m4f": Emulated("arm-none-eabi-gcc", (*_FPU, *_CORTEX_FLAGS), (*_BOARD, "-kernel")),
    "cortex-m4": Emulated("arm-none-eabi-gcc", (_WITHOUT_FPU, *_CORTEX_FLAGS, "-lm"), (*_BOARD, "-kernel")),
}
"""Target -> what runs it under emulation."""

NATIVE = ("x86-64-v2", "x86-64-v3", "x86-64-v4")
TARGETS = (*NATIVE, *EMULATED, "wasm32")
"""All targets that are run here."""


def how(target: str) -> str:
    """What runs a target, in a word."""
    return "native" if target in NATIVE else "wasmtime" if target == "wasm32" else EMULATED[target].runner[0]


def run(folder: Path, target: str, size: int) -> Results:
    """Both results of program.c on a target, of so many bytes. Raises Lacking."""
    if target in EMULATED:
        return EMULATED[target].results(folder, target)
    return (wasmtime if target == "wasm32" else native)(folder, target).results(size)


@cache
def _plugin() -> Path:
    out = Path(gettempdir()) / f"rnnc-counting-{_PLUGIN.stat().st_mtime_ns}.so"
    if not out.exists():
        _do("cc", "-shared", "-fPIC", "-O1", _PLUGIN, "-o", out)
    return out


def _need(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            raise Lacking(f"{tool} is not installed")


def _do(*command: object) -> None:
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert run.returncode == 0, f"{command[0]}: {run.stderr}"
