"""The proof that lets a backend skip padding: it holds for every cell, and it is not a formality."""

from __future__ import annotations

import pytest

import rnnc
from rnnc.ir.errors import IRError
from rnnc.ir.graph import Graph
from rnnc.ir.lower import lower
from rnnc.ir.passes import optimize
from rnnc.ir.pipeline import rolled_program
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
    check_rows_end(rolled_program(spec.stack(), lengths=True))
    with pytest.raises(IRError, match="not (kept|zero)"):  # without the masks there is nothing to prove
        check_rows_end(rolled_program(spec.stack()))


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
