"""The emulator of CUDA C: built-ins do what CUDA's do, and what a GPU would hang on or leave undefined is reported."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rnnc.backends.cuda.emulator import EmulatedModule, EmulatorError, find_compiler, toolchain
from rnnc.backends.cuda.emulator.toolchain import Toolchain
from rnnc.ir.errors import BackendError

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="running CUDA C on the CPU needs a C++ compiler")

ORDERS = (0, 1, 2, 3)
Array = np.ndarray[Any, Any]


class Guarded:
    """An array between margins of 0xff bytes (NaN in floats): a read outside it spoils results, a write is found."""

    MARGIN = 256

    def __init__(self, array: Array) -> None:
        self._bytes = np.full(array.nbytes + 2 * self.MARGIN, 0xFF, np.uint8)
        self.array = self._bytes[self.MARGIN : self.MARGIN + array.nbytes].view(array.dtype).reshape(array.shape)
        self.array[...] = array

    def intact(self) -> bool:
        """Whether nothing was written beside the array."""
        margins = np.concatenate([self._bytes[: self.MARGIN], self._bytes[-self.MARGIN :]])
        return bool((margins == 0xFF).all())


BUILT_INS = r"""
extern "C" __global__ void places(unsigned* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  out[block * threads + thread] = blockIdx.z * 10000 + blockIdx.y * 1000 + blockIdx.x * 100
                                + threadIdx.y * 10 + threadIdx.x;
}

extern "C" __global__ void shuffles(const float* x, float* out, int n) {
  const int i = threadIdx.x;
  float sum = x[i], scan = x[i];
  for (int by = 16; by; by >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, by);
  for (int by = 1; by < 32; by <<= 1) {
    const float left = __shfl_up_sync(0xffffffffu, scan, by);
    if (i % 32 >= by) scan += left;
  }
  out[i] = sum;
  out[n + i] = scan;
  out[2 * n + i] = __shfl_sync(0xffffffffu, x[i], 3);
  out[3 * n + i] = __shfl_down_sync(0xffffffffu, x[i], 1);
  out[4 * n + i] = __shfl_sync(0xffffffffu, x[i], 1, 8);
  out[5 * n + i] = __shfl_xor_sync(0xffffffffu, x[i], 4, 4);
  out[6 * n + i] = __shfl_down_sync(0xffffffffu, x[i], 3, 4);
}

extern "C" __global__ void wide_shuffle(const double* x, double* out, long long* numbers) {
  out[threadIdx.x] = __shfl_sync(0xffffffffu, x[threadIdx.x], 31 - threadIdx.x % 32);
  numbers[threadIdx.x] = __shfl_up_sync(0xffffffffu, (long long)threadIdx.x << 40, 1);
}

extern "C" __global__ void votes(const int* x, unsigned* ballots, int* counts) {
  const int i = threadIdx.x;
  const unsigned all = __ballot_sync(0xffffffffu, x[i] > 0);
  const bool any = __any_sync(0xffffffffu, x[i] > 8), every = __all_sync(0xffffffffu, x[i] > -100);
  if (i % 32 == 0) ballots[i / 32] = all;
  const int positive = __syncthreads_count(x[i] > 0);
  const int some = __syncthreads_or(x[i] == 7), whole = __syncthreads_and(x[i] < 1000);
  if (i == 0) { counts[0] = positive; counts[1] = some; counts[2] = whole; counts[3] = any + 2 * every; }
}
"""

MEMORY = r"""
extern "C" __global__ void reverse(const float* x, float* out) {
  extern __shared__ __align__(16) float tile[];
  tile[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

extern __shared__ unsigned char storage[];  // one for all kernels, outside of them

extern "C" __global__ void poison(float* floats, double* doubles, int* integers) {
  floats[blockIdx.x * blockDim.x + threadIdx.x] = reinterpret_cast<float*>(storage)[threadIdx.x];
  doubles[blockIdx.x * blockDim.x + threadIdx.x] = ((double*)storage)[threadIdx.x];
  integers[blockIdx.x * blockDim.x + threadIdx.x] = *(int*)(storage + 4 * threadIdx.x);
  __syncthreads();
  ((double*)storage)[threadIdx.x] = 0;
}

extern "C" __global__ void atomics(unsigned* sum, int* most, unsigned* tally, float* real,
                                   unsigned long long* swapped) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  atomicAdd(sum, i);
  atomicMax(most, (int)(i * 37 % 101));
  atomicAdd(real, 0.5f);
  unsigned seen = *tally, before;
  do { before = seen; seen = atomicCAS(tally, before, before + 2); } while (seen != before);
  atomicExch(swapped + i % 4, 1ull << 40);
}

extern "C" __global__ void vectors(const float4* x, double2* out, const float* scalars, float* copy) {
  const float4 v = __ldg(x + threadIdx.x);
  out[threadIdx.x] = make_double2((double)v.x + v.y, (double)v.z + v.w);
  __stcg(copy + threadIdx.x, __ldcg(scalars + threadIdx.x));
}

extern "C" __global__ void leave_early(const float* x, float* out, int n) {
  extern __shared__ float tile[];
  if ((int)threadIdx.x >= n) return;
  tile[threadIdx.x] = x[threadIdx.x];
  __syncwarp();
  __syncthreads();
  out[threadIdx.x] = tile[n - 1 - threadIdx.x];
}

// All blocks meet `steps` times; each step reads what the others wrote in the step before.
__device__ __forceinline__ void meet_all(unsigned* counter, unsigned target) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    atomicAdd(counter, 1u);
    while (*(volatile unsigned*)counter < target) __nanosleep(20);
    __threadfence();
  }
  __syncthreads();
}
extern "C" __global__ void __launch_bounds__(64, 1)
ring(unsigned* counter, double* values, int steps) {
  const int n = gridDim.x * blockDim.x, i = blockIdx.x * blockDim.x + threadIdx.x;
  for (int t = 0; t < steps; t++) {
    values[(t + 1) * n + i] = __ldcg(values + t * n + (i + blockDim.x) % n) + 1;
    meet_all(counter, (t + 1) * gridDim.x);
  }
}

