// The half-spectrum kernel with its reads from device memory out of the way: a domain's plane comes to shared
// memory while the domain before it is transformed. The transforms are those of
// fused_half_spectrum_kernels.cuh. The domain that the sample is assigned to comes last: its gradient is
// still in shared memory when the output needs it.
#pragma once

#include "spectral/fused_half_spectrum_kernels.cuh"
#include "spectral/fused_staging.cuh"

namespace dgdd::spectral::half_spectrum {

struct BlockBarrier {
  static __device__ __forceinline__ void wait() { __syncthreads(); }
};

// Dynamic shared memory: that of the plane, what counts the copies, the copy of a plane.
template <class Plane>
constexpr int kCopyBarrier = Plane::kSharedBytes;
template <class Plane>
constexpr int kStagedPlane = kCopyBarrier<Plane> + 8;
static_assert(kStagedPlane<Plane<128, 128>> % 16 == 0);
template <class Plane, class Stored>
constexpr int kPipelinedBytes = kStagedPlane<Plane> + Plane::kPixels * static_cast<int>(sizeof(Stored));

template <class Plane, class Stored>
__device__ __forceinline__ void read_pixels(const Plane& of, Complex* v) {
  const auto pairs = dynamic_shared<StoredPair<Stored>>(kStagedPlane<Plane>, Plane::kPixels / 2);
  const int first = static_cast<int>(of.first_pixel()) / 2;
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const StoredPair<Stored> both = pairs.load(first + of.offset(i) / 2);
    v[i] = {load(both.left), load(both.right)};
  }
}

// As `sum_domains`; domain `last` comes after the others, and its gradient stays where it is.
template <class Stored, class Plane, class Staging>
__device__ __forceinline__ float sum_staged_domains(const SpectralParams& params, int sample, int last,
                                                    float unit, Staging& staging, BinSums<Plane>& sums) {
  const auto start = [&](int domain) {
    if (domain < static_cast<int>(params.domains))
      staging.start(static_cast<const Stored*>(params.domain_grads) +
                        (domain * params.planes() + blockIdx.x) * Plane::kPixels,
                    reread_thread());
  };
  sums.clear(Plane(reread_thread()));
  int domain = next_in_turn(params, sample, last, -1);
  start(domain);
  while (domain < static_cast<int>(params.domains)) {
    const Plane here(reread_thread());
    Complex v[16];
    staging.wait(true);
    read_pixels<Plane, Stored>(here, v);
    if (unit != 1.0f) {
#pragma unroll
      for (int i = 0; i < 16; ++i) v[i] = unit * v[i];
    }
    domain = next_in_turn(params, sample, last, domain);
    // What the wait has not made free: for the next copy the staged plane, and the exchange.
    if (domain < static_cast<int>(params.domains) || !Staging::kWaitsTogether) __syncthreads();
    start(domain);
    here.columns_first(v);
    __syncthreads();
    here.columns_second(v);
    __syncthreads();
    here.rows_first(v);
    __syncwarp();
    here.rows_second(v);
    here.part_row_0(v);
    sums.add(here, v);
  }
  return better_unit(sums.total_magnitude());
}

