"""Dot products of bytes: each 32-bit lane of a vector is four signed bytes, whose products are added to its sum.

    sums[lane] += a[0] * w[4 * lane] + a[1] * w[4 * lane + 1] + a[2] * w[4 * lane + 2] + a[3] * w[4 * lane + 3]

All ways are exact, for any weight, and any activation but -128.
"""

from __future__ import annotations

from enum import Enum

from rnnc.backends.llvm.asm.builder import Function, Val, lanes_of, vector


class Dots(Enum):
    """The instructions for it.

    VNNI multiplies unsigned bytes by signed ones, so activations have BIAS added, and sums start at -BIAS times the sum
    of the weights. PAIRS adds two products in 16 bits, where those of a weight's magnitude, up to 128, and an
    activation, up to 127, fit. BYTES is for any machine.
    """

    VNNI = "vnni"
    PAIRS = "pairs"
    BYTES = "bytes"

    @property
    def biased(self) -> bool:
        return self is Dots.VNNI


BIAS = 128


def add_dots(f: Function, dots: Dots, sums: Val, activations: Val, weights: Val) -> Val:
    """The sums, with products added. activations, weights: four bytes in each lane, as `i32`."""
    if dots is Dots.VNNI:
        return _vnni(f, sums, activations, weights)
    added = _pairs(f, activations, weights) if dots is Dots.PAIRS else _bytes(f, activations, weights)
    return f.binary("add", sums, added)


def _vnni(f: Function, sums: Val, activations: Val, weights: Val) -> Val:
    lanes = lanes_of(sums.type)
    form = vector(4 * lanes, "i8")
    bytes_ = [f.value(form, f"bitcast {value} to {form}") for value in (activations, weights)]
    return f.call(sums.type, f"llvm.x86.avx512.vpdpbusd.{32 * lanes}", sums, *bytes_)


def _pairs(f: Function, activations: Val, weights: Val) -> Val:
    """The magnitude of a weight times the activation with the weight's sign."""
    lanes = lanes_of(weights.type)
    form, half = vector(4 * lanes, "i8"), vector(2 * lanes, "i16")
    a, w = (f.value(form, f"bitcast {value} to {form}") for value in (activations, weights))
    magnitude = f.call(form, f"llvm.abs.v{4 * lanes}i8", w, Val("i1", "false"))
    wide = lanes == 16
    if wide:
        minus = f.binary("sub", Val(form, "zeroinitializer"), a)
        negative = f.value(vector(4 * lanes, "i1"), f"icmp slt {w}, zeroinitializer")
        signed = f.select(negative, minus, a)
    else:
        signed = f.call(form, "llvm.x86.avx2.psign.b", a, w)
    pairs = f.call(half, f"llvm.x86.{'avx512.pmaddubs.w.512' if wide else 'avx2.pmadd.ub.sw'}", magnitude, signed)
    ones = f.integer(1, half)
    return f.call(weights.type, f"llvm.x86.{'avx512.pmaddw.d.512' if wide else 'avx2.pmadd.wd'}", pairs, ones)


def _bytes(f: Function, activations: Val, weights: Val) -> Val:
    total = Val(weights.type, "zeroinitializer")
    for place in range(4):
        a, w = (signed_byte(f, word, place) for word in (activations, weights))
        total = f.binary("add", total, f.binary("mul", a, w))
    return total


def signed_byte(f: Function, words: Val, place: int) -> Val:
    """One byte of each word, as a signed integer."""
    if place < 3:
        words = f.binary("shl", words, f.integer(24 - 8 * place, words.type))
    return f.binary("ashr", words, f.integer(24, words.type))
