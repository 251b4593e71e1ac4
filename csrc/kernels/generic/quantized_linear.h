// The loops around the integer dot products of tile blocks. Few rows of activations stream through the weights; many rows go
// through panels, which are pieces of the weights that were expanded into the first-level cache.
#pragma once

#include "kernels/generic/linear_float.h"

namespace gptbigcode {
namespace {

// Products of an instruction set with the blocks of int8 weights, and the sizes that suit it.
template <class P>
concept LinearProducts = Lanes<typename P::Floats> &&
                         requires(P::Integers i, P::Integers (*sums)[1], const std::byte* block, const ActivationBlock* rows) {
                           typename P::Expanded;  // a block of int6 or int4 whose codes are bytes
                           { P::to_float(i) } -> std::same_as<typename P::Floats>;
                           // <rows, tiles>(block, tile bytes, ahead, activations, sums): the integer sums[row][tile] of blocks of
                           // adjacent tiles. Prefetches the block at ahead, if that is not null.
                           P::template dot_int8<1, 1>(block, size_t{0}, block, rows, sums);
                           requires P::kRowsAtOnce >= 1 && P::kTilesAtOnce >= 1;  // of a panel: their sums fit the registers
                           requires P::kStreamedRows >= 1;                        // so many rows at most stream at once
                           requires P::kManyStreamsRows >= 0;                     // up to so many rows are bound by the memory
                           requires P::kUnpackingPasses >= 1;  // int6 and int4 stream in up to so many passes before panels pay
                           requires P::kPrefetch > 0;          // bytes that are asked for ahead
                           // Of a panel: its activations and sums fit the second-level cache.
                           requires P::kPanelRows > 0 && P::kPanelBlocks > 0 && P::kPanelTiles > 0;
                         };

// Codes of int6 or int4. add and add_expanded do, for each row r and tile t:
// sums[r][t] = fma(float(integer sum), scale of r's activations, sums[r][t])
template <class C, class P>
concept PackedCodes = (C::kBlockBytes > 0) &&
                      requires(const std::byte* block, const ActivationBlock* rows, P::Floats (*sums)[1], P::Expanded& expanded) {
                        C::template add<1>(block, block, rows, sums);  // (block, ahead, ...): from packed codes; prefetches
                        C::expand(block, expanded);
                        C::template add_expanded<1, 1>(&expanded, rows, sums);  // blocks of adjacent tiles
                      };

// int8: each block has its own scales.
template <LinearProducts P>
struct Int8Weights {
  using Products = P;
  using V = P::Floats;

  static constexpr size_t kBlockBytes = kInt8BlockBytes, kTileTail = 0;
  static constexpr int kPasses = 1;

  static V start(const LinearTask& task, int64_t tile) { return initial<V>(task, tile); }
  static V finish(const LinearTask&, int64_t, const std::byte*, V sum) { return sum; }

  template <int kRows, int kTiles>
  static void add(const std::byte* block, size_t tile_bytes, const std::byte* ahead, const ActivationBlock* rows,
                  V (*sums)[kTiles]) {
    typename P::Integers dots[kRows][kTiles];
    P::template dot_int8<kRows, kTiles>(block, tile_bytes, ahead, rows, dots);
    for (int t = 0; t < kTiles; ++t) {
      const std::byte* end = block + static_cast<size_t>(t) * tile_bytes + kTileRows * kBlock;
      const V scales = V::load_bf16(reinterpret_cast<const uint16_t*>(end));
      for (int r = 0; r < kRows; ++r) {
        sums[r][t] = fma(P::to_float(dots[r][t]), mul(scales, V::set1(rows[r].scale)), sums[r][t]);
      }
    }
  }
  template <int kRows>
  static void add_packed(const std::byte* block, const std::byte* ahead, const ActivationBlock* rows, V (*sums)[1]) {
    add<kRows, 1>(block, 0, ahead, rows, sums);
  }

