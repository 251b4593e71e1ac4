// The AVX-512 intrinsics: the compiler's, or SIMDe's emulation of them on AVX2, which lets a CPU without AVX-512 test the kernels.
#pragma once

#include "cpu/features.h"

#if defined(GPTBIGCODE_CPU_EMULATE_AVX512)

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>

namespace gptbigcode {
inline constexpr uint32_t kRequiredForAvx512Vnni = kAvx2 | kFma;
}

#else

#include <immintrin.h>

namespace gptbigcode {
inline constexpr uint32_t kRequiredForAvx512Vnni = kAvx512f | kAvx512bw | kAvx512dq | kAvx512vl | kAvx512Vnni | kAvx2 | kFma;
}

#endif
