#include <limits>

#include "spectral/fused_cuda.h"
#include "spectral/fused_half_spectrum_kernels.cuh"

namespace dgdd::spectral {
namespace {

template <int kHeight, int kWidth, class Stored>
int launch(const SpectralParams& params, cudaStream_t stream) {
  if (params.planes() > std::numeric_limits<int>::max()) return cudaErrorInvalidConfiguration;
  using Plane = half_spectrum::Plane<kHeight, kWidth>;
  const auto kernel = half_spectrum::half_spectrum_kernel<kHeight, kWidth, Stored>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Plane::kSharedBytes);
  if (error != cudaSuccess) return error;
  kernel<<<static_cast<unsigned>(params.planes()), Plane::kThreads, Plane::kSharedBytes, stream>>>(
      params, half_spectrum::Settings::of<Stored>(params));
  return cudaGetLastError();
}

template <int kHeight, int kWidth>
int launch(const SpectralParams& params, cudaStream_t stream) {
  switch (params.storage) {
    case Storage::float32:
      return launch<kHeight, kWidth, float>(params, stream);
    case Storage::bfloat16:
      return launch<kHeight, kWidth, BFloat16>(params, stream);
    case Storage::float16:
      return launch<kHeight, kWidth, Float16>(params, stream);
    case Storage::float64:
      break;
  }
  return cudaErrorInvalidValue;
}

}  // namespace

// The kernel would take 32 as well; every size takes its time to compile.
bool fused_half_spectrum_available(int64_t height, int64_t width) {
  return (height == 128 && (width == 64 || width == 128)) || (height == 64 && width == 128);
}

int launch_fused_half_spectrum(const SpectralParams& params, void* stream) {
  const cudaStream_t on = static_cast<cudaStream_t>(stream);
  if (params.height == 64) return launch<64, 128>(params, on);
  if (params.width == 64) return launch<128, 64>(params, on);
  return launch<128, 128>(params, on);
}

}  // namespace dgdd::spectral
