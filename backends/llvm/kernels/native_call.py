"""The native call: a CPython function in LLVM, so that a plain call spends well under a microsecond in Python.

    rnnc_call(argument, ..., lengths=None, out=None) -> the results, or None if Python must check the arguments

In a plain call, each argument is an array, or a tuple or dict of arrays, just as the call's description says
(`call_forms.PlainCall`). For any other call, and for every mistake, the function returns None, and Python makes
the call. It counts the calls, and the reasons for which it left them to Python (`call_forms.OUTCOMES`).

    arguments fit (call_arguments) -> new arrays (call_results) -> a context of the run
    -> lengths, tables, copies (call_memory) -> the run -> the results

A run of more than a few microseconds releases the interpreter lock.

The code does not depend on a network. It reads a record, `binding.BINDING`, from the bytes object that is the
function's `self`. This object owns everything that the record points to, and the function's definition
(`rnnc.backends.llvm.calls.quick`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rnnc.backends.llvm.asm.builder import COLD, Function, Module, Val, define, i64, null
from rnnc.backends.llvm.kernels.binding import BINDING, CALL, SIZES, VIEW
from rnnc.backends.llvm.kernels.call_arguments import emit_arguments, number_of
from rnnc.backends.llvm.kernels.call_memory import emit_call_memory
from rnnc.backends.llvm.kernels.call_results import emit_results
from rnnc.backends.llvm.kernels.context import HEAD
from rnnc.backends.llvm.kernels.crew import TEAM
from rnnc.backends.llvm.kernels.python_objects import FALSE, NONE, exists, negated

NOTHING = null()
MOST_ON_STACK = 16 * 1024
"""The most bytes for which a call does not allocate memory."""


def emit_native_call(module: Module, dtype: str) -> None:
    """Adds `rnnc_call`, and what it calls."""
    module.globals.append("@_Py_NoneStruct = external global i8")
    emit_arguments(module, dtype)
    emit_results(module, dtype)
    emit_call_memory(module, dtype)
    module.add(_call())


def _call() -> Function:
    f = define("ptr rnnc_call(ptr self, ptr arguments, i64 n)", COLD)
    self_, arguments, count = f.parameters
    call = NativeCall(f, f.call("ptr", "PyBytes_AsString", self_))
    context = f.value("ptr", f"alloca i8, {call.bound('context_bytes')}, align 16")
    with call.fitting(arguments, count), call.made():
        call.begin(context)
        with call.computing(context):
            call.run(context)
    return call.end()


class NativeCall:
    """The frame of a native function: what it takes, makes, returns and gives up again."""

    def __init__(self, f: Function, binding: Val) -> None:
        self.f, self.binding = f, binding
        count = f.add(self.bound("count"), 1)
        self.views = f.value("ptr", f"alloca {VIEW.llvm_type}, {count}, align 16")
        self.call, self._failed = f.alloca(CALL.llvm_type, 1, 8), f.alloca("i1", 1, 1)
        self.result = f.alloca("ptr", 1, 8)
        f.store(null(), self.result, 8)
        lacks_rows = f.sub(i64(0), self.bound("unbatched"))  # -1: the first array tells
        start = {"steps": self.bound("steps"), "batch": self.bound("batch"), "unbatched": lacks_rows, "copied": i64(0)}
        for name, value in (start | {"outcome": number_of("arguments")}).items():
            f.store(value, CALL.place(f, self.call, name), 8)
        with f.loop(0, count) as each:
            f.store(null(), VIEW.element(f, self.views, each.index), 8)

    def bound(self, name: str) -> Val:
        """A field of the binding."""
        return BINDING.load(self.f, self.binding, name)

    @contextmanager
    def fitting(self, arguments: Val, count: Val) -> Iterator[None]:
        """Code that runs if the arguments fit."""
        taken = (self.binding, arguments, count, self.call, self.views)
        with self.f.when(self.f.call_defined("i1", "rnnc_arguments_fit", *taken)):
            yield

    @contextmanager
    def made(self) -> Iterator[None]:
        """Code that runs if the arrays of the results could be made."""
        taken = (self.binding, self.call, self.views)
        with self.f.when(self.f.call_defined("i1", "rnnc_make", *taken)):
            yield

    def begin(self, context: Val) -> None:
        """Starts a context: the fields that are the same in every call, and the sizes."""
        f, size = self.f, self.bound("context_bytes")
        f.call("void", "llvm.memcpy.p0.p0.i64", context, self.bound("context"), size, FALSE)
        for name, value in SIZES.loads(f, self.call).items():
            f.store(value, SIZES.place(f, context, name), 8)

    @contextmanager
    def computing(self, context: Val, kept: Val = NOTHING, memory: Val | None = None) -> Iterator[None]:
        """Code that computes the results, which are packed then. A long computation releases the interpreter lock.

        The context leads to all arrays. kept: an object that comes behind the results. memory: that which the call
        needs, if the caller has it.
        """
        f = self.f
        f.store(FALSE, self._failed, 1)
        with self._memory() if memory is None else self._given(memory), self._unlocked():
            taken = (self.binding, self.call, self.views, context)
            fits = f.call_defined("i1", "rnnc_fill_memory", *taken)
            f.store(f.select(fits, number_of("native"), number_of("values")), CALL.place(f, self.call, "outcome"), 8)
            with f.when(fits):
                f.call_defined("void", "rnnc_place", self.binding, self.views, context)
                yield
                with f.when(exists(f, HEAD.load(f, context, "rows"))):
                    f.call_defined("void", "rnnc_clear_padding", *taken)
        failed = f.load("i1", self._failed, 1)
        with f.when(failed):
            f.call("ptr", "PyErr_NoMemory")
        native = f.compare("eq", CALL.load(f, self.call, "outcome"), number_of("native"))
        with f.when(f.binary("and", native, negated(f, failed))):
            self._pack(kept)

    def memory_size(self) -> Val:
        """The bytes of memory that the call needs besides its arrays."""
        return self.f.call_defined("i64", "rnnc_memory_size", self.binding, self.call, self.views)

    @contextmanager
    def _given(self, memory: Val) -> Iterator[None]:
        """Code that has memory of the caller's."""
        self.f.store(memory, CALL.place(self.f, self.call, "memory"), 8)
        yield

    @contextmanager
    def _memory(self) -> Iterator[None]:
        """Code that has the memory that the call needs: on the stack, or from malloc. It runs if there is enough."""
        f = self.f
        size = self.memory_size()
        heap, small = f.alloca("ptr", 1, 8), f.compare("ule", size, MOST_ON_STACK)
        stack = f.value("ptr", f"alloca i8, {f.select(small, size, i64(0))}, align 16")
        f.store(null(), heap, 8)
        with f.when(negated(f, small)):
            f.store(f.call("ptr", "malloc", size), heap, 8)
            f.store(f.is_null(f.load("ptr", heap, 8)), self._failed, 1)
        taken = f.load("ptr", heap, 8)
        f.store(f.select(small, stack, taken), CALL.place(f, self.call, "memory"), 8)
        with f.when(negated(f, f.load("i1", self._failed, 1))):
            yield
            f.call("void", "free", taken)

    @contextmanager
    def _unlocked(self) -> Iterator[None]:
        """Code that runs without the interpreter lock, if the call has more than a few rows."""
        f = self.f
        thread, rows = f.alloca("ptr", 1, 8), f.mul(*SIZES.loads(f, self.call).values())
        f.store(null(), thread, 8)
        with f.when(f.compare("ugt", rows, self.bound("brief_rows"))):
            f.store(f.call("ptr", "PyEval_SaveThread"), thread, 8)
        yield
        state = f.load("ptr", thread, 8)
        with f.when(exists(f, state)):
            f.call("void", "PyEval_RestoreThread", state)

    def run(self, context: Val) -> None:
        """Runs the generated function, which fails if it runs out of memory, or has a team of threads run it."""
        f, team = self.f, self.bound("team")
        alone = f.value("i64", f"zext {f.is_null(team)} to i64")
        with f.switch(alone, (1, 0)) as cases:
            for case in cases:
                if case:
                    status = f.value("i32", f"call i32 {self.bound('run').name}({context})")
                else:
                    status = f.value("i32", f"call i32 {TEAM.load(f, team, 'call').name}({context}, {team})")
                f.store(f.value("i1", f"icmp ne {status}, 0"), self._failed, 1)

    def _pack(self, kept: Val) -> None:
        """Makes the result of the arrays. It stays null without memory. kept: an object that comes behind them."""
        self.f.store(self.f.call_defined("ptr", "rnnc_pack", self.binding, self.views, kept), self.result, 8)

    def end(self) -> Function:
        """Returns the result; null if an exception is set; otherwise None, so that Python checks the arguments."""
        f = self.f
        f.call_defined("void", "rnnc_release", self.binding, self.views)
        result = f.load("ptr", self.result, 8)
        failed = exists(f, f.call("ptr", "PyErr_Occurred"))
        with f.when(negated(f, failed)):
            count = f.element(self.bound("outcomes"), CALL.load(f, self.call, "outcome"), "i64")
            f.store(f.add(f.load("i64", count, 8), 1), count, 8)
        decline = f.binary("and", f.is_null(result), negated(f, failed))
        with f.when(decline):
            f.call("void", "Py_IncRef", NONE)
        f.ret(f.select(decline, NONE, result))
        return f
