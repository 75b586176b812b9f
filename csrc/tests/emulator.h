// Runs CUDA kernels on the host, one fibre a thread, and reports what a GPU would not tell: races in shared
// memory, accesses out of bounds or before the first write, barriers that not all threads reach, shuffles
// from lanes that are not there, copies that nobody waited for, bank conflicts. Deterministic. Kernels
// include it through cuda_shim.h.
//
// - A race is two accesses of one 4-byte word by different threads, at least one of them a write and not both
//   atomic, with nothing between that orders them: barriers of the block, of the warp and of the cluster do,
//   and an arrival at an mbarrier comes before what follows a wait for its phase. Shuffles and votes order
//   nothing, as in CUDA.
// - An asynchronous copy arrives as late as it may: when no thread can go on without it. Until then its
//   destination holds poison, and touching it is a race, and so is a source that has changed. Whoever has not
//   waited for it races with it even afterwards.
// - The blocks of a cluster run interleaved, all other blocks one after another.
// - Bank conflicts are counted per access of a warp: the k-th execution of one source position by its lanes.
//   Accesses of 4, 8 and 16 bytes are served for 32, 16 and 8 lanes at a time from 32 banks of 4 bytes.
// - Global memory is the host's: give kernels exactly sized vectors, and the sanitised build checks them.
#pragma once

#define DGDD_EMULATOR  // for the arithmetic that CPU kernels share

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
#define __maxnreg__(registers)
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

// What the device's approximate square root and reciprocal make of a value: the nearest number, the lowest or
// the highest that PTX allows (a relative error of 2^-23), or one of the three as its bits fall. Subnormal
// numbers are 0 in any case.
enum class Approximation { nearest, low, high, mixed };

struct Options {
  int architecture = 90;
  unsigned cluster = 1;  // blocks of a cluster, neighbours in x
  Approximation approximation = Approximation::nearest;
  bool counts_wavefronts = true;  // and bank conflicts

  // Mutations. The n-th barrier that the threads of each block, warp or cluster pass, counted from 0, orders
  // nothing: what depended on it becomes a race.
  int64_t removed_block_barrier = -1;
  int64_t removed_warp_barrier = -1;
  int64_t removed_cluster_barrier = -1;
  // The n-th wait of each thread for copies or at an mbarrier is left out; it asks for the phase of the other
  // parity; the n-th expectation of bytes is so many off; the n-th fence is left out.
  int64_t removed_wait = -1;
  int64_t flipped_wait = -1;
  int64_t altered_expectation = -1;
  int expectation_error = 16;
  int64_t removed_fence = -1;
};

struct Report {
  int64_t races = 0;
  int64_t out_of_bounds = 0;
  int64_t misaligned = 0;
  int64_t uninitialised = 0;
  int64_t divergences = 0;        // barriers, waits and warp operations at which threads stand still
  int64_t misuses = 0;            // copies, mbarriers and clusters against their rules
  std::vector<std::string> told;  // the first few of these, in words

  // The most that a thread passed in a block; votes are not counted.
  int64_t block_barriers = 0;
  int64_t warp_barriers = 0;
  int64_t cluster_barriers = 0;
  int64_t waits = 0;
  int64_t expectations = 0;
  int64_t fences = 0;

  int64_t copied_bytes = 0;                     // by asynchronous copies
  int64_t remote_bytes = 0;                     // read or written in other blocks' shared memory
  int64_t shared_accesses = 0;                  // of whole warps
  int64_t wavefronts = 0;                       // that they take
  int64_t bank_conflicts = 0;                   // wavefronts beyond the least
  std::map<std::string, int64_t> conflicts_at;  // by source position

  size_t static_bytes = 0;  // of shared memory, as far as the launch came by it

  bool sound() const {
    return races + out_of_bounds + misaligned + uninitialised + divergences + misuses == 0;
  }
  std::string text() const;
};

// Runs `kernel` for every thread of every block, one cluster after another. After a divergence the launch is
// given up.
Report launch(dim3 grid, dim3 block, size_t dynamic_shared_bytes, const std::function<void()>& kernel,
              const Options& options = {});

// ---- the running thread's requests

enum class Access { read, write, atomic };
// Elements `first_byte + index * bytes` of the memory of one block of the cluster.
struct Span {
  static constexpr int kOwn = -1;
  int block;
  size_t first_byte;
  int64_t count;
};
// The address of one element's bytes, or null where they are out of bounds.
void* shared_access(Span span, int64_t index, size_t bytes, Access access, Site site);
size_t static_shared(const void* owner, size_t bytes);  // its first byte
size_t dynamic_shared_size();                           // dynamic memory begins at byte 0

// Tells where a global address is not a multiple of `bytes`.
bool is_aligned(const void* address, size_t bytes, Site site);

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

// mbarriers, known by their first byte in the block's dynamic memory.
void barrier_init(size_t at, int arrivals, Site site);
void barrier_arrive(size_t at, int64_t expected_bytes, Site site);
void barrier_wait(size_t at, int parity, Site site);

