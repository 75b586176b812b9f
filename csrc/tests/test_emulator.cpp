// The emulator must see what it is there to see: every kind of fault, once made on purpose, and none where
// there is none.
#include <array>
#include <cmath>
#include <limits>
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
  CHECK(report.misaligned == 64, report.text());
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

// -------- copies, mbarriers, clusters

// Sums rows of 64 values, each fetched while the one before is added up: in bulk, or by the threads.
constexpr int kRow = 64;

__global__ void sum_rows(const float* rows, int count, float* sums, bool in_bulk) {
  const Shared<float> row = dynamic_shared<float>(0, kRow);
  const CopyBarrier arrived(kRow * 4);
  const int thread = static_cast<int>(threadIdx.x);
  const auto start = [&](int next) {
    if (next == count) return;
    if (!in_bulk) {
      if (thread < kRow / 4) copy_16_bytes(row, 4 * thread, rows + next * kRow + 4 * thread);
      commit_copies();
    } else if (thread == 0) {
      arrived.arrive_expecting(kRow * 4);
      copy_bulk(row, 0, rows + next * kRow, kRow, arrived);
    }
  };
  if (in_bulk && thread == 0) {
    arrived.init(1);
    fence_for_copies();
  }
  __syncthreads();
  start(0);
  float sum = 0;
  for (int i = 0; i < count; ++i) {
    if (in_bulk) {
      arrived.wait(i % 2);
    } else {
      wait_for_copies<0>();
      __syncthreads();
    }
    const float value = row.load(thread);
    __syncthreads();
    start(i + 1);
    sum += value;
  }
  sums[thread] = sum;
}

void test_copies() {
  for (const bool in_bulk : {false, true}) {
    alignas(16) static float rows[4 * kRow];
    std::iota(std::begin(rows), std::end(rows), 1.0f);
    std::vector<float> sums(kRow);
    const auto run = [&](const Options& options) {
      return launch(1, kRow, kRow * 4 + 8, [&] { sum_rows(rows, 4, sums.data(), in_bulk); }, options);
    };
    const Report report = run({});
    CHECK(report.sound() && report.bank_conflicts == 0, report.text());
    CHECK(report.waits == 4 && report.copied_bytes == 4 * kRow * 4 && sums[3] == 4 * 4 + 6 * kRow);
    // Not needed here: the last barrier, and for the threads' own copies the first one.
    for (int64_t n = in_bulk ? 0 : 1; n + 1 < report.block_barriers; ++n)
      CHECK(!run({.removed_block_barrier = n}).sound(), in_bulk, n);
    for (int64_t n = 0; n < report.waits; ++n) {
      const Report mutant = run({.removed_wait = n});
      CHECK(mutant.races > 0, in_bulk, n, mutant.text());
    }
    if (!in_bulk) continue;
    CHECK(report.expectations == 4 && report.fences == 1);
    for (int64_t n = 0; n < 4; ++n) {
      CHECK(!run({.flipped_wait = n}).sound(), n);
      const Report more = run({.altered_expectation = n});
      CHECK(more.divergences == 1, more.text());  // waits for ever
      const Report fewer = run({.altered_expectation = n, .expectation_error = -16});
      CHECK(fewer.misuses == 1, fewer.text());
    }
    CHECK(run({.removed_fence = 0}).misuses == 4);
  }
}

