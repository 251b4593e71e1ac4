// The loops around the integer dot products of tile blocks. Included by each instruction set's file after it has defined:
//
//   struct i32x16; f32x16 to_float(i32x16)
//   dot_int8<rows, tiles>(block, tile bytes, ahead, activations, sums)  blocks of adjacent tiles against some rows of activations;
//                                                                  prefetches the block at ahead, if that is not null
//   struct Expanded                                                a block's codes as bytes, its multipliers widened
//   struct Int4, Int6, with
//     constexpr size_t kBlockBytes
//     add<rows>(block, ahead, activations, sums)                   one tile's block, from packed codes; prefetches the one at ahead
//     expand(block, expanded)
//     add_expanded<rows, tiles>(expanded, activations, sums)       blocks of adjacent tiles
//   constexpr int kRowsAtOnce, kTilesAtOnce                        of dot_int8 and add_expanded
//   constexpr int kStreamedRows                                    of add at most: as many rows as there are, at once
//   constexpr int kUnpackingPasses                                 so many times that, before panels of int4 and int6 pay
//   constexpr int kManyStreamsRows                                 up to so many rows are bound by the memory
//   constexpr size_t kPrefetch                                     bytes that are asked for ahead
//   constexpr int64_t kPanelRows, kPanelBlocks, kPanelTiles        of a panel: activations and sums stay in the second-level cache
//
// add and add_expanded do, for each row r and tile t: sums[r][t] = fma(float(integer sum), scale of r's activations, sums[r][t])

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

struct Int8 {
  static constexpr size_t kBlockBytes = kInt8BlockBytes, kTileTail = 0;
  static constexpr int kPasses = 1;

  static f32x16 start(const LinearTask& task, int64_t tile) { return initial(task, tile); }
  static f32x16 finish(const LinearTask&, int64_t, const std::byte*, f32x16 sum) { return sum; }

  template <int kRows, int kTiles>
  static void add(const std::byte* block, size_t tile_bytes, const std::byte* ahead, const ActivationBlock* rows,
                  f32x16 (*sums)[kTiles]) {
    i32x16 dots[kRows][kTiles];
    dot_int8<kRows, kTiles>(block, tile_bytes, ahead, rows, dots);
    for (int t = 0; t < kTiles; ++t) {
      const std::byte* end = block + static_cast<size_t>(t) * tile_bytes + kTileRows * kBlock;
      const f32x16 scales = load_bf16(reinterpret_cast<const uint16_t*>(end));
      for (int r = 0; r < kRows; ++r) {
        sums[r][t] = fma(to_float(dots[r][t]), mul(scales, set1(rows[r].scale)), sums[r][t]);
      }
    }
  }
  template <int kRows>
  static void add_packed(const std::byte* block, const std::byte* ahead, const ActivationBlock* rows, f32x16 (*sums)[1]) {
    add<kRows, 1>(block, 0, ahead, rows, sums);
  }

  // Consecutive blocks of adjacent tiles, copied to where no load of codes crosses a cache line.
  template <int kTiles>
  struct Panel {
    static constexpr size_t kStride = (kBlockBytes + 63) / 64 * 64;
    alignas(64) std::byte copies[kPanelBlocks][kTiles][kStride];
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-member-init): what is read is filled
    Panel(const std::byte* blocks, size_t tile_bytes, int64_t count) {
      for (int t = 0; t < kTiles; ++t) {
        const std::byte* block = blocks + static_cast<size_t>(t) * tile_bytes;
        for (int64_t b = 0; b < count; ++b, block += kBlockBytes) __builtin_memcpy(copies[b][t], block, kBlockBytes);
      }
    }
    template <int kRows>
    void add(int64_t b, const ActivationBlock* rows, f32x16 (*sums)[kTiles]) const {
      Int8::add<kRows, kTiles>(copies[b][0], kStride, nullptr, rows, sums);
    }
  };
};

// Consecutive blocks of adjacent tiles, expanded.
template <class Codes, int kTiles>
struct ExpandedPanel {
  Expanded expanded[kPanelBlocks][kTiles];
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-member-init): what is read is filled
  ExpandedPanel(const std::byte* blocks, size_t tile_bytes, int64_t count) {
    for (int t = 0; t < kTiles; ++t) {
      const std::byte* block = blocks + static_cast<size_t>(t) * tile_bytes;
      for (int64_t b = 0; b < count; ++b, block += Codes::kBlockBytes) Codes::expand(block, expanded[b][t]);
    }
  }
};

