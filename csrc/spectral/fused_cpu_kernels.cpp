// The fused CPU tier's kernels, compiled once per instruction set with DGDD_ISA naming it. Two planes of one domain travel as the real and
// the imaginary part of one complex plane z, N x N, and everything between the gradients and the output happens in cache.
//
// Let L = kLanes, R = N / L. A transform of length N takes two steps: over a in index = L a + b (length R, then twiddles), and over b
// (length L), giving frequency c + R d. Nothing is put back into natural order:
//
//   rows of z:     first step over a with b in row L c + b; then, c by c ("a band": L rows), over b with d in row L c + d
//   along a row:   the lanes are the fast index b of the columns. The first step needs no shuffle; the second transposes blocks of L x L
//                  in registers. Then vector (row L c + j, k) holds column frequency k + R j, and its lanes row frequencies c + R d.
//
// So the bins of -frequency lie in the band of -c modulo R, at the mirrored vector, with lanes reversed (c = 0: lane d is -d modulo L).
// Pairs of bands go through all domains' transforms, the consensus and the way back, while they stay in the first-level cache.
#include "spectral/fused_cpu.h"
#include "spectral/fused_fft.h"

namespace dgdd::spectral::DGDD_ISA {
namespace {

constexpr float kSmallest = 1.17549435e-38f;  // the smallest normal number

// ---- one plane of the call -----------------------------------------------------------------------------------------------------------

// Magnitudes of floats compare like their bits; every float that is not finite has the largest ones.
template <class Stored>
struct Bits;
template <>
struct Bits<float> {
  using Word = uint32_t;
  static constexpr Word kMagnitude = 0x7fffffffu, kInfinity = 0x7f800000u;
};
template <>
struct Bits<BFloat16> {
  using Word = uint16_t;
  static constexpr Word kMagnitude = 0x7fffu, kInfinity = 0x7f80u;
};
template <>
struct Bits<Float16> {
  using Word = uint16_t;
  static constexpr Word kMagnitude = 0x7fffu, kInfinity = 0x7c00u;
};

template <class Stored, int N>
DGDD_INLINE typename Bits<Stored>::Word largest_magnitude(const Stored* values) {
  using Word = typename Bits<Stored>::Word;
  constexpr int kAtOnce = 256 / sizeof(Word);
  Word largest[kAtOnce] = {};
  for (int i = 0; i < N * N; i += kAtOnce) {
    Word words[kAtOnce];
    __builtin_memcpy(words, values + i, sizeof(words));
    for (int j = 0; j < kAtOnce; ++j) {
      const Word magnitude = words[j] & Bits<Stored>::kMagnitude;
      largest[j] = magnitude > largest[j] ? magnitude : largest[j];
    }
  }
  Word result = 0;
  for (int j = 0; j < kAtOnce; ++j) result = largest[j] > result ? largest[j] : result;
  return result;
}

// Rows of zeros stand in for a plane that is missing or left out.
alignas(64) constexpr float kZeroRow[128] = {};

// What one plane of a pair takes in and gives out.
struct Plane {
  int64_t index;   // among the call's planes
  int64_t sample;
  bool present;    // false: the last pair of an odd number of planes has one only, or this plane is not finite
  int64_t valid_domains;
  float scale;             // a power of two that brings the gradients near 1, so that the partner's rounding errors do not drown them
  float one_over_scale;
  float signal_weight;     // output = signal_weight * (unscaled inverse transform) + base + mean_weight * sum of valid + own_weight * own
  float mean_weight;
  float own_weight;
};

template <class Stored, int N>
struct Call {
  static constexpr int64_t kPixels = N * N;
  const SpectralParams& params;

