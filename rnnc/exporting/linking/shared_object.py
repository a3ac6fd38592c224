"""A shared object (.so) of relocatable object files, written without a linker.

    headers, build id, hash table, symbols, names, relocations, constants    mapped to be read
    code                                                                     mapped to be read and run
    addresses, dynamic section             mapped to be written by the loader, and only read from then on

No page is both writable and executable. The library needs no other one: object files that refer to a symbol that none
of them defines are refused. Its own references are bound when it is linked, so no other library can take them over.

Sources: System V ABI, chapters 4 and 5; Linux Standard Base 5, chapter 10 (GNU_STACK, GNU_RELRO, build ids).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from rnnc.exporting.linking.contents import Access, Contents, OutSection
from rnnc.exporting.linking.object_files import ObjectFiles
from rnnc.exporting.linking.tables import Strings, build_id_note

_FILE_PAGE = 0x1000
"""Segments start at multiples of this in the file, so that a page of this size belongs to one of them."""

_SHARED_OBJECT = 3
_SYSTEM_V, _GNU = 0, 3  # the ABI; GNU's has functions that choose a function
_CHOOSING = 10  # the type of such a function
_LOAD, _DYNAMIC, _NOTE, _STACK, _RELRO = 1, 2, 4, 0x6474E551, 0x6474E552  # types of segments
_READ, _WRITE, _RUN = 4, 2, 1  # flags of segments
_SECTION_FLAGS = {Access.READ: 2, Access.RUN: 6, Access.RELOCATE: 3, Access.NONE: 0}
_SEGMENTS = 7


def shared_object(
    objects: Sequence[bytes], soname: str, *, exported: Collection[str] | None = None, flags: int = 0
) -> bytes:
    """The file of a shared object of some object files.

    objects: ELF, relocatable, of one processor, position-independent. soname: the name by which programs that are
    linked with it find it. exported: the symbols that others see; default: all global ones that are not hidden.
    flags: of the processor's ABI, beside those of the object files.
    Raises BackendError for objects that need another library or have writable data, or of an unknown processor, and for
    exported symbols that none defines.
    """
    contents = Contents(ObjectFiles(objects, exported), soname)
    _lay_out(contents)
    contents.fill()
    return _written(contents, flags)


def _lay_out(contents: Contents) -> None:
    """Sets offsets and addresses. What is accessed in another way starts on another page, of the largest size."""
    names = Strings()
    for section in contents.sections:
        names.add(section.name)
    contents.by_name[".shstrtab"].content[:] = names.content
    layout, page = contents.layout, contents.inputs.processor.page
    offset = address = layout.header.size + _SEGMENTS * layout.segment.size
    access = Access.READ
    for section in contents.sections:
        if section.access is not access and section.access is not Access.NONE:
            offset += -offset % _FILE_PAGE
            address += -address % page + offset % page
        access = section.access
        padding = -address % section.align
        section.offset, section.address = offset + padding, address + padding
        offset, address = section.offset + len(section.content), section.address + len(section.content)
        if access is Access.NONE:
            section.address = 0


def _written(contents: Contents, flags: int) -> bytes:
    end = contents.sections[-1].offset + len(contents.sections[-1].content)
    content = bytearray(end + -end % contents.word)
    segments = b"".join(_segments(contents))
    start = contents.layout.header.size
    content[start : start + len(segments)] = segments
    content[:start] = _header(contents, flags, len(content))
    for section in contents.sections:
        content[section.offset : section.offset + len(section.content)] = section.content
    content += _section_headers(contents)
    identity = build_id_note(hashlib.sha256(content).digest()[:20])
    note = contents.by_name[".note.gnu.build-id"].offset
    content[note : note + len(identity)] = identity
    return bytes(content)


def _header(contents: Contents, flags: int, sections_at: int) -> bytes:
    layout, objects = contents.layout, [each.file for each in contents.inputs.files]
    for each in objects:
        flags |= each.flags
    chooses = any(each.symbol.type == _CHOOSING for each in contents.inputs.symbols.values())
    identity = bytes((*b"\x7fELF", layout.bits // 32, 1, 1, _GNU if chooses else _SYSTEM_V)).ljust(16, b"\0")
    sizes = (layout.header.size, layout.segment.size, _SEGMENTS, layout.section.size, len(contents.sections) + 1)
    names = len(contents.sections)
    return layout.header.pack(
        identity, _SHARED_OBJECT, objects[0].machine, 1, 0, layout.header.size, sections_at, flags, *sizes, names
    )


def _segments(contents: Contents) -> list[bytes]:
    """The program headers: what is mapped where, and how."""
    page = contents.inputs.processor.page
    note, dynamic = contents.by_name[".note.gnu.build-id"], contents.by_name[".dynamic"]
    relocated = [section for section in contents.sections if section.access is Access.RELOCATE]
    # Memory is protected by whole pages, so the last one is mapped whole.
    tail = -_end(relocated) % page
    spans = {
        access: [section for section in contents.sections if section.access is access]
        for access in (Access.READ, Access.RUN, Access.RELOCATE)
    }
    return [
        _segment(contents, _LOAD, _READ, spans[Access.READ], page, from_start=True),
        _segment(contents, _LOAD, _READ | _RUN, spans[Access.RUN], page),
        _segment(contents, _LOAD, _READ | _WRITE, relocated, page, tail=tail),
        _segment(contents, _DYNAMIC, _READ | _WRITE, [dynamic], contents.word),
        _segment(contents, _NOTE, _READ, [note], note.align),
        _segment(contents, _RELRO, _READ, relocated, 1, tail=tail),
        _segment(contents, _STACK, _READ | _WRITE, [], 16),
    ]


def _segment(
    contents: Contents,
    kind: int,
    flags: int,
    sections: Sequence[OutSection],
    align: int,
    *,
    from_start: bool = False,
    tail: int = 0,
) -> bytes:
    """A program header. from_start: it begins with the file's headers. tail: bytes in memory behind the sections."""
    offset, address = (sections[0].offset, sections[0].address) if sections and not from_start else (0, 0)
    size = _end(sections) - address if sections else 0
    if contents.layout.bits == 64:
        return contents.layout.segment.pack(kind, flags, offset, address, address, size, size + tail, align)
    return contents.layout.segment.pack(kind, offset, address, address, size, size + tail, flags, align)


def _end(sections: Sequence[OutSection]) -> int:
    return sections[-1].address + len(sections[-1].content) if sections else 0


def _section_headers(contents: Contents) -> bytes:
    numbers = {section.name: n for n, section in enumerate(contents.sections, start=1)} | {"": 0}
    names = Strings()
    records = [bytes(contents.layout.section.size)]
    for section in contents.sections:
        where = (section.address, section.offset, len(section.content))
        linked = (numbers[section.link], section.info, section.align, section.entry_size)
        flags = _SECTION_FLAGS[section.access]
        records.append(contents.layout.section.pack(names.add(section.name), section.kind, flags, *where, *linked))
    return b"".join(records)
