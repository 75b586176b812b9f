// The augmentation kernels against their definition pixel by pixel in float64, forward and backward, in every
// storage, and against the machine: no race, nothing out of bounds, no bank conflict, and no barrier that
// could be left out.
#include <algorithm>
#include <cmath>
#include <random>
#include <sstream>
#include <vector>

#include "augmentation/kernels.cuh"
#include "tests/check.h"

namespace dgdd::tests {
namespace {

using augmentation::AugmentationParams;
using augmentation::CudaCall;
using augmentation::Operation;
using augmentation::RealOf;

template <class Stored>
constexpr Storage storage_of() {
  if (std::is_same_v<Stored, double>) return Storage::float64;
  if (std::is_same_v<Stored, float>) return Storage::float32;
  return std::is_same_v<Stored, BFloat16> ? Storage::bfloat16 : Storage::float16;
}

struct Row {
  int64_t image;
  int64_t operation;
  double parameters[3];
};

// One call with vectors of exactly its size, so that the sanitised build sees every access beyond them.
template <class In, class Stored>
struct Case {
  using Real = RealOf<Stored>;

  int images = 3;
  int channels = 3;
  int height = 5;
  int width = 6;
  int multiprocessors = 1;
  bool all_rows = false;  // no rows are given: row b is image b
  std::vector<Row> batch;

  std::vector<In> pixels;
  std::vector<Stored> gradient, mean, std, result, images_gradient;
  std::vector<Real> items;
  std::vector<int64_t> rows, operation;
  std::vector<double> parameters;

  size_t size() const { return static_cast<size_t>(channels * height * width); }

  void draw(unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    const auto number = [&] { return store<Stored>(static_cast<Real>(normal(random))); };
    pixels.resize(static_cast<size_t>(images) * size());
    for (In& pixel : pixels)
      if constexpr (std::is_same_v<In, uint8_t>)
        pixel = static_cast<uint8_t>(random());
      else
        pixel = number();
    gradient.resize(batch.size() * size());
    for (Stored& value : gradient) value = number();
    for (int channel = 0; channel < channels; ++channel) {
      mean.push_back(store<Stored>(static_cast<Real>(0.4 + 0.1 * channel)));
      std.push_back(store<Stored>(static_cast<Real>(0.2 + 0.05 * channel)));
    }
    const Stored untouched = store<Stored>(Real(-77));
    result.assign(batch.size() * size(), untouched);
    images_gradient.assign(static_cast<size_t>(images) * size(), untouched);
    items.assign(all_rows ? 0 : batch.size() * size(), Real(-77));
    for (const Row& row : batch) {
      if (!all_rows) rows.push_back(row.image);
      operation.push_back(row.operation);
      parameters.insert(parameters.end(), row.parameters, row.parameters + 3);
    }
  }

  CudaCall call(bool backward) {
    CudaCall call{};
    AugmentationParams& params = call.params;
    params.images = images;
    params.batch = static_cast<int64_t>(batch.size());
    params.channels = channels;
    params.height = height;
    params.width = width;
    params.backward = backward;
    params.storage = storage_of<Stored>();
    params.source = backward ? static_cast<const void*>(gradient.data()) : pixels.data();
    params.bytes = std::is_same_v<In, uint8_t>;
    params.mean = mean.data();
    params.std = std.data();
    params.has_rows = !all_rows;
    params.rows = rows.data();
    params.operation = operation.data();
    params.parameters = parameters.data();
    params.parameters_storage = Storage::float64;
    params.crop[0] = params.crop[1] = 4;
    params.cutout[0] = 2;
    params.cutout[1] = 3;
    params.result = backward ? images_gradient.data() : result.data();
    call.items = items.data();
    lay_out(call, multiprocessors);
    return call;
  }

  double pixel(int64_t image, size_t at) const {
    const In stored = pixels[static_cast<size_t>(image) * size() + at];
    if constexpr (std::is_same_v<In, uint8_t>) {
      const size_t channel = at / static_cast<size_t>(height * width);
      return (stored / 255.0 - double(load(mean[channel]))) / double(load(std[channel]));
    } else {
      return double(load(stored));
    }
  }

  bool valid(const Row& row) const {
    static constexpr int kCounts[] = {0, 3, 2, 2, 1, 2, 1};
    if (row.image < 0 || row.image >= images || row.operation < 0 || row.operation > 6) return false;
    for (int i = 0; i < kCounts[row.operation]; ++i) {
      if (!std::isfinite(row.parameters[i])) return false;
      if (row.operation == 2 && std::abs(std::trunc(row.parameters[i])) > 4) return false;
    }
    return true;
  }

