// The fused CUDA kernel for tiles of 32 and 64 pixels a side: one plane a block, from the domains' gradients
// to the output, with nothing in between in device memory.
//
// Let H x W be the tile and J = W / 2. Column j of the complex plane z holds the real columns j and j + J as
// its real and imaginary part. Planes are never packed with each other: a NaN stays in its plane, and so do
// rounding errors. Each thread holds 16 complex values, and a domain goes through three steps with an
// exchange after each of the first two:
//
// A. Down the columns, radix 16: y = q a + b with a < 16, q = H / 16. Thread (b, j) transforms over a into c.
// B. Down the columns, radix q: over b, into row frequency c + 16 d. A thread has all of c and of -c modulo
// 16
//    ("class" 1 to 7; class 0 is c = 0 and c = 8), so that each of its row frequencies ky is there with -ky,
//    and z parts into the spectra of real columns: q rows of the half spectrum. Of the columns it has
//    j = x0 + s i, hence x = x0 + s a' with a' < r = 16 / q, s = W / r, and transforms over a' into e.
// C. Along the rows, radix s: over x0, into column frequency e + r f.
//
// The rows ky = 0 and H / 2 come from real columns and share one row as real and imaginary part. There the
// frequencies kx and -kx meet once more: position kx < J then stands for bin (0, kx), position kx > J for
// (H / 2, kx), and the "corners" kx = 0 and J, where both are real, for both. All spectra are twice too
// large.
//
// Sums over the domains stay in registers. The consensus goes the same way back: C, B, A.
#pragma once

#include "spectral/fused_cuda_common.cuh"

namespace dgdd::spectral {

// The least pitch of at least `pitch` that is `shift` modulo 2 * shift: lines of `shift` values at this pitch
// fall beside each other in the banks.
constexpr int staggered(int pitch, int shift) {
  while (pitch % (2 * shift) != shift) ++pitch;
  return pitch;
}

template <int kHeight_, int kWidth_>
struct Tile {
  static constexpr int kHeight = kHeight_, kWidth = kWidth_;
  static constexpr int kValues = 16;  // complex values of a thread
  static constexpr int kHalfWidth = kWidth / 2;
  static constexpr int kThreads = kHeight * kHalfWidth / kValues;
  static constexpr int kColumnRest = kHeight / 16;                // q
  static constexpr int kRowRadix = 16 / kColumnRest;              // r
  static constexpr int kRowRest = kWidth / kRowRadix;             // s
  static constexpr int kColumns = kRowRadix / 2;                  // complex columns of a thread in step B
  static constexpr int kRowTransforms = kValues / kRowRest;       // of a thread in step C
  static constexpr int kRowThreads = kRowRadix / kRowTransforms;  // that share a row in step C
  static_assert(kThreads == 8 * kRowRest && kThreads % 32 == 0 && kRowRest <= 16);

  // The exchange after A holds (c, b, j), the one after B (row, e, x0). Half a warp at a time writes or reads
  // 16 values: in A neighbours j; in B s neighbours for each of 16 / s classes; in C values e of kRowThreads
  // for each of 16 / kRowThreads rows. With these pitches they are in different banks.
  static constexpr int kClassPitch = kColumnRest * kHalfWidth + kRowRest % 16;
  static constexpr int kColumnExchange = 16 * kClassPitch;
  static constexpr int kTransformPitch = kRowRest + 1;
  static constexpr int kRowPitch = staggered(kRowRadix * kTransformPitch, kRowThreads);
  static constexpr int kRowExchange = kHeight / 2 * kRowPitch;
  static constexpr int kSharedBytes = (kColumnExchange + kRowExchange) * static_cast<int>(sizeof(Complex));

