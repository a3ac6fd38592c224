"""Packages of the extra `rnnc[train]`, imported when they are first needed."""

from __future__ import annotations

import importlib
from types import ModuleType

from rnnc.ir.errors import RnncError


class MissingExtra(RnncError, ImportError):
    """A package is needed that is not installed."""


def load(module: str, purpose: str) -> ModuleType:
    """The module; MissingExtra, with what to install, if it is not there."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name not in (package, module):
            raise
        raise MissingExtra(
            f"{purpose} need the package {package}, which is not installed: pip install 'rnnc[train]'", name=package
        ) from None
