"""A call by XLA: a handler of its foreign function interface, in LLVM. Programs that XLA compiles call it.

    rnnc_xla_call(frame) -> null, or an error of XLA

XLA gives the handler a frame with the buffers of arguments and results, and attributes. One of them is the address of a
site: all that is known of a call before its buffers are, such as its sizes. The handler does not depend on a network,
takes no memory, and needs no Python. The C interface is that of xla/ffi/api/c_api.h, version 0.x.

    metadata asked for: the version -> the site's context, with pointers into buffers -> pack weights -> run
"""

from __future__ import annotations

from rnnc.backends.llvm.asm.builder import COLD, Function, Module, Val, define, i64, null
from rnnc.backends.llvm.asm.records import Record
from rnnc.backends.llvm.kernels.python_objects import FALSE, both, exists, negated

NAME = "rnnc_xla_call"

FRAME = Record(
    "xla_frame",
    "i64 size, ptr extension, ptr api, ptr execution, i32 stage, "
    "i64 arguments_size, ptr arguments_extension, i64 argument_count, ptr argument_types, ptr arguments, "
    "i64 results_size, ptr results_extension, i64 result_count, ptr result_types, ptr results, "
    "i64 attributes_size, ptr attributes_extension, i64 attribute_count, ptr attribute_types, ptr attribute_names, "
    "ptr attributes",
)
"""XLA_FFI_CallFrame."""
XLA_BUFFER = Record("xla_buffer", "i64 size, ptr extension, i32 dtype, ptr data")
"""The first fields of XLA_FFI_Buffer."""
SCALAR = Record("xla_scalar", "i32 dtype, ptr value")
"""XLA_FFI_Scalar."""
EXTENSION = Record("xla_extension", "i64 size, i32 type, ptr next, ptr metadata")
"""XLA_FFI_Metadata_Extension."""
METADATA = Record("xla_metadata", "i64 size, i64 version_size, ptr version_extension, i32 major, i32 minor, i32 traits")
"""The first fields of XLA_FFI_Metadata."""
API = Record(
    "xla_api",
    "i64 size, ptr extension, i64 version_size, ptr version_extension, i32 major, i32 minor, ptr internal, "
    "ptr create_error",
)
"""The first fields of XLA_FFI_Api."""
ERROR = Record("xla_error", "i64 size, ptr extension, ptr message, i32 code")
"""XLA_FFI_Error_Create_Args."""
ERROR_BYTES = 28
MAJOR = 0
OUT_OF_MEMORY, INTERNAL = 8, 13

SITE = Record(
    "site",
    "ptr image, i64 bytes, i64 places, ptr place_records, ptr derive, i64 derived_at, ptr sweep, i64 weights_at, "
    "i64 sources_at, ptr sweeps, i64 sweep_count, ptr moves, ptr run",
)
"""image: the context of a call, of so many bytes, in which the pointers into buffers are missing. place_records: where
they go, `places` records of PLACE. derive: the function that computes values from parameters, or null; its pointers are
`derived_at` bytes into the image. sweep: the packer, or null if weights are packed; the arena's pointer is at
`weights_at`, and those that it reads begin at `sources_at`. run: the function of the network's module."""

PLACE = Record("place", "i64 offset, i64 is_result, i64 buffer, i64 skip")
"""offset: of a pointer in the image. It leads `skip` bytes into a buffer: of a result, or of an argument."""

ATTRIBUTE = 1
"""The site's number among the attributes, which XLA sorts by name: "process", "site"."""
ALIGNED = 63
"""The bits of an address that are 0 where a cache line begins."""


def emit_xla_call() -> Module:
    """The module of the handler."""
    module = Module()
    for name, text in (("memory", "rnnc: no memory for scratch buffers"), ("aligned", "rnnc: unaligned buffers")):
        letters = f'c"{text}\\00"'
        module.globals.append(f"@rnnc_{name} = private constant [{len(text) + 1} x i8] {letters}")
    for function in (_tell_version(), _fail(), _place(), _call()):
        module.add(function)
    return module


def _tell_version() -> Function:
    """Answers the question for metadata: the version is that of the caller, within the major one known here."""
    f = define("void rnnc_xla_tell_version(ptr frame)", COLD)
    (frame,) = f.parameters
    metadata = EXTENSION.load(f, FRAME.load(f, frame, "extension"), "metadata")
    minor = API.load(f, FRAME.load(f, frame, "api"), "minor")
    for field, value in (("major", Val("i32", str(MAJOR))), ("minor", minor), ("traits", Val("i32", "0"))):
        f.store(value, METADATA.place(f, metadata, field), 4)
    f.ret()
    return f


