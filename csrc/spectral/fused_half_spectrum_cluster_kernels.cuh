// The half-spectrum kernel for few planes: a cluster of blocks takes a plane, each block one of its domains
// at the same time as the others. From sm_90.
//
// Each block leaves its domain's spectrum in shared memory. Every block then adds up a part of the bins over
// all blocks, in the order of the domains, and weighs the sums; the first block gathers these, transforms
// them back and writes the output. What is computed is the same as in the half-spectrum kernel, bit for bit.
#pragma once

#include "spectral/fused_half_spectrum_kernels.cuh"

namespace dgdd::spectral::half_spectrum {

constexpr int kMostOfCluster = 8;  // blocks that every such device can have in a cluster

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

// A block's 16 bins for each thread, two at a time, where the transforms exchanged before.
template <class Plane>
struct ClusterBins {
  static_assert(16 * Plane::kThreads <= Plane::kSharedPlane);
  Shared<ComplexPair> pairs = dynamic_shared<ComplexPair>(0, 8 * Plane::kThreads);
  Shared<float> notes = dynamic_shared<float>(Plane::kSharedBytes - 8, 2);
  int thread = reread_thread();

  __device__ __forceinline__ ComplexPair load(int block, int pair) const {
    return pairs.of_block(block).load(pair * Plane::kThreads + thread);
  }
  __device__ __forceinline__ void store(int pair, const ComplexPair& bins) const {
    pairs.store(pair * Plane::kThreads + thread, bins);
  }
};

// The sum over the cluster's domains at bin i, times p + q R.
template <class Stored, class Plane>
__device__ __forceinline__ Complex weighed(const Plane& plane, int i, Complex sum, float magnitudes,
                                           float second_magnitudes, float p, float q, float eps,
                                           Stored* lengths) {
  if (plane.is_real_pair(i)) {
    const float of_0 = resultant_length(fabsf(sum.re), magnitudes, eps);
    const float of_nyquist = resultant_length(fabsf(sum.im), second_magnitudes, eps);
    if (lengths != nullptr) {
      const int column = i == 0 ? 0 : Plane::kHalfWidth - 1;
      lengths[column] = store<Stored>(of_0);
      lengths[Plane::kHalfHeight * Plane::kHalfWidth + column] = store<Stored>(of_nyquist);
    }
    return {(p + q * of_0) * sum.re, (p + q * of_nyquist) * sum.im};
  }
  const float length = resultant_length(magnitude<false>(sum), magnitudes, eps);
  if (lengths != nullptr)
    plane.for_bin(i, [&](int y, int x) { plane.store_both(lengths, y, x, store<Stored>(length)); });
  return (p + q * length) * sum;
}

// The block's domain through the forward transforms, times `unit`, into its bins. Returns whether they are
// too large for squares, and whether any is large enough.
template <class Stored, class Plane>
__device__ __forceinline__ void transform_domain(const Stored* gradient, bool aligned, float unit,
                                                 const ClusterBins<Plane>& bins) {
  float total = 0;
  Complex v[16] = {};
  if (gradient != nullptr) {
    const Plane here(reread_thread());
    here.load_pixels(gradient, aligned, v);
#pragma unroll
    for (int i = 0; i < 16; ++i) v[i] = unit * v[i];
    here.columns_first(v);
    __syncthreads();
    here.columns_second(v);
    __syncthreads();
    here.rows_first(v);
    __syncwarp();
    here.rows_second(v);
    here.part_row_0(v);
#pragma unroll
    for (int i = 0; i < 16; ++i) total += fabsf(v[i].re) + fabsf(v[i].im);
  }
  const bool too_large = __syncthreads_or(!(total < 1e18f));
  const bool large_enough = __syncthreads_or(total > 1e-9f);
#pragma unroll
  for (int pair = 0; pair < 8; ++pair) bins.store(pair, {v[2 * pair], v[2 * pair + 1]});
  if (bins.thread == 0) {
    bins.notes.store(0, too_large ? 1.0f : 0.0f);
    bins.notes.store(1, large_enough ? 1.0f : 0.0f);
  }
}

template <int kHeight, int kWidth, class Stored>
__device__ __forceinline__ void cluster_half_spectrum(const SpectralParams& params,
                                                      const Settings& settings) {
  using HalfPlane = Plane<kHeight, kWidth>;
  const int blocks = cluster_size(), rank = cluster_rank();
  const unsigned index = blockIdx.x / static_cast<unsigned>(blocks);
  const PlaneJob<Stored> job(params, index);
  const int domain = next_valid(params, job.sample, -1, rank);
  HalfPlane(reread_thread()).fill_row_roots();
  const ClusterBins<HalfPlane> bins;

  float unit = 1.0f;  // of a second attempt: a power of two
  for (;;) {
    transform_domain<Stored>(
        domain < static_cast<int>(params.domains) ? job.gradient(params, domain) : nullptr, settings.aligned,
        unit, bins);
    cluster_barrier();
    bool too_large = false, large_enough = false;
    for (int block = 0; block < job.valid_domains; ++block) {
      too_large |= bins.notes.of_block(block).load(0) != 0.0f;
      large_enough |= bins.notes.of_block(block).load(1) != 0.0f;
    }
    if (unit != 1.0f || (!too_large && large_enough)) break;
    unit = too_large ? 0x1p-64f : 0x1p64f;
    cluster_barrier();
  }

  const HalfPlane plane(reread_thread());
  const OutputWeights weights(params, settings, job.sample);
  const float scale = job.one_over_valid * (0.5f / HalfPlane::kPixels) / unit;
  const float eps = fminf(settings.doubled_eps * unit, static_cast<float>(kLargestEps));
  Stored* lengths = static_cast<Stored*>(params.resultant_length);
  if (lengths != nullptr) lengths += int64_t{index} * (kHeight * HalfPlane::kHalfWidth);
  for (int pair = rank; pair < 8; pair += blocks) {
    ComplexPair sum{}, magnitudes{};  // of a real pair both parts count, of others the first
    for (int block = 0; block < job.valid_domains; ++block) {
      const ComplexPair bin = bins.load(block, pair);
      const auto add = [&](int i, Complex of, Complex& sum_of, Complex& magnitudes_of) {
        sum_of = sum_of + of;
        magnitudes_of = magnitudes_of + (plane.is_real_pair(i) ? Complex{fabsf(of.re), fabsf(of.im)}
                                                               : Complex{magnitude<false>(of), 0.0f});
      };
      add(2 * pair, bin.first, sum.first, magnitudes.first);
      add(2 * pair + 1, bin.second, sum.second, magnitudes.second);
    }
    const auto result = [&](int i, Complex sum_of, Complex magnitudes_of) {
      return weighed<Stored>(plane, i, sum_of, magnitudes_of.re, magnitudes_of.im, scale * weights.p,
                             scale * weights.q, eps, lengths);
    };
    // No other block, and no other thread, takes these bins of this one.
    bins.store(pair, {result(2 * pair, sum.first, magnitudes.first),
                      result(2 * pair + 1, sum.second, magnitudes.second)});
  }
  // These loads travel while the cluster meets.
  Complex added[16] = {};
  if (rank == 0) load_additions(params, settings, job, weights, plane, added);
  cluster_barrier();
  Complex v[16];
  if (rank == 0) {
#pragma unroll
    for (int pair = 0; pair < 8; ++pair) {
      const ComplexPair both = bins.load(pair % blocks, pair);
      v[2 * pair] = both.first;
      v[2 * pair + 1] = both.second;
    }
  }
  cluster_barrier();
  if (rank == 0) write_output(params, settings, job, plane, v, added);
}

#endif

// A cluster of as many blocks as there are domains, at most kMostOfCluster, for each plane, with kSharedBytes
// of dynamic shared memory each.
template <int kHeight, int kWidth, class Stored>
__global__ void __launch_bounds__(kHeight* kWidth / 32, 512 / (kHeight * kWidth / 32))
    half_spectrum_cluster_kernel(const __grid_constant__ SpectralParams params,
                                 const __grid_constant__ Settings settings) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  cluster_half_spectrum<kHeight, kWidth, Stored>(params, settings);
#endif
}

}  // namespace dgdd::spectral::half_spectrum
