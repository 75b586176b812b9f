#include <cuda_runtime.h>
#include <cxxabi.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <unordered_map>

namespace dgdd::emulated {
namespace {

constexpr std::array<int, 4> kArchitectures = {80, 90, 100, 120};  // of kernel_resources.txt
constexpr int kDefaultSharedBytes = 48 * 1024;                     // of a block, the static part counted
constexpr int kRegisters = 64 * 1024;    // of a multiprocessor, and of a block at most
constexpr unsigned kRegisterUnit = 256;  // a warp gets its registers in these
constexpr unsigned kMostThreads = 1024;
constexpr unsigned kMostBlocksX = 0x7fffffffu, kMostBlocksYZ = 65535;
constexpr unsigned kMostPortableCluster = 8;

struct Resources {
  int registers = 0;
  int static_shared = 0;
};

struct Kernel {
  KernelEntry entry;
  std::string name;
};

struct State {
  std::unordered_map<const void*, Kernel> kernels;
  std::map<std::pair<const void*, int>, int> dynamic_limits;  // by function and device, where they were set
  int device = 2;
  cudaError_t last_error = cudaSuccess;
  std::string detail;  // of the last failed kernel
};

State& state() {
  static State state;
  return state;
}

std::string demangled(const std::string& mangled) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> text(
      abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status), std::free);
  return status == 0 ? text.get() : "";
}

// Without namespaces and other scopes of names: `a::b<c::d>` becomes `b<d>`.
std::string without_scopes(const std::string& text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto ends_in_a_name = [&] {
      return !result.empty() &&
             (std::isalnum(static_cast<unsigned char>(result.back())) || result.back() == '_');
    };
    if (text.compare(i, 2, "::") != 0 || !ends_in_a_name()) {
      result += text[i];
      continue;
    }
    while (ends_in_a_name()) result.pop_back();
    ++i;
  }
  return result;
}

// `kernel<arguments>` without namespaces and parameters, as csrc/tests/cuda_check.py names it, from the
// mangled name of a KernelTag: "KernelTag<&(void kernel<arguments>(parameters))>".
std::string kernel_name(const std::string& mangled) {
  const std::string tag = demangled(mangled);
  const size_t begin = tag.find("<&");
  if (begin == std::string::npos) throw std::logic_error("not the tag of a kernel: " + mangled);
  std::string text = tag.substr(begin + 2);
  for (const std::string prefix : {"(", "void "})
    if (text.starts_with(prefix)) text.erase(0, prefix.size());
  const std::string unnamed = "(anonymous namespace)::";
  for (size_t at; (at = text.find(unnamed)) != std::string::npos;) text.erase(at, unnamed.size());
  text = without_scopes(text);
  int depth = 0;
  for (size_t end = 0; end < text.size(); ++end) {
    depth += (text[end] == '<') - (text[end] == '>');
    if ((text[end] == '(' && depth == 0 && end > 0) || depth < 0) text.resize(end);
  }
  return text;
}

// By architecture and kernel, from kernel_resources.txt.
std::map<std::pair<int, std::string>, Resources>& resources() {
  static auto table = [] {
    std::map<std::pair<int, std::string>, Resources> result;
    std::ifstream file(DGDD_KERNEL_RESOURCES);
    std::string line;
    while (std::getline(file, line)) {
      if (line.empty() || line[0] == '#') continue;
      std::istringstream words(line);
      int static_shared = 0;
      std::array<int, 4> registers{};
      words >> static_shared;
      for (int& of_architecture : registers) words >> of_architecture;
      std::string name;
      std::getline(words >> std::ws, name);
      for (size_t i = 0; i < registers.size(); ++i)
        result[{kArchitectures[i], name}] = {registers[i], static_shared};
    }
    return result;
  }();
  return table;
}

cudaError_t fail(cudaError_t error, const std::string& detail = "") {
  state().last_error = error;
  state().detail = detail;
  return error;
}

// The architecture whose code the device runs, or 0.
int architecture_for(int capability) {
  int best = 0;
  for (const int architecture : settings().architectures)
    if (architecture / 10 == capability / 10 && architecture <= capability)
      best = std::max(best, architecture);
  if (best == 0 && settings().newest_ptx != 0 && settings().newest_ptx <= capability)
    best = settings().newest_ptx;
  return best;
}

