// The CPU kernels of 3 x 3 convolutions, compiled once per instruction set with DGDD_ISA naming it.
// Everything here is local to the unit or inlined: a function shared with other units could be linked with
// the wrong instruction set.
//
// Most channels: Winograd's F(2 x 2, 3 x 3) (Lavin and Gray, 2016). A tile of 2 x 2 results takes 4 x 4
// pixels; these and the weights are transformed so that each of 16 places multiplies by itself, a matrix
// product over the channels: 16 products a tile and pair of channels where the plain sum has 36. Its
// transforms add and halve alone, and its error is that of the plain sum. The gradient of the weights is the
// transposed form. Few channels, as of images: the plain sum.
//
// A result's order of summation follows from the channels alone: it has the same bits whatever else is
// computed beside it.
#include "convolution/cpu_kernels.h"

#include <cstdint>
#include <utility>

namespace dgdd::convolution::DGDD_ISA {
namespace {

#define DGDD_INLINE inline __attribute__((always_inline))

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

typedef float Floats __attribute__((vector_size(kVectorBytes)));
constexpr int kLanes = kVectorBytes / sizeof(float);
constexpr int kPanel = 2 * kLanes;  // output channels of a panel of weights
constexpr int kRows = 6;            // by kPanel sums are held in registers at once
constexpr int kPlaces = 16;         // of a transformed tile
constexpr int64_t kGap =
    16;  // numbers between the places, which else would fall on the same lines of a cache
constexpr int64_t kFewChannels = 8;  // fewer are not transformed

DGDD_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
DGDD_INLINE int64_t parts_of(int64_t count, int64_t most) { return (count + most - 1) / most; }
DGDD_INLINE int64_t whole_vectors(int64_t count) { return parts_of(count, kLanes) * kLanes; }

DGDD_INLINE Floats load(const float* from) {
  Floats lanes;
  __builtin_memcpy(&lanes, from, sizeof(lanes));
  return lanes;
}
DGDD_INLINE void store(float* to, Floats lanes) { __builtin_memcpy(to, &lanes, sizeof(lanes)); }

// At most a vector; the other lanes are zeros.
DGDD_INLINE Floats load_some(const float* from, int64_t count) {
  if (count >= kLanes) return load(from);
  Floats lanes{};
  for (int64_t i = 0; i < count; ++i) lanes[i] = from[i];
  return lanes;
}
DGDD_INLINE void store_some(float* to, Floats lanes, int64_t count) {
  if (count >= kLanes) return store(to, lanes);
  for (int64_t i = 0; i < count; ++i) to[i] = lanes[i];
}

// Calls `work(channel, Count)` for vector after vector; all but the last are known to be whole.
struct Whole {
  DGDD_INLINE Floats load(const float* from) const { return DGDD_ISA::load(from); }
  DGDD_INLINE void store(float* to, Floats lanes) const { DGDD_ISA::store(to, lanes); }
};
struct Some {
  int64_t count;
  DGDD_INLINE Floats load(const float* from) const { return load_some(from, count); }
  DGDD_INLINE void store(float* to, Floats lanes) const { store_some(to, lanes, count); }
};
template <class Work>
DGDD_INLINE void for_vectors(int64_t channels, Work work) {
  int64_t channel = 0;
  for (; channel + kLanes <= channels; channel += kLanes) work(channel, Whole{});
  if (channel < channels) work(channel, Some{channels - channel});
}

// -------- matrix products

// c[row][column] = sum over parts and steps of a[part][step][row] * b[part][step][column]; what is not named
// here has stride 1.
struct Product {
  int64_t parts;
  int64_t steps;
  int64_t a_part;
  int64_t a_step;
  int64_t a_row;
  int64_t b_part;
  int64_t b_step;
  int64_t c_row;
};

enum class Add {
  nothing,
  row,
  sums
};  // to the sums, before they are stored: the row `start`, or what is in c

template <int rows, int vectors>
void multiply(const Product& product, const float* a, const float* b, float* c, Add add, const float* start,
              int64_t columns) {
  Floats sums[rows][vectors] = {};
  const int64_t a_row = product.a_row;
  const int64_t a_step = product.a_step;
  const int64_t b_step = product.b_step;
  for (int64_t part = 0; part < product.parts; ++part) {
    const float* upper = a + part * product.a_part;
    const float* lower = upper + 3 * a_row;
    const float* right = b + part * product.b_part;
    for (int64_t step = product.steps; step > 0; --step) {
      Floats factors[vectors];
      for (int i = 0; i < vectors; ++i) factors[i] = load(right + i * kLanes);
#pragma GCC unroll 8
      for (int row = 0; row < rows; ++row) {
        const float factor = row < 3 ? upper[row * a_row] : lower[(row - 3) * a_row];
        for (int i = 0; i < vectors; ++i) sums[row][i] += factors[i] * factor;
      }
      upper += a_step;
      lower += a_step;
      right += b_step;
    }
  }
  if (add == Add::row) {
    for (int i = 0; i < vectors; ++i) {
      const Floats first = load(start + i * kLanes);
#pragma GCC unroll 8
      for (int row = 0; row < rows; ++row) sums[row][i] += first;
    }
  }
  const int64_t c_row = product.c_row;
  if (columns >= vectors * kLanes) {
    if (add == Add::sums) {
#pragma GCC unroll 8
      for (int row = 0; row < rows; ++row)
        for (int i = 0; i < vectors; ++i) sums[row][i] += load(c + row * c_row + i * kLanes);
    }
#pragma GCC unroll 8
    for (int row = 0; row < rows; ++row)
      for (int i = 0; i < vectors; ++i) store(c + row * c_row + i * kLanes, sums[row][i]);
    return;
  }
#pragma GCC unroll 8
  for (int row = 0; row < rows; ++row)
    for (int i = 0; i < vectors; ++i) {
      const int64_t count = columns - i * kLanes;
      float* to = c + row * c_row + i * kLanes;
      store_some(to, add == Add::sums ? load_some(to, count) + sums[row][i] : sums[row][i], count);
    }
}

using Multiply = void (*)(const Product& product, const float* a, const float* b, float* c, Add add,
                          const float* start, int64_t columns);

template <int vectors>
DGDD_INLINE Multiply multiply_for(int64_t rows) {
  constexpr Multiply kMultiply[kRows] = {multiply<1, vectors>, multiply<2, vectors>, multiply<3, vectors>,
                                         multiply<4, vectors>, multiply<5, vectors>, multiply<6, vectors>};
  return kMultiply[rows - 1];
}

// All `rows` of up to kPanel columns. The rows are shared out evenly: six and two at a time would wait for
// the two.
void multiply_rows(const Product& product, int64_t rows, const float* a, const float* b, float* c, Add add,
                   const float* start, int64_t columns) {
  const int64_t groups = parts_of(rows, kRows);
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t first = rows * group / groups;
    const int64_t count = rows * (group + 1) / groups - first;
    const Multiply by = columns > kLanes ? multiply_for<2>(count) : multiply_for<1>(count);
    by(product, a + first * product.a_row, b, c + first * product.c_row, add, start, columns);
  }
}

// -------- tiles

// Of all images of a call, one after another, each row by row.
struct Tiles {
  int64_t height;
  int64_t width;
  int64_t down;
  int64_t across;