def _fail() -> Function:
    """A new error of XLA."""
    f = define("ptr rnnc_xla_fail(ptr frame, ptr message, i32 code)", COLD)
    frame, message, code = f.parameters
    given = f.alloca(ERROR.llvm_type, 1, 8)
    fields = {"size": i64(ERROR_BYTES), "extension": null(), "message": message}
    for field, value in fields.items():
        f.store(value, ERROR.place(f, given, field), 8)
    f.store(code, ERROR.place(f, given, "code"), 4)
    create = API.load(f, FRAME.load(f, frame, "api"), "create_error")
    f.ret(f.value("ptr", f"call ptr {create.name}({given})"))
    return f


def _place() -> Function:
    """Sets the pointers of an image to the buffers of a frame."""
    f = define("void rnnc_xla_place(ptr frame, ptr site, ptr image)", COLD)
    frame, site, image = f.parameters
    arguments, results = FRAME.load(f, frame, "arguments"), FRAME.load(f, frame, "results")
    with f.loop(0, SITE.load(f, site, "places")) as each:
        place = PLACE.loads(f, PLACE.element(f, SITE.load(f, site, "place_records"), each.index))
        table = f.select(f.compare("ne", place["is_result"], 0), results, arguments)
        buffer = f.load("ptr", f.element(table, place["buffer"], "ptr"), 8)
        data = f.element(XLA_BUFFER.load(f, buffer, "data"), place["skip"], "i8")
        f.store(data, f.element(image, place["offset"], "i8"), 8)
    f.ret()
    return f


def _call() -> Function:
    f = define(f"ptr {NAME}(ptr frame)", COLD)
    (frame,) = f.parameters
    result = f.alloca("ptr", 1, 8)
    f.store(null(), result, 8)
    asked = exists(f, FRAME.load(f, frame, "extension"))
    with f.when(asked):
        f.call_defined("void", "rnnc_xla_tell_version", frame)
    with f.when(negated(f, asked)):
        attribute = f.load("ptr", f.element(FRAME.load(f, frame, "attributes"), ATTRIBUTE, "ptr"), 8)
        site = f.load("ptr", SCALAR.load(f, attribute, "value"), 8)
        _run(f, frame, site, result)
    f.ret(f.load("ptr", result, 8))
    return f


def _run(f: Function, frame: Val, site: Val, result: Val) -> None:
    given = SITE.loads(f, site)
    image = f.value("ptr", f"alloca i8, {given['bytes']}, align 16")
    f.call("void", "llvm.memcpy.p0.p0.i64", image, given["image"], given["bytes"], FALSE)
    f.call_defined("void", "rnnc_xla_place", frame, site, image)
    weights = f.load("ptr", f.element(image, given["weights_at"], "i8"), 8)
    place = f.value("i64", f"ptrtoint {weights} to i64")
    aligned = f.compare("eq", f.binary("and", place, i64(ALIGNED)), 0)
    with f.when(negated(f, aligned)):
        _end_with(f, frame, "aligned", INTERNAL, result)
    with f.when(both(f, [aligned, exists(f, given["derive"])])):
        derived = f.element(image, given["derived_at"], "i8")
        f.value("i32", f"call i32 {given['derive'].name}({derived})")
    with f.when(both(f, [aligned, exists(f, given["sweep"])])):
        sources = f.element(image, given["sources_at"], "i8")
        taken = ", ".join(map(str, (weights, sources, given["sweeps"], given["sweep_count"], given["moves"])))
        f.line(f"call void {given['sweep'].name}({taken})")
    with f.when(aligned):
        status = f.value("i32", f"call i32 {given['run'].name}({image})")
        with f.when(f.value("i1", f"icmp ne {status}, 0")):
            _end_with(f, frame, "memory", OUT_OF_MEMORY, result)


def _end_with(f: Function, frame: Val, message: str, code: int, result: Val) -> None:
    error = f.call_defined("ptr", "rnnc_xla_fail", frame, Val("ptr", f"@rnnc_{message}"), Val("i32", str(code)))
    f.store(error, result, 8)