cudaError_t find(const void* function, const Kernel*& kernel, Resources& of) {
  const auto found = state().kernels.find(function);
  if (found == state().kernels.end()) return cudaErrorInvalidDeviceFunction;
  kernel = &found->second;
  const int architecture = architecture_for(devices()[static_cast<size_t>(state().device)].capability);
  if (architecture == 0) return cudaErrorNoKernelImageForDevice;
  const auto known = resources().find({architecture, kernel->name});
  if (known == resources().end()) {
    state().detail = kernel->name + " is not in kernel_resources.txt for sm_" + std::to_string(architecture) +
                     ": build the package with nvcc and run csrc/tests/cuda_check.py --write";
    return cudaErrorInvalidDeviceFunction;
  }
  of = known->second;
  return cudaSuccess;
}

int dynamic_limit(const void* function, const Resources& of) {
  const auto set = state().dynamic_limits.find({function, state().device});
  return set == state().dynamic_limits.end() ? kDefaultSharedBytes - of.static_shared : set->second;
}

// As the driver judges a launch before anything runs.
cudaError_t judge(const cudaLaunchConfig_t& config, const void* function, const Resources& of) {
  const dim3 grid = config.gridDim, block = config.blockDim;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > kMostBlocksX || grid.y > kMostBlocksYZ ||
      grid.z > kMostBlocksYZ)
    return cudaErrorInvalidConfiguration;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > kMostThreads || block.z > 64) return cudaErrorInvalidConfiguration;
  if (config.dynamicSmemBytes > static_cast<size_t>(std::max(0, dynamic_limit(function, of))))
    return cudaErrorInvalidValue;
  const unsigned of_warp =
      (static_cast<unsigned>(of.registers) * warpSize + kRegisterUnit - 1) / kRegisterUnit * kRegisterUnit;
  if ((threads + warpSize - 1) / warpSize * of_warp > kRegisters) return cudaErrorLaunchOutOfResources;
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const auto& cluster = config.attrs[i].val.clusterDim;
    const unsigned blocks = cluster.x * cluster.y * cluster.z;
    if (devices()[static_cast<size_t>(state().device)].capability < 90) return cudaErrorNotSupported;
    if (blocks == 0 || blocks > kMostPortableCluster) return cudaErrorInvalidClusterSize;
    if (grid.x % cluster.x != 0 || grid.y % cluster.y != 0 || grid.z % cluster.z != 0)
      return cudaErrorInvalidClusterSize;
  }
  return cudaSuccess;
}

cudaError_t run(const cudaLaunchConfig_t& config, const Kernel& kernel, const Resources& of,
                void** arguments) {
  emulator::Options options;
  options.approximation = emulator::Approximation::mixed;
  options.counts_wavefronts = false;
  options.architecture = architecture_for(devices()[static_cast<size_t>(state().device)].capability);
  for (unsigned i = 0; i < config.numAttrs; ++i) options.cluster = config.attrs[i].val.clusterDim.x;
  const emulator::Report report = emulator::launch(
      config.gridDim, config.blockDim, config.dynamicSmemBytes, [&] { kernel.entry.call(arguments); },
      options);
  if (report.static_bytes > static_cast<size_t>(of.static_shared))
    return fail(cudaErrorLaunchFailure, kernel.name + " has " + std::to_string(report.static_bytes) +
                                            " bytes of static shared memory here and " +
                                            std::to_string(of.static_shared) +
                                            " by kernel_resources.txt: csrc/tests/cuda_check.py --write");
  if (report.misaligned > 0) return fail(cudaErrorMisalignedAddress, kernel.name + ": " + report.text());
  if (report.out_of_bounds > 0) return fail(cudaErrorIllegalAddress, kernel.name + ": " + report.text());
  if (!report.sound()) return fail(cudaErrorLaunchFailure, kernel.name + ": " + report.text());
  return cudaSuccess;
}

}  // namespace

const std::vector<DeviceProfile>& devices() {
  static const std::vector<DeviceProfile> all = [] {
    const std::vector<DeviceProfile> kinds = {
        {"A100", 80, 108, 163 * 1024, 40 << 20},    {"H100", 90, 132, 227 * 1024, 50 << 20},
        {"H200", 90, 132, 227 * 1024, 60 << 20},    {"B200", 100, 148, 227 * 1024, 126 << 20},
        {"RTX 4090", 89, 128, 99 * 1024, 72 << 20}, {"RTX 5090", 120, 170, 99 * 1024, 96 << 20},
    };
    std::vector<DeviceProfile> devices;
    for (int copy = 0; copy < kOfEachKind; ++copy) devices.insert(devices.end(), kinds.begin(), kinds.end());
    return devices;
  }();
  return all;
}

