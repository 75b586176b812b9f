// The launches of the augmentation kernels.
#include "augmentation/kernels.cuh"
#include "launch.h"

namespace dgdd::augmentation {
namespace {

constexpr int64_t kMostBlocks = 1 << 20;  // blocks go on with a stride where there is more work

template <auto kernel>
int start(const CudaCall& call, int64_t work, void* stream) {
  const unsigned blocks = static_cast<unsigned>(work < kMostBlocks ? work : kMostBlocks);
  return launch<kernel>({blocks, kThreads}, stream, call);
}

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

}  // namespace

int launch_forward(const CudaCall& call, void* stream) {
  const AugmentationParams& params = call.params;
  return with_storage(params.storage, [&](auto stored) {
    using Stored = decltype(stored);
    const int64_t work = params.batch * call.parts;
    return params.bytes ? start<augment_kernel<uint8_t, Stored, false>>(call, work, stream)
                        : start<augment_kernel<Stored, Stored, false>>(call, work, stream);
  });
}

int launch_transpose(const CudaCall& call, void* stream) {
  const AugmentationParams& params = call.params;
  return with_storage(params.storage, [&](auto stored) {
    using Stored = decltype(stored);
    const int64_t work = params.batch * call.parts;
    return params.has_rows ? start<augment_kernel<Stored, RealOf<Stored>, true>>(call, work, stream)
                           : start<augment_kernel<Stored, Stored, true>>(call, work, stream);
  });
}

int launch_sum(const CudaCall& call, void* stream) {
  const AugmentationParams& params = call.params;
  const int64_t size = params.channels * params.height * params.width;
  const int64_t work = params.images * ((size + kOfWarp - 1) / kOfWarp);
  return with_storage(params.storage, [&](auto stored) {
    return start<sum_kernel<decltype(stored)>>(call, (work + kWarps - 1) / kWarps, stream);
  });
}

}  // namespace dgdd::augmentation
