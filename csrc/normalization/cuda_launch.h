// Between the CUDA glue of normalisation and its kernels: how a call is laid out over threads. No torch and
// no CUDA header is included here.
#pragma once

#include <cstdint>

#include "normalization/params.h"

namespace dgdd::normalization {

constexpr int kThreads = 256;  // of every block
constexpr int kWarps = kThreads / 32;
constexpr int kStaticShared = 1024;  // bytes that kernels may have besides what they are launched with

constexpr int64_t kMostInPlane = 1 << 30;  // positions of a plane, and channels: they are counted in 32 bits

// A thread moves units: 16 bytes where everything is aligned to them, else single elements. It has whole
// cells of x, so that nobody else needs its numbers: windows, with what fills no window at the right and
// lower edge as smaller cells. In planes by themselves a packed cell is `pool` units one below another,
// several windows; else it is a window, of a unit for each position. What a thread owns it keeps in shared
// memory, read once from device memory, as far as there is room.
//
// A plane is shared by `lanes` threads: of a warp, or the whole block. With the channels last a block has
// `lanes` units of channels of a sample, and its threads share out the cells below each. The order of a sum
// follows from these numbers, so they depend on a sample's shape and alignment alone.
struct CudaCall {
  NormPoolParams params;
  int channels;
  int height;
  int width;
  int pool;
  int pooled_height;
  int pooled_width;
  bool packed;       // then pool is 1 or 2
  int cell_columns;  // cells side by side
  int cells;         // of a plane
  int cell_units;    // of a cell, at most
  int units;         // of channels, with the channels last
  int lanes;         // a power of two
  int slots;         // units that each thread keeps
  int shared_bytes;
};

constexpr int64_t bytes_of_real(Storage storage) { return storage == Storage::float64 ? 8 : 4; }

// Where a block that shares units of channels keeps what in dynamic shared memory, in bytes: the warps' sums,
// the block's, then units. A warp's sums of the first elements of all units lie side by side, then those of
// the second, `pitch` apart, so that no two threads meet in a bank.
struct ColumnsLayout {
  int pitch;
  int sums;
  int units;

  // `quantities` is how many numbers each channel sums at once.
  DGDD_HOST_DEVICE ColumnsLayout(int lanes, int elements, int quantities, int real_bytes) {
    const auto aligned = [](int bytes) { return (bytes + 15) / 16 * 16; };
    pitch = (kWarps + 1) * lanes;
    sums = aligned(real_bytes * quantities * elements * pitch);
    units = sums + aligned(real_bytes * quantities * elements * lanes);
  }
};

constexpr int ceiling(int64_t total, int64_t part) { return static_cast<int>((total + part - 1) / part); }

// Fills in all but params; `shared_bytes` is what a block of the device can ask for.
inline void lay_out(CudaCall& call, int64_t shared_bytes) {
  const NormPoolParams& params = call.params;
  const int element_bytes = static_cast<int>(bytes_of(params.storage));
  const int elements = 16 / element_bytes;
  call.channels = static_cast<int>(params.channels);
  call.height = static_cast<int>(params.height);
  call.width = static_cast<int>(params.width);
  call.pool = static_cast<int>(params.pool);
  call.pooled_height = static_cast<int>(params.pooled_height());
  call.pooled_width = static_cast<int>(params.pooled_width());
  const auto aligned = [](const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; };
  const int64_t row = params.channels_last ? params.channels : params.width;
  const int64_t row_stride = params.channels_last ? params.position_stride : params.channel_stride;
  call.packed = call.pool <= 2 && row % elements == 0 && row_stride % elements == 0 &&
                params.sample_stride % elements == 0 && aligned(params.x) && aligned(params.pooled) &&
                aligned(params.pooled_grad) && aligned(params.x_grad);
  const bool strips = call.packed && !params.channels_last;
  call.cell_columns = strips ? call.width / elements : ceiling(call.width, call.pool);
  call.cells = ceiling(call.height, call.pool) * call.cell_columns;
  call.cell_units = strips ? call.pool : call.pool * call.pool;
  const int unit_bytes = call.packed ? 16 : element_bytes;

  call.lanes = 1;
  int64_t fixed = 0;
  int rows = 0;  // threads that share out the cells
  if (params.channels_last) {
    // At least 64 bytes side by side, and no thread without a cell as long as there are more channels.
    call.units = call.packed ? call.channels / elements : call.channels;
    while (call.lanes < 32 && call.lanes < call.units &&
           (call.lanes * unit_bytes < 64 || kThreads / call.lanes > call.cells))
      call.lanes *= 2;
    const int real_bytes = static_cast<int>(bytes_of_real(params.storage));
    fixed = ColumnsLayout(call.lanes, call.packed ? elements : 1, params.backward ? 2 : 1, real_bytes).units;
    rows = kThreads / call.lanes;
  } else {
    // A thread should have four loads under way; the whole block for what would take a warp many turns.
    const int64_t plane_units = int64_t{call.cells} * call.cell_units;
    while (call.lanes < 32 && 4 * call.lanes < plane_units) call.lanes *= 2;
    if (plane_units > 32 * 16) call.lanes = kThreads;
    rows = call.lanes;
  }
  // Two blocks find room on a multiprocessor. Single half elements are kept widened.
  const int64_t slot_bytes = kThreads * (call.packed ? 16 : bytes_of_real(params.storage));
  const int64_t room = (shared_bytes / 2 - kStaticShared - fixed) / slot_bytes;
  const int64_t wanted = int64_t{ceiling(call.cells, rows)} * call.cell_units;
  call.slots = static_cast<int>(room < 0 ? 0 : wanted < room ? wanted : room);
  call.shared_bytes = static_cast<int>(fixed + call.slots * slot_bytes);
}

// On the current CUDA device. The launches return their cudaError_t, 0 for success.
int launch_forward(const CudaCall& call, void* stream);       // x -> pooled
int launch_backward(const CudaCall& call, void* stream);      // x, pooled_grad -> x_grad, plane_*_grads
int launch_sums(const NormPoolParams& params, void* stream);  // plane_*_grads -> *_grad

}  // namespace dgdd::normalization
