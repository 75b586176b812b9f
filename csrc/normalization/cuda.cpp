#include <stdexcept>

#include "checks.h"
#include "normalization/cuda_launch.h"
#include "normalization/glue.h"

// Absent from a libtorch without CUDA. Weak, so that the module can be imported there; it is called for CUDA
// tensors only.
#pragma weak aoti_torch_get_current_cuda_stream

namespace dgdd::normalization {
namespace {

void check_launch(int error, const char* kernel) {
  if (error != 0)
    throw std::runtime_error(
        text("dgdd: the CUDA kernel ", kernel, " could not be launched: ", cuda_error_text(error),
             ". This build has kernels for the architectures ", DGDD_CUDA_ARCHITECTURES));
}

}  // namespace

void run_cuda(const NormPoolParams& params, const Device& device) {
  if (params.channels > kMostInPlane || params.positions() > kMostInPlane)
    throw std::runtime_error(text("dgdd: x on CUDA must have at most ", kMostInPlane,
                                  " channels and as many pixels a channel, got ", params.channels, " and ",
                                  params.positions()));
  const torch::stable::accelerator::DeviceGuard guard(device.index());
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device.index(), &stream));
  if (params.samples > 0) {
    CudaCall call{};
    call.params = params;
    lay_out(call, shared_bytes_of_device());
    if (params.backward)
      check_launch(launch_backward(call, stream), "backward_kernel");
    else
      check_launch(launch_forward(call, stream), "forward_kernel");
  }
  if (params.backward) check_launch(launch_sums(params, stream), "sums_kernel");
}

}  // namespace dgdd::normalization
