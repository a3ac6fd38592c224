"""given.h for program.c: the arguments of an exported network, memory for its results, and its calls as macros."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rnnc.backends.llvm.portable.interface import C_TYPES, CInterface, Port

Array = Any
SCRATCH_BYTES = 1 << 20


@dataclass(frozen=True)
class Given:
    """What a program is given. inputs: (frames, width) each of a stream, (steps, batch, width) of whole sequences, or
    (batch, steps, width) if the network was made so. lengths: of the sequences, or None."""

    inputs: tuple[Array, ...]
    lengths: tuple[int, ...] | None = None


def write_given(folder: Path, api: CInterface, given: Given) -> None:
    """Writes given.h beside the header of the library."""
    lines = _of_stream(api, given) if api.streams else _of_whole(api, given)
    (folder / "given.h").write_text("\n".join([*map(_literal, range(len(given.inputs)), given.inputs), *lines, ""]))


def results(content: bytes, api: CInterface, given: Given) -> Array:
    """The outputs side by side, (..., widths), from the bytes of the struct that the program shows."""
    shapes = [shape for _, shape in _output_shapes(api, given)]
    dtype, found, place = np.dtype(api.dtype), [], 0
    for shape in shapes:
        size = int(np.prod(shape)) * dtype.itemsize
        found.append(np.frombuffer(content[place : place + size], dtype).reshape(shape))
        place += size
    return np.concatenate(found, axis=-1)


def at_once(api: CInterface) -> bool:
    """Whether one call on many frames gives what steps give: not if there is one value per sequence."""
    return not api.streams or all(port.steps for port in api.outputs)


def _output_shapes(api: CInterface, given: Given) -> list[tuple[Port, tuple[int, ...]]]:
    if api.streams:
        return [(port, (len(given.inputs[0]), port.width)) for port in api.outputs]
    lead = given.inputs[0].shape[:2]
    batch = lead[0] if api.batch_first else lead[1]
    return [(port, (*(lead if port.steps else (batch,)), port.width)) for port in api.outputs]


def _of_stream(api: CInterface, given: Given) -> list[str]:
    frames = len(given.inputs[0])
    steps = [f"x{n} + (n) * {port.width}" for n, port in enumerate(api.inputs)]
    steps += [f"y.y{n} + (n) * {port.width}" for n, port in enumerate(api.outputs)]
    arrays = [f"x{n}" for n in range(len(api.inputs))] + [f"y.y{n}" for n in range(len(api.outputs))]
    found = [
        *_memory(api, given),
        "static _Alignas(64) unsigned char state[NET_STATE_BYTES];",
        f"#define FRAMES {frames}",
        f"#define STEP(n) net_step(state, {', '.join(steps)})",
    ]
    if at_once(api):
        found.append(f"#define RUN net_run(state, FRAMES, {', '.join(arrays)}, scratch)")
    return [*found, f"#define SCRATCH net_scratch_size({frames if at_once(api) else 1})"]


def _of_whole(api: CInterface, given: Given) -> list[str]:
    lead = given.inputs[0].shape[:2]
    batch, steps = lead if api.batch_first else lead[::-1]
    lengths = given.lengths
    arrays = [f"x{n}" for n in range(len(api.inputs))] + ["NULL"] * len(api.states)
    arrays += [f"y.y{n}" for n in range(len(api.outputs))] + ["NULL"] * len(api.states)
    ends = "NULL" if lengths is None else "lengths"
    found = _memory(api, given)
    if lengths is not None:
        found.append(f"static const int64_t lengths[] = {{{', '.join(map(str, lengths))}}};")
    return [
        *found,
        f"#define RUN net_run({steps}, {batch}, {ends}, {', '.join(arrays)}, scratch)",
        f"#define SCRATCH net_scratch_size({steps}, {batch})",
    ]


def _memory(api: CInterface, given: Given) -> list[str]:
    type_ = C_TYPES[api.dtype]
    members = [f"{type_} y{n}[{int(np.prod(shape))}];" for n, (_, shape) in enumerate(_output_shapes(api, given))]
    poison = "for (size_t n = 0; n < sizeof y; n++) ((unsigned char *)&y)[n] = 255"
    return [f"static struct {{ {' '.join(members)} }} y;", f"#define POISON {poison}"]


def _literal(number: int, array: Array) -> str:
    """An array of constants: floats by their hexadecimal digits, which are exact."""
    type_, flat = C_TYPES[array.dtype.name], np.ascontiguousarray(array).ravel()
    return f"static const {type_} x{number}[] = {{{', '.join(_numbers(flat))}}};"


def _numbers(flat: Array) -> Sequence[str]:
    if flat.dtype.kind == "i":
        return [str(n) for n in flat.tolist()]
    suffix = "f" if flat.dtype.itemsize == 4 else ""
    return [f"{n.hex()}{suffix}" for n in flat.tolist()]