  bool valid(int64_t domain, int64_t sample) const {
    return params.domain_valid == nullptr || params.domain_valid[domain * params.samples + sample];
  }
  const Stored* gradient(int64_t domain, const Plane& plane) const {
    return static_cast<const Stored*>(params.domain_grads) + (domain * params.planes() + plane.index) * kPixels;
  }
  Stored* at(void* planes, const Plane& plane) const { return static_cast<Stored*>(planes) + plane.index * kPixels; }
  const Stored* at(const void* planes, const Plane& plane) const {
    return static_cast<const Stored*>(planes) + plane.index * kPixels;
  }

  // A plane that is not finite is answered here, alone, so that its partner never meets it.
  Plane prepare(int64_t index) const {
    Plane plane = {};
    plane.index = index;
    plane.scale = plane.one_over_scale = 1;
    if (index >= params.planes()) return plane;
    plane.sample = index / params.channels;
    typename Bits<Stored>::Word largest = 0;
    for (int64_t domain = 0; domain < params.domains; ++domain) {
      if (!valid(domain, plane.sample)) continue;
      ++plane.valid_domains;
      const auto magnitude = largest_magnitude<Stored, N>(gradient(domain, plane));
      largest = magnitude > largest ? magnitude : largest;
    }
    if (largest >= Bits<Stored>::kInfinity) {
      fill_with_nan(plane);
      return plane;
    }
    plane.present = true;
    Stored value;
    __builtin_memcpy(&value, &largest, sizeof(value));
    const uint32_t exponent = bits_as<uint32_t>(load(value)) >> 23;
    if (exponent != 0) {
      const uint32_t kept = exponent < 27 ? 27 : exponent > 227 ? 227 : exponent;  // both factors stay normal numbers
      plane.scale = bits_as<float>((254 - kept) << 23);
      plane.one_over_scale = bits_as<float>(kept << 23);
    }
    const float one_over_valid = plane.valid_domains == 0 ? 0.0f : 1.0f / static_cast<float>(plane.valid_domains);
    float signal = 1;
    if (params.domain_index != nullptr) {
      const bool own = valid(params.domain_index[plane.sample], plane.sample);
      const float beta = own ? static_cast<float>(params.beta) : 0.0f;
      signal = static_cast<float>(params.alpha) - (params.weighted_deviation ? beta : 0.0f);
      plane.own_weight = beta;
      plane.mean_weight = ((params.base_grad == nullptr ? 1.0f : 0.0f) - (params.weighted_deviation ? 0.0f : beta)) * one_over_valid;
    }
    // 1/2 makes good for the spectra being twice too large (see `split`), 1/N^2 belongs to the inverse transform.
    plane.signal_weight = signal * one_over_valid * plane.one_over_scale * (0.5f / kPixels);
    return plane;
  }

  void fill_with_nan(const Plane& plane) const {
    const Stored nan = store<Stored>(__builtin_nanf(""));
    void* const outputs[] = {params.class_signal, params.update, params.images, params.momentum_buffer};
    for (void* output : outputs)
      if (output != nullptr)
        for (int64_t i = 0; i < kPixels; ++i) at(output, plane)[i] = nan;
    if (params.resultant_length != nullptr)
      for (int64_t i = 0; i < N * (N / 2 + 1); ++i) lengths(plane)[i] = nan;
  }
  Stored* lengths(const Plane& plane) const {
    return static_cast<Stored*>(params.resultant_length) + plane.index * (N * (N / 2 + 1));
  }
};

// ---- transforms of one complex plane or band -------------------------------------------------------------------------------------------

template <class Stored, int N>
struct Tile {
  static constexpr int kRadix = N / kLanes;          // R above; also the number of vectors in a row
  static constexpr int kBand = kLanes * kRadix;      // complex vectors of a band
  static constexpr int64_t kPlane = kRadix * kBand;  // complex vectors of a plane

  static DGDD_INLINE Vec root_re(int k) { return load_lanes(kTwiddles<N>.re[k]); }
  static DGDD_INLINE Vec root_im(int k) { return load_lanes(kTwiddles<N>.im[k]); }

  struct Source {
    const Stored* values;
    int64_t pitch;  // from row to row
    Vec scale;
  };

