"""Self-contained code: the functions that a library needs, and no others, in a module that calls nothing outside.

Generated code calls the runtime's functions, and LLVM's code generator calls C libraries: memcpy, memmove and memset
for sizes that are known at run time, and division of 64 bits on 32-bit machines. Here all of these are functions of the
module itself. None has a name that others see, so that two libraries can be linked into one program.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from rnnc.backends.llvm.asm.builder import COLD, Function, Module, Val, define, i64
from rnnc.backends.llvm.asm.target import Target
from rnnc.backends.llvm.kernels.call_memory import emit_call_memory
from rnnc.backends.llvm.kernels.line_copies import emit_line_copies
from rnnc.backends.llvm.kernels.row_copies import emit_row_copies
from rnnc.backends.llvm.kernels.row_sums import emit_row_sums
from rnnc.backends.llvm.portable.parameters import in_tables

_COPY, _MOVE, _CLEAR, _DIVIDE = "rnnc_copy_words", "rnnc_move_words", "rnnc_clear_words", "rnnc_divide"
_INTRINSICS = (
    (re.compile(r"call void @llvm\.memcpy\.p0\.p0\.i64\((.*), i1 false\)"), rf"call void @{_COPY}(\1)"),
    (re.compile(r"call void @llvm\.memmove\.p0\.p0\.i64\((.*), i1 false\)"), rf"call void @{_MOVE}(\1)"),
    (re.compile(r"call void @llvm\.memset\.p0\.i64\((.*), i1 false\)"), rf"call void @{_CLEAR}(\1)"),
)
_SMALL = "nounwind noinline optsize minsize"
_DIVISION = re.compile(r"udiv i64 (.*)")
_POINTER_ACCESS = re.compile(r"^(.*(?:load ptr,|store ptr ).*), align 8$", re.MULTILINE)


def with_runtime(module: Module, dtype: str, target: Target) -> Module:
    """The module with the functions of the runtime that a computation of one part may call."""
    runtime = Module()
    emit_row_copies(runtime)
    emit_line_copies(runtime)
    if any("rnnc_outer" in line or "rnnc_row_sum" in line for f in module.functions for line in f.declarations):
        emit_row_sums(runtime, dtype, target)
    emit_call_memory(runtime, dtype)
    for function in (_copy_words(), _move_words(), _clear_words(), _divide()):
        runtime.add(function)
    functions = {function.name: function for function in (*runtime.functions, *module.functions)}
    return Module(list(functions.values()), list(dict.fromkeys([*runtime.globals, *module.globals])))


def text_of(
    module: Module, roots: Sequence[str], *, pointer_bits: int, few_parameters: bool = False, small: bool = False
) -> str:
    """The text of some functions and of all that they call. Only they can be seen from outside.

    pointer_bits: on 32-bit machines addresses are aligned to 4 bytes, and 64-bit numbers divided by a function.
    few_parameters: the machine limits their number (`rnnc.backends.llvm.portable.parameters`). small: all functions are
    compiled for size, not only those that run rarely.
    """
    functions = {function.name: function for function in module.functions}
    bodies: dict[str, str] = {}
    pending = list(roots)
    while pending:
        name = pending.pop()
        if name in bodies or name not in functions:
            continue
        bodies[name] = body = _plain(functions[name].text(), pointer_bits)
        pending += re.findall(r"call [^@\n]*@\"?([\w.$-]+)\"?\(", body)
    if few_parameters:
        bodies = in_tables(bodies)
    kept = [functions[name] for name in functions if name in bodies]
    definitions = [bodies[f.name] if f.name in roots else _private(bodies[f.name]) for f in kept]
    if small:
        definitions = [re.sub(r" nounwind {\n", f" {_SMALL} {{\n", text, count=1) for text in definitions]
    declared = dict.fromkeys(line for f in kept for line in sorted(f.declarations) if "@llvm." in line)
    unused = ("llvm.memcpy", "llvm.memmove", "llvm.memset")
    declarations = [line for line in declared if not any(f"@{name}" in line for name in unused)]
    return "\n".join([*declarations, *module.globals, *definitions])


def _plain(body: str, pointer_bits: int) -> str:
    for pattern, replacement in _INTRINSICS:
        body = pattern.sub(replacement, body)
    if pointer_bits == 32:
        body = _DIVISION.sub(lambda found: f"call i64 @{_DIVIDE}(i64 {found[1].replace(', ', ', i64 ')})", body)
        body = _POINTER_ACCESS.sub(r"\1, align 4", body)
    return body


def _private(body: str) -> str:
    """A function that others cannot see. Those that run rarely are made small, as nobody waits for LLVM here."""
    return body.replace("define ", "define internal ", 1).replace(f" {COLD} {{", f" {_SMALL} {{", 1)


def _copy_words() -> Function:
    """Copies a number of bytes, a multiple of 4, between addresses that are multiples of 4."""
    f = define(f"void {_COPY}(ptr target, ptr source, i64 size)", "nounwind noinline")
    target, source, size = f.parameters
    _by_words(f, size, lambda type_, at: f.store(f.load(type_, f.element(source, at, "i8"), 4), _at(f, target, at), 4))
    return f


def _move_words() -> Function:
    """As the copy, for memory that may overlap: a target behind the source is written from its end on."""
    f = define(f"void {_MOVE}(ptr target, ptr source, i64 size)", "nounwind noinline")
    target, source, size = f.parameters
    behind = f.compare("ugt", target, source)
    with f.when(f.value("i1", f"xor {behind}, true")):
        f.call_defined("void", _COPY, target, source, size)
    with f.loop(0, f.select(behind, size, i64(0)), 4) as done:
        at = f.sub(f.sub(size, 4), done.index)
        f.store(f.load("i32", f.element(source, at, "i8"), 4), f.element(target, at, "i8"), 4)
    f.ret()
    return f


def _clear_words() -> Function:
    """As memset, for a number of bytes that is a multiple of 4, and for the byte 0."""
    f = define(f"void {_CLEAR}(ptr target, i8 byte, i64 size)", "nounwind noinline")
    target, _, size = f.parameters
    zeros = {"<4 x i32>": Val("<4 x i32>", "zeroinitializer"), "i32": Val("i32", "0")}
    _by_words(f, size, lambda type_, at: f.store(zeros[type_], _at(f, target, at), 4))
    return f


def _at(f: Function, pointer: Val, at: Val) -> Val:
    return f.element(pointer, at, "i8")


def _by_words(f: Function, size: Val, each: Callable[[str, Val], None]) -> None:
    """Runs `each` for every sixteen bytes, then for every four that are left."""
    whole = f.binary("and", size, i64(-16))
    with f.loop(0, whole, 16) as loop:
        each("<4 x i32>", loop.index)
    with f.loop(whole, size, 4) as loop:
        each("i32", loop.index)
    f.ret()


def _divide() -> Function:
    """a / b for 64-bit numbers, rounded down: bit by bit, for machines without an instruction for it."""
    f = define(f"i64 {_DIVIDE}(i64 a, i64 b)", "nounwind noinline")
    a, b = f.parameters
    with f.loop(0, i64(64), carried=[a, i64(0), i64(0)]) as bit:
        left, rest, quotient = bit.values
        rest = f.binary("or", f.binary("shl", rest, i64(1)), f.binary("lshr", left, i64(63)))
        fits = f.compare("uge", rest, b)
        taken = f.select(fits, b, i64(0))
        one = f.value("i64", f"zext {fits} to i64")
        quotient = f.binary("or", f.binary("shl", quotient, i64(1)), one)
        bit.next([f.binary("shl", left, i64(1)), f.sub(rest, taken), quotient])
    f.ret(bit.values[2])
    return f
