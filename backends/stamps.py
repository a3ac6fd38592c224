"""Stamps: short texts that change when a package changes, for the names of entries of the cache.

A stamp is a digest of the paths, sizes and times of a package's files. Python decides by the same times and sizes
whether its own compiled files are still good. To read them takes about a millisecond; to import a package, or to ask
for its version, takes ten or more.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Iterable, Iterator
from functools import cache

from rnnc.backends.digests import digest

_STARTED = time.time_ns()
_OWN = {"rnnc": False, "rnnc.ir": True, "rnnc.backends": True}
"""The packages of rnnc whose modules decide machine code, and whether their subpackages do. In a checkout, each lies in
a folder of its own. (What layers, losses and networks do is seen in the graphs that they build.)"""
_ASIDE = ("__pycache__", "cuda")


@cache
def of_package(name: str) -> str:
    """The stamp of an installed package, which is not imported. Raises ModuleNotFoundError."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"no package is called {name!r}")
    return _digest(sorted(_files(found.submodule_search_locations)))


@cache
def of_rnnc() -> str | None:
    """The stamp of the code of this process; None if a file has changed since the process began, or cannot be read."""
    files = sorted(
        file
        for name, deep in _OWN.items()
        for file in _files(getattr(sys.modules.get(name), "__path__", ()), deep=deep)
    )
    if not files or max(changed for _, _, changed in files) > _STARTED:
        return None
    return _digest(files)


def _files(folders: Iterable[str], *, deep: bool = True) -> Iterator[tuple[str, int, int]]:
    """Path, size and time of change of all files of code. Links between folders are not followed.

    deep: also of those in subfolders.
    """
    for folder in folders:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if deep and entry.name not in _ASIDE:
                        yield from _files([entry.path])
                elif entry.is_file() and not entry.name.endswith((".pyc", ".md")):
                    found = entry.stat()
                    yield entry.path, found.st_size, found.st_mtime_ns


def _digest(files: Iterable[tuple[str, int, int]]) -> str:
    return digest(repr(list(files)).encode()).hex()[:32]
