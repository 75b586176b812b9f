// The torch side of convolutions on the CPU: from filled, checked parameters to the kernels.
#pragma once

#include "convolution/params.h"
#include "stable.h"

namespace dgdd::convolution {

void run_cpu(const ConvolutionParams& params);
void run_cpu(const ConvolutionParams& params, const NormPool& norm_pool);
void run_cpu(const WeightGradParams& params);

}  // namespace dgdd::convolution
