"""The C++ compiler, which builds the runtime once, and one shared library per translation unit.

The libraries are entries of the project's cache. Loading one needs a file, so a process copies those that it uses to a
temporary folder. Without a usable cache, each process builds them again.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rnnc.backends import cache
from rnnc.backends.cuda.emulator.errors import EmulatorError
from rnnc.backends.locks import new_lock
from rnnc.ir import settings

HERE = Path(__file__).parent
HEADER = "cuda_on_cpu.h"
CONTEXT = "context.h"
RUNTIME = "runtime.cpp"
RUNTIME_PARTS = ("strand.h", "tensor_cores.h", "watchdog.h")

COMMON_FLAGS = ("-std=c++17", "-fPIC", "-fvisibility=hidden", "-U_FORTIFY_SOURCE", "-fno-exceptions", "-shared")
RUNTIME_FLAGS = (*COMMON_FLAGS, "-O2")
# -O0: most units run a few times on small sizes, so -O1 would cost more time than it saves. -fno-strict-aliasing:
# kernels read shared memory as several types. -fstack-clash-protection: a stack that grows page by page cannot skip the
# guard page below it.
UNIT_FLAGS = (
    *COMMON_FLAGS,
    *("-O0", "-g0", "-w", "-fno-rtti", "-fno-asynchronous-unwind-tables", "-fno-threadsafe-statics"),
    *("-fno-math-errno", "-fno-strict-aliasing", "-fstack-clash-protection"),
)
LINUX = sys.platform == "linux"
RUNTIME_LIBRARIES = ("-lrt",) if LINUX else ()  # timers, in older C libraries
UNIT_LIBRARIES = ("-nostdlib", "-lm", "-lc", "-lgcc") if LINUX else ()  # without the C++ library, linking is quicker


def find_compiler() -> str | None:
    """The path of a C++ compiler: $CXX if it is set, else g++, clang++ or c++. None if there is none."""
    wanted = settings.compiler()
    for name in (wanted,) if wanted else ("g++", "clang++", "c++"):
        path = shutil.which(name)
        if path is not None:
            return path
    return None


class Diagnostics(Exception):
    """The compiler refused a source. text: its messages."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Toolchain:
    """One compiler, and a temporary folder of this process for its output."""

    def __init__(self, compiler: str) -> None:
        self.compiler = compiler
        self._version = self._ask("--version")
        self._temporary = tempfile.TemporaryDirectory(prefix="rnnc-emulator-")
        self._folder = Path(self._temporary.name)
        self._lock = new_lock()
        self._runtime: ctypes.CDLL | None = None

    def runtime(self) -> ctypes.CDLL:
        """The scheduler of emulated threads, with their stacks. It is loaded once.

        Raises EmulatorError if the compiler cannot build it.
        """
        with self._lock:
            if self._runtime is None:
                texts = self._texts(RUNTIME, *RUNTIME_PARTS, CONTEXT)
                self._runtime = self._load(self._built("runtime", RUNTIME_FLAGS, texts, self._compile_runtime))
            return self._runtime

    def unit(self, text: str) -> ctypes.CDLL:
        """The library of a translation unit, compiled with the header of built-in functions.

        Raises Diagnostics if the compiler refuses the unit.
        """
        texts = (*self._texts(HEADER, CONTEXT), text)
        return self._load(self._built("unit", UNIT_FLAGS, texts, lambda: self._compile_unit(text)))

    def _built(self, what: str, flags: tuple[str, ...], texts: tuple[str, ...], build: Callable[[], bytes]) -> bytes:
        name = cache.key("cuda emulator", what, self.compiler, self._version, *flags, *texts)
        payload = cache.load(name)
        if payload is None:
            payload = build()
            cache.store(name, payload)
        return payload

    def _compile_runtime(self) -> bytes:
        try:
            return self._compile(*RUNTIME_FLAGS, f"-I{HERE}", str(HERE / RUNTIME), *RUNTIME_LIBRARIES)
        except Diagnostics as error:
            raise EmulatorError(f"{self.compiler} does not compile the emulator's runtime:\n{error.text}") from None

    def _compile_unit(self, text: str) -> bytes:
        header = str(HERE / HEADER)
        return self._compile(*UNIT_FLAGS, "-include", header, "-x", "c++", "-", *UNIT_LIBRARIES, text=text)

    def _compile(self, *arguments: str, text: str = "") -> bytes:
        handle, output = tempfile.mkstemp(dir=self._folder)
        os.close(handle)
        try:
            command = [self.compiler, *arguments, "-o", output]
            result = subprocess.run(command, input=text, capture_output=True, text=True, errors="replace")
            if result.returncode:
                raise Diagnostics(result.stderr)
            return Path(output).read_bytes()
        finally:
            os.unlink(output)

    def _load(self, library: bytes) -> ctypes.CDLL:
        """Loads a shared library, and deletes its file, which is not needed once it is mapped."""
        handle, path = tempfile.mkstemp(dir=self._folder, suffix=".so")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(library)
            return ctypes.CDLL(path)
        finally:
            os.unlink(path)

    def _ask(self, option: str) -> str:
        result = subprocess.run([self.compiler, option], capture_output=True, text=True, errors="replace")
        if result.returncode:
            raise EmulatorError(f"the C++ compiler {self.compiler} does not run: {result.stderr.strip()}; set CXX")
        return result.stdout

    @staticmethod
    def _texts(*names: str) -> tuple[str, ...]:
        return tuple((HERE / name).read_text(encoding="utf-8") for name in names)


_lock = new_lock()
_toolchains: dict[str, Toolchain] = {}


def toolchain() -> Toolchain:
    """The Toolchain of the compiler that `find_compiler` finds: one per compiler and process.

    Raises EmulatorError if there is no compiler.
    """
    path = find_compiler()
    if path is None:
        raise EmulatorError(
            "running CUDA C on the CPU needs a C++ compiler; $CXX, g++, clang++ and c++ were looked for. "
            "Install one (for example `apt install g++`), or set CXX to its path"
        )
    with _lock:
        if path not in _toolchains:
            _toolchains[path] = Toolchain(path)
        return _toolchains[path]