void test_faults_of_copies_are_seen() {
  alignas(16) static float source[64];
  const auto thread = [] { return static_cast<int>(threadIdx.x); };
  const Shared<float> row({emulator::Span::kOwn, 0, 64});
  const CopyBarrier arrived(256);
  const auto run = [&](const std::function<void()>& after_start) {
    std::fill(std::begin(source), std::end(source), 1.0f);
    return launch(1, 32, 256 + 16, [&] {
      if (thread() == 0) {
        arrived.init(1);
        fence_for_copies();
        arrived.arrive_expecting(64);
        copy_bulk(row, 0, source, 16, arrived);
      }
      __syncthreads();
      after_start();
    });
  };
  const auto wait = [&] { arrived.wait(0); };
  Report report = run(wait);
  CHECK(report.sound(), report.text());
  report = run([&] { wait(), CHECK(row.load(thread() % 16) == 1.0f); });
  CHECK(report.sound(), report.text());
  report = run([&] {  // one thread's wait is enough for all that a barrier puts after it
    if (thread() == 7) wait();
    __syncwarp();
    row.load(thread() % 16);
  });
  CHECK(report.sound(), report.text());
  report = run([&] {  // it has arrived by chance
    if (thread() == 7) wait();
    if (thread() == 8) {
      __shfl_sync(3u << 8, 0, 9);
      row.load(1);
    } else if (thread() == 9) {
      wait();
      __shfl_sync(3u << 8, 0, 9);
    }
  });
  CHECK(report.races == 1, report.text());
  float read = 0;
  report = run([&] {
    if (thread() == 5) read = row.load(3);
    wait();
  });
  CHECK(report.races == 1 && std::isnan(read), report.text());
  report = run([&] {
    if (thread() == 5) row.store(3, 0);
    wait();
  });
  CHECK(report.races == 1, report.text());
  report = run([&] {
    source[1] = 2;
    wait();
  });
  CHECK(report.races == 1, report.text());
  report = run([] {});
  CHECK(report.misuses == 1, report.text());  // the block ends before
  report = run([&] { arrived.wait(1); });
  CHECK(report.misuses > 0, report.text());
  report = run([&] {
    wait();
    arrived.wait(1);
  });
  CHECK(report.divergences == 1 && report.told[0].find("1 arrivals") != std::string::npos, report.text());
  report = run([&] {
    if (thread() == 0) arrived.arrive();
    wait();
  });
  CHECK(report.misuses > 0, report.text());
  for (const bool all_are_through : {false, true}) {
    report = run([&] {
      wait();
      if (all_are_through) __syncwarp();
      if (thread() == 7) arrived.arrive();
      arrived.wait(1);
    });
    CHECK(report.sound() == all_are_through, report.text());
    CHECK(report.misuses == (all_are_through ? 0 : 31), report.text());
  }
  report = run([&] {
    wait();
    if (thread() == 0) copy_bulk(row, 0, source, 16, CopyBarrier(264));
  });
  CHECK(report.misuses == 1, report.text());  // nobody initialised it
  report = run([&] {
    wait();
    if (thread() < 2) dynamic_shared<int>(256, 2).load(thread());
  });
  CHECK(report.misuses == 2, report.text());
  for (const bool fenced : {true, false}) {  // a copy over what threads wrote
    report = run([&] {
      row.store(16 + thread(), 0);
      if (fenced) fence_for_copies();
      wait();
      __syncthreads();
      if (thread() == 0) {
        arrived.arrive_expecting(64);
        copy_bulk(row, 16, source, 16, arrived);
      }
      arrived.wait(1);
    });
    CHECK(report.sound() == fenced && (report.misuses > 0) != fenced, report.text());
  }
  for (const auto& [to, from, count] : {std::array{1, 0, 16}, {0, 1, 16}, {0, 0, 3}, {0, 0, 0}}) {
    report = launch(1, 1, 256, [&] {
      if (count == 16) copy_16_bytes(row, to, source + from);
      const CopyBarrier bytes(248);
      bytes.init(1);
      fence_for_copies();
      copy_bulk(row, to, source + from, count, bytes);
    });
    CHECK(report.misuses == (count == 16 ? 2 : 1), to, from, count, report.text());
  }
  report = launch(1, 1, 256, [&] { copy_16_bytes(dynamic_shared<float>(0, 64), 64, source); });
  CHECK(report.out_of_bounds == 1, report.text());
  report = launch(1, 1, 256, [&] {
    copy_16_bytes(row, 0, source);
    commit_copies();
    copy_16_bytes(row, 4, source);
    commit_copies();
    wait_for_copies<1>();
    row.load(0);
  });
  CHECK(report.misuses == 1 && report.races == 0, report.text());  // the second one is still on its way
  report = launch(1, 32, 256 + 8, [&] {
    if (thread() == 0) arrived.init(1);
    if (thread() == 1) arrived.wait(1);
  });
  CHECK(report.races == 1, report.text());  // initialised, but for whom?
}

// An arrival comes before what follows a wait for its phase: producers and consumers of whole warps.
void test_mbarriers_order_threads() {
  const auto run = [](int arrivals, Options options = {}) {
    return launch(
        1, 96, 64 * 4 + 8,
        [&] {
          const Shared<int> words = dynamic_shared<int>(0, 64);
          const CopyBarrier full(64 * 4);
          const int thread = static_cast<int>(threadIdx.x);
          if (thread == 0) full.init(arrivals);
          __syncthreads();
          if (thread < 64) {
            words.store(thread, thread);
            full.arrive();
          } else {
            full.wait(0);
            CHECK(words.load(thread - 64) + words.load(thread - 32) == 2 * thread - 96);
          }
        },
        options);
  };
  Report report = run(64);
  CHECK(report.sound(), report.text());
  report = run(32);  // the second warp ends the next phase, and so this one seems not to be over
  CHECK(report.divergences == 1, report.text());
  report = run(65);
  CHECK(report.divergences == 1, report.text());
  CHECK(run(64, {.removed_wait = 0}).races > 0);
  CHECK(run(64, {.flipped_wait = 0}).divergences == 1);
}

