// The half-spectrum kernel against the truth in float64, for every operator and corner case, and against the
// machine: no race, nothing out of bounds, no bank conflict, and no barrier that could be left out.
#include <algorithm>

#include "spectral/fused_half_spectrum_kernels.cuh"
#include "tests/check.h"
#include "tests/spectral_reference.h"

namespace dgdd::tests {
namespace {

namespace half_spectrum = spectral::half_spectrum;

template <class Plane>
struct Size;
template <int kHeight, int kWidth>
struct Size<half_spectrum::Plane<kHeight, kWidth>> {
  static constexpr int height = kHeight, width = kWidth;
};

template <class Plane, class Stored>
emulator::Report run(const SpectralParams& params, const emulator::Options& options = {}) {
  return emulator::launch(
      static_cast<unsigned>(params.planes()), Plane::kThreads, Plane::kSharedBytes,
      [&] {
        half_spectrum::half_spectrum_kernel<Size<Plane>::height, Size<Plane>::width, Stored>(
            params, half_spectrum::Settings::of<Stored>(params));
      },
      options);
}

template <class Stored>
double tolerance() {
  return sizeof(Stored) == 4 ? 3e-7 : precision<Stored>();
}

// Draws a call, runs it and checks everything that can be checked about it.
template <class Plane, class Stored>
void check_call(Call<Stored> call, unsigned seed) {
  call.height = Size<Plane>::height;
  call.width = Size<Plane>::width;
  call.draw(seed);
  const Truth expected = truth(call);
  const emulator::Report report = run<Plane, Stored>(call.params());
  const double first = relative_error(first_result(call), expected.first);
  const double second = relative_error(second_result(call), expected.second);
  std::ostringstream told;
  told << call.height << " x " << call.width << ", operator " << static_cast<int>(call.op) << ", "
       << call.domains << " domains, " << sizeof(Stored) << " bytes, base " << call.base << ", weighted "
       << call.weighted_deviation << ": errors " << first << " and " << second << "; " << report.text();
  CHECK(report.sound() && report.bank_conflicts == 0, told.str());
  CHECK(first < tolerance<Stored>() && second < tolerance<Stored>(), told.str());
}

template <class Plane>
void test_every_number_of_domains() {
  unsigned seed = 0;
  for (const int domains : {1, 2, 3, 4, 5, 8, 16}) {
    Call<float> call;
    call.domains = domains;
    call.op = seed % 3 == 0 ? Operator::consensus : seed % 3 == 1 ? Operator::surgery : Operator::step;
    call.weighted_deviation = seed % 2 == 0;
    check_call<Plane>(call, ++seed);
  }
}

template <class Plane, class Stored>
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
        check_call<Plane>(call, ++seed);
      }
}

// Weights that leave the class signal or the deviation out, or let one of them be all that matters.
template <class Plane>
void test_weights() {
  unsigned seed = 200;
  for (const auto& [alpha, beta] : {std::pair{0.0, 0.0}, {0.0, 1.0}, {1.0, 1.0}, {1.0, 0.0}, {-2.0, 30.0}})
    for (const bool weighted_deviation : {false, true}) {
      Call<float> call;
      call.alpha = alpha;
      call.beta = beta;
      call.weighted_deviation = weighted_deviation;
      check_call<Plane>(call, ++seed);
    }
}

// Samples with all domains, with some, with the assigned one left out and with none; NaN in what is left out.
template <class Plane>
void test_domains_that_are_left_out() {
  for (const bool weighted_deviation : {false, true}) {
    Call<float> call;
    call.op = Operator::step;
    call.samples = 4;
    call.weighted_deviation = weighted_deviation;
    call.domain_index = {0, 2, 1, 1};
    call.domain_valid = {1, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1, 0};
    call.height = Size<Plane>::height;
    call.width = Size<Plane>::width;
    call.draw(7);
    const Truth expected = truth(call);
    for (int domain = 0; domain < 3; ++domain)
      for (int sample = 0; sample < 4; ++sample)
        for (int64_t i = 0; i < call.pixels() && !call.is_valid(domain, sample); ++i)
          call.gradient(domain, sample, i) = std::numeric_limits<float>::quiet_NaN();
    const emulator::Report report = run<Plane, float>(call.params());
    CHECK(report.sound() && report.bank_conflicts == 0, report.text());
    CHECK(relative_error(call.images, expected.first) < 3e-7, weighted_deviation);
    CHECK(relative_error(call.momentum_buffer, expected.second) < 3e-7, weighted_deviation);
  }
}

template <class Stored>
bool same_bits(const Stored* a, const Stored* b, int64_t count) {
  return std::memcmp(a, b, static_cast<size_t>(count) * sizeof(Stored)) == 0;
}

