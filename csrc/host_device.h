// Functions that CPU and CUDA kernels share. They are always inlined: the CPU kernels are compiled once per
// instruction set, and the linker must not keep one unit's copy of a function for the others.
#pragma once

#if defined(__CUDACC__)
#define DGDD_HOST_DEVICE __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define DGDD_HOST_DEVICE inline __attribute__((always_inline))
#else
#define DGDD_HOST_DEVICE inline
#endif
