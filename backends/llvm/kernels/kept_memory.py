"""Scratch memory of a computation of one part: kept from call to call, or taken and given back.

To take tens of megabytes anew can cost as much as what is computed in them: a page fault per four kilobytes.

    rnnc_take_memory    the kept block, if it is large enough, or a new one, which takes its place
    rnnc_give_memory    frees a block, unless it is kept
    rnnc_free_kept      frees the block that is kept
"""

from __future__ import annotations

from rnnc.backends.llvm.asm.builder import Function, Module, Val, define
from rnnc.backends.llvm.kernels.binding import KEPT

NULL = Val("ptr", "null")


def emit_kept_memory(module: Module) -> None:
    """Emits the three functions."""
    module.functions += [_take(), _give(), _free()]


def _take() -> Function:
    """kept: a record, or null: the block is the caller's. Returns null if there is not enough memory."""
    f = define("ptr rnnc_take_memory(ptr kept, i64 size)")
    kept, size = f.parameters
    with f.when(f.is_null(kept)):
        f.ret(f.call("ptr", "malloc", size))
        f._begin(f._label("dead"))
    old = KEPT.load(f, kept, "block")
    with f.when(f.compare("uge", KEPT.load(f, kept, "bytes"), size)):
        f.ret(old)
        f._begin(f._label("dead"))
    f.call("void", "free", old)
    made = f.call("ptr", "malloc", size)
    known = f.select(f.is_null(made), Val("i64", "0"), size)
    f.store(made, KEPT.place(f, kept, "block"), 8)
    f.store(known, KEPT.place(f, kept, "bytes"), 8)
    f.ret(made)
    return f


def _give() -> Function:
    f = define("void rnnc_give_memory(ptr kept, ptr block)")
    kept, block = f.parameters
    with f.when(f.is_null(kept)):
        f.call("void", "free", block)
    f.ret()
    return f


def _free() -> Function:
    f = define("void rnnc_free_kept(ptr kept)")
    (kept,) = f.parameters
    f.call("void", "free", KEPT.load(f, kept, "block"))
    f.store(NULL, KEPT.place(f, kept, "block"), 8)
    f.store(Val("i64", "0"), KEPT.place(f, kept, "bytes"), 8)
    f.ret()
    return f