// Asynchronous copies: in bulk, counted by an mbarrier; by the running thread, counted in groups.
void copy_bulk(Span to, int64_t index, size_t element_bytes, const void* from, size_t bytes, size_t barrier,
               Site site);
void copy_by_thread(Span to, int64_t index, size_t element_bytes, const void* from, size_t bytes, Site site);
void commit_copies();
void wait_for_copies(int groups_left, Site site);
void fence_for_copies();

void cluster_arrive(Site site);
void cluster_wait(Site site);
int cluster_rank();
int cluster_size();

int architecture();

float approximate_square_root(float value);
float approximate_reciprocal(float value);

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
  static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);

 public:
  explicit Shared(emulator::Span span) : span_(span) {}

  T load(int index, emulator::Site site = emulator::Site::current()) const {
    T value{};
    if (const void* at = access(index, emulator::Access::read, site)) std::memcpy(&value, at, sizeof(T));
    return value;
  }
  void store(int index, T value, emulator::Site site = emulator::Site::current()) const {
    static_assert(sizeof(T) >= 4, "the emulator follows whole words");
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

  // The same elements of another block of the cluster.
  Shared of_block(int rank) const { return Shared({rank, span_.first_byte, span_.count}); }

  emulator::Span span() const { return span_; }

 private:
  void* access(int index, emulator::Access kind, emulator::Site site) const {
    return emulator::shared_access(span_, index, sizeof(T), kind, site);
  }

  emulator::Span span_;
};

template <class T>
Shared<T> dynamic_shared(int byte_offset, int64_t count) {
  const size_t size = emulator::dynamic_shared_size(), offset = static_cast<size_t>(byte_offset);
  const int64_t there = offset > size ? 0 : static_cast<int64_t>((size - offset) / sizeof(T));
  return Shared<T>({emulator::Span::kOwn, offset, count < there ? count : there});
}

class CopyBarrier {
 public:
  explicit CopyBarrier(int byte_offset) : at_(static_cast<size_t>(byte_offset)) {}
  void init(int arrivals, emulator::Site site = emulator::Site::current()) const {
    emulator::barrier_init(at_, arrivals, site);
  }
  void arrive(emulator::Site site = emulator::Site::current()) const {
    emulator::barrier_arrive(at_, 0, site);
  }
  void arrive_expecting(int bytes, emulator::Site site = emulator::Site::current()) const {
    emulator::barrier_arrive(at_, bytes, site);
  }
  void wait(int parity, emulator::Site site = emulator::Site::current()) const {
    emulator::barrier_wait(at_, parity, site);
  }
  size_t at() const { return at_; }

 private:
  size_t at_;
};

inline void fence_for_copies() { emulator::fence_for_copies(); }
template <class T>
void copy_bulk(Shared<T> to, int index, const T* from, int count, CopyBarrier barrier,
               emulator::Site site = emulator::Site::current()) {
  emulator::copy_bulk(to.span(), index, sizeof(T), from, static_cast<size_t>(count) * sizeof(T), barrier.at(),
                      site);
}
template <class T>
void copy_16_bytes(Shared<T> to, int index, const T* from, emulator::Site site = emulator::Site::current()) {
  emulator::copy_by_thread(to.span(), index, sizeof(T), from, 16, site);
}
inline void commit_copies() { emulator::commit_copies(); }
template <int kGroupsLeft>
void wait_for_copies(emulator::Site site = emulator::Site::current()) {
  emulator::wait_for_copies(kGroupsLeft, site);
}

inline float approximate_reciprocal(float value) { return emulator::approximate_reciprocal(value); }

inline int cluster_rank() { return emulator::cluster_rank(); }
inline int cluster_size() { return emulator::cluster_size(); }
inline void cluster_arrive(emulator::Site site = emulator::Site::current()) {
  emulator::cluster_arrive(site);
}
inline void cluster_wait(emulator::Site site = emulator::Site::current()) { emulator::cluster_wait(site); }
inline void cluster_barrier(emulator::Site site = emulator::Site::current()) {
  emulator::cluster_arrive(site);
  emulator::cluster_wait(site);
}

template <class T>
void forget(T&) {}

// What a thread moves between global memory and registers at once: the address must be a multiple of its
// size.
template <class Unit>
Unit load_global(const void* address, emulator::Site site = emulator::Site::current()) {
  Unit unit{};
  if (emulator::is_aligned(address, sizeof(Unit), site)) std::memcpy(&unit, address, sizeof(Unit));
  return unit;
}
template <class Unit>
void store_global(void* address, const Unit& unit, emulator::Site site = emulator::Site::current()) {
  if (emulator::is_aligned(address, sizeof(Unit), site)) std::memcpy(address, &unit, sizeof(Unit));
}

// Fetches nothing, but the address must be one that could be read.
inline void prefetch(const void* address) { static_cast<void>(*static_cast<const volatile char*>(address)); }

}  // namespace dgdd

#define DGDD_SHARED(type, name, count)                                                                 \
  static const char name##_owner = 0;                                                                  \
  const dgdd::Shared<type> name({dgdd::emulator::Span::kOwn,                                           \
                                 dgdd::emulator::static_shared(&name##_owner, (count) * sizeof(type)), \
                                 count})

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
