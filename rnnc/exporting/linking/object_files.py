"""Object files: the sections of several object files, gathered into those of one library, and their symbols by name."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rnnc.backends.llvm.asm.elf import EXECUTABLE, WRITABLE, ObjectFile, Relocation, Symbol
from rnnc.exporting.linking.relocations import PROCESSORS, SLOTTED, Processor, Value
from rnnc.ir.errors import BackendError

_UNWINDING = (".ARM.exidx", ".ARM.extab", ".eh_frame")
"""How to unwind through functions that throw. Those of a network throw nothing and call nobody else's."""

CODE, CONSTANTS, ADDRESSES = ".text", ".rodata", ".data.rel.ro"
"""The sections of a library: `ADDRESSES` are constants that hold addresses, which the loader writes."""

_NO_BITS = 8
_LITTLE_ENDIAN = 1


@dataclass
class Gathered:
    """One section of the library: pieces of the object files, one after the other. address: set by the layout."""

    name: str
    align: int = 1
    content: bytearray = field(default_factory=bytearray)
    address: int = 0

    @property
    def holds_addresses(self) -> bool:
        """Whether the loader may write into it."""
        return self.name == ADDRESSES

    def add(self, content: bytes, align: int) -> int:
        """Appends a piece and returns its offset."""
        self.align = max(self.align, align)
        self.content += bytes(-len(self.content) % align)
        self.content += content
        return len(self.content) - len(content)


class Piece(NamedTuple):
    """Where a section of an object file went."""

    section: Gathered
    offset: int


@dataclass
class Defined:
    """A symbol of the library."""

    symbol: Symbol
    section: Gathered
    offset: int

    @property
    def address(self) -> int:
        """Its address, once the layout is known."""
        return self.section.address + self.offset


@dataclass
class InputFile:
    """An object file, and where its sections went."""

    file: ObjectFile
    pieces: dict[int, Piece]

    def defined(self, symbol: Symbol) -> Defined | None:
        """A symbol that this file defines; None if another one does, or it is not in memory."""
        piece = self.pieces.get(symbol.section) if symbol.section is not None else None
        return None if piece is None else Defined(symbol, piece.section, piece.offset + symbol.place)

    def relocations(self) -> Iterator[Relocation]:
        """The relocations of what went into the library."""
        return (relocation for relocation in self.file.relocations() if relocation.section in self.pieces)


class ObjectFiles:
    """Object files of one processor, with all that they need.

    sections: in the order of the files. symbols: the global ones, by name. seen: those of them that others see.
    """

    def __init__(self, objects: Sequence[bytes], exported: Collection[str] | None = None) -> None:
        """exported: the names of `seen`; default: all symbols that are not hidden.

        Raises BackendError for what cannot be linked: other processors, writable data, undefined symbols.
        """
        self.sections: dict[str, Gathered] = {}
        for content in objects:
            if content[:4] != b"\x7fELF" or content[5] != _LITTLE_ENDIAN:
                raise BackendError(
                    f"link: expected little-endian ELF object files, got one that starts {content[:6]!r}"
                )
        self.files = [self._gathered(ObjectFile(content)) for content in objects]
        self.processor = self._processor()
        self.symbols = self._symbols()
        self._check_defined()
        self.seen = self._seen(exported)

    def _processor(self) -> Processor:
        machines = {file.file.machine for file in self.files}
        bits = {file.file.layout.bits for file in self.files}
        if len(machines) != 1 or len(bits) != 1:
            raise BackendError(f"link: expected object files of one processor, got the numbers {sorted(machines)}")
        (machine,) = machines
        if machine not in PROCESSORS:
            known = ", ".join(f"{processor.number} ({processor.name})" for processor in PROCESSORS.values())
            raise BackendError(f"link: no rules for processor {machine}, only for {known}")
        return PROCESSORS[machine]

    def _gathered(self, file: ObjectFile) -> InputFile:
        pieces = {}
        for number, section in file.allocated().items():
            name = file.name_of(section)
            if name.startswith(_UNWINDING):
                continue
            if section.type == _NO_BITS or section.flags & WRITABLE and not name.startswith(ADDRESSES):
                raise BackendError(f"link: section {name} is writable; the code of a network holds no state")
            family = _family(name, section.flags)
            into = self.sections.setdefault(family, Gathered(family))
            pieces[number] = Piece(into, into.add(file.bytes_of(section), max(section.align, 1)))
        return InputFile(file, pieces)

    def _symbols(self) -> dict[str, Defined]:
        found: dict[str, Defined] = {}
        for file in self.files:
            for symbol in file.file.symbols:
                defined = file.defined(symbol) if symbol.is_global else None
                if defined is not None and symbol.name in found:
                    raise BackendError(f"link: two object files define {symbol.name}")
                if defined is not None:
                    found[symbol.name] = defined
        return found

    def _seen(self, exported: Collection[str] | None) -> list[Defined]:
        if exported is None:
            return [each for each in self.symbols.values() if not each.symbol.hidden]
        if missing := sorted(set(exported) - set(self.symbols)):
            raise BackendError(f"link: no object file defines {', '.join(missing)}, which the library is to export")
        return [self.symbols[name] for name in exported]

    def _check_defined(self) -> None:
        missing = {
            relocation.symbol.name
            for file in self.files
            for relocation in file.relocations()
            if self.resolve(file, relocation.symbol) is None and self._rule_value(relocation) is not Value.NONE
        }
        if missing:
            names = ", ".join(sorted(missing))
            raise BackendError(f"link: no object file defines {names}; a library of a network needs no other library")

    def _rule_value(self, relocation: Relocation) -> Value:
        rule = self.processor.rules.get(relocation.type)
        if rule is None:
            name, processor = relocation.symbol.name, self.processor.name
            raise BackendError(f"link: no rule for relocation {relocation.type} of {name!r} on {processor}")
        return rule.value

    def resolve(self, file: InputFile, symbol: Symbol) -> Defined | None:
        """The definition of a symbol that a file refers to."""
        return file.defined(symbol) or self.symbols.get(symbol.name)

    def slotted(self) -> dict[str, Defined]:
        """The symbols whose address the code reads from a slot, by name."""
        return {
            relocation.symbol.name: self.symbols[relocation.symbol.name]
            for file in self.files
            for relocation in file.relocations()
            if self._rule_value(relocation) in SLOTTED
        }

    def absolutes(self) -> int:
        """How many words hold an address."""
        return sum(
            self._rule_value(relocation) is Value.ABSOLUTE for file in self.files for relocation in file.relocations()
        )

    def locals(self) -> list[Defined]:
        """The functions and data that have a name, but that others cannot see."""
        seen = {id(each.symbol) for each in self.seen}
        found = []
        for file in self.files:
            for symbol in file.file.symbols:
                named = symbol.name and symbol.name[0] not in ".$" and id(symbol) not in seen
                defined = file.defined(symbol) if named else None
                if defined is not None:
                    found.append(defined)
        return found


def _family(name: str, flags: int) -> str:
    """The section of the library: all code is .text, all constants without addresses are .rodata."""
    if flags & EXECUTABLE:
        return CODE
    return ADDRESSES if name.startswith(ADDRESSES) else CONSTANTS
