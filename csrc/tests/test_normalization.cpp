// The kernels of norm_relu_pool against sums in float64, in every storage and layout, and against the
// machine: no race, nothing out of bounds, no bank conflict, and no barrier that could be left out.
#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "normalization/kernels.cuh"
#include "tests/check.h"

namespace dgdd::tests {
namespace {

using normalization::CudaCall;
using normalization::NormPoolParams;

constexpr int64_t kLarge = 227 * 1024;
constexpr int64_t kLittle = 24 * 1024;  // some units have to be read again

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
  int channels = 16;
  int height = 8;
  int width = 8;
  int pool = 2;
  bool channels_last = false;
  int gap = 0;  // elements between planes, or with the channels last between positions
  double eps = 1e-5;

  std::vector<Stored> x, pooled, pooled_grad, x_grad;
  std::vector<Real> weight, bias, plane_weight_grads, plane_bias_grads, weight_grad, bias_grad;

  int positions() const { return height * width; }
  int pooled_positions() const { return (height / pool) * (width / pool); }
  int row() const { return channels_last ? channels : positions(); }
  int rows() const { return channels_last ? positions() : channels; }
  size_t at(int sample, int channel, int position) const {
    return static_cast<size_t>((sample * rows() + (channels_last ? position : channel)) * (row() + gap) +
                               (channels_last ? channel : position));
  }
  size_t dense(int sample, int channel, int position, int of) const {
    return static_cast<size_t>(channels_last ? (sample * of + position) * channels + channel
                                             : (sample * channels + channel) * of + position);
  }
  size_t window(int sample, int channel, int row, int column) const {
    return dense(sample, channel, row * (width / pool) + column, pooled_positions());
  }

  void draw(unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    const auto fill = [&](auto& values, size_t size, double mean, double deviation) {
      values.resize(size);
      using Number = std::decay_t<decltype(values[0])>;
      for (auto& value : values) value = store<Number>(static_cast<Real>(mean + deviation * normal(random)));
    };
    fill(x, static_cast<size_t>(samples * rows() * (row() + gap) - gap), 1, 2);
    fill(weight, static_cast<size_t>(channels), 1, 0.3);
    fill(bias, static_cast<size_t>(channels), 0, 0.3);
    fill(pooled_grad, static_cast<size_t>(samples * channels * pooled_positions()), 0, 1);
    clear();
  }

  void clear() {
    const Stored untouched = store<Stored>(Real(-77));
    pooled.assign(pooled_grad.size(), untouched);
    x_grad.assign(static_cast<size_t>(samples * channels * positions()), untouched);
    plane_weight_grads.assign(static_cast<size_t>(samples * channels), Real(-77));
    plane_bias_grads = plane_weight_grads;
    weight_grad.assign(static_cast<size_t>(channels), Real(-77));
    bias_grad = weight_grad;
  }

  CudaCall call(bool backward, int64_t shared_bytes = kLarge) {
    CudaCall call{};
    NormPoolParams& params = call.params;
    params.backward = backward;
    params.samples = samples;
    params.channels = channels;
    params.height = height;
    params.width = width;
    params.pool = pool;
    params.eps = eps;
    params.storage = storage_of<Stored>();
    params.x = x.data();
    params.sample_stride = rows() * (row() + gap);
    params.channel_stride = channels_last ? 1 : row() + gap;
    params.position_stride = channels_last ? row() + gap : 1;
    params.channels_last = channels_last;
    params.weight = weight.data();
    params.bias = bias.data();
    if (backward) {
      params.pooled_grad = pooled_grad.data();
      params.x_grad = x_grad.data();
      params.plane_weight_grads = plane_weight_grads.data();
      params.plane_bias_grads = plane_bias_grads.data();
      params.weight_grad = weight_grad.data();
      params.bias_grad = bias_grad.data();
    } else {
      params.pooled = pooled.data();
    }
    lay_out(call, shared_bytes);
    return call;
  }

