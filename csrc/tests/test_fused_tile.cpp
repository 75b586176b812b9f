// The fused tile kernel against the truth in float64, for every tile, operator and corner case, and against
// the machine: no race, nothing out of bounds, no bank conflict, and no barrier that could be left out.
#include <algorithm>

#include "spectral/fused_tile_kernels.cuh"
#include "tests/check.h"
#include "tests/spectral_reference.h"

namespace dgdd::tests {
namespace {

using spectral::Tile;

template <class T, class Stored>
emulator::Report run(Call<Stored>& call, int groups, const emulator::Options& options = {}) {
  const SpectralParams params = call.params();
  const dim3 grid(static_cast<unsigned>(call.planes()));
  return emulator::launch(
      grid, dim3(T::kThreads, static_cast<unsigned>(groups)), static_cast<size_t>(T::kSharedBytes * groups),
      [&] { spectral::fused_tile_kernel<T, Stored>(params); }, options);
}

template <class Stored>
double tolerance() {
  return sizeof(Stored) == 4 ? 3e-7 : precision<Stored>();
}

// Runs a call as it is and checks everything that can be checked about it.
template <class T, class Stored>
void check_call(Call<Stored> call, int groups, unsigned seed) {
  call.height = T::kHeight;
  call.width = T::kWidth;
  call.draw(seed);
  const Truth expected = truth(call);
  const emulator::Report report = run<T>(call, groups);
  const auto told = [&] {
    std::ostringstream text;
    text << T::kHeight << " x " << T::kWidth << ", operator " << static_cast<int>(call.op) << ", "
         << call.domains << " domains, " << groups << " groups, " << sizeof(Stored) << " bytes, base "
         << call.base << ", weighted " << call.weighted_deviation << ": " << report.text();
    return text.str();
  }();
  CHECK(report.sound(), told);
  CHECK(report.bank_conflicts == 0, told);
  const double first = relative_error(first_result(call), expected.first);
  const double second = relative_error(second_result(call), expected.second);
  CHECK(first < tolerance<Stored>(), first, told);
  CHECK(second < tolerance<Stored>(), second, told);
}

template <class T>
void test_every_number_of_domains() {
  unsigned seed = 0;
  for (const int domains : {1, 2, 3, 4, 5, 8, 16})
    for (const int groups : {1, 2, T::kMostGroups}) {
      if (groups > domains || (domains > 5 && groups == 2)) continue;
      Call<float> call;
      call.domains = domains;
      call.op = seed % 3 == 0 ? Operator::consensus : seed % 3 == 1 ? Operator::surgery : Operator::step;
      call.weighted_deviation = seed % 2 == 0;
      check_call<T>(call, groups, ++seed);
    }
}

template <class T, class Stored>
void test_every_kind_of_output() {
  unsigned seed = 100;
  for (const Operator op : {Operator::consensus, Operator::surgery, Operator::step})
    for (const bool base : {false, true})
      for (const bool weighted_deviation : {false, true}) {
        if (op == Operator::consensus && (base || weighted_deviation)) continue;
        Call<Stored> call;
        call.op = op;
        call.base = base;
        call.weighted_deviation = weighted_deviation;
        call.domains = 2;
        ++seed;
        check_call<T>(call, 1 + static_cast<int>(seed % 2), seed);
      }
}

// Samples with all domains, with some, with the assigned one left out and with none; NaN in what is left
// out.
template <class T>
void test_domains_that_are_left_out() {
  for (const int groups : {1, 3})
    for (const bool weighted_deviation : {false, true}) {
      Call<float> call;
      call.op = Operator::step;
      call.domains = 3;
      call.samples = 4;
      call.weighted_deviation = weighted_deviation;
      call.domain_index = {0, 2, 1, 1};
      call.domain_valid = {1, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1, 0};
      call.height = T::kHeight;
      call.width = T::kWidth;
      call.draw(7);
      const Truth expected = truth(call);
      for (int domain = 0; domain < 3; ++domain)
        for (int sample = 0; sample < 4; ++sample)
          for (int64_t i = 0; i < call.pixels() && !call.is_valid(domain, sample); ++i)
            call.gradient(domain, sample, i) = std::numeric_limits<float>::quiet_NaN();
      const emulator::Report report = run<T>(call, groups);
      CHECK(report.sound() && report.bank_conflicts == 0, report.text());
      CHECK(relative_error(call.images, expected.first) < 3e-7, groups, weighted_deviation);
      CHECK(relative_error(call.momentum_buffer, expected.second) < 3e-7, groups, weighted_deviation);
    }
}

bool same_bits(float a, float b) { return bits_as<uint32_t>(a) == bits_as<uint32_t>(b); }

// A plane with a NaN or an infinity is NaN, and no other plane differs in a bit.
template <class T>
void test_bad_planes_stay_alone(Operator op) {
  Call<float> call;
  call.op = op;
  call.samples = 1;
  call.channels = 3;
  call.height = T::kHeight;
  call.width = T::kWidth;
  call.draw(11);
  Call<float> bad = call;
  bad.gradient(1, 1, 5) = std::numeric_limits<float>::infinity();
  bad.gradient(2, 2, 100) = std::numeric_limits<float>::quiet_NaN();
  CHECK(run<T>(call, 1).sound());
  CHECK(run<T>(bad, 1).sound());
  for (int64_t i = 0; i < 3 * call.pixels(); ++i) {
    const size_t at = static_cast<size_t>(i);
    const float value = first_result(bad)[at];
    CHECK(i < call.pixels() ? same_bits(value, first_result(call)[at]) : std::isnan(value), i, value);
  }
  const size_t lengths = bad.resultant_length.size() / 3;
  for (size_t i = 0; i < 3 * lengths; ++i)
    CHECK(i < lengths ? same_bits(bad.resultant_length[i], call.resultant_length[i])
                      : std::isnan(bad.resultant_length[i]),
          i);
}

template <class T>
void test_a_domain_index_out_of_range() {
  for (const int64_t index : {int64_t{-1}, int64_t{3}, std::numeric_limits<int64_t>::max()}) {
    Call<float> call;
    call.op = Operator::step;
    call.samples = 2;
    call.height = T::kHeight;
    call.width = T::kWidth;
    call.domain_index = {1, index};
    call.draw(12);
    const Truth expected = truth(call);
    CHECK(run<T>(call, 1).sound());
    CHECK(relative_error(call.images, expected.first, 0, 2) < 3e-7);
    for (size_t i = static_cast<size_t>(call.pixels()); i < call.images.size(); ++i)
      CHECK(std::isnan(call.images[i]) && std::isnan(call.momentum_buffer[i]), i);
  }
}

// Where squares of the spectra leave float32's range; zero everywhere, and without eps.
template <class T>
void test_scales(double scale) {
  Call<float> call;
  call.op = Operator::consensus;
  call.eps = 0;
  call.scale = scale;
  check_call<T>(call, 1, 13);
  check_call<T>(call, 3, 13);
}

// Every single barrier is needed.
template <class T>
void test_every_barrier_is_needed(int groups, double scale = 1) {
  Call<float> call;
  call.scale = scale;
  call.op = Operator::step;
  call.domains = 2;
  call.samples = 2;
  call.height = T::kHeight;
  call.width = T::kWidth;
  call.draw(14);
  const emulator::Report report = run<T>(call, groups);
  CHECK(report.sound(), report.text());
  std::string idle;
  for (int64_t n = 0; n < report.block_barriers; ++n)
    if (run<T>(call, groups, {.removed_block_barrier = n}).races == 0) idle += " block " + std::to_string(n);
  for (int64_t n = 0; n < report.warp_barriers; ++n)
    if (run<T>(call, groups, {.removed_warp_barrier = n}).races == 0) idle += " warp " + std::to_string(n);
  CHECK(idle.empty(), T::kHeight, T::kWidth, groups, idle, report.block_barriers, report.warp_barriers);
}

template <class T>
void test_tile() {
  test_every_number_of_domains<T>();
  test_every_kind_of_output<T, float>();
  test_every_kind_of_output<T, BFloat16>();
  test_every_kind_of_output<T, Float16>();
  test_domains_that_are_left_out<T>();
  test_bad_planes_stay_alone<T>(Operator::consensus);
  test_bad_planes_stay_alone<T>(Operator::surgery);
  test_a_domain_index_out_of_range<T>();
  for (const double scale : {0.0, 1e-30, 1e-18, 1e-10, 1e10, 1e18, 1e30}) test_scales<T>(scale);
  test_every_barrier_is_needed<T>(1);
  test_every_barrier_is_needed<T>(1, 1e-18);  // through the second pass
  test_every_barrier_is_needed<T>(2);
}

}  // namespace
}  // namespace dgdd::tests

int main() {
  using namespace dgdd::tests;
  test_tile<Tile<32, 32>>();
  test_tile<Tile<64, 64>>();
  return result();
}
