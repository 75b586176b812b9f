// The masking operators' CPU kernels, compiled once per instruction set with DGDD_ISA naming it. A sample is
// scored, its channels are chosen and its features written while they are still in cache. Loops are plain,
// for compilers to vectorise. Everything here is local to the unit or inlined: a function shared with other
// units could be linked with the wrong instruction set.
#include "masking/cpu_kernels.h"

#include <cstdint>
#include <type_traits>

#include "half.h"
#include "masking/selection.h"

namespace dgdd::masking::DGDD_ISA {
namespace {

// Numbers that are added up before their sum joins the others: it bounds both the rounding error of a long
// sum and the memory for widened half formats.
constexpr int64_t kBlock = 1024;
constexpr int64_t kLongPlane = 256;  // reading as many numbers takes longer than a mispredicted branch
constexpr int64_t kPoints = 32;      // likewise with the channels last, where a sum is one chain of additions

// Sums and extremes of long rows are taken lane by lane: their order is part of the result, which compilers
// do not change by themselves.
template <class Real>
using Lanes [[gnu::vector_size(32)]] = Real;
template <class Real>
constexpr int64_t kLanes = 32 / sizeof(Real);

// One thread's memory, rows of C numbers.
template <class Real>
struct Scratch {
  int64_t* keys;
  double* uniforms;
  double* scores;
  Real* factors;  // what a channel is multiplied by
  Real* weights;
  Real* sums;
  Real* block_sums;

