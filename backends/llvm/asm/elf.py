"""ELF: the relocatable object files that LLVM writes, read into sections, symbols and relocations.

Source of the layouts: System V Application Binary Interface, chapter 4 (object files), 64 bits, little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")

_SYMBOLS, _RELOCATIONS, _NO_BITS = 2, 4, 8  # types of sections
_ALLOCATED, _WRITABLE = 2, 1  # flags of sections
_UNDEFINED, _RESERVED = 0, 0xFF00  # numbers of sections that are none
_GLOBAL = 1  # binding of a symbol


class Section(NamedTuple):
    """A section. file_offset, size: its bytes in the file. info: of relocations, the section that they change."""

    name: int
    type: int
    flags: int
    address: int
    file_offset: int
    size: int
    link: int
    info: int
    align: int
    entry_size: int


class Symbol(NamedTuple):
    """A symbol. section: the number of the section in which it is defined, or None. place: its offset there."""

    name: str
    is_global: bool
    section: int | None
    place: int


class Relocation(NamedTuple):
    """A number that linking computes. section, place: where it is written. type: of the processor's ABI."""

    section: int
    place: int
    type: int
    symbol: Symbol
    addend: int


@dataclass(frozen=True)
class ObjectFile:
    """A relocatable object file of a 64-bit, little-endian processor."""

    content: bytes

    @cached_property
    def sections(self) -> list[Section]:
        """All sections."""
        header = _HEADER.unpack_from(self.content)
        start, size, count = header[6], header[11], header[12]
        return [Section(*_SECTION.unpack_from(self.content, start + size * n)) for n in range(count)]

    def loaded(self) -> dict[int, Section]:
        """The sections that are needed to run the code, by number. Raises ValueError if one of them is writable."""
        found = {n: s for n, s in enumerate(self.sections) if s.flags & _ALLOCATED and s.size}
        if any(s.flags & _WRITABLE or s.type == _NO_BITS for s in found.values()):
            raise ValueError("the object file has writable sections; generated code holds no state")
        return found

    def bytes_of(self, section: Section) -> bytes:
        """The contents of a section."""
        return self.content[section.file_offset : section.file_offset + section.size]

    @cached_property
    def symbols(self) -> list[Symbol]:
        """All symbols, in the order of the table."""
        table = next(s for s in self.sections if s.type == _SYMBOLS)
        names = self.bytes_of(self.sections[table.link])
        return [_symbol(fields, names) for fields in _SYMBOL.iter_unpack(self.bytes_of(table))]

    def relocations(self) -> list[Relocation]:
        """The relocations of all sections that are loaded."""
        loaded, found = self.loaded(), list[Relocation]()
        for section in self.sections:
            if section.type == _RELOCATIONS and section.info in loaded:
                for place, info, addend in _RELOCATION.iter_unpack(self.bytes_of(section)):
                    symbol = self.symbols[info >> 32]
                    found.append(Relocation(section.info, place, info & 0xFFFFFFFF, symbol, addend))
        return found


def _symbol(fields: tuple[int, ...], names: bytes) -> Symbol:
    name, info, _, section, place, _ = fields
    defined = section if _UNDEFINED < section < _RESERVED else None
    return Symbol(names[name : names.index(b"\0", name)].decode(), info >> 4 == _GLOBAL, defined, place)