  // Threads of a block can work on several domains at once, in groups of kThreads: planes may be few.
  static constexpr int kMostGroups = kThreads == 32 ? 4 : 3;
};

// Down the columns a warp needs one or two roots at a time, along the rows as many as it has x0: constant
// memory would serve these one after another, global memory serves them from the first-level cache.
template <class T>
__constant__ constexpr Twiddles<16, T::kColumnRest> kColumnRoots;
template <class T>
__device__ constexpr Twiddles<T::kRowRadix, T::kRowRest> kRowRoots;

// One thread's part of the transforms, in place in `v`.
template <class T>
struct TileTransforms {
  static constexpr int kColumnRest = T::kColumnRest, kRowRadix = T::kRowRadix, kRowRest = T::kRowRest;
  static constexpr int kColumns = T::kColumns;

  Shared<Complex> columns;  // the exchange after A
  Shared<Complex> rows;     // the exchange after B
  int thread;               // of the group
  Complex v[T::kValues];

  // Step A: value a is at first_pixel() + pixel(a) in its real part and J further right in its imaginary
  // part.
  __device__ __forceinline__ int first_pixel() const {
    return thread / T::kHalfWidth * T::kWidth + thread % T::kHalfWidth;
  }
  static __device__ __forceinline__ constexpr int pixel(int a) { return kColumnRest * a * T::kWidth; }
  __device__ __forceinline__ int column_place(int c, int b, int j) const {
    return c * T::kClassPitch + b * T::kHalfWidth + j;
  }

  __device__ __forceinline__ void forward_a() {
    const int b = thread / T::kHalfWidth, j = thread % T::kHalfWidth;
    transform<false, 16>(v);
#pragma unroll
    for (int c = 0; c < 16; ++c) {
      if (c > 0) v[c] = turned<false>(v[c], kColumnRoots<T>.at[c][b]);
      columns.store(column_place(c, b, j), v[c]);
    }
  }
  __device__ __forceinline__ void inverse_a() {
    const int b = thread / T::kHalfWidth, j = thread % T::kHalfWidth;
#pragma unroll
    for (int c = 0; c < 16; ++c) {
      v[c] = columns.load(column_place(c, b, j));
      if (c > 0) v[c] = turned<true>(v[c], kColumnRoots<T>.at[c][b]);
    }
    transform<true, 16>(v);
  }

  // Step B.
  __device__ __forceinline__ int column_class() const { return thread / kRowRest; }
  __device__ __forceinline__ int x0() const { return thread % kRowRest; }
  __device__ __forceinline__ int row_place(int row, int e, int x) const {
    return row * T::kRowPitch + e * T::kTransformPitch + x;
  }

  // Frequency `first[t]` and its mirror image `second[q - 1 - t]`: so they lie by themselves but in class 0,
  // where each of c = 0 and c = 8 mirrors itself. There t = 0 gets the frequencies 0 and H / 2.
  static __device__ __forceinline__ void pair_up(Complex* first, Complex* second) {
    Complex low[kColumnRest], high[kColumnRest];
#pragma unroll
    for (int t = 0; t < kColumnRest; ++t) low[t] = first[t], high[t] = second[t];
    constexpr int kHalf = kColumnRest / 2;
#pragma unroll
    for (int t = 0; t < kHalf; ++t) {
      first[t + kHalf] = high[t];
      second[kColumnRest - 1 - t] = t == 0 ? low[kHalf] : low[kColumnRest - t];
      second[kHalf - 1 - t] = high[kColumnRest - 1 - t];
    }
  }
  static __device__ __forceinline__ void undo_pairs(Complex* first, Complex* second) {
    Complex one[kColumnRest], other[kColumnRest];
#pragma unroll
    for (int t = 0; t < kColumnRest; ++t) one[t] = first[t], other[t] = second[t];
    constexpr int kHalf = kColumnRest / 2;
#pragma unroll
    for (int t = 0; t < kHalf; ++t) {
      second[t] = one[t + kHalf];
      first[t == 0 ? kHalf : kColumnRest - t] = other[kColumnRest - 1 - t];
      second[kColumnRest - 1 - t] = other[kHalf - 1 - t];
    }
  }