// Each block of a cluster adds up what the others have.
void test_clusters() {
  std::vector<int> sums(6);
  const auto kernel = [&](bool waits_at_the_end) {
    const Shared<int> words = dynamic_shared<int>(0, 32);
    const int thread = static_cast<int>(threadIdx.x);
    words.store(thread, 100 * static_cast<int>(blockIdx.x) + thread);
    cluster_barrier();
    int sum = 0;
    for (int other = 0; other < cluster_size(); ++other)
      sum += words.of_block(other).load((thread + cluster_rank()) % 32);
    if (waits_at_the_end) cluster_barrier();
    if (thread == 1) sums[blockIdx.x] = sum;
  };
  const auto run = [&](Options options, bool waits_at_the_end = true) {
    options.cluster = 3;
    return launch(6, 32, 32 * 4, [&] { kernel(waits_at_the_end); }, options);
  };
  Report report = run({});
  CHECK(report.sound() && report.cluster_barriers == 2, report.text());
  CHECK(report.remote_bytes == 6 * 2 * 32 * 4, report.text());
  for (int block = 0; block < 6; ++block)
    CHECK(sums[block] == 3 * (100 * (block / 3 * 3 + 1) + 1 + block % 3));
  report = run({.removed_cluster_barrier = 0});
  CHECK(report.races > 0, report.text());
  report = run({.removed_cluster_barrier = 1});
  CHECK(report.races > 0, report.text());  // the others may have ended
  report = run({}, false);
  CHECK(report.races > 0, report.text());

  report = launch(4, 32, 0, [] {}, {.cluster = 3});
  CHECK(report.misuses == 1, report.text());
  report = launch(2, 32, 4, [] { dynamic_shared<int>(0, 1).of_block(2).load(0); }, {.cluster = 2});
  CHECK(report.out_of_bounds == 64, report.text());
  report = launch(2, 32, 4,
                  [] {
                    if (blockIdx.x == 0) cluster_barrier();
                  },
                  {.cluster = 2});
  CHECK(report.sound(), report.text());  // those that have ended are not waited for
  report = launch(2, 32, 4,
                  [] {
                    if (blockIdx.x == 0)
                      cluster_barrier();
                    else
                      __syncwarp(1u << (threadIdx.x ^ 1u));
                  },
                  {.cluster = 2});
  CHECK(report.divergences > 0, report.text());
  report = launch(2, 32, 4, [] { cluster_wait(); }, {.cluster = 2});
  CHECK(report.misuses == 64, report.text());
}

void test_approximations() {
  using emulator::Approximation;
  int64_t low = 0, high = 0;
  for (const Approximation how :
       {Approximation::nearest, Approximation::low, Approximation::high, Approximation::mixed})
    launch(1, 1, 0,
           [&] {
             for (int i = 0; i < 1000; ++i) {
               const float value = std::ldexp(1.0f + static_cast<float>(i) * 0x1.3579p-11f, i % 240 - 120);
               const double root = std::sqrt(double{value}), reciprocal = 1 / double{value};
               const float of_root = emulator::approximate_square_root(value);
               const float of_reciprocal = approximate_reciprocal(value);
               const double bound = how == Approximation::nearest ? 0x1p-24 : 0x1p-23;
               CHECK(std::fabs(of_root - root) <= bound * root, i, of_root);
               CHECK(std::fabs(of_reciprocal - reciprocal) <= bound * reciprocal, i, of_reciprocal);
               if (how == Approximation::low ||
                   how == Approximation::high) {  // no number further off is allowed
                 const float beyond = how == Approximation::low ? 0.0f : INFINITY;
                 CHECK(std::fabs(std::nextafter(of_root, beyond) - root) > bound * root, i);
                 CHECK(std::fabs(std::nextafter(of_reciprocal, beyond) - reciprocal) > bound * reciprocal, i);
               }
               if (how == Approximation::mixed)
                 low += of_root<root * (1 - 0x1p-24), high += of_root> root * (1 + 0x1p-24);
             }
             constexpr float kInfinity = std::numeric_limits<float>::infinity();
             CHECK(emulator::approximate_square_root(0x1p-127f) == 0.0f);
             CHECK(emulator::approximate_square_root(kInfinity) == kInfinity);
             CHECK(std::isnan(emulator::approximate_square_root(-1.0f)));
             CHECK(std::isnan(emulator::approximate_square_root(NAN)) &&
                   std::isnan(approximate_reciprocal(NAN)));
             CHECK(approximate_reciprocal(0x1p-127f) == kInfinity &&
                   approximate_reciprocal(-0.0f) == -kInfinity);
             CHECK(approximate_reciprocal(0x1p127f) == 0.0f && approximate_reciprocal(kInfinity) == 0.0f);
             CHECK(approximate_reciprocal(0x1p126f) > 0.0f || how == Approximation::low);
           },
           {.approximation = how});
  CHECK(low > 100 && high > 100, low, high);
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
  dgdd::test_copies();
  dgdd::test_faults_of_copies_are_seen();
  dgdd::test_mbarriers_order_threads();
  dgdd::test_clusters();
  dgdd::test_approximations();
  return dgdd::tests::result();
}
