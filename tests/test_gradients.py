"""First order: rnnc.vjp and rnnc.jvp against PyTorch's autograd, differences and each other, and what a pullback keeps.

In every ragged batch x, its tangent and the adjoint of the output hold NaN past the end of each row.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from tests.cases import Array, Case, as_result, assert_close, error
from tests.derivative_oracles import (
    BACKENDS,
    FIRST_ORDER,
    GROUPS,
    TorchCall,
    UserCase,
    arguments,
    assert_points_agree,
    assert_same_points,
    compiled,
    difference,
    direction,
    flat_gradients,
    flat_result,
    forward,
    inner,
    numpy_point,
    primal,
    pull,
    push,
    seeds,
    size_of_terms,
    small_cases,
    torch_point,
    torch_supports,
    user_cases,
)
from tests.derivative_oracles import (
    as_result as result_of,
)
from tests.matrix import cases

MATRIX = cases(strength=2)
USERS = user_cases()
OTHERS = USERS[::2] + [c for c in MATRIX if not torch_supports(c)]
"""What PyTorch has no layer for; finite differences hold it: of users' cells every other one, and of the rest the
tangents, which gradients are held against."""
DIFFERENCES = {"float32": 1e-5, "float64": 1e-9}
"""Relative to the terms of an inner product."""


# ------------------------------------------------------------------------------------------ the numbers


IN_TORCH = [c for c in MATRIX if torch_supports(c)]
ON = [("reference", c) for c in IN_TORCH[1::6]] + [(b, c) for b in BACKENDS if b != "reference" for c in IN_TORCH[::3]]
"""The interpreter is held against the unrolled graph besides, so a part of the matrix is enough for it."""


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("on", "case"), ON, ids=str)
def test_gradients_are_pytorchs(on: str, case: Case) -> None:
    pytest.importorskip("torch", reason="PyTorch is the oracle here")
    adjoints = seeds(case, 1)
    expected = numpy_point(TorchCall(case).gradients(torch_point(adjoints)))
    assert_points_agree(pull(case, on, adjoints), expected, FIRST_ORDER[case.dtype], case.dtype)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", OTHERS[::2] + MATRIX[::12], ids=str)
def test_results_are_a_models_and_gradients_are_differences(case: Case, backend: str) -> None:
    """Along a random direction of each argument: of params, of x and of state. Without adjoints, all are zeros."""
    adjoints, expected = seeds(case, 1), forward(case, primal(case))
    output, states = expected.pop("output"), tuple(expected.values())
    found, pullback = compiled("vjp", case.spec(), backend)(*arguments(case), lengths=case.row_lengths)
    assert_close(as_result(found), type(as_result(found))(output, states), case.dtype)
    for part, value in zip(flat_gradients(case, pullback()).items(), primal(case).values(), strict=True):
        assert not part[1].any() and part[1].shape == value.shape, part[0]
    gradients = pull(case, backend, adjoints)
    for number, group in enumerate(GROUPS):
        along = direction(case, number + 2, group)
        slope = inner(adjoints, difference(partial(forward, case), primal(case), along))
        off = abs(inner(gradients, along) - slope) / size_of_terms(gradients, along)
        assert off <= DIFFERENCES[case.dtype], f"{group}: {off:.3g}"


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", USERS[1::4] + small_cases()[::8], ids=str)
def test_tangents_are_differences_and_the_transpose_of_gradients(case: Case, backend: str) -> None:
    along, adjoints = direction(case, 2), seeds(case, 1)
    results, tangents = push(case, backend, along)
    assert_points_agree(results, forward(case, primal(case)), FIRST_ORDER[case.dtype], case.dtype)
    expected = difference(partial(forward, case), primal(case), along)
    assert_points_agree(tangents, expected, DIFFERENCES[case.dtype], case.dtype)
    gradients = pull(case, backend, adjoints)
    off = abs(inner(adjoints, tangents) - inner(gradients, along)) / size_of_terms(gradients, along)
    assert off <= FIRST_ORDER[case.dtype]


# ------------------------------------------------------------------------------------------ what may be left out

BOTH = Case("lstm", 1, True, dtype="float64", steps=5, batch=4, hidden_size=4, lengths="mixed", seed=3)
PLAIN = replace(BOTH, lengths="none")
NORMED = UserCase(bidirectional=True, dtype="float64", steps=4, lengths="mixed", seed=4)
each_call = pytest.mark.parametrize("case", (BOTH, PLAIN, NORMED), ids=("ragged", "rectangular", "layer norm"))


@each_call
def test_an_adjoint_of_none_is_zeros(case: Case, backend: str) -> None:
    adjoints = seeds(case, 1)
    _, pullback = compiled("vjp", case.spec(), backend)(*arguments(case), lengths=case.row_lengths)
    d_output, d_state = result_of(case, adjoints)
    parts = [flat_gradients(case, pullback(*given)) for given in ((d_output, None), (None, d_state))]
    none = {name: np.zeros_like(value) for name, value in adjoints.items()}
    for part, names in zip(parts, (("output",), [name for name, _ in case.state_widths]), strict=True):
        assert any(value.any() for value in part.values())
        assert_points_agree(part, pull(case, backend, none | {name: adjoints[name] for name in names}), 1e-15)
    whole = {name: parts[0][name] + parts[1][name] for name in parts[0]}
    assert_points_agree(whole, flat_gradients(case, pullback(d_output=d_output, d_state=d_state)), 1e-13)


@each_call
def test_a_tangent_of_none_is_zeros(case: Case, backend: str) -> None:
    f = compiled("jvp", case.spec(), backend)
    for number, group in enumerate(GROUPS):
        given = arguments(case, direction(case, 2, group))
        alone = tuple(part if n == number else None for n, part in enumerate(given))
        (_, some), (_, all_) = (f(arguments(case), part, lengths=case.row_lengths) for part in (alone, given))
        assert_same_points(flat_result(case, some), flat_result(case, all_))


@pytest.mark.parametrize("lengths", ("none", "mixed"))
def test_a_state_of_none_is_zeros(lengths: str, backend: str) -> None:
    case = replace(BOTH, lengths=lengths, initial=False)
    params, x, state = arguments(case)
    assert state is None
    zeros = tuple(np.zeros((2, 4, width)) for _, width in case.state_widths)
    f = compiled("vjp", case.spec(), backend)
    given = result_of(case, seeds(case, 1))
    found = [flat_gradients(case, f(params, x, s, lengths=case.row_lengths)[1](*given)) for s in (None, zeros)]
    assert_same_points(*found)


# ------------------------------------------------------------------------------------------ rows and padding


def test_rows_end_where_their_own_sequence_does(backend: str) -> None:
    """The gradients of a ragged batch are those of each row run alone, summed over rows for parameters."""
    case, adjoints = BOTH, seeds(BOTH, 1)
    found = pull(case, backend, adjoints)
    f = compiled("vjp", case.spec(), backend)
    params, x, state = arguments(case)
    total = {name: np.zeros_like(value) for name, value in params.items()}
    assert case.row_lengths is not None and {0, case.steps} <= set(case.row_lengths)
    for row, length in enumerate(case.row_lengths):
        last = tuple(adjoints[name][:, [row]] for name, _ in case.state_widths)
        if length == 0:
            d_params, d_state = {name: np.zeros_like(value) for name, value in params.items()}, last
        else:
            _, pullback = f(params, x[:length, [row]], tuple(s[:, [row]] for s in state))
            d_params, d_x, d_state = pullback(adjoints["output"][:length, [row]], last)
            assert error(found["x"][:length, [row]], d_x) <= 1e-13
        assert not found["x"][length:, row].any()
        for (name, _), d in zip(case.state_widths, d_state, strict=True):
            assert error(found[name][:, [row]], d) <= 1e-13
        total = {name: total[name] + d_params[name] for name in total}
    assert_points_agree({name: found[name] for name in total}, total, 1e-13)


def test_full_lengths_change_nothing(backend: str) -> None:
    full = replace(BOTH, lengths="full")
    adjoints = seeds(full, 1)
    assert_points_agree(pull(full, backend, adjoints), pull(replace(full, lengths="none"), backend, adjoints), 1e-14)


@pytest.mark.parametrize("where", ("x", "d_output"))
@pytest.mark.parametrize("value", (np.nan, np.inf))
def test_what_lies_in_the_padding_reaches_nothing(where: str, value: float, backend: str) -> None:
    """Not even as 0 * NaN in the gradient of a weight: the same bits whatever lies there."""
    for case in (BOTH, NORMED, replace(BOTH, cell="rnn_relu", batch_first=True), replace(BOTH, cell="gru_before")):
        found = []
        for filler in (0.0, value):
            params, x, state = arguments(case)
            d_output, d_state = result_of(case, seeds(case, 1))
            for name, array in (("x", x), ("d_output", d_output)):
                array[np.isnan(array)] = filler if name == where else 0.0
            _, pullback = compiled("vjp", case.spec(), backend)(params, x, state, lengths=case.row_lengths)
            found.append(flat_gradients(case, pullback(d_output, d_state)))
        assert all(np.isfinite(value).all() for value in found[1].values())
        assert_same_points(*found)


# ------------------------------------------------------------------------------------------ pullbacks


@each_call
def test_pullbacks_of_one_call_do_not_disturb_each_other(case: Case, backend: str) -> None:
    one, other = (result_of(case, seeds(case, n)) for n in (1, 2))
    _, pullback = compiled("vjp", case.spec(), backend)(*arguments(case), lengths=case.row_lengths)
    first = flat_gradients(case, pullback(*one))
    kept = {name: value.copy() for name, value in first.items()}
    second = flat_gradients(case, pullback(*other))
    assert_same_points(first, kept)
    assert max(error(second[name], kept[name]) for name in kept) > 0.1
    for value in (*first.values(), *second.values()):
        assert value.flags.writeable
        value[...] = np.nan
    assert_same_points(flat_gradients(case, pullback(*one)), kept)


@each_call
def test_calls_of_one_function_do_not_disturb_each_other(case: Case, backend: str) -> None:
    """A pullback belongs to its call, also if its function is called with other sizes in between."""
    f = compiled("vjp", case.spec(), backend)
    other = replace(case, steps=case.steps + 2, batch=2)
    adjoints = seeds(case, 1)
    expected = pull(case, backend, adjoints)
    _, pullback = f(*arguments(case), lengths=case.row_lengths)
    _, later = f(*arguments(other), lengths=other.row_lengths)
    after = flat_gradients(other, later(*result_of(other, seeds(other, 1))))
    assert_same_points(flat_gradients(case, pullback(*result_of(case, adjoints))), expected)
    assert_same_points(pull(other, backend, seeds(other, 1)), after)


@each_call
def test_changed_arguments_and_results_do_not_reach_the_pullback(case: Case, backend: str) -> None:
    adjoints = seeds(case, 1)
    expected = pull(case, backend, adjoints)
    params, x, state = arguments(case)
    params = {name: value.copy() for name, value in params.items()}
    states = tuple(value.copy() for value in state)
    lengths = None if case.row_lengths is None else case.row_lengths.copy()
    (output, last), pullback = compiled("vjp", case.spec(), backend)(params, x, states, lengths=lengths)
    for array in (*params.values(), x, *states, output, *last):
        array[...] = 7.0
    if lengths is not None:
        lengths[...] = case.steps
    params.clear()
    assert_same_points(flat_gradients(case, pullback(*result_of(case, adjoints))), expected)


@pytest.mark.sampled(4)
@each_call
def test_nothing_that_is_passed_is_changed(case: Case, backend: str) -> None:
    adjoints, along = seeds(case, 1), direction(case, 2)
    given = [arguments(case), arguments(case, along), result_of(case, adjoints)]
    before = [[array.copy() for array in _arrays(part)] for part in given]
    for part in given:
        for array in _arrays(part):
            array.flags.writeable = False
    _, pullback = compiled("vjp", case.spec(), backend)(*given[0], lengths=case.row_lengths)
    pullback(*given[2])
    compiled("jvp", case.spec(), backend)(given[0], given[1], lengths=case.row_lengths)
    compiled("hvp", case.spec(), backend)(given[0], given[2], given[1], lengths=case.row_lengths)
    for part, copies in zip(given, before, strict=True):
        for array, copy in zip(_arrays(part), copies, strict=True):
            np.testing.assert_array_equal(array, copy)
            array.flags.writeable = True


def _arrays(part: object) -> list[Array]:
    if isinstance(part, np.ndarray):
        return [part]
    items = part.values() if isinstance(part, dict) else part
    assert isinstance(items, (tuple, type({}.values())))
    return [array for item in items for array in _arrays(item)]


def test_arrays_with_any_strides(backend: str) -> None:
    case = replace(PLAIN, batch_first=True)
    adjoints = seeds(case, 1)
    expected = pull(case, backend, adjoints)
    params, x, state = arguments(case)
    (d_output, d_state), f = result_of(case, adjoints), compiled("vjp", case.spec(), backend)
    params = {name: np.asfortranarray(value) for name, value in params.items()}
    _, pullback = f(params, np.asfortranarray(x), tuple(np.repeat(s, 2, axis=2)[..., ::2] for s in state))
    for given in (np.asfortranarray(d_output), np.repeat(d_output, 2, axis=0)[::2], d_output[..., ::-1][..., ::-1]):
        strided = tuple(np.asfortranarray(s) for s in d_state)
        assert_points_agree(flat_gradients(case, pullback(given, strided)), expected, 1e-14)
    summed = pullback(np.broadcast_to(np.float64(1), d_output.shape))  # the gradient of output.sum()
    assert_points_agree(
        flat_gradients(case, summed), flat_gradients(case, pullback(np.ones_like(d_output), None)), 1e-14
    )


def test_one_function_serves_all_sizes(backend: str) -> None:
    """Steps, batch and lengths are not known when a function is compiled; 300 steps are the same code as 1."""
    base = Case("gru", dtype="float64", hidden_size=4, input_size=2, initial=False)
    for steps, batch in ((1, 1), (2, 5), (300, 2), (3, 0)):
        for lengths in ("none", "mixed") if batch else ("none",):
            case = replace(base, steps=steps, batch=batch, lengths=lengths)
            adjoints, along = seeds(case, 1), direction(case, 2)
            gradients = pull(case, backend, adjoints)
            expected = inner(adjoints, difference(partial(forward, case), primal(case), along))
            assert abs(inner(gradients, along) - expected) <= 1e-9 * size_of_terms(gradients, along)


def test_a_loss_decreases_along_its_gradient(backend: str) -> None:
    """The signs and the order of the results, as someone who trains meets them."""
    case = replace(PLAIN, cell="gru", bidirectional=False)
    f, target = compiled("vjp", case.spec(), backend), np.sin(np.arange(4.0))
    params, x, state = arguments(case)
    losses = []
    for _ in range(20):
        (output, _), pullback = f(params, x, state)
        losses.append(float(np.mean((output - target) ** 2)))
        d_params, _, _ = pullback(2 * (output - target) / output.size)
        params = {name: value - 0.5 * d_params[name] for name, value in params.items()}
    assert all(b < a for a, b in zip(losses, losses[1:], strict=False))
    assert losses[-1] < 0.8 * losses[0]
