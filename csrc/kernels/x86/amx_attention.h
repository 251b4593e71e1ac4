// The integer products of attention on tile registers.
#pragma once

#include "kernels/x86/amx_intrinsics.h"
#include "kernels/x86/amx_linear.h"
#include "kernels/x86/avx512_attention.h"

namespace gptbigcode {
namespace {

struct AttentionByAmx : AttentionOf512 {
  static constexpr int kDotRows = 16, kDotTiles = 4;

  // For sixteen rows of codes, 64 columns at a time. multiply<sum, tile> adds the products of the rows, in register 4, and a tile.
  template <int kTiles, class Multiply>
  static void dot_on_tiles(const std::byte* tile, int64_t tile_stride, const Quad* quads, int64_t stride, int64_t count,
                           int64_t ahead, i32x16* sum, Multiply multiply) {
    for_each_tile<kTiles>([&]<int kTile> { load_tile<kTile>(sum + kTile * 16, 64); });
    for (int64_t i = 0; i < count; i += 16) {
      load_tile<4>(quads + i, static_cast<size_t>(stride) * sizeof(Quad));
      for_each_tile<kTiles>([&]<int kTile> {
        const std::byte* codes = tile + kTile * tile_stride + i * 64;
        load_tile<5 + kTile % 3>(codes, 64);
        multiply.template operator()<kTile, 5 + kTile % 3>();
        if (ahead != 0) prefetch(codes + ahead, 1024);
      });
    }
    for_each_tile<kTiles>([&]<int kTile> { store_tile<kTile>(sum + kTile * 16, 64); });
  }
  // Uses tile registers if there are sixteen rows, for as many columns as fill whole tiles of 64.
  template <int kRows, int kTiles, class Multiply, class Product>
  static void dot_codes_or_tiles(const std::byte* tile, int64_t tile_stride, const Quad* quads, int64_t stride, int64_t count,
                                 int64_t ahead, i32x16* sum, Multiply multiply, Product product) {
    int64_t done = 0;
    if constexpr (kRows == 16) {
      done = count / 16 * 16;
      if (done > 0) dot_on_tiles<kTiles>(tile, tile_stride, quads, stride, done, ahead, sum, multiply);
    }
    if (done == count) return;
    constexpr int kPart = kTiles == 4 ? 2 : kTiles;  // thirty-two registers
    for (int t = 0; t < kTiles; t += kPart) {
      dot_codes<kRows, kPart>(tile + t * tile_stride + done * 64, tile_stride, quads + done, stride, count - done, ahead,
                              sum + t * kRows, product);
    }
  }
  template <int kRows, int kTiles>
  static void dot_keys(const std::byte* tile, int64_t tile_stride, const Quad* quads, int64_t stride, int64_t count, int64_t ahead,
                       i32x16* sum) {
    const auto multiply = []<int kSum, int kTile> { add_s8_u8<kSum, 4, kTile>(); };
    dot_codes_or_tiles<kRows, kTiles>(tile, tile_stride, quads, stride, count, ahead, sum, multiply, add_key_product);
  }
  template <int kRows, int kTiles>
  static void dot_values(const std::byte* tile, int64_t tile_stride, const Quad* quads, int64_t stride, int64_t count,
                         int64_t ahead, i32x16* sum) {
    const auto multiply = []<int kSum, int kTile> { add_u8_s8<kSum, 4, kTile>(); };
    dot_codes_or_tiles<kRows, kTiles>(tile, tile_stride, quads, stride, count, ahead, sum, multiply, add_value_product);
  }
};

}  // namespace
}  // namespace gptbigcode
