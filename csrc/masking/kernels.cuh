// The CUDA kernels of the masking operators. Every sum has one order, no atomics are used, and nothing is
// read back by the host. The scores and the mask of the fused kernel are those of the separate ones bit for
// bit: they share the code and the layout of threads.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda_shim.h"
#include "half.h"
#include "masking/cuda_launch.h"
#include "masking/selection.h"
#include "units.cuh"

namespace dgdd::masking {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWarps = kThreads / 32;
constexpr int kUnroll = 4;                  // loads that a thread has under way
constexpr int kRowsOfThread = 4 * kUnroll;  // of apply_kernel, with the channels last

// A product that is not contracted with what follows, so that every kernel rounds it alike.
__device__ __forceinline__ float product(float a, float b) {
#if defined(__CUDACC__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
__device__ __forceinline__ double product(double a, double b) {
#if defined(__CUDACC__)
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

// NaN is an extreme of every position that it is at.
template <class Real>
__device__ __forceinline__ void lower(Real& lowest, Real value) {
  lowest = value != value || value < lowest ? value : lowest;
}
template <class Real>
__device__ __forceinline__ void raise(Real& highest, Real value) {
  highest = value != value || value > highest ? value : highest;
}

template <class Real, class Stored>
struct Sample {
  const CudaCall& call;
  int64_t index;
  int64_t domain;  // -1: out of range
  const Stored* features;
  Stored* masked;

  __device__ __forceinline__ Sample(const CudaCall& call_, int64_t index_)
      : call(call_),
        index(index_),
        domain(-1),
        features(static_cast<const Stored*>(call_.params.features) + index_ * call_.params.sample_stride),
        masked(static_cast<Stored*>(call_.params.masked) +
               index_ * call_.params.channels * call_.params.positions) {
    if (call.params.domain_index == nullptr) return;
    const int64_t given = call.params.domain_index[index];
    if (given >= 0 && given < call.params.domains) domain = given;
  }

  __device__ __forceinline__ Real weight(int channel) const {
    const MaskingParams& params = call.params;
    if (domain < 0) return Real(NAN);
    return static_cast<Real>(
        load_as_double(params.weight, params.weight_storage, domain * params.channels + channel));
  }

  // What the features of a position count for under per_pixel; everything is halved, so that the range does
  // not overflow.
  __device__ __forceinline__ Real share(Real half_weight, Real feature, int position) const {
    const int64_t at = index * call.positions + position;
    const Real lowest = static_cast<const Real*>(call.lowest)[at];
    const Real range = static_cast<const Real*>(call.highest)[at] - lowest;
    return range == 0 ? Real(1) : (product(half_weight, feature) - lowest) / range;
  }

  // As a separate selection would read it.
  __device__ __forceinline__ Real score(Real sum, Real weight) const {
    const Real mean = sum / static_cast<Real>(call.positions);
    return load(store<Stored>(call.params.per_pixel ? mean : product(weight, mean)));
  }
};

// The sum of a plane over its threads' units, in every lane of the plane. `active` may differ from plane to
// plane of a warp; all its lanes must call this. `keep` gets the thread's units one after another.
template <bool packed, bool per_pixel, class Real, class Stored, class Keep>
__device__ __forceinline__ Real plane_sum(const Sample<Real, Stored>& sample, int channel, bool active,
                                          Real weight, Keep keep) {
  using U = Unit<Stored, packed>;
  const CudaCall& call = sample.call;
  const int lanes = call.lanes;
  const Real half_weight = Real(0.5) * weight;
  Real sums[kUnroll] = {};
  if (active) {
    const Stored* plane = sample.features + channel * call.params.channel_stride;
    for (int first = static_cast<int>(threadIdx.x) % lanes; first < call.units; first += kUnroll * lanes) {
      U units[kUnroll];
#pragma unroll
      for (int i = 0; i < kUnroll; ++i) {
        const int unit = first + i * lanes;
        if (unit < call.units) units[i] = load_global<U>(plane + unit * U::kElements);
      }
#pragma unroll
      for (int i = 0; i < kUnroll; ++i) {
        const int unit = first + i * lanes;
        if (unit >= call.units) continue;
        keep(units[i]);
        Real sum = 0;
#pragma unroll
        for (int e = 0; e < U::kElements; ++e) {
          const Real feature = load(units[i].elements[e]);
          sum += per_pixel ? sample.share(half_weight, feature, unit * U::kElements + e) : feature;
        }
        sums[i] += sum;
      }
    }
  }
  Real sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  for (int distance = lanes / 2; distance > 0; distance /= 2)
    sum += __shfl_xor_sync(kAllLanes, sum, distance);
  return sum;
}

// The shared memory of column_sums: the threads' sums of each element of their units. The pitch puts what the
// threads of a warp add up afterwards, some units' elements one after another, into different banks.
template <class Real, int elements>
struct Partial {
  static constexpr int kPitch = kThreads + 128 / static_cast<int>(sizeof(Real)) / elements;
  static constexpr int kCount = elements * kPitch;
};

// With the channels last: the sums of the `lanes` units of channels from `first_unit`, added up over the
// block's rows; `result` gets a channel and its sum, from one thread each. `keep` gets the thread's units one
// after another.
template <bool packed, bool per_pixel, class Real, class Stored, class Keep, class Result>
__device__ __forceinline__ void column_sums(const Sample<Real, Stored>& sample, int first_unit,
                                            const Shared<Real>& partial, Keep keep, Result result) {
  using U = Unit<Stored, packed>;
  constexpr int kElements = U::kElements;
  constexpr int kPitch = Partial<Real, kElements>::kPitch;
  const CudaCall& call = sample.call;
  const MaskingParams& params = call.params;
  const int lanes = call.lanes;
  const int rows = kThreads / lanes;
  const int thread = static_cast<int>(threadIdx.x);
  const int unit = first_unit + thread % lanes;
  Real sums[kElements] = {};
  if (unit < call.units) {
    Real half_weights[kElements] = {};
    if constexpr (per_pixel) {
#pragma unroll
      for (int e = 0; e < kElements; ++e) half_weights[e] = Real(0.5) * sample.weight(unit * kElements + e);
    }
    const Stored* column = sample.features + unit * kElements;
    for (int first = thread / lanes; first < call.positions; first += kUnroll * rows) {
      U units[kUnroll];
#pragma unroll
      for (int i = 0; i < kUnroll; ++i) {
        const int position = first + i * rows;
        if (position < call.positions) units[i] = load_global<U>(column + position * params.position_stride);
      }
#pragma unroll
      for (int i = 0; i < kUnroll; ++i) {
        const int position = first + i * rows;
        if (position >= call.positions) continue;
        keep(units[i]);
#pragma unroll
        for (int e = 0; e < kElements; ++e) {
          const Real feature = load(units[i].elements[e]);
          sums[e] += per_pixel ? sample.share(half_weights[e], feature, position) : feature;
        }
      }
    }
  }
#pragma unroll
  for (int e = 0; e < kElements; ++e) partial.store(e * kPitch + thread, sums[e]);
  __syncthreads();
  for (int i = thread; i < lanes * kElements; i += kThreads) {
    const int channel = first_unit * kElements + i;
    if (channel >= call.channels) continue;
    const int at = i % kElements * kPitch + i / kElements;
    Real sum = 0;
    for (int row = 0; row < rows; ++row) sum += partial.load(at + row * lanes);
    result(channel, sum);
  }
}

// Chooses a sample's channels with all threads of the block: channels are shared out one by one, and the
// block's votes count them. `score(channel)` reads a score, `mask(channel, value)` takes 0, 1 or NaN, and the
// two of a channel are called by the same thread; so are `key(channel)`, which gives back what
// `keep_key(channel, key)` took. Scores must have been written before a barrier.
template <class Real, class Score, class KeepKey, class Key, class Mask>
__device__ __forceinline__ void select_channels(const CudaCall& call, int64_t sample, Score score,
                                                KeepKey keep_key, Key key, Mask mask) {
  DGDD_SHARED(double, lowest, kWarps);
  DGDD_SHARED(double, highest, kWarps);
  DGDD_SHARED(double, largest, kWarps);
  const int thread = static_cast<int>(threadIdx.x);
  const MaskingParams& params = call.params;
  const int channels = call.channels;
  const auto uniform = [&](int channel) {
    return load_as_double(params.uniforms, params.uniforms_storage, sample * channels + channel);
  };

  RowExtremes row;
  for (int channel = thread; channel < channels; channel += kThreads)
    row.add(static_cast<double>(score(channel)), uniform(channel));
  const auto merge_lanes = [&](int distance) {
    RowExtremes other;
    other.lowest = __shfl_xor_sync(kAllLanes, row.lowest, distance);
    other.highest = __shfl_xor_sync(kAllLanes, row.highest, distance);
    other.largest = __shfl_xor_sync(kAllLanes, row.largest, distance);
    row.merge(other);
  };
  for (int distance = 16; distance > 0; distance /= 2) merge_lanes(distance);
  if (thread % 32 == 0) {
    lowest.store(thread / 32, row.lowest);
    highest.store(thread / 32, row.highest);
    largest.store(thread / 32, row.largest);
  }
  if (__syncthreads_or(row.invalid) != 0) {
    for (int channel = thread; channel < channels; channel += kThreads) mask(channel, Real(NAN));
    return;
  }
  row.lowest = lowest.load(thread % kWarps);
  row.highest = highest.load(thread % kWarps);
  row.largest = largest.load(thread % kWarps);
  for (int distance = kWarps / 2; distance > 0; distance /= 2) merge_lanes(distance);

  const RowWeights weights(row, params.normalize);
  for (int channel = thread; channel < channels; channel += kThreads)
    keep_key(channel, selection_key(static_cast<double>(score(channel)), uniform(channel), weights));

  const auto count = [&](auto counts) {
    int result = 0;
    for (int first = 0; first < channels; first += kThreads)
      result += __syncthreads_count(first + thread < channels && counts(first + thread));
    return result;
  };
  const Threshold threshold = find_threshold(INT64_MIN, INT64_MAX, params.num_masked, [&](int64_t limit) {
    return count([&](int channel) { return key(channel) <= limit; });
  });
  // The channels of the threshold's own key are masked up to `end`.
  int begin = 0;
  int end = threshold.ties > 0 ? channels : 0;
  while (begin < end) {
    const int middle = (begin + end) / 2;
    const int ties = count([&](int channel) { return channel < middle && key(channel) == threshold.key; });
    if (ties >= threshold.ties)
      end = middle;
    else
      begin = middle + 1;
  }
  for (int channel = thread; channel < channels; channel += kThreads) {
    const int64_t own = key(channel);
    mask(channel, Real(own < threshold.key || (own == threshold.key && channel < end) ? 0 : 1));
  }
}

template <class U, class Real>
__device__ __forceinline__ U scaled(const U& unit, const Real* factors, int factor_step) {
  using Stored = std::remove_const_t<std::remove_reference_t<decltype(unit.elements[0])>>;
  U result;
#pragma unroll
  for (int e = 0; e < U::kElements; ++e)
    result.elements[e] = store<Stored>(static_cast<Real>(load(unit.elements[e])) * factors[e * factor_step]);
  return result;
}

__device__ __forceinline__ bool is_finite(double value) { return value - value == 0; }

// -------- kernels

// The extremes over the channels at every position, of half the product of weight and features. A block has a
// unit of positions in each of some lanes and shares out the channels over the rest; with the channels last
// it has a position in each warp.
template <class Stored, bool packed, bool channels_last>
__global__ void __launch_bounds__(kThreads, 2) ranges_kernel(CudaCall call) {
  using Real = RealOf<Stored>;
  using U = Unit<Stored, packed>;
  constexpr int kElements = U::kElements;
  const MaskingParams& params = call.params;
  const int thread = static_cast<int>(threadIdx.x);
  Real* all_lowest = static_cast<Real*>(call.lowest);
  Real* all_highest = static_cast<Real*>(call.highest);

  if constexpr (channels_last) {
    const int64_t rows = params.samples * call.positions;
    for (int64_t first = int64_t{blockIdx.x} * kWarps; first < rows; first += int64_t{gridDim.x} * kWarps) {
      const int64_t row = first + thread / 32;
      Real lowest = Real(HUGE_VAL);
      Real highest = -Real(HUGE_VAL);
      if (row < rows) {
        const Sample<Real, Stored> sample(call, row / call.positions);
        const Stored* point = sample.features + row % call.positions * params.position_stride;
        for (int unit = thread % 32; unit < call.units; unit += 32) {
          const U features = load_global<U>(point + unit * kElements);
#pragma unroll
          for (int e = 0; e < kElements; ++e) {
            const Real half_weight = Real(0.5) * sample.weight(unit * kElements + e);
            const Real value = product(half_weight, Real(load(features.elements[e])));
            lower(lowest, value);
            raise(highest, value);
          }
        }
      }
      for (int distance = 16; distance > 0; distance /= 2) {
        lower(lowest, __shfl_xor_sync(kAllLanes, lowest, distance));
        raise(highest, __shfl_xor_sync(kAllLanes, highest, distance));
      }
      if (row < rows && thread % 32 == 0) {
        all_lowest[row] = lowest;
        all_highest[row] = highest;
      }
    }
  } else {
    using Pitch = Partial<Real, kElements>;
    DGDD_SHARED(Real, partial_lowest, Pitch::kCount);
    DGDD_SHARED(Real, partial_highest, Pitch::kCount);
    int lanes = 1;
    while (lanes < 32 && lanes < call.units) lanes *= 2;
    const int groups = kThreads / lanes;
    const int tiles = (call.units + lanes - 1) / lanes;
    for (int64_t work = blockIdx.x; work < params.samples * tiles; work += gridDim.x) {
      const Sample<Real, Stored> sample(call, work / tiles);
      const int first_unit = static_cast<int>(work % tiles) * lanes;
      const int unit = first_unit + thread % lanes;
      Real lowest[kElements];
      Real highest[kElements];
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        lowest[e] = Real(HUGE_VAL);
        highest[e] = -Real(HUGE_VAL);
      }
      if (unit < call.units) {
#pragma unroll kUnroll
        for (int channel = thread / lanes; channel < call.channels; channel += groups) {
          const Real half_weight = Real(0.5) * sample.weight(channel);
          const U features =
              load_global<U>(sample.features + channel * params.channel_stride + unit * kElements);
#pragma unroll
          for (int e = 0; e < kElements; ++e) {
            const Real value = product(half_weight, Real(load(features.elements[e])));
            lower(lowest[e], value);
            raise(highest[e], value);
          }
        }
      }
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        partial_lowest.store(e * Pitch::kPitch + thread, lowest[e]);
        partial_highest.store(e * Pitch::kPitch + thread, highest[e]);
      }
      __syncthreads();
      for (int i = thread; i < lanes * kElements; i += kThreads) {
        const int position = first_unit * kElements + i;
        if (position >= call.positions) continue;
        const int at = i % kElements * Pitch::kPitch + i / kElements;
        Real low = partial_lowest.load(at);
        Real high = partial_highest.load(at);
        for (int group = 1; group < groups; ++group) {
          lower(low, partial_lowest.load(at + group * lanes));
          raise(high, partial_highest.load(at + group * lanes));
        }
        all_lowest[sample.index * call.positions + position] = low;
        all_highest[sample.index * call.positions + position] = high;
      }
      __syncthreads();
    }
  }
}

// A plane for each `lanes` threads, or a tile of `lanes` units of channels for each block.
template <class Stored, bool packed, bool channels_last, bool per_pixel>
__global__ void __launch_bounds__(kThreads, per_pixel ? 1 : 2) scores_kernel(CudaCall call) {
  using Real = RealOf<Stored>;
  const MaskingParams& params = call.params;
  const int thread = static_cast<int>(threadIdx.x);
  Stored* scores = static_cast<Stored*>(params.scores);
  const auto nothing = [](const auto&) {};

  if constexpr (channels_last) {
    using Pitch = Partial<Real, Unit<Stored, packed>::kElements>;
    DGDD_SHARED(Real, partial, Pitch::kCount);
    const int tiles = (call.units + call.lanes - 1) / call.lanes;
    for (int64_t work = blockIdx.x; work < params.samples * tiles; work += gridDim.x) {
      const Sample<Real, Stored> sample(call, work / tiles);
      const int first_unit = static_cast<int>(work % tiles) * call.lanes;
      const auto result = [&](int channel, Real sum) {
        scores[sample.index * params.channels + channel] =
            store<Stored>(sample.score(sum, sample.weight(channel)));
      };
      column_sums<packed, per_pixel>(sample, first_unit, partial, nothing, result);
      __syncthreads();
    }
  } else {
    const int planes_at_once = kThreads / call.lanes;
    const int64_t planes = params.samples * params.channels;
    for (int64_t first = int64_t{blockIdx.x} * planes_at_once; first < planes;
         first += int64_t{gridDim.x} * planes_at_once) {
      const int64_t plane = first + thread / call.lanes;
      const bool active = plane < planes;
      const Sample<Real, Stored> sample(call, active ? plane / params.channels : 0);
      const int channel = active ? static_cast<int>(plane % params.channels) : 0;
      const Real weight = sample.weight(channel);
      const Real sum = plane_sum<packed, per_pixel>(sample, channel, active, weight, nothing);
      if (active && thread % call.lanes == 0) scores[plane] = store<Stored>(sample.score(sum, weight));
    }
  }
}

// A sample for each block.
template <class Stored>
__global__ void __launch_bounds__(kThreads, 2) select_kernel(CudaCall call) {
  using Real = RealOf<Stored>;
  const MaskingParams& params = call.params;
  for (int64_t sample = blockIdx.x; sample < params.samples; sample += gridDim.x) {
    const Stored* scores = static_cast<const Stored*>(params.given_scores) + sample * params.channels;
    Stored* mask = static_cast<Stored*>(params.mask) + sample * params.channels;
    int64_t* keys = call.keys + sample * params.channels;
    select_channels<Real>(
        call, sample, [=](int channel) { return load(scores[channel]); },
        [=](int channel, int64_t key) { keys[channel] = key; }, [=](int channel) { return keys[channel]; },
        [=](int channel, Real value) { mask[channel] = store<Stored>(value); });
    __syncthreads();
  }
}

// A plane for each `lanes` threads, or for each block some rows of the units of a tile. A masked plane whose
// score is finite is finite itself, and 0 there needs no reading.
template <class Stored, bool packed, bool channels_last>
__global__ void __launch_bounds__(kThreads, 2) apply_kernel(CudaCall call) {
  using Real = RealOf<Stored>;
  using U = Unit<Stored, packed>;
  constexpr int kElements = U::kElements;
  const MaskingParams& params = call.params;
  const int thread = static_cast<int>(threadIdx.x);
  const int rows_at_once = kThreads / call.lanes;
  const Real scale = static_cast<Real>(params.scale);
  const Stored* mask = static_cast<const Stored*>(params.given_mask);

  if constexpr (channels_last) {
    const int tiles = (call.units + call.lanes - 1) / call.lanes;
    const int rows_of_block = kRowsOfThread * rows_at_once;
    const int parts = (call.positions + rows_of_block - 1) / rows_of_block;
    for (int64_t work = blockIdx.x; work < params.samples * tiles * parts; work += gridDim.x) {
      const Sample<Real, Stored> sample(call, work / (int64_t{tiles} * parts));
      const int unit = static_cast<int>(work / parts % tiles) * call.lanes + thread % call.lanes;
      if (unit >= call.units) continue;
      const int begin = static_cast<int>(work % parts) * rows_of_block;
      const int end = rows_of_block < call.positions - begin ? begin + rows_of_block : call.positions;
      Real factors[kElements];
#pragma unroll
      for (int e = 0; e < kElements; ++e)
        factors[e] = load(mask[sample.index * params.channels + unit * kElements + e]) * scale;
#pragma unroll kUnroll
      for (int position = begin + thread / call.lanes; position < end; position += rows_at_once) {
        const U features =
            load_global<U>(sample.features + position * params.position_stride + unit * kElements);
        store_global(sample.masked + position * params.channels + unit * kElements,
                     scaled(features, factors, 1));
      }
    }
  } else {
    const Stored* scores = static_cast<const Stored*>(params.given_scores);
    const int64_t planes = params.samples * params.channels;
    for (int64_t plane = int64_t{blockIdx.x} * rows_at_once + thread / call.lanes; plane < planes;
         plane += int64_t{gridDim.x} * rows_at_once) {
      const Sample<Real, Stored> sample(call, plane / params.channels);
      const int channel = static_cast<int>(plane % params.channels);
      const Stored* from = sample.features + channel * params.channel_stride;
      Stored* to = sample.masked + channel * params.positions;
      const Real factor = load(mask[plane]) * scale;
      const bool skipped = factor == 0 && scores != nullptr && is_finite(load(scores[plane]));
#pragma unroll kUnroll
      for (int unit = thread % call.lanes; unit < call.units; unit += call.lanes) {
        U features{};
        if (!skipped) features = load_global<U>(from + unit * kElements);
        store_global(to + unit * kElements, scaled(features, &factor, 0));
      }
    }
  }
}

// All three steps, exactly a sample for each block: a loop over samples would cost registers. The threads
// that score a unit write it too, so what they keep of it in shared memory is theirs alone: slot after slot,
// without barriers or bank conflicts.
template <class Stored, bool channels_last>
__global__ void __launch_bounds__(kThreads, 2) fused_kernel(CudaCall call) {
  using Real = RealOf<Stored>;
  using U = Unit<Stored, true>;
  constexpr int kElements = U::kElements;
  const MaskingParams& params = call.params;
  const FusedLayout layout(call, kElements, sizeof(Real));
  const int thread = static_cast<int>(threadIdx.x);
  const int channels = call.channels;
  const int lanes = call.lanes;
  const int rows_at_once = kThreads / lanes;
  const Shared<int64_t> keys = dynamic_shared<int64_t>(0, channels);
  const Shared<Real> scores = dynamic_shared<Real>(layout.scores, channels);
  const Shared<Real> factors =
      dynamic_shared<Real>(layout.factors, (layout.units - layout.factors) / static_cast<int>(sizeof(Real)));
  const Shared<U> kept = dynamic_shared<U>(layout.units, call.slots * kThreads);
  const auto factor_at = [&](int channel) {
    return channels_last ? channel % kElements * layout.factor_stride + channel / kElements : channel;
  };

  const int64_t index = blockIdx.x;
  const Sample<Real, Stored> sample(call, index);
  int slot = 0;
  const auto keep = [&](const U& unit) {
    if (slot < call.slots) kept.store(slot * kThreads + thread, unit);
    ++slot;
  };
  if constexpr (channels_last) {
    using Pitch = Partial<Real, kElements>;
    DGDD_SHARED(Real, partial, Pitch::kCount);
    for (int first_unit = 0; first_unit < call.units; first_unit += lanes) {
      column_sums<true, false>(sample, first_unit, partial, keep, [&](int channel, Real sum) {
        scores.store(channel, sample.score(sum, sample.weight(channel)));
      });
      __syncthreads();
    }
  } else {
    for (int first = 0; first < channels; first += rows_at_once) {
      const int channel = first + thread / lanes;
      const bool active = channel < channels;
      const Real weight = active ? sample.weight(channel) : Real(0);
      const Real sum = plane_sum<true, false>(sample, channel, active, weight, keep);
      if (active && thread % lanes == 0) scores.store(channel, sample.score(sum, weight));
    }
    __syncthreads();
  }

  select_channels<Real>(
      call, index, [&](int channel) { return scores.load(channel); },
      [&](int channel, int64_t key) { keys.store(channel, key); },
      [&](int channel) { return keys.load(channel); },
      [&](int channel, Real value) {
        static_cast<Stored*>(params.mask)[index * params.channels + channel] = store<Stored>(value);
        factors.store(factor_at(channel), value * static_cast<Real>(params.scale));
      });
  __syncthreads();

  slot = 0;
  const auto next = [&](const Stored* from) {
    const U unit = slot < call.slots ? kept.load(slot * kThreads + thread) : load_global<U>(from);
    ++slot;
    return unit;
  };
  if constexpr (channels_last) {
    for (int unit = thread % lanes; unit < call.units; unit += lanes) {
      Real own[kElements];
#pragma unroll
      for (int e = 0; e < kElements; ++e) own[e] = factors.load(e * layout.factor_stride + unit);
#pragma unroll kUnroll
      for (int position = thread / lanes; position < call.positions; position += rows_at_once) {
        const U features = next(sample.features + position * params.position_stride + unit * kElements);
        store_global(sample.masked + position * params.channels + unit * kElements, scaled(features, own, 1));
      }
    }
  } else {
    for (int channel = thread / lanes; channel < channels; channel += rows_at_once) {
      const Stored* from = sample.features + channel * params.channel_stride;
      Stored* to = sample.masked + channel * params.positions;
      const Real factor = factors.load(channel);
#pragma unroll kUnroll
      for (int unit = thread % lanes; unit < call.units; unit += lanes)
        store_global(to + unit * kElements, scaled(next(from + unit * kElements), &factor, 0));
    }
  }
}

}  // namespace
}  // namespace dgdd::masking
