// AVX-512 with VNNI: Ice Lake, Cascade Lake, Zen 4 and later.
//
//   instruction              used for
//   vpdpbusd                 four u8 x s8 products per 32-bit lane, added up; one register is 16 rows x 4 k
//   vpdpwssd                 16-bit products in pairs, added up: multiplier of the group times its dot product
//   vfmadd231ps              float accumulation
//
// int4, for one row and one group of 32: the accumulator starts at -8 * sum q and ends as sum of c * q, |.| <= 32 * 8 * 127 =
// 32512 < 2^15. So its low 16 bits are the signed dot product, and vpdpwssd against (multiplier, 0) adds multiplier * dot.
// int8: the accumulator starts at -128 * sum q over the block; codes are q + 128.

#include "cpu/features.h"
#include "kernels/avx512_intrinsics.h"
#include "kernels/kernels.h"

namespace gptbigcode {
namespace {

struct f32x16 {
  __m512 v;
};

inline f32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline f32x16 load_bf16(const uint16_t* p) {
  const __m512i wide_i32x16 = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide_i32x16, 16))};
}
inline f32x16 set1(float x) { return {_mm512_set1_ps(x)}; }
inline void store(float* p, f32x16 a) { _mm512_storeu_ps(p, a.v); }
inline f32x16 add(f32x16 a, f32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline f32x16 sub(f32x16 a, f32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline f32x16 mul(f32x16 a, f32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline f32x16 div(f32x16 a, f32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline f32x16 max(f32x16 a, f32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline f32x16 min(f32x16 a, f32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline f32x16 select_less(f32x16 a, f32x16 b, f32x16 x, f32x16 y) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v)};
}
inline f32x16 pow2_of_magic(f32x16 t) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_castps_si512(t.v), _mm512_set1_epi32(127)), 23))};
}

#include "kernels/vector_kernels.inc"

// ---------------------------------------------------------------- integer dot products of one tile block

using i32x16 = __m512i;

inline __m512i load_i8x64(const std::byte* p) { return _mm512_loadu_si512(p); }

inline __m512i broadcast_quad(const int8_t* q) {
  int32_t quad;
  __builtin_memcpy(&quad, q, 4);
  return _mm512_set1_epi32(quad);
}

// sum[r] = integer sums of the 16 rows of the tile block against row r's activations
template <int kRows>
inline void dot_int8(const std::byte* tile, const ActivationBlock* const* activations, i32x16* sum) {
  for (int r = 0; r < kRows; ++r) sum[r] = _mm512_set1_epi32(activations[r]->negative_sum * 128);
#pragma GCC unroll 2
  for (int quad = 0; quad < kBlock / 4; ++quad) {
    const __m512i w_u8x64 = load_i8x64(tile + quad * 64);
    for (int r = 0; r < kRows; ++r) sum[r] = _mm512_dpbusd_epi32(sum[r], w_u8x64, broadcast_quad(activations[r]->q + quad * 4));
  }
}

// Where a group's sixteen codes of a quad come from: packed nibbles, or bytes unpacked once for many rows.
struct Nibbles {
  static constexpr size_t kGroupBytes = 256;
  static void load_quad_pair(const std::byte* group, int j, __m512i w[2]) {  // quads j and j + 4
    const __m512i mask = _mm512_set1_epi8(15);
    const __m512i packed = load_i8x64(group + j * 64);
    w[0] = _mm512_and_si512(packed, mask);
    w[1] = _mm512_and_si512(_mm512_srli_epi16(packed, 4), mask);
  }
};
struct Bytes {
  static constexpr size_t kGroupBytes = 512;
  static void load_quad_pair(const std::byte* group, int j, __m512i w[2]) {
    w[0] = load_i8x64(group + j * 128);
    w[1] = load_i8x64(group + j * 128 + 64);
  }
};
inline void unpack_nibbles(const std::byte* tile, std::byte* bytes) {
  for (int pair = 0; pair < kBlock / 8; ++pair) {
    __m512i w[2];
    Nibbles::load_quad_pair(tile, pair, w);
    _mm512_storeu_si512(bytes + pair * 128, w[0]);
    _mm512_storeu_si512(bytes + pair * 128 + 64, w[1]);
  }
}

template <class Codes, int kRows>
inline void dot_int4(const std::byte* codes, const std::byte* multipliers, const ActivationBlock* const* activations, i32x16* sum) {
  const __m512i eights_i16x32 = _mm512_set1_epi16(8);
  for (int r = 0; r < kRows; ++r) sum[r] = _mm512_setzero_si512();
#pragma GCC unroll 1
  for (int g = 0; g < kBlock / kGroup; ++g) {
    const std::byte* group = codes + static_cast<size_t>(g) * Codes::kGroupBytes;
    __m512i dot_i32x16[kRows];
    for (int r = 0; r < kRows; ++r) {
      int32_t pair_sums;
      __builtin_memcpy(&pair_sums, activations[r]->negative_pair_sums + 2 * g, 4);
      dot_i32x16[r] = _mm512_madd_epi16(_mm512_set1_epi32(pair_sums), eights_i16x32);
    }
#pragma GCC unroll 1  // unrolled, GCC hoists products over sums and spills
    for (int j = 0; j < 4; ++j) {
      __m512i w[2];
      Codes::load_quad_pair(group, j, w);
      for (int r = 0; r < kRows; ++r) {
        const int8_t* q = activations[r]->q + g * kGroup + j * 4;
        dot_i32x16[r] = _mm512_dpbusd_epi32(dot_i32x16[r], w[0], broadcast_quad(q));
        dot_i32x16[r] = _mm512_dpbusd_epi32(dot_i32x16[r], w[1], broadcast_quad(q + 16));
      }
    }
    const __m128i m_i8x16 = _mm_loadu_si128(reinterpret_cast<const __m128i*>(multipliers + g * kTileRows));
    const __m512i multiplier = _mm512_and_si512(_mm512_cvtepi8_epi32(m_i8x16), _mm512_set1_epi32(0xffff));
    for (int r = 0; r < kRows; ++r) sum[r] = _mm512_dpwssd_epi32(sum[r], dot_i32x16[r], multiplier);
  }
}

inline f32x16 to_float(i32x16 v) { return {_mm512_cvtepi32_ps(v)}; }

constexpr int kRowsAtOnce = 8;      // thirty-two registers: 16 accumulators, 2 weights, constants
constexpr size_t kPrefetch = 4096;  // bytes ahead in the weight stream; past a page the hardware prefetcher starts anew

#include "kernels/quantized_linear.inc"

int64_t int8_peak(int64_t rounds) {
  constexpr int kChains = 10;
  __m512i sum[kChains] = {}, a = _mm512_setzero_si512();
  for (int64_t round = 0; round < rounds; ++round) {
    for (auto& s : sum) s = _mm512_dpbusd_epi32(s, a, a);
  }
  for (auto& s : sum) asm volatile("" : : "m"(s));
  return rounds * kChains * 64;
}

}  // namespace

const Kernels kAvx512VnniKernels = {
    .name = "avx512_vnni",
    .required = kRequiredForAvx512Vnni,
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
