// Attention as kernels/kv_attention.h describes it, for every type of KV cache.
#pragma once

#include "kernels/generic/softmax.h"

namespace gptbigcode {
namespace {

// Calls run<n>(row) for all rows from `row` on, n rows at a time: n is kMax, a power of two, and smaller powers for the rest.
template <int kCount, class Run>
inline void at_most_once(int64_t row, int64_t rows, Run run) {
  if (row + kCount <= rows) {
    run.template operator()<kCount>(row);
    row += kCount;
  }
  if constexpr (kCount > 1) at_most_once<kCount / 2>(row, rows, run);
}
template <int kMax, class Run>
inline void in_groups(int64_t row, int64_t rows, Run run) {
  static_assert((kMax & (kMax - 1)) == 0);
  for (; row + kMax <= rows; row += kMax) run.template operator()<kMax>(row);
  if constexpr (kMax > 1) at_most_once<kMax / 2>(row, rows, run);
}

// Kv(task, scratch) prepares the queries for its type of cache. kv.rows_of_block<rows, masked>(view, state, row) computes one KV
// block for `rows` rows from `row` on.
template <class Kv>
void attention(const AttentionTask& task) {
  using V = Kv::Floats;
  const int64_t rows = task.tokens * task.heads, width = padded_head_dim(task.head_dim);
  auto* floats = reinterpret_cast<float*>(task.scratch);
  const RowStates state{floats, floats + rows * width, floats + rows * (width + 16), width};
  const Kv kv(task, floats + rows * (width + 16) + (rows + 15) / 16 * 16);
  const auto first_row_at = [&](int64_t position) {
    return position > task.position ? (position - task.position) * task.heads : 0;
  };

  for (int64_t chunk = task.chunk_begin; chunk < task.chunk_end; ++chunk) {
    const int64_t begin = chunk * kKvChunk, seen = task.position + task.tokens;
    const int64_t end = begin + kKvChunk < seen ? begin + kKvChunk : seen;
    const int64_t first_row = first_row_at(begin);
    for (int64_t row = first_row; row < rows; ++row) {
      for (int64_t d = 0; d < width; d += 16) store(state.values_of(row) + d, V::set1(0.0f));
      store(state.sums + row * 16, V::set1(0.0f));
      state.maxima[row] = -__FLT_MAX__;  // not -infinity, which less itself is NaN, where a score is -infinity
    }
    for (int64_t position = begin; position < end; position += kKvBlock) {
      const std::byte* part = task.blocks[position / kKvBlock] + task.part;
      int64_t ahead = 0;  // for the first rows only
      if (position + kKvBlock < end) {
        const std::byte* next = task.blocks[position / kKvBlock + 1] + task.part;
        ahead = static_cast<int64_t>(reinterpret_cast<uintptr_t>(next) - reinterpret_cast<uintptr_t>(part));
      }
      in_groups<Kv::kRowsAtOnce>(first_row_at(position), rows, [&]<int kRows>(int64_t row) {
        const int64_t fewest = task.position + row / task.heads + 1 - position;  // tokens of the block that the first row sees
        if (fewest >= kKvBlock) {
          kv.template rows_of_block<kRows, false>(View{part, kKvBlock / 16, nullptr, ahead}, state, row);
        } else {
          float visible[kRows];
          for (int r = 0; r < kRows; ++r) {
            const int64_t token = (row + r) / task.heads;
            visible[r] = static_cast<float>(task.position + token + 1 - position);
          }
          const int64_t most = task.position + (row + kRows - 1) / task.heads + 1 - position;
          const int tiles = most < kKvBlock ? static_cast<int>((most + 15) / 16) : kKvBlock / 16;
          kv.template rows_of_block<kRows, true>(View{part, tiles, visible, ahead}, state, row);
        }
        ahead = 0;
      });
    }
    for (int64_t row = first_row; row < rows; ++row) {
      const float* values = state.values_of(row);
      const float sum = reduce_add(V::load(state.sums + row * 16));
      float* out = task.partials + row / task.heads * task.token_stride + row % task.heads * task.head_stride;
      if (chunk == task.chunk_begin) {
        for (int64_t d = 0; d < width; d += 16) store(out + d, V::load(values + d));
        out[width] = state.maxima[row];
        out[width + 1] = sum;
      } else {
        merge_partial<V>(out, values, state.maxima[row], sum, width);
      }
    }
  }
}

}  // namespace
}  // namespace gptbigcode
