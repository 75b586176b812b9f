// What happens at one frequency bin and at one pixel, shared by the CPU and the CUDA general tier. No torch
// header is included here.
#pragma once

#include <cmath>

#include "host_device.h"

namespace dgdd::spectral {

// The domains' spectra at one bin, added up one after another in the order of the domains.
template <class Real>
struct BinSum {
  Real re;
  Real im;
  Real magnitudes;  // sum of |G|

  DGDD_HOST_DEVICE void add(Real bin_re, Real bin_im) {
    re += bin_re;
    im += bin_im;
    magnitudes += std::sqrt(bin_re * bin_re + bin_im * bin_im);
  }

  // SGS, Eq. 9. Zero where every domain is zero, even with eps = 0; the comparison leaves NaN in the
  // quotient.
  DGDD_HOST_DEVICE Real resultant_length(Real eps) const {
    const Real denominator = magnitudes + eps;
    const Real numerator = std::sqrt(re * re + im * im);
    return denominator == Real(0) ? Real(0) : numerator / denominator;
  }
};

// SGS, Eq. 11, at one pixel. `centre` is what the assigned domain's gradient `own` deviates from.
template <class Real>
DGDD_HOST_DEVICE Real surgery(Real base, Real class_signal, Real own, Real centre, Real alpha, Real beta) {
  return base + alpha * class_signal + beta * (own - centre);
}

}  // namespace dgdd::spectral
