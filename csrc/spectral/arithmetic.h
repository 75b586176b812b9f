// What happens at one frequency bin and at one pixel, shared by the CPU and the CUDA general tier. No torch
// header is included here.
#pragma once

#include <cmath>

#include "host_device.h"

namespace dgdd::spectral {

// On CUDA the device's own square root for float32: at most one unit in the last place off, and subnormal
// numbers count as 0. A unit of the emulator includes cuda_shim.h first.
DGDD_HOST_DEVICE float square_root(float value) {
#if defined(__CUDA_ARCH__)
  float root;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(value));
  return root;
#elif defined(DGDD_EMULATOR)
  return emulator::approximate_square_root(value);
#else
  return std::sqrt(value);
#endif
}
DGDD_HOST_DEVICE double square_root(double value) { return std::sqrt(value); }

// The domains' spectra at one bin, added up one after another in the order of the domains.
template <class Real>
struct BinSum {
  Real re;
  Real im;
  Real magnitudes;  // sum of |G|

  DGDD_HOST_DEVICE void add(Real bin_re, Real bin_im) {
    re += bin_re;
    im += bin_im;
    magnitudes += square_root(bin_re * bin_re + bin_im * bin_im);
  }

  // SGS, Eq. 9. Zero where every domain is zero, even with eps = 0; the comparison leaves NaN in the
  // quotient.
  DGDD_HOST_DEVICE Real resultant_length(Real eps) const {
    const Real denominator = magnitudes + eps;
    const Real numerator = square_root(re * re + im * im);
    return denominator == Real(0) ? Real(0) : numerator / denominator;
  }
};

// SGS, Eq. 11, at one pixel. `centre` is what the assigned domain's gradient `own` deviates from.
template <class Real>
DGDD_HOST_DEVICE Real surgery(Real base, Real class_signal, Real own, Real centre, Real alpha, Real beta) {
  return base + alpha * class_signal + beta * (own - centre);
}

}  // namespace dgdd::spectral
