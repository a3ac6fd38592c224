"""Every argument of a call, wrong in each way: see test_errors.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import rnnc
from tests.cases import Case
from tests.refusals import raises_saying

CALL = Case("lstm", num_layers=2, bidirectional=True, steps=4, batch=3, input_size=5, hidden_size=6)
F32 = np.float32


def zeros(*shape: int, dtype: Any = F32) -> Any:
    return np.zeros(shape, dtype)


@pytest.fixture(scope="module")
def model(backend: str) -> Any:
    return rnnc.compile(CALL.spec(), CALL.params, backend=backend)


BATCH_STATE = (zeros(4, 3, 6), zeros(4, 3, 6))
X = CALL.x


@pytest.mark.parametrize(
    ("x", "error", "words"),
    (
        (zeros(4, 3, 4), rnnc.ShapeError, ("(T, B, I)", "I = 5", "(4, 3, 4)")),
        (zeros(4, 3, 5, 1), rnnc.ShapeError, ("(T, B, I)", "(4, 3, 5, 1)")),
        (zeros(5), rnnc.ShapeError, ("(T, I)", "(5,)")),
        (zeros(), rnnc.ShapeError, ("(T, I)", "()")),
        (zeros(0, 3, 5), rnnc.ShapeError, ("at least one time step", "(0, 3, 5)")),
        (zeros(0, 5), rnnc.ShapeError, ("at least one time step", "(0, 5)")),
        (zeros(4, 3, 5, dtype="float64"), rnnc.DtypeError, ("float32", "float64", "astype")),
        (zeros(4, 3, 5, dtype=">f4"), rnnc.DtypeError, ("float32", ">f4")),
        (zeros(4, 3, 5, dtype="int64"), rnnc.DtypeError, ("float32", "int64")),
        (zeros(4, 3, 5, dtype=object), rnnc.DtypeError, ("float32", "object")),
        ([[[0.0] * 5] * 3] * 4, rnnc.ArgumentTypeError, ("NumPy array", "list")),
        (None, rnnc.ArgumentTypeError, ("NumPy array", "None")),
        (1.0, rnnc.ArgumentTypeError, ("NumPy array", "1.0")),
        ("x", rnnc.ArgumentTypeError, ("NumPy array", "'x'")),
        (np.ma.masked_less(zeros(4, 3, 5), 1), rnnc.ArgumentTypeError, ("masked",)),
    ),
)
def test_x(model: Any, x: Any, error: type[Exception], words: tuple[str, ...]) -> None:
    with raises_saying(error, "x: ", *words):
        model(x)


def test_x_of_a_batch_first_model_is_named_so(backend: str) -> None:
    case = replace(CALL, batch_first=True)
    model = rnnc.compile(case.spec(), case.params, backend=backend)
    with raises_saying(rnnc.ShapeError, "x: ", "(B, T, I)", "(4, 3, 7)"):
        model(zeros(4, 3, 7))
    with raises_saying(rnnc.ShapeError, "x: ", "at least one time step", "(3, 0, 5)"):
        model(zeros(3, 0, 5))


@pytest.mark.parametrize(
    ("state", "error", "words"),
    (
        (zeros(4, 3, 6), rnnc.ArgumentTypeError, ("state", "(h, c)", "(4, 3, 6)")),
        ((zeros(4, 3, 6),), rnnc.ArgumentError, ("state", "2", "1")),
        ((zeros(4, 3, 6),) * 3, rnnc.ArgumentError, ("state", "2", "3")),
        ((), rnnc.ArgumentError, ("state", "2", "0")),
        ((zeros(4, 2, 6), zeros(4, 3, 6)), rnnc.ShapeError, ("state[0]", "(4, 3, 6)", "(4, 2, 6)")),
        ((zeros(4, 3, 6), zeros(3, 4, 6)), rnnc.ShapeError, ("state[1]", "(4, 3, 6)", "(3, 4, 6)")),
        ((zeros(4, 3, 6), zeros(4, 6)), rnnc.ShapeError, ("state[1]", "(4, 3, 6)", "(4, 6)")),
        ((zeros(4, 3, 6), zeros(2, 3, 6)), rnnc.ShapeError, ("state[1]", "num_layers * D", "(2, 3, 6)")),
        ((zeros(4, 3, 6), None), rnnc.ArgumentTypeError, ("state[1]", "NumPy array", "None")),
        ((zeros(4, 3, 6, dtype="float64"), zeros(4, 3, 6)), rnnc.DtypeError, ("state[0]", "float32", "float64")),
        ("state", rnnc.ArgumentTypeError, ("state", "'state'")),
        (0, rnnc.ArgumentTypeError, ("state", "0")),
    ),
)
def test_state(model: Any, state: Any, error: type[Exception], words: tuple[str, ...]) -> None:
    with raises_saying(error, *words):
        model(X, state)


def test_state_of_an_unbatched_call_has_no_batch_axis(model: Any) -> None:
    with raises_saying(rnnc.ShapeError, "state[0]", "(4, 6)", "(4, 1, 6)"):
        model(X[:, 0], (zeros(4, 1, 6), zeros(4, 1, 6)))


@pytest.mark.parametrize(
    ("lengths", "error", "words"),
    (
        ([4, 5, 1], rnnc.LengthError, ("0 <= length <= T = 4", "5", "row 1")),
        ([4, 0, -1], rnnc.LengthError, ("0 <= length <= T = 4", "-1", "row 2")),
        (np.array([2**63, 0, 0], np.uint64), rnnc.LengthError, (str(2**63), "row 0")),
        ([4, 4], rnnc.ShapeError, ("(3,)", "(2,)")),
        (4, rnnc.ShapeError, ("(3,)", "()")),
        ([[4, 4, 4]], rnnc.ShapeError, ("(3,)", "(1, 3)")),
        ([], rnnc.ShapeError, ("(3,)", "(0,)")),
        ([4.0, 4.0, 4.0], rnnc.DtypeError, ("integers", "float64")),
        (np.array([True, True, True]), rnnc.DtypeError, ("integers", "bool")),
        ([4, None, 4], rnnc.DtypeError, ("integers", "object")),
        ([4, "3", 4], rnnc.DtypeError, ("integers",)),
        ([4, [3], 4], rnnc.ArgumentError, ("integers",)),
        ("444", rnnc.ArgumentTypeError, ("'444'",)),
        ({4, 3, 2}, rnnc.ArgumentTypeError, ("set",)),
    ),
)
def test_lengths(model: Any, lengths: Any, error: type[Exception], words: tuple[str, ...]) -> None:
    with raises_saying(error, "lengths: ", *words):
        model(X, lengths=lengths)


def test_lengths_of_an_unbatched_call(model: Any) -> None:
    with raises_saying(rnnc.LengthError, "lengths: ", "T = 4", "5"):
        model(X[:, 0], lengths=5)
    with raises_saying(rnnc.ShapeError, "lengths: ", "unbatched", "(2,)"):
        model(X[:, 0], lengths=[4, 4])


def frozen(array: Any) -> Any:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("out", "error", "words"),
    (
        (zeros(4, 3, 6), rnnc.ShapeError, ("out: ", "(4, 3, 12)", "(4, 3, 6)")),
        (zeros(3, 4, 12), rnnc.ShapeError, ("out: ", "(4, 3, 12)", "(3, 4, 12)")),
        (zeros(4, 3, 12, dtype="float64"), rnnc.DtypeError, ("out: ", "float32", "float64")),
        (frozen(zeros(4, 3, 12)), rnnc.ArgumentError, ("out: ", "not writable")),
        (np.zeros(577, np.uint8)[1:].view(F32).reshape(4, 3, 12), rnnc.ArgumentError, ("out: ", "not aligned")),
        ([1, 2, 3], rnnc.ArgumentError, ("out: ", "(output, state)", "3")),
        ("out", rnnc.ArgumentTypeError, ("out: ", "NumPy array", "'out'")),
        ((zeros(4, 3, 12), zeros(4, 3, 6)), rnnc.ArgumentTypeError, ("out[1]", "(h, c)")),
        ((zeros(4, 3, 12), (zeros(4, 3, 6), None)), rnnc.ArgumentTypeError, ("out[1]", "NumPy array", "None")),
        ((None, BATCH_STATE), rnnc.ArgumentTypeError, ("out[0]", "NumPy array", "None")),
        ((zeros(4, 3, 12), (zeros(4, 3, 6), zeros(4, 3, 5))), rnnc.ShapeError, ("out[1][1]", "(4, 3, 6)", "5")),
        ((zeros(4, 3, 12), (zeros(4, 3, 6), zeros(6, 3, 4).T)), rnnc.ArgumentError, ("out[1]", "C-contiguous")),
        ((zeros(4, 3, 12), (frozen(zeros(4, 3, 6)), zeros(4, 3, 6))), rnnc.ArgumentError, ("out[1]", "not writable")),
        ((zeros(4, 3, 12), (zeros(4, 3, 6),) * 2), rnnc.ArgumentError, ("out: ", "shares memory", "another array")),
    ),
)
def test_out(model: Any, out: Any, error: type[Exception], words: tuple[str, ...]) -> None:
    with raises_saying(error, *words):
        model(X, out=out)


def test_out_that_overlaps_what_is_read(backend: str) -> None:
    spec = rnnc.GRU(6, 6)
    model = rnnc.compile(spec, spec.init(seed=0), backend=backend)
    x, h = zeros(4, 3, 6), zeros(1, 3, 6)
    with raises_saying(rnnc.ArgumentError, "out: ", "shares memory", "x or state"):
        model(x, out=x)
    with raises_saying(rnnc.ArgumentError, "out: ", "shares memory", "x or state"):
        model(x, h, out=(zeros(4, 3, 6), h))


def test_an_output_that_overlaps_itself(backend: str) -> None:
    """Stride 0: several elements would be written to one place."""
    spec = rnnc.GRU(6, 6)
    model = rnnc.compile(spec, spec.init(seed=0), backend=backend)
    output = np.lib.stride_tricks.as_strided(zeros(4, 1, 6), (4, 3, 6), (24, 0, 4))
    with raises_saying(rnnc.ArgumentError, "out: "):
        model(zeros(4, 3, 6), out=output)


def test_a_tensor_that_is_not_on_the_cpu(backend: str) -> None:
    torch = pytest.importorskip("torch")
    spec = rnnc.GRU(6, 6)
    model = rnnc.compile(spec, spec.init(seed=0), backend=backend)
    with raises_saying(rnnc.ArgumentTypeError, "x: ", "meta", "CPU"):
        model(torch.zeros(4, 3, 6, device="meta"))
    with raises_saying(rnnc.ArgumentTypeError, "x: ", "bfloat16"):
        model(torch.zeros(4, 3, 6, dtype=torch.bfloat16))


@pytest.mark.parametrize(
    "call",
    (
        lambda model: model(),
        lambda model: model(X, None, [4, 4, 4]),
        lambda model: model(X, h_0=None),
        lambda model: model(X, x=X),
    ),
)
def test_arguments_that_do_not_exist(model: Any, call: Callable[[Any], Any]) -> None:
    """Lengths and out are given by name; tests/test_arguments.py has the messages."""
    with pytest.raises(TypeError):
        call(model)


def test_arguments_by_name(model: Any) -> None:
    by_name = model(x=X, state=CALL.state, lengths=None, out=None)[0]
    np.testing.assert_array_equal(by_name, model(X, CALL.state)[0])


def test_a_refused_call_leaves_the_model_and_its_arguments_usable(model: Any) -> None:
    expected = CALL.expected()
    output = np.full(expected.output.shape, 7, F32)
    with pytest.raises(rnnc.LengthError):
        model(X, lengths=[9, 9, 9], out=output)
    assert (output == 7).all()
    np.testing.assert_allclose(model(X, CALL.state)[0], expected.output, rtol=1e-4, atol=1e-6)
