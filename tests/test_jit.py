"""From text to addresses: what compile_assembly promises."""

from __future__ import annotations

import ctypes
import gc
import os
import struct
import subprocess
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import rnnc
from rnnc.backends.llvm.asm import objects
from rnnc.backends.llvm.asm.jit import MachineCode, compile_assembly
from rnnc.backends.llvm.asm.library import use
from rnnc.backends.llvm.asm.target import host, processor
from rnnc.backends.llvm.runtime import _UNITS, Runtime, RuntimeUnit
from rnnc.ir.errors import ArgumentError

pytestmark = pytest.mark.shipped

ROOT = Path(__file__).resolve().parent.parent


def adder(amount: int) -> str:
    return f"define i64 @adder(i64 %x) {{\n  %y = add i64 %x, {amount}\n  ret i64 %y\n}}\n"


def call(compiled: MachineCode, x: int) -> int:
    return int(ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(compiled.address("adder"))(x))


def test_functions_run() -> None:
    assert call(compile_assembly(adder(5), host()), 37) == 42


def test_texts_of_the_code() -> None:
    compiled = compile_assembly(adder(5), host("generic"))
    assert "adder" in compiled.assembly()
    assert b"adder" in compiled.object_files()[0]


def test_an_equal_part_of_another_module_is_not_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    emit = objects._compiled
    monkeypatch.setattr(objects, "_compiled", lambda text, *others: compiled.append(text) or emit(text, *others))
    monkeypatch.setenv("RNNC_CACHE_DIR", "off")
    monkeypatch.setattr(objects, "_kept", OrderedDict())
    first = rnnc.compile(rnnc.RNN(3, 7))._code
    compiled.clear()
    second = rnnc.compile(rnnc.RNN(5, 7))._code
    (rest,) = compiled
    assert "define i32 @rnnc_run(" in rest
    *phases, _ = first.linked.object_files()
    assert phases and second.linked.object_files()[:-1] == tuple(phases)
    monkeypatch.setattr(objects, "KEPT_BYTES", 0)
    rnnc.compile(rnnc.RNN(4, 7))
    assert not objects._kept