  __device__ __forceinline__ void forward_b() {
    const int c = column_class(), mirrored_c = c == 0 ? 8 : 16 - c;
    Complex first[kColumns][kColumnRest], second[kColumns][kColumnRest];
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
#pragma unroll
      for (int b = 0; b < kColumnRest; ++b) {
        first[i][b] = columns.load(column_place(c, b, x0() + kRowRest * i));
        second[i][b] = columns.load(column_place(mirrored_c, b, x0() + kRowRest * i));
      }
      transform<false, kColumnRest>(first[i]);
      transform<false, kColumnRest>(second[i]);
      if (c == 0) pair_up(first[i], second[i]);
    }
    Complex rest[kColumnRest][kRowRadix];
#pragma unroll
    for (int t = 0; t < kColumnRest; ++t) {
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        const Complex z = first[i][t], mirrored = second[i][kColumnRest - 1 - t];
        rest[t][i] = {z.re + mirrored.re, z.im - mirrored.im};
        rest[t][i + kColumns] = {z.im + mirrored.im, mirrored.re - z.re};
        if (t == 0 && c == 0) {
          rest[t][i] = {z.re, mirrored.re};
          rest[t][i + kColumns] = {z.im, mirrored.im};
        }
      }
      transform<false, kRowRadix>(rest[t]);
    }
#pragma unroll
    for (int e = 0; e < kRowRadix; ++e) {
      const Complex root = kRowRoots<T>.at[e][x0()];
#pragma unroll
      for (int t = 0; t < kColumnRest; ++t)
        rows.store(row_place(c * kColumnRest + t, e, x0()),
                   e == 0 ? rest[t][e] : turned<false>(rest[t][e], root));
    }
  }
  __device__ __forceinline__ void inverse_b() {
    const int c = column_class(), mirrored_c = c == 0 ? 8 : 16 - c;
    Complex first[kColumns][kColumnRest], second[kColumns][kColumnRest];
    Complex rest[kColumnRest][kRowRadix];
#pragma unroll
    for (int e = 0; e < kRowRadix; ++e) {
      const Complex root = kRowRoots<T>.at[e][x0()];
#pragma unroll
      for (int t = 0; t < kColumnRest; ++t) {
        rest[t][e] = rows.load(row_place(c * kColumnRest + t, e, x0()));
        if (e > 0) rest[t][e] = turned<true>(rest[t][e], root);
      }
    }
#pragma unroll
    for (int t = 0; t < kColumnRest; ++t) {
      transform<true, kRowRadix>(rest[t]);
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        const Complex real = rest[t][i], imaginary = rest[t][i + kColumns];
        Complex z = {real.re - imaginary.im, real.im + imaginary.re};
        Complex mirrored = {real.re + imaginary.im, imaginary.re - real.im};
        if (t == 0 && c == 0) {
          z = {real.re, imaginary.re};
          mirrored = {real.im, imaginary.im};
        }
        first[i][t] = z;
        second[i][kColumnRest - 1 - t] = mirrored;
      }
    }
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      if (c == 0) undo_pairs(first[i], second[i]);
      transform<true, kColumnRest>(first[i]);
      transform<true, kColumnRest>(second[i]);
