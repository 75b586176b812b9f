// Winograd's convolutions F(side x side, 3 x 3) (Lavin and Gray, 2016): the transforms, for the kernels of
// one instruction set, which DGDD_ISA names.
//
// The results of a row of `side` pixels, from `side` + 2 pixels d and three weights g, are A' ((G g) * (B'
// d)), the product place by place; what follows for a tile is the same along both axes. Tiles of 2 take sums
// and halves alone. Tiles of 4 are polynomials at 0, +-p, +-q and infinity, p and q the roots of 1/2 and 2:
// with these the error is less than half of that at the usual 1 and 2.
#pragma once

#include "convolution/vectors.h"

namespace dgdd::convolution::DGDD_ISA {
namespace {

template <int side>
struct Winograd;

template <>
struct Winograd<2> {
  // B'
  static DGDD_INLINE void of_x(const Floats (&d)[4], Floats (&to)[4]) {
    to[0] = d[0] - d[2];
    to[1] = d[1] + d[2];
    to[2] = d[2] - d[1];
    to[3] = d[1] - d[3];
  }
  // A'
  static DGDD_INLINE void to_results(const Floats (&m)[4], Floats (&to)[2]) {
    to[0] = m[0] + (m[1] + m[2]);
    to[1] = (m[1] - m[2]) - m[3];
  }
  // G
  static DGDD_INLINE void of_weight(const Floats (&g)[3], Floats (&to)[4]) {
    const Floats ends = g[0] + g[2];
    to[0] = g[0];
    to[1] = 0.5f * (ends + g[1]);
    to[2] = 0.5f * (ends - g[1]);
    to[3] = g[2];
  }
  // A
  static DGDD_INLINE void of_grad(const Floats (&y)[2], Floats (&to)[4]) {
    to[0] = y[0];
    to[1] = y[0] + y[1];
    to[2] = y[0] - y[1];
    to[3] = -y[1];
  }
  // G'
  static DGDD_INLINE void to_weight_grad(const Floats (&s)[4], Floats (&to)[3]) {
    const Floats half_sum = 0.5f * (s[1] + s[2]);
    to[0] = s[0] + half_sum;
    to[1] = 0.5f * (s[1] - s[2]);
    to[2] = half_sum + s[3];
  }
};

template <>
struct Winograd<4> {
  static constexpr float kP = 0.70710678118654752f;
  static constexpr float kQ = 1.41421356237309505f;
  static constexpr float kThird = 1.0f / 3;

  static DGDD_INLINE void of_x(const Floats (&d)[6], Floats (&to)[6]) {
    const Floats even_p = d[4] - 2.0f * d[2];
    const Floats odd_p = d[3] - 2.0f * d[1];
    const Floats even_q = d[4] - 0.5f * d[2];
    const Floats odd_q = d[3] - 0.5f * d[1];
    to[0] = (d[0] + d[4]) - 2.5f * d[2];
    to[1] = even_p + kP * odd_p;
    to[2] = even_p - kP * odd_p;
    to[3] = even_q + kQ * odd_q;
    to[4] = even_q - kQ * odd_q;
    to[5] = (d[1] + d[5]) - 2.5f * d[3];
  }
  static DGDD_INLINE void to_results(const Floats (&m)[6], Floats (&to)[4]) {
    const Floats sum_p = m[1] + m[2];
    const Floats sum_q = m[3] + m[4];
    const Floats difference_p = kP * (m[1] - m[2]);
    const Floats difference_q = kQ * (m[3] - m[4]);
    to[0] = m[0] + (sum_p + sum_q);
    to[1] = difference_p + difference_q;
    to[2] = 0.5f * sum_p + 2.0f * sum_q;
    to[3] = (0.5f * difference_p + 2.0f * difference_q) + m[5];
  }
  static DGDD_INLINE void of_weight(const Floats (&g)[3], Floats (&to)[6]) {
    // 1 / N of p: 1 / (2 p^2 (p^2 - q^2)) = -2/3, of q: 1 / (2 q^2 (q^2 - p^2)) = 1/6
    const Floats even_p = (-2 * kThird) * g[0] - kThird * g[2];
    const Floats odd_p = (-2 * kThird * kP) * g[1];
    const Floats even_q = (0.5f * kThird) * g[0] + kThird * g[2];
    const Floats odd_q = (0.5f * kThird * kQ) * g[1];
    to[0] = g[0];
    to[1] = even_p + odd_p;
    to[2] = even_p - odd_p;
    to[3] = even_q + odd_q;
    to[4] = even_q - odd_q;
    to[5] = g[2];
  }
  static DGDD_INLINE void of_grad(const Floats (&y)[4], Floats (&to)[6]) {
    const Floats even_p = y[0] + 0.5f * y[2];
    const Floats odd_p = y[1] + 0.5f * y[3];
    const Floats even_q = y[0] + 2.0f * y[2];
    const Floats odd_q = y[1] + 2.0f * y[3];
    to[0] = y[0];
    to[1] = even_p + kP * odd_p;
    to[2] = even_p - kP * odd_p;
    to[3] = even_q + kQ * odd_q;
    to[4] = even_q - kQ * odd_q;
    to[5] = y[3];
  }
  static DGDD_INLINE void to_weight_grad(const Floats (&s)[6], Floats (&to)[3]) {
    const Floats sum_p = kThird * (s[1] + s[2]);
    const Floats sum_q = kThird * (s[3] + s[4]);
    to[0] = (s[0] - 2.0f * sum_p) + 0.5f * sum_q;
    to[1] = (-2 * kThird * kP) * (s[1] - s[2]) + (0.5f * kThird * kQ) * (s[3] - s[4]);
    to[2] = (sum_q - sum_p) + s[5];
  }
};

// `along` along the columns and then along the rows of a square that `read(row, column)` gives and
// `write(row, column, value)` takes.
template <int from_size, int to_size, class Read, class Write, class Along>
DGDD_INLINE void along_both(Read read, Write write, Along along) {
  Floats between[to_size][from_size];
#pragma GCC unroll 8
  for (int column = 0; column < from_size; ++column) {
    Floats line[from_size];
    Floats result[to_size];
#pragma GCC unroll 8
    for (int row = 0; row < from_size; ++row) line[row] = read(row, column);
    along(line, result);
#pragma GCC unroll 8
    for (int row = 0; row < to_size; ++row) between[row][column] = result[row];
  }
#pragma GCC unroll 8
  for (int row = 0; row < to_size; ++row) {
    Floats result[to_size];
    along(between[row], result);
#pragma GCC unroll 8
    for (int column = 0; column < to_size; ++column) write(row, column, result[column]);
  }
}

}  // namespace
}  // namespace dgdd::convolution::DGDD_ISA
