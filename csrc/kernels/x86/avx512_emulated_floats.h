// The AVX-512 intrinsics on floats that the kernels use, in plain C++, lane by lane as Intel's Intrinsics Guide describes them.
#pragma once

#include <cmath>

#include "base/float_bits.h"
#include "kernels/x86/avx512_emulated.h"

// NOLINTBEGIN(bugprone-reserved-identifier): the names are Intel's
namespace gptbigcode {
namespace {

inline __m512 _mm512_loadu_ps(const float* p) { return load_bytes<__m512>(p); }
inline void _mm512_storeu_ps(float* p, __m512 a) { std::memcpy(p, &a, sizeof(a)); }
inline __m512 _mm512_castsi512_ps(__m512i a) { return as<__m512>(a); }
inline __m512i _mm512_castps_si512(__m512 a) { return as<__m512i>(a); }
inline __m512 _mm512_set1_ps(float x) {
  return each<__m512>([&](int) { return x; });
}
inline __m512 _mm512_add_ps(__m512 a, __m512 b) {
  return each<__m512>([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline __m512 _mm512_sub_ps(__m512 a, __m512 b) {
  return each<__m512>([&](int i) { return a.lane[i] - b.lane[i]; });
}
inline __m512 _mm512_mul_ps(__m512 a, __m512 b) {
  return each<__m512>([&](int i) { return a.lane[i] * b.lane[i]; });
}
inline __m512 _mm512_div_ps(__m512 a, __m512 b) {
  return each<__m512>([&](int i) { return a.lane[i] / b.lane[i]; });
}
inline __m512 _mm512_max_ps(__m512 a, __m512 b) {  // the second operand if either is NaN
  return each<__m512>([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline __m512 _mm512_min_ps(__m512 a, __m512 b) {
  return each<__m512>([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
  return each<__m512>([&](int i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
}
inline __m512 _mm512_shuffle_f32x4(__m512 a, __m512 b, int order) {  // fours of lanes: two of a, two of b
  return each<__m512>([&](int i) { return (i < 8 ? a : b).lane[(order >> i / 4 * 2 & 3) * 4 + i % 4]; });
}
inline __m512 _mm512_permute_ps(__m512 a, int order) {  // within fours of lanes
  return each<__m512>([&](int i) { return a.lane[i / 4 * 4 + (order >> i % 4 * 2 & 3)]; });
}
inline __m512 _mm512_unpacklo_ps(__m512 a, __m512 b) {  // within fours of lanes: the first two, of a and b in turn
  return each<__m512>([&](int i) { return (i % 2 == 0 ? a : b).lane[i / 4 * 4 + i % 4 / 2]; });
}
inline __m512 _mm512_unpackhi_ps(__m512 a, __m512 b) {  // the last two
  return each<__m512>([&](int i) { return (i % 2 == 0 ? a : b).lane[i / 4 * 4 + 2 + i % 4 / 2]; });
}
inline float _mm512_cvtss_f32(__m512 a) { return a.lane[0]; }
constexpr int _CMP_LT_OQ = 17;
inline __mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int /*less*/) {
  unsigned mask = 0;
  for (unsigned i = 0; i < 16; ++i) mask |= a.lane[i] < b.lane[i] ? 1u << i : 0u;
  return static_cast<__mmask16>(mask);
}
inline __m512 _mm512_mask_blend_ps(__mmask16 mask, __m512 a, __m512 b) {
  return each<__m512>([&](int i) { return (mask >> i) & 1 ? b.lane[i] : a.lane[i]; });
}
inline __m512 _mm512_cvtepi32_ps(__m512i a) {
  return each<__m512>([&](int i) { return static_cast<float>(a.lane[i]); });
}
inline __m512 _mm512_cvtph_ps(__m256i a) {
  return each<__m512>([&](int i) { return from_float16(a.lane[i]); });
}

}  // namespace
}  // namespace gptbigcode
// NOLINTEND(bugprone-reserved-identifier)
