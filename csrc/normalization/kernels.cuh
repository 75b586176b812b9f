// The CUDA kernels of norm_relu_pool and its backward. Every sum has one order, no atomics are used, and
// nothing is read back by the host.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "cuda_shim.h"
#include "half.h"
#include "normalization/cuda_launch.h"
#include "units.cuh"

namespace dgdd::normalization {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kUnroll = 4;  // loads that a thread has under way

__device__ __forceinline__ float square_root(float value) { return sqrtf(value); }
__device__ __forceinline__ double square_root(double value) { return sqrt(value); }

// NaN stays NaN, and lets through the whole gradient, as in PyTorch.
template <class Real>
__device__ __forceinline__ Real rectified(Real value) {
  return value < 0 ? Real(0) : value;
}
template <class Real>
__device__ __forceinline__ Real passed(Real grad, Real value) {
  return value <= 0 ? Real(0) : grad;
}

// A thread's part of a plane, or with the channels last of a unit of channels of a sample: the cells `first`,
// `first + step`, ... kPool 0 takes the pool from the call.
template <class Stored, bool packed, int kPool, bool channels_last>
struct Part {
  using Real = RealOf<Stored>;
  using U = Unit<Stored, packed>;
  using Kept = std::conditional_t<packed, U, Real>;
  static constexpr int kElements = U::kElements;
  static constexpr int kPlanes = channels_last ? kElements : 1;  // that the elements of a unit lie in
  static constexpr bool kStrips = packed && !channels_last;
  static constexpr int kOutputs = channels_last ? kElements : kStrips ? kElements / kPool : 1;  // of a cell
  struct alignas(kOutputs * sizeof(Stored)) Output {
    Stored elements[kOutputs];
  };

  const CudaCall& call;
  const Shared<Kept>& kept;
  bool active;
  int first;
  int step;
  int64_t sample;
  int channel;  // the first of kPlanes
  const Stored* x;
  int64_t position_stride;

  Real mean[kPlanes];
  Real inverse_std[kPlanes];
  Real scale[kPlanes];
  Real bias[kPlanes];

  __device__ __forceinline__ Part(const CudaCall& call_, const Shared<Kept>& kept_, bool active_, int first_,
                                  int step_, int64_t sample_, int channel_)
      : call(call_),
        kept(kept_),
        active(active_),
        first(first_),
        step(step_),
        sample(sample_),
        channel(channel_),
        x(static_cast<const Stored*>(call_.params.x) + sample_ * call_.params.sample_stride +
          channel_ * call_.params.channel_stride),
        position_stride(call_.params.position_stride) {}

  __device__ __forceinline__ int pool() const { return kPool == 0 ? call.pool : kPool; }
  __device__ __forceinline__ int cell_units() const {
    return kPool == 0 ? call.cell_units : kStrips ? kPool : kPool * kPool;
  }
  static __device__ __forceinline__ int plane_of(int element) { return channels_last ? element : 0; }
  static __device__ __forceinline__ int output_of(int element) {
    return channels_last ? element : kStrips ? element / kPool : 0;
  }

  // Where in the plane the `number`-th unit of a cell is; -1 beyond the edge.
  __device__ __forceinline__ int position(int cell, int number) const {
    const int cell_row = cell / call.cell_columns;
    const int cell_column = cell - cell_row * call.cell_columns;
    const int row = cell_row * pool() + (kStrips ? number : number / pool());
    const int column = kStrips ? cell_column * kElements : cell_column * pool() + number % pool();
    return row < call.height && column < call.width ? row * call.width + column : -1;
  }

  // Where in a pooled plane a cell's outputs begin; -1 for a cell that fills no window.
  __device__ __forceinline__ int output_position(int cell) const {
    const int cell_row = cell / call.cell_columns;
    const int cell_column = cell - cell_row * call.cell_columns;
    const int column = kStrips ? cell_column * kOutputs : cell_column;
    return cell_row < call.pooled_height && column < call.pooled_width ? cell_row * call.pooled_width + column
                                                                       : -1;
  }

  // In [N, C, `positions`], or with the channels last [N, `positions`, C], without gaps.
  __device__ __forceinline__ int64_t dense(int64_t positions, int position) const {
    const int64_t channels = call.channels;
    return channels_last ? (sample * positions + position) * channels + channel
                         : (sample * channels + channel) * positions + position;
  }

  static __device__ __forceinline__ void widen(const U& unit, Real (&values)[kElements]) {
#pragma unroll
    for (int e = 0; e < kElements; ++e) values[e] = load(unit.elements[e]);
  }
  static __device__ __forceinline__ void widen(const Real& value, Real (&values)[1]) { values[0] = value; }

