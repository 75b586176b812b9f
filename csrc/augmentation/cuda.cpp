#include <optional>

#include "augmentation/cuda_launch.h"
#include "augmentation/glue.h"
#include "cuda_scope.h"

namespace dgdd::augmentation {

void run_cuda(const AugmentationParams& params, const Device& device) {
  const CudaScope scope(device);
  void* const stream = scope.stream();
  CudaCall call{};
  call.params = params;
  lay_out(call, device_facts().multiprocessors);
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
