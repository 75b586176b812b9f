// The fused CUDA tier's kernel for planes of 32, 64 or 128 rows and columns, in any mixture: a block takes
// one plane of the call from its domains' gradients to the output. What it keeps of a domain is half a
// spectrum in shared memory; the sums over the domains stay in registers. Every thread holds 16 complex
// values.
//
// A transform of length N = 8 R takes two steps: over a in index = 8 a + b (length R, then the roots), and
// over b (length 8). Frequency c + R d results from c of the first step and d of the second. A thread does
// the second step for c and its partner R - c at once (0 and R / 2 are each other's partners), so it holds
// the frequencies k and -k side by side and never has to fetch a mirrored bin:
//
// - Down the columns, two neighbours travel as the real and the imaginary part of one. After the second step
//   they are parted, and H / 2 rows of complex numbers remain in shared memory: each stands for one frequency
//   and its negative. Row 0 holds frequency 0 as the real part and H / 2 as the imaginary part of one.
// - Along the rows, the results stay in registers. Only row 0 is parted once more.
//
// The way back is the same in reverse. In space, a thread has the same pixels before and after.
#pragma once

#include "spectral/fused_cuda_common.cuh"

namespace dgdd::spectral::half_spectrum {

struct alignas(16) ComplexPair {
  Complex first, second;
};

// exp(-2 pi i b c / (8 R)) at [b][c].
template <int kRadix>
__constant__ constexpr Twiddles<8, kRadix> kLineRoots;

// A transform of length N = 8 R, shared by N / 16 threads.
template <int N>
struct Line {
  static constexpr int kRadix = N / 8;
  static constexpr int kThreads = N / 16;

  // The b and the a of a thread's i-th value before the first step; its c afterwards is a.
  static __device__ __forceinline__ int b(int thread, int i) { return thread + i / kRadix * kThreads; }
  static constexpr __device__ __forceinline__ int a(int i) { return i % kRadix; }
  static constexpr __device__ __forceinline__ int partner(int c) { return c == 0 ? kRadix / 2 : kRadix - c; }
  static __device__ __forceinline__ Complex root(int b, int c) { return kLineRoots<kRadix>.at[b][c]; }

  // What z[i] stands for after mirror(); for thread 0 and i = 0 it is frequency 0, with N / 2 beside it.
  static __device__ __forceinline__ int frequency(int thread, int i) {
    return i * kRadix + (thread == 0 && i >= 4 ? kRadix / 2 : thread);
  }
};

// After the second step z holds the frequencies c + R d, m those of its partner. For c > 0, z[i] and m[7 - i]
// are the bins of a frequency and its negative. This makes it so for c = 0 as well, except that z[0] and m[7]
// become frequencies 0 and N / 2.
__device__ __forceinline__ void mirror(Complex* z, Complex* m, bool c_is_0) {
  if (!c_is_0) return;
  const Complex upper[4] = {z[5], z[6], z[7], z[4]};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    z[4 + i] = m[4 + i];
    m[4 + i] = upper[i];
  }
}
__device__ __forceinline__ void unmirror(Complex* z, Complex* m, bool c_is_0) {
  if (!c_is_0) return;
  const Complex upper[4] = {m[7], m[4], m[5], m[6]};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    m[4 + i] = z[4 + i];
    z[4 + i] = upper[i];
  }
}

// Z(k) and Z(-k) of z = a + i b with a and b real, to 2 A(k) and 2 B(k).
__device__ __forceinline__ void part(Complex& z, Complex& m) {
  const Complex a = {z.re + m.re, z.im - m.im};
  const Complex b = {z.im + m.im, m.re - z.re};
  z = a;
  m = b;
}
// A(k) and B(k) to Z(k) and Z(-k).
__device__ __forceinline__ void join(Complex& a, Complex& b) {
  const Complex z = {a.re - b.im, a.im + b.re};
  const Complex m = {a.re + b.im, b.re - a.im};
  a = z;
  b = m;
}

template <class Stored>
struct alignas(2 * sizeof(Stored)) StoredPair {
  Stored left, right;
};

