"""The API reference: every public name, with its signature and the first paragraph of its docstring."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

MODULES = (
    "rnnc",
    "rnnc.train",
    "rnnc.losses",
    "rnnc.optimizers",
    "rnnc.schedules",
    "rnnc.initializers",
    "rnnc.gates",
    "rnnc.cells",
    "rnnc.profiling",
    "rnnc.explanation",
)


def api_reference() -> str:
    """The reference as Markdown: a section per module, a heading per name, a list of methods."""
    return "".join(f"\n## {name}\n\n{_module(importlib.import_module(name))}" for name in MODULES) + "\n"


def _module(module: Any) -> str:
    names = [name for name in sorted(module.__all__, key=str.lower) if not inspect.ismodule(getattr(module, name))]
    return "\n".join(_entry(module.__name__, name, getattr(module, name)) for name in names)


def _entry(module: str, name: str, value: Any) -> str:
    if isinstance(value, type) and issubclass(value, Exception):
        return f"### {name}\n\n{_first(value)}\n"
    if not callable(value) or not inspect.getdoc(value):
        return f"### {name}\n\nA constant of `{module}`.\n"
    methods = "".join(_methods(value)) if isinstance(value, type) else ""
    return f"### {name}\n\n```text\n{_called(name, value)}\n```\n\n{_first(value)}\n{methods}"


def _called(name: str, value: Any) -> str:
    """The call, an argument per line if it is long."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return name
    arguments = [str(each.replace(annotation=each.empty)) for each in signature.parameters.values()]
    arguments = [re.sub(r"<([\w.]+)[^>]*>", r"\1", each) for each in arguments if not each.startswith("_")]
    line = f"{name}({', '.join(arguments)})"
    return line if len(line) <= 100 else f"{name}(\n" + "".join(f"    {each},\n" for each in arguments) + ")"


def _methods(value: type) -> Iterator[str]:
    found = []
    for name, member in inspect.getmembers(value):
        owner = next(base for base in value.__mro__ if name in base.__dict__)
        listed = owner.__module__.startswith("rnnc") and (owner is value or owner not in _public_classes())
        if name.startswith("_") or not listed or not inspect.getdoc(member):
            continue
        if inspect.isfunction(member) or isinstance(member, property) or inspect.ismethod(member):
            found.append(f"- `{name}`{'' if isinstance(member, property) else '()'}: {_sentence(member)}\n")
    return iter(["\n", *found] if found else [])


@cache
def _public_classes() -> frozenset[type]:
    """The classes that have entries, whose methods those of their subclasses do not repeat."""
    modules = map(importlib.import_module, MODULES)
    found = [getattr(module, name) for module in modules for name in module.__all__]
    return frozenset(each for each in found if isinstance(each, type))


def _first(value: Any) -> str:
    """The first paragraph of a docstring."""
    return (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ")


def _sentence(value: Any) -> str:
    """The first sentence of a docstring."""
    return re.split(r"(?<=\.)\s", _first(value), maxsplit=1)[0]
