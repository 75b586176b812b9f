// The general tier's CUDA kernels, between the library's transforms: the reduction over the domains at each
// frequency bin, and the output at each pixel. Domains are added up in order, without atomics.
//
// Every block works in one plane, so what depends on the sample is the same for all of its threads, and no
// element's index is divided by anything. A thread asks for four domains before it waits for the first.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "cuda_shim.h"
#include "half.h"
#include "spectral/arithmetic.h"
#include "spectral/general.h"

namespace dgdd::spectral::general {

constexpr int kMostThreads = 256;
constexpr int kDomainsAtOnce = 4;

// A bin of a spectrum.
template <class Real>
struct alignas(2 * sizeof(Real)) Bin {
  Real re;
  Real im;
};

template <class T, int kCount>
struct alignas(kCount * sizeof(T)) Pack {
  T at[kCount];
};

// How a launch covers planes of `elements` each: small planes get small blocks.
struct Blocks {
  unsigned of_plane;
  unsigned threads;

  Blocks(int64_t elements, int elements_of_thread) {
    const int64_t wanted = (elements + elements_of_thread - 1) / elements_of_thread;
    threads = static_cast<unsigned>(wanted < kMostThreads ? (wanted + 31) / 32 * 32 : kMostThreads);
    of_plane = static_cast<unsigned>((wanted + threads - 1) / threads);
  }
};

// The elements of the running thread in its block's plane: kPacks times kSize neighbours, the packs a block's
// threads apart.
template <int kPacks, int kSize>
struct Elements {
  static constexpr int kCount = kPacks * kSize;
  int64_t plane;  // of the chunk
  int64_t first;
  int64_t end;  // of the plane, a multiple of kSize
  int step;     // from pack to pack

  __device__ __forceinline__ Elements(int64_t elements, unsigned blocks_of_plane)
      : plane(blockIdx.x / blocks_of_plane),
        first(static_cast<int64_t>(blockIdx.x % blocks_of_plane) * (kCount * blockDim.x) +
              kSize * threadIdx.x),
        end(elements),
        step(static_cast<int>(kSize * blockDim.x)) {}