#pragma unroll
      for (int b = 0; b < kColumnRest; ++b) {
        columns.store(column_place(c, b, x0() + kRowRest * i), first[i][b]);
        columns.store(column_place(mirrored_c, b, x0() + kRowRest * i), second[i][b]);
      }
    }
  }

  // Step C: value i s + f is at row() and column frequency transform_of(i) + r f.
  __device__ __forceinline__ int row() const { return thread / T::kRowThreads; }
  __device__ __forceinline__ int transform_of(int i) const {
    return thread % T::kRowThreads + T::kRowThreads * i;
  }
  // Where values 0 and s / 2 are the corners of the shared row.
  __device__ __forceinline__ bool has_corners() const { return thread == 0; }

  __device__ __forceinline__ void forward_c() {
#pragma unroll
    for (int i = 0; i < T::kRowTransforms; ++i) {
#pragma unroll
      for (int x = 0; x < kRowRest; ++x)
        v[i * kRowRest + x] = rows.load(row_place(row(), transform_of(i), x));
      transform<false, kRowRest>(v + i * kRowRest);
    }
    if (row() == 0) part_shared_row();
  }
  __device__ __forceinline__ void inverse_c() {
    if (row() == 0) join_shared_row();
#pragma unroll
    for (int i = 0; i < T::kRowTransforms; ++i) {
      transform<true, kRowRest>(v + i * kRowRest);
#pragma unroll
      for (int x = 0; x < kRowRest; ++x)
        rows.store(row_place(row(), transform_of(i), x), v[i * kRowRest + x]);
    }
  }

  // The shared row's values at -kx are exchanged in the place that only this row's threads use in step C.
  // Values e + r f with e > 0 are at -e + r (s - 1 - f); values r f are at r (s - f), and stored one place
  // further down, so that all are loaded alike. Two threads need not wait: each has what it needs.
  __device__ __forceinline__ void store_for_mirroring() const {
#pragma unroll
    for (int n = 0; n < T::kValues; ++n) {
      const int e = transform_of(n / kRowRest), f = n % kRowRest;
      rows.store(row_place(0, e, e == 0 ? (f + kRowRest - 1) % kRowRest : f), v[n]);
    }
    shared_row_barrier();
  }
  __device__ __forceinline__ Complex load_mirrored(int n) const {
    return rows.load(
        row_place(0, (kRowRadix - transform_of(n / kRowRest)) % kRowRadix, kRowRest - 1 - n % kRowRest));
  }
  static __device__ __forceinline__ void shared_row_barrier() {
    if constexpr (T::kRowThreads > 2) __syncwarp((1u << T::kRowThreads) - 1u);
  }
  static __device__ __forceinline__ bool can_be_corner(int n) { return n == 0 || n == kRowRest / 2; }
  static __device__ __forceinline__ bool below_middle(int n) { return n % kRowRest < kRowRest / 2; }

  __device__ __forceinline__ void part_shared_row() {
    store_for_mirroring();
#pragma unroll
    for (int n = 0; n < T::kValues; ++n) {
      const Complex z = v[n], m = load_mirrored(n);
      v[n] = below_middle(n) ? Complex{z.re + m.re, z.im - m.im} : Complex{z.im + m.im, m.re - z.re};
      if (can_be_corner(n) && has_corners()) v[n] = z + z;
    }
  }
  __device__ __forceinline__ void join_shared_row() {
    store_for_mirroring();
#pragma unroll
    for (int n = 0; n < T::kValues; ++n) {
      const Complex own = v[n], m = load_mirrored(n);
      v[n] = below_middle(n) ? Complex{own.re + m.im, own.im + m.re} : Complex{m.re - own.im, own.re - m.im};
      if (can_be_corner(n) && has_corners()) v[n] = own;
    }
    shared_row_barrier();
  }
};

// One thread's sums over the domains.
template <class T>
struct TileSums {
  Complex spectra[T::kValues];
  float magnitudes[T::kValues];  // at the corners, of the real parts
  Complex pixels[T::kValues];

  __device__ __forceinline__ void clear(const TileTransforms<T>& of) {
#pragma unroll
    for (int n = 0; n < T::kValues; ++n) {
      spectra[n] = pixels[n] = {0.0f, 0.0f};
      magnitudes[n] = 0.0f;
    }
    if (of.has_corners()) store_corners(of, {0.0f, 0.0f});
  }

  template <bool kCareful>
  __device__ __forceinline__ void add_bins(const TileTransforms<T>& from) {
#pragma unroll
    for (int n = 0; n < T::kValues; ++n) {
      const Complex bin = from.v[n];
      spectra[n] = spectra[n] + bin;
      const bool is_corner = from.can_be_corner(n) && from.has_corners();
      magnitudes[n] += is_corner ? fabsf(bin.re) : magnitude<kCareful>(bin);
    }
    if (from.has_corners()) {
      const Complex imaginary = {fabsf(from.v[0].im), fabsf(from.v[T::kRowRest / 2].im)};
      store_corners(from, load_corners(from) + imaginary);
    }
  }

