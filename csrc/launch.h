// How kernels are started. nvcc compiles this against CUDA's runtime, a host compiler against the emulated
// one of the tests (csrc/tests/emulated), so that every launch can be tried on any machine. No torch header
// is included here.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <atomic>
#include <cstdint>

namespace dgdd {

struct LaunchShape {
  dim3 grid;
  dim3 block;
  int shared_bytes = 0;  // dynamic shared memory of a block
  unsigned cluster = 1;  // blocks of a cluster, neighbours in x
};

// Lets blocks of the kernel have as much dynamic shared memory as the current device can give: what a block
// may opt in to, less the kernel's static part. Without this the limit is 48 KB, less the static part. It is
// raised once for each device and never lowered, so launches of different sizes, from several threads or
// replayed by a graph, do not get into each other's way.
template <auto kernel>
cudaError_t raise_shared_limit() {
  constexpr int kMostDevices = 64;
  static std::array<std::atomic<bool>, kMostDevices> raised{};
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  const bool is_counted = device < kMostDevices;
  if (is_counted && raised[static_cast<size_t>(device)].load(std::memory_order_acquire)) return cudaSuccess;

  int opt_in_bytes = 0;
  cudaFuncAttributes attributes{};
  error = cudaDeviceGetAttribute(&opt_in_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel));
  if (error == cudaSuccess)
    error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                 cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 opt_in_bytes - static_cast<int>(attributes.sharedSizeBytes));
  if (error == cudaSuccess && is_counted)
    raised[static_cast<size_t>(device)].store(true, std::memory_order_release);
  return error;
}

template <auto kernel, class... Parameters>
cudaError_t launch_as(void (*)(Parameters...), const LaunchShape& shape, void* stream,
                      Parameters... parameters) {
#if !defined(__CUDACC__)
  emulated::add_kernel<kernel, Parameters...>();
#endif
  if (shape.shared_bytes > 0) {
    const cudaError_t error = raise_shared_limit<kernel>();
    if (error != cudaSuccess) return error;
  }
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = shape.cluster;
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &cluster;
  config.numAttrs = shape.cluster > 1 ? 1 : 0;
  void* arguments[] = {&parameters...};
  const cudaError_t error = cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), arguments);
  // A refused launch is told once, here, and not again by whoever asks next.
  return error == cudaSuccess ? cudaSuccess : cudaGetLastError();
}

// Starts `kernel` on the current device in `stream`. Returns its cudaError_t, 0 for success.
template <auto kernel, class... Arguments>
int launch(const LaunchShape& shape, void* stream, const Arguments&... arguments) {
  return launch_as<kernel>(kernel, shape, stream, arguments...);
}

}  // namespace dgdd
