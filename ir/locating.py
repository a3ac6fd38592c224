"""Where equations are written: the line of the user's file, for messages about them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType, TracebackType
from typing import Any

from rnnc.ir.errors import RnncError


@contextmanager
def located(equations: object) -> Iterator[None]:
    """Adds to an error of rnnc the line of the equations that caused it, as "(file:line)".

    equations: the function that is run within. Its first line is named if no line of it is at work: what it returned
    is wrong then. Equations of rnnc's own have no line to be named.
    """
    try:
        yield
    except RnncError as error:
        place = _line_at_work(error.__traceback__) or definition(equations)
        if place is None:
            raise
        raise type(error)(f"{error} ({place})") from error


def definition(equations: object) -> str | None:
    """The first line of a function, a method or what a callable object runs; None for those of rnnc."""
    function: Any = inspect.unwrap(equations) if callable(equations) else equations
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    names = getattr(function, "__globals__", None) or getattr(type(function).__call__, "__globals__", {})
    if not isinstance(code, CodeType) or _is_own(str(names.get("__name__", ""))):
        return None
    return f"{code.co_filename}:{code.co_firstlineno}"


def _line_at_work(trace: TracebackType | None) -> str | None:
    """The innermost line outside rnnc that equations were at, below the function that runs them."""
    found = None
    inside = False  # below the first frame of rnnc: what called rnnc is not part of the equations
    while trace is not None:
        if _is_own(_module(trace.tb_frame)):
            inside = True
        elif inside:
            found = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _is_own(module: str) -> bool:
    return module.split(".")[0] == "rnnc"
