// The masking kernels against sums in float64 and keys in long double, in every storage and layout, and
// against the machine: no race, nothing out of bounds, no bank conflict, and no barrier that could be left
// out.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <tuple>
#include <vector>

#include "masking/kernels.cuh"
#include "tests/check.h"

namespace dgdd::tests {
namespace {

using masking::CudaCall;
using masking::MaskingParams;

const DeviceFacts kLarge = {132, 227 * 1024, 50 << 20};
const DeviceFacts kNoRoom = {1, 24 * 1024, 1 << 30};  // nearly nothing stays on the chip

template <class Stored>
constexpr Storage storage_of() {
  if (std::is_same_v<Stored, double>) return Storage::float64;
  if (std::is_same_v<Stored, float>) return Storage::float32;
  return std::is_same_v<Stored, BFloat16> ? Storage::bfloat16 : Storage::float16;
}

// One call with vectors of exactly its size, so that the sanitised build sees every access beyond them.
template <class Stored>
struct Case {
  using Real = RealOf<Stored>;

  int samples = 3;
  int channels = 24;
  int positions = 16;
  int domains = 2;
  bool channels_last = false;
  bool per_pixel = false;
  bool normalize = true;
  int num_masked = 8;
  double scale = 1.5;
  int gap = 0;  // elements between rows

  std::vector<Stored> features, weight, scores, mask, masked;
  std::vector<float> uniforms;
  std::vector<Real> lowest, highest;
  std::vector<int64_t> domain_index, keys;

  int row() const { return channels_last ? channels : positions; }
  int rows() const { return channels_last ? positions : channels; }
  size_t at(int sample, int channel, int position) const {
    const int row_at = channels_last ? position : channel;
    return static_cast<size_t>((sample * rows() + row_at) * (row() + gap) +
                               (channels_last ? channel : position));
  }
  size_t masked_at(int sample, int channel, int position) const {
    const int row_at = channels_last ? position : channel;
    return static_cast<size_t>((sample * rows() + row_at) * row() + (channels_last ? channel : position));
  }
  size_t cell(int sample, int channel) const { return static_cast<size_t>(sample * channels + channel); }

  void draw(unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    std::uniform_real_distribution<double> uniform;
    const auto fill = [&](auto& values, size_t size, auto next) {
      values.resize(size);
      for (auto& value : values) value = next();
    };
    const auto stored = [&] { return store<Stored>(static_cast<Real>(normal(random))); };
    fill(features, static_cast<size_t>(samples * rows() * (row() + gap) - gap), stored);
    fill(weight, static_cast<size_t>(domains * channels), stored);
    fill(uniforms, static_cast<size_t>(samples * channels), [&] { return float(uniform(random)); });
    fill(domain_index, static_cast<size_t>(samples), [&] { return int64_t(random() % unsigned(domains)); });
    const Stored untouched = store<Stored>(Real(-77));
    scores.assign(uniforms.size(), untouched);
    mask.assign(uniforms.size(), untouched);
    masked.assign(static_cast<size_t>(samples * channels * positions), untouched);
    lowest.assign(static_cast<size_t>(samples * positions), Real(-77));
    highest = lowest;
    keys.assign(uniforms.size(), 0);
  }

  CudaCall call() {
    CudaCall call{};
    MaskingParams& params = call.params;
    params.samples = samples;
    params.channels = channels;
    params.positions = positions;
    params.domains = domains;
    params.storage = storage_of<Stored>();
    params.features = features.data();
    params.sample_stride = rows() * (row() + gap);
    params.channel_stride = channels_last ? 1 : row() + gap;
    params.position_stride = channels_last ? row() + gap : 1;
    params.channels_last = channels_last;
    params.weight = weight.data();
    params.weight_storage = params.storage;
    params.domain_index = domain_index.data();
    params.per_pixel = per_pixel;
    params.uniforms = uniforms.data();
    params.uniforms_storage = Storage::float32;
    params.num_masked = num_masked;
    params.normalize = normalize;
    params.scale = scale;
    params.scores = scores.data();
    params.given_scores = scores.data();
    params.mask = mask.data();
    params.given_mask = mask.data();
    params.masked = masked.data();
    lay_out(call);
    call.lowest = lowest.data();
    call.highest = highest.data();
    call.keys = keys.data();
    return call;
  }