template <class Codes>
struct RowScaled {
  static constexpr size_t kBlockBytes = Codes::kBlockBytes, kTileTail = kRowScaleBytes;
  static constexpr int kPasses = kUnpackingPasses;

  static f32x16 start(const LinearTask&, int64_t) { return set1(0.0f); }
  static f32x16 finish(const LinearTask& task, int64_t tile, const std::byte* tail, f32x16 sum) {
    return fma(sum, load(reinterpret_cast<const float*>(tail)), initial(task, tile));
  }

  template <int kRows>
  static void add_packed(const std::byte* block, const std::byte* ahead, const ActivationBlock* rows, f32x16 (*sums)[1]) {
    Codes::template add<kRows>(block, ahead, rows, sums);
  }

  template <int kTiles>
  struct Panel : ExpandedPanel<Codes, kTiles> {
    using ExpandedPanel<Codes, kTiles>::ExpandedPanel;
    template <int kRows>
    void add(int64_t b, const ActivationBlock* rows, f32x16 (*sums)[kTiles]) const {
      Codes::template add_expanded<kRows, kTiles>(this->expanded[b], rows, sums);
    }
  };
};

static_assert(kPanelRows * kPanelTiles * kTileRows <= kLinearScratch);

template <class Weights>
size_t tile_bytes_of(const LinearTask& task) {
  return static_cast<size_t>((task.k + kBlock - 1) / kBlock) * Weights::kBlockBytes + Weights::kTileTail;
}

// ---------------------------------------------------------------- few rows: as fast as the weights come from memory

// Tiles that are read side by side: the memory delivers several streams faster than one. Many rows are bound by multiplications.
constexpr int streams_of(int rows) { return rows <= kManyStreamsRows ? 4 : 1; }

// What a stream prefetches while it is at block b of a tile, in bytes from that tile on. After the last block of a tile comes the
// first of the tile that this stream reads next.
template <class Weights, int kStreams>
size_t ahead_of(int64_t b, int64_t blocks, size_t tile_bytes) {
  constexpr auto kAhead = static_cast<int64_t>((kPrefetch / kStreams + Weights::kBlockBytes - 1) / Weights::kBlockBytes);  // blocks
  const int64_t next = b + kAhead;
  const size_t jump = next < blocks ? 0 : kStreams * tile_bytes - static_cast<size_t>(blocks) * Weights::kBlockBytes;
  return static_cast<size_t>(next) * Weights::kBlockBytes + jump;
}

// kStreams tiles from `block` on, each block after block; all rows at once, so that a block is unpacked once.
template <class Weights, int kRows, int kStreams>
void stream_tiles(const LinearTask& task, int64_t first_row, int64_t tile, const std::byte* first) {
  const int64_t blocks = (task.k + kBlock - 1) / kBlock;
  const size_t tile_bytes = tile_bytes_of<Weights>(task);
  f32x16 sums[kStreams][kRows][1];
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
  constexpr int kStreams = streams_of(kRows);
  const size_t tile_bytes = tile_bytes_of<Weights>(task);
  const std::byte* first = task.weights + static_cast<size_t>(tile_begin) * tile_bytes;
  int64_t tile = tile_begin;
  for (; tile + kStreams <= tile_end; tile += kStreams, first += kStreams * tile_bytes) {
    stream_tiles<Weights, kRows, kStreams>(task, first_row, tile, first);
  }
  for (; tile < tile_end; ++tile, first += tile_bytes) stream_tiles<Weights, kRows, 1>(task, first_row, tile, first);
}
// `rows` rows from first_row on, kRows at most.
template <class Weights, int kRows = kStreamedRows>
void stream(const LinearTask& task, int64_t first_row, int64_t rows, int64_t tile_begin, int64_t tile_end) {
  if constexpr (kRows > 0) {
    if (rows == kRows) return stream_rows<Weights, kRows>(task, first_row, tile_begin, tile_end);
    stream<Weights, kRows - 1>(task, first_row, rows, tile_begin, tile_end);
  }
}
// The rows from first_row on, in passes over some tiles at a time, which come from the cache again after the first.
template <class Weights>
void stream_in_passes(const LinearTask& task, int64_t first_row, int64_t tile_begin, int64_t tile_end) {
  const int64_t rows = task.m - first_row, passes = (rows + kStreamedRows - 1) / kStreamedRows;
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
template <int kRows, int kTiles, class Panel>
void add_panel(const Panel& panel, const ActivationBlock* activations, int64_t m, int64_t blocks, int64_t row, int64_t rows,
               float* sums_of_tiles) {
  for (; row + kRows <= rows; row += kRows) {
    const auto at = [&](int r, int t) { return sums_of_tiles + (t * kPanelRows + row + r) * kTileRows; };
    f32x16 sums[kRows][kTiles];
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < kTiles; ++t) sums[r][t] = load(at(r, t));
    }
#pragma GCC unroll 1
    for (int64_t b = 0; b < blocks; ++b) panel.template add<kRows>(b, activations + b * m + row, sums);
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < kTiles; ++t) store(at(r, t), sums[r][t]);
    }
  }
  if constexpr (kRows > 1) {
    if (row < rows) add_panel<(kRows + 1) / 2, kTiles>(panel, activations, m, blocks, row, rows, sums_of_tiles);
  }
}

