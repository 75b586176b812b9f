// What a kernel's source, a `*_kernels.cuh`, is written in: CUDA, with shared memory behind an accessor. nvcc
// compiles it to plain CUDA; a host compiler runs the same source in the emulator (csrc/tests/emulator.h),
// which counts every access. No torch header is included here.
#pragma once

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#include <cstdint>

namespace dgdd {

// `count` elements of shared memory.
template <class T>
class Shared {
 public:
  __device__ __forceinline__ explicit Shared(T* elements) : elements_(elements) {}
  __device__ __forceinline__ T load(int index) const { return elements_[index]; }
  __device__ __forceinline__ void store(int index, T value) const { elements_[index] = value; }
  __device__ __forceinline__ T atomic_add(int index, T value) const {
    return atomicAdd(elements_ + index, value);
  }

  // The same elements of another block of the cluster. Only they are addressed so: an address in the own
  // block's memory stays one of shared memory for the compiler.
  __device__ __forceinline__ Shared of_block(int rank) const {
    uint64_t there;
    asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(elements_), "r"(rank));
    return Shared(reinterpret_cast<T*>(there));
  }

  __device__ __forceinline__ unsigned address(int index) const {
    return static_cast<unsigned>(__cvta_generic_to_shared(elements_ + index));
  }

 private:
  T* elements_;
};

// `count` elements of the launch's dynamic shared memory, from `byte_offset` (a multiple of their alignment).
template <class T>
__device__ __forceinline__ Shared<T> dynamic_shared(int byte_offset, int count) {
  extern __shared__ __align__(16) unsigned char dgdd_dynamic_shared[];
  static_cast<void>(count);
  return Shared<T>(reinterpret_cast<T*>(dgdd_dynamic_shared + byte_offset));
}

// -------- copies from global to shared memory that go on while the threads do something else
//
// All addresses and sizes are multiples of 16 bytes. The destination must be left alone from the start of the
// copy to the wait for it, and the source must not change.

// By the thread, 16 bytes at a time, for any architecture from sm_80: waits for all groups of its own copies,
// each ended by a commit, but the last kGroupsLeft. Others see them after a barrier that follows the wait.
template <class T>
__device__ __forceinline__ void copy_16_bytes(Shared<T> to, int index, const T* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to.address(index)), "l"(from) : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kGroupsLeft>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroupsLeft) : "memory");
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

// Eight bytes of dynamic shared memory (an mbarrier) that count arrivals and bytes. A phase is over when as
// many threads have arrived as the barrier was made for, and all bytes that they expect.
class CopyBarrier {
 public:
  __device__ __forceinline__ explicit CopyBarrier(int byte_offset)
      : address_(dynamic_shared<uint64_t>(byte_offset, 1).address(0)) {}

  // By one thread, which goes on with fence_for_copies; the others use the barrier after a barrier of the
  // block.
  __device__ __forceinline__ void init(int arrivals) const {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address_), "r"(arrivals) : "memory");
  }
  __device__ __forceinline__ void arrive() const {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address_) : "memory");
  }
  __device__ __forceinline__ void arrive_expecting(int bytes) const {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address_), "r"(bytes)
                 : "memory");
  }
  // Until the phase of this parity is over: 0 for the first, 1 for the second, and so on.
  __device__ __forceinline__ void wait(int parity) const {
    unsigned is_over;
    do {
      asm volatile(
          "{\n\t.reg .pred is_over;\n\t"
          "mbarrier.try_wait.parity.shared::cta.b64 is_over, [%1], %2;\n\t"
          "selp.u32 %0, 1, 0, is_over;\n\t}"
          : "=r"(is_over)
          : "r"(address_), "r"(parity)
          : "memory");
    } while (is_over == 0);
  }
  __device__ __forceinline__ unsigned address() const { return address_; }

 private:
  unsigned address_;
};

// What this thread has written to shared memory, barriers that it made included, is there for copies in bulk.
__device__ __forceinline__ void fence_for_copies() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// In bulk, started by one thread; `barrier` counts the bytes. Whoever waits there sees them.
template <class T>
__device__ __forceinline__ void copy_bulk(Shared<T> to, int index, const T* from, int count,
                                          CopyBarrier barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          to.address(index)),
      "l"(from), "r"(count * static_cast<int>(sizeof(T))), "r"(barrier.address())
      : "memory");
}

// -------- clusters of blocks
//
// A block sees what another one wrote to its own shared memory after a barrier of the cluster, and must not
// end before the others are through with its memory.

__device__ __forceinline__ int cluster_rank() {
  int rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ __forceinline__ int cluster_size() {
  int size;
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return size;
}
__device__ __forceinline__ void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_barrier() {
  cluster_arrive();
  cluster_wait();
}

#endif

// -------- arithmetic

// 1 / value, with a relative error of 2^-23 at most; subnormal numbers count as 0.
__device__ __forceinline__ float approximate_reciprocal(float value) {
  float reciprocal;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(value));
  return reciprocal;
}

// Takes from the compiler what it knows of a value: what it would otherwise compute from it once, before a
// loop, and keep in registers.
__device__ __forceinline__ void forget(int& value) { asm volatile("" : "+r"(value)); }
__device__ __forceinline__ void forget(int64_t& value) { asm volatile("" : "+l"(value)); }

// Has the cache line at this global address fetched into the second-level cache.
__device__ __forceinline__ void prefetch(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

// What a thread moves between global memory and registers at once: the address must be a multiple of its
// size.
template <class Unit>
__device__ __forceinline__ Unit load_global(const void* address) {
  return *static_cast<const Unit*>(address);
}
template <class Unit>
__device__ __forceinline__ void store_global(void* address, const Unit& unit) {
  *static_cast<Unit*>(address) = unit;
}

}  // namespace dgdd

// Static shared memory: `name` becomes a dgdd::Shared<type> of `count` elements.
#define DGDD_SHARED(type, name, count)                  \
  __shared__ __align__(16) type name##_elements[count]; \
  const dgdd::Shared<type> name(name##_elements)

#else

#include "tests/emulator.h"

#endif
