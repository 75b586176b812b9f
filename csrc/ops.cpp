#include <pybind11/pybind11.h>
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(dgdd, m) {
  m.def("spectral_consensus(Tensor domain_grads, float eps=1e-12) -> (Tensor class_signal, Tensor resultant_length)");
}

PYBIND11_MODULE(_C, m) {
  m.def("build_info", [] { return pybind11::dict(); });
}
