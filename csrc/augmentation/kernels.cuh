// The CUDA kernels of the augmentation. What happens to an image is the same for a whole block, so nothing
// diverges. Every sum has one order, no atomics are used, and nothing is read back by the host: the gradient
// of scaled and rotated images is gathered by each pixel from the outputs that sampled it, and that of
// images that repeat is summed by a scan of the rows.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "augmentation/cuda_launch.h"
#include "augmentation/step.h"
#include "cuda_shim.h"
#include "half.h"

namespace dgdd::augmentation {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWarps = kThreads / 32;
constexpr int kTogether = 4;  // channels whose gradients are gathered at once
constexpr int kOfLane = 8;    // numbers of one image that a lane sums
constexpr int kOfWarp = 32 * kOfLane;

template <class Stored>
using RealOf = std::conditional_t<std::is_same_v<Stored, double>, double, float>;

// One image and what becomes of it. `In` is uint8 or floating, `Out` what results are stored as.
template <class In, class Out>
struct Image {
  using Real = RealOf<Out>;
  const AugmentationParams& params;
  const In* source;
  Out* result;
  int plane;
  int width;

  __device__ __forceinline__ Image(const AugmentationParams& params_, const void* source_, int64_t row,
                                   void* result_, int64_t item)
      : params(params_),
        plane(static_cast<int>(params_.height * params_.width)),
        width(static_cast<int>(params_.width)) {
    const int64_t size = params.channels * plane;
    source = static_cast<const In*>(source_) + row * size;
    result = static_cast<Out*>(result_) + item * size;
  }

  __device__ __forceinline__ Real value(int64_t channel, int pixel) const {
    return ValueOf<In, Real>(params, channel)(source[channel * plane + pixel]);
  }
  __device__ __forceinline__ void write(int64_t channel, int pixel, Real number) const {
    result[channel * plane + pixel] = store<Out>(number);
  }
};

// In every thread of the block.
template <class Real>
__device__ __forceinline__ Real block_sum(Real number) {
  DGDD_SHARED(Real, partial, kWarps);
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) number += __shfl_xor_sync(kAllLanes, number, lanes);
  if (thread % 32 == 0) partial.store(thread / 32, number);
  __syncthreads();
  Real sum = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) sum += partial.load(warp);
  __syncthreads();  // before the next image's
  return sum;
}

// The pixel that an operation other than colour, scaling and rotation takes to (column, row), or -1 for 0.
template <class Real>
__device__ __forceinline__ int moved_from(const AugmentationParams& params, const Step<Real>& step,
                                          int column, int row) {
  const int64_t width = params.width;
  int64_t from_row = row;
  int64_t from_column = column;
  switch (step.operation) {
    case Operation::crop:
      from_row += static_cast<int64_t>(step.parameters[0]);
      from_column += static_cast<int64_t>(step.parameters[1]);
      break;
    case Operation::cutout: {
      const Real down = static_cast<Real>(row) - step.parameters[0];
      const Real right = static_cast<Real>(column) - step.parameters[1];
      if (down >= 0 && down < static_cast<Real>(params.cutout[0]) && right >= 0 &&
          right < static_cast<Real>(params.cutout[1]))
        return -1;
      break;
    }
    case Operation::flip:
      if (step.parameters[0] > 0) from_column = width - 1 - column;
      break;
    default:
      break;
  }
  if (from_row < 0 || from_row >= params.height || from_column < 0 || from_column >= width) return -1;
  return static_cast<int>(from_row * width + from_column);
}

template <class In, class Out>
__device__ __forceinline__ void move(const Image<In, Out>& image, const Step<RealOf<Out>>& step, int begin,
                                     int end) {
  for (int pixel = begin + static_cast<int>(threadIdx.x); pixel < end; pixel += kThreads) {
    const int from = moved_from(image.params, step, pixel % image.width, pixel / image.width);
    for (int64_t channel = 0; channel < image.params.channels; ++channel)
      image.write(channel, pixel, from < 0 ? 0 : image.value(channel, from));
  }
}

