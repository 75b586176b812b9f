// What every fused kernel must do: the truth in float64 for every operator and corner case, and against the
// machine no race, nothing out of bounds, no bank conflict, and no barrier that could be left out.
//
// A `Kernel` has kHeight, kWidth, kMostGroups (among which it may share out the domains) and
//   template <class Stored>
//   static emulator::Report run(const SpectralParams& params, int groups, const emulator::Options& options);
#pragma once

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "tests/check.h"
#include "tests/emulator.h"
#include "tests/spectral_reference.h"

namespace dgdd::tests {

template <class Kernel, class Stored>
emulator::Report run(const SpectralParams& params, int groups = 1, const emulator::Options& options = {}) {
  return Kernel::template run<Stored>(params, groups, options);
}

// A call of the kernel's size with drawn data.
template <class Kernel, class Stored>
Call<Stored> drawn(Call<Stored> call, unsigned seed) {
  call.height = Kernel::kHeight;
  call.width = Kernel::kWidth;
  call.draw(seed);
  return call;
}

// Those of the numbers of groups that the kernel can take for so many domains.
template <class Kernel>
std::set<int> possible(const std::set<int>& groups, int domains) {
  std::set<int> result;
  for (const int count : groups)
    if (count <= domains && count <= Kernel::kMostGroups) result.insert(count);
  return result;
}

// Draws a call, runs it and checks everything that can be checked about it, with one of the worst square
// roots and reciprocals that a device may have.
template <class Kernel, class Stored>
void check_call(const Call<Stored>& settings, int groups, unsigned seed) {
  Call<Stored> call = drawn<Kernel>(settings, seed);
  const Truth expected = truth(call);
  const auto worst = static_cast<emulator::Approximation>(1 + seed % 3);
  const emulator::Report report = run<Kernel, Stored>(call.params(), groups, {.approximation = worst});
  const double first = relative_error(first_result(call), expected.first);
  const double second = relative_error(second_result(call), expected.second);
  std::ostringstream told;
  told << call.height << " x " << call.width << ", operator " << static_cast<int>(call.op) << ", "
       << call.domains << " domains, " << groups << " groups, " << sizeof(Stored) << " bytes, base "
       << call.base << ", weighted " << call.weighted_deviation << ", approximation "
       << static_cast<int>(worst) << ": errors " << first << " and " << second << "; " << report.text();
  CHECK(report.sound() && report.bank_conflicts == 0, told.str());
  CHECK(first < tolerance<Stored>() && second < tolerance<Stored>(), told.str());
}

// The device's approximations reach the kernel.
template <class Kernel>
void test_approximations_matter() {
  Call<float> settings;
  settings.op = Operator::consensus;
  Call<float> low = drawn<Kernel>(settings, 5), high = low;
  run<Kernel, float>(low.params(), 1, {.approximation = emulator::Approximation::low});
  run<Kernel, float>(high.params(), 1, {.approximation = emulator::Approximation::high});
  const auto length = static_cast<int64_t>(low.resultant_length.size());
  CHECK(!same_bits(low.resultant_length.data(), high.resultant_length.data(), length));
}

template <class Kernel>
void test_every_number_of_domains() {
  unsigned seed = 0;
  for (const int domains : {1, 2, 3, 4, 5, 8, 16})
    for (const int groups : possible<Kernel>({1, domains > 5 ? 1 : 2, Kernel::kMostGroups}, domains)) {
      Call<float> call;
      call.domains = domains;
      call.op = seed % 3 == 0 ? Operator::consensus : seed % 3 == 1 ? Operator::surgery : Operator::step;
      call.weighted_deviation = seed % 2 == 0;
      check_call<Kernel>(call, groups, ++seed);
    }
}

template <class Kernel, class Stored>
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
        check_call<Kernel>(call, std::min(1 + static_cast<int>(seed % 2), Kernel::kMostGroups), seed);
      }
}

// Weights that leave the class signal or the deviation out, or let one of them be all that matters.
template <class Kernel>
void test_weights() {
  unsigned seed = 200;
  for (const auto& [alpha, beta] : {std::pair{0.0, 0.0}, {0.0, 1.0}, {1.0, 1.0}, {1.0, 0.0}, {-2.0, 30.0}})
    for (const bool weighted_deviation : {false, true}) {
      Call<float> call;
      call.alpha = alpha;
      call.beta = beta;
      call.weighted_deviation = weighted_deviation;
      check_call<Kernel>(call, 1, ++seed);
    }
}

// Samples with all domains, with some, with the assigned one left out and with none; NaN in what is left out.
template <class Kernel>
void test_domains_that_are_left_out() {
  for (const int groups : possible<Kernel>({1, 3}, 3))
    for (const bool weighted_deviation : {false, true}) {
      Call<float> settings;
      settings.op = Operator::step;
      settings.samples = 4;
      settings.weighted_deviation = weighted_deviation;
      settings.domain_index = {0, 2, 1, 1};
      settings.domain_valid = {1, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1, 0};
      Call<float> call = drawn<Kernel>(settings, 7);
      const Truth expected = truth(call);
      call.spoil_invalid_domains();
      const emulator::Report report = run<Kernel, float>(call.params(), groups);
      CHECK(report.sound() && report.bank_conflicts == 0, report.text());
      CHECK(relative_error(call.images, expected.first) < 3e-7, groups, weighted_deviation);
      CHECK(relative_error(call.momentum_buffer, expected.second) < 3e-7, groups, weighted_deviation);
    }
}