  static void forward_into_bands(Source first, Source second, Complex* z) {
    for (int b = 0; b < kLanes; ++b)
      for (int strip = 0; strip < kRadix; ++strip) {
        Complex v[kRadix];
        for (int a = 0; a < kRadix; ++a) {
          v[a].re = load_lanes(first.values + (kLanes * a + b) * first.pitch + strip * kLanes) * first.scale;
          v[a].im = load_lanes(second.values + (kLanes * a + b) * second.pitch + strip * kLanes) * second.scale;
        }
        transform<kRadix>(v);
        z[b * kRadix + strip] = v[0];
        for (int c = 1; c < kRadix; ++c)
          z[(kLanes * c + b) * kRadix + strip] =
              times(v[c], broadcast(kTwiddles<N>.re[c][b]), broadcast(kTwiddles<N>.im[c][b]));
      }
  }

  static void forward_band(Complex* band) {
    for (int strip = 0; strip < kRadix; ++strip) {
      Complex v[kLanes];
      for (int b = 0; b < kLanes; ++b) v[b] = band[b * kRadix + strip];
      transform<kLanes>(v);
      for (int d = 0; d < kLanes; ++d) band[d * kRadix + strip] = v[d];
    }
    for (int d = 0; d < kLanes; ++d) {
      Complex* row = band + d * kRadix;
      Complex v[kRadix];
      for (int strip = 0; strip < kRadix; ++strip) v[strip] = row[strip];
      transform<kRadix>(v);
      row[0] = v[0];
      for (int k = 1; k < kRadix; ++k) row[k] = times(v[k], root_re(k), root_im(k));
    }
    for (int k = 0; k < kRadix; ++k) {
      float* block = reinterpret_cast<float*>(band + k);
      Complex v[kLanes];
      load_transposed<2>(block, kRowPitch, &v[0].re);
      load_transposed<2>(block + kLanes, kRowPitch, &v[0].im);
      transform<kLanes>(v);
      for (int j = 0; j < kLanes; ++j) band[j * kRadix + k] = v[j];
    }
  }

  static void inverse_band(Complex* band) {
    for (int k = 0; k < kRadix; ++k) {
      float* block = reinterpret_cast<float*>(band + k);
      Complex v[kLanes];
      for (int j = 0; j < kLanes; ++j) v[j] = band[j * kRadix + k];
      inverse_transform<kLanes>(v);
      store_transposed<2>(block, kRowPitch, &v[0].re);
      store_transposed<2>(block + kLanes, kRowPitch, &v[0].im);
    }
    for (int d = 0; d < kLanes; ++d) {
      Complex* row = band + d * kRadix;
      Complex v[kRadix];
      v[0] = row[0];
      for (int k = 1; k < kRadix; ++k) v[k] = times_conjugate(row[k], root_re(k), root_im(k));
      inverse_transform<kRadix>(v);
      for (int strip = 0; strip < kRadix; ++strip) row[strip] = v[strip];
    }
    for (int strip = 0; strip < kRadix; ++strip) {
      Complex v[kLanes];
      for (int d = 0; d < kLanes; ++d) v[d] = band[d * kRadix + strip];
      inverse_transform<kLanes>(v);
      for (int b = 0; b < kLanes; ++b) band[b * kRadix + strip] = v[b];
    }
  }

  // Gives the values of rows b, b + L, b + 2 L, ... of a strip to `sink`, which knows what the output is.
  template <class Sink>
  static DGDD_INLINE void inverse_from_bands(const Complex* z, const Sink& sink) {
    for (int b = 0; b < kLanes; ++b)
      for (int strip = 0; strip < kRadix; ++strip) {
        Complex v[kRadix];
        v[0] = z[b * kRadix + strip];
        for (int c = 1; c < kRadix; ++c)
          v[c] = times_conjugate(z[(kLanes * c + b) * kRadix + strip], broadcast(kTwiddles<N>.re[c][b]),
                                 broadcast(kTwiddles<N>.im[c][b]));
        inverse_transform<kRadix>(v);
        sink(v, b * N + strip * kLanes);
      }
  }

