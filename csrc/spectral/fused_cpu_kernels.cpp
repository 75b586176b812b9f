// The fused CPU tier's kernels, compiled once per instruction set with DGDD_ISA naming it. Two planes of one
// domain travel as the real and the imaginary part of one complex plane z, N x N, and everything between the
// gradients and the output happens in cache.
//
// Let L = kLanes and R = N / L. A transform of length N takes two steps: over a in index = L a + b (length R,
// then twiddles), and over b (length L). Frequency c + R d results from c of the first and d of the second.
// Nothing is put back into natural order:
//
// - Down the columns, the first step leaves (c, b) in row L c + b of z. The L rows of one c are a "band". The
//   second step stays in the band and leaves row frequency c + R d in row L c + d.
// - Along the rows, b are the lanes of the vectors. The first step needs no shuffle; the second transposes
//   blocks of L x L in registers. From then on vector k of the band's row j holds column frequency k + R j,
//   and its lane d row frequency c + R d.
//
// So the bins of -frequency lie in the band of -c modulo R, in the mirrored vector, with lanes reversed (in
// band 0: lane d goes to -d modulo L). Pairs of bands go through all domains' transforms, the consensus and
// the way back while they stay in the first-level cache.
#include "spectral/fused_cpu.h"
#include "spectral/fused_fft.h"

