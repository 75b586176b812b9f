// Large results on the CPU in huge pages. No torch header is included here.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace dgdd {

// Memory of this size is often new from the kernel: glibc maps the largest blocks anew each time, and returns
// the free end of its heap when that grows. New memory has no pages yet, and to make them one by one, 4 KB
// each, as they are touched takes longer than an operator that passes once over its features. So the kernel
// is asked for huge ones; it may refuse.
inline void ask_for_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__)
  constexpr int64_t kOftenNew = 4 << 20;
  constexpr uintptr_t kHugePage = 2 << 20;
  if (bytes < kOftenNew) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes) / kHugePage * kHugePage;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace dgdd
