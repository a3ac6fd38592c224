"""Tables of a shared object: its symbols, the hash table by which the loader finds one, and the dynamic section.

Sources: System V ABI, chapter 5 (dynamic linking); GNU gABI (build ids).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence

from rnnc.backends.llvm.asm.elf import ElfLayout
from rnnc.exporting.linking.object_files import Defined

_LOCAL, _GLOBAL = 0, 1  # bindings

_STRTAB, _SYMTAB, _HASH, _STRSZ, _SYMENT, _SONAME = 5, 6, 4, 10, 11, 14  # entries of the dynamic section
_RELA, _RELASZ, _RELAENT, _RELACOUNT = 7, 8, 9, 0x6FFFFFF9
_REL, _RELSZ, _RELENT, _RELCOUNT = 17, 18, 19, 0x6FFFFFFA
_FLAGS, _FLAGS_1 = 30, 0x6FFFFFFB
_SYMBOLIC, _BIND_NOW, _NOW = 2, 8, 1


class Strings:
    """A table of names. content: each ends in a zero byte; the first one is empty."""

    def __init__(self) -> None:
        self.content = bytearray(1)
        self._places = {"": 0}

    def add(self, name: str) -> int:
        """The place of a name."""
        if name not in self._places:
            self._places[name] = len(self.content)
            self.content += name.encode() + b"\0"
        return self._places[name]


class SymbolTable:
    """Symbols and their names. The local ones come first, as the ABI wants it."""

    def __init__(self, layout: ElfLayout, local: Sequence[Defined], seen: Sequence[Defined]) -> None:
        self._layout = layout
        self._symbols = [*((_LOCAL, each) for each in local), *((_GLOBAL, each) for each in seen)]
        self.strings = Strings()
        self._places = [self.strings.add(each.symbol.name) for _, each in self._symbols]
        self.first_global = 1 + len(local)

    @property
    def names(self) -> list[str]:
        """The names in the order of the table."""
        return [each.symbol.name for _, each in self._symbols]

    @property
    def size(self) -> int:
        """Bytes of the table."""
        return self._layout.symbol.size * (1 + len(self._symbols))

    def content(self, number_of: Callable[[Defined], int]) -> bytes:
        """The table. number_of: the number of the section of a symbol. Addresses must be known."""
        records = [bytes(self._layout.symbol.size)]
        for (binding, each), name in zip(self._symbols, self._places, strict=True):
            info = binding << 4 | each.symbol.type
            place = (each.address, each.symbol.size)
            if self._layout.bits == 64:
                records.append(self._layout.symbol.pack(name, info, 0, number_of(each), *place))
            else:
                records.append(self._layout.symbol.pack(name, *place, info, 0, number_of(each)))
        return b"".join(records)


def hash_table(names: Sequence[str]) -> bytes:
    """The hash table of the symbols 1, 2, ..."""
    buckets, chains = [0] * max(1, len(names) // 2), [0] * (1 + len(names))
    for number, name in enumerate(names, start=1):
        bucket = _hash(name) % len(buckets)
        chains[number], buckets[bucket] = buckets[bucket], number
    words = (len(buckets), len(chains), *buckets, *chains)
    return struct.pack(f"<{len(words)}I", *words)


def _hash(name: str) -> int:
    value = 0
    for byte in name.encode():
        value = (value << 4) + byte
        value = (value ^ (value >> 24 & 0xF0)) & 0x0FFFFFFF
    return value


def build_id_note(identity: bytes) -> bytes:
    """The note that tells one build of a library from another."""
    return struct.pack("<III4s", 4, len(identity), 3, b"GNU\0") + identity


def dynamic_section(
    layout: ElfLayout, addresses: Mapping[str, int], soname: int, strings: int, moved: int, *, has_addends: bool
) -> bytes:
    """What the loader reads first.

    addresses: of sections, by name; those that are missing count as 0, which serves to find the size. soname: the place
    of the library's name. strings: bytes of the names. moved: how many words hold addresses.
    """
    entries = [
        (_SONAME, soname),
        (_HASH, addresses.get(".hash", 0)),
        (_STRTAB, addresses.get(".dynstr", 0)),
        (_SYMTAB, addresses.get(".dynsym", 0)),
        (_STRSZ, strings),
        (_SYMENT, layout.symbol.size),
    ]
    if moved and has_addends:
        size = layout.addends.size
        entries += [(_RELA, addresses.get(".rela.dyn", 0)), (_RELASZ, moved * size), (_RELAENT, size)]
        entries += [(_RELACOUNT, moved)]
    elif moved:
        size = layout.no_addends.size
        entries += [(_REL, addresses.get(".rel.dyn", 0)), (_RELSZ, moved * size), (_RELENT, size)]
        entries += [(_RELCOUNT, moved)]
    entries += [(_FLAGS, _SYMBOLIC | _BIND_NOW), (_FLAGS_1, _NOW), (0, 0)]
    return b"".join(layout.dynamic.pack(*entry) for entry in entries)
