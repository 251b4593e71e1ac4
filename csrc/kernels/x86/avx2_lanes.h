// Sixteen floats in two 256-bit registers: what kernels/generic/lanes.h asks for, from AVX2 and FMA.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/generic/lanes.h"

namespace gptbigcode {
namespace {

struct f32x16 {
  __m256 lo, hi;

  static f32x16 load(const float* p);
  static f32x16 load_bf16(const uint16_t* p);
  static f32x16 load_f16(const uint16_t* p);
  static f32x16 set1(float x);
};

inline f32x16 f32x16::load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline __m256 load_bf16x8(const uint16_t* p) {
  const __m256i wide_i32x8 = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide_i32x8, 16));
}
inline f32x16 f32x16::load_bf16(const uint16_t* p) { return {load_bf16x8(p), load_bf16x8(p + 8)}; }
inline __m256 load_f16x8(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline f32x16 f32x16::load_f16(const uint16_t* p) { return {load_f16x8(p), load_f16x8(p + 8)}; }
inline f32x16 f32x16::set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline void store(float* p, f32x16 v) {
  _mm256_storeu_ps(p, v.lo);
  _mm256_storeu_ps(p + 8, v.hi);
}
inline f32x16 add(f32x16 a, f32x16 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline f32x16 sub(f32x16 a, f32x16 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline f32x16 mul(f32x16 a, f32x16 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline f32x16 div(f32x16 a, f32x16 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline f32x16 max(f32x16 a, f32x16 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline f32x16 min(f32x16 a, f32x16 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)}; }
inline __m256 select_less8(__m256 a, __m256 b, __m256 x, __m256 y) {
  return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
inline f32x16 select_less(f32x16 a, f32x16 b, f32x16 x, f32x16 y) {
  return {select_less8(a.lo, b.lo, x.lo, y.lo), select_less8(a.hi, b.hi, x.hi, y.hi)};
}
inline __m256 half_pow2_8(__m256 t) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(t), 23)); }
inline f32x16 half_pow2(f32x16 t) { return {half_pow2_8(t.lo), half_pow2_8(t.hi)}; }
inline f32x16 magnitude(f32x16 a) {
  const __m256 all_but_sign = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  return {_mm256_and_ps(a.lo, all_but_sign), _mm256_and_ps(a.hi, all_but_sign)};
}
// Compared as integers: the order of numbers without a sign is the same, and NaN is above all of them.
inline __m256 max_or_nan8(__m256 a, __m256 b) {
  return _mm256_castsi256_ps(_mm256_max_epu32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}
inline f32x16 max_or_nan(f32x16 a, f32x16 b) { return {max_or_nan8(a.lo, b.lo), max_or_nan8(a.hi, b.hi)}; }

inline float reduce_add(f32x16 v) {
  const __m256 eight = _mm256_add_ps(v.lo, v.hi);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float reduce_max(f32x16 v) {
  const __m256 eight = _mm256_max_ps(v.lo, v.hi);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
inline float reduce_max_or_nan(f32x16 v) {
  const __m256i eight = _mm256_castps_si256(max_or_nan8(v.lo, v.hi));
  const __m128i four = _mm_max_epu32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = _mm_max_epu32(four, _mm_unpackhi_epi64(four, four));
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_max_epu32(two, _mm_shuffle_epi32(two, 1))));
}
template <int kRows>
inline void reduce_max_of_rows(const f32x16* v, float* maxima) {
  for (int r = 0; r < kRows; ++r) maxima[r] = reduce_max(v[r]);
}
template <int kRows>
inline void reduce_max_or_nan_of_rows(const f32x16* v, float* maxima) {
  for (int r = 0; r < kRows; ++r) maxima[r] = reduce_max_or_nan(v[r]);
}

inline void store_codes(int8_t* q, f32x16 magic) {
  const auto code_of = [](__m256 v) { return _mm256_srai_epi32(_mm256_slli_epi32(_mm256_castps_si256(v), 24), 24); };
  const __m256i i16x16 = _mm256_permute4x64_epi64(_mm256_packs_epi32(code_of(magic.lo), code_of(magic.hi)), 0xd8);
  const __m128i i8x16 = _mm_packs_epi16(_mm256_castsi256_si128(i16x16), _mm256_extracti128_si256(i16x16, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(q), i8x16);
}

static_assert(Lanes<f32x16>);

}  // namespace
}  // namespace gptbigcode
