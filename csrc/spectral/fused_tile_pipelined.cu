#include <limits>

#include "launch.h"
#include "spectral/fused_cuda.h"
#include "spectral/fused_plan.h"
#include "spectral/fused_tile_pipelined_kernels.cuh"

namespace dgdd::spectral {
namespace {

template <class T, class Stored>
constexpr TileResources kResources{T::kThreads, PipelinedTile<T>::kResidentThreads, T::kMostGroups,
                                   PipelinedTile<T>::template kGroupBytes<Stored>};

template <class T, class Stored>
int start(const SpectralParams& params, int64_t first_plane, int64_t planes, int64_t groups, void* stream) {
  return launch<fused_tile_pipelined_kernel<T, Stored>>(
      {static_cast<unsigned>(planes), dim3(T::kThreads, static_cast<unsigned>(groups)),
       static_cast<int>(groups) * PipelinedTile<T>::template kGroupBytes<Stored>},
      stream, params, Settings::of<Stored>(params), static_cast<int>(first_plane));
}

template <class T, class Stored>
int start_plan(const SpectralParams& params, const DeviceFacts& device, void* stream) {
  const int64_t planes = params.planes();
  if (planes > std::numeric_limits<int>::max()) return cudaErrorInvalidConfiguration;
  const TilePlan plan = best_plan(kResources<T, Stored>, device, planes, params.domains);
  const int error = start<T, Stored>(params, 0, plan.first_planes, plan.first_groups, stream);
  if (error != cudaSuccess || plan.first_planes == planes) return error;
  return start<T, Stored>(params, plan.first_planes, planes - plan.first_planes, plan.rest_groups, stream);
}

// Calls start(tile, value of the stored type).
template <class Start>
auto for_tile(const SpectralParams& params, const Start& start) {
  const auto for_stored = [&](auto tile) {
    if (params.storage == Storage::bfloat16) return start(tile, BFloat16{});
    if (params.storage == Storage::float16) return start(tile, Float16{});
    return start(tile, float{});
  };
  return params.height == 32 ? for_stored(Tile<32, 32>{}) : for_stored(Tile<64, 64>{});
}

}  // namespace

bool fused_tile_pipelined_available(const SpectralParams& params, const DeviceFacts& device) {
  if (!fused_tile_available(params.height, params.width, device) || !params.pixels_aligned(16)) return false;
  return for_tile(params, [&](auto tile, auto stored) {
    return resident_blocks(kResources<decltype(tile), decltype(stored)>, device, 1) > 0;
  });
}

int launch_fused_tile_pipelined(const SpectralParams& params, const DeviceFacts& device, void* stream) {
  return for_tile(params, [&](auto tile, auto stored) {
    return start_plan<decltype(tile), decltype(stored)>(params, device, stream);
  });
}

}  // namespace dgdd::spectral
