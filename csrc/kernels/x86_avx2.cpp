// AVX2 + FMA: Haswell (2013), Zen and later.
//
//   instruction              used for
//   vpmaddubsw               u8 x s8 products, added in pairs to 16 bit
//   vpmaddwd                 pairs of 16 bit to 32 bit, times the multiplier of the group (int4) or one (int8)
//   vpsignb, vpabsb          int8 x int8 through vpmaddubsw: |w| * sign(a, w)
//   vfmadd231ps              float accumulation
//
// int4, for one row and one group of 16: u = codebook entry + 16 (+ offset), activations q in -127..127, pairs of k that vpmaddubsw
// adds. Each of a row's two 16-bit lanes starts at -16 (+ offset) times its share of sum q, wraps freely, and ends as the sum of
// (entry + offset) * q over eight k: |.| <= 8 * 16 * 127 = 16256 < 2^15. vpmaddwd with the group's multiplier in both lanes then
// gives multiplier * dot in 32 bit.
// int8: |w| * |a| <= 127 * 127 and a pair is <= 32258 < 2^15, so vpmaddubsw cannot saturate.

#include <immintrin.h>

#include "base/float_bits.h"
#include "cpu/features.h"
#include "kernels/kernels.h"

namespace gptbigcode {
namespace {

#include "kernels/x86_avx2_lanes.inc"

// Both halves of a 32-bit lane: 16-bit sums for the pairs that vpmaddubsw adds.
inline int32_t group_start(int32_t even, int32_t odd) {
  return static_cast<int32_t>((static_cast<uint32_t>(-kInt4Zero * even) & 0xffff) | static_cast<uint32_t>(-kInt4Zero * odd) << 16);
}

// Built on those.
#include "kernels/vector_kernels.inc"

// ---------------------------------------------------------------- integer dot products of one tile block

inline __m256i widen_multiplier(__m256i pair_i16x16) { return pair_i16x16; }
#include "kernels/x86_avx2_codes.inc"

// sum + w * a in 32-bit lanes. One piece: left to itself, GCC computes products far ahead and spills them.
inline __m256i multiply_add_signed(__m256i sum_i32x8, __m256i w_i8x32, __m256i abs_w, __m256i a_i8x32, __m256i ones_i16x16) {
  __m256i product;
  asm("vpsignb %[w], %[a], %[product]\n\t"
      "vpmaddubsw %[product], %[abs_w], %[product]\n\t"
      "vpmaddwd %[ones], %[product], %[product]\n\t"
      "vpaddd %[product], %[sum], %[sum]"
      : [sum] "+x"(sum_i32x8), [product] "=&x"(product)
      : [w] "x"(w_i8x32), [abs_w] "x"(abs_w), [a] "x"(a_i8x32), [ones] "x"(ones_i16x16));
  return sum_i32x8;
}

// sum[r] = integer sums of the 16 rows of the tile block against row r's activations
template <int kRows, int kTiles>
inline void dot_int8(const std::byte* tile, size_t, const ActivationBlock* const* activations, i32x16 (*sum)[kTiles]) {
  static_assert(kTiles == 1);
  const __m256i ones_i16x16 = _mm256_set1_epi16(1);
  const __m256i zero_point = _mm256_set1_epi8(-128);  // code - 128 = code ^ 0x80 as a signed byte
  for (int r = 0; r < kRows; ++r) sum[r][0] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
#pragma GCC unroll 2
  for (int quad = 0; quad < kBlock / 4; ++quad) {
    const __m256i w_lo = _mm256_xor_si256(load_i8x32(tile + quad * 64), zero_point);
    const __m256i w_hi = _mm256_xor_si256(load_i8x32(tile + quad * 64 + 32), zero_point);
    const __m256i abs_lo = _mm256_abs_epi8(w_lo), abs_hi = _mm256_abs_epi8(w_hi);
    for (int r = 0; r < kRows; ++r) {
      const __m256i a = broadcast_i32(activations[r]->q + quad * 4);
      sum[r][0].lo = multiply_add_signed(sum[r][0].lo, w_lo, abs_lo, a, ones_i16x16);
      sum[r][0].hi = multiply_add_signed(sum[r][0].hi, w_hi, abs_hi, a, ones_i16x16);
    }
  }
}

// sum + w * a, added in pairs; one piece, as above
inline __m256i multiply_add(__m256i sum_i16x16, __m256i w_u8x32, __m256i a_i8x32) {
  __m256i product;
  asm("vpmaddubsw %[a], %[w], %[product]\n\tvpaddw %[product], %[sum], %[sum]"
      : [sum] "+x"(sum_i16x16), [product] "=&x"(product)
      : [w] "x"(w_u8x32), [a] "x"(a_i8x32));
  return sum_i16x16;
}
template <int kRows>
inline void add_quad(__m256i w_lo, __m256i w_hi, const ActivationBlock* const* activations, int k, __m256i* lo_i16x16,
                     __m256i* hi_i16x16) {
  for (int r = 0; r < kRows; ++r) {
    const __m256i a = broadcast_i32(activations[r]->q + k);
    lo_i16x16[r] = multiply_add(lo_i16x16[r], w_lo, a);
    hi_i16x16[r] = multiply_add(hi_i16x16[r], w_hi, a);
  }
}
template <int kRows>
inline void add_group(const __m256i* lo_i16x16, const __m256i* hi_i16x16, __m256i m_lo, __m256i m_hi, i32x16 (*sum)[1]) {
  for (int r = 0; r < kRows; ++r) {
    sum[r][0].lo = _mm256_add_epi32(sum[r][0].lo, _mm256_madd_epi16(lo_i16x16[r], m_lo));
    sum[r][0].hi = _mm256_add_epi32(sum[r][0].hi, _mm256_madd_epi16(hi_i16x16[r], m_hi));
  }
}

template <int kRows>
inline void dot_int4(const std::byte* block, const ActivationBlock* const* activations, i32x16 (*sum)[1]) {
  const __m256i codebook = codebook_u8x32();
  const std::byte* bytes = block + kTileRows * kBlock / 2;
  for (int r = 0; r < kRows; ++r) sum[r][0] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
#pragma GCC unroll 1
  for (int g = 0; g < kBlock / kGroup; ++g) {
    const i32x16 spread = load_group_bytes(bytes + g * kTileRows);
    const __m256i offset_lo = offset_of(spread.lo), offset_hi = offset_of(spread.hi);
    __m256i lo_i16x16[kRows], hi_i16x16[kRows];
    for (int r = 0; r < kRows; ++r) {
      const __m256i pair_sums = _mm256_srai_epi16(broadcast_i32(activations[r]->starts + g), 4);  // over kInt4Zero
      lo_i16x16[r] = _mm256_mullo_epi16(pair_sums, offset_lo);
      hi_i16x16[r] = _mm256_mullo_epi16(pair_sums, offset_hi);
    }
    for (int j = 0; j < 2; ++j) {
      __m256i w[4];
      load_quad_pair(block + g * 128, j, codebook, w);
      add_quad<kRows>(w[0], w[1], activations, g * kGroup + j * 4, lo_i16x16, hi_i16x16);
      add_quad<kRows>(w[2], w[3], activations, g * kGroup + j * 4 + 8, lo_i16x16, hi_i16x16);
    }
    add_group<kRows>(lo_i16x16, hi_i16x16, multiplier_of(spread.lo), multiplier_of(spread.hi), sum);
  }
}

template <int kRows, int kTiles>
inline void dot_expanded(const Int4Expanded* block, const ActivationBlock* const* activations, i32x16 (*sum)[kTiles]) {
  static_assert(kTiles == 1);
  for (int r = 0; r < kRows; ++r) sum[r][0] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
#pragma GCC unroll 1
  for (int g = 0; g < kBlock / kGroup; ++g) {
    __m256i lo_i16x16[kRows], hi_i16x16[kRows];
    for (int r = 0; r < kRows; ++r) lo_i16x16[r] = hi_i16x16[r] = broadcast_i32(activations[r]->starts + g);
    for (int quad = 0; quad < 4; ++quad) {
      const std::byte* w = block->codes + g * 256 + quad * 64;
      add_quad<kRows>(load_i8x32(w), load_i8x32(w + 32), activations, g * kGroup + quad * 4, lo_i16x16, hi_i16x16);
    }
    const auto* m = reinterpret_cast<const __m256i*>(block->multipliers[g]);
    add_group<kRows>(lo_i16x16, hi_i16x16, _mm256_load_si256(m), _mm256_load_si256(m + 1), sum);
  }
}

constexpr int kRowsAtOnce = 3;  // sixteen registers: 6 sums of a group, 6 of the block, 2 weights, an activation, a product
constexpr int kTilesAtOnce = 1;
constexpr size_t kPrefetch = 4096;  // bytes ahead in the weight stream; past a page the hardware prefetcher starts anew

#include "kernels/quantized_linear.inc"
#include "kernels/x86_avx2_attention.inc"

// Built on those products.
#include "kernels/attention.inc"

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
    .required = kAvx2 | kFma | kF16c,
    .linear_float32 = linear_float<float>,
    .linear_bfloat16 = linear_float<uint16_t>,
    .linear_int8 = linear_quantized<Int8>,
    .linear_int4 = linear_quantized<Int4>,
    .quantize = quantize,
    .pack_int4 = pack_int4,
    .layer_norm = layer_norm,
    .activate = activate,
    .write_kv = {write_kv_float<float>, write_kv_float<BFloat16>, write_kv_float<Float16>, write_kv_int8},
    .attention = {attention<FloatKv<float>>, attention<FloatKv<BFloat16>>, attention<FloatKv<Float16>>, attention<Int8Kv>},
    .merge_attention = merge_attention,
    .softmax = softmax,
    .int8_peak = int8_peak,
};

}  // namespace gptbigcode
