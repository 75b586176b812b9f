// Between the dispatch of convolutions on the CPU and their kernels, which are compiled once per instruction
// set. No torch header is included here.
#pragma once

#include "convolution/params.h"

namespace dgdd::convolution {

struct CpuKernels {
  // How many numbers the weights take as the kernel wants them, and the weights of the output channels that
  // panel `panel` has; there are `panels` of them.
  int64_t (*weight_numbers)(const ConvolutionParams& params);
  int64_t (*panels)(const ConvolutionParams& params);
  void (*arrange_weights)(const ConvolutionParams& params, int64_t panel, float* arranged);

  // The images [begin, end), each on its own, into `result`, where image `begin` comes first.
  int64_t (*scratch_numbers)(const ConvolutionParams& params);
  void (*convolve)(const ConvolutionParams& params, const float* arranged, int64_t begin, int64_t end,
                   float* result, float* scratch);

  // What the images [begin, end) add to both gradients.
  int64_t (*grad_scratch_numbers)(const WeightGradParams& params);
  void (*weight_grad)(const WeightGradParams& params, int64_t begin, int64_t end, float* weight_grad,
                      float* bias_grad, float* scratch);
};

namespace baseline {
CpuKernels cpu_kernels();
}
namespace avx2 {
CpuKernels cpu_kernels();
}
namespace avx512 {
CpuKernels cpu_kernels();
}

}  // namespace dgdd::convolution
