// The integer products of attention by vpdpbusd, one for the sixteen lanes of a tile.
#pragma once

#include "kernels/x86/avx512_codes.h"

namespace gptbigcode {
namespace {

// What both kernel sets of 512 bits have in common.
struct AttentionOf512 {
  using Floats = f32x16;
  using Integers = i32x16;
  static constexpr int kRowsAtOnce = 16;

  struct Quad {
    int8_t code[4];  // of numerators the bits of 0..255
  };
  static Quad quad_of(const int8_t* codes) { return {{codes[0], codes[1], codes[2], codes[3]}}; }
  static void store_quads(Quad* quads, f32x16 magic) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(quads), _mm512_cvtepi32_epi8(_mm512_castps_si512(magic.v)));
  }

  static i32x16 set1_i32(int32_t x) { return _mm512_set1_epi32(x); }

  template <int kRows, int kTiles, class Product>
  static void dot_codes(const std::byte* tile, int64_t tile_stride, const Quad* quads, int64_t stride, int64_t count, int64_t ahead,
                        i32x16* sum, Product product) {
#pragma GCC unroll 1
    for (int64_t i = 0; i < count; ++i) {
      __m512i codes[kTiles];
      for (int t = 0; t < kTiles; ++t) {
        const std::byte* p = tile + t * tile_stride + i * 64;
        codes[t] = load_i8x64(p);
        __builtin_prefetch(p + ahead, 0, 3);
      }
      for (int r = 0; r < kRows; ++r) {
        const __m512i quad = broadcast_i32(quads[r * stride + i].code);
        for (int t = 0; t < kTiles; ++t) sum[t * kRows + r] = product(sum[t * kRows + r], codes[t], quad);
      }
    }
  }
  static __m512i add_key_product(__m512i sum, __m512i key, __m512i query) { return dpbusd(sum, key, query); }
  static __m512i add_value_product(__m512i sum, __m512i value, __m512i numerator) { return dpbusd(sum, numerator, value); }

  static f32x16 to_float(i32x16 v) { return gptbigcode::to_float(v); }
};

}  // namespace
}  // namespace gptbigcode
