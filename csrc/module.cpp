// The compiled module `_C`: importing it registers the operators of ops.cpp, and it tells how it was built.
#include <pybind11/pybind11.h>
#include <torch/headeronly/version.h>

#include "cpu_capability.h"

namespace dgdd {
namespace {

pybind11::dict build_info() {
  pybind11::dict info;
  info["version"] = DGDD_VERSION;
  info["torch"] = TORCH_VERSION;
  info["compiler"] = DGDD_COMPILER;
  info["cuda_compiler"] = DGDD_CUDA_COMPILER;
  info["cuda_architectures"] = DGDD_CUDA_ARCHITECTURES;
  info["without_cuda"] = DGDD_WITHOUT_CUDA;  // why there are no CUDA kernels, empty where there are
  info["cpu_capability"] = name(cpu_capability());
  return info;
}

}  // namespace
}  // namespace dgdd

PYBIND11_MODULE(_C, m) { m.def("build_info", &dgdd::build_info); }
