"""Backends, found by name: what turns a stack of layers into something that runs.

A backend is a module with `compile(stack, *, threads) -> Executable` (see `rnnc.backends.base`), imported when it
is asked for.
"""

from __future__ import annotations

import importlib
from typing import cast

from rnnc.backends.base import Backend
from rnnc.ir.errors import BackendError

MODULES = {"reference": "rnnc.backends.reference", "llvm": "rnnc.backends.llvm"}


def get(name: str) -> Backend:
    """The backend of this name; BackendError, with the names there are, for another one."""
    if name not in MODULES:
        raise BackendError(f"backend: expected {' or '.join(map(repr, MODULES))}, got {name!r}")
    return cast(Backend, importlib.import_module(MODULES[name]))
