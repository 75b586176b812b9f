// Between the fused CPU tier's dispatch and its kernels, which are compiled once per instruction set. No
// torch header is included here.
#pragma once

#include "spectral/params.h"

namespace dgdd::spectral {

constexpr int kFusedLanes = 8;  // columns that travel together in one vector

// Domains whose spectra are kept at once: all of them where half a megabyte of scratch memory allows, or as
// many as leave room for the sums that are carried from group to group.
inline __attribute__((always_inline)) int64_t fused_cpu_group(int64_t size, int64_t domains) {
  const int64_t most = size == 128 ? 3 : size == 64 ? 12 : 48;
  const int64_t most_with_sums = size == 128 ? 2 : size == 64 ? 10 : 40;
  return domains <= most ? domains : most_with_sums;
}

// Scratch memory at its start for the terms of a pair's two outputs, 16 bytes each, in whole cache lines.
inline __attribute__((always_inline)) int64_t fused_cpu_term_floats(int64_t domains) {
  return (2 * (domains + 1) * 4 + 15) / 16 * 16;
}

// Does the pairs of planes [begin, end). `scratch` is aligned to 64 bytes.
using FusedKernel = void (*)(const SpectralParams& params, int64_t begin, int64_t end, float* scratch);

namespace baseline {
extern const FusedKernel fused_kernel;
}
namespace avx2 {
extern const FusedKernel fused_kernel;
}
namespace avx512 {
extern const FusedKernel fused_kernel;
}

}  // namespace dgdd::spectral