namespace dgdd::spectral::DGDD_ISA {
namespace {

// -------- one plane of the call

// Magnitudes of floats compare like their bits; every float that is not finite has the largest ones.
template <class Stored>
struct Bits;
template <>
struct Bits<float> {
  typedef uint32_t Word __attribute__((may_alias));
  static constexpr Word kMagnitude = 0x7fffffffu, kInfinity = 0x7f800000u;
};
template <>
struct Bits<BFloat16> {
  typedef uint16_t Word __attribute__((may_alias));
  static constexpr Word kMagnitude = 0x7fffu, kInfinity = 0x7f80u;
};
template <>
struct Bits<Float16> {
  typedef uint16_t Word __attribute__((may_alias));
  static constexpr Word kMagnitude = 0x7fffu, kInfinity = 0x7c00u;
};

template <class Stored, int N>
typename Bits<Stored>::Word largest_magnitude(const Stored* values) {
  const auto* words = reinterpret_cast<const typename Bits<Stored>::Word*>(values);
  typename Bits<Stored>::Word largest = 0;
  for (int i = 0; i < N * N; ++i) {
    const typename Bits<Stored>::Word magnitude = words[i] & Bits<Stored>::kMagnitude;
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

// Stands in for a plane that is missing or left out. Never written.
alignas(64) float zero_plane[128 * 128];

// Stands for every larger eps: still finite, and far beyond the sums of magnitudes that it is added to.
constexpr double kLargestEps = 1e37;

// What is added to the class signal: a weight times a plane of the call.
template <class Stored>
struct Term {
  const Stored* values;
  float weight;
};

// What one plane of a pair takes in and gives out.
struct Plane {
  int64_t index;  // among the call's planes
  int64_t sample;
  bool present;  // false: the last pair of an odd number of planes has one only, or this plane is not finite
  int64_t valid_domains;
  float scale;  // a power of two that brings the gradients near 1: the partner's rounding must not drown them
  float one_over_scale;
  float signal_weight;  // of the unscaled inverse transform in the output
  float mean_weight;    // of each valid domain's gradients in the output
  float own_weight;     // of the assigned domain's gradients besides
};

template <class Stored, int N>
struct Call {
  static constexpr int64_t kPixels = N * N;
  const SpectralParams& params;

  bool valid(int64_t domain, int64_t sample) const {
    return params.domain_valid == nullptr || params.domain_valid[domain * params.samples + sample];
  }
  const Stored* gradient(int64_t domain, const Plane& plane) const {
    return static_cast<const Stored*>(params.domain_grads) +
           (domain * params.planes() + plane.index) * kPixels;
  }
  Stored* at(void* planes, const Plane& plane) const {
    return static_cast<Stored*>(planes) + plane.index * kPixels;
  }
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
      // Both factors stay normal numbers.
      const uint32_t kept = exponent < 27 ? 27 : exponent > 227 ? 227 : exponent;
      plane.scale = bits_as<float>((254 - kept) << 23);
      plane.one_over_scale = bits_as<float>(kept << 23);
    }
    const float one_over_valid =
        plane.valid_domains == 0 ? 0.0f : 1.0f / static_cast<float>(plane.valid_domains);
    float signal = 1;
    if (params.domain_index != nullptr) {
      const bool own = valid(params.domain_index[plane.sample], plane.sample);
      const float beta = own ? static_cast<float>(params.beta) : 0.0f;
      signal = static_cast<float>(params.alpha) - (params.weighted_deviation ? beta : 0.0f);
      plane.own_weight = beta;
      plane.mean_weight =
          ((params.base_grad == nullptr ? 1.0f : 0.0f) - (params.weighted_deviation ? 0.0f : beta)) *
          one_over_valid;
    }
    // 1/2 makes good for the spectra being twice too large (see `split`), 1/N^2 belongs to the inverse
    // transform.
    plane.signal_weight = signal * one_over_valid * plane.one_over_scale * (0.5f / kPixels);
    return plane;
  }

  // In the scale of twice the scaled spectra.
  float scaled_eps(const Plane& plane) const {
    const double eps = 2 * static_cast<double>(plane.scale) * params.eps;
    return static_cast<float>(eps < kLargestEps ? eps : kLargestEps);
  }

  // The terms of the output besides the class signal; returns their number, at most D + 1.
  int64_t list_terms(const Plane& plane, Term<Stored>* terms) const {
    int64_t count = 0;
    if (!plane.present) return count;
    if (params.base_grad != nullptr) terms[count++] = {at(params.base_grad, plane), 1};
    for (int64_t domain = 0; domain < params.domains; ++domain) {
      if (!valid(domain, plane.sample)) continue;
      const bool own = params.domain_index != nullptr && domain == params.domain_index[plane.sample];
      const float weight = plane.mean_weight + (own ? plane.own_weight : 0.0f);
      if (weight != 0) terms[count++] = {gradient(domain, plane), weight};
    }
    return count;
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

// -------- transforms of one complex plane or band

template <class Stored, int N>
struct Tile {
  static constexpr int kRadix = N / kLanes;  // R above; also the number of vectors in a row
  // In complex vectors. From row to row one more than needed: rows a power of two apart would meet in the
  // same few places of the cache.
  static constexpr int kPitch = kRadix + 1;
  static constexpr int kBand = kLanes * kPitch;
  static constexpr int64_t kPlane = kRadix * kBand;

  static DGDD_INLINE Vec root_re(int k) { return load_lanes(kTwiddles<N>.re[k]); }
  static DGDD_INLINE Vec root_im(int k) { return load_lanes(kTwiddles<N>.im[k]); }

  struct Source {
    const Stored* values;
    Vec scale;
  };

  // The rows b, b + L, b + 2 L, ... are copied first, each as a whole: they lie a power of two apart, so that
  // going down them strip by strip would throw every cache line out before its second half is needed.
  static void forward_into_bands(Source first, Source second, Complex* z) {
    alignas(64) Complex rows[kRadix][kRadix];
    for (int b = 0; b < kLanes; ++b) {
      for (int a = 0; a < kRadix; ++a) {
        const int row = (kLanes * a + b) * N;
        for (int strip = 0; strip < kRadix; ++strip)
          rows[a][strip] = {load_lanes(first.values + row + strip * kLanes) * first.scale,
                            load_lanes(second.values + row + strip * kLanes) * second.scale};
      }
      for (int strip = 0; strip < kRadix; ++strip) {
        Complex v[kRadix];
        for (int a = 0; a < kRadix; ++a) v[a] = rows[a][strip];
        transform<kRadix>(v);
        z[b * kPitch + strip] = v[0];
        for (int c = 1; c < kRadix; ++c)
          z[c * kBand + b * kPitch + strip] =
              times(v[c], broadcast(kTwiddles<N>.re[c][b]), broadcast(kTwiddles<N>.im[c][b]));
      }
    }
  }

  static void forward_band(Complex* band) {
    for (int strip = 0; strip < kRadix; ++strip) {
      Complex v[kLanes];
      for (int b = 0; b < kLanes; ++b) v[b] = band[b * kPitch + strip];
      transform<kLanes>(v);
      for (int d = 0; d < kLanes; ++d) band[d * kPitch + strip] = v[d];
    }
    for (int d = 0; d < kLanes; ++d) {
      Complex* row = band + d * kPitch;
      Complex v[kRadix];
      for (int strip = 0; strip < kRadix; ++strip) v[strip] = row[strip];
      transform<kRadix>(v);
      row[0] = v[0];
      for (int k = 1; k < kRadix; ++k) row[k] = times(v[k], root_re(k), root_im(k));
    }
    for (int k = 0; k < kRadix; ++k) {
      float* block = reinterpret_cast<float*>(band + k);
      Complex v[kLanes];
      load_transposed<&Complex::re>(block, kRowFloats, v);
      load_transposed<&Complex::im>(block + kLanes, kRowFloats, v);
      transform<kLanes>(v);
      for (int j = 0; j < kLanes; ++j) band[j * kPitch + k] = v[j];
    }
  }

  static void inverse_band(Complex* band) {
    for (int k = 0; k < kRadix; ++k) {
      float* block = reinterpret_cast<float*>(band + k);
      Complex v[kLanes];
      for (int j = 0; j < kLanes; ++j) v[j] = band[j * kPitch + k];
      inverse_transform<kLanes>(v);
      store_transposed<&Complex::re>(block, kRowFloats, v);
      store_transposed<&Complex::im>(block + kLanes, kRowFloats, v);
    }
    for (int d = 0; d < kLanes; ++d) {
      Complex* row = band + d * kPitch;
      Complex v[kRadix];
      v[0] = row[0];
      for (int k = 1; k < kRadix; ++k) v[k] = times_conjugate(row[k], root_re(k), root_im(k));
      inverse_transform<kRadix>(v);
      for (int strip = 0; strip < kRadix; ++strip) row[strip] = v[strip];
    }
    for (int strip = 0; strip < kRadix; ++strip) {
      Complex v[kLanes];
      for (int d = 0; d < kLanes; ++d) v[d] = band[d * kPitch + strip];
      inverse_transform<kLanes>(v);
      for (int b = 0; b < kLanes; ++b) band[b * kPitch + strip] = v[b];
    }
  }

  // Gives the rows y of the two planes to `sink(y, row)` as complex vectors, in the order b, b + L, b + 2 L,
  // ... for each b.
  template <class Sink>
  static void inverse_from_bands(const Complex* z, const Sink& sink) {
    alignas(64) Complex rows[kRadix][kRadix];
    for (int b = 0; b < kLanes; ++b) {
      for (int strip = 0; strip < kRadix; ++strip) {
        Complex v[kRadix];
        v[0] = z[b * kPitch + strip];
        for (int c = 1; c < kRadix; ++c)
          v[c] = times_conjugate(z[c * kBand + b * kPitch + strip], broadcast(kTwiddles<N>.re[c][b]),
                                 broadcast(kTwiddles<N>.im[c][b]));
        inverse_transform<kRadix>(v);
        for (int a = 0; a < kRadix; ++a) rows[a][strip] = v[a];
      }
      for (int a = 0; a < kRadix; ++a) sink(kLanes * a + b, rows[a]);
    }
  }

  static constexpr int64_t kRowFloats = kPitch * 2 * kLanes;  // floats from row to row
};

// -------- consensus over the domains

// The sums over domains at a vector of bins, for the two planes. Spectra and magnitudes are twice too large
// (see `split`).
struct Sums {
  Complex spectra[2];
  Vec magnitudes[2];
};

// Twice the spectra of the two planes packed in z, from z at a bin and at its mirror image.
DGDD_INLINE void split(Complex z, Complex mirrored, Complex& first, Complex& second) {
  first = {z.re + mirrored.re, z.im - mirrored.im};
  second = {z.im + mirrored.im, mirrored.re - z.re};
}

DGDD_INLINE Vec power(Complex a) { return a.re * a.re + a.im * a.im; }

// SGS, Eq. 9. Never above 1, not even by rounding.
DGDD_INLINE Vec resultant_length(Complex sum, Vec magnitudes, float eps) {
  const Vec denominator = maximum(magnitudes + broadcast(eps), broadcast(kSmallest));
  return minimum(quotient(square_root(power(sum)), denominator), broadcast(1));
}

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
  Complex* spectra;  // of the group's domains, T::kPlane apart; the result takes the place of the first
  int group;         // domains in it
  bool first_group;
  bool last_group;
  Sums* carried;  // between groups; null when there is one only
  float eps[2];   // in the scale of the sums

  // For a band and its mirror band; `sums` walks through `carried` in the order of the calls.
  template <bool zero_band, bool carry>
  void band_pair(int c, Sums*& sums) const {
    const int mirrored_c = (kRadix - c) % kRadix;
    const bool itself = mirrored_c == c;
    for (int k = 0; k <= (itself ? kRadix / 2 : kRadix - 1); ++k) {
      const int mirrored_k = (kRadix - k) % kRadix;
      const int last_j = itself && k == 0            ? kLanes / 2
                         : itself && 2 * k == kRadix ? kLanes / 2 - 1
                                                     : kLanes - 1;
      for (int j = 0; j <= last_j; ++j) {
        const int mirrored_j = k == 0 ? (kLanes - j) % kLanes : kLanes - 1 - j;
        Complex* at = spectra + c * T::kBand + j * T::kPitch + k;
        Complex* mirrored_at = spectra + mirrored_c * T::kBand + mirrored_j * T::kPitch + mirrored_k;
        Complex first = {broadcast(0), broadcast(0)}, second = first;
        Vec first_magnitudes = broadcast(0), second_magnitudes = broadcast(0);
        if (carry && !first_group) {
          first = sums->spectra[0];
          second = sums->spectra[1];
          first_magnitudes = sums->magnitudes[0];
          second_magnitudes = sums->magnitudes[1];
        }
        for (int domain = 0; domain < group; ++domain) {
          Complex one, other;
          split(at[domain * T::kPlane], mirror_lanes<zero_band>(mirrored_at[domain * T::kPlane]), one, other);
          first = {first.re + one.re, first.im + one.im};
          second = {second.re + other.re, second.im + other.im};
          first_magnitudes = first_magnitudes + square_root(power(one));
          second_magnitudes = second_magnitudes + square_root(power(other));
        }
        if (carry && !last_group) {
          *sums++ = {{first, second}, {first_magnitudes, second_magnitudes}};
          continue;
        }
        if (carry) ++sums;
        // SGS, Eq. 10: the sums times the resultant lengths, packed again.
        const Vec length = resultant_length(first, first_magnitudes, eps[0]);
        const Vec other_length = resultant_length(second, second_magnitudes, eps[1]);
        first = {first.re * length, first.im * length};
        second = {second.re * other_length, second.im * other_length};
        *at = {first.re - second.im, first.im + second.re};
        *mirrored_at = mirror_lanes<zero_band>({first.re + second.im, second.re - first.im});
        if (call.params.resultant_length != nullptr) {
          if (planes[0].present) write_lengths(planes[0], length, c, k + kRadix * j);
          if (planes[1].present) write_lengths(planes[1], other_length, c, k + kRadix * j);
        }
      }
    }
  }

  // Of the bins in one vector and of their mirror images, those that belong to the half spectrum.
  void __attribute__((noinline)) write_lengths(const Plane& plane, Vec length, int row_frequency,
                                               int column_frequency) const {
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

  template <bool carry>
  void run() const {
    Sums* sums = carried;
    for (int c = 0; 2 * c <= kRadix; ++c) {
      const int mirrored_c = (kRadix - c) % kRadix;
      for (int domain = 0; domain < group; ++domain) {
        T::forward_band(spectra + domain * T::kPlane + c * T::kBand);
        if (mirrored_c != c) T::forward_band(spectra + domain * T::kPlane + mirrored_c * T::kBand);
      }
      if (c == 0)
        band_pair<true, carry>(c, sums);
      else
        band_pair<false, carry>(c, sums);
      if (!last_group) continue;
      T::inverse_band(spectra + c * T::kBand);
      if (mirrored_c != c) T::inverse_band(spectra + mirrored_c * T::kBand);
    }
  }
};

// -------- output

template <class Stored, int N>
struct Output {
  static constexpr int kRadix = N / kLanes;
  const Call<Stored, N>& call;
  const Plane (&planes)[2];
  const Term<Stored>* terms[2];
  int64_t term_counts[2];

  DGDD_INLINE void write(int i, Vec (&sum)[kRadix], int y) const {
    const SpectralParams& params = call.params;
    const Plane& plane = planes[i];
    const int row = y * N;
    for (int strip = 0; strip < kRadix; ++strip) sum[strip] = sum[strip] * broadcast(plane.signal_weight);
    for (const Term<Stored>* term = terms[i]; term < terms[i] + term_counts[i]; ++term) {
      const Stored* values = term->values + row;
      const Vec weight = broadcast(term->weight);
      for (int strip = 0; strip < kRadix; ++strip)
        sum[strip] = sum[strip] + weight * load_lanes(values + strip * kLanes);
    }

    if (params.images == nullptr) {
      Stored* output = call.at(params.update != nullptr ? params.update : params.class_signal, plane) + row;
      for (int strip = 0; strip < kRadix; ++strip) store_lanes(output + strip * kLanes, sum[strip]);
      return;
    }
    const Vec momentum = broadcast(static_cast<float>(params.momentum));
    const Vec learning_rate = broadcast(static_cast<float>(params.learning_rate));
    Stored* buffer = call.at(params.momentum_buffer, plane) + row;
    Stored* images = call.at(params.images, plane) + row;
    for (int strip = 0; strip < kRadix; ++strip) {
      const int at = strip * kLanes;
      const Vec velocity = momentum * load_lanes(buffer + at) + sum[strip];
      store_lanes(buffer + at, velocity);
      store_lanes(images + at, load_lanes(images + at) - learning_rate * velocity);
    }
  }

  DGDD_INLINE void operator()(int y, const Complex* row) const {
    Vec sum[kRadix];
    if (planes[0].present) {
      for (int strip = 0; strip < kRadix; ++strip) sum[strip] = row[strip].re;
      write(0, sum, y);
    }
    if (planes[1].present) {
      for (int strip = 0; strip < kRadix; ++strip) sum[strip] = row[strip].im;
      write(1, sum, y);
    }
  }
};

// -------- one pair of planes

template <class Stored, int N>
void run_pair(const SpectralParams& params, int64_t pair, float* scratch) {
  using T = Tile<Stored, N>;
  const Call<Stored, N> call = {params};
  const Plane planes[2] = {call.prepare(2 * pair), call.prepare(2 * pair + 1)};
  if (!planes[0].present && !planes[1].present) return;

  const int64_t groups_of = fused_cpu_group(N, params.domains);
  const bool one_group = groups_of >= params.domains;
  Complex* spectra = reinterpret_cast<Complex*>(scratch + fused_cpu_term_floats(params.domains));
  Sums* carried = one_group ? nullptr : reinterpret_cast<Sums*>(spectra + groups_of * T::kPlane);
  for (int64_t begin = 0; begin < params.domains; begin += groups_of) {
    const int64_t end = begin + groups_of < params.domains ? begin + groups_of : params.domains;
    for (int64_t domain = begin; domain < end; ++domain) {
      typename T::Source sources[2];
      for (int i = 0; i < 2; ++i) {
        const bool used = planes[i].present && call.valid(domain, planes[i].sample);
        sources[i] = used ? typename T::Source{call.gradient(domain, planes[i]), broadcast(planes[i].scale)}
                          : typename T::Source{reinterpret_cast<const Stored*>(zero_plane), broadcast(0)};
      }
      T::forward_into_bands(sources[0], sources[1], spectra + (domain - begin) * T::kPlane);
    }
    const Consensus<Stored, N> consensus = {
        call,       planes,
        spectra,    static_cast<int>(end - begin),
        begin == 0, end == params.domains,
        carried,    {call.scaled_eps(planes[0]), call.scaled_eps(planes[1])}};
    if (carried == nullptr)
      consensus.template run<false>();
    else
      consensus.template run<true>();
  }
  Term<Stored>* terms = reinterpret_cast<Term<Stored>*>(scratch);
  Term<Stored>* other_terms = terms + params.domains + 1;
  T::inverse_from_bands(spectra, Output<Stored, N>{call,
                                                   planes,
                                                   {terms, other_terms},
                                                   {call.list_terms(planes[0], terms),
                                                    call.list_terms(planes[1], other_terms)}});
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
