"""Stamps: short texts that change when a package changes, for the names of entries of the cache.

A stamp is a digest of the paths, sizes and times of a package's files. Python decides by the same times and sizes
whether its own compiled files are still good. To read them takes about a millisecond; to import a package, or to ask
for its version, takes ten or more.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import time
from collections.abc import Iterable, Iterator
from functools import cache

_STARTED = time.time_ns()
_OWN = ("rnnc", "rnnc.ir", "rnnc.backends")
"""The packages of rnnc. In a checkout, each lies in a folder of its own."""


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
    places = [place for name in _OWN for place in getattr(sys.modules.get(name), "__path__", ())]
    files = sorted(set(_files(places)))
    if not files or max(changed for _, _, changed in files) > _STARTED:
        return None
    return _digest(files)


def _files(folders: Iterable[str]) -> Iterator[tuple[str, int, int]]:
    """Path, size and time of change of all files of code. Links between folders are not followed."""
    for folder in folders:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name != "__pycache__":
                        yield from _files([entry.path])
                elif not entry.name.endswith((".pyc", ".md")):
                    found = entry.stat()
                    yield entry.path, found.st_size, found.st_mtime_ns


def _digest(files: Iterable[tuple[str, int, int]]) -> str:
    return hashlib.sha256(repr(list(files)).encode()).hexdigest()[:32]