  // Consecutive blocks of adjacent tiles, copied such that no load of codes crosses a cache line.
  template <int kTiles>
  struct Panel {
    static constexpr size_t kStride = (kBlockBytes + 63) / 64 * 64;
    alignas(64) std::byte copies[P::kPanelBlocks][kTiles][kStride];
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-member-init): what is read is filled
    Panel(const std::byte* blocks, size_t tile_bytes, int64_t count) {
      for (int t = 0; t < kTiles; ++t) {
        const std::byte* block = blocks + static_cast<size_t>(t) * tile_bytes;
        for (int64_t b = 0; b < count; ++b, block += kBlockBytes) __builtin_memcpy(copies[b][t], block, kBlockBytes);
      }
    }
    template <int kRows>
    void add(int64_t b, const ActivationBlock* rows, V (*sums)[kTiles]) const {
      Int8Weights::add<kRows, kTiles>(copies[b][0], kStride, nullptr, rows, sums);
    }
  };
};

// Consecutive blocks of adjacent tiles, expanded.
template <class Codes, LinearProducts P, int kTiles>
struct ExpandedPanel {
  P::Expanded expanded[P::kPanelBlocks][kTiles];
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-member-init): what is read is filled
  ExpandedPanel(const std::byte* blocks, size_t tile_bytes, int64_t count) {
    for (int t = 0; t < kTiles; ++t) {
      const std::byte* block = blocks + static_cast<size_t>(t) * tile_bytes;
      for (int64_t b = 0; b < count; ++b, block += Codes::kBlockBytes) Codes::expand(block, expanded[b][t]);
    }
  }
};

// int6 and int4: a block has integer multipliers, and a row has a scale.
template <LinearProducts P, PackedCodes<P> Codes>
struct RowScaled {
  using Products = P;
  using V = P::Floats;
  static constexpr size_t kBlockBytes = Codes::kBlockBytes, kTileTail = kRowScaleBytes;
  static constexpr int kPasses = P::kUnpackingPasses;

  static V start(const LinearTask&, int64_t) { return V::set1(0.0f); }
  static V finish(const LinearTask& task, int64_t tile, const std::byte* tail, V sum) {
    return fma(sum, V::load(reinterpret_cast<const float*>(tail)), initial<V>(task, tile));
  }

  template <int kRows>
  static void add_packed(const std::byte* block, const std::byte* ahead, const ActivationBlock* rows, V (*sums)[1]) {
    Codes::template add<kRows>(block, ahead, rows, sums);
  }

  template <int kTiles>
  struct Panel : ExpandedPanel<Codes, P, kTiles> {
    using ExpandedPanel<Codes, P, kTiles>::ExpandedPanel;
    template <int kRows>
    void add(int64_t b, const ActivationBlock* rows, V (*sums)[kTiles]) const {
      Codes::template add_expanded<kRows, kTiles>(this->expanded[b], rows, sums);
    }
  };
};

template <class Weights>
size_t tile_bytes_of(const LinearTask& task) {
  return static_cast<size_t>((task.k + kBlock - 1) / kBlock) * Weights::kBlockBytes + Weights::kTileTail;
}

// ---------------------------------------------------------------- few rows: as fast as the weights come from memory

// How many tiles are read side by side. The memory delivers several streams faster than one, but many rows are bound by
// multiplications.
template <LinearProducts P>
constexpr int streams_of(int rows) {
  return rows <= P::kManyStreamsRows ? 4 : 1;
}

// What a stream prefetches while it works on block b of a tile, in bytes from the beginning of the tile. The last block of a tile
// is followed by the first block of the tile that this stream reads next.
template <class Weights, int kStreams>
size_t ahead_of(int64_t b, int64_t blocks, size_t tile_bytes) {
  constexpr auto kAhead =
      static_cast<int64_t>((Weights::Products::kPrefetch / kStreams + Weights::kBlockBytes - 1) / Weights::kBlockBytes);  // blocks
  const int64_t next = b + kAhead;
  const size_t jump = next < blocks ? 0 : kStreams * tile_bytes - static_cast<size_t>(blocks) * Weights::kBlockBytes;
  return static_cast<size_t>(next) * Weights::kBlockBytes + jump;
}

