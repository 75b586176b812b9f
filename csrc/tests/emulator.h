// Runs CUDA kernels on the host, one fibre a thread, and reports what a GPU would not tell: races in shared
// memory, accesses out of bounds or before the first write, barriers that not all threads reach, shuffles
// from lanes that are not there, bank conflicts. Deterministic. Kernels include it through cuda_shim.h.
//
// - A race is two accesses of one 4-byte word by different threads, at least one of them a write and not both
//   atomic, with no barrier between that orders them. Shuffles and votes order nothing, as in CUDA.
// - Bank conflicts are counted per access of a warp: the k-th execution of one source position by its lanes.
//   Accesses of 4, 8 and 16 bytes are served for 32, 16 and 8 lanes at a time from 32 banks of 4 bytes.
// - Global memory is the host's: give kernels exactly sized vectors, and the sanitised build checks them.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <source_location>
#include <string>
#include <type_traits>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __constant__
#define __restrict__ __restrict
#define __align__(bytes) alignas(bytes)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

namespace dgdd::emulator {

using Site = std::source_location;

struct Options {
  // Mutations: the n-th barrier that the threads of each block pass, or those of each warp, counted from 0,
  // orders nothing. What depended on it becomes a race.
  int64_t removed_block_barrier = -1;
  int64_t removed_warp_barrier = -1;
};

struct Report {
  int64_t races = 0;
  int64_t out_of_bounds = 0;
  int64_t uninitialised = 0;
  int64_t divergences = 0;        // barriers and warp operations that not all threads reach alike
  std::vector<std::string> told;  // the first few of these, in words

  int64_t block_barriers = 0;  // the most that a thread passed in a block, votes not counted
  int64_t warp_barriers = 0;
  int64_t shared_accesses = 0;                  // of whole warps
  int64_t wavefronts = 0;                       // that they take
  int64_t bank_conflicts = 0;                   // wavefronts beyond the least
  std::map<std::string, int64_t> conflicts_at;  // by source position

  bool sound() const { return races + out_of_bounds + uninitialised + divergences == 0; }
  std::string text() const;
};

// Runs `kernel` for every thread of every block, one block after another. After a divergence the launch is
// given up.
Report launch(dim3 grid, dim3 block, size_t dynamic_shared_bytes, const std::function<void()>& kernel,
              const Options& options = {});

// ---- the running thread's requests

enum class Access { read, write, atomic };
// The address of the bytes, or null where they are out of bounds.
void* shared_access(size_t first_byte, size_t bytes, int64_t index, int64_t count, Access access, Site site);
size_t static_shared(const void* owner, size_t bytes);  // its first byte
size_t dynamic_shared_size();                           // dynamic memory begins at byte 0

enum class Vote { none, any, all, count };
int block_barrier(Vote vote, int predicate, Site site);
void warp_barrier(unsigned mask, Site site);

// Meets the lanes of `mask` and returns the values of all 32; `source` is the lane whose value will be used.
const uint64_t* warp_exchange(const char* operation, unsigned mask, uint64_t value, int source, Site site);
int lane();

template <class T>
T shuffle(const char* operation, unsigned mask, T value, int source, Site site) {
  static_assert(sizeof(T) <= sizeof(uint64_t) && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  std::memcpy(&value, warp_exchange(operation, mask, bits, source, site) + source, sizeof(T));
  return value;
}

unsigned ballot(const char* operation, unsigned mask, int predicate, Site site);

template <class T, class Combine>
T reduce(const char* operation, unsigned mask, T value, Combine combine, Site site) {
  const uint64_t* values = warp_exchange(operation, mask, static_cast<uint64_t>(value), lane(), site);
  bool first = true;
  T result{};
  for (int other = 0; other < warpSize; ++other) {
    if ((mask >> other & 1u) == 0) continue;
    const T theirs = static_cast<T>(values[other]);
    result = first ? theirs : combine(result, theirs);
    first = false;
  }
  return result;
}

}  // namespace dgdd::emulator

namespace dgdd {

template <class T>
class Shared {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16, "the emulator follows whole words");

 public:
  Shared(size_t first_byte, int64_t count) : first_byte_(first_byte), count_(count) {}

  T load(int index, emulator::Site site = emulator::Site::current()) const {
    T value{};
    if (const void* at = access(index, emulator::Access::read, site)) std::memcpy(&value, at, sizeof(T));
    return value;
  }
  void store(int index, T value, emulator::Site site = emulator::Site::current()) const {
    if (void* at = access(index, emulator::Access::write, site)) std::memcpy(at, &value, sizeof(T));
  }
  T atomic_add(int index, T value, emulator::Site site = emulator::Site::current()) const {
    T before{};
    if (void* at = access(index, emulator::Access::atomic, site)) {
      std::memcpy(&before, at, sizeof(T));
      const T after = before + value;
      std::memcpy(at, &after, sizeof(T));
    }
    return before;
  }

 private:
  void* access(int index, emulator::Access kind, emulator::Site site) const {
    return emulator::shared_access(first_byte_ + static_cast<size_t>(index) * sizeof(T), sizeof(T), index,
                                   count_, kind, site);
  }

