"""Relocations: of each processor, what number each type stands for and where it is written.

S, A, P are the symbol's address, the addend and the place, as the ABIs call them; G is the address of a slot that holds
S. All symbols are defined in the library itself, so every type but `ABSOLUTE` is a distance that linking computes.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from rnnc.exporting.linking import fields
from rnnc.exporting.linking.fields import Field


class Value(Enum):
    """What number is written."""

    DISTANCE = auto()  # S + A - P
    PAGE = auto()  # of S + A, counted from the page of P
    LOW = auto()  # S + A, of which only low bits are wanted
    SLOT_DISTANCE = auto()  # G + A - P
    SLOT_PAGE = auto()
    SLOT_LOW = auto()
    PAIRED = auto()  # what the instruction at S was given: the other half of it
    ABSOLUTE = auto()  # S + A, to which the loader adds where the library lies
    NUMBER = auto()  # S + A as a term of a difference
    NONE = auto()  # a remark for linkers that shorten code


class Rule(NamedTuple):
    """How one type of relocation is applied."""

    value: Value
    field: Field | None = None


class Processor(NamedTuple):
    """A processor. number: in the ABI. page: the largest page its systems have.

    relative: the type of relocation with which the loader adds a library's address to a word.
    """

    number: int
    name: str
    page: int
    relative: int
    rules: dict[int, Rule]


_X86_64 = {
    1: Rule(Value.ABSOLUTE, fields.WORD64),
    2: Rule(Value.DISTANCE, fields.WORD32),  # PC32
    4: Rule(Value.DISTANCE, fields.WORD32),  # PLT32
    9: Rule(Value.SLOT_DISTANCE, fields.WORD32),  # GOTPCREL, and its forms that a linker may relax
    41: Rule(Value.SLOT_DISTANCE, fields.WORD32),
    42: Rule(Value.SLOT_DISTANCE, fields.WORD32),
    24: Rule(Value.DISTANCE, fields.WORD64),
}

_AARCH64 = {
    257: Rule(Value.ABSOLUTE, fields.WORD64),
    260: Rule(Value.DISTANCE, fields.WORD64),
    261: Rule(Value.DISTANCE, fields.WORD32),
    275: Rule(Value.PAGE, fields.ADR_PAGE),
    277: Rule(Value.LOW, fields.ADD12),
    278: Rule(Value.LOW, fields.low12(1)),  # loads and stores of 8, 16, 32, 64, 128 bits
    284: Rule(Value.LOW, fields.low12(2)),
    285: Rule(Value.LOW, fields.low12(4)),
    286: Rule(Value.LOW, fields.low12(8)),
    299: Rule(Value.LOW, fields.low12(16)),
    279: Rule(Value.DISTANCE, fields.BRANCH14),
    280: Rule(Value.DISTANCE, fields.BRANCH19),
    282: Rule(Value.DISTANCE, fields.BRANCH26),
    283: Rule(Value.DISTANCE, fields.BRANCH26),
    311: Rule(Value.SLOT_PAGE, fields.ADR_PAGE),
    312: Rule(Value.SLOT_LOW, fields.low12(8)),
}

_RISCV = {
    2: Rule(Value.ABSOLUTE, fields.WORD64),
    16: Rule(Value.DISTANCE, fields.BRANCH13),
    17: Rule(Value.DISTANCE, fields.JUMP21),
    18: Rule(Value.DISTANCE, fields.CALL),
    19: Rule(Value.DISTANCE, fields.CALL),
    20: Rule(Value.SLOT_DISTANCE, fields.UPPER20),
    23: Rule(Value.DISTANCE, fields.UPPER20),
    24: Rule(Value.PAIRED, fields.LOW12_LOAD),
    25: Rule(Value.PAIRED, fields.LOW12_STORE),
    35: Rule(Value.NUMBER, fields.ADDED32),
    36: Rule(Value.NUMBER, fields.ADDED64),
    39: Rule(Value.NUMBER, fields.SUBTRACTED32),
    40: Rule(Value.NUMBER, fields.SUBTRACTED64),
    44: Rule(Value.DISTANCE, fields.SHORT_BRANCH9),
    45: Rule(Value.DISTANCE, fields.SHORT_JUMP12),
    51: Rule(Value.NONE),  # RELAX
    57: Rule(Value.DISTANCE, fields.WORD32),
}

_ARM = {
    2: Rule(Value.ABSOLUTE, fields.WORD32),
    3: Rule(Value.DISTANCE, fields.WORD32),
    27: Rule(Value.DISTANCE, fields.ARM_BRANCH24),
    28: Rule(Value.DISTANCE, fields.ARM_BRANCH24),
    29: Rule(Value.DISTANCE, fields.ARM_BRANCH24),
    42: Rule(Value.DISTANCE, fields.PREL31),
    45: Rule(Value.DISTANCE, fields.MOVE_LOW16),
    46: Rule(Value.DISTANCE, fields.MOVE_HIGH16),
    96: Rule(Value.SLOT_DISTANCE, fields.WORD32),
}

PROCESSORS = {
    processor.number: processor
    for processor in (
        Processor(62, "x86-64", 0x1000, 8, _X86_64),
        Processor(183, "aarch64", 0x10000, 1027, _AARCH64),
        Processor(243, "riscv64", 0x1000, 3, _RISCV),
        Processor(40, "arm", 0x10000, 23, _ARM),
    )
}
"""The number of a processor in the header of a file -> how its code is linked."""

_PAGE = ~0xFFF


def number(value: Value, target: int, addend: int, place: int) -> int:
    """What is written at a place. target: the symbol, or its slot."""
    if value in (Value.PAGE, Value.SLOT_PAGE):
        return (target + addend & _PAGE) - (place & _PAGE)
    if value in (Value.LOW, Value.SLOT_LOW):
        return target + addend & 0xFFF
    if value in (Value.ABSOLUTE, Value.NUMBER):
        return target + addend
    return target + addend - place


SLOTTED = (Value.SLOT_DISTANCE, Value.SLOT_PAGE, Value.SLOT_LOW)
"""The values that need a slot with the symbol's address."""