// Computes kStreams tiles, each block after block, for all rows at once, so that a block is unpacked once.
template <class Weights, int kRows, int kStreams>
void stream_tiles(const LinearTask& task, int64_t first_row, int64_t tile, const std::byte* first) {
  const int64_t blocks = (task.k + kBlock - 1) / kBlock;
  const size_t tile_bytes = tile_bytes_of<Weights>(task);
  typename Weights::V sums[kStreams][kRows][1];
  for (int t = 0; t < kStreams; ++t) {
    for (auto& sum : sums[t]) sum[0] = Weights::start(task, tile + t);
  }
#pragma GCC unroll 1
  for (int64_t b = 0; b < blocks; ++b) {
    const std::byte *block = first + static_cast<size_t>(b) * Weights::kBlockBytes,
                    *ahead = first + ahead_of<Weights, kStreams>(b, blocks, tile_bytes);
#pragma GCC unroll 1
    for (int t = 0; t < kStreams; ++t, block += tile_bytes, ahead += tile_bytes) {
      Weights::template add_packed<kRows>(block, ahead, task.activations + b * task.m + first_row, sums[t]);
    }
  }
  for (int t = 0; t < kStreams; ++t) {
    const std::byte* tail = first + static_cast<size_t>(t + 1) * tile_bytes - Weights::kTileTail;
    for (int r = 0; r < kRows; ++r) put(task, first_row + r, tile + t, Weights::finish(task, tile + t, tail, sums[t][r][0]));
  }
}
template <class Weights, int kRows>
void stream_rows(const LinearTask& task, int64_t first_row, int64_t tile_begin, int64_t tile_end) {
  constexpr int kStreams = streams_of<typename Weights::Products>(kRows);
  const size_t tile_bytes = tile_bytes_of<Weights>(task);
  const std::byte* first = task.weights + static_cast<size_t>(tile_begin) * tile_bytes;
  int64_t tile = tile_begin;
  for (; tile + kStreams <= tile_end; tile += kStreams, first += kStreams * tile_bytes) {
    stream_tiles<Weights, kRows, kStreams>(task, first_row, tile, first);
  }
  for (; tile < tile_end; ++tile, first += tile_bytes) stream_tiles<Weights, kRows, 1>(task, first_row, tile, first);
}
// Computes `rows` rows from first_row on; there are kRows at most.
template <class Weights, int kRows = Weights::Products::kStreamedRows>
void stream(const LinearTask& task, int64_t first_row, int64_t rows, int64_t tile_begin, int64_t tile_end) {
  if constexpr (kRows > 0) {
    if (rows == kRows) return stream_rows<Weights, kRows>(task, first_row, tile_begin, tile_end);
    stream<Weights, kRows - 1>(task, first_row, rows, tile_begin, tile_end);
  }
}
// Computes the rows from first_row on, in several passes over a few tiles at a time. After the first pass, the tiles are in the
// cache.
template <class Weights>
void stream_in_passes(const LinearTask& task, int64_t first_row, int64_t tile_begin, int64_t tile_end) {
  constexpr int kAtOnce = Weights::Products::kStreamedRows;
  const int64_t rows = task.m - first_row, passes = (rows + kAtOnce - 1) / kAtOnce;
  const int64_t step = passes > 1 ? 4 : tile_end - tile_begin;
  for (int64_t tile = tile_begin; tile < tile_end; tile += step) {
    for (int64_t pass = 0; pass < passes; ++pass) {
      const int64_t begin = rows * pass / passes, end = rows * (pass + 1) / passes;
      stream<Weights>(task, first_row + begin, end - begin, tile, smaller(tile + step, tile_end));
    }
  }
}

// ---------------------------------------------------------------- many rows: panels

// Adds `blocks` blocks of kTiles tiles to the sums, [tile][kPanelRows][16], of `rows` rows from `row` on, kRows of them at a time.
template <LinearProducts P, int kRows, int kTiles, class Panel>
void add_panel(const Panel& panel, const ActivationBlock* activations, int64_t m, int64_t blocks, int64_t row, int64_t rows,
               float* sums_of_tiles) {
  using V = P::Floats;
  for (; row + kRows <= rows; row += kRows) {
    const auto at = [&](int r, int t) { return sums_of_tiles + (t * P::kPanelRows + row + r) * kTileRows; };
    V sums[kRows][kTiles];
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < kTiles; ++t) sums[r][t] = V::load(at(r, t));
    }
