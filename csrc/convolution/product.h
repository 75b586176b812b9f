// Matrix products, for the kernels of one instruction set, which DGDD_ISA names.
#pragma once

#include "convolution/vectors.h"

namespace dgdd::convolution::DGDD_ISA {
namespace {

constexpr int kPanel = 2 * kLanes;  // columns
constexpr int kRows = 6;            // by kPanel sums are held in registers at once

// c[row][column] = sum over parts and steps of a[part][step][row] * b[part][step][column]; what is not named
// here has stride 1.
struct Product {
  int64_t parts;
  int64_t steps;
  int64_t steps_of_last;  // part
  bool by_parts;          // whether the steps of a part are summed up before they join the others in c
  int64_t a_part;
  int64_t a_step;
  int64_t a_row;
  int64_t b_part;
  int64_t b_step;
  int64_t c_row;
};

// Adds the sums to what is in c, if `adds`, and to the row `start`, if there is one. By parts, all vectors
// are whole.
template <int rows, int vectors>
void multiply(const Product& product, const float* a, const float* b, float* c, bool adds, const float* start,
              int64_t columns) {
  Floats sums[rows][vectors] = {};
  const int64_t c_row = product.c_row;
  const auto for_all = [&](auto work) {
#pragma GCC unroll 8
    for (int row = 0; row < rows; ++row)
#pragma GCC unroll 2
      for (int i = 0; i < vectors; ++i) work(row, i);
  };
  const auto add_what_is_there = [&]() {
    for_all([&](int row, int i) { sums[row][i] += load(c + row * c_row + i * kLanes); });
  };
  const int64_t a_row = product.a_row;
  const int64_t a_step = product.a_step;
  const int64_t b_step = product.b_step;
  const int64_t parts = product.parts;
  for (int64_t part = 0; part < parts; ++part) {
    const float* upper = a + part * product.a_part;
    const float* lower = upper + 3 * a_row;
    const float* right = b + part * product.b_part;
    for (int64_t step = part + 1 < parts ? product.steps : product.steps_of_last; step > 0; --step) {
      Floats factors[vectors];
      for (int i = 0; i < vectors; ++i) factors[i] = load(right + i * kLanes);
#pragma GCC unroll 8
      for (int row = 0; row < rows; ++row) {
        const float factor = row < 3 ? upper[row * a_row] : lower[(row - 3) * a_row];
        for (int i = 0; i < vectors; ++i) sums[row][i] += factors[i] * factor;
      }
      upper += a_step;
      lower += a_step;
      right += b_step;
    }
    if (product.by_parts && part + 1 < parts) {
      if (adds) add_what_is_there();
      for_all([&](int row, int i) {
        store(c + row * c_row + i * kLanes, sums[row][i]);
        sums[row][i] = Floats{};
      });
      adds = true;
    }
  }
  if (start != nullptr) for_all([&](int row, int i) { sums[row][i] += load(start + i * kLanes); });
  if (columns >= vectors * kLanes) {
    if (adds) add_what_is_there();
    for_all([&](int row, int i) { store(c + row * c_row + i * kLanes, sums[row][i]); });
    return;
  }
  for_all([&](int row, int i) {
    const int64_t count = columns - i * kLanes;
    float* to = c + row * c_row + i * kLanes;
    store_some(to, adds ? load_some(to, count) + sums[row][i] : sums[row][i], count);
  });
}

using Multiply = void (*)(const Product& product, const float* a, const float* b, float* c, bool adds,
                          const float* start, int64_t columns);

template <int vectors>
DGDD_INLINE Multiply multiply_for(int64_t rows) {
  constexpr Multiply kMultiply[kRows] = {multiply<1, vectors>, multiply<2, vectors>, multiply<3, vectors>,
                                         multiply<4, vectors>, multiply<5, vectors>, multiply<6, vectors>};
  return kMultiply[rows - 1];
}

// All `rows` of up to kPanel columns. The rows are shared out evenly: six and two at a time would wait for
// the two.
void multiply_rows(const Product& product, int64_t rows, const float* a, const float* b, float* c, bool adds,
                   const float* start, int64_t columns) {
  const int64_t groups = parts_of(rows, kRows);
  const int64_t least = rows / groups;
  int64_t larger = rows % groups;  // groups
  for (int64_t row = 0; row < rows; --larger) {
    const int64_t count = larger > 0 ? least + 1 : least;
    const Multiply by = columns > kLanes ? multiply_for<2>(count) : multiply_for<1>(count);
    by(product, a + row * product.a_row, b, c + row * product.c_row, adds, start, columns);
    row += count;
  }
}

}  // namespace
}  // namespace dgdd::convolution::DGDD_ISA
