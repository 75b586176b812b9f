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

// Memory that nobody has written to has no pages yet, and the kernel makes them one by one as they are
// touched: with pages of 4 KB that takes longer than masking. It is asked for huge ones, and may refuse.
void ask_for_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes) / kHugePage * kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace

void run_cpu(const MaskingParams& params) {
  const CpuKernel kernel = cpu_kernel(params.storage);
  if (params.masked != nullptr)
    ask_for_huge_pages(params.masked,
                       params.samples * params.channels * params.positions * bytes_of(params.storage));
  torch::stable::parallel_for(0, params.samples, 1, [&](int64_t begin, int64_t end) {
    std::vector<double> scratch(cpu_scratch_doubles(params));
    kernel(params, begin, end, scratch.data());
  });
}

}  // namespace dgdd::masking
