#include "spectral/general_kernels.cuh"

namespace dgdd::spectral {
namespace {

// Calls launch(Real, Stored), with the types of the call's arithmetic and storage, as values of them.
template <class Launch>
void with_types(Storage storage, const Launch& launch) {
  switch (storage) {
    case Storage::float32:
      return launch(float(), float());
    case Storage::float64:
      return launch(double(), double());
    case Storage::bfloat16:
      return launch(float(), BFloat16());
    case Storage::float16:
      return launch(float(), Float16());
  }
}

}  // namespace

int launch_reduce_cuda(const SpectralParams& params, const Chunk& chunk, void* stream) {
  with_types(params.storage, [&](auto real, auto stored) {
    general::with_reduce_kernel<decltype(real), decltype(stored)>(params, [&](auto kernel,
                                                                              general::Blocks blocks) {
      const unsigned grid = static_cast<unsigned>(chunk.planes) * blocks.of_plane;
      kernel<<<grid, blocks.threads, 0, static_cast<cudaStream_t>(stream)>>>(params, chunk, blocks.of_plane);
    });
  });
  return cudaGetLastError();
}

int launch_finish_cuda(const SpectralParams& params, const Chunk& chunk, void* stream) {
  with_types(params.storage, [&](auto real, auto stored) {
    general::with_finish_kernel<decltype(real), decltype(stored)>(params, [&](auto kernel,
                                                                              general::Blocks blocks) {
      const unsigned grid = static_cast<unsigned>(chunk.planes) * blocks.of_plane;
      kernel<<<grid, blocks.threads, 0, static_cast<cudaStream_t>(stream)>>>(params, chunk, blocks.of_plane);
    });
  });
  return cudaGetLastError();
}

const char* cuda_error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

int64_t l2_cache_bytes(int device) {
  int bytes = 0;
  return cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, device) == cudaSuccess ? bytes : 0;
}

}  // namespace dgdd::spectral
