"""What a caller may rely on beyond right numbers: pieces of a sequence, shapes at the edges, ragged batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import rnnc
from tests.cases import (
    CELLS,
    ROUNDING,
    TOLERANCE,
    Case,
    Result,
    as_result,
    assert_close,
    assert_same,
    compiled,
    error,
    other_sizes,
    worst_error,
)

each_cell = pytest.mark.parametrize("cell", CELLS)


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


@pytest.mark.sampled(3)
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
    for steps, batch in ((1, 1), (300, 1), (3, 17), (1, 64), (40, 2), (2, 1)):
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


@pytest.mark.sampled(3)
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


@pytest.mark.sampled(3)
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
