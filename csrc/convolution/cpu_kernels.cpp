// The CPU kernels of 3 x 3 convolutions, compiled once per instruction set with DGDD_ISA naming it.
// Everything here and in the headers beside it is local to the unit or inlined: a function shared with other
// units could be linked with the wrong instruction set.
//
// Most channels go Winograd's way: tiles of the images and the weights are transformed so that each place of
// a tile multiplies by itself, a matrix product over the channels. A tile of 2 x 2 results takes 16 products
// for a pair of channels where the plain sum has 36, one of 4 x 4 results 36 where it has 144. The gradient
// of the weights is the transposed form. Few channels, as of images: the plain sum.
//
// A result's order of summation follows from the size of an image and the channels alone: it has the same
// bits whatever else is computed beside it.
#include "convolution/cpu_kernels.h"

#include <cstdint>
#include <type_traits>

#include "convolution/product.h"
#include "convolution/vectors.h"
#include "convolution/winograd.h"

namespace dgdd::convolution::DGDD_ISA {
namespace {

constexpr int64_t kFewChannels = 8;  // fewer are not transformed
constexpr int64_t kGap = 16;  // numbers between places, which else would fall on the same lines of a cache

template <int side>
constexpr int kSpan = side + 2;
template <int side>
constexpr int kPlaces = kSpan<side> * kSpan<side>;

// Tiles of 4 where they leave fewer products and their error is less than twice that of PyTorch: it comes
// from the transforms, PyTorch's grows with the sum. Without fused products the transforms round more.
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
constexpr bool kRoundsOnce = true;
#else
constexpr bool kRoundsOnce = false;
#endif
bool has_large_tiles(int64_t height, int64_t width) {
  return kRoundsOnce && parts_of(height, 4) * parts_of(width, 4) * kPlaces<4> <
                            parts_of(height, 2) * parts_of(width, 2) * kPlaces<2>;
}
bool has_large_tiles(const ConvolutionParams& params) {
  return params.in_channels >= 32 && has_large_tiles(params.height, params.width);
}
bool has_large_tiles(const WeightGradParams& params) {
  return params.samples * params.height * params.width >= 2048 &&
         has_large_tiles(params.height, params.width);
}

// Calls `work` with the side of the tiles as a constant.
template <class Params, class Work>
DGDD_INLINE auto with_side(const Params& params, Work work) {
  return has_large_tiles(params) ? work(std::integral_constant<int, 4>{})
                                 : work(std::integral_constant<int, 2>{});
}

// -------- tiles

// Of all images of a call, one after another, each row by row.
template <int side>
struct Tiles {
  int64_t height;
  int64_t width;
  int64_t down;
  int64_t across;

  Tiles(int64_t height_, int64_t width_)
      : height(height_), width(width_), down(parts_of(height_, side)), across(parts_of(width_, side)) {}

  DGDD_INLINE int64_t in_image() const { return down * across; }
  DGDD_INLINE int64_t image(int64_t tile) const { return tile / in_image(); }
  DGDD_INLINE int64_t row(int64_t tile) const { return tile % in_image() / across * side; }
  DGDD_INLINE int64_t column(int64_t tile) const { return tile % across * side; }
};

// How many tiles are transformed before they are multiplied: they should be in the second cache then.
template <int side>
DGDD_INLINE int64_t tiles_at_once(int64_t in_channels, int64_t out_channels) {
  constexpr int64_t kNumbers = 1 << 16;
  constexpr int64_t kLeast = 24;
  constexpr int64_t kMost = 96;
  const int64_t tiles = kNumbers / (kPlaces<side> * (in_channels + out_channels));
  return tiles < kLeast ? kLeast : tiles > kMost ? kMost : tiles;
}

// Transformed tiles of so many numbers each: [place][tile][number].
template <int side>
struct Places {
  int64_t row;
  int64_t place;

  Places(int64_t tiles, int64_t numbers) : row(whole_vectors(numbers)), place(tiles * row + kGap) {}
  DGDD_INLINE int64_t numbers() const { return kPlaces<side> * place; }
};

// The pixels of a tile in memory, `size` x `size` from (row, column) of the image on; of `nothing` those
// outside.
template <int size>
struct Pixels {
  const float* pixels[size][size];

