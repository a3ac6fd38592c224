"""Settings from outside: every environment variable rnnc reads is read here, when it is first used."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

from rnnc.ir.errors import ArgumentError


def threads() -> int:
    """RNNC_NUM_THREADS, or the number of cores this process may use.

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
    """RNNC_POISON=1: memory that nobody has written holds NaN, to find what reads it (`rnnc.backends.fresh`).

    Looked at once: a call asks a dozen times.
    """
    return os.environ.get("RNNC_POISON", "") == "1"


def verify() -> bool:
    """RNNC_VERIFY=1: graphs are verified between stages (`rnnc.ir.pipeline`)."""
    return os.environ.get("RNNC_VERIFY", "") == "1"


def cuda_chip() -> str:
    """RNNC_CUDA_CHIP, the chip to generate CUDA C for where there is no GPU, such as "H100" or "sm_80"; "H100"."""
    return os.environ.get("RNNC_CUDA_CHIP", "").strip() or "H100"


def compiler() -> str:
    """CXX, the C++ compiler for kernels that are emulated, or ""."""
    return os.environ.get("CXX", "").strip()


def cache_folder() -> Path | None:
    """RNNC_CACHE_DIR, or the user's cache folder for rnnc.

    None if RNNC_CACHE_DIR is "off", and for a user who has no home (a container's user without an account).
    """
    text = os.environ.get("RNNC_CACHE_DIR", "").strip()
    if text == "off":
        return None
    try:
        return Path(text).expanduser() if text else _user_cache() / "rnnc"
    except RuntimeError:  # pathlib's, when it finds no home
        return None


def _user_cache() -> Path:
    """Where this system's users keep caches. Raises RuntimeError for a user without a home."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return named if named.is_absolute() else Path.home() / ".cache"  # the standard says to ignore a relative one
