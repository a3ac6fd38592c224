"""Images: object files linked to one block of machine code, which runs wherever it is mapped.

    sections of all objects | table of addresses, one per symbol that the code refers to

Code refers to its own constants by distances, which linking computes, and to functions by entries of the table, which
mapping fills in. Nothing else depends on the address of an image. So an image can be kept on disk, and is mapped
without a linker and without LLVM.

The relocations are those of x86-64's large code model (System V ABI, AMD64 supplement, table 4.9).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
import weakref
from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from rnnc.ir.errors import BackendError

if TYPE_CHECKING:
    from rnnc.backends.llvm.asm.elf import ObjectFile, Relocation

_GOT = "_GLOBAL_OFFSET_TABLE_"
_PC64, _GOTOFF64, _GOT64, _GOTPC64 = 24, 25, 27, 29
_ALIGNMENT = 64
_READ, _WRITE, _EXECUTE, _PRIVATE, _ANONYMOUS = 1, 2, 4, 2, 32
"""Linux's numbers for mappings. The module mmap, which has them, takes longer to load than an image."""


class Image(NamedTuple):
    """Linked code. It is plain data.

    code: all sections, from an aligned start. symbols: the offset of each function that has a name. table: the offset
    of the table of addresses. needed: the symbols whose addresses it holds, in order: own ones, and other code's.
    """

    code: bytes
    symbols: Mapping[str, int]
    table: int
    needed: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return self.table + 8 * len(self.needed)

    def foreign(self) -> list[str]:
        """The symbols that other code must define."""
        return [name for name in self.needed if name not in self.symbols]


def can_map() -> bool:
    """True if images are mapped on this system. Elsewhere, LLVM links objects in memory of its own."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


def link(objects: Iterable[bytes], symbols_of: Mapping[str, str] | None = None) -> Image:
    """The image of some object files, which define each function once.

    symbols_of: further names of functions -> their symbols.
    """
    from rnnc.backends.llvm.asm.elf import ObjectFile

    files = [ObjectFile(content) for content in objects]
    code, starts = _laid_out(files)
    symbols = {
        symbol.name: start[symbol.section] + symbol.place
        for file, start in zip(files, starts, strict=True)
        for symbol in file.symbols
        if symbol.is_global and symbol.section is not None
    }
    slots: dict[str, int] = {}
    table = len(code)
    for file, start in zip(files, starts, strict=True):
        for relocation in file.relocations():
            place = start[relocation.section] + relocation.place
            struct.pack_into("<q", code, place, _distance(relocation, place, start, symbols, slots, table))
    named = {name: symbols[symbol] for name, symbol in (symbols_of or {}).items()}
    return Image(bytes(code), symbols | named, table, tuple(slots))


def _laid_out(files: Iterable[ObjectFile]) -> tuple[bytearray, list[dict[int, int]]]:
    """The bytes of all sections one after the other, and for each file where its sections start."""
    code, starts = bytearray(), []
    for file in files:
        start = {}
        for number, section in file.loaded().items():
            code += bytes(-len(code) % max(section.align, 1))
            start[number] = len(code)
            code += file.bytes_of(section)
        starts.append(start)
    code += bytes(-len(code) % _ALIGNMENT)
    return code, starts


def _distance(
    relocation: Relocation,
    place: int,
    start: Mapping[int, int],
    symbols: Mapping[str, int],
    slots: dict[str, int],
    table: int,
) -> int:
    """The number that a relocation writes at a place of the image. A symbol that needs one is given a slot."""
    symbol, addend = relocation.symbol, relocation.addend
    assert addend is not None, "relocations of x86-64 have addends of their own"
    if relocation.type == _GOT64:
        return 8 * slots.setdefault(symbol.name, len(slots)) + addend
    if relocation.type == _GOTPC64:
        assert symbol.name == _GOT
        return table + addend - place
    target = symbols[symbol.name] if symbol.section is None else start[symbol.section] + symbol.place
    if relocation.type == _GOTOFF64:
        return target + addend - table
    if relocation.type == _PC64:
        return target + addend - place
    raise NotImplementedError(f"relocation {relocation.type} of {symbol.name!r} is not of the large code model")


# ---- in memory


class Mapped:
    """An image in memory, for as long as this object lives. addresses: of its functions.

    foreign: the addresses of functions of other images. All others are found in this process.
    Raises LookupError if a function cannot be found, and BackendError if the system gives no memory for code.
    """

    def __init__(self, image: Image, foreign: Mapping[str, int]) -> None:
        others = {name: foreign.get(name) or _in_process(name) for name in image.foreign()}
        base = _allocate(image.size)
        self.addresses = {name: base + offset for name, offset in image.symbols.items()}
        known = others | self.addresses
        table = struct.pack(f"<{len(image.needed)}Q", *(known[name] for name in image.needed))
        ctypes.memmove(base, image.code + table, image.size)
        # Not at exit, because other threads may still run the code.
        weakref.finalize(self, _system().munmap, base, image.size).atexit = False
        if _system().mprotect(base, image.size, _READ | _EXECUTE):
            raise _refused("mprotect")


def _allocate(size: int) -> int:
    """Private memory to write to, from a page's start."""
    flags = _PRIVATE | _ANONYMOUS
    base: int | None = _system().mmap(None, size, _READ | _WRITE, flags, -1, 0)
    if base is None or base == ctypes.c_void_p(-1).value:
        raise _refused("mmap")
    return base


def _refused(call: str) -> BackendError:
    reason = os.strerror(ctypes.get_errno())
    return BackendError(f"machine code: {call} fails ({reason}); let this process map memory that is executed")


@cache
def _system() -> Any:
    """The C library, with the functions that change mappings."""
    library = ctypes.CDLL(None, use_errno=True)
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.mmap.argtypes = (pointer, size, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    library.mmap.restype = pointer
    library.munmap.argtypes = (pointer, size)
    library.mprotect.argtypes = (pointer, size, ctypes.c_int)
    return library


def _in_process(name: str) -> int:
    """The address of a function or object that Python or the C library exports. Raises LookupError."""
    for library in (ctypes.pythonapi, _system()):
        try:
            return ctypes.addressof(ctypes.c_char.in_dll(library, name))
        except ValueError:
            continue
    raise LookupError(f"no loaded library has {name!r}")