  Tiles(int64_t height_, int64_t width_)
      : height(height_), width(width_), down(parts_of(height_, 2)), across(parts_of(width_, 2)) {}

  DGDD_INLINE int64_t in_image() const { return down * across; }
  DGDD_INLINE int64_t image(int64_t tile) const { return tile / in_image(); }
  DGDD_INLINE int64_t row(int64_t tile) const { return tile % in_image() / across * 2; }
  DGDD_INLINE int64_t column(int64_t tile) const { return tile % across * 2; }
};

// How many tiles are transformed before they are multiplied: they should be in the second cache then.
DGDD_INLINE int64_t tiles_at_once(int64_t in_channels, int64_t out_channels) {
  constexpr int64_t kNumbers = 1 << 16;
  constexpr int64_t kLeast = 24;
  constexpr int64_t kMost = 96;
  const int64_t tiles = kNumbers / (kPlaces * (in_channels + out_channels));
  return tiles < kLeast ? kLeast : tiles > kMost ? kMost : tiles;
}

// Transformed tiles of so many numbers each: [place][tile][number].
struct Places {
  int64_t row;
  int64_t place;

  Places(int64_t tiles, int64_t numbers) : row(whole_vectors(numbers)), place(tiles * row + kGap) {}
  DGDD_INLINE int64_t numbers() const { return kPlaces * place; }
};

// The pixels of a tile in memory, `size` x `size` from (row, column) of the image on; of `nothing` those
// outside.
template <int size>
struct Pixels {
  const float* pixels[size][size];

