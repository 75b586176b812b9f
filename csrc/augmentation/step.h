// What happens to one image of a batch, in the arithmetic of the images: shared by the CPU and CUDA kernels.
// All operations are affine in the image. Backward is their linear part transposed, which for all but scaling
// and rotation is an operation of the same kind.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "augmentation/params.h"
#include "half.h"
#include "host_device.h"

namespace dgdd::augmentation {

template <class Real>
struct Step {
  Operation operation;
  bool valid;  // The CPU glue has refused what is not; a CUDA kernel makes the image NaN.
  Real parameters[3];

  DGDD_HOST_DEVICE Step(const AugmentationParams& params, int64_t item) : valid(false), parameters{} {
    const int64_t number = params.operation[item];
    operation = static_cast<Operation>(number);
    const int64_t row = params.has_rows ? params.rows[item] : item;
    if (number < 0 || number >= kOperations || row < 0 || row >= params.images) return;
    valid = true;
    read<0>(params, item);
    read<1>(params, item);
    read<2>(params, item);
  }

 private:
  template <int i>
  DGDD_HOST_DEVICE void read(const AugmentationParams& params, int64_t item) {
    if (i >= parameters_of(operation)) return;
    Real value =
        static_cast<Real>(load_as_double(params.parameters, params.parameters_storage, 3 * item + i));
    valid &= value - value == 0;  // finite
    if (operation == Operation::crop) {
      // Fractions are cut off.
      valid &= (value < 0 ? -value : value) < static_cast<Real>(params.crop[i % 2] + 1);
      if (params.backward) value = -value;
    }
    if (params.backward && operation == Operation::color && i == 0) value = 0;
    parameters[i] = value;
  }

  DGDD_HOST_DEVICE static int parameters_of(Operation operation) {
    switch (operation) {
      case Operation::none:
        return 0;
      case Operation::color:
        return 3;
      case Operation::flip:
      case Operation::rotate:
        return 1;
      default:
        return 2;
    }
  }
};

// What brings a channel of uint8 images to normalised values.
template <class Real>
struct Normal {
  Real scale;
  Real shift;

  DGDD_HOST_DEVICE Normal(const AugmentationParams& params, int64_t channel) {
    const Real mean = static_cast<Real>(load_as_double(params.mean, params.storage, channel));
    const Real std = static_cast<Real>(load_as_double(params.std, params.storage, channel));
    scale = 1 / (255 * std);
    shift = -255 * mean * scale;
  }
  DGDD_HOST_DEVICE Real operator()(uint8_t pixel) const { return static_cast<Real>(pixel) * scale + shift; }
};

// Floating images are normalised already.
template <class Real>
struct Unchanged {
  DGDD_HOST_DEVICE Unchanged(const AugmentationParams&, int64_t) {}
  template <class Stored>
  DGDD_HOST_DEVICE Real operator()(Stored pixel) const {
    return load(pixel);
  }
};

// Takes a stored pixel of `In` of one channel to its value.
template <class In, class Real>
using ValueOf = std::conditional_t<std::is_same_v<In, uint8_t>, Normal<Real>, Unchanged<Real>>;

// Where scaling and rotation sample the image: a linear map of the offsets from its centre, in pixels.
template <class Real>
struct Affine {
  Real from_x[2];  // of the sampled column: its factors of the output's column and row
  Real from_y[2];  // of the sampled row
  Real centre_x;
  Real centre_y;

  DGDD_HOST_DEVICE Affine(const AugmentationParams& params, const Step<Real>& step)
      : centre_x(static_cast<Real>(params.width - 1) / 2),
        centre_y(static_cast<Real>(params.height - 1) / 2) {
    if (step.operation == Operation::scale) {
      from_x[0] = step.parameters[0];
      from_x[1] = from_y[0] = 0;
      from_y[1] = step.parameters[1];
    } else {
      const Real cosine = std::cos(step.parameters[0]);
      const Real sine = std::sin(step.parameters[0]);
      from_x[0] = from_y[1] = cosine;
      from_x[1] = -sine;
      from_y[0] = sine;
    }
  }

  DGDD_HOST_DEVICE Real x(Real column, Real row) const {
    return from_x[0] * (column - centre_x) + (from_x[1] * (row - centre_y) + centre_x);
  }
  DGDD_HOST_DEVICE Real y(Real column, Real row) const {
    return from_y[0] * (column - centre_x) + (from_y[1] * (row - centre_y) + centre_y);
  }

  // The map back, without a limit where a share is 0.
  DGDD_HOST_DEVICE Affine inverse() const {
    Affine result = *this;
    if (from_x[1] == 0 && from_y[0] == 0) {
      result.from_x[0] = 1 / from_x[0];
      result.from_y[1] = 1 / from_y[1];
    } else {
      result.from_x[1] = from_y[0];
      result.from_y[0] = from_x[1];
    }
    return result;
  }
};

// The pixels that a sample lies between: the first of both axes, and how far it is on the way to the second.
// A place that is outside by more than kBorder is moved there, to where all four are outside.
constexpr int kBorder = 2;

template <class Real>
struct Neighbours {
  int left;
  int top;
  Real to_right;
  Real to_bottom;

  DGDD_HOST_DEVICE Neighbours(const Affine<Real>& affine, int column, int row, int width, int height) {
    const Real x = affine.x(static_cast<Real>(column), static_cast<Real>(row));
    const Real y = affine.y(static_cast<Real>(column), static_cast<Real>(row));
    split(x, width, left, to_right);
    split(y, height, top, to_bottom);
  }

 private:
  DGDD_HOST_DEVICE static void split(Real place, int side, int& first, Real& to_second) {
    const Real most = static_cast<Real>(side);
    place = place > Real(-kBorder) ? place : Real(-kBorder);  // NaN too
    place = place < most ? place : most;
    first = static_cast<int>(place + kBorder) - kBorder;  // of what is not negative: rounded down
    to_second = place - static_cast<Real>(first);
  }
};

}  // namespace dgdd::augmentation