  static constexpr int64_t kRowPitch = 2 * N;  // floats from row to row of z
};

// ---- consensus over the domains ----------------------------------------------------------------------------------------------------------

// The sums over domains at a vector of bins and at its mirror image.
struct Sums {
  Complex z;           // of the packed spectra
  Complex mirrored;    // the same at the bins of -frequency
  Vec magnitudes[2];   // of twice |G|, for each of the two planes
};

// Twice the spectra of the two planes packed in z, from z at a bin and at its mirror image.
DGDD_INLINE void split(Complex z, Complex mirrored, Complex (&spectra)[2]) {
  spectra[0] = {z.re + mirrored.re, z.im - mirrored.im};
  spectra[1] = {z.im + mirrored.im, mirrored.re - z.re};
}

DGDD_INLINE Vec magnitude(Complex a) { return square_root(a.re * a.re + a.im * a.im); }

template <bool zero_band>
DGDD_INLINE Complex mirror_lanes(Complex a) {
  if constexpr (zero_band)
    return {negated_index(a.re), negated_index(a.im)};
  else
    return {reversed(a.re), reversed(a.im)};
}

template <class Stored, int N>
struct Consensus {
  using T = Tile<Stored, N>;
  static constexpr int kRadix = T::kRadix;

  const Call<Stored, N>& call;
  const Plane (&planes)[2];
  Complex* spectra;   // of the group's domains, T::kPlane apart; the result takes the place of the first
  int group;          // domains in it
  bool first_group;
  bool last_group;
  Sums* carried;      // between groups; null when there is one only
  float eps[2];       // in the scale of twice the scaled spectra

  static int64_t sums_per_plane() { return kRadix * T::kBand / 2 + 2; }

  // For a band and its mirror band; `sums` walks through `carried` in the order of the calls.
  template <bool zero_band>
  void band_pair(int c, Sums*& sums) const {
    const int mirrored_c = (kRadix - c) % kRadix;
    const bool itself = mirrored_c == c;
    for (int k = 0; k <= (itself ? kRadix / 2 : kRadix - 1); ++k) {
      const int mirrored_k = (kRadix - k) % kRadix;
      const int last_j = itself && k == 0 ? kLanes / 2 : itself && 2 * k == kRadix ? kLanes / 2 - 1 : kLanes - 1;
      for (int j = 0; j <= last_j; ++j) {
        const int mirrored_j = k == 0 ? (kLanes - j) % kLanes : kLanes - 1 - j;
        const int at = c * T::kBand + j * kRadix + k;
        const int mirrored_at = mirrored_c * T::kBand + mirrored_j * kRadix + mirrored_k;
        Sums sum;
        if (first_group)
          sum = Sums{{broadcast(0), broadcast(0)}, {broadcast(0), broadcast(0)}, {broadcast(0), broadcast(0)}};
        else
          sum = *sums;
        for (int domain = 0; domain < group; ++domain) {
          const Complex z = spectra[domain * T::kPlane + at];
          const Complex mirrored = mirror_lanes<zero_band>(spectra[domain * T::kPlane + mirrored_at]);
          Complex both[2];
          split(z, mirrored, both);
          sum.z = {sum.z.re + z.re, sum.z.im + z.im};
          sum.mirrored = {sum.mirrored.re + mirrored.re, sum.mirrored.im + mirrored.im};
          sum.magnitudes[0] = sum.magnitudes[0] + magnitude(both[0]);
          sum.magnitudes[1] = sum.magnitudes[1] + magnitude(both[1]);
        }
        if (!last_group) {
          *sums++ = sum;
          continue;
        }
        ++sums;
        weigh<zero_band>(sum, spectra[at], spectra[mirrored_at], c, k + kRadix * j);
      }
    }
  }

