#include <algorithm>

#include "cpu_capability.h"
#include "spectral/general.h"
#include "spectral/glue.h"

namespace dgdd::spectral {
namespace {

const GeneralKernels& general_kernels() {
#if defined(DGDD_X86_64)
  switch (cpu_capability()) {
    case CpuCapability::avx512:
      return avx512::general_kernels;
    case CpuCapability::avx2:
      return avx2::general_kernels;
    default:
      break;
  }
#endif
  return baseline::general_kernels;
}

// The chunks are spread over threads, each doing its transforms alone: less to wait for than threads inside
// every transform, and the spectra stay in that core's cache. The cuts depend on the shape only.
void run_general(const SpectralParams& params) {
  const GeneralKernels& kernels = general_kernels();
  const Device cpu(DeviceType::CPU);
  const int64_t chunk_planes = planes_per_chunk(params, 512 * 1024, 2);
  const int64_t chunks = (params.planes() + chunk_planes - 1) / chunk_planes;
  torch::stable::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      Chunk chunk{};
      chunk.first_plane = index * chunk_planes;
      chunk.planes = std::min(chunk_planes, params.planes() - chunk.first_plane);
      const Tensor spectra = chunk_spectra(params, cpu, chunk.first_plane, chunk.planes);
      // The first domain's spectra make room for the consensus: a bin is read before it is written.
      Tensor consensus = torch::stable::select(spectra, 0, 0);
      chunk.spectra = spectra.data_ptr();
      chunk.consensus_spectrum = consensus.data_ptr();
      kernels.reduce(params, chunk);
      const Tensor class_signal = inverse_transform(params, consensus);
      chunk.class_signal = class_signal.data_ptr();
      kernels.finish(params, chunk);
    }
  });
}

}  // namespace

void run_cpu(const SpectralParams& params) {
  if (params.storage == Storage::float64 || !fused_cpu_available(params.height, params.width))
    return run_general(params);
  torch::stable::parallel_for(0, fused_cpu_units(params), 1,
                              [&](int64_t begin, int64_t end) { launch_fused_cpu(params, begin, end); });
}

}  // namespace dgdd::spectral
