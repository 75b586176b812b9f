// The instruction set that the CPU kernels use on this machine, chosen once at run time. No torch header is
// included here.
#pragma once

namespace dgdd {

enum class CpuCapability {
  baseline,  // what the compiler's default target has
  avx2,      // AVX2, FMA and F16C
  avx512     // AVX-512 F, DQ, BW and VL besides
};

// The best that this machine has. The environment variable DGDD_CPU_CAPABILITY (baseline, avx2, avx512)
// lowers it, for tests and comparisons.
CpuCapability cpu_capability();

const char* name(CpuCapability capability);

}  // namespace dgdd
