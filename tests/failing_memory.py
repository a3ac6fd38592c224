"""An allocator of Python's objects that fails on demand, for tests of what runs out of memory or must not need any."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rnnc.backends.llvm.asm.jit import compile_assembly
from rnnc.backends.llvm.asm.target import host

COUNTDOWN = """
define ptr @take(ptr %own, i64 %count, i64 %size, ptr %again, i64 %kind) {
  %left = load i64, ptr %own
  %rest = sub i64 %left, 1
  store i64 %rest, ptr %own
  %fails = icmp eq i64 %left, 0
  br i1 %fails, label %none, label %some
none:
  ret ptr null
some:
  %contextp = getelementptr i64, ptr %own, i64 1
  %context = load ptr, ptr %contextp
  %place = add i64 %kind, 2
  %functionp = getelementptr i64, ptr %own, i64 %place
  %function = load ptr, ptr %functionp
  switch i64 %kind, label %malloc [ i64 1, label %calloc i64 2, label %realloc ]
malloc:
  %a = call ptr %function(ptr %context, i64 %size)
  ret ptr %a
calloc:
  %b = call ptr %function(ptr %context, i64 %count, i64 %size)
  ret ptr %b
realloc:
  %c = call ptr %function(ptr %context, ptr %again, i64 %size)
  ret ptr %c
}
define ptr @malloc_(ptr %own, i64 %size) {
  %r = call ptr @take(ptr %own, i64 0, i64 %size, ptr null, i64 0)
  ret ptr %r
}
define ptr @calloc_(ptr %own, i64 %count, i64 %size) {
  %r = call ptr @take(ptr %own, i64 %count, i64 %size, ptr null, i64 1)
  ret ptr %r
}
define ptr @realloc_(ptr %own, ptr %again, i64 %size) {
  %r = call ptr @take(ptr %own, i64 0, i64 %size, ptr %again, i64 2)
  ret ptr %r
}
define void @free_(ptr %own, ptr %block) {
  %contextp = getelementptr i64, ptr %own, i64 1
  %context = load ptr, ptr %contextp
  %functionp = getelementptr i64, ptr %own, i64 5
  %function = load ptr, ptr %functionp
  call void %function(ptr %context, ptr %block)
  ret void
}
"""
"""An allocator (PyMemAllocatorEx) of which one allocation fails: when the number that comes first has fallen to 0."""

OBJECTS = 2
"""CPython's PYMEM_DOMAIN_OBJ."""


@contextmanager
def failing_allocator() -> Iterator[Any]:
    """Objects are allocated through a countdown: set its first number to n, and the n-th allocation from then fails."""
    code = compile_assembly(COUNTDOWN, host())
    original, own = (ctypes.c_int64 * 5)(), (ctypes.c_int64 * 6)(-1)
    ctypes.pythonapi.PyMem_GetAllocator(OBJECTS, original)
    own[1:] = list(original)
    functions = (code.address(f"{name}_") for name in ("malloc", "calloc", "realloc", "free"))
    ours = (ctypes.c_int64 * 5)(ctypes.addressof(own), *functions)
    ctypes.pythonapi.PyMem_SetAllocator(OBJECTS, ours)
    try:
        yield own
    finally:
        own[0] = -1
        ctypes.pythonapi.PyMem_SetAllocator(OBJECTS, original)
