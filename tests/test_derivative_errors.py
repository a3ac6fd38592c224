"""Every argument of rnnc.vjp, jvp and hvp and of what they return, wrong in each way: see test_errors.py.

x, state, params and lengths are checked as those of a model; here each check is met once, under the name the argument
has in a derivative's call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rnnc
from tests.cases import Case
from tests.derivative_oracles import TRANSFORMS, compiled
from tests.refusals import raises_saying
from tests.user_cells import MinimalGatedUnit

CASE = Case("lstm", num_layers=2, steps=4, batch=3, input_size=5, hidden_size=6)
SPEC = CASE.spec()
PARAMS = CASE.params
X = CASE.x
STATE = CASE.state
PRIMALS = (PARAMS, X, STATE)
F32 = np.float32


def zeros(*shape: int, dtype: Any = F32) -> Any:
    return np.zeros(shape, dtype)


OUTPUT = zeros(4, 3, 6)
SEEDS = (OUTPUT, STATE)

Refusal = tuple[Any, type[Exception], tuple[str, ...]]
WRONG_PARAMS: list[Refusal] = [
    ([1.0], rnnc.ArgumentTypeError, ("mapping", "list")),
    ({}, rnnc.ParameterError, ("missing", "'weight_ih_l0'")),
    ({**PARAMS, "weight_ih_l2": zeros(24, 6)}, rnnc.ParameterError, ("unknown", "'weight_ih_l2'")),
    ({**PARAMS, "bias_hh_l1": zeros(23)}, rnnc.ShapeError, ("['bias_hh_l1']", "(24,)", "(23,)")),
    ({**PARAMS, "bias_hh_l1": zeros(24, dtype="float64")}, rnnc.DtypeError, ("['bias_hh_l1']", "float32", "float64")),
    ({**PARAMS, "bias_hh_l1": [0.0] * 24}, rnnc.ArgumentTypeError, ("['bias_hh_l1']", "NumPy array", "list")),
]
WRONG_X: list[Refusal] = [
    (zeros(4, 3, 4), rnnc.ShapeError, ("(4, 3, 5)", "(4, 3, 4)")),
    (zeros(3, 3, 5), rnnc.ShapeError, ("(4, 3, 5)", "(3, 3, 5)")),
    (zeros(4, 5), rnnc.ShapeError, ("(4, 3, 5)", "(4, 5)")),
    (zeros(4, 3, 5, dtype="float64"), rnnc.DtypeError, ("float32", "float64", "astype")),
    (0.0, rnnc.ArgumentTypeError, ("NumPy array", "0.0")),
]
WRONG_OUTPUT: list[Refusal] = [
    (zeros(4, 3, 5), rnnc.ShapeError, ("(4, 3, 6)", "(4, 3, 5)")),
    (zeros(3, 4, 6), rnnc.ShapeError, ("(4, 3, 6)", "(3, 4, 6)")),
    (zeros(4, 6), rnnc.ShapeError, ("(4, 3, 6)", "(4, 6)")),
    (zeros(4, 3, 6, dtype="float64"), rnnc.DtypeError, ("float32", "float64", "astype")),
    (zeros(4, 3, 6, dtype="int32"), rnnc.DtypeError, ("float32", "int32")),
    (1.0, rnnc.ArgumentTypeError, ("NumPy array", "1.0")),
    (np.ma.masked_less(OUTPUT, -1), rnnc.ArgumentTypeError, ("masked",)),
]
WRONG_STATE: list[Refusal] = [
    (zeros(2, 3, 6), rnnc.ArgumentTypeError, ("(h, c)", "(2, 3, 6)")),
    ((zeros(2, 3, 6),), rnnc.ArgumentError, ("2", "1")),
    ((zeros(2, 3, 6),) * 3, rnnc.ArgumentError, ("2", "3")),
    ((zeros(2, 3, 6), zeros(2, 4, 6)), rnnc.ShapeError, ("[1]", "(2, 3, 6)", "(2, 4, 6)")),
    ((zeros(3, 6), zeros(2, 3, 6)), rnnc.ShapeError, ("[0]", "(2, 3, 6)", "(3, 6)")),
    ((zeros(2, 3, 6), zeros(2, 3, 6, dtype="float64")), rnnc.DtypeError, ("[1]", "float32", "float64")),
    ((zeros(2, 3, 6), None), rnnc.ArgumentTypeError, ("[1]", "NumPy array", "None")),
]
each_transform = pytest.mark.parametrize("transform", TRANSFORMS)


def under(name: str, refusals: list[Refusal]) -> list[tuple[str, Any, type[Exception], tuple[str, ...]]]:
    return [(name, *refusal) for refusal in refusals]


# ------------------------------------------------------------------------------------------ the transforms


@each_transform
@pytest.mark.parametrize("value", (None, "LSTM", rnnc.LSTM, {}, MinimalGatedUnit()))
def test_what_is_differentiated_is_a_spec(transform: str, value: Any) -> None:
    with raises_saying(rnnc.ArgumentTypeError, "spec", "rnnc.RNN, GRU, LSTM or Recurrent", "got"):
        TRANSFORMS[transform](value)


@each_transform
def test_backend_and_threads(transform: str) -> None:
    f = TRANSFORMS[transform]
    with raises_saying(rnnc.BackendError, "backend", "'llvm'", "lvm"):
        f(SPEC, backend="lvm")
    with raises_saying(rnnc.ArgumentTypeError, "backend", "None"):
        f(SPEC, backend=None)
    for value, error in ((0, rnnc.ArgumentError), (1.5, rnnc.ArgumentTypeError), ("2", rnnc.ArgumentTypeError)):
        with raises_saying(error, "threads", "integer", str(value)):
            f(SPEC, backend="reference", threads=value)
    with pytest.raises(TypeError):
        f(SPEC, "reference")  # by name only, as in rnnc.compile


@pytest.mark.sampled(3)
@each_transform
def test_stages(transform: str, backend: str) -> None:
    f = compiled(transform, SPEC, backend)
    assert f.stages[:3] == ("lowered", "optimized", "rolled")
    with raises_saying(rnnc.ArgumentError, "stage", "lowered", "'roled'", "did you mean 'rolled'?"):
        f.ir("roled")
    with raises_saying(rnnc.ArgumentError, "stage", "None"):
        f.ir(None)
    for value, error in ((0, rnnc.ArgumentError), (2.5, rnnc.ArgumentTypeError)):
        with raises_saying(error, "steps", "integer", str(value)):
            f.ir("lowered", steps=value)


def test_the_texts_of_the_shared_stages(backend: str) -> None:
    f = compiled("vjp", SPEC, backend)
    assert "steps=2" in f.ir("lowered", steps=2) and "@ l0.fwd.grad" in f.ir("lowered", steps=2)
    assert f.ir("optimized").startswith("# dead_code") and "steps=3" in f.ir("optimized")
    assert "d:weight_ih_l0=" in f.ir("rolled")
    assert f.explain() and repr(f).startswith("rnnc.vjp(LSTM(")


# ------------------------------------------------------------------------------------------ the calls


def call_vjp(backend: str) -> Callable[..., Any]:
    f = compiled("vjp", SPEC, backend)
    return lambda params=PARAMS, x=X, state=STATE, lengths=None: f(params, x, state, lengths)


def call_jvp(backend: str) -> Callable[..., Any]:
    f = compiled("jvp", SPEC, backend)
    return lambda params=PARAMS, x=X, state=STATE, lengths=None: f(
        (params, x, state), (None, None, None), lengths=lengths
    )


def call_hvp(backend: str) -> Callable[..., Any]:
    f = compiled("hvp", SPEC, backend)
    return lambda params=PARAMS, x=X, state=STATE, lengths=None: f(
        (params, x, state), (None, None), (None, None, None), lengths=lengths
    )


CALLS = {"vjp": call_vjp, "jvp": call_jvp, "hvp": call_hvp}


@each_transform
@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    under("params", WRONG_PARAMS)
    + under("x", [(zeros(4, 3, 4), rnnc.ShapeError, ("(T, B, I)", "(4, 3, 4)")), *WRONG_X[3:]])
    + under("x", [(zeros(0, 3, 5), rnnc.ShapeError, ("at least one time step",)), (None, TypeError, ("NumPy array",))])
    + under("state", WRONG_STATE)
    + under(
        "lengths",
        [
            ([4, 5, 1], rnnc.LengthError, ("0 <= length <= T = 4", "5", "row 1")),
            ([4, 4], rnnc.ShapeError, ("(3,)", "(2,)")),
            ([4.0, 4.0, 4.0], rnnc.DtypeError, ("integers", "float64")),
        ],
    ),
)
def test_primals(
    transform: str, name: str, value: Any, error: type[Exception], words: tuple[str, ...], backend: str
) -> None:
    call = CALLS[transform](backend)
    call()
    with raises_saying(error, name, *words):
        call(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "error", "words"), under("d_output", WRONG_OUTPUT) + under("d_state", WRONG_STATE)
)
def test_adjoints(name: str, value: Any, error: type[Exception], words: tuple[str, ...], backend: str) -> None:
    _, pullback = compiled("vjp", SPEC, backend)(*PRIMALS)
    pullback(*SEEDS)
    with raises_saying(error, name, *words):
        pullback(**{name: value})
    with pytest.raises(TypeError):
        pullback(OUTPUT, STATE, None)
    _, pullback = call_hvp_seeds(backend)
    with raises_saying(error, f"seeds[{('d_output', 'd_state').index(name)}]", *words):
        pullback("seeds", name, value)
    with raises_saying(error, f"seed_tangents[{('d_output', 'd_state').index(name)}]", *words):
        pullback("seed_tangents", name, value)


def call_hvp_seeds(backend: str) -> tuple[Any, Callable[[str, str, Any], Any]]:
    f = compiled("hvp", SPEC, backend)

    def call(which: str, name: str, value: Any) -> Any:
        wrong = (value, None) if name == "d_output" else (None, value)
        none: tuple[None, None] = (None, None)
        return f(PRIMALS, *((wrong, PRIMALS, none) if which == "seeds" else (none, PRIMALS, wrong)))

    return f, call


@pytest.mark.parametrize(
    ("number", "value", "error", "words"),
    [(n, *refusal) for n, refusals in enumerate((WRONG_PARAMS, WRONG_X, WRONG_STATE)) for refusal in refusals],
)
def test_tangents(number: int, value: Any, error: type[Exception], words: tuple[str, ...], backend: str) -> None:
    wrong = tuple(value if n == number else None for n in range(3))
    with raises_saying(error, f"tangents[{number}]", *words):
        compiled("jvp", SPEC, backend)(PRIMALS, wrong)
    with raises_saying(error, f"tangents[{number}]", *words):
        compiled("hvp", SPEC, backend)(PRIMALS, (None, None), wrong)


@pytest.mark.parametrize(
    ("value", "error", "came"),
    (
        ((PARAMS, X), rnnc.ArgumentError, "2"),
        ((PARAMS, X, STATE, None), rnnc.ArgumentError, "4"),
        ((), rnnc.ArgumentError, "0"),
        (None, rnnc.ArgumentTypeError, "None"),
        (PARAMS, rnnc.ArgumentTypeError, "dict"),
        (X, rnnc.ArgumentTypeError, "ndarray"),
    ),
)
def test_tuples_of_another_size(value: Any, error: type[Exception], came: str, backend: str) -> None:
    along, reverse = compiled("jvp", SPEC, backend), compiled("hvp", SPEC, backend)
    none, nothing = (None, None, None), (None, None)
    three, two = ("params", "x", "state"), ("d_output", "d_state")
    calls: list[tuple[str, tuple[str, ...], Callable[[], Any]]] = [
        ("primals", three, lambda: along(value, none)),
        ("tangents", three, lambda: along(PRIMALS, value)),
        ("primals", three, lambda: reverse(value, nothing, none)),
        ("tangents", three, lambda: reverse(PRIMALS, nothing, value)),
        ("seeds", two, lambda: reverse(PRIMALS, value, none)),
        ("seed_tangents", two, lambda: reverse(PRIMALS, nothing, none, value)),
    ]
    for name, parts, call in calls:
        if not isinstance(value, tuple) or len(value) != len(parts):
            with raises_saying(error, name, *parts, "got", came):
                call()


def test_an_unbatched_call_has_unbatched_adjoints(backend: str) -> None:
    """A ragged call with lengths of one number, and the layouts of its parts."""
    params, x, state = PARAMS, X[:, 0], tuple(s[:, 0] for s in STATE)
    _, pullback = compiled("vjp", SPEC, backend)(params, x, state, lengths=3)
    d_params, d_x, d_state = pullback(OUTPUT[:, 0] + F32(1))
    assert d_x.shape == x.shape and not d_x[3:].any() and d_x[:3].any()
    assert [d.shape for d in d_state] == [s.shape for s in state] and list(d_params) == list(params)
    with raises_saying(rnnc.ShapeError, "d_output", "(4, 6)", "(4, 1, 6)"):
        pullback(zeros(4, 1, 6))
    with raises_saying(rnnc.ShapeError, "d_state[0]", "(2, 6)", "(2, 1, 6)"):
        pullback(None, (zeros(2, 1, 6), zeros(2, 6)))


def test_the_layout_of_a_batch_first_call(backend: str) -> None:
    spec = rnnc.GRU(2, 3, batch_first=True)
    _, pullback = compiled("vjp", spec, backend)(spec.init(seed=0), zeros(4, 5, 2))
    assert pullback(zeros(4, 5, 3))[1].shape == (4, 5, 2)
    with raises_saying(rnnc.ShapeError, "d_output", "(4, 5, 3)", "(5, 4, 3)"):
        pullback(zeros(5, 4, 3))
    with raises_saying(rnnc.ShapeError, "d_state", "(1, 4, 3)", "(4, 1, 3)"):
        pullback(None, zeros(4, 1, 3))


def test_after_an_error_everything_goes_on(backend: str) -> None:
    f = compiled("vjp", SPEC, backend)
    _, pullback = f(*PRIMALS)
    expected = pullback(OUTPUT + F32(1), STATE)
    for wrong in (zeros(4, 3, 5), "d", zeros(4, 3, 6, dtype="float16")):
        with pytest.raises(rnnc.RnncError):
            pullback(wrong, STATE)
    with pytest.raises(rnnc.RnncError):
        f(PARAMS, X, zeros(1))
    again = pullback(OUTPUT + F32(1), STATE)
    for name, value in expected[0].items():
        np.testing.assert_array_equal(again[0][name], value)
