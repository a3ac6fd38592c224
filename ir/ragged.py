"""Ragged batches: the proof that padding need not be computed.

Lowered with lengths, a program masks every row past its end:

    x[t]  = select(valid[t], x[t], 0)
    h'[t] = select(valid[t], cell(x[t], h), h)
    y[t]  = select(valid[t], out, 0)

On rows that are still running all three selects are the identity. So a backend may run the program *without* lengths
on those rows alone (of a batch sorted by length, the first n_t at step t), provided nothing that leaves a row past its
end is read: each state is kept, and each output is zero there. No op of the IR mixes rows of a batch, so these two are
enough.
"""

from __future__ import annotations

from rnnc.ir.errors import IRError
from rnnc.ir.families import Family
from rnnc.ir.ops import Kind
from rnnc.ir.program import Loop, Program


def check_rows_end(program: Program) -> None:
    """Proves that a program lowered with lengths never reads a row past its end.

    Raises IRError naming the state that is not kept, or the output that is not zero.
    """
    values = _values(program)
    zero = _zero_past_end(values)
    for carry in (f for f in values if f.op == "carry"):
        if carry.source is None or not _is_kept(carry.source, carry):
            raise IRError(f"{carry!r}: the state is not kept past the end of a row, it becomes {carry.source!r}")
    for name, family in program.outputs.items():
        if family.timed and family not in zero:
            raise IRError(f"output {name!r}: {family!r} is not zero past the end of a row")


def _values(program: Program) -> list[Family]:
    """Everything computed at run time, operands first."""
    values: list[Family] = []
    for statement in program.statements:
        values += statement.body if isinstance(statement, Loop) else (statement,)
    return values


def _is_mask(family: Family) -> bool:
    return family.op == "input" and family.attr("name") == "valid"


def _is_kept(source: Family, carry: Family) -> bool:
    """select(valid, new, the carry itself), or a state that never changes."""
    kept = source.op == "select" and _is_mask(source.inputs[0]) and source.inputs[2] is carry
    return kept or source is carry


def _zero_past_end(values: list[Family]) -> set[Family]:
    """Forward dataflow: values that are exactly 0 in rows past their end."""
    zero: set[Family] = set()

    def is_zero(family: Family) -> bool:
        return family in zero or (family.op == "const" and family.attr("value") == 0.0)

    for family in values:
        inputs = family.inputs
        masked = family.op == "select" and _is_mask(inputs[0]) and is_zero(inputs[2])
        through = family.op in ("add", "sub", "neg", "reduce_sum") or family.spec.kind is Kind.VIEW
        product = family.op == "matmul" and is_zero(inputs[0])
        if masked or product or (through and all(is_zero(i) for i in inputs)):
            zero.add(family)
    return zero