// With x a value, g the mean of its pixel's channels and m that of the image, all before it gets brighter by
// b: y = g + s (x - g) has the same means, and m + c (y - m) + b is the result.
template <class In, class Out>
__device__ __forceinline__ void change_color(const Image<In, Out>& image, const Step<RealOf<Out>>& step,
                                             int begin, int end) {
  using Real = RealOf<Out>;
  const int64_t channels = image.params.channels;
  const Real saturation = step.parameters[1];
  const Real contrast = step.parameters[2];
  Real sum = 0;
  for (int64_t channel = 0; channel < channels; ++channel)
    for (int pixel = static_cast<int>(threadIdx.x); pixel < image.plane; pixel += kThreads)
      sum += image.value(channel, pixel);
  const Real level = block_sum(sum) / static_cast<Real>(channels * image.plane);
  const Real own = contrast * saturation;
  const Real of_grey = contrast * (1 - saturation) / static_cast<Real>(channels);
  const Real rest = (1 - contrast) * level + step.parameters[0];
  for (int pixel = begin + static_cast<int>(threadIdx.x); pixel < end; pixel += kThreads) {
    Real grey = 0;
    for (int64_t channel = 0; channel < channels; ++channel) grey += image.value(channel, pixel);
    for (int64_t channel = 0; channel < channels; ++channel)
      image.write(channel, pixel, own * image.value(channel, pixel) + (of_grey * grey + rest));
  }
}

template <class In, class Out>
__device__ __forceinline__ void sample(const Image<In, Out>& image, const Affine<RealOf<Out>>& affine,
                                       int begin, int end) {
  using Real = RealOf<Out>;
  const int width = image.width;
  const int height = static_cast<int>(image.params.height);
  for (int pixel = begin + static_cast<int>(threadIdx.x); pixel < end; pixel += kThreads) {
    const Neighbours<Real> at(affine, pixel % width, pixel / width, width, height);
    const bool left = at.left >= 0 && at.left < width;
    const bool right = at.left + 1 >= 0 && at.left + 1 < width;
    const bool top = at.top >= 0 && at.top < height;
    const bool bottom = at.top + 1 >= 0 && at.top + 1 < height;
    const int first = at.top * width + at.left;
    for (int64_t channel = 0; channel < image.params.channels; ++channel) {
      Real sum = 0;
      if (top && left) sum += (1 - at.to_right) * (1 - at.to_bottom) * image.value(channel, first);
      if (top && right) sum += at.to_right * (1 - at.to_bottom) * image.value(channel, first + 1);
      if (bottom && left) sum += (1 - at.to_right) * at.to_bottom * image.value(channel, first + width);
      if (bottom && right) sum += at.to_right * at.to_bottom * image.value(channel, first + width + 1);
      image.write(channel, pixel, sum);
    }
  }
}

// The outputs along one axis that can have sampled a pixel: those less than `reach` from `centre`, with room
// for rounding; all of them where that is not a number.
template <class Real>
__device__ __forceinline__ void candidates(Real centre, Real reach, int side, int& first, int& last) {
  const Real room = reach + (Real(0.01) + Real(1e-6) * reach);
  const Real low = centre - room;
  const Real high = centre + room;
  first = low > 0 ? (low < static_cast<Real>(side) ? static_cast<int>(low) : side) : 0;
  last = high < static_cast<Real>(side - 1) ? (high > -1 ? static_cast<int>(high) : -1) : side - 1;
}

// The weight of a pixel among the two along one axis that a sample lies between.
template <class Real>
__device__ __forceinline__ Real share(int pixel, int first, Real to_second) {
  return pixel == first ? 1 - to_second : pixel == first + 1 ? to_second : Real(0);
}

