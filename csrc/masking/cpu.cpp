#include <cstdint>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "cpu_capability.h"
#include "masking/cpu_kernels.h"
#include "masking/glue.h"

namespace dgdd::masking {
namespace {

CpuKernel cpu_kernel(Storage storage) {
#if defined(DGDD_X86_64)
  switch (cpu_capability()) {
    case CpuCapability::avx512:
      return avx512::cpu_kernel(storage);
    case CpuCapability::avx2:
      return avx2::cpu_kernel(storage);
    case CpuCapability::baseline:
      break;
  }
#endif
  return baseline::cpu_kernel(storage);
}

// Memory of this size is often new from the kernel: glibc maps the largest blocks anew each time, and returns
// the free end of its heap when that grows. New memory has no pages yet, and to make them one by one, 4 KB
// each, as they are touched takes longer than the masking. So the kernel is asked for huge ones; it may
// refuse.
void ask_for_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__)
  constexpr int64_t kOftenNew = 4 << 20;
  constexpr uintptr_t kHugePage = 2 << 20;
  if (bytes < kOftenNew) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes) / kHugePage * kHugePage;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace

void run_cpu(const MaskingParams& params) {
  const CpuKernel kernel = cpu_kernel(params.storage);
  if (params.masked != nullptr)
    ask_for_huge_pages(params.masked,
                       params.samples * params.channels * params.positions * bytes_of(params.storage));
  torch::stable::parallel_for(0, params.samples, 1, [&](int64_t begin, int64_t end) {
    std::vector<CacheLine> scratch(kScratchRows * cpu_scratch_row(params));
    kernel(params, begin, end, scratch.data());
  });
}

}  // namespace dgdd::masking
