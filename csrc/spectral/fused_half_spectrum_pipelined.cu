#include <limits>

#include "launch.h"
#include "spectral/fused_cuda.h"
#include "spectral/fused_half_spectrum_cluster_kernels.cuh"
#include "spectral/fused_half_spectrum_pipelined_kernels.cuh"

namespace dgdd::spectral {
namespace {

template <int kHeight_, int kWidth_, class Stored_>
struct Shape {
  using Plane = half_spectrum::Plane<kHeight_, kWidth_>;
  using Stored = Stored_;
  static constexpr int kHeight = kHeight_, kWidth = kWidth_;
  static constexpr int kResidentBlocks = 512 / Plane::kThreads;  // on a multiprocessor, by their registers
  static constexpr int kPipelinedBytes = half_spectrum::kPipelinedBytes<Plane, Stored>;
};

// Few planes: there are places for all blocks of all clusters, one a domain. A cluster has to find its places
// in one processing cluster of the device, so that some may wait for a second wave: a card has to tell.
template <class S>
bool fits_clusters(const SpectralParams& params, const DeviceFacts& device) {
  return device.capability >= 90 && params.domains > 1 && params.domains <= half_spectrum::kMostOfCluster &&
         params.planes() <= device.multiprocessors * S::kResidentBlocks / params.domains;
}

template <class S>
int start(const SpectralParams& params, const DeviceFacts& device, void* stream) {
  if (params.planes() > std::numeric_limits<int>::max()) return cudaErrorInvalidConfiguration;
  const auto planes = static_cast<unsigned>(params.planes());
  const auto settings = Settings::of<typename S::Stored>(params);
  if (fits_clusters<S>(params, device)) {
    const auto domains = static_cast<unsigned>(params.domains);
    return launch<half_spectrum::half_spectrum_cluster_kernel<S::kHeight, S::kWidth, typename S::Stored>>(
        {planes * domains, S::Plane::kThreads, S::Plane::kSharedBytes, domains}, stream, params, settings);
  }
  return launch<half_spectrum::half_spectrum_pipelined_kernel<S::kHeight, S::kWidth, typename S::Stored>>(
      {planes, S::Plane::kThreads, S::kPipelinedBytes}, stream, params, settings);
}

// Calls start(shape).
template <class Start>
auto for_shape(const SpectralParams& params, const Start& start) {
  const auto for_size = [&](auto stored) {
    using Stored = decltype(stored);
    if (params.height == 64) return start(Shape<64, 128, Stored>{});
    if (params.width == 64) return start(Shape<128, 64, Stored>{});
    return start(Shape<128, 128, Stored>{});
  };
  if (params.storage == Storage::bfloat16) return for_size(BFloat16{});
  if (params.storage == Storage::float16) return for_size(Float16{});
  return for_size(float{});
}

}  // namespace

bool fused_half_spectrum_pipelined_available(const SpectralParams& params, const DeviceFacts& device) {
  if (!fused_half_spectrum_available(params.height, params.width, device) || !params.pixels_aligned(16))
    return false;
  return for_shape(params, [&](auto shape) {
    return fits_clusters<decltype(shape)>(params, device) || shape.kPipelinedBytes <= device.shared_bytes;
  });
}

int launch_fused_half_spectrum_pipelined(const SpectralParams& params, const DeviceFacts& device,
                                         void* stream) {
  return for_shape(params, [&](auto shape) { return start<decltype(shape)>(params, device, stream); });
}

}  // namespace dgdd::spectral
