// Between the dispatch of normalisation on the CPU and its kernels, which are compiled once per instruction
// set. No torch header is included here.
#pragma once

#include "normalization/params.h"

namespace dgdd::normalization {

// With the channels last this many channels of a sample are one piece of work, else a plane is.
constexpr int64_t kTileChannels = 64;

inline __attribute__((always_inline)) int64_t cpu_tiles(const NormPoolParams& params) {
  return params.channels_last ? (params.channels + kTileChannels - 1) / kTileChannels : params.channels;
}

// Whole bands of `pool` rows that are worked on at once, while they stay in the first cache; at least one.
inline __attribute__((always_inline)) int64_t cpu_bands(const NormPoolParams& params) {
  constexpr int64_t kNumbers = 2048;
  const int64_t bands = kNumbers / (params.pool * params.width);
  return bands > 1 ? bands : 1;
}

// Two buffers of this many numbers are one thread's scratch; none with the channels last.
inline __attribute__((always_inline)) int64_t cpu_buffer(const NormPoolParams& params) {
  constexpr int64_t kBlock = 2048;  // of the moments
  const int64_t numbers = cpu_bands(params) * params.pool * params.width;
  return params.channels_last ? 0 : numbers > kBlock ? numbers : kBlock;
}

struct alignas(64) CacheLine {
  double numbers[8];
};

// Does the pieces of work [begin, end) out of samples * cpu_tiles(params), each on its own, so that results
// do not change with the number of threads.
using CpuKernel = void (*)(const NormPoolParams& params, int64_t begin, int64_t end, CacheLine* scratch);

// The one of the instruction set that was chosen.
CpuKernel cpu_kernel(Storage storage);

namespace baseline {
CpuKernel cpu_kernel(Storage storage);
}
namespace avx2 {
CpuKernel cpu_kernel(Storage storage);
}
namespace avx512 {
CpuKernel cpu_kernel(Storage storage);
}

}  // namespace dgdd::normalization
