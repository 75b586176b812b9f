// The torch side of the augmentation on each device: from filled, checked parameters to launches.
#pragma once

#include "augmentation/params.h"
#include "stable.h"

namespace dgdd::augmentation {

void run_cpu(const AugmentationParams& params);
void run_cuda(const AugmentationParams& params, const Device& device);

}  // namespace dgdd::augmentation
