// The half-spectrum kernel, for the planes that it is made for and a small one.
#include "spectral/fused_half_spectrum_cluster_kernels.cuh"
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
              params, spectral::Settings::of<Stored>(params));
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

// Of at most kMostOfCluster domains.
template <int kPlaneHeight, int kPlaneWidth>
struct ClusterKernel {
  using Plane = half_spectrum::Plane<kPlaneHeight, kPlaneWidth>;
  static constexpr int kHeight = kPlaneHeight, kWidth = kPlaneWidth, kMostGroups = 1;

  template <class Stored>
  static emulator::Report run(const SpectralParams& params, int, emulator::Options options) {
    options.cluster = static_cast<unsigned>(params.domains);
    return emulator::launch(
        static_cast<unsigned>(params.planes() * params.domains), Plane::kThreads, Plane::kSharedBytes,
        [&] {
          half_spectrum::half_spectrum_cluster_kernel<kHeight, kWidth, Stored>(
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

// What depends on how planes are copied.
template <class Small>
void test_copies(bool in_bulk) {
  test_every_kind_of_output<Small, BFloat16>();
  test_domains_that_are_left_out<Small>();
  test_scales<Small>();
  test_every_barrier_is_needed<Small>();
  test_every_barrier_is_needed<Small>(1, 1e-18, Operator::consensus);
  test_every_wait_is_needed<Small>(in_bulk);
  test_every_wait_is_needed<Small>(in_bulk, 1, 1e-18);
}

void test_pipelined() {
  test_every_kind_of_output<PipelinedPlaneKernel<128, 128, 90>, float>();
  test_every_kind_of_output<PipelinedPlaneKernel<128, 64, 80>, BFloat16>();
  test_every_kind_of_output<PipelinedPlaneKernel<64, 128, 90>, float>();
  using Small = PipelinedPlaneKernel<128, 32, 90>;
  test_domains_that_are_left_out<Small>();
  if (kSanitized) return;
  test_small_plane<Small>();
  test_every_number_of_domains<Small>();
  test_copies<Small>(true);
  test_copies<PipelinedPlaneKernel<128, 32, 80>>(false);
}

// The cluster computes what one block does.
template <class Kernel, class OneBlock>
void test_same_bits(int domains, Operator op) {
  Call<float> settings;
  settings.op = op;
  settings.base = op == Operator::surgery;
  settings.domains = domains;
  settings.samples = 3;
  settings.domain_valid.assign(static_cast<size_t>(3 * domains), 1);
  settings.domain_valid[1] = settings.domain_valid.back() = 0;
  Call<float> one = drawn<Kernel>(settings, 31), other = one;
  const emulator::Report report = run<Kernel, float>(one.params());
  CHECK(report.sound() && report.bank_conflicts == 0 && report.remote_bytes > 0, report.text());
  CHECK((run<OneBlock, float>(other.params()).sound()));
  const auto check = [](const std::vector<float>& a, const std::vector<float>& b) {
    CHECK(same_bits(a.data(), b.data(), static_cast<int64_t>(a.size())));
  };
  check(first_result(one), first_result(other));
  check(second_result(one), second_result(other));
}

void test_cluster() {
  test_every_kind_of_output<ClusterKernel<128, 128>, float>();
  test_every_kind_of_output<ClusterKernel<64, 128>, BFloat16>();
  test_same_bits<ClusterKernel<128, 64>, PlaneKernel<128, 64>>(8, Operator::surgery);
  using Small = ClusterKernel<128, 32>;
  test_domains_that_are_left_out<Small>();
  if (kSanitized) return;
  test_small_plane<Small>();
  test_any_address<Small, Float16>();
  test_same_bits<Small, PlaneKernel<128, 32>>(2, Operator::step);
  test_same_bits<Small, PlaneKernel<128, 32>>(5, Operator::consensus);
  test_every_barrier_is_needed<Small>();
  test_every_barrier_is_needed<Small>(1, 1e-18, Operator::consensus);
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
  test_pipelined();
  test_cluster();
  return result();
}
