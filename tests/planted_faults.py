"""A subject of fuzzing that plants a fault in rnnc, in calls that Python checks: the built-in function is not made.

The fault must be found, shrunk and written as a test.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np

from rnnc.backends.llvm.calls.bound import LlvmBound
from rnnc.ir.names import OUTPUT
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
    faulty = FAULTS.get(os.environ.get("PLANTED", ""), LlvmBound.start)
    with patch.object(LlvmBound, "start", faulty), patch.object(LlvmBound, "quick", _no_built_in_function):
        calls.check(case, tally)


def _no_built_in_function(self: LlvmBound, call: Any, outcomes: Any) -> None:
    """All calls go through `LlvmBound.start`."""


_right = LlvmBound.start


def _forgetful(self: LlvmBound, inputs: Any, outputs: Any, steps: int, batch: int, lengths: Any) -> Any:
    """The last element of an output of several rows is not written, unless it is a derivative's."""
    if self.code.late:
        return _right(self, inputs, outputs, steps, batch, lengths)
    output = outputs[OUTPUT]
    whole = np.zeros_like(output)
    tape = _right(self, inputs, {**outputs, OUTPUT: whole}, steps, batch, lengths)
    written = np.ones(output.shape, bool)
    written[-1, -1, -1] = batch < 2
    np.copyto(output, whole, where=written)
    return tape


def _ending(self: LlvmBound, inputs: Any, outputs: Any, steps: int, batch: int, lengths: Any) -> None:
    """The process ends."""
    ctypes.string_at(0)


FAULTS = {"wrong": _forgetful, "crash": _ending}