// A chain of flags without any atomic function: block b waits for block b - 1.
extern "C" __global__ void chain(volatile int* flags, int steps) {
  for (int t = 1; t <= steps; t++) {
    if (blockIdx.x) while (flags[blockIdx.x - 1] < t) __nanosleep(20);
    flags[blockIdx.x] = t;
  }
}

extern "C" __global__ void by_value(int i, long long l, float f, double d, unsigned u, const float* nothing,
                                    double* out) {
  out[0] = i; out[1] = (double)l; out[2] = f; out[3] = d; out[4] = u; out[5] = nothing == nullptr;
}

// Functions of the C library are called like this, too.
extern "C" __global__ void sync(int* out) { out[threadIdx.x] = 1; }

extern "C" __global__ void functions(const float* x, float* out, const double* y, double* wide, int n) {
  const int i = threadIdx.x;
  out[i] = expf(x[i]); out[n + i] = tanhf(x[i]);
  out[2 * n + i] = sqrtf(fabsf(x[i])); out[3 * n + i] = logf(fabsf(x[i]));
  out[4 * n + i] = fmaxf(x[i], 0.5f); out[5 * n + i] = fminf(x[i], 0.5f); out[6 * n + i] = fmaf(x[i], x[i], -1.0f);
  wide[i] = exp(y[i]); wide[n + i] = tanh(y[i]); wide[2 * n + i] = sqrt(fabs(y[i])); wide[3 * n + i] = log(fabs(y[i]));
  wide[4 * n + i] = fmax(y[i], 0.5); wide[5 * n + i] = fmin(y[i], 0.5); wide[6 * n + i] = fma(y[i], y[i], -1.0);
}
"""

# The fragments are written down here as the PTX ISA gives them for mma.m16n8k16 and mma.m16n8k8.
TENSOR_CORES = r"""
template <void multiply(float (&)[4], const unsigned (&)[4], const unsigned (&)[2], int)>
__device__ void product16(const unsigned short* a, const unsigned short* b, float* c) {
  const int group = threadIdx.x >> 2, lane = threadIdx.x & 3;
  unsigned left[4] = {}, right[2] = {};
  float sum[4];
  for (int i = 0; i < 8; i++) {
    const int row = (0 <= i && i < 2) || (4 <= i && i < 6) ? group : group + 8;
    const int column = i < 4 ? lane * 2 + (i & 1) : lane * 2 + (i & 1) + 8;
    left[i / 2] |= (unsigned)a[row * 16 + column] << (i % 2 * 16);
  }
  for (int i = 0; i < 4; i++) {
    const int row = i < 2 ? lane * 2 + (i & 1) : lane * 2 + (i & 1) + 8;
    right[i / 2] |= (unsigned)b[row * 8 + group] << (i % 2 * 16);
  }
  for (int i = 0; i < 4; i++) sum[i] = c[(i < 2 ? group : group + 8) * 8 + lane * 2 + (i & 1)];
  multiply(sum, left, right, __LINE__);
  for (int i = 0; i < 4; i++) c[(i < 2 ? group : group + 8) * 8 + lane * 2 + (i & 1)] = sum[i];
}
extern "C" __global__ void product_half(const unsigned short* a, const unsigned short* b, float* c) {
  product16<rnnc_mma_half>(a, b, c);
}
extern "C" __global__ void product_bfloat16(const unsigned short* a, const unsigned short* b, float* c) {
  product16<rnnc_mma_bfloat16>(a, b, c);
}
extern "C" __global__ void product_tf32(const float* a, const float* b, float* c) {
  const int group = threadIdx.x >> 2, lane = threadIdx.x & 3;
  unsigned left[4], right[2];
  float sum[4];
  for (int i = 0; i < 4; i++) {
    const int row = i == 0 || i == 2 ? group : group + 8, column = i < 2 ? lane : lane + 4;
    left[i] = __float_as_uint(a[row * 8 + column]);
  }
  for (int i = 0; i < 2; i++) right[i] = __float_as_uint(b[(i == 0 ? lane : lane + 4) * 8 + group]);
  for (int i = 0; i < 4; i++) sum[i] = c[(i < 2 ? group : group + 8) * 8 + lane * 2 + (i & 1)];
  rnnc_mma_tf32(sum, left, right);
  for (int i = 0; i < 4; i++) c[(i < 2 ? group : group + 8) * 8 + lane * 2 + (i & 1)] = sum[i];
}
extern "C" __global__ void product_of_some(float* c) {
  if (threadIdx.x == 9) return;
  unsigned left[4] = {}, right[2] = {};
  float sum[4] = {};
  rnnc_mma_tf32(sum, left, right);
  c[threadIdx.x] = sum[0];
}

