#include <optional>
#include <stdexcept>

#include "checks.h"
#include "cuda_scope.h"
#include "masking/cuda_launch.h"
#include "masking/glue.h"

namespace dgdd::masking {
namespace {

ScalarType type_of(Storage storage) {
  switch (storage) {
    case Storage::float64:
      return ScalarType::Double;
    case Storage::bfloat16:
      return ScalarType::BFloat16;
    case Storage::float16:
      return ScalarType::Half;
    default:
      return ScalarType::Float;
  }
}

}  // namespace

void run_cuda(const MaskingParams& params, const Device& device) {
  if (params.channels > kMostInRow || params.positions > kMostInRow)
    throw std::runtime_error(text("dgdd: features on CUDA must have at most ", kMostInRow,
                                  " channels and as many positions a sample, got ", params.channels, " and ",
                                  params.positions));
  const CudaScope scope(device);
  void* const stream = scope.stream();
  const auto empty = [&](int64_t columns, ScalarType type) {
    return torch::stable::empty({params.samples, columns}, type, std::nullopt, device);
  };
  const bool scores = params.weight != nullptr;
  const bool selects = params.uniforms != nullptr;
  const bool applies = params.masked != nullptr;
  CudaCall call{};
  call.params = params;
  lay_out(call);

  std::optional<Tensor> lowest, highest, own_scores, keys;
  if (scores && params.per_pixel && params.positions > 0) {
    const ScalarType real = params.storage == Storage::float64 ? ScalarType::Double : ScalarType::Float;
    lowest = empty(params.positions, real);
    highest = empty(params.positions, real);
    call.lowest = lowest->data_ptr();
    call.highest = highest->data_ptr();
    check_launch(launch_ranges(call, stream), "ranges_kernel");
  }
  if (fit_fused(call, device_facts())) {
    check_launch(launch_fused(call, stream), "fused_kernel");
    return;
  }
  if (scores) {
    if (params.scores == nullptr) {
      own_scores = empty(params.channels, type_of(params.storage));
      call.params.scores = own_scores->data_ptr();
    }
    check_launch(launch_scores(call, stream), "scores_kernel");
    call.params.given_scores = call.params.scores;
  }
  if (selects) {
    keys = empty(params.channels, ScalarType::Long);
    call.keys = keys->mutable_data_ptr<int64_t>();
    check_launch(launch_select(call, stream), "select_kernel");
    call.params.given_mask = call.params.mask;
  }
  if (applies && params.positions > 0) check_launch(launch_apply(call, stream), "apply_kernel");
}

}  // namespace dgdd::masking
