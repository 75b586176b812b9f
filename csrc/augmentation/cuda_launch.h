// Between the CUDA glue of the augmentation and its kernels: how a call is laid out over threads. No torch
// and no CUDA header is included here.
#pragma once

#include <cstdint>

#include "augmentation/params.h"

namespace dgdd::augmentation {

constexpr int kThreads = 256;  // of every block

struct CudaCall {
  AugmentationParams params;

  // A block makes a part of one image, `part` pixels of all channels.
  int part;
  int parts;  // of an image

  // Backward where rows are given: device memory for the gradient that each row of the batch gives its image,
  // [B, C, H, W] in float32 (float64 for float64).
  void* items;
};

// An image is divided only as far as there would be too few blocks to fill the device: each block of a colour
// change computes the mean over the whole image.
inline void lay_out(CudaCall& call, int multiprocessors) {
  constexpr int64_t kBlocksAtOnce = 8;  // on a multiprocessor
  const AugmentationParams& params = call.params;
  const int64_t pixels = params.height * params.width;
  const int64_t most = (pixels + kThreads - 1) / kThreads;
  const int64_t wanted = params.batch == 0 ? 1 : kBlocksAtOnce * multiprocessors / params.batch;
  const int64_t parts = wanted < 1 ? 1 : wanted < most ? wanted : most;
  call.part = static_cast<int>((pixels + parts - 1) / parts);
  call.parts = static_cast<int>((pixels + call.part - 1) / call.part);
}

// On the current CUDA device. The launches return their cudaError_t, 0 for success.
int launch_forward(const CudaCall& call, void* stream);  // images -> result
// The batch's gradient -> items, or without rows result.
int launch_transpose(const CudaCall& call, void* stream);
int launch_sum(const CudaCall& call, void* stream);  // items -> result

}  // namespace dgdd::augmentation
