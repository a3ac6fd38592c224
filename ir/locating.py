"""The line of the user's file where equations are written, for messages about them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType, TracebackType
from typing import Any

from rnnc.ir.errors import RnncError


@contextmanager
def located(equations: object) -> Iterator[None]:
    """A context that adds "(file:line)" to an error of rnnc: the line of the equations that caused it.

    equations: the function that runs in the context. If it has returned, so that its result is at fault, the message
    names its first line. For equations of rnnc itself, the message names no line.
    """
    try:
        yield
    except RnncError as error:
        place = _line_at_work(error.__traceback__) or definition(equations)
        if place is None:
            raise
        raise type(error)(f"{error} ({place})") from error


def definition(equations: object) -> str | None:
    """The first line, as "file:line", of a function, a method or a callable object; None for those of rnnc."""
    function: Any = inspect.unwrap(equations) if callable(equations) else equations
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    names = getattr(function, "__globals__", None) or getattr(type(function).__call__, "__globals__", {})
    if not isinstance(code, CodeType) or _is_own(str(names.get("__name__", ""))):
        return None
    return f"{code.co_filename}:{code.co_firstlineno}"


def _line_at_work(trace: TracebackType | None) -> str | None:
    """The innermost line outside rnnc, below the function of rnnc that runs the equations."""
    found = None
    inside = False  # whether a frame of rnnc has been passed: the caller of rnnc is not part of the equations
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
