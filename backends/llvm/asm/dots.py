"""Dot products of bytes: each 32-bit lane of a vector is four signed bytes, whose products are added to its sum.

    sums[lane] += a[0] * w[4 * lane] + a[1] * w[4 * lane + 1] + a[2] * w[4 * lane + 2] + a[3] * w[4 * lane + 3]

All ways are exact, for any weight, and any activation but -128.
"""

from __future__ import annotations

from collections.abc import Sequence

from rnnc.backends.llvm.asm.builder import Function, Val, lanes_of, vector
from rnnc.backends.llvm.asm.target import BIAS, Dots

_PAIRS = {
    4: ("ssse3.pmadd.ub.sw.128", "sse2.pmadd.wd"),
    8: ("avx2.pmadd.ub.sw", "avx2.pmadd.wd"),
    16: ("avx512.pmaddubs.w.512", "avx512.pmaddw.d.512"),
}
"""Lanes of a vector -> the instructions that multiply bytes, and that add pairs of 16 bits."""


def planes_of(f: Function, dots: Dots, codes: Val) -> list[Val]:
    """Activations as the instructions take them, in the lowest byte of each lane. codes: integers in -127 .. 127."""
    if dots is Dots.VNNI:
        return [f.binary("add", codes, f.integer(BIAS, codes.type))]
    if dots in (Dots.SIGNED, Dots.BYTES):
        return [codes]
    magnitudes = f.call(codes.type, f"llvm.abs.v{lanes_of(codes.type)}i32", codes, Val("i1", "false"))
    return [magnitudes, f.binary("ashr", codes, f.integer(31, codes.type))]


def add_dots(f: Function, dots: Dots, planes: Sequence[Val], weights: Val, sums: Val) -> Val:
    """The sums, with products added. planes, weights: four bytes in each lane, as `i32`."""
    if dots is Dots.VNNI:
        return _vnni(f, planes[0], weights, sums)
    if dots is Dots.SIGNED:
        operands = (_as_bytes(f, words) for words in (planes[0], weights))
        return f.call(sums.type, "llvm.aarch64.neon.sdot.v4i32.v16i8", sums, *operands)
    added = _pairs(f, planes[0], planes[1], weights) if dots is Dots.PAIRS else _bytes(f, planes[0], weights)
    return f.binary("add", sums, added)


def _vnni(f: Function, activations: Val, weights: Val, sums: Val) -> Val:
    function = f"llvm.x86.avx512.vpdpbusd.{32 * lanes_of(sums.type)}"
    return f.call(sums.type, function, sums, _as_bytes(f, activations), _as_bytes(f, weights))


def _pairs(f: Function, magnitudes: Val, signs: Val, weights: Val) -> Val:
    lanes = lanes_of(weights.type)
    half = vector(2 * lanes, "i16")
    pair, add = _PAIRS[lanes]
    signed = _as_bytes(f, f.binary("xor", weights, signs))
    pairs = f.call(half, f"llvm.x86.{pair}", _as_bytes(f, magnitudes), signed)
    return f.call(weights.type, f"llvm.x86.{add}", pairs, f.integer(1, half))


def _as_bytes(f: Function, words: Val) -> Val:
    form = vector(4 * lanes_of(words.type), "i8")
    return f.value(form, f"bitcast {words} to {form}")


def _bytes(f: Function, activations: Val, weights: Val) -> Val:
    total = Val(weights.type, "zeroinitializer")
    for place in range(4):
        a, w = (_signed_byte(f, words, place) for words in (activations, weights))
        total = f.binary("add", total, f.binary("mul", a, w))
    return total


def _signed_byte(f: Function, words: Val, place: int) -> Val:
    """One byte of each word, as a signed integer."""
    if place < 3:
        words = f.binary("shl", words, f.integer(24 - 8 * place, words.type))
    return f.binary("ashr", words, f.integer(24, words.type))