  template <class Tiles>
  Pixels(const Tiles& tiles, const float* image, int64_t row, int64_t column, int64_t channels,
         const float* nothing) {
    for (int i = 0; i < size; ++i) {
      const bool inside = row + i >= 0 && row + i < tiles.height;
      const float* line = image + ((row + i) * tiles.width + column) * channels;
      for (int j = 0; j < size; ++j)
        pixels[i][j] = inside && column + j >= 0 && column + j < tiles.width ? line + j * channels : nothing;
    }
  }
};

// Stores wait for each other's lines, and no machine foresees where so many rows go on: a line ahead in each.
template <int rows>
DGDD_INLINE void fetch_next_line(const float* numbers, int64_t stride, int64_t number) {
  constexpr int kLine = 64 / sizeof(float);
  if (number % kLine != 0) return;
#pragma GCC unroll 36
  for (int row = 0; row < rows; ++row) __builtin_prefetch(numbers + row * stride + kLine, 1);
}

// The pixels of one tile, transformed along both axes by `along`, to their places.
template <int side, int size, class Along>
DGDD_INLINE void to_places(const Pixels<size>& tile, int64_t channels, const Places<side>& places, float* to,
                           Along along) {
  for_vectors(channels, [&](int64_t channel, auto vector) {
    fetch_next_line<kPlaces<side>>(to + channel, places.place, channel);
    along_both<size, kSpan<side>>(
        [&](int row, int column) { return vector.load(tile.pixels[row][column] + channel); },
        [&](int row, int column, Floats value) {
          store(to + (kSpan<side> * row + column) * places.place + channel, value);
        },
        along);
  });
}

template <int side>
DGDD_INLINE void transform_x(const Tiles<side>& tiles, int64_t tile, const float* x, int64_t channels,
                             const float* nothing, const Places<side>& places, float* to) {
  constexpr int span = kSpan<side>;
  const float* image = x + tiles.image(tile) * tiles.height * tiles.width * channels;
  to_places(Pixels<span>(tiles, image, tiles.row(tile) - 1, tiles.column(tile) - 1, channels, nothing),
            channels, places, to,
            [](const Floats(&line)[span], Floats(&result)[span]) { Winograd<side>::of_x(line, result); });
}

template <int side>
DGDD_INLINE void transform_grad(const Tiles<side>& tiles, int64_t tile, const float* grad, int64_t channels,
                                const float* nothing, const Places<side>& places, float* to) {
  const float* image = grad + tiles.image(tile) * tiles.height * tiles.width * channels;
  to_places(Pixels<side>(tiles, image, tiles.row(tile), tiles.column(tile), channels, nothing), channels,
            places, to, [](const Floats(&line)[side], Floats(&result)[kSpan<side>]) {
              Winograd<side>::of_grad(line, result);
            });
}

// The results of one tile from its products, those that are in an image of which `rows` x `columns` are left.
template <int side>
DGDD_INLINE void write_results(const Places<side>& places, const float* from, const float* bias,
                               int64_t channels, int64_t rows, int64_t columns, int64_t width, float* to) {
  constexpr int span = kSpan<side>;
  for_vectors(channels, [&](int64_t channel, auto vector) {
    const Floats constant = load(bias + channel);
    fetch_next_line<kPlaces<side>>(from + channel, places.place, channel);
    for (int row = 0; row < side; ++row)
      fetch_next_line<side>(to + row * width * channels + channel, channels, channel);
    along_both<span, side>(
        [&](int row, int column) { return load(from + (span * row + column) * places.place + channel); },
        [&](int row, int column, Floats value) {
          if (row < rows && column < columns)
            vector.store(to + (row * width + column) * channels + channel, value + constant);
        },
        [](const Floats(&line)[span], Floats(&result)[side]) { Winograd<side>::to_results(line, result); });
  });
}

// -------- weights

bool is_transformed(int64_t in_channels) { return in_channels >= kFewChannels; }

int64_t panels(const ConvolutionParams& params) { return parts_of(params.out_channels, kPanel); }

int64_t weight_numbers(const ConvolutionParams& params) {
  const int64_t places = !is_transformed(params.in_channels) ? 9
                         : has_large_tiles(params)           ? kPlaces<4>
                                                             : kPlaces<2>;
  return (places * params.in_channels + 1) * whole_vectors(params.out_channels);
}

// The weights are [place][panel][in][out of the panel], or untransformed [panel][3][3 x in][out of the
// panel]; behind them the bias.
void arrange_weights(const ConvolutionParams& params, int64_t panel, float* arranged) {
  const int64_t in = params.in_channels;
  const int64_t out = whole_vectors(params.out_channels);
  const int64_t first = panel * kPanel;
  const int64_t count = smaller(kPanel, params.out_channels - first);
  const int64_t width = smaller(kPanel, out - first);
  const auto arrange = [&](auto write) {
    for (int64_t i = 0; i < in; ++i) {
      float taps[9][kPanel] = {};
      for (int64_t j = 0; j < count; ++j)
        for (int tap = 0; tap < 9; ++tap) taps[tap][j] = params.weight[((first + j) * in + i) * 9 + tap];
      for (int64_t j = 0; j < width; j += kLanes) {
        Floats weight[3][3];
        for (int tap = 0; tap < 9; ++tap) weight[tap / 3][tap % 3] = load(taps[tap] + j);
        write(weight, i, j);
      }
    }
  };
  if (!is_transformed(in))
    arrange([&](const Floats(&weight)[3][3], int64_t i, int64_t j) {
      for (int tap = 0; tap < 9; ++tap)
        store(arranged + first * 9 * in + (tap * in + i) * width + j, weight[tap / 3][tap % 3]);
    });
  else
    with_side(params, [&](auto side) {
      using Transforms = Winograd<side>;
      constexpr int span = kSpan<side>;
      arrange([&](const Floats(&weight)[3][3], int64_t i, int64_t j) {
        along_both<3, span>(
            [&](int row, int column) { return weight[row][column]; },
            [&](int row, int column, Floats value) {
              store(arranged + ((row * span + column) * out + first) * in + i * width + j, value);
            },
            [](const Floats(&line)[3], Floats(&result)[span]) { Transforms::of_weight(line, result); });
      });
    });
  float* bias = arranged + weight_numbers(params) - out + first;
  for (int64_t j = 0; j < width; ++j)
    bias[j] = j < count && params.bias != nullptr ? params.bias[first + j] : 0;
}

// -------- the convolution

void zero(float* numbers, int64_t count) {
  for (int64_t i = 0; i < count; ++i) numbers[i] = 0;
}

// Of `steps`, a quarter of which is summed up before it joins the others, but 8 to 32 of them: with one long
// sum the error would be more than twice that of PyTorch, as tiles of 4 have larger numbers to round.
Product by_short_sums(int64_t steps, int64_t a_step, int64_t a_row, int64_t b_step, int64_t c_row) {
  const int64_t quarter = parts_of(steps, 4);
  const int64_t together = quarter < 8 ? 8 : quarter > 32 ? 32 : quarter;
  const int64_t parts = parts_of(steps, together);
  return {.parts = parts,
          .steps = together,
          .steps_of_last = steps - (parts - 1) * together,
          .by_parts = true,
          .a_part = together * a_step,
          .a_step = a_step,
          .a_row = a_row,
          .b_part = together * b_step,
          .b_step = b_step,
          .c_row = c_row};
}

template <int side>
void convolve_tiles(const ConvolutionParams& params, const float* arranged, int64_t begin, int64_t end,
                    float* result, float* scratch) {
  const int64_t in = params.in_channels;
  const int64_t out = params.out_channels;
  const int64_t wide = whole_vectors(out);
  const float* bias = arranged + kPlaces<side> * in * wide;
  const Tiles<side> tiles(params.height, params.width);
  const int64_t at_once = tiles_at_once<side>(in, out);
  const Places<side> x_places(at_once, in);
  const Places<side> places(at_once, out);
  float* nothing = scratch;
  float* x_tiles = nothing + whole_vectors(in);
  float* products = x_tiles + x_places.numbers();
  zero(nothing, in);

  const int64_t last = end * tiles.in_image();
  for (int64_t first = begin * tiles.in_image(); first < last; first += at_once) {
    const int64_t count = smaller(at_once, last - first);
    for (int64_t tile = 0; tile < count; ++tile)
      transform_x(tiles, first + tile, params.x, in, nothing, x_places, x_tiles + tile * x_places.row);
    for (int64_t place = 0; place < kPlaces<side>; ++place)
      for (int64_t column = 0; column < wide; column += kPanel) {
        const int64_t width = smaller(kPanel, wide - column);
        const Product product = by_short_sums(in, 1, x_places.row, width, places.row);
        multiply_rows(product, count, x_tiles + place * x_places.place,
                      arranged + (place * wide + column) * in, products + place * places.place + column,
                      false, nullptr, width);
      }
    for (int64_t tile = 0; tile < count; ++tile) {
      const int64_t row = tiles.row(first + tile);
      const int64_t column = tiles.column(first + tile);
      const int64_t image = tiles.image(first + tile) - begin;
      write_results(places, products + tile * places.row, bias, out, params.height - row,
                    params.width - column, params.width,
                    result + ((image * params.height + row) * params.width + column) * out);
    }
  }
}

// An image with a border of zeros, [H + 2, W + 2, in]; the border is there already.
void copy_inside_border(const float* image, int64_t height, int64_t width, int64_t channels, float* to) {
  const int64_t numbers = width * channels;
  for (int64_t row = 0; row < height; ++row) {
    float* inside = to + (row + 1) * (numbers + 2 * channels) + channels;
    for (int64_t i = 0; i < numbers; ++i) inside[i] = image[row * numbers + i];
  }
}
DGDD_INLINE int64_t bordered_numbers(int64_t height, int64_t width, int64_t channels) {
  return (height + 2) * (width + 2) * channels;
}

void convolve_plainly(const ConvolutionParams& params, const float* arranged, int64_t begin, int64_t end,
                      float* result, float* bordered) {
  const int64_t in = params.in_channels;
  const int64_t out = params.out_channels;
  const int64_t wide = whole_vectors(out);
  const float* bias = arranged + 9 * in * wide;
  const int64_t bordered_row = (params.width + 2) * in;
  zero(bordered, bordered_numbers(params.height, params.width, in));
  for (int64_t sample = begin; sample < end; ++sample) {
    const int64_t pixels = params.height * params.width;
    copy_inside_border(params.x + sample * pixels * in, params.height, params.width, in, bordered);
    float* image = result + (sample - begin) * pixels * out;
    for (int64_t row = 0; row < params.height; ++row)
      for (int64_t column = 0; column < wide; column += kPanel) {
        const int64_t width = smaller(kPanel, wide - column);
        const Product product{.parts = 3,
                              .steps = 3 * in,
                              .steps_of_last = 3 * in,
                              .by_parts = false,
                              .a_part = bordered_row,
                              .a_step = 1,
                              .a_row = in,
                              .b_part = 3 * in * width,
                              .b_step = width,
                              .c_row = out};
        multiply_rows(product, params.width, bordered + row * bordered_row, arranged + column * 9 * in,
                      image + row * params.width * out + column, false, bias + column, out - column);
      }
  }
}

int64_t scratch_numbers(const ConvolutionParams& params) {
  const int64_t in = params.in_channels;
  if (!is_transformed(in)) return bordered_numbers(params.height, params.width, in);
  return with_side(params, [&](auto side) {
    const int64_t at_once = tiles_at_once<side>(in, params.out_channels);
    return whole_vectors(in) + Places<side>(at_once, in).numbers() +
           Places<side>(at_once, params.out_channels).numbers();
  });
}

void convolve(const ConvolutionParams& params, const float* arranged, int64_t begin, int64_t end,
              float* result, float* scratch) {
  if (!is_transformed(params.in_channels))
    return convolve_plainly(params, arranged, begin, end, result, scratch);
  with_side(params, [&](auto side) { convolve_tiles<side>(params, arranged, begin, end, result, scratch); });
}

// -------- the gradient of the weights

// Adds the sums of `rows` rows of numbers to `sums`, vector beside vector: each of them alone would wait for
// its own last sum.
void add_rows(const float* from, int64_t rows, int64_t numbers, double* sums) {
  constexpr int64_t kShort = 64;
  constexpr int kTogether = 4;
  for (int64_t first = 0; first < rows; first += kShort) {
    const int64_t last = smaller(first + kShort, rows);
    for (int64_t number = 0; number < numbers; number += kTogether * kLanes) {
      const int64_t count = smaller(kTogether * kLanes, numbers - number);
      Floats sum[kTogether] = {};
      for (int64_t row = first; row < last; ++row)
#pragma GCC unroll 4
        for (int i = 0; i < kTogether; ++i)
          sum[i] += load_some(from + row * numbers + number + i * kLanes, count - i * kLanes);
      for (int64_t i = 0; i < count; ++i) sums[number + i] += sum[i / kLanes][i % kLanes];
    }
  }
}

// What both ways leave in scratch: the sums over pixels or tiles, [place][in][out], and those of the bias.
struct Sums {
  int64_t row;    // out
  int64_t place;  // in x out
  float* of_weight;
  double* of_bias;
  float* rest;  // of scratch

