// The torch side of the masking operators on each device: from filled, checked parameters to launches.
#pragma once

#include "masking/params.h"
#include "stable.h"

namespace dgdd::masking {

void run_cpu(const MaskingParams& params);
void run_cuda(const MaskingParams& params, const Device& device);

}  // namespace dgdd::masking
