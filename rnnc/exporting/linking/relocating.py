"""Relocating: writes the distances between the parts of a library, once it is known where each part lies."""

from __future__ import annotations

from collections.abc import Mapping

from rnnc.exporting.linking.object_files import InputFile, ObjectFiles
from rnnc.exporting.linking.relocations import SLOTTED, Value, number
from rnnc.ir.errors import BackendError


def relocate(inputs: ObjectFiles, slots: Mapping[str, int]) -> list[int]:
    """Changes the sections of `inputs`, and returns the places of words that hold an address, which the loader moves.

    slots: symbol -> the place of the word that holds its address. Raises BackendError for a distance that does not fit.
    """
    return [place for file in inputs.files for place in _relocate_file(inputs, file, slots)]


def _relocate_file(inputs: ObjectFiles, file: InputFile, slots: Mapping[str, int]) -> list[int]:
    rules, halves, moved = inputs.processor.rules, dict[int, int](), list[int]()
    # The second instruction of a pair gets the rest of what the first one was given.
    for relocation in sorted(file.relocations(), key=lambda each: rules[each.type].value is Value.PAIRED):
        value, into = rules[relocation.type]
        if into is None:
            continue
        section, start = file.pieces[relocation.section]
        offset = start + relocation.place
        place = section.address + offset
        addend = into.addend(section.content, offset) if relocation.addend is None else relocation.addend
        symbol = inputs.resolve(file, relocation.symbol)
        assert symbol is not None
        if value is Value.PAIRED:
            result = halves[symbol.address]
        else:
            target = slots[relocation.symbol.name] if value in SLOTTED else symbol.address
            result = halves[place] = number(value, target, addend, place)
        if value is Value.ABSOLUTE:
            if not section.holds_addresses:
                raise BackendError(f"link: {section.name} holds an address; compile position-independent code")
            moved.append(place)
        try:
            into.write(section.content, offset, result)
        except (OverflowError, ValueError) as error:
            kind = f"relocation {relocation.type} on {inputs.processor.name}"
            raise BackendError(f"link: {kind}, of {relocation.symbol.name!r}: {error}") from error
    return moved
