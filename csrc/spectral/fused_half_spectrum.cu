#include <limits>

#include "launch.h"
#include "spectral/fused_cuda.h"
#include "spectral/fused_half_spectrum_kernels.cuh"

namespace dgdd::spectral {
namespace {

template <int kHeight, int kWidth>
using Plane = half_spectrum::Plane<kHeight, kWidth>;

template <int kHeight, int kWidth, class Stored>
int start(const SpectralParams& params, void* stream) {
  if (params.planes() > std::numeric_limits<int>::max()) return cudaErrorInvalidConfiguration;
  using Shape = Plane<kHeight, kWidth>;
  return launch<half_spectrum::half_spectrum_kernel<kHeight, kWidth, Stored>>(
      {static_cast<unsigned>(params.planes()), Shape::kThreads, Shape::kSharedBytes}, stream, params,
      Settings::of<Stored>(params));
}

template <int kHeight, int kWidth>
int start_size(const SpectralParams& params, void* stream) {
  if (params.storage == Storage::bfloat16) return start<kHeight, kWidth, BFloat16>(params, stream);
  if (params.storage == Storage::float16) return start<kHeight, kWidth, Float16>(params, stream);
  return start<kHeight, kWidth, float>(params, stream);
}

}  // namespace

// The kernel would take 32 as well; every size takes its time to compile.
bool fused_half_spectrum_available(int64_t height, int64_t width, const DeviceFacts& device) {
  if (height == 64 && width == 128) return Plane<64, 128>::kSharedBytes <= device.shared_bytes;
  if (height == 128 && width == 64) return Plane<128, 64>::kSharedBytes <= device.shared_bytes;
  return height == 128 && width == 128 && Plane<128, 128>::kSharedBytes <= device.shared_bytes;
}

int launch_fused_half_spectrum(const SpectralParams& params, void* stream) {
  if (params.height == 64) return start_size<64, 128>(params, stream);
  if (params.width == 64) return start_size<128, 64>(params, stream);
  return start_size<128, 128>(params, stream);
}

}  // namespace dgdd::spectral