  // Names every pixel that a result depends on, with its factor; returns what is added.
  template <class Visit>
  double define(const Row& row, int channel, int y, int x, Visit visit) const {
    const auto at = [&](int c, int v, int u) { return static_cast<size_t>((c * height + v) * width + u); };
    const auto [a, b, c] = row.parameters;
    switch (static_cast<Operation>(row.operation)) {
      case Operation::none:
        visit(at(channel, y, x), 1.0);
        return 0;
      case Operation::color: {
        visit(at(channel, y, x), c * b);
        for (int i = 0; i < channels; ++i) visit(at(i, y, x), c * (1 - b) / channels);
        for (size_t i = 0; i < size(); ++i) visit(i, (1 - c) / double(size()));
        return a;
      }
      case Operation::crop: {
        const int v = y + int(a), u = x + int(b);
        if (v >= 0 && v < height && u >= 0 && u < width) visit(at(channel, v, u), 1.0);
        return 0;
      }
      case Operation::cutout:
        if (!(y >= a && y < a + 2 && x >= b && x < b + 3)) visit(at(channel, y, x), 1.0);
        return 0;
      case Operation::flip:
        visit(at(channel, y, a > 0 ? width - 1 - x : x), 1.0);
        return 0;
      default:
        break;
    }
    const double middle_x = (width - 1) / 2.0, middle_y = (height - 1) / 2.0;
    double from_x, from_y;
    if (static_cast<Operation>(row.operation) == Operation::scale) {
      from_x = a * (x - middle_x) + middle_x;
      from_y = b * (y - middle_y) + middle_y;
    } else {
      from_x = std::cos(a) * (x - middle_x) - std::sin(a) * (y - middle_y) + middle_x;
      from_y = std::sin(a) * (x - middle_x) + std::cos(a) * (y - middle_y) + middle_y;
    }
    for (int v = 0; v < height; ++v)
      for (int u = 0; u < width; ++u) {
        const double weight =
            std::max(0.0, 1 - std::abs(from_x - u)) * std::max(0.0, 1 - std::abs(from_y - v));
        if (weight > 0) visit(at(channel, v, u), weight);
      }
    return 0;
  }

