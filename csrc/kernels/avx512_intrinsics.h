// The AVX-512 intrinsics: the compiler's, or the emulation of them that lets a CPU without AVX-512 test the kernels.
#pragma once

#include "cpu/features.h"

#if defined(GPTBIGCODE_CPU_EMULATE_VNNI)

#include "kernels/avx512_emulated.h"

namespace gptbigcode {
static constexpr uint32_t kRequiredForAvx512Vnni = 0;
}

#else

#include <immintrin.h>

namespace gptbigcode {
static constexpr uint32_t kRequiredForAvx512Vnni = kAvx512f | kAvx512bw | kAvx512dq | kAvx512vl | kAvx512Vnni | kAvx2 | kFma;
}

#endif
