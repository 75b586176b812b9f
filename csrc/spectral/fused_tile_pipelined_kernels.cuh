// The tile kernel with its reads from device memory out of the way: each plane comes to shared memory while
// the one before it is transformed. The transforms are those of fused_tile_kernels.cuh.
//
// The planes come one after another into one place: the group's domains, then base_grad, momentum_buffer and
// images as far as the call has them, by the first group. A thread takes its pixels to registers, and after
// the next barrier the copy of the next plane starts.
//
// Outputs are made of the sum of the spectra and of what is added to it in space (OutputWeights): the
// assigned domain's gradient is kept, weighted, when it passes, and no sum over the domains is formed in
// space.
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

// Dynamic shared memory of a group. What counts a group's copies lies in the last gap of its exchange.
template <class T, class Stored>
constexpr int kPipelinedTileBytes =
    T::kSharedBytes + T::kHeight * T::kWidth * static_cast<int>(sizeof(Stored));

// The thread's pixels of the plane in shared memory.
template <class T, class Stored>
__device__ __forceinline__ void read_pixels(const Shared<Stored>& plane, const TileTransforms<T>& of,
                                            Complex* v) {
  // Half a warp has a row where these are half as wide as the banks: then each half begins with another half
  // of its row.
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

// What follows the last domain, by the first group: the first of the other planes that the call reads, or
// null.
template <class Stored>
__device__ __forceinline__ const Stored* first_addition(const SpectralParams& params) {
  return static_cast<const Stored*>(params.base_grad != nullptr ? params.base_grad : params.momentum_buffer);
}

// The plane's domains through steps A, B and C into the first group's sums, and beta times the gradient of
// the domain `deviating` into its pixels. Leaves the first addition on its way. Careful: see `magnitude`.
template <class T, class Stored, bool kCareful, class Staging>
__device__ __forceinline__ void sum_staged_domains(const SpectralParams& params, float beta, unsigned plane,
                                                   int sample, int deviating, Staging& staging,
                                                   TileTransforms<T>& transforms, TileSums<T>& sums) {
  const auto start = [&](int domain) {
    const Stored* first = reread_group() == 0 ? first_addition<Stored>(params) : nullptr;
    int64_t planes_before = plane;
    if (domain < params.domains) {
      first = static_cast<const Stored*>(params.domain_grads);
      planes_before += domain * params.planes();
    }
    if (first != nullptr) staging.start(first + planes_before * (T::kHeight * T::kWidth), transforms.thread);
  };
  sums.clear(transforms);
  start(next_valid(params, sample, -1, reread_group()));
  // The first group's domains, one after another; the other groups take those between. All meet the barriers.
  for (int first = next_valid(params, sample, -1); first < params.domains;
       first = next_valid(params, sample, first, reread_groups() - 1)) {
    const int group = reread_group();
    const int domain = group == 0 ? first : next_valid(params, sample, first, group - 1);
    const bool active = domain < params.domains;
    transforms.thread = reread_thread();  // or addresses and roots would fill the registers, and spill
    staging.wait(active);
    if (active) {
      read_pixels<T>(staging.plane, transforms, transforms.v);
      if (domain == deviating) {
#pragma unroll
        for (int a = 0; a < T::kValues; ++a) sums.pixels[a] = beta * transforms.v[a];
      }
      transforms.forward_a();
    }
    group_barrier<T>();
    if (active) {
      start(next_valid(params, sample, domain, reread_groups() - 1));
      transforms.forward_b();
    }
    group_barrier<T>();
    if (active) {
      transforms.forward_c();
      sums.template add_bins<kCareful>(transforms);
    }
  }
  if (reread_groups() > 1)
    GroupSum<T, kPipelinedTileBytes<T, Stored>>().add(sums, transforms, deviating >= 0);
}

template <class T, class Stored, template <class, int, int, class> class Staging>
__device__ __forceinline__ void pipelined_tile(const SpectralParams& params, const Settings& settings,
                                               int first_plane) {
  const int group = static_cast<int>(threadIdx.y);
  const int first_byte = group * kPipelinedTileBytes<T, Stored>;
  const unsigned plane = static_cast<unsigned>(first_plane) + blockIdx.x;
  TileTransforms<T> transforms{
      dynamic_shared<Complex>(first_byte, T::kColumnExchange),
      dynamic_shared<Complex>(first_byte + T::kColumnExchange * static_cast<int>(sizeof(Complex)),
                              T::kRowExchange),
      static_cast<int>(threadIdx.x),
      {}};
  TileStaging<T, Stored, Staging> staging(first_byte + T::kSharedBytes, first_byte + T::kSharedBytes - 8);
  if constexpr (staging.kNeedsPreparation) {
    staging.prepare(transforms.thread);
    group_barrier<T>();
  }

  TileSums<T> sums;
  const int sample = PlaneJob<Stored>(params, plane).sample;
  const int deviating =
      OutputWeights(params, settings, sample).beta == 0 ? -1 : static_cast<int>(params.domain_index[sample]);
  sum_staged_domains<T, Stored, false>(params, settings.beta, plane, sample, deviating, staging, transforms,
                                       sums);
  // The votes also make the exchanges free.
  const float total = sums.total_magnitude();
  const bool too_large = __syncthreads_or(group == 0 && !(total < 1e18f));
  const bool large_enough = __syncthreads_or(group == 0 && total > 1e-9f);
  const bool careful = too_large || !large_enough;  // squares may have left the range of float32
  const bool has_base = params.base_grad != nullptr, is_step = params.images != nullptr;
  if (careful) {
    if (has_base || is_step) staging.drop(group == 0);
    sum_staged_domains<T, Stored, true>(params, settings.beta, plane, sample, deviating, staging, transforms,
                                        sums);
    if (transforms.row() == 0) transforms.shared_row_barrier();
  }

  const auto add_staged = [&](float weight) {
    read_pixels<T>(staging.plane, transforms, transforms.v);
#pragma unroll
    for (int a = 0; a < T::kValues; ++a) sums.pixels[a] = sums.pixels[a] + weight * transforms.v[a];
  };
  if (has_base || is_step) {
    staging.wait(group == 0);
    if (group == 0) add_staged(has_base ? 1.0f : settings.momentum);
  }
  const PlaneJob<Stored> job(params, plane);
  Stored* buffer = static_cast<Stored*>(params.momentum_buffer) + job.first_pixel;
  Stored* images = static_cast<Stored*>(params.images) + job.first_pixel;
  if (group == 0) {
    const OutputWeights weights(params, settings, job.sample);
    const float scale = job.one_over_valid * (0.5f / (T::kHeight * T::kWidth));
    const float p = scale * weights.p, q = scale * weights.q;
    weigh<T, Stored>(
        params, plane, settings.doubled_eps, sums, careful, [=](float length) { return p + q * length; },
        transforms);
    transforms.inverse_c();
  }
  group_barrier<T>();
  if (group == 0) {
    if (is_step) staging.start(has_base ? buffer : images, transforms.thread);
    transforms.inverse_b();
  }
  if (has_base && is_step) {
    staging.wait(group == 0);
    if (group == 0) add_staged(settings.momentum);
  }
  group_barrier<T>();
  if (group == 0) {
    if (has_base && is_step) staging.start(images, transforms.thread);
    transforms.inverse_a();
#pragma unroll
    for (int a = 0; a < T::kValues; ++a) transforms.v[a] = transforms.v[a] + sums.pixels[a];
    Stored* output = is_step                    ? buffer
                     : params.update != nullptr ? static_cast<Stored*>(params.update) + job.first_pixel
                                                : static_cast<Stored*>(params.class_signal) + job.first_pixel;
    output += transforms.first_pixel();
#pragma unroll
    for (int a = 0; a < T::kValues; ++a) {
      output[transforms.pixel(a)] = store<Stored>(transforms.v[a].re);
      output[transforms.pixel(a) + T::kHalfWidth] = store<Stored>(transforms.v[a].im);
    }
  }
  if (!is_step) return;
  staging.wait(group == 0);
  if (group > 0) return;
  Complex image[T::kValues];
  read_pixels<T>(staging.plane, transforms, image);
  images += transforms.first_pixel();
#pragma unroll
  for (int a = 0; a < T::kValues; ++a) {
    const Complex moved = image[a] - settings.learning_rate * transforms.v[a];
    images[transforms.pixel(a)] = store<Stored>(moved.re);
    images[transforms.pixel(a) + T::kHalfWidth] = store<Stored>(moved.im);
  }
}

// A block for each plane from `first_plane`: kThreads x groups threads with kPipelinedTileBytes x groups of
// dynamic shared memory, for data at multiples of 16 bytes. Bounds as in fused_tile_kernel.
template <class T, class Stored>
__global__ void __launch_bounds__(T::kThreads* T::kMostGroups, 384 / (T::kThreads * T::kMostGroups))
    fused_tile_pipelined_kernel(const __grid_constant__ SpectralParams params,
                                const __grid_constant__ Settings settings, int first_plane) {
#if defined(DGDD_EMULATOR)
  if (emulator::architecture() < 90)
    return pipelined_tile<T, Stored, StagingByThreads>(params, settings, first_plane);
#endif
  pipelined_tile<T, Stored, DeviceStaging>(params, settings, first_plane);
}

}  // namespace dgdd::spectral
