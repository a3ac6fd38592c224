"""The beginning of every translation unit: device functions, without any header, so that NVRTC stays quick."""

from __future__ import annotations

PRELUDE = """\
#define RNNC_INFINITY (1e300 * 1e300)

__device__ __forceinline__ float rnnc_sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ __forceinline__ double rnnc_sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

// NaN if either is.
template <class T> __device__ __forceinline__ T rnnc_maximum(T a, T b) { return (a > b || a != a) ? a : b; }
template <class T> __device__ __forceinline__ T rnnc_minimum(T a, T b) { return (a < b || a != a) ? a : b; }

// N elements that one load instruction takes.
template <class T, int N> struct alignas(N * sizeof(T)) rnnc_pack_of { T at[N]; };
template <class T, int N> struct rnnc_vector;
template <> struct rnnc_vector<float, 4> { using type = float4; };
template <> struct rnnc_vector<float, 2> { using type = float2; };
template <> struct rnnc_vector<float, 1> { using type = float; };
template <> struct rnnc_vector<double, 2> { using type = double2; };
template <> struct rnnc_vector<double, 1> { using type = double; };

template <class T, int N> __device__ __forceinline__ rnnc_pack_of<T, N> rnnc_load(const T* from) {
  return *(const rnnc_pack_of<T, N>*)from;
}
// Past the first-level cache, which does not see what other blocks write.
template <class T, int N> __device__ __forceinline__ rnnc_pack_of<T, N> rnnc_load_fresh(const T* from) {
  union { typename rnnc_vector<T, N>::type whole; rnnc_pack_of<T, N> parts; } value;
  value.whole = __ldcg((const typename rnnc_vector<T, N>::type*)from);
  return value.parts;
}

// The barrier of the blocks that share rows: all of them are resident, since the launch is cooperative.
__device__ __forceinline__ void rnnc_barrier(unsigned* counter, unsigned target) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    atomicAdd(counter, 1u);
    while (*(volatile unsigned*)counter < target) __nanosleep(0);
    __threadfence();
  }
  __syncthreads();
}

// `count` rows of `inner` elements into shared memory; rows up to `rows`, and elements up to PADDED, are zeros.
template <class T, int INNER, int PADDED, int N, int THREADS>
__device__ __forceinline__ void rnnc_stage(T* to, const T* from, int stride, int count, int rows) {
  for (int i = threadIdx.x; i < rows * (PADDED / N); i += THREADS) {
    const int r = i / (PADDED / N), k = i % (PADDED / N) * N;
    rnnc_pack_of<T, N> value = {};
    if (r < count && k < INNER) value = rnnc_load_fresh<T, N>(from + (size_t)r * stride + k);
    *(rnnc_pack_of<T, N>*)(to + r * PADDED + k) = value;
  }
}

// One step of rnnc_sum_lanes. Both values are loaded before one is chosen: an address that depends on the lane would
// keep the array out of the registers.
template <int MASK, int HALF, class T> __device__ __forceinline__ void rnnc_fold(T* value) {
  const bool upper = (threadIdx.x & MASK) != 0;
#pragma unroll
  for (int i = 0; i < HALF; i++) {
    const T low = value[i], high = value[i + HALF];
    value[i] = (upper ? high : low) + __shfl_xor_sync(0xffffffffu, upper ? low : high, MASK);
  }
  if (HALF == 0) value[0] += __shfl_xor_sync(0xffffffffu, value[0], MASK);
}

// Sums V values over the 32 lanes, halving both at once; lane l returns the total of value l / (32 / V).
template <class T, int V> __device__ __forceinline__ T rnnc_sum_lanes(T (&value)[V]) {
  rnnc_fold<16, V / 2>(value);
  rnnc_fold<8, V / 4>(value);
  rnnc_fold<4, V / 8>(value);
  rnnc_fold<2, V / 16>(value);
  rnnc_fold<1, V / 32>(value);
  return value[0];
}

// sums[r][c] (+)= rows[r] . weights of column c, for R rows in shared memory. A warp computes PASSES x G columns, and
// its lanes share the k's. Weights are in this thread's registers (HELD), or lie column by column in any memory.
template <class T, int R, int G, int PASSES, int COLUMNS, int PADDED, int N, int THREADS, bool HELD, bool FRESH>
__device__ __forceinline__ void rnnc_dot(const T* rows, const rnnc_pack_of<T, N>* weights, T* sums, int width) {
  constexpr int WARPS = THREADS / 32, VECTORS = PADDED / (32 * N), SHARE = 32 / (G * R);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll (HELD ? PASSES : 1)
  for (int p = 0; p < PASSES; p++) {
    if (p * G * WARPS + warp >= COLUMNS) break;
    T part[G * R];
#pragma unroll
    for (int i = 0; i < G * R; i++) part[i] = 0;
#pragma unroll (HELD ? VECTORS : 2)
    for (int v = 0; v < VECTORS; v++) {
      const int k = v * 32 + lane;
      rnnc_pack_of<T, N> x[R];
#pragma unroll
      for (int r = 0; r < R; r++) x[r] = ((const rnnc_pack_of<T, N>*)rows)[r * (PADDED / N) + k];
#pragma unroll
      for (int g = 0; g < G; g++) {
        const int c = min((p * G + g) * WARPS + warp, COLUMNS - 1);
        const rnnc_pack_of<T, N> w = HELD ? weights[(p * G + g) * VECTORS + v] : weights[c * (PADDED / N) + k];
#pragma unroll
        for (int r = 0; r < R; r++)
#pragma unroll
          for (int e = 0; e < N; e++) part[g * R + r] += w.at[e] * x[r].at[e];
      }
    }
    const T total = rnnc_sum_lanes<T, G * R>(part);
    const int which = lane / SHARE, c = (p * G + which / R) * WARPS + warp;
    if (lane % SHARE == 0 && c < COLUMNS) {
      T* const to = sums + which % R * width + c;
      *to = FRESH ? total : *to + total;
    }
  }
}

// The weights of a thread's columns and lane, from where they lie column by column.
template <class T, int G, int PASSES, int COLUMNS, int PADDED, int N, int THREADS>
__device__ __forceinline__ void rnnc_hold(rnnc_pack_of<T, N>* held, const T* weights) {
  constexpr int WARPS = THREADS / 32, VECTORS = PADDED / (32 * N);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
  for (int i = 0; i < PASSES * G; i++) {
    const int c = min(i * WARPS + warp, COLUMNS - 1);
#pragma unroll
    for (int v = 0; v < VECTORS; v++)
      held[i * VECTORS + v] = rnnc_load<T, N>(weights + c * PADDED + (v * 32 + lane) * N);
  }
}
"""
