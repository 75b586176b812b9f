// The half-spectrum kernel, for the planes that it is made for and a small one.
#include "spectral/fused_half_spectrum_kernels.cuh"
#include "tests/fused_cases.h"

namespace dgdd::tests {
namespace {

namespace half_spectrum = spectral::half_spectrum;

template <int kPlaneHeight, int kPlaneWidth>
struct PlaneKernel {
  using Plane = half_spectrum::Plane<kPlaneHeight, kPlaneWidth>;
  static constexpr int kHeight = kPlaneHeight, kWidth = kPlaneWidth, kMostGroups = 1;

  template <class Stored>
  static emulator::Report run(const SpectralParams& params, int, const emulator::Options& options) {
    return emulator::launch(
        static_cast<unsigned>(params.planes()), Plane::kThreads, Plane::kSharedBytes,
        [&] {
          half_spectrum::half_spectrum_kernel<kHeight, kWidth, Stored>(
              params, half_spectrum::Settings::of<Stored>(params));
        },
        options);
  }
};

// Two neighbours cannot always be taken at once: the results are the same to the bit.
template <class Kernel, class Stored>
void test_any_address() {
  Call<Stored> settings;
  settings.op = Operator::step;
  settings.base = true;
  Call<Stored> call = drawn<Kernel>(settings, 9);
  Call<Stored> moved = call;
  moved.domain_grads.insert(moved.domain_grads.begin(), Stored{});
  moved.images.insert(moved.images.begin(), Stored{});
  SpectralParams params = moved.params();
  params.domain_grads = moved.domain_grads.data() + 1;
  params.images = moved.images.data() + 1;
  CHECK((run<Kernel, Stored>(call.params()).sound()));
  CHECK((run<Kernel, Stored>(params).sound()));
  CHECK(same_bits(moved.images.data() + 1, call.images.data(), call.pixels()));
  CHECK(same_bits(moved.momentum_buffer.data(), call.momentum_buffer.data(), call.pixels()));
}

// What depends on the size.
template <class Kernel>
void test_plane() {
  test_every_kind_of_output<Kernel, float>();
  test_any_address<Kernel, BFloat16>();
  test_bad_planes_stay_alone<Kernel>(Operator::consensus);
  const emulator::Report report = test_every_barrier_is_needed<Kernel>();
  CHECK(report.block_barriers > 0 && report.warp_barriers > 0, report.text());
}

}  // namespace
}  // namespace dgdd::tests

int main() {
  using namespace dgdd::tests;
  test_plane<PlaneKernel<128, 128>>();
  test_plane<PlaneKernel<128, 64>>();
  test_plane<PlaneKernel<64, 128>>();
  test_every_number_of_domains<PlaneKernel<128, 128>>();

  // What does not depend on the size, where it is quick.
  using Small = PlaneKernel<128, 32>;
  test_approximations_matter<Small>();
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
