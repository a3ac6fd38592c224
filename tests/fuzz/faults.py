"""What a case may find: a fault, and counts of what happened."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rnnc.ir.errors import RnncError

KINDS = {
    "crash": "the process ended",
    "hang": "no answer in time",
    "foreign": "an exception that is not rnnc's own",
    "wrong": "a wrong result",
    "accepted": "an argument that does not fit was accepted",
    "refused": "an argument that fits was refused",
    "changed": "an argument or a state changed that should not have",
    "lost": "a file that is not rnnc's was changed or deleted",
}


class Fault(AssertionError):
    """A promise that rnnc broke.

    kind: one of `KINDS`. where: what broke it, in a word or two. signature: equal for cases that most likely have one
    cause; by default made of kind and where.
    """

    def __init__(self, kind: str, where: str, message: str, signature: str = "") -> None:
        super().__init__(f"{KINDS[kind]}: {where}: {message}")
        self.kind = kind
        self.signature = f"{kind}: {signature or where}"


class Tally(Counter[str]):
    """How often each outcome came. "calls" counts calls of rnnc's public functions."""


@contextmanager
def refusals(where: str, tally: Tally) -> Iterator[None]:
    """The block must raise an error of rnnc's own."""
    tally["calls"] += 1
    try:
        yield
    except RnncError as error:
        tally[type(error).__name__] += 1
    except Exception as error:
        raise foreign(where, error) from error
    else:
        raise Fault("accepted", where, "no error")


@contextmanager
def acceptance(where: str, tally: Tally) -> Iterator[None]:
    """The block must raise nothing."""
    tally["calls"] += 1
    try:
        yield
    except Fault:
        raise
    except RnncError as error:
        raise refused(where, error) from error
    except Exception as error:
        raise foreign(where, error) from error
    tally["ok"] += 1


def foreign(where: str, error: BaseException) -> Fault:
    """The fault of an exception that is not rnnc's own; its signature names the innermost line of rnnc."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        path = trace.tb_frame.f_code.co_filename
        if "/tests/" not in path and any(part in path for part in ("/rnnc/", "/backends/", "/ir/")):
            name = "/".join(path.split("/")[-2:])
            place = f" in {name}, {trace.tb_frame.f_code.co_name}"
        trace = trace.tb_next
    what = f"{type(error).__name__}{place}"
    return Fault("foreign", f"{where}: {what}", str(error)[:500], what)


def refused(where: str, error: RnncError) -> Fault:
    """The fault of an error of rnnc's own that should not be; its signature leaves names and numbers out."""
    skeleton = re.sub(r"[%\w.\[\]']*\d[\w.\]']*|'[^']*'|\([^)]*\)", "#", str(error))[:60]
    return Fault("refused", where, f"{type(error).__name__}: {error}", f"{where}: {type(error).__name__}: {skeleton}")
