"""The subjects by name, and one case of one from start to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

from tests.fuzz.faults import Fault, Tally, foreign
from tests.fuzz.source import Source

SUBJECTS = ("calls", "specs", "cells", "batches", "cachedirs", "names")


class Subject(NamedTuple):
    """What a module of a subject gives."""

    draw: Callable[[Source], Any]
    check: Callable[[Any, Tally], None]


def module_of(name: str) -> ModuleType:
    """The module of a subject of `SUBJECTS`, or one by its full name."""
    return import_module(f"tests.fuzz.{name}" if name in SUBJECTS else name)


def subject(name: str) -> Subject:
    """The functions of a subject, or of a module by its full name."""
    module = module_of(name)
    return Subject(module.draw, module.check)


class Result(NamedTuple):
    """What became of a case. fault: None if it holds."""

    source: Source
    case: Any
    tally: Tally
    fault: Fault | None


def source_of(name: str, seed: int, given: Sequence[int] | None = None) -> Source:
    """The choices of a case: those given, or those of its seed."""
    return Source(f"{name} {seed}", given)


def run(name: str, source: Source) -> Result:
    """Draws a case and checks it."""
    draw, check = subject(name)
    tally = Tally()
    case = draw(source)
    try:
        check(case, tally)
    except Fault as fault:
        return Result(source, case, tally, fault)
    except Exception as error:
        return Result(source, case, tally, foreign("check", error))
    return Result(source, case, tally, None)