  Pixels(const Tiles& tiles, const float* image, int64_t row, int64_t column, int64_t channels,
         const float* nothing) {
    for (int i = 0; i < size; ++i)
      for (int j = 0; j < size; ++j) {
        const bool inside =
            row + i >= 0 && row + i < tiles.height && column + j >= 0 && column + j < tiles.width;
        pixels[i][j] = inside ? image + ((row + i) * tiles.width + column + j) * channels : nothing;
      }
  }
};

// B' d B of one tile of x: 4 x 4 pixels to 16 places.
DGDD_INLINE void transform_x(const Pixels<4>& tile, int64_t channels, const Places& places, float* to) {
  for_vectors(channels, [&](int64_t channel, auto vector) {
    const auto row_of = [&](int row, int first, int second, auto combine) {
      Floats along[4];
      for (int column = 0; column < 4; ++column)
        along[column] = combine(vector.load(tile.pixels[first][column] + channel),
                                vector.load(tile.pixels[second][column] + channel));
      float* place = to + 4 * row * places.place + channel;
      store(place, along[0] - along[2]);
      store(place + places.place, along[1] + along[2]);
      store(place + 2 * places.place, along[2] - along[1]);
      store(place + 3 * places.place, along[1] - along[3]);
    };
    const auto sum = [](Floats a, Floats b) { return a + b; };
    const auto difference = [](Floats a, Floats b) { return a - b; };
    row_of(0, 0, 2, difference);
    row_of(1, 1, 2, sum);
    row_of(2, 2, 1, difference);
    row_of(3, 1, 3, difference);
  });
}

// A g A' of one tile of a result's gradient: 2 x 2 pixels to 16 places.
DGDD_INLINE void transform_grad(const Pixels<2>& tile, int64_t channels, const Places& places, float* to) {
  for_vectors(channels, [&](int64_t channel, auto vector) {
    Floats grad[2][2];
    for (int i = 0; i < 2; ++i)
      for (int j = 0; j < 2; ++j) grad[i][j] = vector.load(tile.pixels[i][j] + channel);
    for (int row = 0; row < 4; ++row) {
      Floats along[2];
      for (int j = 0; j < 2; ++j)
        along[j] = row == 0   ? grad[0][j]
                   : row == 1 ? grad[0][j] + grad[1][j]
                   : row == 2 ? grad[0][j] - grad[1][j]
                              : -grad[1][j];
      float* place = to + 4 * row * places.place + channel;
      store(place, along[0]);
      store(place + places.place, along[0] + along[1]);
      store(place + 2 * places.place, along[0] - along[1]);
      store(place + 3 * places.place, -along[1]);
    }
  });
}

// A' m A of one tile: 16 places to 2 x 2 results, of which `rows` x `columns` are in the image.
DGDD_INLINE void write_results(const Places& places, const float* from, const float* bias, int64_t channels,
                               int64_t rows, int64_t columns, int64_t width, float* to) {
  for_vectors(channels, [&](int64_t channel, auto vector) {
    Floats upper[4];
    Floats lower[4];
    for (int column = 0; column < 4; ++column) {
      const float* place = from + column * places.place + channel;
      const Floats second = load(place + 4 * places.place);
      const Floats third = load(place + 8 * places.place);
      upper[column] = load(place) + (second + third);
      lower[column] = (second - third) - load(place + 12 * places.place);
    }
    const Floats constant = load(bias + channel);
    const auto write = [&](const Floats(&sums)[4], float* pixel) {
      vector.store(pixel, constant + (sums[0] + (sums[1] + sums[2])));
      if (columns > 1) vector.store(pixel + channels, constant + ((sums[1] - sums[2]) - sums[3]));
    };
    write(upper, to + channel);
    if (rows > 1) write(lower, to + width * channels + channel);
  });
}

// -------- weights

bool is_transformed(int64_t in_channels) { return in_channels >= kFewChannels; }

int64_t panels(const ConvolutionParams& params) { return parts_of(params.out_channels, kPanel); }

int64_t weight_numbers(const ConvolutionParams& params) {
  const int64_t places = is_transformed(params.in_channels) ? kPlaces : 9;
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
  const bool transformed = is_transformed(in);
  for (int64_t i = 0; i < in; ++i) {
    float taps[9][kPanel] = {};
    for (int64_t j = 0; j < count; ++j)
      for (int tap = 0; tap < 9; ++tap) taps[tap][j] = params.weight[((first + j) * in + i) * 9 + tap];
    for (int64_t j = 0; j < width; j += kLanes) {
      Floats weight[3][3];
      for (int tap = 0; tap < 9; ++tap) weight[tap / 3][tap % 3] = load(taps[tap] + j);
      if (!transformed) {
        for (int tap = 0; tap < 9; ++tap)
          store(arranged + first * 9 * in + (tap * in + i) * width + j, weight[tap / 3][tap % 3]);
        continue;
      }
      // G g G'
      for (int row = 0; row < 4; ++row) {
        Floats along[3];
        for (int k = 0; k < 3; ++k) {
          const Floats ends = weight[0][k] + weight[2][k];
          along[k] = row == 0   ? weight[0][k]
                     : row == 1 ? 0.5f * (ends + weight[1][k])
                     : row == 2 ? 0.5f * (ends - weight[1][k])
                                : weight[2][k];
        }
        const Floats ends = along[0] + along[2];
        const Floats results[4] = {along[0], 0.5f * (ends + along[1]), 0.5f * (ends - along[1]), along[2]};
        for (int k = 0; k < 4; ++k)
          store(arranged + ((4 * row + k) * out + first) * in + i * width + j, results[k]);
      }
    }
  }
  float* bias = arranged + weight_numbers(params) - out + first;
  for (int64_t j = 0; j < width; ++j)
    bias[j] = j < count && params.bias != nullptr ? params.bias[first + j] : 0;
}

// -------- the convolution

void zero(float* numbers, int64_t count) {
  for (int64_t i = 0; i < count; ++i) numbers[i] = 0;
}

void convolve_tiles(const ConvolutionParams& params, const float* arranged, int64_t begin, int64_t end,
                    float* result, float* scratch) {
  const int64_t in = params.in_channels;
  const int64_t out = params.out_channels;
  const int64_t wide = whole_vectors(out);
  const float* bias = arranged + kPlaces * in * wide;
  const Tiles tiles(params.height, params.width);
  const int64_t at_once = tiles_at_once(in, out);
  const Places x_places(at_once, in);
  const Places places(at_once, out);
  float* nothing = scratch;
  float* x_tiles = nothing + whole_vectors(in);
  float* products = x_tiles + x_places.numbers();
  zero(nothing, in);

  const Product product{.parts = 1,
                        .steps = in,
                        .a_part = 0,
                        .a_step = 1,
                        .a_row = x_places.row,
                        .b_part = 0,
                        .b_step = 0,
                        .c_row = places.row};
  const int64_t last = end * tiles.in_image();
  for (int64_t first = begin * tiles.in_image(); first < last; first += at_once) {
    const int64_t count = smaller(at_once, last - first);
    for (int64_t tile = 0; tile < count; ++tile) {
      const float* image = params.x + tiles.image(first + tile) * params.height * params.width * in;
      const Pixels<4> pixels(tiles, image, tiles.row(first + tile) - 1, tiles.column(first + tile) - 1, in,
                             nothing);
      transform_x(pixels, in, x_places, x_tiles + tile * x_places.row);
    }
    for (int64_t place = 0; place < kPlaces; ++place)
      for (int64_t column = 0; column < wide; column += kPanel) {
        Product panel = product;
        panel.b_step = smaller(kPanel, wide - column);
        multiply_rows(panel, count, x_tiles + place * x_places.place, arranged + (place * wide + column) * in,
                      products + place * places.place + column, Add::nothing, nullptr, panel.b_step);
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
                              .a_part = bordered_row,
                              .a_step = 1,
                              .a_row = in,
                              .b_part = 3 * in * width,
                              .b_step = width,
                              .c_row = out};
        multiply_rows(product, params.width, bordered + row * bordered_row, arranged + column * 9 * in,
                      image + row * params.width * out + column, Add::row, bias + column, out - column);
      }
  }
}