template <int kHeight, int kWidth, class Stored, template <class, int, int, class> class Staging>
__device__ __forceinline__ void pipelined_half_spectrum(const SpectralParams& params,
                                                        const Settings& settings) {
  using HalfPlane = Plane<kHeight, kWidth>;
  Staging<Stored, HalfPlane::kPixels, HalfPlane::kThreads, BlockBarrier> staging(kStagedPlane<HalfPlane>,
                                                                                 kCopyBarrier<HalfPlane>);
  staging.prepare(reread_thread());
  HalfPlane(reread_thread()).fill_row_roots();
  if constexpr (staging.kNeedsPreparation) __syncthreads();

  const int sample = static_cast<int>(blockIdx.x) / static_cast<int>(params.channels);
  const int last =
      OutputWeights(params, settings, sample).beta == 0 ? -1 : static_cast<int>(params.domain_index[sample]);
  BinSums<HalfPlane> sums;
  float unit = 1.0f;  // of a second attempt: a power of two
  for (;;) {
    const float better = sum_staged_domains<Stored>(params, sample, last, unit, staging, sums);
    if (unit != 1.0f || better == 1.0f) break;
    unit = better;
  }

  // Parting has doubled the spectra.
  const HalfPlane plane(reread_thread());
  const PlaneJob<Stored> job(params);
  const AddedPlanes<Stored> additions(params, job.first_pixel);
  const OutputWeights weights(params, settings, sample);
  for (const Stored* later : {additions.second, additions.images})
    if (later != nullptr) plane.prefetch(later);
  const float scale = job.one_over_valid * (0.5f / HalfPlane::kPixels) / unit;
  Stored* lengths = static_cast<Stored*>(params.resultant_length);
  if (lengths != nullptr) lengths += int64_t{blockIdx.x} * (kHeight * HalfPlane::kHalfWidth);
  Complex v[16];
  sums.weigh(plane, scale * weights.p, scale * weights.q,
             fminf(settings.doubled_eps * unit, static_cast<float>(kLargestEps)), lengths, v);
  Complex added[16] = {};
  if (last >= 0) {
    read_pixels<HalfPlane, Stored>(plane, added);
#pragma unroll
    for (int i = 0; i < 16; ++i) added[i] = weights.beta * added[i];
  }

  // The planes that are left travel while the spectrum is transformed back.
  const auto take = [&](float weight, Complex* into) {
    staging.wait(true);
    Complex taken[16];
    read_pixels<HalfPlane, Stored>(plane, taken);
#pragma unroll
    for (int i = 0; i < 16; ++i) into[i] = into[i] + weight * taken[i];
  };
  if (additions.first != nullptr) {
    __syncthreads();
    staging.start(additions.first, plane.thread);
  }
  plane.join_row_0(v);
  plane.rows_second_back(v);
  __syncwarp();
  plane.rows_first_back(v);
  __syncthreads();
  plane.columns_second_back(v);
  if (additions.first != nullptr) take(additions.first_is_base ? 1.0f : settings.momentum, added);
  __syncthreads();
  if (additions.second != nullptr)
    staging.start(additions.second, plane.thread);
  else if (additions.images != nullptr)
    staging.start(additions.images, plane.thread);
  plane.columns_first_back(v);
#pragma unroll
  for (int i = 0; i < 16; ++i) v[i] = v[i] + added[i];
  if (additions.second != nullptr) {
    take(settings.momentum, v);
    __syncthreads();
    staging.start(additions.images, plane.thread);
  }

  void* output = params.momentum_buffer != nullptr ? params.momentum_buffer
                 : params.update != nullptr        ? params.update
                                                   : params.class_signal;
  plane.store_pixels(static_cast<Stored*>(output) + job.first_pixel, true, v);
  if (additions.images == nullptr) return;
  staging.wait(true);
  read_pixels<HalfPlane, Stored>(plane, added);
#pragma unroll
  for (int i = 0; i < 16; ++i) v[i] = added[i] - settings.learning_rate * v[i];
  plane.store_pixels(static_cast<Stored*>(params.images) + job.first_pixel, true, v);
}

// One block for each plane, with kPipelinedBytes of dynamic shared memory, for data at multiples of 16 bytes.
template <int kHeight, int kWidth, class Stored>
__global__ void __launch_bounds__(kHeight* kWidth / 32, 512 / (kHeight * kWidth / 32))
    half_spectrum_pipelined_kernel(const __grid_constant__ SpectralParams params,
                                   const __grid_constant__ Settings settings) {
#if defined(DGDD_EMULATOR)
  if (emulator::architecture() < 90)
    return pipelined_half_spectrum<kHeight, kWidth, Stored, StagingByThreads>(params, settings);
#endif
  pipelined_half_spectrum<kHeight, kWidth, Stored, DeviceStaging>(params, settings);
}

}  // namespace dgdd::spectral::half_spectrum
