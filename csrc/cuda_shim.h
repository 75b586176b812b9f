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

// Takes from the compiler what it knows of a value: what it would otherwise compute from it once, before a
// loop, and keep in registers.
__device__ __forceinline__ void forget(int& value) { asm volatile("" : "+r"(value)); }
__device__ __forceinline__ void forget(int64_t& value) { asm volatile("" : "+l"(value)); }

// Has the cache line at this global address fetched into the second-level cache.
__device__ __forceinline__ void prefetch(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

}  // namespace dgdd

// Static shared memory: `name` becomes a dgdd::Shared<type> of `count` elements.
#define DGDD_SHARED(type, name, count)                  \
  __shared__ __align__(16) type name##_elements[count]; \
  const dgdd::Shared<type> name(name##_elements)

#else

#include "tests/emulator.h"

#endif