template <int kHeight, int kWidth>
struct Plane {
  using Column = Line<kHeight>;
  using Row = Line<kWidth>;
  static constexpr int kPixels = kHeight * kWidth;
  static constexpr int kThreads = kPixels / 32;
  static constexpr int kColumnPairs = kWidth / 2;
  static constexpr int kHalfHeight = kHeight / 2;
  static constexpr int kHalfWidth = kWidth / 2 + 1;

  // The shared plane, in complex numbers. The pitch and two more for every 16 columns keep all accesses of
  // all phases free of bank conflicts (counted in csrc/tests).
  static constexpr int kPitch = kWidth == 128 ? 152 : kWidth == 64 ? 76 : 34;
  static constexpr int kSharedPlane = kHeight / 2 * kPitch;
  static constexpr int kSharedBytes = (kSharedPlane + kWidth + 1) * sizeof(Complex);
  static __device__ __forceinline__ int pair_place(int row, int pair) {
    return row * (kPitch / 2) + pair + pair / 8;
  }

  Shared<Complex> values;
  Shared<ComplexPair> pairs;        // the same memory
  Shared<Complex> row_roots;        // [R][8] by c and b
  Shared<float> second_magnitudes;  // of the two real pairs, for thread 0 alone
  int thread;
  int column_pair;
  int column_thread;
  int row;
  int row_thread;

  __device__ __forceinline__ explicit Plane(int thread_)
      : values(dynamic_shared<Complex>(0, kSharedPlane)),
        pairs(dynamic_shared<ComplexPair>(0, kSharedPlane / 2)),
        row_roots(dynamic_shared<Complex>(kSharedPlane * sizeof(Complex), kWidth)),
        second_magnitudes(dynamic_shared<float>((kSharedPlane + kWidth) * sizeof(Complex), 2)),
        thread(thread_),
        column_pair(thread_ % kColumnPairs),
        column_thread(thread_ / kColumnPairs),
        row(thread_ / Row::kThreads),
        row_thread(thread_ % Row::kThreads) {}

  __device__ __forceinline__ void fill_row_roots() const {
    for (int i = thread; i < kWidth; i += kThreads) row_roots.store(i, Row::root(i % 8, i / 8));
  }

  // -------- in space: the thread's pixels are 16 pairs of neighbours

  __device__ __forceinline__ unsigned first_pixel() const { return column_thread * kWidth + 2 * column_pair; }
  static constexpr __device__ __forceinline__ int offset(int i) {
    return (8 * Column::a(i) + Column::b(0, i)) * kWidth;
  }

