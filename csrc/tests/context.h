// Going from one stack to another. glibc's swapcontext asks the operating system about signals each time,
// which is most of what an emulated barrier takes; on x86-64 the registers that a call preserves are all that
// is swapped.
#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace dgdd::emulator {

#if defined(__x86_64__)

// Keeps the running stack in `*from` and goes on where `to` was kept.
__attribute__((naked, noinline)) inline void switch_stack([[maybe_unused]] void** from,
                                                          [[maybe_unused]] void* to) {
  asm("pushq %rbp\n\tpushq %rbx\n\tpushq %r12\n\tpushq %r13\n\tpushq %r14\n\tpushq %r15\n\t"
      "movq %rsp, (%rdi)\n\tmovq %rsi, %rsp\n\t"
      "popq %r15\n\tpopq %r14\n\tpopq %r13\n\tpopq %r12\n\tpopq %rbx\n\tpopq %rbp\n\tret");
}

class Context {
 public:
  // To begin `entry`, which must not return, on this stack.
  void prepare(char* stack, size_t bytes, void (*entry)()) {
    const uintptr_t top = (reinterpret_cast<uintptr_t>(stack) + bytes) / 16 * 16 - 16;
    uintptr_t* const at = reinterpret_cast<uintptr_t*>(top);
    at[0] = reinterpret_cast<uintptr_t>(entry);  // where `ret` goes: there the stack is as after a call
    at[1] = 0;
    for (int i = 1; i <= 6; ++i) at[-i] = 0;
    top_ = at - 6;
  }
  static void swap(Context& from, Context& to) { switch_stack(&from.top_, to.top_); }

 private:
  void* top_ = nullptr;
};

#else

class Context {
 public:
  void prepare(char* stack, size_t bytes, void (*entry)()) {
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack;
    context_.uc_stack.ss_size = bytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
  }
  static void swap(Context& from, Context& to) { swapcontext(&from.context_, &to.context_); }

 private:
  ucontext_t context_{};
};

#endif

}  // namespace dgdd::emulator
