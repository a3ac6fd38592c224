"""The functions of the C interface: names, types, and what their comments say."""

from __future__ import annotations

from rnnc.backends.llvm.portable.interface import C_TYPES, CFunction, CInterface, CParameter, Port

_STATE = CParameter("state", "void *", "the caller's, at a multiple of 8")
_SCRATCH = CParameter("scratch", "void *", "memory of {}_{}, at a multiple of 8; what is in it does not matter")
_WEIGHTS = CParameter("weights", "const void *", "the whole file of weights in memory, at a multiple of 64")


def functions_of(interface: CInterface) -> tuple[CFunction, ...]:
    """All functions of a library."""
    about = CFunction("about", "const char *", (), "The description of the library, as JSON.")
    found = _of_streams(interface) if interface.streams else _of_whole(interface)
    return (about, *found)


def _of_streams(api: CInterface) -> tuple[CFunction, ...]:
    inputs, outputs = _ports(api.inputs, "const "), _ports(api.outputs, "")
    weights = (_WEIGHTS,) if api.in_file else ()
    frames = CParameter("frames", "size_t", "how many; 0 does nothing")
    rows = CParameter("rows", "size_t", "how many streams")
    many = CParameter("states", "void *const *", "one state per stream, all different")
    kept = " It stays in use: keep it until the last step." if api.in_file else ""
    return (
        CFunction("state_size", "size_t", (), "The bytes of a state."),
        CFunction("reset", "int", (_STATE, *weights), f"Starts a stream.{kept}"),
        CFunction("step", "int", (_STATE, *inputs, *outputs), "The next frame of one stream."),
        CFunction("scratch_size", "size_t", (frames,), "The bytes of scratch memory of a run."),
        CFunction(
            "run",
            "int",
            (_STATE, frames, *inputs, *outputs, _scratch(api, "scratch_size")),
            "The next frames of one stream, one behind the other in each array: what as many steps give, faster.",
        ),
        CFunction("rows_scratch_size", "size_t", (rows,), "The bytes of scratch memory of a step of many streams."),
        CFunction(
            "step_rows",
            "int",
            (many, rows, *inputs, *outputs, _scratch(api, "rows_scratch_size")),
            "The next frame of each of several streams, one behind the other in each array.",
        ),
    )


def _of_whole(api: CInterface) -> tuple[CFunction, ...]:
    sizes = (CParameter("steps", "size_t", "T"), CParameter("batch", "size_t", "B"))
    lengths = CParameter("lengths", "const int64_t *", "B numbers in 0..T, or NULL: all T")
    initial = [
        CParameter(f"{port.name}_0", f"const {C_TYPES[port.dtype]} *", f"{_width(port)}, or NULL: zeros")
        for port in api.states
    ]
    final = [
        CParameter(f"{port.name}_n", f"{C_TYPES[port.dtype]} *", f"{_width(port)}, or NULL: not wanted")
        for port in api.states
    ]
    weights = (_WEIGHTS,) if api.in_file else ()
    arrays = (*_ports(api.inputs, "const "), *initial, *_ports(api.outputs, ""), *final)
    scratch = _scratch(api, "scratch_size")
    return (
        CFunction("scratch_size", "size_t", sizes, "The bytes of scratch memory of a run."),
        CFunction(
            "run",
            "int",
            (*weights, *sizes, lengths, *arrays, scratch),
            "The network over B sequences. Behind the end of a sequence outputs are 0.",
        ),
    )


def _scratch(api: CInterface, size: str) -> CParameter:
    return CParameter(_SCRATCH.name, _SCRATCH.type, _SCRATCH.comment.format(api.name, size))


def _ports(ports: tuple[Port, ...], const: str) -> list[CParameter]:
    return [CParameter(port.name, f"{const}{C_TYPES[port.dtype]} *", _width(port)) for port in ports]


def _width(port: Port) -> str:
    if port.rows:
        return f"integers in 0..{port.rows - 1}"
    if port.steps > 1:
        return f"({port.steps}, {port.width // port.steps})"
    return f"({port.width},)"
