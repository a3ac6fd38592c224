"""The native call of a computation with two halves, such as a derivative: two functions as `native_call` has one.

    rnnc_call_first(params, x, state, lengths=None)    -> (output, state, kept)
    rnnc_call_second(kept, d_output, d_state)          -> (d_params, d_x, d_state)

They decline a call in the same way. `kept` is an array of bytes, with all that the second half reads:

    a context without arrays | KEPT_CALL | packed weights, derived values | scratch memory | sorted lengths, copies

The first half packs the weights, because the caller may change them between the halves.
"""

from __future__ import annotations

import ctypes

from rnnc.backends.llvm.asm.builder import COLD, Function, Module, Val, define, i64, null
from rnnc.backends.llvm.kernels.binding import (
    ARENA_PLACE,
    BINDING,
    CALL,
    COPY,
    FIRST_HALF,
    KEPT_CALL,
    SECOND_HALF,
    SIZES,
    VIEW,
)
from rnnc.backends.llvm.kernels.context import HEAD
from rnnc.backends.llvm.kernels.native_call import NativeCall
from rnnc.backends.llvm.kernels.python_objects import FALSE, NDARRAY, exists, fields_of, type_of

LINE = 64
KEPT_CALL_BYTES = ctypes.sizeof(KEPT_CALL.struct)


def emit_native_halves(module: Module) -> None:
    """Adds the two functions, and what they call. `native_call` has added the rest."""
    for function in (_keep(), _pack_weights(), _first(), _second()):
        module.add(function)


def _keep() -> Function:
    """Takes the memory of a call, and leads a context to it. Returns it; null, with an exception set, if it fails.

    The context must have its sizes, and no arrays yet: the memory begins with a copy of it. more: the bytes that the
    call needs beside, to which it is led, too.
    """
    f = define("ptr rnnc_keep(ptr binding, ptr context, ptr call, i64 more)", COLD)
    binding, context, call, more = f.parameters
    half, own = BINDING.load(f, binding, "half"), BINDING.load(f, binding, "context_bytes")
    after = f.add(FIRST_HALF.load(f, half, "kept_call"), KEPT_CALL_BYTES)
    arguments, block = f.alloca("ptr", 1, 8), f.alloca("ptr", 1, 8)
    scratch = f.value("i64", f"call i64 {FIRST_HALF.load(f, half, 'scratch').name}({context})")
    scratch = f.binary("and", f.add(scratch, 7), i64(-8))
    ours = f.add(FIRST_HALF.load(f, half, "arena_bytes"), scratch)
    size = f.add(f.add(f.add(after, LINE), ours), more)
    number = f.call("ptr", "PyLong_FromSsize_t", size)
    f.store(null(), block, 8)
    with f.when(exists(f, number)):
        f.store(number, arguments, 8)
        take = FIRST_HALF.load(f, half, "take")
        f.store(f.call("ptr", "PyObject_Vectorcall", take, arguments, i64(1), null()), block, 8)
        f.call("void", "Py_DecRef", number)
    taken = f.load("ptr", block, 8)
    with f.when(exists(f, taken)):
        data = _data(f, taken)
        arena = f.value("i64", f"ptrtoint {f.element(data, after, 'i8')} to i64")
        arena = f.binary("and", f.add(arena, LINE - 1), i64(-LINE))
        with f.loop(0, FIRST_HALF.load(f, half, "places")) as each:
            place = ARENA_PLACE.loads(f, ARENA_PLACE.element(f, FIRST_HALF.load(f, half, "place_records"), each.index))
            pointer = f.value("ptr", f"inttoptr {f.add(arena, place['skip'])} to ptr")
            f.store(pointer, f.element(context, place["offset"], "i8"), 8)
        f.call("void", "llvm.memcpy.p0.p0.i64", data, context, own, FALSE)
        record = f.element(data, FIRST_HALF.load(f, half, "kept_call"), "i8")
        for name in KEPT_CALL.types:
            f.store(CALL.load(f, call, name), KEPT_CALL.place(f, record, name), 8)
        memory = f.value("ptr", f"inttoptr {f.add(arena, ours)} to ptr")
        f.store(memory, CALL.place(f, call, "memory"), 8)
    f.ret(taken)
    return f


def _data(f: Function, array: Val) -> Val:
    return NDARRAY.load(f, fields_of(f, array), "data")


