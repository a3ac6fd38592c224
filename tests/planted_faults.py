"""A subject of fuzzing that plants a fault in rnnc, in calls that the built-in function leaves to Python.

The fault must be found, shrunk and written as a test.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np

from rnnc.backends.llvm.runner import LlvmRunner
from tests.fuzz import calls
from tests.fuzz.calls import Call, Data
from tests.fuzz.faults import Tally
from tests.fuzz.source import Source

__all__ = ["Call", "Case", "Data"]


@dataclass(frozen=True)
class Case(calls.Case):
    """Calls of one model, one after the other."""


def draw(source: Source) -> Case:
    model = source.pick(("rnn", "lstm"))
    return Case(model, tuple(source.many(lambda: calls.draw_call(source, model), 1, 40, more=90)))


def check(case: Case, tally: Tally) -> None:
    """What `calls` checks, with one of the faults if the environment names it."""
    faulty = FAULTS.get(os.environ.get("PLANTED", ""), LlvmRunner.run)
    with patch.object(LlvmRunner, "run", faulty):
        calls.check(case, tally)


_right = LlvmRunner.run


def _forgetful(self: LlvmRunner, x: Any, states: Any, lengths: Any, output: Any, finals: Any) -> None:
    """The last element of an output of several rows is not written."""
    whole = np.zeros_like(output)
    _right(self, x, states, lengths, whole, finals)
    written = np.ones(output.shape, bool)
    written[-1, -1, -1] = x.shape[1] < 2
    np.copyto(output, whole, where=written)


def _ending(self: LlvmRunner, x: Any, states: Any, lengths: Any, output: Any, finals: Any) -> None:
    """The process ends."""
    ctypes.string_at(0)


FAULTS = {"wrong": _forgetful, "crash": _ending}
