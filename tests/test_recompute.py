"""What a pullback keeps: cheap values are computed again in the loop that reads them, costly ones are kept."""

from __future__ import annotations

from functools import partial

import pytest

import rnnc
from rnnc.backends.planning.plan import Space
from rnnc.backends.planning.planner import plan
from rnnc.ir.computation import Computation
from rnnc.ir.ops import OPS, Kind
from rnnc.ir.program import Program
from rnnc.losses import ctc
from rnnc.specs import Spec
from tests.compiled_losses import graph_of

SIZE = 8
KEPT = (
    (rnnc.RNN(SIZE, SIZE), 2),  # h and the h before it
    (rnnc.GRU(SIZE, SIZE), 5),  # r, z, n, the candidate's product and the old h; 1 - z is computed again
    (rnnc.LSTM(SIZE, SIZE), 7),  # four gates, tanh(c), and the old h and c
)


@pytest.mark.parametrize(("spec", "states"), KEPT, ids=repr)
def test_bytes_kept_of_each_step(spec: Spec, states: int) -> None:
    assert rnnc.vjp(spec).saved_bytes(1, 1) == (states * SIZE + SIZE) * 4  # x besides


def program_of(spec: Spec) -> Program:
    return rnnc.vjp(spec, backend="reference")._computation.program()


def test_a_cheap_value_stands_in_both_loops_and_is_kept_by_none() -> None:
    program = program_of(rnnc.GRU(SIZE, SIZE))
    forward, backward = program.loops()
    for loop in (forward, backward):
        assert any(f.op == "sub" and any(i.op == "sigmoid" for i in f.inputs) for f in loop.body)
    assert not any(f.op == "sub" for f in program.stored)


@pytest.mark.parametrize("spec", [spec for spec, _ in KEPT], ids=repr)
def test_what_the_table_calls_costly_is_computed_once(spec: Spec) -> None:
    forward, backward = program_of(spec).loops()
    costly = {op.name for op in OPS.values() if op.costly}
    assert any(f.op in costly for f in forward.body)
    assert not any(f.op in costly for f in backward.body)


def test_only_elementwise_ops_are_called_costly() -> None:
    assert all(op.kind is Kind.ELEMENTWISE for op in OPS.values() if op.costly)


def test_a_wide_mask_outside_loops_is_computed_for_each_reader() -> None:
    """CTC asks of each label and class whether they are the same, forward and in its gradient."""
    labels, classes = 20, 80
    build = partial(graph_of, ctc(longest=labels), classes, "float32", weighted=False)
    computation = Computation(lambda steps, lengths: build(steps=steps, lengths=lengths))
    widths = [buffer.width for buffer in plan(computation.program()).buffers if buffer.space is Space.TIMED]
    assert classes in widths and max(widths) < labels * classes
