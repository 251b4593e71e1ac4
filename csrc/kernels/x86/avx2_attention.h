// The integer products of attention on AVX2. Sums of products of unsigned bytes overflow the 16 bits of vpmaddubsw. So a tile's
// bytes are split into even and odd 16-bit lanes, and vpmaddwd multiplies them with codes that were widened once.
#pragma once

#include "kernels/x86/avx2_codes.h"

namespace gptbigcode {
namespace {

struct AttentionByAvx2 {
  using Floats = f32x16;
  using Integers = i32x16;
  // Sixteen registers: 8 sums, 2 to 4 halves of a tile, and what is in flight.
  static constexpr int kRowsAtOnce = 4, kDotRows = 4, kDotTiles = 1;

  struct Quad {
    int16_t even[2], odd[2];  // codes 0 and 2, codes 1 and 3
  };
  static Quad quad_of(const int8_t* codes) { return {{codes[0], codes[2]}, {codes[1], codes[3]}}; }
  static void store_quads(Quad* quads, f32x16 magic) {
    const __m256i low_halves = _mm256_set1_epi32(0xffff);
    const __m256i lo_i32x8 = _mm256_and_si256(_mm256_castps_si256(magic.lo), low_halves);
    const __m256i hi_i32x8 = _mm256_and_si256(_mm256_castps_si256(magic.hi), low_halves);
    const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15,  //
                                           0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
    const __m256i quads_0213 = _mm256_shuffle_epi8(_mm256_packus_epi32(lo_i32x8, hi_i32x8), order);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(quads), _mm256_permute4x64_epi64(quads_0213, 0xd8));
  }

  static i32x16 set1_i32(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  static __m256i broadcast_pair(const int16_t* pair) {
    int32_t both;
    __builtin_memcpy(&both, pair, 4);
    return _mm256_set1_epi32(both);
  }

  // Tells GCC to keep a sum in its register; left alone, it copies every sum back and forth in every round.
  static __m256i in_place(__m256i sum) {
    asm("" : "+x"(sum));
    return sum;
  }

  // even(bytes), odd(bytes): the 16-bit lanes
  template <int kRows, class Even, class Odd>
  static void dot_codes(const std::byte* tile, const Quad* quads, int64_t stride, int64_t count, int64_t ahead, i32x16* sum,
                        Even even, Odd odd) {
#pragma GCC unroll 1
    for (int64_t i = 0; i < count; ++i) {
      const __m256i lo = load_i8x32(tile + i * 64), hi = load_i8x32(tile + i * 64 + 32);
      __builtin_prefetch(tile + i * 64 + ahead, 0, 3);
      // First all even lanes, then all odd ones: together they would not leave enough registers.
      const __m256i even_lo = even(lo), even_hi = even(hi);
      for (int r = 0; r < kRows; ++r) {
        const __m256i pair = broadcast_pair(quads[r * stride + i].even);
        sum[r].lo = in_place(_mm256_add_epi32(sum[r].lo, _mm256_madd_epi16(even_lo, pair)));
        sum[r].hi = in_place(_mm256_add_epi32(sum[r].hi, _mm256_madd_epi16(even_hi, pair)));
      }
      const __m256i odd_lo = odd(lo), odd_hi = odd(hi);
      for (int r = 0; r < kRows; ++r) {
        const __m256i pair = broadcast_pair(quads[r * stride + i].odd);
        sum[r].lo = in_place(_mm256_add_epi32(sum[r].lo, _mm256_madd_epi16(odd_lo, pair)));
        sum[r].hi = in_place(_mm256_add_epi32(sum[r].hi, _mm256_madd_epi16(odd_hi, pair)));
      }
    }
  }
  template <int kRows, int kTiles>
  static void dot_keys(const std::byte* tile, int64_t /*tile_stride*/, const Quad* quads, int64_t stride, int64_t count,
                       int64_t ahead, i32x16* sum) {
    static_assert(kTiles == 1);
    const __m256i low_bytes = _mm256_set1_epi16(0xff);
    dot_codes<kRows>(
        tile, quads, stride, count, ahead, sum, [&](__m256i v) { return _mm256_and_si256(v, low_bytes); },
        [](__m256i v) { return _mm256_srli_epi16(v, 8); });
  }
  template <int kRows, int kTiles>
  static void dot_values(const std::byte* tile, int64_t /*tile_stride*/, const Quad* quads, int64_t stride, int64_t count,
                         int64_t ahead, i32x16* sum) {
    static_assert(kTiles == 1);
    dot_codes<kRows>(
        tile, quads, stride, count, ahead, sum, [](__m256i v) { return _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8); },
        [](__m256i v) { return _mm256_srai_epi16(v, 8); });
  }

  static f32x16 to_float(i32x16 v) { return gptbigcode::to_float(v); }
};

}  // namespace
}  // namespace gptbigcode
