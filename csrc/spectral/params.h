// The seam between the torch glue and the kernels: plain structs and launch prototypes. No torch and no CUDA
// header is included here.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "host_device.h"
#include "storage.h"

namespace dgdd::spectral {

// One call of a spectral operator on contiguous data. Exactly one group of outputs is set; it tells which
// operator is meant. A plane is one (sample, channel) image of height x width; there are samples * channels
// of them, and each is independent of the others: a NaN or Inf in one plane of the gradients must not
// reach another plane, where it may change the rounding and nothing else.
struct SpectralParams {
  int64_t domains;   // D >= 1
  int64_t samples;   // N >= 0; for spectral_consensus every plane counts as a sample of one channel
  int64_t channels;  // C >= 0
  int64_t height;    // H >= 1
  int64_t width;     // W >= 1
  Storage storage;   // of every `void*` below

  const void* domain_grads;     // [D, N, C, H, W]
  const void* base_grad;        // [N, C, H, W], or null: the mean over the sample's valid domains
  const int64_t* domain_index;  // [N], the domain assigned to each sample; null for spectral_consensus
  const bool* domain_valid;     // [D, N], or null: all are valid. The data of an invalid domain must not be
                                // used: it may be NaN.

  double alpha;             // weight of the class-discriminative signal
  double beta;              // weight of the assigned domain's deviation
  double eps;               // >= 0, absolute, added to the sum of magnitudes
  double learning_rate;     // of the SGD step
  double momentum;          // of the SGD step
  bool weighted_deviation;  // true: g_dom = g^d - g_cls; false: g_dom = g^d - mean over the valid domains

  // spectral_consensus
  void* class_signal;      // [N, C, H, W]
  void* resultant_length;  // [N, C, H, W/2 + 1]
  // spectral_surgery
  void* update;  // [N, C, H, W] = base + alpha * g_cls + beta * g_dom[domain_index]
  // spectral_surgery_step_: buffer <- momentum * buffer + update; images <- images - learning_rate * buffer.
  // With half storage the image takes the buffer's value before that is rounded for storing.
  void* images;           // [N, C, H, W], read and written
  void* momentum_buffer;  // [N, C, H, W], read and written

  DGDD_HOST_DEVICE int64_t planes() const { return samples * channels; }
  DGDD_HOST_DEVICE int64_t half_width() const { return width / 2 + 1; }
  DGDD_HOST_DEVICE bool is_valid(int64_t domain, int64_t sample) const {
    return domain_valid == nullptr || domain_valid[domain * samples + sample];
  }
  // Whether all pixels, read or written, begin at a multiple of `bytes`, as wide accesses need it.
  bool pixels_aligned(uintptr_t bytes) const {
    uintptr_t addresses = 0;
    for (const void* pixels :
         {domain_grads, base_grad, static_cast<const void*>(class_signal), static_cast<const void*>(update),
          static_cast<const void*>(images), static_cast<const void*>(momentum_buffer)})
      addresses |= reinterpret_cast<uintptr_t>(pixels);
    return addresses % bytes == 0;
  }
};

// Corner cases that every tier treats alike, with V the sample's valid domains:
//   R = |sum of G| / (sum of |G| + eps) over V, and 0 where that denominator is 0; NaN stays NaN;
//   V is empty: mean, g_cls and R are 0;
//   the assigned domain is not in V: g_dom is 0 for that sample;
//   domain_index outside [0, D): the CPU glue has refused it before a kernel runs; a CUDA kernel writes NaN
//   for that sample.

// The fused CPU tier: one cache-resident pass from domain gradients to output, for the sizes it knows.
// float64 is never given to it.
bool fused_cpu_available(int64_t height, int64_t width);
// The number of independent pieces of work that a call falls into; the glue spreads them over threads.
int64_t fused_cpu_units(const SpectralParams& params);
// Does the units [begin, end). Called from several threads at once; needs no memory from the caller; does not
// throw. What a unit computes must not depend on begin and end, so that results do not change with the number
// of threads.
void launch_fused_cpu(const SpectralParams& params, int64_t begin, int64_t end);

}  // namespace dgdd::spectral