  template <class Stored>
  __device__ __forceinline__ void load_pixels(const Stored* plane, bool aligned, Complex* v) const {
    const Stored* first = plane + first_pixel();
    if (aligned) {
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        const auto both = load_global<StoredPair<Stored>>(first + offset(i));
        v[i] = {load(both.left), load(both.right)};
      }
    } else {
#pragma unroll
      for (int i = 0; i < 16; ++i) v[i] = {load(first[offset(i)]), load(first[offset(i) + 1])};
    }
  }
  template <class Stored>
  __device__ __forceinline__ void store_pixels(Stored* plane, bool aligned, const Complex* v) const {
    Stored* first = plane + first_pixel();
    if (aligned) {
#pragma unroll
      for (int i = 0; i < 16; ++i)
        store_global(first + offset(i), StoredPair<Stored>{store<Stored>(v[i].re), store<Stored>(v[i].im)});
    } else {
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        first[offset(i)] = store<Stored>(v[i].re);
        first[offset(i) + 1] = store<Stored>(v[i].im);
      }
    }
  }
  template <class Stored>
  __device__ __forceinline__ void prefetch(const Stored* plane) const {
    constexpr int kSector = 32;  // bytes; what comes from memory at least
#pragma unroll
    for (int byte = 0; byte < kPixels * static_cast<int>(sizeof(Stored)); byte += kThreads * kSector)
      dgdd::prefetch(reinterpret_cast<const char*>(plane) + thread * kSector + byte);
  }

  // -------- columns: both steps leave their results where their thread has read

  __device__ __forceinline__ int column_place(int c, int b) const {
    return pair_place(8 * c + b, column_pair);
  }

  __device__ __forceinline__ void columns_first(Complex* v) const {
#pragma unroll
    for (int i = 0; i < 16; i += Column::kRadix) {
      const int b = Column::b(column_thread, i);
      transform<false, Column::kRadix>(v + i);
#pragma unroll
      for (int c = 1; c < Column::kRadix; ++c) v[i + c] = turned<false>(v[i + c], Column::root(b, c));
#pragma unroll
      for (int c = 0; c < Column::kRadix / 2; ++c)
        pairs.store(column_place(c, b), {v[i + c], v[i + Column::partner(c)]});
    }
  }
  __device__ __forceinline__ void columns_second(Complex* v) const {
    Complex *z = v, *m = v + 8;
#pragma unroll
    for (int b = 0; b < 8; ++b) {
      const ComplexPair both = pairs.load(column_place(column_thread, b));
      z[b] = both.first;
      m[b] = both.second;
    }
    transform<false, 8>(z);
    transform<false, 8>(m);
    mirror(z, m, column_thread == 0);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      ComplexPair both = {z[i], m[7 - i]};
      if (i == 0 && column_thread == 0)
        both = {2.0f * Complex{z[0].re, m[7].re}, 2.0f * Complex{z[0].im, m[7].im}};
      else
        part(both.first, both.second);
      pairs.store(column_place(column_thread, i), both);
    }
  }
  __device__ __forceinline__ void columns_second_back(Complex* v) const {
    Complex *z = v, *m = v + 8;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      ComplexPair both = pairs.load(column_place(column_thread, i));
      if (i == 0 && column_thread == 0)
        both = {{both.first.re, both.second.re}, {both.first.im, both.second.im}};
      else
        join(both.first, both.second);
      z[i] = both.first;
      m[7 - i] = both.second;
    }
    unmirror(z, m, column_thread == 0);
    transform<true, 8>(z);
    transform<true, 8>(m);
