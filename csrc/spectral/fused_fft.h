// Discrete Fourier transforms of 2 to 16 values held in registers, one transform per lane, and the roots of
// unity between them. Included only by units that are compiled once per instruction set.
#pragma once

#include "spectral/fused_simd.h"
#include "spectral/twiddles.h"

namespace dgdd::spectral::DGDD_ISA {
namespace {

// exp(-2 pi i k / N), made at compile time: a table made when the library is loaded would run this unit's
// instructions on any machine.
template <int N>
struct Roots {
  float re[N];
  float im[N];
  constexpr Roots() : re(), im() {
    for (int k = 0; k < N; ++k) {
      re[k] = static_cast<float>(root_cosine(k, N));
      im[k] = static_cast<float>(-root_sine(k, N));
    }
  }
};

template <int N>
constexpr Roots<N> kRoots = Roots<N>();

// exp(-2 pi i k l / N) for k < N / kLanes, l < kLanes.
template <int N>
struct Twiddles {
  static constexpr int kRadix = N / kLanes;
  alignas(64) float re[kRadix][kLanes];
  alignas(64) float im[kRadix][kLanes];
  constexpr Twiddles() : re(), im() {
    for (int k = 0; k < kRadix; ++k)
      for (int l = 0; l < kLanes; ++l) {
        re[k][l] = kRoots<N>.re[k * l % N];
        im[k][l] = kRoots<N>.im[k * l % N];
      }
  }
};

template <int N>
constexpr Twiddles<N> kTwiddles = Twiddles<N>();

DGDD_INLINE Complex times(Complex a, Vec re, Vec im) {
  return {a.re * re - a.im * im, a.re * im + a.im * re};
}
DGDD_INLINE Complex times_conjugate(Complex a, Vec re, Vec im) {
  return {a.re * re + a.im * im, a.im * re - a.re * im};
}
DGDD_INLINE Complex swapped(Complex a) { return {a.im, a.re}; }

// The forward transform of length N in place, results in natural order, by halves: even and odd values, then
// one butterfly. The inverse (without 1/N) is the same with the roles of real and imaginary parts swapped
// before and after.
template <int N>
DGDD_INLINE void transform(Complex* v) {
  if constexpr (N == 2) {
    const Complex a = v[0], b = v[1];
    v[0] = {a.re + b.re, a.im + b.im};
    v[1] = {a.re - b.re, a.im - b.im};
  } else {
    constexpr int kHalf = N / 2;
    Complex even[kHalf], odd[kHalf];
    for (int i = 0; i < kHalf; ++i) {
      even[i] = v[2 * i];
      odd[i] = v[2 * i + 1];
    }
    transform<kHalf>(even);
    transform<kHalf>(odd);
    for (int k = 0; k < kHalf; ++k) {
      const Complex a = even[k], b = odd[k];
      if (4 * k == N) {  // times -i
        v[k] = {a.re + b.im, a.im - b.re};
        v[k + kHalf] = {a.re - b.im, a.im + b.re};
        continue;
      }
      Complex turned = b;
      if (8 * k == N || 8 * k == 3 * N) {  // times (1 - i) / sqrt(2) or (-1 - i) / sqrt(2)
        const Vec half = broadcast(0.70710678118654752f);
        const Vec sum = half * (b.re + b.im), difference = half * (b.im - b.re);
        turned = 8 * k == N ? Complex{sum, difference} : Complex{difference, broadcast(0) - sum};
      } else if (k != 0) {
        turned = times(b, broadcast(kRoots<N>.re[k]), broadcast(kRoots<N>.im[k]));
      }
      v[k] = {a.re + turned.re, a.im + turned.im};
      v[k + kHalf] = {a.re - turned.re, a.im - turned.im};
    }
  }
}

template <int N>
DGDD_INLINE void inverse_transform(Complex* v) {
  for (int i = 0; i < N; ++i) v[i] = swapped(v[i]);
  transform<N>(v);
  for (int i = 0; i < N; ++i) v[i] = swapped(v[i]);
}

}  // namespace
}  // namespace dgdd::spectral::DGDD_ISA