  std::string text() const {
    std::ostringstream text;
    text << sizeof(In) << " to " << sizeof(Stored) << " bytes, " << images << " images of [" << channels
         << ", " << height << ", " << width << "], " << batch.size() << (all_rows ? " rows, all" : " rows");
    return text.str();
  }
};

// -------- running kernels; more work than blocks, so that blocks go on with a stride

emulator::Report start(void (*kernel)(CudaCall), const CudaCall& call, unsigned blocks,
                       const emulator::Options& options = {}) {
  return emulator::launch(blocks, augmentation::kThreads, 0, [&] { kernel(call); }, options);
}

template <class In, class Stored>
emulator::Report run_forward(const CudaCall& call, const emulator::Options& options = {}) {
  return start(augmentation::augment_kernel<In, Stored, false>, call, 2, options);
}

template <class Stored>
emulator::Report run_transpose(const CudaCall& call) {
  using Real = RealOf<Stored>;
  return call.params.has_rows ? start(augmentation::augment_kernel<Stored, Real, true>, call, 2)
                              : start(augmentation::augment_kernel<Stored, Stored, true>, call, 2);
}

void check_report(const emulator::Report& report, const std::string& told, const char* kernel) {
  CHECK(report.sound(), kernel, told, report.text());
  CHECK(report.bank_conflicts == 0, kernel, told, report.text());
}

template <class Stored>
double precision() {
  if (std::is_same_v<Stored, double>) return 1e-13;
  if (std::is_same_v<Stored, float>) return 4e-6;
  return std::is_same_v<Stored, BFloat16> ? 0x1p-7 : 0x1p-10;
}

template <class Stored>
void check_numbers(const std::vector<Stored>& came, const std::vector<double>& expected, const char* which,
                   const std::string& told) {
  CHECK(came.size() == expected.size(), which, told);
  double largest = 1e-3;
  for (const double number : expected)
    if (std::isfinite(number)) largest = std::max(largest, std::abs(number));
  int64_t wrong = 0;
  double worst = 0;
  for (size_t i = 0; i < came.size(); ++i) {
    const double number = double(load(came[i]));
    const double error = std::abs(number - expected[i]) / largest;
    if (std::isnan(expected[i]))
      wrong += !std::isnan(number);
    else
      wrong += !(error <= precision<Stored>());
    if (error > worst) worst = error;
  }
  CHECK(wrong == 0, which, told, wrong, worst);
}

template <class Stored>
bool same_bits(const std::vector<Stored>& a, const std::vector<Stored>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(Stored)) == 0;
}

template <class In, class Stored>
void check_case(Case<In, Stored> given) {
  const std::string told = given.text();
  std::vector<double> result(given.batch.size() * given.size());
  std::vector<double> images_gradient(static_cast<size_t>(given.images) * given.size());
  for (size_t item = 0; item < given.batch.size(); ++item) {
    const Row& row = given.batch[item];
    const bool known_image = row.image >= 0 && row.image < given.images;
    size_t at = item * given.size();
    for (int channel = 0; channel < given.channels; ++channel)
      for (int y = 0; y < given.height; ++y)
        for (int x = 0; x < given.width; ++x, ++at) {
          const size_t image = static_cast<size_t>(known_image ? row.image : 0) * given.size();
          if (!given.valid(row)) {
            result[at] = NAN;
            if (known_image) images_gradient[image + at - item * given.size()] = NAN;
            continue;
          }
          const double upstream = double(load(given.gradient[at]));
          double sum = 0;
          sum += given.define(row, channel, y, x, [&](size_t pixel, double factor) {
            sum += factor * given.pixel(row.image, pixel);
            images_gradient[image + pixel] += factor * upstream;
          });
          result[at] = sum;
        }
  }
  check_report(run_forward<In, Stored>(given.call(false)), told, "forward");
  check_numbers(given.result, result, "forward", told);
  if constexpr (std::is_same_v<In, Stored>) {
    check_report(run_transpose<Stored>(given.call(true)), told, "transpose");
    if (!given.all_rows)
      check_report(start(augmentation::sum_kernel<Stored>, given.call(true), 2), told, "sum");
    check_numbers(given.images_gradient, images_gradient, "backward", told);
  }
  // Images in more parts: the same bits.
  const std::vector<Stored> whole = given.result, whole_gradient = given.images_gradient;
  given.multiprocessors = 64;
  CHECK(given.call(false).parts == (given.height * given.width + 255) / 256, told);
  check_report(run_forward<In, Stored>(given.call(false)), told, "forward in parts");
  CHECK(same_bits(given.result, whole), told);
  if constexpr (std::is_same_v<In, Stored>) {
    check_report(run_transpose<Stored>(given.call(true)), told, "transpose in parts");
    if (!given.all_rows) start(augmentation::sum_kernel<Stored>, given.call(true), 2);
    CHECK(same_bits(given.images_gradient, whole_gradient), told);
  }
}

// -------- tests

// Every operation, with parameters of its own kind, at images of its own.
std::vector<Row> every_operation(int images) {
  std::vector<Row> rows = {
      {0, 0, {7, 8, 9}},        {0, 1, {0.3, 1.7, 0.6}}, {0, 2, {-2, 1, 0}},   {0, 2, {4, -4, 0}},
      {0, 3, {1, -1, 0}},       {0, 3, {-3, 9, 0}},      {0, 4, {1, 0, 0}},    {0, 4, {0, 0, 0}},
      {0, 5, {0.85, 1.2, 0}},   {0, 5, {1.15, 0.84, 0}}, {0, 6, {0.25, 0, 0}}, {0, 6, {-0.2, 0, 0}},
      {0, 1, {-0.4, 0.2, 1.4}},
  };
  for (size_t i = 0; i < rows.size(); ++i) rows[i].image = static_cast<int64_t>(7 * i + 1) % images;
  return rows;
}

template <class In, class Stored>
void test_operations(const std::vector<std::vector<int>>& shapes) {
  unsigned seed = 0;
  for (const auto& shape : shapes)
    for (const bool all_rows : {false, true}) {
      Case<In, Stored> given;
      given.all_rows = all_rows;
      given.batch = every_operation(all_rows ? 1 : 5);
      given.images = all_rows ? static_cast<int>(given.batch.size()) : 5;
      if (all_rows)
        for (size_t i = 0; i < given.batch.size(); ++i) given.batch[i].image = static_cast<int64_t>(i);
      given.channels = shape[0];
      given.height = shape[1];
      given.width = shape[2];
      given.draw(++seed);
      check_case(given);
    }
}

// Shares and angles that no augmentation draws: the outputs that sampled a pixel are many, or far away.
void test_any_share_and_angle() {
  Case<double, double> given;
  given.batch = {
      {0, 5, {0, 1, 0}},     {0, 5, {0, 0, 0}},    {1, 5, {-1, 0.5, 0}},
      {1, 5, {1e-3, 30, 0}}, {2, 5, {1e30, 1, 0}}, {2, 5, {1, -1e300, 0}},
      {0, 5, {0.1, 0.1, 0}}, {1, 6, {0, 0, 0}},    {1, 6, {1.5708, 0, 0}},
      {2, 6, {3, 0, 0}},     {2, 6, {-100, 0, 0}}, {2, 6, {0.7853981633974483, 0, 0}},
  };
  given.height = 7;
  given.width = 6;
  given.draw(5);
  check_case(given);
}

// A row of the batch that cannot be right is NaN, and is not read for; the others are as ever.
void test_rows_that_cannot_be() {
  const int64_t far = int64_t{1} << 62;
  Case<float, float> given;
  given.images = 6;
  given.batch = {
      {0, 1, {0.1, 1, 1}}, {-1, 0, {0, 0, 0}},      {6, 6, {0.1, 0, 0}},      {far, 1, {0, 1, 1}},
      {0, 6, {0.1, 0, 0}}, {1, -1, {0, 0, 0}},      {2, 7, {0, 0, 0}},        {2, far, {0, 0, 0}},
      {3, 2, {5, 0, 0}},   {3, 2, {0, -1e30, 0}},   {4, 1, {0, 1, NAN}},      {4, 5, {1, INFINITY, 0}},
      {4, 5, {1, 1, NAN}}, {5, 0, {NAN, NAN, NAN}}, {5, 2, {4.5, -4.5, NAN}}, {5, 4, {1, NAN, 0}},
  };
  given.draw(6);
  check_case(given);
}

// In the order of the batch: a sum in another order has other bits.
void test_repeated_rows_add_up_in_order() {
  Case<float, float> given;
  given.images = 2;
  given.height = 3;
  given.width = 3;
  for (int i = 0; i < 100; ++i) given.batch.push_back({i % 7 == 3, 0, {0, 0, 0}});
  given.draw(8);
  check_report(run_transpose<float>(given.call(true)), given.text(), "transpose");
  check_report(start(augmentation::sum_kernel<float>, given.call(true), 1), given.text(), "sum");
  int64_t wrong = 0;
  for (int image = 0; image < 2; ++image)
    for (size_t at = 0; at < given.size(); ++at) {
      float sum = 0;
      for (size_t item = 0; item < given.batch.size(); ++item)
        if (given.batch[item].image == image) sum += given.gradient[item * given.size() + at];
      wrong += given.images_gradient[static_cast<size_t>(image) * given.size() + at] != sum;
    }
  CHECK(wrong == 0, wrong);
}

// Every barrier but the last, which orders what a further image would do, orders something: without it there
// is a race.
void test_every_barrier_is_needed() {
  Case<float, float> given;
  given.batch = {{0, 1, {0.1, 1, 1}}, {1, 1, {0.1, 1, 1}}, {1, 1, {0.2, 1, 1}}, {1, 1, {0.2, 1, 1}}};
  given.draw(9);
  const CudaCall call = given.call(false);
  const emulator::Report whole = run_forward<float, float>(call);
  CHECK(whole.sound(), whole.text());
  CHECK(whole.block_barriers == 4, whole.block_barriers);
  int64_t unneeded = 0;
  for (int64_t barrier = 0; barrier < whole.block_barriers; ++barrier)
    unneeded += run_forward<float, float>(call, {.removed_block_barrier = barrier}).races == 0;
  CHECK(unneeded == 1, unneeded);
}

void test_layouts() {
  const auto parts = [](int64_t batch, int64_t side) {
    CudaCall call{};
    call.params.batch = batch;
    call.params.height = call.params.width = side;
    augmentation::lay_out(call, 132);
    CHECK(int64_t{call.part} * call.parts >= side * side, batch, side);
    CHECK(int64_t{call.part} * (call.parts - 1) < side * side, batch, side);
    return call.parts;
  };
  CHECK(parts(2560, 32) == 1);
  CHECK(parts(100, 32) == 4);
  CHECK(parts(1, 16384) <= 8 * 132);
  CHECK(parts(0, 32) == 1);
}

}  // namespace
}  // namespace dgdd::tests

int main() {
  using namespace dgdd;
  using namespace dgdd::tests;
  // One pixel, one row, more pixels than threads, odd sides, more channels than are gathered at once.
  test_operations<float, float>({{3, 5, 6}, {1, 1, 1}, {5, 1, 9}, {3, 17, 16}});
  test_operations<double, double>({{3, 6, 5}, {9, 7, 1}});
  test_operations<BFloat16, BFloat16>({{3, 7, 7}});
  test_operations<Float16, Float16>({{3, 7, 7}});
  test_operations<uint8_t, float>({{3, 17, 16}, {4, 3, 2}});
  test_operations<uint8_t, double>({{3, 5, 4}});
  test_operations<uint8_t, BFloat16>({{3, 5, 4}});
  test_any_share_and_angle();
  test_rows_that_cannot_be();
  test_repeated_rows_add_up_in_order();
  test_every_barrier_is_needed();
  test_layouts();
  return result();
}
