// The one header that adapts torch's stable ABI. Only torch glue includes it; kernels see plain structs.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

namespace dgdd {

using torch::headeronly::ScalarType;
using torch::stable::Device;
using torch::stable::DeviceType;
using torch::stable::Tensor;

// An aten operator that returns one tensor, through the dispatcher; `arguments` are all of its schema's
// arguments, in order.
template <class... Arguments>
Tensor call_aten(const char* name, const char* overload, const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(Arguments)> stack{torch::stable::detail::from(arguments)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

inline std::vector<int64_t> shape(const Tensor& tensor) {
  std::vector<int64_t> sizes(tensor.dim());
  for (int64_t axis = 0; axis < tensor.dim(); ++axis) sizes[axis] = tensor.size(axis);
  return sizes;
}

}  // namespace dgdd
