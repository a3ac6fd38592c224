"""How parameters start: as the cell declares, as their names say, or as PyTorch's."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

import rnnc
from rnnc import initializers
from rnnc.initializers import Constant, Normal, Ones, Orthogonal, Uniform, XavierNormal, XavierUniform, Zeros
from rnnc.ir.equations import Value, linear, tanh
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from tests.refusals import raises_saying


def diagonal(shape: tuple[int, ...], rng: np.random.Generator) -> Any:
    """The identity: one of a user's own functions."""
    return np.eye(*shape)


@dataclass(frozen=True)
class Declared(rnnc.Cell):
    """Every kind of declaration, and one that is a field."""

    name: ClassVar[str] = "declared"
    bias_init: Any = Constant(2.5)

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        shapes = super().parameters(input_size, hidden_size, bias) | {"gain": (hidden_size,)}
        return shapes | {
            "weight_hh": rnnc.Parameter((hidden_size, hidden_size), init=diagonal),
            "bias_ih": rnnc.Parameter((hidden_size,), init=self.bias_init),
            "bias_hh": rnnc.Parameter((hidden_size,), init="zeros"),
        }

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        h = p.gain * tanh(linear(x, p.weight_ih, p.bias_ih) + linear(state.h, p.weight_hh, p.bias_hh))
        return h, {"h": h}


def test_cells_say_how_their_parameters_start() -> None:
    spec = rnnc.Recurrent(Declared(), 3, 4, 2, bidirectional=True)
    for name, array in spec.init(seed=1).items():
        assert array.dtype == np.float32 and array.shape == spec.parameter_shapes()[name]
        base = name[: name.index("_l")]
        expected = {"weight_hh": np.eye(4), "bias_ih": 2.5, "bias_hh": 0, "gain": 1}.get(base)
        if expected is None:
            assert 0 < np.abs(array).max() <= 0.5 and len(np.unique(array)) > 8
        else:
            np.testing.assert_array_equal(array, np.broadcast_to(expected, array.shape))
    assert all(type(shape) is tuple for shape in spec.parameter_shapes().values())
    inside = rnnc.Sequential(spec, rnnc.Linear(8, 2)).init(1)
    np.testing.assert_array_equal(inside["0.weight_ih_l1"], spec.init(1)["weight_ih_l1"])


@pytest.mark.parametrize("bidirectional", (False, True))
@pytest.mark.parametrize("make", (rnnc.LSTM, rnnc.GRU, rnnc.RNN))
def test_built_in_cells_start_as_in_pytorch(make: Any, bidirectional: bool) -> None:
    """Bit for bit what one uniform draw per parameter gives, in their order."""
    spec, rng = make(3, 5, 2, bidirectional=bidirectional), np.random.default_rng(7)
    bound = 1 / math.sqrt(5)
    for name, array in spec.init(seed=7).items():
        np.testing.assert_array_equal(array, rng.uniform(-bound, bound, array.shape).astype(np.float32), err_msg=name)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    (
        ("gain_ih", (4,), Ones()),
        ("scale_c", (4,), Ones()),
        ("gamma", (4,), Ones()),
        ("norm_weight", (4,), Ones()),
        ("ln_hh_weight", (4,), Ones()),
        ("beta", (4,), Zeros()),
        ("bias_norm_c", (4,), Zeros()),
        ("gain", (4, 4), None),
        ("norm_weight", (4, 4), None),
        ("bias_ih", (4,), None),
        ("weight_ih", (4, 4), None),
        ("again", (4,), None),
        ("normal_bias", (4,), None),
    ),
)
def test_names_say_what_gains_and_biases_of_norms_are(name: str, shape: Any, expected: Any) -> None:
    other = Uniform(-1, 1)
    assert initializers.default(name, shape, other) == (other if expected is None else expected)