  __device__ __forceinline__ float total_magnitude() const {
    float total = 0.0f;
#pragma unroll
    for (int n = 0; n < T::kValues; ++n) total += magnitudes[n];
    return total;
  }

  // The magnitudes of the corners' imaginary parts concern one thread, which keeps them in a gap of its
  // exchange.
  static __device__ __forceinline__ Complex load_corners(const TileTransforms<T>& of) {
    return of.rows.load(T::kRowRest);
  }
  static __device__ __forceinline__ void store_corners(const TileTransforms<T>& of, Complex magnitudes) {
    of.rows.store(T::kRowRest, magnitudes);
  }
};

// The sum over the groups of blocks with more than one, in the first group's threads. The groups' exchanges
// serve as memory; they lie kGroupBytes apart.
template <class T, int kGroupBytes = T::kSharedBytes>
struct GroupSum {
  int thread = static_cast<int>(threadIdx.x), group = static_cast<int>(threadIdx.y);

  template <int kByteOffset, class Value, int kCount>
  static __device__ __forceinline__ Shared<Value> memory(const Value (&)[kCount], int group) {
    static_assert(kByteOffset + kCount * T::kThreads * sizeof(Value) <= T::kSharedBytes - sizeof(Complex));
    return dynamic_shared<Value>(group * kGroupBytes + kByteOffset, kCount * T::kThreads);
  }
  template <int kByteOffset, class Value, int kCount>
  __device__ __forceinline__ void give(const Value (&values)[kCount]) const {
    if (group == 0) return;
    const Shared<Value> mine = memory<kByteOffset>(values, group);
#pragma unroll
    for (int i = 0; i < kCount; ++i) mine.store(i * T::kThreads + thread, values[i]);
  }
  template <int kByteOffset, class Value, int kCount>
  __device__ __forceinline__ void take(Value (&values)[kCount]) const {
    if (group > 0) return;
    for (int other = 1; other < static_cast<int>(blockDim.y); ++other) {
      const Shared<Value> theirs = memory<kByteOffset>(values, other);
#pragma unroll
      for (int i = 0; i < kCount; ++i) values[i] = values[i] + theirs.load(i * T::kThreads + thread);
    }
  }

  // The pixels first: they fit where step C does not read any more.
  __device__ __forceinline__ void add(TileSums<T>& sums, const TileTransforms<T>& of,
                                      bool with_pixels) const {
    constexpr int kSpectraBytes = T::kValues * T::kThreads * static_cast<int>(sizeof(Complex));
    static_assert(kSpectraBytes <= T::kColumnExchange * static_cast<int>(sizeof(Complex)));
    if (with_pixels) {
      give<0>(sums.pixels);
      __syncthreads();
      take<0>(sums.pixels);
    }
    Complex corners[1] = {{0.0f, 0.0f}};
    if (of.has_corners()) corners[0] = sums.load_corners(of);
    __syncthreads();
    constexpr int kCornerBytes = kSpectraBytes + T::kValues * T::kThreads * static_cast<int>(sizeof(float));
    give<0>(sums.spectra);
    give<kSpectraBytes>(sums.magnitudes);
    give<kCornerBytes>(corners);
    __syncthreads();
    take<0>(sums.spectra);
    take<kSpectraBytes>(sums.magnitudes);
    take<kCornerBytes>(corners);
    if (group == 0 && of.has_corners()) sums.store_corners(of, corners[0]);
  }
};

// For the steps of a group; all groups of a block go in step.
template <class T>
__device__ __forceinline__ void group_barrier() {
  if constexpr (T::kThreads == 32)
    __syncwarp();
  else
    __syncthreads();
}

// Each thread of a group fetches one cache line of 128 bytes: that is a plane of float32.
template <class T, class Stored>
__device__ __forceinline__ void prefetch_plane(const Stored* plane, int thread) {
  static_assert(T::kThreads * 128 == T::kHeight * T::kWidth * 4);
  if (thread * 128 < T::kHeight * T::kWidth * static_cast<int>(sizeof(Stored)))
    prefetch(plane + thread * (128 / static_cast<int>(sizeof(Stored))));
}

