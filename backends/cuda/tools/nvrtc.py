"""Compilation of CUDA C by NVRTC, NVIDIA's compiler as a library, which needs neither a GPU nor a driver.

The library comes with the wheel `nvidia-cuda-nvrtc` (CUDA 13) or `nvidia-cuda-nvrtc-cu12`, or with an installed CUDA
toolkit. Sources that include no header need nothing else.

Threads may call NVRTC at the same time. It runs without the interpreter's lock.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Sequence
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from dataclasses import dataclass, replace
from pathlib import Path

from rnnc.backends.cuda.schedule.chip import Usage
from rnnc.ir import settings
from rnnc.ir.errors import BackendError, BackendUnavailable

__all__ = ["NvrtcResult", "CudaCompileError", "Usage", "architectures", "available", "compile_cubin", "ptx"]

_OPTIONS = ("-std=c++17",)
_INSTALL = "pip install nvidia-cuda-nvrtc"
_TOOLKITS = Path("/usr/local")
_FILE = "rnnc.cu"
"""The name of a source in the compiler's messages."""


class CudaCompileError(BackendError):
    """NVRTC refused a source or an option. The message contains its log."""


@dataclass(frozen=True)
class NvrtcResult:
    """The machine code of a translation unit.

    kernels: the resources of each kernel, by name (C++ names are mangled). functions: those of device functions that
    were not inlined, without registers, which are counted in the kernels that call them.
    """

    cubin: bytes
    log: str
    kernels: dict[str, Usage]
    functions: dict[str, Usage]


def available() -> tuple[bool, str]:
    """(True, version and path) if NVRTC can be loaded, else (False, the reason)."""
    try:
        library = _nvrtc()
    except BackendUnavailable as error:
        return False, str(error)
    major, minor = c_int(), c_int()
    library.nvrtcVersion(byref(major), byref(minor))
    return True, f"NVRTC {major.value}.{minor.value} ({library._name})"


def architectures() -> tuple[str, ...]:
    """The architectures for which NVRTC compiles: "sm_80", ... Raises BackendUnavailable if there is no NVRTC."""
    library = _nvrtc()
    count = c_int()
    _check(library, library.nvrtcGetNumSupportedArchs(byref(count)))
    found = (c_int * count.value)()
    _check(library, library.nvrtcGetSupportedArchs(found))
    return tuple(f"sm_{number}" for number in found)


def compile_cubin(source: str, arch: str = "sm_90", options: Sequence[str] = ()) -> NvrtcResult:
    """The machine code of a translation unit for an architecture. options: further options of NVRTC.

    Raises CudaCompileError, with the compiler's log, and BackendUnavailable if there is no NVRTC.
    """
    with _Program(_nvrtc(), source) as program:
        log = program.compile((f"--gpu-architecture={arch}", "--ptxas-options=-v", *_OPTIONS, *options))
        kernels, functions = parse_usage(log)
        return NvrtcResult(program.output("CUBIN"), log, kernels, functions)


def ptx(source: str, arch: str = "sm_90", options: Sequence[str] = ()) -> str:
    """The PTX assembly of a translation unit. Raises what `compile_cubin` raises."""
    virtual = arch.replace("sm_", "compute_")
    with _Program(_nvrtc(), source) as program:
        program.compile((f"--gpu-architecture={virtual}", *_OPTIONS, *options))
        return program.output("PTX").rstrip(b"\0").decode()


_ENTRY = re.compile(r"Compiling entry function '([^']+)'")
_PROPERTIES = re.compile(r"Function properties for (\S+)")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+)(?:\+\d+)? bytes smem")


def parse_usage(log: str) -> tuple[dict[str, Usage], dict[str, Usage]]:
    """The resources of kernels and of other functions, from the report that ptxas prints with -v.

    "Function properties" names the function of the next line. The line "Used" belongs to the entry function named last;
    reports of functions that it calls may stand between the two.
    """
    found: dict[str, Usage] = {}
    entries: list[str] = []
    about = ""
    for line in log.splitlines():
        if match := _ENTRY.search(line):
            entries.append(match[1])
        elif match := _PROPERTIES.search(line):
            about = match[1]
        elif match := _STACK.search(line):
            stack, stores, loads = map(int, match.groups())
            found[about] = Usage(found[about].registers if about in found else 0, stack, stores, loads)
        elif (match := _USED.search(line)) and entries:
            shared = _SHARED.search(line)
            usage = found.get(entries[-1], Usage(0))
            found[entries[-1]] = replace(usage, registers=int(match[1]), shared=int(shared[1]) if shared else 0)
    kernels = {name: found.pop(name) for name in entries if name in found}
    return kernels, found


