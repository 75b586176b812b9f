// The torch side of every CUDA launch: which device and stream it goes to, and what becomes of its error.
#pragma once

#include <stdexcept>

#include "cuda_device.h"
#include "stable.h"

#if defined(DGDD_EMULATED)
#include <cuda_runtime.h>
#else
// Absent from a libtorch without CUDA. Weak, so that the module can be imported there; it is called for CUDA
// tensors only.
#pragma weak aoti_torch_get_current_cuda_stream
#endif

namespace dgdd {

// Makes the tensors' device the current one for as long as this lives.
class CudaScope {
 public:
#if defined(DGDD_EMULATED)
  explicit CudaScope(const Device&) : stream_(emulated::current_stream()) {}
#else
  explicit CudaScope(const Device& device) : guard_(device.index()) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device.index(), &stream_));
  }
#endif

  void* stream() const { return stream_; }

 private:
#if !defined(DGDD_EMULATED)
  torch::stable::accelerator::DeviceGuard guard_;
#endif
  void* stream_ = nullptr;
};

inline DeviceFacts device_facts() {
  DeviceFacts device;
  if (const int error = read_device(device); error != 0)
    throw std::runtime_error(cuda_failure(error, "the CUDA device does not answer", DGDD_CUDA_ARCHITECTURES));
  return device;
}

inline void check_launch(int error, const char* kernel) {
  if (error != 0)
    throw std::runtime_error(cuda_failure(
        error, std::string("the CUDA kernel ") + kernel + " could not be launched", DGDD_CUDA_ARCHITECTURES));
}

}  // namespace dgdd
