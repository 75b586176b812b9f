#include <algorithm>
#include <limits>

#include "spectral/fused_cuda.h"
#include "spectral/fused_tile_kernels.cuh"

namespace dgdd::spectral {
namespace {

struct DeviceFacts {
  int multiprocessors = 0;
  int shared_bytes = 0;  // that one block can have

  cudaError_t read() {
    int device = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess)
      error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    if (error == cudaSuccess)
      error = cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    return error;
  }
};

// Where planes alone cannot fill the device (12 warps on each multiprocessor, by their registers), several of
// a plane's domains go at the same time, in as few rounds as that allows and in no more groups than these
// need.
template <class T>
int domain_groups(const SpectralParams& params, const DeviceFacts& device) {
  const int64_t resident = int64_t{384 / T::kThreads} * device.multiprocessors;
  const int64_t most = std::min({int64_t{T::kMostGroups}, int64_t{device.shared_bytes / T::kSharedBytes},
                                 params.domains, std::max(int64_t{1}, resident / params.planes())});
  const int64_t rounds = (params.domains + most - 1) / most;
  return static_cast<int>((params.domains + rounds - 1) / rounds);
}

template <class T, class Stored>
cudaError_t launch(const SpectralParams& params, cudaStream_t stream) {
  if (params.planes() > std::numeric_limits<int>::max()) return cudaErrorInvalidConfiguration;
  DeviceFacts device;
  cudaError_t error = device.read();
  if (error != cudaSuccess) return error;
  const int groups = domain_groups<T>(params, device);
  const int shared_bytes = groups * T::kSharedBytes;
  error = cudaFuncSetAttribute(fused_tile_kernel<T, Stored>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               shared_bytes);
  if (error != cudaSuccess) return error;
  fused_tile_kernel<T, Stored>
      <<<static_cast<unsigned>(params.planes()), dim3(T::kThreads, static_cast<unsigned>(groups)),
         static_cast<size_t>(shared_bytes), stream>>>(params);
  return cudaGetLastError();
}

template <class Stored>
cudaError_t launch_size(const SpectralParams& params, cudaStream_t stream) {
  return params.height == 32 ? launch<Tile<32, 32>, Stored>(params, stream)
                             : launch<Tile<64, 64>, Stored>(params, stream);
}

}  // namespace

bool fused_tile_available(int64_t height, int64_t width) {
  return height == width && (height == 32 || height == 64);
}

int launch_fused_tile(const SpectralParams& params, void* stream) {
  const cudaStream_t on = static_cast<cudaStream_t>(stream);
  if (params.storage == Storage::bfloat16) return launch_size<BFloat16>(params, on);
  if (params.storage == Storage::float16) return launch_size<Float16>(params, on);
  return launch_size<float>(params, on);
}

}  // namespace dgdd::spectral
