"""Contents: the sections of a shared object, with their sizes before and their bytes after the layout is known."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from rnnc.exporting.linking.object_files import ADDRESSES, CODE, CONSTANTS, Defined, ObjectFiles
from rnnc.exporting.linking.relocating import relocate
from rnnc.exporting.linking.tables import SymbolTable, build_id_note, dynamic_section, hash_table


class Access(IntEnum):
    """What a process may do with a section."""

    READ = 0
    RUN = 1
    RELOCATE = 2
    """The loader writes to it; from then on it is only read."""
    NONE = 3
    """It is not mapped: debuggers, profilers and `nm` read it from the file."""


class SectionKind(IntEnum):
    """Types of sections in the ABI."""

    NULL = 0
    DATA = 1
    SYMBOLS = 2
    STRINGS = 3
    ADDENDS = 4
    HASH = 5
    DYNAMIC = 6
    NOTE = 7
    NO_ADDENDS = 9
    DYNAMIC_SYMBOLS = 11


@dataclass(eq=False)
class OutSection:
    """A section of the file. link, info, entry_size: as the ABI has them, with the name of the linked section."""

    name: str
    kind: SectionKind
    access: Access
    content: bytearray
    align: int = 1
    link: str = ""
    info: int = 0
    entry_size: int = 0
    address: int = 0
    offset: int = 0


class Contents:
    """All sections of a shared object, in the order of the file. Layout sets addresses, then `fill` the bytes."""

    def __init__(self, inputs: ObjectFiles, soname: str) -> None:
        self.inputs = inputs
        self.layout = inputs.files[0].file.layout
        self.word = self.layout.bits // 8
        self.has_addends = inputs.processor.name != "arm"
        self._seen = SymbolTable(self.layout, [], inputs.seen)
        self._soname = self._seen.strings.add(soname)
        self._all = SymbolTable(self.layout, inputs.locals(), inputs.seen)
        self._slots = {name: n for n, name in enumerate(inputs.slotted())}
        self._moved = inputs.absolutes() + len(self._slots)
        self.sections = [*self._read(), *self._gathered(), *self._relocated(), *self._unmapped()]
        self.by_name = {section.name: section for section in self.sections}

    def _read(self) -> list[OutSection]:
        form = self.layout.addends if self.has_addends else self.layout.no_addends
        found = [
            OutSection(".note.gnu.build-id", SectionKind.NOTE, Access.READ, bytearray(build_id_note(bytes(20))), 4),
            OutSection(
                ".hash",
                SectionKind.HASH,
                Access.READ,
                bytearray(hash_table(self._seen.names)),
                4,
                ".dynsym",
                entry_size=4,
            ),
            self._symbols(".dynsym", SectionKind.DYNAMIC_SYMBOLS, Access.READ, self._seen, ".dynstr"),
            OutSection(".dynstr", SectionKind.STRINGS, Access.READ, self._seen.strings.content),
        ]
        if self._moved:
            name, kind = (
                (".rela.dyn", SectionKind.ADDENDS) if self.has_addends else (".rel.dyn", SectionKind.NO_ADDENDS)
            )
            blank = bytearray(self._moved * form.size)
            found.append(OutSection(name, kind, Access.READ, blank, self.word, ".dynsym", entry_size=form.size))
        return found

    def _gathered(self) -> list[OutSection]:
        accesses = {CONSTANTS: Access.READ, CODE: Access.RUN, ADDRESSES: Access.RELOCATE}
        there = [
            (self.inputs.sections[name], access) for name, access in accesses.items() if name in self.inputs.sections
        ]
        return [OutSection(each.name, SectionKind.DATA, access, each.content, each.align) for each, access in there]

    def _relocated(self) -> list[OutSection]:
        found = []
        if self._slots:
            slots = bytearray(self.word * len(self._slots))
            found.append(OutSection(".got", SectionKind.DATA, Access.RELOCATE, slots, self.word, entry_size=self.word))
        blank, size = bytearray(self._dynamic({})), self.layout.dynamic.size
        found.append(OutSection(".dynamic", SectionKind.DYNAMIC, Access.RELOCATE, blank, self.word, ".dynstr", 0, size))
        return found

    def _unmapped(self) -> list[OutSection]:
        return [
            self._symbols(".symtab", SectionKind.SYMBOLS, Access.NONE, self._all, ".strtab"),
            OutSection(".strtab", SectionKind.STRINGS, Access.NONE, self._all.strings.content),
            OutSection(".shstrtab", SectionKind.STRINGS, Access.NONE, bytearray()),
        ]

    def _symbols(self, name: str, kind: SectionKind, access: Access, table: SymbolTable, strings: str) -> OutSection:
        size = self.layout.symbol.size
        return OutSection(name, kind, access, bytearray(table.size), self.word, strings, table.first_global, size)

    def _dynamic(self, addresses: dict[str, int]) -> bytes:
        strings = len(self._seen.strings.content)
        return dynamic_section(self.layout, addresses, self._soname, strings, self._moved, has_addends=self.has_addends)

    def fill(self) -> None:
        """Links the code, and writes all tables."""
        for name, gathered in self.inputs.sections.items():
            gathered.address = self.by_name[name].address
        slots = {name: self.by_name[".got"].address + self.word * n for name, n in self._slots.items()}
        moved = relocate(self.inputs, slots)
        for name, n in self._slots.items():
            word = self.inputs.symbols[name].address.to_bytes(self.word, "little")
            self.by_name[".got"].content[self.word * n : self.word * (n + 1)] = word
        self._write_moved(sorted([*moved, *slots.values()]))
        self.by_name[".dynsym"].content[:] = self._seen.content(self._number)
        self.by_name[".symtab"].content[:] = self._all.content(self._number)
        self.by_name[".dynamic"].content[:] = self._dynamic({s.name: s.address for s in self.sections})

    def _write_moved(self, places: list[int]) -> None:
        """The relocations that are left to the loader, which adds the library's address to words."""
        kind = self.inputs.processor.relative
        for name in (".rela.dyn", ".rel.dyn"):
            if name not in self.by_name:
                continue
            form = self.layout.addends if self.has_addends else self.layout.no_addends
            addends = [[self._word(place)] if self.has_addends else [] for place in places]
            records = [form.pack(place, kind, *addend) for place, addend in zip(places, addends, strict=True)]
            self.by_name[name].content[:] = b"".join(records)

    def _word(self, place: int) -> int:
        """The word at an address that the loader changes."""
        inside = [s for s in self.sections if s.access is Access.RELOCATE and 0 <= place - s.address < len(s.content)]
        start = place - inside[0].address
        return int.from_bytes(inside[0].content[start : start + self.word], "little")

    def _number(self, defined: Defined) -> int:
        """The number of the section of a symbol; 0 is none."""
        return 1 + self.sections.index(self.by_name[defined.section.name])
