"""The C header of a library: C99, usable from C++."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from rnnc.backends.llvm.portable.interface import MEANINGS, CConstant, CFunction, CInterface, Port, Result

_WIDTH = 116


def header(api: CInterface) -> str:
    """The text of NAME.h."""
    guard = f"{api.name.upper()}_H"
    parts = [
        _comment(_overview(api)),
        f"#ifndef {guard}\n#define {guard}\n\n#include <stddef.h>\n#include <stdint.h>",
        '#ifdef __cplusplus\nextern "C" {\n#endif',
        *(_constant(api, each) for each in constants(api)),
        _results(api),
        *(_function(api, each) for each in api.functions),
        f"#ifdef __cplusplus\n}}\n#endif\n\n#endif /* {guard} */",
    ]
    return "\n\n".join(parts) + "\n"


def constants(api: CInterface) -> Iterator[CConstant]:
    """The constants of a header."""
    yield CConstant("DIGEST", f'"{api.digest}"', "Tells this model, with its weights, from all others.")
    if api.streams:
        yield CConstant("FRAME", api.frame, "Steps of the inputs per frame.")
        yield CConstant("LATENCY", api.latency, "By how many steps of the inputs the outputs are late.")
        yield CConstant(
            "STATE_BYTES", api.state_bytes, "At least what state_size returns, on each machine of this export."
        )
        yield CConstant(
            "STATE_SAVED_BYTES", api.saved_bytes, "The first bytes of a state, of which a stream can go on."
        )
    for port in (*api.inputs, *api.outputs):
        yield from _of_port(port)
    for port in api.states:
        yield CConstant(f"{port.name.upper()}_NUMBERS", port.width, f"Numbers of state {port.label} of one sequence.")


def _of_port(port: Port) -> Iterator[CConstant]:
    name = port.name.upper()
    steps = max(port.steps, 1)
    if port.steps > 1:
        yield CConstant(f"{name}_STEPS", port.steps, f"Steps of {port.label} per frame.")
    if port.rows:
        yield CConstant(f"{name}_ROWS", port.rows, f"The numbers of {port.label} are 0 .. this - 1.")
    else:
        yield CConstant(f"{name}_WIDTH", port.width // steps, f"Numbers of {port.label} per step.")
    for column, first, end in port.columns:
        plain = "".join(c if c.isascii() and c.isalnum() else "_" for c in column).upper()
        yield CConstant(
            f"{name}_{plain}_FIRST", first, f"Where the numbers of {column} begin in a step of {port.label}."
        )
        yield CConstant(f"{name}_{plain}_WIDTH", end - first, "How many they are.")


def _overview(api: CInterface) -> str:
    lines = [
        f"{api.name}: {api.description}",
        "",
        "Written by rnnc. The functions allocate nothing, take no lock, make no ",
    ]
    lines[-1] += "system call, and have no state but what they are given: each state is used by one thread at a time."
    if api.streams:
        lines += [
            "",
            "A state is the caller's memory, at a multiple of 8 bytes: "
            f"{api.name}_state_size() bytes, of which the first {api.saved_bytes} are the stream:",
            "  0: the digest, 8 bytes; zeros",
        ]
        place = 64
        for port in api.states:
            lines.append(f"  {place}: {port.label}, {port.width} {port.dtype}")
            place += port.bytes
        lines += ["Copy them to save a stream. To restore it, reset a state and copy them back, on any machine."]
        if api.latency:
            lines += [
                "",
                f"Outputs are {api.latency} steps late: the layers wait for later steps. The first ones are of no use.",
            ]
    else:
        order = "(B, T, width)" if api.batch_first else "(T, B, width)"
        lines += [
            "",
            f"Arrays are {order}, in the order of C; states are (B, width), one array per layer behind the other.",
        ]
    return "\n".join(lines)


def _comment(text: str) -> str:
    wrapped = [
        piece
        for line in text.replace("*/", "* /").split("\n")
        for piece in (textwrap.wrap(line, _WIDTH, subsequent_indent=" " * (len(line) - len(line.lstrip()))) or [""])
    ]
    if len(wrapped) == 1:
        return f"/* {wrapped[0]} */"
    body = "\n".join(f" * {line}".rstrip() for line in wrapped)
    return f"/*\n{body}\n */"


def _constant(api: CInterface, constant: CConstant) -> str:
    return f"{_comment(constant.comment)}\n#define {api.name.upper()}_{constant.name} {constant.value}"


def _results(api: CInterface) -> str:
    rows = [
        f"    {api.name.upper()}_{each.name} = {int(each)}{',' * (each is not list(Result)[-1])} /* {MEANINGS[each]} */"
        for each in Result
    ]
    return "/* What functions return. */\nenum {\n" + "\n".join(rows) + "\n};"


def _function(api: CInterface, function: CFunction) -> str:
    lines = [function.comment]
    lines += [f"  {p.name}: {p.comment}" for p in function.parameters if p.comment]
    parameters = ", ".join(f"{p.type}{'' if p.type.endswith('*') else ' '}{p.name}" for p in function.parameters)
    space = "" if function.result.endswith("*") else " "
    prototype = f"{function.result}{space}{api.name}_{function.name}({parameters or 'void'});"
    if len(prototype) > _WIDTH:
        prototype = "\n".join(textwrap.wrap(prototype, _WIDTH, subsequent_indent="    "))
    return f"{_comment(chr(10).join(lines))}\n{prototype}"