  Sums(const WeightGradParams& params, float* scratch)
      : row(row_of(params)),
        place(params.in_channels * row + kGap),
        of_weight(scratch + 2 * row),
        of_bias(reinterpret_cast<double*>(scratch)),
        rest(of_weight + numbers_of_weight(params)) {
    zero(scratch, rest - scratch);
  }

  static DGDD_INLINE int64_t row_of(const WeightGradParams& params) {
    return whole_vectors(params.out_channels) + (is_transformed(params.in_channels) ? 0 : kGap);
  }
  static DGDD_INLINE int64_t numbers_of_weight(const WeightGradParams& params) {
    const int64_t in = params.in_channels;
    const int64_t row = row_of(params);
    if (!is_transformed(in)) return (9 * in + 1) * row;
    return (has_large_tiles(params) ? kPlaces<4> : kPlaces<2>)*(in * row + kGap);
  }
  static DGDD_INLINE int64_t numbers(const WeightGradParams& params) {
    return 2 * row_of(params) + numbers_of_weight(params);
  }
};

template <int side>
void sum_tiles(const WeightGradParams& params, int64_t begin, int64_t end, Sums& sums) {
  const int64_t in = params.in_channels;
  const int64_t out = params.out_channels;
  const Tiles<side> tiles(params.height, params.width);
  const int64_t at_once = tiles_at_once<side>(in, out);
  const Places<side> x_places(at_once, in);
  const Places<side> grad_places(at_once, out);
  float* nothing = sums.rest;
  float* x_tiles = nothing + whole_vectors(in > out ? in : out);
  float* grad_tiles = x_tiles + x_places.numbers();
  zero(nothing, x_tiles - nothing);

  const int64_t last = end * tiles.in_image();
  for (int64_t first = begin * tiles.in_image(); first < last; first += at_once) {
    const int64_t count = smaller(at_once, last - first);
    for (int64_t tile = 0; tile < count; ++tile) {
      transform_x(tiles, first + tile, params.x, in, nothing, x_places, x_tiles + tile * x_places.row);
      transform_grad(tiles, first + tile, params.grad, out, nothing, grad_places,
                     grad_tiles + tile * grad_places.row);
    }
    const Product product = by_short_sums(count, x_places.row, 1, grad_places.row, sums.row);
    for (int64_t place = 0; place < kPlaces<side>; ++place)
      for (int64_t column = 0; column < sums.row; column += kPanel)
        multiply_rows(
            product, in, x_tiles + place * x_places.place, grad_tiles + place * grad_places.place + column,
            sums.of_weight + place * sums.place + column, true, nullptr, smaller(kPanel, sums.row - column));
  }
}

// With a one behind the numbers of each pixel's window, whose sums are those of the bias.
void sum_pixels(const WeightGradParams& params, int64_t begin, int64_t end, Sums& sums) {
  const int64_t in = params.in_channels;
  const int64_t out = params.out_channels;
  const int64_t bordered_row = (params.width + 2) * in;
  const int64_t window = 9 * in + 1;
  const int64_t wide = whole_vectors(out);
  float* bordered = sums.rest;
  float* windows = bordered + bordered_numbers(params.height, params.width, in);
  float* padded = windows + whole_vectors(params.width * window);
  zero(bordered, windows - bordered);
  const Product product{.parts = 1,
                        .steps = params.width,
                        .steps_of_last = params.width,
                        .by_parts = false,
                        .a_part = 0,
                        .a_step = window,
                        .a_row = 1,
                        .b_part = 0,
                        .b_step = sums.row,
                        .c_row = sums.row};
  for (int64_t sample = begin; sample < end; ++sample) {
    copy_inside_border(params.x + sample * params.height * params.width * in, params.height, params.width, in,
                       bordered);
    // Row by row, which stays in the first cache beside the sums.
    for (int64_t row = 0; row < params.height; ++row) {
      for (int64_t pixel = 0; pixel < params.width; ++pixel) {
        const float* corner = bordered + row * bordered_row + pixel * in;
        float* to = windows + pixel * window;
        for (int64_t tap = 0; tap < 3; ++tap)
          for (int64_t i = 0; i < 3 * in; ++i) to[tap * 3 * in + i] = corner[tap * bordered_row + i];
        to[9 * in] = 1;
      }
      const float* grad = params.grad + (sample * params.height + row) * params.width * out;
      for (int64_t pixel = 0; pixel < params.width; ++pixel)
        for_vectors(out, [&](int64_t channel, auto vector) {
          store(padded + pixel * sums.row + channel, vector.load(grad + pixel * out + channel));
        });
      for (int64_t column = 0; column < wide; column += kPanel)
        multiply_rows(product, window, windows, padded + column, sums.of_weight + column, true, nullptr,
                      smaller(kPanel, wide - column));
    }
  }
  for (int64_t j = 0; j < out; ++j) sums.of_bias[j] = sums.of_weight[9 * in * sums.row + j];
}

void weight_grad(const WeightGradParams& params, int64_t begin, int64_t end, float* weight_grad,
                 float* bias_grad, float* scratch) {
  const int64_t in = params.in_channels;
  const int64_t out = params.out_channels;
  Sums sums(params, scratch);
  const auto write = [&](auto grad_of) {
    for (int64_t i = 0; i < in; ++i)
      for (int64_t first = 0; first < out; first += kLanes) {
        Floats grad[3][3];
        grad_of(sums.of_weight + i * sums.row + first, grad);
        for (int64_t j = 0; j < smaller(kLanes, out - first); ++j)
          for (int tap = 0; tap < 9; ++tap)
            weight_grad[((first + j) * in + i) * 9 + tap] = grad[tap / 3][tap % 3][j];
      }
  };
  if (!is_transformed(in)) {
    sum_pixels(params, begin, end, sums);
    write([&](const float* from, Floats(&grad)[3][3]) {
      for (int tap = 0; tap < 9; ++tap) grad[tap / 3][tap % 3] = load(from + tap * in * sums.row);
    });
  } else {
    with_side(params, [&](auto side) {
      using Transforms = Winograd<side>;
      constexpr int span = kSpan<side>;
      sum_tiles<side>(params, begin, end, sums);
      write([&](const float* from, Floats(&grad)[3][3]) {
        along_both<span, 3>(
            [&](int row, int column) { return load(from + (row * span + column) * sums.place); },
            [&](int row, int column, Floats value) { grad[row][column] = value; },
            [](const Floats(&line)[span], Floats(&result)[3]) { Transforms::to_weight_grad(line, result); });
      });
    });
  }
  const int64_t pixels = params.height * params.width;
  if (is_transformed(in))
    add_rows(params.grad + begin * pixels * out, (end - begin) * pixels, out, sums.of_bias);
  for (int64_t j = 0; j < out; ++j) bias_grad[j] = static_cast<float>(sums.of_bias[j]);
}

int64_t grad_scratch_numbers(const WeightGradParams& params) {
  const int64_t in = params.in_channels;
  const int64_t out = params.out_channels;
  if (!is_transformed(in))
    return Sums::numbers(params) + bordered_numbers(params.height, params.width, in) +
           whole_vectors(params.width * (9 * in + 1)) + params.width * (whole_vectors(out) + kGap);
  return with_side(params, [&](auto side) {
    const int64_t at_once = tiles_at_once<side>(in, out);
    return Sums::numbers(params) + whole_vectors(in > out ? in : out) + Places<side>(at_once, in).numbers() +
           Places<side>(at_once, out).numbers();
  });
}

}  // namespace

CpuKernels cpu_kernels() {
  return {.weight_numbers = weight_numbers,
          .panels = panels,
          .arrange_weights = arrange_weights,
          .scratch_numbers = scratch_numbers,
          .convolve = convolve,
          .grad_scratch_numbers = grad_scratch_numbers,
          .weight_grad = weight_grad};
}

}  // namespace dgdd::convolution::DGDD_ISA
