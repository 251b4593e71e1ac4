#include "cpu/features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace gptbigcode {
namespace {

#if defined(__x86_64__)

// Which register state the operating system saves on a context switch (XCR0). Instructions that use other state fault.
uint64_t xcr0() {
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

// Whether the operating system lets this process use the tile registers, which take 8 KiB per thread to save. Linux grants it to a
// process that asks once (Documentation/arch/x86/xstate.rst), and to its threads.
bool may_use_tiles() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

// Bits as in the Intel SDM, volume 2, CPUID: leaf 1, leaf 7 subleaves 0 and 1.
uint32_t detect() {
  uint32_t eax, ebx, ecx, edx;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return 0;
  const bool osxsave = (ecx >> 27) & 1u;
  if (!osxsave) return 0;
  const uint64_t state = xcr0();
  const bool ymm = (state & 0x6) == 0x6;
  const bool zmm = (state & 0xe6) == 0xe6;
  uint32_t mask = 0;
  const auto add = [&mask](bool present, Feature feature) { mask |= present ? feature : 0u; };
  add(ymm && ((ecx >> 12) & 1u), kFma);
  add(ymm && ((ecx >> 29) & 1u), kF16c);
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return mask;
  const uint32_t subleaves = eax;
  add(ymm && ((ebx >> 5) & 1u), kAvx2);
  add(zmm && ((ebx >> 16) & 1u), kAvx512f);
  add(zmm && ((ebx >> 17) & 1u), kAvx512dq);
  add(zmm && ((ebx >> 30) & 1u), kAvx512bw);
  add(zmm && ((ebx >> 31) & 1u), kAvx512vl);
  add(zmm && ((ecx >> 11) & 1u), kAvx512Vnni);
  const bool amx_tile = (edx >> 24) & 1u, amx_int8 = (edx >> 25) & 1u;
  if (amx_tile && (state & 0x60000) == 0x60000 && may_use_tiles()) {
    add(true, kAmxTile);
    add(amx_int8, kAmxInt8);
  }
  if (subleaves >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0) {
    add(ymm && ((eax >> 4) & 1u), kAvxVnni);
    add(zmm && ((eax >> 5) & 1u), kAvx512Bf16);
  }
  return mask;
}

#elif defined(__aarch64__)

// Bits as in Linux's arch/arm64/include/uapi/asm/hwcap.h.
uint32_t detect() {
  const unsigned long hwcap = getauxval(AT_HWCAP), hwcap2 = getauxval(AT_HWCAP2);
  uint32_t mask = 0;
  mask |= (hwcap >> 1) & 1u ? kNeon : 0u;
  mask |= (hwcap >> 20) & 1u ? kDotprod : 0u;
  mask |= (hwcap2 >> 13) & 1u ? kI8mm : 0u;
  return mask;
}

#else

uint32_t detect() { return 0; }

#endif

struct Name {
  Feature feature;
  const char* name;
};
constexpr Name kNames[] = {
    {kAvx2, "avx2"},
    {kFma, "fma"},
    {kF16c, "f16c"},
    {kAvxVnni, "avx_vnni"},
    {kAvx512f, "avx512f"},
    {kAvx512bw, "avx512bw"},
    {kAvx512dq, "avx512dq"},
    {kAvx512vl, "avx512vl"},
    {kAvx512Vnni, "avx512_vnni"},
    {kAvx512Bf16, "avx512_bf16"},
    {kAmxTile, "amx_tile"},
    {kAmxInt8, "amx_int8"},
    {kNeon, "asimd"},
    {kDotprod, "asimddp"},
    {kI8mm, "i8mm"},
};

}  // namespace

uint32_t cpu_features() {
  static const uint32_t mask = detect();
  return mask;
}

std::vector<std::string> feature_names(uint32_t mask) {
  std::vector<std::string> names;
  for (const auto& [feature, name] : kNames) {
    if (mask & feature) names.emplace_back(name);
  }
  return names;
}

}  // namespace gptbigcode
