// The general tier's CUDA kernels: one thread for one frequency bin, then one for one pixel, domains added up
// in order, no atomics.
#include <cuda_runtime.h>

#include "half.h"
#include "spectral/arithmetic.h"
#include "spectral/general.h"

namespace dgdd::spectral {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 1 << 20;  // threads go on with a stride where there are more elements

unsigned blocks_for(int64_t elements) {
  const int64_t blocks = (elements + kThreads - 1) / kThreads;
  return static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks);
}

__device__ int64_t first_element() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }

__device__ int64_t element_stride() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

__device__ bool is_valid(const SpectralParams& params, int64_t domain, int64_t sample) {
  return params.domain_valid == nullptr || params.domain_valid[domain * params.samples + sample];
}

template <class Real, class Stored>
__global__ void reduce_kernel(SpectralParams params, Chunk chunk) {
  const int64_t bins = params.height * params.half_width();
  const int64_t elements = chunk.planes * bins;
  const Real* spectra = static_cast<const Real*>(chunk.spectra);
  Real* consensus = static_cast<Real*>(chunk.consensus_spectrum);
  for (int64_t element = first_element(); element < elements; element += element_stride()) {
    const int64_t sample = (chunk.first_plane + element / bins) / params.channels;
    BinSum<Real> sum{};
    int64_t valid = 0;
    for (int64_t domain = 0; domain < params.domains; ++domain) {
      if (!is_valid(params, domain, sample)) continue;
      const Real* bin = spectra + (domain * elements + element) * 2;
      sum.add(bin[0], bin[1]);
      ++valid;
    }
    const Real length = sum.resultant_length(static_cast<Real>(params.eps));
    const Real weight = valid == 0 ? Real(0) : length * (Real(1) / static_cast<Real>(valid));
    consensus[2 * element] = weight * sum.re;
    consensus[2 * element + 1] = weight * sum.im;
    if (params.resultant_length != nullptr)
      static_cast<Stored*>(params.resultant_length)[chunk.first_plane * bins + element] =
          store<Stored>(length);
  }
}

template <class Real, class Stored>
__global__ void finish_kernel(SpectralParams params, Chunk chunk) {
  const int64_t pixels = params.height * params.width;
  const int64_t elements = chunk.planes * pixels;
  const int64_t domain_stride = params.planes() * pixels;
  for (int64_t element = first_element(); element < elements; element += element_stride()) {
    const int64_t position = chunk.first_plane * pixels + element;
    const Real class_signal = static_cast<const Real*>(chunk.class_signal)[element];
    if (params.class_signal != nullptr) {
      static_cast<Stored*>(params.class_signal)[position] = store<Stored>(class_signal);
      continue;
    }

    const int64_t sample = position / pixels / params.channels;
    const int64_t assigned = params.domain_index[sample];
    const bool in_range = assigned >= 0 && assigned < params.domains;
    const Stored* gradients = static_cast<const Stored*>(params.domain_grads) + position;
    Real mean = 0;
    if (params.base_grad == nullptr || !params.weighted_deviation) {
      int64_t valid = 0;
      for (int64_t domain = 0; domain < params.domains; ++domain) {
        if (!is_valid(params, domain, sample)) continue;
        mean += load(gradients[domain * domain_stride]);
        ++valid;
      }
      mean = valid == 0 ? Real(0) : mean * (Real(1) / static_cast<Real>(valid));
    }
    const Real base = params.base_grad == nullptr
                          ? mean
                          : Real(load(static_cast<const Stored*>(params.base_grad)[position]));
    const Real centre = params.weighted_deviation ? class_signal : mean;
    const Real own = in_range && is_valid(params, assigned, sample)
                         ? Real(load(gradients[assigned * domain_stride]))
                         : centre;  // no deviation to add
    const Real alpha = static_cast<Real>(params.alpha);
    const Real beta = static_cast<Real>(params.beta);
    const Real update = in_range ? surgery(base, class_signal, own, centre, alpha, beta) : Real(NAN);

    if (params.update != nullptr) {
      static_cast<Stored*>(params.update)[position] = store<Stored>(update);
    } else {
      Stored& buffer = static_cast<Stored*>(params.momentum_buffer)[position];
      Stored& image = static_cast<Stored*>(params.images)[position];
      const Real velocity = static_cast<Real>(params.momentum) * load(buffer) + update;
      buffer = store<Stored>(velocity);
      image = store<Stored>(load(image) - static_cast<Real>(params.learning_rate) * velocity);
    }
  }
}

template <class Real, class Stored>
void reduce(const SpectralParams& params, const Chunk& chunk, cudaStream_t stream) {
  const int64_t elements = chunk.planes * params.height * params.half_width();
  reduce_kernel<Real, Stored><<<blocks_for(elements), kThreads, 0, stream>>>(params, chunk);
}

template <class Real, class Stored>
void finish(const SpectralParams& params, const Chunk& chunk, cudaStream_t stream) {
  const int64_t elements = chunk.planes * params.height * params.width;
  finish_kernel<Real, Stored><<<blocks_for(elements), kThreads, 0, stream>>>(params, chunk);
}

}  // namespace

int launch_reduce_cuda(const SpectralParams& params, const Chunk& chunk, void* stream) {
  const cudaStream_t on = static_cast<cudaStream_t>(stream);
  switch (params.storage) {
    case Storage::float32:
      reduce<float, float>(params, chunk, on);
      break;
    case Storage::float64:
      reduce<double, double>(params, chunk, on);
      break;
    case Storage::bfloat16:
      reduce<float, BFloat16>(params, chunk, on);
      break;
    case Storage::float16:
      reduce<float, Float16>(params, chunk, on);
      break;
  }
  return cudaGetLastError();
}

int launch_finish_cuda(const SpectralParams& params, const Chunk& chunk, void* stream) {
  const cudaStream_t on = static_cast<cudaStream_t>(stream);
  switch (params.storage) {
    case Storage::float32:
      finish<float, float>(params, chunk, on);
      break;
    case Storage::float64:
      finish<double, double>(params, chunk, on);
      break;
    case Storage::bfloat16:
      finish<float, BFloat16>(params, chunk, on);
      break;
    case Storage::float16:
      finish<float, Float16>(params, chunk, on);
      break;
  }
  return cudaGetLastError();
}

const char* cuda_error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace dgdd::spectral