int64_t scratch_numbers(const ConvolutionParams& params) {
  const int64_t in = params.in_channels;
  if (!is_transformed(in)) return bordered_numbers(params.height, params.width, in);
  const int64_t at_once = tiles_at_once(in, params.out_channels);
  return whole_vectors(in) + Places(at_once, in).numbers() + Places(at_once, params.out_channels).numbers();
}

void convolve(const ConvolutionParams& params, const float* arranged, int64_t begin, int64_t end,
              float* result, float* scratch) {
  (is_transformed(params.in_channels) ? convolve_tiles : convolve_plainly)(params, arranged, begin, end,
                                                                           result, scratch);
}

// -------- the gradient of the weights

// Adds the sums of `rows` rows of numbers to `sums`.
void add_rows(const float* from, int64_t rows, int64_t stride, int64_t numbers, double* sums) {
  constexpr int64_t kShortSum = 64;
  for (int64_t first = 0; first < rows; first += kShortSum)
    for (int64_t number = 0; number < numbers; ++number) {
      float sum = 0;
      for (int64_t row = first; row < smaller(first + kShortSum, rows); ++row)
        sum += from[row * stride + number];
      sums[number] += sum;
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
      : row(whole_vectors(params.out_channels)),
        place(params.in_channels * row + kGap),
        of_weight(scratch + 2 * row),
        of_bias(reinterpret_cast<double*>(scratch)),
        rest(of_weight + numbers_of_weight(params)) {
    zero(scratch, rest - scratch);
  }

  static DGDD_INLINE int64_t numbers_of_weight(const WeightGradParams& params) {
    const int64_t in = params.in_channels;
    return (is_transformed(in) ? kPlaces : 9) * (in * whole_vectors(params.out_channels) + kGap);
  }
  static DGDD_INLINE int64_t numbers(const WeightGradParams& params) {
    return 2 * whole_vectors(params.out_channels) + numbers_of_weight(params);
  }
};

void sum_tiles(const WeightGradParams& params, int64_t begin, int64_t end, Sums& sums) {
  const int64_t in = params.in_channels;
  const int64_t out = params.out_channels;
  const Tiles tiles(params.height, params.width);
  const int64_t at_once = tiles_at_once(in, out);
  const Places x_places(at_once, in);
  const Places grad_places(at_once, out);
  float* nothing = sums.rest;
  float* x_tiles = nothing + whole_vectors(in > out ? in : out);
  float* grad_tiles = x_tiles + x_places.numbers();
  zero(nothing, x_tiles - nothing);

  const int64_t last = end * tiles.in_image();
  for (int64_t first = begin * tiles.in_image(); first < last; first += at_once) {
    const int64_t count = smaller(at_once, last - first);
    for (int64_t tile = 0; tile < count; ++tile) {
      const int64_t pixels = tiles.image(first + tile) * params.height * params.width;
      const int64_t row = tiles.row(first + tile);
      const int64_t column = tiles.column(first + tile);
      transform_x(Pixels<4>(tiles, params.x + pixels * in, row - 1, column - 1, in, nothing), in, x_places,
                  x_tiles + tile * x_places.row);
      transform_grad(Pixels<2>(tiles, params.grad + pixels * out, row, column, out, nothing), out,
                     grad_places, grad_tiles + tile * grad_places.row);
    }
    const Product product{.parts = 1,
                          .steps = count,
                          .a_part = 0,
                          .a_step = x_places.row,
                          .a_row = 1,
                          .b_part = 0,
                          .b_step = grad_places.row,
                          .c_row = sums.row};
    for (int64_t place = 0; place < kPlaces; ++place)
      for (int64_t column = 0; column < sums.row; column += kPanel)
        multiply_rows(product, in, x_tiles + place * x_places.place,
                      grad_tiles + place * grad_places.place + column,
                      sums.of_weight + place * sums.place + column, Add::sums, nullptr,
                      smaller(kPanel, sums.row - column));
    constexpr int64_t kSumOfTile = 5;  // the place that holds it
    add_rows(grad_tiles + kSumOfTile * grad_places.place, count, grad_places.row, out, sums.of_bias);
  }
}

void sum_pixels(const WeightGradParams& params, int64_t begin, int64_t end, Sums& sums) {
  const int64_t in = params.in_channels;
  const int64_t out = params.out_channels;
  const int64_t pixels = params.height * params.width;
  const int64_t bordered_row = (params.width + 2) * in;
  float* bordered = sums.rest;
  float* widened = bordered + bordered_numbers(params.height, params.width, in);
  zero(bordered, widened - bordered);
  for (int64_t sample = begin; sample < end; ++sample) {
    copy_inside_border(params.x + sample * pixels * in, params.height, params.width, in, bordered);
    const float* grad = params.grad + sample * pixels * out;
    add_rows(grad, pixels, out, out, sums.of_bias);
    if (out != sums.row) {
      for (int64_t pixel = 0; pixel < pixels; ++pixel)
        for (int64_t i = 0; i < sums.row; ++i)
          widened[pixel * sums.row + i] = i < out ? grad[pixel * out + i] : 0;
      grad = widened;
    }
    const Product product{.parts = params.height,
                          .steps = params.width,
                          .a_part = bordered_row,
                          .a_step = in,
                          .a_row = 1,
                          .b_part = params.width * sums.row,
                          .b_step = sums.row,
                          .c_row = sums.row};
    for (int64_t column = 0; column < sums.row; column += kPanel)
      for (int64_t row = 0; row < 3; ++row)
        multiply_rows(product, 3 * in, bordered + row * bordered_row, grad + column,
                      sums.of_weight + row * 3 * in * sums.row + column, Add::sums, nullptr,
                      smaller(kPanel, sums.row - column));
  }
}

// G' s G of the sums of one pair of channels, kLanes of them: [4][4] to the [3][3] of the gradient.
DGDD_INLINE void transform_sums(const Floats (&sums)[4][4], Floats (&grad)[3][3]) {
  Floats along[3][4];
  for (int column = 0; column < 4; ++column) {
    const Floats half_sum = 0.5f * (sums[1][column] + sums[2][column]);
    along[0][column] = sums[0][column] + half_sum;
    along[1][column] = 0.5f * (sums[1][column] - sums[2][column]);
    along[2][column] = half_sum + sums[3][column];
  }
  for (int row = 0; row < 3; ++row) {
    const Floats half_sum = 0.5f * (along[row][1] + along[row][2]);
    grad[row][0] = along[row][0] + half_sum;
    grad[row][1] = 0.5f * (along[row][1] - along[row][2]);
    grad[row][2] = half_sum + along[row][3];
  }
}

void weight_grad(const WeightGradParams& params, int64_t begin, int64_t end, float* weight_grad,
                 float* bias_grad, float* scratch) {
  const int64_t in = params.in_channels;
  const int64_t out = params.out_channels;
  const bool transformed = is_transformed(in);
  Sums sums(params, scratch);
  (transformed ? sum_tiles : sum_pixels)(params, begin, end, sums);
  for (int64_t j = 0; j < out; ++j) bias_grad[j] = static_cast<float>(sums.of_bias[j]);
  for (int64_t i = 0; i < in; ++i)
    for (int64_t first = 0; first < out; first += kLanes) {
      Floats grad[3][3];
      if (transformed) {
        Floats at_places[4][4];
        for (int place = 0; place < kPlaces; ++place)
          at_places[place / 4][place % 4] = load(sums.of_weight + place * sums.place + i * sums.row + first);
        transform_sums(at_places, grad);
      } else {
        for (int tap = 0; tap < 9; ++tap)
          grad[tap / 3][tap % 3] = load(sums.of_weight + (tap * in + i) * sums.row + first);
      }
      for (int64_t j = 0; j < smaller(kLanes, out - first); ++j)
        for (int tap = 0; tap < 9; ++tap)
          weight_grad[((first + j) * in + i) * 9 + tap] = grad[tap / 3][tap % 3][j];
    }
}

int64_t grad_scratch_numbers(const WeightGradParams& params) {
  const int64_t in = params.in_channels;
  const int64_t out = params.out_channels;
  if (!is_transformed(in))
    return Sums::numbers(params) + bordered_numbers(params.height, params.width, in) +
           params.height * params.width * whole_vectors(out);
  const int64_t at_once = tiles_at_once(in, out);
  return Sums::numbers(params) + whole_vectors(in > out ? in : out) + Places(at_once, in).numbers() +
         Places(at_once, out).numbers();
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