Settings& settings() {
  static Settings settings;
  return settings;
}

std::vector<LaunchRecord>& launches() {
  static std::vector<LaunchRecord> launches;
  return launches;
}

void add_resources(const std::string& kernel, int registers, int static_shared) {
  for (const int architecture : kArchitectures)
    resources()[{architecture, kernel}] = {registers, static_shared};
}

void add_kernel_entry(const void* function, const KernelEntry& entry) {
  state().kernels.insert_or_assign(function, Kernel{entry, kernel_name(entry.mangled_in)});
}

}  // namespace dgdd::emulated

using namespace dgdd::emulated;

cudaError_t cudaGetDevice(int* device) {
  if (settings().driver_version < 13000) return fail(cudaErrorInsufficientDriver);
  *device = state().device;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= static_cast<int>(devices().size())) return fail(cudaErrorInvalidDevice);
  state().device = device;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device < 0 || device >= static_cast<int>(devices().size())) return fail(cudaErrorInvalidDevice);
  const DeviceProfile& of = devices()[static_cast<size_t>(device)];
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      return *value = of.multiprocessors, cudaSuccess;
    case cudaDevAttrL2CacheSize:
      return *value = of.l2_bytes, cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      return *value = of.capability / 10, cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      return *value = of.capability % 10, cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      return *value = of.shared_bytes_of_block, cudaSuccess;
  }
  return fail(cudaErrorInvalidValue);
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
  const Kernel* kernel = nullptr;
  Resources of;
  if (const cudaError_t error = find(function, kernel, of); error != cudaSuccess)
    return fail(error, state().detail);
  attributes->sharedSizeBytes = static_cast<size_t>(of.static_shared);
  attributes->maxDynamicSharedSizeBytes = dynamic_limit(function, of);
  attributes->numRegs = of.registers;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  const Kernel* kernel = nullptr;
  Resources of;
  if (const cudaError_t error = find(function, kernel, of); error != cudaSuccess)
    return fail(error, state().detail);
  const int most = devices()[static_cast<size_t>(state().device)].shared_bytes_of_block - of.static_shared;
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 || value > most)
    return fail(cudaErrorInvalidValue);
  state().dynamic_limits[{function, state().device}] = value;
  return cudaSuccess;
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
  const Kernel* kernel = nullptr;
  Resources of;
  cudaError_t error = find(function, kernel, of);
  if (error == cudaSuccess) {
    state().detail.clear();
    error = judge(*config, function, of);
  }
  if (error != cudaSuccess) return fail(error, state().detail);
  launches().push_back({kernel->name, state().device, config->stream, config->gridDim, config->blockDim,
                        config->dynamicSmemBytes});
  return settings().runs_kernels ? run(*config, *kernel, of, arguments) : cudaSuccess;
}

cudaError_t cudaGetLastError() { return std::exchange(state().last_error, cudaSuccess); }

cudaError_t cudaDriverGetVersion(int* version) {
  *version = settings().driver_version;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t error) {
  static std::string text;
  switch (error) {
    case cudaSuccess:
      text = "no error";
      break;
    case cudaErrorInvalidValue:
      text = "invalid argument";
      break;
    case cudaErrorInvalidConfiguration:
      text = "invalid configuration argument";
      break;
    case cudaErrorInsufficientDriver:
      text = "CUDA driver version is insufficient for CUDA runtime version";
      break;
    case cudaErrorInvalidDeviceFunction:
      text = "invalid device function";
      break;
    case cudaErrorInvalidDevice:
      text = "invalid device ordinal";
      break;
    case cudaErrorNoKernelImageForDevice:
      text = "no kernel image is available for execution on the device";
      break;
    case cudaErrorUnsupportedPtxVersion:
      text = "the provided PTX was compiled with an unsupported toolchain";
      break;
    case cudaErrorIllegalAddress:
      text = "an illegal memory access was encountered";
      break;
    case cudaErrorLaunchOutOfResources:
      text = "too many resources requested for launch";
      break;
    case cudaErrorMisalignedAddress:
      text = "misaligned address";
      break;
    case cudaErrorLaunchFailure:
      text = "unspecified launch failure";
      break;
    case cudaErrorNotSupported:
      text = "operation not supported";
      break;
    case cudaErrorInvalidClusterSize:
      text = "cluster size is invalid";
      break;
  }
  if (!state().detail.empty()) text += " (" + state().detail + ")";
  return text.c_str();
}
