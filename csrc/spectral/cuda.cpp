#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cuda_scope.h"
#include "spectral/fused_cuda.h"
#include "spectral/general.h"
#include "spectral/glue.h"

namespace dgdd::spectral {
namespace {

void run_general(const SpectralParams& params, const Device& device, void* stream) {
  const int64_t chunk_planes = planes_per_chunk(params, most_spectra_bytes(), 1);
  for (int64_t first_plane = 0; first_plane < params.planes(); first_plane += chunk_planes) {
    Chunk chunk{};
    chunk.first_plane = first_plane;
    chunk.planes = std::min(chunk_planes, params.planes() - first_plane);
    const Tensor spectra = chunk_spectra(params, device, chunk.first_plane, chunk.planes);
    const Tensor consensus = torch::stable::select(spectra, 0, 0);
    chunk.spectra = spectra.data_ptr();
    chunk.consensus_spectrum = consensus.data_ptr();
    check_launch(launch_reduce_cuda(params, chunk, stream), "reduce_kernel");
    const Tensor class_signal = inverse_transform(params, consensus);
    chunk.class_signal = class_signal.data_ptr();
    check_launch(launch_finish_cuda(params, chunk, stream), "finish_kernel");
  }
}

// The kernels that no GPU has run yet are not the default.
bool pipelined_kernels_chosen() {
  static const bool chosen = [] {
    const char* variable = std::getenv("DGDD_SPECTRAL_KERNELS");
    const std::string value = variable == nullptr ? "simple" : variable;
    if (value != "simple" && value != "pipelined")
      throw std::runtime_error("dgdd: the environment variable DGDD_SPECTRAL_KERNELS is \"" + value +
                               "\"; it must be simple (the default) or pipelined");
    return value == "pipelined";
  }();
  return chosen;
}

}  // namespace

int64_t& most_spectra_bytes() {
  static int64_t bytes = int64_t{2} << 30;
  return bytes;
}

void run_cuda(const SpectralParams& params, const Device& device) {
  const CudaScope scope(device);
  const DeviceFacts facts = device_facts();
  const bool pipelined = pipelined_kernels_chosen();
  if (pipelined && params.storage != Storage::float64) {
    if (fused_tile_pipelined_available(params, facts))
      return check_launch(launch_fused_tile_pipelined(params, facts, scope.stream()),
                          "fused_tile_pipelined_kernel");
    if (fused_half_spectrum_pipelined_available(params, facts))
      return check_launch(launch_fused_half_spectrum_pipelined(params, facts, scope.stream()),
                          "half_spectrum_pipelined_kernel");
  }
  if (params.storage != Storage::float64) {
    if (fused_tile_available(params.height, params.width, facts))
      return check_launch(launch_fused_tile(params, facts, scope.stream()), "fused_tile_kernel");
    if (fused_half_spectrum_available(params.height, params.width, facts))
      return check_launch(launch_fused_half_spectrum(params, scope.stream()), "half_spectrum_kernel");
  }
  run_general(params, device, scope.stream());
}

}  // namespace dgdd::spectral