// The transpose of `sample`.
template <class In, class Out>
__device__ __forceinline__ void gather(const Image<In, Out>& image, const Affine<RealOf<Out>>& affine,
                                       int begin, int end) {
  using Real = RealOf<Out>;
  const int width = image.width;
  const int height = static_cast<int>(image.params.height);
  const Affine<Real> back = affine.inverse();
  const Real reach_x = std::abs(back.from_x[0]) + std::abs(back.from_x[1]);
  const Real reach_y = std::abs(back.from_y[0]) + std::abs(back.from_y[1]);
  for (int pixel = begin + static_cast<int>(threadIdx.x); pixel < end; pixel += kThreads) {
    const int x = pixel % width;
    const int y = pixel / width;
    int first_column, last_column, first_row, last_row;
    candidates(back.x(static_cast<Real>(x), static_cast<Real>(y)), reach_x, width, first_column, last_column);
    candidates(back.y(static_cast<Real>(x), static_cast<Real>(y)), reach_y, height, first_row, last_row);
    for (int64_t first = 0; first < image.params.channels; first += kTogether) {
      const int64_t left = image.params.channels - first;
      Real sums[kTogether] = {};
      for (int row = first_row; row <= last_row; ++row)
        for (int column = first_column; column <= last_column; ++column) {
          const Neighbours<Real> at(affine, column, row, width, height);
          const Real weight = share(x, at.left, at.to_right) * share(y, at.top, at.to_bottom);
          if (weight == 0) continue;
#pragma unroll
          for (int i = 0; i < kTogether; ++i)
            if (i < left) sums[i] += weight * image.value(first + i, row * width + column);
        }
#pragma unroll
      for (int i = 0; i < kTogether; ++i)
        if (i < left) image.write(first + i, pixel, sums[i]);
    }
  }
}

// Forward each row of the batch from its image; backward what each row gives its image.
template <class In, class Out, bool backward>
__global__ void __launch_bounds__(kThreads, 2) augment_kernel(CudaCall call) {
  using Real = RealOf<Out>;
  const AugmentationParams& params = call.params;
  const bool summed = backward && params.has_rows;
  for (int64_t work = blockIdx.x; work < params.batch * call.parts; work += gridDim.x) {
    const int64_t item = work / call.parts;
    const Step<Real> step(params, item);
    const bool gathered = !backward && params.has_rows && step.valid;
    const Image<In, Out> image(params, params.source, gathered ? params.rows[item] : item,
                               summed ? call.items : params.result, item);
    const int begin = static_cast<int>(work % call.parts) * call.part;
    const int end = call.part < image.plane - begin ? begin + call.part : image.plane;
    if (!step.valid) {
      for (int pixel = begin + static_cast<int>(threadIdx.x); pixel < end; pixel += kThreads)
        for (int64_t channel = 0; channel < params.channels; ++channel)
          image.write(channel, pixel, Real(NAN));
    } else if (step.operation == Operation::color) {
      change_color(image, step, begin, end);
    } else if (step.operation == Operation::scale || step.operation == Operation::rotate) {
      const Affine<Real> affine(params, step);
      if constexpr (backward)
        gather(image, affine, begin, end);
      else
        sample(image, affine, begin, end);
    } else {
      move(image, step, begin, end);
    }
  }
}

// The gradient of each image: the sum over its rows of the batch, in their order. A warp sums a part of an
// image.
template <class Stored>
__global__ void __launch_bounds__(kThreads) sum_kernel(CudaCall call) {
  using Real = RealOf<Stored>;
  const AugmentationParams& params = call.params;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t size = params.channels * params.height * params.width;
  const int64_t parts = (size + kOfWarp - 1) / kOfWarp;
  const int64_t warps = int64_t{gridDim.x} * kWarps;
  for (int64_t work = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32; work < params.images * parts;
       work += warps) {
    const int64_t image = work / parts;
    const int64_t first = work % parts * kOfWarp + lane;
    Real sums[kOfLane] = {};
    for (int64_t start = 0; start < params.batch; start += 32) {
      const int64_t row = start + lane;
      unsigned found = __ballot_sync(kAllLanes, row < params.batch && params.rows[row] == image);
      for (; found != 0; found &= found - 1) {
        const int64_t item = start + __ffs(static_cast<int>(found)) - 1;
        const Real* numbers = static_cast<const Real*>(call.items) + item * size;
#pragma unroll
        for (int i = 0; i < kOfLane; ++i)
          if (first + 32 * i < size) sums[i] += numbers[first + 32 * i];
      }
    }
#pragma unroll
    for (int i = 0; i < kOfLane; ++i)
      if (first + 32 * i < size)
        static_cast<Stored*>(params.result)[image * size + first + 32 * i] = store<Stored>(sums[i]);
  }
}

}  // namespace
}  // namespace dgdd::augmentation
