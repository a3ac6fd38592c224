"""Arrays of any layout in and out, fresh or given, and values at the edges of their range."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import rnnc
from tests.cases import (
    CELLS,
    ROUNDING,
    Case,
    Result,
    arrays,
    as_result,
    assert_same,
    compiled,
    worst_error,
)

Array = NDArray[Any]
each_cell = pytest.mark.parametrize("cell", CELLS)


# ------------------------------------------------------------------------------------------ memory layouts


def strided(array: Array) -> Array:
    """Every second element of a larger array, along every axis; NaN between."""
    wide = np.full([2 * n for n in array.shape], np.nan, array.dtype)
    view = wide[(slice(None, None, 2),) * array.ndim]
    view[...] = array
    return view


def backwards(array: Array) -> Array:
    """Negative strides along every axis."""
    flip = (slice(None, None, -1),) * array.ndim
    return np.ascontiguousarray(array[flip])[flip]


def read_only(array: Array) -> Array:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def misaligned(array: Array) -> Array:
    raw = np.zeros(array.nbytes + 1, np.uint8)
    view: Array = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    assert not view.flags.aligned
    return view


def repeated(array: Array) -> Array:
    """Stride 0: every row of the batch is the first one."""
    return np.broadcast_to(array[:, :1], array.shape)


LAYOUTS = (strided, backwards, np.asfortranarray, read_only, misaligned)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch_first", (False, True))
@pytest.mark.parametrize("cell", ("gru", "lstm_projected"))
def test_any_layout_of_inputs_gives_the_same(
    layout: Callable[[Array], Array], batch_first: bool, cell: str, backend: str
) -> None:
    case = Case(cell, num_layers=2, bidirectional=True, batch_first=batch_first, batch=4)
    plain = case.call(compiled(case, backend))
    params = {name: layout(value) for name, value in case.params.items()}
    model = rnnc.compile(case.spec(), params, backend=backend)
    state = tuple(map(layout, case.state)) if isinstance(case.state, tuple) else layout(case.state)
    assert worst_error(as_result(model(layout(case.x), state)), plain) < ROUNDING


def test_a_broadcast_input(backend: str) -> None:
    case = Case("gru", batch=4)
    model = compiled(case, backend)
    x = repeated(case.x)
    assert worst_error(as_result(model(x, case.state)), as_result(model(x.copy(), case.state))) < ROUNDING


@pytest.mark.sampled(3)
@each_cell
def test_inputs_are_left_as_they_were(cell: str, backend: str) -> None:
    case = Case(cell, num_layers=2, bidirectional=True, batch=7, lengths="mixed")
    states = case.state if isinstance(case.state, tuple) else (case.state,)
    given = [case.x, *states, case.row_lengths, *case.params.values()]
    before = [np.array(array) for array in given]
    model = compiled(case, backend)
    case.call(model)
    model(case.x, case.state)
    for array, copy in zip(given, before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_a_bound_model_keeps_its_own_parameters(backend: str) -> None:
    case = Case("gru")
    params = {name: value.copy() for name, value in case.params.items()}
    model = rnnc.compile(case.spec(), params, backend=backend)
    before = case.call(model)
    for value in params.values():
        value[...] = np.nan
    assert_same(case.call(model), before)


@each_cell
def test_results_are_fresh_arrays_of_the_callers_own(cell: str, backend: str) -> None:
    case = Case(cell, num_layers=2)
    model = compiled(case, backend)
    first = case.call(model)
    kept = Result(first.output.copy(), tuple(s.copy() for s in first.states))
    second = as_result(model(case.x + 1, case.state))
    assert_same(first, kept)
    for array in arrays(first):
        assert array.flags.writeable and array.flags.c_contiguous
        assert not any(np.shares_memory(array, other) for other in arrays(second))
        assert not np.shares_memory(array, case.x)
        array[...] = np.nan
    assert_same(case.call(model), kept)


# ------------------------------------------------------------------------------------------ out=


@pytest.mark.sampled(4)
@each_cell
@pytest.mark.parametrize("batch", (4, None))
@pytest.mark.parametrize("lengths", ("none", "mixed"))
def test_out_is_filled_and_returned(cell: str, batch: int | None, lengths: str, backend: str) -> None:
    lengths = "none" if batch is None else lengths
    case = Case(cell, num_layers=2, bidirectional=True, batch=batch, lengths=lengths)
    model = compiled(case, backend)
    expected = case.call(model)
    output = np.full_like(expected.output, np.nan)
    states = tuple(np.full_like(s, np.nan) for s in expected.states)
    state = states if len(states) > 1 else states[0]
    returned = model(case.x, case.state, lengths=case.row_lengths, out=(output, state))
    assert returned[0] is output
    for given, back in zip(states, as_result(returned).states, strict=True):
        assert given is back
    assert_same(Result(output, states), expected)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("layout", (strided, backwards, np.asfortranarray))
@pytest.mark.parametrize("batch_first", (False, True))
@pytest.mark.parametrize("lengths", ("none", "mixed"))
def test_the_output_may_be_any_view(
    layout: Callable[[Array], Array], batch_first: bool, lengths: str, backend: str
) -> None:
    """Such as the columns of a larger array, whose other columns stay untouched."""
    case = Case(num_layers=2, bidirectional=True, batch_first=batch_first, lengths=lengths)
    model = compiled(case, backend)
    expected = case.call(model)
    output = layout(np.full_like(expected.output, np.nan))
    returned, state = model(case.x, case.state, lengths=case.row_lengths, out=output)
    assert returned is output
    assert_same(as_result((output, state)), expected)


def test_out_writes_nothing_but_its_own_elements(backend: str) -> None:
    case = Case("gru", batch=5)
    model = compiled(case, backend)
    expected = case.call(model)
    wide = np.full((case.steps, 5, case.width + 7), 7.0, np.float32)
    model(case.x, case.state, out=wide[..., 3:-4])
    np.testing.assert_array_equal(wide[..., 3:-4], expected.output)
    assert (wide[..., :3] == 7).all() and (wide[..., -4:] == 7).all()


# ------------------------------------------------------------------------------------------ special values


@pytest.mark.sampled(4)
@each_cell
@pytest.mark.parametrize("poison", (np.nan, np.inf, -np.inf))
def test_a_bad_row_does_not_touch_the_others(cell: str, poison: float, backend: str) -> None:
    case = Case(cell, num_layers=2, bidirectional=True, batch=6)
    model = compiled(case, backend)
    clean = case.call(model)
    x = case.x.copy()
    x[3, 2] = poison
    found = as_result(model(x, case.state))
    others = np.arange(6) != 2
    np.testing.assert_array_equal(found.output[:, others], clean.output[:, others])
    for a, b in zip(found.states, clean.states, strict=True):
        np.testing.assert_array_equal(a[:, others], b[:, others])
    if np.isnan(poison):
        assert np.isnan(found.output[:, 2]).any()


@pytest.mark.sampled(4)
@each_cell
@pytest.mark.parametrize("value", (1e4, -1e4, 1e30, np.inf, np.nan))
@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_large_inputs_saturate_to_the_limits_of_the_equations(
    cell: str, value: float, dtype: str, backend: str
) -> None:
    """One input feature, so that infinities of one sign meet and no matmul makes a NaN of its own."""
    case = Case(cell, input_size=1, steps=3, dtype=dtype)
    model = compiled(case, backend)
    case.x[1] = value
    with np.errstate(all="ignore"):
        expected = case.expected()
    found = case.call(model)
    for a, b in zip(arrays(found), arrays(expected), strict=True):
        with np.errstate(over="ignore"):
            b = b.astype(dtype)  # a product may overflow in float32 where it does not in float64
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        np.testing.assert_allclose(a, b, rtol=1e-4 if dtype == "float32" else 1e-11, atol=1e-5)


def test_tiny_values_keep_their_relative_accuracy(backend: str) -> None:
    """tanh(x) is x for small x; 1 - 2 / (1 + exp(2 x)) would lose every digit."""
    spec = rnnc.RNN(1, 1, bias=False)
    params = {"weight_ih_l0": np.ones((1, 1), np.float32), "weight_hh_l0": np.zeros((1, 1), np.float32)}
    model = rnnc.compile(spec, params, backend=backend)
    x = np.logspace(-30, 1, 200, dtype=np.float32).reshape(-1, 1, 1)
    output, _ = model(np.concatenate([x, -x]))
    exact = np.tanh(np.concatenate([x, -x]).astype(np.float64))
    np.testing.assert_allclose(output, exact, rtol=4 * 2.0**-23)
