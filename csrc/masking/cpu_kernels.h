// Between the dispatch of the masking operators on the CPU and their kernels, which are compiled once per
// instruction set. No torch header is included here.
#pragma once

#include "masking/params.h"

namespace dgdd::masking {

// The kernels' scratch is rows of whole cache lines. Otherwise the longest vectors lie across two lines, and
// the processor waits for the cache where it reads again what it just wrote.
struct alignas(64) CacheLine {
  double numbers[8];
};

constexpr int64_t kScratchRows = 7;

// Cache lines for a double of each channel.
inline __attribute__((always_inline)) int64_t cpu_scratch_row(const MaskingParams& params) {
  return (params.channels + 7) / 8;
}

// Does the samples [begin, end), each on its own, so that results do not change with the number of threads.
// `scratch` is memory for one thread, kScratchRows rows of cpu_scratch_row(params).
using CpuKernel = void (*)(const MaskingParams& params, int64_t begin, int64_t end, CacheLine* scratch);

namespace baseline {
CpuKernel cpu_kernel(Storage storage);
}
namespace avx2 {
CpuKernel cpu_kernel(Storage storage);
}
namespace avx512 {
CpuKernel cpu_kernel(Storage storage);
}

}  // namespace dgdd::masking
