"""A user's cell with one mistake: what the message says about it. See test_errors.py."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

import rnnc
from rnnc import losses, optimizers, train
from rnnc.ir.equations import Value, concat, linear, tanh, total
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
            case "rows of a batch":
                return h * total(linear(h, state.h)), {"h": h}
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
        ("rows of a batch", ("right operand", "batch axis", "total(a * b)")),
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


# ------------------------------------------------------------------------------------------ lines


def line_of(function: Any, text: str) -> str:
    """Where a text stands in a function, as a message says it."""
    lines, first = inspect.getsourcelines(function)
    number = next(n for n, line in enumerate(lines) if text in line)
    return f"({__file__}:{first + number})"


@pytest.mark.parametrize(
    ("mistake", "text"),
    (
        ("shapes do not match", "linear(x, p.weight_hh)"),
        ("rows of a batch", "linear(h, state.h)"),
        ("split", "h.split(7)"),
        ("unknown parameter", "weight_ho"),
        ("branch on a value", "if h else"),
        ("operand", 'h + "1"'),
        ("missing state", "def step"),  # what is wrong is what came back
        ("returns a number", "def step"),
    ),
)
def test_a_message_names_the_line_of_the_equations(mistake: str, text: str) -> None:
    spec = rnnc.Recurrent(Broken(mistake), 4, 6)
    network = rnnc.Sequential(rnnc.Regularized(spec, recurrent_dropout=0.1), rnnc.Linear(6, 2))
    place = line_of(Broken.step, text)
    for compile_it in (
        lambda: rnnc.compile(spec),
        lambda: rnnc.vjp(spec),
        lambda: network.compile(network.init(0)),
        lambda: train.TrainingStep(network, "mse", optimizers.SGD(0.1)),
    ):
        with pytest.raises(rnnc.RnncError) as caught:
            compile_it()
        assert str(caught.value).count(place) == 1 and str(caught.value).endswith(place)


@dataclass(frozen=True)
class OwnLoss(losses.MeanSquaredError):
    """The equations of a loss with a mistake."""

    mistake: str = ""

    def row(self, output: Value, target: Value) -> Value:
        match self.mistake:
            case "whole":
                return output - target
            case "number":
                return 1.0  # type: ignore[return-value]
        return linear(output, target)


@dataclass(frozen=True)
class OwnOptimizer(optimizers.Optimizer):
    """An update with a mistake: a sum over elements, or what it returns."""

    mistake: str = ""

    def update(self, p: Value, g: Value, slots: Any, scalars: Any) -> tuple[Value, Any]:
        match self.mistake:
            case "alone":
                return p - g  # type: ignore[return-value]
            case "slots":
                return p - g, {"m": g}
            case "number":
                return 1.0, {}  # type: ignore[return-value]
            case "wide":
                return scalars["learning_rate"], {}
        return p - scalars["learning_rate"] * g / total(g * g), {}


@pytest.mark.parametrize(
    ("mistake", "words", "text"),
    (
        ("whole", ("OwnLoss", "one number per row", "('B', 6)", "total()"), "def row"),
        ("number", ("OwnLoss", "1.0"), "def row"),
        ("product", ("right operand", "batch axis"), "linear(output, target)"),
    ),
)
def test_a_loss_with_a_mistake(mistake: str, words: tuple[str, ...], text: str) -> None:
    network = rnnc.Sequential(rnnc.RNN(4, 6))
    with raises_saying(rnnc.RnncError, *words, line_of(OwnLoss.row, text)):
        train.TrainingStep(network, OwnLoss(mistake), optimizers.SGD(0.1))


def test_an_update_that_is_not_elementwise(backend: str) -> None:
    network = rnnc.Sequential(rnnc.RNN(4, 6))
    with raises_saying(rnnc.RnncError, "elementwise", "reduce_sum", line_of(OwnOptimizer.update, "def update")):
        train.TrainingStep(network, "mse", OwnOptimizer(0.1), backend=backend)


@pytest.mark.parametrize(
    ("mistake", "words"),
    (
        ("alone", ("(p, {slot: value})",)),
        ("slots", ("['m']", "[]")),
        ("number", ("p:", "1.0 (float)")),
        ("wide", ("p:", "(1,)")),
    ),
)
def test_an_update_that_returns_something_else(mistake: str, words: tuple[str, ...]) -> None:
    network = rnnc.Sequential(rnnc.RNN(4, 6))
    with raises_saying(rnnc.RnncError, *words, line_of(OwnOptimizer.update, "def update")):
        train.TrainingStep(network, "mse", OwnOptimizer(0.1, mistake))
