// The half-spectrum kernel, for the planes that it is made for and a small one.
#include "spectral/fused_half_spectrum_pipelined_kernels.cuh"
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

template <int kPlaneHeight, int kPlaneWidth, int kArchitecture>
struct PipelinedPlaneKernel {
  using Plane = half_spectrum::Plane<kPlaneHeight, kPlaneWidth>;
  static constexpr int kHeight = kPlaneHeight, kWidth = kPlaneWidth, kMostGroups = 1;

  template <class Stored>
  static emulator::Report run(const SpectralParams& params, int, emulator::Options options) {
    options.architecture = kArchitecture;
    return emulator::launch(
        static_cast<unsigned>(params.planes()), Plane::kThreads,
        half_spectrum::kPipelinedBytes<Plane, Stored>,
        [&] {
          half_spectrum::half_spectrum_pipelined_kernel<kHeight, kWidth, Stored>(
              params, spectral::Settings::of<Stored>(params));
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

// What does not depend on the size, where it is quick.
template <class Small>
void test_small_plane() {
  test_approximations_matter<Small>();
  test_every_kind_of_output<Small, BFloat16>();
  test_every_kind_of_output<Small, Float16>();
  test_weights<Small>();
  test_domains_that_are_left_out<Small>();
  test_bad_planes_stay_alone<Small>(Operator::step);
  test_a_domain_index_out_of_range<Small>();
  test_scales<Small>();
}

template <int kArchitecture>
void test_pipelined() {
  constexpr bool kInBulk = kArchitecture >= 90;
  test_every_kind_of_output<PipelinedPlaneKernel<128, 128, kArchitecture>, float>();
  test_every_kind_of_output<PipelinedPlaneKernel<128, 64, kArchitecture>, BFloat16>();
  test_every_kind_of_output<PipelinedPlaneKernel<64, 128, kArchitecture>, float>();
  using Small = PipelinedPlaneKernel<128, 32, kArchitecture>;
  test_small_plane<Small>();
  test_every_number_of_domains<Small>();
  test_bad_planes_stay_alone<Small>(Operator::consensus);
  test_every_barrier_is_needed<Small>();
  test_every_barrier_is_needed<Small>(1, 1e-18, Operator::consensus);
  test_every_wait_is_needed<Small>(kInBulk);
  test_every_wait_is_needed<Small>(kInBulk, 1, 1e-18);
}

}  // namespace
}  // namespace dgdd::tests

int main() {
  using namespace dgdd::tests;
  test_plane<PlaneKernel<128, 128>>();
  test_plane<PlaneKernel<128, 64>>();
  test_plane<PlaneKernel<64, 128>>();
  test_every_number_of_domains<PlaneKernel<128, 128>>();

  using Small = PlaneKernel<128, 32>;
  test_small_plane<Small>();
  test_any_address<Small, float>();
  test_any_address<Small, dgdd::Float16>();
  test_pipelined<90>();
  test_pipelined<80>();
  return result();
}
