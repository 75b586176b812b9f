#include <cuda_runtime.h>

#include "cuda_device.h"

namespace dgdd {
namespace {

std::string version(int number) {  // 13000 is 13.0
  return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

}  // namespace

int read_device(DeviceFacts& device) {
  int index = 0, major = 0, minor = 0;
  cudaError_t error = cudaGetDevice(&index);
  const auto read = [&](int& value, cudaDeviceAttr attribute) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&value, attribute, index);
  };
  read(device.multiprocessors, cudaDevAttrMultiProcessorCount);
  read(device.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  read(device.l2_bytes, cudaDevAttrL2CacheSize);
  read(major, cudaDevAttrComputeCapabilityMajor);
  read(minor, cudaDevAttrComputeCapabilityMinor);
  device.capability = 10 * major + minor;
  return error;
}

std::string cuda_failure(int error, const std::string& what, const char* architectures) {
  const std::string failed = "dgdd: " + what + ": " + cudaGetErrorString(static_cast<cudaError_t>(error));
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) {
    DeviceFacts device;
    const std::string own = read_device(device) == cudaSuccess ? std::to_string(device.capability)
                                                               : std::string("the device's own");
    return failed + ". This build has kernels for the architectures " + architectures +
           ", and the device has compute capability " + own +
           ": build dgdd_fast again with CUDAARCHS=" + own + " in the environment";
  }
  if (error == cudaErrorInsufficientDriver || error == cudaErrorUnsupportedPtxVersion) {
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    return failed + ". The driver supports CUDA " + version(driver) + ", and this build was made with CUDA " +
           version(runtime) + ": install a newer driver, or build dgdd_fast again with an older CUDA toolkit";
  }
  return failed + ". This build has kernels for the architectures " + architectures;
}

}  // namespace dgdd
