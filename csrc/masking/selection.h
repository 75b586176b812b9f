// The law by which channels are chosen, shared by the CPU and the CUDA kernels. No torch header is included
// here.
//
// Channel j of weight s_j and uniform r_j has the key e_j = -log(r_j) / s_j; the smallest keys are masked,
// which is successive sampling without replacement in proportion to the weights (Efraimidis and Spirakis;
// CADM, Eq. 6, in logarithms). Both devices must choose the same channels from the same numbers, so
// everything is float64 and made of operations that IEEE 754 rounds exactly: every product that meets a sum
// is an fma written out, and no compiler has a contraction left to make or to leave out.
#pragma once

#include <cmath>
#include <cstdint>

#include "half.h"
#include "host_device.h"
#include "storage.h"

namespace dgdd::masking {

DGDD_HOST_DEVICE double fused(double a, double b, double c) {
#if defined(__CUDA_ARCH__)
  return __fma_rn(a, b, c);
#else
  return __builtin_fma(a, b, c);
#endif
}

// -log(uniform) for a normal number in (0, 1), within 2 units in the last place. The uniform is 2^k m with m
// between sqrt(1/2) and sqrt(2), and log m = 2 artanh(t), t = (m - 1) / (m + 1), |t| < 0.172, by its series.
DGDD_HOST_DEVICE double negative_log(double uniform) {
  constexpr uint64_t kRootOfHalf = 0x3fe6a09e667f3bcd;
  constexpr uint64_t kBias =
      1024;  // vectors shift and convert unsigned integers, and before AVX-512 no others
  const uint64_t bits = bits_as<uint64_t>(uniform);
  const uint64_t biased = (bits - kRootOfHalf + (kBias << 52)) >> 52;
  const double m = bits_as<double>(bits - ((biased - kBias) << 52));
  const double exponent = bits_as<double>(bits_as<uint64_t>(0x1p52) + biased) - (0x1p52 + kBias);
  const double t = (m - 1) / (m + 1);
  const double tt = t * t;
  double series = 2.0 / 23;
  series = fused(series, tt, 2.0 / 21);
  series = fused(series, tt, 2.0 / 19);
  series = fused(series, tt, 2.0 / 17);
  series = fused(series, tt, 2.0 / 15);
  series = fused(series, tt, 2.0 / 13);
  series = fused(series, tt, 2.0 / 11);
  series = fused(series, tt, 2.0 / 9);
  series = fused(series, tt, 2.0 / 7);
  series = fused(series, tt, 2.0 / 5);
  series = fused(series, tt, 2.0 / 3);
  const double cube = t * tt;
  const double rest = fused(series, cube, exponent * 0x1.7f7d1cf79abcap-20);  // log 2 in two parts
  return -fused(exponent, 0x1.62e4p-1, fused(2.0, t, rest));
}

// What a row of scores and uniforms is like; `add` and `merge` in any order give the same.
struct RowExtremes {
  double lowest = HUGE_VAL;
  double highest = -HUGE_VAL;
  double largest = 0;    // magnitude of a finite score
  bool invalid = false;  // a score is NaN, or a uniform is NaN or outside [0, 1]

  DGDD_HOST_DEVICE void add(double score, double uniform) {
    const double magnitude = score < 0 ? -score : score;
    lowest = score < lowest ? score : lowest;
    highest = score > highest ? score : highest;
    largest = magnitude > largest && magnitude < HUGE_VAL ? magnitude : largest;
    invalid |= !(score == score) | !(uniform >= 0) | !(uniform <= 1);
  }

  DGDD_HOST_DEVICE void merge(const RowExtremes& other) {
    lowest = other.lowest < lowest ? other.lowest : lowest;
    highest = other.highest > highest ? other.highest : highest;
    largest = other.largest > largest ? other.largest : largest;
    invalid |= other.invalid;
  }
};

// From a score to its weight: a finite one's is scale * score + offset, cut off below. An infinite score is
// the limit of a large one: among finite ones, infinity is masked first and, under min-max, minus infinity
// has weight 0 while it lifts the finite ones to weight 1.
struct RowWeights {
  double scale;
  double offset;
  double at_infinity;
  double at_minus_infinity;

  // The scale is a power of two, which changes no comparison of keys and keeps them from over- and underflow.
  DGDD_HOST_DEVICE RowWeights(const RowExtremes& row, bool normalize) {
    int64_t exponent = 2045 - (bits_as<int64_t>(row.largest) >> 52);
    exponent = exponent < 1 ? 1 : exponent > 2023 ? 2023 : exponent;
    scale = bits_as<double>(exponent << 52);
    offset = 0;
    at_infinity = HUGE_VAL;
    at_minus_infinity = 0;
    if (normalize) {
      const bool constant = row.lowest == row.highest;
      const bool level = constant || row.lowest == -HUGE_VAL;
      offset = level ? 1 : -(row.lowest * scale);
      scale = level ? 0 : scale;
      at_infinity = constant ? 1 : HUGE_VAL;
      at_minus_infinity = constant ? 1 : 0;
    }
  }

  DGDD_HOST_DEVICE double operator()(double score) const {
    const bool infinite = score == HUGE_VAL || score == -HUGE_VAL;
    const double finite = fused(infinite ? 0.0 : score, scale, offset);
    const double positive = finite < 0x1p-1000 ? 0 : finite;
    return infinite ? (score < 0 ? at_minus_infinity : at_infinity) : positive;
  }
};

// The key as an integer of the same order. All keys of infinite weight come before all of finite positive
// weight, and these before all of weight 0; channels of infinite weight, and those of weight 0, are ordered
// by -log(r) alone. Equal keys are told apart by the channel's index: the lower is masked first. Uniforms at
// an end of [0, 1] count as the nearest normal number inside.
DGDD_HOST_DEVICE int64_t selection_key(double score, double uniform, const RowWeights& weights) {
  const double inside = uniform < 0x1p-1022 ? 0x1p-1022 : uniform > 1 - 0x1p-53 ? 1 - 0x1p-53 : uniform;
  const double weight = weights(score);
  // -log(r) is in [2^-53, 709] and a finite weight in [2^-1000, 8].
  const double divisor = weight == 0 ? 1 : weight == HUGE_VAL ? 0x1p900 : weight;
  const int64_t bits = bits_as<int64_t>(negative_log(inside) / divisor);
  return weight == 0 ? bits : bits + INT64_MIN;
}

// The keys below `key` are masked, and of those equal to it the `ties` first.
struct Threshold {
  int64_t key;
  int64_t ties;
};

// A binary search on the values of the keys, which lie in [lowest, highest]: no sort and no histogram, one
// count a step, and most searches end after the few steps that it takes to fall into the gap between two
// keys. `count_up_to(limit)` counts the keys that are not above the limit.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable  // the count may be the device's alone
#endif
template <class CountUpTo>
DGDD_HOST_DEVICE Threshold find_threshold(int64_t lowest, int64_t highest, int64_t num_masked,
                                          CountUpTo count_up_to) {
  if (num_masked == 0) return {INT64_MIN, 0};
  while (lowest < highest) {
    const uint64_t distance = static_cast<uint64_t>(highest) - static_cast<uint64_t>(lowest);
    const int64_t limit = lowest + static_cast<int64_t>(distance / 2);
    const int64_t count = count_up_to(limit);
    if (count == num_masked) return {limit + 1, 0};
    if (count > num_masked)
      highest = limit;
    else
      lowest = limit + 1;
  }
  return {lowest, num_masked - count_up_to(lowest - 1)};
}

}  // namespace dgdd::masking
