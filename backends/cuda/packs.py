"""Packed weights of recurrences: [slice][column][k], what one block reads together, zeros past the last unit and k."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rnnc.backends.cuda.dots import merged
from rnnc.backends.cuda.kernel import Kernel
from rnnc.backends.cuda.schedule import DotShape
from rnnc.backends.cuda.text import REALS
from rnnc.ir.families import Family

PACK_THREADS = 256
NAME = "rnnc_pack"


@dataclass(frozen=True)
class Pack:
    """The weights of one dot. width: units of its phase."""

    shape: DotShape
    slices: int
    width: int

    @property
    def size(self) -> int:
        """Elements."""
        return self.slices * self.shape.columns * self.shape.padded

    def fills(self) -> list[tuple[Family, int, tuple[np.int32, ...]]]:
        """The launches that fill it: the matrix, the number of elements, the numbers that the kernel takes."""
        found = []
        column = 0
        for weight, blocks in merged(self.shape.dot.weights):
            shape, units = self.shape, self.shape.units
            count = self.slices * blocks * units * shape.padded
            leading = int(weight.family.shape[-1])
            matrix = (leading, int(weight.transposed), weight.start, self.width, shape.dot.inner)
            numbers = (count, *matrix, blocks, units, shape.columns, shape.padded, column)
            found.append((weight.family, count, tuple(np.int32(n) for n in numbers)))
            column += blocks * units
        return found


def pack_kernel(dtype: str) -> Kernel:
    """The kernel that packs columns of any matrix."""
    real = REALS[dtype]
    text = f"""\
extern "C" __global__ void {NAME}(const {real}* from, {real}* to, int count, int leading, int transposed,
                                     int start, int width, int inner, int blocks, int units, int columns, int padded,
                                     int column) {{
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {{
    const int k = i % padded, u = i / padded % units, b = i / padded / units % blocks;
    const int slice = i / padded / units / blocks;
    const int unit = slice * units + u, at = start + b * width + unit;
    const bool inside = k < inner && unit < width;
    const size_t place = transposed ? (size_t)at * leading + k : (size_t)k * leading + at;
    to[((size_t)slice * columns + column + b * units + u) * padded + k] = inside ? from[place] : 0;
  }}
}}
"""
    return Kernel(NAME, text, (), PACK_THREADS)