  // Reads all own units for the first time; `work(values)`.
  template <class Work>
  __device__ __forceinline__ void fetch(Work work) const {
    if (!active) return;
    for (int slot = 0;; slot += kUnroll) {
      if (first + slot / cell_units() * step >= call.cells) return;
      U units[kUnroll];
      bool there[kUnroll];
#pragma unroll
      for (int i = 0; i < kUnroll; ++i) {
        const int cell = first + (slot + i) / cell_units() * step;
        const int at = cell < call.cells ? position(cell, (slot + i) % cell_units()) : -1;
        there[i] = at >= 0;
        if (there[i]) units[i] = load_global<U>(x + at * position_stride);
      }
#pragma unroll
      for (int i = 0; i < kUnroll; ++i) {
        if (!there[i]) continue;
        Real values[kElements];
        widen(units[i], values);
        if (slot + i < call.slots) {
          if constexpr (packed)
            kept.store((slot + i) * kThreads + static_cast<int>(threadIdx.x), units[i]);
          else
            kept.store((slot + i) * kThreads + static_cast<int>(threadIdx.x), values[0]);
        }
        work(values);
      }
    }
  }

  // The units of a cell once more, the cell being the thread's `turn`-th; `work(values, position)`.
  template <class Work>
  __device__ __forceinline__ void again(int cell, int turn, Work work) const {
#pragma unroll
    for (int number = 0; number < cell_units(); ++number) {
      const int at = position(cell, number);
      if (at < 0) continue;
      const int slot = turn * cell_units() + number;
      Real values[kElements];
      if (slot < call.slots)
        widen(kept.load(slot * kThreads + static_cast<int>(threadIdx.x)), values);
      else
        widen_from(x + at * position_stride, values);
      work(values, at);
    }
  }
  static __device__ __forceinline__ void widen_from(const Stored* from, Real (&values)[kElements]) {
    const U unit = load_global<U>(from);
#pragma unroll
    for (int e = 0; e < kElements; ++e) values[e] = load(unit.elements[e]);
  }

  // Calls `work(cell, turn)` for the own cells.
  template <class Work>
  __device__ __forceinline__ void for_cells(Work work) const {
    if (!active) return;
    int turn = 0;
    for (int cell = first; cell < call.cells; cell += step) work(cell, turn++);
  }