  std::string text() const {
    std::ostringstream text;
    text << sizeof(Stored) << " bytes, [" << samples << ", " << channels << ", " << height << ", " << width
         << "], pool " << pool << (channels_last ? ", channels last" : "") << ", gap " << gap;
    return text.str();
  }
};

// -------- running kernels

template <class Stored, bool packed, int kPool>
void (*kernel_of(const CudaCall& call))(CudaCall) {
  using namespace normalization;
  if (call.params.backward)
    return call.params.channels_last ? backward_kernel<Stored, packed, kPool, true>
                                     : backward_kernel<Stored, packed, kPool, false>;
  return call.params.channels_last ? forward_kernel<Stored, packed, kPool, true>
                                   : forward_kernel<Stored, packed, kPool, false>;
}

template <class Stored>
emulator::Report run(const CudaCall& call, unsigned blocks, const emulator::Options& options = {}) {
  const auto kernel = !call.packed     ? kernel_of<Stored, false, 0>(call)
                      : call.pool == 1 ? kernel_of<Stored, true, 1>(call)
                                       : kernel_of<Stored, true, 2>(call);
  return emulator::launch(
      blocks, normalization::kThreads, static_cast<size_t>(call.shared_bytes), [&] { kernel(call); },
      options);
}

template <class Stored>
emulator::Report run_sums(const NormPoolParams& params, const emulator::Options& options = {}) {
  using normalization::sums_kernel;
  return emulator::launch(
      static_cast<unsigned>((params.channels + 31) / 32), normalization::kThreads, 0,
      [&] { sums_kernel<RealOf<Stored>>(params); }, options);
}

// -------- what is right

struct Truth {
  std::vector<double> pooled, x_grad, weight_grad, bias_grad;
};

template <class Stored>
Truth truth_of(const Case<Stored>& given) {
  Truth truth;
  truth.pooled.assign(given.pooled.size(), 0);
  truth.x_grad.assign(given.x_grad.size(), 0);
  truth.weight_grad.assign(static_cast<size_t>(given.channels), 0);
  truth.bias_grad = truth.weight_grad;
  const int pool = given.pool, positions = given.positions();
  const int pooled_height = given.height / pool, pooled_width = given.width / pool;
  const double share = 1.0 / (pool * pool);
  std::vector<double> normalised(static_cast<size_t>(positions)), passing(normalised.size());
  for (int sample = 0; sample < given.samples; ++sample)
    for (int channel = 0; channel < given.channels; ++channel) {
      const auto x = [&](int position) { return double(load(given.x[given.at(sample, channel, position)])); };
      double mean = 0, variance = 0;
      for (int i = 0; i < positions; ++i) mean += x(i) / positions;
      for (int i = 0; i < positions; ++i) variance += (x(i) - mean) * (x(i) - mean) / positions;
      const double deviation = std::sqrt(variance + given.eps);
      const double weight = given.weight[static_cast<size_t>(channel)];
      double sum = 0, product = 0;
      for (int row = 0; row < given.height; ++row)
        for (int column = 0; column < given.width; ++column) {
          const size_t i = static_cast<size_t>(row * given.width + column);
          normalised[i] = (x(static_cast<int>(i)) - mean) / deviation;
          const double value = weight * normalised[i] + given.bias[static_cast<size_t>(channel)];
          const bool inside = row / pool < pooled_height && column / pool < pooled_width;
          passing[i] = 0;
          if (!inside) continue;
          const size_t at = given.window(sample, channel, row / pool, column / pool);
          truth.pooled[at] += (value < 0 ? 0 : value) * share;
          passing[i] = value <= 0 ? 0 : double(load(given.pooled_grad[at])) * share;
          sum += passing[i];
          product += passing[i] * normalised[i];
        }
      truth.weight_grad[static_cast<size_t>(channel)] += product;
      truth.bias_grad[static_cast<size_t>(channel)] += sum;
      for (int i = 0; i < positions; ++i)
        truth.x_grad[given.dense(sample, channel, i, positions)] =
            weight / deviation *
            (passing[static_cast<size_t>(i)] - sum / positions -
             normalised[static_cast<size_t>(i)] * product / positions);
    }
  return truth;
}

template <class Number>
void check_close(const std::vector<Number>& result, const std::vector<double>& truth, double tolerance,
                 const std::string& told, const char* name) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < truth.size(); ++i) {
    const double difference = double(load(result[i])) - truth[i];
    error += difference * difference;
    norm += truth[i] * truth[i];
  }
  CHECK(error <= tolerance * tolerance * norm, name, std::sqrt(error / norm), told);
}

