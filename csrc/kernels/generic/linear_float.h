// Linear layers with float weights, and how every linear layer starts its sums and writes its outputs.
#pragma once

#include "kernels/generic/lanes.h"

namespace gptbigcode {
namespace {

template <Lanes V>
inline V load_weight(const float* p) {
  return V::load(p);
}
template <Lanes V>
inline V load_weight(const uint16_t* p) {
  return V::load_bf16(p);
}

template <Lanes V>
inline void put(const LinearTask& task, int64_t row, int64_t tile, V value) {
  float* out = task.out + row * task.out_stride + tile * kTileRows;
  const int64_t count = task.n - tile * kTileRows;
  if (count >= kTileRows) {
    store(out, task.accumulate ? add(V::load(out), value) : value);
  } else {
    store_first(out, task.accumulate ? add(load_first<V>(out, count), value) : value, count);
  }
}
template <Lanes V>
inline V initial(const LinearTask& task, int64_t tile) {
  if (task.bias == nullptr) return V::set1(0.0f);
  const int64_t count = task.n - tile * kTileRows;
  return count >= kTileRows ? V::load(task.bias + tile * kTileRows) : load_first<V>(task.bias + tile * kTileRows, count);
}

// Some rows and tiles at a time: their chains of fma are independent, and a loaded weight serves all rows.
template <Lanes V, class Weight, int kRows, int kTiles>
inline void linear_float_part(const LinearTask& task, int64_t row, int64_t tile) {
  const auto* weights = reinterpret_cast<const Weight*>(task.weights);
  V sum[kRows][kTiles];
  for (int t = 0; t < kTiles; ++t) {
    for (int r = 0; r < kRows; ++r) sum[r][t] = initial<V>(task, tile + t);
  }
  for (int64_t k = 0; k < task.k; ++k) {
    V w[kTiles];
    for (int t = 0; t < kTiles; ++t) w[t] = load_weight<V>(weights + ((tile + t) * task.k + k) * kTileRows);
    for (int r = 0; r < kRows; ++r) {
      const V x = V::set1(task.x[(row + r) * task.k + k]);
      for (int t = 0; t < kTiles; ++t) sum[r][t] = fma(x, w[t], sum[r][t]);
    }
  }
  for (int t = 0; t < kTiles; ++t) {
    for (int r = 0; r < kRows; ++r) put(task, row + r, tile + t, sum[r][t]);
  }
}

template <Lanes V, class Weight, int kRows>
inline void linear_float_tile(const LinearTask& task, int64_t row, int64_t tile) {
  for (; row + kRows <= task.m; row += kRows) linear_float_part<V, Weight, kRows, 1>(task, row, tile);
  if constexpr (kRows > 1) {
    if (row < task.m) linear_float_tile<V, Weight, kRows == 6 ? 4 : kRows / 2>(task, row, tile);
  }
}

template <Lanes V, class Weight>
void linear_float(const LinearTask& task, int64_t tile_begin, int64_t tile_end) {
  int64_t tile = tile_begin;
  if (task.m == 1) {
    for (; tile + 4 <= tile_end; tile += 4) linear_float_part<V, Weight, 1, 4>(task, 0, tile);
  }
  for (; tile < tile_end; ++tile) linear_float_tile<V, Weight, 6>(task, 0, tile);
}

}  // namespace
}  // namespace gptbigcode