// A panel for all of some rows: as above, or in its own way.
template <int kTiles, class Panel>
void add_rows_of_panel(const Panel& panel, const ActivationBlock* activations, int64_t m, int64_t blocks, int64_t rows,
                       float* sums) {
  if constexpr (requires { panel.add_rows(activations, m, blocks, rows, sums); }) {
    panel.add_rows(activations, m, blocks, rows, sums);
  } else {
    add_panel<kRowsAtOnce, kTiles>(panel, activations, m, blocks, 0, rows, sums);
  }
}

// Some tiles for `rows` rows from first_row on.
template <class Weights>
void run_panel(const LinearTask& task, int64_t first_row, int64_t rows, int64_t tile_begin, int64_t tile_end) {
  const int64_t blocks = (task.k + kBlock - 1) / kBlock;
  const size_t tile_bytes = tile_bytes_of<Weights>(task);
  const std::byte* weights = task.weights + static_cast<size_t>(tile_begin) * tile_bytes;
  const auto sums_of = [&](int64_t tile) { return task.scratch + (tile - tile_begin) * kPanelRows * kTileRows; };
  for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
    const f32x16 start = Weights::start(task, tile);
    for (int64_t r = 0; r < rows; ++r) store(sums_of(tile) + r * kTileRows, start);
  }
  for (int64_t first = 0; first < blocks; first += kPanelBlocks) {
    const int64_t count = smaller(kPanelBlocks, blocks - first);
    const ActivationBlock* activations = task.activations + first * task.m + first_row;
    const std::byte* block = weights + static_cast<size_t>(first) * Weights::kBlockBytes;
    int64_t tile = tile_begin;
    for (; tile + kTilesAtOnce <= tile_end; tile += kTilesAtOnce, block += kTilesAtOnce * tile_bytes) {
      const typename Weights::template Panel<kTilesAtOnce> panel(block, tile_bytes, count);
      add_rows_of_panel<kTilesAtOnce>(panel, activations, task.m, count, rows, sums_of(tile));
    }
    for (; tile < tile_end; ++tile, block += tile_bytes) {
      const typename Weights::template Panel<1> panel(block, tile_bytes, count);
      add_rows_of_panel<1>(panel, activations, task.m, count, rows, sums_of(tile));
    }
  }
  // Row by row: the outputs of a row lie together, those of a tile at a distance that fits no cache.
  for (int64_t r = 0; r < rows; ++r) {
    const std::byte* tail = weights + tile_bytes - Weights::kTileTail;
    for (int64_t tile = tile_begin; tile < tile_end; ++tile, tail += tile_bytes) {
      put(task, first_row + r, tile, Weights::finish(task, tile, tail, load(sums_of(tile) + r * kTileRows)));
    }
  }
}

template <class Weights>
void linear_quantized(const LinearTask& task, int64_t tile_begin, int64_t tile_end) {
  int64_t row = 0;
  for (int64_t rows; (rows = smaller(kPanelRows, task.m - row)) > Weights::kPasses * kStreamedRows; row += rows) {
    for (int64_t tile = tile_begin; tile < tile_end; tile += kPanelTiles) {
      run_panel<Weights>(task, row, rows, tile, smaller(tile + kPanelTiles, tile_end));
    }
  }
  if (row == task.m) return;
  if constexpr (requires { Weights::few_rows(task, row, tile_begin, tile_end); }) {
    Weights::few_rows(task, row, tile_begin, tile_end);
  } else {
    stream_in_passes<Weights>(task, row, tile_begin, tile_end);
  }
}
