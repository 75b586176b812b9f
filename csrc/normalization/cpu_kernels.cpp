// The CPU kernels of norm_relu_pool and its backward, compiled once per instruction set with DGDD_ISA naming
// it. A plane is read from memory once; what follows finds it in cache. Everything here is local to the unit
// or inlined: a function shared with other units could be linked with the wrong instruction set.
#include "normalization/cpu_kernels.h"

#include <cstdint>
#include <type_traits>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "half.h"

namespace dgdd::normalization::DGDD_ISA {
namespace {

#define DGDD_INLINE inline __attribute__((always_inline))

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// The order of a sum is part of the result, so sums are written lane by lane.
typedef float Floats __attribute__((vector_size(kVectorBytes)));
typedef double Doubles __attribute__((vector_size(kVectorBytes)));
template <class Real>
using Lanes = std::conditional_t<std::is_same_v<Real, double>, Doubles, Floats>;
template <class Real>
constexpr int kLanes = kVectorBytes / sizeof(Real);

constexpr int64_t kBlock = 2048;  // numbers of a plane that are still in the first cache when they come again
constexpr int64_t kPoints = 64;   // likewise with the channels last, positions
constexpr int64_t kShortSum = 256;  // numbers of both signs that are added up before they join the others

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

DGDD_INLINE float square_root(float value) { return __builtin_sqrtf(value); }
DGDD_INLINE double square_root(double value) { return __builtin_sqrt(value); }

// Of numbers, or of lanes of them; NaN stays NaN.
template <class Numbers>
DGDD_INLINE Numbers rectified(Numbers value) {
  return value < 0 ? Numbers{} : value;
}
// What reaches a number through the rectifier backwards: as in PyTorch, all of it where the number is NaN.
template <class Numbers>
DGDD_INLINE Numbers passed(Numbers grad, Numbers value) {
  return value <= 0 ? Numbers{} : grad;
}

// -------- lanes in memory

template <class Real>
DGDD_INLINE Lanes<Real> load_lanes(const Real* from) {
  Lanes<Real> lanes;
  __builtin_memcpy(&lanes, from, sizeof(lanes));
  return lanes;
}

template <class Real>
DGDD_INLINE void store_lanes(Real* to, Lanes<Real> lanes) {
  __builtin_memcpy(to, &lanes, sizeof(lanes));
}

typedef uint32_t Bits __attribute__((vector_size(kVectorBytes)));
typedef uint16_t HalfBits __attribute__((vector_size(kVectorBytes / 2)));

DGDD_INLINE Lanes<float> load_lanes(const BFloat16* from) {
  HalfBits halves;
  __builtin_memcpy(&halves, from, sizeof(halves));
  return reinterpret_cast<Lanes<float>>(__builtin_convertvector(halves, Bits) << 16);
}

DGDD_INLINE void store_lanes(BFloat16* to, Lanes<float> lanes) {
  const Bits bits = reinterpret_cast<Bits>(lanes);
  const Bits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Bits nan = (bits >> 16) | 0x40u;
  const HalfBits halves =
      __builtin_convertvector((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded, HalfBits);
  __builtin_memcpy(to, &halves, sizeof(halves));
}

DGDD_INLINE Lanes<float> load_lanes(const Float16* from) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__F16C__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
  Lanes<float> lanes;
  for (int lane = 0; lane < kLanes<float>; ++lane) lanes[lane] = load(from[lane]);
  return lanes;
#endif
}

DGDD_INLINE void store_lanes(Float16* to, Lanes<float> lanes) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm512_cvtps_ph(lanes, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__F16C__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                   _mm256_cvtps_ph(lanes, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  for (int lane = 0; lane < kLanes<float>; ++lane) to[lane] = round_to_float16(lanes[lane]);
#endif
}

// -------- sums

template <class Real>
DGDD_INLINE Real total(Lanes<Real> lanes) {
  Real parts[kLanes<Real>];
  store_lanes(parts, lanes);
  for (int half = kLanes<Real> / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane) parts[lane] += parts[lane + half];
  return parts[0];
}

// The sum of term(x) over numbers; `term` takes lanes, or one number.
template <class Real, class Term>
DGDD_INLINE Real sum_of(const Real* numbers, int64_t size, Term term) {
  constexpr int width = kLanes<Real>;
  Lanes<Real> sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * width <= size; i += 4 * width)
    for (int part = 0; part < 4; ++part) sums[part] += term(load_lanes(numbers + i + part * width));
  for (; i + width <= size; i += width) sums[0] += term(load_lanes(numbers + i));
  Real sum = total<Real>((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; i < size; ++i) sum += term(numbers[i]);
  return sum;
}

// A sum of partial sums of both signs that keeps what its rounding loses (Knuth's two-sum).
template <class Numbers>
struct ExactSum {
  Numbers sum{};
  Numbers lost{};

  DGDD_INLINE void add(Numbers value) {
    const Numbers next = sum + value;
    const Numbers added = next - sum;
    lost += (sum - (next - added)) + (value - added);
    sum = next;
  }
  DGDD_INLINE Numbers result() const { return sum + lost; }
};

// The mean of numbers and the sum of their squared distances from it, of lanes or of one plane, as they grow
// by whole blocks (Chan, Golub and LeVeque, 1983). Blocks are summed about their own mean: nothing cancels.
template <class Real, class Numbers>
struct Moments {
  Real count = 0;
  Numbers mean{};
  Numbers squares{};

  DGDD_INLINE void add(Real block_count, Numbers block_mean, Numbers block_squares) {
    const Real sum = count + block_count;
    const Numbers distance = block_mean - mean;
    mean += distance * (block_count / sum);
    squares += block_squares + distance * distance * (count * block_count / sum);
    count = sum;
  }
};

// What turns a plane's numbers into normalised ones with weight and bias: (x - mean) * scale + bias.
template <class Real>
struct Affine {
  Real mean;
  Real inverse_std;
  Real scale;
  Real bias;

  template <class Numbers>
  DGDD_INLINE Numbers apply(Numbers centred) const {
    return centred * scale + bias;
  }
};

template <class Real>
DGDD_INLINE Real inverse_std(Real squares, const NormPoolParams& params) {
  return 1 / square_root(squares / static_cast<Real>(params.positions()) + static_cast<Real>(params.eps));
}

template <class Real>
DGDD_INLINE Real share_of_window(const NormPoolParams& params) {
  return 1 / (static_cast<Real>(params.pool) * static_cast<Real>(params.pool));
}

// -------- planes by themselves, band by band: a band is the `pool` rows that become one

// What all planes of a call share, worked out once: for small planes divisions count.
template <class Real>
struct Planes {
  const NormPoolParams& params;
  const int64_t pool = params.pool;
  const int64_t width = params.width;
  const int64_t positions = params.positions();
  const int64_t pooled_height = params.pooled_height();
  const int64_t pooled_width = params.pooled_width();
  const int64_t bands_at_once = cpu_bands(params);
  const Real share = share_of_window<Real>(params);  // of a number in the mean of its window
  Real* const first;                                 // two buffers
  Real* const second;

  Planes(const NormPoolParams& params_, CacheLine* scratch)
      : params(params_), first(reinterpret_cast<Real*>(scratch)), second(first + cpu_buffer(params_)) {}

  // Calls `work(band, bands)` for the bands that fit a buffer, group after group.
  template <class Work>
  DGDD_INLINE void for_bands(Work work) const {
    for (int64_t band = 0; band < pooled_height; band += bands_at_once)
      work(band, smaller(bands_at_once, pooled_height - band));
  }
};

// `size` numbers, at most a buffer; in `buffer` where they have to be widened.
template <class Real, class Stored>
DGDD_INLINE const Real* widened(const Stored* from, int64_t size, Real* buffer) {
  if constexpr (std::is_same_v<Real, Stored>) {
    return from;
  } else {
    int64_t i = 0;
    for (; i + kLanes<Real> <= size; i += kLanes<Real>) store_lanes(buffer + i, load_lanes(from + i));
    for (; i < size; ++i) buffer[i] = load(from[i]);
    return buffer;
  }
}

// One after another for some planes at a time: a plane's own sums, quotients and roots wait for each other,
// and those of small planes take longer than their numbers.
constexpr int64_t kPlanesAtOnce = 16;

template <class Stored>
const Stored* plane_of(const NormPoolParams& params, int64_t number) {
  return static_cast<const Stored*>(params.x) + number / params.channels * params.sample_stride +
         number % params.channels * params.channel_stride;
}

// The affine maps of the planes [number, number + count), at most kPlanesAtOnce; their numbers are in `x`.
template <class Real, class Stored>
void find_affines(const Planes<Real>& planes, const Stored* const* x, int64_t number, int64_t count,
                  Affine<Real>* affines) {
  const NormPoolParams& params = planes.params;
  Moments<Real, Real> moments[kPlanesAtOnce];
  for (int64_t begin = 0; begin < planes.positions; begin += kBlock) {
    const int64_t size = smaller(planes.positions - begin, kBlock);
    const Real numbers = static_cast<Real>(size);
    Real means[kPlanesAtOnce];
    for (int64_t i = 0; i < count; ++i)
      means[i] =
          sum_of(widened(x[i] + begin, size, planes.first), size, [](auto value) { return value; }) / numbers;
    for (int64_t i = 0; i < count; ++i) {
      const Real mean = means[i];
      const Real squares = sum_of(widened(x[i] + begin, size, planes.first), size, [=](auto value) {
        const auto distance = value - mean;
        return distance * distance;
      });
      if (begin == 0)
        moments[i] = {numbers, mean, squares};
      else
        moments[i].add(numbers, mean, squares);
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    const int64_t channel = (number + i) % params.channels;
    affines[i].mean = moments[i].mean;
    affines[i].inverse_std = inverse_std(moments[i].squares, params);
    affines[i].scale = affines[i].inverse_std * static_cast<const Real*>(params.weight)[channel];
    affines[i].bias = static_cast<const Real*>(params.bias)[channel];
  }
}

// Calls `work` with the width of pooled rows: as a constant where that is small, for loops over short rows to
// vanish.
template <class Work>
DGDD_INLINE void with_row(int64_t size, Work work) {
  switch (size) {
    case 4:
      return work(std::integral_constant<int64_t, 4>{});
    case 8:
      return work(std::integral_constant<int64_t, 8>{});
    case 16:
      return work(std::integral_constant<int64_t, 16>{});
    default:
      return work(size);
  }
}

// The means over the windows of `bands` bands in `rows`.
template <class Real, class Stored>
void pool_bands(const Planes<Real>& planes, const Real* __restrict rows, int64_t bands,
                Real* __restrict buffer, Stored* __restrict pooled) {
  const int64_t pool = planes.pool;
  const int64_t width = planes.width;
  const int64_t pooled_width = planes.pooled_width;
  const Real share = planes.share;
  if (pool == 1) {
    for (int64_t i = 0; i < bands * width; ++i) pooled[i] = store<Stored>(rows[i]);
    return;
  }
  if (pool == 2 && width % 2 == 0) {
    for (int64_t i = 0; i < bands * width; ++i) buffer[i] = rows[2 * i] + rows[2 * i + 1];
    with_row(pooled_width, [&](auto size) {
      for (int64_t band = 0; band < bands; ++band) {
        const Real* __restrict upper = buffer + 2 * band * size;
        for (int64_t i = 0; i < size; ++i)
          pooled[band * size + i] = store<Stored>((upper[i] + upper[size + i]) * share);
      }
    });
    return;
  }
  for (int64_t band = 0; band < bands; ++band)
    for (int64_t column = 0; column < pooled_width; ++column) {
      Real sum = 0;
      for (int64_t row = 0; row < pool; ++row) {
        const Real* window = rows + (band * pool + row) * width + column * pool;
        for (int64_t i = 0; i < pool; ++i) sum += window[i];
      }
      pooled[band * pooled_width + column] = store<Stored>(sum * share);
    }
}

// The reverse: each number's share of its window's gradient, 0 for columns in no window.
template <class Real, class Stored>
void spread_bands(const Planes<Real>& planes, const Stored* __restrict grad, int64_t bands,
                  Real* __restrict rows) {
  const int64_t pool = planes.pool;
  const int64_t width = planes.width;
  const int64_t pooled_width = planes.pooled_width;
  const Real share = planes.share;
  if (pool == 1) {
    for (int64_t i = 0; i < bands * width; ++i) rows[i] = load(grad[i]);
    return;
  }
  if (pool == 2 && width % 2 == 0) {
    with_row(pooled_width, [&](auto size) {
      for (int64_t band = 0; band < bands; ++band) {
        Real* __restrict upper = rows + 4 * band * size;
        for (int64_t i = 0; i < size; ++i)
          upper[2 * i] = upper[2 * i + 1] = load(grad[band * size + i]) * share;
        for (int64_t i = 0; i < 2 * size; ++i) upper[2 * size + i] = upper[i];
      }
    });
    return;
  }
  for (int64_t row = 0; row < bands * pool; ++row) {
    Real* to = rows + row * width;
    for (int64_t i = 0; i < width; ++i) {
      const int64_t column = i / pool;
      to[i] = column < pooled_width ? load(grad[row / pool * pooled_width + column]) * share : Real(0);
    }
  }
}

template <class Real, class Stored>
void forward_plane(const Planes<Real>& planes, const Stored* x, const Affine<Real>& affine, int64_t number) {
  Stored* pooled =
      static_cast<Stored*>(planes.params.pooled) + number * planes.pooled_height * planes.pooled_width;
  planes.for_bands([&](int64_t band, int64_t bands) {
    const int64_t size = bands * planes.pool * planes.width;
    const Real* values = widened(x + band * planes.pool * planes.width, size, planes.first);
    Real* __restrict active = planes.second;
    for (int64_t i = 0; i < size; ++i) active[i] = rectified(affine.apply(values[i] - affine.mean));
    pool_bands<Real, Stored>(planes, active, bands, planes.first, pooled + band * planes.pooled_width);
  });
}

// The gradient of x is scale * (passed - mean(passed) - normalised * mean(passed * normalised)), with
// `passed` what passes the rectifier. Differences are taken before they are scaled: in small planes they
// nearly cancel.

template <class Real, class Stored>
void backward_plane(const Planes<Real>& planes, const Stored* x, const Affine<Real>& affine, int64_t number) {
  constexpr int width = kLanes<Real>;
  const NormPoolParams& params = planes.params;
  const Stored* grad =
      static_cast<const Stored*>(params.pooled_grad) + number * planes.pooled_height * planes.pooled_width;
  Real* spread = planes.second;
  const auto spread_of = [&](int64_t band, int64_t bands) {
    spread_bands(planes, grad + band * planes.pooled_width, bands, spread);
  };

  ExactSum<Real> sums_of_bands;
  ExactSum<Real> products_of_bands;
  planes.for_bands([&](int64_t band, int64_t bands) {
    const int64_t size = bands * planes.pool * planes.width;
    const Real* values = widened(x + band * planes.pool * planes.width, size, planes.first);
    spread_of(band, bands);
    int64_t i = 0;
    while (i + 2 * width <= size) {
      const int64_t end = smaller(size, i + kShortSum);
      Lanes<Real> sums[2] = {};
      Lanes<Real> products[2] = {};
      for (; i + 2 * width <= end; i += 2 * width)
        for (int part = 0; part < 2; ++part) {
          const Lanes<Real> centred = load_lanes(values + i + part * width) - affine.mean;
          const Lanes<Real> passing = passed(load_lanes(spread + i + part * width), affine.apply(centred));
          sums[part] += passing;
          products[part] += passing * centred;
        }
      sums_of_bands.add(total<Real>(sums[0] + sums[1]));
      products_of_bands.add(total<Real>(products[0] + products[1]));
    }
    Real rest = 0;
    Real rest_product = 0;
    for (; i < size; ++i) {
      const Real centred = values[i] - affine.mean;
      const Real passing = passed(spread[i], affine.apply(centred));
      rest += passing;
      rest_product += passing * centred;
    }
    sums_of_bands.add(rest);
    products_of_bands.add(rest_product);
  });
  const Real sum = sums_of_bands.result();
  const Real product = products_of_bands.result();
  static_cast<Real*>(params.plane_bias_grads)[number] = sum;
  static_cast<Real*>(params.plane_weight_grads)[number] = product * affine.inverse_std;

  const Real positions = static_cast<Real>(planes.positions);
  const Real mean = sum / positions;
  const Real along = affine.inverse_std * affine.inverse_std * (product / positions);
  const auto grad_of = [&](Real passing, Real centred) {
    return affine.scale * ((passing - mean) - centred * along);
  };
  Stored* __restrict x_grad = static_cast<Stored*>(params.x_grad) + number * planes.positions;
  planes.for_bands([&](int64_t band, int64_t bands) {
    const int64_t begin = band * planes.pool * planes.width;
    const int64_t size = bands * planes.pool * planes.width;
    if (bands < planes.pooled_height) spread_of(band, bands);  // else it is there still
    for (int64_t i = 0; i < size; ++i) {
      const Real centred = load(x[begin + i]) - affine.mean;
      const Real passing = passed(spread[i], affine.apply(centred));
      x_grad[begin + i] = store<Stored>(grad_of(passing, centred));
    }
  });
  for (int64_t i = planes.pooled_height * planes.pool * planes.width; i < planes.positions; ++i)
    x_grad[i] = store<Stored>(grad_of(0, load(x[i]) - affine.mean));
}

// -------- channels last: some vectors of channels of one sample, position by position

template <class Real, class Stored, int vectors, bool partial>
struct Columns {
  static constexpr int kWidth = kLanes<Real>;
  using Numbers = Lanes<Real>;

  const NormPoolParams& params;
  int64_t sample;
  int64_t channel;  // the first
  int64_t count;    // of channels: all lanes, or where partial fewer than one vector
  Numbers mean[vectors];
  Numbers inverse[vectors];
  Numbers scale[vectors];
  Numbers bias[vectors];

  Columns(const NormPoolParams& params_, int64_t sample_, int64_t channel_, int64_t count_)
      : params(params_), sample(sample_), channel(channel_), count(count_) {}

  // In memory of one position's channels, from the first of these.
  DGDD_INLINE Numbers load_part(const Stored* from, int part) const {
    if constexpr (!partial) return load_lanes(from + part * kWidth);
    Stored copy[kWidth] = {};
    for (int64_t i = 0; i < count; ++i) copy[i] = from[i];
    return load_lanes(static_cast<const Stored*>(copy));
  }
  template <class Number>
  DGDD_INLINE void store_part(Number* to, int part, Numbers value) const {
    if constexpr (!partial) return store_lanes(to + part * kWidth, value);
    Number copy[kWidth];
    store_lanes(copy, value);
    for (int64_t i = 0; i < count; ++i) to[i] = copy[i];
  }
  DGDD_INLINE Numbers load_row(const void* row, int part) const {
    const Real* from = static_cast<const Real*>(row) + channel;
    if constexpr (!partial) return load_lanes(from + part * kWidth);
    Numbers value{};
    for (int64_t i = 0; i < count; ++i) value[i] = from[i];
    return value;
  }

  DGDD_INLINE const Stored* x() const {
    return static_cast<const Stored*>(params.x) + sample * params.sample_stride + channel;
  }
  // In [N, `positions`, C] without gaps.
  template <class Memory>
  DGDD_INLINE auto* dense(Memory* memory, int64_t positions) const {
    using Number = std::conditional_t<std::is_const_v<Memory>, const Stored, Stored>;
    return static_cast<Number*>(memory) + sample * positions * params.channels + channel;
  }

  void normalise() {
    Moments<Real, Numbers> moments[vectors];
    const Stored* from = x();
    const int64_t stride = params.position_stride;
    for (int64_t begin = 0; begin < params.positions(); begin += kPoints) {
      const int64_t end = smaller(begin + kPoints, params.positions());
      const Real points = static_cast<Real>(end - begin);
      Numbers sums[2][vectors] = {};
      const auto add = [&](Numbers(&to)[vectors], int64_t position) {
        for (int part = 0; part < vectors; ++part) to[part] += load_part(from + position * stride, part);
      };
      int64_t position = begin;
      for (; position + 2 <= end; position += 2) {
        add(sums[0], position);
        add(sums[1], position + 1);
      }
      if (position < end) add(sums[0], position);
      Numbers means[vectors];
      Numbers squares[2][vectors] = {};
      for (int part = 0; part < vectors; ++part) means[part] = (sums[0][part] + sums[1][part]) / points;
      const auto add_squares = [&](Numbers(&to)[vectors], int64_t position) {
        for (int part = 0; part < vectors; ++part) {
          const Numbers distance = load_part(from + position * stride, part) - means[part];
          to[part] += distance * distance;
        }
      };
      for (position = begin; position + 2 <= end; position += 2) {
        add_squares(squares[0], position);
        add_squares(squares[1], position + 1);
      }
      if (position < end) add_squares(squares[0], position);
      for (int part = 0; part < vectors; ++part)
        moments[part].add(points, means[part], squares[0][part] + squares[1][part]);
    }
    for (int part = 0; part < vectors; ++part) {
      mean[part] = moments[part].mean;
      for (int lane = 0; lane < kWidth; ++lane)
        inverse[part][lane] = inverse_std<Real>(moments[part].squares[lane], params);
      scale[part] = inverse[part] * load_row(params.weight, part);
      bias[part] = load_row(params.bias, part);
    }
  }

  // Calls `work(x, window)` for every position of a window.
  template <class Pool, class Work>
  DGDD_INLINE void for_window(Pool pool, int64_t row, int64_t column, Work work) const {
    for (int64_t i = 0; i < pool; ++i)
      for (int64_t j = 0; j < pool; ++j) work((row * pool + i) * params.width + column * pool + j);
  }

  template <class Pool>
  DGDD_INLINE void forward(Pool pool) const {
    const Stored* from = x();
    Stored* to = dense(params.pooled, params.pooled_height() * params.pooled_width());
    const Real share = share_of_window<Real>(params);
    for (int64_t row = 0; row < params.pooled_height(); ++row)
      for (int64_t column = 0; column < params.pooled_width(); ++column) {
        Numbers sums[vectors] = {};
        for_window(pool, row, column, [&](int64_t position) {
          for (int part = 0; part < vectors; ++part) {
            const Numbers centred = load_part(from + position * params.position_stride, part) - mean[part];
            sums[part] += rectified<Numbers>(centred * scale[part] + bias[part]);
          }
        });
        for (int part = 0; part < vectors; ++part) store_part(to, part, sums[part] * share);
        to += params.channels;
      }
  }

  template <class Pool>
  DGDD_INLINE void backward(Pool pool) const {
    const Stored* from = x();
    const int64_t pooled_width = params.pooled_width();
    const int64_t channels = params.channels;
    const Stored* grads = dense(params.pooled_grad, params.pooled_height() * pooled_width);
    Stored* to = dense(params.x_grad, params.positions());
    const Real share = share_of_window<Real>(params);
    const Real positions = static_cast<Real>(params.positions());

    ExactSum<Numbers> sums[vectors];
    ExactSum<Numbers> products[vectors];
    for (int64_t row = 0; row < params.pooled_height(); ++row)
      for (int64_t begin = 0; begin < pooled_width; begin += kPoints) {
        const int64_t end = smaller(begin + kPoints, pooled_width);
        Numbers sum[vectors] = {};
        Numbers product[vectors] = {};
        for (int64_t column = begin; column < end; ++column) {
          // What passes of the window's x: how many, and their sum.
          Numbers count[vectors] = {};
          Numbers active[vectors] = {};
          for_window(pool, row, column, [&](int64_t position) {
            for (int part = 0; part < vectors; ++part) {
              const Numbers centred = load_part(from + position * params.position_stride, part) - mean[part];
              const Numbers normalised = centred * scale[part] + bias[part];
              count[part] += passed<Numbers>(Real(1) - Numbers{}, normalised);
              active[part] += passed<Numbers>(centred, normalised);
            }
          });
          for (int part = 0; part < vectors; ++part) {
            const Numbers grad = load_part(grads + (row * pooled_width + column) * channels, part);
            sum[part] += grad * count[part];
            product[part] += grad * active[part];
          }
        }
        for (int part = 0; part < vectors; ++part) {
          sums[part].add(sum[part]);
          products[part].add(product[part]);
        }
      }
    Real* bias_grads = static_cast<Real*>(params.plane_bias_grads) + sample * channels + channel;
    Real* weight_grads = static_cast<Real*>(params.plane_weight_grads) + sample * channels + channel;
    Numbers mean_grad[vectors];
    Numbers along[vectors];
    Numbers of_grad[vectors];
    for (int part = 0; part < vectors; ++part) {
      const Numbers sum = sums[part].result();
      const Numbers product = products[part].result();
      store_part(bias_grads, part, sum * share);
      store_part(weight_grads, part, product * share * inverse[part]);
      of_grad[part] = scale[part] * share;
      mean_grad[part] = sum / positions;
      along[part] = inverse[part] * inverse[part] * (product / positions);
    }

    const auto write = [&](int64_t position, int part, Numbers passing, Numbers centred) {
      store_part(to + position * channels, part,
                 of_grad[part] * ((passing - mean_grad[part]) - centred * along[part]));
    };
    const auto write_outside = [&](int64_t position) {
      for (int part = 0; part < vectors; ++part)
        write(position, part, Numbers{},
              load_part(from + position * params.position_stride, part) - mean[part]);
    };
    for (int64_t row = 0; row < params.pooled_height(); ++row) {
      for (int64_t column = 0; column < pooled_width; ++column) {
        Numbers grad[vectors];
        for (int part = 0; part < vectors; ++part)
          grad[part] = load_part(grads + (row * pooled_width + column) * channels, part);
        for_window(pool, row, column, [&](int64_t position) {
          for (int part = 0; part < vectors; ++part) {
            const Numbers centred = load_part(from + position * params.position_stride, part) - mean[part];
            write(position, part, passed<Numbers>(grad[part], centred * scale[part] + bias[part]), centred);
          }
        });
      }
      for (int64_t i = 0; i < pool; ++i)
        for (int64_t column = pooled_width * pool; column < params.width; ++column)
          write_outside((row * pool + i) * params.width + column);
    }
    for (int64_t at = params.pooled_height() * pool * params.width; at < params.positions(); ++at)
      write_outside(at);
  }

  void run() {
    normalise();
    const auto with = [&](auto pool) { params.backward ? backward(pool) : forward(pool); };
    if (params.pool == 2)
      with(std::integral_constant<int64_t, 2>{});
    else
      with(params.pool);
  }
};

template <class Real, class Stored>
void run_tile(const NormPoolParams& params, int64_t sample, int64_t channel, int64_t end) {
  constexpr int width = kLanes<Real>;
  for (; channel + 4 * width <= end; channel += 4 * width)
    Columns<Real, Stored, 4, false>(params, sample, channel, 4 * width).run();
  for (; channel + width <= end; channel += width)
    Columns<Real, Stored, 1, false>(params, sample, channel, width).run();
  if (channel < end) Columns<Real, Stored, 1, true>(params, sample, channel, end - channel).run();
}

template <class Real, class Stored>
void run_tiles(const NormPoolParams& params, int64_t begin, int64_t end, CacheLine*) {
  const int64_t tiles = cpu_tiles(params);
  for (int64_t piece = begin; piece < end; ++piece) {
    const int64_t channel = piece % tiles * kTileChannels;
    run_tile<Real, Stored>(params, piece / tiles, channel, smaller(channel + kTileChannels, params.channels));
  }
}

template <class Real, class Stored>
void run_planes(const NormPoolParams& params, int64_t begin, int64_t end, CacheLine* scratch) {
  const Planes<Real> planes(params, scratch);
  constexpr int64_t kNumbers = 4096;  // they should be in the first cache when they come again
  const int64_t at_once =
      planes.positions < kNumbers / kPlanesAtOnce ? kPlanesAtOnce : (kNumbers - 1) / planes.positions + 1;
  const Stored* x[kPlanesAtOnce];
  Affine<Real> affines[kPlanesAtOnce];
  for (int64_t number = begin; number < end; number += at_once) {
    const int64_t count = smaller(at_once, end - number);
    for (int64_t i = 0; i < count; ++i) x[i] = plane_of<Stored>(params, number + i);
    find_affines(planes, x, number, count, affines);
    for (int64_t i = 0; i < count; ++i)
      (params.backward ? backward_plane<Real, Stored> : forward_plane<Real, Stored>)(planes, x[i], affines[i],
                                                                                     number + i);
  }
}

template <class Real, class Stored>
void run_pieces(const NormPoolParams& params, int64_t begin, int64_t end, CacheLine* scratch) {
  (params.channels_last ? run_tiles<Real, Stored> : run_planes<Real, Stored>)(params, begin, end, scratch);
}

}  // namespace

CpuKernel cpu_kernel(Storage storage) {
  switch (storage) {
    case Storage::float64:
      return run_pieces<double, double>;
    case Storage::bfloat16:
      return run_pieces<float, BFloat16>;
    case Storage::float16:
      return run_pieces<float, Float16>;
    default:
      return run_pieces<float, float>;
  }
}

}  // namespace dgdd::normalization::DGDD_ISA
