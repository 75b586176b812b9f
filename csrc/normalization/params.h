// The seam between the torch glue and the normalisation kernels: plain structs. No torch and no CUDA header
// is included here.
#pragma once

#include <cstdint>

#include "host_device.h"
#include "storage.h"

namespace dgdd::normalization {

// One call of norm_relu_pool or of its backward. Every plane (sample, channel) is
// normalised, activated and pooled by itself; Real below is float64 for float64 storage and float32 for all
// others.
struct NormPoolParams {
  bool backward;
  int64_t samples;   // N >= 0
  int64_t channels;  // C >= 0
  int64_t height;    // H >= pool
  int64_t width;     // W >= pool
  int64_t pool;      // >= 1
  double eps;
  Storage storage;  // of x, pooled, pooled_grad and x_grad

  // Strides count elements; rows of a plane follow one another, H * W positions. Planes lie by themselves,
  // position_stride = 1, or with the channels last, channel_stride = 1.
  const void* x;  // [N, C, H, W]
  int64_t sample_stride;
  int64_t channel_stride;
  int64_t position_stride;
  bool channels_last;

  const void* weight;  // Real [C]
  const void* bias;    // Real [C]

  // Without gaps, in the layout of x.
  void* pooled;             // [N, C, H / pool, W / pool], of the forward
  const void* pooled_grad;  // likewise, of the backward
  void* x_grad;             // [N, C, H, W], of the backward

  // Of the backward: what each plane adds, then the sums over the samples.
  void* plane_weight_grads;  // Real [N, C]
  void* plane_bias_grads;    // Real [N, C]
  void* weight_grad;         // Real [C]
  void* bias_grad;           // Real [C]

  DGDD_HOST_DEVICE int64_t positions() const { return height * width; }
  DGDD_HOST_DEVICE int64_t pooled_height() const { return height / pool; }
  DGDD_HOST_DEVICE int64_t pooled_width() const { return width / pool; }
};

}  // namespace dgdd::normalization
