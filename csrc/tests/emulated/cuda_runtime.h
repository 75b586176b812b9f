// An emulated CUDA runtime: what csrc/launch.h and csrc/cuda_device.cu call, with the rules by which real
// devices take or refuse a launch. Kernels run in the emulator (tests/emulator.h) on the host's memory. It
// goes by CUDA's own file name, so that launch code is compiled as it is.
//
// - Several devices are there at once, each with the limits of a real one (`devices()`).
// - A kernel may have 48 KB of shared memory, its static part counted, until its attribute on this device
// says
//   more; at most what a block may opt in to. Registers and static shared memory are those that nvcc gave it
//   (kernel_resources.txt).
// - A kernel that did something wrong (a race, an access out of bounds or without its alignment) fails its
// launch,
//   and cudaGetErrorString tells what it was.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <tuple>
#include <typeinfo>
#include <utility>
#include <vector>

#include "tests/emulator.h"

// Those of CUDA's error codes that a launch can meet, with CUDA's values.
enum cudaError_t : int {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorInvalidDeviceFunction = 98,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorUnsupportedPtxVersion = 222,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchOutOfResources = 701,
  cudaErrorMisalignedAddress = 716,
  cudaErrorLaunchFailure = 719,
  cudaErrorNotSupported = 801,
  cudaErrorInvalidClusterSize = 912,
};

enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrL2CacheSize = 38,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

struct cudaFuncAttributes {
  size_t sharedSizeBytes;
  int maxDynamicSharedSizeBytes;
  int numRegs;
};

using cudaStream_t = struct CUstream_st*;

enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension = 4 };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    struct {
      unsigned x, y, z;
    } clusterDim;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function);
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value);
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** arguments);
cudaError_t cudaGetLastError();
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
const char* cudaGetErrorString(cudaError_t error);

namespace dgdd::emulated {

struct DeviceProfile {
  const char* name;
  int capability;  // 90 for 9.0
  int multiprocessors;
  int shared_bytes_of_block;  // at most, by opting in
  int l2_bytes;
};
// Each kind of device several times, one kind after another and then again: what launch code keeps for a
// device, it keeps for good, so what depends on it has to meet a device that is new.
constexpr int kOfEachKind = 3;
const std::vector<DeviceProfile>& devices();

// What the tests choose.
struct Settings {
  bool runs_kernels = true;                             // false: launches are judged, and nothing is computed
  std::vector<int> architectures = {80, 90, 100, 120};  // that "the build" has machine code for
  int newest_ptx = 120;                                 // 0: none
  int driver_version = 13000;
  void* stream = nullptr;  // the current one, for the torch glue
};
Settings& settings();
inline void* current_stream() { return settings().stream; }

struct LaunchRecord {
  std::string kernel;
  int device;
  void* stream;
  dim3 grid, block;
  size_t shared_bytes;
};
std::vector<LaunchRecord>& launches();  // that were accepted, in order

// For a kernel of a test's own, which kernel_resources.txt does not know: the same on every architecture.
void add_resources(const std::string& kernel, int registers, int static_shared);

// Calls a kernel with the arguments that cudaLaunchKernel gets.
struct KernelEntry {
  const char* mangled_in;  // a mangled name that contains the kernel's own
  void (*call)(void** arguments);
};
void add_kernel_entry(const void* function, const KernelEntry& entry);

template <auto kernel>
struct KernelTag {};

template <auto kernel, class... Parameters, size_t... positions>
void call_kernel(void** arguments, std::index_sequence<positions...>) {
  kernel(*static_cast<Parameters*>(arguments[positions])...);
}

// Makes a kernel known that is about to be launched; nvcc does this at compile time.
template <auto kernel, class... Parameters>
void add_kernel() {
  static const bool added = [] {
    add_kernel_entry(reinterpret_cast<const void*>(kernel),
                     {typeid(KernelTag<kernel>).name(), [](void** arguments) {
                        call_kernel<kernel, Parameters...>(arguments,
                                                           std::index_sequence_for<Parameters...>());
                      }});
    return true;
  }();
  static_cast<void>(added);
}

}  // namespace dgdd::emulated
