// The launches of the augmentation kernels.
#include <cuda_runtime.h>

#include "augmentation/kernels.cuh"

namespace dgdd::augmentation {
namespace {

constexpr int64_t kMostBlocks = 1 << 20;  // blocks go on with a stride where there is more work

int start(void (*kernel)(CudaCall), const CudaCall& call, int64_t work, void* stream) {
  const unsigned blocks = static_cast<unsigned>(work < kMostBlocks ? work : kMostBlocks);
  kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(call);
  return cudaGetLastError();
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

int multiprocessors() {
  int device = 0, count = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
}

int launch_forward(const CudaCall& call, void* stream) {
  const AugmentationParams& params = call.params;
  return with_storage(params.storage, [&](auto stored) {
    using Stored = decltype(stored);
    return start(
        params.bytes ? augment_kernel<uint8_t, Stored, false> : augment_kernel<Stored, Stored, false>, call,
        params.batch * call.parts, stream);
  });
}

int launch_transpose(const CudaCall& call, void* stream) {
  const AugmentationParams& params = call.params;
  return with_storage(params.storage, [&](auto stored) {
    using Stored = decltype(stored);
    return start(
        params.has_rows ? augment_kernel<Stored, RealOf<Stored>, true> : augment_kernel<Stored, Stored, true>,
        call, params.batch * call.parts, stream);
  });
}

int launch_sum(const CudaCall& call, void* stream) {
  const AugmentationParams& params = call.params;
  const int64_t size = params.channels * params.height * params.width;
  const int64_t work = params.images * ((size + kOfWarp - 1) / kOfWarp);
  return with_storage(params.storage, [&](auto stored) {
    return start(sum_kernel<decltype(stored)>, call, (work + kWarps - 1) / kWarps, stream);
  });
}

const char* cuda_error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace dgdd::augmentation
