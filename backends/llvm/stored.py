"""Stored code: what earlier processes compiled, found on disk without the stages that led to it.

A module's objects are found by its text, which takes all passes to make. A computation's machine code is found by what
it is computed from: the computation, the target, the settings that change code, and the stamps of rnnc and of
llvmlite. A process that finds all its code there imports neither llvmlite nor the code generator.

Nothing is stored with RNNC_VERIFY=1, because the verifier looks at every stage, nor where images cannot be mapped.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rnnc.backends import cache, stamps
from rnnc.backends.llvm.asm.image import Image, can_map
from rnnc.ir import settings

if TYPE_CHECKING:
    from rnnc.backends.llvm.asm.target import Target
    from rnnc.backends.llvm.manifest import Manifest


class StoredProgram(NamedTuple):
    """The machine code of a computation. units: the names of the units of the runtime that it calls."""

    manifest: Manifest
    image: Image
    units: tuple[str, ...]


class StoredModule(NamedTuple):
    """The machine code of another module of a computation. units: as of a program."""

    image: Image
    units: tuple[str, ...]


class StoredUnit(NamedTuple):
    """The machine code of a unit of the runtime. symbols: of its functions, by their names."""

    image: Image
    symbols: Mapping[str, str]


def is_used() -> bool:
    """True if code is stored."""
    return settings.cache_folder() is not None and not settings.verify() and can_map() and stamps.of_rnnc() is not None


def name_of(kind: str, target: Target, *parts: str) -> str | None:
    """The name of an entry; None if such code is not stored. parts: what it is compiled from."""
    if not is_used():
        return None
    options = f"{settings.codegen()} {settings.poison()}"
    versions = str(stamps.of_rnnc()), stamps.of_package("llvmlite"), sys.version, np.__version__
    return cache.key(kind, *parts, repr(target), options, *versions)


def load(name: str | None) -> Any:
    """The object that was saved under a name; None if there is none."""
    found = None if name is None else cache.load(name)
    return None if found is None else pickle.loads(found)


def save(name: str | None, value: object) -> None:
    """Saves an object under a name."""
    if name is not None:
        cache.store(name, pickle.dumps(value))
