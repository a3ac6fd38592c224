"""Archives (.a) of object files, with the table of symbols that linkers look for.

Source: the format of GNU ar, which the linkers of Linux, of WebAssembly, and of bare machines read.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from rnnc.backends.llvm.asm.elf import ObjectFile

_START = b"!<arch>\n"
_LONGEST_NAME = 15


def archive(members: Mapping[str, bytes]) -> bytes:
    """The file of an archive. members: file name -> ELF object file.

    It is the same for the same members: it holds no dates and no users.
    """
    long_names, headers = bytearray(), []
    for name, content in members.items():
        shown = f"{name}/"
        if len(name) > _LONGEST_NAME:
            shown, long_names = f"/{len(long_names)}", long_names + f"{name}/\n".encode()
        headers.append(_header(shown, len(content)))
    symbols = [_global_symbols(content) for content in members.values()]
    count = sum(map(len, symbols))
    names = b"".join(name.encode() + b"\0" for found in symbols for name in found)
    before = _START + _member("//", bytes(long_names)) if long_names else _START
    offset = len(before) + len(_member("/", bytes(4 + 4 * count) + names))
    offsets = []
    for found, content in zip(symbols, members.values(), strict=True):
        offsets += [offset] * len(found)
        offset += len(_header("", 0)) + len(content) + len(content) % 2
    table = _member("/", struct.pack(f">{1 + count}I", count, *offsets) + names)
    bodies = b"".join(
        header + content + b"\n" * (len(content) % 2) for header, content in zip(headers, members.values(), strict=True)
    )
    return _START + table + before[len(_START) :] + bodies


def _member(name: str, content: bytes) -> bytes:
    return _header(name, len(content)) + content + b"\n" * (len(content) % 2)


def _header(name: str, size: int) -> bytes:
    return f"{name:<16}{0:<12}{0:<6}{0:<6}{'644':<8}{size:<10}`\n".encode()


def _global_symbols(content: bytes) -> list[str]:
    return [s.name for s in ObjectFile(content).symbols if s.is_global and s.section is not None]
