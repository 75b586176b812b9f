// The emulator must see what it is there to see: every kind of fault, once made on purpose, and none where
// there is none.
#include <numeric>
#include <vector>

#include "cuda_shim.h"
#include "tests/check.h"

namespace dgdd {
namespace {

using emulator::launch;
using emulator::Options;
using emulator::Report;

constexpr unsigned kAll = 0xffffffffu;

// Block sums by a tree in shared memory.
__global__ void block_sum(const float* values, float* sums, int count) {
  const Shared<float> partial = dynamic_shared<float>(0, static_cast<int>(blockDim.x));
  const int thread = static_cast<int>(threadIdx.x);
  float sum = 0;
  for (int i = static_cast<int>(blockIdx.x * blockDim.x) + thread; i < count;
       i += static_cast<int>(gridDim.x * blockDim.x))
    sum += values[i];
  partial.store(thread, sum);
  for (int half = static_cast<int>(blockDim.x) / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) partial.store(thread, partial.load(thread) + partial.load(thread + half));
  }
  if (thread == 0) sums[blockIdx.x] = partial.load(0);
}

void test_a_block_sum() {
  std::vector<float> values(1000);
  std::iota(values.begin(), values.end(), 0.0f);
  std::vector<float> sums(3);
  const auto run = [&](Options options) {
    return launch(3, 64, 64 * sizeof(float), [&] { block_sum(values.data(), sums.data(), 1000); }, options);
  };
  const Report report = run({});
  CHECK(report.sound(), report.text());
  CHECK(report.bank_conflicts == 0, report.text());
  CHECK(report.block_barriers == 6);
  CHECK(sums[0] + sums[1] + sums[2] == 499500.0f);
  for (int64_t barrier = 0; barrier < report.block_barriers; ++barrier) {
    const Report mutant = run({.removed_block_barrier = barrier});
    CHECK(mutant.races > 0, barrier, mutant.text());
  }
}

// Warps transpose 32 x 32 words each on their own.
__global__ void warp_transpose(int* out, int pitch) {
  const int lane = static_cast<int>(threadIdx.x), warp = static_cast<int>(threadIdx.y);
  const Shared<int> tile = dynamic_shared<int>(warp * 32 * pitch * 4, 32 * pitch);
  for (int row = 0; row < 32; ++row) tile.store(row * pitch + lane, 1000 * warp + 32 * row + lane);
  __syncwarp();
  for (int row = 0; row < 32; ++row) out[(warp * 32 + row) * 32 + lane] = tile.load(lane * pitch + row);
}

void test_warp_barriers_and_bank_conflicts() {
  std::vector<int> out(2 * 32 * 32);
  const auto run = [&](int pitch, Options options = {}) {
    return launch(
        1, dim3(32, 2), static_cast<size_t>(2 * 32 * pitch * 4), [&] { warp_transpose(out.data(), pitch); },
        options);
  };
  const Report padded = run(33);
  CHECK(padded.sound(), padded.text());
  CHECK(padded.bank_conflicts == 0, padded.text());
  CHECK(padded.shared_accesses == 128 && padded.wavefronts == 128);
  CHECK(padded.warp_barriers == 1 && padded.block_barriers == 0);
  CHECK(out[(32 + 3) * 32 + 5] == 1000 + 32 * 5 + 3);
  CHECK(run(32).bank_conflicts == 64 * 31, "every load of a column by 32 lanes meets one bank");
  CHECK(run(34).bank_conflicts == 64);
  CHECK(run(33, {.removed_warp_barrier = 0}).races > 0);
}

template <class T>
int64_t conflicts(int stride) {
  const Report report = launch(1, 32, static_cast<size_t>(32 * stride) * sizeof(T), [&] {
    const Shared<T> words = dynamic_shared<T>(0, 32 * stride);
    words.store(static_cast<int>(threadIdx.x) * stride, T{});
  });
  CHECK(report.sound(), report.text());
  return report.bank_conflicts;
}

void test_wide_accesses_are_served_in_parts_of_a_warp() {
  CHECK(conflicts<float>(1) == 0 && conflicts<float>(2) == 1 && conflicts<float>(3) == 0);
  CHECK(conflicts<float2>(1) == 0 && conflicts<float2>(2) == 2 && conflicts<float2>(16) == 30);
  CHECK(conflicts<float4>(1) == 0 && conflicts<float4>(2) == 4 && conflicts<float4>(8) == 28);
}

void test_divergent_lanes_are_matched_by_position() {
  const Report report = launch(1, 32, 64 * 4, [] {
    const Shared<int> words = dynamic_shared<int>(0, 64);
    const int lane = static_cast<int>(threadIdx.x);
    if (lane < 8) words.store(lane, 0);
    if (lane % 2 == 0) words.store(32 + lane, 0);
  });
  CHECK(report.sound() && report.bank_conflicts == 0, report.text());
  CHECK(report.shared_accesses == 2 && report.wavefronts == 2);
}

void test_faults_are_seen() {
  const auto shared = [] { return dynamic_shared<int>(0, 64); };
  const auto run = [](const std::function<void()>& kernel) { return launch(1, 64, 64 * 4, kernel); };
  const auto thread = [] { return static_cast<int>(threadIdx.x); };

  Report report = run([&] { shared().store(thread() + 1, 1); });
  CHECK(report.out_of_bounds == 1, report.text());
  report = run([&] { dynamic_shared<int>(64 * 4 - 4, 64).store(thread() == 0 ? 0 : 1, 1); });
  CHECK(report.out_of_bounds == 63, report.text());
  report = run([&] { dynamic_shared<float2>(4, 16).store(0, {}); });
  CHECK(report.out_of_bounds == 64, report.text());
  report = run([&] { shared().load(thread()); });
  CHECK(report.uninitialised == 64, report.text());
  report = run([&] { shared().store(thread() / 2, 1); });
  CHECK(report.races == 32, report.text());
  report = run([&] {
    shared().store(thread(), 1);
    shared().load(thread() ^ 1);
  });
  CHECK(report.races > 0, report.text());
  report = run([&] {  // shuffles order nothing
    shared().store(thread(), 1);
    __shfl_xor_sync(kAll, 0, 1);
    shared().load(thread() ^ 1);
  });
  CHECK(report.races > 0, report.text());
  report = run([&] {  // a warp's barrier orders that warp only
    shared().store(thread(), 1);
    __syncwarp();
    shared().load(thread() ^ 32);
  });
  CHECK(report.races > 0, report.text());
  report = run([&] {  // write after reads, which have not ended
    shared().store(thread(), 1);
    __syncthreads();
    shared().load(63 - thread());
    shared().store(thread(), 2);
  });
  CHECK(report.races > 0, report.text());
  report = run([&] {
    if (thread() < 40) __syncthreads();
  });
  CHECK(report.divergences == 1, report.text());
  report = run([&] {
    if (thread() < 40)
      __syncthreads();
    else
      __syncthreads();
  });
  CHECK(report.divergences == 1, report.text());
  report = run([&] {
    if (thread() != 7) __syncwarp();
  });
  CHECK(report.divergences == 1, report.text());
  report = run([&] { __syncwarp(1u); });
  CHECK(report.divergences > 0, report.text());
  report = run([&] { __shfl_sync(0xffffu << (thread() % 32 / 16 * 16), 1, 5); });
  CHECK(report.divergences == 32, report.text());
}

void test_orders_that_hold_are_no_faults() {
  const auto thread = [] { return static_cast<int>(threadIdx.x); };
  const Report report = launch(2, 64, 65 * 4, [&] {
    const Shared<int> words = dynamic_shared<int>(0, 65);
    DGDD_SHARED(float2, others, 8);
    if (thread() == 0) words.store(64, 0);
    __syncthreads();
    words.atomic_add(64, 1);
    if (thread() % 32 <
        8) {  // part of a warp, twice: the second barrier passes on what the first has ordered
      if (thread() < 8) others.store(thread(), make_float2(1, 2));
      __syncwarp(0xffu);
    }
    if (thread() >= 4 && thread() < 12) {
      __syncwarp(0xff0u);
      if (thread() >= 8) others.load(thread() - 8);
    }
    __syncthreads();
    CHECK(words.load(64) == 64);
  });
  CHECK(report.sound(), report.text());
}

void test_warp_operations() {
  std::vector<int> got(64 * 8);
  int* const out = got.data();
  const Report report = launch(1, 64, 0, [&] {
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
    int* mine = out + thread * 8;
    mine[0] = __shfl_xor_sync(kAll, thread, 5);
    mine[1] = __shfl_down_sync(kAll, thread, 3);
    mine[2] = __shfl_up_sync(kAll, thread, 3, 8);
    mine[3] = __shfl_sync(kAll, thread, 2, 16);
    mine[4] = static_cast<int>(__ballot_sync(kAll, lane % 3 == 0));
    mine[5] = __any_sync(kAll, thread == 40) + 2 * __all_sync(kAll, thread < 32);
    mine[6] = __reduce_add_sync(kAll, lane) + 1000 * __reduce_max_sync(kAll, lane);
    if (lane >= 16) mine[7] = __shfl_xor_sync(0xffff0000u, thread, 1);
  });
  CHECK(report.sound(), report.text());
  for (int thread = 0; thread < 64; ++thread) {
    const int lane = thread % 32, first = thread - lane;
    const int* mine = out + thread * 8;
    CHECK(mine[0] == first + (lane ^ 5));
    CHECK(mine[1] == (lane + 3 < 32 ? thread + 3 : thread));
    CHECK(mine[2] == (lane % 8 >= 3 ? thread - 3 : thread));
    CHECK(mine[3] == first + lane / 16 * 16 + 2);
    CHECK(mine[4] == 0x49249249);
    CHECK(mine[5] == (thread < 32 ? 2 : 1));
    CHECK(mine[6] == 31 * 16 + 31000);
    CHECK(lane < 16 || mine[7] == first + (lane ^ 1));
  }
  const Report votes = launch(1, 48, 0, [] {
    CHECK(__syncthreads_or(threadIdx.x == 47) == 1);
    CHECK(__syncthreads_and(threadIdx.x < 47) == 0);
    CHECK(__syncthreads_count(threadIdx.x % 2 == 0) == 24);
  });
  CHECK(votes.sound() && votes.block_barriers == 0, votes.text());
}

}  // namespace
}  // namespace dgdd

int main() {
  dgdd::test_a_block_sum();
  dgdd::test_warp_barriers_and_bank_conflicts();
  dgdd::test_wide_accesses_are_served_in_parts_of_a_warp();
  dgdd::test_divergent_lanes_are_matched_by_position();
  dgdd::test_faults_are_seen();
  dgdd::test_orders_that_hold_are_no_faults();
  dgdd::test_warp_operations();
  return dgdd::tests::result();
}
