// The seam between the torch glue and the convolution kernels: plain structs. No torch header is included
// here.
#pragma once

#include <cstdint>

namespace dgdd::convolution {

// Images [N, H, W, C] in float32: the channels of a pixel, and the pixels of a row and of an image, lie
// without gaps.

// One call of conv3x3, a 3 x 3 convolution with padding 1 and stride 1.
struct ConvolutionParams {
  int64_t samples;       // N >= 0
  int64_t height;        // H >= 1
  int64_t width;         // W >= 1
  int64_t in_channels;   // >= 1
  int64_t out_channels;  // >= 1

  const float* x;       // [N, H, W, in]
  const float* weight;  // [out, in, 3, 3]
  const float* bias;    // [out], or null

  float* result;  // [N, H, W, out]
};

// What follows it in one call of conv3x3_norm_relu_pool, whose maps are then kept nowhere.
struct NormPool {
  int64_t pool;  // in [1, min(H, W)]
  double eps;
  const float* weight;  // [out]
  const float* bias;    // [out]
  float* pooled;        // [N, H / pool, W / pool, out]
};

// One call of conv3x3_weight_grad.
struct WeightGradParams {
  int64_t samples;
  int64_t height;
  int64_t width;
  int64_t in_channels;
  int64_t out_channels;

  const float* x;     // [N, H, W, in]
  const float* grad;  // of the result, [N, H, W, out]

  float* weight_grad;  // [out, in, 3, 3]
  float* bias_grad;    // [out]
};

}  // namespace dgdd::convolution
