#include <optional>
#include <stdexcept>

#include "augmentation/cuda_launch.h"
#include "augmentation/glue.h"
#include "checks.h"

// Absent from a libtorch without CUDA. Weak, so that the module can be imported there; it is called for CUDA
// tensors only.
#pragma weak aoti_torch_get_current_cuda_stream

namespace dgdd::augmentation {
namespace {

void check_launch(int error, const char* kernel) {
  if (error != 0)
    throw std::runtime_error(
        text("dgdd: the CUDA kernel ", kernel, " could not be launched: ", cuda_error_text(error),
             ". This build has kernels for the architectures ", DGDD_CUDA_ARCHITECTURES));
}

}  // namespace

void run_cuda(const AugmentationParams& params, const Device& device) {
  const torch::stable::accelerator::DeviceGuard guard(device.index());
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device.index(), &stream));
  CudaCall call{};
  call.params = params;
  lay_out(call, multiprocessors());
  if (!params.backward) {
    check_launch(launch_forward(call, stream), "augment_kernel");
    return;
  }
  std::optional<Tensor> items;
  if (params.has_rows) {
    const ScalarType real = params.storage == Storage::float64 ? ScalarType::Double : ScalarType::Float;
    items = torch::stable::empty({params.batch, params.channels, params.height, params.width}, real,
                                 std::nullopt, device);
    call.items = items->data_ptr();
  }
  if (params.batch > 0) check_launch(launch_transpose(call, stream), "augment_kernel");
  if (params.has_rows) check_launch(launch_sum(call, stream), "sum_kernel");
}

}  // namespace dgdd::augmentation
