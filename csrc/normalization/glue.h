// The torch side of normalisation on each device: from filled, checked parameters to launches.
#pragma once

#include "normalization/params.h"
#include "stable.h"

namespace dgdd::normalization {

void run_cpu(const NormPoolParams& params);
void run_cuda(const NormPoolParams& params, const Device& device);

}  // namespace dgdd::normalization
