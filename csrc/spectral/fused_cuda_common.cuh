// What the fused CUDA kernels share: transforms of a few values in registers, the roots of unity between
// them, the agreement at a bin, and the way from a plane's class signal to the call's output.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda_shim.h"
#include "half.h"
#include "spectral/arithmetic.h"
#include "spectral/params.h"
#include "spectral/twiddles.h"

namespace dgdd::spectral {

// -------- complex numbers

struct alignas(8) Complex {
  float re;
  float im;
};

DGDD_HOST_DEVICE Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
DGDD_HOST_DEVICE Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
DGDD_HOST_DEVICE Complex operator*(float a, Complex b) { return {a * b.re, a * b.im}; }

// Times a root, or for an inverse transform times its conjugate.
template <bool kInverse>
DGDD_HOST_DEVICE Complex turned(Complex a, Complex root) {
  if constexpr (kInverse)
    return {a.re * root.re + a.im * root.im, a.im * root.re - a.re * root.im};
  else
    return {a.re * root.re - a.im * root.im, a.re * root.im + a.im * root.re};
}

// exp(-2 pi i k / n), rounded from float64.
constexpr Complex root_of_unity(int k, int n) {
  return {static_cast<float>(root_cosine(k, n)), static_cast<float>(-root_sine(k, n))};
}

// exp(-2 pi i k l / (kRows * kColumns)) at [k][l].
template <int kRows, int kColumns>
struct Twiddles {
  Complex at[kRows][kColumns];
  constexpr Twiddles() : at() {
    for (int k = 0; k < kRows; ++k)
      for (int l = 0; l < kColumns; ++l) at[k][l] = root_of_unity(k * l, kRows * kColumns);
  }
};

// The discrete Fourier transform of N = 2, 4, 8 or 16 values in registers, results in natural order; the
// inverse without its factor 1/N. By halves: even and odd values, then one butterfly.
template <bool kInverse, int N>
__device__ __forceinline__ void transform(Complex* v) {
  if constexpr (N == 2) {
    const Complex a = v[0], b = v[1];
    v[0] = a + b;
    v[1] = a - b;
  } else {
    constexpr int kHalf = N / 2;
    Complex even[kHalf], odd[kHalf];
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      even[i] = v[2 * i];
      odd[i] = v[2 * i + 1];
    }
    transform<kInverse, kHalf>(even);
    transform<kInverse, kHalf>(odd);
#pragma unroll
    for (int k = 0; k < kHalf; ++k) {
      Complex b = odd[k];
      if (4 * k == N) {  // times -i, or i
        b = kInverse ? Complex{-b.im, b.re} : Complex{b.im, -b.re};
      } else if (8 * k == N || 8 * k == 3 * N) {  // times (1 - i) / sqrt(2), (-1 - i) / sqrt(2)
        constexpr float kHalfRoot = 0.70710678118654752f;
        const float sum = kHalfRoot * (b.re + b.im), difference = kHalfRoot * (b.im - b.re);
        if constexpr (kInverse)
          b = 8 * k == N ? Complex{-difference, sum} : Complex{-sum, -difference};
        else
          b = 8 * k == N ? Complex{sum, difference} : Complex{difference, -sum};
      } else if (k != 0) {
        constexpr Twiddles<2, kHalf> kRoots;
        b = turned<kInverse>(b, kRoots.at[1][k]);
      }
      v[k] = even[k] + b;
      v[k + kHalf] = even[k] - b;
    }
  }
}

// -------- at one bin

// |a|. Careful: also where squares leave the range of float32, by way of numbers near 1.
template <bool kCareful>
DGDD_HOST_DEVICE float magnitude(Complex a) {
  if constexpr (!kCareful) return square_root(a.re * a.re + a.im * a.im);
  const uint32_t exponent = bits_as<uint32_t>(fmaxf(fabsf(a.re), fabsf(a.im))) & 0x7f800000u;
  const uint32_t kept = exponent < 0x00800000u   ? 0x00800000u
                        : exponent > 0x7e800000u ? 0x7e800000u
                                                 : exponent;
  const Complex scaled = bits_as<float>(0x7f000000u - kept) * a;
  return bits_as<float>(kept) * square_root(scaled.re * scaled.re + scaled.im * scaled.im);
}

// a / b, good to about the last place, for b from the smallest normal number up to 2^126.
__device__ __forceinline__ float fast_quotient(float a, float b) {
  const float reciprocal = approximate_reciprocal(b), quotient = a * reciprocal;
  return fmaf(fmaf(-quotient, b, a), reciprocal, quotient);
}

