// The CPU kernels of the augmentation, compiled once per instruction set with DGDD_ISA naming it. An image is
// read, changed and written by one thread, from and to cache. Loops are plain, for compilers to vectorise.
// Everything here is local to the unit or inlined: a function shared with other units could be linked with
// the wrong instruction set.
#include "augmentation/cpu_kernels.h"

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "augmentation/step.h"
#include "half.h"

namespace dgdd::augmentation::DGDD_ISA {
namespace {

template <class Stored>
using RealOf = std::conditional_t<std::is_same_v<Stored, double>, double, float>;

// The channels of one pixel.
template <class Real>
using Pixel [[gnu::vector_size(kGroup * sizeof(Real))]] = Real;

// Sums are taken lane by lane: their order is part of the result, which compilers do not change by
// themselves.
template <class Real>
using Lanes [[gnu::vector_size(32)]] = Real;

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t larger(int64_t a, int64_t b) { return a < b ? b : a; }

template <class Real>
struct Scratch {
  Pixel<Real>* pixels;
  Pixel<Real>* row;
  Real* planes;
  Real* weights;
  int32_t* indices;
  Real* total;
  Real* item;

  Scratch(const AugmentationParams& params, CacheLine* memory) {
    const ScratchLayout layout(params);
    pixels = reinterpret_cast<Pixel<Real>*>(memory);
    row = reinterpret_cast<Pixel<Real>*>(memory + layout.row);
    planes = reinterpret_cast<Real*>(memory + layout.planes);
    weights = reinterpret_cast<Real*>(memory + layout.weights);
    indices = reinterpret_cast<int32_t*>(memory + layout.indices);
    total = reinterpret_cast<Real*>(memory + layout.total);
    item = reinterpret_cast<Real*>(memory + layout.total + (layout.size - layout.total) / 2);
  }
};

// One image and what becomes of it. `In` is uint8 or floating, `Out` floating; Out is In or wider, but for
// uint8.
template <class In, class Out>
struct Image {
  using Real = RealOf<Out>;
  using Value = ValueOf<In, Real>;
  const AugmentationParams& params;
  const In* source;
  Out* result;
  Scratch<Real> scratch;
  int64_t plane = params.height * params.width;

  void widen(Real* __restrict to, const In* __restrict from, int64_t size, const Value& value) const {
    for (int64_t i = 0; i < size; ++i) to[i] = value(from[i]);
  }

  void copy(Out* __restrict to, const In* __restrict from, int64_t size, const Value& value) const {
    if constexpr (std::is_same_v<In, Out>)
      memcpy(to, from, size * sizeof(Out));
    else
      for (int64_t i = 0; i < size; ++i) to[i] = store<Out>(value(from[i]));
  }

  static void clear(Out* to, int64_t size) { memset(to, 0, size * sizeof(Out)); }

  void keep() const {
    for (int64_t channel = 0; channel < params.channels; ++channel)
      copy(result + channel * plane, source + channel * plane, plane, Value(params, channel));
  }

  void crop(int64_t first_row, int64_t first_column) const {
    const int64_t height = params.height, width = params.width;
    const int64_t begin = smaller(larger(-first_column, 0), width);
    const int64_t end = larger(smaller(width - first_column, width), begin);
    for (int64_t channel = 0; channel < params.channels; ++channel) {
      const Value value(params, channel);
      for (int64_t row = 0; row < height; ++row) {
        Out* to = result + channel * plane + row * width;
        const int64_t from = row + first_row;
        if (from < 0 || from >= height) {
          clear(to, width);
          continue;
        }
        clear(to, begin);
        copy(to + begin, source + channel * plane + from * width + begin + first_column, end - begin, value);
        clear(to + end, width - end);
      }
    }
  }

  void cutout(Real first_row, Real first_column) const {
    keep();
    // The box in whole pixels: those whose distance from the first is in [0, side).
    const auto inside = [](int64_t position, Real first, int64_t side) {
      const Real distance = static_cast<Real>(position) - first;
      return distance >= 0 && distance < static_cast<Real>(side);
    };
    int64_t begin = 0, end;
    while (begin < params.width && !inside(begin, first_column, params.cutout[1])) ++begin;
    for (end = begin; end < params.width && inside(end, first_column, params.cutout[1]);) ++end;
    for (int64_t row = 0; row < params.height; ++row)
      if (inside(row, first_row, params.cutout[0]))
        for (int64_t channel = 0; channel < params.channels; ++channel)
          clear(result + channel * plane + row * params.width + begin, end - begin);
  }

  void flip() const {
    const int64_t width = params.width;
    for (int64_t channel = 0; channel < params.channels; ++channel) {
      const Value value(params, channel);
      for (int64_t row = 0; row < params.height; ++row) {
        const In* from = source + channel * plane + row * width;
        Out* to = result + channel * plane + row * width;
        for (int64_t column = 0; column < width; ++column)
          to[column] = store<Out>(value(from[width - 1 - column]));
      }
    }
  }

