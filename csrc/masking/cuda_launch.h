// Between the CUDA glue of the masking operators and their kernels: how a call is laid out over threads. No
// torch and no CUDA header is included here.
#pragma once

#include <cstdint>

#include "cuda_device.h"
#include "masking/params.h"

namespace dgdd::masking {

constexpr int kThreads = 512;  // of every block

constexpr int64_t kMostInRow = 1 << 30;  // channels, and positions: they are counted in 32 bits

// A thread moves units: 16 bytes where everything is aligned to them, else single elements. They lie in rows:
// a plane's positions, or with the channels last a position's channels. A row is shared by `lanes` threads,
// and kThreads / lanes rows are at work at once. The order of a sum follows from these numbers, so they
// depend on a sample's shape and alignment alone and are the same in every kernel.
struct CudaCall {
  MaskingParams params;
  int channels;
  int positions;
  bool packed;
  int units;  // of a row
  int lanes;  // a power of two

  // The fused kernel alone: each thread keeps its first `slots` units of a sample in shared memory, and reads
  // those beyond them a second time.
  int slots;
  int shared_bytes;

  // Device memory between the steps, where they need it.
  void* lowest;   // [N, S] float32 (float64 for float64): the extremes over the channels for per_pixel
  void* highest;  // likewise
  int64_t* keys;  // [N, C]
};

constexpr int64_t bytes_of_real(Storage storage) { return storage == Storage::float64 ? 8 : 4; }

// Fills in all that does not follow from the device.
inline void lay_out(CudaCall& call) {
  const MaskingParams& params = call.params;
  call.channels = static_cast<int>(params.channels);
  call.positions = static_cast<int>(params.positions);
  const int elements = static_cast<int>(16 / bytes_of(params.storage));
  const int row = params.channels_last ? call.channels : call.positions;
  const int64_t row_stride = params.channels_last ? params.position_stride : params.channel_stride;
  const auto aligned = [](const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; };
  call.packed = row % elements == 0 && row_stride % elements == 0 && params.sample_stride % elements == 0 &&
                aligned(params.features) && aligned(params.masked);
  call.units = call.packed ? row / elements : row;
  if (params.channels_last) {
    // As many rows at once as leave no thread without a unit, and at least eight for short columns.
    call.lanes = 16;
    while (call.lanes < 64 && call.lanes < call.units) call.lanes *= 2;
  } else {
    // At most a warp; fewer where a thread would not have four loads under way.
    call.lanes = 1;
    while (call.lanes < 32 && 8 * call.lanes <= call.units) call.lanes *= 2;
  }
}

// Where the fused kernel keeps what in dynamic shared memory, in bytes: keys, then scores, factors and units.
// With the channels last a thread reads the factors of a unit's channels one after another, so those of the
// first channels of all units lie side by side, then those of the second, `factor_stride` apart; the stride
// is such that threads that write channel by channel do not meet in a bank either.
struct FusedLayout {
  int scores;
  int factors;
  int factor_stride;
  int units;

  DGDD_HOST_DEVICE FusedLayout(const CudaCall& call, int elements, int real_bytes) {
    const auto aligned = [](int bytes) { return (bytes + 15) / 16 * 16; };
    factor_stride = (call.units + 31) / 32 * 32 + 128 / real_bytes / elements;
    const int factor_count = call.params.channels_last ? elements * factor_stride : call.channels;
    scores = aligned(8 * call.channels);
    factors = scores + aligned(real_bytes * call.channels);
    units = factors + aligned(real_bytes * factor_count);
  }
};

// Whether the fused kernel does this call: all steps, a sample in one block. It should where all of the
// sample stays in shared memory, so that features are read once from device memory; and where the rest of the
// samples in work, one on each multiprocessor, fits half of the L2 cache, from where it is read again. Not
// for per_pixel, which needs the extremes over all channels before the first sum. Fills in slots and
// shared_bytes.
inline bool fit_fused(CudaCall& call, const DeviceFacts& device) {
  constexpr int64_t kMostChannels = 4096;
  const MaskingParams& params = call.params;
  const bool all_steps = params.weight != nullptr && params.uniforms != nullptr && params.masked != nullptr;
  if (!all_steps || params.scores != nullptr || params.per_pixel) return false;
  if (!call.packed || params.channels > kMostChannels || params.samples > INT32_MAX) return false;
  const int real_bytes = static_cast<int>(bytes_of_real(params.storage));
  const int elements = static_cast<int>(16 / bytes_of(params.storage));
  const FusedLayout layout(call, elements, real_bytes);
  const int rows = params.channels_last ? call.positions : call.channels;
  const int rows_at_once = kThreads / call.lanes;
  const int64_t wanted =
      int64_t{(rows + rows_at_once - 1) / rows_at_once} * ((call.units + call.lanes - 1) / call.lanes);
  const int64_t fixed_bytes = 2048 + (params.channels_last ? (kThreads + 64) * elements * real_bytes : 0);
  const int64_t slot_bytes = int64_t{16} * kThreads;
  const int64_t room = (device.shared_bytes - fixed_bytes - layout.units) / slot_bytes;
  if (room < 0) return false;
  const int64_t slots = wanted < room ? wanted : room;
  if ((wanted - slots) * slot_bytes * device.multiprocessors > device.l2_bytes / 2) return false;
  call.slots = static_cast<int>(slots);
  call.shared_bytes = static_cast<int>(layout.units + slots * slot_bytes);
  return true;
}

// On the current CUDA device. The launches return their cudaError_t, 0 for success.
int launch_ranges(const CudaCall& call, void* stream);  // features, weight -> lowest, highest
int launch_scores(const CudaCall& call, void* stream);  // features, weight -> scores
int launch_select(const CudaCall& call, void* stream);  // given_scores, uniforms -> mask
int launch_apply(const CudaCall& call, void* stream);   // features, given_mask -> masked
int launch_fused(const CudaCall& call, void* stream);   // features, weight, uniforms -> mask, masked

}  // namespace dgdd::masking
