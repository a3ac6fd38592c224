// A strand: a stack on which one emulated thread after the other runs; the scheduler enters it, and it yields back.
// Nothing is unwound, so a strand may be left in the middle of a kernel, and be started afresh later.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#include <vector>

#if !defined(__x86_64__) || defined(RNNC_PORTABLE_STRANDS)
#include <csetjmp>
#include <ucontext.h>
#endif

namespace rnnc_emulator {

struct Strand {
  static constexpr size_t SIZE = 128 << 10, GUARD = 16 << 10;

  char* stack = nullptr;  // SIZE bytes; the lowest GUARD of them fault
  size_t used = 0;        // bytes at the top that are left free
  bool started = false;
#if defined(__x86_64__) && !defined(RNNC_PORTABLE_STRANDS)
  void* pointer = nullptr;  // the stack pointer while it does not run
#else
  jmp_buf registers;
#endif

  void enter(void (*loop)());  // from the scheduler; returns when the strand yields
  void yield();                // on the strand; returns when it is entered again
};

#if defined(__x86_64__) && !defined(RNNC_PORTABLE_STRANDS)

// Saves what a call preserves on the present stack, whose pointer goes to *from; goes on where `to` was left.
extern "C" void rnnc_switch_stack(void** from, void* to) __attribute__((visibility("hidden")));
asm(R"(
  .text
  .hidden rnnc_switch_stack
  .globl rnnc_switch_stack
rnnc_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmp *%rcx
)");

static void* scheduler_pointer;

inline void Strand::enter(void (*loop)()) {
  if (!started) {
    started = true;
    void** top = (void**)((uintptr_t(stack) + SIZE - used) & ~uintptr_t(15));
    *--top = nullptr;  // where `loop` would return to
    *--top = (void*)loop;
    for (int i = 0; i < 6; i++) *--top = nullptr;
    pointer = top;
  }
  rnnc_switch_stack(&scheduler_pointer, pointer);
}
inline void Strand::yield() { rnnc_switch_stack(&pointer, scheduler_pointer); }

#else

static jmp_buf scheduler_registers;

inline void Strand::enter(void (*loop)()) {
  if (_setjmp(scheduler_registers)) return;
  if (started) _longjmp(registers, 1);
  started = true;
  ucontext_t fresh;
  getcontext(&fresh);
  fresh.uc_stack.ss_sp = stack;
  fresh.uc_stack.ss_size = SIZE - used;
  fresh.uc_link = nullptr;
  makecontext(&fresh, loop, 0);
  setcontext(&fresh);
}
inline void Strand::yield() {
  if (!_setjmp(registers)) _longjmp(scheduler_registers, 1);
}

#endif

// Strands that live as long as the process.
struct Strands {
  static constexpr size_t SLAB = 256;
  static constexpr size_t GUARDED = 8192;  // each guard takes two of the mappings that the system grants a process
  std::vector<Strand*> all;

  bool grow(size_t count) {
    while (all.size() < count) {
      char* slab = (char*)mmap(nullptr, Strand::SIZE * SLAB, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (slab == MAP_FAILED) return false;
      Strand* strands = new Strand[SLAB];
      for (size_t i = 0; i < SLAB; i++) {
        strands[i].stack = slab + i * Strand::SIZE;
        strands[i].used = i * 576 % 4096;  // equal frames of many threads must not share a few lines of the cache
        if (all.size() < GUARDED) mprotect(strands[i].stack, Strand::GUARD, PROT_NONE);
        all.push_back(&strands[i]);
      }
    }
    return true;
  }
  void abandon() {  // their stacks hold calls that never return
    for (Strand* s : all) s->started = false;
  }
};

}  // namespace rnnc_emulator
