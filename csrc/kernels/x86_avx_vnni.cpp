// AVX-VNNI, the VEX-encoded VNNI of CPUs without AVX-512: Alder Lake and later, Zen 5.
//
//   instruction              used for
//   vpdpbusd                 four u8 x s8 products per 32-bit lane, added up; two registers are 16 rows x 4 k
//   vpdpwssd                 16-bit products in pairs, added up: multiplier of the group times its dot product
//   vfmadd231ps              float accumulation
//
// The algebra is that of x86_avx512_vnni.cpp, in halves of eight rows.

#include "base/float_bits.h"
#include "cpu/features.h"
#include "kernels/avx_vnni_intrinsics.h"
#include "kernels/kernels.h"

namespace gptbigcode {
namespace {

#include "kernels/x86_avx2_lanes.inc"

inline int32_t group_start(int32_t even, int32_t odd) { return -kInt4Zero * (even + odd); }

// Built on those.
#include "kernels/vector_kernels.inc"

// ---------------------------------------------------------------- integer dot products of one tile block

// (multiplier, 0): vpdpwssd takes the low half of a 32-bit dot product
inline __m256i widen_multiplier(__m256i pair_i16x16) { return _mm256_and_si256(pair_i16x16, _mm256_set1_epi32(0xffff)); }
#include "kernels/x86_avx2_codes.inc"

// sum[r] = integer sums of the 16 rows of the tile block against row r's activations
template <int kRows, int kTiles>
inline void dot_int8(const std::byte* tile, size_t, const ActivationBlock* const* activations, i32x16 (*sum)[kTiles]) {
  static_assert(kTiles == 1);
  for (int r = 0; r < kRows; ++r) sum[r][0].lo = sum[r][0].hi = _mm256_set1_epi32(activations[r]->negative_sum * 128);
#pragma GCC unroll 2
  for (int quad = 0; quad < kBlock / 4; ++quad) {
    const __m256i w_lo = load_i8x32(tile + quad * 64), w_hi = load_i8x32(tile + quad * 64 + 32);
    for (int r = 0; r < kRows; ++r) {
      const __m256i a = broadcast_i32(activations[r]->q + quad * 4);
      sum[r][0].lo = dpbusd(sum[r][0].lo, w_lo, a);
      sum[r][0].hi = dpbusd(sum[r][0].hi, w_hi, a);
    }
  }
}

template <int kRows>
inline void add_quad(__m256i w_lo, __m256i w_hi, const ActivationBlock* const* activations, int k, __m256i* lo_i32x8,
                     __m256i* hi_i32x8) {
  for (int r = 0; r < kRows; ++r) {
    const __m256i a = broadcast_i32(activations[r]->q + k);
    lo_i32x8[r] = dpbusd(lo_i32x8[r], w_lo, a);
    hi_i32x8[r] = dpbusd(hi_i32x8[r], w_hi, a);
  }
}
template <int kRows>
inline void add_group(const __m256i* lo_i32x8, const __m256i* hi_i32x8, __m256i m_lo, __m256i m_hi, i32x16 (*sum)[1]) {
  for (int r = 0; r < kRows; ++r) {
    sum[r][0].lo = dpwssd(sum[r][0].lo, lo_i32x8[r], m_lo);
    sum[r][0].hi = dpwssd(sum[r][0].hi, hi_i32x8[r], m_hi);
  }
}

template <int kRows>
inline void dot_int4(const std::byte* block, const ActivationBlock* const* activations, i32x16 (*sum)[1]) {
  const __m256i codebook = codebook_u8x32(), low_halves = _mm256_set1_epi32(0xffff);
  const std::byte* bytes = block + kTileRows * kBlock / 2;
  for (int r = 0; r < kRows; ++r) sum[r][0] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
#pragma GCC unroll 1
  for (int g = 0; g < kBlock / kGroup; ++g) {
    const i32x16 spread = load_group_bytes(bytes + g * kTileRows);
    const __m256i offset_lo = _mm256_and_si256(offset_of(spread.lo), low_halves);
    const __m256i offset_hi = _mm256_and_si256(offset_of(spread.hi), low_halves);
    __m256i lo_i32x8[kRows], hi_i32x8[kRows];
    for (int r = 0; r < kRows; ++r) {
      const __m256i sums = _mm256_srai_epi32(broadcast_i32(activations[r]->starts + g), 4);  // over kInt4Zero
      lo_i32x8[r] = _mm256_madd_epi16(sums, offset_lo);
      hi_i32x8[r] = _mm256_madd_epi16(sums, offset_hi);
    }
    for (int j = 0; j < 2; ++j) {
      __m256i w[4];
      load_quad_pair(block + g * 128, j, codebook, w);
      add_quad<kRows>(w[0], w[1], activations, g * kGroup + j * 4, lo_i32x8, hi_i32x8);
      add_quad<kRows>(w[2], w[3], activations, g * kGroup + j * 4 + 8, lo_i32x8, hi_i32x8);
    }
    add_group<kRows>(lo_i32x8, hi_i32x8, widen_multiplier(multiplier_of(spread.lo)), widen_multiplier(multiplier_of(spread.hi)),
                     sum);
  }
}

template <int kRows, int kTiles>
inline void dot_expanded(const Int4Expanded* block, const ActivationBlock* const* activations, i32x16 (*sum)[kTiles]) {
  static_assert(kTiles == 1);
  for (int r = 0; r < kRows; ++r) sum[r][0] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
#pragma GCC unroll 1
  for (int g = 0; g < kBlock / kGroup; ++g) {
    __m256i lo_i32x8[kRows], hi_i32x8[kRows];
    for (int r = 0; r < kRows; ++r) lo_i32x8[r] = hi_i32x8[r] = broadcast_i32(activations[r]->starts + g);
    for (int quad = 0; quad < 4; ++quad) {
      const std::byte* w = block->codes + g * 256 + quad * 64;
      add_quad<kRows>(load_i8x32(w), load_i8x32(w + 32), activations, g * kGroup + quad * 4, lo_i32x8, hi_i32x8);
    }
    const auto* m = reinterpret_cast<const __m256i*>(block->multipliers[g]);
    add_group<kRows>(lo_i32x8, hi_i32x8, _mm256_load_si256(m), _mm256_load_si256(m + 1), sum);
  }
}

constexpr int kRowsAtOnce = 3;  // sixteen registers: 6 sums of a group, 6 of the block, 2 weights, an activation
constexpr int kTilesAtOnce = 1;
constexpr size_t kPrefetch = 4096;  // bytes ahead in the weight stream; past a page the hardware prefetcher starts anew

#include "kernels/quantized_linear.inc"
#include "kernels/x86_avx_vnni_attention.inc"

// Built on those products.
#include "kernels/attention.inc"

int64_t int8_peak(int64_t rounds) {
  constexpr int kChains = 10;
  __m256i sum[kChains] = {}, a = _mm256_setzero_si256();
  for (int64_t round = 0; round < rounds; ++round) {
    for (auto& s : sum) s = dpbusd(s, a, a);
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
