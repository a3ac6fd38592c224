// The products of tensor cores (mma.sync). A lane holds parts of the matrices as the PTX ISA lays them out: "Matrix
// Fragments for mma.m16n8k16" for operands of 16 bits, "Matrix Fragments for mma.m16n8k8" for tf32.
#pragma once
#include <string.h>

#include "context.h"

namespace rnnc_emulator {

// One lane's part of d += a b: 16 x 8, 16 x 16 (tf32: 16 x 8) and 16 x 8 (tf32: 8 x 8).
struct Product {
  float* d;
  const unsigned *a, *b;
};

inline float real(unsigned bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

inline float half_value(unsigned h) {
  const unsigned sign = (h & 0x8000u) << 16, size = h & 0x7fffu;
  if (size >= 0x7c00u) return real(sign | 0x7f800000u | (size & 0x3ffu) << 13);
  if (size >= 0x400u) return real(sign | ((size << 13) + 0x38000000u));
  return (sign ? -1.f : 1.f) * float(size) * 0x1p-24f;
}

// Element `i` of a register: the two halves of 16-bit operands, or the one tf32, whose low 13 bits do not count.
inline float element(Tile tile, unsigned bits, unsigned i) {
  if (tile == Tile::tf32) return real(bits & ~0x1fffu);
  const unsigned half = bits >> 16 * i & 0xffffu;
  return tile == Tile::half ? half_value(half) : real(half << 16);
}

inline void multiply_tiles(Tile tile, const Product* lane) {
  const unsigned wide = tile == Tile::tf32 ? 1 : 2, depth = 8 * wide;  // operands a register, and the sum's length
  float a[16][16], b[16][8];
  for (unsigned l = 0; l < 32; l++) {
    const unsigned group = l / 4, thread = l % 4;
    for (unsigned i = 0; i < wide; i++) {
      for (unsigned r = 0; r < 4; r++)
        a[group + r % 2 * 8][thread * wide + i + r / 2 * 4 * wide] = element(tile, lane[l].a[r], i);
      for (unsigned r = 0; r < 2; r++) b[thread * wide + i + r * 4 * wide][group] = element(tile, lane[l].b[r], i);
    }
  }
  for (unsigned l = 0; l < 32; l++)
    for (unsigned i = 0; i < 4; i++) {
      const unsigned row = l / 4 + i / 2 * 8, column = l % 4 * 2 + i % 2;
      double sum = lane[l].d[i];
      for (unsigned k = 0; k < depth; k++) sum += double(a[row][k]) * b[k][column];
      lane[l].d[i] = float(sum);
    }
}

}  // namespace rnnc_emulator
