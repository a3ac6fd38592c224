"""The blob of a network: its packed weights and its tables, as bytes that a library holds or reads from a file.

    file    u64 magic | u64 digest | u64 bytes behind the header | zeros up to byte 64 | weights | table | table ...

A table of bytes is followed by the scales of its rows.

Weights are packed for the register tile of one kind of machine. Each part starts at a multiple of 64 bytes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from rnnc.backends.llvm.asm.builder import Function, Val
from rnnc.backends.llvm.portable.interface import STATE_HEADER
from rnnc.backends.tables import NarrowTable, stored_arrays
from rnnc.ir.ops import Array

_MAGIC = int.from_bytes(b"rnncwgt1", "little")
_LINE = 64


@dataclass(frozen=True)
class Blob:
    """weights: the packed arena. tables: by the name of the rows that are looked up."""

    weights: bytes
    tables: Mapping[str, Array | NarrowTable]

    @cached_property
    def content(self) -> bytes:
        """All parts."""
        found = bytearray(self.weights)
        for table in self.tables.values():
            for array in stored_arrays(table):
                found += bytes(-len(found) % _LINE) + array.tobytes()
        return bytes(found + bytes(-len(found) % _LINE))

    def table(self, f: Function, weights: Val, rows: str) -> list[Val]:
        """The addresses of a table: its numbers, and the scales of a table of bytes. weights: that of the blob."""
        return [f.element(weights, place, "i8") for place in self._places[rows]]

    @cached_property
    def _places(self) -> dict[str, list[int]]:
        found, place = {}, len(self.weights)
        for rows, table in self.tables.items():
            found[rows] = list[int]()
            for array in stored_arrays(table):
                place += -place % _LINE
                found[rows].append(place)
                place += array.nbytes
        return found

    # ---- in a library

    def definition(self) -> str:
        """The constant of a module."""
        shown = "".join(map(_ESCAPED.__getitem__, self.content))
        return f'@rnnc_weights = internal constant [{len(self.content)} x i8] c"{shown}", align {_LINE}'

    @staticmethod
    def address() -> Val:
        """The address of the constant."""
        return Val("ptr", "@rnnc_weights")

    # ---- in a file

    def header(self) -> tuple[int, int, int]:
        """The first words of a file, as signed numbers: it is refused if one is another."""
        digest = hashlib.sha256(self.content).digest()[:8]
        return _MAGIC, struct.unpack("<q", digest)[0], len(self.content)

    def file(self) -> bytes:
        """The file."""
        return struct.pack("<3q", *self.header()).ljust(STATE_HEADER, b"\0") + self.content


_ESCAPED = [chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\{b:02X}" for b in range(256)]