  Real sum_of(const Real* numbers, int64_t size) const {
    constexpr int64_t width = 32 / sizeof(Real);
    Lanes<Real> sums[2] = {};
    int64_t i = 0;
    for (; i + 2 * width <= size; i += 2 * width)
      for (int part = 0; part < 2; ++part) {
        Lanes<Real> lanes;
        memcpy(&lanes, numbers + i + part * width, sizeof(lanes));
        sums[part] += lanes;
      }
    sums[0] += sums[1];
    Real total = 0;
    for (int64_t lane = 0; lane < width / 2; ++lane) total += sums[0][lane] + sums[0][lane + width / 2];
    for (; i < size; ++i) total += numbers[i];
    return total;
  }

  // The mean over pixels and channels.
  double level() const {
    double total = 0;
    for (int64_t channel = 0; channel < params.channels; ++channel) {
      const Value value(params, channel);
      for (int64_t begin = 0; begin < plane; begin += kChunk) {
        const int64_t size = smaller(plane - begin, kChunk);
        widen(scratch.planes, source + channel * plane + begin, size, value);
        total += static_cast<double>(sum_of(scratch.planes, size));
      }
    }
    return total / static_cast<double>(params.channels * plane);
  }

  // With x a value, g the mean of its pixel's channels and m that of the image, all before it gets brighter
  // by b: y = g + s (x - g) has the same means, and m + c (y - m) + b is the result.
  void color(Real brightness, Real saturation, Real contrast) const {
    const Real own = contrast * saturation;
    const Real of_grey = contrast * (1 - saturation) / static_cast<Real>(params.channels);
    const Real rest = (1 - contrast) * static_cast<Real>(level()) + brightness;
    Real* __restrict grey = scratch.planes + params.channels * kChunk;
    for (int64_t begin = 0; begin < plane; begin += kChunk) {
      const int64_t size = smaller(plane - begin, kChunk);
      for (int64_t i = 0; i < size; ++i) grey[i] = 0;
      for (int64_t channel = 0; channel < params.channels; ++channel) {
        Real* __restrict values = scratch.planes + channel * kChunk;
        widen(values, source + channel * plane + begin, size, Value(params, channel));
        for (int64_t i = 0; i < size; ++i) grey[i] += values[i];
      }
      for (int64_t i = 0; i < size; ++i) grey[i] = of_grey * grey[i] + rest;
      for (int64_t channel = 0; channel < params.channels; ++channel) {
        const Real* __restrict values = scratch.planes + channel * kChunk;
        Out* __restrict to = result + channel * plane + begin;
        for (int64_t i = 0; i < size; ++i) to[i] = store<Out>(own * values[i] + grey[i]);
      }
    }
  }

  int64_t padded_width() const { return params.width + 2 * kBorder; }

  // The first of the four neighbours of each place that a row of outputs samples, and their weights.
  void locate(const Affine<Real>& affine, int row) const {
    const int width = static_cast<int>(params.width);
    const int32_t padded = static_cast<int32_t>(padded_width());
    const int height = static_cast<int>(params.height);
    int32_t* __restrict indices = scratch.indices;
    Real* __restrict weights = scratch.weights;
    for (int column = 0; column < width; ++column) {
      const Neighbours<Real> at(affine, column, row, width, height);
      indices[column] = (at.top + kBorder) * padded + at.left + kBorder;
      weights[column] = (1 - at.to_right) * (1 - at.to_bottom);
      weights[width + column] = at.to_right * (1 - at.to_bottom);
      weights[2 * width + column] = (1 - at.to_right) * at.to_bottom;
      weights[3 * width + column] = at.to_right * at.to_bottom;
    }
  }

  // A row of `count` channels, pixel by pixel.
  void interleave(Pixel<Real>* __restrict to, int64_t channel, int64_t count, int64_t row) const {
    const int64_t width = params.width;
    for (int64_t c = 0; c < count; ++c)
      widen(scratch.planes + c * width, source + (channel + c) * plane + row * width, width,
            Value(params, channel + c));
    const Real* __restrict planes = scratch.planes;
    for (int64_t column = 0; column < width; ++column)
      to[column] = Pixel<Real>{planes[column], planes[width + column], planes[2 * width + column],
                               planes[3 * width + column]};
  }

  void separate(const Pixel<Real>* __restrict from, int64_t channel, int64_t count, int64_t row) const {
    const int64_t width = params.width;
    for (int64_t c = 0; c < count; ++c) {
      Out* __restrict to = result + (channel + c) * plane + row * width;
      for (int64_t column = 0; column < width; ++column) to[column] = store<Out>(from[column][c]);
    }
  }

  Pixel<Real>* pixels_of(int64_t row) const {
    return scratch.pixels + (row + kBorder) * padded_width() + kBorder;
  }

