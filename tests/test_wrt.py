"""`rnnc.vjp(..., wrt=)`: the gradients that are asked for, and nothing else."""

from __future__ import annotations

import pickle
from itertools import combinations
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.backends.planning.last_step import for_the_next_step
from rnnc.checking.wrt import EVERY
from tests.refusals import raises_saying
from tests.test_quick_halves import MODELS, arguments

CHOICES = [names for count in (1, 2) for names in combinations(EVERY, count)]


def flat(value: Any) -> list[Any]:
    """The arrays of a result, in order."""
    if isinstance(value, dict):
        return [array for key in value for array in flat(value[key])]
    return [array for part in value for array in flat(part)] if isinstance(value, tuple) else [value]


def check(found: Any, expected: Any, wrt: tuple[str, ...]) -> None:
    """What `wrt` leaves out is None, and the others are as if all were computed."""
    for name, one, other in zip(EVERY, found, expected, strict=True):
        if name not in wrt:
            assert one is None
            continue
        for a, b in zip(flat(one), flat(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * max(1, np.abs(b).max(initial=0)))


@pytest.mark.parametrize("wrt", CHOICES, ids="-".join)
@pytest.mark.parametrize("name", ("gru of two layers", "several inputs and outputs"))
def test_the_others_are_none(name: str, wrt: tuple[str, ...]) -> None:
    """In quick calls and in checked ones, for a spec and for a network."""
    model = MODELS[name]
    f, every = rnnc.vjp(model, threads=1, wrt=wrt), rnnc.vjp(model, threads=1)
    assert "enter machine code directly" in f.explain()
    for steps, batch in ((1, 1), (6, 3)):
        params, x, state, *adjoints = arguments(model, steps, batch)
        for lengths in (None, [steps - row for row in range(batch)]):
            expected = every(params, x, state, lengths)[1](*adjoints)
            check(f(params, x, state, lengths)[1](*adjoints), expected, wrt)


def test_work_that_is_left_out_is_not_compiled(backend: str) -> None:
    spec = rnnc.LSTM(3, 5)
    some, every = (rnnc.vjp(spec, backend=backend, wrt=wrt) for wrt in (("params",), EVERY))
    assert some.ir("optimized").count("matmul") < every.ir("optimized").count("matmul")
    assert "d:x" not in some.ir("rolled") and "d:h.0_l0" not in some.ir("rolled")


def test_the_last_step_computes_nothing_for_the_next() -> None:
    """The product with the recurrent weights leads to the gradient of the initial state."""
    for wrt, skipped in ((("params",), ["loop1_step1"]), (("state",), [])):
        code: Any = rnnc.vjp(rnnc.GRU(3, 5), wrt=wrt)._code
        found = [p.name for r in code.plan.regions for p in r.steps if id(p) in for_the_next_step(r)]
        assert found == skipped


def test_segments_hand_on_what_is_not_returned() -> None:
    spec = rnnc.GRU(3, 5)
    params, x, state, *adjoints = arguments(spec, 7, 2)
    f = rnnc.vjp(spec, wrt=("x", "params"), remat=3)
    check(
        pickle.loads(pickle.dumps(f))(params, x, state)[1](*adjoints),
        rnnc.vjp(spec)(params, x, state)[1](*adjoints),
        f.wrt,
    )


def test_a_table_belongs_to_the_parameters() -> None:
    net = rnnc.Sequential(rnnc.Embedding(7, 3), rnnc.GRU(3, 4))
    params, words = net.init(seed=0), np.array([[1, 2], [3, 1]])
    expected = rnnc.vjp(net)(params, words)
    f = rnnc.vjp(net, wrt=["params"])
    seed = np.ones_like(expected[0][0])
    check(f(params, words)[1](seed), expected[1](seed), ("params",))


def test_what_is_no_argument_is_refused() -> None:
    spec = rnnc.GRU(3, 4)
    for wrt in ("x", None, (3,)):
        with raises_saying(rnnc.ArgumentTypeError, "wrt: expected"):
            rnnc.vjp(spec, wrt=wrt)  # type: ignore[arg-type]
    for wrt in (("weights",), ()):
        with raises_saying(rnnc.ArgumentError, "wrt: expected"):
            rnnc.vjp(spec, wrt=wrt)
