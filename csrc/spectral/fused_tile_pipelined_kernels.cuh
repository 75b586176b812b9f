// The tile kernel with its reads from device memory out of the way: a domain's plane comes to shared memory
// while the domain before it is transformed. The transforms are those of fused_tile_kernels.cuh.
//
// A thread takes its pixels to registers, and after the next barrier the copy of the next domain starts. The
// domain that the sample is assigned to comes last: its gradient is still in shared memory when the output
// needs it, and so no thread keeps anything in space from one domain to the next. What else the output is
// made of (OutputWeights) follows through the same place.
#pragma once

#include "spectral/fused_staging.cuh"
#include "spectral/fused_tile_kernels.cuh"

namespace dgdd::spectral {

template <class T>
struct GroupBarrier {
  static __device__ __forceinline__ void wait() { group_barrier<T>(); }
};

template <class T, class Stored, template <class, int, int, class> class Staging>
using TileStaging = Staging<Stored, T::kHeight * T::kWidth, T::kThreads, GroupBarrier<T>>;

template <class T>
struct PipelinedTile {
  // A quarter of a multiprocessor's registers holds three warps with 168 of a thread, and no more with 129.
  static constexpr int kRegisters = 168;
  static constexpr int kResidentThreads = 4 * 3 * 32;
  // Dynamic shared memory of a group. What counts a group's copies lies in the last gap of its exchange.
  template <class Stored>
  static constexpr int kGroupBytes =
      T::kSharedBytes + T::kHeight * T::kWidth * static_cast<int>(sizeof(Stored));
  static constexpr int kCopyBarrier = T::kSharedBytes - static_cast<int>(sizeof(Complex));
};

// The thread's pixels of the plane in shared memory.
template <class T, class Stored>
__device__ __forceinline__ void read_pixels(const Shared<Stored>& plane, const TileTransforms<T>& of,
                                            Complex* v) {
  // Half a warp has a row where these are as wide as the banks: then each half begins with another half of
  // its row.
  constexpr bool kHasTwoRows = T::kHalfWidth * sizeof(Stored) == 64;
  const bool begins_right = kHasTwoRows && of.thread / T::kHalfWidth % 2 == 1;
  const int first = of.first_pixel() + (begins_right ? T::kHalfWidth : 0);
  const int second = of.first_pixel() + (begins_right ? 0 : T::kHalfWidth);
#pragma unroll
  for (int a = 0; a < T::kValues; ++a) {
    const float one = load(plane.load(first + of.pixel(a)));
    const float other = load(plane.load(second + of.pixel(a)));
    v[a] = begins_right ? Complex{other, one} : Complex{one, other};
  }
}

template <class T, class Stored>
__device__ __forceinline__ void write_pixels(Stored* plane, const TileTransforms<T>& of, const Complex* v) {
  plane += of.first_pixel();
#pragma unroll
  for (int a = 0; a < T::kValues; ++a) {
    plane[of.pixel(a)] = store<Stored>(v[a].re);
    plane[of.pixel(a) + T::kHalfWidth] = store<Stored>(v[a].im);
  }
}

// The plane's domains through steps A, B and C into the first group's sums. Careful: see `magnitude`.
template <class T, class Stored, bool kCareful, class Staging>
__device__ __forceinline__ void sum_staged_domains(const SpectralParams& params, unsigned plane, int sample,
                                                   int last, Staging& staging, TileTransforms<T>& transforms,
                                                   TileSums<T>& sums) {
  constexpr int kPixels = T::kHeight * T::kWidth;
  const auto start = [&](int domain) {
    if (domain >= static_cast<int>(params.domains)) return;
    const int64_t planes_before = domain * params.planes() + plane;
    staging.start(static_cast<const Stored*>(params.domain_grads) + planes_before * kPixels,
                  transforms.thread);
  };
  sums.clear(transforms);
  // `first` is the first group's domain; the other groups take those that follow. All meet the barriers.
  int first = next_in_turn(params, sample, last, -1);
  const auto own_domain = [&] {
    const int group = reread_group();
    return group == 0 ? first : next_in_turn(params, sample, last, first, group - 1);
  };
  start(own_domain());
  while (first < static_cast<int>(params.domains)) {
    transforms.thread = reread_thread();  // or addresses and roots would fill the registers, and spill
    const bool active = own_domain() < static_cast<int>(params.domains);
    staging.wait(active);
    if (active) {
      read_pixels<T>(staging.plane, transforms, transforms.v);
      transforms.forward_a();
    }
    group_barrier<T>();
    first = next_in_turn(params, sample, last, first, reread_groups() - 1);
    start(own_domain());
    if (active) transforms.forward_b();
    group_barrier<T>();
    if (active) {
      transforms.forward_c();
      sums.template add_bins<kCareful>(transforms);
    }
  }
  if (reread_groups() > 1)
    GroupSum<T, PipelinedTile<T>::template kGroupBytes<Stored>>().add(sums, transforms, false);
}

template <class T, class Stored, template <class, int, int, class> class Staging>
__device__ __forceinline__ void pipelined_tile(const SpectralParams& params, const Settings& settings,
                                               int first_plane) {
  using Pipelined = PipelinedTile<T>;
  constexpr int kGroupBytes = Pipelined::template kGroupBytes<Stored>;
  const int group = static_cast<int>(threadIdx.y);
  const unsigned plane = static_cast<unsigned>(first_plane) + blockIdx.x;
  TileTransforms<T> transforms{
      dynamic_shared<Complex>(group * kGroupBytes, T::kColumnExchange),
      dynamic_shared<Complex>(group * kGroupBytes + T::kColumnExchange * static_cast<int>(sizeof(Complex)),
                              T::kRowExchange),
      static_cast<int>(threadIdx.x),
      {}};
  TileStaging<T, Stored, Staging> staging(group * kGroupBytes + T::kSharedBytes,
                                          group * kGroupBytes + Pipelined::kCopyBarrier);
  if constexpr (staging.kNeedsPreparation) {
    staging.prepare(transforms.thread);
    group_barrier<T>();
  }

  TileSums<T> sums;
  const int sample = PlaneJob<Stored>(params, plane).sample;
  const int last =
      OutputWeights(params, settings, sample).beta == 0 ? -1 : static_cast<int>(params.domain_index[sample]);
  sum_staged_domains<T, Stored, false>(params, plane, sample, last, staging, transforms, sums);
  // The votes also make the exchanges free.
  const float total = sums.total_magnitude();
  const bool too_large = __syncthreads_or(group == 0 && !(total < 1e18f));
  const bool large_enough = __syncthreads_or(group == 0 && total > 1e-9f);
  const bool careful = too_large || !large_enough;  // squares may have left the range of float32
  if (careful) sum_staged_domains<T, Stored, true>(params, plane, sample, last, staging, transforms, sums);

  const PlaneJob<Stored> job(params, plane);
  const OutputWeights weights(params, settings, sample);
  const AddedPlanes<Stored> additions(params, job.first_pixel);
  const int group_of_last = last < 0 ? -1 : (job.valid_domains - 1) % reread_groups();
  Complex added[T::kValues] = {};
  if (group == 0) {
    for (const Stored* later : {additions.second, additions.images})
      if (later != nullptr) prefetch_plane<T>(later, transforms.thread);
    const float scale = job.one_over_valid * (0.5f / (T::kHeight * T::kWidth));
    const float p = scale * weights.p, q = scale * weights.q;
    weigh<T, Stored>(
        params, plane, settings.doubled_eps, sums, careful, [=](float length) { return p + q * length; },
        transforms);
    if (last >= 0) {
      read_pixels<T>(
          dynamic_shared<Stored>(group_of_last * kGroupBytes + T::kSharedBytes, T::kHeight * T::kWidth),
          transforms, added);
#pragma unroll
      for (int a = 0; a < T::kValues; ++a) added[a] = weights.beta * added[a];
    }
  }

  // Each of the planes that are left travels during a step of the way back.
  const auto start = [&](const Stored* next) {
    if (group == 0 && next != nullptr) staging.start(next, transforms.thread);
  };
  const auto take = [&](float weight, Complex* into) {
    staging.wait(group == 0);
    if (group > 0) return;
    Complex taken[T::kValues];
    read_pixels<T>(staging.plane, transforms, taken);
#pragma unroll
    for (int a = 0; a < T::kValues; ++a) into[a] = into[a] + weight * taken[a];
  };
  // No vote has made the second pass's exchanges free, nor the copied plane.
  const bool shares_row = T::kRowThreads > 2;
  if ((careful && shares_row) || (additions.first != nullptr && group_of_last == 0)) group_barrier<T>();
  start(additions.first);
  if (group == 0) transforms.inverse_c();
  group_barrier<T>();
  if (group == 0) transforms.inverse_b();
  if (additions.first != nullptr) take(additions.first_is_base ? 1.0f : settings.momentum, added);
  group_barrier<T>();
  start(additions.second != nullptr ? additions.second : additions.images);
  if (group == 0) {
    transforms.inverse_a();
#pragma unroll
    for (int a = 0; a < T::kValues; ++a) transforms.v[a] = transforms.v[a] + added[a];
  }
  if (additions.second != nullptr) {
    take(settings.momentum, transforms.v);
    group_barrier<T>();
    start(additions.images);
  }
  if (group == 0)
    write_pixels<T>(static_cast<Stored*>(params.momentum_buffer != nullptr ? params.momentum_buffer
                                         : params.update != nullptr        ? params.update
                                                                           : params.class_signal) +
                        job.first_pixel,
                    transforms, transforms.v);
  if (additions.images == nullptr) return;
  staging.wait(group == 0);
  if (group > 0) return;
  read_pixels<T>(staging.plane, transforms, added);
#pragma unroll
  for (int a = 0; a < T::kValues; ++a) added[a] = added[a] - settings.learning_rate * transforms.v[a];
  write_pixels<T>(static_cast<Stored*>(params.images) + job.first_pixel, transforms, added);
}

// A block for each plane from `first_plane`: kThreads x groups threads with kGroupBytes x groups of dynamic
// shared memory, for data at multiples of 16 bytes.
template <class T, class Stored>
__global__ void __launch_bounds__(T::kThreads* T::kMostGroups) __maxnreg__(PipelinedTile<T>::kRegisters)
    fused_tile_pipelined_kernel(const __grid_constant__ SpectralParams params,
                                const __grid_constant__ Settings settings, int first_plane) {
#if defined(DGDD_EMULATOR)
  if (emulator::architecture() < 90)
    return pipelined_tile<T, Stored, StagingByThreads>(params, settings, first_plane);
#endif
  pipelined_tile<T, Stored, DeviceStaging>(params, settings, first_plane);
}

}  // namespace dgdd::spectral
