"""The packages of extras such as `rnnc[train]`, each imported when it is first needed."""

from __future__ import annotations

import importlib
from types import ModuleType

from rnnc.ir.errors import MissingExtra

__all__ = ["MissingExtra", "load"]


def load(module: str, purpose: str, install: str = "'rnnc[train]'") -> ModuleType:
    """The module. Raises MissingExtra if its package is not installed.

    purpose: a plural noun for the message. install: what to install, as an argument of pip.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        raise MissingExtra(
            f"{purpose} need the package {package}, which is not installed: pip install {install}", name=package
        ) from None