template <class Stored>
double precision() {
  if (std::is_same_v<Stored, double>) return 1e-14;
  if (std::is_same_v<Stored, float>) return 1e-6;
  return std::is_same_v<Stored, BFloat16> ? 4e-3 : 5e-4;
}

void check_report(const emulator::Report& report, const std::string& told, const char* kernel) {
  CHECK(report.sound(), kernel, told, report.text());
  CHECK(report.bank_conflicts == 0, kernel, told, report.text());
}

// Both directions with much and with little shared memory: the same bits. More work than blocks, so that
// blocks go on with a stride.
template <class Stored>
void check_case(Case<Stored> given) {
  const std::string told = given.text();
  const Truth truth = truth_of(given);
  std::vector<std::vector<Stored>> results;
  for (const int64_t shared_bytes : {kLarge, kLittle}) {
    given.clear();
    check_report(run<Stored>(given.call(false, shared_bytes), 2), told, "forward");
    const CudaCall call = given.call(true, shared_bytes);
    check_report(run<Stored>(call, 2), told, "backward");
    check_report(run_sums<Stored>(call.params), told, "sums");
    results.push_back(given.pooled);
    results.push_back(given.x_grad);
  }
  check_close(given.pooled, truth.pooled, precision<Stored>(), told, "pooled");
  check_close(given.x_grad, truth.x_grad, precision<Stored>(), told, "x_grad");
  // Kept as wide as they are computed.
  const double of_sums = std::is_same_v<Stored, double> ? 1e-13 : 1e-5;
  check_close(given.weight_grad, truth.weight_grad, of_sums, told, "weight_grad");
  check_close(given.bias_grad, truth.bias_grad, of_sums, told, "bias_grad");
  const auto same = [](const std::vector<Stored>& a, const std::vector<Stored>& b) {
    return std::equal(a.begin(), a.end(), b.begin(), [](Stored x, Stored y) { return load(x) == load(y); });
  };
  CHECK(same(results[0], results[2]), told);
  CHECK(same(results[1], results[3]), told);
}

// -------- tests

struct Shape {
  int samples, channels, height, width, pool;
};

template <class Stored>
void test_layouts(const std::vector<Shape>& shapes) {
  unsigned seed = 0;
  for (const Shape& shape : shapes)
    for (const bool channels_last : {false, true}) {
      Case<Stored> given;
      given.samples = shape.samples;
      given.channels = shape.channels;
      given.height = shape.height;
      given.width = shape.width;
      given.pool = shape.pool;
      given.channels_last = channels_last;
      given.gap = seed % 3 == 2 ? 16 : 0;
      given.draw(++seed);
      check_case(given);
    }
}

// What is not finite reaches its plane and no other, and there the gradient of the bias has all that came.
void test_not_finite() {
  for (const bool channels_last : {false, true})
    for (const float bad : {NAN, INFINITY}) {
      Case<float> given;
      given.channels_last = channels_last;
      given.height = 9;
      given.draw(3);
      given.x[given.at(1, 5, 8 * 8)] = bad;  // in no window
      check_report(run<float>(given.call(false), 2), given.text(), "forward");
      check_report(run<float>(given.call(true), 2), given.text(), "backward");
      for (int sample = 0; sample < given.samples; ++sample)
        for (int channel = 0; channel < given.channels; ++channel) {
          const bool hit = sample == 1 && channel == 5;
          for (int i = 0; i < given.pooled_positions(); ++i)
            CHECK(std::isnan(given.pooled[given.dense(sample, channel, i, given.pooled_positions())]) == hit);
          for (int i = 0; i < given.positions(); ++i)
            CHECK(std::isnan(given.x_grad[given.dense(sample, channel, i, given.positions())]) == hit);
          const size_t plane = static_cast<size_t>(sample * given.channels + channel);
          CHECK(std::isnan(given.plane_weight_grads[plane]) == hit);
          CHECK(std::isfinite(given.plane_bias_grads[plane]));
        }
    }
}

template <class Run>
void check_barriers(Run run, const std::string& told) {
  const emulator::Report whole = run(emulator::Options{});
  CHECK(whole.sound(), told, whole.text());
  for (int64_t barrier = 0; barrier < whole.block_barriers; ++barrier)
    CHECK(run(emulator::Options{.removed_block_barrier = barrier}).races > 0, told, barrier,
          whole.block_barriers);
}

