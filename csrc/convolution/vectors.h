// Vectors of float32 numbers, for the kernels of one instruction set, which DGDD_ISA names.
#pragma once

#include <cstdint>

namespace dgdd::convolution::DGDD_ISA {
namespace {

#define DGDD_INLINE inline __attribute__((always_inline))

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

typedef float Floats __attribute__((vector_size(kVectorBytes)));
constexpr int kLanes = kVectorBytes / sizeof(float);

DGDD_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
DGDD_INLINE int64_t parts_of(int64_t count, int64_t most) { return (count + most - 1) / most; }
DGDD_INLINE int64_t whole_vectors(int64_t count) { return parts_of(count, kLanes) * kLanes; }

DGDD_INLINE Floats load(const float* from) {
  Floats lanes;
  __builtin_memcpy(&lanes, from, sizeof(lanes));
  return lanes;
}
DGDD_INLINE void store(float* to, Floats lanes) { __builtin_memcpy(to, &lanes, sizeof(lanes)); }

// At most a vector; the other lanes are zeros.
DGDD_INLINE Floats load_some(const float* from, int64_t count) {
  if (count >= kLanes) return load(from);
  Floats lanes{};
  for (int64_t i = 0; i < count; ++i) lanes[i] = from[i];
  return lanes;
}
DGDD_INLINE void store_some(float* to, Floats lanes, int64_t count) {
  if (count >= kLanes) return store(to, lanes);
  for (int64_t i = 0; i < count; ++i) to[i] = lanes[i];
}

// Calls `work(channel, Count)` for vector after vector; all but the last are known to be whole.
struct Whole {
  DGDD_INLINE Floats load(const float* from) const { return DGDD_ISA::load(from); }
  DGDD_INLINE void store(float* to, Floats lanes) const { DGDD_ISA::store(to, lanes); }
};
struct Some {
  int64_t count;
  DGDD_INLINE Floats load(const float* from) const { return load_some(from, count); }
  DGDD_INLINE void store(float* to, Floats lanes) const { store_some(to, lanes, count); }
};
template <class Work>
DGDD_INLINE void for_vectors(int64_t channels, Work work) {
  int64_t channel = 0;
  for (; channel + kLanes <= channels; channel += kLanes) work(channel, Whole{});
  if (channel < channels) work(channel, Some{channels - channel});
}

}  // namespace
}  // namespace dgdd::convolution::DGDD_ISA