  // SGS, Eq. 9 and 10: the sum's spectra times the resultant length, packed again.
  template <bool zero_band>
  DGDD_INLINE void weigh(const Sums& sum, Complex& z, Complex& mirrored, int row_frequency, int column_frequency) const {
    Complex both[2];
    split(sum.z, sum.mirrored, both);
    for (int i = 0; i < 2; ++i) {
      const Vec denominator = maximum(sum.magnitudes[i] + broadcast(eps[i]), broadcast(kSmallest));
      const Vec length = minimum(magnitude(both[i]) / denominator, broadcast(1));
      both[i] = {both[i].re * length, both[i].im * length};
      if (call.params.resultant_length != nullptr && planes[i].present)
        write_lengths<zero_band>(planes[i], length, row_frequency, column_frequency);
    }
    z = {both[0].re - both[1].im, both[0].im + both[1].re};
    mirrored = mirror_lanes<zero_band>({both[0].re + both[1].im, both[1].re - both[0].im});
  }

  template <bool zero_band>
  void write_lengths(const Plane& plane, Vec length, int row_frequency, int column_frequency) const {
    Stored lanes[kLanes];
    store_lanes(lanes, length);
    Stored* output = call.lengths(plane);
    for (int lane = 0; lane < kLanes; ++lane) {
      const int row = row_frequency + kRadix * lane;
      const int mirrored_row = (N - row) % N;
      const int mirrored_column = (N - column_frequency) % N;
      if (2 * column_frequency <= N) output[row * (N / 2 + 1) + column_frequency] = lanes[lane];
      if (2 * mirrored_column <= N) output[mirrored_row * (N / 2 + 1) + mirrored_column] = lanes[lane];
    }
  }

  void run() const {
    Sums* sums = carried;
    for (int c = 0; 2 * c <= kRadix; ++c) {
      const int mirrored_c = (kRadix - c) % kRadix;
      for (int domain = 0; domain < group; ++domain) {
        T::forward_band(spectra + domain * T::kPlane + c * T::kBand);
        if (mirrored_c != c) T::forward_band(spectra + domain * T::kPlane + mirrored_c * T::kBand);
      }
      if (c == 0)
        band_pair<true>(c, sums);
      else
        band_pair<false>(c, sums);
      if (!last_group) continue;
      T::inverse_band(spectra + c * T::kBand);
      if (mirrored_c != c) T::inverse_band(spectra + mirrored_c * T::kBand);
    }
  }
};

// ---- output ------------------------------------------------------------------------------------------------------------------------------

template <class Stored, int N>
struct Output {
  static constexpr int kRadix = N / kLanes;
  const Call<Stored, N>& call;
  const Plane (&planes)[2];

  DGDD_INLINE void add(Vec (&sum)[kRadix], float weight, const Stored* values, int at) const {
    const Vec factor = broadcast(weight);
    for (int a = 0; a < kRadix; ++a) sum[a] = sum[a] + factor * load_lanes(values + at + a * kLanes * N);
  }

  DGDD_INLINE void write(const Plane& plane, Vec (&sum)[kRadix], int at) const {
    const SpectralParams& params = call.params;
    for (int a = 0; a < kRadix; ++a) sum[a] = sum[a] * broadcast(plane.signal_weight);
    if (params.base_grad != nullptr) add(sum, 1, call.at(params.base_grad, plane), at);
    if (plane.mean_weight != 0)
      for (int64_t domain = 0; domain < params.domains; ++domain)
        if (call.valid(domain, plane.sample)) add(sum, plane.mean_weight, call.gradient(domain, plane), at);
    if (plane.own_weight != 0) add(sum, plane.own_weight, call.gradient(params.domain_index[plane.sample], plane), at);

    if (params.images == nullptr) {
      Stored* output = call.at(params.update != nullptr ? params.update : params.class_signal, plane) + at;
      for (int a = 0; a < kRadix; ++a) store_lanes(output + a * kLanes * N, sum[a]);
      return;
    }
    const Vec momentum = broadcast(static_cast<float>(params.momentum));
    const Vec learning_rate = broadcast(static_cast<float>(params.learning_rate));
    Stored* buffer = call.at(params.momentum_buffer, plane) + at;
    Stored* images = call.at(params.images, plane) + at;
    for (int a = 0; a < kRadix; ++a) {
      const int row = a * kLanes * N;
      const Vec velocity = momentum * load_lanes(buffer + row) + sum[a];
      store_lanes(buffer + row, velocity);
      store_lanes(images + row, load_lanes(images + row) - learning_rate * velocity);
    }
  }

