"""Settings: every environment variable that rnnc reads is read here, when it is needed.

`SETTINGS` lists them, with type, default and meaning; docs/settings.md shows the same list. `rnnc.settings(...)` gives
them other values for a while, in the thread that says so (`rnnc.configuration`).
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from rnnc.ir.errors import ArgumentError, RnncWarning


class Setting(NamedTuple):
    """A setting. name: as an argument of `rnnc.settings`. variable: in the environment.

    kind: what it may be, and default: what it is otherwise, both in words. line: what it does.
    """

    name: str
    variable: str
    kind: str
    default: str
    line: str


SETTINGS: Mapping[str, Setting] = {
    name: Setting(name, f"RNNC_{name.upper()}", kind, default, line)
    for name, kind, default, line in (
        (
            "num_threads",
            "number >= 1",
            "all cores of the process",
            "how many threads a call may use; `threads=` of `rnnc.compile` wins over it",
        ),
        (
            "cache_dir",
            "folder, or `off`",
            "`rnnc` in the user's cache folder",
            "where compiled code is kept for the next process (docs/llvm.md, The cache)",
        ),
        (
            "cache_megabytes",
            "number >= 1",
            "256",
            "how large that cache may be; what was not used for longest goes",
        ),
        (
            "profile",
            "`1`, or a file",
            "off",
            "all code counts the time of its sections: a table at the end, or a Chrome trace (docs/profiling.md)",
        ),
        (
            "verify",
            "`0` or `1`",
            "0",
            "graphs are verified between the stages of the pipeline; the tests run so",
        ),
        (
            "codegen",
            "0 to 3",
            "3",
            "how hard LLVM's code generator tries: 0 compiles 4 times faster to slower code with the same results",
        ),
        (
            "poison",
            "`0` or `1`",
            "0",
            "fresh memory holds NaN, to find code that reads it unwritten; for tests and bug reports",
        ),
        (
            "cuda_chip",
            "a GPU, or `sm_90`",
            "H100",
            "the chip to generate CUDA C for where there is no GPU: A100, H100, B200",
        ),
    )
}
"""The settings of rnnc, by name."""

OTHERS: Mapping[str, str] = {
    "CXX": "the C++ compiler for emulated kernels",
    "CUDA_PATH, CUDA_HOME": "where CUDA's headers and NVRTC are, if not installed by pip",
    "NO_COLOR, TERM": "`rnnc` prints no colours with NO_COLOR, or if TERM is `dumb`",
    "XDG_CACHE_HOME, LOCALAPPDATA": "the user's cache folder, for the default of RNNC_CACHE_DIR",
    "RANK, WORLD_SIZE, ...": "how torchrun and mpirun start processes that train together (`distributed=True`)",
}
"""Variables of other programs that rnnc reads, too."""

_chosen: ContextVar[Mapping[str, str]] = ContextVar("rnnc_settings", default=MappingProxyType({}))
"""Settings that `rnnc.settings` has given other values, by name, as the text of the variable."""

_TESTS = "RNNC_TESTS_"
"""Variables of the tests begin so, and are no settings."""


def chosen() -> Mapping[str, str]:
    """The values that `rnnc.settings` has set in this context, by the names of settings."""
    return _chosen.get()


def choose(values: Mapping[str, str]) -> Callable[[], None]:
    """Sets the values of settings, in this context. Returns the function that restores those of before."""
    token = _chosen.set(MappingProxyType({**_chosen.get(), **values}))
    return lambda: _chosen.reset(token)


def source_of(name: str) -> str:
    """Where the value of a setting comes from: "rnnc.settings", "environment" or "default"."""
    if name in _chosen.get():
        return "rnnc.settings"
    return "environment" if os.environ.get(SETTINGS[name].variable, "").strip() else "default"


def _text(name: str) -> str:
    """The text of a setting; "" if it is not set."""
    _warn_of_unknown()
    text = _chosen.get().get(name)
    return os.environ.get(SETTINGS[name].variable, "").strip() if text is None else text


def _label(name: str) -> str:
    """What a message calls a setting."""
    return name if name in _chosen.get() else SETTINGS[name].variable


def _number(name: str, default: int, otherwise: str) -> int:
    text = _text(name) or str(default)
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentError(f"{_label(name)}: expected a positive number, got {text!r}; {otherwise}")
    return int(text)


def _flag(name: str) -> bool:
    text = _text(name) or "0"
    if text not in ("0", "1"):
        raise ArgumentError(f"{_label(name)}: expected 0 or 1, got {text!r}")
    return text == "1"


@cache
def _warn_of_unknown() -> None:
    """Warns, once per process, of variables that look like settings and are none."""
    known = [setting.variable for setting in SETTINGS.values()]
    for name in sorted(os.environ):
        if name.startswith("RNNC_") and name not in known and not name.startswith(_TESTS):
            from difflib import get_close_matches

            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            warnings.warn(f"{name}: there is no such setting; {hint}", RnncWarning, stacklevel=4)


# ---- the settings


def threads() -> int:
    """RNNC_NUM_THREADS; by default, the number of cores that this process may use.

    Raises ArgumentError if the variable is not a positive number.
    """
    return _number("num_threads", cores(), "unset it to use all cores")


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def poison() -> bool:
    """RNNC_POISON=1: fresh memory is filled with NaN, to find code that reads it unwritten (`rnnc.backends.fresh`)."""
    text = _chosen.get().get("poison")
    return _poison_of_process() if text is None else _flag("poison")


@cache
def _poison_of_process() -> bool:
    """The variable is read once, because a single call asks about a dozen times."""
    return _flag("poison")


def verify() -> bool:
    """RNNC_VERIFY=1: the verifier checks graphs between stages (`rnnc.ir.pipeline`)."""
    return _flag("verify")


def codegen() -> int:
    """RNNC_CODEGEN, from 0 to 3 (the default): how hard LLVM's code generator tries (`rnnc.backends.llvm.asm.jit`).

    Raises ArgumentError if the variable is none of these.
    """
    text = _text("codegen") or "3"
    if text not in ("0", "1", "2", "3"):
        raise ArgumentError(f"{_label('codegen')}: expected 0, 1, 2 or 3, got {text!r}; unset it for the fastest code")
    return int(text)


def profile() -> str:
    """RNNC_PROFILE=1: code counts the time of its sections, and a table is printed when the process ends. Any other
    text names a file for a Chrome trace (`rnnc.profiling`).
    """
    text = _text("profile")
    return "" if text == "0" else text


COUNTED: ContextVar[list[Any] | None] = ContextVar("rnnc_counted", default=None)
"""Within a profile: the list to which code that is compiled adds its counters (`rnnc.profiling`)."""
OF_THE_PROCESS: list[Any] = []
"""The same list for all code, with RNNC_PROFILE."""


def counted() -> list[Any] | None:
    """The list to which code that is compiled now adds its counters; None if it has none."""
    return OF_THE_PROCESS if COUNTED.get() is None and profile() else COUNTED.get()


def cuda_chip() -> str:
    """RNNC_CUDA_CHIP, such as "H100" (the default) or "sm_80": the chip to generate CUDA C for if there is no GPU."""
    return _text("cuda_chip") or "H100"


def cache_bytes() -> int:
    """RNNC_CACHE_MEGABYTES: the largest size of the cache of compiled code, in bytes. Default: 256 MB.

    Raises ArgumentError if the variable is not a positive number.
    """
    return _number("cache_megabytes", 256, "unset it for 256") * 1_000_000


def cache_folder() -> Path | None:
    """RNNC_CACHE_DIR; by default, the folder "rnnc" in the user's cache folder.

    None if RNNC_CACHE_DIR is "off", or if the user has no home folder, such as a container's user without an account.
    """
    text = _text("cache_dir")
    if text == "off":
        return None
    try:
        return Path(text).expanduser() if text else _user_cache() / "rnnc"
    except RuntimeError:  # from pathlib, if it finds no home folder
        return None


READERS: Mapping[str, Callable[[], object]] = {
    "num_threads": threads,
    "cache_dir": lambda: "off" if cache_folder() is None else str(cache_folder()),
    "cache_megabytes": lambda: cache_bytes() // 1_000_000,
    "profile": profile,
    "verify": verify,
    "codegen": codegen,
    "poison": poison,
    "cuda_chip": cuda_chip,
}
"""Name of a setting -> the function that reads its value, and raises ArgumentError for a wrong one."""


# ---- variables of others


def compiler() -> str:
    """CXX, the C++ compiler for emulated kernels; "" if it is not set."""
    return os.environ.get("CXX", "").strip()


def cuda_folders() -> list[Path]:
    """The folders that CUDA_PATH and CUDA_HOME name."""
    return [Path(os.environ[name]) for name in ("CUDA_PATH", "CUDA_HOME") if os.environ.get(name)]


def colors_refused() -> bool:
    """True if NO_COLOR is set, or the terminal is a dumb one."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def given(names: Iterable[str]) -> list[str]:
    """Those of some variables that the environment has, such as the ones by which torchrun starts a process."""
    return [name for name in names if name in os.environ]


def _user_cache() -> Path:
    """The user's cache folder on this system. Raises RuntimeError for a user without a home folder."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return named if named.is_absolute() else Path.home() / ".cache"  # the XDG standard: ignore a relative path
