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

int64_t valid_domains(const SpectralParams& params, int64_t sample) {
  int64_t count = 0;
  for (int64_t domain = 0; domain < params.domains; ++domain) count += params.is_valid(domain, sample);
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
      if (!params.is_valid(domain, sample)) continue;
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
    if (lengths == nullptr) continue;
    if (chunk.transposed) {
      for (int64_t i = 0; i < size; ++i) {
        const int64_t column = (begin + i) / params.height;
        const int64_t row = (begin + i) % params.height;
        lengths[row * params.half_width() + column] = store<Stored>(length[i]);
      }
    } else {
      for (int64_t i = 0; i < size; ++i) lengths[begin + i] = store<Stored>(length[i]);
    }
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
  const bool assigned_is_valid = params.is_valid(assigned, sample);
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
        if (!params.is_valid(domain, sample)) continue;
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

constexpr int64_t kPairs = 4;  // row pairs that are transposed together: a cache line of float32 spectra

int64_t pairs_of(const SpectralParams& params) { return (params.height + 1) / 2; }

template <class Real, class Stored>
void pair_gradients(const SpectralParams& params, const Chunk& chunk, void* pairs) {
  const int64_t width = params.width;
  Real* pair = static_cast<Real*>(pairs);
  for (int64_t domain = 0; domain < params.domains; ++domain) {
    for (int64_t plane = 0; plane < chunk.planes; ++plane) {
      const Stored* row = static_cast<const Stored*>(params.domain_grads) +
                          (domain * params.planes() + chunk.first_plane + plane) * params.height * width;
      for (int64_t y = 0; y < params.height; y += 2, row += 2 * width, pair += 2 * width) {
        if (y + 1 < params.height) {
          for (int64_t x = 0; x < width; ++x) {
            pair[2 * x] = load(row[x]);
            pair[2 * x + 1] = load(row[width + x]);
          }
        } else {
          for (int64_t x = 0; x < width; ++x) {
            pair[2 * x] = load(row[x]);
            pair[2 * x + 1] = 0;
          }
        }
      }
    }
  }
}

// With Z the transform of r0 + i r1: that of r0 is (Z(k) + conj Z(-k)) / 2, that of r1 is (Z(k) - conj Z(-k))
// / 2i.
template <class Real>
void split_spectra(const SpectralParams& params, const Chunk& chunk, const void* pairs, void* spectra) {
  const int64_t width = params.width;
  const int64_t height = params.height;
  const Real* plane_pairs = static_cast<const Real*>(pairs);
  Real* spectrum = static_cast<Real*>(spectra);
  for (int64_t plane = 0; plane < params.domains * chunk.planes; ++plane) {
    for (int64_t first = 0; first < pairs_of(params); first += kPairs) {
      const int64_t end = first + kPairs < pairs_of(params) ? first + kPairs : pairs_of(params);
      for (int64_t k = 0; k < params.half_width(); ++k) {
        const int64_t mirror = k == 0 ? 0 : width - k;
        for (int64_t pair = first; pair < end; ++pair) {
          const Real* z = plane_pairs + (pair * width + k) * 2;
          const Real* m = plane_pairs + (pair * width + mirror) * 2;
          Real* rows = spectrum + (k * height + 2 * pair) * 2;
          rows[0] = Real(0.5) * (z[0] + m[0]);
          rows[1] = Real(0.5) * (z[1] - m[1]);
          if (2 * pair + 1 < height) {
            rows[2] = Real(0.5) * (z[1] + m[1]);
            rows[3] = Real(0.5) * (m[0] - z[0]);
          }
        }
      }
    }
    plane_pairs += pairs_of(params) * width * 2;
    spectrum += params.half_width() * height * 2;
  }
}

// The other way round: Z(k) = Y0(k) + i Y1(k), Z(-k) = conj Y0(k) + i conj Y1(k). A bin that is its own
// mirror is real in the spectrum of a real row; its rounding error must not leak into the other row.
template <class Real>
void pair_spectra(const SpectralParams& params, const Chunk& chunk, const void* spectra, void* pairs) {
  const int64_t width = params.width;
  const int64_t height = params.height;
  const Real* spectrum = static_cast<const Real*>(spectra);
  Real* plane_pairs = static_cast<Real*>(pairs);
  for (int64_t plane = 0; plane < chunk.planes; ++plane) {
    for (int64_t first = 0; first < pairs_of(params); first += kPairs) {
      const int64_t end = first + kPairs < pairs_of(params) ? first + kPairs : pairs_of(params);
      for (int64_t k = 0; k < params.half_width(); ++k) {
        const bool own_mirror = k == 0 || 2 * k == width;
        for (int64_t pair = first; pair < end; ++pair) {
          const Real* rows = spectrum + (k * height + 2 * pair) * 2;
          const bool two = 2 * pair + 1 < height;
          const Real re0 = rows[0];
          const Real im0 = own_mirror ? Real(0) : rows[1];
          const Real re1 = two ? rows[2] : Real(0);
          const Real im1 = two && !own_mirror ? rows[3] : Real(0);
          Real* z = plane_pairs + (pair * width + k) * 2;
          z[0] = re0 - im1;
          z[1] = im0 + re1;
          if (own_mirror) continue;
          Real* m = plane_pairs + (pair * width + width - k) * 2;
          m[0] = re0 + im1;
          m[1] = re1 - im0;
        }
      }
    }
    spectrum += params.half_width() * height * 2;
    plane_pairs += pairs_of(params) * width * 2;
  }
}

template <class Real>
void part_signal(const SpectralParams& params, const Chunk& chunk, const void* pairs) {
  const int64_t width = params.width;
  const Real* pair = static_cast<const Real*>(pairs);
  Real* row = static_cast<Real*>(chunk.class_signal);
  for (int64_t plane = 0; plane < chunk.planes; ++plane) {
    for (int64_t y = 0; y < params.height; ++y, row += width) {
      const Real* part = pair + (y / 2) * width * 2 + y % 2;
      for (int64_t x = 0; x < width; ++x) row[x] = part[2 * x];
    }
    pair += pairs_of(params) * width * 2;
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

template <class Real, class Stored>
constexpr GeneralKernels kKernels = {&reduce_planes<Real, Stored>,  &finish_planes<Real, Stored>,
                                     &pair_gradients<Real, Stored>, &split_spectra<Real>,
                                     &pair_spectra<Real>,           &part_signal<Real>};

}  // namespace

const GeneralKernels& general_kernels(Storage storage) {
  switch (storage) {
    case Storage::float64:
      return kKernels<double, double>;
    case Storage::bfloat16:
      return kKernels<float, BFloat16>;
    case Storage::float16:
      return kKernels<float, Float16>;
    default:
      return kKernels<float, float>;
  }
}

}  // namespace dgdd::spectral::DGDD_ISA