  DGDD_INLINE void operator()(const Complex* v, int at) const {
    Vec sum[kRadix];
    if (planes[0].present) {
      for (int a = 0; a < kRadix; ++a) sum[a] = v[a].re;
      write(planes[0], sum, at);
    }
    if (planes[1].present) {
      for (int a = 0; a < kRadix; ++a) sum[a] = v[a].im;
      write(planes[1], sum, at);
    }
  }
};

// ---- one pair of planes ------------------------------------------------------------------------------------------------------------------

template <class Stored, int N>
void run_pair(const SpectralParams& params, int64_t pair, float* scratch) {
  using T = Tile<Stored, N>;
  const Call<Stored, N> call = {params};
  const Plane planes[2] = {call.prepare(2 * pair), call.prepare(2 * pair + 1)};
  if (!planes[0].present && !planes[1].present) return;

  const int64_t groups_of = fused_cpu_group(N, params.domains);
  const bool one_group = groups_of >= params.domains;
  Complex* spectra = reinterpret_cast<Complex*>(scratch);
  Sums* carried = one_group ? nullptr : reinterpret_cast<Sums*>(spectra + groups_of * T::kPlane);
  for (int64_t begin = 0; begin < params.domains; begin += groups_of) {
    const int64_t end = begin + groups_of < params.domains ? begin + groups_of : params.domains;
    for (int64_t domain = begin; domain < end; ++domain) {
      typename T::Source sources[2];
      for (int i = 0; i < 2; ++i) {
        const bool used = planes[i].present && call.valid(domain, planes[i].sample);
        sources[i] = used ? typename T::Source{call.gradient(domain, planes[i]), N, broadcast(planes[i].scale)}
                          : typename T::Source{reinterpret_cast<const Stored*>(kZeroRow), 0, broadcast(0)};
      }
      T::forward_into_bands(sources[0], sources[1], spectra + (domain - begin) * T::kPlane);
    }
    const float eps = static_cast<float>(params.eps);
    Consensus<Stored, N>{call,       planes,  spectra, static_cast<int>(end - begin), begin == 0, end == params.domains,
                         carried, {2 * planes[0].scale * eps, 2 * planes[1].scale * eps}}
        .run();
  }
  T::inverse_from_bands(spectra, Output<Stored, N>{call, planes});
}

template <class Stored, int N>
void run_pairs(const SpectralParams& params, int64_t begin, int64_t end, float* scratch) {
  for (int64_t pair = begin; pair < end; ++pair) run_pair<Stored, N>(params, pair, scratch);
}

template <class Stored>
void run_size(const SpectralParams& params, int64_t begin, int64_t end, float* scratch) {
  if (params.height == 32) return run_pairs<Stored, 32>(params, begin, end, scratch);
  if (params.height == 64) return run_pairs<Stored, 64>(params, begin, end, scratch);
  return run_pairs<Stored, 128>(params, begin, end, scratch);
}

void run(const SpectralParams& params, int64_t begin, int64_t end, float* scratch) {
  if (params.storage == Storage::bfloat16) return run_size<BFloat16>(params, begin, end, scratch);
  if (params.storage == Storage::float16) return run_size<Float16>(params, begin, end, scratch);
  return run_size<float>(params, begin, end, scratch);
}

}  // namespace

extern const FusedKernel fused_kernel = &run;

}  // namespace dgdd::spectral::DGDD_ISA
