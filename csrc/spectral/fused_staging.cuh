// A plane on its way from global to shared memory, while the threads work on the plane before it. One plane
// is under way or there at a time. `kThreads` threads share it, which the barrier `Barrier` orders:
//
//   prepare(thread)              once, before a barrier
//   start(from, thread)          after a barrier that follows the last reads
//   wait(active)                 by all threads; afterwards an active one can read
//
// A plane's address is a multiple of 16 bytes, and so are its bytes.
#pragma once

#include "cuda_shim.h"
#include "spectral/params.h"

namespace dgdd::spectral {

// Each thread copies a part. From sm_80.
template <class Stored, int kPixels, int kThreads, class Barrier>
class StagingByThreads {
 public:
  __device__ __forceinline__ StagingByThreads(int byte_offset, int)
      : plane(dynamic_shared<Stored>(byte_offset, kPixels)) {}

  static constexpr bool kNeedsPreparation = false;
  static constexpr bool kWaitsTogether = true;  // a wait is a barrier
  __device__ __forceinline__ void prepare(int) const {}
  __device__ __forceinline__ void start(const Stored* from, int thread) const {
    constexpr int kAtOnce = 16 / sizeof(Stored);
#pragma unroll
    for (int first = 0; first < kPixels; first += kThreads * kAtOnce)
      copy_16_bytes(plane, first + thread * kAtOnce, from + first + thread * kAtOnce);
    commit_copies();
  }
  __device__ __forceinline__ void wait(bool) const {
    wait_for_copies<0>();
    Barrier::wait();
  }

  Shared<Stored> plane;
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

// One thread starts the copy engine. From sm_90.
template <class Stored, int kPixels, int kThreads, class Barrier>
class StagingInBulk {
 public:
  __device__ __forceinline__ StagingInBulk(int byte_offset, int barrier_offset)
      : plane(dynamic_shared<Stored>(byte_offset, kPixels)), arrived_(barrier_offset) {}

  static constexpr bool kNeedsPreparation = true;
  static constexpr bool kWaitsTogether = false;
  __device__ __forceinline__ void prepare(int thread) const {
    if (thread != 0) return;
    arrived_.init(1);
    fence_for_copies();
  }
  __device__ __forceinline__ void start(const Stored* from, int thread) const {
    if (thread != 0) return;
    arrived_.arrive_expecting(kPixels * static_cast<int>(sizeof(Stored)));
    copy_bulk(plane, 0, from, kPixels, arrived_);
  }
  __device__ __forceinline__ void wait(bool active) {
    if (!active) return;
    arrived_.wait(parity_);
    parity_ ^= 1;
  }

  Shared<Stored> plane;

 private:
  CopyBarrier arrived_;
  int parity_ = 0;  // of the phase that ends with the next plane
};

#endif

// What the device that this is compiled for can do; in the emulator, the newest.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
template <class Stored, int kPixels, int kThreads, class Barrier>
using DeviceStaging = StagingInBulk<Stored, kPixels, kThreads, Barrier>;
#else
template <class Stored, int kPixels, int kThreads, class Barrier>
using DeviceStaging = StagingByThreads<Stored, kPixels, kThreads, Barrier>;
#endif

// What the output is made of beside the domains, in the order in which it comes: base_grad, momentum_buffer,
// images. Null where the call has none.
template <class Stored>
struct AddedPlanes {
  bool first_is_base;
  const Stored* first;   // base_grad or momentum_buffer
  const Stored* second;  // momentum_buffer, if the first is base_grad
  const Stored* images;

  __device__ __forceinline__ AddedPlanes(const SpectralParams& params, int64_t first_pixel)
      : first_is_base(params.base_grad != nullptr) {
    const auto at = [=](const void* planes) {
      return planes == nullptr ? nullptr : static_cast<const Stored*>(planes) + first_pixel;
    };
    first = at(first_is_base ? params.base_grad : params.momentum_buffer);
    second = first_is_base ? at(params.momentum_buffer) : nullptr;
    images = at(params.images);
  }
};

}  // namespace dgdd::spectral