// Stands for every larger eps: still finite, and far beyond the sums of magnitudes that it is added to.
constexpr double kLargestEps = 1e37;
constexpr float kSmallestNormal = 1.17549435e-38f;

// SGS, Eq. 9: |sum| / (sum of |G| + eps), 0 where all are 0, and never above 1 by rounding. NaN stays NaN.
__device__ __forceinline__ float resultant_length(float sum_magnitude, float magnitudes, float eps) {
  const float length = fast_quotient(sum_magnitude, fmaxf(magnitudes + eps, kSmallestNormal));
  return length > 1.0f ? 1.0f : length;
}

// -------- one plane of the call

// threadIdx.x, threadIdx.y and blockDim.y, of which the compiler knows nothing: nothing that is computed from
// them is kept in registers from one domain to the next, nor are they themselves.
#if defined(__CUDA_ARCH__)
#define DGDD_REREAD(name, special)                            \
  __device__ __forceinline__ int name() {                     \
    int value;                                                \
    asm volatile("mov.u32 %0, %%" special ";" : "=r"(value)); \
    return value;                                             \
  }
DGDD_REREAD(reread_thread, "tid.x")
DGDD_REREAD(reread_group, "tid.y")
DGDD_REREAD(reread_groups, "ntid.y")
#undef DGDD_REREAD
#else
__device__ __forceinline__ int reread_thread() { return static_cast<int>(threadIdx.x); }
__device__ __forceinline__ int reread_group() { return static_cast<int>(threadIdx.y); }
__device__ __forceinline__ int reread_groups() { return static_cast<int>(blockDim.y); }
#endif

// The valid domain that comes after `domain` with `skipped` others between; D where there is none.
__device__ inline int next_valid(const SpectralParams& params, int sample, int domain, int skipped = 0) {
  for (++domain; domain < static_cast<int>(params.domains); ++domain)
    if (params.is_valid(domain, static_cast<unsigned>(sample)) && skipped-- == 0) break;
  return domain;
}

// A sample's valid domains in turn: by their numbers, but `last`, if it is not -1, after all others. From
// `domain`
// (-1 for the beginning) on to the next with `skipped` others between; D where there is none.
__device__ __forceinline__ int next_in_turn(const SpectralParams& params, int sample, int last, int domain,
                                            int skipped = 0) {
  const int domains = static_cast<int>(params.domains);
  if (domain >= domains || (domain >= 0 && domain == last)) return domains;
  for (++domain; domain < domains; ++domain)
    if (domain != last && params.is_valid(domain, static_cast<unsigned>(sample)) && skipped-- == 0)
      return domain;
  return last >= 0 && skipped == 0 ? last : domains;
}

// Where a block's plane lies and what its output is made of. Planes, and so samples, are counted in int: a
// grid has no more blocks in a row, and as many planes of the smallest tile would take terabytes.
template <class Stored>
struct PlaneJob {
  int sample;
  int64_t first_pixel;  // of [N, C, H, W]
  int valid_domains;
  float one_over_valid;  // 0 where no domain is valid

  __device__ explicit PlaneJob(const SpectralParams& params, unsigned plane = blockIdx.x)
      : sample(static_cast<int>(plane) / static_cast<int>(params.channels)),
        first_pixel(plane * params.height * params.width),
        valid_domains(0) {
    for (int domain = 0; domain < params.domains; ++domain) valid_domains += params.is_valid(domain, sample);
    one_over_valid = valid_domains == 0 ? 0.0f : 1.0f / static_cast<float>(valid_domains);
  }

  __device__ const Stored* gradient(const SpectralParams& params, int64_t domain) const {
    return static_cast<const Stored*>(params.domain_grads) +
           domain * (params.planes() * params.height * params.width) + first_pixel;
  }
};

// What the host makes of a call once, not every thread for itself: float64 is slow on most devices.
struct Settings {
  bool aligned;  // pairs of pixels can be taken at once from all of the call's data
  float alpha;
  float beta;
  float alpha_less_beta;
  float doubled_eps;
  float learning_rate;
  float momentum;

  template <class Stored>
  static Settings of(const SpectralParams& params) {
    const double eps = 2 * params.eps;
    return {params.pixels_aligned(2 * sizeof(Stored)),
            static_cast<float>(params.alpha),
            static_cast<float>(params.beta),
            static_cast<float>(params.alpha - params.beta),
            static_cast<float>(eps < kLargestEps ? eps : kLargestEps),
            static_cast<float>(params.learning_rate),
            static_cast<float>(params.momentum)};
  }
};

