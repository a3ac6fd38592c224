"""Names of Python objects as text, "module:object": how files and the command line refer to cells and
specs.
"""

from __future__ import annotations

import importlib
import sys

from rnnc.ir.errors import ArgumentError


def reference(cls: type) -> str:
    """ "module:Class" of a class that can be imported again; ArgumentError for one made inside a function."""
    text = f"{cls.__module__}:{cls.__qualname__}"
    found: object = sys.modules.get(cls.__module__)
    for part in cls.__qualname__.split("."):
        found = getattr(found, part, None)
    if found is not cls:
        raise ArgumentError(f"{cls.__name__} cannot be referred to by name ({text}): define it at the top of a module")
    return text


def resolve(text: str) -> object:
    """The object that "module:object" or "module:object.attribute" names; imports the module."""
    module_name, _, path = text.partition(":")
    if not path or not all(part.isidentifier() for part in module_name.split(".")):
        raise ArgumentError(f"{text!r}: expected 'module:object', such as 'rnnc.cells:GRUCell'")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ArgumentError(f"{text!r}: there is no module {error.name!r}") from error
    found: object = module
    for part in path.split("."):
        if not hasattr(found, part):
            raise ArgumentError(f"{text!r}: {module_name} has no {path!r}")
        found = getattr(found, part)
    return found