  Scratch(CacheLine* memory, int64_t row)
      : keys(reinterpret_cast<int64_t*>(memory)),
        uniforms(reinterpret_cast<double*>(memory + row)),
        scores(reinterpret_cast<double*>(memory + 2 * row)),
        factors(reinterpret_cast<Real*>(memory + 3 * row)),
        weights(reinterpret_cast<Real*>(memory + 4 * row)),
        sums(reinterpret_cast<Real*>(memory + 5 * row)),
        block_sums(reinterpret_cast<Real*>(memory + 6 * row)) {
    static_assert(kScratchRows == 7);
  }
};

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

bool is_finite(double value) { return value - value == 0; }

template <class To, class From>
void convert(To* to, const void* from, int64_t offset, int64_t size) {
  const From* numbers = static_cast<const From*>(from) + offset;
  for (int64_t i = 0; i < size; ++i) to[i] = static_cast<To>(load(numbers[i]));
}

template <class To>
void read_row(To* to, const void* from, Storage storage, int64_t offset, int64_t size) {
  switch (storage) {
    case Storage::float32:
      return convert<To, float>(to, from, offset, size);
    case Storage::float64:
      return convert<To, double>(to, from, offset, size);
    case Storage::bfloat16:
      return convert<To, BFloat16>(to, from, offset, size);
    case Storage::float16:
      return convert<To, Float16>(to, from, offset, size);
  }
}

template <class Stored, class Real>
void write_row(void* to, const Real* from, int64_t offset, int64_t size) {
  Stored* numbers = static_cast<Stored*>(to) + offset;
  for (int64_t i = 0; i < size; ++i) numbers[i] = store<Stored>(from[i]);
}

// `size` numbers, at most kBlock, as what they are computed in; in `buffer` where they have to be widened.
template <class Real, class Stored>
const Real* widened(const Stored* from, int64_t size, Real* buffer) {
  if constexpr (std::is_same_v<Real, Stored>) {
    return from;
  } else {
    for (int64_t i = 0; i < size; ++i) buffer[i] = load(from[i]);
    return buffer;
  }
}

template <class Stored>
const Stored* features_of(const MaskingParams& params, int64_t sample) {
  return static_cast<const Stored*>(params.features) + sample * params.sample_stride;
}

// In a call that makes masked features.
template <class Stored>
Stored* masked_of(const MaskingParams& params, int64_t sample) {
  return static_cast<Stored*>(params.masked) + sample * params.channels * params.positions;
}

// Asks for the memory of a row of masked features ahead, while the features are read and summed. Once the
// mask is known, the processor would have nothing to do but wait for it.
template <class Stored>
void fetch_masked_row(const MaskingParams& params, int64_t sample, int64_t row, int64_t size) {
  constexpr int64_t kLine = sizeof(CacheLine) / sizeof(Stored);
  if (params.masked == nullptr) return;
  const Stored* masked = masked_of<Stored>(params, sample) + row * size;
  for (int64_t i = 0; i < size; i += kLine) __builtin_prefetch(masked + i, 1);
}

template <class Real>
Real sum_of(const Real* numbers, int64_t size) {
  constexpr int64_t width = kLanes<Real>;
  Lanes<Real> sums[4] = {};
  int64_t i = 0;
  Lanes<Real> lanes;
  for (; i + 4 * width <= size; i += 4 * width)
    for (int part = 0; part < 4; ++part) {
      __builtin_memcpy(&lanes, numbers + i + part * width, sizeof(lanes));
      sums[part] += lanes;
    }
  for (; i + width <= size; i += width) {
    __builtin_memcpy(&lanes, numbers + i, sizeof(lanes));
    sums[0] += lanes;
  }
  lanes = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  Real total = 0;
  for (int64_t lane = 0; lane < width / 2; ++lane) total += lanes[lane] + lanes[lane + width / 2];
  for (; i < size; ++i) total += numbers[i];
  return total;
}

// What a score adds up at one position under per_pixel, with the channels' extremes there. Everything is
// halved, so that the range does not overflow.
template <class Real>
Real share_of_range(Real value, Real lowest, Real highest) {
  const Real range = highest - lowest;
  return range == 0 ? Real(1) : (value - lowest) / range;
}

// Of numbers, or of lanes of them. NaN is an extreme of every position that it is at.
template <class Numbers>
void lower(Numbers& lowest, const Numbers& value) {
  lowest = (value != value) | (value < lowest) ? value : lowest;
}
template <class Numbers>
void raise(Numbers& highest, const Numbers& value) {
  highest = (value != value) | (value > highest) ? value : highest;
}

template <class Real>
void range_of(const Real* values, int64_t size, Real& lowest, Real& highest) {
  Lanes<Real> value;
  Lanes<Real> lowest_lanes = Real(HUGE_VAL) - Lanes<Real>{};
  Lanes<Real> highest_lanes = -lowest_lanes;
  int64_t i = 0;
  for (; i + kLanes<Real> <= size; i += kLanes<Real>) {
    __builtin_memcpy(&value, values + i, sizeof(value));
    lower(lowest_lanes, value);
    raise(highest_lanes, value);
  }
  lowest = Real(HUGE_VAL);
  highest = -Real(HUGE_VAL);
  for (int64_t lane = 0; lane < kLanes<Real>; ++lane) {
    lower<Real>(lowest, lowest_lanes[lane]);
    raise<Real>(highest, highest_lanes[lane]);
  }
  for (; i < size; ++i) {
    lower(lowest, values[i]);
    raise(highest, values[i]);
  }
}

template <class Real, class Stored>
void sum_planes(const MaskingParams& params, int64_t sample, Scratch<Real>& scratch) {
  const Stored* features = features_of<Stored>(params, sample);
  Real buffer[kBlock];
  for (int64_t channel = 0; channel < params.channels; ++channel) {
    const Stored* plane = features + channel * params.channel_stride;
    Real sum = 0;
    for (int64_t begin = 0; begin < params.positions; begin += kBlock) {
      const int64_t size = smaller(params.positions - begin, kBlock);
      sum += sum_of(widened(plane + begin, size, buffer), size);
    }
    scratch.sums[channel] = sum;
    if (params.positions < kLongPlane) fetch_masked_row<Stored>(params, sample, channel, params.positions);
  }
}

template <class Real, class Stored>
void sum_shares_of_planes(const MaskingParams& params, int64_t sample, Scratch<Real>& scratch) {
  const Stored* features = features_of<Stored>(params, sample);
  Real buffer[kBlock];
  Real lowest[kBlock];
  Real highest[kBlock];
  for (int64_t channel = 0; channel < params.channels; ++channel) scratch.sums[channel] = 0;
  for (int64_t begin = 0; begin < params.positions; begin += kBlock) {
    const int64_t size = smaller(params.positions - begin, kBlock);
    for (int64_t i = 0; i < size; ++i) {
      lowest[i] = Real(HUGE_VAL);
      highest[i] = -Real(HUGE_VAL);
    }
    for (int64_t channel = 0; channel < params.channels; ++channel) {
      const Real weight = Real(0.5) * scratch.weights[channel];
      const Real* values = widened(features + channel * params.channel_stride + begin, size, buffer);
      for (int64_t i = 0; i < size; ++i) {
        lower(lowest[i], weight * values[i]);
        raise(highest[i], weight * values[i]);
      }
    }
    for (int64_t channel = 0; channel < params.channels; ++channel) {
      const Real weight = Real(0.5) * scratch.weights[channel];
      const Real* values = widened(features + channel * params.channel_stride + begin, size, buffer);
      for (int64_t i = 0; i < size; ++i)
        buffer[i] = share_of_range(weight * values[i], lowest[i], highest[i]);
      scratch.sums[channel] += sum_of(buffer, size);
    }
  }
}

// With the channels last a position's channels lie side by side, and the sums of all channels grow together:
// over a block of positions, then over the blocks. Memory is read strictly in its order: several positions at
// once would take half the additions, but the processor would not fetch ahead of them.
template <class Real, class Stored>
void sum_points(const MaskingParams& params, int64_t sample, Scratch<Real>& scratch) {
  const Stored* features = features_of<Stored>(params, sample);
  const int64_t channels = params.channels;
  Real* __restrict sums = scratch.sums;
  Real* __restrict block_sums = scratch.block_sums;
  for (int64_t channel = 0; channel < channels; ++channel) sums[channel] = 0;
  for (int64_t begin = 0; begin < params.positions; begin += kPoints) {
    const int64_t end = smaller(begin + kPoints, params.positions);
    for (int64_t channel = 0; channel < channels; ++channel) block_sums[channel] = 0;
    for (int64_t position = begin; position < end; ++position) {
      const Stored* __restrict point = features + position * params.position_stride;
      for (int64_t channel = 0; channel < channels; ++channel) block_sums[channel] += load(point[channel]);
      fetch_masked_row<Stored>(params, sample, position, channels);
    }
    for (int64_t channel = 0; channel < channels; ++channel) sums[channel] += block_sums[channel];
  }
}

template <class Real, class Stored>
void sum_shares_of_points(const MaskingParams& params, int64_t sample, Scratch<Real>& scratch) {
  const Stored* features = features_of<Stored>(params, sample);
  const int64_t channels = params.channels;
  const Real* __restrict weights = scratch.weights;
  Real* __restrict sums = scratch.sums;
  Real* __restrict block_sums = scratch.block_sums;
  Real* __restrict values = scratch.factors;  // of one position; the factors come later
  for (int64_t channel = 0; channel < channels; ++channel) sums[channel] = 0;
  for (int64_t begin = 0; begin < params.positions; begin += kPoints) {
    const int64_t end = smaller(begin + kPoints, params.positions);
    for (int64_t channel = 0; channel < channels; ++channel) block_sums[channel] = 0;
    for (int64_t position = begin; position < end; ++position) {
      const Stored* point = features + position * params.position_stride;
      for (int64_t channel = 0; channel < channels; ++channel)
        values[channel] = Real(0.5) * weights[channel] * load(point[channel]);
      Real lowest;
      Real highest;
      range_of(static_cast<const Real*>(values), channels, lowest, highest);
      for (int64_t channel = 0; channel < channels; ++channel)
        block_sums[channel] += share_of_range(values[channel], lowest, highest);
    }
    for (int64_t channel = 0; channel < channels; ++channel) sums[channel] += block_sums[channel];
  }
}

template <class Real, class Stored>
void score(const MaskingParams& params, int64_t sample, Scratch<Real>& scratch) {
  read_row(scratch.weights, params.weight, params.weight_storage,
           params.domain_index[sample] * params.channels, params.channels);
  const auto sum =
      params.per_pixel
          ? (params.channels_last ? sum_shares_of_points<Real, Stored> : sum_shares_of_planes<Real, Stored>)
          : (params.channels_last ? sum_points<Real, Stored> : sum_planes<Real, Stored>);
  sum(params, sample, scratch);
  const Real positions = static_cast<Real>(params.positions);
  for (int64_t channel = 0; channel < params.channels; ++channel) {
    const Real mean = scratch.sums[channel] / positions;
    const Real score = params.per_pixel ? mean : scratch.weights[channel] * mean;
    // As a separate weighted_channel_mask would read it.
    scratch.scores[channel] = load(store<Stored>(score));
  }
}

RowExtremes extremes_of(const double* scores, const double* uniforms, int64_t size) {
  constexpr int64_t width = kLanes<double>;
  Lanes<double> score;
  Lanes<double> uniform;
  Lanes<double> lowest = HUGE_VAL - Lanes<double>{};
  Lanes<double> highest = -lowest;
  Lanes<double> largest = {};
  Lanes<int64_t> valid = ~Lanes<int64_t>{};
  int64_t i = 0;
  for (; i + width <= size; i += width) {
    __builtin_memcpy(&score, scores + i, sizeof(score));
    __builtin_memcpy(&uniform, uniforms + i, sizeof(uniform));
    const Lanes<double> magnitude = score < 0 ? -score : score;
    lowest = score < lowest ? score : lowest;
    highest = score > highest ? score : highest;
    largest = (magnitude > largest) & (magnitude < HUGE_VAL) ? magnitude : largest;
    valid &= (score == score) & (uniform >= 0) & (uniform <= 1);
  }
  RowExtremes row;
  for (int64_t lane = 0; lane < width; ++lane)
    row.merge({lowest[lane], highest[lane], largest[lane], valid[lane] == 0});
  for (; i < size; ++i) row.add(scores[i], uniforms[i]);
  return row;
}

int64_t count_up_to(const int64_t* keys, int64_t size, int64_t limit) {
  int64_t count = 0;
  for (int64_t i = 0; i < size; ++i) count += keys[i] <= limit;
  return count;
}

Threshold threshold_of(const int64_t* keys, int64_t size, int64_t num_masked) {
  int64_t lowest = INT64_MAX;
  int64_t highest = INT64_MIN;
  for (int64_t i = 0; i < size; ++i) {
    lowest = keys[i] < lowest ? keys[i] : lowest;
    highest = keys[i] > highest ? keys[i] : highest;
  }
  return find_threshold(lowest, highest, num_masked,
                        [=](int64_t limit) { return count_up_to(keys, size, limit); });
}

// Leaves the mask in `factors`.
template <class Real>
void select(const MaskingParams& params, int64_t sample, Scratch<Real>& scratch) {
  const int64_t channels = params.channels;
  const double* __restrict scores = scratch.scores;
  const double* __restrict uniforms = scratch.uniforms;
  int64_t* __restrict keys = scratch.keys;
  Real* __restrict mask = scratch.factors;
  read_row(scratch.uniforms, params.uniforms, params.uniforms_storage, sample * channels, channels);

  const RowExtremes extremes = extremes_of(scores, uniforms, channels);
  if (extremes.invalid) {
    for (int64_t channel = 0; channel < channels; ++channel) mask[channel] = Real(NAN);
    return;
  }
  const RowWeights weights(extremes, params.normalize);
  for (int64_t channel = 0; channel < channels; ++channel)
    keys[channel] = selection_key(scores[channel], uniforms[channel], weights);
  const Threshold threshold = threshold_of(keys, channels, params.num_masked);
  for (int64_t channel = 0; channel < channels; ++channel) mask[channel] = !(keys[channel] < threshold.key);
  int64_t ties = threshold.ties;
  for (int64_t channel = 0; ties > 0; ++channel) {
    if (keys[channel] != threshold.key) continue;
    mask[channel] = 0;
    --ties;
  }
}

template <class Real, class Stored>
void apply(const MaskingParams& params, int64_t sample, Scratch<Real>& scratch) {
  const int64_t channels = params.channels;
  const int64_t positions = params.positions;
  const Stored* features = features_of<Stored>(params, sample);
  Stored* masked = masked_of<Stored>(params, sample);
  Real* __restrict factors = scratch.factors;
  for (int64_t channel = 0; channel < channels; ++channel)
    factors[channel] *= static_cast<Real>(params.scale);

  if (params.channels_last) {
    for (int64_t position = 0; position < positions; ++position) {
      const Stored* __restrict from = features + position * params.position_stride;
      Stored* __restrict to = masked + position * channels;
      for (int64_t channel = 0; channel < channels; ++channel)
        to[channel] = store<Stored>(load(from[channel]) * factors[channel]);
    }
    return;
  }
  const auto multiply = [&](int64_t channel) {
    const Stored* __restrict from = features + channel * params.channel_stride;
    Stored* __restrict to = masked + channel * positions;
    const Real factor = factors[channel];
    for (int64_t i = 0; i < positions; ++i) to[i] = store<Stored>(load(from[i]) * factor);
  };
  // Short planes have a loop of their own: in one loop compilers test the factor first, and which channels
  // are masked no processor predicts.
  if (params.weight == nullptr || positions < kLongPlane) {
    for (int64_t channel = 0; channel < channels; ++channel) multiply(channel);
    return;
  }
  // A masked channel with a finite score is finite itself, and 0 there needs no reading.
  for (int64_t channel = 0; channel < channels; ++channel) {
    if (factors[channel] == 0 && is_finite(scratch.scores[channel])) {
      for (int64_t i = 0; i < positions; ++i) masked[channel * positions + i] = Stored{};
    } else {
      multiply(channel);
    }
  }
}

template <class Real, class Stored>
void run_samples(const MaskingParams& params, int64_t begin, int64_t end, CacheLine* memory) {
  const int64_t channels = params.channels;
  Scratch<Real> scratch(memory, cpu_scratch_row(params));
  for (int64_t sample = begin; sample < end; ++sample) {
    const int64_t row = sample * channels;
    if (params.weight != nullptr)
      score<Real, Stored>(params, sample, scratch);
    else if (params.given_scores != nullptr)
      convert<double, Stored>(scratch.scores, params.given_scores, row, channels);
    if (params.scores != nullptr) write_row<Stored>(params.scores, scratch.scores, row, channels);

    if (params.uniforms != nullptr)
      select(params, sample, scratch);
    else if (params.given_mask != nullptr)
      convert<Real, Stored>(scratch.factors, params.given_mask, row, channels);
    if (params.mask != nullptr) write_row<Stored>(params.mask, scratch.factors, row, channels);

    if (params.masked != nullptr) apply<Real, Stored>(params, sample, scratch);
  }
}

}  // namespace

CpuKernel cpu_kernel(Storage storage) {
  switch (storage) {
    case Storage::float64:
      return run_samples<double, double>;
    case Storage::bfloat16:
      return run_samples<float, BFloat16>;
    case Storage::float16:
      return run_samples<float, Float16>;
    default:
      return run_samples<float, float>;
  }
}

}  // namespace dgdd::masking::DGDD_ISA
