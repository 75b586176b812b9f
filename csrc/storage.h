// How floating data lies in memory. No torch header is included here.
#pragma once

#include <cstdint>

namespace dgdd {

// Half formats are converted on load and store; arithmetic is float32, and float64 for float64.
enum class Storage { float32, float64, bfloat16, float16 };

constexpr int64_t bytes_of(Storage storage) {
  if (storage == Storage::float64) return 8;
  return storage == Storage::float32 ? 4 : 2;
}

}  // namespace dgdd