  // `add(numbers)` brings the numbers of all threads that share the planes together.
  template <class Add>
  __device__ __forceinline__ void normalise(Add add) {
    const Real positions = static_cast<Real>(call.height) * static_cast<Real>(call.width);
    Real sums[kPlanes] = {};
    fetch([&](const Real(&values)[kElements]) {
      if constexpr (channels_last) {
#pragma unroll
        for (int e = 0; e < kElements; ++e) sums[e] += values[e];
      } else {
        Real sum = values[0];
#pragma unroll
        for (int e = 1; e < kElements; ++e) sum += values[e];
        sums[0] += sum;
      }
    });
    add(sums);
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      mean[plane] = sums[plane] / positions;
      sums[plane] = 0;
    }
    for_cells([&](int cell, int turn) {
      again(cell, turn, [&](const Real(&values)[kElements], int) {
#pragma unroll
        for (int e = 0; e < kElements; ++e) {
          const Real centred = values[e] - mean[plane_of(e)];
          sums[plane_of(e)] += centred * centred;
        }
      });
    });
    add(sums);
    if (!active) return;
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      inverse_std[plane] =
          Real(1) / square_root(sums[plane] / positions + static_cast<Real>(call.params.eps));
      scale[plane] = inverse_std[plane] * static_cast<const Real*>(call.params.weight)[channel + plane];
      bias[plane] = static_cast<const Real*>(call.params.bias)[channel + plane];
    }
  }

  __device__ __forceinline__ Real share() const {
    return Real(1) / (static_cast<Real>(pool()) * static_cast<Real>(pool()));
  }

  __device__ __forceinline__ void forward() const {
    const int64_t pooled_positions = int64_t{call.pooled_height} * call.pooled_width;
    Stored* pooled = static_cast<Stored*>(call.params.pooled);
    for_cells([&](int cell, int turn) {
      const int at = output_position(cell);
      if (at < 0) return;
      Real sums[kOutputs] = {};
      again(cell, turn, [&](const Real(&values)[kElements], int) {
#pragma unroll
        for (int e = 0; e < kElements; ++e) {
          const int plane = plane_of(e);
          sums[output_of(e)] += rectified((values[e] - mean[plane]) * scale[plane] + bias[plane]);
        }
      });
      Output output;
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) output.elements[i] = store<Stored>(sums[i] * share());
      store_global(pooled + dense(pooled_positions, at), output);
    });
  }

  __device__ __forceinline__ void load_grads(int cell, Real (&grads)[kOutputs]) const {
    const int at = output_position(cell);
    if (at < 0) {
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) grads[i] = 0;
      return;
    }
    const int64_t pooled_positions = int64_t{call.pooled_height} * call.pooled_width;
    const Output unit = load_global<Output>(static_cast<const Stored*>(call.params.pooled_grad) +
                                            dense(pooled_positions, at));
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) grads[i] = load(unit.elements[i]);
  }

  // scale * (passed - mean(passed) - normalised * mean(passed * normalised)), with `passed` what passes the
  // rectifier. `writes` says which thread writes what the planes add to the gradients of weight and bias.
  template <class Add>
  __device__ __forceinline__ void backward(bool writes, Add add) const {
    Real sums[2 * kPlanes] = {};  // of what passes, and of it times the centred x
    for_cells([&](int cell, int turn) {
      Real grads[kOutputs];
      load_grads(cell, grads);
      Real counts[kOutputs] = {};
      Real centred_sums[kOutputs] = {};
      again(cell, turn, [&](const Real(&values)[kElements], int) {
#pragma unroll
        for (int e = 0; e < kElements; ++e) {
          const int plane = plane_of(e);
          const Real centred = values[e] - mean[plane];
          const Real normalised = centred * scale[plane] + bias[plane];
          counts[output_of(e)] += passed(Real(1), normalised);
          centred_sums[output_of(e)] += passed(centred, normalised);
        }
      });
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) {
        sums[plane_of(i)] += grads[i] * counts[i];
        sums[kPlanes + plane_of(i)] += grads[i] * centred_sums[i];
      }
    });
    add(sums);
    if (!active) return;
    const Real positions = static_cast<Real>(call.height) * static_cast<Real>(call.width);
    Real mean_grad[kPlanes];
    Real along[kPlanes];
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      if (writes) {
        const int64_t at = sample * call.channels + channel + plane;
        static_cast<Real*>(call.params.plane_bias_grads)[at] = sums[plane] * share();
        static_cast<Real*>(call.params.plane_weight_grads)[at] =
            sums[kPlanes + plane] * share() * inverse_std[plane];
      }
      mean_grad[plane] = sums[plane] / positions;
      along[plane] = inverse_std[plane] * inverse_std[plane] * (sums[kPlanes + plane] / positions);
    }
    const int64_t all_positions = int64_t{call.height} * call.width;
    Stored* x_grad = static_cast<Stored*>(call.params.x_grad);
    for_cells([&](int cell, int turn) {
      Real grads[kOutputs];
      load_grads(cell, grads);
      again(cell, turn, [&](const Real(&values)[kElements], int at) {
        U unit;
#pragma unroll
        for (int e = 0; e < kElements; ++e) {
          const int plane = plane_of(e);
          const Real centred = values[e] - mean[plane];
          const Real passing = passed(grads[output_of(e)], centred * scale[plane] + bias[plane]);
          unit.elements[e] =
              store<Stored>(scale[plane] * share() * ((passing - mean_grad[plane]) - centred * along[plane]));
        }
        store_global(x_grad + dense(all_positions, at), unit);
      });
    });
  }
};

// What a block does for planes by themselves, `lanes` threads for each.
template <class Stored, bool packed, int kPool, bool backward>
__device__ __forceinline__ void run_planes(const CudaCall& call) {
  using P = Part<Stored, packed, kPool, false>;
  using Real = typename P::Real;
  DGDD_SHARED(Real, partial, 2 * 2 * kWarps);
  const Shared<typename P::Kept> kept = dynamic_shared<typename P::Kept>(0, call.slots * kThreads);
  const int thread = static_cast<int>(threadIdx.x);
  const int lanes = call.lanes;
  const int planes_at_once = kThreads / lanes;
  const int64_t planes = call.params.samples * call.channels;
  int buffer = 0;  // used in turn: a barrier lies between two uses of the same
  const auto add = [&](auto& numbers) {
    constexpr int kNumbers = sizeof(numbers) / sizeof(numbers[0]);
    const int in_warp = lanes < 32 ? lanes : 32;
#pragma unroll
    for (int i = 0; i < kNumbers; ++i)
      for (int distance = in_warp / 2; distance > 0; distance /= 2)
        numbers[i] += __shfl_xor_sync(kAllLanes, numbers[i], distance);
    if (lanes <= 32) return;
#pragma unroll
    for (int i = 0; i < kNumbers; ++i)
      if (thread % 32 == 0) partial.store((buffer * 2 + i) * kWarps + thread / 32, numbers[i]);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) {
      numbers[i] = 0;
      for (int warp = 0; warp < kWarps; ++warp) numbers[i] += partial.load((buffer * 2 + i) * kWarps + warp);
    }
    buffer = 1 - buffer;
  };
  for (int64_t begin = int64_t{blockIdx.x} * planes_at_once; begin < planes;
       begin += int64_t{gridDim.x} * planes_at_once) {
    const int64_t plane = begin + thread / lanes;
    const bool active = plane < planes;
    const int64_t sample = active ? plane / call.channels : 0;
    P part(call, kept, active, thread % lanes, lanes, sample,
           active ? static_cast<int>(plane - sample * call.channels) : 0);
    part.normalise(add);
    if constexpr (backward)
      part.backward(thread % lanes == 0, add);
    else
      part.forward();
  }
}

