// The intrinsics of AVX2, and the one of AVX-VNNI. To test the kernels on a CPU without AVX-VNNI, it can be compiled as plain C++,
// as Intel's Intrinsics Guide defines it.
#pragma once

#include <immintrin.h>

#include "cpu/features.h"

#if defined(GPTBIGCODE_CPU_EMULATE_VNNI)

namespace gptbigcode {
namespace {

inline __m256i dpbusd(__m256i sum, __m256i a, __m256i b) {
  int32_t lanes[8];
  uint8_t x[32];
  int8_t y[32];
  __builtin_memcpy(lanes, &sum, 32);
  __builtin_memcpy(x, &a, 32);
  __builtin_memcpy(y, &b, 32);
  for (int i = 0; i < 32; ++i) lanes[i / 4] += x[i] * y[i];
  __builtin_memcpy(&sum, lanes, 32);
  return sum;
}

constexpr uint32_t kRequiredForAvxVnni = kAvx2 | kFma | kF16c;

}  // namespace
}  // namespace gptbigcode

#else

namespace gptbigcode {
namespace {

constexpr uint32_t kRequiredForAvxVnni = kAvxVnni | kAvx2 | kFma | kF16c;

// In assembly: with the intrinsic, GCC copies every accumulator before and after, and spills some.
inline __m256i dpbusd(__m256i sum, __m256i u8, __m256i s8) {
  asm("%{vex%} vpdpbusd %[s8], %[u8], %[sum]" : [sum] "+x"(sum) : [u8] "x"(u8), [s8] "xm"(s8));
  return sum;
}

}  // namespace
}  // namespace gptbigcode

#endif
