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

// The name under torch.ops. The tests' build has another, so that both can be loaded at once.
#if !defined(DGDD_LIBRARY)
#define DGDD_LIBRARY dgdd
#endif

namespace dgdd {

// Whether tensors in the host's memory are for the CPU kernels. In the tests' build they stand for tensors on
// a CUDA device, and the emulated CUDA kernels get them.
#if defined(DGDD_EMULATED)
constexpr bool kHostIsCpu = false;
#else
constexpr bool kHostIsCpu = true;
#endif

using torch::headeronly::ScalarType;
using torch::stable::Device;
using torch::stable::DeviceType;
using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;  // borrowed from a tensor or a vector
using torch::stable::Tensor;

// An aten operator that returns one tensor, through the dispatcher; `arguments` are all of its schema's
// arguments, in order.
template <class... Arguments>
Tensor call_aten(const char* name, const char* overload, const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(Arguments)> stack{torch::stable::detail::from(arguments)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// The tensor itself where it is contiguous already: asking costs less than calling an operator that asks.
inline Tensor made_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

}  // namespace dgdd
