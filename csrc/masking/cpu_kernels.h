// Between the dispatch of the masking operators on the CPU and their kernels, which are compiled once per
// instruction set. No torch header is included here.
#pragma once

#include "masking/params.h"

namespace dgdd::masking {

// Does the samples [begin, end), each on its own, so that results do not change with the number of threads.
// `scratch` is memory for one thread, cpu_scratch_doubles of it.
using CpuKernel = void (*)(const MaskingParams& params, int64_t begin, int64_t end, double* scratch);

constexpr int64_t kScratchRows = 7;

inline __attribute__((always_inline)) int64_t cpu_scratch_doubles(const MaskingParams& params) {
  return kScratchRows * params.channels;
}

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
