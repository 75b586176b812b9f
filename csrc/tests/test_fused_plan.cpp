// How the tile kernels' planes are shared out, against every way to do it.
#include <algorithm>
#include <array>
#include <vector>

#include "spectral/fused_plan.h"
#include "tests/check.h"

namespace dgdd::tests {
namespace {

using namespace spectral;

constexpr TileResources kTile32{32, 384, 4, 14080}, kTile64{128, 384, 3, 50176};
const DeviceFacts kH200{132, 227 * 1024}, kA100{108, 163 * 1024}, kRtx5090{170, 99 * 1024};

// A launch by hand: each place takes the next block as soon as it is free.
int64_t simulated(const TileResources& tile, const DeviceFacts& device, int64_t planes, int64_t domains,
                  int64_t groups) {
  int64_t blocks = 0;  // that a multiprocessor holds
  while ((blocks + 1) * groups * tile.threads <= tile.resident_threads &&
         (blocks + 1) * (groups * tile.shared_bytes + 1024) <= device.shared_bytes + 1024)
    ++blocks;
  int64_t time_of_block = kWayBackTime;
  for (int64_t taken = 0; taken < domains; taken += groups) time_of_block += kDomainTime;
  std::vector<int64_t> free_at(static_cast<size_t>(blocks * device.multiprocessors));
  size_t next = 0;
  for (int64_t plane = 0; plane < planes; ++plane) {
    free_at[next] += time_of_block;
    next = (next + 1) % free_at.size();
  }
  return *std::max_element(free_at.begin(), free_at.end());
}

int64_t time_of(const TileResources& tile, const DeviceFacts& device, int64_t planes, int64_t domains,
                const TilePlan& plan) {
  int64_t time = simulated(tile, device, plan.first_planes, domains, plan.first_groups);
  if (plan.first_planes < planes)
    time += kLaunchTime + simulated(tile, device, planes - plan.first_planes, domains, plan.rest_groups);
  return time;
}

int64_t least_time(const TileResources& tile, const DeviceFacts& device, int64_t planes, int64_t domains) {
  std::vector<int64_t> possible;
  for (int64_t groups = 1; groups <= std::min(tile.most_groups, domains); ++groups)
    if (groups * tile.shared_bytes <= device.shared_bytes) possible.push_back(groups);
  int64_t least = INT64_MAX;
  for (int64_t first_planes = 1; first_planes <= planes; ++first_planes)
    for (const int64_t first : possible)
      for (const int64_t rest : possible)
        least = std::min(least, time_of(tile, device, planes, domains, {first_planes, first, rest}));
  return least;
}

void test_against_every_plan() {
  for (const TileResources& tile : {kTile32, kTile64})
    for (const DeviceFacts& device : {DeviceFacts{1, 227 * 1024}, {3, 99 * 1024}, {5, 163 * 1024}})
      for (const int64_t domains : {1, 2, 3, 5, 8})
        for (int64_t planes = 1; planes < 90; planes = planes * 3 / 2 + 1) {
          const TilePlan plan = best_plan(tile, device, planes, domains);
          CHECK(plan.first_planes >= 1 && plan.first_planes <= planes);
          const int64_t time = time_of(tile, device, planes, domains, plan);
          const int64_t least = least_time(tile, device, planes, domains);
          CHECK(time == least, tile.threads, device.multiprocessors, domains, planes, time, least);
        }
}

void test_sizes_of_distillation() {
  const auto is = [](const TilePlan& plan, int64_t planes, int64_t first, int64_t rest) {
    return plan.first_planes == planes && plan.first_groups == first && plan.rest_groups == rest;
  };
  // 420 planes of 64 px on 396 places: no second wave of 24 blocks that take three rounds.
  CHECK(is(best_plan(kTile64, kH200, 420, 3), 396, 1, 3));
  CHECK(is(best_plan(kTile64, kH200, 396, 3), 396, 1, 0));
  CHECK(is(best_plan(kTile64, kH200, 30, 3), 30, 3, 0));
  CHECK(is(best_plan(kTile32, kH200, 300, 3), 300, 3, 0));
  CHECK(is(best_plan(kTile32, kA100, 300, 4), 300, 2, 0));  // blocks of four would come in two waves
  CHECK(best_groups(kTile64, kRtx5090, 30, 3) == 2);        // 99 KB are not enough for three
  CHECK(best_groups(kTile64, {10, 40 * 1024}, 30, 3) == 0);
}

}  // namespace
}  // namespace dgdd::tests

int main() {
  dgdd::tests::test_against_every_plan();
  dgdd::tests::test_sizes_of_distillation();
  return dgdd::tests::result();
}
