// Sixteen floats in a 512-bit register: what kernels/generic/lanes.h asks for, from AVX-512.
#pragma once

#include <cstdint>

#include "kernels/generic/lanes.h"
#include "kernels/x86/avx512_intrinsics.h"

namespace gptbigcode {
namespace {

struct f32x16 {
  __m512 v;

  static f32x16 load(const float* p);
  static f32x16 load_bf16(const uint16_t* p);
  static f32x16 load_f16(const uint16_t* p);
  static f32x16 set1(float x);
};

inline f32x16 f32x16::load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline f32x16 f32x16::load_bf16(const uint16_t* p) {
  const __m512i wide_i32x16 = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide_i32x16, 16))};
}
inline f32x16 f32x16::load_f16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline f32x16 f32x16::set1(float x) { return {_mm512_set1_ps(x)}; }
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
inline f32x16 half_pow2(f32x16 t) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(t.v), 23))}; }
inline f32x16 magnitude(f32x16 a) {
  return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(0x7fffffff)))};
}
// Compared as integers: the order of numbers without a sign is the same, and NaN is above all of them.
inline f32x16 max_or_nan(f32x16 a, f32x16 b) {
  return {_mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(a.v), _mm512_castps_si512(b.v)))};
}
inline float reduce_add(f32x16 a) {
  __m512 v = _mm512_add_ps(a.v, _mm512_shuffle_f32x4(a.v, a.v, 0x4e));
  v = _mm512_add_ps(v, _mm512_shuffle_f32x4(v, v, 0xb1));
  v = _mm512_add_ps(v, _mm512_permute_ps(v, 0x4e));
  return _mm512_cvtss_f32(_mm512_add_ps(v, _mm512_permute_ps(v, 0xb1)));
}
// fold(a, b): max or max_or_nan
template <class Fold>
inline float reduce(f32x16 a, Fold fold) {
  a = fold(a, f32x16{_mm512_shuffle_f32x4(a.v, a.v, 0x4e)});
  a = fold(a, f32x16{_mm512_shuffle_f32x4(a.v, a.v, 0xb1)});
  a = fold(a, f32x16{_mm512_permute_ps(a.v, 0x4e)});
  return _mm512_cvtss_f32(fold(a, f32x16{_mm512_permute_ps(a.v, 0xb1)}).v);
}
inline float reduce_max(f32x16 a) {
  return reduce(a, [](f32x16 x, f32x16 y) { return max(x, y); });
}
inline float reduce_max_or_nan(f32x16 a) {
  return reduce(a, [](f32x16 x, f32x16 y) { return max_or_nan(x, y); });
}

// Folds eight rows at once: one operation folds lanes of several rows.
template <int kRows, class Fold>
inline void reduce_rows(const f32x16* v, float* results, Fold fold) {
  if constexpr (kRows == 8) {
    f32x16 four[2];  // of rows 0..3 and 4..7, a row in each quarter
    const auto shuffled = [&]<int kFirst, int kSecond>(f32x16 a, f32x16 b) {
      return fold(f32x16{_mm512_shuffle_f32x4(a.v, b.v, kFirst)}, f32x16{_mm512_shuffle_f32x4(a.v, b.v, kSecond)});
    };
    for (int i = 0; i < 4; i += 2) {
      const f32x16 two[2] = {shuffled.template operator()<0x44, 0xee>(v[i * 2], v[i * 2 + 1]),
                             shuffled.template operator()<0x44, 0xee>(v[i * 2 + 2], v[i * 2 + 3])};
      four[i / 2] = shuffled.template operator()<0x88, 0xdd>(two[0], two[1]);
    }
    f32x16 all = fold(f32x16{_mm512_unpacklo_ps(four[0].v, four[1].v)}, f32x16{_mm512_unpackhi_ps(four[0].v, four[1].v)});
    all = fold(all, f32x16{_mm512_permute_ps(all.v, 0x4e)});
    alignas(64) float lanes[16];  // two rows in each quarter
    store(lanes, all);
    for (int r = 0; r < 8; ++r) results[r] = lanes[r % 4 * 4 + r / 4];
  } else if constexpr (kRows > 8) {
    reduce_rows<8>(v, results, fold);
    reduce_rows<kRows - 8>(v + 8, results + 8, fold);
  } else {
    for (int r = 0; r < kRows; ++r) results[r] = reduce(v[r], fold);
  }
}
template <int kRows>
inline void reduce_max_of_rows(const f32x16* v, float* maxima) {
  reduce_rows<kRows>(v, maxima, [](f32x16 x, f32x16 y) { return max(x, y); });
}
template <int kRows>
inline void reduce_max_or_nan_of_rows(const f32x16* v, float* maxima) {
  reduce_rows<kRows>(v, maxima, [](f32x16 x, f32x16 y) { return max_or_nan(x, y); });
}

inline void store_codes(int8_t* q, f32x16 magic) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm512_cvtepi32_epi8(_mm512_castps_si512(magic.v)));
}

static_assert(Lanes<f32x16>);

}  // namespace
}  // namespace gptbigcode
