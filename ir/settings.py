"""Environment variables: every one that rnnc reads is read here, when it is needed."""

from __future__ import annotations

import os
import sys
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

from rnnc.ir.errors import ArgumentError


def threads() -> int:
    """RNNC_NUM_THREADS; by default, the number of cores that this process may use.

    Raises ArgumentError if the variable is not a positive number.
    """
    text = os.environ.get("RNNC_NUM_THREADS", "").strip()
    if not text:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentError(f"RNNC_NUM_THREADS: expected a positive number, got {text!r}; unset it to use all cores")
    return int(text)


@cache
def poison() -> bool:
    """RNNC_POISON=1: fresh memory is filled with NaN, to find code that reads it unwritten (`rnnc.backends.fresh`).

    The variable is read once, because a single call asks about a dozen times.
    """
    return os.environ.get("RNNC_POISON", "") == "1"


def verify() -> bool:
    """RNNC_VERIFY=1: the verifier checks graphs between stages (`rnnc.ir.pipeline`)."""
    return os.environ.get("RNNC_VERIFY", "") == "1"


def codegen() -> int:
    """RNNC_CODEGEN, from 0 to 3 (the default): how hard LLVM's code generator tries (`rnnc.backends.llvm.asm.jit`).

    Raises ArgumentError if the variable is none of these.
    """
    text = os.environ.get("RNNC_CODEGEN", "").strip() or "3"
    if text not in ("0", "1", "2", "3"):
        raise ArgumentError(f"RNNC_CODEGEN: expected 0, 1, 2 or 3, got {text!r}; unset it for the fastest code")
    return int(text)


def profile() -> str:
    """RNNC_PROFILE=1: code counts the time of its sections, and a table is printed when the process ends. Any other
    text names a file for a Chrome trace (`rnnc.profiling`).
    """
    return os.environ.get("RNNC_PROFILE", "").strip()


COUNTED: ContextVar[list[Any] | None] = ContextVar("rnnc_counted", default=None)
"""Within a profile: the list to which code that is compiled adds its counters (`rnnc.profiling`)."""
OF_THE_PROCESS: list[Any] = []
"""The same list for all code, with RNNC_PROFILE."""


def counted() -> list[Any] | None:
    """The list to which code that is compiled now adds its counters; None if it has none."""
    return OF_THE_PROCESS if COUNTED.get() is None and profile() else COUNTED.get()


def cuda_chip() -> str:
    """RNNC_CUDA_CHIP, such as "H100" (the default) or "sm_80": the chip to generate CUDA C for if there is no GPU."""
    return os.environ.get("RNNC_CUDA_CHIP", "").strip() or "H100"


def compiler() -> str:
    """CXX, the C++ compiler for emulated kernels; "" if it is not set."""
    return os.environ.get("CXX", "").strip()


def cache_bytes() -> int:
    """RNNC_CACHE_MEGABYTES: the largest size of the cache of compiled code, in bytes. Default: 256 MB.

    Raises ArgumentError if the variable is not a positive number.
    """
    text = os.environ.get("RNNC_CACHE_MEGABYTES", "").strip() or "256"
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentError(f"RNNC_CACHE_MEGABYTES: expected a positive number, got {text!r}; unset it for 256")
    return int(text) * 1_000_000


def cache_folder() -> Path | None:
    """RNNC_CACHE_DIR; by default, the folder "rnnc" in the user's cache folder.

    None if RNNC_CACHE_DIR is "off", or if the user has no home folder, such as a container's user without an account.
    """
    text = os.environ.get("RNNC_CACHE_DIR", "").strip()
    if text == "off":
        return None
    try:
        return Path(text).expanduser() if text else _user_cache() / "rnnc"
    except RuntimeError:  # from pathlib, if it finds no home folder
        return None


def _user_cache() -> Path:
    """The user's cache folder on this system. Raises RuntimeError for a user without a home folder."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return named if named.is_absolute() else Path.home() / ".cache"  # the XDG standard: ignore a relative path
