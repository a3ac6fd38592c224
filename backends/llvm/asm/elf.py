"""ELF: the relocatable object files that LLVM writes, read into sections, symbols and relocations.

Source of the layouts: System V Application Binary Interface, chapter 4 (object files), little-endian.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from struct import Struct
from typing import NamedTuple

_SYMBOLS, _ADDENDS, _NO_BITS, _NO_ADDENDS = 2, 4, 8, 9  # types of sections
ALLOCATED, WRITABLE, EXECUTABLE = 2, 1, 4  # flags of sections
_UNDEFINED, _RESERVED = 0, 0xFF00  # numbers of sections that are none
_GLOBAL, _WEAK = 1, 2  # bindings of symbols


class ElfLayout(NamedTuple):
    """How the records of a file lie in it, by the bits of an address.

    addends, no_addends: relocations with an addend of their own, and those whose addend is in the bytes they change.
    symbol_shift: by how many bits a relocation's symbol lies above its type.
    """

    bits: int
    header: Struct
    section: Struct
    segment: Struct
    symbol: Struct
    addends: Struct
    no_addends: Struct
    dynamic: Struct
    symbol_shift: int


LAYOUTS = {
    1: ElfLayout(
        32,
        Struct("<16sHHIIIIIHHHHHH"),
        Struct("<10I"),
        Struct("<8I"),
        Struct("<IIIBBH"),
        Struct("<IIi"),
        Struct("<II"),
        Struct("<iI"),
        8,
    ),
    2: ElfLayout(
        64,
        Struct("<16sHHIQQQIHHHHHH"),
        Struct("<IIQQQQIIQQ"),
        Struct("<IIQQQQQQ"),
        Struct("<IBBHQQ"),
        Struct("<QQq"),
        Struct("<QQ"),
        Struct("<qQ"),
        32,
    ),
}
"""The class of a file, its fifth byte -> how it is laid out."""


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
    """A symbol. section: the number of the section in which it is defined, or None. place, size: its bytes there.

    type: 1 of data, 2 of a function, 3 of a section, 10 of a function that chooses one (GNU). hidden: whether other
    libraries cannot see it.
    """

    name: str
    is_global: bool
    section: int | None
    place: int
    size: int
    type: int
    hidden: bool


class Relocation(NamedTuple):
    """A number that linking computes. section, place: where it is written. type: of the processor's ABI.

    addend: None if it is in the bytes that are changed.
    """

    section: int
    place: int
    type: int
    symbol: Symbol
    addend: int | None


@dataclass(frozen=True)
class ObjectFile:
    """A relocatable object file of a little-endian processor."""

    content: bytes

    @cached_property
    def layout(self) -> ElfLayout:
        """How its records lie in it."""
        return LAYOUTS[self.content[4]]

    @cached_property
    def header(self) -> tuple[int, ...]:
        """The fields of its header."""
        return self.layout.header.unpack_from(self.content)

    @property
    def machine(self) -> int:
        """The processor, by its number in the ABI."""
        return self.header[2]

    @property
    def flags(self) -> int:
        """What the processor's ABI says of the code."""
        return self.header[7]

    @cached_property
    def sections(self) -> list[Section]:
        """All sections."""
        start, size, count = self.header[6], self.header[11], self.header[12]
        read = self.layout.section.unpack_from
        return [Section(*read(self.content, start + size * n)) for n in range(count)]

    def allocated(self) -> dict[int, Section]:
        """The sections that a process has in memory, by number."""
        return {n: s for n, s in enumerate(self.sections) if s.flags & ALLOCATED and s.size}

    def loaded(self) -> dict[int, Section]:
        """The sections that are needed to run the code, by number. Raises ValueError if one of them is writable."""
        found = self.allocated()
        if any(s.flags & WRITABLE or s.type == _NO_BITS for s in found.values()):
            raise ValueError("the object file has writable sections; generated code holds no state")
        return found

    def bytes_of(self, section: Section) -> bytes:
        """The contents of a section."""
        return self.content[section.file_offset : section.file_offset + section.size]

    def name_of(self, section: Section) -> str:
        """The name of a section."""
        return _text(self.bytes_of(self.sections[self.header[13]]), section.name)

    @cached_property
    def symbols(self) -> list[Symbol]:
        """All symbols, in the order of the table."""
        table = next(s for s in self.sections if s.type == _SYMBOLS)
        names = self.bytes_of(self.sections[table.link])
        records = self.layout.symbol.iter_unpack(self.bytes_of(table))
        return [self._symbol(fields, names) for fields in records]

    def relocations(self) -> list[Relocation]:
        """The relocations of all sections that a process has in memory."""
        allocated = self.allocated()
        changed = [s for s in self.sections if s.type in (_ADDENDS, _NO_ADDENDS) and s.info in allocated]
        return [relocation for section in changed for relocation in self._relocations(section)]

    def _relocations(self, section: Section) -> Iterator[Relocation]:
        layout, content = self.layout, self.bytes_of(section)
        form = layout.addends if section.type == _ADDENDS else layout.no_addends
        types = (1 << layout.symbol_shift) - 1
        for place, info, *addend in form.iter_unpack(content):
            symbol = self.symbols[info >> layout.symbol_shift]
            yield Relocation(section.info, place, info & types, symbol, addend[0] if addend else None)

    def _symbol(self, fields: tuple[int, ...], names: bytes) -> Symbol:
        if self.layout.bits == 64:
            name, info, other, section, place, size = fields
        else:
            name, place, size, info, other, section = fields
        defined = section if _UNDEFINED < section < _RESERVED else None
        is_global = info >> 4 in (_GLOBAL, _WEAK)
        return Symbol(_text(names, name), is_global, defined, place, size, info & 15, other & 3 in (1, 2))


def _text(names: bytes, start: int) -> str:
    return names[start : names.index(b"\0", start)].decode()