  template <class T>
  __device__ __forceinline__ void load(const T* of_plane, T (&values)[kCount]) const {
#pragma unroll
    for (int pack = 0; pack < kPacks; ++pack) {
      const int64_t at = first + pack * step;
      if (at >= end) continue;
      const auto neighbours = load_global<Pack<T, kSize>>(of_plane + at);
#pragma unroll
      for (int i = 0; i < kSize; ++i) values[pack * kSize + i] = neighbours.at[i];
    }
  }
  template <class T>
  __device__ __forceinline__ void store(T* of_plane, const T (&values)[kCount]) const {
#pragma unroll
    for (int pack = 0; pack < kPacks; ++pack) {
      const int64_t at = first + pack * step;
      if (at >= end) continue;
      Pack<T, kSize> neighbours;
#pragma unroll
      for (int i = 0; i < kSize; ++i) neighbours.at[i] = values[pack * kSize + i];
      store_global(of_plane + at, neighbours);
    }
  }
};

// Calls add(domain, values) for the valid domains in order, with the thread's elements of the plane that each
// has `domain_stride` after the one before.
template <int kPacks, int kSize, class T, class Add>
__device__ __forceinline__ void for_domains(const SpectralParams& params, int64_t sample,
                                            const Elements<kPacks, kSize>& elements, const T* of_plane,
                                            int64_t domain_stride, const Add& add) {
  for (int64_t begin = 0; begin < params.domains; begin += kDomainsAtOnce) {
    T values[kDomainsAtOnce][kPacks * kSize] = {};
    bool is_used[kDomainsAtOnce];
#pragma unroll
    for (int i = 0; i < kDomainsAtOnce; ++i) {
      is_used[i] = begin + i < params.domains && params.is_valid(begin + i, sample);
      if (is_used[i]) elements.load(of_plane, values[i]);
      of_plane += domain_stride;
    }
#pragma unroll
    for (int i = 0; i < kDomainsAtOnce; ++i)
      if (is_used[i]) add(begin + i, values[i]);
  }
}

// a / b for a >= 0 and b > 0, mostly of 32 bits.
__device__ __forceinline__ int64_t quotient(int64_t a, int64_t b) {
  if (((a | b) >> 32) == 0) return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
  return a / b;
}

template <class Real>
__device__ __forceinline__ Real one_over(int64_t valid_domains) {
  return valid_domains == 0 ? Real(0) : Real(1) / static_cast<Real>(valid_domains);
}

// Elements are bins.
template <class Real, class Stored, int kPacks, int kSize>
__global__ void __launch_bounds__(kMostThreads) reduce_kernel(const __grid_constant__ SpectralParams params,
                                                              const Chunk chunk, unsigned blocks_of_plane) {
  constexpr int kCount = kPacks * kSize;
  const int64_t bins = params.height * params.half_width();
  const Elements<kPacks, kSize> elements(bins, blocks_of_plane);
  const int64_t plane = chunk.first_plane + elements.plane;
  const int64_t sample = params.domain_valid == nullptr ? 0 : quotient(plane, params.channels);

  BinSum<Real> sums[kCount] = {};
  int64_t valid = 0;
  for_domains(params, sample, elements, static_cast<const Bin<Real>*>(chunk.spectra) + elements.plane * bins,
              chunk.planes * bins, [&](int64_t, const Bin<Real>(&values)[kCount]) {
#pragma unroll
                for (int i = 0; i < kCount; ++i) sums[i].add(values[i].re, values[i].im);
                ++valid;
              });

  Bin<Real> consensus[kCount];
  Stored lengths[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const Real length = sums[i].resultant_length(static_cast<Real>(params.eps));
    const Real weight = length * one_over<Real>(valid);
    consensus[i] = {weight * sums[i].re, weight * sums[i].im};
    lengths[i] = store<Stored>(length);
  }
  elements.store(static_cast<Bin<Real>*>(chunk.consensus_spectrum) + elements.plane * bins, consensus);
  if (params.resultant_length != nullptr)
    elements.store(static_cast<Stored*>(params.resultant_length) + plane * bins, lengths);
}

// Elements are pixels.
template <class Real, class Stored, int kPacks, int kSize>
__global__ void __launch_bounds__(kMostThreads) finish_kernel(const __grid_constant__ SpectralParams params,
                                                              const Chunk chunk, unsigned blocks_of_plane) {
  constexpr int kCount = kPacks * kSize;
  const int64_t pixels = params.height * params.width;
  const Elements<kPacks, kSize> elements(pixels, blocks_of_plane);
  const int64_t plane = chunk.first_plane + elements.plane;
  const int64_t begin = plane * pixels;

  Real class_signal[kCount] = {};
  elements.load(static_cast<const Real*>(chunk.class_signal) + elements.plane * pixels, class_signal);
  Stored output[kCount];
  if (params.class_signal != nullptr) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) output[i] = store<Stored>(class_signal[i]);
    return elements.store(static_cast<Stored*>(params.class_signal) + begin, output);
  }

  const int64_t sample = quotient(plane, params.channels);
  const int64_t assigned = params.domain_index[sample];
  const bool in_range = assigned >= 0 && assigned < params.domains;
  const bool deviates = in_range && params.is_valid(assigned, sample);
  const Stored* gradients = static_cast<const Stored*>(params.domain_grads) + begin;
  const int64_t domain_stride = params.planes() * pixels;
  Stored own[kCount] = {}, base[kCount] = {};
  Real mean[kCount] = {};
  if (params.base_grad != nullptr) elements.load(static_cast<const Stored*>(params.base_grad) + begin, base);
  if (params.base_grad == nullptr || !params.weighted_deviation) {
    int64_t valid = 0;
    for_domains(params, sample, elements, gradients, domain_stride,
                [&](int64_t domain, const Stored(&values)[kCount]) {
#pragma unroll
                  for (int i = 0; i < kCount; ++i) {
                    mean[i] += load(values[i]);
                    if (domain == assigned) own[i] = values[i];
                  }
                  ++valid;
                });
#pragma unroll
    for (int i = 0; i < kCount; ++i) mean[i] *= one_over<Real>(valid);
  } else if (deviates) {
    elements.load(gradients + assigned * domain_stride, own);
  }

  Real update[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const Real centre = params.weighted_deviation ? class_signal[i] : mean[i];
    update[i] = surgery(params.base_grad == nullptr ? mean[i] : Real(load(base[i])), class_signal[i],
                        deviates ? Real(load(own[i])) : centre, centre, static_cast<Real>(params.alpha),
                        static_cast<Real>(params.beta));
    if (!in_range) update[i] = Real(NAN);
    output[i] = store<Stored>(update[i]);
  }
  if (params.update != nullptr) return elements.store(static_cast<Stored*>(params.update) + begin, output);

  Stored buffer[kCount] = {}, images[kCount] = {};
  elements.load(static_cast<const Stored*>(params.momentum_buffer) + begin, buffer);
  elements.load(static_cast<const Stored*>(params.images) + begin, images);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const Real velocity = static_cast<Real>(params.momentum) * load(buffer[i]) + update[i];
    buffer[i] = store<Stored>(velocity);
    images[i] = store<Stored>(load(images[i]) - static_cast<Real>(params.learning_rate) * velocity);
  }
  elements.store(static_cast<Stored*>(params.momentum_buffer) + begin, buffer);
  elements.store(static_cast<Stored*>(params.images) + begin, images);
}

// -------- what a call gets: packs of 16 bytes of float32 or float64 where every plane begins at a multiple
// of that, else single elements

template <auto kernel>
using Kernel = std::integral_constant<decltype(kernel), kernel>;

// Calls launch(Kernel, blocks) with the kernel for the chunk's bins; gives back what that returns.
template <class Real, class Stored, class Launch>
auto with_reduce_kernel(const SpectralParams& params, const Launch& launch) {
  constexpr int kSize = 16 / sizeof(Bin<Real>);
  const int64_t bins = params.height * params.half_width();
  if constexpr (kSize > 1) {
    if (bins % kSize != 0) return launch(Kernel<reduce_kernel<Real, Stored, 2, 1>>(), Blocks(bins, 2));
  }
  return launch(Kernel<reduce_kernel<Real, Stored, 2, kSize>>(), Blocks(bins, 2 * kSize));
}

// Calls launch(Kernel, blocks) with the kernel for the chunk's pixels; likewise.
template <class Real, class Stored, class Launch>
auto with_finish_kernel(const SpectralParams& params, const Launch& launch) {
  constexpr int kSize = 16 / sizeof(Real);
  const int64_t pixels = params.height * params.width;
  const Blocks blocks(pixels, kSize);
  if (pixels % kSize == 0 && params.pixels_aligned(kSize * sizeof(Stored)))
    return launch(Kernel<finish_kernel<Real, Stored, 1, kSize>>(), blocks);
  else
    return launch(Kernel<finish_kernel<Real, Stored, kSize, 1>>(), blocks);
}

}  // namespace dgdd::spectral::general
