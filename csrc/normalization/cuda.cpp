#include <stdexcept>

#include "checks.h"
#include "cuda_scope.h"
#include "normalization/cuda_launch.h"
#include "normalization/glue.h"

namespace dgdd::normalization {

void run_cuda(const NormPoolParams& params, const Device& device) {
  if (params.channels > kMostInPlane || params.positions() > kMostInPlane)
    throw std::runtime_error(text("dgdd: x on CUDA must have at most ", kMostInPlane,
                                  " channels and as many pixels a channel, got ", params.channels, " and ",
                                  params.positions()));
  const CudaScope scope(device);
  void* const stream = scope.stream();
  if (params.samples > 0) {
    CudaCall call{};
    call.params = params;
    lay_out(call, device_facts().shared_bytes);
    if (params.backward)
      check_launch(launch_backward(call, stream), "backward_kernel");
    else
      check_launch(launch_forward(call, stream), "forward_kernel");
  }
  if (params.backward) check_launch(launch_sums(params, stream), "sums_kernel");
}

}  // namespace dgdd::normalization
