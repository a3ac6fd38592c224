// CUDA's built-ins for a translation unit that runs on the CPU. Included before its first line, so it declares what it
// needs itself: the headers of the C++ library would take longer to compile than the kernels.
//
// Not modelled: the memory model. A thread runs undisturbed from one waiting call to the next, so a spin loop must call
// __nanosleep, and a missing __threadfence does not show.
#pragma once
#include "context.h"

#define RNNC_EMULATED 1
#define __global__  // hidden: a kernel may be called as a function of the C library is
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

// ---- types

#define RNNC_VECTORS(T, name)                                                        \
  struct alignas(2 * sizeof(T)) name##2 { T x, y; };                                 \
  struct alignas(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) name##4 { T x, y, z, w; }; \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                         \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
RNNC_VECTORS(float, float)
RNNC_VECTORS(double, double)
RNNC_VECTORS(int, int)
RNNC_VECTORS(unsigned, uint)
RNNC_VECTORS(unsigned short, ushort)
#undef RNNC_VECTORS

// ---- where a thread is

namespace rnnc_emulator {
static Context context;
}
static constexpr const uint3& threadIdx = rnnc_emulator::context.thread;
static constexpr const uint3& blockIdx = rnnc_emulator::context.block;
static constexpr const dim3& blockDim = rnnc_emulator::context.block_size;
static constexpr const dim3& gridDim = rnnc_emulator::context.grid_size;
static constexpr int warpSize = 32;

// ---- waiting

inline void __syncthreads(int line = __builtin_LINE()) { rnnc_emulator::context.meet(0, line); }
inline int __syncthreads_count(int vote, int line = __builtin_LINE()) {
  return int(rnnc_emulator::context.meet(vote != 0, line).votes);
}
inline int __syncthreads_and(int vote, int line = __builtin_LINE()) {
  const auto meeting = rnnc_emulator::context.meet(vote != 0, line);
  return meeting.votes == meeting.threads;
}
inline int __syncthreads_or(int vote, int line = __builtin_LINE()) {
  return rnnc_emulator::context.meet(vote != 0, line).votes != 0;
}
inline void __nanosleep(unsigned, int line = __builtin_LINE()) { rnnc_emulator::context.sleep(line); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

// ---- warps

inline unsigned __ballot_sync(unsigned mask, int vote, int line = __builtin_LINE()) {
  return rnnc_emulator::context.ballot(mask, vote != 0, line);
}
inline void __syncwarp(unsigned mask = ~0u, int line = __builtin_LINE()) { __ballot_sync(mask, 0, line); }
inline int __any_sync(unsigned mask, int vote, int line = __builtin_LINE()) {
  return __ballot_sync(mask, vote, line) != 0;
}
inline int __all_sync(unsigned mask, int vote, int line = __builtin_LINE()) {
  return __ballot_sync(mask, !vote, line) == 0;
}

namespace rnnc_emulator {
inline unsigned lane() {
  return (context.thread.x + context.block_size.x * (context.thread.y + context.block_size.y * context.thread.z)) % 32;
}
template <class T> T exchange(unsigned mask, T value, unsigned from, int line) {
  static_assert(sizeof(T) <= 8, "a shuffle moves one number");
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof value);
  bits = context.exchange(mask, bits, from, line);
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}
}  // namespace rnnc_emulator

