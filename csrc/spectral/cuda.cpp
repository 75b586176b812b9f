#include <algorithm>
#include <stdexcept>

#include "checks.h"
#include "spectral/fused_cuda.h"
#include "spectral/general.h"
#include "spectral/glue.h"

// Absent from a libtorch without CUDA. Weak, so that the module can be imported there; it is called for CUDA
// tensors only.
#pragma weak aoti_torch_get_current_cuda_stream

namespace dgdd::spectral {
namespace {

void check_launch(int error, const char* kernel) {
  if (error != 0)
    throw std::runtime_error(
        text("dgdd: the CUDA kernel ", kernel, " could not be launched: ", cuda_error_text(error),
             ". This build has kernels for the architectures ", DGDD_CUDA_ARCHITECTURES));
}

}  // namespace

void run_cuda(const SpectralParams& params, const Device& device) {
  const torch::stable::accelerator::DeviceGuard guard(device.index());
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device.index(), &stream));
  if (params.storage != Storage::float64) {
    if (fused_tile_available(params.height, params.width))
      return check_launch(launch_fused_tile(params, stream), "fused_tile_kernel");
    if (fused_half_spectrum_available(params.height, params.width))
      return check_launch(launch_fused_half_spectrum(params, stream), "half_spectrum_kernel");
  }

  // A chunk's spectra get half of the second-level cache, so that they are still there when they are read
  // again; the other half is for the gradients and the class signal that pass by. Smaller chunks would not
  // fill a large GPU.
  const int64_t spectra_bytes = std::max<int64_t>(l2_cache_bytes(device.index()) / 2, 8 << 20);
  const int64_t chunk_planes = planes_per_chunk(params, spectra_bytes, 1);
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

}  // namespace dgdd::spectral
