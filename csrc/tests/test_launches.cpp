// The emulated CUDA runtime refuses what devices refuse, and the launch code asks for nothing of the kind:
// every launcher at ordinary and at the largest sizes on every device.
#include <cuda_runtime.h>

#include <string>

#include "launch.h"
#include "masking/cuda_launch.h"
#include "spectral/fused_cuda.h"
#include "spectral/general.h"
#include "tests/check.h"

namespace dgdd::tests {

// Kernels of this test's own.
__global__ void plain_kernel(int* seen) { seen[blockIdx.x * blockDim.x + threadIdx.x] += 1; }
__global__ void static_kernel(int* seen) {
  DGDD_SHARED(float, kept, 256);  // 1 KB
  kept.store(static_cast<int>(threadIdx.x), 1.0f);
  *seen += static_cast<int>(kept.load(static_cast<int>(threadIdx.x)));
}
__global__ void wide_kernel(const float4* from) { static_cast<void>(load_global<float4>(from)); }
__global__ void other_kernel(int*) {}

namespace {

void* const kNoStream = nullptr;

// Each device in turn, as the current one.
template <class Test>
void on_every_device(const Test& test) {
  for (int device = 0; device < static_cast<int>(emulated::devices().size()); ++device) {
    CHECK(cudaSetDevice(device) == cudaSuccess);
    test(emulated::devices()[static_cast<size_t>(device)]);
  }
}

template <auto kernel, class Argument>
cudaError_t plainly(dim3 grid, dim3 block, size_t shared_bytes, Argument argument) {
  emulated::add_kernel<kernel, Argument>();
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  void* arguments[] = {&argument};
  return cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), arguments);
}

void test_a_launch_runs_and_is_recorded() {
  int seen[64] = {};
  emulated::launches().clear();
  void* const stream = seen;  // any address serves as a name
  CHECK(launch<plain_kernel>({2, 32}, stream, &seen[0]) == cudaSuccess);
  for (const int times : seen) CHECK(times == 1);
  CHECK(emulated::launches().size() == 1 && emulated::launches()[0].kernel == "plain_kernel" &&
        emulated::launches()[0].stream == stream);
}

void test_shapes_that_no_device_takes() {
  int seen[1] = {};
  for (const dim3 grid : {dim3(0), dim3(1, 0), dim3(0x80000000u), dim3(1, 65536), dim3(1, 1, 65536)})
    CHECK(plainly<plain_kernel>(grid, 1, 0, &seen[0]) == cudaErrorInvalidConfiguration);
  for (const dim3 block : {dim3(0), dim3(1025), dim3(33, 32), dim3(1, 1, 65)})
    CHECK(plainly<plain_kernel>(1, block, 0, &seen[0]) == cudaErrorInvalidConfiguration);
  CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration && cudaGetLastError() == cudaSuccess);
}

// 128 registers for 512 threads are all that a multiprocessor has; one more rounds up to 136 a thread.
void test_registers_of_a_block() {
  int seen[512] = {};
  emulated::add_resources("plain_kernel", 128, 0);
  CHECK(plainly<plain_kernel>(1, 512, 0, &seen[0]) == cudaSuccess);
  emulated::add_resources("plain_kernel", 129, 0);
  CHECK(plainly<plain_kernel>(1, 512, 0, &seen[0]) == cudaErrorLaunchOutOfResources);
  CHECK(plainly<plain_kernel>(1, 480, 0, &seen[0]) == cudaSuccess);
  emulated::add_resources("plain_kernel", 16, 0);
}

// The static part counts towards the default limit and towards the one that is opted in to; an attribute
// holds for its function and its device alone.
void test_limits_of_shared_memory() {
  int seen[1] = {};
  constexpr int kDefault = 48 * 1024, kStatic = 1024;
  on_every_device([&](const emulated::DeviceProfile& device) {
    const void* const kernel = reinterpret_cast<const void*>(static_kernel);
    CHECK(plainly<static_kernel>(1, 1, kDefault - kStatic, &seen[0]) == cudaSuccess, device.name);
    CHECK(plainly<static_kernel>(1, 1, kDefault - kStatic + 1, &seen[0]) == cudaErrorInvalidValue,
          device.name);
    const int most = device.shared_bytes_of_block - kStatic;
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most + 1) ==
          cudaErrorInvalidValue);
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most) == cudaSuccess);
    CHECK(plainly<static_kernel>(1, 1, static_cast<size_t>(most), &seen[0]) == cudaSuccess, device.name);
    CHECK(plainly<static_kernel>(1, 1, static_cast<size_t>(most) + 1, &seen[0]) == cudaErrorInvalidValue);
    CHECK(plainly<plain_kernel>(1, 1, kDefault + 1, &seen[0]) == cudaErrorInvalidValue, "another function");
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 16) == cudaSuccess);
    CHECK(plainly<static_kernel>(1, 1, 32, &seen[0]) == cudaErrorInvalidValue, "a lowered limit");
  });
}