// Outputs are linear in the sum S of the valid domains' spectra, its weight R and two planes of the call:
//   update = F^-1((p + q R) S / V) + beta own + base,
// so the mean over the domains need not be formed in space. V is the number of valid domains, p is 1 without
// a base, less beta if the deviation is from the mean, and q is alpha, less beta if it is from the class
// signal.
struct OutputWeights {
  float p;
  float q;
  float beta;  // 0 where there is no deviation to add

  __device__ __forceinline__ OutputWeights(const SpectralParams& params, const Settings& settings, int sample)
      : p(0), q(1), beta(0) {
    if (params.domain_index == nullptr) return;
    const int64_t own = params.domain_index[sample];
    const bool in_range = own >= 0 && own < params.domains;
    const bool deviates = in_range && params.is_valid(own, sample);
    const bool from_signal = deviates && params.weighted_deviation;
    beta = deviates ? settings.beta : 0.0f;
    p = (params.base_grad == nullptr ? 1.0f : 0.0f) - (from_signal ? 0.0f : beta);
    q = from_signal ? settings.alpha_less_beta : settings.alpha;
    if (!in_range) p = NAN;
  }
};

// Whether the output needs the sum over the valid domains' gradients, pixel by pixel.
DGDD_HOST_DEVICE bool needs_spatial_sum(const SpectralParams& params) {
  return params.class_signal == nullptr && (params.base_grad == nullptr || !params.weighted_deviation);
}

// Writes the output at kCount pixels of a plane, `pixel(i)` from its first one: from their class signal and,
// where it is needed, the sum of their gradients over the valid domains. Everything is read before anything
// is written, so that the reads wait for memory together.
template <class Stored, int kCount, class Pixel>
__device__ __forceinline__ void finish_pixels(const SpectralParams& params, const PlaneJob<Stored>& job,
                                              const float (&class_signal)[kCount],
                                              const float (&spatial_sum)[kCount], const Pixel& pixel) {
  if (params.class_signal != nullptr) {
    Stored* output = static_cast<Stored*>(params.class_signal) + job.first_pixel;
#pragma unroll
    for (int i = 0; i < kCount; ++i) output[pixel(i)] = store<Stored>(class_signal[i]);
    return;
  }

  const int64_t assigned = params.domain_index[job.sample];
  const bool in_range = assigned >= 0 && assigned < params.domains;
  const bool deviates = in_range && params.is_valid(assigned, job.sample);
  float mean[kCount], own[kCount], update[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) mean[i] = update[i] = spatial_sum[i] * job.one_over_valid;
  if (params.base_grad != nullptr) {
    const Stored* given = static_cast<const Stored*>(params.base_grad) + job.first_pixel;
#pragma unroll
    for (int i = 0; i < kCount; ++i) update[i] = load(given[pixel(i)]);
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) own[i] = params.weighted_deviation ? class_signal[i] : mean[i];
  if (deviates) {
    const Stored* gradient = job.gradient(params, assigned);
#pragma unroll
    for (int i = 0; i < kCount; ++i) own[i] = load(gradient[pixel(i)]);
  }
  const float alpha = static_cast<float>(params.alpha), beta = static_cast<float>(params.beta);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float centre = params.weighted_deviation ? class_signal[i] : mean[i];
    update[i] = surgery(update[i], class_signal[i], own[i], centre, alpha, beta);
    if (!in_range) update[i] = NAN;
  }

  if (params.update != nullptr) {
    Stored* output = static_cast<Stored*>(params.update) + job.first_pixel;
#pragma unroll
    for (int i = 0; i < kCount; ++i) output[pixel(i)] = store<Stored>(update[i]);
    return;
  }
  Stored* buffer = static_cast<Stored*>(params.momentum_buffer) + job.first_pixel;
  Stored* images = static_cast<Stored*>(params.images) + job.first_pixel;
  const float momentum = static_cast<float>(params.momentum);
  const float learning_rate = static_cast<float>(params.learning_rate);
  float image[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    update[i] += momentum * load(buffer[pixel(i)]);
    image[i] = load(images[pixel(i)]);
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    buffer[pixel(i)] = store<Stored>(update[i]);
    images[pixel(i)] = store<Stored>(image[i] - learning_rate * update[i]);
  }
}

}  // namespace dgdd::spectral