void test_every_barrier_is_needed() {
  for (const bool channels_last : {false, true})
    for (const bool backward : {false, true}) {
      Case<float> given;
      given.samples = 2;
      given.channels = channels_last ? 16 : 1;
      given.height = channels_last ? 8 : 64;  // planes that a block shares
      given.width = channels_last ? 8 : 64;
      given.channels_last = channels_last;
      given.draw(5);
      const CudaCall call = given.call(backward);
      CHECK(channels_last || call.lanes == normalization::kThreads, call.lanes);
      check_barriers([&](auto options) { return run<float>(call, 1, options); }, given.text());
      if (backward)
        check_barriers([&](auto options) { return run_sums<float>(call.params, options); }, given.text());
    }
}

// What a launch asks for is there, on devices with much and with little shared memory, and the ConvNet's maps
// stay on chip.
void test_every_launch_is_legal() {
  for (const int64_t shared_bytes : {int64_t{48 * 1024}, int64_t{99 * 1024}, kLarge})
    for (const bool channels_last : {false, true})
      for (const bool backward : {false, true})
        for (const int channels : {1, 3, 64, 128, 100000})
          for (const int height : {1, 7, 8, 16, 32, 64, 224, 30000})
            for (const int width : {1, 8, 9, 32, 64, 30000})
              for (const int pool : {1, 2, 7}) {
                if (height < pool || width < pool) continue;
                CudaCall call{};
                call.params.storage = channels == 3 ? Storage::float64 : Storage::bfloat16;
                call.params.backward = backward;
                call.params.samples = 1;
                call.params.channels = channels;
                call.params.height = height;
                call.params.width = width;
                call.params.pool = pool;
                call.params.channels_last = channels_last;
                call.params.channel_stride = int64_t{height} * width;
                call.params.position_stride = channels;
                lay_out(call, shared_bytes);
                CHECK(call.shared_bytes + normalization::kStaticShared <= shared_bytes, call.shared_bytes);
                CHECK(call.lanes >= 1 && normalization::kThreads % call.lanes == 0, call.lanes);
                CHECK(call.slots >= 0, call.slots);
              }
  const auto stays = [](int channels, int side, bool channels_last) {
    Case<float> given;
    given.samples = 1;
    given.channels = channels;
    given.height = given.width = side;
    given.channels_last = channels_last;
    given.draw(1);
    const CudaCall call = given.call(true);
    const int rows = channels_last ? normalization::kThreads / call.lanes : call.lanes;
    return call.packed && call.slots == normalization::ceiling(call.cells, rows) * call.cell_units;
  };
  for (const bool channels_last : {false, true}) {
    CHECK(stays(128, 32, channels_last));
    CHECK(stays(128, 16, channels_last));
    CHECK(stays(128, 8, channels_last));
  }
  CHECK(stays(32, 64, false));
}

}  // namespace
}  // namespace dgdd::tests

int main() {
  using namespace dgdd;
  using namespace dgdd::tests;
  // The ConvNet's shapes; planes of one pixel, of one window, with edges; pools of any size; single elements;
  // more channels than a block takes; planes for a whole block.
  const std::vector<Shape> shapes = {{2, 16, 32, 32, 2}, {2, 40, 8, 8, 2}, {3, 16, 16, 16, 2},
                                     {2, 5, 7, 9, 2},    {3, 8, 9, 8, 2},  {2, 24, 5, 16, 1},
                                     {2, 6, 11, 7, 3},   {5, 3, 1, 1, 1},  {40, 2, 2, 2, 2},
                                     {2, 3, 6, 6, 6},    {1, 33, 4, 6, 2}};
  test_layouts<float>(shapes);
  test_layouts<BFloat16>(shapes);
  test_layouts<Float16>({{2, 16, 32, 32, 2}, {2, 5, 7, 9, 2}, {2, 16, 8, 16, 1}});
  test_layouts<double>({{2, 16, 16, 16, 2}, {2, 5, 7, 9, 2}, {2, 6, 11, 8, 1}, {1, 2, 35, 35, 3}});
  test_layouts<float>({{1, 4, 64, 64, 2}, {1, 2, 40, 33, 1}});
  test_not_finite();
  test_every_barrier_is_needed();
  test_every_launch_is_legal();
  return result();
}