// A lane that would read outside its group of `width` lanes gets its own value.
template <class T> T __shfl_sync(unsigned mask, T value, int from, int width = 32, int line = __builtin_LINE()) {
  const unsigned lane = rnnc_emulator::lane(), within = width - 1;
  return rnnc_emulator::exchange(mask, value, (lane & ~within) | (from & within), line);
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32, int line = __builtin_LINE()) {
  const unsigned lane = rnnc_emulator::lane(), from = lane ^ flip;
  return rnnc_emulator::exchange(mask, value, from / width > lane / width ? lane : from, line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, int line = __builtin_LINE()) {
  const unsigned lane = rnnc_emulator::lane(), from = lane + by;
  return rnnc_emulator::exchange(mask, value, from / width == lane / width ? from : lane, line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, int line = __builtin_LINE()) {
  const unsigned lane = rnnc_emulator::lane(), from = lane - by;
  return rnnc_emulator::exchange(mask, value, from / width == lane / width ? from : lane, line);
}

// ---- arithmetic: f(double), f(float) and ff(float), from the C library

#define RNNC_MATH_1(name)                   \
  extern "C" double name(double) noexcept;  \
  extern "C" float name##f(float) noexcept; \
  inline float name(float x) { return name##f(x); }
#define RNNC_MATH_2(name)                          \
  extern "C" double name(double, double) noexcept; \
  extern "C" float name##f(float, float) noexcept; \
  inline float name(float x, float y) { return name##f(x, y); }
RNNC_MATH_1(exp) RNNC_MATH_1(exp2) RNNC_MATH_1(expm1) RNNC_MATH_1(log) RNNC_MATH_1(log2) RNNC_MATH_1(log10)
RNNC_MATH_1(log1p) RNNC_MATH_1(sqrt) RNNC_MATH_1(cbrt) RNNC_MATH_1(fabs) RNNC_MATH_1(floor) RNNC_MATH_1(ceil)
RNNC_MATH_1(trunc) RNNC_MATH_1(round) RNNC_MATH_1(rint) RNNC_MATH_1(sin) RNNC_MATH_1(cos) RNNC_MATH_1(tan)
RNNC_MATH_1(asin) RNNC_MATH_1(acos) RNNC_MATH_1(atan) RNNC_MATH_1(sinh) RNNC_MATH_1(cosh) RNNC_MATH_1(tanh)
RNNC_MATH_1(asinh) RNNC_MATH_1(acosh) RNNC_MATH_1(atanh) RNNC_MATH_1(erf) RNNC_MATH_1(erfc) RNNC_MATH_1(lgamma)
RNNC_MATH_2(fmax) RNNC_MATH_2(fmin) RNNC_MATH_2(fmod) RNNC_MATH_2(pow) RNNC_MATH_2(atan2) RNNC_MATH_2(hypot)
RNNC_MATH_2(copysign)
#undef RNNC_MATH_1
#undef RNNC_MATH_2
extern "C" double fma(double, double, double) noexcept;
extern "C" float fmaf(float, float, float) noexcept;
inline float fma(float a, float b, float c) { return fmaf(a, b, c); }
extern "C" int abs(int) noexcept;
inline float abs(float x) { return fabsf(x); }
inline double abs(double x) { return fabs(x); }
template <class T> bool isnan(T x) { return x != x; }
template <class T> bool isfinite(T x) { return x - x == 0; }
template <class T> bool isinf(T x) { return x == x && x - x != 0; }
template <class T> T max(T a, T b) { return a < b ? b : a; }
template <class T> T min(T a, T b) { return b < a ? b : a; }
inline float max(float a, float b) { return fmaxf(a, b); }
inline float min(float a, float b) { return fminf(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
extern "C" void* memcpy(void*, const void*, size_t) noexcept;
extern "C" void* memset(void*, int, size_t) noexcept;
extern "C" int printf(const char*, ...);

inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }

#define RNNC_BITS(name, To, From)    \
  inline To name(From value) {       \
    To bits;                         \
    __builtin_memcpy(&bits, &value, sizeof bits); \
    return bits;                     \
  }
RNNC_BITS(__float_as_int, int, float)
RNNC_BITS(__float_as_uint, unsigned, float)
RNNC_BITS(__int_as_float, float, int)
RNNC_BITS(__uint_as_float, float, unsigned)
RNNC_BITS(__double_as_longlong, long long, double)
RNNC_BITS(__longlong_as_double, double, long long)
#undef RNNC_BITS

// ---- memory

namespace rnnc_emulator {
template <class T> struct same { using type = T; };  // std::type_identity: the argument follows the pointer's type
template <class T> using same_t = typename same<T>::type;
template <class T> T replace(T* p, T value) {
  const T old = *p;
  *p = value;
  context.progress += old != value;  // a poll, such as atomicAdd(p, 0), is no progress
  return old;
}
}  // namespace rnnc_emulator
template <class T> T atomicAdd(T* p, rnnc_emulator::same_t<T> v) { return rnnc_emulator::replace(p, T(*p + v)); }
template <class T> T atomicSub(T* p, rnnc_emulator::same_t<T> v) { return rnnc_emulator::replace(p, T(*p - v)); }
template <class T> T atomicMax(T* p, rnnc_emulator::same_t<T> v) { return rnnc_emulator::replace(p, max(*p, v)); }
template <class T> T atomicMin(T* p, rnnc_emulator::same_t<T> v) { return rnnc_emulator::replace(p, min(*p, v)); }
template <class T> T atomicOr(T* p, rnnc_emulator::same_t<T> v) { return rnnc_emulator::replace(p, T(*p | v)); }
template <class T> T atomicAnd(T* p, rnnc_emulator::same_t<T> v) { return rnnc_emulator::replace(p, T(*p & v)); }
template <class T> T atomicExch(T* p, rnnc_emulator::same_t<T> v) { return rnnc_emulator::replace(p, v); }
template <class T> T atomicCAS(T* p, rnnc_emulator::same_t<T> expected, rnnc_emulator::same_t<T> v) {
  return rnnc_emulator::replace(p, *p == expected ? v : *p);
}
template <class T> T __ldg(const T* p) { return *p; }
template <class T> T __ldca(const T* p) { return *p; }
template <class T> T __ldcg(const T* p) { return *p; }
template <class T> T __ldcs(const T* p) { return *p; }
template <class T> void __stcg(T* p, rnnc_emulator::same_t<T> v) { *p = v; }
template <class T> void __stcs(T* p, rnnc_emulator::same_t<T> v) { *p = v; }

// ---- operands of tensor cores: the project's intrinsics, which are inline PTX on a GPU

namespace rnnc_emulator {
// Drops the low `bits` bits; to nearest, a tie to the even neighbour.
inline unsigned round_off(unsigned value, int bits) {
  return (value + (1u << (bits - 1)) - 1 + (value >> bits & 1)) >> bits;
}
}  // namespace rnnc_emulator

// cvt.rn.bf16.f32
inline unsigned short rnnc_to_bfloat16(float x) {
  return x != x ? 0x7fff : (unsigned short)rnnc_emulator::round_off(__float_as_uint(x), 16);
}
inline float rnnc_from_bfloat16(unsigned short x) { return __uint_as_float(unsigned(x) << 16); }
// cvt.rna.tf32.f32: to nearest, a tie away from zero
inline float rnnc_to_tf32(float x) {
  return x - x != 0 ? x : __uint_as_float((__float_as_uint(x) + 0x1000u) & ~0x1fffu);
}
// cvt.rn.f16.f32: too large is infinite, too small is subnormal or zero
inline unsigned short rnnc_to_half(float x) {
  const unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) return 0x7fff;
  if (size >= 0x47800000u) return (unsigned short)(sign | 0x7c00u);
  if (size >= 0x38800000u) return (unsigned short)(sign | rnnc_emulator::round_off(size - 0x38000000u, 13));
  // Below 2^-14 a half counts in units of 2^-24; this addition rounds as the machine does, to nearest even.
  return (unsigned short)(sign | (__float_as_uint(__uint_as_float(size) + 0.5f) - 0x3f000000u));
}
inline float rnnc_from_half(unsigned short x) {
  const unsigned sign = (x & 0x8000u) << 16, size = x & 0x7fffu;
  if (size >= 0x7c00u) return __uint_as_float(sign | 0x7f800000u | (size & 0x3ffu) << 13);
  if (size >= 0x400u) return __uint_as_float(sign | ((size << 13) + 0x38000000u));
  return (sign ? -1.f : 1.f) * float(size) * 0x1p-24f;
}

inline void rnnc_mma_half(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], int line = __builtin_LINE()) {
  rnnc_emulator::context.multiply(rnnc_emulator::Tile::half, d, a, b, line);
}
inline void rnnc_mma_bfloat16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                              int line = __builtin_LINE()) {
  rnnc_emulator::context.multiply(rnnc_emulator::Tile::bfloat16, d, a, b, line);
}
inline void rnnc_mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], int line = __builtin_LINE()) {
  rnnc_emulator::context.multiply(rnnc_emulator::Tile::tf32, d, a, b, line);
}

