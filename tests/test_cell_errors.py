"""A user's cell with one mistake: what the message says about it. See test_errors.py."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

import rnnc
from rnnc.ir.equations import Value, concat, linear, tanh
from tests.refusals import raises_saying


@dataclass(frozen=True)
class Broken(rnnc.Cell):
    """A cell with one mistake, named by `mistake`."""

    name: ClassVar[str] = "broken"
    mistake: str = ""

    def states(self, hidden_size: int) -> dict[str, int]:
        widths: dict[str, Any] = {
            "no state": {},
            "state width": {"h": 0},
            "state name": {"h 0": hidden_size},
        }
        found: dict[str, int] = widths.get(self.mistake, {"h": hidden_size})
        return found

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, Any] = {"weight_ih": (hidden_size, input_size), "weight_hh": (hidden_size, hidden_size)}
        if self.mistake == "parameter shape":
            shapes["weight_ih"] = 4
        if self.mistake == "parameter name":
            shapes["__dict__"] = (hidden_size,)
        return shapes

    def output_size(self, hidden_size: int) -> int:
        return 0 if self.mistake == "output size" else hidden_size

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        h = tanh(linear(x, p.weight_ih) + linear(state.h, p.weight_hh))
        match self.mistake:
            case "unknown state":
                return h, {"h": h, "c": h}
            case "missing state":
                return h, {}
            case "shape of state":
                return h, {"h": concat(h, h)}
            case "shape of output":
                return h.split(2)[0], {"h": h}
            case "shapes do not match":
                return linear(x, p.weight_hh), {"h": h}
            case "split":
                return h.split(7)[0], {"h": h}
            case "branch on a value":
                return h if h else x, {"h": h}
            case "unknown parameter":
                return linear(h, p.weight_ho), {"h": h}
            case "returns one thing":
                return h  # type: ignore[return-value]
            case "returns a number":
                return 1.0, {"h": h}  # type: ignore[return-value]
            case "operand":
                return h + "1", {"h": h}  # type: ignore[operator]
        return h, {"h": h}


@pytest.mark.parametrize(
    ("mistake", "words"),
    (
        ("no state", ("Broken", "state")),
        ("state width", ("Broken", "state h", "0")),
        ("state name", ("Broken", "h 0")),
        ("parameter shape", ("Broken", "weight_ih", "4")),
        ("parameter name", ("Broken", "__dict__")),
        ("output size", ("Broken", "output_size", "0")),
    ),
)
def test_a_cell_that_declares_something_unusable(mistake: str, words: tuple[str, ...]) -> None:
    with raises_saying(rnnc.RnncError, *words):
        rnnc.Recurrent(Broken(mistake), 4, 6)


@pytest.mark.parametrize(
    ("mistake", "words"),
    (
        ("unknown state", ("'c'", "'h'")),
        ("missing state", ("[]", "'h'")),
        ("shape of state", ("state 'h'", "12", "6")),
        ("shape of output", ("output", "3", "6")),
        ("shapes do not match", ("4", "6")),
        ("split", ("split(7)", "6")),
        ("branch on a value", ("truth value", "select")),
        ("unknown parameter", ("weight_ho",)),
        ("returns one thing", ("output",)),
        ("returns a number", ("output",)),
        ("operand", ("add", "str")),
    ),
)
def test_equations_that_do_not_fit_their_declarations(mistake: str, words: tuple[str, ...], backend: str) -> None:
    """The size of x and of h differ (4 and 6), so that shapes that merely happen to fit do not hide a mistake."""
    with raises_saying(rnnc.RnncError, *words):
        rnnc.compile(rnnc.Recurrent(Broken(mistake), 4, 6), backend=backend)


def test_a_cell_without_a_mistake_compiles(backend: str) -> None:
    spec = rnnc.Recurrent(Broken(), 4, 6)
    assert rnnc.compile(spec, spec.init(seed=0), backend=backend)(np.zeros((2, 1, 4), np.float32))[0].shape == (2, 1, 6)


def test_a_cell_without_equations(backend: str) -> None:
    class Empty(rnnc.Cell):
        name = "empty"

    with pytest.raises((rnnc.RnncError, NotImplementedError), match="Empty"):
        rnnc.compile(rnnc.Recurrent(Empty(), 4, 5), backend=backend)