@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_code_that_is_compiled_quickly_computes_the_same_bits(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = rnnc.LSTM(5, 9, bidirectional=True, dtype=dtype)
    x = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(dtype)
    results = []
    for effort in ("0", "3"):
        monkeypatch.setenv("RNNC_CODEGEN", effort)
        (output, (h, c)), pullback = rnnc.vjp(spec)(spec.init(seed=0), x)
        d_params, d_x, (d_h, d_c) = pullback(output, (c, h))
        results.append([a.tobytes() for a in (output, h, c, *d_params.values(), d_x, d_h, d_c)])
    assert results[0] == results[1]


def test_an_effort_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNC_CODEGEN", "fast")
    with pytest.raises(ArgumentError, match="RNNC_CODEGEN: expected 0, 1, 2 or 3, got 'fast'"):
        compile_assembly(adder(5), host())


def test_a_unit_of_the_runtime_that_was_made_twice_stays() -> None:
    """Threads may make one at the same moment, and a module of each is linked to another."""
    runtime = Runtime("float32", host())
    runtime.address("rnnc_lockstep")
    (emit,) = (emit for emit, names in _UNITS.items() if "rnnc_lockstep" in names)
    again = weakref.ref(RuntimeUnit(emit, "float32", host())._code)
    gc.collect()
    assert again() is not None


def test_many_parts_are_compiled_by_several_threads_which_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The objects are those of one thread, in order; an error of one part is raised when no thread is left."""
    texts = [adder(number).replace("@adder", f"@adder{number % 3}") for number in (1, 2, 3, 2)]
    made, busy = [], threading.active_count()
    for threads in ("1", "3"):
        monkeypatch.setenv("RNNC_NUM_THREADS", threads)
        monkeypatch.setattr(objects, "_kept", OrderedDict())
        made.append(use(lambda: objects.object_files(texts, host(), processor().triple)))
        with pytest.raises(RuntimeError, match="expected"):
            use(lambda: objects.object_files([*texts, "define nothing"], host(), processor().triple))
    assert made[0] == made[1] and len(set(made[0])) == 3 and made[0][1] == made[0][3]
    assert threading.active_count() == busy and len(objects._kept) == 3


REACHES_FAR = {1: "64", 24: "PC64", 25: "GOTOFF64", 27: "GOT64", 28: "GOTPCREL64", 29: "GOTPC64"}
"""Relocations of x86-64 with 64 bits, by their numbers in the System V ABI."""


def relocations(elf: bytes) -> Iterator[int]:
    """The types of all relocations in an ELF object file of 64 bits."""
    (sections,) = struct.unpack_from("<Q", elf, 40)
    size, count = struct.unpack_from("<HH", elf, 58)
    for n in range(count):
        kind, offset, length = struct.unpack_from("<4xI16xQQ", elf, sections + n * size)
        if kind == 4:  # SHT_RELA
            for place in range(offset, offset + length, 24):
                yield struct.unpack_from("<8xI", elf, place)[0]


@pytest.mark.skipif(not processor().triple.startswith("x86_64-unknown-linux"), reason="reads ELF files of x86-64")
def test_code_reaches_its_constants_wherever_they_lie() -> None:
    """LLVM puts them anywhere; with 32-bit distances it aborts in a process that has mapped more than 2 GB."""
    objects = rnnc.vjp(rnnc.LSTM(3, 4))._code.linked.object_files()
    found = {relocation for each in objects for relocation in relocations(each)}
    assert found and found <= set(REACHES_FAR)


FAR_APART = """
import ctypes
import numpy as np
import rnnc

rnnc.compile(rnnc.RNN(2, 3))  # all is imported
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def reserve(size):
    return libc.mmap(None, size, 0, 0x4022, -1, 0)  # private, anonymous, no memory behind it


SIZE, PAGE = 6 << 30, 4096
region = reserve(SIZE)
for size in (1 << 24, 1 << 20, 1 << 16, 1 << 14, PAGE):
    while reserve(size) > region:
        pass
for page in range(60):  # room for constants above the region, for code below it
    libc.munmap(region + SIZE - (3 * page + 2) * PAGE, PAGE)
for n in range(3, 9):
    spec = rnnc.LSTM(n, 3 * n)
    rnnc.compile(spec, spec.init())(np.ones((4, 2, n), np.float32))
"""
"""Memory in which single pages are free only far from where larger pieces are."""


@pytest.mark.skipif(not processor().triple.startswith("x86_64-unknown-linux"), reason="it maps memory as Linux does")
@pytest.mark.rare
def test_code_runs_where_its_constants_are_far_away() -> None:
    environment = {**os.environ, "RNNC_CACHE_DIR": "off"}
    result = subprocess.run(
        [sys.executable, "-c", FAR_APART], env=environment, capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr[-2000:]


def test_names_that_are_not_defined() -> None:
    with pytest.raises(KeyError, match="subtracter"):
        compile_assembly(adder(5), host()).address("subtracter")


@pytest.mark.parametrize(
    "text",
    (
        "define void @f() { ret i32 0 }",
        "define void @f(i1 %c) {\n  br i1 %c, label %a, label %a\na:\n  %y = add i1 %z, 1\n}",
    ),
)
def test_malformed_text(text: str) -> None:
    with pytest.raises(RuntimeError):
        compile_assembly(text, host())


def test_modules_are_independent_and_threads_may_compile() -> None:
    with ThreadPoolExecutor(4) as pool:
        compiled = list(pool.map(lambda k: compile_assembly(adder(k), host()), range(24)))
    assert [call(c, 100) for c in compiled] == [100 + k for k in range(24)]