// ---- how the host calls a kernel

namespace rnnc_emulator {
// One letter a type: floating point f d; integers by size b h i l, unsigned ones B H I L; anything else v.
template <class T> constexpr char letter = 'v';
template <class T> constexpr char letter<const T> = letter<T>;
template <class T> constexpr char letter<volatile T> = letter<T>;
template <class T> constexpr char letter<const volatile T> = letter<T>;
template <> constexpr char letter<float> = 'f';
template <> constexpr char letter<double> = 'd';
template <> constexpr char letter<bool> = 'B';
template <> constexpr char letter<char> = 'b';
template <> constexpr char letter<signed char> = 'b';
template <> constexpr char letter<unsigned char> = 'B';
template <> constexpr char letter<short> = 'h';
template <> constexpr char letter<unsigned short> = 'H';
template <> constexpr char letter<int> = 'i';
template <> constexpr char letter<unsigned> = 'I';
template <> constexpr char letter<long> = sizeof(long) == 8 ? 'l' : 'i';
template <> constexpr char letter<unsigned long> = sizeof(long) == 8 ? 'L' : 'I';
template <> constexpr char letter<long long> = 'l';
template <> constexpr char letter<unsigned long long> = 'L';

// Two letters a parameter: '*' for a pointer, 'c' for one to const, '=' for a value; then the type.
template <class T> struct Parameter { static constexpr char kind = '=', type = letter<T>; };
template <class T> struct Parameter<T*> { static constexpr char kind = '*', type = letter<T>; };
template <class T> struct Parameter<const T*> { static constexpr char kind = 'c', type = letter<T>; };

template <class... P> const char* signature(void (*)(P...)) {
  static const char letters[] = {Parameter<P>::kind..., Parameter<P>::type..., 0};
  return letters;
}

template <int... I> struct Indices {};
template <int N, int... I> struct UpTo : UpTo<N - 1, N - 1, I...> {};
template <int... I> struct UpTo<0, I...> { using type = Indices<I...>; };

template <class... P, int... I> void call(void (*kernel)(P...), void* const* values, Indices<I...>) {
  kernel(*(P*)values[I]...);
}
template <class... P> void call(void (*kernel)(P...), void* const* values) {
  call(kernel, values, typename UpTo<sizeof...(P)>::type());
}
}  // namespace rnnc_emulator

// `extern __shared__ T name[];` is rewritten to this. A reference, so that it may also stand outside functions.
#define RNNC_SHARED(T, name) static T*& name = reinterpret_cast<T*&>(rnnc_emulator::context.shared);

#define RNNC_EXPORT extern "C" __attribute__((visibility("default")))
#define RNNC_UNIT RNNC_EXPORT rnnc_emulator::Context* rnnc_context() { return &rnnc_emulator::context; }
#define RNNC_KERNEL(name)                                                                           \
  RNNC_EXPORT const char* rnnc_signature_##name() { return rnnc_emulator::signature(name); }        \
  RNNC_EXPORT void rnnc_call_##name(void* const* values) { rnnc_emulator::call(name, values); }