  void sample(const Affine<Real>& affine) const {
    const int64_t width = params.width, padded = padded_width();
    const Real* __restrict weights = scratch.weights;
    for (int64_t channel = 0; channel < params.channels; channel += kGroup) {
      const int64_t count = smaller(params.channels - channel, kGroup);
      for (int64_t row = 0; row < params.height; ++row) interleave(pixels_of(row), channel, count, row);
      for (int64_t row = 0; row < params.height; ++row) {
        locate(affine, static_cast<int>(row));
        for (int64_t column = 0; column < width; ++column) {
          const Pixel<Real>* at = scratch.pixels + scratch.indices[column];
          scratch.row[column] =
              (weights[column] * at[0] + weights[width + column] * at[1]) +
              (weights[2 * width + column] * at[padded] + weights[3 * width + column] * at[padded + 1]);
        }
        separate(scratch.row, channel, count, row);
      }
    }
  }

  // The transpose of `sample`: each output adds its gradient to its four neighbours, in one order.
  void spread(const Affine<Real>& affine) const {
    const int64_t width = params.width, padded = padded_width();
    const Real* __restrict weights = scratch.weights;
    for (int64_t channel = 0; channel < params.channels; channel += kGroup) {
      const int64_t count = smaller(params.channels - channel, kGroup);
      memset(scratch.pixels, 0, padded * (params.height + 2 * kBorder) * sizeof(Pixel<Real>));
      for (int64_t row = 0; row < params.height; ++row) {
        locate(affine, static_cast<int>(row));
        interleave(scratch.row, channel, count, row);
        for (int64_t column = 0; column < width; ++column) {
          Pixel<Real>* at = scratch.pixels + scratch.indices[column];
          const Pixel<Real> gradient = scratch.row[column];
          at[0] += weights[column] * gradient;
          at[1] += weights[width + column] * gradient;
          at[padded] += weights[2 * width + column] * gradient;
          at[padded + 1] += weights[3 * width + column] * gradient;
        }
      }
      for (int64_t row = 0; row < params.height; ++row) separate(pixels_of(row), channel, count, row);
    }
  }

  void make(int64_t item) const {
    const Step<Real> step(params, item);
    const Real* parameters = step.parameters;
    switch (step.operation) {
      case Operation::none:
        return keep();
      case Operation::color:
        return color(parameters[0], parameters[1], parameters[2]);
      case Operation::crop:
        return crop(static_cast<int64_t>(parameters[0]), static_cast<int64_t>(parameters[1]));
      case Operation::cutout:
        return cutout(parameters[0], parameters[1]);
      case Operation::flip:
        return parameters[0] > 0 ? flip() : keep();
      default: {
        const Affine<Real> affine(params, step);
        return params.backward ? spread(affine) : sample(affine);
      }
    }
  }
};

template <class In, class Stored>
void forward(const CpuCall& call, int64_t begin, int64_t end, CacheLine* memory) {
  const AugmentationParams& params = call.params;
  const Scratch<RealOf<Stored>> scratch(params, memory);
  const int64_t size = params.channels * params.height * params.width;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t row = params.has_rows ? params.rows[item] : item;
    Image<In, Stored>{params, static_cast<const In*>(params.source) + row * size,
                      static_cast<Stored*>(params.result) + item * size, scratch}
        .make(item);
  }
}

template <class Stored>
void backward(const CpuCall& call, int64_t begin, int64_t end, CacheLine* memory) {
  using Real = RealOf<Stored>;
  const AugmentationParams& params = call.params;
  const Scratch<Real> scratch(params, memory);
  const int64_t size = params.channels * params.height * params.width;
  const Stored* gradients = static_cast<const Stored*>(params.source);
  for (int64_t image = begin; image < end; ++image) {
    Stored* result = static_cast<Stored*>(params.result) + image * size;
    const int64_t first = params.has_rows ? call.starts[image] : image;
    const int64_t last = params.has_rows ? call.starts[image + 1] : image + 1;
    const auto item = [&](int64_t at) { return params.has_rows ? call.items[at] : at; };
    if (last == first) {
      memset(result, 0, size * sizeof(Stored));
    } else if (last == first + 1) {
      Image<Stored, Stored>{params, gradients + item(first) * size, result, scratch}.make(item(first));
    } else {
      Real* __restrict total = scratch.total;
      Real* __restrict one = scratch.item;
      for (int64_t at = first; at < last; ++at) {
        Image<Stored, Real>{params, gradients + item(at) * size, at == first ? total : one, scratch}.make(
            item(at));
        if (at == first) continue;
        for (int64_t i = 0; i < size; ++i) total[i] += one[i];
      }
      for (int64_t i = 0; i < size; ++i) result[i] = store<Stored>(total[i]);
    }
  }
}

template <class Stored>
CpuKernel kernel_of(const AugmentationParams& params) {
  if (params.backward) return backward<Stored>;
  return params.bytes ? forward<uint8_t, Stored> : forward<Stored, Stored>;
}

}  // namespace

CpuKernel cpu_kernel(const AugmentationParams& params) {
  switch (params.storage) {
    case Storage::float64:
      return kernel_of<double>(params);
    case Storage::bfloat16:
      return kernel_of<BFloat16>(params);
    case Storage::float16:
      return kernel_of<Float16>(params);
    default:
      return kernel_of<float>(params);
  }
}

}  // namespace dgdd::augmentation::DGDD_ISA