def test_distributions() -> None:
    rng = np.random.default_rng(0)
    for shape in ((30, 50), (50, 30), (40, 40)):
        q = Orthogonal(2.0)(shape, rng)
        product = q @ q.T if shape[0] <= shape[1] else q.T @ q
        np.testing.assert_allclose(product, 4 * np.eye(min(shape)), atol=1e-13)
    for init, deviation, largest in (
        (Uniform(-3, 3), math.sqrt(3), 3.0),
        (Normal(0, 0.5), 0.5, None),
        (XavierUniform(2.0), 2 * math.sqrt(2 / 300), 2 * math.sqrt(6 / 300)),
        (XavierNormal(), math.sqrt(2 / 300), None),
    ):
        found = init((100, 200), rng)
        assert found.std() == pytest.approx(deviation, rel=0.02) and abs(found.mean()) < 0.05 * deviation
        assert largest is None or 0.99 * largest < np.abs(found).max() <= largest


@pytest.mark.parametrize("init", (Constant(0.5), Normal(1, 2), Orthogonal(), "zeros", Uniform(-1, 2)))
def test_a_cell_with_an_initializer_is_plain_data(init: Any) -> None:
    if isinstance(init, Orthogonal):
        with raises_saying(ArgumentError, "init", "Orthogonal", "matrices", "(4,)"):
            rnnc.Recurrent(Declared(init), 3, 4)
        return
    spec = rnnc.Recurrent(Declared(init), 3, 4)
    again = rnnc.Spec.from_json(spec.to_json())
    assert again == spec and hash(again) == hash(spec)
    for name, array in spec.init(3).items():
        np.testing.assert_array_equal(again.init(3)[name], array)


def test_a_parameter_is_its_shape() -> None:
    parameter = rnnc.Parameter((3, 4), init=XavierNormal(2.0))
    for same in (parameter, copy.deepcopy(parameter), pickle.loads(pickle.dumps(parameter))):
        assert same == (3, 4) and same.init == XavierNormal(2.0)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    (
        (lambda: rnnc.Parameter((3,), init="onse"), ArgumentError, ("init", "'ones'", "'onse'")),
        (lambda: rnnc.Parameter((3,), init=Ones), ArgumentTypeError, ("init", "call it")),  # type: ignore[arg-type]
        (lambda: rnnc.Parameter((3,), init=1.0), ArgumentTypeError, ("init", "1.0")),  # type: ignore[arg-type]
        (lambda: rnnc.Parameter((3,), init="orthogonal"), ArgumentError, ("matrices", "(3,)")),
        (lambda: rnnc.Parameter(3), ArgumentTypeError, ("shape", "tuple", "3")),  # type: ignore[arg-type]
        (lambda: Constant(float("nan")), ArgumentError, ("value", "finite", "nan")),
        (lambda: Uniform(2, 1), ArgumentError, ("low", "high")),
        (lambda: Normal(0, -1), ArgumentError, ("deviation", ">= 0")),
        (lambda: initializers.from_dict({"initializer": "Ones", "x": 1}), ArgumentError, ("Ones", "x")),
        (lambda: initializers.from_dict({"initializer": "os"}), ArgumentError, ("initializer", "os")),
    ),
)
def test_declarations_that_make_no_sense_are_refused(make: Any, error: type[Exception], words: tuple[str, ...]) -> None:
    with raises_saying(error, *words):
        make()


@pytest.mark.parametrize(
    ("init", "word"),
    (
        (lambda shape, rng: np.zeros(3), "shape (3,)"),
        (lambda shape, rng: np.full(shape, np.nan), "not finite"),
        (lambda shape, rng: np.full(shape, 1e300), "not finite"),
        (lambda shape, rng: ["a"] * 4, "no array of numbers"),
    ),
)
def test_what_a_function_gives_is_checked(init: Any, word: str) -> None:
    with raises_saying(ArgumentError, "bias_ih_l0", word):
        rnnc.Recurrent(Declared(init), 3, 4).init(0)
