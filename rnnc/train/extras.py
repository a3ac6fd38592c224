"""The packages of the extra `rnnc[train]`, each imported when it is first needed."""

from __future__ import annotations

import importlib
from types import ModuleType

from rnnc.ir.errors import RnncError


class MissingExtra(RnncError, ImportError):
    """A package of an extra, such as `rnnc[train]`, is needed and not installed. The message says how to install it."""


def load(module: str, purpose: str) -> ModuleType:
    """The module. Raises MissingExtra if its package is not installed. purpose: a plural noun for the message."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name not in (package, module):
            raise
        raise MissingExtra(
            f"{purpose} need the package {package}, which is not installed: pip install 'rnnc[train]'", name=package
        ) from None
