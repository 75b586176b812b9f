// The seam between the torch glue and the augmentation kernels: plain structs. No torch and no CUDA header is
// included here.
#pragma once

#include <cstdint>

#include "storage.h"

namespace dgdd::augmentation {

// What can happen to an image, and what its parameters are; those beyond are not read.
enum class Operation : int64_t {
  none,
  color,   // added brightness, factor of saturation, factor of contrast
  crop,    // the row and the column that become the first
  cutout,  // the first row and column of the box that becomes 0
  flip,    // above 0: mirrored
  scale,   // the shown share of the width and of the height
  rotate   // the angle in radians
};
constexpr int64_t kOperations = 7;

constexpr int64_t kLongestSide = 16384;  // in pixels; those of an image are counted in 32 bits

// One call: forward, each row of the batch from one image; or backward, the gradient of the images from that
// of the batch. Everything is contiguous.
struct AugmentationParams {
  int64_t images;    // M >= 0
  int64_t batch;     // B >= 0
  int64_t channels;  // C >= 1
  int64_t height;    // H >= 1
  int64_t width;     // W >= 1
  bool backward;
  Storage storage;  // of floating images, gradients and results

  const void* source;  // images [M, C, H, W]; backward the batch's gradient [B, C, H, W]
  bool bytes;          // the images are uint8, to be normalised
  const void* mean;    // [C], in `storage`; for bytes
  const void* std;     // likewise

  bool has_rows;             // false: row b of the batch is image b, and B = M
  const int64_t* rows;       // [B] in [0, M)
  const int64_t* operation;  // [B], an Operation each
  const void* parameters;    // [B, 3]
  Storage parameters_storage;

  // Rows and columns.
  int64_t crop[2];    // the most that a crop moves
  int64_t cutout[2];  // the sides of the box

  void* result;  // [B, C, H, W]; backward [M, C, H, W]

  int64_t results() const { return backward ? images : batch; }
};

}  // namespace dgdd::augmentation