#pragma unroll
    for (int b = 0; b < 8; ++b) pairs.store(column_place(column_thread, b), {z[b], m[b]});
  }
  __device__ __forceinline__ void columns_first_back(Complex* v) const {
#pragma unroll
    for (int i = 0; i < 16; i += Column::kRadix) {
      const int b = Column::b(column_thread, i);
#pragma unroll
      for (int c = 0; c < Column::kRadix / 2; ++c) {
        const ComplexPair both = pairs.load(column_place(c, b));
        v[i + c] = both.first;
        v[i + Column::partner(c)] = both.second;
      }
#pragma unroll
      for (int c = 1; c < Column::kRadix; ++c) v[i + c] = turned<true>(v[i + c], Column::root(b, c));
      transform<true, Column::kRadix>(v + i);
    }
  }

  // -------- rows: a row's threads are lanes of one warp

  __device__ __forceinline__ int row_place(int i) const {
    return 2 * pair_place(row, 4 * Row::a(i)) + Row::b(row_thread, i);
  }
  __device__ __forceinline__ int row_pair_place(int c, int b) const { return pair_place(row, 4 * c) + b / 2; }

  __device__ __forceinline__ void rows_first(Complex* v) const {
#pragma unroll
    for (int i = 0; i < 16; ++i) v[i] = values.load(row_place(i));
#pragma unroll
    for (int i = 0; i < 16; i += Row::kRadix) {
      transform<false, Row::kRadix>(v + i);
      constexpr int kHalf =
          Row::kRadix / 2;  // at a time: no more roots wait in registers than there is room for
#pragma unroll
      for (int begin = 0; begin < Row::kRadix; begin += kHalf) {
#pragma unroll
        for (int c = begin; c < begin + kHalf; ++c)
          if (c > 0) v[i + c] = turned<false>(v[i + c], row_roots.load(8 * c + Row::b(row_thread, i)));
#pragma unroll
        for (int c = begin; c < begin + kHalf; ++c) values.store(row_place(i + c), v[i + c]);
      }
    }
  }
  __device__ __forceinline__ void rows_second(Complex* v) const {
    const int c = row_thread, partner = Row::partner(c);
#pragma unroll
    for (int b = 0; b < 8; b += 2) {
      const ComplexPair of_c = pairs.load(row_pair_place(c, b));
      const ComplexPair of_partner = pairs.load(row_pair_place(partner, b));
      v[b] = of_c.first;
      v[b + 1] = of_c.second;
      v[8 + b] = of_partner.first;
      v[9 + b] = of_partner.second;
    }
    transform<false, 8>(v);
    transform<false, 8>(v + 8);
  }
  __device__ __forceinline__ void rows_second_back(Complex* v) const {
    const int c = row_thread, partner = Row::partner(c);
    transform<true, 8>(v);
    transform<true, 8>(v + 8);
#pragma unroll
    for (int b = 0; b < 8; b += 2) {
      pairs.store(row_pair_place(c, b), {v[b], v[b + 1]});
      pairs.store(row_pair_place(partner, b), {v[8 + b], v[9 + b]});
    }
  }
  __device__ __forceinline__ void rows_first_back(Complex* v) const {
#pragma unroll
    for (int i = 0; i < 16; ++i) v[i] = values.load(row_place(i));
#pragma unroll
    for (int i = 0; i < 16; i += Row::kRadix) {
#pragma unroll
      for (int c = 1; c < Row::kRadix; ++c)
        v[i + c] = turned<true>(v[i + c], row_roots.load(8 * c + Row::b(row_thread, i)));
      transform<true, Row::kRadix>(v + i);
    }
#pragma unroll
    for (int i = 0; i < 16; ++i) values.store(row_place(i), v[i]);
  }

  // Row 0 as the spectra of the rows of frequency 0, in v[i], and H / 2, in v[15 - i]. Where both are real,
  // at column frequencies 0 in v[0] and W / 2 in v[15], they stay real and imaginary part of one.
  __device__ __forceinline__ bool is_real_pair(int i) const { return thread == 0 && (i == 0 || i == 15); }
  __device__ __forceinline__ void part_row_0(Complex* v) const {
    if (row != 0) return;
    mirror(v, v + 8, row_thread == 0);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (is_real_pair(i)) continue;
      part(v[i], v[15 - i]);
      v[i] = 0.5f * v[i];
      v[15 - i] = 0.5f * v[15 - i];
    }
  }
  __device__ __forceinline__ void join_row_0(Complex* v) const {
    if (row != 0) return;
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (!is_real_pair(i)) join(v[i], v[15 - i]);
    unmirror(v, v + 8, row_thread == 0);
  }

  // -------- the bins of the thread's spectrum

  // Calls write(row frequency, column frequency) for bin i, unless that is a real pair.
  template <class Write>
  __device__ __forceinline__ void for_bin(int i, Write write) const {
    if (row != 0)
      write(Column::frequency(row / 8, row % 8),
            (i < 8 ? row_thread : Row::partner(row_thread)) + i % 8 * Row::kRadix);
    else if (!is_real_pair(i))
      write(i < 8 ? 0 : kHalfHeight, Row::frequency(row_thread, i < 8 ? i : 15 - i));
  }

  // Writes the value at a frequency and at its negative, whichever of them [H, W / 2 + 1] has.
  template <class Stored>
  static __device__ __forceinline__ void store_both(Stored* half_spectrum, int y, int x, Stored value) {
    const int mirrored_y = (kHeight - y) % kHeight, mirrored_x = (kWidth - x) % kWidth;
    if (x < kHalfWidth) half_spectrum[y * kHalfWidth + x] = value;
    if (mirrored_x < kHalfWidth) half_spectrum[mirrored_y * kHalfWidth + mirrored_x] = value;
  }
};

// What is added up over the domains, for 16 bins.
template <class Plane>
struct BinSums {
  Complex sum[16];
  float magnitudes[16];

