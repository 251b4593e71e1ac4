// The AVX2 intrinsics, and AVX-VNNI's two: the compiler's, or, to test the kernels on a CPU without them, their definition in
// Intel's Intrinsics Guide.
#pragma once

#include <immintrin.h>

#include "cpu/features.h"

#if defined(GPTBIGCODE_CPU_EMULATE_VNNI)

namespace gptbigcode {
namespace {

inline __m256i emulated_dpbusd(__m256i sum, __m256i a, __m256i b) {
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

}  // namespace

static constexpr uint32_t kRequiredForAvxVnni = kAvx2 | kFma;
}  // namespace gptbigcode

#define _mm256_dpbusd_avx_epi32(sum, a, b) emulated_dpbusd(sum, a, b)
#define _mm256_dpwssd_avx_epi32(sum, a, b) _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))

#else

namespace gptbigcode {
static constexpr uint32_t kRequiredForAvxVnni = kAvxVnni | kAvx2 | kFma;
}

#endif
