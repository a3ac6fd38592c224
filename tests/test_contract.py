"""What a caller may rely on beyond right numbers: pieces of a sequence, ragged batches, any memory layout, threads."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import rnnc
from tests.cases import CELLS, TOLERANCE, Case, Result, as_result, assert_close, error, worst_error

Array = NDArray[Any]
ROUNDING = 1e-6  # of float32, where the same sums may be taken in another order
each_cell = pytest.mark.parametrize("cell", CELLS)


def compiled(case: Case, backend: str) -> Callable[..., Any]:
    model: Callable[..., Any] = rnnc.compile(case.spec(), case.params, backend=backend)
    return model


def arrays(result: Result) -> tuple[Array, ...]:
    return (result.output, *result.states)


def other_sizes(base: Case, steps: int, batch: int, lengths: str) -> Case:
    """Another call of the same network: the seed gives the same parameters, whatever the sizes."""
    other = replace(base, steps=steps, batch=batch, lengths=lengths)
    for name, value in base.params.items():
        np.testing.assert_array_equal(other.params[name], value)
    return other


def assert_same(a: Result, b: Result) -> None:
    """Bit for bit."""
    for left, right in zip(arrays(a), arrays(b), strict=True):
        np.testing.assert_array_equal(left, right)


# ------------------------------------------------------------------------------------------ sequences in pieces


@each_cell
@pytest.mark.parametrize("pieces", ([1] * 11, [4, 7], [3, 1, 5, 2]))
def test_a_sequence_in_pieces_is_the_whole_sequence(cell: str, pieces: list[int], backend: str) -> None:
    case = Case(cell, num_layers=2, steps=11, dtype="float64")
    model = compiled(case, backend)
    state, outputs, start = case.state, [], 0
    for piece in pieces:
        output, state = model(case.x[start : start + piece], state)
        outputs.append(output)
        start += piece
    assert_close(as_result((np.concatenate(outputs), state)), case.expected(), "float64")


@each_cell
def test_the_same_call_twice_gives_the_same_bits(cell: str, backend: str) -> None:
    case = Case(cell, num_layers=2, bidirectional=True, steps=20, batch=5, lengths="mixed")
    model = compiled(case, backend)
    first = case.call(model)
    assert_same(first, case.call(model))
    assert_same(first, case.call(compiled(case, backend)))


def test_one_program_serves_every_length_and_batch(backend: str) -> None:
    """Nothing of T or B is compiled in: one bound model takes them all, in any order."""
    base = Case("gru", num_layers=2, bidirectional=True, dtype="float64")
    model = compiled(base, backend)
    for steps, batch in ((1, 1), (2000, 1), (3, 17), (1, 64), (40, 2), (2, 1)):
        other = other_sizes(base, steps, batch, "mixed")
        assert_close(other.call(model), other.expected(), "float64")


def test_a_long_sequence_stays_accurate(backend: str) -> None:
    case = Case("lstm", steps=2000, batch=2)
    assert_close(case.call(compiled(case, backend)), case.expected(), "float32")


@each_cell
def test_zeros_are_the_initial_state_of_a_call_without_one(cell: str, backend: str) -> None:
    case = Case(cell)
    model = compiled(case, backend)
    zeros = tuple(np.zeros_like(s) for s in (case.state if isinstance(case.state, tuple) else (case.state,)))
    given = as_result(model(case.x, zeros if len(zeros) > 1 else zeros[0]))
    left_out = as_result(model(case.x))
    assert worst_error(given, left_out) < ROUNDING
    assert worst_error(left_out, replace(case, initial=False).expected()) < TOLERANCE["float32"]


def test_one_state_may_come_bare_or_as_a_tuple_of_one(backend: str) -> None:
    case = Case("gru")
    model = compiled(case, backend)
    assert_same(as_result(model(case.x, case.state)), as_result(model(case.x, (case.state,))))
    assert not isinstance(model(case.x)[1], tuple)


# ------------------------------------------------------------------------------------------ shapes at the edges


@each_cell
@pytest.mark.parametrize("bidirectional", (False, True))
def test_unbatched_is_a_batch_of_one_without_its_axis(cell: str, bidirectional: bool, backend: str) -> None:
    case = Case(cell, num_layers=2, bidirectional=bidirectional, batch=None)
    model = compiled(case, backend)
    found = case.call(model)
    assert found.output.shape == (case.steps, case.directions * case.width)
    for (_, width), state in zip(case.state_widths, found.states, strict=True):
        assert state.shape == (2 * case.directions, width)
    assert_close(found, case.expected(), "float32")
    ones = replace(case, batch=1)
    alone = Result(found.output[:, None], tuple(s[:, None] for s in found.states))
    assert worst_error(alone, ones.call(model)) < ROUNDING


@each_cell
@pytest.mark.parametrize("lengths", ("none", "full"))
def test_an_empty_batch_gives_empty_arrays_of_the_right_shapes(cell: str, lengths: str, backend: str) -> None:
    case = Case(cell, num_layers=3, bidirectional=True, batch=0, batch_first=True, lengths=lengths)
    output, states = case.call(compiled(case, backend))
    assert output.shape == (0, case.steps, 2 * case.width)
    assert [s.shape for s in states] == [(6, 0, width) for _, width in case.state_widths]


@each_cell
def test_separate_axes_for_layers_and_directions(cell: str, backend: str) -> None:
    """h_n.reshape(num_layers, D, B, H) and output.reshape(T, B, D, H) separate the directions, as in PyTorch."""
    case = Case(cell, num_layers=2, bidirectional=True, initial=False)
    output, states = case.call(compiled(case, backend))
    batch = states[0].shape[1]
    last = states[0].reshape(2, 2, batch, case.width)[-1]
    steps = output.reshape(case.steps, batch, 2, case.width)
    np.testing.assert_array_equal(last[0], steps[-1, :, 0])
    np.testing.assert_array_equal(last[1], steps[0, :, 1])


# ------------------------------------------------------------------------------------------ ragged batches


def ragged(cell: str, **options: Any) -> Case:
    return Case(cell, **{"steps": 9, "batch": 7, "lengths": "mixed", "bidirectional": True, **options})


@each_cell
@pytest.mark.parametrize("batch_first", (False, True))
def test_ragged_rows_are_each_their_own_sequence(cell: str, batch_first: bool, backend: str) -> None:
    case = ragged(cell, num_layers=2, batch_first=batch_first, dtype="float64")
    assert_close(case.call(compiled(case, backend)), case.expected(), "float64")


@each_cell
def test_padding_is_never_read_and_its_output_is_zero(cell: str, backend: str) -> None:
    case = ragged(cell, num_layers=2)
    model = compiled(case, backend)
    clean = case.call(model)
    x, lengths = case.x.copy(), case.row_lengths
    assert lengths is not None
    padding = np.arange(case.steps)[:, None] >= lengths
    for poison in (np.nan, np.inf, 1e30):
        x[padding] = poison
        assert_same(as_result(model(x, case.state, lengths=lengths)), clean)
    assert padding.any() and not clean.output[padding].any()


@each_cell
def test_a_row_of_length_zero_keeps_its_initial_state(cell: str, backend: str) -> None:
    case = ragged(cell, num_layers=2)
    lengths = case.row_lengths
    assert lengths is not None
    empty = lengths == 0
    assert empty.any()
    found = case.call(compiled(case, backend))
    states = case.state if isinstance(case.state, tuple) else (case.state,)
    for last, first in zip(found.states, states, strict=True):
        np.testing.assert_array_equal(last[:, empty], first[:, empty])
    assert not found.output[:, empty].any()


@each_cell
def test_full_lengths_equal_no_lengths(cell: str, backend: str) -> None:
    case = ragged(cell, lengths="full")
    model = compiled(case, backend)
    assert worst_error(case.call(model), as_result(model(case.x, case.state))) < ROUNDING


def test_rows_may_come_in_any_order(backend: str) -> None:
    case = ragged("gru", steps=12, batch=9)
    model = compiled(case, backend)
    lengths = case.row_lengths
    assert lengths is not None
    found = case.call(model)
    rng = np.random.default_rng(5)
    for order in (np.argsort(lengths), np.argsort(-lengths), rng.permutation(len(lengths))):
        moved = as_result(model(case.x[:, order], case.state[:, order], lengths=lengths[order]))
        assert error(moved.output, found.output[:, order]) < ROUNDING
        assert error(moved.states[0], found.states[0][:, order]) < ROUNDING


@pytest.mark.parametrize("convert", (np.ndarray.tolist, tuple, np.int32, np.uint8, lambda v: v[::-1].copy()[::-1]))
def test_lengths_of_any_integer_kind(convert: Callable[[Any], Any], backend: str) -> None:
    case = ragged("rnn_tanh")
    model = compiled(case, backend)
    lengths = convert(case.row_lengths)
    assert_same(as_result(model(case.x, case.state, lengths=lengths)), case.call(model))


def test_the_longest_row_may_be_shorter_than_the_array(backend: str) -> None:
    case = ragged("lstm", num_layers=2, dtype="float64")
    lengths = case.row_lengths
    assert lengths is not None
    np.minimum(lengths, 4, out=lengths)
    found = case.call(compiled(case, backend))
    assert_close(found, case.expected(), "float64")
    assert not found.output[4:].any()


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


@each_cell
def test_inputs_are_left_as_they_were(cell: str, backend: str) -> None:
    case = ragged(cell, num_layers=2)
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


# ------------------------------------------------------------------------------------------ threads


@each_cell
def test_many_threads_call_one_model_at_once(cell: str, backend: str) -> None:
    """Each with its own data and its own sizes; nothing that a call needs is shared."""
    base = Case(cell, num_layers=2, bidirectional=True)
    model = compiled(base, backend)
    jobs = [other_sizes(base, 3 + 5 * i, 1 + i, "mixed" if i % 2 else "none") for i in range(8)]
    start = threading.Barrier(len(jobs))

    def work(job: Case) -> list[Result]:
        start.wait()
        return [job.call(model) for _ in range(10)]

    with ThreadPoolExecutor(len(jobs)) as pool:
        for job, results in zip(jobs, pool.map(work, jobs), strict=True):
            assert_close(results[0], job.expected(), "float32")
            for result in results:
                assert_same(result, results[0])


@pytest.mark.parametrize("threads", (1, 2, 3))
@pytest.mark.parametrize("batch", (1, 6))
def test_any_number_of_threads_gives_right_numbers(threads: int, batch: int, backend: str) -> None:
    case = Case("gru", num_layers=2, bidirectional=True, batch=batch, hidden_size=50, steps=20, lengths="mixed")
    model = rnnc.compile(case.spec(), case.params, backend=backend, threads=threads)
    assert_close(case.call(model), case.expected(), "float32")
    assert_same(case.call(model), case.call(model))


def test_the_interpreter_is_free_while_a_model_computes() -> None:
    """Another thread goes on with its own Python. If the lock were held it would stand still until the call ends."""
    case = Case("lstm", steps=20_000, batch=8, hidden_size=100, initial=False)
    model, ticks, busy = compiled(case, "llvm"), 0, threading.Event()

    def work() -> None:
        model(case.x[:1])
        busy.set()
        model(case.x)
        busy.clear()

    worker = threading.Thread(target=work)
    worker.start()
    busy.wait()
    while busy.is_set():
        time.sleep(0.001)
        ticks += 1
    worker.join()
    assert ticks > 10


# ------------------------------------------------------------------------------------------ memory


@each_cell
@pytest.mark.parametrize("batch_first", (False, True))
def test_calls_keep_no_references(cell: str, batch_first: bool) -> None:
    """Neither to arguments nor to results, whether a call succeeds or is refused: native code counts by itself."""
    case = Case(cell, batch_first=batch_first)
    model = compiled(case, "llvm")
    x, state = case.x, case.state
    wrong = x.astype(np.float64)
    watched = [x, wrong, x.dtype, None, *(state if isinstance(state, tuple) else (state,))]

    def calls() -> None:
        for _ in range(100):
            model(x)
            model(x, state)
            for bad in ((wrong, state), (x, wrong), (x[:0], state), (x, (x, x, x))):
                with pytest.raises(rnnc.RnncError):
                    model(*bad)

    calls()
    gc.collect()
    before = [sys.getrefcount(item) for item in watched]
    calls()
    gc.collect()
    after = [sys.getrefcount(item) for item in watched]
    assert all(abs(a - b) < 50 for a, b in zip(after, before, strict=True)), (before, after)
    assert sys.getrefcount(model(x)[0]) <= 2


@pytest.mark.parametrize("lengths", ("none", "mixed"))
def test_calls_keep_no_memory(lengths: str) -> None:
    """150 calls, each with more than a megabyte of results and of scratch."""
    resource = pytest.importorskip("resource")
    case = Case("gru", num_layers=2, steps=60, batch=80, hidden_size=64, lengths=lengths)
    model = compiled(case, "llvm")
    for _ in range(3):
        case.call(model)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(150):
        model(case.x, case.state, lengths=case.row_lengths)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < 60e6


def test_a_model_needs_nothing_but_itself(backend: str) -> None:
    """The program, the parameters and a state's array may all be gone."""
    case = Case("lstm")
    program = rnnc.compile(case.spec(), backend=backend)
    model = program.bind({name: value.copy() for name, value in case.params.items()})
    del program
    gc.collect()
    output, state = model(case.x.copy(), tuple(s.copy() for s in case.state))
    found = as_result((output, state))
    del model
    gc.collect()
    assert_close(found, case.expected(), "float32")