def _pack_weights() -> Function:
    """Computes derived values and packs the weights that a call of so many steps and rows reads packed."""
    f = define("void rnnc_pack_weights(ptr binding, ptr context)", COLD)
    binding, context = f.parameters
    half = FIRST_HALF.loads(f, BINDING.load(f, binding, "half"))
    with f.when(exists(f, half["derive"])):
        given = f.element(context, half["derived_at"], "i8")
        f.value("i32", f"call i32 {half['derive'].name}({given})")
    sources = f.element(context, half["sources_at"], "i8")
    sizes = SIZES.loads(f, context)
    few = f.compare("ule", f.mul(*sizes.values()), half["rows_in_place"])
    f.store(f.select(few, sources, null()), HEAD.place(f, context, "sources"), 8)
    names = ("sweeps", "sweep_count", "of_one_step", "moves")
    rest_names = ("rest", "rest_count", "rest_of_one_step", "rest_moves")
    pairs = zip(rest_names, names, strict=True)
    sweeps, count, of_one_step, moves = (f.select(few, half[rest], half[whole]) for rest, whole in pairs)
    count = f.select(f.compare("eq", sizes["steps"], 1), of_one_step, count)
    arguments = (HEAD.load(f, context, "weights"), sources, sweeps, count, moves)
    f.line(f"call void {half['sweep'].name}({', '.join(map(str, arguments))})")
    f.ret()
    return f


def _first() -> Function:
    f = define("ptr rnnc_call_first(ptr self, ptr arguments, i64 n)", COLD)
    self_, arguments, count = f.parameters
    call = NativeCall(f, f.call("ptr", "PyBytes_AsString", self_))
    context = f.value("ptr", f"alloca i8, {call.bound('context_bytes')}, align 16")
    with call.fitting(arguments, count), call.made():
        call.begin(context)
        kept = f.call_defined("ptr", "rnnc_keep", call.binding, context, call.call, call.memory_size())
        with f.when(exists(f, kept)):
            with call.computing(context, kept, CALL.load(f, call.call, "memory")):
                for name in ("steps", "rows", "order", "lengths"):
                    f.store(HEAD.load(f, context, name), HEAD.place(f, _data(f, kept), name), 8)
                f.call_defined("void", "rnnc_pack_weights", call.binding, context)
                call.run(context)
            f.call("void", "Py_DecRef", kept)
    return call.end()


def _is_kept(call: NativeCall, kept: Val) -> Val:
    """Whether an object is the memory of a first half: bytes that hold a context, whose weights lie in them, too."""
    f = call.f
    found, size = f.alloca("i1", 1, 1), f.alloca("i64", 1, 8)
    f.store(FALSE, found, 1)
    with f.when(f.compare("eq", type_of(f, kept), call.bound("ndarray"))):
        fields = fields_of(f, kept)
        f.store(i64(0), size, 8)
        with f.when(f.value("i1", f"icmp eq {NDARRAY.load(f, fields, 'axes')}, 1")):
            f.store(f.load("i64", NDARRAY.load(f, fields, "shape"), 8), size, 8)
        bytes_ = f.load("i64", size, 8)
        known = f.add(SECOND_HALF.load(f, call.bound("half"), "kept_call"), KEPT_CALL_BYTES)
        with f.when(f.compare("ule", known, bytes_)):
            data = _data(f, kept)
            weights = f.value("i64", f"ptrtoint {HEAD.load(f, data, 'weights')} to i64")
            aside = f.sub(weights, f.value("i64", f"ptrtoint {data} to i64"))
            f.store(f.compare("ult", aside, bytes_), found, 1)
    return f.load("i1", found, 1)


def _second() -> Function:
    f = define("ptr rnnc_call_second(ptr self, ptr arguments, i64 n)", COLD)
    self_, arguments, count = f.parameters
    call = NativeCall(f, f.call("ptr", "PyBytes_AsString", self_))
    size = call.bound("context_bytes")
    context = f.value("ptr", f"alloca i8, {size}, align 16")
    with f.when(f.compare("ne", count, 0)):
        kept = f.load("ptr", arguments, 8)
        with f.when(_is_kept(call, kept)):
            f.call("void", "llvm.memcpy.p0.p0.i64", context, _data(f, kept), size, FALSE)
            record = f.element(_data(f, kept), SECOND_HALF.load(f, call.bound("half"), "kept_call"), "i8")
            f.store(SIZES.load(f, context, "batch"), CALL.place(f, call.call, "batch"), 8)
            for name, value in KEPT_CALL.loads(f, record).items():
                f.store(value, CALL.place(f, call.call, name), 8)
            with call.fitting(f.element(arguments, 1, "ptr"), f.sub(count, 1)), call.made():
                with call.computing(context):
                    call.run(context)
                    _copy_results(call)
    return call.end()


def _copy_results(call: NativeCall) -> None:
    """Fills the results that are equal to others."""
    f, half = call.f, SECOND_HALF.loads(call.f, call.bound("half"))
    with f.loop(0, half["copies"]) as each:
        numbers = COPY.loads(f, COPY.element(f, half["copy_records"], each.index))
        source, target = (VIEW.element(f, call.views, number) for number in numbers.values())
        size, to = VIEW.load(f, source, "bytes"), VIEW.load(f, target, "start")
        f.call("void", "llvm.memcpy.p0.p0.i64", to, VIEW.load(f, source, "start"), size, FALSE)
