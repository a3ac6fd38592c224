"""The proof that lets a backend skip padding: it holds for every cell, and it is not a formality."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import rnnc
from rnnc.ir.computation import Computation
from rnnc.ir.errors import IRError
from rnnc.ir.graph import Graph
from rnnc.ir.lower import lower
from rnnc.ir.ops import OPS, Kind, Op
from rnnc.ir.passes import optimize
from rnnc.ir.ragged import check_rows_end
from rnnc.ir.roll import roll
from tests import user_cells

CELLS = [c for c in vars(user_cells).values() if isinstance(c, type) and issubclass(c, rnnc.Cell)]

SPECS = [
    rnnc.RNN(3, 4, 2, bidirectional=True),
    rnnc.GRU(3, 4, 2, bidirectional=True),
    rnnc.GRU(3, 4, reset_after=False, bias=False),
    rnnc.LSTM(3, 4, 2, proj_size=2, bidirectional=True),
    *(rnnc.Recurrent(cell(), 3, 4, num_layers=2, bidirectional=True) for cell in CELLS),
]


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_rows_end_in_every_spec(spec: rnnc.Spec) -> None:
    check_rows_end(Computation.of_stack(spec.stack()).program(lengths=True))
    with pytest.raises(IRError, match="not (kept|zero)"):  # without the masks there is nothing to prove
        check_rows_end(Computation.of_stack(spec.stack()).program())


def masked_rnn(*, keep: bool, clear: bool) -> Graph:
    """A lowered RNN with lengths; without `keep` or `clear` one of its masks is by-passed."""
    graph = lower(rnnc.RNN(3, 4).stack(), 3, lengths=True)
    result = Graph(graph.dtype, graph.steps, share=False)
    new = {}
    for node in graph.nodes:
        inputs = [new[i] for i in node.inputs]
        state_mask = node.op == "select" and node.inputs[2].op == "carry"
        output_mask = node.op == "select" and node in (graph.outputs["output"] or ())
        if (state_mask and not keep) or (output_mask and not clear):
            new[node] = inputs[1]
        else:
            new[node] = result.copy_node(node, inputs)
    for name, output in graph.outputs.items():
        result.outputs[name] = tuple(new[n] for n in output) if isinstance(output, tuple) else new[output]
    return result


def test_a_state_that_is_not_kept_is_found() -> None:
    with pytest.raises(IRError, match="the state is not kept"):
        check_rows_end(roll(optimize(masked_rnn(keep=False, clear=True))[0]))


def test_an_output_that_is_not_cleared_is_found() -> None:
    with pytest.raises(IRError, match="output 'output'.*not zero"):
        check_rows_end(roll(optimize(masked_rnn(keep=True, clear=False))[0]))
    check_rows_end(roll(optimize(masked_rnn(keep=True, clear=True))[0]))


@pytest.mark.parametrize("op", [op for op in OPS.values() if op.zero_of != "never" and op.kind is not Kind.VIEW])
def test_what_the_table_says_of_zeros_is_so(op: Op) -> None:
    """Whatever the other operands are."""
    assert op.meaning is not None
    count, rng = op.arity or 3, np.random.default_rng(0)
    attrs = {name: value for name, value in {"transpose_b": False, "size": 3, "inner": 1}.items() if name in op.attrs}
    said = {"all": all, "any": any, "first": lambda zeros: zeros[0]}[op.zero_of]
    held = 0
    for zeros in itertools.product((False, True), repeat=count):
        operands = [np.zeros((3, 3)) if zero else rng.uniform(0.5, 2, (3, 3)) for zero in zeros]
        if said(zeros):
            held += 1
            with np.errstate(invalid="ignore"):  # 0 / 0, in rows that have no divisor either: nobody reads those
                result = op.meaning(*operands, **attrs)
            assert not np.nan_to_num(result).any(), zeros
    assert held


def test_ops_that_make_something_of_zeros_do_not_claim_otherwise() -> None:
    claimed = {op.name for op in OPS.values() if op.zero_of != "never"}
    assert not claimed & {
        "exp",
        "sigmoid",
        "log",
        "rsqrt",
        "cos",
        "power",
        "greater",
        "greater_equal",
        "select",
        "outer",
        "carry",
        "input",
        "reduce_rows",
    }