// A plane with a NaN or an infinity is NaN, and no other plane differs in a bit.
template <class Kernel>
void test_bad_planes_stay_alone(Operator op) {
  Call<float> settings;
  settings.op = op;
  settings.channels = 3;
  Call<float> call = drawn<Kernel>(settings, 11);
  Call<float> bad = call;
  bad.gradient(1, 1, 5) = std::numeric_limits<float>::infinity();
  bad.gradient(2, 2, 100) = std::numeric_limits<float>::quiet_NaN();
  CHECK((run<Kernel, float>(call.params()).sound()));
  CHECK((run<Kernel, float>(bad.params()).sound()));
  const auto check = [](const std::vector<float>& spoiled, const std::vector<float>& clean) {
    const auto plane = static_cast<int64_t>(spoiled.size() / 3);
    CHECK(same_bits(spoiled.data(), clean.data(), plane));
    CHECK(std::all_of(spoiled.begin() + plane, spoiled.end(), [](float value) { return std::isnan(value); }));
  };
  check(first_result(bad), first_result(call));
  check(second_result(bad), second_result(call));
}

template <class Kernel>
void test_a_domain_index_out_of_range() {
  for (const int64_t index : {int64_t{-1}, int64_t{3}, std::numeric_limits<int64_t>::max()}) {
    Call<float> settings;
    settings.op = Operator::step;
    settings.samples = 2;
    settings.domain_index = {1, index};
    Call<float> call = drawn<Kernel>(settings, 12);
    const Truth expected = truth(call);
    CHECK((run<Kernel, float>(call.params()).sound()));
    CHECK(relative_error(call.images, expected.first, 0, 2) < 3e-7);
    for (size_t i = static_cast<size_t>(call.pixels()); i < call.images.size(); ++i)
      CHECK(std::isnan(call.images[i]) && std::isnan(call.momentum_buffer[i]), i);
  }
}

// Where squares of the spectra leave float32's range; zero everywhere, and without eps.
template <class Kernel>
void test_scales() {
  for (const int groups : possible<Kernel>({1, 3}, 3)) {
    Call<float> call;
    call.op = Operator::consensus;
    call.eps = 0;
    for (const double scale : {0.0, 1e-30, 1e-18, 1e-10, 1e10, 1e18, 1e30}) {
      call.scale = scale;
      check_call<Kernel>(call, groups, 13);
    }
    call.eps = 3e-13;  // stays what it is in another unit
    call.scale = 1e-14;
    check_call<Kernel>(call, groups, 14);
  }
}

// Whether addresses are checked. Mutations are left out then: what they show is the emulator's to see.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

// What the mutations of a kernel are tried on.
template <class Kernel>
Call<float> small_call(Operator op, bool base, double scale) {
  Call<float> settings;
  settings.op = op;
  settings.base = base;
  settings.domains = 2;
  settings.samples = 2;
  settings.scale = scale;
  return drawn<Kernel>(settings, 15);
}

// Returns the report of the run with all of them.
template <class Kernel>
emulator::Report test_every_barrier_is_needed(int groups = 1, double scale = 1,
                                              Operator op = Operator::step) {
  Call<float> call = small_call<Kernel>(op, false, scale);
  const auto is_sound_without = [&](const emulator::Options& removed) {
    return run<Kernel, float>(call.params(), groups, removed).sound();
  };
  const emulator::Report report = run<Kernel, float>(call.params(), groups);
  CHECK(report.sound() && report.block_barriers + report.warp_barriers > 0, report.text());
  if (kSanitized) return report;
  std::string idle;
  for (int64_t n = 0; n < report.block_barriers; ++n)
    if (is_sound_without({.removed_block_barrier = n})) idle += " block " + std::to_string(n);
  for (int64_t n = 0; n < report.warp_barriers; ++n)
    if (is_sound_without({.removed_warp_barrier = n})) idle += " warp " + std::to_string(n);
  for (int64_t n = 0; n < report.cluster_barriers; ++n)
    if (is_sound_without({.removed_cluster_barrier = n})) idle += " cluster " + std::to_string(n);
  CHECK(idle.empty(), Kernel::kHeight, Kernel::kWidth, groups, idle, report.text());
  return report;
}

// Waits for copies left out or for the wrong phase, wrong numbers of bytes, fences left out. `in_bulk`: how
// the kernel copies.
template <class Kernel>
void test_every_wait_is_needed(bool in_bulk, int groups = 1, double scale = 1) {
  Call<float> call = small_call<Kernel>(Operator::step, true, scale);
  const auto is_sound_with = [&](const emulator::Options& mutation) {
    return run<Kernel, float>(call.params(), groups, mutation).sound();
  };
  const emulator::Report report = run<Kernel, float>(call.params(), groups);
  CHECK(report.sound() && report.waits > 0, report.text());
  CHECK((report.expectations > 0) == in_bulk && (report.fences > 0) == in_bulk, report.text());
  if (kSanitized) return;
  std::string unseen;
  for (int64_t n = 0; n < report.waits; ++n) {
    if (is_sound_with({.removed_wait = n})) unseen += " wait " + std::to_string(n);
    if (in_bulk && is_sound_with({.flipped_wait = n})) unseen += " phase " + std::to_string(n);
  }
  for (int64_t n = 0; n < report.expectations; ++n) {
    if (is_sound_with({.altered_expectation = n})) unseen += " more bytes " + std::to_string(n);
    if (is_sound_with({.altered_expectation = n, .expectation_error = -16}))
      unseen += " fewer bytes " + std::to_string(n);
  }
  for (int64_t n = 0; n < report.fences; ++n)
    if (is_sound_with({.removed_fence = n})) unseen += " fence " + std::to_string(n);
  CHECK(unseen.empty(), Kernel::kHeight, Kernel::kWidth, groups, unseen, report.text());
}

}  // namespace dgdd::tests
