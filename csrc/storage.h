// How floating data lies in memory. No torch header is included here.
#pragma once

namespace dgdd {

// Half formats are converted on load and store; arithmetic is float32, and float64 for float64.
enum class Storage { float32, float64, bfloat16, float16 };

}  // namespace dgdd
