#include <cstdint>
#include <vector>

#include "augmentation/cpu_kernels.h"
#include "augmentation/glue.h"
#include "cpu_capability.h"
#include "huge_pages.h"

namespace dgdd::augmentation {
namespace {

// Numbers of a result that take longer to make than a thread takes to start.
constexpr int64_t kPartOfThread = 1 << 15;

CpuKernel cpu_kernel(const AugmentationParams& params) {
#if defined(DGDD_X86_64)
  switch (cpu_capability()) {
    case CpuCapability::avx512:
      return avx512::cpu_kernel(params);
    case CpuCapability::avx2:
      return avx2::cpu_kernel(params);
    case CpuCapability::baseline:
      break;
  }
#endif
  return baseline::cpu_kernel(params);
}

}  // namespace

void run_cpu(const AugmentationParams& params) {
  CpuCall call{params, nullptr, nullptr};
  std::vector<int64_t> starts, items;
  if (params.backward && params.has_rows) {
    starts.resize(params.images + 1);
    items.resize(params.batch);
    for (int64_t item = 0; item < params.batch; ++item) ++starts[params.rows[item] + 1];
    for (int64_t image = 0; image < params.images; ++image) starts[image + 1] += starts[image];
    std::vector<int64_t> next(starts.begin(), starts.end() - 1);
    for (int64_t item = 0; item < params.batch; ++item) items[next[params.rows[item]]++] = item;
    call.starts = starts.data();
    call.items = items.data();
  }
  const CpuKernel kernel = cpu_kernel(params);
  const int64_t size = params.channels * params.height * params.width;
  ask_for_huge_pages(params.result, params.results() * size * bytes_of(params.storage));
  const int64_t part = (kPartOfThread + size - 1) / size;
  torch::stable::parallel_for(0, params.results(), part, [&](int64_t begin, int64_t end) {
    std::vector<CacheLine> scratch(ScratchLayout(params).size);
    kernel(call, begin, end, scratch.data());
  });
}

}  // namespace dgdd::augmentation
