// The seam between the torch glue and the masking kernels: plain structs. No torch and no CUDA header is
// included here.
#pragma once

#include <cstdint>

#include "host_device.h"
#include "storage.h"

namespace dgdd::masking {

// One call of a masking operator: for each sample on its own, up to three steps one after another. What is
// not null says which: `weight` asks for scores, `uniforms` for a mask, `masked` for masked features. A step
// takes what the step before made, or else the given scores or mask.
struct MaskingParams {
  int64_t samples;    // N >= 0
  int64_t channels;   // C >= 0
  int64_t positions;  // S >= 0, the trailing axes as one
  int64_t domains;    // D >= 0
  Storage storage;    // of every `void*` below that has no storage of its own

  // Strides count elements. The features lie in planes, position_stride = 1, or with the channels last,
  // channel_stride = 1.
  const void* features;  // [N, C, S]
  int64_t sample_stride;
  int64_t channel_stride;
  int64_t position_stride;
  bool channels_last;

  // Scores: weight[domain_index] times the mean over the positions.
  const void* weight;  // [D, C]
  Storage weight_storage;
  const int64_t* domain_index;  // [N]. The CPU glue has refused what is outside [0, D); a CUDA kernel scores
                                // NaN there.
  bool per_pixel;               // min-max over the channels at every position before the mean
  const void* given_scores;     // [N, C]

  // The mask: exactly num_masked zeros a row, or a row of NaN (see selection.h).
  const void* uniforms;  // [N, C]
  Storage uniforms_storage;
  int64_t num_masked;  // in [0, C]
  bool normalize;
  const void* given_mask;  // [N, C]

  double scale;  // of the channels that are kept

  // Outputs, each null where nobody asked for it.
  void* scores;  // [N, C]
  void* mask;    // [N, C] of 0 and 1
  void* masked;  // [N, C, S], or [N, S, C] with the channels last, without gaps: features * mask * scale
};

}  // namespace dgdd::masking