class _Program:
    """A program of NVRTC, destroyed at the end of a `with` statement."""

    def __init__(self, library: ctypes.CDLL, source: str) -> None:
        self._library = library
        self._handle = c_void_p()
        arguments = (source.encode(), _FILE.encode(), 0, None, None)
        _check(library, library.nvrtcCreateProgram(byref(self._handle), *arguments))

    def __enter__(self) -> _Program:
        return self

    def __exit__(self, *_: object) -> None:
        self._library.nvrtcDestroyProgram(byref(self._handle))

    def compile(self, options: Sequence[str]) -> str:
        """Compiles the program, and returns the log."""
        given = (c_char_p * len(options))(*(option.encode() for option in options))
        status = self._library.nvrtcCompileProgram(self._handle, len(options), given)
        log = self.output("ProgramLog").rstrip(b"\0").decode(errors="replace").strip()
        _check(self._library, status, f" with {' '.join(options)}\n{log}")
        return log

    def output(self, what: str) -> bytes:
        """A result of the compilation: "CUBIN", "PTX", "ProgramLog"."""
        size = c_size_t()
        _check(self._library, getattr(self._library, f"nvrtcGet{what}Size")(self._handle, byref(size)))
        memory = ctypes.create_string_buffer(size.value)
        _check(self._library, getattr(self._library, f"nvrtcGet{what}")(self._handle, memory))
        return memory.raw


def _check(library: ctypes.CDLL, status: int, more: str = "") -> None:
    if status:
        text: bytes = library.nvrtcGetErrorString(status)
        raise CudaCompileError(f"NVRTC: {text.decode()}{more}")


@functools.cache
def _nvrtc() -> ctypes.CDLL:
    tried = []
    for place in _places():
        try:
            library = _load(place)
        except OSError as error:
            if os.path.isabs(place):
                tried.append(f"; {place} was found but not loaded: {error}")
            continue
        library.nvrtcGetErrorString.restype = c_char_p
        return library
    raise BackendUnavailable(f"no NVRTC, the compiler library of CUDA; {_INSTALL}{''.join(tried)}")


def _load(place: str) -> ctypes.CDLL:
    # NVRTC opens its library of built-in functions by name at the first compilation. Not every build looks for it
    # beside itself, but all find a library that the process has already loaded.
    path = Path(place)
    if path.is_absolute():
        for builtins in path.parent.glob(_BUILTINS):
            ctypes.CDLL(str(builtins))
    return ctypes.CDLL(place)


def _places() -> Iterator[str]:
    """Paths and names of the library, best first: from wheels, from a toolkit, from the loader's path."""
    for folder in _folders():
        # "libnvrtc-builtins" and "libnvrtc.alt" do not match: the first is loaded by the library itself.
        yield from map(str, sorted(folder.glob(_PATTERN), key=_version, reverse=True))
    yield from _NAMES


def _folders() -> Iterator[Path]:
    spec = importlib.util.find_spec("nvidia")
    bases = [Path(base) for base in (spec.submodule_search_locations or ())] if spec else []
    for package in ("cu13", "cuda_nvrtc"):
        yield from (base / package / inner for base in bases for inner in _INNER)
    roots = settings.cuda_folders()
    roots += sorted(_TOOLKITS.glob("cuda*"), key=_version, reverse=True)
    yield from (root / inner for root in roots for inner in _INNER)


def _version(path: Path) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", path.name)))


if sys.platform == "win32":
    _PATTERN, _BUILTINS, _INNER = "nvrtc64_*_0.dll", "nvrtc-builtins64_*.dll", ("bin/x86_64", "bin/x64", "bin")
    _NAMES: tuple[str, ...] = ("nvrtc64_130_0.dll", "nvrtc64_120_0.dll")
else:
    _PATTERN, _BUILTINS, _INNER = "libnvrtc.so.*", "libnvrtc-builtins.so.*", ("lib", "lib64")
    _NAMES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")