  __device__ __forceinline__ void clear(const Plane& plane) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      sum[i] = {0.0f, 0.0f};
      magnitudes[i] = 0.0f;
      if (plane.is_real_pair(i)) plane.second_magnitudes.store(i / 8, 0.0f);
    }
  }
  __device__ __forceinline__ void add(const Plane& plane, const Complex* v) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      sum[i] = sum[i] + v[i];
      if (plane.is_real_pair(i)) {
        magnitudes[i] += fabsf(v[i].re);
        plane.second_magnitudes.store(i / 8, plane.second_magnitudes.load(i / 8) + fabsf(v[i].im));
      } else {
        magnitudes[i] += magnitude<false>(v[i]);
      }
    }
  }
  __device__ __forceinline__ float total_magnitude() const {
    float total = 0;
#pragma unroll
    for (int i = 0; i < 16; ++i) total += magnitudes[i];
    return total;
  }

  // The sums times p + q R, and R where it is asked for.
  template <class Stored>
  __device__ __forceinline__ void weigh(const Plane& plane, float p, float q, float eps, Stored* lengths,
                                        Complex* v) const {
    float length[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      if (plane.is_real_pair(i)) {
        const float of_0 = resultant_length(fabsf(sum[i].re), magnitudes[i], eps);
        const float of_nyquist = resultant_length(fabsf(sum[i].im), plane.second_magnitudes.load(i / 8), eps);
        v[i] = {(p + q * of_0) * sum[i].re, (p + q * of_nyquist) * sum[i].im};
        if (lengths == nullptr) continue;
        const int column = i == 0 ? 0 : Plane::kHalfWidth - 1;
        lengths[column] = store<Stored>(of_0);
        lengths[Plane::kHalfHeight * Plane::kHalfWidth + column] = store<Stored>(of_nyquist);
      } else {
        length[i] = resultant_length(magnitude<false>(sum[i]), magnitudes[i], eps);
        v[i] = (p + q * length[i]) * sum[i];
      }
    }
    if (lengths == nullptr) return;
#pragma unroll
    for (int i = 0; i < 16; ++i)
      plane.for_bin(i, [&](int y, int x) { plane.store_both(lengths, y, x, store<Stored>(length[i])); });
  }
};

// By all threads with the magnitudes that each has: a power of two that brings squares into float32's range
// where they may have left it, 1 elsewhere, the same for all.
__device__ __forceinline__ float better_unit(float total_magnitude) {
  const bool too_large = __syncthreads_or(!(total_magnitude < 1e18f));
  const bool too_small = !__syncthreads_or(total_magnitude > 1e-9f);
  return too_large ? 0x1p-64f : too_small ? 0x1p64f : 1.0f;
}

