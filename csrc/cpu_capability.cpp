#include "cpu_capability.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

namespace dgdd {
namespace {

constexpr CpuCapability kCapabilities[] = {CpuCapability::baseline, CpuCapability::avx2,
                                           CpuCapability::avx512};

CpuCapability detect() {
#if defined(__x86_64__) && defined(__GNUC__)
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512) return CpuCapability::avx512;
  if (avx2) return CpuCapability::avx2;
#endif
  return CpuCapability::baseline;
}

CpuCapability choose() {
  const CpuCapability best = detect();
  const char* wanted = std::getenv("DGDD_CPU_CAPABILITY");
  if (wanted == nullptr) return best;
  for (const CpuCapability capability : kCapabilities)
    if (std::string_view(wanted) == name(capability)) return std::min(capability, best);
  return best;
}

}  // namespace

CpuCapability cpu_capability() {
  static const CpuCapability chosen = choose();
  return chosen;
}

const char* name(CpuCapability capability) {
  switch (capability) {
    case CpuCapability::avx512:
      return "avx512";
    case CpuCapability::avx2:
      return "avx2";
    default:
      return "baseline";
  }
}

}  // namespace dgdd
