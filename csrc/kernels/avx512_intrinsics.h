// The AVX-512 intrinsics: the compiler's, or the emulation of them that lets a CPU without AVX-512 test the kernels.
#pragma once

#include "cpu/features.h"

#if defined(GPTBIGCODE_CPU_EMULATE_VNNI)

#include "kernels/avx512_emulated.h"

namespace gptbigcode {
namespace {

constexpr uint32_t kRequiredForAvx512Vnni = 0;
inline __m512i dpbusd(__m512i sum, __m512i u8, __m512i s8) { return _mm512_dpbusd_epi32(sum, u8, s8); }

}  // namespace
}  // namespace gptbigcode

#else

#include <immintrin.h>

namespace gptbigcode {
namespace {

constexpr uint32_t kRequiredForAvx512Vnni = kAvx512f | kAvx512bw | kAvx512dq | kAvx512vl | kAvx512Vnni | kAvx2 | kFma | kF16c;

// As an instruction: from the intrinsic GCC copies every accumulator before and after, and spills some.
inline __m512i dpbusd(__m512i sum, __m512i u8, __m512i s8) {
  asm("vpdpbusd %[s8], %[u8], %[sum]" : [sum] "+v"(sum) : [u8] "v"(u8), [s8] "vm"(s8));
  return sum;
}

}  // namespace
}  // namespace gptbigcode

#endif