// SGS, Eq. 9: the sums times what `factor` makes of their agreement, and the agreement itself where the call
// asks for it. `doubled_eps`: like the spectra.
template <class T, class Stored, class Factor>
__device__ __forceinline__ void weigh(const SpectralParams& params, unsigned plane, float doubled_eps,
                                      const TileSums<T>& sums, bool careful, const Factor& factor,
                                      TileTransforms<T>& to) {
  constexpr int kBins = T::kHeight * (T::kHalfWidth + 1);
  Stored* lengths = static_cast<Stored*>(params.resultant_length) + static_cast<int64_t>(plane) * kBins;
  const int row = to.row();
  const int row_class = row / T::kColumnRest, t = row % T::kColumnRest;
  const int ky = row_class > 0            ? row_class + 16 * t
                 : t < T::kColumnRest / 2 ? 16 * t
                                          : 8 + 16 * (t - T::kColumnRest / 2);
  const auto write = [&](int y, int x, float length) {
    if (x <= T::kHalfWidth) lengths[y * (T::kHalfWidth + 1) + x] = store<Stored>(length);
  };
  float sizes[T::kValues];
  if (careful) {
#pragma unroll
    for (int n = 0; n < T::kValues; ++n) sizes[n] = magnitude<true>(sums.spectra[n]);
  } else {
#pragma unroll
    for (int n = 0; n < T::kValues; ++n) sizes[n] = magnitude<false>(sums.spectra[n]);
  }
#pragma unroll
  for (int n = 0; n < T::kValues; ++n) {
    const Complex sum = sums.spectra[n];
    const int kx = to.transform_of(n / T::kRowRest) + T::kRowRadix * (n % T::kRowRest);
    const int mirrored_kx = (T::kWidth - kx) % T::kWidth;
    if (to.can_be_corner(n) && to.has_corners()) {
      const Complex corners = sums.load_corners(to);
      const float first = resultant_length(fabsf(sum.re), sums.magnitudes[n], doubled_eps);
      const float second = resultant_length(fabsf(sum.im), n == 0 ? corners.re : corners.im, doubled_eps);
      to.v[n] = {factor(first) * sum.re, factor(second) * sum.im};
      if (params.resultant_length == nullptr) continue;
      write(0, kx, first);
      write(T::kHeight / 2, kx, second);
      continue;
    }
    const float length = resultant_length(sizes[n], sums.magnitudes[n], doubled_eps);
    to.v[n] = factor(length) * sum;
    if (params.resultant_length == nullptr) continue;
    if (row > 0) {
      write(ky, kx, length);
      write(T::kHeight - ky, mirrored_kx, length);
    } else if (to.below_middle(n)) {
      write(0, kx, length);
    } else {
      write(T::kHeight / 2, mirrored_kx, length);
    }
  }
}

// The plane's domains through steps A, B and C into the first group's sums. Careful: see `magnitude`.
template <class T, class Stored, bool kCareful>
__device__ __forceinline__ void sum_domains(const SpectralParams& params, TileTransforms<T>& transforms,
                                            TileSums<T>& sums) {
  const int group = static_cast<int>(threadIdx.y), groups = static_cast<int>(blockDim.y);
  const PlaneJob<Stored> job(params);
  sums.clear(transforms);
  // The first group's domains, one after another; the other groups take those between. All meet the barriers.
  for (int first = next_valid(params, job.sample, -1); first < params.domains;
       first = next_valid(params, job.sample, first, groups - 1)) {
    const int domain = group == 0 ? first : next_valid(params, job.sample, first, group - 1);
    const bool active = domain < params.domains;
    forget(transforms.thread);  // or addresses and roots would fill the registers, and spill
    if (active) {
      const Stored* gradient = job.gradient(params, domain) + transforms.first_pixel();
#pragma unroll
      for (int a = 0; a < 16; ++a) {
        transforms.v[a].re = load(gradient[transforms.pixel(a)]);
        transforms.v[a].im = load(gradient[transforms.pixel(a) + T::kHalfWidth]);
      }
      const int next = next_valid(params, job.sample, domain, groups - 1);
      if (next < params.domains) prefetch_plane<T>(job.gradient(params, next), transforms.thread);
      if (needs_spatial_sum(params)) {
#pragma unroll
        for (int a = 0; a < 16; ++a) sums.pixels[a] = sums.pixels[a] + transforms.v[a];
      }
      transforms.forward_a();
    }
    group_barrier<T>();
    if (active) transforms.forward_b();
    group_barrier<T>();
    if (active) {
      transforms.forward_c();
      sums.template add_bins<kCareful>(transforms);
    }
  }
  if (groups > 1) GroupSum<T>().add(sums, transforms, needs_spatial_sum(params));
}

