// Between the dispatch of the augmentation on the CPU and its kernels, which are compiled once per
// instruction set. No torch header is included here.
#pragma once

#include "augmentation/step.h"

namespace dgdd::augmentation {

struct CpuCall {
  AugmentationParams params;

  // Backward where rows are given: which rows of the batch came from image m, in ascending order:
  // items[starts[m]] up to items[starts[m + 1]].
  const int64_t* starts;
  const int64_t* items;
};

struct alignas(64) CacheLine {
  double numbers[8];
};

constexpr int64_t kGroup = 4;    // channels of a pixel that lie side by side and are computed at once
constexpr int64_t kChunk = 256;  // pixels whose colour is changed at once

// One thread's memory, in cache lines from its beginning. It must be zeros at first.
struct ScratchLayout {
  int64_t pixels = 0;  // the image with its border, pixel by pixel
  int64_t row;         // pixels of one row
  int64_t planes;      // rows or chunks, channel by channel
  int64_t weights;     // of a row's four neighbours
  int64_t indices;     // of a row's first neighbours
  int64_t total;       // the sum of several gradients, and one of them
  int64_t size;

  __attribute__((always_inline)) explicit ScratchLayout(const AugmentationParams& params) {
    const int64_t real = params.storage == Storage::float64 ? 8 : 4;
    const auto lines = [=](int64_t numbers) { return (numbers * real + 63) / 64; };
    const int64_t channels = params.channels < kGroup ? kGroup : params.channels;
    const int64_t longest = params.width < kChunk ? kChunk : params.width;
    const bool sums = params.backward && params.has_rows;
    row = lines(kGroup * (params.height + 2 * kBorder) * (params.width + 2 * kBorder));
    planes = row + lines(kGroup * params.width);
    weights = planes + lines((channels + 1) * longest);
    indices = weights + lines(4 * params.width);
    total = indices + lines(params.width);
    size = total + (sums ? 2 * lines(params.channels * params.height * params.width) : 0);
  }
};

// Makes the results [begin, end), each on its own, so that they do not change with the number of threads.
using CpuKernel = void (*)(const CpuCall& call, int64_t begin, int64_t end, CacheLine* scratch);

namespace baseline {
CpuKernel cpu_kernel(const AugmentationParams& params);
}
namespace avx2 {
CpuKernel cpu_kernel(const AugmentationParams& params);
}
namespace avx512 {
CpuKernel cpu_kernel(const AugmentationParams& params);
}

}  // namespace dgdd::augmentation
