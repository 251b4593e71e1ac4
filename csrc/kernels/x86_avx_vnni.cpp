// AVX-VNNI, the VEX-encoded VNNI of CPUs without AVX-512: Alder Lake and later, Zen 5.
//
//   instruction              used for
//   vpdpbusd                 four u8 x s8 products per 32-bit lane, added up; two registers are 16 rows x 4 k
//   vpdpwssd                 16-bit products in pairs, added up: multiplier of the group times its dot product
//   vfmadd231ps              float accumulation
//
// The algebra is that of x86_avx512_vnni.cpp, in halves of eight rows.

#include "cpu/features.h"
#include "kernels/avx_vnni_intrinsics.h"
#include "kernels/kernels.h"

namespace gptbigcode {
namespace {

#include "kernels/x86_avx2_lanes.inc"

// Built on those lanes.
#include "kernels/vector_kernels.inc"

// ---------------------------------------------------------------- integer dot products of one tile block

#include "kernels/x86_avx2_codes.inc"

// sum[r] = integer sums of the 16 rows of the tile block against row r's activations
template <int kRows>
inline void dot_int8(const std::byte* tile, const ActivationBlock* const* activations, i32x16* sum) {
  for (int r = 0; r < kRows; ++r) sum[r].lo = sum[r].hi = _mm256_set1_epi32(activations[r]->negative_sum * 128);
#pragma GCC unroll 2
  for (int quad = 0; quad < kBlock / 4; ++quad) {
    const __m256i w_lo = load_i8x32(tile + quad * 64), w_hi = load_i8x32(tile + quad * 64 + 32);
    for (int r = 0; r < kRows; ++r) {
      const __m256i a = broadcast_quad(activations[r]->q + quad * 4);
      sum[r].lo = _mm256_dpbusd_avx_epi32(sum[r].lo, w_lo, a);
      sum[r].hi = _mm256_dpbusd_avx_epi32(sum[r].hi, w_hi, a);
    }
  }
}

template <class Codes, int kRows>
inline void dot_int4(const std::byte* codes, const std::byte* multipliers, const ActivationBlock* const* activations, i32x16* sum) {
  const __m256i eights_i16x16 = _mm256_set1_epi16(8), low_halves = _mm256_set1_epi32(0xffff);
  for (int r = 0; r < kRows; ++r) sum[r] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
#pragma GCC unroll 1
  for (int g = 0; g < kBlock / kGroup; ++g) {
    const std::byte* group = codes + static_cast<size_t>(g) * Codes::kGroupBytes;
    __m256i lo_i32x8[kRows], hi_i32x8[kRows];
    for (int r = 0; r < kRows; ++r) {
      int32_t pair_sums;
      __builtin_memcpy(&pair_sums, activations[r]->negative_pair_sums + 2 * g, 4);
      lo_i32x8[r] = hi_i32x8[r] = _mm256_madd_epi16(_mm256_set1_epi32(pair_sums), eights_i16x16);
    }
#pragma GCC unroll 1
    for (int j = 0; j < 4; ++j) {
      __m256i w[4];
      Codes::load_quad_pair(group, j, w);
      for (int r = 0; r < kRows; ++r) {
        const __m256i a0 = broadcast_quad(activations[r]->q + g * kGroup + j * 4);
        const __m256i a1 = broadcast_quad(activations[r]->q + g * kGroup + 16 + j * 4);
        lo_i32x8[r] = _mm256_dpbusd_avx_epi32(lo_i32x8[r], w[0], a0);
        hi_i32x8[r] = _mm256_dpbusd_avx_epi32(hi_i32x8[r], w[1], a0);
        lo_i32x8[r] = _mm256_dpbusd_avx_epi32(lo_i32x8[r], w[2], a1);
        hi_i32x8[r] = _mm256_dpbusd_avx_epi32(hi_i32x8[r], w[3], a1);
      }
    }
    const __m128i m_i8x16 = _mm_loadu_si128(reinterpret_cast<const __m128i*>(multipliers + g * kTileRows));
    const __m256i m_lo = _mm256_and_si256(_mm256_cvtepi8_epi32(m_i8x16), low_halves);
    const __m256i m_hi = _mm256_and_si256(_mm256_cvtepi8_epi32(_mm_srli_si128(m_i8x16, 8)), low_halves);
    for (int r = 0; r < kRows; ++r) {
      sum[r].lo = _mm256_dpwssd_avx_epi32(sum[r].lo, lo_i32x8[r], m_lo);
      sum[r].hi = _mm256_dpwssd_avx_epi32(sum[r].hi, hi_i32x8[r], m_hi);
    }
  }
}

constexpr int kRowsAtOnce = 4;      // sixteen registers: 8 accumulators, 4 weights, the rest in flight
constexpr size_t kPrefetch = 4096;  // bytes ahead in the weight stream; past a page the hardware prefetcher starts anew

#include "kernels/quantized_linear.inc"

int64_t int8_peak(int64_t rounds) {
  constexpr int kChains = 10;
  __m256i sum[kChains] = {}, a = _mm256_setzero_si256();
  for (int64_t round = 0; round < rounds; ++round) {
    for (auto& s : sum) s = _mm256_dpbusd_avx_epi32(s, a, a);
  }
  for (auto& s : sum) asm volatile("" : : "x"(s));
  return rounds * kChains * 32;
}

}  // namespace

const Kernels kAvxVnniKernels = {
    .name = "avx_vnni",
    .required = kRequiredForAvxVnni,
    .linear_float32 = linear_float<float>,
    .linear_bfloat16 = linear_float<uint16_t>,
    .linear_int8 = linear_int8,
    .linear_int4 = linear_int4,
    .quantize = quantize,
    .layer_norm = layer_norm,
    .activate = activate,
    .attention = attention,
    .int8_peak = int8_peak,
};

}  // namespace gptbigcode
