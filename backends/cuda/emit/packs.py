"""Packed weights of recurrences, in the order in which a block reads them, with zeros past the last unit and k."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rnnc.backends.cuda.emit import tensor_products as tensor
from rnnc.backends.cuda.emit import warp_products as lanes
from rnnc.backends.cuda.emit.kernel import Kernel
from rnnc.backends.cuda.emit.tensor_products import TensorProduct
from rnnc.backends.cuda.emit.text import REALS
from rnnc.backends.cuda.emit.warp_products import WarpProduct
from rnnc.backends.cuda.schedule.products import merged
from rnnc.ir.families import Family

PACK_THREADS = 256


@dataclass(frozen=True)
class Pack:
    """The packed weights of one product. width: the units of its phase."""

    shape: WarpProduct | TensorProduct
    slices: int
    width: int

    @property
    def bytes(self) -> int:
        """The size for all slices, in bytes."""
        return self.slices * self.shape.weight_bytes

    def fills(self) -> list[tuple[Family, tuple[np.int32, ...]]]:
        """The launches that pack the weights: the matrix, and the kernel's further arguments."""
        found = []
        column = 0
        for weight, blocks in merged(self.shape.product.weights):
            matrix = (int(weight.family.shape[-1]), int(weight.transposed), weight.start, self.width)
            place = (blocks, self.shape.units, self.shape.columns, column, self.slices)
            numbers = (*matrix, self.shape.product.inner, *place, *self.shape.layout())
            found.append((weight.family, tuple(np.int32(n) for n in numbers)))
            column += blocks * self.shape.units
        return found


def pack_kernel(name: str, dtype: str) -> Kernel:
    """The kernel that packs columns of any matrix.

    Column b * units + u of a slice is that of unit slice * units + u in block b. It is column start + b * width + unit
    of the matrix.
    """
    emit: dict[str, Callable[[str], str]] = {lanes.PACK: _pack_lanes, tensor.PACK: _pack_tensor}
    return Kernel(name, emit[name](REALS[dtype]), (), PACK_THREADS)


_MATRIX = "int leading, int transposed, int start, int width, int inner, int blocks, int units, int columns, int column"

PACK_PRELUDE = """\
template <class T>
__device__ __forceinline__ T rnnc_weight(const T* from, int leading, int transposed, int at, int k, bool inside) {
  return inside ? from[transposed ? (size_t)at * leading + k : (size_t)k * leading + at] : (T)0;
}
"""


def _pack_lanes(real: str) -> str:
    return f"""\
extern "C" __global__ void {lanes.PACK}(const {real}* from, {real}* to, {_MATRIX},
                                     int slices, int padded) {{
  const int count = slices * blocks * units * padded;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {{
    const int k = i % padded, u = i / padded % units, b = i / padded / units % blocks;
    const int slice = i / padded / units / blocks, unit = slice * units + u;
    const bool inside = k < inner && unit < width;
    to[((size_t)slice * columns + column + b * units + u) * padded + k] =
        rnnc_weight(from, leading, transposed, start + b * width + unit, k, inside);
  }}
}}
"""


def _pack_tensor(real: str) -> str:
    return f"""\
extern "C" __global__ void {tensor.PACK}(const {real}* from, unsigned* to, {_MATRIX},
                                            int slices, int tiles, int length, int kind) {{
  const int count = slices * tiles * length * 128;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {{
    const int word = i % 4, g = i / 16 % 8, t = i / 4 % 4, v = i / 128 % length, tile = i / 128 / length % tiles;
    const int c = tile * 16 + g + word % 2 * 8, slice = i / 128 / length / tiles;
    if (c < column || c >= column + blocks * units) continue;
    const int unit = slice * units + (c - column) % units, at = start + (c - column) / units * width + unit;
    const int k = kind == 2 ? v * 8 + t + word / 2 * 4 : v * 16 + 2 * t + word / 2 * 8;
    const bool inside = unit < width;
    const float low = rnnc_weight(from, leading, transposed, at, k, inside && k < inner);
    const float high = kind == 2 ? 0.0f : rnnc_weight(from, leading, transposed, at, k + 1, inside && k + 1 < inner);
    to[i] = kind == 2   ? __float_as_uint(rnnc_to_tf32(low))
            : kind == 0 ? rnnc_narrow<0>(low) | rnnc_narrow<0>(high) << 16
                        : rnnc_narrow<1>(low) | rnnc_narrow<1>(high) << 16;
  }}
}}
"""
