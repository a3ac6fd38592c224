"""From text to addresses: what compile_assembly promises."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor

import pytest

from rnnc.backends.llvm.jit import Compiled, compile_assembly
from rnnc.backends.llvm.target import host


def adder(amount: int) -> str:
    return f"define i64 @adder(i64 %x) {{\n  %y = add i64 %x, {amount}\n  ret i64 %y\n}}\n"


def call(compiled: Compiled, x: int) -> int:
    return int(ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(compiled.address("adder"))(x))


def test_functions_run() -> None:
    assert call(compile_assembly(adder(5), host()), 37) == 42


def test_texts_of_the_code() -> None:
    compiled = compile_assembly(adder(5), host("generic"))
    assert "adder" in compiled.assembly()
    assert b"adder" in compiled.object_code()


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
