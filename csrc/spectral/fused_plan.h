// How many of a plane's domains go side by side where the fused tile kernels have few planes. Neither CUDA
// nor torch headers are included here.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda_device.h"

namespace dgdd::spectral {

// What a block of one group takes and how many of these fit on a multiprocessor.
struct TileResources {
  int64_t threads;           // of a group
  int64_t resident_threads;  // on a multiprocessor, by their registers
  int64_t most_groups;       // of a block
  int64_t shared_bytes;      // of a group
};

// The first planes by blocks of so many groups, the rest, if there are any, by another launch.
struct TilePlan {
  int64_t first_planes;
  int64_t first_groups;
  int64_t rest_groups;
};

// Half the time that a full multiprocessor takes for a domain of all its blocks. The way back to the output
// takes one and a half times as long as a domain (bench/README.md), a second launch about as long.
constexpr int64_t kDomainTime = 2, kWayBackTime = 3, kLaunchTime = 2;

// Blocks of `groups` groups that a multiprocessor holds. It has a kilobyte more than a block can ask for, and
// each block takes one for the system.
inline int64_t resident_blocks(const TileResources& tile, const DeviceFacts& device, int64_t groups) {
  if (groups > tile.most_groups || groups * tile.shared_bytes > device.shared_bytes) return 0;
  return std::min(tile.resident_threads / (groups * tile.threads),
                  (device.shared_bytes + 1024) / (groups * tile.shared_bytes + 1024));
}

inline int64_t rounded_up_quotient(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The time of a launch: blocks come in waves, and each takes its domains in rounds.
inline int64_t launch_time(const TileResources& tile, const DeviceFacts& device, int64_t planes,
                           int64_t domains, int64_t groups) {
  const int64_t waves =
      rounded_up_quotient(planes, resident_blocks(tile, device, groups) * device.multiprocessors);
  return waves * (kDomainTime * rounded_up_quotient(domains, groups) + kWayBackTime);
}

// The number of groups with which one launch takes the least time, the smallest of these; 0 where not even
// one fits.
inline int64_t best_groups(const TileResources& tile, const DeviceFacts& device, int64_t planes,
                           int64_t domains) {
  int64_t best = 0, least = 0;
  for (int64_t groups = 1; groups <= std::min(tile.most_groups, domains); ++groups) {
    if (resident_blocks(tile, device, groups) == 0) break;
    const int64_t time = launch_time(tile, device, planes, domains, groups);
    if (best == 0 || time < least) best = groups, least = time;
  }
  return best;
}

// The least time for at least one plane, with two launches where the second saves more than it costs: a last
// wave that is nearly empty is better taken by larger blocks.
inline TilePlan best_plan(const TileResources& tile, const DeviceFacts& device, int64_t planes,
                          int64_t domains) {
  const int64_t groups = best_groups(tile, device, planes, domains);
  TilePlan best{planes, groups, 0};
  if (groups == 0) return best;
  int64_t least = launch_time(tile, device, planes, domains, groups);
  for (int64_t first = 1; first <= std::min(tile.most_groups, domains); ++first) {
    const int64_t wave = resident_blocks(tile, device, first) * device.multiprocessors;
    if (wave == 0) break;
    // Full waves first: of what is left over then, fewer waves take longer with any number of groups.
    for (int64_t rest = planes % wave; rest < planes && rest <= 2 * wave; rest += wave) {
      if (rest == 0) continue;
      const int64_t rest_groups = best_groups(tile, device, rest, domains);
      const int64_t time = launch_time(tile, device, planes - rest, domains, first) +
                           launch_time(tile, device, rest, domains, rest_groups) + kLaunchTime;
      if (time < least) best = {planes - rest, first, rest_groups}, least = time;
    }
  }
  return best;
}

}  // namespace dgdd::spectral
