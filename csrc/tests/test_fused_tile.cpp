// The fused tile kernel, every tile of it.
#include "spectral/fused_tile_pipelined_kernels.cuh"
#include "tests/fused_cases.h"

namespace dgdd::tests {
namespace {

template <class Tile>
struct TileKernel {
  static constexpr int kHeight = Tile::kHeight, kWidth = Tile::kWidth, kMostGroups = Tile::kMostGroups;

  template <class Stored>
  static emulator::Report run(const SpectralParams& params, int groups, const emulator::Options& options) {
    return emulator::launch(
        static_cast<unsigned>(params.planes()), dim3(Tile::kThreads, static_cast<unsigned>(groups)),
        static_cast<size_t>(Tile::kSharedBytes * groups),
        [&] { spectral::fused_tile_kernel<Tile, Stored>(params); }, options);
  }
};

template <class Tile, int kArchitecture>
struct PipelinedTileKernel {
  static constexpr int kHeight = Tile::kHeight, kWidth = Tile::kWidth, kMostGroups = Tile::kMostGroups;

  template <class Stored>
  static emulator::Report run(const SpectralParams& params, int groups, emulator::Options options) {
    options.architecture = kArchitecture;
    return emulator::launch(
        static_cast<unsigned>(params.planes()), dim3(Tile::kThreads, static_cast<unsigned>(groups)),
        static_cast<size_t>(spectral::PipelinedTile<Tile>::template kGroupBytes<Stored> * groups),
        [&] {
          spectral::fused_tile_pipelined_kernel<Tile, Stored>(params, spectral::Settings::of<Stored>(params),
                                                              0);
        },
        options);
  }
};

template <class Kernel>
void test_tile() {
  test_approximations_matter<Kernel>();
  test_every_number_of_domains<Kernel>();
  test_every_kind_of_output<Kernel, float>();
  test_every_kind_of_output<Kernel, BFloat16>();
  test_every_kind_of_output<Kernel, Float16>();
  test_weights<Kernel>();
  test_domains_that_are_left_out<Kernel>();
  test_bad_planes_stay_alone<Kernel>(Operator::consensus);
  test_bad_planes_stay_alone<Kernel>(Operator::surgery);
  test_a_domain_index_out_of_range<Kernel>();
  test_scales<Kernel>();
  test_every_barrier_is_needed<Kernel>();
  test_every_barrier_is_needed<Kernel>(1, 1e-18, Operator::consensus);  // through the second pass
  test_every_barrier_is_needed<Kernel>(2);
}

template <class Kernel>
void test_copies(bool in_bulk) {
  test_every_wait_is_needed<Kernel>(in_bulk);
  test_every_wait_is_needed<Kernel>(in_bulk, 1, 1e-18);
  test_every_wait_is_needed<Kernel>(in_bulk, 2);
}

template <class Tile>
void test_pipelined_tile() {
  using InBulk = PipelinedTileKernel<Tile, 90>;
  using ByThreads = PipelinedTileKernel<Tile, 80>;
  if (kSanitized) {
    test_every_kind_of_output<InBulk, float>();
    test_every_kind_of_output<ByThreads, BFloat16>();
    test_domains_that_are_left_out<InBulk>();
    return;
  }
  test_tile<InBulk>();
  test_every_barrier_is_needed<InBulk>(1, 1e-18);
  test_copies<InBulk>(true);

  // What depends on how planes are copied.
  test_every_kind_of_output<ByThreads, float>();
  test_every_kind_of_output<ByThreads, Float16>();
  test_domains_that_are_left_out<ByThreads>();
  test_scales<ByThreads>();
  test_every_barrier_is_needed<ByThreads>();
  test_every_barrier_is_needed<ByThreads>(1, 1e-18, Operator::consensus);
  test_every_barrier_is_needed<ByThreads>(2);
  test_copies<ByThreads>(false);
}

}  // namespace
}  // namespace dgdd::tests

int main() {
  using namespace dgdd::tests;
  using dgdd::spectral::Tile;
  test_tile<TileKernel<Tile<32, 32>>>();
  test_tile<TileKernel<Tile<64, 64>>>();
  test_pipelined_tile<Tile<32, 32>>();
  test_pipelined_tile<Tile<64, 64>>();
  return result();
}
