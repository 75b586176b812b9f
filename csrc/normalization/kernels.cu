// The launches of the normalisation kernels.
#include "launch.h"
#include "normalization/kernels.cuh"

namespace dgdd::normalization {
namespace {

constexpr int64_t kMostBlocks = 1 << 20;  // blocks go on with a stride where there is more work

unsigned blocks_for(int64_t work) { return static_cast<unsigned>(work < kMostBlocks ? work : kMostBlocks); }

// Calls `launch` with the storage's type.
template <class Launch>
int with_storage(Storage storage, Launch launch) {
  switch (storage) {
    case Storage::float64:
      return launch(double{});
    case Storage::bfloat16:
      return launch(BFloat16{});
    case Storage::float16:
      return launch(Float16{});
    default:
      return launch(float{});
  }
}

// Calls `launch` with the storage's type, and with what else selects a kernel as types: packed, kPool,
// channels_last.
template <class Launch>
int with_kernel(const CudaCall& call, Launch launch) {
  return with_storage(call.params.storage, [&](auto stored) {
    const auto with_layout = [&](auto packed, auto pool) {
      return call.params.channels_last ? launch(stored, packed, pool, std::true_type{})
                                       : launch(stored, packed, pool, std::false_type{});
    };
    if (!call.packed) return with_layout(std::false_type{}, std::integral_constant<int, 0>{});
    if (call.pool == 1) return with_layout(std::true_type{}, std::integral_constant<int, 1>{});
    return with_layout(std::true_type{}, std::integral_constant<int, 2>{});
  });
}

template <auto kernel>
int start(const CudaCall& call, void* stream) {
  const NormPoolParams& params = call.params;
  const int64_t work = params.channels_last
                           ? params.samples * ceiling(call.units, call.lanes)
                           : (params.samples * params.channels - 1) / (kThreads / call.lanes) + 1;
  return launch<kernel>({blocks_for(work), kThreads, call.shared_bytes}, stream, call);
}

}  // namespace

int launch_forward(const CudaCall& call, void* stream) {
  return with_kernel(call, [&](auto stored, auto packed, auto pool, auto channels_last) {
    return start<forward_kernel<decltype(stored), packed(), pool(), channels_last()>>(call, stream);
  });
}

int launch_backward(const CudaCall& call, void* stream) {
  return with_kernel(call, [&](auto stored, auto packed, auto pool, auto channels_last) {
    return start<backward_kernel<decltype(stored), packed(), pool(), channels_last()>>(call, stream);
  });
}

int launch_sums(const NormPoolParams& params, void* stream) {
  const LaunchShape shape = {static_cast<unsigned>(ceiling(params.channels, 32)), kThreads};
  return params.storage == Storage::float64 ? launch<sums_kernel<double>>(shape, stream, params)
                                            : launch<sums_kernel<float>>(shape, stream, params);
}

}  // namespace dgdd::normalization
