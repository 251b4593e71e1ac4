// Linear layers on tile registers, beside the loops of kernels/generic/quantized_linear.h, which call few_rows and Panel::add_rows.
#pragma once

#include <utility>

#include "kernels/generic/quantized_linear.h"
#include "kernels/x86/amx_intrinsics.h"
#include "kernels/x86/avx512_codes.h"

namespace gptbigcode {
namespace {

// Weights whose blocks are expanded to signed bytes, with factors for their dot products.
template <LinearProducts P>
struct TiledInt8 : Int8Weights<P> {
  static void expand(const std::byte* block, Expanded& out, const std::byte* ahead = nullptr) {
    for (int i = 0; i < kTileRows * kBlock; i += 64) {
      if (ahead != nullptr) prefetch(ahead + i, 64);
      _mm512_store_si512(out.codes + i, _mm512_xor_si512(load_i8x64(block + i), _mm512_set1_epi8(-128)));
    }
    store(out.factors, f32x16::load_bf16(reinterpret_cast<const uint16_t*>(block + kTileRows * kBlock)));
  }
  static f32x16 add_dot(i32x16 dot, f32x16 factor, float scale, f32x16 sum) {
    return fma(to_float(dot), mul(factor, f32x16::set1(scale)), sum);
  }
};
template <LinearProducts P>
struct TiledInt4 : RowScaled<P, Int4> {
  static void expand(const std::byte* block, Expanded& out, const std::byte* ahead = nullptr) {
    Int4::expand<0>(block, out, ahead);
  }
  static f32x16 add_dot(i32x16 dot, f32x16 factor, float scale, f32x16 sum) {
    return fma(mul(to_float(dot), factor), f32x16::set1(scale), sum);
  }
};

// function<0>(), function<1>(), ...
template <int kCount, class Function>
inline void for_each_tile(Function function) {
  [&]<int... kTile>(std::integer_sequence<int, kTile...>) {
    (function.template operator()<kTile>(), ...);
  }(std::make_integer_sequence<int, kCount>{});
}

constexpr int kFewestTiledRows = 9;  // fewer are done sooner by vpdpbusd
constexpr int kGroupRows = 32;
constexpr int kTurns = 3;  // buffers used in turn: what a tile register stored cannot be loaded soon without waiting

// Computes a few rows and kStreams tiles, each block after block. Three things overlap: a block is unpacked, the block before it is
// multiplied, and the products of the block before that are added to the sums.
template <class Weights, int kStreams>
void stream_on_tiles(const LinearTask& task, int64_t first_row, int64_t tile, const std::byte* first, TileRegisters& registers) {
  const int64_t blocks = (task.k + kBlock - 1) / kBlock, rows = task.m - first_row;
  const size_t tile_bytes = tile_bytes_of<Weights>(task);
  registers.set_rows(rows, rows);
  Expanded expanded[kTurns][kStreams];
  alignas(64) int32_t dots[2][kStreams][16][kTileRows];
  alignas(64) float sums[kStreams][16][kTileRows];
  for (int t = 0; t < kStreams; ++t) {
    for (int64_t r = 0; r < rows; ++r) store(sums[t][r], Weights::start(task, tile + t));
  }
  for (int64_t b = 0; b < blocks + 2; ++b) {
    const auto activations = [&](int64_t block) { return task.activations + block * task.m + first_row; };
    if (b >= 1 && b <= blocks) {
      load_tile<4>(activations(b - 1)->q, sizeof(ActivationBlock));
      load_tile<5>(activations(b - 1)->q + 64, sizeof(ActivationBlock));
    }
    const auto step = [&]<int kTile> {
      if (b >= 2) {
        const f32x16 factor = f32x16::load(expanded[(b - 2) % kTurns][kTile].factors);
        const float* scale = &activations(b - 2)->scale;
        for (int64_t r = 0; r < rows; ++r) {
          const i32x16 dot = _mm512_load_si512(dots[b % 2][kTile][r]);
          store(sums[kTile][r], Weights::add_dot(dot, factor, *of_row(scale, r), f32x16::load(sums[kTile][r])));
        }
      }
      if (b >= 1 && b <= blocks) {
        const Expanded& codes = expanded[(b - 1) % kTurns][kTile];
        zero_tile<kTile>();
        load_tile<6>(codes.codes, 64);
        add_s8_s8<kTile, 4, 6>();
        load_tile<7>(codes.codes + 1024, 64);
        add_s8_s8<kTile, 5, 7>();
        store_tile<kTile>(dots[(b - 1) % 2][kTile][0], 64);
      }
      if (b < blocks) {
        const std::byte* stream = first + kTile * tile_bytes;
        Weights::expand(stream + static_cast<size_t>(b) * Weights::kBlockBytes, expanded[b % kTurns][kTile],
                        stream + ahead_of<Weights, kStreams>(b, blocks, tile_bytes));
      }
    };
    for_each_tile<kStreams>(step);
  }
  for (int t = 0; t < kStreams; ++t) {
    const std::byte* tail = first + static_cast<size_t>(t + 1) * tile_bytes - Weights::kTileTail;
    for (int64_t r = 0; r < rows; ++r)
      put(task, first_row + r, tile + t, Weights::finish(task, tile + t, tail, f32x16::load(sums[t][r])));
  }
}

template <class Weights>
struct Tiled : Weights {
  using P = Weights::Products;
  static constexpr int kPasses = 1;

