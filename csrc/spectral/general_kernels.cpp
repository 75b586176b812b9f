// The general tier's CPU kernels, compiled once per instruction set with DGDD_ISA naming it. Loops run over
// short blocks that stay in the first-level cache, one domain after another, so that compilers vectorise
// them. Everything here is local to the unit or inlined: a function shared with other units could be linked
// with the wrong instruction set.
#include <cmath>
#include <cstdint>

#include "half.h"
#include "spectral/arithmetic.h"
#include "spectral/general.h"

namespace dgdd::spectral::DGDD_ISA {
namespace {

constexpr int64_t kBlock = 128;  // values of a block: six arrays of float64 take 6 KB

bool is_valid(const SpectralParams& params, int64_t domain, int64_t sample) {
  return params.domain_valid == nullptr || params.domain_valid[domain * params.samples + sample];
}

int64_t valid_domains(const SpectralParams& params, int64_t sample) {
  int64_t count = 0;
  for (int64_t domain = 0; domain < params.domains; ++domain) count += is_valid(params, domain, sample);
  return count;
}

template <class Real, class Stored>
void reduce_plane(const SpectralParams& params, const Chunk& chunk, int64_t plane) {
  const int64_t bins = params.height * params.half_width();
  const int64_t sample = (chunk.first_plane + plane) / params.channels;
  const int64_t valid = valid_domains(params, sample);
  const Real one_over_valid = valid == 0 ? Real(0) : Real(1) / static_cast<Real>(valid);
  const Real eps = static_cast<Real>(params.eps);
  const Real* spectra = static_cast<const Real*>(chunk.spectra);
  Real* consensus = static_cast<Real*>(chunk.consensus_spectrum) + plane * bins * 2;
  Stored* lengths = params.resultant_length == nullptr
                        ? nullptr
                        : static_cast<Stored*>(params.resultant_length) + (chunk.first_plane + plane) * bins;

  for (int64_t begin = 0; begin < bins; begin += kBlock) {
    const int64_t size = bins - begin < kBlock ? bins - begin : kBlock;
    Real re[kBlock] = {};
    Real im[kBlock] = {};
    Real magnitudes[kBlock] = {};
    Real length[kBlock];
    for (int64_t domain = 0; domain < params.domains; ++domain) {
      if (!is_valid(params, domain, sample)) continue;
      const Real* spectrum = spectra + ((domain * chunk.planes + plane) * bins + begin) * 2;
      for (int64_t i = 0; i < size; ++i) {
        BinSum<Real> sum{re[i], im[i], magnitudes[i]};
        sum.add(spectrum[2 * i], spectrum[2 * i + 1]);
        re[i] = sum.re;
        im[i] = sum.im;
        magnitudes[i] = sum.magnitudes;
      }
    }
    for (int64_t i = 0; i < size; ++i) {
      length[i] = BinSum<Real>{re[i], im[i], magnitudes[i]}.resultant_length(eps);
      re[i] *= length[i] * one_over_valid;
      im[i] *= length[i] * one_over_valid;
    }
    for (int64_t i = 0; i < size; ++i) {
      consensus[2 * (begin + i)] = re[i];
      consensus[2 * (begin + i) + 1] = im[i];
    }
    if (lengths != nullptr)
      for (int64_t i = 0; i < size; ++i) lengths[begin + i] = store<Stored>(length[i]);
  }
}

template <class Real, class Stored>
void finish_plane(const SpectralParams& params, const Chunk& chunk, int64_t chunk_plane) {
  const int64_t pixels = params.height * params.width;
  const int64_t plane = chunk.first_plane + chunk_plane;
  const Real* class_signal = static_cast<const Real*>(chunk.class_signal) + chunk_plane * pixels;
  const int64_t offset = plane * pixels;

  if (params.class_signal != nullptr) {
    Stored* output = static_cast<Stored*>(params.class_signal) + offset;
    for (int64_t i = 0; i < pixels; ++i) output[i] = store<Stored>(class_signal[i]);
    return;
  }

  const int64_t sample = plane / params.channels;
  const int64_t assigned = params.domain_index[sample];
  const bool assigned_is_valid = is_valid(params, assigned, sample);
  const int64_t valid = valid_domains(params, sample);
  const Real one_over_valid = valid == 0 ? Real(0) : Real(1) / static_cast<Real>(valid);
  const bool needs_mean = params.base_grad == nullptr || !params.weighted_deviation;
  const Real alpha = static_cast<Real>(params.alpha);
  const Real beta = static_cast<Real>(params.beta);
  const Real learning_rate = static_cast<Real>(params.learning_rate);
  const Real momentum = static_cast<Real>(params.momentum);
  const Stored* gradients = static_cast<const Stored*>(params.domain_grads) + offset;
  const int64_t domain_stride = params.planes() * pixels;

  for (int64_t begin = 0; begin < pixels; begin += kBlock) {
    const int64_t size = pixels - begin < kBlock ? pixels - begin : kBlock;
    const Real* signal = class_signal + begin;
    Real mean[kBlock] = {};
    Real base[kBlock];
    Real update[kBlock];
    if (needs_mean) {
      for (int64_t domain = 0; domain < params.domains; ++domain) {
        if (!is_valid(params, domain, sample)) continue;
        const Stored* gradient = gradients + domain * domain_stride + begin;
        for (int64_t i = 0; i < size; ++i) mean[i] += load(gradient[i]);
      }
      for (int64_t i = 0; i < size; ++i) mean[i] *= one_over_valid;
    }
    if (params.base_grad == nullptr) {
      for (int64_t i = 0; i < size; ++i) base[i] = mean[i];
    } else {
      const Stored* given = static_cast<const Stored*>(params.base_grad) + offset + begin;
      for (int64_t i = 0; i < size; ++i) base[i] = load(given[i]);
    }
    if (assigned_is_valid) {
      const Stored* own = gradients + assigned * domain_stride + begin;
      const Real* centre = params.weighted_deviation ? signal : mean;
      for (int64_t i = 0; i < size; ++i)
        update[i] = surgery(base[i], signal[i], static_cast<Real>(load(own[i])), centre[i], alpha, beta);
    } else {
      for (int64_t i = 0; i < size; ++i) update[i] = base[i] + alpha * signal[i];
    }
    if (params.update != nullptr) {
      Stored* output = static_cast<Stored*>(params.update) + offset + begin;
      for (int64_t i = 0; i < size; ++i) output[i] = store<Stored>(update[i]);
    } else {
      Stored* buffer = static_cast<Stored*>(params.momentum_buffer) + offset + begin;
      Stored* images = static_cast<Stored*>(params.images) + offset + begin;
      for (int64_t i = 0; i < size; ++i) {
        const Real velocity = momentum * load(buffer[i]) + update[i];
        buffer[i] = store<Stored>(velocity);
        images[i] = store<Stored>(load(images[i]) - learning_rate * velocity);
      }
    }
  }
}

template <class Real, class Stored>
void reduce_planes(const SpectralParams& params, const Chunk& chunk) {
  for (int64_t plane = 0; plane < chunk.planes; ++plane) reduce_plane<Real, Stored>(params, chunk, plane);
}

template <class Real, class Stored>
void finish_planes(const SpectralParams& params, const Chunk& chunk) {
  for (int64_t plane = 0; plane < chunk.planes; ++plane) finish_plane<Real, Stored>(params, chunk, plane);
}

void reduce(const SpectralParams& params, const Chunk& chunk) {
  switch (params.storage) {
    case Storage::float32:
      return reduce_planes<float, float>(params, chunk);
    case Storage::float64:
      return reduce_planes<double, double>(params, chunk);
    case Storage::bfloat16:
      return reduce_planes<float, BFloat16>(params, chunk);
    case Storage::float16:
      return reduce_planes<float, Float16>(params, chunk);
  }
}

void finish(const SpectralParams& params, const Chunk& chunk) {
  switch (params.storage) {
    case Storage::float32:
      return finish_planes<float, float>(params, chunk);
    case Storage::float64:
      return finish_planes<double, double>(params, chunk);
    case Storage::bfloat16:
      return finish_planes<float, BFloat16>(params, chunk);
    case Storage::float16:
      return finish_planes<float, Float16>(params, chunk);
  }
}

}  // namespace

extern const GeneralKernels general_kernels = {&reduce, &finish};

}  // namespace dgdd::spectral::DGDD_ISA
