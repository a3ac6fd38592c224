"""Matrix products by tensor cores, with operands of 16 bits, or 19 bits (TF32), and sums in float32.

One instruction of a warp multiplies weights, a tile of 16 columns x 16 k's (8 for TF32), by 8 rows:

    mma.m16n8k16:  D (16 columns x 8 rows) += A (16 columns x 16 k) B (16 k x 8 rows)

Weights are the operand A, so that they can stay in registers from step to step. Rows are converted when staged.
Fragments: PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type" and "... mma.m16n8k8".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rnnc.backends.cuda.emit.text import Text
from rnnc.backends.cuda.schedule.chip import WARP, Chip
from rnnc.backends.cuda.schedule.products import StepProduct
from rnnc.backends.cuda.schedule.weight_memory import WeightMemory

PACK = "rnnc_pack_tensor"
KINDS = {"float16": 0, "bfloat16": 1, "tf32": 2}
"""Format of operands -> its number in generated code."""
COLUMNS, ROWS = 16, 8
WORDS = 8
"""The 32-bit words of a row that one instruction takes: 16 elements of 16 bits, or 8 of 32 bits."""
MMA_SHARE = 0.6
"""The fraction of the chip's peak that mma.sync reaches. An estimate."""


@dataclass(frozen=True)
class TensorProduct:
    """One product on one block.

    units: the units of one slice. rows: the most rows per tile of the batch, a multiple of 8. tiles: the number of
    tiles of 16 columns. A warp computes `passes` tiles over one of `splits` ranges of k, with `length` instructions
    each. The sums over the ranges are parts of the accumulators. Packed weights: [slice][tile][instruction][lane][4
    words].
    """

    product: StepProduct
    operands: str
    units: int
    threads: int
    rows: int
    tiles: int
    splits: int
    length: int

    pack = PACK
    real = "float"
    element = "unsigned"
    vector_type = "uint4"

    @staticmethod
    def of(product: StepProduct, operands: str, units: int, threads: int, rows: int) -> TensorProduct:
        """The product with `units` units per block, and with as many ranges of k as keep all warps busy."""
        tiles = -(-len(product.weights) * units // COLUMNS)
        splits = 1
        while splits * 2 * tiles <= threads // WARP and splits * 2 * COLUMNS <= product.inner:
            splits *= 2
        return TensorProduct(product, operands, units, threads, rows, tiles, 1, 1).split(splits)

    def split(self, splits: int) -> TensorProduct:
        """The same product with so many ranges of k."""
        depth = 8 if self.operands == "tf32" else 16
        return replace(self, splits=splits, length=-(-self.product.inner // (depth * splits)))

    # ---- sizes

    @property
    def columns(self) -> int:
        """The number of columns of a slice."""
        return len(self.product.weights) * self.units

    @property
    def parts(self) -> int:
        """The number of partial sums of each accumulator."""
        return self.splits

    @property
    def passes(self) -> int:
        """The number of tiles per warp."""
        return -(-self.tiles * self.splits // (self.threads // WARP))

    @property
    def registers(self) -> int:
        """The 32-bit registers per thread for weights, if registers hold them."""
        return self.passes * self.length * 4

    @property
    def working(self) -> int:
        """The 32-bit registers per thread for partial sums, and for one fragment of each operand."""
        return self.rows // ROWS * 6 + 4

    @property
    def weight_bytes(self) -> int:
        """The bytes of a slice's weights."""
        return self.tiles * self.splits * self.length * WARP * 16

    @property
    def words(self) -> int:
        """The 32-bit words that are read of a staged row."""
        return self.splits * self.length * WORDS

    @property
    def row_bytes(self) -> int:
        """The bytes of shared memory for a staged row. Four more words spread the rows of a fragment over all banks."""
        return (self.words + 4) * 4

    def layout(self) -> tuple[int, ...]:
        """The further arguments of the packing kernel: tiles, instructions per tile, and the format's number."""
        return (self.tiles, self.splits * self.length, KINDS[self.operands])

    def cycles(self, rows: int, chip: Chip, weights_in: WeightMemory) -> float:
        """The fewest clocks for `rows` rows, limited by arithmetic or by reads of shared memory."""
        padded = -(-rows // ROWS) * ROWS
        warps = self.threads // WARP
        products = self.passes * warps * COLUMNS * self.words * (1 if self.operands == "tf32" else 2) / self.splits
        flops = chip.tf32_flops if self.operands == "tf32" else chip.half_flops
        read = self.passes * warps * self.length * WORDS * 4 * padded
        held = self.weight_bytes * -(-rows // self.rows) if weights_in is WeightMemory.SHARED else 0
        return max(2 * padded * products / (flops * MMA_SHARE), (held + read) / chip.shared_bytes_per_clock)

    # ---- code

    def hold(self, text: Text, name: str, source: str) -> None:
        """Emits the declaration and the loads of this thread's weights."""
        sizes = f"{self.passes}, {self.tiles}, {self.splits}, {self.length}, {self.threads}"
        text.line(f"uint4 {name}[{self.passes * self.length}];")
        text.line(f"rnnc_hold_tensor<{sizes}>({name}, (const uint4*)({source}));")

    def stage(self, text: Text, source: str, stride: int, aligned: bool) -> None:
        """Emits the copy of `count` rows to shared memory as operands, with zeros up to a multiple of 8 rows."""
        sizes = f"{KINDS[self.operands]}, {self.product.inner}, {self.words}, {self.threads}"
        text.line(f"rnnc_stage_tensor<{sizes}>((unsigned*)staged, {source}, {stride}, count, (count + 7) / 8 * 8);")

    def compute(self, text: Text, weights: str, weights_in: WeightMemory, sums: str, width: int) -> None:
        """Emits the product of the staged rows, which sets or adds to the parts of `sums`."""
        held, fresh = str(weights_in is WeightMemory.REGISTERS).lower(), str(self.product.fresh).lower()
        sizes = f"{self.passes}, {self.tiles}, {self.splits}, {self.length}, {self.columns}, {self.threads}"
        with text.block("switch ((count + 7) / 8)"):
            for blocks in range(1, self.rows // ROWS + 1):
                call = f"rnnc_dot_tensor<{KINDS[self.operands]}, {blocks}, {sizes}, {held}, {fresh}>"
                text.line(f"case {blocks}: {call}((const unsigned*)staged, {weights}, {sums}, {width}, part); break;")


TENSOR_PRELUDE = """\
// Operands of tensor cores; kinds 0: float16, 1: bfloat16, 2: tf32.
#ifndef RNNC_EMULATED
__device__ __forceinline__ unsigned short rnnc_to_half(float x) {
  unsigned short y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ unsigned short rnnc_to_bfloat16(float x) {
  unsigned short y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float rnnc_to_tf32(float x) {
  unsigned y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return __uint_as_float(y);
}
#define RNNC_MMA(name, shape)                                                                                       \\
  __device__ __forceinline__ void name(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {             \\
    asm volatile("mma.sync.aligned." shape " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"       \\
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                   \\
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                               \\
  }
RNNC_MMA(rnnc_mma_half, "m16n8k16.row.col.f32.f16.f16.f32")
RNNC_MMA(rnnc_mma_bfloat16, "m16n8k16.row.col.f32.bf16.bf16.f32")
RNNC_MMA(rnnc_mma_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
#endif

template <int KIND> __device__ __forceinline__ unsigned rnnc_narrow(float x) {
  return KIND == 0 ? rnnc_to_half(x) : rnnc_to_bfloat16(x);
}

// `count` rows of `INNER` numbers as operands in shared memory; rows up to `rows`, and words up to WORDS, are zeros.
template <int KIND, int INNER, int WORDS, int THREADS>
__device__ __forceinline__ void rnnc_stage_tensor(unsigned* to, const float* from, int stride, int count, int rows) {
  for (int i = threadIdx.x; i < rows * WORDS; i += THREADS) {
    const int r = i / WORDS, w = i % WORDS, k = KIND == 2 ? w : 2 * w;
    const float* const at = from + (size_t)r * stride + k;
    const float low = r < count && k < INNER ? __ldcg(at) : 0.0f;
    unsigned word;
    if (KIND == 2) {
      word = __float_as_uint(rnnc_to_tf32(low));
    } else {
      const float high = r < count && k + 1 < INNER ? __ldcg(at + 1) : 0.0f;
      word = rnnc_narrow<KIND>(low) | rnnc_narrow<KIND>(high) << 16;
    }
    to[r * (WORDS + 4) + w] = word;
  }
}

// Where the weights of a warp's tile and range of k begin.
template <int TILES, int SPLITS, int LENGTH, int THREADS>
__device__ __forceinline__ int rnnc_tile(int pass) {
  return pass * (THREADS / 32 / SPLITS) + (threadIdx.x >> 5) / SPLITS;
}

template <int PASSES, int TILES, int SPLITS, int LENGTH, int THREADS>
__device__ __forceinline__ void rnnc_hold_tensor(uint4* held, const uint4* weights) {
  const int lane = threadIdx.x & 31, split = (threadIdx.x >> 5) % SPLITS;
#pragma unroll
  for (int p = 0; p < PASSES; p++) {
    const int tile = min(rnnc_tile<TILES, SPLITS, LENGTH, THREADS>(p), TILES - 1);
#pragma unroll
    for (int v = 0; v < LENGTH; v++)
      held[p * LENGTH + v] = weights[((tile * SPLITS + split) * LENGTH + v) * 32 + lane];
  }
}

// sums[split][r][c] (+)= staged rows . weights of column c, over the split's range of k, for R x 8 rows.
template <int KIND, int R, int PASSES, int TILES, int SPLITS, int LENGTH, int COLUMNS, int THREADS, bool HELD,
          bool FRESH>
__device__ __forceinline__ void rnnc_dot_tensor(const unsigned* rows, const uint4* weights, float* sums, int width,
                                                int part) {
  constexpr int STRIDE = SPLITS * LENGTH * 8 + 4;
  const int lane = threadIdx.x & 31, split = (threadIdx.x >> 5) % SPLITS, g = lane >> 2, t = lane & 3;
#pragma unroll (HELD ? PASSES : 1)
  for (int p = 0; p < PASSES; p++) {
    const int tile = rnnc_tile<TILES, SPLITS, LENGTH, THREADS>(p);
    if (tile >= TILES) break;
    float d[R][4];
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
      for (int e = 0; e < 4; e++) d[r][e] = 0.0f;
#pragma unroll (HELD ? LENGTH : 4)
    for (int v = 0; v < LENGTH; v++) {
      const uint4 w = HELD ? weights[p * LENGTH + v] : weights[((tile * SPLITS + split) * LENGTH + v) * 32 + lane];
      const unsigned a[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
      for (int r = 0; r < R; r++) {
        const unsigned* const at = rows + (r * 8 + g) * STRIDE + (split * LENGTH + v) * 8 + t;
        const unsigned b[2] = {at[0], at[4]};
        if (KIND == 0) rnnc_mma_half(d[r], a, b);
        if (KIND == 1) rnnc_mma_bfloat16(d[r], a, b);
        if (KIND == 2) rnnc_mma_tf32(d[r], a, b);
      }
    }
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int row = r * 8 + 2 * t + (e & 1), c = tile * 16 + g + (e >> 1) * 8;
        if (c < COLUMNS) {
          float* const to = sums + split * part + row * width + c;
          *to = FRESH ? d[r][e] : *to + d[r][e];
        }
      }
  }
}
"""