// Two neighbours cannot always be taken at once: the results are the same to the bit.
template <class Plane, class Stored>
void test_any_address() {
  Call<Stored> call;
  call.op = Operator::step;
  call.base = true;
  call.height = Size<Plane>::height;
  call.width = Size<Plane>::width;
  call.draw(9);
  Call<Stored> moved = call;
  moved.domain_grads.insert(moved.domain_grads.begin(), Stored{});
  moved.images.insert(moved.images.begin(), Stored{});
  SpectralParams params = moved.params();
  params.domain_grads = moved.domain_grads.data() + 1;
  params.images = moved.images.data() + 1;
  CHECK((run<Plane, Stored>(call.params()).sound()));
  CHECK((run<Plane, Stored>(params).sound()));
  CHECK(same_bits(moved.images.data() + 1, call.images.data(), call.pixels()));
  CHECK(same_bits(moved.momentum_buffer.data(), call.momentum_buffer.data(), call.pixels()));
}

// A plane with a NaN or an infinity is NaN, and no other plane differs in a bit.
template <class Plane>
void test_bad_planes_stay_alone(Operator op) {
  Call<float> call;
  call.op = op;
  call.channels = 3;
  call.height = Size<Plane>::height;
  call.width = Size<Plane>::width;
  call.draw(11);
  Call<float> bad = call;
  bad.gradient(1, 1, 5) = std::numeric_limits<float>::infinity();
  bad.gradient(2, 2, 100) = std::numeric_limits<float>::quiet_NaN();
  CHECK((run<Plane, float>(call.params()).sound()));
  CHECK((run<Plane, float>(bad.params()).sound()));
  const auto check = [](const std::vector<float>& spoiled, const std::vector<float>& clean) {
    const auto planes = static_cast<int64_t>(spoiled.size() / 3);
    CHECK(same_bits(spoiled.data(), clean.data(), planes));
    CHECK(
        std::all_of(spoiled.begin() + planes, spoiled.end(), [](float value) { return std::isnan(value); }));
  };
  check(first_result(bad), first_result(call));
  check(second_result(bad), second_result(call));
}

template <class Plane>
void test_a_domain_index_out_of_range() {
  for (const int64_t index : {int64_t{-1}, int64_t{3}, std::numeric_limits<int64_t>::max()}) {
    Call<float> call;
    call.op = Operator::step;
    call.samples = 2;
    call.height = Size<Plane>::height;
    call.width = Size<Plane>::width;
    call.domain_index = {1, index};
    call.draw(12);
    const Truth expected = truth(call);
    CHECK((run<Plane, float>(call.params()).sound()));
    CHECK(relative_error(call.images, expected.first, 0, 2) < 3e-7);
    for (size_t i = static_cast<size_t>(call.pixels()); i < call.images.size(); ++i)
      CHECK(std::isnan(call.images[i]) && std::isnan(call.momentum_buffer[i]), i);
  }
}

// Where squares of the spectra leave float32's range; zero everywhere, and without eps.
template <class Plane>
void test_scales() {
  for (const double scale : {0.0, 1e-30, 1e-18, 1e-10, 1e10, 1e18, 1e30}) {
    Call<float> call;
    call.op = Operator::consensus;
    call.eps = 0;
    call.scale = scale;
    check_call<Plane>(call, 13);
  }
  Call<float> call;  // eps stays what it is in another unit
  call.op = Operator::consensus;
  call.eps = 3e-13;
  call.scale = 1e-14;
  check_call<Plane>(call, 14);
}

template <class Plane>
void test_every_barrier_is_needed() {
  Call<float> call;
  call.op = Operator::step;
  call.domains = 2;
  call.height = Size<Plane>::height;
  call.width = Size<Plane>::width;
  call.draw(15);
  const emulator::Report report = run<Plane, float>(call.params());
  CHECK(report.sound() && report.block_barriers > 0 && report.warp_barriers > 0, report.text());
  for (int64_t n = 0; n < report.block_barriers; ++n)
    CHECK((run<Plane, float>(call.params(), {.removed_block_barrier = n}).races > 0), n);
  for (int64_t n = 0; n < report.warp_barriers; ++n)
    CHECK((run<Plane, float>(call.params(), {.removed_warp_barrier = n}).races > 0), n);
}

// What depends on the size.
template <class Plane>
void test_plane() {
  test_every_kind_of_output<Plane, float>();
  test_any_address<Plane, BFloat16>();
  test_bad_planes_stay_alone<Plane>(Operator::consensus);
  test_every_barrier_is_needed<Plane>();
}

}  // namespace
}  // namespace dgdd::tests

int main() {
  using namespace dgdd::tests;
  using dgdd::spectral::half_spectrum::Plane;
  test_plane<Plane<128, 128>>();
  test_plane<Plane<128, 64>>();
  test_plane<Plane<64, 128>>();
  test_every_number_of_domains<Plane<128, 128>>();

  // What does not depend on the size, where it is quick.
  using Small = Plane<128, 32>;
  test_every_kind_of_output<Small, dgdd::BFloat16>();
  test_every_kind_of_output<Small, dgdd::Float16>();
  test_weights<Small>();
  test_domains_that_are_left_out<Small>();
  test_any_address<Small, float>();
  test_any_address<Small, dgdd::Float16>();
  test_bad_planes_stay_alone<Small>(Operator::step);
  test_a_domain_index_out_of_range<Small>();
  test_scales<Small>();
  return result();
}
