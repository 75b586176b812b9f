// Short vectors of float for the fused CPU tier, on the vector extensions of GCC and Clang. Included only by
// units that are compiled once per instruction set: everything here is local to the unit that includes it.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#include "half.h"
#include "spectral/fused_cpu.h"

namespace dgdd::spectral::DGDD_ISA {
namespace {

#define DGDD_INLINE inline __attribute__((always_inline))

// Floats in one register, and in one Vec. AVX-512 keeps 8: its 32 registers of 256 bits hold a butterfly of
// 16, which 512 bits would spill, and processors that split 512 bits in two are no slower for it.
#if defined(__AVX__)
constexpr int kRegisterLanes = 8;
#else
constexpr int kRegisterLanes = 4;
#endif
constexpr int kLanes = kFusedLanes;
constexpr int kRegisters = kLanes / kRegisterLanes;

typedef float Quad __attribute__((vector_size(16)));
typedef float Register __attribute__((vector_size(4 * kRegisterLanes)));

template <class T>
DGDD_INLINE T load_unaligned(const float* from) {
  T value;
  __builtin_memcpy(&value, from, sizeof(T));
  return value;
}

template <class T>
DGDD_INLINE void store_unaligned(float* to, T value) {
  __builtin_memcpy(to, &value, sizeof(T));
}

struct Vec {
  Register part[kRegisters];
};

struct Complex {
  Vec re;
  Vec im;
};

#define DGDD_VEC_OPERATOR(op)                                                \
  DGDD_INLINE Vec operator op(Vec a, Vec b) {                                \
    for (int i = 0; i < kRegisters; ++i) a.part[i] = a.part[i] op b.part[i]; \
    return a;                                                                \
  }
DGDD_VEC_OPERATOR(+)
DGDD_VEC_OPERATOR(-)
DGDD_VEC_OPERATOR(*)
DGDD_VEC_OPERATOR(/)
#undef DGDD_VEC_OPERATOR

DGDD_INLINE Vec broadcast(float value) {
  Vec result;
  for (int i = 0; i < kRegisters; ++i) result.part[i] = value - Register{};
  return result;
}

DGDD_INLINE Vec maximum(Vec a, Vec b) {
  for (int i = 0; i < kRegisters; ++i) a.part[i] = a.part[i] > b.part[i] ? a.part[i] : b.part[i];
  return a;
}

DGDD_INLINE Vec minimum(Vec a, Vec b) {
  for (int i = 0; i < kRegisters; ++i) a.part[i] = a.part[i] < b.part[i] ? a.part[i] : b.part[i];
  return a;
}

constexpr float kSmallest = 1.17549435e-38f;  // the smallest normal number

// Roots and quotients of numbers that are not negative, right to about one unit in the last place; divisors
// are normal numbers. Where 14 bits come cheap, one step of Newton's does the rest in less time than the
// divider needs.
#if defined(__AVX512VL__)
DGDD_INLINE Vec square_root(Vec a) {
  const Vec inverse_root = {{_mm256_rsqrt14_ps((a + broadcast(kSmallest)).part[0])}};
  const Vec root = a * inverse_root;
  return root * (broadcast(1.5f) - broadcast(0.5f) * (root * inverse_root));
}
DGDD_INLINE Vec quotient(Vec a, Vec b) {
  const Vec inverse = {{_mm256_rcp14_ps(b.part[0])}};
  const Vec estimate = a * inverse;
  return estimate + inverse * (a - estimate * b);
}
#else
DGDD_INLINE Vec square_root(Vec a) {
  for (int i = 0; i < kRegisters; ++i)
    for (int lane = 0; lane < kRegisterLanes; ++lane) a.part[i][lane] = __builtin_sqrtf(a.part[i][lane]);
  return a;
}
DGDD_INLINE Vec quotient(Vec a, Vec b) { return a / b; }
#endif

DGDD_INLINE Vec load_lanes(const float* from) {
  Vec result;
  for (int i = 0; i < kRegisters; ++i) result.part[i] = load_unaligned<Register>(from + i * kRegisterLanes);
  return result;
}

DGDD_INLINE void store_lanes(float* to, Vec value) {
  for (int i = 0; i < kRegisters; ++i) store_unaligned(to + i * kRegisterLanes, value.part[i]);
}

template <class Half>
DGDD_INLINE Vec load_lanes(const Half* from) {
  float lanes[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = load(from[lane]);
  return load_lanes(lanes);
}

template <class Half>
DGDD_INLINE void store_lanes(Half* to, Vec value) {
  float lanes[kLanes];
  store_lanes(lanes, value);
  for (int lane = 0; lane < kLanes; ++lane) to[lane] = store<Half>(lanes[lane]);
}

#if defined(__F16C__)
DGDD_INLINE Vec load_lanes(const Float16* from) {
  return {{_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))}};
}

DGDD_INLINE void store_lanes(Float16* to, Vec value) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                   _mm256_cvtps_ph(value.part[0], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#endif

template <int... lane>
DGDD_INLINE Register reversed(Register a, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(a, a, (kRegisterLanes - 1 - lane)...);
}

template <int... lane>
DGDD_INLINE Register reversed_after_first(Register first, Register others,
                                          std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(first, others, (lane == 0 ? 0 : 2 * kRegisterLanes - lane)...);
}

using RegisterLanes = std::make_integer_sequence<int, kRegisterLanes>;

// Lane i <- lane kLanes - 1 - i.
DGDD_INLINE Vec reversed(Vec a) {
  Vec result;
  for (int i = 0; i < kRegisters; ++i) result.part[i] = reversed(a.part[kRegisters - 1 - i], RegisterLanes());
  return result;
}

// Lane i <- lane -i modulo kLanes.
DGDD_INLINE Vec negated_index(Vec a) {
  Vec result;
  for (int i = 0; i < kRegisters; ++i)
    result.part[i] = reversed_after_first(a.part[(kRegisters - i) % kRegisters], a.part[kRegisters - 1 - i],
                                          RegisterLanes());
  return result;
}

// In each group of four lanes: interleave the low or the high halves of a and b, in units of one lane or of
// two.
template <int... lane>
DGDD_INLINE Register interleave_low(Register a, Register b, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(a, b, (lane / 4 * 4 + lane % 4 / 2 + lane % 2 * kRegisterLanes)...);
}
template <int... lane>
DGDD_INLINE Register interleave_high(Register a, Register b, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(a, b, (lane / 4 * 4 + 2 + lane % 4 / 2 + lane % 2 * kRegisterLanes)...);
}
template <int... lane>
DGDD_INLINE Register join_low(Register a, Register b, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(a, b, (lane / 4 * 4 + lane % 2 + lane % 4 / 2 * kRegisterLanes)...);
}
template <int... lane>
DGDD_INLINE Register join_high(Register a, Register b, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(a, b, (lane / 4 * 4 + 2 + lane % 2 + lane % 4 / 2 * kRegisterLanes)...);
}

// In each group of four lanes, the transpose of the 4 x 4 matrix with the rows rows[0..3].
DGDD_INLINE void transpose_quads(Register (&rows)[4]) {
  const RegisterLanes lanes;
  const Register low01 = interleave_low(rows[0], rows[1], lanes),
                 high01 = interleave_high(rows[0], rows[1], lanes);
  const Register low23 = interleave_low(rows[2], rows[3], lanes),
                 high23 = interleave_high(rows[2], rows[3], lanes);
  rows[0] = join_low(low01, low23, lanes);
  rows[1] = join_high(low01, low23, lanes);
  rows[2] = join_low(high01, high23, lanes);
  rows[3] = join_high(high01, high23, lanes);
}

#if defined(__AVX__)
DGDD_INLINE Register join_quads(const float* from, int64_t stride) {
  return __builtin_shufflevector(load_unaligned<Quad>(from), load_unaligned<Quad>(from + stride), 0, 1, 2, 3,
                                 4, 5, 6, 7);
}
DGDD_INLINE void split_quads(Register value, float* to, int64_t stride) {
  store_unaligned<Quad>(to, __builtin_shufflevector(value, value, 0, 1, 2, 3));
  store_unaligned<Quad>(to + stride, __builtin_shufflevector(value, value, 4, 5, 6, 7));
}
#else
DGDD_INLINE Register join_quads(const float* from, int64_t) { return load_unaligned<Quad>(from); }
DGDD_INLINE void split_quads(Register value, float* to, int64_t) { store_unaligned<Quad>(to, value); }
#endif

// Reads kLanes rows of kLanes floats, `stride` floats apart, as columns: lane r of that part of columns[c] is
// row r's float c. Whole quads are put in place by the loads, so that only the 4 x 4 transposes need
// shuffles.
template <Vec Complex::* part>
DGDD_INLINE void load_transposed(const float* from, int64_t stride, Complex* columns) {
  for (int quad = 0; quad < kLanes; quad += 4)
    for (int i = 0; i < kRegisters; ++i) {
      Register rows[4];
      for (int j = 0; j < 4; ++j)
        rows[j] = join_quads(from + (i * kRegisterLanes + j) * stride + quad, 4 * stride);
      transpose_quads(rows);
      for (int j = 0; j < 4; ++j) (columns[quad + j].*part).part[i] = rows[j];
    }
}

// The inverse of load_transposed.
template <Vec Complex::* part>
DGDD_INLINE void store_transposed(float* to, int64_t stride, const Complex* columns) {
  for (int quad = 0; quad < kLanes; quad += 4)
    for (int i = 0; i < kRegisters; ++i) {
      Register rows[4];
      for (int j = 0; j < 4; ++j) rows[j] = (columns[quad + j].*part).part[i];
      transpose_quads(rows);
      for (int j = 0; j < 4; ++j)
        split_quads(rows[j], to + (i * kRegisterLanes + j) * stride + quad, 4 * stride);
    }
}

}  // namespace
}  // namespace dgdd::spectral::DGDD_ISA