// With the channels last: `lanes` units of channels of a sample for a block.
template <class Stored, bool packed, int kPool, bool backward>
__device__ __forceinline__ void run_columns(const CudaCall& call) {
  using P = Part<Stored, packed, kPool, true>;
  using Real = typename P::Real;
  constexpr int kMostNumbers = (backward ? 2 : 1) * P::kPlanes;
  const ColumnsLayout layout(call.lanes, P::kElements, backward ? 2 : 1, sizeof(Real));
  const Shared<Real> partial = dynamic_shared<Real>(0, kMostNumbers * layout.pitch);
  const Shared<Real> totals = dynamic_shared<Real>(layout.sums, kMostNumbers * call.lanes);
  const Shared<typename P::Kept> kept = dynamic_shared<typename P::Kept>(layout.units, call.slots * kThreads);
  const int thread = static_cast<int>(threadIdx.x);
  const int lanes = call.lanes;
  const int tiles = (call.units + lanes - 1) / lanes;
  const auto add = [&](auto& numbers) {
    constexpr int kNumbers = sizeof(numbers) / sizeof(numbers[0]);
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) {
      for (int distance = lanes; distance < 32; distance *= 2)
        numbers[i] += __shfl_xor_sync(kAllLanes, numbers[i], distance);
      if (thread % 32 < lanes)
        partial.store(i * layout.pitch + thread / 32 * lanes + thread % 32, numbers[i]);
    }
    __syncthreads();
    for (int i = thread; i < kNumbers * lanes; i += kThreads) {
      const int at = i / lanes * layout.pitch + i % lanes;
      Real sum = 0;
      for (int warp = 0; warp < kWarps; ++warp) sum += partial.load(at + warp * lanes);
      totals.store(i, sum);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) numbers[i] = totals.load(i * lanes + thread % lanes);
  };
  for (int64_t work = blockIdx.x; work < call.params.samples * tiles; work += gridDim.x) {
    const int64_t sample = work / tiles;
    const int unit = static_cast<int>(work - sample * tiles) * lanes + thread % lanes;
    const bool active = unit < call.units;
    P part(call, kept, active, thread / lanes, kThreads / lanes, sample, active ? unit * P::kElements : 0);
    part.normalise(add);
    if constexpr (backward)
      part.backward(thread < lanes, add);
    else
      part.forward();
  }
}

// -------- kernels

template <class Stored, bool packed, int kPool, bool channels_last>
__global__ void __launch_bounds__(kThreads, 2) forward_kernel(CudaCall call) {
  if constexpr (channels_last)
    run_columns<Stored, packed, kPool, false>(call);
  else
    run_planes<Stored, packed, kPool, false>(call);
}

template <class Stored, bool packed, int kPool, bool channels_last>
__global__ void __launch_bounds__(kThreads, 2) backward_kernel(CudaCall call) {
  if constexpr (channels_last)
    run_columns<Stored, packed, kPool, true>(call);
  else
    run_planes<Stored, packed, kPool, true>(call);
}

// The gradients of weight and bias: the planes' sums over the samples, in float64. A block has 32 channels,
// and its warps share out the samples.
template <class Real>
__global__ void __launch_bounds__(kThreads) sums_kernel(NormPoolParams params) {
  DGDD_SHARED(double, partial, 2 * kThreads);
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t channel = int64_t{blockIdx.x} * 32 + thread % 32;
  const Real* weights = static_cast<const Real*>(params.plane_weight_grads) + channel;
  const Real* biases = static_cast<const Real*>(params.plane_bias_grads) + channel;
  double weight_sum = 0;
  double bias_sum = 0;
  if (channel < params.channels)
    for (int64_t sample = thread / 32; sample < params.samples; sample += kWarps) {
      weight_sum += weights[sample * params.channels];
      bias_sum += biases[sample * params.channels];
    }
  partial.store(thread, weight_sum);
  partial.store(kThreads + thread, bias_sum);
  __syncthreads();
  if (thread >= 32 || channel >= params.channels) return;
  for (int warp = 1; warp < kWarps; ++warp) {
    weight_sum += partial.load(warp * 32 + thread);
    bias_sum += partial.load(kThreads + warp * 32 + thread);
  }
  static_cast<Real*>(params.weight_grad)[channel] = static_cast<Real>(weight_sum);
  static_cast<Real*>(params.bias_grad)[channel] = static_cast<Real>(bias_sum);
}

}  // namespace
}  // namespace dgdd::normalization
