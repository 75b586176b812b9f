#include "spectral/params.h"

namespace dgdd::spectral {

bool fused_cpu_available(int64_t, int64_t) { return false; }

int64_t fused_cpu_units(const SpectralParams&) { return 0; }

void launch_fused_cpu(const SpectralParams&, int64_t, int64_t) {}

}  // namespace dgdd::spectral
