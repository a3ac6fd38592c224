"""Ragged batches: the proof that padding need not be computed.

A program that is lowered with lengths masks every row past its end:

    x[t]  = select(valid[t], x[t], 0)
    h'[t] = select(valid[t], cell(x[t], h), h)
    y[t]  = select(valid[t], out, 0)

On rows that have not ended, all three selects are the identity. So a backend may run the program *without* lengths on
those rows alone: in a batch sorted by length, the first n_t rows at step t. This is correct if nothing past the end of
a row is read: each state is kept there, each output is zero there, and each term of a sum over rows is zero there.

`rnnc.ir.masking` gives the states of a derivative the same form, and masks other values that may be NaN.
"""

from __future__ import annotations

from rnnc.ir import names
from rnnc.ir.errors import IRError
from rnnc.ir.families import Family
from rnnc.ir.ops import Kind
from rnnc.ir.program import Loop, Program


def check_rows_end(program: Program) -> None:
    """Proves that a program lowered with lengths never reads a row past its end, or raises IRError.

    The error names the state that is not kept, or the output or the term of a sum that is not zero.
    """
    values = _values(program)
    zero = _zero_past_end(values)
    for carry in (f for f in values if f.op == "carry"):
        if carry.source is None or not _is_kept(carry.source, carry):
            raise IRError(f"{carry!r}: the state is not kept past the end of a row, it becomes {carry.source!r}")
    for family in (f for f in values if f.op == "tsum"):
        _check_sum(family, zero)
    for name, family in program.outputs.items():
        if family.timed and family not in zero:
            raise IRError(f"output {name!r}: {family!r} is not zero past the end of a row")


def _values(program: Program) -> list[Family]:
    """All values computed at run time, operands first."""
    values: list[Family] = []
    for statement in program.statements:
        values += statement.body if isinstance(statement, Loop) else (statement,)
    return values


def _is_mask(family: Family) -> bool:
    return family.op == "input" and family.attr("name") == names.VALID


def _is_kept(source: Family, carry: Family) -> bool:
    """True if a carry reads select(valid, new, the carry itself), or is a state that never changes."""
    return source is carry or (source.op == "select" and _is_mask(source.inputs[0]) and source.inputs[2] is carry)


def _is_zero(family: Family, zero: set[Family]) -> bool:
    return family in zero or family.op == "zeros" or (family.op == "const" and family.attr("value") == 0.0)


def _zero_past_end(values: list[Family]) -> set[Family]:
    """The values that are exactly 0 in rows past their end, by forward dataflow."""
    zero: set[Family] = set()
    for family in values:
        if _becomes_zero(family, [_is_zero(i, zero) for i in family.inputs]):
            zero.add(family)
    return zero


def _becomes_zero(family: Family, inputs: list[bool]) -> bool:
    """True if a value is zero past the end of a row. inputs: whether each operand is."""
    if family.op == "select" and _is_mask(family.inputs[0]) and inputs[2]:
        return True
    if family.op == "select":
        return inputs[1] and inputs[2]
    match family.spec.zero_of:
        case "first":
            return inputs[0]
        case "any":
            return any(inputs)
        case "all":
            return all(inputs)
    return False


def _check_sum(family: Family, zero: set[Family]) -> None:
    """Raises IRError unless each term of a sum over rows is zero past the end of a row."""
    for term in family.inputs:
        if term.spec.kind is not Kind.OUTER:
            if not _is_zero(term, zero):
                raise IRError(f"{family!r} sums {term!r}, which is not zero past the end of a row")
        elif not any(_is_zero(i, zero) for i in term.inputs):
            raise IRError(f"{term!r} is summed over rows and not zero past their end")
