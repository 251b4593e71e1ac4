// The AVX-512 intrinsics: the compiler's, or the emulation of them that lets a CPU without AVX-512 test the kernels.
#pragma once

#include "cpu/features.h"

#if defined(GPTBIGCODE_CPU_EMULATE_VNNI)

#include "kernels/x86/avx512_emulated.h"
#include "kernels/x86/avx512_emulated_floats.h"

namespace gptbigcode {
namespace {

constexpr uint32_t kRequiredForAvx512Vnni = 0;
inline __m512i dpbusd(__m512i sum, __m512i u8, __m512i s8) { return _mm512_dpbusd_epi32(sum, u8, s8); }
inline __m512i in_register(__m512i v) { return v; }
template <class T>
inline T* in_register(T* p) {
  return p;
}
// The same four s8 in every lane
inline __m512i dpbusd_broadcast(__m512i sum, __m512i u8, const void* s8) {
  int32_t value;
  __builtin_memcpy(&value, s8, 4);
  return dpbusd(sum, u8, _mm512_set1_epi32(value));
}

}  // namespace
}  // namespace gptbigcode

#else

#include <immintrin.h>

namespace gptbigcode {
namespace {

constexpr uint32_t kRequiredForAvx512Vnni = kAvx512f | kAvx512bw | kAvx512dq | kAvx512vl | kAvx512Vnni | kAvx2 | kFma | kF16c;

// In assembly: with the intrinsic, GCC copies every accumulator before and after, and spills some.
inline __m512i dpbusd(__m512i sum, __m512i u8, __m512i s8) {
  asm("vpdpbusd %[s8], %[u8], %[sum]" : [sum] "+v"(sum) : [u8] "v"(u8), [s8] "vm"(s8));
  return sum;
}
inline __m512i in_register(__m512i v) {
  asm("" : "+v"(v));
  return v;
}
template <class T>
inline T* in_register(T* p) {
  asm("" : "+r"(p));
  return p;
}
// The same four s8 in every lane, from memory: a load and no register.
inline __m512i dpbusd_broadcast(__m512i sum, __m512i u8, const void* s8) {
  struct Quad {
    int8_t code[4];
  };
  asm("vpdpbusd %[s8]%{1to16%}, %[u8], %[sum]" : [sum] "+v"(sum) : [u8] "v"(u8), [s8] "m"(*static_cast<const Quad*>(s8)));
  return sum;
}

}  // namespace
}  // namespace gptbigcode

#endif
