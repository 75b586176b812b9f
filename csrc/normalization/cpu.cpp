#include <cstdint>
#include <vector>

#include "cpu_capability.h"
#include "huge_pages.h"
#include "normalization/cpu_kernels.h"
#include "normalization/glue.h"

namespace dgdd::normalization {

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

namespace {

// The sums over the samples, in their order and in float64: they take no time beside the planes.
template <class Real>
void sum_over_samples(const NormPoolParams& params, const void* planes, void* sums) {
  std::vector<double> totals(params.channels);
  const Real* row = static_cast<const Real*>(planes);
  for (int64_t sample = 0; sample < params.samples; ++sample, row += params.channels)
    for (int64_t channel = 0; channel < params.channels; ++channel) totals[channel] += row[channel];
  for (int64_t channel = 0; channel < params.channels; ++channel)
    static_cast<Real*>(sums)[channel] = static_cast<Real>(totals[channel]);
}

}  // namespace

void run_cpu(const NormPoolParams& params) {
  const CpuKernel kernel = cpu_kernel(params.storage);
  const int64_t tiles = cpu_tiles(params);
  const int64_t planes = params.samples * params.channels;
  if (params.backward)
    ask_for_huge_pages(params.x_grad, planes * params.positions() * bytes_of(params.storage));
  else
    ask_for_huge_pages(params.pooled,
                       planes * params.pooled_height() * params.pooled_width() * bytes_of(params.storage));

  // To wake a thread takes as long as some tens of thousands of numbers.
  constexpr int64_t kLeastNumbers = 1 << 15;
  const int64_t numbers = params.positions() * (params.channels_last ? kTileChannels : 1);
  torch::stable::parallel_for(0, params.samples * tiles, kLeastNumbers / numbers + 1,
                              [&](int64_t begin, int64_t end) {
                                std::vector<CacheLine> scratch(2 * ((cpu_buffer(params) + 7) / 8));
                                kernel(params, begin, end, scratch.data());
                              });
  if (!params.backward) return;
  const auto sum = params.storage == Storage::float64 ? sum_over_samples<double> : sum_over_samples<float>;
  sum(params, params.plane_weight_grads, params.weight_grad);
  sum(params, params.plane_bias_grads, params.bias_grad);
}

}  // namespace dgdd::normalization