  size_t first_byte_;
  int64_t count_;
};

template <class T>
Shared<T> dynamic_shared(int byte_offset, int64_t count) {
  const size_t size = emulator::dynamic_shared_size(), offset = static_cast<size_t>(byte_offset);
  const int64_t there = offset > size ? 0 : static_cast<int64_t>((size - offset) / sizeof(T));
  return Shared<T>(offset, count < there ? count : there);
}

template <class T>
void forget(T&) {}

// Fetches nothing, but the address must be one that could be read.
inline void prefetch(const void* address) { static_cast<void>(*static_cast<const volatile char*>(address)); }

}  // namespace dgdd

#define DGDD_SHARED(type, name, count) \
  static const char name##_owner = 0;  \
  const dgdd::Shared<type> name(dgdd::emulator::static_shared(&name##_owner, (count) * sizeof(type)), count)

// -------- CUDA's own names

inline void __syncthreads(dgdd::emulator::Site site = dgdd::emulator::Site::current()) {
  dgdd::emulator::block_barrier(dgdd::emulator::Vote::none, 0, site);
}
inline int __syncthreads_or(int predicate, dgdd::emulator::Site site = dgdd::emulator::Site::current()) {
  return dgdd::emulator::block_barrier(dgdd::emulator::Vote::any, predicate, site);
}
inline int __syncthreads_and(int predicate, dgdd::emulator::Site site = dgdd::emulator::Site::current()) {
  return dgdd::emulator::block_barrier(dgdd::emulator::Vote::all, predicate, site);
}
inline int __syncthreads_count(int predicate, dgdd::emulator::Site site = dgdd::emulator::Site::current()) {
  return dgdd::emulator::block_barrier(dgdd::emulator::Vote::count, predicate, site);
}
inline void __syncwarp(unsigned mask = 0xffffffffu,
                       dgdd::emulator::Site site = dgdd::emulator::Site::current()) {
  dgdd::emulator::warp_barrier(mask, site);
}

// With a `width`, a power of two below 32, each group of that many lanes is a warp of its own.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize,
              dgdd::emulator::Site site = dgdd::emulator::Site::current()) {
  const int first = dgdd::emulator::lane() / width * width;
  return dgdd::emulator::shuffle("__shfl_sync", mask, value, first + (source & (width - 1)), site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = warpSize,
                  dgdd::emulator::Site site = dgdd::emulator::Site::current()) {
  const int lane = dgdd::emulator::lane();
  const int source = lane ^ lane_mask;
  const bool inside = source < (lane / width + 1) * width;
  return dgdd::emulator::shuffle("__shfl_xor_sync", mask, value, inside ? source : lane, site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                 dgdd::emulator::Site site = dgdd::emulator::Site::current()) {
  const int lane = dgdd::emulator::lane();
  const bool inside = lane % width >= static_cast<int>(delta);
  return dgdd::emulator::shuffle("__shfl_up_sync", mask, value,
                                 inside ? lane - static_cast<int>(delta) : lane, site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                   dgdd::emulator::Site site = dgdd::emulator::Site::current()) {
  const int lane = dgdd::emulator::lane();
  const bool inside = lane % width + static_cast<int>(delta) < width;
  return dgdd::emulator::shuffle("__shfl_down_sync", mask, value,
                                 inside ? lane + static_cast<int>(delta) : lane, site);
}
inline unsigned __ballot_sync(unsigned mask, int predicate,
                              dgdd::emulator::Site site = dgdd::emulator::Site::current()) {
  return dgdd::emulator::ballot("__ballot_sync", mask, predicate, site);
}
inline int __any_sync(unsigned mask, int predicate,
                      dgdd::emulator::Site site = dgdd::emulator::Site::current()) {
  return dgdd::emulator::ballot("__any_sync", mask, predicate, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate,
                      dgdd::emulator::Site site = dgdd::emulator::Site::current()) {
  return dgdd::emulator::ballot("__all_sync", mask, !predicate, site) == 0;
}
template <class T>
T __reduce_add_sync(unsigned mask, T value, dgdd::emulator::Site site = dgdd::emulator::Site::current()) {
  return dgdd::emulator::reduce(
      "__reduce_add_sync", mask, value, [](T a, T b) { return static_cast<T>(a + b); }, site);
}
template <class T>
T __reduce_min_sync(unsigned mask, T value, dgdd::emulator::Site site = dgdd::emulator::Site::current()) {
  return dgdd::emulator::reduce(
      "__reduce_min_sync", mask, value, [](T a, T b) { return b < a ? b : a; }, site);
}
template <class T>
T __reduce_max_sync(unsigned mask, T value, dgdd::emulator::Site site = dgdd::emulator::Site::current()) {
  return dgdd::emulator::reduce(
      "__reduce_max_sync", mask, value, [](T a, T b) { return a < b ? b : a; }, site);
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline float __int_as_float(int bits) { return __builtin_bit_cast(float, bits); }
inline int __float_as_int(float value) { return __builtin_bit_cast(int, value); }
inline float __uint_as_float(unsigned bits) { return __builtin_bit_cast(float, bits); }
inline unsigned __float_as_uint(float value) { return __builtin_bit_cast(unsigned, value); }
inline float __fsqrt_rn(float value) { return std::sqrt(value); }
inline float rsqrtf(float value) { return 1.0f / std::sqrt(value); }
inline float __fdividef(float numerator, float denominator) { return numerator / denominator; }
template <class T>
T __ldg(const T* address) {
  return *address;
}
