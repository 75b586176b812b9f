#include "launch.h"
#include "spectral/general_kernels.cuh"

namespace dgdd::spectral {
namespace {

// Calls launch(Real, Stored), with the types of the call's arithmetic and storage, as values of them.
template <class Launch>
int with_types(Storage storage, const Launch& launch) {
  switch (storage) {
    case Storage::float64:
      return launch(double(), double());
    case Storage::bfloat16:
      return launch(float(), BFloat16());
    case Storage::float16:
      return launch(float(), Float16());
    default:
      return launch(float(), float());
  }
}

// Starts a kernel for every plane of the chunk.
auto starter(const SpectralParams& params, const Chunk& chunk, void* stream) {
  return [&params, &chunk, stream](auto kernel, general::Blocks blocks) {
    const unsigned grid = static_cast<unsigned>(chunk.planes) * blocks.of_plane;
    return launch<decltype(kernel)::value>({grid, blocks.threads}, stream, params, chunk, blocks.of_plane);
  };
}

}  // namespace

int launch_reduce_cuda(const SpectralParams& params, const Chunk& chunk, void* stream) {
  return with_types(params.storage, [&](auto real, auto stored) {
    return general::with_reduce_kernel<decltype(real), decltype(stored)>(params,
                                                                         starter(params, chunk, stream));
  });
}

int launch_finish_cuda(const SpectralParams& params, const Chunk& chunk, void* stream) {
  return with_types(params.storage, [&](auto real, auto stored) {
    return general::with_finish_kernel<decltype(real), decltype(stored)>(params,
                                                                         starter(params, chunk, stream));
  });
}

}  // namespace dgdd::spectral
