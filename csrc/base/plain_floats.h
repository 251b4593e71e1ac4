// The floating-point state that all kernels expect: rounding to nearest, and denormal numbers are kept. Libraries compiled with
// -ffast-math, torch.set_flush_denormal and fesetround change this state for the thread they run in, and new threads inherit it.
// Without PlainFloats, results would depend on such calls and on which thread computes what.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace gptbigcode {

// As long as it lives, this thread is in that state.
class PlainFloats {
 public:
  PlainFloats() : before_(state()) { set_state(kPlain); }
  ~PlainFloats() { set_state(before_); }
  PlainFloats(const PlainFloats&) = delete;
  PlainFloats& operator=(const PlainFloats&) = delete;

 private:
#if defined(__x86_64__)
  static constexpr uint64_t kPlain = 0x1f80;  // MXCSR: no exception traps
  static uint64_t state() { return _mm_getcsr(); }
  static void set_state(uint64_t value) { _mm_setcsr(static_cast<unsigned>(value)); }
#elif defined(__aarch64__)
  static constexpr uint64_t kPlain = 0;  // FPCR
  static uint64_t state() {
    uint64_t value;
    asm volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void set_state(uint64_t value) { asm volatile("msr fpcr, %0" : : "r"(value)); }
#else
  static constexpr uint64_t kPlain = 0;
  static uint64_t state() { return 0; }
  static void set_state(uint64_t) {}
#endif

  const uint64_t before_;
};

}  // namespace gptbigcode