#pragma GCC unroll 1
    for (int64_t b = 0; b < blocks; ++b) panel.template add<kRows>(b, activations + b * m + row, sums);
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < kTiles; ++t) store(at(r, t), sums[r][t]);
    }
  }
  if constexpr (kRows > 1) {
    if (row < rows) add_panel<P, (kRows + 1) / 2, kTiles>(panel, activations, m, blocks, row, rows, sums_of_tiles);
  }
}

// Adds a panel for some rows: as above, or in the panel's own way if it has one.
template <LinearProducts P, int kTiles, class Panel>
void add_rows_of_panel(const Panel& panel, const ActivationBlock* activations, int64_t m, int64_t blocks, int64_t rows,
                       float* sums) {
  if constexpr (requires { panel.add_rows(activations, m, blocks, rows, sums); }) {
    panel.add_rows(activations, m, blocks, rows, sums);
  } else {
    add_panel<P, P::kRowsAtOnce, kTiles>(panel, activations, m, blocks, 0, rows, sums);
  }
}

// Computes some tiles for `rows` rows from first_row on.
template <class Weights>
void run_panel(const LinearTask& task, int64_t first_row, int64_t rows, int64_t tile_begin, int64_t tile_end) {
  using P = Weights::Products;
  using V = P::Floats;
  const int64_t blocks = (task.k + kBlock - 1) / kBlock;
  const size_t tile_bytes = tile_bytes_of<Weights>(task);
  const std::byte* weights = task.weights + static_cast<size_t>(tile_begin) * tile_bytes;
  const auto sums_of = [&](int64_t tile) { return task.scratch + (tile - tile_begin) * P::kPanelRows * kTileRows; };
  for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
    const V start = Weights::start(task, tile);
    for (int64_t r = 0; r < rows; ++r) store(sums_of(tile) + r * kTileRows, start);
  }
  for (int64_t first = 0; first < blocks; first += P::kPanelBlocks) {
    const int64_t count = smaller(P::kPanelBlocks, blocks - first);
    const ActivationBlock* activations = task.activations + first * task.m + first_row;
    const std::byte* block = weights + static_cast<size_t>(first) * Weights::kBlockBytes;
    int64_t tile = tile_begin;
    for (; tile + P::kTilesAtOnce <= tile_end; tile += P::kTilesAtOnce, block += P::kTilesAtOnce * tile_bytes) {
      const typename Weights::template Panel<P::kTilesAtOnce> panel(block, tile_bytes, count);
      add_rows_of_panel<P, P::kTilesAtOnce>(panel, activations, task.m, count, rows, sums_of(tile));
    }
    for (; tile < tile_end; ++tile, block += tile_bytes) {
      const typename Weights::template Panel<1> panel(block, tile_bytes, count);
      add_rows_of_panel<P, 1>(panel, activations, task.m, count, rows, sums_of(tile));
    }
  }
  // Written row by row: the outputs of a row lie together, while those of a tile lie far apart.
  for (int64_t r = 0; r < rows; ++r) {
    const std::byte* tail = weights + tile_bytes - Weights::kTileTail;
    for (int64_t tile = tile_begin; tile < tile_end; ++tile, tail += tile_bytes) {
      put(task, first_row + r, tile, Weights::finish(task, tile, tail, V::load(sums_of(tile) + r * kTileRows)));
    }
  }
}

template <class Weights>
void linear_quantized(const LinearTask& task, int64_t tile_begin, int64_t tile_end) {
  using P = Weights::Products;
  static_assert(P::kPanelRows * P::kPanelTiles * kTileRows <= kLinearScratch);
  int64_t row = 0;
  for (int64_t rows; (rows = smaller(P::kPanelRows, task.m - row)) > Weights::kPasses * P::kStreamedRows; row += rows) {
    for (int64_t tile = tile_begin; tile < tile_end; tile += P::kPanelTiles) {
      run_panel<Weights>(task, row, rows, tile, smaller(tile + P::kPanelTiles, tile_end));
    }
  }
  if (row == task.m) return;
  if constexpr (requires { Weights::few_rows(task, row, tile_begin, tile_end); }) {
    Weights::few_rows(task, row, tile_begin, tile_end);
  } else {
    stream_in_passes<Weights>(task, row, tile_begin, tile_end);
  }
}

}  // namespace
}  // namespace gptbigcode
