"""Loops that show what a machine can do: multiply-adds in registers, and reads of an array (`rnnc.limits`)."""

from __future__ import annotations

from rnnc.backends.llvm.asm.builder import Function, Module, Val, define, vector

CHAINS = 12
"""Multiply-adds that wait for no other: more than two pipes times four or five cycles."""
READS = 8


def emit_loops(lanes: int) -> Module:
    """`rnnc_multiply(values, rounds, times)` and `rnnc_read(values, chunks, times)`, in vectors of float."""
    module = Module()
    module.add(_multiply(vector(lanes, "float")))
    module.add(_read(vector(lanes, "float")))
    return module


def _multiply(type_: str) -> Function:
    """`rounds` rounds of CHAINS multiply-adds."""
    f = define("void rnnc_multiply(ptr values, i64 rounds, i64 times)")
    values, rounds, times = f.parameters
    x = f.load(type_, values, 4)
    with f.loop(0, times, carried=[x] * CHAINS) as outer:
        with f.loop(0, rounds, carried=list(outer.values)) as loop:
            loop.next([f.fma(value, x, x) for value in loop.values])
        outer.next(list(loop.values))
    _keep(f, outer.values, values)
    return f


def _read(type_: str) -> Function:
    """Adds up `chunks` chunks of READS vectors, `times` times."""
    f = define("void rnnc_read(ptr values, i64 chunks, i64 times)")
    values, chunks, times = f.parameters
    with f.loop(0, times, carried=[Val(type_, "zeroinitializer")] * READS) as outer:
        with f.loop(0, chunks, carried=list(outer.values)) as loop:
            row = f.element(values, f.mul(loop.index, READS), type_)
            read = [f.load(type_, f.element(row, n, type_), 4) for n in range(READS)]
            loop.next([f.binary("fadd", total, value) for total, value in zip(loop.values, read, strict=True)])
        outer.next(list(loop.values))
    _keep(f, outer.values, values)
    return f


def _keep(f: Function, values: list[Val], place: Val) -> None:
    """Stores a sum of all values, so that they are computed."""
    total = values[0]
    for value in values[1:]:
        total = f.binary("fadd", total, value)
    f.store(total, place, 4)
    f.ret()