extern "C" __global__ void convert(const float* x, unsigned short* half, unsigned short* bfloat16, float* tf32, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    half[i] = rnnc_to_half(x[i]);
    bfloat16[i] = rnnc_to_bfloat16(x[i]);
    tf32[i] = rnnc_to_tf32(x[i]);
  }
}
extern "C" __global__ void convert_back(const unsigned short* bits, float* half, float* bfloat16, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    half[i] = rnnc_from_half(bits[i]);
    bfloat16[i] = rnnc_from_bfloat16(bits[i]);
  }
}
"""

FAULTS = r"""
extern "C" __global__ void no_barrier(const float* x, float* out) {
  extern __shared__ float tile[];
  tile[threadIdx.x] = x[threadIdx.x];
  out[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

extern "C" __global__ void no_grid_barrier(unsigned* counter, double* values, int steps) {
  const int n = gridDim.x * blockDim.x, i = blockIdx.x * blockDim.x + threadIdx.x;
  for (int t = 0; t < steps; t++) {
    values[(t + 1) * n + i] = values[t * n + (i + blockDim.x) % n] + 1;
    __syncthreads();
  }
}

extern "C" __global__ void barriers_apart(float* out) {
  if (threadIdx.x < 40)
    __syncthreads();
  else
    __syncthreads();
  out[threadIdx.x] = 1;
}

extern "C" __global__ void barrier_of_some(float* out, volatile int* flag) {
  if (threadIdx.x < 40) __syncthreads();
  else while (*flag == 0) __nanosleep(20);
  *flag = 1;
}

extern "C" __global__ void endless(unsigned* counter) {
  if (threadIdx.x == 5)
    while (atomicAdd(counter, 0u) < 2u) __nanosleep(20);
}

extern "C" __global__ void warp_of_some(float* out) {
  if (threadIdx.x < 8) __syncwarp();
  __syncthreads();
}

extern "C" __global__ void warp_apart(float* out) {
  if (threadIdx.x < 8)
    out[threadIdx.x] = __shfl_sync(0xffffffffu, 1.0f, 0);
  else
    out[threadIdx.x] = __shfl_sync(0xffffffffu, 2.0f, 0);
}

extern "C" __global__ void mask_without_me(float* out) { __syncwarp(0xffff0000u); }

extern "C" __global__ void from_nobody(float* out) {
  if (threadIdx.x >= 16) return;
  out[threadIdx.x] = __shfl_sync(0x0000ffffu, 1.0f, 20);
}

extern "C" __global__ void index_too_far(const float* x, float* out) { out[threadIdx.x + 1] = x[threadIdx.x]; }
extern "C" __global__ void read_too_far(const float* x, float* out) { out[threadIdx.x] = x[threadIdx.x + 1]; }
extern "C" __global__ void shared_too_far(float* out) {
  extern __shared__ float tile[];
  tile[threadIdx.x + 1] = 1;
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x + 1];
}

extern "C" __global__ void two_writers(int* out) { out[0] = threadIdx.x; }
extern "C" __global__ void two_blocks_write(int* out) { out[0] = blockIdx.x; }

extern "C" __global__ void null_pointer(float* out, int by) { out[threadIdx.x] = threadIdx.x == 3 ? 100 / by : 0; }

extern "C" __global__ void never_sleeps(volatile int* flag) {
  if (threadIdx.x == 7) while (*flag == 0) {}
  *flag = 1;
}

__device__ int descend(int depth) {
  volatile char local[1024];
  local[depth % 1024] = depth;
  return depth == 0 ? 0 : descend(depth - 1) + local[depth % 1024];
}
extern "C" __global__ void deep(int* out) { out[0] = descend(1000); }
"""


@pytest.fixture(scope="module")
def unit() -> EmulatedModule:
    return EmulatedModule(BUILT_INS + MEMORY + TENSOR_CORES + FAULTS)


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# ---- built-ins


@pytest.mark.parametrize("order", ORDERS)
def test_threads_and_blocks_know_where_they_are(unit: EmulatedModule, order: int) -> None:
    out = np.zeros((2, 3, 4, 2, 5), np.uint32)  # blocks z, y, x; threads y, x
    unit.launch("places", (4, 3, 2), (5, 2, 1), arguments=[out], order=order)
    z, y, x, v, u = np.indices(out.shape)
    np.testing.assert_array_equal(out, z * 10000 + y * 1000 + x * 100 + v * 10 + u)


@pytest.mark.parametrize("order", ORDERS)
def test_shuffles(unit: EmulatedModule, order: int) -> None:
    x, out, lane = np.arange(64, dtype=np.float32) ** 2, np.full((7, 64), np.nan, np.float32), np.arange(64)
    unit.launch("shuffles", 1, 64, arguments=[x, out, np.int32(64)], order=order)
    warps = x.reshape(2, 32)
    expected = [
        np.repeat(warps.sum(1), 32),
        np.cumsum(warps, axis=1).ravel(),
        np.repeat(warps[:, 3], 32),
        x[np.where(lane % 32 == 31, lane, lane + 1) % 64],
        x[lane // 8 * 8 + 1],
        x[np.where(lane % 8 < 4, lane, lane ^ 4)],
        x[np.where(lane % 4 == 0, (lane + 3) % 64, lane)],
    ]
    np.testing.assert_array_equal(out, expected)


def test_shuffles_of_eight_bytes(unit: EmulatedModule) -> None:
    x, out, numbers = np.random.default_rng(1).standard_normal(64), np.zeros(64), np.zeros(64, np.int64)
    unit.launch("wide_shuffle", 1, 64, arguments=[x, out, numbers])
    np.testing.assert_array_equal(out, x.reshape(2, 32)[:, ::-1].ravel())
    lane = np.arange(64)
    np.testing.assert_array_equal(numbers, np.where(lane % 32 == 0, lane, lane - 1) << 40)


@pytest.mark.parametrize("order", ORDERS)
def test_votes(unit: EmulatedModule, order: int) -> None:
    x = np.random.default_rng(2).integers(-9, 10, 96).astype(np.int32)
    x[5], x[70] = 7, 9
    ballots, counts = np.zeros(3, np.uint32), np.zeros(4, np.int32)
    unit.launch("votes", 1, 96, arguments=[x, ballots, counts], order=order)
    bits = (x.reshape(3, 32) > 0).astype(np.uint64) << np.arange(32, dtype=np.uint64)
    np.testing.assert_array_equal(ballots, bits.sum(1))
    any_of_first = int((x[:32] > 8).any())
    np.testing.assert_array_equal(counts, [(x > 0).sum(), 1, 1, any_of_first + 2])


@pytest.mark.parametrize("order", ORDERS)
def test_shared_memory_belongs_to_a_block(unit: EmulatedModule, order: int) -> None:
    x, out = normal(3, 128), np.full((3, 128), np.nan, np.float32)
    unit.launch("reverse", 3, 128, shared=4 * 128, arguments=[x, out], order=order)
    np.testing.assert_array_equal(out, x[:, ::-1])


@pytest.mark.parametrize("cooperative", [False, True])
def test_shared_memory_starts_as_nan_in_every_block(unit: EmulatedModule, cooperative: bool) -> None:
    floats, doubles, integers = np.zeros((3, 32), np.float32), np.zeros((3, 32)), np.zeros((3, 32), np.int32)
    arguments = [floats, doubles, integers]
    unit.launch("poison", 3, 32, shared=8 * 32, arguments=arguments, cooperative=cooperative)
    assert np.isnan(floats).all() and np.isnan(doubles).all() and (integers == -1).all()


@pytest.mark.parametrize("order", ORDERS)
def test_atomics(unit: EmulatedModule, order: int) -> None:
    total, most, tally = np.zeros(1, np.uint32), np.zeros(1, np.int32), np.zeros(1, np.uint32)
    real, swapped = np.zeros(1, np.float32), np.zeros(4, np.uint64)
    unit.launch("atomics", 3, 50, arguments=[total, most, tally, real, swapped], order=order)
    assert (total[0], most[0], tally[0], real[0]) == (150 * 149 // 2, 100, 300, 75)
    assert (swapped == 2**40).all()


def test_vectors_and_cached_loads(unit: EmulatedModule) -> None:
    x, scalars, out, copy = normal(8, 4), normal(8, seed=1), np.zeros((8, 2)), np.zeros(8, np.float32)
    unit.launch("vectors", 1, 8, arguments=[x, out, scalars, copy])
    np.testing.assert_array_equal(out, x.astype(np.float64).reshape(8, 2, 2).sum(2))
    np.testing.assert_array_equal(copy, scalars)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("n", [1, 40, 64])
def test_threads_that_returned_are_not_waited_for(unit: EmulatedModule, order: int, n: int) -> None:
    x, out = normal(64), np.full(64, np.nan, np.float32)
    unit.launch("leave_early", 1, 64, shared=4 * 64, arguments=[x, out, np.int32(n)], order=order)
    np.testing.assert_array_equal(out[:n], x[:n][::-1])
    assert np.isnan(out[n:]).all()


@pytest.mark.parametrize("order", ORDERS)
def test_blocks_meet_at_a_barrier_of_their_own(unit: EmulatedModule, order: int) -> None:
    steps, blocks, threads = 7, 5, 64
    values = np.full((steps + 1, blocks * threads), np.nan)
    values[0] = np.random.default_rng(3).standard_normal(blocks * threads)
    arguments = [np.zeros(1, np.uint32), values, np.int32(steps)]
    unit.launch("ring", blocks, threads, arguments=arguments, cooperative=True, order=order)
    np.testing.assert_allclose(values[-1], np.roll(values[0], -steps * threads) + steps)


@pytest.mark.parametrize("order", ORDERS)
def test_flags_without_atomics_are_no_deadlock(unit: EmulatedModule, order: int) -> None:
    flags = np.zeros(6, np.int32)
    unit.launch("chain", 6, 1, arguments=[flags, np.int32(300)], cooperative=True, order=order)
    np.testing.assert_array_equal(flags, 300)


def test_values_and_null_pointers(unit: EmulatedModule) -> None:
    out = np.zeros(6)
    values: list[Any] = [np.int32(-5), np.int64(2**40), np.float32(0.1), np.float64(0.1), np.uint32(2**32 - 1)]
    unit.launch("by_value", 1, 1, arguments=[*values, None, out])
    np.testing.assert_array_equal(out, [float(v) for v in values] + [1])


def test_a_kernel_may_have_the_name_of_a_function_of_the_c_library(unit: EmulatedModule) -> None:
    out = np.zeros(8, np.int32)
    unit.launch("sync", 1, 8, arguments=[out])
    assert out.all()


def test_functions_in_both_precisions(unit: EmulatedModule) -> None:
    x = normal(100)
    y, out, wide = x.astype(np.float64), np.zeros((7, 100), np.float32), np.zeros((7, 100))
    unit.launch("functions", 1, 100, arguments=[x, out, y, wide, np.int32(100)])
    size = np.abs(y)
    parts = [np.exp(y), np.tanh(y), np.sqrt(size), np.log(size), np.maximum(y, 0.5), np.minimum(y, 0.5), y * y - 1]
    np.testing.assert_allclose(out, parts, rtol=2e-7, atol=1e-7)
    np.testing.assert_allclose(wide, parts, rtol=1e-15, atol=1e-15)


# ---- operands of tensor cores


def bfloat16_bits(x: Array) -> Array:
    """The nearest bfloat16, by comparing the neighbours in float64."""
    below = x.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    above = below + np.uint32(0x10000)
    low, high = (np.abs(bits.view(np.float32).astype(np.float64) - x) for bits in (below, above))
    up = (high < low) | ((high == low) & (below >> 16 & 1 == 1))
    return (np.where(up, above, below) >> 16).astype(np.uint16)


def of_bfloat16(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def test_conversions_round_to_nearest(unit: EmulatedModule) -> None:
    rng = np.random.default_rng(4)
    scaled = normal(20000) * 2.0 ** rng.integers(-30, 18, 20000)
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = (halves[1:] + halves[:-1]) / 2
    special = np.array(
        [0.0, -0.0, 65504, 65519.996, 65520, -65520, 1e9, 2**-25, -(2**-25), 2**-24 * 1.5, 2**-14, 1e-40]
    )
    x = np.concatenate([scaled, ties, -ties, special]).astype(np.float32)
    half, bfloat16, tf32 = np.zeros(x.size, np.uint16), np.zeros(x.size, np.uint16), np.zeros(x.size, np.float32)
    unit.launch("convert", 1, 64, arguments=[x, half, bfloat16, tf32, np.int32(x.size)])
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(half, x.astype(np.float16).view(np.uint16))
    np.testing.assert_array_equal(bfloat16, bfloat16_bits(x))
    assert (tf32.view(np.uint32) & 0x1FFF == 0).all()
    spacing = np.spacing(np.abs(x)).astype(np.float64) * 2**13
    assert (np.abs(tf32.astype(np.float64) - x) <= spacing / 2).all()


def test_conversions_of_infinity_nan_and_ties(unit: EmulatedModule) -> None:
    x = np.array([np.inf, -np.inf, np.nan, 1 + 2**-11, -1 - 2**-11, 1 + 3 * 2**-11], np.float32)
    half, bfloat16, tf32 = np.zeros(6, np.uint16), np.zeros(6, np.uint16), np.zeros(6, np.float32)
    unit.launch("convert", 1, 1, arguments=[x, half, bfloat16, tf32, np.int32(6)])
    for values in (half.view(np.float16), of_bfloat16(bfloat16), tf32):
        np.testing.assert_array_equal(values[:3], x[:3])
    np.testing.assert_array_equal(half.view(np.float16)[3:], np.array([1, -1, 1 + 2**-9], np.float16))  # to even
    np.testing.assert_array_equal(tf32[3:], np.array([1 + 2**-10, -1 - 2**-10, 1 + 2**-9], np.float32))  # away from 0


def test_every_half_and_every_bfloat16_reads_back(unit: EmulatedModule) -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    half, bfloat16 = np.zeros(2**16, np.float32), np.zeros(2**16, np.float32)
    unit.launch("convert_back", 1, 64, arguments=[bits, half, bfloat16, np.int32(2**16)])
    np.testing.assert_array_equal(half, bits.view(np.float16).astype(np.float32))
    np.testing.assert_array_equal(bfloat16, of_bfloat16(bits))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", ["half", "bfloat16", "tf32"])
def test_products_of_tensor_cores(unit: EmulatedModule, kind: str, order: int) -> None:
    depth = 8 if kind == "tf32" else 16
    a, b, c = normal(16, depth, seed=5), normal(depth, 8, seed=6), normal(16, 8, seed=7)
    if kind == "half":
        operands = [a.astype(np.float16), b.astype(np.float16)]
        a, b = operands
    elif kind == "bfloat16":
        operands = [bfloat16_bits(a), bfloat16_bits(b)]
        a, b = map(of_bfloat16, operands)
    else:
        operands = [a, b]  # the low 13 bits do not count
        a, b = ((m.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32) for m in operands)
    expected = c + a.astype(np.float64) @ b.astype(np.float64)
    unit.launch(f"product_{kind}", 1, 32, arguments=[*operands, c], order=order)
    np.testing.assert_allclose(c, expected, rtol=1e-6, atol=1e-6)


# ---- faults that must be found


def test_a_missing_barrier_shows_in_some_order(unit: EmulatedModule) -> None:
    x = normal(64)
    for order in ORDERS:
        out = np.zeros(64, np.float32)
        unit.launch("no_barrier", 1, 64, shared=4 * 64, arguments=[x, out], order=order)
        assert np.isnan(out).any(), order


def test_a_missing_grid_barrier_shows(unit: EmulatedModule) -> None:
    steps, blocks, threads = 3, 4, 32
    for order in ORDERS:
        values = np.full((steps + 1, blocks * threads), np.nan)
        values[0] = 0
        arguments = [np.zeros(1, np.uint32), values, np.int32(steps)]
        unit.launch("no_grid_barrier", blocks, threads, arguments=arguments, cooperative=True, order=order)
        assert np.isnan(values).any(), order


def test_a_grid_barrier_needs_a_cooperative_launch(unit: EmulatedModule) -> None:
    arguments = [np.zeros(1, np.uint32), np.zeros((4, 128)), np.int32(3)]
    with pytest.raises(EmulatorError, match=r"ring: deadlock.* in a spin loop .*block \(0, 0, 0\), thread 0"):
        unit.launch("ring", 2, 64, arguments=arguments)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("barriers_apart", r"thread \d+ is at the barrier of line \d+ while block .*, thread \d+ waits at that of"),
        ("barrier_of_some", r"deadlock.* 40 wait at a barrier of line .*; 24 wait in a spin loop|24 wait.*40 wait"),
        ("endless", r"deadlock: nothing moves; 1 wait in a spin loop of line \d+ \(first: block \(0, 0, 0\), thread 5"),
        ("warp_of_some", r"deadlock.* 8 wait in a warp function"),
        ("warp_apart", r"is at the warp function of line \d+ .* while lane \d+ waits at line \d+"),
        ("mask_without_me", r"the mask 0xffff0000 of a warp function lacks the calling lane \d+"),
        ("shared_too_far", r"block \(0, 0, 0\) wrote at byte 256 of its 256 bytes of shared memory"),
        ("product_of_some", r"block \(0, 0, 0\), warp 0: a product of tensor cores needs all 32 lanes"),
        ("deep", r"thread \d+: too many local variables for its stack"),
    ],
)
def test_a_fault_is_reported_with_its_place(unit: EmulatedModule, kernel: str, message: str, order: int) -> None:
    memory = [np.zeros(64, np.int32 if kernel == "deep" else np.float32), np.zeros(64, np.int32)]
    if kernel == "endless":
        memory = [np.zeros(1, np.uint32)]
    arguments = memory if kernel == "barrier_of_some" else memory[:1]
    with pytest.raises(EmulatorError, match=f"^{kernel}: .*({message})"):
        unit.launch(kernel, 1, 64, shared=256, arguments=arguments, order=order)
    test_blocks_meet_at_a_barrier_of_their_own(unit, order)  # what was left behind does no harm


@pytest.mark.parametrize("by", [1, 0])
def test_faults_of_the_machine_are_reported(unit: EmulatedModule, by: int) -> None:
    what = "memory that is null" if by else "an integer division by zero"
    with pytest.raises(EmulatorError, match=rf"null_pointer: block \(0, 0, 0\), thread {0 if by else 3}: .*{what}"):
        unit.launch("null_pointer", 1, 32, arguments=[None if by else np.zeros(32, np.float32), np.int32(by)])


def test_a_fault_on_another_thread_of_python_is_reported(unit: EmulatedModule) -> None:
    with ThreadPoolExecutor(1) as pool:
        for by, what in ((1, "memory that is null"), (0, "integer division by zero")):
            arguments = [None if by else np.zeros(32, np.float32), np.int32(by)]
            with pytest.raises(EmulatorError, match=what):
                pool.submit(unit.launch, "null_pointer", 1, 32, arguments=arguments).result()
        with pytest.raises(EmulatorError, match="too many local variables"):
            pool.submit(unit.launch, "deep", 1, 1, arguments=[np.zeros(1, np.int32)]).result()


@pytest.mark.skipif(sys.platform != "linux", reason="the watchdog is a timer of Linux")
def test_a_loop_without_end_is_reported(unit: EmulatedModule) -> None:
    unit.launch("never_sleeps", 1, 8, arguments=[np.zeros(1, np.int32)], patience=0.1)
    with pytest.raises(
        EmulatorError, match=r"never_sleeps: block \(0, 0, 0\), thread 7: no end: .* must call __nanosl"
    ):
        unit.launch("never_sleeps", 1, 8, arguments=[np.zeros(1, np.int32)], order=1, patience=0.1)


def test_a_lane_that_is_not_there_gives_nan(unit: EmulatedModule) -> None:
    out = np.zeros(32, np.float32)
    unit.launch("from_nobody", 1, 32, arguments=[out])
    assert np.isnan(out[:16]).all()


def test_a_write_beside_an_array_is_found(unit: EmulatedModule) -> None:
    x, out = Guarded(normal(32)), Guarded(np.zeros(32, np.float32))
    unit.launch("index_too_far", 1, 32, arguments=[x.array, out.array])
    assert x.intact() and not out.intact()


def test_a_read_beside_an_array_is_found(unit: EmulatedModule) -> None:
    x, out = Guarded(normal(32)), Guarded(np.zeros(32, np.float32))
    unit.launch("read_too_far", 1, 32, arguments=[x.array, out.array])
    assert out.intact() and np.isnan(out.array[-1]) and not np.isnan(out.array[:-1]).any()


def test_two_writers_differ_between_orders(unit: EmulatedModule) -> None:
    for kernel, sizes in (("two_writers", (1, 32)), ("two_blocks_write", (32, 1))):
        results = set()
        for order in ORDERS:
            out = np.zeros(1, np.int32)
            unit.launch(kernel, *sizes, arguments=[out], order=order)
            results.add(int(out[0]))
        assert len(results) > 2, kernel


def test_an_order_repeats_itself(unit: EmulatedModule) -> None:
    out = np.zeros((2, 1), np.int32)
    for row in out:
        unit.launch("two_writers", 1, 1024, arguments=[row], order=12345)
    assert out[0] == out[1]


def test_launches_from_many_threads_do_not_meet(unit: EmulatedModule) -> None:
    x, results = normal(8, 64), np.zeros((8, 64), np.float32)

    def work(i: int) -> None:
        for order in ORDERS:
            unit.launch("reverse", 1, 64, shared=256, arguments=[x[i], results[i]], order=order)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    np.testing.assert_array_equal(results, x[:, ::-1])


# ---- what a caller may get wrong


def by_value_arguments(**changes: Any) -> list[Any]:
    arguments = dict(
        i=np.int32(1), l=np.int64(1), f=np.float32(1), d=np.float64(1), u=np.uint32(1), p=None, out=np.zeros(6)
    )
    return list((arguments | changes).values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"i": np.int64(1)}, "argument 0: expected a NumPy scalar int32, got int64"),
        ({"i": 1}, "argument 0: expected a NumPy scalar int32, got int 1"),
        ({"f": np.float64(1)}, "argument 2: expected a NumPy scalar float32, got float64"),
        ({"d": np.zeros(1)}, "argument 3: expected a NumPy scalar float64, got an array of float64"),
        ({"p": np.float32(1)}, r"argument 5: expected an array or None for const float32\*, got float32"),
        ({"p": np.zeros(1)}, r"argument 5: expected an array for const float32\*, got an array of float64"),
        ({"out": np.zeros(6, np.float32)}, r"argument 6: expected an array for float64\*, got an array of float32"),
        ({"out": np.broadcast_to(0.0, 6)}, "argument 6: expected an array that can be written"),
        ({"more": None}, r"7 arguments expected \(int32, int64, .*, const float32\*, float64\*\), got 8"),
    ],
)
def test_arguments_are_held_against_the_signature(unit: EmulatedModule, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EmulatorError, match=f"by_value: {message}"):
        unit.launch("by_value", 1, 1, arguments=by_value_arguments(**changes))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"grid": 1, "block": 1025}, "1025 threads in a block; the most is 1024"),
        ({"grid": 1, "block": (64, 64)}, "4096 threads in a block; the most is 1024"),
        ({"grid": 0, "block": 1}, "grid: expected one to three positive numbers, got 0"),
        ({"grid": (2**20, 2**20), "block": 1}, "1099511627776 blocks; the most is 2147483647"),
        ({"grid": (1, 1, 1, 1), "block": 1}, "grid: expected one to three positive numbers"),
        ({"grid": 1, "block": 1, "shared": 10**6}, "1000000 bytes of shared memory; the most is 232448"),
        ({"grid": 1, "block": 1, "order": -1}, "order: expected 0 to"),
    ],
)
def test_sizes_that_no_chip_takes(unit: EmulatedModule, sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(EmulatorError, match=f"two_writers: {message}"):
        unit.launch("two_writers", **sizes, arguments=[np.zeros(1, np.int32)])


def test_launch_bounds_hold(unit: EmulatedModule) -> None:
    with pytest.raises(EmulatorError, match="ring: 96 threads in a block; its __launch_bounds__ allow 64"):
        unit.launch("ring", 1, 96, arguments=[None, None, np.int32(0)])


def test_a_kernel_that_is_not_there(unit: EmulatedModule) -> None:
    with pytest.raises(EmulatorError, match="no kernel 'place' in this module; it has places, shuffles"):
        unit.launch("place", 1, 1)
    assert unit.kernels[:2] == ("places", "shuffles")


def test_a_compile_error_shows_the_line_of_the_source() -> None:
    source = (
        '/* two\nlines */\nextern "C" __global__ void f(float* x) {\n  extern __shared__ float s[];\n  x[0] = y;\n}\n'
    )
    with pytest.raises(EmulatorError, match=r"kernel\.cu:5:\d+: error: .*'?y.*\n    x\[0\] = y;"):
        EmulatedModule(source)


def test_static_shared_memory_is_refused() -> None:
    source = 'extern "C" __global__ void f(float* x) {\n  __shared__ float s[4];\n  x[0] = s[0];\n}\n'
    with pytest.raises(EmulatorError, match=r"kernel\.cu:2: shared memory must be dynamic"):
        EmulatedModule(source)


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    assert find_compiler() is None
    with pytest.raises(EmulatorError, match="needs a C[+][+] compiler.*apt install g[+][+]"):
        EmulatedModule("")
    assert issubclass(EmulatorError, BackendError)


# ---- the cache

SMALL = 'extern "C" __global__ void f(int* x) { x[threadIdx.x] = NUMBER; }\n'


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """From an empty cache on: what each run of the compiler made."""
    monkeypatch.setenv("RNNC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(toolchain, "_toolchains", {})
    compile_file, runs = Toolchain._compile, []

    def counted(self: Toolchain, *arguments: str, text: str = "") -> bytes:
        runs.append("a unit" if text else "the runtime")
        return compile_file(self, *arguments, text=text)

    monkeypatch.setattr(Toolchain, "_compile", counted)
    return runs


def check_small(number: int) -> None:
    x = np.zeros(3, np.int32)
    EmulatedModule(SMALL.replace("NUMBER", str(number))).launch("f", 1, 3, arguments=[x])
    assert (x == number).all()


def new_process() -> None:
    toolchain._toolchains.clear()


def test_each_product_is_built_once_and_again_if_it_is_damaged(compiles: list[str], tmp_path: Path) -> None:
    check_small(1)
    check_small(2)
    assert compiles == ["a unit", "the runtime", "a unit"]
    new_process()
    check_small(1)
    assert len(compiles) == 3
    for entry in (tmp_path / "cache" / "objects").iterdir():
        data = bytearray(entry.read_bytes())
        data[len(data) // 2] ^= 1
        entry.write_bytes(data)
    new_process()
    check_small(1)
    assert compiles[3:] == ["a unit", "the runtime"]


def test_it_works_without_a_cache(compiles: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNC_CACHE_DIR", "off")
    check_small(1)
    check_small(2)
    assert compiles == ["a unit", "the runtime", "a unit"]
