// The Python side of the emulated build: the operators under torch.ops.dgdd_emulated, whose host tensors
// stand for tensors on a CUDA device, and what the tests choose and look up of the emulated runtime.
#include <cuda_runtime.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "spectral/glue.h"

namespace py = pybind11;
namespace emulated = dgdd::emulated;

namespace {

void set_device(const std::string& name, int number) {
  const auto& all = emulated::devices();
  for (size_t i = 0; i < all.size(); ++i)
    if (all[i].name == name && number-- == 0) {
      cudaSetDevice(static_cast<int>(i));
      return;
    }
  throw py::value_error("no such emulated device: " + name);
}

py::list launches() {
  py::list result;
  for (const emulated::LaunchRecord& launch : emulated::launches()) {
    py::dict record;
    record["kernel"] = launch.kernel;
    record["stream"] = reinterpret_cast<intptr_t>(launch.stream);
    record["grid"] = py::make_tuple(launch.grid.x, launch.grid.y, launch.grid.z);
    record["block"] = py::make_tuple(launch.block.x, launch.block.y, launch.block.z);
    record["shared_bytes"] = launch.shared_bytes;
    result.append(record);
  }
  return result;
}

}  // namespace

PYBIND11_MODULE(dgdd_emulated, m) {
  m.def("set_device", &set_device, py::arg("name"), py::arg("number") = 0);
  m.def("launches", &launches, "What was launched since clear_launches(), in order.");
  m.def("clear_launches", [] { emulated::launches().clear(); });
  m.def("set_stream", [](intptr_t stream) { emulated::settings().stream = reinterpret_cast<void*>(stream); });
  m.def("set_runs_kernels", [](bool runs) { emulated::settings().runs_kernels = runs; });
  m.def("set_driver_version", [](int version) { emulated::settings().driver_version = version; });
  m.def("set_architectures", [](const std::vector<int>& machine_code, int newest_ptx) {
    emulated::settings().architectures = machine_code;
    emulated::settings().newest_ptx = newest_ptx;
  });
  m.def("set_most_spectra_bytes", [](int64_t bytes) { dgdd::spectral::most_spectra_bytes() = bytes; });
  m.def("reset", [] {
    dgdd::spectral::most_spectra_bytes() = int64_t{2} << 30;
    emulated::settings() = {};
    emulated::launches().clear();
    set_device("H200", 0);
  });
}
