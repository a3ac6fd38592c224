"""Fields: the bits of an instruction or a word into which linking writes a number.

Sources: the processor supplements of the System V ABI (AMD64; AArch64; RISC-V), and ELF for the Arm Architecture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

Encode: TypeAlias = Callable[[int, int], int]
"""The word or instruction, and the number -> the word with the number in it."""
Decode: TypeAlias = Callable[[int], int]


@dataclass(frozen=True)
class Field:
    """Some bits of a little-endian word of `size` bytes.

    encode: puts a number in. decode: the addend that is there before linking, on machines that keep it there.
    bits: the number is signed and has at most so many; None if only its low bits are wanted. unit: it is a multiple of
    this.
    """

    size: int
    encode: Encode
    bits: int | None = None
    unit: int = 1
    decode: Decode | None = None

    def write(self, content: bytearray, place: int, number: int) -> None:
        """Raises OverflowError for a number that does not fit, ValueError for one that is no multiple of the unit."""
        if number % self.unit:
            raise ValueError(f"{number:#x} is no multiple of {self.unit}")
        if self.bits is not None and not -(1 << self.bits - 1) <= number < 1 << self.bits - 1:
            raise OverflowError(f"a distance of {number:,} bytes does not fit into {self.bits} bits")
        word = int.from_bytes(content[place : place + self.size], "little")
        content[place : place + self.size] = self.encode(word, number).to_bytes(self.size, "little")

    def addend(self, content: bytearray, place: int) -> int:
        """The number that the object file has there."""
        assert self.decode is not None
        return self.decode(int.from_bytes(content[place : place + self.size], "little"))


def _signed(number: int, bits: int) -> int:
    return (number & (1 << bits) - 1) - ((number >> bits - 1 & 1) << bits)


def _bits(number: int, high: int, low: int) -> int:
    return number >> low & (1 << high - low + 1) - 1


def _placed(*parts: tuple[int, int, int]) -> Encode:
    """parts: the bits high..low of the number, and the bit of the word where the lowest of them goes."""
    kept = ~sum((1 << high - low + 1) - 1 << at for high, low, at in parts)
    return lambda word, number: word & kept | sum(_bits(number, high, low) << at for high, low, at in parts)


def _added(size: int) -> Encode:
    return lambda word, number: (word + number) % (1 << 8 * size)


WORD32 = Field(4, _placed((31, 0, 0)), 32, decode=lambda word: _signed(word, 32))
WORD64 = Field(8, _placed((63, 0, 0)), 64)

# ---- AArch64

ADR_PAGE = Field(4, _placed((13, 12, 29), (32, 14, 5)), 33, 4096)
BRANCH26 = Field(4, _placed((27, 2, 0)), 28, 4)
BRANCH19 = Field(4, _placed((20, 2, 5)), 21, 4)
BRANCH14 = Field(4, _placed((15, 2, 5)), 16, 4)


def low12(unit: int) -> Field:
    """The bits 11..0 of an address, which an instruction counts in units."""
    return Field(4, _placed((11, unit.bit_length() - 1, 10)), None, unit)


ADD12 = Field(4, _placed((11, 0, 10)))

# ---- RISC-V


def _upper20(word: int, number: int) -> int:
    """The part of a distance that leaves a signed 12-bit number."""
    return word & 0xFFF | (number + 0x800 & 0xFFFFF000)


def _upper20_and_low12(word: int, number: int) -> int:
    """A pair of instructions, auipc and jalr."""
    first, second = word & 0xFFFFFFFF, word >> 32
    return _upper20(first, number) | (second & 0xFFFFF | (number & 0xFFF) << 20) << 32


UPPER20 = Field(4, _upper20, 32)
CALL = Field(8, _upper20_and_low12, 32)
LOW12_LOAD = Field(4, _placed((11, 0, 20)))
LOW12_STORE = Field(4, _placed((11, 5, 25), (4, 0, 7)))
BRANCH13 = Field(4, _placed((12, 12, 31), (10, 5, 25), (4, 1, 8), (11, 11, 7)), 13, 2)
JUMP21 = Field(4, _placed((20, 20, 31), (10, 1, 21), (11, 11, 20), (19, 12, 12)), 21, 2)
SHORT_BRANCH9 = Field(2, _placed((8, 8, 12), (4, 3, 10), (7, 6, 5), (2, 1, 3), (5, 5, 2)), 9, 2)
SHORT_JUMP12 = Field(
    2, _placed((11, 11, 12), (4, 4, 11), (9, 8, 9), (10, 10, 8), (6, 6, 7), (7, 7, 6), (3, 1, 3), (5, 5, 2)), 12, 2
)
ADDED32, ADDED64 = Field(4, _added(4)), Field(8, _added(8))
SUBTRACTED32 = Field(4, lambda word, number: (word - number) % (1 << 32))
SUBTRACTED64 = Field(8, lambda word, number: (word - number) % (1 << 64))

# ---- Arm

PREL31 = Field(4, _placed((30, 0, 0)), 31, decode=lambda word: _signed(word, 31))
ARM_BRANCH24 = Field(4, _placed((25, 2, 0)), 26, 4, lambda word: _signed(word << 2, 26))


def _move16(shift: int) -> Field:
    """Sixteen bits of a distance in movw or movt."""
    place = _placed((15 + shift, 12 + shift, 16), (11 + shift, shift, 0))
    return Field(4, place, None, 1, lambda word: _signed(_bits(word, 19, 16) << 12 | _bits(word, 11, 0), 16))


MOVE_LOW16, MOVE_HIGH16 = _move16(0), _move16(16)