// The sums over the valid domains of the block's plane, with gradients multiplied by `unit`. Returns the
// better unit.
template <class Stored, class Plane>
__device__ __forceinline__ float sum_domains(const SpectralParams& params, bool aligned, float unit,
                                             BinSums<Plane>& sums) {
  const int sample = static_cast<int>(blockIdx.x) / static_cast<int>(params.channels);
  const auto gradient = [&](int64_t domain) {
    return static_cast<const Stored*>(params.domain_grads) +
           (domain * params.planes() + blockIdx.x) * Plane::kPixels;
  };
  sums.clear(Plane(reread_thread()));
  bool first = true;
  for (int domain = next_valid(params, sample, -1); domain < params.domains;) {
    const Plane here(reread_thread());
    Complex v[16];
    here.load_pixels(gradient(domain), aligned, v);
    domain = next_valid(params, sample, domain);
    if (domain < params.domains) here.prefetch(gradient(domain));
    if (unit != 1.0f) {
#pragma unroll
      for (int i = 0; i < 16; ++i) v[i] = unit * v[i];
    }
    if (!first) __syncthreads();
    first = false;
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

// What is added in space: the assigned domain's gradient, weighted, and the base.
template <class Stored, class Plane>
__device__ __forceinline__ void load_additions(const SpectralParams& params, const Settings& settings,
                                               const PlaneJob<Stored>& job, const OutputWeights& weights,
                                               const Plane& plane, Complex* added) {
  if (weights.beta != 0.0f) {
    plane.load_pixels(job.gradient(params, params.domain_index[job.sample]), settings.aligned, added);
#pragma unroll
    for (int i = 0; i < 16; ++i) added[i] = weights.beta * added[i];
  }
  if (params.base_grad != nullptr) {
    Complex base[16];
    plane.load_pixels(static_cast<const Stored*>(params.base_grad) + job.first_pixel, settings.aligned, base);
#pragma unroll
    for (int i = 0; i < 16; ++i) added[i] = added[i] + base[i];
  }
}

// The weighed spectrum back to space, and what is made of it. By a whole block.
template <class Stored, class Plane>
__device__ __forceinline__ void write_output(const SpectralParams& params, const Settings& settings,
                                             const PlaneJob<Stored>& job, const Plane& plane, Complex* v,
                                             Complex* added) {
  plane.join_row_0(v);
  plane.rows_second_back(v);
  __syncwarp();
  plane.rows_first_back(v);
  __syncthreads();
  plane.columns_second_back(v);
  __syncthreads();
  plane.columns_first_back(v);
#pragma unroll
  for (int i = 0; i < 16; ++i) v[i] = v[i] + added[i];

  if (params.images == nullptr) {
    void* output = params.update != nullptr ? params.update : params.class_signal;
    plane.store_pixels(static_cast<Stored*>(output) + job.first_pixel, settings.aligned, v);
    return;
  }
  Stored* buffer = static_cast<Stored*>(params.momentum_buffer) + job.first_pixel;
  Stored* images = static_cast<Stored*>(params.images) + job.first_pixel;
  plane.load_pixels(buffer, settings.aligned, added);
#pragma unroll
  for (int i = 0; i < 16; ++i) v[i] = v[i] + settings.momentum * added[i];
  plane.load_pixels(images, settings.aligned, added);
  plane.store_pixels(buffer, settings.aligned, v);
#pragma unroll
  for (int i = 0; i < 16; ++i) v[i] = added[i] - settings.learning_rate * v[i];
  plane.store_pixels(images, settings.aligned, v);
}

// One block for each plane, with kSharedBytes of dynamic shared memory.
template <int kHeight, int kWidth, class Stored>
__global__ void __launch_bounds__(kHeight* kWidth / 32, 512 / (kHeight * kWidth / 32))
    half_spectrum_kernel(const __grid_constant__ SpectralParams params,
                         const __grid_constant__ Settings settings) {
  const bool aligned = settings.aligned;
  using HalfPlane = Plane<kHeight, kWidth>;
  HalfPlane(reread_thread()).fill_row_roots();

  BinSums<HalfPlane> sums;
  float unit = 1.0f;  // of a second attempt: a power of two
  for (;;) {
    const float better = sum_domains<Stored>(params, aligned, unit, sums);
    if (unit != 1.0f || better == 1.0f) break;
    unit = better;
  }

  // Parting has doubled the spectra.
  const HalfPlane plane(reread_thread());
  const PlaneJob<Stored> job(params);
  const OutputWeights weights(params, settings, job.sample);
  const float scale = job.one_over_valid * (0.5f / HalfPlane::kPixels) / unit;
  Stored* lengths = static_cast<Stored*>(params.resultant_length);
  if (lengths != nullptr) lengths += int64_t{blockIdx.x} * (kHeight * HalfPlane::kHalfWidth);
  Complex v[16];
  sums.weigh(plane, scale * weights.p, scale * weights.q,
             fminf(settings.doubled_eps * unit, static_cast<float>(kLargestEps)), lengths, v);

  // These loads travel while the spectrum is transformed back.
  Complex added[16] = {};
  load_additions(params, settings, job, weights, plane, added);
  write_output(params, settings, job, plane, v, added);
}

}  // namespace dgdd::spectral::half_spectrum