// Through launch() the limit is as high as it gets, whatever the first launch asked for.
void test_launch_raises_the_limit_once_for_good() {
  int seen[1] = {};
  on_every_device([&](const emulated::DeviceProfile& device) {
    const int most = device.shared_bytes_of_block - 1024;
    for (const int shared_bytes : {16, most, 16, most})
      CHECK(launch<static_kernel>({1, 1, shared_bytes}, kNoStream, &seen[0]) == cudaSuccess, device.name);
    CHECK(launch<static_kernel>({1, 1, most + 16}, kNoStream, &seen[0]) == cudaErrorInvalidValue);
    CHECK(cudaGetLastError() == cudaSuccess, "told once");
  });
}

void test_what_a_kernel_does_wrong_fails_its_launch() {
  alignas(16) float data[8] = {};
  CHECK(launch<wide_kernel>({1, 1}, kNoStream, reinterpret_cast<const float4*>(data)) == cudaSuccess);
  CHECK(launch<wide_kernel>({1, 1}, kNoStream, reinterpret_cast<const float4*>(data + 1)) ==
        cudaErrorMisalignedAddress);
  CHECK(std::string(cudaGetErrorString(cudaErrorMisalignedAddress)).find("wide_kernel") != std::string::npos);
  int seen[1] = {};
  emulated::add_resources("static_kernel", 16, 512);  // less than it has
  CHECK(plainly<static_kernel>(1, 1, 0, &seen[0]) == cudaErrorLaunchFailure);
  emulated::add_resources("static_kernel", 16, 1024);
  CHECK(launch<static_kernel>({1, 257}, kNoStream, &seen[0]) == cudaErrorIllegalAddress);
}

// Machine code runs on its own major version from its minor on; else PTX of an older architecture is
// compiled.
void test_builds_for_other_devices() {
  int seen[1] = {};
  const auto error_on = [&](int device, std::vector<int> architectures, int ptx) {
    emulated::settings().architectures = std::move(architectures);
    emulated::settings().newest_ptx = ptx;
    CHECK(cudaSetDevice(device) == cudaSuccess);
    return launch<plain_kernel>({1, 1}, kNoStream, &seen[0]);
  };
  CHECK(error_on(2, {90}, 0) == cudaSuccess);
  CHECK(error_on(0, {90}, 0) == cudaErrorNoKernelImageForDevice);
  CHECK(error_on(4, {80}, 0) == cudaSuccess, "8.9 runs code for 8.0");
  CHECK(error_on(3, {90}, 0) == cudaErrorNoKernelImageForDevice);
  CHECK(error_on(5, {90}, 120) == cudaSuccess);
  CHECK(error_on(2, {80}, 120) == cudaErrorNoKernelImageForDevice);
  emulated::settings() = {};
  CHECK(launch<other_kernel>({1, 1}, kNoStream, &seen[0]) == cudaErrorInvalidDeviceFunction, "no resources");
}

// -------- the package's launches, judged and not run: any address will do

char* const kAddress = reinterpret_cast<char*>(uintptr_t{1} << 32);

void test_masking_at_the_largest_sizes() {
  emulated::settings().runs_kernels = false;
  on_every_device([](const emulated::DeviceProfile& device) {
    for (const Storage storage : {Storage::float32, Storage::float64, Storage::bfloat16, Storage::float16})
      for (const bool channels_last : {false, true})
        for (const int64_t samples : {int64_t{1}, int64_t{300}, (int64_t{1} << 31) + 1, int64_t{1} << 36})
          for (const int64_t positions : {int64_t{1}, int64_t{16}, int64_t{1024}, int64_t{1} << 16}) {
            masking::CudaCall call{};
            masking::MaskingParams& params = call.params;
            params.samples = samples;
            params.channels = 512;
            params.positions = positions;
            params.storage = storage;
            params.channels_last = channels_last;
            params.features = params.masked = kAddress;
            params.channel_stride = channels_last ? 1 : positions;
            params.position_stride = channels_last ? 512 : 1;
            params.sample_stride = 512 * positions;
            for (const bool per_pixel : {false, true}) {
              params.per_pixel = per_pixel;
              masking::lay_out(call);
              CHECK(masking::launch_scores(call, kNoStream) == cudaSuccess, device.name, samples, positions);
              CHECK(masking::launch_ranges(call, kNoStream) == cudaSuccess, device.name, samples, positions);
            }
            CHECK(masking::launch_select(call, kNoStream) == cudaSuccess, device.name, samples, positions);
            CHECK(masking::launch_apply(call, kNoStream) == cudaSuccess, device.name, samples, positions);
            params.per_pixel = false;
            params.weight = params.uniforms = kAddress;
            DeviceFacts facts;
            CHECK(read_device(facts) == cudaSuccess);
            if (masking::fit_fused(call, facts))
              CHECK(masking::launch_fused(call, kNoStream) == cudaSuccess, device.name, samples, positions,
                    call.shared_bytes);
          }
  });
  emulated::settings() = {};
}

