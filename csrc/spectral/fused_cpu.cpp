#include "spectral/fused_cpu.h"

#include <cstddef>
#include <memory>
#include <new>

#include "cpu_capability.h"

namespace dgdd::spectral {
namespace {

constexpr std::align_val_t kAlignment{64};

struct FreeAligned {
  void operator()(float* memory) const { ::operator delete(memory, kAlignment); }
};

// One piece of memory per thread, kept from call to call; it is half a megabyte at most.
float* scratch(std::size_t floats) {
  thread_local std::unique_ptr<float, FreeAligned> memory;
  thread_local std::size_t size = 0;
  if (size < floats) {
    memory.reset();
    size = 0;
    memory.reset(static_cast<float*>(::operator new(floats * sizeof(float), kAlignment)));
    size = floats;
  }
  return memory.get();
}

std::size_t scratch_floats(int64_t size, int64_t domains) {
  const int64_t group = fused_cpu_group(size, domains);
  const int64_t spectra = group * 2 * size * (size + kFusedLanes);  // rows are padded
  // Six floats for half of the bins, and for two vectors of bins besides.
  const int64_t sums = group < domains ? 3 * size * size + 12 * kFusedLanes : 0;
  return static_cast<std::size_t>(fused_cpu_term_floats(domains) + spectra + sums);
}

FusedKernel kernel() {
#if defined(DGDD_X86_64)
  switch (cpu_capability()) {
    case CpuCapability::avx512:
      return avx512::fused_kernel;
    case CpuCapability::avx2:
      return avx2::fused_kernel;
    case CpuCapability::baseline:
      break;
  }
#endif
  return baseline::fused_kernel;
}

}  // namespace

bool fused_cpu_available(int64_t height, int64_t width) {
  return height == width && (height == 32 || height == 64 || height == 128);
}

int64_t fused_cpu_units(const SpectralParams& params) { return (params.planes() + 1) / 2; }

void launch_fused_cpu(const SpectralParams& params, int64_t begin, int64_t end) {
  kernel()(params, begin, end, scratch(scratch_floats(params.height, params.domains)));
}

}  // namespace dgdd::spectral
