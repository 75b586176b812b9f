#include <algorithm>

#include "cpu_capability.h"
#include "spectral/general.h"
#include "spectral/glue.h"

namespace dgdd::spectral {
namespace {

const GeneralKernels& general_kernels(Storage storage) {
#if defined(DGDD_X86_64)
  switch (cpu_capability()) {
    case CpuCapability::avx512:
      return avx512::general_kernels(storage);
    case CpuCapability::avx2:
      return avx2::general_kernels(storage);
    default:
      break;
  }
#endif
  return baseline::general_kernels(storage);
}

// FFT libraries transform a real line of a length with a large prime factor in the time of a complex one, so
// two real rows in one complex row are faster there: 1.5 times for width 227.
bool rows_are_paired(int64_t width) {
  int64_t rest = width;
  for (const int64_t factor : {2, 3, 5, 7, 11, 13})
    while (rest % factor == 0) rest /= factor;
  return rest > 1;
}

Tensor transform(const char* name, const Tensor& lines) {
  return torch::stable::contiguous(call_aten(name, "", lines, std::nullopt, int64_t{-1}, std::nullopt));
}

void run_chunk(const SpectralParams& params, const GeneralKernels& kernels, Chunk& chunk) {
  const Tensor spectra = chunk_spectra(params, Device(DeviceType::CPU), chunk.first_plane, chunk.planes);
  // The first domain's spectra make room for the consensus: a bin is read before it is written.
  const Tensor consensus = torch::stable::select(spectra, 0, 0);
  chunk.spectra = spectra.data_ptr();
  chunk.consensus_spectrum = consensus.data_ptr();
  kernels.reduce(params, chunk);
  const Tensor class_signal = inverse_transform(params, consensus);
  chunk.class_signal = class_signal.data_ptr();
  kernels.finish(params, chunk);
}

void run_chunk_with_paired_rows(const SpectralParams& params, const GeneralKernels& kernels, Chunk& chunk) {
  const auto empty = [&](const std::vector<int64_t>& sizes, ScalarType type) {
    return torch::stable::empty(sizes, type);
  };
  const int64_t pairs = (params.height + 1) / 2;
  Tensor rows = empty({params.domains, chunk.planes, pairs, params.width}, complex_type(params));
  kernels.pair_gradients(params, chunk, rows.data_ptr());
  rows = transform("aten::fft_fft", rows);
  Tensor columns =
      empty({params.domains, chunk.planes, params.half_width(), params.height}, complex_type(params));
  kernels.split_spectra(params, chunk, rows.data_ptr(), columns.data_ptr());
  columns = transform("aten::fft_fft", columns);

  const Tensor consensus = torch::stable::select(columns, 0, 0);
  chunk.transposed = true;
  chunk.spectra = columns.data_ptr();
  chunk.consensus_spectrum = consensus.data_ptr();
  kernels.reduce(params, chunk);

  columns = transform("aten::fft_ifft", consensus);
  rows = empty({chunk.planes, pairs, params.width}, complex_type(params));
  kernels.pair_spectra(params, chunk, columns.data_ptr(), rows.data_ptr());
  rows = transform("aten::fft_ifft", rows);
  const Tensor class_signal = empty({chunk.planes, params.height, params.width}, real_type(params));
  chunk.class_signal = class_signal.data_ptr();
  kernels.part_signal(params, chunk, rows.data_ptr());
  kernels.finish(params, chunk);
}

// The chunks are spread over threads, each doing its transforms alone: less to wait for than threads inside
// every transform, and the spectra stay in that core's cache. The cuts depend on the shape only.
void run_general(const SpectralParams& params) {
  const GeneralKernels& kernels = general_kernels(params.storage);
  const auto run = rows_are_paired(params.width) ? run_chunk_with_paired_rows : run_chunk;
  const int64_t chunk_planes = planes_per_chunk(params, 512 * 1024, 2);
  const int64_t chunks = (params.planes() + chunk_planes - 1) / chunk_planes;
  torch::stable::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      Chunk chunk{};
      chunk.first_plane = index * chunk_planes;
      chunk.planes = std::min(chunk_planes, params.planes() - chunk.first_plane);
      run(params, kernels, chunk);
    }
  });
}

}  // namespace

void run_cpu(const SpectralParams& params) {
  if (params.storage == Storage::float64 || !fused_cpu_available(params.height, params.width))
    return run_general(params);
  torch::stable::parallel_for(0, fused_cpu_units(params), 1,
                              [&](int64_t begin, int64_t end) { launch_fused_cpu(params, begin, end); });
}

}  // namespace dgdd::spectral