  static void few_rows(const LinearTask& task, int64_t first_row, int64_t tile_begin, int64_t tile_end) {
    if (task.m - first_row < kFewestTiledRows) return stream<Weights>(task, first_row, task.m - first_row, tile_begin, tile_end);
    constexpr int kStreams = 4;
    const size_t tile_bytes = tile_bytes_of<Weights>(task);
    const std::byte* first = task.weights + static_cast<size_t>(tile_begin) * tile_bytes;
    TileRegisters registers;
    int64_t tile = tile_begin;
    for (; tile + kStreams <= tile_end; tile += kStreams, first += kStreams * tile_bytes) {
      stream_on_tiles<Weights, kStreams>(task, first_row, tile, first, registers);
    }
    for (; tile < tile_end; ++tile, first += tile_bytes) stream_on_tiles<Weights, 1>(task, first_row, tile, first, registers);
  }

  template <int kTiles>
  struct Panel : ExpandedPanel<Weights, P, kTiles> {
    using ExpandedPanel<Weights, P, kTiles>::ExpandedPanel;

    // A group of rows and a block. Their integer sums take four steps. What is added to the float sums is cut into four, too, and
    // done beside the steps of a later unit.
    struct Unit {
      const Expanded* tiles = nullptr;
      const ActivationBlock* activations = nullptr;
      int64_t rows = 0;  // 32 at most
      float* sums = nullptr;
      int32_t (*dots)[kGroupRows][kTileRows] = nullptr;  // [kTiles]

      template <int kHalf>
      void multiply() const {
        constexpr size_t kStride = sizeof(ActivationBlock);
        load_tile<6>(tiles[0].codes + kHalf * 1024, 64);
        load_tile<4>(activations[0].q + kHalf * 64, kStride);
        if (kHalf == 0) zero_tile<0>();
        add_s8_s8<0, 4, 6>();
        if (kTiles == 2) {
          load_tile<7>(tiles[kTiles - 1].codes + kHalf * 1024, 64);
          if (kHalf == 0) zero_tile<1>();
          add_s8_s8<1, 4, 7>();
        }
        if (rows > 16) {
          load_tile<5>(activations[16].q + kHalf * 64, kStride);
          if (kHalf == 0) zero_tile<2>();
          add_s8_s8<2, 5, 6>();
          if (kTiles == 2) {
            if (kHalf == 0) zero_tile<3>();
            add_s8_s8<3, 5, 7>();
          }
        }
      }
      void step(int i) const {
        switch (i) {
          case 0: return multiply<0>();
          case 1: return multiply<1>();
          case 2:
            store_tile<0>(dots[0][0], 64);
            if (kTiles == 2) store_tile<1>(dots[kTiles - 1][0], 64);
            return;
          default:
            if (rows <= 16) return;
            store_tile<2>(dots[0][16], 64);
            if (kTiles == 2) store_tile<3>(dots[kTiles - 1][16], 64);
        }
      }
      void add(int quarter) const {
        const int t = quarter % 2, row = quarter / 2 * 16;
        if (t >= kTiles || row >= rows) return;
        const f32x16 factor = f32x16::load(tiles[t].factors);
        float* to = sums + (t * P::kPanelRows + row) * kTileRows;
        const auto add = [&](int64_t r) {
          const f32x16 sum = f32x16::load(to + r * kTileRows);
          store(to + r * kTileRows, Weights::add_dot(_mm512_load_si512(dots[t][row + r]), factor, activations[row + r].scale, sum));
        };
        if (rows - row >= 16) {
#pragma GCC unroll 16
          for (int r = 0; r < 16; ++r) add(r);
        } else {
          for (int64_t r = 0; r < rows - row; ++r) add(r);
        }
      }
    };

    void add_rows(const ActivationBlock* activations, int64_t m, int64_t blocks, int64_t rows, float* sums) const {
      TileRegisters registers;
      alignas(64) int32_t dots[kTurns][kTiles][kGroupRows][kTileRows];
      Unit units[kTurns];
      int turn = 0;
      const auto next = [&](const Unit& unit) {
        units[turn] = unit;
        turn = (turn + 1) % kTurns;
        for (int i = 0; i < 4; ++i) {
          units[turn].add(i);
          if (unit.rows > 0) unit.step(i);
        }
      };
      for (int64_t row = 0; row < rows; row += kGroupRows) {
        const int64_t count = smaller(kGroupRows, rows - row);
        registers.set_rows(smaller(16, count), count - smaller(16, count));
        for (int64_t b = 0; b < blocks; ++b) {
          next({this->expanded[b], activations + b * m + row, count, sums + row * kTileRows, dots[turn]});
        }
      }
      for (int i = 1; i < kTurns; ++i) next({});
    }
  };
};

}  // namespace
}  // namespace gptbigcode