# ------------------------------------------------------------------------------------------ special values


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


# ------------------------------------------------------------------------------------------ parameters


@each_cell
@pytest.mark.parametrize("bidirectional", (False, True))
@pytest.mark.parametrize("bias", (False, True))
def test_init_has_pytorchs_names_shapes_order_and_bounds(cell: str, bidirectional: bool, bias: bool) -> None:
    case = Case(cell, num_layers=2, bidirectional=bidirectional, bias=bias, dtype="float64")
    params = case.spec().init(seed=3)
    assert [(name, value.shape) for name, value in params.items()] == list(case.shapes().items())
    bound = case.hidden_size**-0.5
    for value in params.values():
        assert value.dtype == np.float64 and value.flags.writeable
        assert np.abs(value).max() <= bound
    flat = np.concatenate([value.ravel() for value in params.values()])
    assert abs(flat.mean()) < 0.05 * bound and flat.std() == pytest.approx(bound / np.sqrt(3), rel=0.05)
    again, other = case.spec().init(seed=3), case.spec().init(seed=4)
    for name, value in params.items():
        np.testing.assert_array_equal(again[name], value)
        assert not np.array_equal(other[name], value)


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell != "gru_before"])
@pytest.mark.parametrize("bidirectional", (False, True))
def test_a_state_dict_of_pytorch_binds_as_it_is(cell: str, bidirectional: bool, backend: str) -> None:
    torch = pytest.importorskip("torch")
    from tests import torch_peer

    case = Case(cell, num_layers=2, bidirectional=bidirectional)
    module = torch_peer.module(case, torch.float32)
    assert list(module.state_dict()) == list(case.spec().init(seed=0))
    model = rnnc.compile(case.spec(), module.state_dict(), backend=backend)
    found = as_result(model(torch.from_numpy(case.x), case.state))
    assert worst_error(found, torch_peer.run(case)) < TOLERANCE["float32"]


# ------------------------------------------------------------------------------------------ programs


def test_a_program_binds_any_number_of_parameter_sets(backend: str) -> None:
    one, two = Case("gru", seed=1), Case("gru", seed=2)
    program = rnnc.compile(one.spec(), backend=backend)
    first, second = program.bind(one.params), program.bind(two.params)
    assert_close(as_result(second(two.x, two.state)), two.expected(), "float32")
    assert_close(as_result(first(one.x, one.state)), one.expected(), "float32")


def test_every_stage_prints(backend: str) -> None:
    program = rnnc.compile(rnnc.GRU(3, 4, num_layers=2, bidirectional=True), backend=backend)
    assert program.stages[:3] == ("lowered", "optimized", "rolled")
    for stage in program.stages:
        assert program.ir(stage).strip()
    assert len(program.ir("lowered", steps=6)) > len(program.ir("lowered", steps=2))
    assert program.ir("rolled", steps=6) == program.ir("rolled", steps=2)
    assert isinstance(program.explain(), str) and program.explain().strip()
