#include <limits>

#include "launch.h"
#include "spectral/fused_cuda.h"
#include "spectral/fused_plan.h"
#include "spectral/fused_tile_kernels.cuh"

namespace dgdd::spectral {
namespace {

template <class T, class Stored>
int start(const SpectralParams& params, const DeviceFacts& device, void* stream) {
  if (params.planes() > std::numeric_limits<int>::max()) return cudaErrorInvalidConfiguration;
  const TileResources tile{T::kThreads, 384, T::kMostGroups, T::kSharedBytes};
  const int groups = static_cast<int>(best_groups(tile, device, params.planes(), params.domains));
  return launch<fused_tile_kernel<T, Stored>>(
      {static_cast<unsigned>(params.planes()), dim3(T::kThreads, static_cast<unsigned>(groups)),
       groups * T::kSharedBytes},
      stream, params);
}

template <class Stored>
int start_size(const SpectralParams& params, const DeviceFacts& device, void* stream) {
  return params.height == 32 ? start<Tile<32, 32>, Stored>(params, device, stream)
                             : start<Tile<64, 64>, Stored>(params, device, stream);
}

}  // namespace

bool fused_tile_available(int64_t height, int64_t width, const DeviceFacts& device) {
  if (height != width) return false;
  return (height == 32 && Tile<32, 32>::kSharedBytes <= device.shared_bytes) ||
         (height == 64 && Tile<64, 64>::kSharedBytes <= device.shared_bytes);
}

int launch_fused_tile(const SpectralParams& params, const DeviceFacts& device, void* stream) {
  if (params.storage == Storage::bfloat16) return start_size<BFloat16>(params, device, stream);
  if (params.storage == Storage::float16) return start_size<Float16>(params, device, stream);
  return start_size<float>(params, device, stream);
}

}  // namespace dgdd::spectral
