// AVX2 + FMA: Haswell (2013), Zen and later.
//
//   instruction              used for
//   vpmaddubsw               u8 x s8 products, added in pairs to 16 bit
//   vpmaddwd                 pairs of 16 bit to 32 bit, times the multiplier of the group (int4) or one (int8)
//   vpsignb, vpabsb          int8 x int8 through vpmaddubsw: |w| * sign(a, w)
//   vfmadd231ps              float accumulation
//
// int4, for one row and one group of 32: codes u = c + 8 in 0..15, activations q in -127..127, pairs of k that vpmaddubsw adds.
// Each of a row's two 16-bit lanes starts at -8 * (its share of sum q), wraps freely, and ends as sum of c * q over sixteen k:
// |.| <= 16 * 8 * 127 = 16256 < 2^15. vpmaddwd with the group's multiplier in both lanes then gives multiplier * dot in 32 bit.
// int8: |w| * |a| <= 127 * 127 and a pair is <= 32258 < 2^15, so vpmaddubsw cannot saturate.

#include <immintrin.h>

#include "cpu/features.h"
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
  const __m256i ones_i16x16 = _mm256_set1_epi16(1);
  const __m256i zero_point = _mm256_set1_epi8(-128);  // code - 128 = code ^ 0x80 as a signed byte
  for (int r = 0; r < kRows; ++r) sum[r] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
#pragma GCC unroll 2
  for (int quad = 0; quad < kBlock / 4; ++quad) {
    const __m256i w_lo = _mm256_xor_si256(load_i8x32(tile + quad * 64), zero_point);
    const __m256i w_hi = _mm256_xor_si256(load_i8x32(tile + quad * 64 + 32), zero_point);
    const __m256i abs_lo = _mm256_abs_epi8(w_lo), abs_hi = _mm256_abs_epi8(w_hi);
    for (int r = 0; r < kRows; ++r) {
      const __m256i a = broadcast_quad(activations[r]->q + quad * 4);
      const __m256i lo_i16x16 = _mm256_maddubs_epi16(abs_lo, _mm256_sign_epi8(a, w_lo));
      const __m256i hi_i16x16 = _mm256_maddubs_epi16(abs_hi, _mm256_sign_epi8(a, w_hi));
      sum[r].lo = _mm256_add_epi32(sum[r].lo, _mm256_madd_epi16(lo_i16x16, ones_i16x16));
      sum[r].hi = _mm256_add_epi32(sum[r].hi, _mm256_madd_epi16(hi_i16x16, ones_i16x16));
    }
  }
}

// Sixteen int8 multipliers, each twice as 16 bit: what vpmaddwd wants
inline i32x16 load_multipliers(const std::byte* p) {
  const __m256i m_i8 = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const char z = -128;  // vpshufb writes zero; the byte goes to the high half, and the shift extends its sign
  const __m256i spread_lo =
      _mm256_setr_epi8(z, 0, z, 0, z, 1, z, 1, z, 2, z, 2, z, 3, z, 3, z, 4, z, 4, z, 5, z, 5, z, 6, z, 6, z, 7, z, 7);
  const __m256i spread_hi = _mm256_add_epi8(spread_lo, _mm256_set1_epi16(8 << 8));
  return {_mm256_srai_epi16(_mm256_shuffle_epi8(m_i8, spread_lo), 8), _mm256_srai_epi16(_mm256_shuffle_epi8(m_i8, spread_hi), 8)};
}

template <class Codes, int kRows>
inline void dot_int4(const std::byte* codes, const std::byte* multipliers, const ActivationBlock* const* activations, i32x16* sum) {
  for (int r = 0; r < kRows; ++r) sum[r] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
#pragma GCC unroll 1
  for (int g = 0; g < kBlock / kGroup; ++g) {
    const std::byte* group = codes + static_cast<size_t>(g) * Codes::kGroupBytes;
    __m256i lo_i16x16[kRows], hi_i16x16[kRows];
    for (int r = 0; r < kRows; ++r) {
      int32_t pair_sums;
      __builtin_memcpy(&pair_sums, activations[r]->negative_pair_sums + 2 * g, 4);
      lo_i16x16[r] = hi_i16x16[r] = _mm256_slli_epi16(_mm256_set1_epi32(pair_sums), 3);
    }
#pragma GCC unroll 1  // unrolled, GCC hoists products over sums and spills
    for (int j = 0; j < 4; ++j) {
      __m256i w[4];
      Codes::load_quad_pair(group, j, w);
      for (int r = 0; r < kRows; ++r) {
        const __m256i a0 = broadcast_quad(activations[r]->q + g * kGroup + j * 4);
        const __m256i a1 = broadcast_quad(activations[r]->q + g * kGroup + 16 + j * 4);
        lo_i16x16[r] = _mm256_add_epi16(lo_i16x16[r], _mm256_maddubs_epi16(w[0], a0));
        hi_i16x16[r] = _mm256_add_epi16(hi_i16x16[r], _mm256_maddubs_epi16(w[1], a0));
        lo_i16x16[r] = _mm256_add_epi16(lo_i16x16[r], _mm256_maddubs_epi16(w[2], a1));
        hi_i16x16[r] = _mm256_add_epi16(hi_i16x16[r], _mm256_maddubs_epi16(w[3], a1));
      }
    }
    const i32x16 multiplier = load_multipliers(multipliers + g * kTileRows);
    for (int r = 0; r < kRows; ++r) {
      sum[r].lo = _mm256_add_epi32(sum[r].lo, _mm256_madd_epi16(lo_i16x16[r], multiplier.lo));
      sum[r].hi = _mm256_add_epi32(sum[r].hi, _mm256_madd_epi16(hi_i16x16[r], multiplier.hi));
    }
  }
}

constexpr int kRowsAtOnce = 3;      // sixteen registers: 6 accumulators, 4 weights, the rest in flight; with 8, GCC spills
constexpr size_t kPrefetch = 4096;  // bytes ahead in the weight stream; past a page the hardware prefetcher starts anew

#include "kernels/quantized_linear.inc"

int64_t int8_peak(int64_t rounds) {
  constexpr int kChains = 6;
  __m256i sum[kChains] = {}, a[kChains] = {};
  __m256i w = _mm256_setzero_si256();
  for (int64_t round = 0; round < rounds; ++round) {
    for (int i = 0; i < kChains; ++i) {
      asm volatile("" : "+x"(w), "+x"(a[i]));  // not known to be what it was: the product must be computed again
      sum[i] = _mm256_add_epi16(sum[i], _mm256_maddubs_epi16(w, a[i]));
    }
  }
  for (auto& s : sum) asm volatile("" : : "x"(s));
  return rounds * kChains * 32;
}

}  // namespace

const Kernels kAvx2Kernels = {
    .name = "avx2",
    .required = kAvx2 | kFma,
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
