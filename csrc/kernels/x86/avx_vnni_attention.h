// The integer products of attention on AVX-VNNI: one vpdpbusd for eight lanes of a tile.
#pragma once

#include "kernels/x86/avx2_codes.h"
#include "kernels/x86/avx_vnni_intrinsics.h"

namespace gptbigcode {
namespace {

struct AttentionByAvxVnni {
  using Floats = f32x16;
  using Integers = i32x16;
  // Sixteen registers: 8 sums, 2 halves of a tile, broadcasts.
  static constexpr int kRowsAtOnce = 4, kDotRows = 4, kDotTiles = 1;

  struct Quad {
    int8_t code[4];  // of numerators the bits of 0..255
  };
  static Quad quad_of(const int8_t* codes) { return {{codes[0], codes[1], codes[2], codes[3]}}; }
  static void store_quads(Quad* quads, f32x16 magic) {
    const __m256i low_halves = _mm256_set1_epi32(0xffff);
    const __m256i lo_i32x8 = _mm256_and_si256(_mm256_castps_si256(magic.lo), low_halves);
    const __m256i hi_i32x8 = _mm256_and_si256(_mm256_castps_si256(magic.hi), low_halves);
    const __m256i i16x16 = _mm256_permute4x64_epi64(_mm256_packus_epi32(lo_i32x8, hi_i32x8), 0xd8);
    const __m128i u8x16 = _mm_packus_epi16(_mm256_castsi256_si128(i16x16), _mm256_extracti128_si256(i16x16, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(quads), u8x16);
  }

  static i32x16 set1_i32(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }

  template <int kRows, int kTiles>
  static void dot_keys(const std::byte* tile, int64_t /*tile_stride*/, const Quad* quads, int64_t stride, int64_t count,
                       int64_t ahead, i32x16* sum) {
    static_assert(kTiles == 1);
#pragma GCC unroll 1
    for (int64_t i = 0; i < count; ++i) {
      const __m256i lo = load_i8x32(tile + i * 64), hi = load_i8x32(tile + i * 64 + 32);
      __builtin_prefetch(tile + i * 64 + ahead, 0, 3);
      for (int r = 0; r < kRows; ++r) {
        const __m256i query = broadcast_i32(quads[r * stride + i].code);
        sum[r].lo = dpbusd(sum[r].lo, lo, query);
        sum[r].hi = dpbusd(sum[r].hi, hi, query);
      }
    }
  }
  template <int kRows, int kTiles>
  static void dot_values(const std::byte* tile, int64_t /*tile_stride*/, const Quad* quads, int64_t stride, int64_t count,
                         int64_t ahead, i32x16* sum) {
    static_assert(kTiles == 1);
#pragma GCC unroll 1
    for (int64_t i = 0; i < count; ++i) {
      const __m256i lo = load_i8x32(tile + i * 64), hi = load_i8x32(tile + i * 64 + 32);
      __builtin_prefetch(tile + i * 64 + ahead, 0, 3);
      for (int r = 0; r < kRows; ++r) {
        const __m256i numerators = broadcast_i32(quads[r * stride + i].code);
        sum[r].lo = dpbusd(sum[r].lo, numerators, lo);
        sum[r].hi = dpbusd(sum[r].hi, numerators, hi);
      }
    }
  }

  static f32x16 to_float(i32x16 v) { return gptbigcode::to_float(v); }
};

}  // namespace
}  // namespace gptbigcode