// Whether the call has a pipelined kernel; if so, that is launched.
bool check_pipelined_launch(const spectral::SpectralParams& params, const DeviceFacts& facts,
                            const emulated::DeviceProfile& device) {
  const bool is_tile = spectral::fused_tile_pipelined_available(params, facts);
  if (!is_tile && !spectral::fused_half_spectrum_pipelined_available(params, facts)) return false;
  const int error = is_tile ? spectral::launch_fused_tile_pipelined(params, facts, kNoStream)
                            : spectral::launch_fused_half_spectrum_pipelined(params, facts, kNoStream);
  CHECK(error == cudaSuccess, device.name, params.domains, params.samples, params.height, params.width);
  return true;
}

// What takes which pipelined kernel: shared memory, alignment and the number of planes decide.
void test_choice_of_pipelined_kernels() {
  emulated::settings().runs_kernels = false;
  on_every_device([](const emulated::DeviceProfile& device) {
    DeviceFacts facts;
    CHECK(read_device(facts) == cudaSuccess);
    const bool is_large = facts.shared_bytes > 100 * 1024, has_clusters = facts.capability >= 90;
    spectral::SpectralParams params{};
    params.channels = 3;
    params.domains = 3;
    params.storage = Storage::float32;
    const auto kernels = [&](int64_t samples, int64_t side) {
      params.samples = samples;
      params.height = params.width = side;
      emulated::launches().clear();
      std::string names;
      if (!check_pipelined_launch(params, facts, device)) return names;
      for (const auto& launch : emulated::launches())
        names += (names.empty() ? "" : ", ") + launch.kernel.substr(0, launch.kernel.find('<'));
      return names;
    };
    CHECK(kernels(10, 32) == "fused_tile_pipelined_kernel", device.name);
    CHECK(kernels(10000, 128) == (is_large ? "half_spectrum_pipelined_kernel" : ""), device.name);
    CHECK(kernels(10, 128) == (has_clusters ? "half_spectrum_cluster_kernel"
                               : is_large   ? "half_spectrum_pipelined_kernel"
                                            : ""),
          device.name);
    if (facts.multiprocessors == 132)
      CHECK(kernels(140, 64) == "fused_tile_pipelined_kernel, fused_tile_pipelined_kernel", device.name);
    params.domain_grads = reinterpret_cast<const void*>(uintptr_t{8});
    CHECK(kernels(10, 32).empty() && kernels(10, 128).empty(), device.name);
  });
  emulated::settings() = {};
}

void test_fused_spectral_launches() {
  emulated::settings().runs_kernels = false;
  on_every_device([](const emulated::DeviceProfile& device) {
    DeviceFacts facts;
    CHECK(read_device(facts) == cudaSuccess);
    spectral::SpectralParams params{};
    params.channels = 3;
    int pipelined = 0;
    for (const Storage storage : {Storage::float32, Storage::bfloat16, Storage::float16})
      for (const int64_t domains : {1, 2, 3, 4, 5, 8, 16})
        for (const int64_t samples : {1, 10, 100, 140, 700000000})
          for (const auto& [height, width] : {std::pair(32, 32), std::pair(64, 64), std::pair(128, 128),
                                              std::pair(64, 128), std::pair(128, 64)}) {
            params.storage = storage;
            params.domains = domains;
            params.samples = samples;
            params.height = height;
            params.width = width;
            const bool tile = spectral::fused_tile_available(height, width, facts);
            CHECK(tile || spectral::fused_half_spectrum_available(height, width, facts), device.name);
            const int error = tile ? spectral::launch_fused_tile(params, facts, kNoStream)
                                   : spectral::launch_fused_half_spectrum(params, kNoStream);
            CHECK(error == cudaSuccess, device.name, domains, samples, height, width);
            pipelined += check_pipelined_launch(params, facts, device);
          }
    CHECK(pipelined > 0, device.name);
    facts.shared_bytes = 4 * 1024;  // a device with too little for a tile is left to the general tier
    CHECK(!spectral::fused_tile_available(32, 32, facts) &&
          !spectral::fused_half_spectrum_available(128, 128, facts));
  });
  emulated::settings() = {};
}

}  // namespace
}  // namespace dgdd::tests

int main() {
  using namespace dgdd::tests;
  dgdd::emulated::add_resources("plain_kernel", 16, 0);
  dgdd::emulated::add_resources("static_kernel", 16, 1024);
  dgdd::emulated::add_resources("wide_kernel", 16, 0);
  test_a_launch_runs_and_is_recorded();
  test_shapes_that_no_device_takes();
  test_registers_of_a_block();
  test_limits_of_shared_memory();
  test_launch_raises_the_limit_once_for_good();
  test_what_a_kernel_does_wrong_fails_its_launch();
  test_builds_for_other_devices();
  test_masking_at_the_largest_sizes();
  test_fused_spectral_launches();
  test_choice_of_pipelined_kernels();
  return result();
}
