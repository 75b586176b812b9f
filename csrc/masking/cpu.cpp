#include <vector>

#include "cpu_capability.h"
#include "huge_pages.h"
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