// A block for each plane: kThreads x groups threads with kSharedBytes x groups of dynamic shared memory. The
// bounds let 384 threads share a multiprocessor, each with 168 registers; of these the sums take 80 and the
// values 32.
template <class T, class Stored>
__global__ void __launch_bounds__(T::kThreads* T::kMostGroups, 384 / (T::kThreads * T::kMostGroups))
    fused_tile_kernel(const __grid_constant__ SpectralParams params) {
  const int group = static_cast<int>(threadIdx.y);
  TileTransforms<T> transforms{
      dynamic_shared<Complex>(group * T::kSharedBytes, T::kColumnExchange),
      dynamic_shared<Complex>(
          group * T::kSharedBytes + T::kColumnExchange * static_cast<int>(sizeof(Complex)), T::kRowExchange),
      static_cast<int>(threadIdx.x),
      {}};
  TileSums<T> sums;
  sum_domains<T, Stored, false>(params, transforms, sums);
  // The votes also make the exchanges free.
  const float total = sums.total_magnitude();
  const bool too_large = __syncthreads_or(group == 0 && !(total < 1e18f));
  const bool large_enough = __syncthreads_or(group == 0 && total > 1e-9f);
  const bool careful = too_large || !large_enough;  // squares may have left the range of float32
  if (careful) {
    sum_domains<T, Stored, true>(params, transforms, sums);
    if (transforms.row() == 0) transforms.shared_row_barrier();
  }

  if (group == 0) {
    for (const void* planes : {params.base_grad, static_cast<const void*>(params.momentum_buffer),
                               static_cast<const void*>(params.images)})
      if (planes != nullptr)
        prefetch_plane<T>(static_cast<const Stored*>(planes) + PlaneJob<Stored>(params).first_pixel,
                          transforms.thread);
    const float scale = PlaneJob<Stored>(params).one_over_valid * (0.5f / (T::kHeight * T::kWidth));
    const float doubled_eps = static_cast<float>(2 * params.eps < kLargestEps ? 2 * params.eps : kLargestEps);
    weigh<T, Stored>(
        params, blockIdx.x, doubled_eps, sums, careful, [=](float length) { return scale * length; },
        transforms);
    transforms.inverse_c();
  }
  group_barrier<T>();
  if (group == 0) transforms.inverse_b();
  group_barrier<T>();
  if (group > 0) return;
  transforms.inverse_a();
  PlaneJob<Stored> job(params);
  job.first_pixel += transforms.first_pixel();
#pragma unroll
  for (int part = 0; part < 4; ++part) {
    float class_signal[8], spatial_sum[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int a = 4 * part + i / 2;
      class_signal[i] = i % 2 == 0 ? transforms.v[a].re : transforms.v[a].im;
      spatial_sum[i] = i % 2 == 0 ? sums.pixels[a].re : sums.pixels[a].im;
    }
    finish_pixels<Stored>(params, job, class_signal, spatial_sum,
                          [&](int i) { return transforms.pixel(4 * part + i / 2) + i % 2 * T::kHalfWidth; });
  }
}

}  // namespace dgdd::spectral
