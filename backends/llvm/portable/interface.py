"""The C interface of an exported network, as data: headers, loaders and code generators read the same description.

A **stream** is a network that takes a sequence piece by piece. Its functions are

    size_t NAME_state_size(void)                            bytes of a state
    int NAME_reset(void *state)                             a stream starts
    int NAME_step(void *state, x, y)                        one frame of one stream
    size_t NAME_scratch_size(size_t frames)
    int NAME_run(void *state, size_t frames, x, y, void *scratch)
    size_t NAME_rows_scratch_size(size_t rows)
    int NAME_step_rows(void *const *states, size_t rows, x, y, void *scratch)

A **whole** network reads a sequence to its end before it gives any output, as a bidirectional one does. It has

    size_t NAME_scratch_size(size_t steps, size_t batch)
    int NAME_run(size_t steps, size_t batch, const int64_t *lengths, x, initial states, y, final states, void *scratch)

Both have `const char *NAME_about(void)`, the description as JSON. All functions that return int return a `Result`.

A state is a block of bytes of its caller:

    u64 digest | zeros up to byte 64 | the numbers of the states, one after the other | room for a step

The first `saved_bytes` of it are all that a stream needs to go on, on any machine: the rest is room to work in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rnnc.backends.call_forms import PlainCall
    from rnnc.backends.products import ProductFormat
    from rnnc.ir.computation import Computation
    from rnnc.ir.ops import Array

VERSION = 1
"""The version of the interface; another one has other functions or another layout of states."""

STATE_HEADER = 64
"""Bytes in front of the numbers of a state, and of those of a file of weights."""

C_TYPES = {"float32": "float", "float64": "double", "int64": "int64_t"}


class Result(IntEnum):
    """What functions return."""

    OK = 0
    NUMBER_OUT_OF_RANGE = 1
    FOREIGN_STATE = 2
    FOREIGN_WEIGHTS = 3
    LENGTH_OUT_OF_RANGE = 4


MEANINGS = {
    Result.OK: "done",
    Result.NUMBER_OUT_OF_RANGE: "an integer input is no row of its table; nothing was changed",
    Result.FOREIGN_STATE: "the state was not reset, or is of another model; nothing was changed",
    Result.FOREIGN_WEIGHTS: "the weights are not those of this library; nothing was changed",
    Result.LENGTH_OUT_OF_RANGE: "a length is not in 0..steps; nothing was changed",
}


@dataclass(frozen=True)
class Port:
    """An input, an output, or a state.

    name: an identifier of C. label: what the network calls it. width: its numbers per frame (of a state: in all).
    steps: those of a frame; 0 for a value per sequence. columns: name, first, end of parts of a step of it.
    rows: for integers, the number of rows of the smallest table that they index; else 0. slabs: of a state, arrays
    (batch, width / slabs) that lie one behind the other.
    """

    name: str
    label: str
    dtype: str
    width: int
    steps: int = 1
    columns: tuple[tuple[str, int, int], ...] = ()
    rows: int = 0
    slabs: int = 1

    @property
    def bytes(self) -> int:
        """The bytes of a frame of it."""
        return self.width * (4 if self.dtype == "float32" else 8)


@dataclass(frozen=True)
class CParameter:
    """A parameter of a C function. type: such as "const float *"."""

    name: str
    type: str
    comment: str = ""


@dataclass(frozen=True)
class CFunction:
    """A function of the interface. name: without the library's. result: its type in C."""

    name: str
    result: str
    parameters: tuple[CParameter, ...]
    comment: str


@dataclass(frozen=True)
class CConstant:
    """A constant of the header. name: without the library's, in capitals."""

    name: str
    value: int | str
    comment: str


@dataclass(frozen=True)
class CInterface:
    """What a library offers, the same on all machines but for the size of a state.

    kind: "stream" or "whole". frame: the steps of x per frame. latency: by how many steps outputs are late.
    batch_first: of a whole network. weights: "embedded" or "file". digest: 16 hexadecimal digits that tell this model,
    with its weights, from others. state_bytes: of a state, on the machine that needs most. symbols: what the symbols
    of the functions begin with, if not with the name.
    """

    name: str
    kind: str
    dtype: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    states: tuple[Port, ...]
    frame: int
    latency: int
    batch_first: bool
    weights: str
    digest: str
    state_bytes: int = 0
    description: str = ""
    symbols: str = ""

    @property
    def item(self) -> int:
        """Bytes per number."""
        return 4 if self.dtype == "float32" else 8

    @property
    def saved_bytes(self) -> int:
        """The bytes of a state that a stream needs to go on."""
        return STATE_HEADER + sum(port.width for port in self.states) * self.item

    @property
    def in_file(self) -> bool:
        """Whether the weights come from a file."""
        return self.weights == "file"

    @property
    def streams(self) -> bool:
        """Whether it is a stream."""
        return self.kind == "stream"

    def with_state_bytes(self, state_bytes: int) -> CInterface:
        """The same for machines of which one needs so many bytes of state."""
        return replace(self, state_bytes=max(self.state_bytes, state_bytes))

    def about(self, machine: str) -> str:
        """The description that the library of a machine holds, as JSON."""
        found: dict[str, Any] = {
            "rnnc": VERSION,
            "name": self.name,
            "machine": machine,
            "kind": self.kind,
            "dtype": self.dtype,
            "digest": self.digest,
            "frame": self.frame,
            "latency": self.latency,
            "batch_first": self.batch_first,
            "weights": self.weights,
            "saved_bytes": self.saved_bytes,
        }
        for kind, ports in (("inputs", self.inputs), ("outputs", self.outputs), ("states", self.states)):
            found[kind] = [_about(port) for port in ports]
        return json.dumps(found, separators=(",", ":"))

    def symbol(self, function: str) -> str:
        """The symbol of a function."""
        return f"{self.symbols or self.name}_{function}"

    @property
    def functions(self) -> tuple[CFunction, ...]:
        """All functions, in the order of the header."""
        from rnnc.backends.llvm.portable.functions import functions_of

        return functions_of(self)


def _about(port: Port) -> dict[str, Any]:
    found: dict[str, Any] = {"name": port.label, "dtype": port.dtype, "width": port.width, "steps": port.steps}
    if port.columns:
        found["columns"] = {name: [first, end] for name, first, end in port.columns}
    if port.rows:
        found["rows"] = port.rows
    return found | ({"slabs": port.slabs} if port.slabs > 1 else {})


@dataclass(frozen=True)
class PortableNetwork:
    """A bound network, as code generators for other machines take it.

    call: its arguments and results: (inputs, initial states) -> (outputs, final states), one array per port and in the
    order of the ports of `interface`. An array of integers names the rows of tables that they number. parameters: those
    that are packed, by name.
    """

    interface: CInterface
    computation: Computation
    product: ProductFormat
    call: PlainCall
    parameters: Mapping[str, Array]


@dataclass(frozen=True)
class PortableObject:
    """An object file for one machine. weights: the file of weights, if they are not in it.

    interface: with the bytes of a state on this machine.
    """

    machine: str
    content: bytes
    interface: CInterface
    weights: bytes | None = None
