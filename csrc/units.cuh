// What the kernels that pass over feature maps share: how much of them a thread moves at once. No torch
// header is included here.
#pragma once

#include <type_traits>

#include "cuda_shim.h"

namespace dgdd {

template <class Stored>
using RealOf = std::conditional_t<std::is_same_v<Stored, double>, double, float>;

// What a thread moves at once.
template <class Stored, bool packed>
struct Unit {
  static constexpr int kElements = packed ? 16 / sizeof(Stored) : 1;
  alignas(kElements * sizeof(Stored)) Stored elements[kElements];
};

}  // namespace dgdd
