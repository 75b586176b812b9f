// Roots of unity at compile time, each the double nearest to the truth or beside it. Shared by the CPU and
// the CUDA transforms.
#pragma once

namespace dgdd::spectral {

// Local to every unit, like all that CPU kernels are made of.
namespace {

constexpr double kPi = 3.14159265358979323846;

// Taylor's series, good to the last bit of a double for |angle| <= pi / 4.
constexpr double short_sine(double angle) {
  double term = angle, sum = angle;
  for (int k = 2; k < 22; k += 2) sum += term *= -angle * angle / (k * (k + 1));
  return sum;
}
constexpr double short_cosine(double angle) {
  double term = 1, sum = 1;
  for (int k = 1; k < 21; k += 2) sum += term *= -angle * angle / (k * (k + 1));
  return sum;
}

// cos and sin of 2 pi k / n; k >= 0 and n a multiple of 4.
constexpr double root_cosine(int k, int n) {
  k %= n;
  const int octant = 8 * k / n;
  const int quarter = (octant + 1) / 2;
  const double rest = 2 * kPi * k / n - quarter * kPi / 2;
  return quarter % 4 == 0   ? short_cosine(rest)
         : quarter % 4 == 1 ? -short_sine(rest)
         : quarter % 4 == 2 ? -short_cosine(rest)
                            : short_sine(rest);
}
constexpr double root_sine(int k, int n) { return root_cosine(k + 3 * n / 4, n); }

}  // namespace
}  // namespace dgdd::spectral