  std::string text() const {
    std::ostringstream text;
    text << sizeof(Stored) << " bytes, [" << samples << ", " << channels << ", " << positions << "], "
         << num_masked << " masked" << (channels_last ? ", channels last" : "")
         << (per_pixel ? ", per pixel" : "") << (normalize ? "" : ", not normalised") << ", gap " << gap;
    return text.str();
  }
};

// -------- running kernels; more work than blocks, so that blocks go on with a stride

emulator::Report start(void (*kernel)(CudaCall), const CudaCall& call, unsigned blocks,
                       const emulator::Options& options) {
  return emulator::launch(
      blocks, masking::kThreads, static_cast<size_t>(call.shared_bytes), [&] { kernel(call); }, options);
}

template <class Stored>
emulator::Report run_ranges(const CudaCall& call, unsigned blocks, const emulator::Options& options = {}) {
  using masking::ranges_kernel;
  const bool last = call.params.channels_last;
  const auto kernel = call.packed
                          ? (last ? ranges_kernel<Stored, true, true> : ranges_kernel<Stored, true, false>)
                          : (last ? ranges_kernel<Stored, false, true> : ranges_kernel<Stored, false, false>);
  return start(kernel, call, blocks, options);
}

template <class Stored, bool per_pixel>
emulator::Report run_scores_of(const CudaCall& call, unsigned blocks, const emulator::Options& options) {
  using masking::scores_kernel;
  const bool last = call.params.channels_last;
  const auto kernel = call.packed ? (last ? scores_kernel<Stored, true, true, per_pixel>
                                          : scores_kernel<Stored, true, false, per_pixel>)
                                  : (last ? scores_kernel<Stored, false, true, per_pixel>
                                          : scores_kernel<Stored, false, false, per_pixel>);
  return start(kernel, call, blocks, options);
}

template <class Stored>
emulator::Report run_scores(const CudaCall& call, unsigned blocks, const emulator::Options& options = {}) {
  return call.params.per_pixel ? run_scores_of<Stored, true>(call, blocks, options)
                               : run_scores_of<Stored, false>(call, blocks, options);
}

template <class Stored>
emulator::Report run_select(const CudaCall& call, unsigned blocks, const emulator::Options& options = {}) {
  return start(masking::select_kernel<Stored>, call, blocks, options);
}

template <class Stored>
emulator::Report run_apply(const CudaCall& call, unsigned blocks, const emulator::Options& options = {}) {
  using masking::apply_kernel;
  const bool last = call.params.channels_last;
  const auto kernel = call.packed
                          ? (last ? apply_kernel<Stored, true, true> : apply_kernel<Stored, true, false>)
                          : (last ? apply_kernel<Stored, false, true> : apply_kernel<Stored, false, false>);
  return start(kernel, call, blocks, options);
}

template <class Stored>
emulator::Report run_fused(const CudaCall& call, const emulator::Options& options = {}) {
  const auto kernel =
      call.params.channels_last ? masking::fused_kernel<Stored, true> : masking::fused_kernel<Stored, false>;
  return start(kernel, call, static_cast<unsigned>(call.params.samples), options);
}

// -------- what is right

// The channels of one row by the law as it is written down: tiers, keys in long double, then the index.
std::vector<bool> chosen(const std::vector<double>& scores, const std::vector<float>& uniforms,
                         int num_masked, bool normalize) {
  const double infinity = std::numeric_limits<double>::infinity();
  const double lowest = *std::min_element(scores.begin(), scores.end());
  const double highest = *std::max_element(scores.begin(), scores.end());
  std::vector<std::tuple<int, long double, int>> keys;
  for (size_t channel = 0; channel < scores.size(); ++channel) {
    const double score = scores[channel];
    double weight = score;
    if (normalize) {
      if (lowest == highest)
        weight = 1;
      else if (std::isinf(score))
        weight = score > 0 ? infinity : 0;
      else
        weight = lowest == -infinity ? 1 : score - lowest;
    }
    const double uniform = std::clamp(double(uniforms[channel]), 0x1p-1022, 1 - 0x1p-53);
    const int tier = weight == infinity ? 0 : weight > 0 ? 1 : 2;
    const long double exponential = -std::log(static_cast<long double>(uniform));
    keys.emplace_back(tier, tier == 1 ? exponential / weight : exponential, static_cast<int>(channel));
  }
  std::sort(keys.begin(), keys.end());
  std::vector<bool> result(scores.size());
  for (int i = 0; i < num_masked; ++i)
    result[static_cast<size_t>(std::get<2>(keys[static_cast<size_t>(i)]))] = true;
  return result;
}

template <class Stored>
double true_score(const Case<Stored>& given, int sample, int channel) {
  const int64_t domain = given.domain_index[static_cast<size_t>(sample)];
  if (domain < 0 || domain >= given.domains) return NAN;
  const auto feature = [&](int of, int position) {
    return double(load(given.features[given.at(sample, of, position)]));
  };
  const auto weight = [&](int of) {
    return double(load(given.weight[size_t(domain * given.channels + of)]));
  };
  double sum = 0;
  for (int position = 0; position < given.positions; ++position) {
    if (!given.per_pixel) {
      sum += weight(channel) * feature(channel, position);
      continue;
    }
    double lowest = INFINITY, highest = -INFINITY;
    for (int of = 0; of < given.channels; ++of) {
      lowest = std::min(lowest, weight(of) * feature(of, position));
      highest = std::max(highest, weight(of) * feature(of, position));
    }
    sum +=
        lowest == highest ? 1 : (weight(channel) * feature(channel, position) - lowest) / (highest - lowest);
  }
  return sum / given.positions;
}

template <class Stored>
double precision() {
  if (std::is_same_v<Stored, double>) return 1e-13;
  if (std::is_same_v<Stored, float>) return 1e-5;
  return std::is_same_v<Stored, BFloat16> ? 0x1p-7 : 0x1p-10;
}

// The mask follows from the scores that the kernel wrote, and the masked features from the mask.
template <class Stored>
void check_mask(const Case<Stored>& given, const std::string& told) {
  for (int sample = 0; sample < given.samples; ++sample) {
    std::vector<double> scores;
    std::vector<float> uniforms;
    bool valid = true;
    for (int channel = 0; channel < given.channels; ++channel) {
      scores.push_back(double(load(given.scores[given.cell(sample, channel)])));
      uniforms.push_back(given.uniforms[given.cell(sample, channel)]);
      valid &= !std::isnan(scores.back()) && uniforms.back() >= 0 && uniforms.back() <= 1;
    }
    const std::vector<bool> expected =
        valid ? chosen(scores, uniforms, given.num_masked, given.normalize) : std::vector<bool>();
    for (int channel = 0; channel < given.channels; ++channel) {
      const double mask = double(load(given.mask[given.cell(sample, channel)]));
      if (valid)
        CHECK(mask == (expected[static_cast<size_t>(channel)] ? 0 : 1), sample, channel, mask, told);
      else
        CHECK(std::isnan(mask), sample, channel, mask, told);
    }
  }
}

template <class Stored>
void check_masked(const Case<Stored>& given, const std::string& told) {
  using Real = RealOf<Stored>;
  int64_t wrong = 0;
  for (int sample = 0; sample < given.samples; ++sample)
    for (int channel = 0; channel < given.channels; ++channel)
      for (int position = 0; position < given.positions; ++position) {
        const Real factor =
            static_cast<Real>(load(given.mask[given.cell(sample, channel)])) * Real(given.scale);
        const Real feature = load(given.features[given.at(sample, channel, position)]);
        const Real expected = load(store<Stored>(feature * factor));
        const Real came = load(given.masked[given.masked_at(sample, channel, position)]);
        wrong += !(came == expected || (std::isnan(came) && std::isnan(expected)));
      }
  CHECK(wrong == 0, wrong, told);
}

void check_report(const emulator::Report& report, const std::string& told, const char* kernel) {
  CHECK(report.sound(), kernel, told, report.text());
  CHECK(report.bank_conflicts == 0, kernel, told, report.text());
}

// All kernels one after another, and the fused one: the same bits.
template <class Stored>
void check_case(Case<Stored> given) {
  using Real = RealOf<Stored>;
  const std::string told = given.text();
  CudaCall call = given.call();
  if (given.per_pixel) check_report(run_ranges<Stored>(call, 2), told, "ranges");
  check_report(run_scores<Stored>(call, 2), told, "scores");
  double largest = 1e-3;
  for (int sample = 0; sample < given.samples; ++sample)
    for (int channel = 0; channel < given.channels; ++channel)
      largest = std::max(largest, std::abs(true_score(given, sample, channel)));
  for (int sample = 0; sample < given.samples; ++sample)
    for (int channel = 0; channel < given.channels; ++channel) {
      const double truth = true_score(given, sample, channel);
      const double score = double(load(given.scores[given.cell(sample, channel)]));
      CHECK(std::isnan(truth) ? std::isnan(score) : std::abs(score - truth) <= precision<Stored>() * largest,
            sample, channel, score, truth, told);
    }
  check_report(run_select<Stored>(call, 2), told, "select");
  check_mask(given, told);
  check_report(run_apply<Stored>(call, 2), told, "apply");
  check_masked(given, told);

  call.params.scores = nullptr;
  if (given.per_pixel) {
    CHECK(!fit_fused(call, kLarge), told);
    return;
  }
  const std::vector<Stored> mask = given.mask, masked = given.masked;
  const auto same = [](const std::vector<Stored>& a, const std::vector<Stored>& b) {
    return std::equal(a.begin(), a.end(), b.begin(), [](Stored x, Stored y) {
      const Real left = load(x), right = load(y);
      return left == right || (std::isnan(left) && std::isnan(right));
    });
  };
  for (const bool large : {true, false}) {
    const bool fits = fit_fused(call, large ? kLarge : kNoRoom);
    CHECK(fits == (call.packed && !given.masked.empty()), told);
    if (!fits) continue;
    std::fill(given.mask.begin(), given.mask.end(), Stored{});
    std::fill(given.masked.begin(), given.masked.end(), Stored{});
    check_report(run_fused<Stored>(call), told, "fused");
    CHECK(same(given.mask, mask), told);
    CHECK(same(given.masked, masked), told, call.slots);
  }
}

// -------- tests

template <class Stored>
void test_layouts(const std::vector<std::tuple<int, int>>& shapes) {
  unsigned seed = 0;
  for (const auto& [channels, positions] : shapes)
    for (const bool channels_last : {false, true}) {
      Case<Stored> given;
      given.samples = channels > 100 ? 2 : 3;
      given.channels = channels;
      given.positions = positions;
      given.channels_last = channels_last;
      given.num_masked = channels / 3;
      given.gap = seed % 3 == 2 && positions > 0 ? 16 : 0;
      given.draw(++seed);
      check_case(given);
      given.per_pixel = true;
      check_case(given);
    }
}

void test_how_many_are_masked() {
  unsigned seed = 50;
  for (const bool normalize : {true, false})
    for (const int num_masked : {0, 1, 23, 24}) {
      Case<float> given;
      given.num_masked = num_masked;
      given.normalize = normalize;
      given.draw(++seed);
      check_case(given);
    }
}

void test_rows_at_their_ends() {
  const float infinity = INFINITY;
  const std::vector<std::vector<float>> rows = {
      {0, 0, 0, 0, 0, 0},
      {1, 1, 1, 1, 1, 1},
      {infinity, 1, 2, infinity, 0, -1},
      {-infinity, 1, 2, -infinity, 0, -1},
      {-infinity, 1, 2, infinity, 0, infinity},
      {3e38f, -3e38f, 1e38f, 1e-45f, 0, -1e-45f},
      {1e-45f, 3e-45f, 2e-45f, 0, 0, 1e-45f},
      {NAN, 1, 2, 3, 4, 5},
      {1, 2, 3, 4, 5, 6},
      {1, 2, 3, 4, 5, 6},
      {2, 2, 2, 1, 1, 1},
  };
  for (const bool normalize : {true, false})
    for (int num_masked = 0; num_masked <= 6; ++num_masked) {
      Case<float> given;
      given.samples = static_cast<int>(rows.size());
      given.channels = 6;
      given.positions = 1;
      given.num_masked = num_masked;
      given.normalize = normalize;
      given.draw(7);
      for (size_t i = 0; i < given.scores.size(); ++i) given.scores[i] = rows[i / 6][i % 6];
      given.uniforms[8 * 6 + 2] = NAN;
      given.uniforms[9 * 6 + 1] = -0.25f;
      for (size_t i = 10 * 6; i < 11 * 6; ++i) given.uniforms[i] = 0.5f;
      given.uniforms[0] = 0;
      given.uniforms[1] = 1;
      const CudaCall call = given.call();
      check_report(run_select<float>(call, 3), given.text(), "select");
      check_mask(given, given.text());
    }
}

void test_many_equal_keys() {
  for (const int num_masked : {1, 400, 699, 700, 701, 1000}) {
    Case<float> given;
    given.samples = 1;
    given.channels = 1100;
    given.positions = 1;
    given.num_masked = num_masked;
    given.draw(3);
    for (size_t i = 0; i < given.uniforms.size(); ++i) {
      given.scores[i] = 1;
      given.uniforms[i] = i % 11 < 7 ? 0.5f : 0.25f;
    }
    const CudaCall call = given.call();
    check_report(run_select<float>(call, 1), given.text(), "select");
    check_mask(given, given.text());
  }
}

void test_bad_features_and_domains() {
  for (const bool channels_last : {false, true}) {
    Case<float> given;
    given.samples = 5;
    given.channels_last = channels_last;
    given.draw(11);
    given.features[given.at(1, 4, 3)] = NAN;
    given.features[given.at(2, 5, 0)] = INFINITY;
    given.domain_index[3] = -1;
    given.domain_index[4] = int64_t{1} << 62;
    CudaCall call = given.call();
    check_report(run_scores<float>(call, 2), given.text(), "scores");
    for (int channel = 0; channel < given.channels; ++channel) {
      CHECK(std::isnan(given.scores[given.cell(1, channel)]) == (channel == 4), channel);
      CHECK(std::isinf(given.scores[given.cell(2, channel)]) == (channel == 5), channel);
      CHECK(std::isnan(given.scores[given.cell(3, channel)]), channel);
      CHECK(std::isnan(given.scores[given.cell(4, channel)]), channel);
    }
    check_report(run_select<float>(call, 2), given.text(), "select");
    check_mask(given, given.text());
    check_report(run_apply<float>(call, 2), given.text(), "apply");
    check_masked(given, given.text());
    call.params.scores = nullptr;
    CHECK(fit_fused(call, kLarge));
    check_report(run_fused<float>(call), given.text(), "fused");
    check_mask(given, given.text());
    check_masked(given, given.text());
  }
}

// Every barrier but the `last` ones, which order what a further sample would do, orders something: without it
// there is a race.
template <class Run>
void check_barriers(Run run, int64_t last, const char* kernel) {
  const emulator::Report whole = run(emulator::Options{});
  CHECK(whole.sound(), kernel, whole.text());
  int64_t unneeded = 0;
  for (int64_t barrier = 0; barrier < whole.block_barriers; ++barrier)
    unneeded += run(emulator::Options{.removed_block_barrier = barrier}).races == 0;
  CHECK(unneeded == last, kernel, unneeded, whole.block_barriers);
}

void test_every_barrier_is_needed() {
  for (const bool channels_last : {false, true}) {
    Case<float> given;
    given.samples = 2;
    given.channels = channels_last ? 320 : 80;  // two tiles of units
    given.positions = channels_last ? 16 : 64;  // two lanes a plane
    given.channels_last = channels_last;
    given.num_masked = 20;
    given.draw(5);
    CudaCall call = given.call();
    call.params.per_pixel = true;
    check_barriers([&](auto options) { return run_ranges<float>(call, 1, options); }, channels_last ? 0 : 1,
                   "ranges");
    check_barriers([&](auto options) { return run_scores<float>(call, 1, options); }, channels_last ? 1 : 0,
                   "scores per pixel");
    call.params.per_pixel = false;
    check_barriers([&](auto options) { return run_scores<float>(call, 1, options); }, channels_last ? 1 : 0,
                   "scores");
    call.params.num_masked = 0;  // no search, whose votes would stand in for the barrier between samples
    check_barriers([&](auto options) { return run_select<float>(call, 1, options); }, 1, "select");
    call.params.num_masked = given.num_masked;
    call.params.samples = 1;
    call.params.scores = nullptr;
    CHECK(fit_fused(call, kLarge));
    check_barriers([&](auto options) { return run_fused<float>(call, options); }, 0, "fused");
  }
}

// A ResNet-18's stages for images of 64 and 32 pixels, in float32: what one block does, and what stays on
// chip.
void test_which_samples_one_block_does() {
  const auto spilled = [](int channels, int positions, bool channels_last) {
    Case<float> given;
    given.samples = 1;
    given.channels = channels;
    given.positions = positions;
    given.channels_last = channels_last;
    given.draw(1);
    CudaCall call = given.call();
    call.params.scores = nullptr;
    if (!fit_fused(call, kLarge)) return -1;
    CHECK(call.shared_bytes <= kLarge.shared_bytes, call.shared_bytes);
    return channels * positions * 4 - call.slots * 16 * masking::kThreads;
  };
  for (const bool channels_last : {false, true}) {
    CHECK(spilled(64, 64 * 64, channels_last) == -1);
    CHECK(spilled(128, 32 * 32, channels_last) == -1);
    CHECK(spilled(256, 16 * 16, channels_last) > 0);
    CHECK(spilled(64, 32 * 32, channels_last) > 0);
    CHECK(spilled(512, 8 * 8, channels_last) == 0);
    CHECK(spilled(128, 16 * 16, channels_last) == 0);
    CHECK(spilled(512, 4 * 4, channels_last) == 0);
  }
}

void test_the_logarithm() {
  std::mt19937_64 random(1);
  double worst = 0;
  const auto look = [&](double uniform) {
    const long double truth = -std::log(static_cast<long double>(uniform));
    const double unit = std::nextafter(double(truth), INFINITY) - double(truth);
    worst = std::max(worst, double(std::abs(masking::negative_log(uniform) - truth)) / unit);
  };
  for (int i = 0; i < 200000; ++i) {
    look(std::ldexp(1 + std::ldexp(double(random() >> 12), -52), -1 - int(random() % 60)));  // all binades
    look(1 - std::ldexp(double(random() >> 11), -53 - int(random() % 52)));                  // towards 1
    look(float(random() >> 40) * 0x1p-24f + 0x1p-25f);                                       // as torch.rand
  }
  for (const double uniform :
       {0x1p-1022, 0x1p-149, 0.5, 1 - 0x1p-53, 0x1.6a09e667f3bccp-1, 0x1.6a09e667f3bcdp-1})
    look(uniform);
  CHECK(worst < 2, worst);
}

}  // namespace
}  // namespace dgdd::tests

int main() {
  using namespace dgdd;
  using namespace dgdd::tests;
  test_the_logarithm();
  // Planes of no position, of one, of a unit, of several; rows that are no whole units; more channels than
  // threads.
  test_layouts<float>({{3, 0}, {1, 4}, {5, 1}, {24, 16}, {40, 64}, {7, 49}, {33, 8}, {520, 16}, {96, 200}});
  test_layouts<double>({{6, 1}, {34, 66}, {7, 9}});
  test_layouts<BFloat16>({{16, 9}, {40, 64}});
  test_layouts<Float16>({{24, 24}, {9, 7}, {528, 16}});
  test_how_many_are_masked();
  test_rows_at_their_ends();
  test_many_equal_keys();
  test_bad_features_and_domains();
  test_every_barrier_is_needed();
  test_which_samples_one_block_does();
  return result();
}
