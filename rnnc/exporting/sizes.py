"""The size of exported code, per function, and of its constants."""

from __future__ import annotations

from typing import NamedTuple

from rnnc.backends.llvm.asm.elf import EXECUTABLE, ObjectFile

_FUNCTION = 2


class CodeSize(NamedTuple):
    """Bytes of a function, of the weights, or of other constants."""

    name: str
    bytes: int
    is_code: bool


def sizes(content: bytes) -> list[CodeSize]:
    """The sizes of what is in an ELF object file, largest first."""
    file = ObjectFile(content)
    sections = file.allocated()
    named = [
        CodeSize(symbol.name, symbol.size, symbol.type == _FUNCTION)
        for symbol in file.symbols
        if symbol.section in sections and symbol.size
    ]
    data = sum(section.size for section in sections.values() if not section.flags & EXECUTABLE)
    other = data - sum(size.bytes for size in named if not size.is_code)
    found = [*named, CodeSize("other constants", max(other, 0), False)]
    return sorted((size for size in found if size.bytes), key=lambda size: -size.bytes)


def report(content: bytes) -> str:
    """The sizes as text: code in all, constants in all, then each."""
    found = sizes(content)
    code = sum(size.bytes for size in found if size.is_code)
    data = sum(size.bytes for size in found if not size.is_code)
    lines = [f"{code:>10,} bytes of code, {data:,} of constants"]
    return "\n".join([*lines, *(f"{size.bytes:>10,}   {size.name}" for size in found)])
