// What the launches need to know of the current CUDA device, and what is said where one fails. No torch and
// no CUDA header is included here.
#pragma once

#include <cstdint>
#include <string>

namespace dgdd {

struct DeviceFacts {
  int multiprocessors = 0;
  int shared_bytes = 0;  // that a block can ask for
  int l2_bytes = 0;
  int capability = 0;  // 90 for 9.0
};

// Of the current device. Returns the cudaError_t, 0 for success.
int read_device(DeviceFacts& device);

// `what` failed with this error, and what to do about it. `architectures` are those that this build has code
// for.
std::string cuda_failure(int error, const std::string& what, const char* architectures);

}  // namespace dgdd
